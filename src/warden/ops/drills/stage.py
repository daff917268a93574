"""What every drill stands on: a cluster on this machine, phones at its seats, the accounts, and the story."""

import asyncio
import gc
import resource
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar

from msgspec import Struct

from warden import __version__
from warden.core.errors import WardenError
from warden.ops.checker import Checker, Gap
from warden.ops.drills.lateness import Lateness
from warden.ops.drills.report import Check, Moment, Report, Verdict, exactly, shortened
from warden.ops.ha.inventory import Option
from warden.ops.lab.hosted import HostedCluster, hosted_cluster
from warden.ops.lab_cluster import ADOPTED, LabCluster, LogLine, lab_cluster
from warden.ops.ledger import CDR_S
from warden.ops.live import LiveCluster
from warden.ops.namespaces import CLIENT, Driver, NamespaceCluster, namespace_cluster
from warden.ops.nemesis import PowerLoss
from warden.ops.town import Talk, Town

LEASE_S: Final = 1.0
AT_ONCE: Final = 50
SLOWLY: Final = 10
"""Calls that are not measured to the packet send one of ten: what all together would send is more than two processors
can carry and listen to at once.
"""
SETTLED_S: Final = 2.0
"""How long all is well before something happens."""

LOOK_S: Final = 0.2

FORGOTTEN_S: Final = 2.0
"""A node that hears nobody may be silent for so long before its log tells that another one has its seat."""

ClusterType = TypeVar("ClusterType", LabCluster, NamespaceCluster, HostedCluster, LiveCluster)
Say = Callable[[str, str, bool], None]
"""(who, what, bad)"""
Run = Callable[["Size", Say], Awaitable[Report]]


class Size(Struct, frozen=True):
    """How large a drill is; each uses what it needs. `measured` of the `calls` send a packet in every 20 ms."""

    calls: int
    measured: int = 100
    rate_per_s: float = 20.0
    seconds: float = 30.0
    registrations: int = 10_000


class Drill(Struct, frozen=True):
    """What is known of a drill before it runs."""

    name: str
    promise: str
    does: str
    full: Size
    short: Size


class Move(Struct, frozen=True):
    """A seat that another node took than the one that had it, as it was seen in its log at a time in Unix seconds."""

    seat: str
    to: str
    seen_at_utc: float


class Stage(Generic[ClusterType]):
    """A drill under way. `seats` are their names, in the order of the town's; `moves` is what became of them so far."""

    def __init__(self, drill: Drill, size: Size, cluster: ClusterType, town: Town, say: Say) -> None:
        self.cluster: ClusterType = cluster
        self.town = town
        self.lateness = Lateness()
        self.seats: Sequence[str] = list(cluster.seats)
        self.checker = Checker(town, self.seats, at_once=AT_ONCE)
        self.notes: list[str] = []
        self.moves: list[Move] = []
        self._drill = drill
        self._size = size
        self._tell = say
        self._began = time.monotonic()
        self._story: list[Moment] = []
        self._gaps_ms: list[float] = []
        cluster.on_line = self._hear

    def say(self, text: str, *, bad: bool = False) -> None:
        """Tell whoever watches."""
        self._say(self._drill.name, text, bad)

    def gaps_ms(self, seats: Sequence[str]) -> Gap | None:
        """As `Checker.gaps_ms`; they go into the report."""
        gap = self.checker.gaps_ms(seats)
        self._gaps_ms += self.checker.gaps
        return gap

    def went_on(self, talk: Talk, since_utc: float) -> bool:
        """Whether a seat of the call's phones went to another node soon after a time."""
        places = {talk.caller.server, talk.callee.server}
        seats = {name for name, place in self.cluster.seats.items() if place in places}
        return any(
            move.seat in seats and since_utc <= move.seen_at_utc <= since_utc + FORGOTTEN_S for move in self.moves
        )

    async def open(self) -> None:
        """Have the phones of the town registered and their calls made."""
        self.checker = Checker(self.town, self.seats, at_once=AT_ONCE)
        self.checker.alive, self.checker.ringing = list(self.town.talks), list(self.town.ringing)
        self.say(f"{len(self.town.phones)} phones register and make {len(self.town.talks)} calls")
        await self.town.settle(at_once=AT_ONCE)
        # To walk through a thousand phones in search of what is over would keep all of them waiting for a tenth of a
        # second and more.
        gc.collect()
        gc.freeze()
        gc.disable()

    async def strike(self, fault: PowerLoss, seat: str) -> None:
        """Have the node that holds the seat lose its power. Raises `WardenError` where another node has it: nothing
        would be proved.
        """
        self.cluster.look()
        if seat not in fault.struck:
            raise WardenError(f"{fault.name} strikes nobody: {self.cluster.holders.get(seat) or 'no node'} has {seat}")
        await fault.strike()

    async def cdrs(self, within_s: float = CDR_S) -> Check:
        """Whether every call that is over has its CDR, and no other is there."""
        async with self.cluster.database() as durable:
            wrong = await self.checker.ledger.compare(durable, within_s)
        self.notes += [one.why for one in wrong]
        ended = len(self.checker.ledger.ended)
        verdict = Verdict.FAILED if wrong else Verdict.OK if ended else Verdict.UNKNOWN
        return Check("CDRs wrong, missing or doubled", f"0 of {ended:,}", f"{len(wrong):,} of {ended:,}", verdict)

    def report(self, checks: Iterable[Check], setting: str) -> Report:
        """The accounts."""
        self.cluster.look()
        notes = [*self.notes, *self.checker.problems, *self.town.violations]
        checks = (*checks, exactly("breaches of SIP that a phone saw", len(self.town.violations), 0))
        seconds = round(time.monotonic() - self._began, 1)
        return Report(
            self._drill.name, self._drill.promise, setting, checks, shortened(notes), seconds,
            tuple(self._story), tuple(round(gap, 1) for gap in self._gaps_ms),
            run=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Warden {__version__}",
        )  # fmt: skip

    def _say(self, who: str, what: str, bad: bool) -> None:
        self._story.append(Moment(round(time.monotonic() - self._began, 2), who, what, bad))
        self._tell(who, what, bad)

    def _hear(self, node: str, line: LogLine) -> None:
        bad = line.level not in ("info", "debug")
        self._say(node, line.event, bad)
        if (adopted := ADOPTED.match(line.event)) is not None and self.cluster.holders.get(adopted[1]) != node:
            self.moves.append(Move(adopted[1], node, time.time()))
        if "adopted" in line.event and " 0 calls and 0 " not in line.event:
            self.notes.append(f"{node}: {line.event}")


