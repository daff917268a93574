"""The coordinator on Redis, single, with Sentinel, or Cluster. Nothing here knows what a node says of itself.

All keys of a cluster share one hash tag, so one Lua script sees them all:

    {NAME}:seats       hash: seat to `EPOCH ENDS_AT HOLDER` (milliseconds by the server's clock; no holder: free)
    {NAME}:members     hash: node to `ENDS_AT DATA`
    {NAME}:version     grows with every change

Time is the Redis master's clock. If that is stepped forward, or a fail-over goes to a host whose clock is ahead, leases
end early: the old holder is then stopped by the seat's epoch in the store at its next write, not by its own clock.
And a fail-over may forget what Redis had not yet replicated: set `wait_replicas`, without which a seat might be given
twice. etcd has neither weakness.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from warden.core.errors import Unavailable
from warden.store import leases
from warden.store.ports import Holding, Member
from warden.store.redis_doctor import examine
from warden.store.redis_servers import RedisServers, key_slot
from warden.store.redis_settings import RedisSettings
from warden.store.redis_store import digest

POLL_S = 0.05
"""How soon a change is noticed. A look costs the server some microseconds, and needs no second connection."""

# KEYS: seats, members, version. The rules are those of `leases`, in the same order.
_COMMON = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function lease(seat)
    local kept = redis.call('HGET', KEYS[1], seat)
    if not kept then return 0, 0, '' end
    local epoch, ends_at, holder = string.match(kept, '^(%d+) (%d+) (.*)$')
    return tonumber(epoch), tonumber(ends_at), holder
end

local function is_held(ends_at, holder) return holder ~= '' and now < ends_at end

local function keep(seat, epoch, ends_at, holder, changes)
    redis.call('HSET', KEYS[1], seat, string.format('%.0f %.0f %s', epoch, ends_at, holder))
    if changes then redis.call('INCR', KEYS[3]) end
    return epoch
end
"""
# ARGV: seat, node, ttl, at least. 0: held by another.
_ACQUIRE = (
    _COMMON
    + """
local seat, node, ends, least = ARGV[1], ARGV[2], now + tonumber(ARGV[3]), tonumber(ARGV[4])
local epoch, ends_at, holder = lease(seat)
if not is_held(ends_at, holder) then return keep(seat, math.max(epoch + 1, least), ends, node, true) end
if holder ~= node then return 0 end
return keep(seat, math.max(epoch, least), ends, node, epoch < least)
"""
)
# ARGV: seat, node, ttl, at least, from epoch. 0: past it.
_TAKE = (
    _COMMON
    + """
local seat, node, ends, least, from = ARGV[1], ARGV[2], now + tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local epoch, ends_at, holder = lease(seat)
local next = math.max(from + 1, least)
local repeated = holder == node and epoch == next and is_held(ends_at, holder)
if not repeated and epoch > from then return 0 end
return keep(seat, next, ends, node, not repeated)
"""
)
# ARGV: node, ttl, then seat and epoch of each. The seats that are still the node's.
_RENEW = (
    _COMMON
    + """
local node, ends, ours = ARGV[1], now + tonumber(ARGV[2]), {}
for at = 3, #ARGV, 2 do
    local seat, mine = ARGV[at], tonumber(ARGV[at + 1])
    local epoch, ends_at, holder = lease(seat)
    if epoch < mine or (epoch == mine and holder == node and is_held(ends_at, holder)) then
        keep(seat, mine, ends, node, epoch < mine)
        table.insert(ours, seat)
    end
end
return ours
"""
)
# ARGV: seat, node, epoch.
_RELEASE = (
    _COMMON
    + """
local epoch, ends_at, holder = lease(ARGV[1])
if holder ~= ARGV[2] or epoch ~= tonumber(ARGV[3]) or not is_held(ends_at, holder) then return 0 end
keep(ARGV[1], epoch, 0, '', true)
return 1
"""
)
# ARGV: node, ttl, data. Those whose time is over are cleared away on the occasion.
_ANNOUNCE = (
    _COMMON
    + """
local node, ends, data = ARGV[1], now + tonumber(ARGV[2]), ARGV[3]
local known = redis.call('HGET', KEYS[2], node)
local ends_at, before = string.match(known or '0 ', '^(%d+) (.*)$')
if not known or tonumber(ends_at) <= now or before ~= data then redis.call('INCR', KEYS[3]) end
local all = redis.call('HGETALL', KEYS[2])
for at = 1, #all, 2 do
    if tonumber(string.match(all[at + 1], '^%d+')) <= now then redis.call('HDEL', KEYS[2], all[at]) end
end
redis.call('HSET', KEYS[2], node, string.format('%.0f ', ends) .. data)
return 1
"""
)
# What differs whenever something has changed, running out included: version, seats held, members present.
_STATE = (
    _COMMON
    + """
local held, present = 0, 0
local all = redis.call('HVALS', KEYS[1])
for at = 1, #all do
    local ends_at = tonumber(string.match(all[at], '^%d+ (%d+)'))
    if now < ends_at then held = held + 1 end
end
all = redis.call('HVALS', KEYS[2])
for at = 1, #all do
    if now < tonumber(string.match(all[at], '^%d+')) then present = present + 1 end
end
return {redis.call('GET', KEYS[3]) or '0', held, present}
"""
)
# The time, seats and members, as they are kept.
_LOOK = (
    _COMMON
    + """
return {now, redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}
"""
)


