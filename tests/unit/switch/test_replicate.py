"""Write before you speak, with a store and a media process that answer when the test says so."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from warden.core.address import Address, Flow, Transport
from warden.core.errors import Fenced, Unavailable
from warden.media.protocol import Answer, Done, Drop, Order, Put, Refused, Session
from warden.sip.endpoint import Send
from warden.store.memory import MemoryStore, Shelf, Stored
from warden.store.ports import Changes, Kind, Write
from warden.store.records import WRITES_MAX
from warden.switch.replicate import SLICE, Replicator
from warden.switch.switch import Outcome

FLOW = Flow(Transport.UDP, Address("127.0.0.1", 5060), Address("127.0.0.1", 5070))


class Store:
    """A memory store behind a gate: while it is shut nobody is answered, while it is broken everybody is refused."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.memory = MemoryStore(self.shelf)
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken = False
        self.bug: Exception | None = None
        self.asked = asyncio.Event()
        self.batches: list[list[str]] = []

    @property
    def calls(self) -> Mapping[str, bytes]:
        stored = self.shelf.seats.get("s", Stored())
        return stored.records.get(Kind.CALL, {})

    async def claim(self, seat: str, holder: str) -> int:
        return await self.memory.claim(seat, holder)

    async def write(self, seat: str, epoch: int, writes: Sequence[Write]) -> int:
        self.asked.set()
        self.batches.append([w.key for w in writes])
        await self.gate.wait()
        if self.broken:
            raise Unavailable("the disk is full")
        if self.bug is not None:
            raise self.bug
        return await self.memory.write(seat, epoch, writes)

    async def read(self, seat: str, kind: Kind) -> Mapping[str, bytes]:
        return await self.memory.read(seat, kind)

    async def changes(self, seat: str, kind: Kind, since: str) -> Changes:
        return await self.memory.changes(seat, kind, since)

    async def close(self) -> None:
        await self.memory.close()


class Bench:
    """A replicator with everything that it talks to; `said` are the messages that went out."""

    def __init__(self) -> None:
        self.store = Store()
        self.said: list[str] = []
        self.ordered: list[Order] = []
        self.refused: list[tuple[str, str]] = []
        self.full = False
        self.stored = 0
        self.everything: list[Write] = []
        self.heard = asyncio.Event()
        self.replicator: Replicator
        self.task: asyncio.Task[None]

    def send(self, flow: Flow, data: bytes) -> None:
        assert flow == FLOW
        self.said.append(data.decode())
        self.heard.set()

    def expect(self, remote: Address, server_name: str) -> None:
        raise AssertionError(f"nobody opens a connection to {remote} as {server_name}")

    def close(self, flow: Flow) -> None:
        raise AssertionError(f"nobody asked to close {flow}")

    async def apply(self, orders: Sequence[Order]) -> Sequence[Answer]:
        self.ordered += orders
        return [Refused("no port") if self.full and isinstance(order, Put) else Done() for order in orders]

    def _on_refused(self, call: str, why: str) -> None:
        self.refused.append((call, why))

    def _on_stored(self, cdrs: Sequence[Write]) -> None:
        self.stored += len(cdrs)

    async def says(self, what: str) -> None:
        """Wait until it was said."""
        async with asyncio.timeout(10):
            while what not in self.said:
                self.heard.clear()
                await self.heard.wait()

    async def records(self) -> Mapping[str, bytes]:
        return await self.store.read("s", Kind.CALL)


@asynccontextmanager
async def bench(epoch_behind: int = 0) -> AsyncIterator[Bench]:
    made = Bench()
    epoch = await made.store.claim("s", "n")
    made.replicator = Replicator(
        made.store,
        made,
        made,
        seat="s",
        epoch=epoch - epoch_behind,
        on_refused=made._on_refused,
        on_stored=made._on_stored,
        everything=lambda: made.everything,
    )
    made.task = asyncio.create_task(made.replicator.run())
    try:
        yield made
    finally:
        made.store.gate.set()
        made.task.cancel()
        with suppress(asyncio.CancelledError, Fenced, RuntimeError):
            await made.task


def outcome(message: str, *writes: tuple[str, bytes | None], orders: Sequence[Order] = ()) -> Outcome:
    records = [Write(Kind.CALL, key, value) for key, value in writes]
    return Outcome(records, list(orders), [Send(FLOW, message.encode())], [])


async def until(true: Callable[[], bool]) -> None:
    """Wait for what no event tells of."""
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


