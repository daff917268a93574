"""Calls that come and go at a steady rate, each a try whether the cluster serves its users at this moment."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Self

from warden.call.cdr import Party, Result
from warden.core.errors import WardenError
from warden.ops.checker import Checker, hang_up
from warden.ops.softphone import Line
from warden.ops.town import Talk, Town

SETUP_S: Final = 10.0
"""A caller who hears nothing for so long has hung up."""
FINISH_S: Final = 60.0
WentOn = Callable[[Talk, float], bool]


class Traffic:
    """Calls between these pairs of phones, whose callees answer by themselves. `failed` are those that did not come to
    be, `dropped` those that ended otherwise than by their phones, each in words; `unprotected` those of them that
    began while a node was known to have nowhere to write them. `passed` counts the turns at which all phones were busy.

    `went_on(talk, since)` says whether a seat of the call's phones went to another node soon after a time, in Unix
    seconds: what rang there at that time and is not protected, nobody knows of any more.
    """

    def __init__(
        self,
        town: Town,
        checker: Checker,
        pairs: Sequence[Talk],
        *,
        rate_per_s: float,
        talk_s: float,
        went_on: WentOn = lambda _talk, _since: False,
    ) -> None:
        self.offered = 0
        self.made = 0
        self.passed = 0
        self.failed: list[str] = []
        self.dropped: list[str] = []
        self.unprotected: list[str] = []
        self.is_protected = True
        """Whether what begins now is promised to outlive its node."""
        self.setup_s: list[float] = []
        self._town = town
        self._checker = checker
        self._went_on = went_on
        self._free = deque(pairs)
        self._rate_per_s = rate_per_s
        self._talk_s = talk_s
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._calls: set[asyncio.Task[None]] = set()
        self._pacing: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._began = self._loop.time()
        self._pacing = asyncio.create_task(self._pace())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pacing.cancel()
        with suppress(asyncio.CancelledError):
            await self._pacing
        if self._calls:
            await asyncio.wait(self._calls, timeout=FINISH_S)
        for call in self._calls:
            call.cancel()
            self.dropped.append("a call did not come to its end")

    @property
    def planned(self) -> int:
        """How many calls there should have been by now."""
        return int((self._loop.time() - self._began) * self._rate_per_s)

    async def _pace(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(self._began + turn / self._rate_per_s - self._loop.time())
            turn += 1
            if not self._free:
                # All phones wait for something: what they wait for is counted when it fails.
                self.passed += 1
                continue
            self.offered += 1
            call = asyncio.create_task(self._call(self._free.popleft(), turn))
            self._calls.add(call)
            call.add_done_callback(self._done)

    def _done(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if not call.cancelled() and (error := call.exception()) is not None:
            self.failed.append(f"a call: {error!r}")

    async def _call(self, pair: Talk, turn: int) -> None:
        # Another object each time: what has been said of an earlier call stays true.
        talk, is_protected = Talk(pair.caller, pair.callee, pair.seat), self.is_protected
        try:
            outgoing = talk.caller.call(talk.callee.number)
            if (incoming := await self._set_up(talk, outgoing, is_protected=is_protected)) is None:
                outgoing.release()
            else:
                await self._talk(talk, outgoing, incoming, turn, is_protected=is_protected)
        finally:
            self._free.append(pair)

    async def _set_up(self, talk: Talk, outgoing: Line, *, is_protected: bool) -> Line | None:
        """The callee's line; None where it did not come to that, which is counted then."""
        try:
            async with asyncio.timeout(SETUP_S):
                await outgoing.answered()
                while (incoming := await talk.callee.next_call()).number != talk.caller.number:
                    pass
        except TimeoutError:
            rang_at = outgoing.ringing_at
            is_unknown = not is_protected and rang_at is not None and self._went_on(talk, rang_at)
            self._fail(self.unprotected if is_unknown else self.failed, talk, "not answered in time")
            return None
        except WardenError as error:
            self._fail(self.failed, talk, str(error))
            return None
        return incoming

    async def _talk(self, talk: Talk, outgoing: Line, incoming: Line, turn: int, *, is_protected: bool) -> None:
        self.made += 1
        self.setup_s.append(outgoing.setup_s or 0.0)
        talk.lines = outgoing, incoming
        await asyncio.sleep(self._talk_s)
        first, second = (outgoing, incoming) if turn % 2 else (incoming, outgoing)
        why = talk.ended or await hang_up(self._town, first, second)
        if why:
            self._fail(self.dropped if is_protected else self.unprotected, talk, why)
        else:
            self._checker.note(talk, Result.ANSWERED, 200, Party.CALLER if turn % 2 else Party.CALLEE, outgoing)

    def _fail(self, where: list[str], talk: Talk, why: str) -> None:
        where.append(f"{talk}: {why}")
        self._checker.ledger.lost.add((talk.caller.number, talk.callee.number))
