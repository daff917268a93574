"""Agents of several nodes around one coordinator, in one event loop whose time is virtual."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from typing import Any

import pytest

from warden.cluster.agent import Agent
from warden.cluster.consent import Answer, Consent, Promises, Question, Seal
from warden.cluster.decide import Held, Rules, Seat
from warden.cluster.heir import SEEN_S_MAX
from warden.cluster.members import Record, encode_record
from warden.core.errors import Fenced, Unavailable, WardenError
from warden.sim.loop import SimLoop
from warden.store.memory_coordinator import Desk, MemoryCoordinator
from warden.store.ports import Holding, Member

TTL_S = 0.4
AS_USUAL = Rules()
SEATS = tuple(Seat(f"s{i}", f"127.0.1.{i}", tuple(f"n{(i + j) % 3}" for j in range(3))) for i in range(3))


def now() -> float:
    """The loop's time, which every node's clock shows."""
    return asyncio.get_running_loop().time()


def in_virtual_time(story: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """The story as a test: however busy the machine, it goes the same way each time."""

    def test() -> None:
        SimLoop().run(story())

    test.__name__, test.__doc__ = story.__name__, story.__doc__
    return test


class Host:
    """A node that only notes what it holds, and until when it may speak."""

    def __init__(self, speaking: dict[str, list[str]]) -> None:
        self.node = ""
        self.adopted: dict[str, int] = {}
        self.until: dict[str, float] = {}
        self.ahead: dict[str, bool] = {}
        self.fence = 0
        """The highest epoch that the seat store knows."""
        self._speaking = speaking

    async def adopt(self, seat: Seat, epoch: int) -> str:
        if epoch < self.fence:
            raise Fenced(f"seat {seat.name}: epoch {epoch} is over", self.fence)
        self.adopted[seat.name] = epoch
        self._speaking.setdefault(seat.name, []).append(self.node)
        return f"adopted {seat.name} at epoch {epoch}"

    def extend(self, seat: str, until: float, *, ahead: bool = False) -> None:
        self.until[seat] = until
        self.ahead[seat] = ahead

    async def drop(self, seat: str) -> None:
        self.adopted.pop(seat, None)

    async def hand_over(self, seat: str) -> str:
        self.until[seat] = 0.0
        return f"handed {seat}"

    def calls_of(self, seats: tuple[str, ...]) -> int:
        return len(seats)


class Cluster:
    """Three nodes; `stop` ends a node's agent as a crash does, without a word to anybody."""

    def __init__(self, ttl_s: float, rules: Rules) -> None:
        self.ttl_s = ttl_s
        self.rules = rules
        self.desk = Desk()
        self.hosts: dict[str, Host] = {}
        self.agents: dict[str, Agent] = {}
        self.coordinators: dict[str, Shaky] = {}
        self.spoke: dict[str, list[str]] = {}
        self.looks: dict[str, list[tuple[bool, list[str]]]] = {}
        """At each look of a node: was it among the members itself, and which seats did it have?"""
        self.cut: set[str] = set()
        """Nodes that the others do not reach."""
        self.promises: dict[str, dict[str, float]] = {}
        self._serial = count()
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, node: str, *, clock: Callable[[], float] = now, ttl_s: float | None = None, **about: Any) -> None:
        host = Host(self.spoke)
        host.node = node
        coordinator = Shaky(self.desk)
        self.coordinators[node] = coordinator
        self.hosts[node] = host
        kept = self.promises.setdefault(node, {})
        self.agents[node] = Agent(
            node,
            SEATS,
            coordinator,
            host,
            Record("0.1.0", **({"http": f"to {node}"} | about)),
            ttl_s=self.ttl_s if ttl_s is None else ttl_s,
            now=clock,
            consent=Consent(
                Seal(b"the cluster's secret"),
                Promises(kept.update, kept),
                partial(self._ask, node),
                lambda: f"nonce {next(self._serial)}",
            ),
            rules=self.rules,
            on_look=lambda members: self.looks.setdefault(node, []).append((node in members, sorted(host.adopted))),
        )
        self.tasks[node] = asyncio.create_task(self.agents[node].run())

    async def stop(self, node: str) -> None:
        task = self.tasks.pop(node)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        del self.hosts[node]

    async def _ask(self, asker: str, http: str, question: bytes) -> bytes | None:
        node = http.removeprefix("to ")
        reached = node in self.hosts and not {asker, node} & self.cut
        return await self.agents[node].answer(question) if reached else None

    def lose_coordinator(self, *nodes: str) -> None:
        for node in nodes:
            self.coordinators[node].away = True

    def holders(self) -> dict[str, list[str]]:
        return {seat.name: sorted(n for n, h in self.hosts.items() if seat.name in h.adopted) for seat in SEATS}


