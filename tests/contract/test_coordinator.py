"""What every coordinator promises, on each of them."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from warden.core.errors import Unavailable
from warden.store.etcd_coordinator import EtcdCoordinator
from warden.store.local_coordinator import LocalCoordinator
from warden.store.memory_coordinator import Desk, MemoryCoordinator
from warden.store.ports import Coordinator, Member
from warden.store.redis_coordinator import RedisCoordinator

pytest_plugins = ["private_redis", "private_etcd"]

Open = Callable[[], Coordinator]

LONG_S = 60.0
"""A lease that does not end while a test runs."""

PATIENCE_S = 20.0

SERVERS = [
    pytest.param(name, marks=pytest.mark.xdist_group(name.partition("_")[0]))
    for name in ("redis_single", "redis_tls", "redis_sentinel", "redis_cluster", "etcd_secured", "etcd_three")
]


@pytest.fixture(params=["memory", "local", *SERVERS])
async def handle(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens one more handle on the same coordinator, as another node would."""
    desk = Desk()
    kind = request.param
    settings: Any = request.getfixturevalue(kind).settings() if "_" in kind else None
    opened: list[Coordinator] = []

    def open_one() -> Coordinator:
        coordinator: Coordinator
        match kind.partition("_")[0]:
            case "memory":
                coordinator = MemoryCoordinator(time.monotonic, desk)
            case "local":
                coordinator = LocalCoordinator(tmp_path / "coordinator.db")
            case "redis":
                coordinator = RedisCoordinator(settings)
            case _:
                coordinator = EtcdCoordinator(settings)
        opened.append(coordinator)
        return coordinator

    yield open_one
    for coordinator in opened:
        await coordinator.close()


@pytest.fixture
def coordinator(handle: Open) -> Coordinator:
    return handle()


@pytest.fixture
def brief_s(request: pytest.FixtureRequest) -> float:
    """The shortest lease that the coordinator grants."""
    return 1.0 if "etcd" in request.node.name else 0.2


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(0.02)


async def holder(coordinator: Coordinator, seat: str) -> tuple[str, int]:
    holding = (await coordinator.holdings())[seat]
    assert holding.seat == seat
    assert (holding.expires_in_s > 0) == (holding.holder != "")
    return holding.holder, holding.epoch


async def test_a_seat_that_is_free_goes_to_who_asks_first_and_to_nobody_else(handle: Open) -> None:
    a, b = handle(), handle()
    assert await a.holdings() == {}
    assert await a.acquire("s1", "a", LONG_S) == 1
    assert await b.acquire("s1", "b", LONG_S) is None
    assert await b.acquire("s2", "b", LONG_S) == 1
    assert await a.acquire("s1", "a", LONG_S) == 1
    for one in (a, b):
        assert await holder(one, "s1") == ("a", 1)
        assert await holder(one, "s2") == ("b", 1)
        assert 0 < (await one.holdings())["s1"].expires_in_s <= LONG_S


async def test_of_ten_nodes_that_race_for_a_seat_exactly_one_has_it(handle: Open) -> None:
    nodes = {f"n{n}": handle() for n in range(10)}
    for epoch in (1, 2, 3):
        epochs = await asyncio.gather(*(node.acquire("s", name, LONG_S) for name, node in nodes.items()))
        [winner] = [name for name, got in zip(nodes, epochs, strict=True) if got is not None]
        assert epoch in epochs
        assert await holder(nodes["n0"], "s") == (winner, epoch)
        assert await nodes[winner].release("s", winner, epoch)


async def test_of_ten_nodes_that_race_to_take_a_seat_exactly_one_has_it(handle: Open) -> None:
    nodes = {f"n{n}": handle() for n in range(10)}
    assert await handle().acquire("s", "old", LONG_S) == 1
    epochs = await asyncio.gather(*(node.take("s", name, LONG_S, 1) for name, node in nodes.items()))
    assert sorted(epochs, key=bool) == [None] * 9 + [2]
    [winner] = [name for name, got in zip(nodes, epochs, strict=True) if got is not None]
    assert await holder(nodes["n0"], "s") == (winner, 2)


async def test_a_released_seat_is_free_at_once_and_its_epoch_stays(handle: Open) -> None:
    a, b = handle(), handle()
    assert await a.acquire("s", "a", LONG_S) == 1
    assert not await a.release("s", "b", 1)
    assert not await a.release("s", "a", 2)
    assert await holder(b, "s") == ("a", 1)
    assert await a.release("s", "a", 1)
    assert not await a.release("s", "a", 1)
    assert await holder(b, "s") == ("", 1)
    assert await a.renew("a", {"s": 1}, LONG_S) == frozenset()
    assert await b.acquire("s", "b", LONG_S) == 2
    assert not await a.release("s", "a", 1)
    assert await holder(a, "s") == ("b", 2)


