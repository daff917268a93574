"""What the metrics do with figures that are drained, that go back, or that a stranger chooses."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from warden.cluster.agent import Agent
from warden.cluster.decide import Seat
from warden.cluster.members import Record
from warden.cluster.mirror import Mirror
from warden.cluster.regions import Primary, Regions, Word
from warden.cluster.seat import Door, HeldSeat
from warden.cluster.stream import Frame, Told
from warden.cluster.through import Through
from warden.core.address import Transport
from warden.core.errors import Unavailable
from warden.media.client import MediaClient
from warden.media.protocol import SideStats, TotalsAre
from warden.media.quality import Quality
from warden.net.resolve import Resolver, name_servers
from warden.net.settings import Settings as NetSettings
from warden.net.sockets import Sockets
from warden.sip.endpoint import Endpoint
from warden.store.durable import open_durable
from warden.store.memory import MemoryStore, Shelf
from warden.store.memory_coordinator import Desk, MemoryCoordinator
from warden.store.ports import Kind, Write
from warden.switch.directory import Directory
from warden.switch.overload import Overload, OverloadRules
from warden.switch.settings import Settings
from warden.switch.switch import Switch
from warden.web import views
from warden.web.metrics import make_registry
from warden.web.state import NodeState


class Media:
    """What a node knows of its media process."""

    def __init__(self) -> None:
        self.totals: TotalsAre | None = None
        self.error = ""
        self.quality = Quality()


class Office:
    """A node that has not been started: its parts are real, its doors are closed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = MemoryStore()
        self.durable = open_durable(f"sqlite:///{folder / 'db'}")
        self.media = Media()
        self.seats: dict[str, HeldSeat] = {}
        self.state = NodeState(
            node="n1",
            cluster="cluster",
            realm="realm",
            started_at_utc=0.0,
            now=lambda: 0.0,
            seats=self.seats,
            durable=self.durable,
            directory=Directory(),
            media=self.media,
            refresh_directory=lambda: None,
            operator_digest="00",
            sealer=str,
        )

    def take(self, name: str = "seat", epoch: int = 1) -> HeldSeat:
        """Hold a seat from now on."""
        settings = Settings(name, "n1", "realm", {}, "127.0.0.1", "127.0.0.1", (10_000, 10_100))
        self.seats[name] = HeldSeat(
            Switch(settings, Endpoint(lambda: "token", {}), b"k" * 32, lambda: "token"),
            self._store,
            self.durable,
            MediaClient(self._folder / "none", lambda _: None, lambda: None),
            lambda receiver: Sockets(NetSettings(()), receiver),
            Resolver(name_servers()),
            epoch=epoch,
            now=lambda: 0.0,
        )
        return self.seats[name]


class Shadow:
    """A `Host` without sockets, which holds seats of an office."""

    def __init__(self, office: Office) -> None:
        self._office = office

    async def adopt(self, seat: Seat, epoch: int) -> str:
        self._office.take(seat.name, epoch)
        return f"adopted {seat.name}"

    def extend(self, seat: str, until: float, *, ahead: bool = False) -> None:
        if seat in self._office.seats:
            self._office.seats[seat].gate.extend(until, ahead=ahead)

    async def drop(self, seat: str) -> None:
        self._office.seats.pop(seat, None)

    async def hand_over(self, seat: str) -> str:
        return f"handed over {seat}"

    def calls_of(self, seats: tuple[str, ...]) -> int:
        return sum(len(self._office.seats[seat].switch.calls) for seat in seats)


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    office = Office(tmp_path)
    yield office
    await office.durable.close()


@pytest.fixture
async def seat(office: Office) -> HeldSeat:
    return office.take()


def samples(said: dict[str, Metric], name: str) -> dict[tuple[str, ...], float]:
    """A metric's figures by the values of its labels, in the order of their names."""
    return {tuple(s.labels.values()): s.value for s in said[name].samples}


def scrapes(office: Office, changes: Iterable[object]) -> list[dict[str, Metric]]:
    """What is said after each change, and no sooner."""
    registry = make_registry(office.state)
    return [
        {m.name: m for m in text_string_to_metric_families(generate_latest(registry).decode())} for _change in changes
    ]