class Shaky(MemoryCoordinator):
    """A coordinator that one node may lose."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(now, desk)
        self.away = False
        self.slow: asyncio.Event | None = None
        """What a renewal and a look wait for."""

    async def renew(self, *args: object, **kwargs: object) -> frozenset[str]:
        self._check()
        if self.slow is not None:
            await self.slow.wait()
        return await super().renew(*args, **kwargs)  # type: ignore[arg-type]

    async def announce(self, *args: object, **kwargs: object) -> None:
        self._check()
        await super().announce(*args, **kwargs)  # type: ignore[arg-type]

    async def holdings(self) -> Mapping[str, Holding]:
        self._check()
        if self.slow is not None:
            await self.slow.wait()
        return await super().holdings()

    async def take(self, *args: object, **kwargs: object) -> int | None:
        self._check()
        return await super().take(*args, **kwargs)  # type: ignore[arg-type]

    async def acquire(self, *args: object, **kwargs: object) -> int | None:
        self._check()
        return await super().acquire(*args, **kwargs)  # type: ignore[arg-type]

    def _check(self) -> None:
        if self.away:
            raise Unavailable("the cable is cut")


@asynccontextmanager
async def cluster(*nodes: str, ttl_s: float = TTL_S, rules: Rules = AS_USUAL) -> AsyncIterator[Cluster]:
    made = Cluster(ttl_s, rules)
    for node in nodes:
        made.start(node)
    try:
        yield made
    finally:
        for node in list(made.tasks):
            await made.stop(node)


async def until(true: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait for what no event tells of."""
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.01)


def ends_for(why: str) -> "pytest.RaisesGroup[WardenError]":
    """An agent ends the node's process by the error that it raises."""
    return pytest.RaisesGroup(pytest.RaisesExc(WardenError, match=why))


HOME = {"s0": ["n0"], "s1": ["n1"], "s2": ["n2"]}


@in_virtual_time
async def test_a_node_has_seen_itself_among_the_members_before_it_has_a_seat() -> None:
    async with cluster("n0", "n1", "n2") as c:
        await until(lambda: c.holders() == HOME)
        for looks in c.looks.values():
            assert looks[0] == (True, [])
            assert all(is_there for is_there, _ in looks)


@in_virtual_time
async def test_each_seat_goes_to_its_first_successor_and_a_dead_nodes_seat_to_one_other() -> None:
    async with cluster("n0", "n1", "n2") as c:
        await until(lambda: c.holders() == HOME)
        before = c.agents["n0"].holders["s1"].epoch
        await c.stop("n1")
        await until(lambda: [len(c.holders()[seat]) for seat in ("s0", "s1", "s2")] == [1, 1, 1])
        (heir,) = c.holders()["s1"]
        assert c.hosts[heir].adopted["s1"] == before + 1
        assert (c.agents[heir].failovers, sum(c.agents[heir].failover_seconds.counts)) == (1, 1)
        assert sum(c.agents[heir].coordinator_seconds.counts) > 1
        c.start("n1")
        await until(lambda: not c.agents["n1"].error)
        assert c.holders()["s1"] == [heir]  # It comes back to no second outage.


@in_virtual_time
async def test_a_drained_node_gives_its_seats_away_and_gets_none() -> None:
    async with cluster("n0", "n1", "n2") as c:
        await until(lambda: c.holders() == HOME)
        c.agents["n0"].drain()
        async with asyncio.timeout(20):
            await c.agents["n0"].without_seats()
        await until(lambda: [len(x) for x in c.holders().values()] == [1, 1, 1])
        assert "n0" not in str(c.holders())


