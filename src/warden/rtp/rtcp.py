"""RTCP compound packets as values (RFC 3550 section 6) and the round trip they tell.

Nothing here knows sockets or clocks. What is not a report, a description or a farewell is kept as it came (`Other`),
so a compound packet is printed as it was read.
"""

from struct import Struct as Layout
from typing import Final, assert_never

from msgspec import Struct

from warden.core.errors import MalformedMessage

COMPOUND_BYTES_MAX: Final = 2048
"""RTCP stays under the MTU (RFC 3550 section 6.2); more is not read."""

_SR, _RR, _SDES, _BYE = 200, 201, 202, 203
_HEADER: Final = Layout(">BBH")
_SENDER: Final = Layout(">IQIII")
_BLOCK: Final = Layout(">IIIIII")
CNAME: Final = 1


class Block(Struct, frozen=True):
    """A report block (section 6.4.1). `lost` is signed, `jitter` in timestamp units, `lsr` and `dlsr` in 1/65536 s."""

    ssrc: int
    fraction_lost: int = 0
    lost: int = 0
    highest_sequence: int = 0
    jitter: int = 0
    lsr: int = 0
    dlsr: int = 0


class SenderReport(Struct, frozen=True, tag=True):
    """SR (section 6.4.1). `ntp` is the 64-bit NTP timestamp; `extension` what the profile adds."""

    ssrc: int
    ntp: int
    rtp_timestamp: int
    packets: int
    octets: int
    blocks: tuple[Block, ...] = ()
    extension: bytes = b""


class ReceiverReport(Struct, frozen=True, tag=True):
    """RR (section 6.4.2)."""

    ssrc: int
    blocks: tuple[Block, ...] = ()
    extension: bytes = b""


class Chunk(Struct, frozen=True):
    """What an SDES packet says about one source: (type, text) pairs, at most 255 bytes each."""

    ssrc: int
    items: tuple[tuple[int, bytes], ...] = ()


class Description(Struct, frozen=True, tag=True):
    """SDES (section 6.5)."""

    chunks: tuple[Chunk, ...] = ()


class Bye(Struct, frozen=True, tag=True):
    """BYE (section 6.6). `reason` None means that none was given."""

    ssrcs: tuple[int, ...] = ()
    reason: bytes | None = None


class Other(Struct, frozen=True, tag=True):
    """APP, feedback, extended reports and whatever comes next: kind, the five-bit count, and the body."""

    kind: int
    count: int
    body: bytes


Report = SenderReport | ReceiverReport | Description | Bye | Other


def parse(data: bytes) -> tuple[Report, ...]:
    """Read a compound packet. Raises `MalformedMessage`.

    A first packet that is no report is accepted (RFC 5506 allows it); lengths must add up exactly (appendix A.2).
    """
    end = len(data)
    if not 4 <= end <= COMPOUND_BYTES_MAX:
        raise MalformedMessage(f"rtcp: {end} bytes")
    reports: list[Report] = []
    at = 0
    while at < end:
        if at + 4 > end:
            raise MalformedMessage("rtcp: a header is cut off")
        flags, kind, words = _HEADER.unpack_from(data, at)
        after = at + 4 + 4 * words
        if flags >> 6 != 2:
            raise MalformedMessage(f"rtcp: version {flags >> 6}")
        if after > end:
            raise MalformedMessage("rtcp: a packet is longer than the datagram")
        body = data[at + 4 : after]
        if flags & 0x20:
            if after != end:
                raise MalformedMessage("rtcp: padding before the last packet")
            padding = body[-1] if body else 0
            if padding == 0 or padding % 4 or padding > len(body):
                raise MalformedMessage(f"rtcp: {padding} octets of padding do not fit")
            body = body[:-padding]
        reports.append(_parse_body(kind, flags & 0x1F, body))
        at = after
    return tuple(reports)


def _parse_body(kind: int, count: int, body: bytes) -> Report:
    match kind:
        case 200:
            if len(body) < _SENDER.size:
                raise MalformedMessage("rtcp: a sender report is cut off")
            ssrc, ntp, timestamp, packets, octets = _SENDER.unpack_from(body)
            blocks, extension = _parse_blocks(count, body, _SENDER.size)
            return SenderReport(ssrc, ntp, timestamp, packets, octets, blocks, extension)
        case 201:
            if len(body) < 4:
                raise MalformedMessage("rtcp: a receiver report is cut off")
            blocks, extension = _parse_blocks(count, body, 4)
            return ReceiverReport(int.from_bytes(body[:4], "big"), blocks, extension)
        case 202:
            return _parse_description(count, body)
        case 203:
            return _parse_bye(count, body)
        case _:
            return Other(kind, count, body)


