"""What the HTTP side may see of a node, and do to it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct, field

from warden.cluster.agent import Agent
from warden.cluster.mirror import Mirror
from warden.cluster.regions import Primary, Regions
from warden.cluster.seat import HeldSeat
from warden.cluster.stream import Told
from warden.cluster.through import Through
from warden.core.histogram import Histogram
from warden.media.protocol import TotalsAre
from warden.media.quality import Quality
from warden.store.ports import Durable, SeatStore
from warden.switch.bans import Bans
from warden.switch.directory import Directory
from warden.switch.overload import Overload
from warden.switch.roster import Roster
from warden.switch.trunks.sealed import Sealer

TOLD_LEVEL: Final = 0.005
"""From which part of refused calls on people are told."""


class MediaView(Protocol):
    """What is known of the media process: its last totals, why it does not do as told ("" where it does), and how the
    sessions were that have ended.
    """

    totals: TotalsAre | None
    error: str
    quality: Quality


class DatabaseView(Protocol):
    """How the database is used: how long transactions took, and (in use, idle) connections of at most so many."""

    seconds: Histogram
    connections_max: int

    @property
    def connections(self) -> tuple[int, int]:
        """Connections in use now, and kept open for use."""


class VrrpView(Protocol):
    """Why nothing is heard of keepalived ("" where it is)."""

    error: str


class RegionView(Protocol):
    """A node's dealings with the other region."""

    regions: Regions
    mirror: Mirror
    told: Told
    database: str
    database_error: str

    @property
    def lease_s(self) -> float | None:
        """For how long the arbiter lets this node hold seats; None where there is no arbiter."""

    @property
    def arbiter_error(self) -> str:
        """Why the arbiter does not answer."""

    async def answer(self, said: bytes, *, lets_go: bool = False, goes_on: bool = False) -> bytes:
        """What a node of the other region is told. Raises `MalformedMessage`."""

    async def promote(self, *, lost: bool) -> Primary:
        """Make this region the primary one. Raises `WardenError`."""


class DefenceView(Protocol):
    """Which addresses of seats held here another machine says that it has too, in words."""

    @property
    def warnings(self) -> list[str]:
        """For the operator."""


class NodeState(Struct):
    """A running node. `seats` are those that it holds now, by name; `agent` is None where the node is no member of a
    cluster. `roster` is what it knows of the registrations at all seats, `bans` of who is shut out.
    `refresh_directory` makes the node look at the directory at once instead of at its next poll. `operator_digest` is
    the SHA-256 (hex) of a bearer token that it keeps in its data folder for the command line on the same machine; its
    role is `admin`. `node_key` signs the tokens by which whoever has the cluster's secret asks any of its nodes (b""
    for none); `sealer` seals passwords of trunks with that secret. `region` is there where there are two. `own_store`
    is the store as this node itself reaches it, where other nodes may need its way there, and `through` its way through
    one of them.
    """

    node: str
    cluster: str
    realm: str
    started_at_utc: float
    now: Callable[[], float]
    seats: Mapping[str, HeldSeat]
    durable: Durable
    directory: Directory
    media: MediaView
    refresh_directory: Callable[[], None]
    operator_digest: str
    sealer: Sealer
    node_key: bytes = b""
    database: DatabaseView | None = None
    agent: Agent | None = None
    vrrp: VrrpView | None = None
    region: RegionView | None = None
    defence: DefenceView | None = None
    own_store: SeatStore | None = None
    through: Through | None = None
    roster: Roster = field(default_factory=Roster)
    bans: Bans = field(default_factory=Bans)
    overload: Overload = field(default_factory=Overload)
    ready: bool = False
    stopping: bool = False
    directory_error: str = ""
    store_warnings: Sequence[str] = ()
    """By which settings the store would lose what it is given."""

    def refusals(self) -> list[str]:
        """Why this node should get no new calls; empty where it may."""
        if self.stopping:
            return ["stopping"]
        reasons = [] if self.ready else ["starting"]
        if self.media.error:
            reasons.append(f"media process: {self.media.error}")
        if self.agent is not None:
            if self.agent.draining:
                reasons.append("draining")
            if self.vrrp is not None and self.vrrp.error:
                reasons.append(self.vrrp.error)
            if self.agent.error and not self.agent.by_consent:
                reasons.append(f"coordinator: {self.agent.error}")
            elsewhere = self.agent.rules.elsewhere
            if elsewhere:
                reasons.append(elsewhere)
            elif not self.seats and self.ready:
                reasons.append("holds no seat")
        return reasons

    def refusal_of(self, seat: str) -> str:
        """Why the address of a seat must not be here, where keepalived moves it; "" where it may be."""
        if self.stopping and self.agent is not None and self.agent.drained:
            return "stopping"
        if not self.ready:
            return "starting"
        if self.agent is None:
            return "this node is no member of a cluster"
        if seat not in self.seats and (self.media.error or self.agent.error):
            # A holder goes on: it may be the only one left, and its own lease tells it when to stop.
            return f"media process: {self.media.error}" if self.media.error else f"coordinator: {self.agent.error}"
        return self.agent.refusal(seat)

    def unstored(self) -> list[str]:
        """What is not being stored at the moment, and why: calls go on, but would not survive."""
        out = []
        for seat in self.seats.values():
            replicator = seat.runner.replicator
            where = f"seat {seat.name}: " if self.agent is not None else ""
            if replicator.store_error:
                waiting = len(replicator.unprotected)
                out.append(f"{where}call state and registrations ({waiting} records wait): {replicator.store_error}")
            if seat.outbox.error:
                out.append(f"{where}call detail records ({seat.outbox.waiting} wait): {seat.outbox.error}")
        if self.directory_error:
            out.append(f"directory (the last known is in use): {self.directory_error}")
        return out

    def warnings(self) -> list[str]:
        """What the operator should look at, though all works: settings in which the nodes of a cluster differ, seats
        that nobody could take over, addresses that another machine has too, what the store would lose, that it is only
        reached through another node, records that could not be read, certificates that have expired, items of the
        dialplan that could not be read.
        """
        found = [*([] if self.agent is None else self.agent.warnings), *self.store_warnings]
        found += [] if self.through is None else self.through.warnings
        if self.region is not None:
            if self.region.database_error:
                found.append(f"the region's database is not seen to: {self.region.database_error}")
            if self.region.arbiter_error:
                found.append(f"arbiter is away: {self.region.arbiter_error}")
            if self.region.regions.keep_error:
                found.append(f"which region is the primary one is not kept: {self.region.regions.keep_error}")
        found += [] if self.defence is None else self.defence.warnings
        for what, limiter in (("calls", self.overload.calls), ("registrations", self.overload.registrations)):
            if limiter.level > TOLD_LEVEL:
                found.append(f"overloaded: {limiter.level:.0%} of the new {what} are refused")
        found += [f"dialplan: {why}" for why in self.directory.plan.unread]
        seats = self.seats.values()
        found += [w for seat in seats for w in (*unread(seat), *seat.driver.warnings)]
        return list(dict.fromkeys([*found, *(w for seat in seats for w in seat.switch.trunks.errors)]))


def unread(seat: HeldSeat) -> list[str]:
    """What of a seat's records could not be read."""
    aside, found = seat.switch.aside, []
    if len(aside):
        found.append(f"seat {seat.name}: {len(aside)} records could not be read and are kept aside (warden records)")
    if aside.left:
        found.append(f"seat {seat.name}: {len(aside.left)} records of a newer version wait for a node that knows it")
    return found