@in_virtual_time
async def test_a_node_that_may_take_no_seat_just_now_is_given_none() -> None:
    async with cluster("n0", "n1", "n2") as c:
        await until(lambda: c.holders() == HOME)
        c.agents["n1"].keep_away("", "the arbiter: no quorum")
        await until(lambda: c.agents["n0"].peers["n1"].barred)
        c.agents["n0"].drain()
        await until(lambda: c.holders()["s0"] == ["n2"])
        assert c.spoke["s0"] == ["n0", "n2"]
        # It keeps what it has.
        assert c.holders()["s1"] == ["n1"]


@in_virtual_time
async def test_a_wish_told_to_any_node_moves_the_seat_there_and_is_then_forgotten() -> None:
    async with cluster("n0", "n1", "n2") as c:
        await until(lambda: c.holders() == HOME)
        c.agents["n2"].wish("s0", "n1")
        await until(lambda: c.holders()["s0"] == ["n1"])
        await until(lambda: not c.agents["n0"].peers["n2"].wishes)
        c.agents["n1"].wish("s0", "n0")
        await until(lambda: c.holders()["s0"] == ["n0"])


@in_virtual_time
async def test_a_holder_that_is_cut_off_falls_silent_before_another_may_speak() -> None:
    async with cluster("n0", "n1", "n2") as c:
        await until(lambda: c.holders() == HOME)
        c.coordinators["n0"].away = True
        await until(lambda: "s0" not in c.hosts["n0"].adopted)
        silent_from = c.hosts["n0"].until["s0"]
        await until(lambda: c.holders()["s0"] != [])
        assert silent_from <= now()
        (heir,) = c.holders()["s0"]
        assert c.spoke["s0"] == ["n0", heir]
        assert any("was not renewed" in s.text for s in c.agents["n0"].sentences)
        c.coordinators["n0"].away = False
        await until(lambda: not c.agents["n0"].error)


@in_virtual_time
async def test_the_second_live_node_of_one_name_is_refused_and_the_first_goes_on() -> None:
    async with cluster("n0") as c:
        await until(lambda: c.holders()["s0"] == ["n0"])
        first = c.agents["n0"], c.hosts["n0"], c.tasks.pop("n0")
        c.start("n0", instance="another", place="elsewhere", http="http://192.0.2.9:9000")
        second = c.tasks.pop("n0")
        with ends_for("node_id: n0 is the name of another live node"):
            await second
        assert c.hosts["n0"].adopted == {}
        assert not first[2].done()
        assert first[1].adopted != {}
        c.tasks["n0"] = first[2]


@in_virtual_time
async def test_a_node_that_comes_back_elsewhere_waits_until_its_last_word_is_over() -> None:
    async with cluster() as c:
        coordinator = MemoryCoordinator(now, c.desk)
        old = Record("0.1.0", instance="old", place="the machine that burnt", now=now())
        await coordinator.announce(Member("n0", encode_record(old)), TTL_S)
        c.start("n0", instance="new", place="the spare machine")
        await until(lambda: c.holders()["s0"] == ["n0"])
        assert "was here just now" in c.agents["n0"].sentences[0].text


@in_virtual_time
async def test_two_nodes_that_started_at_once_with_one_name_do_not_both_stay() -> None:
    async with cluster("n0") as c:
        await until(lambda: c.holders()["s0"] == ["n0"])
        older = Record("0.1.0", instance="older", place="elsewhere", started=-1.0, now=now())
        await MemoryCoordinator(now, c.desk).announce(Member("n0", encode_record(older)), 60)
        # It has overwritten what ours said, which ours sees before it says it again.
        with ends_for("node_id: n0 is the name of another live node"):
            await c.tasks.pop("n0")


@in_virtual_time
async def test_a_node_with_another_secret_gets_no_seat_by_itself_nor_from_a_node_that_leaves() -> None:
    async with cluster() as c:
        c.start("n0", secret="red")
        c.start("n1", secret="red")
        await until(lambda: c.holders() == {"s0": ["n0"], "s1": ["n1"], "s2": ["n0"]} or c.holders()["s2"] == ["n1"])
        c.start("n2", secret="blue")
        await until(lambda: bool(c.agents["n2"].warnings) and bool(c.agents["n0"].warnings))
        assert c.agents["n2"].warnings[0].startswith("secret: differs from that of n0, n1: this node takes no seat")
        assert c.agents["n0"].warnings[0].startswith("secret: differs from that of n2: no seat goes there")
        await c.stop("n1")
        c.agents["n0"].wish("s0", "n2")
        await until(lambda: all(holders == ["n0"] for holders in c.holders().values()))
        await until(lambda: c.agents["n2"].holders["s1"].node == "n0" and "n1" not in c.agents["n2"].peers)
        assert c.hosts["n2"].adopted == {}


