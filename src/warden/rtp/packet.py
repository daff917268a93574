"""RTP packets as values (RFC 3550 section 5) and the few fields a relay reads without building one.

Nothing here knows sockets, codecs or clocks.
"""

from struct import Struct as Layout
from typing import Final

from msgspec import Struct

from warden.core.errors import MalformedMessage

VERSION: Final = 2
HEADER_BYTES: Final = 12
PACKET_BYTES_MAX: Final = 2048
"""More than any Ethernet frame carries; a longer datagram is no RTP that a phone sends."""

HEADER: Final = Layout(">HHII")
"""The fixed header: flags with marker and payload type, sequence number, timestamp, SSRC."""

_EXTENSION: Final = Layout(">HH")


class Extension(Struct, frozen=True):
    """A header extension (RFC 3550 section 5.3.1). `data` is a whole number of 32-bit words."""

    profile: int
    data: bytes


class Packet(Struct, frozen=True):
    """One RTP packet. `padding` counts the padding octets, the last one included (0: none)."""

    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes = b""
    marker: bool = False
    csrcs: tuple[int, ...] = ()
    extension: Extension | None = None
    padding: int = 0


def parse(data: bytes) -> Packet:
    """Read a datagram. Raises `MalformedMessage` when it is no RTP packet or its lengths do not add up."""
    end = len(data)
    if end < HEADER_BYTES:
        raise MalformedMessage(f"rtp: {end} bytes are fewer than a header")
    if end > PACKET_BYTES_MAX:
        raise MalformedMessage(f"rtp: {end} bytes are more than {PACKET_BYTES_MAX}")
    flags, sequence, timestamp, ssrc = HEADER.unpack_from(data)
    if flags >> 14 != VERSION:
        raise MalformedMessage(f"rtp: version {flags >> 14}")
    at = HEADER_BYTES + 4 * (flags >> 8 & 0x0F)
    if at > end:
        raise MalformedMessage("rtp: the list of sources is cut off")
    csrcs = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(HEADER_BYTES, at, 4))
    extension = None
    if flags & 0x1000:
        if at + 4 > end:
            raise MalformedMessage("rtp: the header extension is cut off")
        profile, words = _EXTENSION.unpack_from(data, at)
        start, at = at + 4, at + 4 + 4 * words
        if at > end:
            raise MalformedMessage("rtp: the header extension is longer than the packet")
        extension = Extension(profile, data[start:at])
    padding = 0
    if flags & 0x2000:
        padding = data[-1]
        if padding == 0 or at + padding > end:
            raise MalformedMessage(f"rtp: {padding} octets of padding do not fit")
    return Packet(
        payload_type=flags & 0x7F,
        sequence=sequence,
        timestamp=timestamp,
        ssrc=ssrc,
        payload=data[at : end - padding],
        marker=bool(flags & 0x80),
        csrcs=csrcs,
        extension=extension,
        padding=padding,
    )


def build(packet: Packet) -> bytes:
    """Print a packet. Raises `ValueError` when a field does not fit its bits: the caller's mistake."""
    extension = packet.extension
    if not (
        0 <= packet.payload_type < 128
        and 0 <= packet.sequence < 1 << 16
        and 0 <= packet.timestamp < 1 << 32
        and 0 <= packet.ssrc < 1 << 32
        and len(packet.csrcs) < 16
        and all(0 <= csrc < 1 << 32 for csrc in packet.csrcs)
        and 0 <= packet.padding < 256
    ):
        raise ValueError(f"rtp: a field does not fit: {packet!r}")
    flags = VERSION << 14 | len(packet.csrcs) << 8 | packet.payload_type
    if packet.marker:
        flags |= 0x80
    if extension is not None:
        flags |= 0x1000
    if packet.padding:
        flags |= 0x2000
    parts = [HEADER.pack(flags, packet.sequence, packet.timestamp, packet.ssrc)]
    parts += [csrc.to_bytes(4, "big") for csrc in packet.csrcs]
    if extension is not None:
        words, rest = divmod(len(extension.data), 4)
        if rest or not (0 <= extension.profile < 1 << 16 and words < 1 << 16):
            raise ValueError(f"rtp: the header extension does not fit: {extension!r}")
        parts += [_EXTENSION.pack(extension.profile, words), extension.data]
    parts.append(packet.payload)
    if packet.padding:
        parts += [bytes(packet.padding - 1), bytes((packet.padding,))]
    return b"".join(parts)


def is_rtp(data: bytes) -> bool:
    """True for what may be an RTP packet: version 2, a whole header, and not RTCP (RFC 5761 section 4)."""
    return len(data) >= HEADER_BYTES and data[0] >> 6 == VERSION and not 192 <= data[1] <= 223


def is_rtcp(data: bytes) -> bool:
    """True for what may be RTCP, also on an RTP port (RFC 5761 section 4)."""
    return len(data) >= 8 and data[0] >> 6 == VERSION and 192 <= data[1] <= 223


def sequence_of(data: bytes) -> int:
    """The sequence number of a datagram that `is_rtp`."""
    return data[2] << 8 | data[3]


def timestamp_of(data: bytes) -> int:
    """The timestamp of a datagram that `is_rtp`."""
    return int.from_bytes(data[4:8], "big")


def ssrc_of(data: bytes) -> int:
    """The SSRC of a datagram that `is_rtp`."""
    return int.from_bytes(data[8:12], "big")


def payload_type_of(data: bytes) -> int:
    """The payload type of a datagram that `is_rtp`."""
    return data[1] & 0x7F


def payload_of(data: bytes) -> bytes:
    """The payload of a datagram; raises `MalformedMessage` like `parse`."""
    if data[:1] == b"\x80" and HEADER_BYTES <= len(data) <= PACKET_BYTES_MAX:
        return data[HEADER_BYTES:]
    return parse(data).payload
