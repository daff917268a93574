"""A seat that is being given away: nobody is refused for it, and nothing is given away that the next could not read."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import pytest

from warden.call.cdr import Cdr, Party, Result, encode_cdr
from warden.cluster.decide import Seat
from warden.cluster.seat import HeldSeat
from warden.cluster.seats import Seats
from warden.core.address import Address, Flow, Transport
from warden.core.errors import Fenced, Unavailable
from warden.media.protocol import Answer, Done, Order, Put, Refused, Session
from warden.net.counters import Counters
from warden.net.ports import Receiver
from warden.net.resolve import Resolver, name_servers
from warden.sip.endpoint import Endpoint
from warden.sip.parser import parse_message
from warden.store.memory import MemoryStore
from warden.store.ports import Kind, Write
from warden.store.retry import Retry
from warden.switch.directory import Directory
from warden.switch.outcome import Outcome
from warden.switch.settings import Settings
from warden.switch.switch import Switch

FLOW = Flow(Transport.UDP, Address("127.0.0.1", 5060), Address("127.0.0.1", 5070))
OPTIONS = (
    b"OPTIONS sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK-%d\r\nMax-Forwards: 70\r\n"
    b"From: <sip:a@127.0.0.1>;tag=1\r\nTo: <sip:127.0.0.1>\r\nCall-ID: %d\r\nCSeq: 1 OPTIONS\r\n\r\n"
)


class Store(MemoryStore):
    """One that takes its time, or is away, when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.away = False

    async def write(self, seat: str, epoch: int, writes: Sequence[Write]) -> int:
        self.asked.set()
        await self.gate.wait()
        if self.away:
            raise Unavailable("the store is away")
        return await super().write(seat, epoch, writes)


class Sockets:
    """What the seat says."""

    warnings: tuple[str, ...] = ()
    certificates: Mapping[str, float] = {}

    def __init__(self, receiver: Receiver) -> None:
        self.counters = Counters()
        self.receiver = receiver
        self.said: list[bytes] = []
        self.is_open = False

    async def start(self) -> None:
        self.is_open = True

    async def stop(self) -> None:
        self.is_open = False

    def send(self, flow: Flow, data: bytes) -> None:
        assert flow == FLOW
        self.said.append(data)

    def expect(self, remote: Address, server_name: str) -> None:
        raise AssertionError(remote, server_name)

    def close(self, flow: Flow) -> None:
        raise AssertionError(flow)

    def reload(self) -> None:
        raise AssertionError("there are no certificates here")

    def ask(self, number: int) -> None:
        """Somebody asks whether calls are taken."""
        message = parse_message(OPTIONS % (number, number))
        self.receiver.received(FLOW, message)


class Media:
    """Ports that somebody else has are refused; each question is noted, and frees the first of them after a while."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.asked: list[int] = []
        self.carried: list[str] = []

    async def apply(self, orders: Sequence[Order]) -> Sequence[Answer]:
        self.asked.append(len(orders))
        sessions = [order.session.id for order in orders if isinstance(order, Put)]
        answers = [Refused("taken") if session in self.taken else Done() for session in sessions]
        self.carried += [session for session in sessions if session not in self.taken]
        if len(self.asked) == 5:
            # Whoever had them lets go, but for one that a stranger has.
            self.taken = self.taken[:1]
        return answers


class Records:
    """A database that is away for the first two questions."""

    def __init__(self) -> None:
        self.asked = 0
        self.cdrs: list[Cdr] = []

    async def add_cdrs(self, cdrs: Sequence[Cdr]) -> None:
        self.asked += 1
        if self.asked <= 2:
            raise Unavailable("the database is away")
        self.cdrs += cdrs


class Bench:
    """A seat with its doors."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.store = Store()
        self.media = Media()
        self.durable = Records()
        self.sockets: Sockets
        settings = Settings(
            "s1", "n1", "realm", {Transport.UDP: FLOW.local}, "127.0.0.1", "127.0.0.1", (10_000, 10_100)
        )

        def make(receiver: Receiver) -> Sockets:
            self.sockets = Sockets(receiver)
            return self.sockets

        switch = Switch(settings, Endpoint(lambda: "token", settings.advertised), b"k" * 32, lambda: "token")
        resolver = Resolver(name_servers())
        self.seat = HeldSeat(
            switch, self.store, self.durable, self.media, make, resolver, epoch=1, now=lambda: 100.0,
            retry=Retry(delay_s=0.001),
        )  # fmt: skip

    def write(self, key: str) -> None:
        """The switch has something to keep."""
        self.seat.runner.carry_out(Outcome([Write(Kind.BINDING, key, b"value")], [], [], []))


