"""The coordinator on etcd v3. Nothing here knows what a node says of itself.

    /warden/NAME/epochs/SEAT       the epoch; stays
    /warden/NAME/holders/SEAT      `EPOCH TTL HOLDER`; goes with its lease
    /warden/NAME/members/NODE      the node's record; goes with its lease

The user needs a role that reads and writes `/warden/NAME/`. Each seat and member has a lease of its own, so each runs
out for itself. etcd counts leases in whole seconds, and grants none below 1.5 times its election timeout (2 s by
default; `--heartbeat-interval 50 --election-timeout 500` allows 1 s). When etcd elects a new leader, all leases begin
anew. Both only delay a take-over; a lease never ends before the time that was asked for.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf
from typing import Any, NamedTuple

from warden.core.errors import Unavailable
from warden.store import leases
from warden.store.etcd_client import (
    Compacted,
    EtcdClient,
    EtcdSettings,
    LeaseGone,
    prefix_end,
    text,
    untext,
    whole_seconds,
)
from warden.store.leases import Lease
from warden.store.ports import Holding, Member

_TRIES_MAX = 20
"""Attempts of one change: each that fails means that another node's has succeeded, and that ends soon."""

_WATCH_PAUSE_S = 0.2
"""Between two attempts to watch."""


class _Seat(NamedTuple):
    """A seat as etcd has it: `lease` ends never or has ended, since etcd itself counts; revisions are 0 for keys that
    are not there; `lease_id` is empty without a holder.
    """

    lease: Lease
    ttl_s: float
    epoch_revision: int
    holder_revision: int
    lease_id: str


_NOT_THERE = _Seat(leases.UNHELD, 0.0, 0, 0, "")


class _Grant(NamedTuple):
    lease_id: str
    ttl_s: int


