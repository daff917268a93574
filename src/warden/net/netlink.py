"""Addresses of this machine by rtnetlink(7), and the packets that tell the neighbours of one that has moved here.

Nothing here knows seats. Each call is a few system calls that do not wait for anybody.
"""

import errno
import os
import socket
import struct
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from warden.core.errors import WardenError

LIFETIME_FOR_EVER: Final = 0xFFFFFFFF

_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP, _REPLACE, _CREATE = 0x1, 0x4, 0x300, 0x100, 0x400
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO = 1, 2, 6
_IFA_F_NODAD: Final = 0x02
"""Do not ask around first whether somebody else has the address: whoever had it has lost the lease."""
_HEAD: Final = struct.Struct("=IHHII")
_ADDR: Final = struct.Struct("=BBBBI")
_ANSWER_BYTES_MAX: Final = 1 << 16
_CAP_NET_ADMIN, _CAP_NET_RAW = 12, 13
_ETH_ARP, _ETH_IPV4 = 0x0806, 0x0800
_BROADCAST: Final = b"\xff" * 6
_ALL_NODES: Final = "ff02::1"
_ND_ADVERT, _ND_OVERRIDE, _ND_TARGET_LINK = 136, 0x20000000, 2


def may_change() -> bool:
    """Whether this process has the rights to add addresses and to tell neighbours: CAP_NET_ADMIN and CAP_NET_RAW."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    rights = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    return all(rights >> cap & 1 for cap in (_CAP_NET_ADMIN, _CAP_NET_RAW))


def check_interface(name: str) -> int:
    """The number of an interface. Raises `WardenError` where there is none of that name."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        raise WardenError(f"there is no network interface {name} on this machine") from error


def local_addresses() -> frozenset[str]:
    """Every IP address of this machine. Raises `WardenError`."""
    found: set[str] = set()
    with _socket() as sock:
        sock.send(_HEAD.pack(_HEAD.size + _ADDR.size, _GETADDR, _REQUEST | _DUMP, 1, 0) + _ADDR.pack(0, 0, 0, 0, 0))
        while True:
            data = sock.recv(_ANSWER_BYTES_MAX)
            at = 0
            while at < len(data):
                size, kind, *_ = _HEAD.unpack_from(data, at)
                if kind == _DONE:
                    return frozenset(found)
                if kind == _ERROR:
                    raise WardenError(f"netlink: {_reason(data, at)}")
                if kind == _NEWADDR and (address := _address_in(data[at + _HEAD.size : at + size])):
                    found.add(address)
                at += size + 3 & ~3


def put_address(interface: str, address: str, prefix: int, lifetime_s: int = LIFETIME_FOR_EVER) -> None:
    """Have the address on the interface for so long; once more only renews that. The kernel takes it away by itself
    when its time is over. Raises `WardenError`.
    """
    life = struct.pack("=IIII", lifetime_s, lifetime_s, 0, 0)
    _change(_NEWADDR, _CREATE | _REPLACE, interface, address, prefix, _attribute(_IFA_CACHEINFO, life))


def remove_address(interface: str, address: str, prefix: int) -> None:
    """Take the address away; one that is not there is no error. Raises `WardenError`."""
    _change(_DELADDR, 0, interface, address, prefix, b"", fine=(errno.EADDRNOTAVAIL,))


def announce(interface: str, address: str) -> None:
    """Tell the neighbours once that the address is here: by gratuitous ARP (RFC 5227 section 3), or by an unsolicited
    neighbour advertisement (RFC 4861 section 7.2.6). Raises `WardenError`.
    """
    try:
        if ":" in address:
            _advertise(interface, address)
        else:
            _gratuitous_arp(interface, address)
    except OSError as error:
        raise WardenError(f"{interface}: {address} cannot be announced: {error.strerror or error}") from error


def _change(
    kind: int, flags: int, interface: str, address: str, prefix: int, more: bytes, fine: tuple[int, ...] = ()
) -> None:
    packed = ip_address(address).packed
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    index = check_interface(interface)
    body = _ADDR.pack(family, prefix, _IFA_F_NODAD if family == socket.AF_INET6 else 0, 0, index)
    body += _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed) + more
    with _socket() as sock:
        sock.send(_HEAD.pack(_HEAD.size + len(body), kind, _REQUEST | _ACK | flags, 1, 0) + body)
        data = sock.recv(_ANSWER_BYTES_MAX)
    (number,) = struct.unpack_from("=i", data, _HEAD.size)
    if -number not in (0, *fine):
        raise WardenError(f"{interface}: {address}/{prefix}: {_reason(data, 0)}")


def _socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _address_in(body: bytes) -> str:
    """The address in an RTM_NEWADDR: IFA_LOCAL where there is one, since IFA_ADDRESS may be the far end's."""
    family = body[0]
    found: dict[int, bytes] = {}
    at = _ADDR.size
    while at + 4 <= len(body):
        size, kind = struct.unpack_from("=HH", body, at)
        if size < 4:
            break
        found[kind] = body[at + 4 : at + size]
        at += size + 3 & ~3
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    return socket.inet_ntop(family, packed) if packed and family in (socket.AF_INET, socket.AF_INET6) else ""


def _reason(data: bytes, at: int) -> str:
    (number,) = struct.unpack_from("=i", data, at + _HEAD.size)
    if -number == errno.EPERM:
        return "adding and removing addresses needs CAP_NET_ADMIN"
    return os.strerror(-number).lower()


def _gratuitous_arp(interface: str, address: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((interface, 0))
        here = sock.getsockname()[4]
        ip = ip_address(address).packed
        for operation, target in ((1, bytes(6)), (2, here)):
            # As request and as answer: some neighbours believe the one, some the other.
            arp = struct.pack("!HHBBH", 1, _ETH_IPV4, 6, 4, operation) + here + ip + target + ip
            sock.send(_BROADCAST + here + struct.pack("!H", _ETH_ARP) + arp)


def _advertise(interface: str, address: str) -> None:
    index = socket.if_nametoindex(interface)
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as link:
        link.bind((interface, 0))
        here = link.getsockname()[4]
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sock.bind((address, 0, 0, 0))
        advert = struct.pack("!BBHI", _ND_ADVERT, 0, 0, _ND_OVERRIDE) + ip_address(address).packed
        # The kernel fills in the checksum.
        sock.sendto(advert + bytes((_ND_TARGET_LINK, 1)) + here, (_ALL_NODES, 0, 0, index))
