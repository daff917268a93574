"""The store of a seat as long as the seat is this node's."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from warden.core.errors import Unavailable
from warden.store.ports import Changes, Kind, SeatStore, Write


class InTime:
    """A `SeatStore`. What a holder decides when its lease `is_over` is nobody's truth: were it written, the next holder
    would say it, who knows better by then. It waits for the lease to be renewed after all.
    """

    def __init__(self, store: SeatStore, is_over: Callable[[], bool]) -> None:
        self._store = store
        self._is_over = is_over

    async def claim(self, seat: str, holder: str) -> int:
        """As `SeatStore.claim`."""
        return await self._store.claim(seat, holder)

    def write(self, seat: str, epoch: int, writes: Sequence[Write]) -> Coroutine[Any, Any, int]:
        """As `SeatStore.write`."""
        return self._refuse(seat, epoch) if writes and self._is_over() else self._store.write(seat, epoch, writes)

    async def _refuse(self, seat: str, epoch: int) -> int:
        # Whoever has been replaced is to know.
        await self._store.write(seat, epoch, [])
        raise Unavailable(f"seat {seat}: its lease is over")

    async def read(self, seat: str, kind: Kind) -> Mapping[str, bytes]:
        """As `SeatStore.read`."""
        return await self._store.read(seat, kind)

    async def changes(self, seat: str, kind: Kind, since: str) -> Changes:
        """As `SeatStore.changes`."""
        return await self._store.changes(seat, kind, since)

    async def close(self) -> None:
        """As `SeatStore.close`."""
        await self._store.close()
