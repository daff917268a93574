"""The embedded fast store: one SQLite file. Nothing here knows what a record means.

What `write` acknowledged survives the death of the process by any signal (the operating system has it). A power cut
may lose the last commits before it, never the file.

Commits go straight to the file from the event loop while the disk is quick: they only copy into the operating
system's memory (10 us), whereas a hand-over to a thread costs four times that in wake-ups, and a thread that waits
for the interpreter lock beside a busy loop waits for seconds. All that can take long is left to the store's thread:
flushing to the disk, reading, claiming, and every commit while the disk is slow, so that a disk which hangs never
holds up the loop for more than one commit.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any, TypeAlias

from warden.core.errors import Unavailable
from warden.store.ports import Changes, Kind, Write
from warden.store.records import check_followed, check_writes
from warden.store.seatfile import SIZE_MAX_BYTES, Batch, SeatFile

_PENDING_MAX = 20_000
"""Calls waiting for the disk: some seconds of full load. A disk that is further behind is as good as gone, and
memory must not fill up behind it."""

_SLOW_S = 0.02
"""A commit that takes longer, one packet of audio, makes the disk a slow one. A quick one takes 0.0001."""

_SLOW_FOR_S = 1.0
"""How long a slow disk is left to the thread before the loop tries it again: at worst one slow commit a second."""

_FLUSH_EVERY = 1000
"""Records between two flushes of the log into the file: a few megabytes of log."""

Work: TypeAlias = Batch | Callable[[SeatFile], Any]
Order: TypeAlias = tuple["asyncio.Future[Any]", Work]
Turn: TypeAlias = tuple[asyncio.AbstractEventLoop, list[Order]]


class LocalStore:
    """A `SeatStore` on the SQLite file `path` (made if missing, its folder must be there).

    The constructor opens the file and raises `Unavailable` where it is damaged or cannot be written, `WardenError`
    where a newer Warden has written it. Calls are
    carried out in the order they were made; a cancelled call may still be carried out. The calls of one loop turn,
    and of all turns that pile up behind a slow disk, share a commit; each still succeeds or fails as a whole.
    A caller who cannot wait for the disk bounds the call with a timeout. `slow_s`: see `_SLOW_S`; 0 leaves every
    commit to the thread.
    """

    def __init__(self, path: Path | str, *, size_max_bytes: int = SIZE_MAX_BYTES, slow_s: float = _SLOW_S) -> None:
        self._path = Path(path)
        self._file = SeatFile(self._path, size_max_bytes)
        self._slow_s = slow_s
        self._slow_until = 0.0 if slow_s else float("inf")
        self._turn: list[Order] = []
        self._pending = 0
        self._handed_over = 0
        self._unflushed = 0
        self._ended: asyncio.Future[None] | None = None
        self._queue: SimpleQueue[Turn | None] = SimpleQueue()
        # A daemon, so that a crashing process is not kept alive: to the file its end is like any kill.
        self._thread = Thread(target=self._serve, name="warden-store", daemon=True)
        self._thread.start()

    async def claim(self, seat: str, holder: str) -> int:
        """See `SeatStore.claim`."""
        epoch: int = await self._ask(lambda file: file.claim(seat, holder))
        return epoch

    async def write(self, seat: str, epoch: int, writes: Sequence[Write]) -> int:
        """See `SeatStore.write`. A file that had to be opened again, after an error, may be another one."""
        check_writes(writes)
        self._unflushed += len(writes)
        await self._ask(Batch(seat, epoch, writes))
        return self._file.openings - 1

    async def read(self, seat: str, kind: Kind) -> Mapping[str, bytes]:
        """See `SeatStore.read`."""
        records: dict[str, bytes] = await self._ask(lambda file: file.read(seat, kind))
        return records

    async def changes(self, seat: str, kind: Kind, since: str) -> Changes:
        """See `SeatStore.changes`."""
        check_followed(kind)
        changes: Changes = await self._ask(lambda file: file.changes(seat, since))
        return changes

    async def close(self) -> None:
        """Carry out what was asked for, then close the file. Safe to call twice."""
        if self._ended is None:
            loop = asyncio.get_running_loop()
            self._ended = loop.create_future()
            self._send(loop)
            self._queue.put(None)
        await asyncio.shield(self._ended)
        self._thread.join()

    def _ask(self, work: Work) -> "asyncio.Future[Any]":
        if self._ended is not None:
            raise Unavailable(f"{self._path}: closed")
        if self._pending >= _PENDING_MAX:
            raise Unavailable(f"{self._path}: disk too slow: {self._pending} calls are waiting for it")
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if not self._turn:
            loop.call_soon(self._send, loop)
        self._turn.append((future, work))
        self._pending += 1
        return future

    def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        """Carry out the turn's calls, here or by the thread. Nothing overtakes what the thread still has."""
        orders, self._turn = self._turn, []
        if not orders:
            return
        start = monotonic()
        works = [work for _, work in orders]
        if self._handed_over or start < self._slow_until or any(type(work) is not Batch for work in works):
            self._handed_over += 1
            self._queue.put((loop, orders))
        else:
            answers = _carry_out(self._file, works)
            end = monotonic()
            if end - start > self._slow_s:
                self._slow_until = end + _SLOW_FOR_S
            self._settle(orders, answers)
        if self._unflushed >= _FLUSH_EVERY:
            self._unflushed = 0
            self._queue.put((loop, []))

    def _settle_handed_over(self, orders: list[Order], answers: Sequence[Any]) -> None:
        self._handed_over -= 1
        self._settle(orders, answers)

    def _settle(self, orders: list[Order], answers: Sequence[Any]) -> None:
        self._pending -= len(orders)
        for (future, _), answer in zip(orders, answers, strict=True):
            if not future.done():
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _serve(self) -> None:
        """The thread. It has the file for itself while a turn is handed over; a turn without orders asks for a flush,
        which the file allows beside the loop's commits.
        """
        queue = self._queue
        going = True
        while going:
            taken = [queue.get()]
            taken += [queue.get() for _ in range(queue.qsize())]  # nobody else takes from the queue
            going = taken[-1] is not None
            turns = [turn for turn in taken if turn is not None]
            answers = _carry_out(self._file, [work for _, orders in turns for _, work in orders])
            first = 0
            for loop, orders in turns:
                if orders:
                    last = first + len(orders)
                    _tell(loop, self._settle_handed_over, orders, answers[first:last])
                    first = last
            if any(not orders for _, orders in turns):
                self._file.flush()
        self._file.close()
        assert self._ended is not None, "only close() ends the queue, after it has set this"
        _tell(self._ended.get_loop(), _finish, self._ended)


def _carry_out(file: SeatFile, works: Sequence[Work]) -> list[Any]:
    """An answer for each, in order: a result, or an exception to be raised at the caller. A bug's exception is handed
    over as well: a caller left waiting for ever would be worse than one that fails.
    """
    answers: list[Any] = []
    for is_batch, run in groupby(works, lambda work: type(work) is Batch):
        some: list[Any] = list(run)
        if is_batch:
            try:
                answers += file.write(some)
            except Exception as error:
                answers += [error] * len(some)
        else:
            for work in some:
                try:
                    answers.append(work(file))
                except Exception as error:
                    answers.append(error)
    return answers


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: Any) -> None:
    try:
        loop.call_soon_threadsafe(callback, *arguments)
    except RuntimeError:
        # The loop was closed before its answers came; nobody is left to hear them.
        assert loop.is_closed()


def _finish(ended: "asyncio.Future[None]") -> None:
    if not ended.done():
        ended.set_result(None)
