"""A node that does not reach the store has another one write for it, and goes back to its own way as soon as it can."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from warden.cluster.relay import ORDER_BYTES_MAX, SCHEMA, Order, carry_out, frames_of, losses_of, order_of, records_of
from warden.cluster.through import AGAIN_S, IDLE_S, Through
from warden.core.errors import Fenced, MalformedMessage, Unavailable
from warden.core.versions import Codec
from warden.sim.loop import SimLoop
from warden.store.memory import MemoryStore, Shelf
from warden.store.ports import Kind, Write


def in_virtual_time(story: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """The story as a test: however busy the machine, it goes the same way each time."""

    def test() -> None:
        SimLoop().run(story())

    test.__name__, test.__doc__ = story.__name__, story.__doc__
    return test


class Own(MemoryStore):
    """A node's own way to what all share. While it is `away` nobody is answered; `asked` counts writes."""

    def __init__(self, shelf: Shelf) -> None:
        super().__init__(shelf)
        self.away = ""
        self.asked = 0

    async def write(self, seat: str, epoch: int, writes: Sequence[Write]) -> int:
        self.asked += 1
        if self.away:
            raise Unavailable(self.away)
        return await super().write(seat, epoch, writes)

    async def read(self, seat: str, kind: Kind) -> Mapping[str, bytes]:
        if self.away:
            raise Unavailable(self.away)
        return await super().read(seat, kind)


class Others:
    """Other nodes, each with its own way to the store, which are asked by messages; `dead` ones do not answer."""

    def __init__(self, ways: dict[str, Own]) -> None:
        self.ways = ways
        self.dead: set[str] = set()
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def nodes(self) -> Sequence[str]:
        return sorted(self.ways)

    async def write(self, node: str, seat: str, epoch: int, writes: Sequence[Write]) -> int:
        await self._reach(node)
        return losses_of(node, await carry_out(self.ways[node], order_of(seat, epoch, writes)))

    async def read(self, node: str, seat: str, kind: Kind) -> Mapping[str, bytes]:
        await self._reach(node)
        return await records_of(node, frames_of(kind, await self.ways[node].read(seat, kind)))

    async def close(self) -> None:
        self.dead.update(self.ways)

    async def _reach(self, node: str) -> None:
        self.asked.append(node)
        await self.gate.wait()
        if node in self.dead:
            raise Unavailable(f"{node}: does not answer")


