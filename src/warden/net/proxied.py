"""The PROXY protocol, version 2: what a load balancer says in front of a connection about who is behind it. Bytes in,
addresses out; nothing is read or written here. (HAProxy's "The PROXY protocol", section 2.2.)
"""

from ipaddress import IPv4Address, IPv6Address
from typing import Final

from warden.core.address import Address
from warden.core.errors import MalformedMessage

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
FIXED: Final = 16
"""Bytes of the part whose length is always the same."""
REST_MAX: Final = 536
"""Addresses take 36 bytes at most here, and what else a balancer may add (TLS, names) has room in a packet."""
_VERSION: Final = 0x20
_LOCAL, _PROXY = 0, 1
_TCP4, _TCP6 = 0x11, 0x21
_HOSTS: Final = {_TCP4: (IPv4Address, 4), _TCP6: (IPv6Address, 16)}

_SSL: Final = 0x20
"""Type of what a balancer adds that has ended the TLS of its client."""
_OVER_TLS: Final = 0x01
"""The bit in its first byte that says so."""


def length_of_rest(fixed: bytes) -> int:
    """How many bytes follow the first `FIXED`. Raises `MalformedMessage` where they are no such header."""
    if len(fixed) != FIXED or not fixed.startswith(SIGNATURE):
        raise MalformedMessage("proxy: the connection does not begin with a header of the proxy protocol, version 2")
    if fixed[12] & 0xF0 != _VERSION or fixed[12] & 0x0F not in (_LOCAL, _PROXY):
        raise MalformedMessage(f"proxy: version or command {fixed[12]:#04x} is not known")
    rest = int.from_bytes(fixed[14:16], "big")
    if rest > REST_MAX:
        raise MalformedMessage(f"proxy: a header of {rest} bytes is longer than {REST_MAX}")
    return rest


def source_of(fixed: bytes, rest: bytes) -> Address | None:
    """Who is behind the balancer; None where it speaks for itself (a health check). Raises `MalformedMessage`."""
    if fixed[12] & 0x0F == _LOCAL:
        return None
    family = fixed[13]
    if family not in _HOSTS:
        raise MalformedMessage(f"proxy: address family and protocol {family:#04x} are not tcp over ipv4 or ipv6")
    kind, size = _HOSTS[family]
    if len(rest) < 2 * size + 4:
        raise MalformedMessage("proxy: the addresses are cut short")
    port = int.from_bytes(rest[2 * size : 2 * size + 2], "big")
    if port == 0:
        raise MalformedMessage("proxy: port 0")
    return Address(str(kind(rest[:size])), port)


def is_over_tls(fixed: bytes, rest: bytes) -> bool:
    """True where the balancer says that whoever is behind it speaks TLS, which ended there (HAProxy:
    `send-proxy-v2-ssl`). For a header of which `source_of` tells an address. Raises `MalformedMessage`.
    """
    at = 2 * _HOSTS[fixed[13]][1] + 4
    while at < len(rest):
        value = at + 3
        end = value + int.from_bytes(rest[at + 1 : value], "big")
        if value > len(rest) or end > len(rest):
            raise MalformedMessage("proxy: what follows the addresses is cut short")
        if rest[at] == _SSL:
            return end > value and bool(rest[value] & _OVER_TLS)
        at = end
    return False