@in_virtual_time
async def test_a_clock_that_is_wrong_is_told_by_both_nodes_and_a_right_one_by_none() -> None:
    async with cluster("n0", "n1") as c:
        c.start("n2", clock=lambda: now() - 30)
        await until(lambda: bool(c.agents["n0"].warnings) and bool(c.agents["n2"].warnings))
        assert [w[:15] for w in c.agents["n0"].warnings] == ["clock: that of "]
        assert re.search(r"of n2 is \d+\.\d s behind ours", c.agents["n0"].warnings[0])
        assert all("ahead of ours" in w for w in c.agents["n2"].warnings)


@in_virtual_time
async def test_a_coordinator_that_is_away_at_the_start_is_told_and_waited_for() -> None:
    async with cluster() as c:
        c.start("n0")
        c.coordinators["n0"].away = True
        await until(lambda: bool(c.agents["n0"].sentences))
        assert c.agents["n0"].sentences[0].text == "coordinator is away: the cable is cut"
        c.coordinators["n0"].away = False
        await until(lambda: c.holders()["s0"] == ["n0"])
        assert "coordinator answers again" in [s.text for s in c.agents["n0"].sentences]


@in_virtual_time
async def test_audio_goes_on_at_the_old_node_until_the_heir_says_that_it_has_it() -> None:
    async with cluster() as c:
        # So long a lease that the heir is not given up for its silence here.
        c.start("n0", ttl_s=60.0)
        await until(lambda: c.holders()["s0"] == ["n0"])
        heir = MemoryCoordinator(now, c.desk)

        async def say(*seats: str) -> None:
            await heir.announce(Member("n1", encode_record(Record("0.1.0", seats=seats))), 60)

        await say()
        c.agents["n0"].wish("s0", "n1")
        while (await heir.holdings())["s0"].holder != "n1":
            await heir.changed(0.05)
        await say("s1")
        await heir.changed(0.01)
        for _ in range(20):
            # Whatever the old holder looks at again and again, the heir does not have this seat yet.
            await heir.members()
            await asyncio.sleep(0)
        assert "s0" in c.hosts["n0"].adopted
        await say("s0")
        await until(lambda: "s0" not in c.hosts["n0"].adopted)
        assert c.agents["n0"].handovers == 1


@in_virtual_time
async def test_a_node_that_is_not_to_be_drained_any_more_takes_seats_again() -> None:
    async with cluster("n0", "n1") as c:
        await until(lambda: c.holders()["s0"] == ["n0"] and len(c.holders()["s2"]) == 1)
        c.agents["n0"].drain()
        await until(lambda: c.agents["n0"].drained)
        c.agents["n0"].undrain()
        c.agents["n1"].wish("s0", "n0")
        await until(lambda: c.holders()["s0"] == ["n0"])


@in_virtual_time
async def test_seats_stay_where_they_are_while_no_node_reaches_the_coordinator_and_go_on_when_it_is_back() -> None:
    async with cluster("n0", "n1", "n2") as c:
        await until(lambda: c.holders() == HOME)
        c.lose_coordinator("n0", "n1", "n2")
        lost_at = now()
        # Each seat is held for longer than any lease from before the loss could last.
        await until(lambda: all(c.hosts[f"n{i}"].until[f"s{i}"] > lost_at + 2 * TTL_S for i in range(3)))
        assert c.holders() == HOME
        assert any("all others agree" in s.text for s in c.agents["n0"].sentences)
        for coordinator in c.coordinators.values():
            coordinator.away = False
        await until(lambda: not any(agent.error or agent.by_consent for agent in c.agents.values()))
        # The leases had run out and were taken anew; from now on they are renewed as ever, by the same nodes.
        back_at = now()
        await until(lambda: all(c.hosts[f"n{i}"].until[f"s{i}"] > back_at + 2 * TTL_S for i in range(3)))
        assert c.holders() == HOME
        # Nobody else, and nobody twice, has taken a seat up.
        assert c.spoke == HOME


