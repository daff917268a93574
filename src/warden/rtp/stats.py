"""Reception statistics of one RTP source (RFC 3550 appendices A.1, A.3 and A.8), cheap enough for every packet.

A stream is nearly always the next packet of the same source; that case is a handful of comparisons and sums.
Everything else goes through `_unusual`, which is complete and slow.
"""

from functools import lru_cache
from struct import Struct as Layout
from struct import error as struct_error
from typing import Final

from warden.rtp.packet import HEADER_BYTES

DROPOUT_MAX: Final = 3000
"""A sequence number that is further ahead is a restart of the source, not loss (RFC 3550 appendix A.1)."""
MISORDER_MAX: Final = 100
"""A sequence number that is further behind is a restart of the source, not a late packet (the same)."""
REBASE_S: Final = 10.0
"""Packets whose transit times differ by more had their timestamps moved (or wrapped): nothing to do with jitter."""

ROUTINE: Final = 0
"""The next packet of the same source, with the payload type of the one before: counted."""
CHANGED: Final = 1
"""RTP, but the marker, payload type, source or order is not as before: counted; the caller may look closer."""
OPAQUE: Final = 2
"""Not RTP: not counted."""
BROKEN: Final = 3
"""Says it is RTP and is too short for it: not counted."""

GAP_SLACK_S: Final = 0.005
"""A silence that is no longer than the packets' step and this is not looked at: it is none."""

FIRST: Final = Layout(">Q")
"""The first eight octets of a packet as one integer: flags, payload type, sequence number, timestamp."""

_first = FIRST.unpack_from
_SEQUENCE: Final = 1 << 32
"""One sequence number in `FIRST`."""
_NEVER: Final = -1


@lru_cache(maxsize=1024)
def _steps(units: int, clock_hz: int) -> tuple[int, float]:
    """A step from packet to packet, of the first eight octets and in seconds; one pair of objects for all streams."""
    return _SEQUENCE + units, units / clock_hz


class _Range:
    """Sequence numbers of one source since it began or restarted (appendices A.1 and A.3)."""

    __slots__ = ("_bad", "_base", "_lost", "_next", "received", "ssrc")

    def __init__(self) -> None:
        self.ssrc = -1
        self.received = 0
        self._base = 0
        self._next = 0  # Extended by the wraps so far.
        self._lost = 0  # In the ranges before this one.
        self._bad = -1

    def begin(self, ssrc: int, sequence: int) -> None:
        """A new range; what was lost before stays counted."""
        self._lost = self.lost
        self.ssrc = ssrc
        self.received = 0
        self._base = self._next = sequence
        self._bad = -1

    def add(self, sequence: int) -> bool:
        """Count a packet; True when its number is the highest now.

        A number that is far off may be a restart: it is not counted unless the next one follows it.
        """
        ahead = (sequence - self._next) & 0xFFFF
        if DROPOUT_MAX <= ahead < 0x10000 - MISORDER_MAX:
            if sequence != self._bad:
                self._bad = (sequence + 1) & 0xFFFF
                return False
            self.begin(self.ssrc, (sequence - 1) & 0xFFFF)
            self.received, self._next, ahead = 1, self._next + 1, 0
        self.received += 1
        if ahead >= DROPOUT_MAX:
            return False  # Late, or a duplicate: as it counts as received, `lost` shrinks.
        self._next += ahead + 1
        self._bad = -1
        return True

    def skip(self, packets: int) -> None:
        """Count packets that came one behind the other."""
        self.received += packets
        self._next += packets

    def is_next(self, sequence: int) -> bool:
        """True for the number after the highest."""
        return sequence == self._next & 0xFFFF

    def highest(self, more: int) -> int:
        """The extended highest number, where `more` packets have come besides."""
        return self._next + more - 1 & 0xFFFFFFFF if self.ssrc >= 0 else 0

    @property
    def lost(self) -> int:
        """What did not come, of this range and those before; packets that came in order change nothing."""
        return self._lost + (self._next - self._base) - self.received


