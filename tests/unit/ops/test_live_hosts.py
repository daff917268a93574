"""Which host of a cluster that serves people may be struck, and that what was done to it is undone."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from pydantic import BaseModel

from warden.config.load import parse
from warden.config.tree import Config
from warden.core.errors import ConfigError, Unavailable, WardenError
from warden.ops.drills.live import LIVE, ON_HOST
from warden.ops.ha.inventory import Cluster as Inventory
from warden.ops.ha.inventory import Option
from warden.ops.ha.starter import starter
from warden.ops.live import NAME, LiveCluster
from warden.ops.live_hosts import Struck, Target, at, place_of, refusals, runs_everywhere, undone
from warden.ops.selftest import PREFIX
from warden.store.durable import SqlDurable, open_durable
from warden.store.migrate import migrate
from warden.switch.directory import new_extension
from warden.web.models import Cluster, Member, Seat, Seats

KILL = ON_HOST["kill-warden"].act
Model = TypeVar("Model", bound=BaseModel)


def member(node: str, calls: int = 0, **more: object) -> Member:
    fields = {
        "version": "0.3.0", "http": "http://192.0.2.1:9000", "draining": False, "seats": [], "sentence": "",
        "clock_behind_s": 0.0, "unprotected_calls": 0, "registrations": 0, "refusals": [], "not_stored": [],
        "warnings": [],
    }  # fmt: skip
    return Member.model_validate({**fields, "node": node, "calls": calls, **more})


def seat(name: str, holder: str, *successors: str, address: str = "192.168.1.100") -> Seat:
    return Seat(
        name=name, address=address, holder=holder, epoch=3, successors=list(successors), held_here=False,
        calls_here=0, calls=0,
    )  # fmt: skip


def cluster(*members: Member, name: str = "pbx-production") -> Cluster:
    return Cluster(
        name=name, node=members[0].node, clustered=True, drained=False, coordinator_error="", members=list(members),
        sentences=[],
    )  # fmt: skip


def inventory(option: Option) -> Inventory:
    document = parse(starter(option).encode(), {}, Inventory, name="cluster.yml")
    assert not document.problems
    return document.config


PASSIVE = cluster(member("pbx1"), member("pbx2", 3))
MAIN = Seats(items=[seat("main", "pbx2", "pbx1", "pbx2")])


class Hosts:
    """Hosts that note what they are told, and refuse the words in `bad` as often as it says."""

    names: Sequence[str] = ("pbx1", "pbx2")

    def __init__(self, **bad: int) -> None:
        self.told: list[str] = []
        self._bad = bad

    async def run(self, host: str, *words: str) -> str:
        said = f"{host}: {' '.join(words)}"
        self.told.append(said)
        for bad, times in self._bad.items():
            if bad in said and times:
                self._bad[bad] -= 1
                raise WardenError(f"{said}: no route to host")
        return ""

    @property
    def changed(self) -> list[str]:
        """What they were told beside being looked at."""
        return [said for said in self.told if "is-active" not in said]


class Door:
    """A node that says what it is given."""

    def __init__(self, cluster: Cluster, seats: Seats) -> None:
        self.cluster, self.seats, self.posted = cluster, seats, list[str]()

    def get(self, path: str, model: type[Model]) -> Model:
        found = self.cluster if path == "cluster" else self.seats
        assert isinstance(found, model)
        return found

    def post(self, path: str, body: Mapping[str, str] | None, model: type[Model]) -> Model:
        self.posted.append(f"{path} {body}")
        (moved,) = self.seats.items
        to = (body or {})["to"]
        self.seats = Seats(items=[moved.model_copy(update={"holder": to})])
        self.cluster = cluster(*(one.model_copy(update={"seats": ["main"]}) for one in self.cluster.members))
        assert isinstance(moved, model)
        return moved


def struck(hosts: Hosts, door: Door, undo_s: float = 0.0) -> Struck:
    live = LiveCluster(
        Config(), open_durable("sqlite:////nowhere/warden.sqlite"), door, MAIN.items[0], ["pbx1", "pbx2"]
    )
    place = inventory("active-passive")
    target = Target(hosts, place, "pbx2", at(MAIN, "pbx2"), despite_warnings=False, undo_s=undo_s)
    return Struck(live, KILL, target, None)


def test_a_host_that_nobody_could_stand_in_for_or_that_carries_people_is_left_alone() -> None:
    assert refusals(PASSIVE, MAIN, "pbx2", 3) == []
    assert refusals(PASSIVE, MAIN, "pbx2", 2) == ["pbx2 carries 3 calls of people; --calls-at-risk 3 puts up with that"]
    assert refusals(PASSIVE, MAIN, "pbx1", 0) == [
        "pbx1 is where this drill runs, which would be struck as well; run it on another node"
    ]
    # A witness is no member, and carries nothing.
    assert refusals(PASSIVE, MAIN, "witness", 0) == []
    for change in ({"draining": True}, {"refusals": ["region west is primary"]}):
        alone = cluster(member("pbx1", **change), member("pbx2"))
        assert refusals(alone, MAIN, "pbx2", 0) == ["nobody could take seat main from pbx2"]
    idle = cluster(member("pbx1", refusals=["holds no seat"]), member("pbx2"))
    assert refusals(idle, MAIN, "pbx2", 0) == []


def test_the_cluster_file_must_be_of_this_cluster_and_the_host_have_what_is_to_be_lost() -> None:
    passive = inventory("active-passive")
    assert place_of(passive, PASSIVE, MAIN, "pbx2", KILL) == passive
    with pytest.raises(ConfigError, match="--host pbx9: the cluster file has no such host, but pbx1, pbx2"):
        place_of(passive, PASSIVE, MAIN, "pbx9", KILL)
    with pytest.raises(ConfigError, match="--host witness: has no pbx; those are pbx1, pbx2"):
        place_of(passive, PASSIVE, MAIN, "witness", KILL)
    assert place_of(passive, PASSIVE, MAIN, "witness", ON_HOST["kill-etcd-member"].act) == passive
    for other in (cluster(member("pbx1"), member("pbx2"), name="else"), cluster(member("pbx1"), member("pbx3"))):
        with pytest.raises(ConfigError, match="--cluster: describes pbx-production with pbx1, pbx2, and this is"):
            place_of(passive, other, MAIN, "pbx2", KILL)
    # Of two regions, that in which the drill runs.
    east = cluster(member("east1"), member("east2"))
    assert [host.name for host in place_of(inventory("geo"), east, MAIN, "east2", KILL).hosts][:2] == ["east1", "east2"]
    with pytest.raises(ConfigError, match="describes pbx-production with west1, west2, and this is"):
        place_of(inventory("geo"), east, MAIN, "west1", KILL)


def test_a_file_of_another_cluster_with_the_same_names_strikes_nobodys_host() -> None:
    passive, geo = inventory("active-passive"), inventory("geo")
    elsewhere = Seats(items=[seat("main", "pbx2", "pbx1", "pbx2", address="10.0.0.100")])
    with pytest.raises(ConfigError, match=r"the seats main at 192\.168\.1\.100, and this cluster has main at 10\.0\.0"):
        place_of(passive, PASSIVE, elsewhere, "pbx2", KILL)
    more = Seats(items=[*MAIN.items, seat("other", "pbx1", "pbx1", address="192.168.1.101")])
    with pytest.raises(ConfigError, match=r"this cluster has main at 192\.168\.1\.100, other at 192\.168\.1\.101"):
        place_of(passive, PASSIVE, more, "pbx2", KILL)
    # Of two regions, the seats of that in which the drill runs.
    west, there = cluster(member("west1"), member("west2")), seat("main", "west1", "west1", address="192.168.2.100")
    assert place_of(geo, west, Seats(items=[there]), "west2", KILL).seats[0].address == "192.168.2.100"
    with pytest.raises(ConfigError, match=r"the seats main at 192\.168\.2\.100, and this cluster has main at 192"):
        place_of(geo, west, MAIN, "west2", KILL)


async def test_what_is_lost_on_one_host_must_be_there_on_every_other() -> None:
    etcd = ON_HOST["kill-etcd-member"].act
    hosts = Hosts()
    await runs_everywhere(hosts, inventory("active-passive"), etcd)
    assert {told.split(":")[0] for told in hosts.told} == {"pbx1", "pbx2", "witness"}
    # One that runs, and is not well.
    with pytest.raises(WardenError, match=r"etcd is not well everywhere, and is left alone: witness: curl .*no route"):
        await runs_everywhere(Hosts(**{"witness: curl": 1}), inventory("active-passive"), etcd)


async def test_what_was_done_is_undone_where_the_drill_ends_in_the_middle_and_seats_go_home() -> None:
    hosts, door = Hosts(), Door(PASSIVE, MAIN)

    async def work() -> None:
        async with undone(struck(hosts, door)) as fault:
            await fault.strike()
            door.seats = Seats(items=[seat("main", "pbx1", "pbx1", "pbx2")])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    assert hosts.changed == ["pbx2: systemctl kill --signal=SIGKILL pbx", "pbx2: systemctl start pbx"]
    assert door.posted == ["seats/main/handover {'to': 'pbx2'}"]
    # What was not done is not undone.
    hosts = Hosts()
    async with undone(struck(hosts, door)):
        pass
    assert hosts.changed == []


async def test_a_command_that_failed_is_undone_as_well_for_nobody_knows_what_it_has_done() -> None:
    hosts = Hosts(SIGKILL=1)
    with pytest.raises(WardenError, match="no route to host"):
        async with undone(struck(hosts, Door(PASSIVE, MAIN))) as fault:
            await fault.strike()
    assert hosts.told[-1] == "pbx2: systemctl start pbx"


async def test_a_host_that_is_out_of_reach_is_told_again_and_its_operator_what_to_type() -> None:
    hosts = Hosts(start=1)
    async with undone(struck(hosts, Door(PASSIVE, MAIN), undo_s=30.0)) as fault:
        await fault.strike()
    assert hosts.told.count("pbx2: systemctl start pbx") == 2
    with pytest.raises(WardenError, match=r"pbx2 IS NOT PUT RIGHT: .*; type there: systemctl start pbx"):
        async with undone(struck(Hosts(start=9), Door(PASSIVE, MAIN))) as fault:
            await fault.strike()


async def test_a_cluster_that_has_become_unwell_since_somebody_agreed_is_not_struck() -> None:
    hosts = Hosts()
    door = Door(cluster(member("pbx1", unprotected_calls=1), member("pbx2")), MAIN)
    with pytest.raises(WardenError, match="is not well any more, and is left alone: pbx1: has 1 unprotected"):
        async with undone(struck(hosts, door)) as fault:
            await fault.strike()
    assert hosts.changed == []


async def test_what_has_failed_elsewhere_since_somebody_agreed_is_seen_before_it_is_struck() -> None:
    hosts = Hosts(**{"pbx1: systemctl is-active pbx": 1})
    with pytest.raises(WardenError, match="pbx is not well everywhere, and is left alone: pbx1: systemctl is-active"):
        async with undone(struck(hosts, Door(PASSIVE, MAIN))) as fault:
            await fault.strike()
    assert hosts.changed == []


async def test_a_host_that_has_got_a_seat_since_which_nobody_else_could_take_is_left_alone() -> None:
    hosts = Hosts()
    door = Door(PASSIVE, Seats(items=[*MAIN.items, seat("second", "pbx2", "pbx2")]))
    with pytest.raises(WardenError, match="nobody could take seat second from pbx2"):
        async with undone(struck(hosts, door)) as fault:
            await fault.strike()
    assert hosts.changed == []


async def test_a_seat_goes_home_to_where_it_was_when_the_host_was_struck_and_not_when_somebody_was_asked() -> None:
    hosts = Hosts()
    door = Door(PASSIVE, Seats(items=[seat("main", "pbx1", "pbx1", "pbx2")]))
    async with undone(struck(hosts, door)) as fault:
        await fault.strike()
    assert hosts.changed == ["pbx2: systemctl kill --signal=SIGKILL pbx", "pbx2: systemctl start pbx"]
    assert door.posted == []


async def test_an_interrupt_waits_for_the_command_that_is_under_way_and_undoes_it_then() -> None:
    begun, released = asyncio.Event(), asyncio.Event()

    class Slow(Hosts):
        async def run(self, host: str, *words: str) -> str:
            if "kill" in words:
                begun.set()
                await released.wait()
            return await super().run(host, *words)

    hosts = Slow()

    async def work() -> None:
        async with undone(struck(hosts, Door(PASSIVE, MAIN))) as fault:
            await fault.strike()

    drill = asyncio.create_task(work())
    await begun.wait()
    drill.cancel()
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await drill
    assert hosts.changed == ["pbx2: systemctl kill --signal=SIGKILL pbx", "pbx2: systemctl start pbx"]


async def test_a_second_drill_is_refused_and_what_a_killed_one_left_is_removed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'warden.sqlite'}"
    await migrate(url)
    durable = open_durable(url)
    try:
        for number, made_at in (("0123-1", time.time() - 9000), ("4567-1", time.time() - 20)):
            await durable.add_extension(
                new_extension(PREFIX + number, "secret-secret", realm="warden", now=made_at, name=NAME)
            )
        live = LiveCluster(Config(), durable, Door(PASSIVE, MAIN), MAIN.items[0], ["pbx1", "pbx2"])
        with pytest.raises(WardenError, match=f"another one is under way, or was killed: extension {PREFIX}4567-1"):
            await live.start({f"{live.prefix}1": "secret-secret"})
        assert [extension.number for extension in await durable.extensions()] == [f"{PREFIX}4567-1"]
    finally:
        await durable.close()


async def test_extensions_are_removed_as_soon_as_a_database_that_is_away_is_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'warden.sqlite'}"
    await migrate(url)
    durable = open_durable(url)
    failures = 2
    remove = SqlDurable.remove_extension

    async def remove_extension(self: SqlDurable, number: str) -> bool:
        nonlocal failures
        if failures:
            failures -= 1
            raise Unavailable("database warden.sqlite: database is locked")
        return await remove(self, number)

    monkeypatch.setattr(SqlDurable, "remove_extension", remove_extension)
    try:
        live = LiveCluster(Config(), durable, Door(PASSIVE, MAIN), MAIN.items[0], ["pbx1", "pbx2"])
        await live.start({f"{live.prefix}{i}": "secret-secret" for i in (1, 2)})
        assert len(await durable.extensions()) == 2
        await live.leave()
        assert await durable.extensions() == []
    finally:
        await durable.close()


def test_nothing_is_offered_that_only_hands_could_undo() -> None:
    assert set(LIVE) == {
        "handover", "rolling-restart", "kill-warden", "kill-keepalived", "kill-haproxy", "kill-redis-server",
        "kill-etcd-member", "freeze",
    }  # fmt: skip
    for one in ON_HOST.values():
        # A unit of one host, by systemd, and never by the name of a program, which others have as well.
        assert one.act.strike[0] in ("systemctl", "sh"), one
        assert all(words[0] == "systemctl" and words[-1] == one.act.unit for words in one.act.mend), one
    # Whatever becomes of the drill and of the way to the host, it thaws.
    assert "sleep 20; systemctl kill --signal=SIGCONT pbx" in ON_HOST["freeze"].act.strike[-1]