class Site:
    """The store of node n1, which holds seat s, beside those of n2 and n3."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.own = Own(self.shelf)
        self.others = Others({"n2": Own(self.shelf), "n3": Own(self.shelf)})
        self.store = Through(self.own, self.others)

    @property
    def calls(self) -> dict[str, bytes]:
        return self.shelf.seats["s"].records.get(Kind.CALL, {})

    async def write(self, key: str, value: bytes | None = b"v") -> int:
        return await self.store.write("s", 1, [Write(Kind.CALL, key, value)])


@asynccontextmanager
async def held() -> AsyncIterator[Site]:
    site = Site()
    assert await site.store.claim("s", "n1") == 1
    yield site
    await site.store.close()


@in_virtual_time
async def test_while_the_own_store_answers_nobody_else_is_asked() -> None:
    async with held() as site:
        assert [await site.write("a"), await site.write("b")] == [0, 0]
        assert await site.store.read("s", Kind.CALL) == {"a": b"v", "b": b"v"}
        assert site.others.asked == []
        assert not site.store.is_used
        assert site.store.warnings == []


@in_virtual_time
async def test_a_write_that_the_own_store_does_not_take_is_in_it_all_the_same_and_the_next_goes_there_directly() -> (
    None
):
    async with held() as site:
        await site.write("a")
        site.own.away = "redis: cut off"
        told = await site.write("b")
        assert site.calls == {"a": b"v", "b": b"v"}
        # What the own store had may not be what the others see: everything is to be written again, once.
        assert told != 0
        asked = site.own.asked
        assert [await site.write("c"), await site.write("d", None)] == [told, told]
        assert site.own.asked == asked
        assert site.others.asked == ["n2"] * 3
        assert await site.store.read("s", Kind.CALL) == {"a": b"v", "b": b"v", "c": b"v"}
        assert site.store.warnings == ["call state is written through n2: own store: redis: cut off"]


@in_virtual_time
async def test_the_own_store_is_tried_every_second_and_then_everything_is_written_there_again() -> None:
    async with held() as site:
        await site.write("a")
        site.own.away = "redis: cut off"
        told = await site.write("b")
        await asyncio.sleep(AGAIN_S * 1.5)
        site.own.away = "redis: no route"
        await asyncio.sleep(AGAIN_S)
        assert site.store.warnings == ["call state is written through n2: own store: redis: no route"]
        site.own.away = ""
        await asyncio.sleep(AGAIN_S)
        assert not site.store.is_used
        asked = len(site.others.asked)
        again = await site.write("c")
        assert again not in (0, told)
        assert [await site.write("d"), await site.write("e")] == [again, again]
        assert len(site.others.asked) == asked
        assert sorted(site.calls) == ["a", "b", "c", "d", "e"]


@in_virtual_time
async def test_one_node_is_used_while_it_works_and_another_one_when_it_is_gone() -> None:
    async with held() as site:
        site.own.away = "redis: cut off"
        site.others.dead.add("n2")
        first = await site.write("a")
        site.others.dead.clear()
        assert await site.write("b") == first
        assert site.others.asked == ["n2", "n3", "n3"]
        site.others.ways["n3"].away = "redis: gone here too"
        second = await site.write("c")
        assert second != first
        assert site.others.asked[3:] == ["n3", "n2"]
        assert site.store.warnings == ["call state is written through n2: own store: redis: cut off"]


@in_virtual_time
async def test_where_nobody_reaches_the_store_it_is_as_if_there_were_no_others() -> None:
    async with held() as site:
        await site.write("a")
        for own in (site.own, *site.others.ways.values()):
            own.away = "redis: down"
        for _ in range(2):
            with pytest.raises(Unavailable, match=r"^redis: down$"):
                await site.write("b")
            with pytest.raises(Unavailable, match=r"^redis: down$"):
                await site.store.read("s", Kind.CALL)
        assert not site.store.is_used
        # Each was asked for itself, and none asked a third one.
        assert [own.asked for own in site.others.ways.values()] == [2, 2]
        site.own.away = ""
        assert await site.write("b") == 0


@in_virtual_time
async def test_a_way_that_ends_before_the_own_store_is_back_leaves_no_trace_but_a_new_number() -> None:
    async with held() as site:
        await site.write("a")
        site.own.away = "redis: cut off"
        through = await site.write("b")
        site.others.dead.update(("n2", "n3"))
        with pytest.raises(Unavailable, match="n2: does not answer"):
            await site.write("c")
        assert not site.store.is_used
        with pytest.raises(Unavailable, match="redis: cut off"):
            await site.write("c")
        site.own.away = ""
        assert await site.write("c") not in (0, through)


@in_virtual_time
async def test_a_way_that_comes_and_goes_has_the_own_store_tried_no_more_often() -> None:
    async with held() as site:
        site.own.away = "redis: cut off"
        for _ in range(3):
            site.others.dead.clear()
            await site.write("a")
            site.others.dead.update(("n2", "n3"))
            with pytest.raises(Unavailable, match="does not answer"):
                await site.write("b")
        site.others.dead.clear()
        await site.write("c")
        asked = site.own.asked
        await asyncio.sleep(AGAIN_S * 3.5)
        assert site.own.asked == asked + 3
        assert site.store.is_used


@in_virtual_time
async def test_a_seat_that_has_a_new_holder_is_fenced_through_another_node_as_well() -> None:
    async with held() as site:
        site.own.away = "redis: cut off"
        await site.write("a")
        await site.others.ways["n2"].claim("s", "n2")
        with pytest.raises(Fenced, match="epoch 1 is over"):
            await site.write("a", b"late")
        assert site.calls == {"a": b"v"}
        assert not site.store.is_used
        site.own.away = ""
        with pytest.raises(Fenced):
            await site.write("a", b"late")


@in_virtual_time
async def test_a_loss_that_the_other_node_sees_is_told_once() -> None:
    async with held() as site:
        site.own.away = "redis: cut off"
        first = await site.write("a")
        site.shelf.restore({})
        lost = await site.write("b")
        assert lost != first
        assert await site.write("c") == lost


@in_virtual_time
async def test_writes_of_a_seat_keep_their_order_though_the_first_was_given_up_by_who_asked() -> None:
    async with held() as site:
        site.own.away = "redis: cut off"
        await site.write("a")
        site.others.gate.clear()
        given_up = asyncio.create_task(site.write("a", b"older"))
        await asyncio.sleep(0.1)
        given_up.cancel()
        newer = asyncio.create_task(site.write("a", b"newer"))
        await asyncio.sleep(0.1)
        site.others.gate.set()
        await newer
        assert site.calls == {"a": b"newer"}
        with pytest.raises(asyncio.CancelledError):
            await given_up


async def back_while_two_wait(site: Site) -> tuple[asyncio.Task[int], asyncio.Task[int]]:
    """The writes of "b" and "c", which wait for another node while the own store is found to be back."""
    site.own.away = "redis: cut off"
    await site.write("a")
    site.others.gate.clear()
    waiting = asyncio.create_task(site.write("b")), asyncio.create_task(site.write("c"))
    site.own.away = ""
    await asyncio.sleep(AGAIN_S * 1.5)
    return waiting


@in_virtual_time
async def test_what_waited_for_another_node_goes_into_the_own_store_that_has_come_back_meanwhile() -> None:
    async with held() as site:
        first, second = await back_while_two_wait(site)
        asked = len(site.others.asked)
        # The watch is next in turn behind `second`; what comes behind it must not go through n2 any more.
        third = asyncio.create_task(site.write("d"))
        await asyncio.sleep(0)
        site.others.gate.set()
        await asyncio.gather(first, second, third)
        assert len(site.others.asked) == asked + 1
        assert sorted(site.calls) == ["a", "b", "c", "d"]


@in_virtual_time
async def test_a_store_that_is_gone_again_in_the_moment_in_which_it_is_back_is_tried_on() -> None:
    async with held() as site:
        first, second = await back_while_two_wait(site)
        third = asyncio.create_task(site.write("d"))
        await asyncio.sleep(0)
        site.own.away = "redis: gone again"
        site.others.gate.set()
        await asyncio.gather(first, second, third)
        assert site.store.warnings == ["call state is written through n2: own store: redis: gone again"]
        site.own.away = ""
        await asyncio.sleep(AGAIN_S * 1.5)
        assert not site.store.is_used


@in_virtual_time
async def test_a_seat_of_which_nothing_is_written_any_more_is_forgotten() -> None:
    async with held() as site:
        site.own.away = "redis: cut off"
        await site.write("a")
        await asyncio.sleep(IDLE_S + 2 * AGAIN_S)
        assert not site.store.is_used
        asked = site.own.asked
        await asyncio.sleep(10 * AGAIN_S)
        assert site.own.asked == asked


async def test_what_is_no_order_is_refused_and_changes_nothing() -> None:
    store = MemoryStore()
    with pytest.raises(MalformedMessage, match="order: "):
        await carry_out(store, b"\xc1")
    codec = Codec(Order, SCHEMA)
    key = Order(SCHEMA, "s", 1, [(Kind.CALL, "k" * 2000, b"v")])
    with pytest.raises(MalformedMessage, match="key of 2000 characters"):
        await carry_out(store, codec.encode(key))
    of_a_newer_version = codec.encode(Order(SCHEMA, "s", 1, [(Kind.CALL, "k", b"v")])).replace(b"\xa4call", b"\xa4fish")
    with pytest.raises(MalformedMessage, match="order: "):
        await carry_out(store, of_a_newer_version)
    assert await store.read("s", Kind.CALL) == {}


async def test_what_is_too_large_for_one_message_waits_for_the_own_store() -> None:
    record = bytes(1 << 20)
    writes = [Write(Kind.CALL, f"k{n}", record) for n in range(ORDER_BYTES_MAX // len(record) + 1)]
    with pytest.raises(Unavailable, match=r"seat s: .* bytes at once, at most"):
        order_of("s", 1, writes)


async def test_records_that_break_off_are_none() -> None:
    async def broken() -> AsyncIterator[bytes]:
        frames = [frame async for frame in frames_of(Kind.CALL, {f"k{n}": b"v" for n in range(1200)})]
        assert len(frames) == 4
        for frame in frames[:-1]:
            yield frame

    with pytest.raises(Unavailable, match="n2: broke off"):
        await records_of("n2", broken())

    async def other() -> AsyncIterator[bytes]:
        yield b"\xff" * 8

    with pytest.raises(Unavailable, match="n2: stream: a frame of"):
        await records_of("n2", other())
    with pytest.raises(Unavailable, match="n2: "):
        losses_of("n2", b"\xc1")
