"""Drills in a lab: the deployment guide's architectures, each program of which dies once under calls, and all else that
can happen to a cluster.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import Final, Self

from msgspec import Struct
from msgspec.structs import replace

from warden.core.errors import WardenError
from warden.ops.drills.planned import numbers, under_load
from warden.ops.drills.region_steps import RECORDS_S, is_copied, is_followed
from warden.ops.drills.report import Check, Report, Verdict, alerts_of, exactly
from warden.ops.drills.speakers import Speakers, against_order
from warden.ops.drills.stage import Drill, Run, Say, Size, Stage, stage_in_lab
from warden.ops.drills.storm import Storm, storm_numbers
from warden.ops.drills.visits import VISITOR, Visit
from warden.ops.ha.inventory import Option
from warden.ops.ha.render import redis_order
from warden.ops.lab.alerts import LOOK_S, alerts, looked
from warden.ops.lab.faults import (
    Cut,
    DatabaseKilled,
    Deaf,
    Frozen,
    HandedOver,
    Killed,
    LineCut,
    Lossy,
    Minority,
    PlannedStop,
    PowerOff,
    RedisKilled,
    StoresUnreachable,
    Upgrade,
)
from warden.ops.lab.hosted import HostedCluster
from warden.ops.lab.lab import Lab
from warden.ops.lab.surroundings import AddressTwice, ClockStep, DiskFull
from warden.ops.nemesis import ETCD_LED_MS, PLANNED_GAP_MS, VRRP_GAP_MS, Fault, frozen_gap_ms

HEALTH_S: Final = 1.0
"""`timings.health_interval` of the labs, whose cluster files leave it as it is."""
FULL: Final = Size(12, measured=12, rate_per_s=5.0)
SCRAPED_S: Final = 18.0
"""Prometheus looks every 15 s: what is gone for so long, it has missed once."""
SHORT: Final = Size(6, measured=6, rate_per_s=2.0)
ONE_PLACE: Final[tuple[Option, ...]] = ("active-passive", "active-active")
OPTIONS: Final[tuple[Option, ...]] = (*ONE_PLACE, "geo")
"""In `geo` it is the primary region that is struck. A region is a cluster of one place by itself, and what is there for
those alone is the same in it: what the other region takes no part in.
"""


class Kind(Struct, frozen=True):
    """A fault of the catalogue: what is promised of it, and how it is made."""

    name: str
    promise: str
    does: str
    make: Callable[[HostedCluster], list[Fault]]
    gap_ms_max: float | None
    lasts_s: float = 4.0
    options: tuple[Option, ...] = ONE_PLACE
    says: str = ""
    """What a node must say of it in its log."""
    alerts: tuple[str, ...] = ()
    """The rules that are there for it."""
    is_visited: bool = False
    """A phone that knows only the domain comes when it has happened."""
    protects: bool = True
    """As in `under_load`: False where the host that is struck has nowhere to write what begins on it."""
    moves: bool = True
    """Whether a seat may be taken by another node meanwhile."""
    is_taken: bool = False
    """Whether other nodes must have the seats of the first one before all is well again."""
    takes_vote: bool = False
    """Whether the first host's member of etcd is lost as well."""
    is_listened_to: bool = False
    """Every packet of a seat that reaches the phones is looked at: nobody speaks out of turn."""


def _first(cluster: HostedCluster) -> str:
    """Of the region whose seats are held, where there are two."""
    return _nodes(cluster)[0]


def _nodes(cluster: HostedCluster) -> list[str]:
    return [host.name for host in cluster.lab.region.hosts_with("pbx")]


