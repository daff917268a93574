"""Keeps in this region's store what lives on the seats of the primary one (`stream`), so that it can be adopted here.

One node of the region does so for each seat: the first of its successors that lives. Two that both believe to be it
write the same.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Final, Protocol

import structlog

from warden.cluster.decide import Seat
from warden.cluster.stream import Frame, Step, writes_of
from warden.core.errors import Fenced, MalformedMessage, Unavailable
from warden.store.ports import Kind, SeatStore, Write

AGAIN_S: Final = 0.5
"""How soon somebody else is asked who has the seat."""
SLICE: Final = 500
Record = tuple[Kind, str]

_log = structlog.get_logger()


class Source(Protocol):
    """Where the records of a seat come from."""

    def frames(self, seat: str) -> AsyncIterator[Frame]:
        """The seat's stream, from whichever node of the other region has it. Ends where that is lost. Raises
        `Unavailable` where nobody has it, `MalformedMessage` for what is no stream.
        """


class Turns(Protocol):
    """Whose turn it is."""

    def epoch(self, seat: str) -> int | None:
        """The highest epoch that the seat had in this region (0: none); None where it is not known, or the seat is
        held here.
        """

    def is_ours(self, seat: Seat) -> bool:
        """Whether this node is to follow the seat now."""


class Mirror:
    """`following` are the seats that this node follows now, `heard_at` when it last heard of each (steady clock)."""

    def __init__(
        self,
        seats: tuple[Seat, ...],
        store: SeatStore,
        source: Source,
        turns: Turns,
        now: Callable[[], float],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_change` is called when `following` has changed."""
        self.following: set[str] = set()
        self.heard_at: dict[str, float] = {}
        self.records: dict[str, int] = {}
        """How many changes were taken, by seat."""
        self.why: dict[str, str] = {}
        """Why a seat is not followed though it should be."""
        self._seats = seats
        self._store = store
        self._source = source
        self._turns = turns
        self._now = now
        self._on_change = on_change

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for seat in self._seats:
                tasks.create_task(self._keep(seat), name=f"{seat.name} mirror")

    def age_s(self) -> Mapping[str, float]:
        """How long ago each seat that is to be followed here was heard of."""
        now = self._now()
        return {s.name: now - self.heard_at.get(s.name, 0.0) for s in self._seats if self._turns.is_ours(s)}

    async def _keep(self, seat: Seat) -> None:
        while True:
            if self._turns.is_ours(seat):
                try:
                    await self._follow(seat)
                    why = ""
                except (Unavailable, MalformedMessage, Fenced) as error:
                    why = str(error)
                finally:
                    self._set(seat.name, follows=False)
                if why and self.why.get(seat.name) != why:
                    _log.warning(f"seat {seat.name} of the other region is not followed: {why}", seat=seat.name)
                self.why[seat.name] = why
            await asyncio.sleep(AGAIN_S)

    def _set(self, seat: str, *, follows: bool) -> None:
        if follows != (seat in self.following):
            (self.following.add if follows else self.following.discard)(seat)
            self._on_change()

    async def _follow(self, seat: Seat) -> None:
        name, epoch = seat.name, self._turns.epoch(seat.name)
        if epoch is None:
            return
        known: set[Record] = set()
        is_whole = False
        # A generator that is left has to close its connection at once, not when somebody collects it.
        async with aclosing(self._source.frames(name)) as frames:  # type: ignore[type-var]
            async for frame in frames:
                writes = writes_of(frame)
                if frame.step is Step.END:
                    _log.info(f"seat {name} has left the other region: everything is here", seat=name)
                    return
                if writes:
                    await self._store.write(name, epoch, writes)
                    self.records[name] = self.records.get(name, 0) + len(writes)
                if not is_whole:
                    known |= {(write.kind, write.key) for write in writes}
                if frame.step is Step.WHOLE:
                    await self._remove_others(name, epoch, known)
                    is_whole = True
                    known.clear()
                    self._set(name, follows=True)
                    self.why[name] = ""
                    _log.info(f"seat {name} of the other region is followed", seat=name)
                self.heard_at[name] = self._now()
                if not self._turns.is_ours(seat):
                    return

    async def _remove_others(self, seat: str, epoch: int, known: set[Record]) -> None:
        """What is here and was not among all that there is there has ended meanwhile."""
        gone = [
            Write(kind, key, None)
            for kind in Kind
            for key in await self._store.read(seat, kind)
            if (kind, key) not in known
        ]
        for i in range(0, len(gone), SLICE):
            await self._store.write(seat, epoch, gone[i : i + SLICE])
