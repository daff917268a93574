"""One time for everything in a node: seconds since the epoch that never jump. The clocks it reads are arguments."""

from collections.abc import Callable
from typing import Final

SLEW_PER_S: Final = 0.005
"""How fast the clock follows a corrected wall clock: no timer runs more than half a percent wrong."""


class SteadyClock:
    """The wall clock as it was at the start, carried on by the monotonic clock. When the wall clock is set meanwhile,
    this one follows slowly, so that timers and call durations never see the step.
    """

    def __init__(self, monotonic: Callable[[], float], wall: Callable[[], float]) -> None:
        """`monotonic` gives seconds since any moment, `wall` seconds since the epoch (UTC)."""
        self._monotonic = monotonic
        self._wall = wall
        self._mono = monotonic()
        self._now = wall()

    def now(self) -> float:
        """Seconds since the epoch, UTC, never going back."""
        mono = self._monotonic()
        passed = mono - self._mono
        if passed > 1.0:
            self._mono = mono
            self._now += passed
            behind = self._wall() - self._now
            most = passed * SLEW_PER_S
            self._now += max(-most, min(most, behind))
            return self._now
        return self._now + passed