@asynccontextmanager
async def held() -> AsyncIterator[Bench]:
    bench = Bench()
    tasks = bench.tasks

    def run(work: Coroutine[Any, Any, None], *_: str) -> "asyncio.Task[None]":
        tasks.append(asyncio.create_task(work))
        return tasks[-1]

    await bench.seat.adopt(Directory(), run)
    try:
        yield bench
    finally:
        await bench.seat.close()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_asks_while_the_last_records_are_written_is_answered_by_the_next_holder_and_never_refused() -> None:
    async with held() as bench:
        bench.sockets.ask(1)
        assert [said[:11] for said in bench.sockets.said] == [b"SIP/2.0 200"]
        bench.store.gate.clear()
        bench.store.asked.clear()
        bench.write("1001")
        await bench.store.asked.wait()
        falling = asyncio.create_task(bench.seat.fall_silent())
        await asyncio.sleep(0)
        bench.sockets.ask(2)
        bench.store.gate.set()
        await falling
        assert len(bench.sockets.said) == 1
        assert not bench.sockets.is_open
        assert list(await bench.store.read("s1", Kind.BINDING)) == ["1001"]


async def test_what_a_seat_says_before_its_address_is_here_leaves_when_that_comes() -> None:
    async with held() as bench:
        bench.seat.gate.extend(inf, ahead=True)
        bench.sockets.ask(1)
        assert bench.sockets.said == []
        bench.seat.gate.extend(inf, ahead=False)
        assert [said[:11] for said in bench.sockets.said] == [b"SIP/2.0 200"]
        # An address that has gone takes with it what was not said.
        bench.seat.gate.extend(inf, ahead=True)
        bench.sockets.ask(2)
        bench.seat.gate.extend(-inf, ahead=False)
        assert (len(bench.sockets.said), bench.seat.gate.unsaid) == (1, 1)


async def test_what_is_decided_when_the_lease_is_over_is_no_longer_written_and_nobody_is_heard() -> None:
    async with held() as bench:
        replicator = bench.seat.runner.replicator
        bench.write("in time")
        await replicator.drained()
        bench.seat.gate.extend(100.0, ahead=False)
        bench.sockets.ask(1)
        bench.write("too late")
        await replicator.drained()
        assert list(await bench.store.read("s1", Kind.BINDING)) == ["in time"]
        assert (replicator.store_error, bench.seat.gate.unsaid) == ("seat s1: its lease is over", 0)
        # Renewed at the last moment: it was this node's all the time.
        bench.seat.gate.extend(inf, ahead=False)
        await replicator.proven()
        assert list(await bench.store.read("s1", Kind.BINDING)) == ["in time", "too late"]
        bench.sockets.ask(2)
        assert [said[:11] for said in bench.sockets.said] == [b"SIP/2.0 200"]


