"""Other machines that say they have an address, as ARP tells it (RFC 826, RFC 5227). Needs CAP_NET_RAW.

Nothing here knows seats, or says anything itself. IPv6 has duplicate address detection of its own and is not heard.
"""

import socket
import struct
from typing import Final, NamedTuple

from warden.core.errors import WardenError

_PROTOCOL: Final = socket.htons(0x0806)
_ARP: Final = struct.Struct("!HHBBH6s4s")
"""Up to the sender's addresses: whom it asks for does not matter."""
_KIND: Final = (1, 0x0800, 6, 4)
"""Ethernet, IPv4, and how long their addresses are."""
_BYTES_MAX: Final = 64


class Heard(NamedTuple):
    """A machine says that it has an address: `mac` is what it goes by on the wire, `interface` where that came in."""

    address: str
    mac: str
    interface: str


class Ear:
    """Hears all ARP of this machine's networks. Close it in the end."""

    def __init__(self) -> None:
        """Raises `WardenError` where the right is not there."""
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _PROTOCOL)
        except OSError as error:
            raise WardenError(f"ARP cannot be heard: {(error.strerror or str(error)).lower()}") from error
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """For whoever waits until there is something to hear."""
        return self._socket.fileno()

    def hear(self) -> Heard | None:
        """What another machine says next, None where there is no packet more."""
        while True:
            try:
                data, (interface, _, kind, _, _) = self._socket.recvfrom(_BYTES_MAX)
            except OSError:
                return None
            if kind != socket.PACKET_OUTGOING and (heard := read_arp(data, interface)) is not None:
                return heard

    def close(self) -> None:
        """Hear nothing more. Safe to call twice."""
        self._socket.close()


def read_arp(packet: bytes, interface: str) -> Heard | None:
    """Who says it has which address; None for what says nothing of that kind (a probe has no sender's address)."""
    if len(packet) < _ARP.size:
        return None
    *kind, _, mac, address = _ARP.unpack_from(packet)
    if tuple(kind) != _KIND or not any(address):
        return None
    return Heard(socket.inet_ntoa(address), mac.hex(":"), interface)
