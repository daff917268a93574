"""How long things took, counted in buckets: what a metric can tell without keeping every figure."""

from bisect import bisect_left
from typing import Final

LATENCY_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""From a store on this machine to the longest that anything waits for."""


class Histogram:
    """Counts by upper bound, the last for all that is above. Only grows; `observe` costs some hundred nanoseconds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = LATENCY_S) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def drain(self, other: "Histogram") -> None:
        """Take over what another of the same bounds has counted, which is empty then."""
        for i, count in enumerate(other.counts):
            self.counts[i] += count
        self.total += other.total
        other.counts, other.total = [0] * len(other.counts), 0.0

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus has them: the bound, and how many were at most that."""
        found, below = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            below += count
            found.append((bound, float(below)))
        return found
