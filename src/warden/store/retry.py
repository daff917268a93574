"""How often a store that is away is tried again. Nothing here knows which store."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from msgspec import Struct

from warden.core.errors import NotAdmitted, Unavailable

T = TypeVar("T")

DELAY_MAX_S: Final = 60.0
"""However long it was away: what waits for a database that is back should not wait for longer than this."""


class Retry(Struct, frozen=True, gc=False):
    """`attempts` at most, the second after `delay_s`, and each further one after twice the time where `is_exponential`,
    so that a database that is back is not run over.
    """

    attempts: int = 5
    delay_s: float = 2.0
    is_exponential: bool = True

    def delay_after(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row (1 or more)."""
        # The exponent has a bound too: a database may be away for days.
        return min(self.delay_s * 2 ** min(failures - 1, 20), DELAY_MAX_S) if self.is_exponential else self.delay_s


async def insist(work: Callable[[], Awaitable[T]], retry: Retry, on_failure: Callable[[Unavailable, float], None]) -> T:
    """What `work` gives, tried as often as `retry` says; `on_failure(why, delay_s)` is told of each failure that is
    followed by another attempt. Raises the last `Unavailable`, and `NotAdmitted` at once.
    """
    failures = 0
    while True:
        try:
            return await work()
        except NotAdmitted:
            raise
        except Unavailable as error:
            failures += 1
            if failures >= retry.attempts:
                raise
            delay_s = retry.delay_after(failures)
            on_failure(error, delay_s)
        await asyncio.sleep(delay_s)
