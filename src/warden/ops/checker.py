"""What became of every call and registration. The checker causes nothing but the calls that it tries things with, and
what it does not know for sure it counts as lost.
"""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from math import ceil
from typing import Any, Final

from msgspec import Struct

from warden.call.cdr import Party, Result
from warden.core.errors import WardenError
from warden.ops.ledger import Ended, Ledger
from warden.ops.softphone import Line, Softphone
from warden.ops.town import AT_ONCE, Talk, Town, side_by_side
from warden.phone.events import By
from warden.store.durable import SqlDurable

HEARD_PACKETS: Final = 25
"""Half a second of audio of those who speak all the time; of the others a tenth."""
AGAIN_S: Final = 10.0
"""How long a call may be silent or deaf before it counts as lost; people hang up earlier."""
ANSWER_S: Final = 8.0
RING_S: Final = 5.0
POLL_S: Final = 0.02


class Gap(Struct, frozen=True):
    """Silence in the calls that an event touched, per call and direction, in milliseconds."""

    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Gap":
        """From one value per call and direction; there is at least one."""
        ordered = sorted(values)
        return cls(*(round(nearest_rank(ordered, share), 1) for share in (0.5, 0.99, 1.0)))


class Checker:
    """Keeps the accounts over all events. `problems` are sentences about whatever was not as it should be, `gaps` the
    silences (ms) that were found last.
    """

    def __init__(self, town: Town, seats: Sequence[str], *, at_once: int = AT_ONCE) -> None:
        self.problems: list[str] = []
        self.gaps: list[float] = []
        self.alive: list[Talk] = list(town.talks)
        self.ringing: list[Talk] = list(town.ringing)
        self.ledger = Ledger()
        self._town = town
        self._seats = seats
        self._at_once = at_once

    # Calls

    def open_window(self) -> None:
        """From now on gaps in the audio are those of the next event."""
        for line in self._lines(self.alive):
            line.listener.gap_s_max = 0.0

    async def hear(self) -> None:
        """Wait until every call is heard at both ends, or for as long as one may be silent."""
        # One look at all of them: a thousand that look for themselves would keep the phones from speaking.
        until = time.monotonic() + AGAIN_S
        waiting = [(line, line.listener.packets + _more(line)) for line in self._lines(self.alive)]
        while waiting and time.monotonic() < until:
            await asyncio.sleep(POLL_S)
            waiting = [
                (line, wanted) for line, wanted in waiting if line.end is None and line.listener.packets < wanted
            ]

    def gaps_ms(self, struck: Sequence[str]) -> Gap | None:
        """The longest silence of each direction of the measured calls at these seats since the window was opened."""
        now = time.time()
        self.gaps = [
            max(line.listener.gap_ms_max, line.listener.silence_ms(now))
            for talk in self.alive
            if talk.is_measured and self._seats[talk.seat] in struck
            for line in talk.lines
        ]
        return Gap.of(self.gaps) if self.gaps else None

    async def prove_calls(self, *, both: bool = False) -> int:
        """Have every call show that it works: both ends hear the other, and hold and resume are answered, from one side
        (the sides take turns) or `both`. Those that do not are lost from here on; gives their number.
        """

        def tried(talk: Talk, i: int) -> Sequence[Line]:
            return talk.lines if both else (talk.lines[i % 2],)

        work = [_proof(talk, tried(talk, i)) for i, talk in enumerate(self.alive)]
        whys = await side_by_side(work, self._at_once)
        return self._bury([(talk, why) for talk, why in zip(self.alive, whys, strict=True) if why])

    async def still_heard(self) -> int:
        """As `prove_calls`, without hold and resume."""
        whys = await side_by_side([_guarded(_hear_each_other(talk)) for talk in self.alive], self._at_once)
        return self._bury([(talk, why) for talk, why in zip(self.alive, whys, strict=True) if why])

    async def prove_ringing(self, event: int) -> tuple[int, int]:
        """Answer the calls that ring for this event, talk, and hang up; no other may have ended. Gives how many were
        kept and lost.
        """
        chosen = [talk for talk in self.ringing if talk.event == event]
        whys = await side_by_side([self._answered_late(talk, i) for i, talk in enumerate(chosen)], self._at_once)
        self.ringing = [talk for talk in self.ringing if talk.event != event]
        lost = [(talk, why) for talk, why in zip(chosen, whys, strict=True) if why]
        kept = len(chosen) - len(lost)
        lost += [(talk, talk.ended) for talk in self.ringing if talk.ended]
        self.ringing = [talk for talk in self.ringing if not talk.ended]
        self._tell(lost, "ringing ")
        return kept, len(lost)

    async def hang_up_all(self) -> int:
        """End every call, from one side and the other in turn; gives how many of them did not end as they should."""
        whys = await side_by_side([self._hung_up(talk, i) for i, talk in enumerate(self.alive)], self._at_once)
        return self._bury([(talk, why) for talk, why in zip(self.alive, whys, strict=True) if why])

    def lose(self, lost: Sequence[tuple[Talk, str]]) -> int:
        """Somebody else saw these calls fail, and why; gives how many were not lost before."""
        return self._bury([(talk, why) for talk, why in lost if talk in self.alive])

    async def _answered_late(self, talk: Talk, turn: int) -> str:
        if talk.ended:
            return talk.ended
        outgoing, incoming = talk.lines
        if len(self._town.provisionals.get(outgoing.tag, ())) > 1:
            return "the caller heard another ringing begin"
        if any(line.number == talk.caller.number for line in talk.callee.lines.values() if line is not incoming):
            return "the callee was rung again"

        async def answer() -> str:
            async with asyncio.timeout(ANSWER_S):
                await incoming.answer()
                await outgoing.answered()
            return await _hear_each_other(talk)

        return await _guarded(answer()) or await self._hung_up(talk, turn)

    async def _hung_up(self, talk: Talk, turn: int) -> str:
        """End it properly, and note what its CDR must say."""
        outgoing, incoming = talk.lines
        by_caller = turn % 2 == 0
        first, second = (outgoing, incoming) if by_caller else (incoming, outgoing)
        why = talk.ended or await hang_up(self._town, first, second)
        if not why:
            self.note(talk, Result.ANSWERED, 200, Party.CALLER if by_caller else Party.CALLEE, outgoing)
        return why

    def note(self, talk: Talk, result: Result, status: int, by: Party, line: Line) -> None:
        """The call is over; `line` is the caller's."""
        self.ledger.ended.append(
            Ended(
                talk.event,
                talk.caller.number,
                talk.callee.number,
                self._seats[talk.seat],
                result,
                status,
                by,
                line.started_at,
                line.answered_at,
                line.ended_at or time.time(),
                next(
                    (one.released_at for one in (line, *getattr(talk, "lines", ())) if one.released_at is not None),
                    None,
                ),
            )
        )

    def _bury(self, lost: list[tuple[Talk, str]]) -> int:
        gone = {talk for talk, _ in lost}
        self.alive = [talk for talk in self.alive if talk not in gone]
        self._tell(lost, "")
        return len(lost)

    def _tell(self, lost: list[tuple[Talk, str]], what: str) -> None:
        self.ledger.lost |= {(talk.caller.number, talk.callee.number) for talk, _ in lost}
        self.problems += [f"{what}{talk}: {why}" for talk, why in lost]

    @staticmethod
    def _lines(talks: Sequence[Talk]) -> list[Line]:
        return [line for talk in talks if talk.held_by is None for line in talk.lines]

    # Registrations

    async def lost_registrations(self, event: int, phones: Sequence[Softphone] | None = None) -> int:
        """Call every phone (or these) until it rings; gives how many do not, though they are registered."""
        phones = self._town.phones if phones is None else phones
        probers = {prober.server: prober for prober in self._town.probers}
        work = [self._reached(probers[phone.server], phone, event) for phone in phones]
        whys = await side_by_side(work, self._at_once)
        lost = [f"registration of {phone.number}: {why}" for phone, why in zip(phones, whys, strict=True) if why]
        self.problems += lost
        return len(lost)

    async def _reached(self, prober: Softphone, phone: Softphone, event: int) -> str:
        talk = Talk(prober, phone, self._town.probers.index(prober), event)
        line = prober.call(phone.number)

        async def ring() -> str:
            async with asyncio.timeout(RING_S):
                await line.ringing()
            return ""

        async def give_up() -> str:
            async with asyncio.timeout(RING_S):
                await line.hang_up()
            return ""

        why = await _guarded(ring())
        if line.end is None:
            why = await _guarded(give_up()) or why
        if not why and line.end is not None and line.end.status != 487:
            why = f"CANCEL came to {line.end.status}"
        if why:
            self.ledger.lost.add((prober.number, phone.number))
        else:
            self.note(talk, Result.CANCELLED, 487, Party.CALLER, line)
        return why

    # CDRs

    async def wrong_cdrs(self, durable: SqlDurable, events: int) -> list[int]:
        """Compare all CDRs with what the phones saw; how many are wrong, for each event."""
        wrong = [0] * events
        for one in await self.ledger.compare(durable):
            wrong[one.event] += 1
            self.problems.append(one.why)
        return wrong


