"""The servers that nodes ask over the network: seat store, coordinator and database. Each may be slow, away, or cut off
from some nodes; the seat store may also fail over to a copy that lacks the last writes.

What is asked is carried out when it arrives there, whether or not the asker is still alive or hears the answer.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from warden.call.cdr import Cdr
from warden.core.errors import Unavailable
from warden.sim.loop import WORLD
from warden.sim.network import Network
from warden.store.memory import MemoryStore
from warden.store.memory_coordinator import MemoryCoordinator
from warden.store.ports import Changes, Holding, Kind, Member, Write

TIMEOUT_S: Final = 1.0
"""How long a node waits for an answer."""

T = TypeVar("T")


class Server:
    """A machine that answers in the order in which it is asked, by each node on one connection."""

    def __init__(self, name: str, network: Network) -> None:
        self.name = name
        self.up = True
        self.delay_s = 0.001
        self.slow_s = 0.0
        self.forgets_answers = False
        """True lets it do as asked and break the connection: the outcome is unknown to who asked."""
        self._network = network
        self._last: dict[tuple[str, bool], float] = {}

    async def ask(self, node: str, work: Callable[[], T]) -> T:
        """Have it do something. Raises what that raises, and `Unavailable`."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._travel(node, True, self._arrived, node, work, answer)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await answer
        except TimeoutError:
            raise Unavailable(f"{self.name}: no answer within {TIMEOUT_S:g} s") from None

    def _travel(self, node: str, there: bool, then: Callable[..., None], *args: Any) -> None:
        """Packets of one connection do not overtake each other."""
        loop = self._network.loop
        at = max(
            self._last.get((node, there), 0.0),
            loop.time() + self._network.random.uniform(0, self.delay_s) / 2 + self.slow_s / 2,
        )
        self._last[node, there] = at
        loop.call_at(at, then, *args, context=WORLD)

    def _arrived(self, node: str, work: Callable[[], T], answer: "asyncio.Future[T]") -> None:
        if not self._network.reaches(node, self.name):
            return
        error: Exception | None = None
        result: T | None = None
        if not self.up:
            error = Unavailable(f"{self.name}: connection refused")
        else:
            try:
                result = work()
            except Exception as raised:
                error = raised
            if self.forgets_answers:
                error = Unavailable(f"{self.name}: connection lost")
        if self._network.reaches(self.name, node):
            self._travel(node, False, self._answered, answer, result, error)

    @staticmethod
    def _answered(answer: "asyncio.Future[Any]", result: object, error: Exception | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of something that never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waits")


class StoreClient:
    """A node's `SeatStore`: its own connection (`door`) to what all share."""

    def __init__(self, node: str, server: Server, door: MemoryStore) -> None:
        self._node = node
        self._server = server
        self._door = door

    async def claim(self, seat: str, holder: str) -> int:
        """As `SeatStore.claim`."""
        return await self._ask(lambda: self._door.claim(seat, holder))

    async def write(self, seat: str, epoch: int, writes: Sequence[Write]) -> int:
        """As `SeatStore.write`."""
        kept = list(writes)
        return await self._ask(lambda: self._door.write(seat, epoch, kept))

    async def read(self, seat: str, kind: Kind) -> Mapping[str, bytes]:
        """As `SeatStore.read`."""
        return await self._ask(lambda: self._door.read(seat, kind))

    async def changes(self, seat: str, kind: Kind, since: str) -> Changes:
        """As `SeatStore.changes`."""
        return await self._ask(lambda: self._door.changes(seat, kind, since))

    async def close(self) -> None:
        """As `SeatStore.close`."""

    async def _ask(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await self._server.ask(self._node, lambda: at_once(work()))


class CoordinatorClient:
    """A node's `Coordinator`; `desk` is its own connection to what all share."""

    def __init__(self, node: str, server: Server, desk: MemoryCoordinator, network: Network) -> None:
        self._node = node
        self._server = server
        self._desk = desk
        self._network = network

    async def acquire(self, seat: str, node: str, ttl_s: float, at_least: int = 0) -> int | None:
        """As `Coordinator.acquire`."""
        return await self._ask(lambda: self._desk.acquire(seat, node, ttl_s, at_least))

    async def take(self, seat: str, node: str, ttl_s: float, from_epoch: int, at_least: int = 0) -> int | None:
        """As `Coordinator.take`."""
        return await self._ask(lambda: self._desk.take(seat, node, ttl_s, from_epoch, at_least))

    async def renew(self, node: str, held: Mapping[str, int], ttl_s: float) -> frozenset[str]:
        """As `Coordinator.renew`."""
        asked = dict(held)
        return await self._ask(lambda: self._desk.renew(node, asked, ttl_s))

    async def release(self, seat: str, node: str, epoch: int) -> bool:
        """As `Coordinator.release`."""
        return await self._ask(lambda: self._desk.release(seat, node, epoch))

    async def holdings(self) -> Mapping[str, Holding]:
        """As `Coordinator.holdings`."""
        return await self._ask(self._desk.holdings)

    async def announce(self, member: Member, ttl_s: float) -> None:
        """As `Coordinator.announce`."""
        await self._ask(lambda: self._desk.announce(member, ttl_s))

    async def members(self) -> Mapping[str, Member]:
        """As `Coordinator.members`."""
        return await self._ask(self._desk.members)

    async def changed(self, timeout_s: float) -> None:
        """As `Coordinator.changed`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._desk.changed(timeout_s)
                await asyncio.sleep(self._network.random.uniform(0, self._server.delay_s))
                if not self._server.up or not self._network.reaches(self._server.name, self._node):
                    await asyncio.sleep(timeout_s)

    async def close(self) -> None:
        """As `Coordinator.close`."""

    async def _ask(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await self._server.ask(self._node, lambda: at_once(work()))


class DatabaseServer(Server):
    """The durable truth, as far as calls change it: their CDRs, each id once."""

    def __init__(self, name: str, network: Network) -> None:
        super().__init__(name, network)
        self.cdrs: dict[str, Cdr] = {}

    def add(self, cdrs: Sequence[Cdr]) -> None:
        """As `Durable.add_cdrs`."""
        for cdr in cdrs:
            self.cdrs.setdefault(cdr.id, cdr)


class DatabaseClient:
    """A node's `CdrStore`."""

    def __init__(self, node: str, server: DatabaseServer) -> None:
        self._node = node
        self._server = server

    async def add_cdrs(self, cdrs: Sequence[Cdr]) -> None:
        """As `CdrStore.add_cdrs`."""
        kept = list(cdrs)
        await self._server.ask(self._node, lambda: self._server.add(kept))
