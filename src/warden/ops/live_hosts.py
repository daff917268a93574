"""What is done to one host of a cluster that serves people, and how it is undone: only what its own systemd bears, one
thing at a time, on a cluster that lacks nothing. Hosts are reached through `Hosts`, as by `warden upgrade`.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from msgspec import Struct

from warden.core.errors import ConfigError, WardenError
from warden.ops.ha.inventory import Cluster as Inventory
from warden.ops.ha.inventory import Role, regions_of
from warden.ops.live import LiveCluster, unfit
from warden.ops.nemesis import PLANNED_GAP_MS
from warden.ops.upgrade import NO_SEAT, Hosts
from warden.web.models import Cluster, Seat, Seats

UNDO_S: Final = 60.0
"""How long it is tried to put a host right that cannot be told so."""
POLL_S: Final = 1.0
THAW_S: Final = 20
"""A frozen host thaws by itself after so long, whatever has become of the drill and of the way to the host."""
FROZEN_S: Final = 6.0
Words = tuple[str, ...]


class Act(Struct, frozen=True):
    """What is done to a host that has one of the roles, in words typed there."""

    does: str
    unit: str
    roles: tuple[Role, ...]
    strike: Words
    mend: tuple[Words, ...]
    """What puts it right, each of which may be typed when all is right already."""
    gap_ms_max: float | None = PLANNED_GAP_MS
    lasts_s: float = 8.0
    looks: Words = ()
    """What must succeed on every host that has the unit, beside that it runs."""
    is_taken: bool = False
    """Whether another node must have the host's seats before it is put right."""


def killed(does: str, unit: str, *roles: Role, gap_ms_max: float | None = PLANNED_GAP_MS, looks: Words = ()) -> Act:
    """`kill -9` of all processes of a unit, which systemd starts again."""
    strike = ("systemctl", "kill", "--signal=SIGKILL", unit)
    mend = (("systemctl", "start", unit),)
    return Act(f"kill -9 of {does}", unit, roles, strike, mend, gap_ms_max, looks=looks)


def restarted(does: str, unit: str, *roles: Role) -> Act:
    """A planned restart of a unit."""
    mend = (("systemctl", "start", unit),)
    return Act(f"restart of {does}", unit, roles, ("systemctl", "restart", unit), mend, lasts_s=4.0)


def frozen(does: str, unit: str, *roles: Role) -> Act:
    """All processes of a unit stand still, and go on: by themselves, where nobody says so."""
    thaw = ("systemctl", "kill", "--signal=SIGCONT", unit)
    # Armed before it is needed; without the output that ssh would wait for.
    armed = f"nohup sh -c 'sleep {THAW_S}; {' '.join(thaw)}' </dev/null >/dev/null 2>&1 &"
    strike = ("sh", "-c", f"{armed} systemctl kill --signal=SIGSTOP {unit}")
    # Its watchdog may have ended it meanwhile.
    mend = (thaw, ("systemctl", "start", unit))
    return Act(f"SIGSTOP of {does}", unit, roles, strike, mend, None, lasts_s=FROZEN_S, is_taken=True)


def place_of(inventory: Inventory, cluster: Cluster, seats: Seats, host: str, act: Act) -> Inventory:
    """The cluster, or the region of it, that the host is in, which must be the one that runs here: clusters may well
    have the same name and the same names of hosts, but not the same seats. Raises `ConfigError`.
    """
    for place in regions_of(inventory):
        if host in {one.name for one in place.hosts}:
            break
    else:
        there = ", ".join(one.name for one in inventory.hosts_with(*act.roles))
        raise ConfigError((f"--host {host}: the cluster file has no such host, but {there}",))
    nodes, members = sorted(one.name for one in place.hosts_with("pbx")), sorted(one.node for one in cluster.members)
    if inventory.cluster_name != cluster.name or nodes != members:
        other = f"{inventory.cluster_name} with {', '.join(nodes)}"
        raise ConfigError((f"--cluster: describes {other}, and this is {cluster.name} with {', '.join(members)}",))
    described, told = ({one.name: one.address for one in of} for of in (place.seats, seats.items))
    if described != told:
        other, this = (", ".join(f"{name} at {told[name]}" for name in sorted(told)) for told in (described, told))
        raise ConfigError((f"--cluster: describes the seats {other}, and this cluster has {this}",))
    having = [one.name for one in place.hosts_with(*act.roles)]
    if host not in having:
        raise ConfigError((f"--host {host}: has no {act.unit}; those are {', '.join(having)}",))
    return place


def at(seats: Seats, host: str) -> tuple[Seat, ...]:
    """The seats that a host holds."""
    return tuple(seat for seat in seats.items if seat.holder == host)


def calls_at(cluster: Cluster, host: str) -> int:
    """How many calls a host carries."""
    return next((member.calls for member in cluster.members if member.node == host), 0)