class EtcdCoordinator:
    """A `Coordinator` on the etcd of `settings`. Nothing connects before the first call; a cancelled one may still be
    carried out. Every call ends within `call_timeout_s`. `Holding.expires_in_s` is the most that may be left.

    With `is_shared` several processes hold seats under one name, as a region's nodes do at the arbiter: each renewal
    writes, so that what one of them had under way when it was cut off no longer fits when it arrives.

    Raises `WardenError` where the settings cannot be used.
    """

    def __init__(self, settings: EtcdSettings, *, is_shared: bool = False) -> None:
        self._is_shared = is_shared
        leases.check_name("etcd: cluster", settings.cluster_name)
        self._prefix = f"/warden/{settings.cluster_name}/"
        self._client = EtcdClient(settings, self._prefix)
        self._grants: dict[str, _Grant] = {}
        self._announced: dict[str, bytes] = {}
        self._revision = 0
        self._seen = 0
        self._news = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None

    async def acquire(self, seat: str, node: str, ttl_s: float, at_least: int = 0) -> int | None:
        """See `Coordinator.acquire`."""
        leases.check_lease(seat, node, ttl_s)
        return await self._change(seat, ttl_s, lambda old: leases.acquired(0.0, old, node, ttl_s, at_least))

    async def take(self, seat: str, node: str, ttl_s: float, from_epoch: int, at_least: int = 0) -> int | None:
        """See `Coordinator.take`."""
        leases.check_lease(seat, node, ttl_s)
        return await self._change(seat, ttl_s, lambda old: leases.taken(0.0, old, node, ttl_s, from_epoch, at_least))

    async def renew(self, node: str, held: Mapping[str, int], ttl_s: float) -> frozenset[str]:
        """See `Coordinator.renew`."""
        leases.check_held(node, held, ttl_s)
        if not held:
            return frozenset()
        until = self._client.until()
        # Reading and renewing at once: whichever comes first, a key that is there with a lease that lives is ours.
        alive, seats = await _together(
            self._keep_alive([_holder_key(seat) for seat in held], ttl_s, until), self._seats(until)
        )
        ours = set()
        for seat, epoch in held.items():
            kept = seats.get(seat, _NOT_THERE)
            if leases.renewed(0.0, kept.lease, node, epoch, ttl_s) is None:
                continue
            grant = alive.get(_holder_key(seat))
            is_plain = grant is not None and grant.lease_id == kept.lease_id and kept.lease.epoch >= epoch
            if self._is_shared or not is_plain:
                # The lease is another process's of this node, or too short, or etcd has forgotten the epoch.
                change = await self._change(
                    seat,
                    ttl_s,
                    lambda old, epoch=epoch: leases.renewed(0.0, old, node, epoch, ttl_s),  # type: ignore[misc]
                )
                if change is None:
                    continue
            ours.add(seat)
        return frozenset(ours)

    async def release(self, seat: str, node: str, epoch: int) -> bool:
        """See `Coordinator.release`."""
        leases.check_name("seat", seat)
        return await self._change(seat, 0.0, lambda old: leases.released(0.0, old, node, epoch)) is not None

    async def holdings(self) -> Mapping[str, Holding]:
        """See `Coordinator.holdings`."""
        return {
            seat: Holding(seat, kept.lease.holder, kept.lease.epoch, kept.ttl_s)
            for seat, kept in (await self._seats(self._client.until())).items()
        }

    async def announce(self, member: Member, ttl_s: float) -> None:
        """See `Coordinator.announce`."""
        leases.check_member(member, ttl_s)
        until = self._client.until()
        key = f"members/{member.node}"
        for _ in range(_TRIES_MAX):
            grant = (await self._keep_alive([key], ttl_s, until)).get(key)
            if grant is not None and self._announced.get(key) == member.data:
                return
            grant = grant or await self._grant(key, ttl_s, until)
            put = {"key": text(self._prefix + key), "value": text(member.data), "lease": grant.lease_id}
            with suppress(LeaseGone):
                await self._client.call("kv/put", put, until, in_turn=True)
                self._announced[key] = member.data
                return
            self._grants.pop(key, None)
        raise Unavailable(f"etcd: leases of {member.node} end as soon as they are granted")

    async def members(self) -> Mapping[str, Member]:
        """See `Coordinator.members`."""
        found = await self._range("members/", self._client.until())
        return {node: Member(node, untext(kept.get("value", ""))) for node, kept in found.items()}

    async def changed(self, timeout_s: float) -> None:
        """See `Coordinator.changed`."""
        self._client.until()
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._revision == self._seen:
                    self._news.clear()
                    await self._news.wait()
        self._seen = self._revision
        self._client.until()

    async def close(self) -> None:
        """See `Coordinator.close`."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self._client.close()

    async def _watch(self) -> None:
        """Keep `_revision` at the newest change, until cancelled."""
        while True:
            try:
                async for revision in self._client.watch(self._revision + 1 if self._revision else 0):
                    self._note(revision)
            except Compacted as error:
                self._note(int(error.args[0]))
            except Unavailable:
                await asyncio.sleep(_WATCH_PAUSE_S)

    def _note(self, revision: int) -> None:
        if revision > self._revision:
            self._revision = revision
            self._news.set()

    async def _change(self, seat: str, ttl_s: float, decide: Callable[[Lease], Lease | None]) -> int | None:
        """Read, decide, and write if nothing has changed since; again if something has. The epoch, or None.

        What was to be written may have been, though another answer has come: two members may have been asked.
        """
        until = self._client.until()
        key = _holder_key(seat)
        tried: tuple[str, int, str] | None = None
        for _ in range(_TRIES_MAX):
            kept = (await self._seats(until, seat)).get(seat, _NOT_THERE)
            if (kept.lease.holder, kept.lease.epoch, kept.lease_id) == tried:
                return kept.lease.epoch
            lease = decide(kept.lease)
            if lease is None:
                return None
            writes = (
                [_put(self._prefix + f"epochs/{seat}", str(lease.epoch))] if lease.epoch != kept.lease.epoch else []
            )
            if lease.holder:
                grant = (await self._keep_alive([key], ttl_s, until)).get(key) or await self._grant(key, ttl_s, until)
                value = f"{lease.epoch} {grant.ttl_s} {lease.holder}"
                # Always, even where nothing differs: what an earlier call left under way no longer fits then.
                writes.append(_put(self._prefix + key, value, grant.lease_id))
                # Nobody else has this lease's number.
                tried = lease.holder, lease.epoch, grant.lease_id
            else:
                writes.append({"request_delete_range": {"key": text(self._prefix + key)}})
            unchanged = [
                _is_at(self._prefix + f"epochs/{seat}", kept.epoch_revision),
                _is_at(self._prefix + key, kept.holder_revision),
            ]
            try:
                answer = await self._client.call("kv/txn", {"compare": unchanged, "success": writes}, until)
            except LeaseGone:
                self._grants.pop(key, None)
                continue
            if answer.get("succeeded"):
                return lease.epoch
        raise Unavailable(f"etcd: seat {seat} changes all the time")

    async def _seats(self, until: float, only: str = "") -> dict[str, _Seat]:
        """Every seat, or one, at one moment."""
        ranges = [self._range_request(f"{kind}/{only}", whole=bool(only)) for kind in ("epochs", "holders")]
        answer = await self._client.call("kv/txn", {"success": [{"request_range": one} for one in ranges]}, until)
        epochs, holders = (
            {_last(kv): kv for kv in one["response_range"].get("kvs", ())} for one in answer["responses"]
        )
        found = {}
        for seat, kept in epochs.items():
            epoch = int(untext(kept["value"]))
            revision = int(kept["mod_revision"])
            lease, ttl_s, holder_revision, lease_id = Lease("", epoch, 0.0), 0.0, 0, ""
            if seat in holders:
                held = holders[seat]
                _, ttl, holder = untext(held["value"]).decode().split(" ", 2)
                lease, ttl_s = Lease(holder, epoch, inf), float(ttl)
                holder_revision, lease_id = int(held["mod_revision"]), str(held.get("lease", ""))
            found[seat] = _Seat(lease, ttl_s, revision, holder_revision, lease_id)
        return found

    async def _range(self, under: str, until: float) -> dict[str, Any]:
        answer = await self._client.call("kv/range", self._range_request(under, whole=False), until)
        return {_last(kv): kv for kv in answer.get("kvs", ())}

    def _range_request(self, under: str, *, whole: bool) -> dict[str, str]:
        key = self._prefix + under
        return {"key": text(key)} if whole else {"key": text(key), "range_end": prefix_end(key)}

    async def _grant(self, key: str, ttl_s: float, until: float) -> _Grant:
        answer = await self._client.call("lease/grant", {"TTL": str(whole_seconds(ttl_s))}, until)
        grant = self._grants[key] = _Grant(str(answer["ID"]), int(answer["TTL"]))
        return grant

    async def _keep_alive(self, keys: list[str], ttl_s: float, until: float) -> dict[str, _Grant]:
        """Renew the leases that this handle has for the keys: those that live on, and are long enough."""
        known = {key: grant for key in keys if (grant := self._grants.get(key)) is not None and grant.ttl_s >= ttl_s}
        if not known:
            return {}
        renewals = [{"ID": grant.lease_id} for grant in known.values()]
        answers = await self._client.stream("lease/keepalive", renewals, until)
        alive = {}
        for (key, grant), answer in zip(known.items(), answers, strict=True):
            if int(answer.get("result", {}).get("TTL", 0)) > 0:
                alive[key] = grant
            elif self._grants.get(key) == grant:
                del self._grants[key]
        return alive


async def _together(*calls: Any) -> list[Any]:
    """All answers; the first failure ends the others."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _holder_key(seat: str) -> str:
    return f"holders/{seat}"


def _last(kv: Mapping[str, str]) -> str:
    return untext(kv["key"]).decode().rpartition("/")[2]


def _put(key: str, value: str, lease_id: str = "0") -> dict[str, Any]:
    return {"request_put": {"key": text(key), "value": text(value), "lease": lease_id}}


def _is_at(key: str, revision: int) -> dict[str, Any]:
    return {"key": text(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}
