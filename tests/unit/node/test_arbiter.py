"""A node and the arbiter between two regions: who is told what, and what is done without its word."""

import asyncio
from collections.abc import Mapping
from math import inf

import pytest

from warden.cluster.agent import Agent
from warden.cluster.company import Company
from warden.cluster.members import Record
from warden.cluster.mirror import Mirror
from warden.cluster.primacy import SEAT
from warden.cluster.regions import Primary, Regions, Word
from warden.cluster.stream import Told
from warden.config.tree import Arbiter as Settings
from warden.core.errors import Unavailable, WardenError
from warden.node.arbiter import Arbiter
from warden.node.regions import RegionLink
from warden.store.memory import MemoryStore
from warden.store.memory_coordinator import Desk, MemoryCoordinator
from warden.store.ports import Holding

TTL_S = 20.0


class Third(MemoryCoordinator):
    """The arbiter as a node reaches it, or does not; `deaf` while nothing that is to be changed comes through."""

    def __init__(self, bench: "Bench") -> None:
        super().__init__(lambda: bench.now, bench.desk)
        self.away = self.deaf = False

    async def holdings(self) -> Mapping[str, Holding]:
        if self.away:
            raise Unavailable("no quorum")
        return await super().holdings()

    async def take(self, seat: str, node: str, ttl_s: float, from_epoch: int, at_least: int = 0) -> int | None:
        if self.away or self.deaf:
            raise Unavailable("no quorum")
        return await super().take(seat, node, ttl_s, from_epoch, at_least)


class Bench:
    """A node of west."""

    def __init__(self, primary: Primary) -> None:
        self.now = 100.0
        self.desk = Desk()
        self.third = Third(self)
        self.regions = Regions("west", ("east", "west"), primary, lambda _: None, lambda: self.now, -inf)
        self.over_s: list[float] = []
        self.arbiter = Arbiter(Settings(lease_ttl=TTL_S), self.third, self.regions, lambda: self.now, self._succeed)
        self.link = RegionLink.__new__(RegionLink)
        self.link.regions, self.link.arbiter = self.regions, self.arbiter

    async def _succeed(self, over_s: float) -> None:
        self.over_s.append(over_s)


async def test_the_nodes_of_a_region_come_to_hold_one_lease_and_each_falls_silent_by_itself() -> None:
    bench = Bench(Primary("west"))
    await bench.arbiter.look()
    assert bench.regions.primary == Primary("west", 1)
    assert bench.regions.permitted_until == 100.0 + TTL_S * 0.9
    bench.now += 10
    await bench.arbiter.look()
    assert bench.regions.permitted_until == 110.0 + TTL_S * 0.9
    bench.third.away = True
    await bench.arbiter.look()
    assert (bench.regions.waits, bench.regions.refusal) == ("the arbiter: no quorum", "")
    bench.now += TTL_S
    assert "no quorum" in bench.regions.refusal


async def test_a_lease_that_is_over_is_succeeded_by_one_node_after_the_other() -> None:
    bench = Bench(Primary("east", 1))
    await bench.third.take(SEAT, "east", TTL_S, 0)
    await bench.arbiter.look()
    assert bench.over_s == []
    bench.now += TTL_S + 1
    for _ in range(2):
        await bench.arbiter.look()
        bench.now += 4
    assert bench.over_s == [0.0, 4.0]


async def test_only_who_was_vouched_for_becomes_the_primary_region_without_the_arbiters_word() -> None:
    bench = Bench(Primary("east", 1))
    await bench.third.take(SEAT, "east", TTL_S, 0)
    bench.now += TTL_S + 1
    bench.third.deaf = True
    with pytest.raises(Unavailable):
        await bench.link._next_primary(vouched=False)
    assert await bench.link._next_primary(vouched=True) == Primary("west", 2, alone=True)
    # And it decides again as soon as it is there, also where it has given that very term already.
    bench.third.deaf = False
    await bench.third.take(SEAT, "west", TTL_S, 1)
    bench.regions.decide(Primary("west", 2, alone=True))
    await bench.arbiter.look()
    assert bench.regions.primary == Primary("west", 2)
    assert bench.regions.permitted_until == bench.now + TTL_S * 0.9


async def test_a_region_that_has_missed_terms_waits_and_an_operator_may_still_wake_it() -> None:
    bench = Bench(Primary("east", 1))
    await bench.third.take(SEAT, "east", TTL_S, 0)
    await bench.third.take(SEAT, "east", TTL_S, 5)
    with pytest.raises(WardenError, match="to another region since term 1"):
        await bench.link._next_primary(vouched=True)
    bench.now += TTL_S + 1
    with pytest.raises(WardenError):
        await bench.link._next_primary(vouched=False)
    assert await bench.link._next_primary(vouched=True) == Primary("west", 7)


async def test_a_region_that_made_way_asks_before_it_goes_on() -> None:
    bench = Bench(Primary("west"))
    await bench.arbiter.look()
    bench.regions.make_way("east1")
    # The other one was given the seats, and its node did not hear of it.
    await bench.third.take(SEAT, "east", TTL_S, 1)
    bench.now += 1
    bench.regions.go_on("east1")
    assert "the arbiter does not let region west have the seats" in bench.regions.refusal
    await bench.arbiter.look()
    assert bench.regions.refusal == "region east is the primary one"


def test_seats_that_nobody_follows_are_not_brought_over_in_planned_work() -> None:
    bench = Bench(Primary("east", 1))
    link = bench.link
    link._node = "west1"
    link.mirror = Mirror((), Told(MemoryStore()), link, link, lambda: bench.now)
    link._agent = Agent.__new__(Agent)
    peers = {"west1": Record("1"), "west2": Record("1", follows=("branch",))}
    link._agent._company = Company.__new__(Company)
    link._agent._company.peers = peers
    word = Word("east1", "east", Primary("east", 1), ("main", "branch", "spare"))
    link.mirror.following.add("main")
    assert link._not_followed({"http://east1": word}) == ["spare"]


async def test_the_end_of_what_is_permitted_is_told_at_once() -> None:
    loop = asyncio.get_running_loop()
    bench = Bench(Primary("west"))
    bench.arbiter._now = loop.time
    bench.arbiter._ttl_s = 0.2
    told = asyncio.Event()
    await bench.arbiter.look()
    bench.regions.on_change = told.set
    async with asyncio.timeout(10):
        await told.wait()
    assert loop.time() >= bench.regions.permitted_until