async def test_a_message_waits_for_its_record() -> None:
    async with bench() as b:
        b.store.gate.clear()
        b.replicator.add(outcome("200", ("c1", b"up")))
        await b.store.asked.wait()
        assert b.said == []
        b.store.gate.set()
        await b.says("200")
        assert await b.records() == {"c1": b"up"}


async def test_what_needs_no_record_is_said_at_once() -> None:
    async with bench() as b:
        b.replicator.add(outcome("401"))
        assert b.said == ["401"]


async def test_what_is_decided_while_the_store_is_busy_travels_as_one_write_and_in_order() -> None:
    async with bench() as b:
        b.store.gate.clear()
        b.replicator.add(outcome("1", ("c1", b"a")))
        await b.store.asked.wait()
        for i in range(2, 6):
            b.replicator.add(outcome(str(i), (f"c{i}", b"a")))
        b.replicator.add(outcome("6"))
        b.store.gate.set()
        await b.replicator.drained()
        assert b.said == ["1", "2", "3", "4", "5", "6"]
        assert b.store.batches == [["c1"], ["c2", "c3", "c4", "c5"]]


async def test_a_store_that_does_not_answer_holds_up_no_call_and_gets_the_newest_state_when_it_does() -> None:
    async with bench() as b:
        b.store.gate.clear()
        b.replicator.add(outcome("1", ("c1", b"old"), ("c2", b"old")))
        await b.says("1")
        assert b.replicator.unprotected_calls == 2
        assert b.replicator.store_error
        b.replicator.add(outcome("2", ("c1", b"new")))
        b.replicator.add(outcome("3", ("c3", b"new")))
        await b.says("3")
        assert b.replicator.unprotected_calls == 3
        b.store.gate.set()
        await until(lambda: not b.replicator.unprotected)
        assert await b.records() == {"c1": b"new", "c2": b"old", "c3": b"new"}
        await until(lambda: not b.replicator.store_error)


async def test_a_store_that_fails_is_tried_again_and_a_deleted_record_stays_deleted() -> None:
    async with bench() as b:
        b.replicator.add(outcome("1", ("c1", b"up")))
        await b.says("1")
        b.store.broken = True
        b.replicator.add(outcome("2", ("c1", None), ("c2", b"up")))
        await b.says("2")
        assert b.replicator.unprotected == {(Kind.CALL, "c1"), (Kind.CALL, "c2")}
        assert "disk is full" in b.replicator.store_error
        b.store.broken = False
        await until(lambda: not b.replicator.unprotected)
        assert await b.records() == {"c2": b"up"}


async def test_a_fenced_holder_says_nothing_more() -> None:
    async with bench(epoch_behind=1) as b:
        b.replicator.add(outcome("200", ("c1", b"up")))
        with pytest.raises(Fenced):
            await b.task
        assert b.said == []


async def test_who_waits_for_what_a_fenced_holder_has_decided_is_told_and_does_not_wait_for_ever() -> None:
    async with bench(epoch_behind=1) as b, asyncio.timeout(10):
        b.replicator.add(outcome("200", ("c1", b"up")))
        with pytest.raises(Fenced):
            await b.replicator.proven()
        # And whoever asks afterwards.
        b.replicator.add(outcome("BYE", ("c1", None)))
        for wait in (b.replicator.drained, b.replicator.proven):
            with pytest.raises(Fenced):
                await wait()
        assert b.said == []


async def test_a_holder_that_was_fenced_while_the_store_was_slow_stops_too() -> None:
    async with bench() as b:
        b.store.gate.clear()
        b.replicator.add(outcome("1", ("c1", b"up")))
        await b.says("1")
        await b.store.claim("s", "another")
        b.store.gate.set()
        with pytest.raises(Fenced):
            await b.task


async def test_the_message_waits_for_the_media_and_a_refusal_is_told() -> None:
    async with bench() as b:
        b.full = True
        put = Put(Session("c1", "127.0.0.1", ()))
        b.replicator.add(outcome("200", ("c1", b"up"), orders=[put, Drop("c0")]))
        await b.says("200")
        assert b.ordered == [put, Drop("c0")]
        assert b.refused == [("c1", "no port")]


async def test_the_outbox_is_told_of_cdrs_only_once_they_are_stored() -> None:
    async with bench() as b:
        b.store.gate.clear()
        b.replicator.add(Outcome([Write(Kind.OUTBOX, "cdr", b"x")], [], [Send(FLOW, b"1")], []))
        await b.says("1")
        assert b.stored == 0
        b.store.gate.set()
        await until(lambda: b.stored == 1)