KINDS: Final = (
    Kind(
        "power-off", "P1: no answered call ends with its host, and its audio is back within 0.6 s",
        "the power of the host that carries calls is cut, with its share of database, Redis and etcd",
        lambda cluster: [PowerOff(cluster, _first(cluster))], VRRP_GAP_MS, lasts_s=SCRAPED_S,
        alerts=("PBXNodeDown", "PBXFailover"), options=OPTIONS, is_visited=True, takes_vote=True,
    ),
    Kind(
        "hand-over", "P4: a seat that is handed over takes its calls along, unnoticed",
        "`warden handover` of each seat to its next host, and back",
        lambda cluster: [HandedOver(cluster, seat) for seat in cluster.lab.region.seats], PLANNED_GAP_MS,
        options=OPTIONS,
    ),
    Kind(
        "rolling-restart", "P4: restarting Warden on all hosts, one by one, is not noticed",
        "`systemctl restart pbx` on each host in turn",
        lambda cluster: [PlannedStop(cluster, node) for node in _nodes(cluster)], PLANNED_GAP_MS, options=OPTIONS,
    ),
    Kind(
        "rolling-upgrade", "P4: another version on all hosts, and back, is not noticed",
        "`warden upgrade` of the whole cluster to the next version, and then to the one before",
        lambda cluster: [Upgrade(cluster, _first(cluster))], PLANNED_GAP_MS,
    ),
    Kind(
        "kill-warden", "P1: no answered call ends with the process that carries it",
        "kill -9 of Warden's processes on one host; systemd starts them again",
        lambda cluster: [Killed(cluster, _first(cluster), "warden", gap_ms_max=VRRP_GAP_MS)], VRRP_GAP_MS, lasts_s=8.0,
        alerts=("PBXFailover",), options=OPTIONS,
    ),
    Kind(
        "kill-keepalived", "P6: a host whose keepalived is dead speaks for no seat any more; its calls go on",
        "kill -9 of keepalived on one host; systemd clears its addresses and starts it again",
        lambda cluster: [Killed(cluster, _first(cluster), "keepalived", gap_ms_max=None)], None, lasts_s=6.0,
        options=OPTIONS, is_listened_to=True,
    ),
    Kind(
        "kill-haproxy", "P4: calls do not pass HAProxy; the API's address goes to another host",
        "kill -9 of HAProxy on one host",
        lambda cluster: [Killed(cluster, _first(cluster), "haproxy")], PLANNED_GAP_MS, options=OPTIONS,
    ),
    Kind(
        "kill-redis-master", "P7: losing a Redis server costs nothing",
        "kill -9 of all Redis servers of one host, a master among them",
        lambda cluster: [Killed(cluster, redis_order(cluster.lab.region)[0].name, "redis")], PLANNED_GAP_MS,
        lasts_s=8.0, options=OPTIONS,
    ),
    Kind(
        "kill-redis", "P7: losing all of Redis at once costs nothing",
        "kill -9 of the Redis servers of all hosts; systemd starts them again, with what their files have",
        lambda cluster: [RedisKilled(cluster, _first(cluster))], PLANNED_GAP_MS, lasts_s=8.0,
    ),
    Kind(
        "kill-etcd-member", "P7: losing a member of etcd costs nothing",
        "kill -9 of etcd on one host",
        lambda cluster: [Killed(cluster, _first(cluster), "/usr/bin/etcd")], PLANNED_GAP_MS, lasts_s=8.0,
        options=OPTIONS,
    ),
    Kind(
        "kill-database", "P7: losing the database's leader costs nothing",
        "kill -9 of Patroni and PostgreSQL where the leader is",
        lambda cluster: [DatabaseKilled(cluster, _first(cluster))], PLANNED_GAP_MS, lasts_s=20.0,
        alerts=("DatabaseServerDown",), options=OPTIONS,
    ),
    Kind(
        "cut-cable", "P1, P6: a host that is cut off loses no call, and speaks for nobody's",
        "the cable of a host is pulled, and put back",
        lambda cluster: [Cut(cluster, _first(cluster))], VRRP_GAP_MS, lasts_s=SCRAPED_S,
        alerts=("PBXNodeDown", "PBXFailover"), options=OPTIONS, is_listened_to=True, takes_vote=True,
    ),
    Kind(
        "freeze", "P1, P6: a frozen node's calls go on elsewhere, and it says nothing more when it thaws",
        "SIGSTOP of all of Warden's processes on a host for 6 s",
        lambda cluster: [Frozen(cluster, _first(cluster))], frozen_gap_ms(HEALTH_S), lasts_s=6.0,
        alerts=("PBXFailover",), options=OPTIONS, is_taken=True, is_listened_to=True,
    ),
    Kind(
        "one-way", "P1, P6: a host that hears no other host loses no call that was there before",
        "all packets of the other hosts to one are dropped; phones reach it",
        lambda cluster: [Deaf(cluster, _first(cluster))], None, lasts_s=15.0, protects=False,
        alerts=("PBXCoordinatorDown", "PBXFailover"), is_taken=True, is_listened_to=True,
    ),
    Kind(
        # The one that is cut off goes on speaking until its lease is over, beside the one that has its seat by then.
        "minority", "P1: a host that is cut from all others, and not from the phones, loses no call that was there",
        "no packet passes between a host and the others, in either direction; phones reach all of them",
        lambda cluster: [Minority(cluster, _first(cluster))], None, lasts_s=15.0, protects=False,
        alerts=("PBXCoordinatorDown", "PBXFailover"), is_taken=True,
    ),
    Kind(
        "vip-duplicate", "P1: an address that a second host has as well costs no call, and no record is written twice",
        "the address of a seat is added to another host by hand, which announces it by ARP; it is removed again",
        lambda cluster: [AddressTwice(cluster, _first(cluster))], None, alerts=("PBXWarnings",),
        says="another machine says that it has the address of a seat",
    ),
    Kind(
        "disk-full", "P1, P7: a disk without a byte left costs no call and no record, and the log tells of it",
        "Warden's data folder and /var/log of a host that carries calls are full, and an extension is added meanwhile",
        lambda cluster: [DiskFull(cluster, _first(cluster))], PLANNED_GAP_MS, says="directory is not kept",
    ),
    Kind(
        "clock-step", "P1: a clock that jumps by an hour costs no call, and makes no record untrue",
        "the wall clock of Warden on a host that carries calls jumps one hour forward, and back",
        lambda cluster: [ClockStep(cluster, _first(cluster))], PLANNED_GAP_MS, lasts_s=16.0,
    ),
    Kind(
        "packet-loss", "P1: a bad network costs no call",
        "one of ten datagrams to a host is lost, SIP and audio",
        lambda cluster: [Lossy(cluster, _first(cluster))], None, lasts_s=15.0, alerts=("PBXRtpLoss",),
    ),
    Kind(
        "line-cut", "P6, P8: two regions that are cut from each other stay as they are, and the copy catches up",
        "no packet passes between the two regions for 15 s; phones reach both",
        lambda cluster: [LineCut(cluster, _first(cluster))], PLANNED_GAP_MS, lasts_s=15.0, options=("geo",),
        alerts=("PBXRegionAway",), moves=False,
    ),
    Kind(
        "stores-cut", "P7: a host that reaches no store itself loses no call, those that begin meanwhile among them",
        "all packets of Redis, etcd and PostgreSQL between a host and the others are dropped",
        lambda cluster: [StoresUnreachable(cluster, _first(cluster))], None, lasts_s=15.0,
        alerts=("PBXCoordinatorDown", "PBXFailover"), says="call state is written through",
    ),
)  # fmt: skip


