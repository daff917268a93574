"""The coordinator in memory: for the simulator and for tests. It outlives its handles, not the process."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

from warden.core.errors import Unavailable
from warden.store import leases
from warden.store.leases import UNHELD, Lease
from warden.store.ports import Holding, Member

_PAUSE_MIN_S = 0.001
"""Two clocks may round differently; without a floor, a waiter could wake for ever just before a lease ends."""


class Desk:
    """What is decided; nodes that share a coordinator hold one desk by a `MemoryCoordinator` each."""

    def __init__(self) -> None:
        self.seats: dict[str, Lease] = {}
        self.members: dict[str, tuple[Member, float]] = {}
        self.version = 0
        # In the order in which they came, so that a simulation goes the same way twice.
        self.waiting: dict[asyncio.Future[None], None] = {}

    def note_change(self) -> None:
        """Wake everybody who waits for a change."""
        self.version += 1
        for future in list(self.waiting):
            if not future.done():
                future.set_result(None)


class MemoryCoordinator:
    """A `Coordinator` on a desk, its own unless one is given. `clock` gives seconds; it must run no faster than the
    event loop's, by which `changed` waits.
    """

    def __init__(self, clock: Callable[[], float], desk: Desk | None = None) -> None:
        self._clock = clock
        self._desk = Desk() if desk is None else desk
        self._seen: tuple[int, int, int] | None = None
        self._closed = False

    async def acquire(self, seat: str, node: str, ttl_s: float, at_least: int = 0) -> int | None:
        """See `Coordinator.acquire`."""
        leases.check_lease(seat, node, ttl_s)
        old = self._open().seats.get(seat, UNHELD)
        return self._keep(seat, leases.acquired(self._clock(), old, node, ttl_s, at_least))

    async def take(self, seat: str, node: str, ttl_s: float, from_epoch: int, at_least: int = 0) -> int | None:
        """See `Coordinator.take`."""
        leases.check_lease(seat, node, ttl_s)
        old = self._open().seats.get(seat, UNHELD)
        return self._keep(seat, leases.taken(self._clock(), old, node, ttl_s, from_epoch, at_least))

    async def renew(self, node: str, held: Mapping[str, int], ttl_s: float) -> frozenset[str]:
        """See `Coordinator.renew`."""
        leases.check_held(node, held, ttl_s)
        seats, now = self._open().seats, self._clock()
        ours = {seat: leases.renewed(now, seats.get(seat, UNHELD), node, epoch, ttl_s) for seat, epoch in held.items()}
        return frozenset(seat for seat, lease in ours.items() if self._keep(seat, lease) is not None)

    async def release(self, seat: str, node: str, epoch: int) -> bool:
        """See `Coordinator.release`."""
        old = self._open().seats.get(seat, UNHELD)
        return self._keep(seat, leases.released(self._clock(), old, node, epoch)) is not None

    async def holdings(self) -> Mapping[str, Holding]:
        """See `Coordinator.holdings`."""
        now = self._clock()
        return {
            seat: Holding(seat, lease.holder, lease.epoch, lease.ends_at - now)
            if leases.is_held(lease, now)
            else Holding(seat, "", lease.epoch, 0.0)
            for seat, lease in self._open().seats.items()
        }

    async def announce(self, member: Member, ttl_s: float) -> None:
        """See `Coordinator.announce`."""
        leases.check_member(member, ttl_s)
        desk, now = self._open(), self._clock()
        known = desk.members.get(member.node)
        desk.members = {node: kept for node, kept in desk.members.items() if kept[1] > now}
        desk.members[member.node] = (member, now + ttl_s)
        if known is None or known[0] != member or known[1] <= now:
            desk.note_change()

    async def members(self) -> Mapping[str, Member]:
        """See `Coordinator.members`."""
        now = self._clock()
        return {node: member for node, (member, ends_at) in self._open().members.items() if ends_at > now}

    async def changed(self, timeout_s: float) -> None:
        """See `Coordinator.changed`."""
        desk = self._open()
        seen = self._seen
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._state() == seen:
                    await self._wake(desk)
        self._seen = self._state()

    async def close(self) -> None:
        """See `Coordinator.close`."""
        self._closed = True

    async def _wake(self, desk: Desk) -> None:
        """Until somebody changes something, or the next lease or member runs out."""
        now = self._clock()
        ends = [lease.ends_at for lease in desk.seats.values() if leases.is_held(lease, now)]
        ends += [ends_at for _, ends_at in desk.members.values() if ends_at > now]
        change = asyncio.get_running_loop().create_future()
        desk.waiting[change] = None
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(min(ends) - now, _PAUSE_MIN_S) if ends else None):
                    await change
        finally:
            desk.waiting.pop(change, None)

    def _state(self) -> tuple[int, int, int]:
        """Differs whenever something has changed, running out included."""
        desk, now = self._desk, self._clock()
        held = sum(leases.is_held(lease, now) for lease in desk.seats.values())
        return desk.version, held, sum(ends_at > now for _, ends_at in desk.members.values())

    def _keep(self, seat: str, lease: Lease | None) -> int | None:
        if lease is None:
            return None
        old = self._desk.seats.get(seat, UNHELD)
        changes = (old.holder, old.epoch) != (lease.holder, lease.epoch) or not leases.is_held(old, self._clock())
        self._desk.seats[seat] = lease
        if changes:
            self._desk.note_change()
        return lease.epoch

    def _open(self) -> Desk:
        if self._closed:
            raise Unavailable("memory coordinator: closed")
        return self._desk
