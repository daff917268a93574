"""Write before you speak: the queue between what the switch decides and what the world hears of it.

Outcomes are carried out in order: records, then media orders, then messages. Whatever the switch decides while the
store is busy travels in the next write, as one. A store that does not answer within the bound does not hold up calls:
they go on unprotected, counted, and what it missed is written when it answers again. A store that has lost what it had
(it was started empty, or is an older copy) is found out within a second, and gets everything again.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import structlog

from warden.core.errors import Fenced, Unavailable
from warden.core.histogram import Histogram
from warden.media.ports import Media
from warden.media.protocol import Order, Put, Refused
from warden.net.ports import Net
from warden.store.ports import Kind, SeatStore, Write
from warden.store.records import WRITES_MAX
from warden.switch.switch import Outcome

STORE_WAIT_S: Final = 0.05
"""How long a message waits for its record. A healthy store answers within 2 ms, and 50 ms more are not heard."""
MEDIA_WAIT_S: Final = 0.5
"""How long a message waits for its media: the process answers within 1 ms unless it is being started again."""
RETRY_S: Final = 1.0
"""How often a store that failed is tried again."""
BEAT_S: Final = 1.0
"""How often the store is asked whether it still has everything, when there is nothing else to write."""
SLICE: Final = 2_000
"""Records in one write of those that wait: some 6 MB, which a healthy store takes within the bound."""
BACKLOG_RECORDS_MAX: Final = 200_000
"""Records kept for a store that is away: every call and binding of a full node, with room for CDRs of hours."""

_log = structlog.get_logger()

Record = tuple[Kind, str]

_SWEPT: Final = (Kind.CALL, Kind.BINDING, Kind.TRUNK, Kind.BAN)
"""What `everything` gives all of. CDRs in the outbox may be an earlier holder's, and none is taken twice."""


class _Asked(NamedTuple):
    """What the store has been given to write, and when (the loop's clock)."""

    task: "asyncio.Task[int]"
    writes: Sequence[Write]
    began: float
    are_new: bool