async def test_a_seat_is_taken_from_its_holder_only_at_the_epoch_that_was_meant(handle: Open) -> None:
    a, b, c = handle(), handle(), handle()
    assert await a.acquire("s", "a", LONG_S) == 1
    assert await b.take("s", "b", LONG_S, 1) == 2
    assert await c.take("s", "c", LONG_S, 1) is None
    assert await b.take("s", "b", LONG_S, 1) == 2, "repeated, since its answer may have been lost"
    assert await a.renew("a", {"s": 1}, LONG_S) == frozenset()
    assert await b.renew("b", {"s": 2}, LONG_S) == {"s"}
    assert await b.release("s", "b", 2)
    assert await c.take("s", "c", LONG_S, 2) == 3, "who held it last need not hold it now"
    assert await b.take("new", "b", LONG_S, 0) == 1
    assert await holder(a, "s") == ("c", 3)


async def test_all_of_a_nodes_seats_are_renewed_together_and_only_its_own(handle: Open) -> None:
    a, b = handle(), handle()
    mine = {f"s{n}": 1 for n in range(8)}
    for seat in mine:
        assert await a.acquire(seat, "a", LONG_S) == 1
    assert await b.acquire("theirs", "b", LONG_S) == 1
    assert await b.take("s3", "b", LONG_S, 1) == 2
    assert await a.release("s4", "a", 1)
    assert await a.renew("a", {**mine, "theirs": 1}, LONG_S) == mine.keys() - {"s3", "s4"}
    assert await a.renew("a", {}, LONG_S) == frozenset()
    assert await holder(a, "theirs") == ("b", 1)


async def test_a_seat_that_is_renewed_is_kept_and_one_that_is_not_runs_out(handle: Open, brief_s: float) -> None:
    a, b = handle(), handle()
    assert await a.acquire("kept", "a", brief_s) == 1
    assert await a.acquire("left", "a", brief_s) == 1

    async def ran_out() -> bool:
        assert await a.renew("a", {"kept": 1}, brief_s) == {"kept"}
        assert await b.acquire("kept", "b", brief_s) is None
        return (await holder(b, "left")) == ("", 1)

    await until(ran_out)
    assert await a.renew("a", {"kept": 1, "left": 1}, LONG_S) == {"kept"}, "even if nobody has taken the other"
    assert not await a.release("left", "a", 1)
    assert await b.acquire("left", "b", LONG_S) == 2
    assert await a.acquire("left", "a", LONG_S) is None
    assert await holder(b, "kept") == ("a", 1)


async def test_a_lease_renewed_for_longer_lasts_longer(handle: Open, brief_s: float) -> None:
    a, b = handle(), handle()
    for seat in ("s", "witness"):
        assert await a.acquire(seat, "a", brief_s) == 1
    assert await a.renew("a", {"s": 1}, LONG_S) == {"s"}

    async def ran_out() -> bool:
        return (await holder(b, "witness")) == ("", 1)

    await until(ran_out)
    assert await holder(b, "s") == ("a", 1)
    assert await a.renew("a", {"s": 1}, LONG_S) == {"s"}


async def test_a_node_that_was_restarted_keeps_the_seats_it_still_holds(handle: Open) -> None:
    before = handle()
    assert await before.acquire("s", "a", LONG_S) == 1
    assert await before.acquire("t", "a", LONG_S) == 1
    await before.close()
    after = handle()
    assert await after.renew("a", {"s": 1}, LONG_S) == {"s"}
    assert await after.acquire("t", "a", LONG_S) == 1
    assert await after.renew("a", {"s": 1, "t": 1}, LONG_S) == {"s", "t"}
    assert await after.release("s", "a", 1)
    assert await holder(after, "s") == ("", 1)
    assert await holder(after, "t") == ("a", 1)


async def test_an_epoch_is_never_lower_than_what_its_node_has_seen_elsewhere(handle: Open) -> None:
    a, b = handle(), handle()
    assert await a.acquire("s", "a", LONG_S, at_least=7) == 7
    assert await a.acquire("s", "a", LONG_S, at_least=3) == 7
    assert await a.acquire("s", "a", LONG_S, at_least=9) == 9
    assert await a.renew("a", {"s": 7}, LONG_S) == frozenset()
    assert await b.take("s", "b", LONG_S, 9, at_least=20) == 20
    assert await b.take("s", "b", LONG_S, 9, at_least=20) == 20
    assert await b.release("s", "b", 20)
    assert await a.acquire("s", "a", LONG_S, at_least=5) == 21


async def test_a_coordinator_that_forgot_learns_the_epoch_from_who_still_knows_it(handle: Open) -> None:
    a, b = handle(), handle()
    assert await a.renew("a", {"forgotten": 5}, LONG_S) == {"forgotten"}
    assert await holder(b, "forgotten") == ("a", 5)
    assert await a.acquire("older", "b", LONG_S) == 1
    assert await a.renew("a", {"older": 4}, LONG_S) == {"older"}, "nobody can hold a later epoch"
    assert await b.renew("b", {"older": 1}, LONG_S) == frozenset()
    assert await b.take("older", "b", LONG_S, 6) == 7
    assert await a.renew("a", {"older": 4, "forgotten": 5}, LONG_S) == {"forgotten"}


