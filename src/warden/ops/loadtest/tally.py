"""What became of every call and registration, counted. Pure; nothing here judges.

An outcome that is not known for sure is `UNKNOWN`, and nobody counts it as good.
"""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from msgspec import Struct

from warden.ops.checker import nearest_rank
from warden.rtp.emodel import mos_of, rating_of

PLAYOUT_MS: Final = 20.0
"""A packet is spoken for so long before it is sent."""
JITTER_BUFFER: Final = 2.0
"""How much of the jitter a phone waits out before it plays."""
SCORED_PACKETS: Final = 50
"""A second: nobody gives a score for less."""
REASONS_MAX: Final = 50
"""Different reasons that are told apart: a server may say what it likes."""
OTHER: Final = "something else"


class Outcome(StrEnum):
    """How a call or registration went."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Way(Struct, frozen=True):
    """One direction of a call's audio. `missing` are packets that did not come though later ones did. `measured`: a
    packet was due in every 20 ms, so gap and jitter tell.
    """

    sent: int
    received: int
    missing: int
    duplicates: int
    gap_ms: float
    jitter_ms: float
    measured: bool

    @property
    def lost(self) -> int:
        """Packets that were sent and not heard."""
        return max(0, self.sent - self.received)

    @property
    def lost_at_ends(self) -> int:
        """Those of them that were the first or the last ones of the call."""
        return max(0, self.lost - max(0, self.missing))

    @property
    def mos(self) -> float:
        """What listeners would say of it, were the network without delay."""
        loss = self.lost / self.sent if self.sent else 1.0
        return mos_of(rating_of(loss, PLAYOUT_MS + JITTER_BUFFER * self.jitter_ms))


class CallResult(Struct, frozen=True):
    """A call. `why` says in a few words why it is not ok; times are from the INVITE, None where it did not come to
    that.
    """

    outcome: Outcome
    why: str = ""
    ringing_s: float | None = None
    setup_s: float | None = None
    ways: tuple[Way, ...] = ()


class RegistrationResult(Struct, frozen=True):
    """A REGISTER with all its tries until it was answered for good, after `took_s`."""

    outcome: Outcome
    took_s: float
    why: str = ""


class Times(Struct, frozen=True):
    """Percentiles in milliseconds, by nearest rank."""

    count: int
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Times | None":
        """None where there is nothing to rank."""
        if not seconds:
            return None
        ordered = sorted(seconds)
        return cls(
            len(ordered), *(round(nearest_rank(ordered, share) * 1000, 1) for share in (0.5, 0.9, 0.95, 0.99, 1.0))
        )


class Counts:
    """How many there were of each outcome, and why."""

    def __init__(self) -> None:
        self.attempted = 0
        self.ok = 0
        self.failed: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()

    def add(self, outcome: Outcome, why: str) -> None:
        """Count one more."""
        self.attempted += 1
        match outcome:
            case Outcome.OK:
                self.ok += 1
            case Outcome.FAILED:
                _count(self.failed, why)
            case Outcome.UNKNOWN:
                _count(self.unknown, why)

    @property
    def bad(self) -> int:
        """Those that are not known to be ok."""
        return self.attempted - self.ok


def _count(reasons: Counter[str], why: str) -> None:
    reasons[why if why in reasons or len(reasons) < REASONS_MAX else OTHER] += 1


class Tally:
    """The accounts of a test, which may be read while it runs."""

    def __init__(self) -> None:
        self.calls = Counts()
        self.registrations = Counts()
        self.answered = 0
        self.setup_s: list[float] = []
        self.ringing_s: list[float] = []
        self.registered_s: list[float] = []
        self.sent = 0
        self.received = 0
        self.lost = 0
        self.lost_at_ends = 0
        self.duplicates = 0
        self.directions_measured = 0
        self.gaps_s: list[float] = []
        self.jitters_s: list[float] = []
        self.scores: list[float] = []

    def add_call(self, result: CallResult) -> None:
        """A call is over."""
        self.calls.add(result.outcome, result.why)
        if result.ringing_s is not None:
            self.ringing_s.append(result.ringing_s)
        if result.setup_s is not None:
            self.answered += 1
            self.setup_s.append(result.setup_s)
        for way in result.ways:
            self.sent += way.sent
            self.received += way.received
            self.lost += way.lost
            self.lost_at_ends += way.lost_at_ends
            self.duplicates += way.duplicates
            if way.measured:
                self.directions_measured += 1
                self.gaps_s.append(way.gap_ms / 1000)
                self.jitters_s.append(way.jitter_ms / 1000)
                if way.sent >= SCORED_PACKETS:
                    self.scores.append(way.mos)

    def add_registration(self, result: RegistrationResult) -> None:
        """A registration was answered, or not."""
        self.registrations.add(result.outcome, result.why)
        if result.outcome is Outcome.OK:
            self.registered_s.append(result.took_s)
