"""How late this process is woken up: what it measures of others is true to that, and no better."""

import asyncio
import time
from contextlib import suppress
from typing import Final, Self

from msgspec import Struct

from warden.ops.checker import nearest_rank

LOOK_S: Final = 0.005


class Late(Struct, frozen=True):
    """Lateness in milliseconds."""

    p99_ms: float
    max_ms: float

    def __str__(self) -> str:
        return f"p99 {self.p99_ms:.1f}, max {self.max_ms:.0f} ms"


class Lateness:
    """Looks at the clock while it is entered."""

    def __init__(self) -> None:
        self._late_ms: list[float] = []
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._feel())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    def forget(self) -> None:
        """Begin anew."""
        self._late_ms.clear()

    def since(self) -> Late:
        """How late it was since it began."""
        ordered = sorted(self._late_ms)
        return Late(round(nearest_rank(ordered, 0.99), 1), round(ordered[-1], 1)) if ordered else Late(0.0, 0.0)

    async def _feel(self) -> None:
        while True:
            asleep_at = time.monotonic()
            await asyncio.sleep(LOOK_S)
            self._late_ms.append((time.monotonic() - asleep_at - LOOK_S) * 1000)