def _parse_blocks(count: int, body: bytes, at: int) -> tuple[tuple[Block, ...], bytes]:
    end = at + count * _BLOCK.size
    if end > len(body):
        raise MalformedMessage(f"rtcp: {count} report blocks do not fit")
    blocks = []
    for i in range(at, end, _BLOCK.size):
        ssrc, loss, highest, jitter, lsr, dlsr = _BLOCK.unpack_from(body, i)
        lost = loss & 0xFFFFFF
        blocks.append(Block(ssrc, loss >> 24, lost - (lost >> 23 << 24), highest, jitter, lsr, dlsr))
    return tuple(blocks), body[end:]


def _parse_description(count: int, body: bytes) -> Description:
    chunks = []
    at, end = 0, len(body)
    for _ in range(count):
        if at + 4 > end:
            raise MalformedMessage("rtcp: a source description is cut off")
        ssrc = int.from_bytes(body[at : at + 4], "big")
        at += 4
        items = []
        while True:
            if at >= end:
                raise MalformedMessage("rtcp: the items of a source description do not end")
            if body[at] == 0:
                break
            if at + 2 > end or at + 2 + body[at + 1] > end:
                raise MalformedMessage("rtcp: an item of a source description is cut off")
            after = at + 2 + body[at + 1]
            items.append((body[at], body[at + 2 : after]))
            at = after
        # The list ends with at least one null octet and is filled up to the next word.
        at = (at // 4 + 1) * 4
        chunks.append(Chunk(ssrc, tuple(items)))
    return Description(tuple(chunks))


def _parse_bye(count: int, body: bytes) -> Bye:
    at = 4 * count
    if at > len(body):
        raise MalformedMessage("rtcp: a goodbye is cut off")
    ssrcs = tuple(int.from_bytes(body[i : i + 4], "big") for i in range(0, at, 4))
    if at == len(body):
        return Bye(ssrcs)
    after = at + 1 + body[at]
    if after > len(body):
        raise MalformedMessage("rtcp: the reason of a goodbye is cut off")
    return Bye(ssrcs, body[at + 1 : after])


def build(reports: tuple[Report, ...]) -> bytes:
    """Print a compound packet, without padding. Raises `ValueError` when a field does not fit: the caller's mistake."""
    parts = []
    for report in reports:
        kind, count, body = _build_body(report)
        if count > 31 or len(body) % 4 or len(body) > COMPOUND_BYTES_MAX:
            raise ValueError(f"rtcp: does not fit: {report!r}")
        parts += [_HEADER.pack(0x80 | count, kind, len(body) // 4), body]
    return b"".join(parts)


def _build_body(report: Report) -> tuple[int, int, bytes]:
    match report:
        case SenderReport():
            sender = _SENDER.pack(report.ssrc, report.ntp, report.rtp_timestamp, report.packets, report.octets)
            return _SR, len(report.blocks), sender + _build_blocks(report.blocks) + report.extension
        case ReceiverReport():
            ssrc = report.ssrc.to_bytes(4, "big")
            return _RR, len(report.blocks), ssrc + _build_blocks(report.blocks) + report.extension
        case Description():
            return _SDES, len(report.chunks), b"".join(_build_chunk(chunk) for chunk in report.chunks)
        case Bye():
            body = b"".join(ssrc.to_bytes(4, "big") for ssrc in report.ssrcs)
            if report.reason is not None:
                body += bytes((len(report.reason),)) + report.reason
                body += bytes(-len(body) % 4)
            return _BYE, len(report.ssrcs), body
        case Other():
            return report.kind, report.count, report.body
        case _:
            assert_never(report)


def _build_blocks(blocks: tuple[Block, ...]) -> bytes:
    return b"".join(
        _BLOCK.pack(b.ssrc, b.fraction_lost << 24 | b.lost & 0xFFFFFF, b.highest_sequence, b.jitter, b.lsr, b.dlsr)
        for b in blocks
    )


def _build_chunk(chunk: Chunk) -> bytes:
    body = chunk.ssrc.to_bytes(4, "big") + b"".join(bytes((kind, len(text))) + text for kind, text in chunk.items)
    return body + bytes(4 - len(body) % 4)


def middle(ntp: int) -> int:
    """The middle 32 of 64 bits of an NTP timestamp: seconds and 1/65536 s, as `lsr` has it."""
    return ntp >> 16 & 0xFFFFFFFF


def round_trip_s(block: Block, arrived: int) -> float | None:
    """The round trip that a report block tells its receiver (section 6.4.1): arrival minus `lsr` minus `dlsr`.

    `arrived` is the `middle` of the NTP time of arrival, by the clock that wrote the sender report. None where the
    block answers no sender report, or where the sum is below zero or over a minute, which is no round trip.
    """
    if block.lsr == 0:
        return None
    units = (arrived - block.lsr - block.dlsr) & 0xFFFFFFFF
    return units / 65536 if units < 60 * 65536 else None