@in_virtual_time
async def test_a_seat_does_not_stay_where_one_of_its_successors_does_not_agree() -> None:
    async with cluster("n0", "n1", "n2") as c:
        await until(lambda: c.holders() == HOME)
        # Nobody reaches the coordinator, and the others do not reach n2: it cannot be known what n2 will do.
        c.cut.add("n2")
        c.lose_coordinator("n0", "n1", "n2")
        await until(lambda: c.holders() == {"s0": [], "s1": [], "s2": []})


@in_virtual_time
async def test_a_promise_is_kept_by_the_process_that_comes_next() -> None:
    async with cluster("n0", "n1", "n2") as c:
        await until(lambda: c.holders() == HOME)
        c.lose_coordinator("n0", "n1", "n2")
        await until(lambda: bool(c.promises["n1"]))
        c.promises["n1"]["s0"] = now() + 3600
        await c.stop("n1")
        await c.stop("n0")
        c.start("n1")
        c.coordinators["n2"].away = False
        await until(lambda: c.holders()["s0"] == ["n2"])
        await c.stop("n2")
        # n1 is the only one left, and leaves s0 alone all the same.
        await until(lambda: c.holders()["s1"] == c.holders()["s2"] == ["n1"])
        assert c.holders()["s0"] == []


def test_only_a_fresh_question_under_the_clusters_secret_is_a_question() -> None:
    seal, other = Seal(b"ours"), Seal(b"theirs")
    asked = Question("n0", ("s0",), 1.0, "nonce", 1000.0)
    assert seal.question(seal.sealed(asked), 1000.0) == asked
    assert seal.question(other.sealed(asked), 1000.0) is None
    assert seal.question(seal.sealed(asked), 1006.0) is None
    said = Answer("n1", "nonce", ("s0",))
    assert seal.answer(seal.sealed(said), "nonce") == said
    assert seal.answer(seal.sealed(said), "another nonce") is None
    assert seal.answer(seal.sealed(asked), "nonce") is None
    assert seal.question(b"", 1000.0) is None


@in_virtual_time
async def test_seats_go_where_their_addresses_go_and_the_node_that_lost_one_is_silent_at_once() -> None:
    # The lease has no part in it: it would not end within this test.
    async with cluster("n0", "n1", ttl_s=60.0, rules=Rules(address_moves=True)) as c:
        await until(lambda: not c.agents["n0"].error and not c.agents["n1"].error)
        assert c.holders() == {"s0": [], "s1": [], "s2": []}
        c.agents["n0"].address_is_here("s0", True)
        await until(lambda: c.holders()["s0"] == ["n0"])
        assert c.agents["n0"].refusal("s0") == ""

        c.agents["n0"].address_is_here("s0", False)
        assert c.hosts["n0"].until["s0"] <= now()
        c.agents["n1"].address_is_here("s0", True)
        await until(lambda: c.holders()["s0"] == ["n1"])
        assert c.hosts["n1"].adopted["s0"] == 2

        # An address that two nodes have: who got it last has the seat, and the other one lets the address go.
        c.agents["n0"].address_is_here("s0", True)
        await until(lambda: c.holders()["s0"] == ["n0"])
        await until(lambda: c.agents["n1"].refusal("s0") == "n0 has taken it at epoch 3")
        assert c.spoke["s0"] == ["n0", "n1", "n0"]


@in_virtual_time
async def test_a_seat_that_has_left_and_come_again_while_a_renewal_was_on_its_way_stays() -> None:
    async with cluster("n0", ttl_s=60.0, rules=Rules(address_moves=True)) as c:
        n0 = c.agents["n0"]
        await until(lambda: not n0.error)
        n0.address_is_here("s0", True)
        await until(lambda: c.holders()["s0"] == ["n0"])
        c.coordinators["n0"].slow = asyncio.Event()
        renewing = asyncio.create_task(n0._renew())
        await asyncio.sleep(0)
        # What the renewal asked for is an epoch that is over when its answer comes.
        epoch = await c.coordinators["n0"].take("s0", "n0", 60.0, 1)
        again = Held(epoch or 0, now() + 54.0, adopted=True, since=now())
        n0._extend("s0", again)
        c.coordinators["n0"].slow.set()
        await renewing
        assert n0._held["s0"] == again


