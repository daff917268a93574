"""Many deadlines, the earliest first: the one timer structure of the pure layers."""

from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K")


class Deadlines(Generic[K]):
    """Keys with one deadline each; `set` moves it, `clear` forgets it.

    Moved and forgotten entries stay in the heap until they surface or until they outnumber the live ones, so
    setting and clearing are cheap however many there are.
    """

    __slots__ = ("_at", "_heap", "_serial")

    def __init__(self) -> None:
        self._at: dict[K, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._at)

    def set(self, key: K, at: float) -> None:
        """Let `key` be due at `at` (seconds, the caller's clock), whatever it was before."""
        self._serial = serial = self._serial + 1
        self._at[key] = (at, serial)
        heappush(self._heap, (at, serial, key))
        if not serial % 64 and len(self._heap) > 4 * len(self._at) + 64:
            self._heap = [(at, serial, key) for key, (at, serial) in self._at.items()]
            heapify(self._heap)

    def clear(self, key: K) -> None:
        """Forget `key`; nothing happens if it has no deadline."""
        self._at.pop(key, None)

    def get(self, key: K) -> float | None:
        """When `key` is due, or None."""
        entry = self._at.get(key)
        return None if entry is None else entry[0]

    @property
    def earliest(self) -> float | None:
        """The earliest deadline, or None when there is none."""
        heap = self._heap
        while heap:
            at, serial, key = heap[0]
            if self._at.get(key) == (at, serial):
                return at
            heappop(heap)
        return None

    def pop_due(self, now: float) -> K | None:
        """The next key that is due at `now`, removed; None when none is."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, serial, key = heappop(heap)
            if self._at.get(key) == (at, serial):
                del self._at[key]
                return key
        return None