@asynccontextmanager
async def stage(
    drill: Drill,
    size: Size,
    say: Say,
    numbers: Iterable[str],
    *,
    postgres: bool = False,
    newer: Collection[str] = (),
) -> AsyncIterator[Stage[LabCluster]]:
    """Three nodes on loopback addresses, whose seats lie where the leases are; those in `newer` are of the next
    version. Raises `WardenError`.
    """
    async with lab_cluster(nodes=3, lease_s=LEASE_S, postgres=postgres, newer=newer) as cluster:
        if cluster.redis is None:
            raise WardenError("drills need redis-server; on Debian: apt-get install redis-server")
        async with _on(drill, size, say, numbers, cluster, "127.0.0.1") as stage:
            yield stage


@asynccontextmanager
async def stage_in_namespaces(
    drill: Drill, size: Size, say: Say, numbers: Iterable[str], driver: Driver
) -> AsyncIterator[Stage[NamespaceCluster]]:
    """Three nodes with a network stack each, and seats whose addresses move; a seat stays where it has gone. Raises
    `WardenError`, also where that needs root.
    """
    async with (
        namespace_cluster(nodes=3, driver=driver, settings="  auto_recovery: false\n") as cluster,
        _on(drill, size, say, numbers, cluster, CLIENT) as stage,
    ):
        yield stage


@asynccontextmanager
async def stage_in_lab(
    drill: Drill, size: Size, say: Say, numbers: Iterable[str], option: Option, text: str = ""
) -> AsyncIterator[Stage[HostedCluster]]:
    """The option's cluster, each host with all its programs; `text` is a cluster file in the place of the option's.
    Raises `WardenError`, also where that needs root.
    """
    async with (
        hosted_cluster(option, text) as cluster,
        _on(drill, size, say, numbers, cluster, cluster.lab.phones_address) as stage,
    ):
        yield stage


@asynccontextmanager
async def stage_live(
    drill: Drill, size: Size, say: Say, numbers: Iterable[str], cluster: LiveCluster, local_host: str
) -> AsyncIterator[Stage[LiveCluster]]:
    """A seat of a cluster that runs already, with phones of a drill beside those of its people. Raises
    `WardenError`.
    """
    async with _on(drill, size, say, numbers, cluster, local_host, cluster.prefix) as stage:
        yield stage


@asynccontextmanager
async def _on(
    drill: Drill,
    size: Size,
    say: Say,
    numbers: Iterable[str],
    cluster: ClusterType,
    local_host: str,
    prefix: str = "",
) -> AsyncIterator[Stage[ClusterType]]:
    _raise_file_limit()
    passwords = {prefix + number: secrets.token_urlsafe(18) for number in numbers}
    there = "are there, and get" if prefix else "start, with"
    say(drill.name, f"{len(cluster.nodes)} nodes {there} {len(passwords):,} extensions", False)
    await cluster.start(passwords)
    async with Town(list(cluster.seats.values()), passwords, local_host=local_host, prefix=prefix) as town:
        stage = Stage(drill, size, cluster, town, say)
        watching = asyncio.create_task(_watch(cluster))
        try:
            async with stage.lateness:
                yield stage
        finally:
            watching.cancel()
            gc.enable()
            gc.unfreeze()


async def _watch(cluster: LabCluster | NamespaceCluster | HostedCluster | LiveCluster) -> None:
    while True:
        cluster.look()
        await asyncio.sleep(LOOK_S)


def numbers_of(calls: int, first: int = 0) -> list[str]:
    """The numbers of callers and callees."""
    return [f"{kind}{i:05}" for i in range(first, first + calls) for kind in (1, 2)]


def talk_at(
    town: Town, i: int, seat: int, *, to: int | None = None, every: int = 1, answers_after_s: float | None = None
) -> Talk:
    """The phones of call `i`, both at one seat, or the callee at another."""
    caller, callee = (f"{town.prefix}{kind}{i:05}" for kind in (1, 2))
    there = seat if to is None else to
    return Talk(
        town.phone(caller, seat, every=every),
        town.phone(callee, there, every=every, answers_after_s=answers_after_s),
        seat,
    )


def _raise_file_limit() -> None:
    """Each call has two SIP sockets and two for audio."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