async def hang_up(town: Town, first: Line, second: Line) -> str:
    """Have the first side end the call; "" where both came to know of it as they should, else why not."""

    async def work() -> str:
        async with asyncio.timeout(ANSWER_S):
            await first.hang_up()
            ended = await second.ended()
        refused = town.refused_byes.get(first.tag)
        if refused is not None:
            return f"BYE was answered with {refused}"
        return "" if ended.by is By.PEER else f"the other side ended by {ended.by} with {ended.status}"

    return await _guarded(work())


async def _proof(talk: Talk, tried: Sequence[Line]) -> str:
    """Why a call does not work; "" where it does."""

    async def prove() -> str:
        if talk.held_by is not None:
            async with asyncio.timeout(ANSWER_S):
                await talk.held_by.resume()
            talk.held_by = None
        if why := await _hear_each_other(talk):
            return why
        for line in tried:
            async with asyncio.timeout(ANSWER_S):
                await line.hold()
                await line.resume()
        return await _hear_each_other(talk)

    return await _guarded(prove())


async def _hear_each_other(talk: Talk) -> str:
    if talk.held_by is not None:
        return talk.ended
    outgoing, incoming = talk.lines
    heard = await asyncio.gather(_packets(outgoing), _packets(incoming))
    if talk.ended:
        return talk.ended
    for who, hears, line, other in zip(("caller", "callee"), heard, talk.lines, talk.lines[::-1], strict=True):
        if not hears or line.listener.ssrc != other.talker.ssrc:
            return f"the {who} does not hear the other"
    return ""


async def _packets(line: Line) -> bool:
    """Wait for some packets more, but no longer than a call may be silent; says whether they came."""
    wanted, until = line.listener.packets + _more(line), time.monotonic() + AGAIN_S
    # Packets come by the clock, and nothing tells of each.
    while line.listener.packets < wanted and line.end is None and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)
    return line.listener.packets >= wanted


def _more(line: Line) -> int:
    return max(2, HEARD_PACKETS // line.port.every)


async def _guarded(work: Coroutine[Any, Any, str]) -> str:
    """What `work` says, or why it could not be done."""
    try:
        return await work
    except TimeoutError:
        return "no answer"
    except WardenError as error:
        return str(error)


def nearest_rank(ordered: Sequence[float], share: float) -> float:
    """The value below or at which this share of them lies."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)]