class Replicator:
    """Carries out outcomes for one seat. `run` is its task; `add` hands it work."""

    def __init__(
        self,
        store: SeatStore,
        media: Media,
        net: Net,
        *,
        seat: str,
        epoch: int,
        on_refused: Callable[[str, str], None],
        on_stored: Callable[[Sequence[Write]], None],
        everything: Callable[[], Sequence[Write]],
    ) -> None:
        """`on_refused(call, why)` is told of a session that the media process could not make, `on_stored(cdrs)`
        of CDRs that are in the outbox. `everything()` gives all records of the seat as they are now.
        """
        self._store = store
        self._media = media
        self._net = net
        self._seat = seat
        self._epoch = epoch
        self._on_refused = on_refused
        self._on_stored = on_stored
        self._everything = everything
        self._queue: list[Outcome] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._backlog: dict[Record, bytes | None] = {}
        self._late: asyncio.Task[None] | None = None
        self._retry_at = 0.0
        self._fenced: Fenced | None = None
        self._bug: BaseException | None = None
        self._ended = False
        self._beat: asyncio.TimerHandle | None = None
        self._is_due = False
        self._asked = asyncio.Event()
        self._losses = 0
        self._spared: frozenset[Record] = frozenset()
        self._sweeping: asyncio.Task[None] | None = None
        self._must_sweep = False
        self.store_error = ""
        self.media_error = ""
        self.stored_late = 0
        self.write_seconds = Histogram()

    @property
    def unprotected(self) -> frozenset[Record]:
        """The records that the store does not have yet although the world may have heard of them."""
        return frozenset(self._backlog)

    def unstored(self, kind: Kind) -> list[Write]:
        """The records of a kind that the store does not have yet, and is to have."""
        waiting = [w for outcome in self._queue for w in outcome.writes if w.kind is kind and w.value is not None]
        late = [Write(*record, value) for record, value in self._backlog.items() if value is not None]
        return [*(write for write in late if write.kind is kind), *waiting]

    @property
    def unprotected_calls(self) -> int:
        """Calls among them."""
        return sum(kind is Kind.CALL for kind, _ in self._backlog)

    def add(self, outcome: Outcome) -> None:
        """Carry out this outcome, behind those before it."""
        if outcome.may_go_at_once and not self._queue:
            self._speak(outcome)
            return
        self._queue.append(outcome)
        self._idle.clear()
        self._wake.set()

    def begin(self, losses: int, spared: frozenset[Record]) -> None:
        """What the store says of itself at adoption (see `SeatStore.write`), and which records of others are to stay
        in it although `everything` does not know them.
        """
        self._losses = losses
        self._spared = spared

    async def drained(self) -> None:
        """Return when everything added so far has been carried out. Raises `Fenced` where it never will be."""
        if not self._ended:
            await self._idle.wait()
        if self._fenced is not None:
            raise self._fenced

    async def proven(self) -> None:
        """The same, and the store was asked how it is: what it lacks is `unprotected`, or `store_error` says why."""
        await self.drained()
        if self._ended:
            return
        self._asked.clear()
        self._is_due = True
        self._wake.set()
        await self._asked.wait()
        await self.drained()

    async def run(self) -> None:
        """Work until cancelled. Raises `Fenced` when another node holds the seat: nothing may be sent any more."""
        self._arm()
        try:
            while True:
                await self._work()
                if self._fenced is not None:
                    raise self._fenced
                if self._bug is not None:
                    raise self._bug
        except Fenced as fenced:
            self._fenced = fenced
            raise
        finally:
            # Whoever waits for what is not done any more is not to wait for ever.
            self._ended = True
            self._idle.set()
            self._asked.set()
            if self._beat is not None:
                self._beat.cancel()
            for task in (self._late, self._sweeping):
                if task is not None:
                    task.cancel()

    def _started(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task beside `run`, which ends as this does where it fails in a way that nobody foresaw."""
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._look_at)
        return task

    def _look_at(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._bug = bug
            self._wake.set()

    def _arm(self) -> None:
        self._beat = asyncio.get_running_loop().call_later(BEAT_S, self._look)

    def _look(self) -> None:
        self._is_due = True
        self._wake.set()
        self._arm()

    async def _work(self) -> None:
        if self._is_due:
            self._is_due = False
            await self._write_backlog()
            self._asked.set()
            self._sweep()
        elif self._queue:
            await self._carry_out()
        elif self._backlog and self._late is None and self._may_ask:
            self._idle.set()
            await self._write_backlog()
        else:
            self._idle.set()
            self._wake.clear()
            await self._wake.wait()

    async def _carry_out(self) -> None:
        batch, self._queue = self._queue, []
        writes = [w for outcome in batch for w in outcome.writes]
        orders = [o for outcome in batch for o in outcome.orders]
        # Both at once; the store is begun first, since it takes its turn in the loop while the media are waited for.
        asked = self._begin_write(writes) if writes else None
        try:
            if orders:
                await self._order(orders)
        except asyncio.CancelledError:
            if asked is not None:
                asked.task.cancel()
            raise
        if asked is not None:
            await self._finish(asked)
        elif writes and self._may_ask:
            await self._write_backlog()
        for outcome in batch:
            self._speak(outcome)

    def _speak(self, outcome: Outcome) -> None:
        for message in outcome.sends:
            self._net.send(message.flow, message.data)

    # The store

    def _begin_write(self, writes: Sequence[Write]) -> "_Asked | None":
        """Have these written; None where they wait in the backlog for their turn."""
        if not self._backlog and self._late is None and self._may_ask and len(writes) <= WRITES_MAX:
            return self._begin(writes, are_new=True)
        self._remember(writes)
        return None

    @property
    def _may_ask(self) -> bool:
        """False for a while after a failure."""
        return asyncio.get_running_loop().time() >= self._retry_at

    async def _write_backlog(self) -> None:
        """Write what waits, the oldest first; where nothing does, ask the store how it is."""
        if self._late is None:
            waiting = islice(self._backlog.items(), SLICE)
            await self._finish(self._begin([Write(*record, value) for record, value in waiting], are_new=False))

    def _begin(self, writes: Sequence[Write], *, are_new: bool) -> "_Asked":
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._store.write(self._seat, self._epoch, writes))
        return _Asked(task, writes, loop.time(), are_new)

    async def _finish(self, asked: "_Asked") -> None:
        task, writes, began, are_new = asked
        loop = asyncio.get_running_loop()
        if not task.done():
            try:
                await asyncio.wait((task,), timeout=max(0.0, began + STORE_WAIT_S - loop.time()))
            except asyncio.CancelledError:
                # Left alone it would fail for nobody to hear once the seat is another node's, which counts as a bug.
                task.cancel()
                raise
        self.write_seconds.observe(loop.time() - began)
        if not task.done():
            if are_new:
                self._remember(writes)
            self._say_unprotected("did not answer in time")
            self._late = self._started(self._finish_late(task, list(writes)))
            return
        try:
            losses = task.result()
        except Unavailable as error:
            if are_new:
                self._remember(writes)
            self._retry_at = loop.time() + RETRY_S
            self._say_unprotected(str(error))
            return
        if not are_new:
            self._forget(writes)
        self._stored(writes, losses)

    async def _finish_late(self, task: "asyncio.Task[int]", writes: Sequence[Write]) -> None:
        """A slow write may still succeed: what it wrote is no longer missing, unless it changed meanwhile."""
        try:
            losses = await task
        except Unavailable as error:
            self._retry_at = asyncio.get_running_loop().time() + RETRY_S
            self._say_unprotected(str(error))
        except Fenced as fenced:
            self._fenced = fenced
        else:
            self.stored_late += 1
            self._forget(writes)
            self._stored(writes, losses)
        self._late = None
        self._wake.set()

    def _remember(self, writes: Sequence[Write]) -> None:
        for w in writes:
            # The newest value counts, and its place in the order is at the end.
            self._backlog.pop((w.kind, w.key), None)
            self._backlog[w.kind, w.key] = w.value
        while len(self._backlog) > BACKLOG_RECORDS_MAX:
            lost = next(iter(self._backlog))
            del self._backlog[lost]
            _log.error(
                "record given up",
                seat=self._seat,
                epoch=self._epoch,
                kind=lost[0],
                key=lost[1],
                why="too many wait for the store",
            )

    def _forget(self, writes: Sequence[Write]) -> None:
        for w in writes:
            if self._backlog.get((w.kind, w.key), b"\0") == w.value:
                del self._backlog[w.kind, w.key]

    def _stored(self, writes: Sequence[Write], losses: int) -> None:
        if losses != self._losses:
            self._losses = losses
            _log.warning("store has lost records, all are written again", seat=self._seat, epoch=self._epoch)
            self._remember(self._everything())
            self._must_sweep = True
            self._sweep()
        if self.store_error and not self._backlog:
            _log.info("store answers again", seat=self._seat, epoch=self._epoch)
            self.store_error = ""
        cdrs = [w for w in writes if w.kind is Kind.OUTBOX and w.value is not None]
        if cdrs:
            self._on_stored(cdrs)

    def _sweep(self) -> None:
        """An older copy of the store still has what has been deleted since: calls that are over must not come back."""
        if self._must_sweep and self._sweeping is None:
            self._must_sweep = False
            self._sweeping = self._started(self._delete_unknown())

    async def _delete_unknown(self) -> None:
        try:
            found = {(kind, key) for kind in _SWEPT for key in await self._store.read(self._seat, kind)}
        except Unavailable:
            self._must_sweep = True
        else:
            found.difference_update(((w.kind, w.key) for w in self._everything()), self._spared)
            self._remember([Write(kind, key, None) for kind, key in found])
            self._wake.set()
        self._sweeping = None

    def _say_unprotected(self, why: str) -> None:
        if not self.store_error:
            _log.warning("calls go on unprotected", seat=self._seat, epoch=self._epoch, why=why)
        self.store_error = why

    # Media

    async def _order(self, orders: Sequence[Order]) -> None:
        try:
            async with asyncio.timeout(MEDIA_WAIT_S):
                answers = await self._media.apply(orders)
        except (Unavailable, TimeoutError) as error:
            # The node starts the process again and puts every session; the calls go on meanwhile.
            self.media_error = str(error) or "did not answer in time"
            return
        self.media_error = ""
        for order, answer in zip(orders, answers, strict=True):
            if isinstance(answer, Refused) and isinstance(order, Put):
                self._on_refused(order.session.id, answer.why)
