"""One seat of a cluster that serves people, for drills by the operator's own means: test phones call each other there
with extensions that are made for it and removed again, and every seat is where it was in the end.

What is done to a host meanwhile, others know (`live_hosts`).
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol, TypeVar
from urllib.parse import quote, urlsplit

from pydantic import BaseModel

from warden.call.cdr import Cdr
from warden.config.tree import Config
from warden.core.address import Address
from warden.core.errors import WardenError
from warden.ops.lab_cluster import LogLine
from warden.ops.ledger import when_there
from warden.ops.nemesis import PLANNED_GAP_MS
from warden.ops.selftest import PREFIX
from warden.ops.upgrade import NO_SEAT
from warden.store.durable import SqlDurable
from warden.switch.directory import new_extension
from warden.web.models import Cluster, Seat, Seats

NAME: Final = "drill"
"""The name of the extensions."""
ABANDONED_S: Final = 600.0
"""Extensions that are older were left by a drill that was killed; none takes so long."""
WELL_S: Final = 120.0
"""A host that runs again is well after some seconds; its database and Redis may have more to catch up with."""
MOVED_S: Final = 30.0
"""A hand-over takes some tenths of a second; one that has not come then does not come."""
POLL_S: Final = 0.1
KNOWN_S: Final = 1.5
"""By then every node has looked at the directory; a log-in before would look like an attack."""
CDRS_MAX: Final = 100

Model = TypeVar("Model", bound=BaseModel)


class Door(Protocol):
    """The API of a node of the cluster. What it does not do it says by `WardenError`."""

    def get(self, path: str, model: type[Model]) -> Model:
        """What `/api/v1/PATH` says."""

    def post(self, path: str, body: Mapping[str, str] | None, model: type[Model]) -> Model:
        """Have something done; what is said of it."""


def unfit(cluster: Cluster, seats: Seats, *, despite_warnings: bool = False) -> list[str]:
    """Why the cluster is to be left alone: whatever it lacks already. Empty where all is well."""
    if not cluster.clustered:
        return [f"{cluster.node} is in no cluster"]
    found = [f"the coordinator is away: {cluster.coordinator_error}"] if cluster.coordinator_error else []
    there = {member.node for member in cluster.members}
    wanted = {node for seat in seats.items for node in seat.successors}
    found += [f"{node} is missing" for node in sorted(wanted - there)]
    for member in cluster.members:
        whys = [why for why in member.refusals if why != NO_SEAT]
        whys += [f"does not store: {what}" for what in member.not_stored]
        whys += [f"warns: {what}" for what in member.warnings if not despite_warnings]
        whys += ["is draining"] if member.draining else []
        whys += [f"has {member.unprotected_calls} unprotected calls"] if member.unprotected_calls else []
        found += [f"{member.node}: {why}" for why in whys]
    found += [f"seat {seat.name} is held by nobody" for seat in seats.items if seat.holder is None]
    return found


def route(cluster: Cluster, seats: Seats, name: str | None) -> tuple[Seat, str]:
    """The seat that moves, by default that of the node asked, and the node that it goes to. Raises `WardenError`."""
    seat = next((seat for seat in seats.items if (seat.held_here if name is None else seat.name == name)), None)
    if seat is None:
        named = ", ".join(seat.name for seat in seats.items)
        why = f"{cluster.node} holds no seat" if name is None else f"there is no seat {name}"
        raise WardenError(f"drill: {why}; --seat names one of {named}")
    to = next((node for node in seat.successors if node != seat.holder), None)
    if to is None:
        raise WardenError(f"drill: seat {seat.name} has no successor but {seat.holder}")
    return seat, to


class _Records:
    """Of a database that other people's calls are written to as well, the records of the test phones."""

    def __init__(self, durable: SqlDurable, numbers: Sequence[str]) -> None:
        self._durable = durable
        self._numbers = numbers

    async def cdrs(self, *, limit: int = CDRS_MAX, before_utc: float | None = None) -> Sequence[Cdr]:
        """All of them at once."""
        if before_utc is not None:
            return []
        found = [await self._durable.cdrs(number=number, limit=limit) for number in self._numbers]
        return list({cdr.id: cdr for cdrs in found for cdr in cdrs}.values())