def drills() -> list[tuple[Drill, Run]]:
    """Every kind for every option, by names such as `active-active/power-off`."""
    return [
        (
            Drill(f"{option}/{kind.name}", kind.promise, f"{kind.does} (a lab: needs root)", full=FULL, short=SHORT),
            _runner(kind, option),
        )
        for option in OPTIONS
        for kind in KINDS
        if option in kind.options
    ] + [_storm(option) for option in OPTIONS]


def _runner(kind: Kind, option: Option) -> Run:
    async def run(size: Size, say: Say) -> Report:
        drill = Drill(f"{option}/{kind.name}", kind.promise, kind.does, full=FULL, short=SHORT)
        every = [*numbers(size), *([VISITOR] if kind.is_visited else [])]
        async with stage_in_lab(drill, size, say, every, option) as on:
            others = await _others(on)
            faults = kind.make(on.cluster)
            visits = [Visit(on, fault) for fault in faults] if kind.is_visited else []
            for fault in faults:
                if isinstance(fault, ClockStep):
                    await fault.prepare()
            on.cluster.look()
            before = on.cluster.adoptions

            gap_ms_max = kind.gap_ms_max
            if kind.takes_vote and await _leads_etcd(on.cluster.lab, _first(on.cluster)):
                gap_ms_max = ETCD_LED_MS
                on.notes.append(f"{_first(on.cluster)} led etcd")

            async def work() -> Report:
                with ExitStack() as stack:
                    heard = stack.enter_context(_Heard(on)) if kind.is_listened_to else None
                    report = await under_load(
                        on, size, visits or faults, gap_ms_max=gap_ms_max, lasts_s=kind.lasts_s,
                        protects=kind.protects, taken_from=_first(on.cluster) if kind.is_taken else "",
                        records_s=RECORDS_S,
                    )  # fmt: skip
                spoken = [] if heard is None else [heard.check()]
                # Before anybody waits for Prometheus: by then every copy is there.
                copied = [await is_copied(on, region) for region in others]
                return replace(report, checks=(*report.checks, *spoken, *copied))

            report = await _with_alerts(on.cluster.lab, work, kind.alerts)
            checks = [*report.checks, *(check for visit in visits for check in visit.checks())]
            checks += [_told(report, kind.says)] if kind.says else []
            if not kind.moves:
                on.cluster.look()
                checks.append(exactly("seats that were taken meanwhile", on.cluster.adoptions - before, 0))
            return replace(report, checks=tuple(checks))

    return run