def test_set_up_times_are_counted_once_over_all_scrapes(office: Office, seat: HeldSeat) -> None:
    seconds, post_dial = seat.switch.setup_seconds, seat.switch.post_dial_seconds

    def changes() -> Iterable[None]:
        for more in ((0.05, 0.1, 2.5, 99.0), (), (2.0,)):
            seconds.extend(more)
            post_dial.extend(more)
            yield

    said = scrapes(office, changes())
    found = [
        {s.labels.get("le", s.name): s.value for s in one["pbx_call_setup_seconds"].samples if s.value} for one in said
    ]
    assert seconds == post_dial == []
    assert [count_of(one["pbx_post_dial_seconds"]) for one in said] == [4, 4, 5]
    assert [one["+Inf"] for one in found] == [one["pbx_call_setup_seconds_count"] for one in found] == [4, 4, 5]
    assert (found[0]["0.1"], found[0]["2.0"], found[0]["3.0"], found[0]["60.0"]) == (2, 2, 3, 3)
    assert found[2]["2.0"] == 3
    assert found[2]["pbx_call_setup_seconds_sum"] == pytest.approx(103.65)


def test_a_status_that_no_standard_knows_makes_no_label_of_its_own(office: Office, seat: HeldSeat) -> None:
    """Callees choose what they answer; three hundred numbers would be three hundred time series."""
    seat.switch.results.update({("busy", 486): 3, **{("failed", status): 1 for status in range(640, 700)}})
    (said,) = scrapes(office, [None])
    assert samples(said, "pbx_calls_ended") == {("busy", "486"): 3, ("failed", "6xx"): 60}


def test_lost_packets_only_grow_until_another_media_process_counts_them(office: Office) -> None:
    """A packet that comes twice is one less lost (RFC 3550), but a counter that goes back looks like a restart."""

    def changes() -> Iterable[None]:
        for packets, lost in ((100, -2), (200, 9), (300, 7), (400, 12), (10, 1)):
            office.media.totals = TotalsAre(packets=packets, lost=lost)
            yield

    said = scrapes(office, changes())
    assert [one["pbx_media_lost_packets"].samples[0].value for one in said] == [0, 9, 9, 12, 1]


@pytest.mark.usefixtures("seat")
def test_media_figures_are_missing_and_not_nought_before_they_are_known(office: Office) -> None:
    (said,) = scrapes(office, [None])
    assert {name for name, metric in said.items() if not metric.samples} == {
        "pbx_adoption_seconds",  # Known in a cluster only.
        "pbx_known_numbers",  # Likewise.
        "pbx_calls_ended",
        "pbx_certificate_expires_timestamp_seconds",  # There is none.
        "pbx_database_connections_max",
        "pbx_keepalived_up",  # It does not move the addresses.
        "pbx_region_copy_age_seconds",  # There is one region.
        "pbx_region_lease_seconds",
        "pbx_region_nodes",
        "pbx_region_primary",
        "pbx_region_term",
        "pbx_trunk_channels",  # There is no trunk.
        "pbx_trunk_error",
        "pbx_trunk_registered",
        "pbx_trunk_up",
        "pbx_media_bytes",
        "pbx_media_cpu_seconds",
        "pbx_media_dropped_packets",
        "pbx_media_lost_packets",
        "pbx_media_packets",
        "pbx_media_sessions",
    }


async def test_what_is_now_is_told_by_seat_and_work_done_as_one_sum(office: Office) -> None:
    one, two = office.take("s1", epoch=3), office.take("s2", epoch=5)
    one.switch.counters["calls"], two.switch.counters["calls"] = 3, 4
    one.driver.counters.traffic[Transport.UDP].messages_in = 10
    two.driver.counters.traffic[Transport.UDP].messages_in = 1
    (said,) = scrapes(office, [None])
    assert samples(said, "pbx_seat_epoch") == {("s1",): 3, ("s2",): 5}
    assert samples(said, "pbx_calls")["up", "s2"] == 0
    assert samples(said, "pbx_registrations") == {("s1",): 0, ("s2",): 0}
    assert samples(said, "pbx_calls_started") == {(): 7}
    assert samples(said, "pbx_sip_messages")["in", "udp"] == 11


