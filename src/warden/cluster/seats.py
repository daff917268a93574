"""The seats that a node holds, each from adoption to release: what the agent asks of its `Host`.

Nothing here knows where sockets, stores or clocks come from: `make` builds a seat of them.
"""

from asyncio import Task
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any

import structlog

from warden.cluster.decide import Seat
from warden.cluster.seat import HeldSeat
from warden.core.errors import Fenced
from warden.switch.directory import Directory

MakeSeat = Callable[[Seat, int, float], HeldSeat]
"""(seat, epoch, until): a seat that knows nothing yet."""
StartTask = Callable[[Coroutine[Any, Any, None], str], "Task[None]"]
"""(work, name): a task of the node; an exception in it ends the node."""

_log = structlog.get_logger()


class Seats:
    """The `Host` of a node's agent. While `alone` is True there is no agent, and losing the seat ends the node."""

    def __init__(
        self,
        make: MakeSeat,
        directory: Callable[[], Directory],
        start_task: StartTask,
        on_gone: Callable[[str], None] = lambda _seat: None,
    ) -> None:
        """`on_gone` is told of a seat that is not held any more."""
        self.held: dict[str, HeldSeat] = {}
        self.alone = True
        self._make = make
        self._directory = directory
        self._start_task = start_task
        self._on_gone = on_gone
        self._until: dict[str, tuple[float, bool]] = {}
        self._bringing: set[Task[None]] = set()

    async def adopt(self, seat: Seat, epoch: int) -> str:
        """As `Host.adopt`."""
        until, ahead = self._until.get(seat.name, (inf, False))
        held = self._make(seat, epoch, until)
        held.gate.extend(until, ahead=ahead)
        self.held[seat.name] = held

        def run(work: Coroutine[Any, Any, None], name: str, what: str) -> "Task[None]":
            return self._start_task(self._guarded(work, held), f"{name} {what}")

        try:
            return await held.adopt(self._directory(), run)
        except BaseException:
            self._forget(held)
            await held.close()
            raise

    def extend(self, seat: str, until: float, *, ahead: bool = False) -> None:
        """As `Host.extend`."""
        self._until[seat] = until, ahead
        if seat in self.held:
            self.held[seat].gate.extend(until, ahead=ahead)

    async def hand_over(self, seat: str) -> str:
        """As `Host.hand_over`."""
        fenced = f"let go of seat {seat}, which another node has"
        held = self.held.get(seat)
        if held is None:
            # It was dropped for that already.
            return fenced
        try:
            await held.fall_silent()
        except Fenced:
            return fenced
        await held.share_media()
        return f"handed over seat {seat} with {len(held.switch.calls)} calls"

    async def drop(self, seat: str) -> None:
        """As `Host.drop`."""
        held = self.held.get(seat)
        if held is not None:
            await self._drop(held)

    def calls_of(self, seats: tuple[str, ...]) -> int:
        """As `Host.calls_of`."""
        return sum(len(self.held[seat].switch.calls) for seat in seats if seat in self.held)

    def give_up(self) -> None:
        """Bring no more records into a database that does not answer: the node ends."""
        for task in self._bringing:
            task.cancel()

    async def close(self) -> None:
        """Let go of everything; audio goes on where the media process does."""
        for held in list(self.held.values()):
            await held.close()

    async def _drop(self, held: HeldSeat) -> None:
        self._forget(held)
        left = held.left_over()
        await held.close()
        if left:
            task = self._start_task(held.bring_out(left), f"{held.name} records")
            self._bringing.add(task)
            task.add_done_callback(self._bringing.discard)
        # The node may have adopted the seat anew meanwhile.
        heir = self.held.get(held.name)
        await held.drop_media(but=frozenset() if heir is None else heir.switch.session_ids)

    def _forget(self, held: HeldSeat) -> None:
        if self.held.get(held.name) is held:
            del self.held[held.name]
            self._on_gone(held.name)

    async def _guarded(self, work: Coroutine[Any, Any, None], held: HeldSeat) -> None:
        """A seat's task. One that is fenced ends its seat, and where nobody else could have it the process."""
        try:
            await work
        except Fenced as fenced:
            if self.alone:
                raise
            _log.warning("fenced", seat=held.name, epoch=held.epoch, why=str(fenced))
            self._start_task(self._drop(held), f"{held.name} drop")
