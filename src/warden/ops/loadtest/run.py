"""A load test under way: the phones register, come to as many calls as are wanted, and go on until it is enough."""

import asyncio
import gc
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from warden.core.errors import WardenError
from warden.ops.drills.lateness import Lateness
from warden.ops.loadtest.call import make_call, result_of
from warden.ops.loadtest.phones import Pair, Phones, Server
from warden.ops.loadtest.plan import Kind, Plan
from warden.ops.loadtest.report import Generator, Run
from warden.ops.loadtest.tally import CallResult, Outcome, RegistrationResult, Tally
from warden.ops.softphone import Softphone
from warden.ops.town import side_by_side

REGISTER_AT_ONCE: Final = 12
"""Phones that register side by side before the first call: a busy morning, not an attack."""
AGAIN_S: Final = 1.0
"""Who could not call waits so long before he tries again."""
PATIENCE_S: Final = 5.0
"""How long calls that are being set up when somebody interrupts may take to come to something."""
LATENESS_LOOK_S: Final = 10.0
NAMED_MAX: Final = 5
"""Phones that are named where many could not register."""


class LoadTest:
    """`tally`, `up` (calls that stand) and `doing` may be read while it runs."""

    def __init__(
        self,
        plan: Plan,
        server: Server,
        phones: Phones,
        *,
        on_call: Callable[[Pair, CallResult], None] = lambda _pair, _result: None,
        on_registration: Callable[[Softphone, RegistrationResult], None] = lambda _phone, _result: None,
    ) -> None:
        self.plan = plan
        self.tally = Tally()
        self.up = 0
        self.peak = 0
        self.doing = f"asking {server} who is there"
        self.began_at: float | None = None
        """By the steady clock, when the phones were ready."""
        self._server = server
        self._phones = phones
        self._on_call = on_call
        self._on_registration = on_registration
        self._ending = asyncio.Event()
        self._begun = 0
        self._is_over = False
        self._told_to_stop = False
        self._interrupted = False
        self._stopped = ""
        self._late_p99_ms = 0.0
        self._late_max_ms = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    def stop(self) -> bool:
        """Somebody has seen enough: no more calls, and those that stand are hung up. False where that was said before,
        or where there is nothing yet that could be ended decently.
        """
        if self._told_to_stop or self.began_at is None:
            return False
        self._told_to_stop = True
        if self._is_over:
            # All that was asked for is done, and the phones are leaving.
            return True
        self._interrupted = True
        self.doing = "interrupted: hanging up"
        self._ending.set()
        loop = asyncio.get_running_loop()
        for task in self._tasks:
            loop.call_later(PATIENCE_S, task.cancel)
        return True

    async def run(self) -> Run:
        """Carry it out. Raises `WardenError` where no phone can register, or where some cannot that were to call."""
        async with self._phones:
            self._note(self._phones.all[-1], await self._phones.try_one())
            preparing_at = time.monotonic()
            if self.plan.has_calls:
                await self._register_all()
            prepared_s = time.monotonic() - preparing_at
            started_at_utc, self.began_at = time.time(), time.monotonic()
            async with self._steadily():
                if self.plan.has_calls:
                    await self._call_and_refresh()
                else:
                    self.doing = "registering"
                    await self._together([self._keep_registered(i) for i in range(len(self._phones.all))])
            seconds = time.monotonic() - self.began_at
            self._is_over = True
            self.doing = "the phones leave"
        registering_s = {Kind.CALLS: prepared_s, Kind.MIXED: prepared_s + seconds, Kind.REGISTRATIONS: seconds}
        return Run(
            started_at_utc,
            seconds,
            registering_s[self.plan.kind],
            str(self._server.address),
            str(self._server.transport),
            self.peak,
            Generator(self._late_p99_ms, self._late_max_ms),
            self._interrupted,
            self._stopped,
            tuple(self._phones.breaches),
        )

    # ---- registrations

    async def _register_all(self) -> None:
        phones = self._phones.all[:-1]
        self.doing = f"{len(self._phones.all)} phones register"
        results = await side_by_side([self._phones.register(phone) for phone in phones], REGISTER_AT_ONCE)
        refused = []
        for phone, result in zip(phones, results, strict=True):
            self._note(phone, result)
            if result.outcome is not Outcome.OK:
                refused.append(f"{phone.number} ({result.why})")
        if refused:
            more = f" and {len(refused) - NAMED_MAX} more" if len(refused) > NAMED_MAX else ""
            named = ", ".join(refused[:NAMED_MAX])
            raise WardenError(f"phones that were to call are not registered by {self._server}: {named}{more}")

    async def _keep_registered(self, i: int) -> None:
        phone = self._phones.all[i]
        await self._pause(self.plan.registers_s(i))
        is_first = phone is self._phones.all[-1]
        while not self._ending.is_set():
            # The last phone has registered when it was tried whether any can.
            if not is_first:
                self._note(phone, await self._phones.register(phone))
            if not self.plan.refreshes:
                return
            is_first = False
            await self._pause(self.plan.refresh_s)

    def _note(self, phone: Softphone, result: RegistrationResult) -> None:
        self.tally.add_registration(result)
        self._on_registration(phone, result)

    # ---- calls

    async def _call_and_refresh(self) -> None:
        self.doing = "calling"
        refreshing: asyncio.Task[None] | None = None
        if self.plan.refreshes:
            refreshing = asyncio.create_task(
                self._together([self._keep_registered(i) for i in range(len(self._phones.all))])
            )
        try:
            await self._together([self._use_place(place) for place in range(self.plan.concurrent_calls)])
            # What is being refreshed is waited for; nothing new is begun.
            self._ending.set()
            if refreshing is not None:
                await refreshing
        finally:
            if refreshing is not None:
                refreshing.cancel()

    async def _use_place(self, place: int) -> None:
        """One of the concurrent calls after the other, by the pairs of phones that share this place."""
        pairs = deque(self._phones.pair(number) for number in self.plan.pairs_of(place))
        await self._pause(self.plan.call_begins_s(place))
        while self._takes_turn():
            pairs.rotate(-1)
            result = await self._call(pairs[0])
            if result is None:
                return
            self.tally.add_call(result)
            self._on_call(pairs[0], result)
            if result.outcome is not Outcome.OK:
                await self._pause(AGAIN_S)

    def _takes_turn(self) -> bool:
        total = self.plan.total_calls
        if self._ending.is_set() or (total is not None and self._begun >= total):
            return False
        self._begun += 1
        return True

    async def _call(self, pair: Pair) -> CallResult | None:
        """What became of it; None where this machine has no room for it."""
        callee_ends = self._begun % 2 == 0
        try:
            return await make_call(pair, self._talk, self._phones.refused_byes, callee_ends=callee_ends)
        except asyncio.CancelledError:
            if self._interrupted and pair.line is not None:
                why = "interrupted while it was set up or ended"
                self.tally.add_call(result_of(pair.line, Outcome.UNKNOWN, why))
            raise
        except WardenError as error:
            self._stopped = str(self._phones.exhausted(error))
            self._ending.set()
            return None

    async def _talk(self) -> None:
        self.up += 1
        self.peak = max(self.peak, self.up)
        try:
            await self._pause(self.plan.call_duration_s)
        finally:
            self.up -= 1

    # ---- time

    async def _pause(self, seconds: float) -> None:
        """Let time pass, unless the test ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()

    async def _together(self, work: list[Coroutine[Any, Any, None]]) -> None:
        """Do all of it, to the end or until an interruption has been patient enough."""
        tasks = [asyncio.create_task(one) for one in work]
        self._tasks += tasks
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result

    @asynccontextmanager
    async def _steadily(self) -> AsyncIterator[None]:
        """The time in which it is measured: it ends by itself, and nothing else keeps the phones from speaking."""
        if self.plan.duration_s is not None:
            asyncio.get_running_loop().call_later(self.plan.duration_s, self._ending.set)
        # To walk through all phones in search of what is over would keep them waiting for a tenth of a second.
        gc.collect()
        gc.freeze()
        async with Lateness() as lateness:
            looking = asyncio.create_task(self._look(lateness))
            try:
                yield
            finally:
                looking.cancel()
                self._take(lateness)
                gc.unfreeze()

    async def _look(self, lateness: Lateness) -> None:
        while True:
            await asyncio.sleep(LATENESS_LOOK_S)
            self._take(lateness)

    def _take(self, lateness: Lateness) -> None:
        late = lateness.since()
        lateness.forget()
        self._late_p99_ms = max(self._late_p99_ms, late.p99_ms)
        self._late_max_ms = max(self._late_max_ms, late.max_ms)
