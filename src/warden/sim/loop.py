"""An event loop whose time jumps to the next timer, and processes on it that can be killed and frozen.

Nothing here knows what runs. Callbacks run in the order in which they were asked for, timers by time and then by that
order; there is no I/O, so everything that happens follows from what is started.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from heapq import heappop, heappush
from itertools import count
from typing import Any, Final, TypeVar, TypeVarTuple

STEPS_MAX: Final = 2_000_000
"""Callbacks of one story: a hundred times what one takes. More means that something spins."""
TASKS_KEPT: Final = 500

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Stuck(Exception):
    """The simulation cannot go on: it spins, or waits for something that never happens."""


class Process:
    """What dies and freezes as one. A callback belongs to the process in whose context it was asked for.

    `on_step` is told before each callback and may `kill`: then that callback, and all others, never run.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen = False
        self.on_step: Callable[[], None] | None = None
        self.waiting: list[asyncio.Handle] = []
        self.context = Context()
        self.context.run(_owner.set, self)

    def kill(self) -> None:
        """Nothing of it runs any more, not even what would clean up."""
        self.alive = False


_owner: ContextVar[Process | None] = ContextVar("owner", default=None)
WORLD: Final = Context()
"""The context of what belongs to no process and goes on whatever dies."""


class SimLoop(asyncio.BaseEventLoop):
    """The loop. `time()` is true time, in seconds from 0."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._todo: deque[tuple[Process | None, asyncio.Handle]] = deque()
        self._timers: list[tuple[float, int, Process | None, asyncio.TimerHandle]] = []
        self._serial = count()
        self._tasks: list[tuple[Process | None, asyncio.Task[Any]]] = []
        self.steps = 0
        self.ending = False

    def time(self) -> float:
        """As `AbstractEventLoop.time`, virtual."""
        return self._now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As `AbstractEventLoop.call_soon`."""
        handle = asyncio.Handle(callback, args, self, context)
        self._todo.append((_owner.get() if context is None else context.get(_owner), handle))
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As `AbstractEventLoop.call_later`."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As `AbstractEventLoop.call_at`."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        owner = _owner.get() if context is None else context.get(_owner)
        heappush(self._timers, (when, next(self._serial), owner, handle))
        return handle

    def create_task(self, coro: Any, *, name: object = None, context: Context | None = None) -> asyncio.Task[Any]:
        """As `AbstractEventLoop.create_task`."""
        task = super().create_task(coro, name=name, context=context)
        # What a dead process leaves unfinished must not be collected, which would run its clean-up.
        self._tasks.append((_owner.get() if context is None else context.get(_owner), task))
        if len(self._tasks) > TASKS_KEPT:
            self._tasks = [kept for kept in self._tasks if not kept[1].done()]
        return task

    def spawn(self, process: Process, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start the first task of a process."""
        return self.create_task(work, context=process.context)

    def freeze(self, process: Process, for_s: float) -> None:
        """Nothing of the process runs for a while, and then everything that was due."""
        process.frozen = True
        self.call_later(for_s, self._thaw, process, context=WORLD)

    def tasks_of(self, process: Process) -> list[str]:
        """The names of the tasks of a process that are not over."""
        return [task.get_name() for owner, task in self._tasks if owner is process and not task.done()]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run until this is done, then end all that is left and close."""
        try:
            return self.run_until_complete(work)
        finally:
            self._end()

    def _thaw(self, process: Process) -> None:
        process.frozen = False
        if not process.alive:
            return
        waiting, process.waiting = process.waiting, []
        self._todo.extend((process, handle) for handle in waiting)

    def _end(self) -> None:
        self.ending = True
        for process in dict.fromkeys(owner for owner, _ in self._tasks if owner is not None):
            self._todo.extend((process, handle) for handle in process.waiting)
            process.waiting.clear()
        left = [task for _, task in self._tasks if not task.done()]
        for task in left:
            task.cancel()
        if left:
            self.set_exception_handler(lambda *_: None)
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._tasks.clear()
        self._todo.clear()
        self._timers.clear()
        self.close()

    def _run_once(self) -> None:
        """One callback: the step of `BaseEventLoop.run_forever`."""
        todo, timers = self._todo, self._timers
        if not todo:
            if not timers:
                raise Stuck("nothing is due, and somebody waits")
            self._now = max(self._now, timers[0][0])
            while timers and timers[0][0] <= self._now:
                _, _, owner, timer = heappop(timers)
                if not timer.cancelled():
                    todo.append((owner, timer))
            if not todo:
                return
        owner, handle = todo.popleft()
        if handle.cancelled():
            return
        if owner is not None and not self.ending:
            if owner.on_step is not None and owner.alive and not owner.frozen:
                owner.on_step()
            if owner.frozen or not owner.alive:
                # Kept, so that what waits for it can be ended in the end.
                owner.waiting.append(handle)
                return
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise Stuck(f"more than {STEPS_MAX} steps")
        handle._run()  # noqa: SLF001 - what a loop does with a handle
