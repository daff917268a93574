"""What every fast store promises, on each of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from warden.cluster.relay import carry_out, frames_of, losses_of, order_of, records_of
from warden.cluster.through import Through
from warden.core.errors import Fenced, Unavailable
from warden.store.local import LocalStore
from warden.store.memory import MemoryStore, Shelf
from warden.store.ports import Kind, SeatStore, Write
from warden.store.records import KEY_LENGTH_MAX, VALUE_SIZE_MAX, WRITES_MAX
from warden.store.redis_store import RedisSeatStore

Open = Callable[[], SeatStore]


pytest_plugins = ["private_redis"]

REDIS = [pytest.param(name, marks=pytest.mark.xdist_group("redis")) for name in (
    "redis_single", "redis_tls", "redis_sentinel", "redis_cluster"
)]  # fmt: skip


class CutOff(MemoryStore):
    """A node's own way to a store, on which neither writes nor reads get through."""

    async def write(self, seat: str, epoch: int, writes: Sequence[Write]) -> int:
        raise Unavailable(f"cut off: {seat} at {epoch}, {len(writes)} writes")

    async def read(self, seat: str, kind: Kind) -> Mapping[str, bytes]:
        raise Unavailable(f"cut off: {seat}, {kind}")


class Other:
    """Another node, which gets through; what is asked of it are messages."""

    def __init__(self, store: SeatStore) -> None:
        self._store = store

    def nodes(self) -> Sequence[str]:
        return ["n2"]

    async def write(self, node: str, seat: str, epoch: int, writes: Sequence[Write]) -> int:
        return losses_of(node, await carry_out(self._store, order_of(seat, epoch, writes)))

    async def read(self, node: str, seat: str, kind: Kind) -> Mapping[str, bytes]:
        return await records_of(node, frames_of(kind, await self._store.read(seat, kind)))

    async def close(self) -> None:
        await self._store.close()