@in_virtual_time
async def test_the_heir_of_a_seat_has_it_before_the_address_and_may_speak_when_that_comes() -> None:
    async with cluster("n0", "n1", ttl_s=60.0, rules=Rules(address_moves=True)) as c:
        await until(lambda: not c.agents["n0"].error and "n1" in c.agents["n0"].peers)
        c.agents["n0"].address_is_here("s0", True)
        await until(lambda: c.holders()["s0"] == ["n0"])
        c.agents["n0"].drain()
        await until(lambda: c.holders()["s0"] == ["n0", "n1"])
        assert c.hosts["n1"].ahead["s0"]
        assert c.agents["n1"].refusal("s0") == ""
        assert c.agents["n1"].wants_address("s0")
        # Now, and not before, keepalived is told; the old holder's audio goes on until the address has gone.
        await until(lambda: c.agents["n0"].refusal("s0") == "it goes to n1")
        await asyncio.sleep(1)
        assert "s0" in c.hosts["n0"].adopted
        c.agents["n0"].address_is_here("s0", False)
        c.agents["n1"].address_is_here("s0", True)
        assert (c.hosts["n1"].ahead["s0"], c.hosts["n1"].until["s0"] > now()) == (False, True)
        await until(lambda: c.agents["n0"].drained)
        assert c.holders()["s0"] == ["n1"]
        assert c.hosts["n1"].adopted["s0"] == 2


@in_virtual_time
async def test_a_coordinator_that_comes_back_empty_gives_no_seat_away_whose_holder_lives() -> None:
    async with cluster("n0", "n1", "n2") as c:
        await until(lambda: c.holders() == HOME)
        c.agents["n0"].wish("s0", "n1")
        await until(lambda: c.holders()["s0"] == ["n1"])
        await asyncio.sleep(TTL_S)
        # The first of its successors looks before its holder has renewed it.
        slow = c.coordinators["n1"].slow = asyncio.Event()
        c.desk.seats.clear()
        c.desk.note_change()
        await asyncio.sleep(TTL_S / 4)
        slow.set()
        await asyncio.sleep(3 * TTL_S)
        assert (c.holders()["s0"], c.spoke["s0"]) == (["n1"], ["n0", "n1"])
        # Where it died just then as well, the next one has it a lease later, at an epoch that nobody had.
        epoch = c.hosts["n1"].adopted["s0"]
        await c.stop("n1")
        c.desk.seats.clear()
        c.desk.note_change()
        await until(lambda: c.holders()["s0"] == ["n0"])
        assert c.hosts["n0"].adopted["s0"] == epoch + 1


@in_virtual_time
async def test_where_the_store_knows_of_higher_epochs_than_the_coordinator_the_next_one_is_above_them() -> None:
    async with cluster("n0") as c:
        c.hosts["n0"].fence = 800
        await until(lambda: len(c.hosts["n0"].adopted) == 3)
        assert set(c.hosts["n0"].adopted.values()) == {801}
        assert len([s for s in c.agents["n0"].sentences if "could not adopt" in s.text]) == 3


@in_virtual_time
async def test_a_holder_that_is_told_of_another_one_is_silent_from_that_answer_on() -> None:
    async with cluster("n0", ttl_s=60.0) as c:
        n0 = c.agents["n0"]
        await until(lambda: c.holders() == {"s0": ["n0"], "s1": ["n0"], "s2": ["n0"]})
        await c.coordinators["n0"].take("s0", "n1", 60.0, c.hosts["n0"].adopted["s0"])
        await n0._renew()
        assert c.hosts["n0"].until["s0"] <= now() < c.hosts["n0"].until["s1"]


@in_virtual_time
async def test_a_third_node_lets_no_address_come_that_follows_its_seat_to_another_one() -> None:
    async with cluster("n0", "n1", "n2", ttl_s=60.0, rules=Rules(address_moves=True)) as c:
        third = c.agents["n2"]
        await until(lambda: all(not agent.error and len(agent.peers) == 3 for agent in c.agents.values()))
        c.agents["n0"].address_is_here("s0", True)
        await until(lambda: third.holders["s0"].node == "n0")
        await asyncio.sleep(2)
        assert third.refusal("s0") == ""
        slow = c.coordinators["n2"].slow = asyncio.Event()
        c.agents["n0"].drain()
        await until(lambda: c.holders()["s0"] == ["n0", "n1"])
        # The node whose it was keeps it until all others have seen where it goes,
        await asyncio.sleep(0.2)
        assert (third.refusal("s0"), c.agents["n0"].refusal("s0")) == ("", "")
        slow.set()
        # who leave it alone for as long as it is on its way.
        await until(lambda: c.agents["n0"].refusal("s0") == "it goes to n1")
        assert third.refusal("s0") == "it goes to n1"
        c.agents["n0"].address_is_here("s0", False)
        c.agents["n1"].address_is_here("s0", True)
        await asyncio.sleep(2)
        assert (third.refusal("s0"), c.holders()["s0"]) == ("", ["n1"])