class RedisCoordinator:
    """A `Coordinator` on the Redis of `settings`. Nothing connects before the first call; a cancelled one may still be
    carried out. With `wait_replicas`, a seat counts as given once so many replicas know it; until then `acquire` and
    `take` are `Unavailable`, and may be repeated.

    Raises `WardenError` where the settings cannot be used.
    """

    def __init__(self, settings: RedisSettings) -> None:
        name = settings.cluster_name
        leases.check_name("redis: cluster", name)
        self._settings = settings
        self._servers = RedisServers(settings, (_ACQUIRE, _TAKE, _RENEW, _RELEASE, _ANNOUNCE, _STATE, _LOOK))
        self._slot = key_slot(name)
        self._keys = (f"{{{name}}}:seats", f"{{{name}}}:members", f"{{{name}}}:version")
        self._seen: tuple[Any, ...] | None = None
        self._closed = False

    async def acquire(self, seat: str, node: str, ttl_s: float, at_least: int = 0) -> int | None:
        """See `Coordinator.acquire`."""
        leases.check_lease(seat, node, ttl_s)
        epoch: int = await self._run(_ACQUIRE, seat, node, _milliseconds(ttl_s), at_least, lasting=True)
        return epoch or None

    async def take(self, seat: str, node: str, ttl_s: float, from_epoch: int, at_least: int = 0) -> int | None:
        """See `Coordinator.take`."""
        leases.check_lease(seat, node, ttl_s)
        epoch: int = await self._run(_TAKE, seat, node, _milliseconds(ttl_s), at_least, from_epoch, lasting=True)
        return epoch or None

    async def renew(self, node: str, held: Mapping[str, int], ttl_s: float) -> frozenset[str]:
        """See `Coordinator.renew`."""
        leases.check_held(node, held, ttl_s)
        pairs = [part for pair in held.items() for part in pair]
        return frozenset(seat.decode() for seat in await self._run(_RENEW, node, _milliseconds(ttl_s), *pairs))

    async def release(self, seat: str, node: str, epoch: int) -> bool:
        """See `Coordinator.release`. Where it is `Unavailable`, the seat may still become free later."""
        leases.check_name("seat", seat)
        return bool(await self._run(_RELEASE, seat, node, epoch))

    async def holdings(self) -> Mapping[str, Holding]:
        """See `Coordinator.holdings`."""
        now, seats, _ = await self._run(_LOOK)
        found = {}
        for name, kept in _pairs(seats):
            seat = name.decode()
            epoch, ends_at, holder = kept.decode().split(" ", 2)
            left_s = (int(ends_at) - now) / 1000
            held = holder != "" and left_s > 0
            found[seat] = Holding(seat, holder if held else "", int(epoch), left_s if held else 0.0)
        return found

    async def announce(self, member: Member, ttl_s: float) -> None:
        """See `Coordinator.announce`."""
        leases.check_member(member, ttl_s)
        await self._run(_ANNOUNCE, member.node, _milliseconds(ttl_s), member.data)

    async def members(self) -> Mapping[str, Member]:
        """See `Coordinator.members`."""
        now, _, members = await self._run(_LOOK)
        found = {}
        for name, kept in _pairs(members):
            ends_at, data = kept.split(b" ", 1)
            if int(ends_at) > now:
                found[name.decode()] = Member(name.decode(), data)
        return found

    async def changed(self, timeout_s: float) -> None:
        """See `Coordinator.changed`."""
        seen = self._seen
        loop = asyncio.get_running_loop()
        give_up = loop.time() + timeout_s
        while True:
            if self._closed:
                raise Unavailable("redis coordinator: closed")
            with suppress(Unavailable, TimeoutError):
                async with asyncio.timeout_at(give_up):
                    state = tuple(await self._run(_STATE))
                    if state != seen:
                        self._seen = state
                        return
            left = give_up - loop.time()
            if left <= 0:
                return
            await asyncio.sleep(min(left, POLL_S))

    async def close(self) -> None:
        """See `Coordinator.close`."""
        self._closed = True
        await self._servers.close()

    async def doctor(self) -> list[str]:
        """See `RedisSeatStore.doctor`."""
        return await examine(self._servers)

    async def _run(self, script: str, *arguments: str | bytes | int, lasting: bool = False) -> Any:
        """The script's reply; a `lasting` one must be known to the replicas."""
        settings = self._settings
        command = ("EVALSHA", digest(script), len(self._keys), *self._keys, *arguments)
        if not lasting or not settings.wait_replicas:
            [reply] = await self._servers.call(self._slot, command)
            return reply
        wait = ("WAIT", settings.wait_replicas, max(1, int(settings.wait_timeout_s * 1000)))
        reply, replicas = await self._servers.call(self._slot, command, wait, extra_s=settings.wait_timeout_s)
        if replicas < settings.wait_replicas:
            raise Unavailable(f"redis: decided, but {replicas} of {settings.wait_replicas} replicas know it")
        return reply


def _milliseconds(ttl_s: float) -> int:
    return max(1, round(ttl_s * 1000))


def _pairs(flat: list[bytes]) -> "zip[tuple[bytes, bytes]]":
    return zip(flat[::2], flat[1::2], strict=True)
