"""A seat's records on their way into the store: by this node itself and, while the store does not answer it, through
another node that reaches the store. Nothing here knows how that one is asked.

The other node writes with the seat and epoch of this one, so a seat that has a new holder is fenced as ever. Its own
store does the work: what it is asked for it never asks of a third one.

Each change of the way counts as a loss (`SeatStore.write`): everything is written again. What is under way on both
ways at once may arrive in any order, and a store that this node reached until now may have been left behind by the
others.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

import structlog

from warden.core.errors import Fenced, Unavailable
from warden.store.ports import Changes, Kind, SeatStore, Write
from warden.store.records import check_writes

AGAIN_S: Final = 1.0
"""How often the own store is tried again meanwhile."""
IDLE_S: Final = 5.0
"""A seat of which nothing was written for so long is not here any more: its holder writes every second."""
SEARCH_S: Final = 1.0
"""No further node is asked after that: where no node reaches the store, its return is not to be missed by asking."""

_log = structlog.get_logger()
T = TypeVar("T")


class Others(Protocol):
    """The other nodes of the cluster. What is asked of one raises `Unavailable` where it does not answer, or does not
    reach the store itself.
    """

    def nodes(self) -> Sequence[str]:
        """Those that were last known to live, the preferred one first."""

    async def write(self, node: str, seat: str, epoch: int, writes: Sequence[Write]) -> int:
        """As `SeatStore.write`, by that node."""

    async def read(self, node: str, seat: str, kind: Kind) -> Mapping[str, bytes]:
        """As `SeatStore.read`, by that node."""

    async def close(self) -> None:
        """Let go of connections."""


class _Way:
    """How a seat's records get into the store: through `node`, which is empty while they go there directly. `more` is
    to be added to the losses that the own store tells; it is reckoned anew where another node `was_used` since.
    """

    def __init__(self) -> None:
        self.node = ""
        self.why = ""
        self.was_used = False
        self.more = 0
        self.theirs = 0
        self.epoch = 0
        self.written_at = 0.0
        self.lock = asyncio.Lock()


class Through:
    """A `SeatStore`: that of this node, or another node's way to it. Nothing is followed through another node."""

    def __init__(self, store: SeatStore, others: Others) -> None:
        self._store = store
        self._others = others
        self._ways: dict[str, _Way] = {}
        self._told: dict[str, int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watches: dict[str, asyncio.Task[None]] = {}

    @property
    def is_used(self) -> bool:
        """Whether anything is written through another node now."""
        return any(way.node for way in self._ways.values())

    @property
    def warnings(self) -> list[str]:
        """What the operator is to know of it."""
        found = [f"call state is written through {way.node}: own store: {way.why}" for way in self._used()]
        return list(dict.fromkeys(found))

    def _used(self) -> list[_Way]:
        return [way for way in self._ways.values() if way.node]

    async def claim(self, seat: str, holder: str) -> int:
        """As `SeatStore.claim`, by the own store."""
        way = self._ways.get(seat)
        if way is None:
            return await self._store.claim(seat, holder)
        return _raised(await self._finished(self._claim(seat, holder, way)))

    async def write(self, seat: str, epoch: int, writes: Sequence[Write]) -> int:
        """As `SeatStore.write`."""
        way = self._ways.get(seat)
        why = None
        if way is None or not way.node:
            try:
                losses = await self._store.write(seat, epoch, writes)
            except Unavailable as error:
                why = error
            else:
                return self._took(seat, way, losses)
        check_writes(writes)
        if way is None:
            way = self._ways.setdefault(seat, _Way())
        return _raised(await self._finished(self._write_elsewhere(seat, way, epoch, writes, why)))

    async def read(self, seat: str, kind: Kind) -> Mapping[str, bytes]:
        """As `SeatStore.read`."""
        way = self._ways.get(seat)
        why = None
        if way is None or not way.node:
            try:
                return await self._store.read(seat, kind)
            except Unavailable as error:
                why = error
        return _raised(await self._finished(self._read_elsewhere(seat, kind, why)))

    async def changes(self, seat: str, kind: Kind, since: str) -> Changes:
        """As `SeatStore.changes`, of the own store: what was known before is good enough meanwhile."""
        return await self._store.changes(seat, kind, since)

    async def close(self) -> None:
        """As `SeatStore.close`."""
        for watch in self._watches.values():
            watch.cancel()
        await asyncio.gather(*self._watches.values(), *self._tasks, return_exceptions=True)
        await self._others.close()
        await self._store.close()

    async def _finished(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's result. Who is cancelled leaves it to its end: a write behind it must not overtake it. So it gives
        an error as a value, for nobody may be there to hear it.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    def _took(self, seat: str, way: _Way | None, losses: int) -> int:
        """The own store has written something, and tells of so many losses."""
        if way is not None:
            if way.was_used:
                way.was_used = False
                way.more = self._told[seat] + 1 - losses
            losses += way.more
        self._told[seat] = losses
        return losses

    async def _claim(self, seat: str, holder: str, way: _Way) -> int | Unavailable:
        """Behind the writes that were asked for before."""
        async with way.lock:
            try:
                return await self._store.claim(seat, holder)
            except Unavailable as error:
                return error

    async def _write_elsewhere(
        self, seat: str, way: _Way, epoch: int, writes: Sequence[Write], why: Unavailable | None
    ) -> int | Unavailable | Fenced:
        """`why` the own store did not take it; None where it was not asked."""
        async with way.lock:
            if why is None and not way.node:
                # It has come back, or the other node has gone, while others were served.
                try:
                    return self._took(seat, way, await self._store.write(seat, epoch, writes))
                except Unavailable as error:
                    why = error
                except Fenced as fenced:
                    return fenced
            loop = asyncio.get_running_loop()
            began = loop.time()
            refusal = why
            for node in self._in_turn(way):
                try:
                    theirs = await self._others.write(node, seat, epoch, writes)
                except Unavailable as error:
                    refusal = refusal or error
                except Fenced as fenced:
                    way.node = ""
                    return fenced
                else:
                    way.epoch, way.written_at = epoch, loop.time()
                    return self._wrote(seat, way, node, theirs, why)
                if loop.time() - began > SEARCH_S:
                    break
            if way.node:
                _log.warning(f"call state is not written through {way.node} any more", seat=seat, why=str(refusal))
                way.node = ""
            return refusal or Unavailable(f"seat {seat}: no other node is known")

    def _wrote(self, seat: str, way: _Way, node: str, theirs: int, why: Unavailable | None) -> int:
        """Another node has written something, and tells of so many losses."""
        was, told = way.node, self._told.get(seat)
        if told is None or (was, way.theirs) != (node, theirs):
            # Whoever was told nothing yet has nothing to write again.
            told = self._told[seat] = 0 if told is None else told + 1
        way.theirs, way.node = theirs, node
        if why is not None:
            way.why = str(why)
        if was != node:
            _log.warning(f"call state is written through {node}: own store: {way.why}", seat=seat)
        way.was_used = True
        watch = self._watches.get(seat)
        if watch is None or watch.done():
            self._watches[seat] = asyncio.create_task(self._until_back(seat, way))
        return told

    async def _until_back(self, seat: str, way: _Way) -> None:
        """Try the own store, beside the calls' writes, until it is the way again."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(AGAIN_S)
            if not way.node:
                return
            if loop.time() - way.written_at > IDLE_S:
                break
            try:
                # Not a read: a server that has been left behind by the others still answers those.
                await self._store.write(seat, way.epoch, [])
            except Unavailable as error:
                way.why = str(error)
            except Fenced:
                # The next write will be told.
                break
            else:
                _log.info("own store answers again: call state is written there", seat=seat)
                break
        async with way.lock:
            way.node = ""

    async def _read_elsewhere(
        self, seat: str, kind: Kind, why: Unavailable | None
    ) -> Mapping[str, bytes] | Unavailable:
        way = self._ways.get(seat)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for node in self._in_turn(way):
            try:
                return await self._others.read(node, seat, kind)
            except Unavailable as error:
                why = why or error
            if loop.time() - began > SEARCH_S:
                break
        return why or Unavailable(f"seat {seat}: no other node is known")

    def _in_turn(self, way: _Way | None) -> list[str]:
        """The nodes, the one that is used already first."""
        kept = "" if way is None else way.node
        return sorted(self._others.nodes(), key=lambda node: node != kept)


def _raised(found: T | Unavailable | Fenced) -> T:
    """What was found, unless it is an error."""
    if isinstance(found, Unavailable | Fenced):
        raise found
    return found