async def test_a_store_that_came_back_without_its_records_gets_all_of_them_again() -> None:
    async with bench() as b:
        b.replicator.add(outcome("1", ("c1", b"up"), ("c2", b"up")))
        await b.says("1")
        b.store.broken = True
        b.replicator.add(outcome("2", ("c2", b"held")))
        await b.says("2")
        b.store.shelf.restore({})
        b.everything = [Write(Kind.CALL, "c1", b"up"), Write(Kind.CALL, "c2", b"held")]
        b.store.broken = False
        await until(lambda: b.store.calls == {"c1": b"up", "c2": b"held"})
        await until(lambda: not b.replicator.unprotected)


async def test_a_store_that_was_emptied_unnoticed_is_found_out_though_nothing_happens_on_the_seat() -> None:
    async with bench() as b:
        b.replicator.add(outcome("1", ("c1", b"up"), ("c2", b"up")))
        await b.says("1")
        b.everything = [Write(Kind.CALL, "c1", b"up"), Write(Kind.CALL, "c2", b"up")]
        b.store.shelf.restore({})
        await until(lambda: b.store.calls == {"c1": b"up", "c2": b"up"})
        await until(lambda: not b.replicator.unprotected)
        assert not b.replicator.store_error


async def test_what_the_store_has_lost_is_known_as_soon_as_it_is_asked() -> None:
    async with bench() as b:
        b.replicator.add(outcome("1", ("c1", b"up")))
        b.everything = [Write(Kind.CALL, "c1", b"up")]
        await b.replicator.proven()
        assert b.replicator.unprotected == frozenset()
        b.store.shelf.restore({})
        await b.replicator.proven()
        assert b.replicator.unprotected == {(Kind.CALL, "c1")}
        await b.replicator.proven()
        assert b.replicator.unprotected == frozenset()
        assert b.store.calls == {"c1": b"up"}


async def test_calls_that_an_older_copy_of_the_store_brings_back_are_deleted_again() -> None:
    async with bench() as b:
        b.replicator.begin(0, frozenset({(Kind.CALL, "unreadable")}))
        b.replicator.add(outcome("1", ("over", b"up"), ("c1", b"up"), ("unreadable", b"?")))
        b.replicator.add(Outcome([Write(Kind.OUTBOX, "cdr", b"x")], [], [], []))
        await until(lambda: b.stored == 1)
        older = b.store.shelf.copy()
        b.replicator.add(outcome("2", ("over", None), ("c1", b"held")))
        await b.says("2")
        b.everything = [Write(Kind.CALL, "c1", b"held")]
        b.store.shelf.restore(older)
        await until(lambda: b.store.calls == {"c1": b"held", "unreadable": b"?"})
        assert await b.store.read("s", Kind.OUTBOX) == {"cdr": b"x"}


async def test_more_records_than_one_write_takes_are_written_one_slice_after_the_other() -> None:
    async with bench() as b:
        b.replicator.add(outcome("1", ("c1", b"up")))
        await b.says("1")
        b.everything = [Write(Kind.CALL, f"{n}", b"up") for n in range(5 * SLICE + 1)]
        b.store.shelf.restore({})
        await until(lambda: len(b.store.calls) == 5 * SLICE + 1)
        assert max(map(len, b.store.batches)) == SLICE


async def test_more_than_the_store_takes_at_once_is_decided_in_one_turn() -> None:
    async with bench() as b:
        b.replicator.add(outcome("1", *((f"{n}", b"up") for n in range(WRITES_MAX + 1))))
        await b.says("1")
        await until(lambda: not b.replicator.unprotected)
        assert len(b.store.calls) == WRITES_MAX + 1


async def test_a_late_write_that_fails_as_nobody_foresaw_ends_the_replicator_and_not_its_writing_for_ever() -> None:
    async with bench() as b:
        b.store.gate.clear()
        b.replicator.add(outcome("1", ("c1", b"up")))
        await b.says("1")
        b.store.bug = RuntimeError("a bug")
        b.store.gate.set()
        with pytest.raises(RuntimeError, match="a bug"):
            async with asyncio.timeout(10):
                await b.task


async def test_a_seat_that_is_let_go_of_leaves_no_write_behind_that_fails_for_nobody_to_hear() -> None:
    # A hand-over once ended the process of the node that had given the seat away: its last write was refused later.
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    before = asyncio.all_tasks()
    async with bench() as b:
        b.store.gate.clear()
        b.replicator.add(outcome("200", ("c1", b"up")))
        await b.store.asked.wait()
        await b.store.memory.claim("s", "another")
        b.task.cancel()
        with suppress(asyncio.CancelledError):
            await b.task
        b.store.gate.set()
        await until(lambda: asyncio.all_tasks() == before)
    gc.collect()
    assert told == []
    assert b.said == []
