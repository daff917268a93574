"""The media process as the node's seats see it, whichever process that is at the moment."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from warden.cluster.seat import HeldSeat
from warden.config.tree import Config
from warden.core.errors import Unavailable
from warden.media.client import MediaClient
from warden.media.launch import ensure
from warden.media.protocol import Answer, Drop, Dropped, Event, Lease, Listed, Order, Put, Quit, Totals, TotalsAre
from warden.media.protocol import List as ListSessions
from warden.media.quality import Quality
from warden.node import build

POLL_S: Final = 2.0
"""How old the media figures in the metrics may be, and how soon a process that hangs is noticed."""
SILENT_MAX: Final = 3
"""A process that leaves so many questions in a row unanswered hangs: it is ended, and another takes up the calls."""
RETRY_S: Final = 1.0

_log = structlog.get_logger()


class MediaDoor:
    """`Media` for all seats of a node. `totals` is what the process said last, `error` why it does not do as told;
    `quality` counts how the sessions were that have ended.
    """

    def __init__(self, config: Config, seats: Callable[[], Iterable[HeldSeat]]) -> None:
        self.totals: TotalsAre | None = None
        self.error = ""
        self.quality = Quality()
        self._config = config
        self._seats = seats
        self._client: MediaClient | None = None
        self._leases: dict[str, float] = {}
        self._lost = asyncio.Event()
        self._silent = 0

    async def attach(self) -> None:
        """Attach to the process that is there, or start one. Raises `Unavailable`."""
        if self._client is not None:
            await self._client.close()
            self._client = None
        self._lost.clear()
        folder = self._config.data_dir
        self._client = await ensure(
            folder / "media.sock",
            self._heard,
            self._lost.set,
            log=folder / "media.log",
            orphan_s=self._config.rtp.orphan_timeout,
        )
        for seat, until_mono in self._leases.items():
            self._client.tell(Lease(seat, until_mono))

    def lease(self, seat: str, until_mono: float) -> None:
        """The media of the seat may go on until then (CLOCK_MONOTONIC), whatever becomes of this process."""
        self._leases[seat] = until_mono
        if self._client is not None:
            self._client.tell(Lease(seat, until_mono))

    def of(self, seat: str) -> "SeatMedia":
        """The door for one seat."""
        ahead = build.rules(self._config).address_moves
        return SeatMedia(self, seat, ahead=ahead)

    async def apply(self, orders: Sequence[Order]) -> Sequence[Answer]:
        """As `Media.apply`."""
        if self._client is None:
            raise Unavailable("media: the process is being started")
        answers = await self._client.apply(orders)
        for answer in answers:
            if isinstance(answer, Dropped):
                for side in answer.stats:
                    self.quality.note(side)
        return answers

    async def drop_unknown(self) -> None:
        """End the sessions that no call of ours knows. Raises `Unavailable`."""
        known = {call for seat in self._seats() for call in seat.switch.session_ids}
        await self.apply([Drop(session) for session in await self._listed() if session not in known])

    async def quit(self, *, only_if_idle: bool) -> None:
        """End the process, unless it is to stay for the sessions that it carries."""
        with suppress(Unavailable):
            if not only_if_idle or not await self._listed():
                await self.apply([Quit()])

    async def close(self) -> None:
        """Detach."""
        if self._client is not None:
            await self._client.close()

    async def watch(self) -> None:
        """Keep a process there, and know how it does, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(POLL_S):
                    await self._lost.wait()
            except TimeoutError:
                await self._ask()
            else:
                await self._replace()

    async def _ask(self) -> None:
        try:
            (answer,) = await self.apply([Totals()])
        except Unavailable as error:
            # A process that hangs gets no new calls, also where no call is there to notice it.
            self._blame(str(error))
            self._silent += 1
            if self._silent >= SILENT_MAX and self._client is not None and not self._lost.is_set():
                _log.error("media process hangs and is ended", pid=self._client.pid)
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(self._client.pid, signal.SIGKILL)
                self._lost.set()
            return
        self._silent = 0
        self._blame("")
        if isinstance(answer, TotalsAre):
            self.totals = answer

    async def _replace(self) -> None:
        self._silent = 0
        self._blame("ended; it is being started again")
        seats = list(self._seats())
        _log.error("media process is gone, starting another", calls=sum(len(seat.switch.calls) for seat in seats))
        try:
            await self.attach()
            await self.drop_unknown()
            for seat in seats:
                await seat.put_media()
        except Unavailable as error:
            self._blame(str(error))
            self._lost.set()
            await asyncio.sleep(RETRY_S)
        else:
            self._blame("")

    def _blame(self, error: str) -> None:
        self.error = error
        for seat in self._seats():
            seat.runner.replicator.media_error = error
            seat.switch.media_works = not error

    async def _listed(self) -> tuple[str, ...]:
        (answer,) = await self.apply([ListSessions()])
        assert isinstance(answer, Listed), "List is answered by Listed"
        return answer.ids

    def _heard(self, event: Event) -> None:
        any(seat.heard_from_media(event) for seat in self._seats())


class SeatMedia:
    """`Media` for one seat: what it puts ends with the seat's lease."""

    def __init__(self, door: MediaDoor, seat: str, *, ahead: bool) -> None:
        """With `ahead` the seat's address may come later than its calls."""
        self._door = door
        self._seat = seat
        self._ahead = ahead

    async def apply(self, orders: Sequence[Order]) -> Sequence[Answer]:
        """As `Media.apply`."""
        own = self._seat, self._ahead
        return await self._door.apply([Put(o.session, *own) if isinstance(o, Put) else o for o in orders])