async def test_a_counter_keeps_what_a_seat_counted_that_has_gone_up_to_its_last_moment(office: Office) -> None:
    """A seat goes to another node and comes back as a new one; a counter that fell would look like a restart."""

    def changes() -> Iterable[None]:
        stays, goes = office.take("s1"), office.take("s2")
        stays.switch.counters["calls"] = 1
        goes.switch.counters["calls"] = 10
        yield
        goes.switch.counters["calls"] = 15
        goes.switch.results["busy", 486] = 2
        goes.switch.setup_seconds.append(0.3)
        del office.seats["s2"]
        yield
        office.take("s2", epoch=3).switch.counters["calls"] = 2
        yield
        office.seats.clear()
        yield
        yield

    said = scrapes(office, changes())
    assert [samples(one, "pbx_calls_started")[()] for one in said] == [11, 16, 18, 18, 18]
    assert [samples(one, "pbx_calls_ended").get(("busy", "486")) for one in said] == [None, 2, 2, 2, 2]
    assert [samples(one, "pbx_call_setup_seconds")[("+Inf",)] for one in said] == [0, 1, 1, 1, 1]
    assert [list(samples(one, "pbx_seat_epoch")) for one in said] == [
        [("s1",), ("s2",)],
        [("s1",)],
        [("s1",), ("s2",)],
        [],
        [],
    ]


async def test_a_node_without_seats_says_nought_and_not_nothing(office: Office) -> None:
    (said,) = scrapes(office, [None])
    for name, figure in (
        ("pbx_calls_started", 0),
        ("pbx_sip_transactions", 0),
        ("pbx_state_store_up", 1),
        ("pbx_database_up", 1),
        ("pbx_cluster_members", 1),
        ("pbx_failovers", 0),
    ):
        assert samples(said, name) == {(): figure}, name
    assert samples(said, "pbx_cluster_leader") == {("cluster",): 1}
    assert samples(said, "pbx_calls") == samples(said, "pbx_seat_holder") == {}
    status = views.status(office.state)
    assert (status.seat, status.epoch, status.seats, status.calls) == (None, None, [], 0)
    assert views.seats(office.state) == []


class CutOff(MemoryStore):
    """A node's own way to the store, while it is `away`."""

    away = False

    async def write(self, seat: str, epoch: int, writes: Sequence[Write]) -> int:
        if self.away:
            raise Unavailable("redis: cut off")
        return await super().write(seat, epoch, writes)