async def test_who_has_been_replaced_and_is_late_is_told_so_and_changes_nothing() -> None:
    async with held() as bench:
        await bench.store.claim("s1", "n2")
        await bench.store.claim("s1", "n3")
        bench.seat.gate.extend(90.0, ahead=False)
        bench.write("too late")
        (failed, *_), _ = await asyncio.wait(bench.tasks, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(failed.exception(), Fenced)
        assert await bench.store.read("s1", Kind.BINDING) == {}


async def test_a_seat_whose_store_is_away_stays_where_it_is_and_goes_on_answering() -> None:
    async with held() as bench:
        bench.store.away = True
        bench.write("1001")
        with pytest.raises(Unavailable, match="could not read its calls: the store is away"):
            await bench.seat.fall_silent()
        # Also where it was known before.
        with pytest.raises(Unavailable, match="could not read its calls"):
            await bench.seat.fall_silent()
        bench.sockets.ask(1)
        assert [said[:11] for said in bench.sockets.said] == [b"SIP/2.0 200"]
        assert bench.sockets.is_open


async def test_ports_that_are_let_go_of_late_are_taken_together_and_one_that_never_is_holds_up_none() -> None:
    async with held() as bench:
        calls = [f"call{i}" for i in range(50)]
        bench.media.taken = calls[:]
        await bench.seat.put([Put(Session(call, "127.0.0.1", ())) for call in calls])
        assert sorted(bench.media.carried) == sorted(calls[1:])
        # All at first, one in turn while none is free, and all others as soon as one is.
        assert bench.media.asked[:7] == [50, 1, 1, 1, 1, 1, 49]
        assert set(bench.media.asked[7:]) == {1}


def ended(key: str, at: float) -> Write:
    """The record of a call that ended at a time."""
    cdr = Cdr(key, "1001", "1002", at - 5, at, Result.ANSWERED, 200, Party.CALLER)
    return Write(Kind.OUTBOX, key, encode_cdr(cdr))


async def test_records_of_calls_that_ended_while_no_store_was_reached_come_into_the_database_all_the_same() -> None:
    async with held() as bench:
        bench.store.away = True
        bench.seat.gate.extend(90.0, ahead=False)
        bench.seat.runner.carry_out(Outcome([ended("in time", 80.0)], [], [], []))
        await bench.seat.runner.replicator.drained()
        # Frozen for a while: by now another node has the seat, and the calls may go on there.
        bench.seat.runner.carry_out(Outcome([ended("too late", 95.0)], [], [], []))
        left = bench.seat.left_over()
        assert [cdr.id for cdr in left] == ["in time"]
        await bench.seat.close()
        await bench.seat.bring_out(left)
        assert bench.durable.cdrs == left


async def test_a_call_that_was_given_up_while_cut_off_is_told_by_whoever_went_on_with_it() -> None:
    async with held() as bench:
        bench.seat.gate.extend(90.0, ahead=False)
        given_up = [
            Cdr(key, "1001", "1002", 75.0, 80.0, Result.UNREACHABLE, 408, Party.SYSTEM)
            for key in ("goes on", "has its record", "known to nobody")
        ]
        heard = Cdr("heard the BYE", "1001", "1002", 75.0, 80.0, Result.ANSWERED, 200, Party.CALLEE)
        # What the next holder has of them.
        await bench.store.write("s1", bench.seat.epoch, [Write(Kind.CALL, "goes on", b"snapshot")])
        await bench.store.write("s1", bench.seat.epoch, [ended("has its record", 85.0)])
        await bench.store.write("s1", bench.seat.epoch, [Write(Kind.CALL, heard.id, b"older snapshot")])
        await bench.seat.bring_out([*given_up, heard])
        assert bench.durable.cdrs == [given_up[2], heard]


async def test_a_seat_that_was_handed_over_leaves_nothing_behind() -> None:
    async with held() as bench:
        bench.seat.runner.carry_out(Outcome([ended("stored", 80.0)], [], [], []))
        await bench.seat.fall_silent()
        assert bench.seat.left_over() == []
        assert list(await bench.store.read("s1", Kind.OUTBOX)) == ["stored"]


async def test_a_seat_that_another_node_has_taken_is_let_go_of_at_once_when_its_address_has_moved_away() -> None:
    """A node that was frozen thaws: it is fenced while it lets go, and must be free to take the seat again."""
    bench = Bench()

    def start(work: Coroutine[Any, Any, None], _name: str) -> "asyncio.Task[None]":
        return asyncio.create_task(work)

    seats = Seats(lambda *_: bench.seat, Directory, start)
    seats.alone = False
    await seats.adopt(Seat("s1", "127.0.0.1", ("n1", "n2")), 1)
    await bench.store.write("s1", 2, [])
    bench.write("1001")
    async with asyncio.timeout(10):
        assert await seats.hand_over("s1") == "let go of seat s1, which another node has"
        # And once it was dropped for that.
        while "s1" in seats.held:
            await asyncio.sleep(0)
        assert await seats.hand_over("s1") == "let go of seat s1, which another node has"


async def test_a_node_that_ends_waits_for_no_database_with_what_was_left_behind() -> None:
    bench, tasks = Bench(), dict[str, asyncio.Task[None]]()
    bench.durable.asked = -1_000_000

    def start(work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        tasks[name] = asyncio.create_task(work)
        return tasks[name]

    seats = Seats(lambda *_: bench.seat, Directory, start)
    await seats.adopt(Seat("s1", "127.0.0.1", ("n1",)), 1)
    seats.extend("s1", 90.0)
    await bench.seat.runner.replicator.proven()
    bench.store.away = True
    bench.seat.runner.carry_out(Outcome([ended("in time", 80.0)], [], [], []))
    await seats.drop("s1")
    bringing = tasks["s1 records"]
    while bench.durable.asked == -1_000_000:
        await asyncio.sleep(0)
    assert not bringing.done()
    seats.give_up()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    assert bringing.cancelled()