class LiveCluster:
    """What a drill's stage asks of a cluster. `prefix` is what the numbers of its phones begin with."""

    def __init__(self, config: Config, durable: SqlDurable, door: Door, seat: Seat, members: Sequence[str]) -> None:
        """`seat` is where the phones are."""
        ha = config.high_availability
        self.prefix = f"{PREFIX}{secrets.token_hex(2)}-"
        self.lease_s = float(ha.lease_ttl)
        self.seats = {seat.name: Address(seat.address, config.sip.bind_port)}
        self.nodes = dict.fromkeys(members)
        self.holders = {seat.name: seat.holder or ""}
        self.on_line: Callable[[str, LogLine], None] = lambda _node, _line: None
        self._realm = config.sip.realm
        self._durable = durable
        self._door = door
        self._home = seat.holder or ""
        self._moving: tuple[str, str] | None = None
        """A seat and the node that it was told to go to: it may be on its way there."""
        self._numbers: list[str] = []

    async def start(self, passwords: Mapping[str, str]) -> None:
        """Add an extension for each number in `passwords`, and wait until the nodes know them. Raises `WardenError`
        where another drill is under way: two faults at a time are nobody's promise.
        """
        now = time.time()
        for extension in await self._durable.extensions():
            if extension.number.startswith(PREFIX) and extension.name == NAME:
                if now - extension.created_at_utc < ABANDONED_S:
                    raise WardenError(
                        f"drill: another one is under way, or was killed: extension {extension.number} was made "
                        f"{now - extension.created_at_utc:.0f} s ago; after {ABANDONED_S:.0f} s it is removed"
                    )
                await self._durable.remove_extension(extension.number)
        for number, password in passwords.items():
            made = new_extension(number, password, realm=self._realm, now=now, name=NAME)
            await self._durable.add_extension(made)
            self._numbers.append(number)
        await asyncio.sleep(KNOWN_S)

    def look(self) -> list[tuple[str, LogLine]]:
        """Logs of other machines are not read."""
        return []

    @asynccontextmanager
    async def database(self) -> AsyncIterator[_Records]:
        """The records of the phones."""
        yield _Records(self._durable, self._numbers)

    async def hand_over(self, to: str, seat: str | None = None) -> None:
        """Have a seat handed to a node, by default that of the phones, and wait until it has it. Raises
        `WardenError`.
        """
        seat = seat or next(iter(self.seats))
        self._moving = seat, to
        try:
            await asyncio.to_thread(self._door.post, f"seats/{quote(seat, safe='')}/handover", {"to": to}, Seat)
            await self._arrived(seat, to)
        except WardenError:
            # It was refused, or has not come for long: who is told so need not wait for it again.
            self._moving = None
            raise
        self._moving = None

    async def _arrived(self, seat: str, to: str) -> None:
        until = time.monotonic() + MOVED_S
        while True:
            cluster = await asyncio.to_thread(self._door.get, "cluster", Cluster)
            # The new holder tells of the seat once it has taken up the calls. What it told before it was frozen is
            # still there as well, when somebody else has the seat.
            is_told = any(seat in member.seats for member in cluster.members if member.node == to)
            if is_told and await self._holder(seat) == to:
                self.holders[seat] = to
                return
            if time.monotonic() > until:
                raise WardenError(f"drill: after {MOVED_S:g} s seat {seat} is not at {to}")
            await asyncio.sleep(POLL_S)

    async def now_held(self) -> dict[str, str]:
        """Seat to node, "" where it is nobody's. Raises `WardenError` where nobody can say."""
        _, seats = await self.now()
        return {seat.name: seat.holder or "" for seat in seats.items}

    async def now(self) -> tuple[Cluster, Seats]:
        """The cluster at this moment. Raises `WardenError` where nobody can say."""
        cluster = await asyncio.to_thread(self._door.get, "cluster", Cluster)
        return cluster, await asyncio.to_thread(self._door.get, "seats", Seats)

    async def well(self, *, despite_warnings: bool, within_s: float = WELL_S) -> None:
        """Wait until the cluster lacks nothing. Raises `WardenError` with what it lacks in the end."""
        until = time.monotonic() + within_s
        while True:
            try:
                whys = unfit(*await self.now(), despite_warnings=despite_warnings)
            except WardenError as error:
                whys = [str(error)]
            if not whys:
                return
            if time.monotonic() > until:
                raise WardenError(f"drill: after {within_s:g} s the cluster is not well: {'; '.join(whys)}")
            await asyncio.sleep(POLL_S)

    async def home(self, seats: Sequence[Seat]) -> None:
        """Have every seat where it was. Raises `WardenError`."""
        for seat in seats:
            until = time.monotonic() + MOVED_S
            while (holder := await self._holder(seat.name)) != seat.holder:
                try:
                    await self.hand_over(seat.holder or "", seat.name)
                except WardenError as error:
                    # It may be on its way by itself.
                    if time.monotonic() > until:
                        raise WardenError(f"drill: seat {seat.name} is still at {holder}: {error}") from error
                    await asyncio.sleep(POLL_S)

    async def _holder(self, name: str) -> str | None:
        seats = await asyncio.to_thread(self._door.get, "seats", Seats)
        return next((seat.holder for seat in seats.items if seat.name == name), None)

    async def leave(self) -> None:
        """Have the seat where it was and no extension left, however the drill ended. Raises `WardenError`."""
        try:
            # What was struck may have been the database's host.
            await when_there(self._remove_extensions)
        finally:
            (seat,) = self.seats
            if self._moving is not None:
                # Interrupted: what was asked for is done nevertheless, if it was asked for.
                with suppress(WardenError):
                    await self._arrived(*self._moving)
            if self.holders[seat] != self._home:
                await self.hand_over(self._home)

    async def _remove_extensions(self) -> None:
        while self._numbers:
            await self._durable.remove_extension(self._numbers[-1])
            self._numbers.pop()