async def test_members_are_what_they_last_said_and_vanish_when_they_say_no_more(handle: Open, brief_s: float) -> None:
    a, b = handle(), handle()
    assert await a.members() == {}
    odd = Member("a", bytes(range(256)) + b"\r\n %d")
    await a.announce(Member("a", b"joining"), LONG_S)
    await a.announce(odd, LONG_S)
    await a.announce(odd, LONG_S)
    await b.announce(Member("b", b""), brief_s)
    assert await a.members() == {"a": odd, "b": Member("b", b"")}

    async def vanished() -> bool:
        return await a.members() == {"a": odd}

    await until(vanished)
    await b.announce(Member("b", b"back"), LONG_S)
    assert await a.members() == {"a": odd, "b": Member("b", b"back")}


async def test_a_node_that_waits_is_told_of_every_change_and_of_what_runs_out(handle: Open, brief_s: float) -> None:
    a, b = handle(), handle()
    assert await a.acquire("s", "a", brief_s) == 1
    await b.changed(PATIENCE_S)

    async def seen(condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not await condition():
                await b.changed(10 * PATIENCE_S)

    async def is_free() -> bool:
        return await holder(b, "s") == ("", 1)

    await seen(is_free)
    changes: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: a.acquire("s", "a", LONG_S),
        lambda: a.release("s", "a", 2),
        lambda: a.take("s", "a", LONG_S, 2),
        lambda: a.announce(Member("a", b"1"), LONG_S),
        lambda: a.announce(Member("a", b"2"), LONG_S),
    )
    for change in changes:
        waiting = asyncio.ensure_future(b.changed(10 * PATIENCE_S))
        await change()
        async with asyncio.timeout(PATIENCE_S):
            await waiting


async def test_a_change_between_two_waits_is_not_missed(handle: Open) -> None:
    a, b = handle(), handle()
    assert await a.acquire("s", "a", LONG_S) == 1
    await b.changed(PATIENCE_S)
    assert await a.release("s", "a", 1)
    async with asyncio.timeout(PATIENCE_S):
        await b.changed(10 * PATIENCE_S)


async def test_a_node_that_waits_goes_on_when_the_time_is_over(handle: Open) -> None:
    a, b = handle(), handle()
    assert await a.acquire("s", "a", LONG_S) == 1
    await a.announce(Member("a", b"1"), LONG_S)

    async def quiet() -> bool:
        before = time.monotonic()
        await b.changed(0.2)
        return time.monotonic() - before > 0.15

    await until(quiet)
    assert await a.renew("a", {"s": 1}, LONG_S) == {"s"}
    await a.announce(Member("a", b"1"), LONG_S)
    assert await quiet(), "to stay as one was is no change"


async def test_a_cancelled_call_does_not_disturb_the_next_one(handle: Open) -> None:
    a, b = handle(), handle()
    assert await a.acquire("s", "a", LONG_S) == 1
    for turns in range(12):
        cancelled = [asyncio.ensure_future(b.acquire(f"t{turns}", "b", LONG_S)), asyncio.ensure_future(b.members())]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in cancelled:
            task.cancel()
        assert await b.renew("b", {"s": 1}, LONG_S) == frozenset()
        assert await holder(b, "s") == ("a", 1)


async def test_a_closed_handle_is_unavailable_and_what_it_held_stays_held(handle: Open) -> None:
    a, b = handle(), handle()
    assert await a.acquire("s", "a", LONG_S) == 1
    await a.changed(PATIENCE_S)
    await a.close()
    await a.close()
    for call in (
        a.acquire("s", "a", LONG_S),
        a.take("s", "a", LONG_S, 1),
        a.renew("a", {"s": 1}, LONG_S),
        a.release("s", "a", 1),
        a.holdings(),
        a.announce(Member("a", b""), LONG_S),
        a.members(),
        a.changed(PATIENCE_S),
    ):
        with pytest.raises(Unavailable):
            await call
    assert await holder(b, "s") == ("a", 1)


async def test_what_cannot_be_a_name_lease_or_record_is_refused(coordinator: Coordinator) -> None:
    for name in ("", "a b", "a/b", "{a}", "a\n", "x" * 129):
        with pytest.raises(ValueError, match="name"):
            await coordinator.acquire(name, "a", LONG_S)
        with pytest.raises(ValueError, match="name"):
            await coordinator.take("s", name, LONG_S, 0)
    for ttl_s in (0, -1, 3601, float("nan")):
        with pytest.raises(ValueError, match="lease"):
            await coordinator.renew("a", {"s": 1}, ttl_s)
    with pytest.raises(ValueError, match="bytes"):
        await coordinator.announce(Member("a", bytes(65537)), LONG_S)
    assert await coordinator.holdings() == {}
    assert await coordinator.members() == {}