@pytest.fixture(params=["memory", "through another node", "local", "local, by its thread alone", *REDIS])
async def handle(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens one more handle on the same store, as another node would."""
    shelf = Shelf()
    opened: list[SeatStore] = []
    redis = request.getfixturevalue(request.param).settings() if request.param.startswith("redis") else None

    def open_one() -> SeatStore:
        match request.param:
            case "memory":
                store: SeatStore = MemoryStore(shelf)
            case "through another node":
                store = Through(CutOff(shelf), Other(MemoryStore(shelf)))
            case "local":
                store = LocalStore(tmp_path / "seats.db")
            case _ if redis is not None:
                store = RedisSeatStore(redis)
            case _:
                store = LocalStore(tmp_path / "seats.db", slow_s=0)
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
def store(handle: Open) -> SeatStore:
    return handle()


def call(key: str, value: bytes | None = b"v") -> Write:
    return Write(Kind.CALL, key, value)


async def test_each_claim_of_a_seat_raises_its_epoch_by_one_and_no_other_seats(store: SeatStore) -> None:
    assert [await store.claim("s1", "a"), await store.claim("s1", "b"), await store.claim("s1", "a")] == [1, 2, 3]
    assert await store.claim("s2", "a") == 1


async def test_records_are_kept_apart_by_seat_and_kind(store: SeatStore) -> None:
    for seat in ("s1", "s2"):
        await store.claim(seat, "a")
        await store.write(seat, 1, [Write(kind, "k", f"{seat} {kind}".encode()) for kind in Kind])
    for seat in ("s1", "s2"):
        for kind in Kind:
            assert await store.read(seat, kind) == {"k": f"{seat} {kind}".encode()}
    assert await store.read("s3", Kind.CALL) == {}


async def test_writes_of_a_batch_take_effect_in_order(store: SeatStore) -> None:
    await store.claim("s", "a")
    await store.write("s", 1, [call("old"), call("gone")])
    await store.write(
        "s",
        1,
        [
            call("a", b"1"), call("a", b"2"),
            call("b", b"1"), call("b", None),
            call("gone", None), call("old", None), call("old", b"back"),
            call("never there", None),
        ],
    )  # fmt: skip
    assert await store.read("s", Kind.CALL) == {"a": b"2", "old": b"back"}


async def test_many_records_of_every_size_come_back_as_they_were(store: SeatStore) -> None:
    await store.claim("s", "a")
    sizes = [0, 1, 100, 4095, 4096, 4097, 100_000, VALUE_SIZE_MAX]
    records = {f"k{size}": bytes([size % 251]) * size for size in sizes}
    records |= {f"schlüssel {n} \N{OGHAM SPACE MARK}": str(n).encode() for n in range(333)}
    await store.write("s", 1, [call(key, value) for key, value in records.items()])
    assert await store.read("s", Kind.CALL) == records


async def test_a_holder_that_was_replaced_is_fenced_and_changes_nothing(handle: Open) -> None:
    old, new = handle(), handle()
    mine = await old.claim("s", "old")
    await old.write("s", mine, [call("k", b"old")])
    theirs = await new.claim("s", "new")
    with pytest.raises(Fenced, match="seat s"):
        await old.write("s", mine, [call("k", b"too late"), call("other")])
    await new.write("s", theirs, [call("k2", b"new")])
    assert await new.read("s", Kind.CALL) == {"k": b"old", "k2": b"new"}
    assert await old.read("s", Kind.CALL) == {"k": b"old", "k2": b"new"}


async def test_calls_made_together_fail_each_for_itself(store: SeatStore) -> None:
    for _ in range(3):
        await store.claim("s", "a")
    await store.claim("t", "a")
    outcomes = await asyncio.gather(
        store.write("s", 3, [call("a")]),
        store.write("s", 2, [call("b"), call("a", b"late")]),
        store.write("t", 1, [call("c")]),
        store.write("s", 1, [call("d")]),
        store.write("s", 3, [call("e")]),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [int, Fenced, int, Fenced, int]
    assert await store.read("s", Kind.CALL) == {"a": b"v", "e": b"v"}
    assert await store.read("t", Kind.CALL) == {"c": b"v"}


async def test_a_claim_fences_the_writes_made_after_it_in_the_same_moment(store: SeatStore) -> None:
    await store.claim("s", "a")
    before, epoch, after = await asyncio.gather(
        store.write("s", 1, [call("before")]),
        store.claim("s", "b"),
        store.write("s", 1, [call("after")]),
        return_exceptions=True,
    )
    assert before == 0
    assert epoch == 2
    assert isinstance(after, Fenced)
    assert await store.read("s", Kind.CALL) == {"before": b"v"}


async def test_a_store_that_lost_its_memory_learns_the_epoch_from_the_holder(store: SeatStore) -> None:
    await store.write("s", 7, [call("k")])
    with pytest.raises(Fenced):
        await store.write("s", 6, [call("k", None)])
    assert await store.claim("s", "b") == 8


BAD: dict[str, Any] = {
    "value too large": [Write(Kind.CALL, "bad", bytes(VALUE_SIZE_MAX + 1))],
    "key too long": [Write(Kind.CALL, "k" * (KEY_LENGTH_MAX + 1), b"")],
    "key not Unicode": [Write(Kind.CALL, "k\ud800", b"")],
    "value not bytes": [Write(Kind.CALL, "bad", "text")],  # type: ignore[arg-type]
    "too many": [Write(Kind.CALL, "k", b"")] * WRITES_MAX,
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
async def test_one_bad_write_and_none_of_the_batch_is_carried_out(store: SeatStore, bad: list[Write]) -> None:
    await store.claim("s", "a")
    with pytest.raises((ValueError, TypeError)):
        await store.write("s", 1, [call("good"), *bad])
    assert await store.read("s", Kind.CALL) == {}
    await store.write("s", 1, [call("next")])
    assert await store.read("s", Kind.CALL) == {"next": b"v"}


async def test_concurrent_writers_lose_nothing_and_the_last_to_ask_has_the_last_word(store: SeatStore) -> None:
    await store.claim("s", "a")

    async def writer(name: int) -> None:
        for n in range(40):
            await store.write("s", 1, [call(f"{name}-{n}"), call(f"newest of {name}", str(n).encode())])

    await asyncio.gather(*(writer(name) for name in range(25)))
    together = (store.write("s", 1, [call("shared", str(n).encode())]) for n in range(100))
    await asyncio.gather(*together)
    records = await store.read("s", Kind.CALL)
    assert len(records) == 25 * 41 + 1
    assert {records[f"newest of {name}"] for name in range(25)} == {b"39"}
    assert records["shared"] == b"99"


async def test_nodes_that_race_for_a_seat_get_different_epochs(handle: Open) -> None:
    nodes = [handle(), handle()]
    epochs = await asyncio.gather(*(node.claim("s", "x") for _ in range(25) for node in nodes))
    assert sorted(epochs) == list(range(1, 51))


async def test_a_handle_opened_later_reads_what_was_written(handle: Open) -> None:
    first = handle()
    await first.claim("s", "a")
    await first.write("s", 1, [call("k")])
    await first.close()
    later = handle()
    assert await later.read("s", Kind.CALL) == {"k": b"v"}
    assert await later.claim("s", "b") == 2


def binding(key: str, value: bytes | None = b"v") -> Write:
    return Write(Kind.BINDING, key, value)


async def test_who_follows_a_seat_hears_of_each_change_and_of_nothing_else(handle: Open) -> None:
    holder, follower = handle(), handle()
    epoch = await holder.claim("s", "a")
    await holder.write("s", epoch, [binding("1001"), binding("1002"), call("c")])
    first = await follower.changes("s", Kind.BINDING, "")
    assert first.whole
    assert first.records == {"1001": b"v", "1002": b"v"}
    again = await follower.changes("s", Kind.BINDING, first.mark)
    assert (again.whole, again.records) == (False, {})
    await holder.write("s", epoch, [call("c"), binding("1001", None), binding("1003"), binding("1002", b"new")])
    known = dict(first.records)
    changed = await follower.changes("s", Kind.BINDING, again.mark)
    # Whoever cannot tell what has changed gives everything: the memory is right either way.
    known = {} if changed.whole else known
    known |= changed.records
    assert {key: value for key, value in known.items() if value is not None} == {"1002": b"new", "1003": b"v"}
    nothing = await follower.changes("s", Kind.BINDING, changed.mark)
    assert (nothing.whole, nothing.records) == (False, {})


async def test_a_follower_that_lags_behind_never_misses_a_change(handle: Open) -> None:
    holder, follower = handle(), handle()
    epoch = await holder.claim("s", "a")
    known: dict[str, bytes] = {}
    mark = ""

    async def follow() -> None:
        nonlocal mark
        changes = await follower.changes("s", Kind.BINDING, mark)
        mark = changes.mark
        if changes.whole:
            known.clear()
        for key, value in changes.records.items():
            if value is None:
                known.pop(key, None)
            else:
                known[key] = value

    async def hold() -> None:
        for turn in range(60):
            some = [binding(f"{n % 37}", None if n % 3 == turn % 3 else f"{turn}".encode()) for n in range(turn % 9)]
            await asyncio.gather(*(holder.write("s", epoch, [write, call("c")]) for write in some))
        # Many at once, and then gone again: what is remembered of deleted ones has an end.
        for value in (b"v", None, b"w", None):
            await holder.write("s", epoch, [binding(f"many {n}", value) for n in range(1100)])
        await holder.write("s", epoch, [binding("last")])

    holding = asyncio.create_task(hold())
    while not holding.done():
        await follow()
        await asyncio.sleep(0)  # a store that never waits would not let the holder go on
    await holding
    await follow()
    assert known == await follower.read("s", Kind.BINDING)
    assert "last" in known


async def test_whoever_follows_a_seat_to_its_next_holder_reads_everything_once(handle: Open) -> None:
    old, new, follower = handle(), handle(), handle()
    epoch = await old.claim("s", "old")
    await old.write("s", epoch, [binding("1001")])
    before = await follower.changes("s", Kind.BINDING, "")
    await new.write("s", await new.claim("s", "new"), [binding("1001", None), binding("1002")])
    after = await follower.changes("s", Kind.BINDING, before.mark)
    assert (after.whole, after.records) == (True, {"1002": b"v"})


async def test_a_mark_that_the_store_has_not_given_is_answered_with_everything(handle: Open) -> None:
    other, store = handle(), handle()
    await other.write("t", await other.claim("t", "a"), [binding("1")])
    await store.write("s", await store.claim("s", "a"), [binding("1001")])
    mine = (await store.changes("s", Kind.BINDING, "")).mark
    foreign = (await other.changes("t", Kind.BINDING, "")).mark
    for mark in (foreign, "0", ":", "x:y:7", mine[:-1] + "999999"):
        changes = await store.changes("s", Kind.BINDING, mark)
        assert (changes.whole, changes.records) == (True, {"1001": b"v"})
        assert changes.mark == mine


async def test_a_seat_that_nobody_has_held_has_no_mark(store: SeatStore) -> None:
    for since in ("", "a:1:1"):
        changes = await store.changes("s", Kind.BINDING, since)
        assert (changes.mark, changes.whole, changes.records) == ("", True, {})


async def test_what_nobody_needs_to_follow_is_refused(store: SeatStore) -> None:
    with pytest.raises(ValueError, match="call records are not followed"):
        await store.changes("s", Kind.CALL, "")


async def test_nothing_was_lost_while_the_store_was_there_all_the_time(handle: Open) -> None:
    first, second = handle(), handle()
    epoch = await first.claim("s", "a")
    assert [await first.write("s", epoch, [call(f"{n}"), binding(f"{n}")]) for n in range(3)] == [0, 0, 0]
    other = await second.claim("s", "b")
    assert [await second.write("s", other, writes) for writes in ([], [call("x")], [])] == [0, 0, 0]
    back = await first.claim("s", "a")
    assert [await first.write("s", back, writes) for writes in ([], [binding("x")], [])] == [0, 0, 0]


async def test_a_closed_store_is_unavailable_and_closing_it_again_is_fine(store: SeatStore) -> None:
    await store.claim("s", "a")
    await store.close()
    await store.close()
    with pytest.raises(Unavailable):
        await store.claim("s", "a")
    with pytest.raises(Unavailable):
        await store.write("s", 1, [call("k")])
    with pytest.raises(Unavailable):
        await store.read("s", Kind.CALL)
    with pytest.raises(Unavailable):
        await store.changes("s", Kind.BINDING, "")


async def test_what_was_asked_before_closing_is_still_carried_out(handle: Open) -> None:
    store = handle()
    await store.claim("s", "a")
    last = asyncio.ensure_future(store.write("s", 1, [call("last")]))
    await asyncio.sleep(0)  # the task has asked, and the store may not have begun
    await store.close()
    await last
    assert await handle().read("s", Kind.CALL) == {"last": b"v"}