class ThereAndBack:
    """The seat is handed to another node, and back."""

    gap_ms_max = PLANNED_GAP_MS

    def __init__(self, cluster: LiveCluster, to: str) -> None:
        (seat,) = cluster.seats
        self._home = cluster.holders[seat]
        self.name = f"hand-over of {seat} from {self._home} to {to} and back"
        self.struck = [seat]
        self._cluster = cluster
        self._to = to

    async def strike(self) -> None:
        """As `Fault.strike`."""
        await self._cluster.hand_over(self._to)

    async def mend(self) -> None:
        """As `Fault.mend`."""
        await self._cluster.hand_over(self._home)


@asynccontextmanager
async def live_cluster(
    config: Config, durable: SqlDurable, door: Door, seat: Seat, members: Sequence[str]
) -> AsyncIterator[LiveCluster]:
    """The cluster, which behind the block is as it was. Raises `WardenError`."""
    cluster = LiveCluster(config, durable, door, seat, members)
    try:
        yield cluster
    finally:
        # Who interrupts a drill does not want to find its seat elsewhere.
        await asyncio.shield(cluster.leave())


def own_address(cluster: Cluster) -> str:
    """Where phones are on the machine of the node asked: its own address, which does not move. Raises `WardenError`."""
    for member in cluster.members:
        if member.node == cluster.node and (host := urlsplit(member.http).hostname):
            return host
    raise WardenError(f"drill: {cluster.node} does not say where its own address is")
