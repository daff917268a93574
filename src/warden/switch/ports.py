"""Which RTP ports are free. A port that was given back rests before it is used again, so that a new call never hears
what an old one's peer is still sending.
"""

from collections import deque
from collections.abc import Set
from typing import Final

REST_S: Final = 5.0
"""Longer than any peer goes on sending after its BYE was answered, or lost and answered again."""


class PortsExhausted(Exception):
    """No port is free: the range is too small for the calls in progress."""


class PortPool:
    """Even ports of a range, each with its odd neighbour for RTCP; the one that rested longest is taken first."""

    def __init__(self, first: int, last: int) -> None:
        self._free = deque((port, 0.0) for port in range(first + first % 2, last, 2))
        self._taken: set[int] = set()

    def __len__(self) -> int:
        """How many are taken."""
        return len(self._taken)

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self._free) + len(self._taken)

    def take(self, now: float, count: int) -> tuple[int, ...]:
        """Take `count` ports. Raises `PortsExhausted`, taking none."""
        free = self._free
        if len(free) < count or free[count - 1][1] > now:
            raise PortsExhausted(f"rtp: fewer than {count} of {self.size} port pairs are free")
        taken = tuple([free.popleft()[0] for _ in range(count)])
        self._taken.update(taken)
        return taken

    def claim(self, wanted: Set[int]) -> None:
        """Take exactly these, which restored calls have; ports outside the range are no matter."""
        self._taken.update(port for port, _ in self._free if port in wanted)
        self._free = deque(entry for entry in self._free if entry[0] not in wanted)

    def give_back(self, now: float, ports: tuple[int, ...]) -> None:
        """Let these rest, then be free."""
        for port in ports:
            if port in self._taken:
                self._taken.remove(port)
                self._free.append((port, now + REST_S))
