"""The arbiter between two regions, as a node meets it: a lease that it renews, or waits for the end of."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import structlog

from warden.cluster.decide import stop_at
from warden.cluster.primacy import SEAT, Seen, Step, find_step
from warden.cluster.regions import Primary, Regions
from warden.config.tree import Arbiter as ArbiterSettings
from warden.core.errors import Unavailable, WardenError
from warden.store.ports import Coordinator

CYCLES_PER_LEASE: Final = 6
"""How often the arbiter is asked while a lease lasts: some lost answers, and an election, cost nothing."""

JUST_AFTER_S: Final = 0.001
"""A timer may be early by as much as its clock is coarse."""

_log = structlog.get_logger()


class Arbiter:
    """Asks again and again. `succeed` is to take the other region's place, and is called where its lease has been over
    for so many seconds, as far as this node has seen.
    """

    def __init__(
        self,
        settings: ArbiterSettings,
        coordinator: Coordinator,
        regions: Regions,
        now: Callable[[], float],
        succeed: Callable[[float], Coroutine[Any, Any, None]],
    ) -> None:
        self.error = ""
        self._ttl_s = settings.lease_ttl
        self._coordinator = coordinator
        self._regions = regions
        self._now = now
        self._succeed = succeed
        self._is_due = asyncio.Event()
        self._end: asyncio.TimerHandle | None = None
        self._over_since: float | None = None

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                self._is_due.clear()
                await self.look()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._ttl_s / CYCLES_PER_LEASE):
                        await self._is_due.wait()
        finally:
            if self._end is not None:
                self._end.cancel()
            await self._coordinator.close()

    def hurry(self) -> None:
        """Something has changed: ask at once."""
        self._is_due.set()

    async def look(self) -> None:
        """Ask once, and do what follows."""
        try:
            step = await self._ask()
            if self.error:
                _log.info("arbiter answers again")
            self.error = ""
            if step is not Step.SUCCEED:
                self._over_since = None
            else:
                self._over_since = self._now() if self._over_since is None else self._over_since
                await self._succeed(self._now() - self._over_since)
        except Unavailable as error:
            if not self.error:
                _log.warning("arbiter is away", why=str(error))
            self.error = str(error)
            self._regions.refuse(self.error)
        except WardenError as error:
            _log.warning("region does not become the primary one", why=str(error))

    async def _ask(self) -> Step:
        """See how it is, and do what is no change of the primary region."""
        regions = self._regions
        seen = await self.seen()
        if seen.holder and regions.learn(Primary(seen.holder, seen.term)):
            _log.info(f"the arbiter says that region {seen.holder} is the primary one", term=seen.term)
        step = find_step(regions.own, regions.primary, seen)
        match step:
            case Step.RENEW:
                await self._renew(regions.primary)
            case Step.TAKE:
                regions.decide(await self.take(max(regions.primary.term, seen.term)))
            case Step.WAIT if seen.term > regions.primary.term:
                regions.refuse(f"it knows of term {seen.term}, of which nobody here has heard whose it was")
            case _:
                pass
        return step

    async def seen(self) -> Seen:
        """What the arbiter says. Raises `Unavailable`."""
        held = (await self._coordinator.holdings()).get(SEAT)
        return Seen() if held is None else Seen(held.holder, held.epoch)

    async def take(self, last: int) -> Primary:
        """Make this region the primary one behind term `last`; nothing here has changed yet. Raises `WardenError` where
        somebody else was faster.
        """
        sent_at = self._now()
        own = self._regions.own
        term = await self._coordinator.take(SEAT, own, self._ttl_s, last, last + 1)
        if term is None:
            raise WardenError(f"the arbiter has given the seats to another region since term {last}")
        self._permit(sent_at)
        return Primary(own, term)

    async def _renew(self, primary: Primary) -> None:
        sent_at = self._now()
        if SEAT in await self._coordinator.renew(primary.region, {SEAT: primary.term}, self._ttl_s):
            self._permit(sent_at)
        else:
            self._regions.refuse("the lease is over, or another region's")
            self.hurry()

    def _permit(self, sent_at: float) -> None:
        until = stop_at(sent_at, self._ttl_s)
        self._regions.permit(until, sent_at)
        # Audio and address go when that is over, whatever is asked just then.
        if self._end is not None:
            self._end.cancel()
        loop = asyncio.get_running_loop()
        self._end = loop.call_later(max(0.0, until - self._now()) + JUST_AFTER_S, self._tell)

    def _tell(self) -> None:
        self._regions.on_change()