@in_virtual_time
async def test_an_address_waits_for_no_node_that_is_frozen_or_gone() -> None:
    async with cluster("n0", "n1", "n2", ttl_s=60.0, rules=Rules(address_moves=True)) as c:
        await until(lambda: all(not agent.error and len(agent.peers) == 3 for agent in c.agents.values()))
        c.agents["n0"].address_is_here("s0", True)
        await until(lambda: c.holders()["s0"] == ["n0"])
        await c.stop("n2")
        c.agents["n0"].wish("s0", "n1")
        await until(lambda: c.holders()["s0"] == ["n0", "n1"])
        assert c.agents["n0"].refusal("s0") == ""
        await until(lambda: c.agents["n0"].refusal("s0") == "n1 has taken it at epoch 2", within_s=SEEN_S_MAX + 0.1)


@in_virtual_time
async def test_a_seat_whose_address_does_not_follow_it_is_taken_by_the_node_that_has_the_address() -> None:
    async with cluster("n0", "n1", ttl_s=60.0, rules=Rules(address_moves=True)) as c:
        await until(lambda: not c.agents["n0"].error and "n1" in c.agents["n0"].peers)
        c.agents["n0"].address_is_here("s0", True)
        await until(lambda: c.holders()["s0"] == ["n0"])
        c.agents["n0"].wish("s0", "n1")
        await until(lambda: c.holders()["s0"] == ["n0", "n1"])
        await until(lambda: c.holders()["s0"] == ["n0"])
        assert any("its address did not come" in s.text for s in c.agents["n1"].sentences)
        assert c.hosts["n0"].until["s0"] > now()


@in_virtual_time
async def test_an_address_that_a_second_node_has_for_a_moment_moves_its_seat_once() -> None:
    async with cluster("n0", "n1", "n2", ttl_s=60.0, rules=Rules(address_moves=True)) as c:
        await until(lambda: all(not agent.error for agent in c.agents.values()))
        c.agents["n0"].address_is_here("s0", True)
        await until(lambda: c.holders()["s0"] == ["n0"])
        await c.stop("n0")
        # Keepalived's backups wait for little more than the first of them takes to say that it is master.
        c.agents["n1"].address_is_here("s0", True)
        c.agents["n2"].address_is_here("s0", True)
        await asyncio.sleep(0.1)
        c.agents["n2"].address_is_here("s0", False)
        await asyncio.sleep(1)
        assert c.holders()["s0"] == ["n1"]
        assert c.hosts["n1"].adopted["s0"] == 2
        assert c.spoke["s0"] == ["n0", "n1"]


@in_virtual_time
async def test_an_address_that_comes_while_the_coordinator_is_away_is_followed_when_it_is_back() -> None:
    async with cluster("n0", "n1", rules=Rules(address_moves=True)) as c:
        await until(lambda: not c.agents["n0"].error)
        c.lose_coordinator("n0")
        await until(lambda: bool(c.agents["n0"].error))
        assert c.agents["n0"].refusal("s0") == "the coordinator does not answer"
        c.agents["n0"].address_is_here("s0", True)
        await until(lambda: "n1" in c.agents["n1"].peers)
        assert c.holders()["s0"] == []
        c.coordinators["n0"].away = False
        await until(lambda: c.holders()["s0"] == ["n0"])


@in_virtual_time
async def test_a_node_that_comes_back_gets_its_seat_again_after_a_while() -> None:
    async with cluster("n0", "n1", rules=Rules(home_after_s=0.5)) as c:
        await until(lambda: c.holders()["s0"] == ["n0"])
        await c.stop("n0")
        await until(lambda: c.holders()["s0"] == ["n1"])
        c.start("n0", instance="the next")
        await until(lambda: c.holders()["s0"] == ["n0"])
        assert any("handed s0 to n0" in said.text for said in c.agents["n1"].sentences)
