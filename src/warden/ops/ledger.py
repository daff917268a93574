"""What the phones saw of every call that is over, and whether the call detail records say the same."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

from msgspec import Struct

from warden.call.cdr import Cdr, Party, Result
from warden.core.errors import NotAdmitted, Unavailable

CDR_S: Final = 10.0
"""How long the last records may take on their way to the database."""
LATE_S: Final = 1.0
"""How much later is looked again for a record that is there twice: another node may write the same call's."""
DATABASE_S: Final = 60.0
"""How long it may take until another database leads where the one before is gone: Patroni's `ttl` and its promotion."""
TIME_OFF_S: Final = 1.0
"""By how much a CDR's times may differ from what the phones saw (promise P1)."""

T = TypeVar("T")


class Records(Protocol):
    """Where the CDRs are."""

    async def cdrs(self, *, limit: int, before_utc: float | None) -> Sequence[Cdr]:
        """A page of them, the newest first, that ended before a time."""


class Ended(Struct, frozen=True):
    """A call that is over, as the phones saw it: what its CDR must say. `event` is the index of the event that it
    counts for. `answered_at` is None where it was never answered. Who hung up did so at `released_at`, and had its
    answer at `ended_at`; where they differ, a node has died that may have heard it.
    """

    event: int
    caller: str
    callee: str
    seat: str
    result: Result
    status: int
    by: Party
    started_at: float
    answered_at: float | None
    ended_at: float
    released_at: float | None = None


class Wrong(Struct, frozen=True):
    """A CDR that is missing, doubled or untrue; one that nobody knows counts for the last event."""

    event: int
    why: str


class Ledger:
    """`lost` has the parties of calls that were lost: those are counted there, so their CDRs are not counted again."""

    def __init__(self) -> None:
        self.ended: list[Ended] = []
        self.lost: set[tuple[str, str]] = set()

    async def compare(self, durable: Records, within_s: float = CDR_S, late_s: float = LATE_S) -> list[Wrong]:
        """Compare all CDRs with what the phones saw, `late_s` after there are enough or the time is over; it counts
        from when the database answers. Raises `Unavailable` where it does not within `DATABASE_S`.
        """
        await when_there(lambda: durable.cdrs(limit=1, before_utc=None))
        until = time.monotonic() + within_s
        while True:
            found = await when_there(lambda: _all_cdrs(durable))
            if len(found) >= len(self.ended) or time.monotonic() > until:
                break
            await asyncio.sleep(0.2)
        await asyncio.sleep(late_s)
        found = await when_there(lambda: _all_cdrs(durable))
        by_parties: dict[tuple[str, str], list[Cdr]] = defaultdict(list)
        for cdr in found:
            by_parties[cdr.caller, cdr.callee].append(cdr)
        wrong = []
        for ended in self.ended:
            cdrs = by_parties[ended.caller, ended.callee]
            nearest = min(cdrs, key=lambda cdr: abs(cdr.started_at_utc - ended.started_at), default=None)
            if nearest is not None:
                cdrs.remove(nearest)
            faults = _faults(nearest, ended)
            if faults:
                wrong.append(Wrong(ended.event, f"CDR of {ended.caller} to {ended.callee}: {faults[0]}"))
        wrong += [
            Wrong(-1, f"CDR of {extra.caller} to {extra.callee}: nobody knows this call ({extra.result})")
            for parties, cdrs in by_parties.items()
            if parties not in self.lost
            for extra in cdrs
        ]
        return wrong


def _faults(cdr: Cdr | None, ended: Ended) -> list[str]:
    if cdr is None:
        return ["missing"]
    ends = (ended.released_at or ended.ended_at, ended.ended_at)
    pairs = {
        "result": (cdr.result, ended.result),
        "status": (cdr.status, ended.status),
        "ended_by": (cdr.ended_by, ended.by),
        "seat": (cdr.seat, ended.seat),
    }
    faults = [f"{name} is {is_}, not {wanted}" for name, (is_, wanted) in pairs.items() if is_ != wanted]
    # An INVITE that nobody was there to hear is heard when it is said again: the call begins then, before its answer.
    heard_by = ended.answered_at or ends[0]
    for name, seconds, began in (
        ("duration", cdr.duration_s, (heard_by, ended.started_at)),
        ("talk time", cdr.talk_s, None if ended.answered_at is None else (ended.answered_at, ended.answered_at)),
    ):
        least, most = (0.0, 0.0) if began is None else (ends[0] - began[0], ends[1] - began[1])
        if not least - TIME_OFF_S <= seconds <= most + TIME_OFF_S:
            faults.append(f"{name} is {seconds:.1f} s, not {most:.1f} s")
    return faults


async def when_there(ask: Callable[[], Awaitable[T]]) -> T:
    """What the database answers: one that leads no more, or whose disk stands still, is asked again for `DATABASE_S`.
    Raises `Unavailable`, and at once where the database does not know us.
    """
    until = time.monotonic() + DATABASE_S
    while True:
        try:
            return await ask()
        except NotAdmitted:
            raise
        except Unavailable:
            if time.monotonic() > until:
                raise
        await asyncio.sleep(0.2)


async def _all_cdrs(durable: Records) -> list[Cdr]:
    found: dict[str, Cdr] = {}
    before: float | None = None
    while page := [cdr for cdr in await durable.cdrs(limit=1000, before_utc=before) if cdr.id not in found]:
        found |= {cdr.id: cdr for cdr in page}
        before = page[-1].ended_at_utc
    return list(found.values())
