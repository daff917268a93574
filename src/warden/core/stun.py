"""The answer to a STUN Binding request (RFC 8489): where it came from. A phone keeps its way through a NAT open by
asking (RFC 5626 section 4.4.2), and sees by another answer that the way is another.

Without credentials, as RFC 5626 section 8 wants it; other methods are for servers of other kinds.
"""

import struct
from ipaddress import ip_address
from typing import Final

from warden.core.address import Address

COOKIE: Final = b"\x21\x12\xa4\x42"
HEADER_BYTES: Final = 20
REQUEST_BYTES_MAX: Final = 548
"""A request that was not fragmented anywhere (RFC 8489 section 6.1)."""

_REQUEST, _SUCCESS, _ERROR = 0x0001, 0x0101, 0x0111
_XOR_MAPPED_ADDRESS, _ERROR_CODE, _UNKNOWN_ATTRIBUTES = 0x0020, 0x0009, 0x000A
_OPTIONAL: Final = 0x8000
"""Attributes from here on may be passed over by who does not know them."""
_PASSED_OVER: Final = frozenset((0x0006, 0x0008, 0x0014, 0x0015, 0x001C))
"""USERNAME, MESSAGE-INTEGRITY, REALM, NONCE, MESSAGE-INTEGRITY-SHA256: nobody is asked who he is."""
_HEAD: Final = struct.Struct(">HH")


def is_stun(data: bytes) -> bool:
    """True where a datagram on a SIP port is STUN: no message of SIP begins with these two zero bits and the cookie."""
    return len(data) >= HEADER_BYTES and data[0] < 0x40 and data[4:8] == COOKIE


def answer(data: bytes, source: Address) -> bytes | None:
    """The response to what came from `source`; None where none is due: to all but well-formed Binding requests."""
    if not (is_stun(data) and len(data) <= REQUEST_BYTES_MAX):
        return None
    kind, length = _HEAD.unpack_from(data)
    if kind != _REQUEST or length != len(data) - HEADER_BYTES or length % 4:
        return None
    transaction = data[4:HEADER_BYTES]
    unknown: list[int] = []
    at = HEADER_BYTES
    while at < len(data):
        attribute, size = _HEAD.unpack_from(data, at)
        at += 4 + (size + 3 & ~3)
        if at > len(data):
            return None
        if attribute < _OPTIONAL and attribute not in _PASSED_OVER:
            unknown.append(attribute)
    if unknown:
        reason = _attribute(_ERROR_CODE, b"\0\0\x04\x14Unknown Attribute")
        names = b"".join(attribute.to_bytes(2, "big") for attribute in unknown)
        return _message(_ERROR, transaction, reason + _attribute(_UNKNOWN_ATTRIBUTES, names))
    return _message(_SUCCESS, transaction, _attribute(_XOR_MAPPED_ADDRESS, _xored(source, transaction)))


def _message(kind: int, transaction: bytes, attributes: bytes) -> bytes:
    return _HEAD.pack(kind, len(attributes)) + transaction + attributes


def _attribute(kind: int, value: bytes) -> bytes:
    return _HEAD.pack(kind, len(value)) + value + bytes(-len(value) % 4)


def _xored(address: Address, transaction: bytes) -> bytes:
    """Section 14.2: middleboxes that rewrite every address they see shall not see this one."""
    packed = ip_address(address.host).packed
    family = 1 if len(packed) == 4 else 2
    port = address.port ^ int.from_bytes(COOKIE[:2], "big")
    return struct.pack(">BBH", 0, family, port) + bytes(a ^ b for a, b in zip(packed, transaction, strict=False))