class Other:
    """Another node, which gets through."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def nodes(self) -> Sequence[str]:
        return ["n2"]

    async def write(self, node: str, seat: str, epoch: int, writes: Sequence[Write]) -> int:
        assert node == "n2"
        return await self._store.write(seat, epoch, writes)

    async def read(self, node: str, seat: str, kind: Kind) -> Mapping[str, bytes]:
        raise AssertionError(f"nothing is read: {node}, {seat}, {kind}")

    async def close(self) -> None:
        await self._store.close()


async def test_a_store_that_is_reached_through_another_node_only_is_told_and_warned_of(office: Office) -> None:
    shelf = Shelf()
    own = CutOff(shelf)
    office.state.through = through = Through(own, Other(MemoryStore(shelf)))
    await through.write("s1", 1, [])
    (said,) = scrapes(office, [None])
    assert [samples(said, name)[()] for name in ("pbx_state_store_up", "pbx_store_through_peer")] == [1, 0]
    assert office.state.warnings() == []
    own.away = True
    await through.write("s1", 1, [])
    (said,) = scrapes(office, [None])
    assert [samples(said, name)[()] for name in ("pbx_state_store_up", "pbx_store_through_peer")] == [0, 1]
    assert views.report(office.state).warnings == ("call state is written through n2: own store: redis: cut off",)
    await through.close()


async def test_a_seat_is_not_held_once_nothing_may_be_said_for_it(office: Office) -> None:
    office.take("s1")
    office.take("s2").gate.until = -1.0
    (said,) = scrapes(office, [None])
    assert samples(said, "pbx_seat_holder") == {("s1",): 1, ("s2",): 0}


def count_of(metric: Metric) -> float:
    """How many a histogram has counted."""
    return next(sample.value for sample in metric.samples if sample.name.endswith("_count"))


async def test_how_long_writes_took_is_still_known_when_their_seat_has_gone(office: Office) -> None:
    office.take("s1").runner.replicator.write_seconds.observe(0.003)
    office.take("s2").runner.replicator.write_seconds.observe(0.2)
    office.seats["s1"].kept, office.seats["s1"].lost = 7, 1

    def changes() -> Iterable[None]:
        yield
        del office.seats["s1"]
        yield

    for said in scrapes(office, changes()):
        assert count_of(said["pbx_state_store_seconds"]) == 2
        assert samples(said, "pbx_calls_kept") == {(): 7}
        assert samples(said, "pbx_calls_lost") == {(): 1}


async def test_members_of_a_cluster_tell_who_leads_who_holds_what_and_what_changed_hands(tmp_path: Path) -> None:
    seats, desk = (Seat("s1", "127.0.1.1", ("n1", "n2")), Seat("s2", "127.0.1.2", ("n2", "n1"))), Desk()
    offices, agents, tasks = {}, {}, {}
    for node in ("n1", "n2"):
        (tmp_path / node).mkdir()
        office = offices[node] = Office(tmp_path / node)
        coordinator = MemoryCoordinator(time.monotonic, desk)
        record = Record("0.1.0", http=f"http://{node}")
        agent = Agent(node, seats, coordinator, Shadow(office), record, ttl_s=0.4, now=time.monotonic)
        office.state.node, office.state.agent, office.state.ready = node, agent, True
        office.state.now = time.monotonic
        agents[node], tasks[node] = agent, asyncio.create_task(agent.run())

    def figures(node: str) -> dict[str, Metric]:
        return scrapes(offices[node], [None])[0]

    async def until(true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not true():
                await asyncio.sleep(0.01)  # Only asking again tells.

    try:
        await until(lambda: all(set(agents[n].held) == {s} for n, s in (("n1", "s1"), ("n2", "s2"))))
        await until(lambda: all(a.peers.keys() == {"n1", "n2"} and not a.error for a in agents.values()))
        assert samples(figures("n1"), "pbx_cluster_leader") == {("cluster",): 1}
        assert samples(figures("n2"), "pbx_cluster_leader") == {("cluster",): 0}
        assert samples(figures("n2"), "pbx_cluster_members") == {(): 2}
        assert samples(figures("n1"), "pbx_seat_holder") == {("s1",): 1, ("s2",): 0}
        assert list(samples(figures("n1"), "pbx_adoption_seconds")) == [("s1",)]
        await until(lambda: not views.disagreements(offices["n1"].state))
        held = offices["n1"].seats.pop("s1")
        (found,) = views.disagreements(offices["n1"].state)
        assert (found.seat, found.what) == ("s1", "the coordinator says that n1 holds it, but it does not")
        offices["n1"].seats["s1"] = held
        right, held.epoch = held.epoch, 99
        (found,) = views.disagreements(offices["n1"].state)
        assert found.what == f"n1 holds it at epoch 99, but the coordinator says {right}"
        held.epoch = right
        agents["n1"].wish("s2", "n1")
        await until(lambda: set(agents["n1"].held) == {"s1", "s2"} and not agents["n2"].held)
        await until(lambda: agents["n2"].handovers == 1)
        assert samples(figures("n2"), "pbx_handovers") == {(): 1}
        assert samples(figures("n1"), "pbx_failovers") == {(): 0}, "a seat that was given is no failover"
        await until(lambda: views.seats(offices["n2"].state)[1].holder == "n1")
        assert views.health(offices["n2"].state).reasons == ["holds no seat"]
        tasks.pop("n1").cancel()
        await until(lambda: set(agents["n2"].held) == {"s1", "s2"})
        await until(lambda: agents["n2"].failovers == 2)
        await until(lambda: agents["n2"].peers.keys() == {"n2"})
        said = figures("n2")
        assert samples(said, "pbx_failovers") == {(): 2}
        assert count_of(said["pbx_failover_seconds"]) == 2
        assert count_of(said["pbx_coordinator_seconds"]) > 2
        assert samples(said, "pbx_clock_behind_seconds") == {("n2",): 0}
        assert samples(said, "pbx_cluster_leader") == {("cluster",): 1}
        cluster = views.cluster(offices["n2"].state)
        assert [(m.node, m.http, m.clock_behind_s) for m in cluster.members] == [("n2", "http://n2", 0)]
        assert cluster.sentences[-1].text.startswith("adopted s")
        assert samples(said, "pbx_draining") == {(): 0}
        agents["n2"].drain()
        assert samples(figures("n2"), "pbx_draining") == {(): 1}
        assert not views.cluster(offices["n2"].state).drained, "there is nobody to take its seats"
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        for office in offices.values():
            await office.durable.close()


class Keepalived:
    """What a node knows of its keepalived."""

    error = ""


async def test_it_is_told_whether_keepalived_is_heard_where_it_moves_the_addresses(office: Office) -> None:
    office.state.vrrp = keepalived = Keepalived()

    def changes() -> Iterable[None]:
        yield
        keepalived.error = "keepalived does not run"
        yield

    assert [samples(said, "pbx_keepalived_up") for said in scrapes(office, changes())] == [{(): 1}, {(): 0}]


class TwoRegions:
    """What a node of west knows of the other region."""

    database = database_error = arbiter_error = ""
    lease_s: float | None = None

    def __init__(self) -> None:
        self.now = 50.0
        self.regions = Regions("west", ("east", "west"), Primary("east", 2), lambda _: None, lambda: self.now)
        self.told = Told(MemoryStore())
        self.mirror = Mirror((Seat("main", "192.0.2.1", ("w",)),), self.told, self, self, lambda: self.now)

    async def answer(self, said: bytes, *, lets_go: bool = False, goes_on: bool = False) -> bytes:
        raise NotImplementedError

    async def promote(self, *, lost: bool) -> Primary:
        raise NotImplementedError

    def epoch(self, seat: str) -> int | None:
        raise NotImplementedError

    def frames(self, seat: str) -> AsyncIterator[Frame]:
        raise NotImplementedError

    def is_ours(self, seat: Seat) -> bool:
        return seat.name == "main" and not self.regions.is_primary


async def test_what_a_standby_region_knows_of_the_other_one_is_told(office: Office) -> None:
    office.state.region = two = TwoRegions()
    office.state.started_at_utc -= 3600

    def changes() -> Iterable[None]:
        two.regions.hear(Word("east1", "east", Primary("east", 2)))
        two.mirror.heard_at["main"] = 48.5
        two.lease_s = 0.0
        yield
        two.lease_s = 17.5
        two.now = 60.0
        two.regions.learn(Primary("west", 3))
        yield

    first, then = scrapes(office, changes())
    for name, values in {
        "pbx_region_primary": ({("west",): 0}, {("west",): 1}),
        "pbx_region_term": ({(): 2}, {(): 3}),
        "pbx_region_nodes": ({("east",): 1}, {("east",): 0}),
        "pbx_region_lease_seconds": ({(): 0}, {(): 17.5}),
        "pbx_region_copy_age_seconds": ({("main",): 1.5}, {}),
    }.items():
        assert (samples(first, name), samples(then, name)) == values, name


async def test_when_certificates_end_is_told_of_the_one_that_ends_first(office: Office) -> None:
    """A seat that was adopted before the files were read again shows the old ones until it hears of the new."""

    class Listening(Sockets):
        ends_at: Mapping[str, float] = {}

        @property
        def certificates(self) -> Mapping[str, float]:
            return self.ends_at

    for name, ends_at in (("s1", {"pbx.pem": 100.0, "other.pem": 300.0}), ("s2", {"pbx.pem": 200.0})):
        held = office.take(name)
        held.driver = listening = Listening(NetSettings(()), Door())
        listening.ends_at = ends_at
    (said,) = scrapes(office, [None])
    assert samples(said, "pbx_certificate_expires_timestamp_seconds") == {("pbx.pem",): 100, ("other.pem",): 300}


async def test_how_calls_sounded_is_told_when_they_have_ended(office: Office) -> None:
    office.media.quality.note(SideStats(port=1, packets=98, lost=2, jitter_ms=60.0, rtt_ms=350.0))
    office.media.quality.note(SideStats(port=2, packets=980, lost=20, jitter_ms=60.0, rtt_ms=350.0))
    (said,) = scrapes(office, [None])
    assert samples(said, "pbx_rtp_jitter_seconds")[("0.05",)] == 0
    assert samples(said, "pbx_rtp_jitter_seconds")[("0.1",)] == 1
    assert samples(said, "pbx_rtp_loss_ratio")[("0.02",)] == 1
    assert samples(said, "pbx_rtp_round_trip_seconds")[("0.3",)] == 0
    assert [count_of(said[name]) for name in ("pbx_rtp_round_trip_seconds", "pbx_rtp_mos")] == [1, 1]


async def test_an_overloaded_node_says_so_and_is_no_less_healthy(office: Office) -> None:
    before = views.health(office.state)
    assert not any("overloaded" in warning for warning in before.warnings)
    overload = office.state.overload = Overload(OverloadRules(calls_per_s=1.0))
    registry = make_registry(office.state)
    for i in range(100):
        for n in range(10):
            overload.call_may_begin(i / 10, f"{i} {n}")
        overload.sample(i / 10, 0.0, 1.0)
    after = views.health(office.state)
    assert (after.status, after.reasons) == (before.status, before.reasons)
    (warning,) = set(after.warnings) - set(before.warnings)
    assert re.fullmatch(r"overloaded: (9\d|100)% of the new calls are refused", warning)
    said = {m.name: m for m in registry.collect()}
    assert samples(said, "pbx_overload_level")[("call",)] > 0.9
    assert samples(said, "pbx_overload_level")[("registration",)] == 0