class Reception:
    """What has arrived from one peer. `update` for every packet, then read the totals.

    `clock_hz` is the RTP clock of the codec. Packets of `events_payload_type` (RFC 4733) are always `CHANGED` and do
    not count for jitter, because their timestamp stands still during an event.

    The usual packet is foretold: its first eight octets are those of the packet before, one sequence number and the
    usual time later. So one comparison finds it, and its number and size need not be counted one by one: they follow
    from where the run of such packets began. With thousands of streams the cost is memory that is not in the cache,
    so the usual case touches as few objects as can be; the relay's loop even writes it out a second time, with the
    slots that are public for that, because the call costs a third of it.
    """

    __slots__ = (
        "_clock_hz",
        "_counted",
        "_events",
        "_head",
        "_octets",
        "_range",
        "_run",
        "_timestamp",
        "at",
        "foretold",
        "gap_s",
        "jitter_s",
        "size",
        "step",
        "step_s",
    )

    def __init__(self, clock_hz: int = 8000, events_payload_type: int = -1) -> None:
        self.foretold = _NEVER
        self.step, self.step_s = _steps(0, clock_hz)
        self.size = -1  # No datagram has it, so the first one is not read as if it were usual.
        self.at = -1.0
        self.gap_s = 0.0
        self.jitter_s = 0.0
        # What was foretold when the present run of usual packets began; packets and octets before it.
        self._run = _NEVER
        self._counted = 0
        self._octets = 0
        self._range = _Range()
        self._head = -1
        self._timestamp = 0
        self._clock_hz = clock_hz
        self._events = events_payload_type

    def describe(self, clock_hz: int, events_payload_type: int) -> None:
        """Change the clock or the payload type of events; what was counted stays."""
        self._settle()
        self._clock_hz = clock_hz
        self._events = events_payload_type
        self._head = -1

    def update(self, now: float, data: bytes) -> int:
        """Count a datagram that arrived at `now`; says `ROUTINE`, `CHANGED`, `OPAQUE` or `BROKEN`. Never raises."""
        try:
            (first,) = _first(data)
        except struct_error:
            return self._short(data)
        if first == self.foretold and len(data) == self.size:
            self.foretold = first + self.step
            moved = now - self.at - self.step_s
            self.at = now
            jitter = self.jitter_s
            if moved > 0.0:
                if moved > GAP_SLACK_S:
                    self.gap_s = max(self.gap_s, moved + self.step_s)
                self.jitter_s = jitter + (moved - jitter) * 0.0625
            else:
                self.jitter_s = jitter - (moved + jitter) * 0.0625
            return 0
        return self._unusual(now, data, first)

    @staticmethod
    def _short(data: bytes) -> int:
        return BROKEN if data and data[0] >> 6 == 2 else OPAQUE

    def _unusual(self, now: float, data: bytes, first: int) -> int:
        size = len(data)
        if size < HEADER_BYTES:
            return self._short(data)
        head, sequence, timestamp = first >> 48, first >> 32 & 0xFFFF, first & 0xFFFFFFFF
        # RTCP on the same port (RFC 5761) is not this source's RTP.
        if head >> 14 != 2 or 192 <= head & 0xFF <= 223:
            return OPAQUE
        self._settle()
        numbers = self._range
        ssrc = int.from_bytes(data[8:12], "big")
        known = ssrc == numbers.ssrc
        if not known:
            numbers.begin(ssrc, sequence)
        follows = known and numbers.is_next(sequence)
        highest = numbers.add(sequence)
        self._counted += 1
        self._octets += size
        since = now - self.at if self.at >= 0.0 else 0.0
        self.gap_s = max(self.gap_s, since)
        self.at = now
        if head & 0x7F == self._events:
            self._head = -1  # The next packet's timestamp has nothing to be compared with.
            return CHANGED
        # The marker may differ from packet to packet; all else that is in the first two octets stays for the stream.
        head &= 0xFF7F
        units = (timestamp - self._timestamp) & 0xFFFFFFFF
        units -= units >> 31 << 32
        moved = abs(since - units / self._clock_hz)
        if known and head == self._head and moved < REBASE_S:
            self.jitter_s += (moved - self.jitter_s) * 0.0625
            if follows and units >= 0:
                self.step, self.step_s = _steps(units, self._clock_hz)
        self._head = head
        self._timestamp = timestamp
        if highest:
            self.size = size
            self._run = self.foretold = (head << 48 | sequence << 32 | timestamp) + self.step
        return CHANGED

    def _settle(self) -> None:
        """Count the run of usual packets, and foretell none until the next is known."""
        packets = (self.foretold - self._run) // self.step
        if packets:
            self._counted += packets
            self._octets += packets * self.size
            self._range.skip(packets)
            self._timestamp = (self._timestamp + packets * (self.step - _SEQUENCE)) & 0xFFFFFFFF
        self._run = self.foretold = _NEVER

    @property
    def packets(self) -> int:
        """RTP packets that came."""
        return self._counted + (self.foretold - self._run) // self.step

    @property
    def octets(self) -> int:
        """The bytes of their datagrams."""
        return self._octets + (self.foretold - self._run) // self.step * self.size

    @property
    def lost(self) -> int:
        """Packets that did not come; negative when duplicates outnumber them (appendix A.3)."""
        return self._range.lost

    @property
    def highest_sequence(self) -> int:
        """The extended highest sequence number received, as a report block has it (0 before the first packet)."""
        return self._range.highest((self.foretold - self._run) // self.step)

    @property
    def ssrc(self) -> int:
        """The source that was heard last (-1 before the first packet)."""
        return self._range.ssrc

    @property
    def heard_at(self) -> float:
        """When the last packet came (-1 before the first)."""
        return self.at

    @property
    def jitter(self) -> float:
        """Interarrival jitter in timestamp units (appendix A.8)."""
        return self.jitter_s * self._clock_hz

    @property
    def jitter_ms(self) -> float:
        """Interarrival jitter in milliseconds."""
        return self.jitter_s * 1000.0

    @property
    def gap_ms_max(self) -> float:
        """The longest silence between two packets, in milliseconds; exact above the packets' step and `GAP_SLACK_S`."""
        return max(self.gap_s, self.step_s) * 1000.0 if self.packets > 1 else 0.0