def refusals(cluster: Cluster, seats: Seats, host: str, calls_at_risk: int) -> list[str]:
    """Why this host of a cluster that lacks nothing is to be left alone. Empty where it may be struck."""
    found = []
    if host == cluster.node:
        found.append(f"{host} is where this drill runs, which would be struck as well; run it on another node")
    calls = calls_at(cluster, host)
    if calls > calls_at_risk:
        found.append(f"{host} carries {calls} calls of people; --calls-at-risk {calls} puts up with that")
    return found + bereft(cluster, seats, host)


def bereft(cluster: Cluster, seats: Seats, host: str) -> list[str]:
    """The seats of the host that nobody else could take."""
    able = {
        member.node
        for member in cluster.members
        if member.node != host and not member.draining and all(why == NO_SEAT for why in member.refusals)
    }
    return [
        f"nobody could take seat {seat.name} from {host}"
        for seat in at(seats, host)
        if not able & set(seat.successors)
    ]  # fmt: skip


async def runs_everywhere(hosts: Hosts, place: Inventory, act: Act) -> None:
    """See that what is to be lost on one host is there on every other. Raises `WardenError` with all that is not."""
    names = [host.name for host in place.hosts_with(*act.roles)]
    looks = [("systemctl", "is-active", act.unit), *([act.looks] if act.looks else [])]
    said = await asyncio.gather(
        *(hosts.run(name, *words) for name in names for words in looks), return_exceptions=True
    )  # fmt: skip
    if unexpected := [one for one in said if isinstance(one, BaseException) and not isinstance(one, WardenError)]:
        raise unexpected[0]
    if wrong := [str(one).strip() for one in said if isinstance(one, WardenError)]:
        raise WardenError(f"drill: {act.unit} is not well everywhere, and is left alone: {'; '.join(wrong)}")


class Target(Struct, frozen=True):
    """The host that is struck, in `place`. `homes` are the seats that it has; afterwards it has again those that it has
    when it is struck.
    """

    hosts: Hosts
    place: Inventory
    host: str
    homes: tuple[Seat, ...]
    despite_warnings: bool
    undo_s: float = UNDO_S


class Struck:
    """An act on a host, as a `Fault`."""

    def __init__(self, live: LiveCluster, act: Act, target: Target, gap_ms_max: float | None) -> None:
        self.name = f"{act.does} on {target.host}"
        self.struck = list(live.seats)
        self.gap_ms_max = gap_ms_max
        self.is_struck = False
        self._live = live
        self._act = act
        self._target = target
        self._homes = target.homes
        self._striking: asyncio.Task[str] | None = None

    async def strike(self) -> None:
        """As `Fault.strike`. Raises `WardenError`, and does nothing, where the cluster is not well any more: since
        somebody agreed, phones have registered and calls have begun.
        """
        await runs_everywhere(self._target.hosts, self._target.place, self._act)
        cluster, seats = await self._live.now()
        whys = unfit(cluster, seats, despite_warnings=self._target.despite_warnings)
        if whys := whys + bereft(cluster, seats, self._target.host):
            raise WardenError(f"drill: the cluster is not well any more, and is left alone: {'; '.join(whys)}")
        self._homes = at(seats, self._target.host)
        # Before: of a command that fails nobody knows what it has done.
        self.is_struck = True
        self._striking = asyncio.create_task(self._target.hosts.run(self._target.host, *self._act.strike))
        await asyncio.shield(self._striking)

    async def mend(self) -> None:
        """As `Fault.mend`; may be called again where it was interrupted. Raises `WardenError` with what is to be typed
        on the host where it could not be told.
        """
        if self._striking is not None:
            # A command that is on its way is not called back: what undoes it comes behind it.
            await asyncio.wait((self._striking,))
        until = time.monotonic() + self._target.undo_s
        for words in self._act.mend:
            while True:
                try:
                    await self._target.hosts.run(self._target.host, *words)
                    break
                except WardenError as error:
                    if time.monotonic() > until:
                        typed = " && ".join(" ".join(one) for one in self._act.mend)
                        raise WardenError(
                            f"drill: {self._target.host} IS NOT PUT RIGHT: {error}; type there: {typed}"
                        ) from error
                    await asyncio.sleep(POLL_S)
        await self._live.well(despite_warnings=self._target.despite_warnings)
        await self._live.home(self._homes)
        self.is_struck = False


@asynccontextmanager
async def undone(fault: Struck) -> AsyncIterator[Struck]:
    """The fault, of which nothing is left behind the block, however it ends. Raises `WardenError`."""
    try:
        yield fault
    finally:
        if fault.is_struck:
            # Who interrupts a drill wants the host back.
            await asyncio.shield(fault.mend())
