"""How often a store that is away is tried again."""

import pytest

from warden.core.errors import Unavailable
from warden.store.retry import DELAY_MAX_S, Retry, insist


class Server:
    """Fails so many times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.asked = 0
        self.told: list[tuple[str, float]] = []

    async def answer(self) -> str:
        self.asked += 1
        if self.asked <= self.failures:
            raise Unavailable(f"away {self.asked}")
        return "here"

    def tell(self, why: Unavailable, delay_s: float) -> None:
        self.told.append((str(why), delay_s))


def test_each_delay_is_twice_the_one_before_up_to_a_minute() -> None:
    retry = Retry(attempts=1000, delay_s=2.0, is_exponential=True)
    assert [retry.delay_after(failures) for failures in range(1, 8)] == [2, 4, 8, 16, 32, DELAY_MAX_S, DELAY_MAX_S]
    assert retry.delay_after(100_000) == DELAY_MAX_S


def test_without_backoff_each_delay_is_the_same() -> None:
    retry = Retry(attempts=5, delay_s=2.0, is_exponential=False)
    assert [retry.delay_after(failures) for failures in (1, 2, 50)] == [2, 2, 2]


async def test_what_answers_within_its_attempts_is_waited_for_and_each_failure_told() -> None:
    server = Server(failures=3)
    retry = Retry(attempts=4, delay_s=0.001, is_exponential=True)
    assert await insist(server.answer, retry, server.tell) == "here"
    assert server.told == [("away 1", 0.001), ("away 2", 0.002), ("away 3", 0.004)]


async def test_after_the_last_attempt_the_last_reason_is_given() -> None:
    server = Server(failures=4)
    with pytest.raises(Unavailable, match="away 4"):
        await insist(server.answer, Retry(attempts=4, delay_s=0.001), server.tell)
    assert server.asked == 4
    assert len(server.told) == 3