async def _leads_etcd(lab: Lab, host: str) -> bool:
    words = ("curl", "--silent", "--fail", "--max-time", "2", "http://127.0.0.1:2379/metrics")
    said = await lab.run(host, *words)
    return "\netcd_server_is_leader 1\n" in said


class _Heard:
    """Who speaks for the seats of the primary region, while it is entered."""

    def __init__(self, on: Stage[HostedCluster]) -> None:
        self._on = on
        self._speakers = Speakers("lan", *(place.host for place in on.cluster.seats.values()))

    def __enter__(self) -> Self:
        self._on.cluster.look()
        self._orders = {seat: [node] for seat, node in self._on.cluster.holders.items()}
        self._before = len(self._on.moves)
        self._speakers.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._speakers.__exit__()

    def check(self) -> Check:
        """Whether each machine was silent from when another one began that took its seat, until it took it again."""
        self._on.cluster.look()
        for move in self._on.moves[self._before :]:
            self._orders.setdefault(move.seat, []).append(move.to)
        wrong, packets = 0, 0
        for seat, place in self._on.cluster.seats.items():
            macs = [self._on.cluster.lab.hosts[node].mac("lan") for node in self._orders.get(seat, [])]
            turns = self._speakers.turns_of[place.host]
            wrong += against_order(turns, macs)
            packets += sum(turn.packets for turn in turns)
        what = "packets of nodes whose seat another one had"
        if not packets:
            return Check(what, "0", "no packet was heard", Verdict.UNKNOWN)
        return self._speakers.check(what, wrong)


def _storm(option: Option) -> tuple[Drill, Run]:
    drill = Drill(
        f"{option}/registration-storm",
        "P5, P9: when all phones come back at once, each is registered in the end, and calls go on",
        "many phones register within seconds at all seats, while others talk and call (a lab: needs root)",
        full=replace(FULL, registrations=2000),
        short=replace(SHORT, registrations=400),
    )

    async def run(size: Size, say: Say) -> Report:
        every = [*numbers(size), *storm_numbers(size.registrations)]
        async with stage_in_lab(drill, size, say, every, option) as on:
            others = await _others(on)
            storm = Storm(on, size.registrations)

            async def work() -> Report:
                report = await under_load(on, size, [storm])
                copied = [await is_copied(on, region) for region in others]
                return replace(report, checks=(*report.checks, *storm.checks(), *copied))

            return await _with_alerts(on.cluster.lab, work, ())

    return drill, run


async def _others(on: Stage[HostedCluster]) -> list[str]:
    """The regions that keep a copy, each of which does. Raises `WardenError`."""
    others = [region for region in on.cluster.lab.regions if region != on.cluster.lab.primary]
    for region in others:
        await is_followed(on, region)
    return others


async def _with_alerts(lab: Lab, work: Callable[[], Awaitable[Report]], expected: Sequence[str]) -> Report:
    """The report of the work, with what Prometheus noticed meanwhile. It has looked when the work begins, and where
    something is expected of it, again afterwards.
    """
    why, before, found = "", dict[str, str](), dict[str, str]()
    try:
        await looked(lab)
        before = await alerts(lab, LOOK_S)
    except WardenError as error:
        why = f"before the drill: {error}"
    began = time.monotonic()
    report = await work()
    try:
        found = await alerts(lab, time.monotonic() - began)
        if not set(expected) <= set(found):
            await looked(lab)
            found = await alerts(lab, time.monotonic() - began)
    except WardenError as error:
        why = str(error)
    notes = (*report.notes, why) if why else report.notes
    return replace(report, notes=notes, alerts=alerts_of(before, found, expected))


def _told(report: Report, words: str) -> Check:
    said = next((f"{one.who}: {one.what}" for one in report.story if words in one.what), "")
    return Check("told in the log", words, said or "nothing", Verdict.OK if said else Verdict.FAILED)
