"""The fast store of a cluster: Redis, single, with Sentinel, or Cluster. Nothing here knows what a record means.

Keys of a seat share its hash tag, so one Lua script compares epochs and carries out writes in one atomic step:

    NAME:{SEAT}:epoch           hash: epoch, holder, handle of the last to write, number of its last script,
                                `since` which of them nothing has been lost, and since which changes are `listed`
    NAME:{SEAT}:call            hash: key to value; and so for each kind of record
    NAME:{SEAT}:binding:changed sorted set: the keys that were changed, by the number of the script

The ACL user needs `~NAME:*` (and for the coordinator `~{NAME}:*`) with the commands auth, ping, evalsha, script|load,
hmget, hset, hdel, hlen, hscan, del, zadd, zcard, zrangebyscore and info (for the coordinator hget, hgetall, hvals, get,
incr and time); for a Cluster also cluster|slots, cluster|info and asking, with Sentinel role, and wait where
`wait_replicas` is set.

What `write` acknowledged, Redis has in memory, and with `wait_replicas` so many replicas as well. Without, a fail-over
of Redis may lose the last writes before it.
"""

import asyncio
import secrets
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from hashlib import sha1
from typing import Any, NamedTuple

from warden.core.errors import Fenced, Unavailable
from warden.store.leases import check_name
from warden.store.ports import FOLLOWED, Changes, Kind, Write
from warden.store.records import check_followed, check_writes
from warden.store.redis_connection import Command, RedisConnection, Refusal, Replies, refused
from warden.store.redis_doctor import examine
from warden.store.redis_servers import MAY_FOLLOW, REDIRECTS_MAX, RedisServers, key_slot, with_asking
from warden.store.redis_settings import RedisSettings

_PENDING_MAX = 20_000
"""Calls of a seat that wait for the server: some seconds of full load. Memory must not fill up behind it."""

_TURN_MAX = 2_000
"""Calls that leave together: what one answer timeout surely carries, and what must be asked again if a slot moves."""

_SLICE = 1000
"""Records in one answer: some megabytes, which the server gives in milliseconds."""

_FOLLOWED_MAX = 1000
"""Changed records in one answer, and values that Lua's stack takes at a time; where there are more, all are read."""

# Each script of a handle has a higher number than those before it. So what was given up and is carried out after all,
# by a server that was only slow, is known and refused when newer scripts have been there before it. And a server that
# has not seen the newest number that was acknowledged has lost what came with it: it begins again, with `since`, and
# says so until that is acknowledged. (In Lua, a field that HMGET does not find is false.)
_CHECK = """
local seat = redis.call('HMGET', KEYS[1], 'epoch', 'handle', 'number', 'since', 'listed')
local newest, handle, number = tonumber(seat[1] or '0'), ARGV[1], tonumber(ARGV[2])
if seat[2] == handle and number < tonumber(seat[3]) then return -1 end
"""
_CLAIM = (
    _CHECK
    + """
redis.call('HSET', KEYS[1], 'epoch', newest + 1, 'holder', ARGV[3], 'handle', handle, 'number', number, 'since', number,
    'listed', '')
return newest + 1
"""
)
# For each further key: how many values, how many deletions, then those. Where followed records are among them, theirs
# is the last key but one. The last says which script changed each of them, deleted ones too, since the script `listed`.
# So that those do not pile up, the list begins again once most of it is of no use; who follows reads all once more.
_WRITE = (
    _CHECK
    + f"""
local epoch, acknowledged, hashes, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), {_FOLLOWED_MAX}
if epoch < newest then return newest end
local since, listed, other = tonumber(seat[4] or '0'), tonumber(seat[5] or ''), seat[2] ~= handle
local lost = acknowledged > 0 and (other or tonumber(seat[3]) < acknowledged or since > acknowledged)
if other or lost then since, listed = number, nil end
local at = 6
for key = 2, hashes do
    local sets, ends = at + 2, at + 2 + 2 * tonumber(ARGV[at])
    local stop = ends + tonumber(ARGV[at + 1])
    for first = sets, ends - 1, most do
        redis.call('HSET', KEYS[key], unpack(ARGV, first, math.min(first + most, ends) - 1))
    end
    for first = ends, stop - 1, most do
        redis.call('HDEL', KEYS[key], unpack(ARGV, first, math.min(first + most, stop) - 1))
    end
    if key == hashes and hashes < #KEYS then
        local list = KEYS[#KEYS]
        if listed ~= since then redis.call('DEL', list) end
        for first = sets, ends - 1, 2 do redis.call('ZADD', list, number, ARGV[first]) end
        for first = ends, stop - 1 do redis.call('ZADD', list, number, ARGV[first]) end
        if redis.call('ZCARD', list) > 2 * redis.call('HLEN', KEYS[key]) + most then
            since = number
            redis.call('DEL', list)
        end
        listed = since
    end
    at = stop
end
if not other and epoch == newest and since == tonumber(seat[4]) and listed == tonumber(seat[5]) then
    redis.call('HSET', KEYS[1], 'number', number)
else
    redis.call('HSET', KEYS[1], 'epoch', epoch, 'handle', handle, 'number', number, 'since', since,
        'listed', listed or '')
end
return lost and -2 or 0
"""
)
_CHANGES = f"""
local seat = redis.call('HMGET', KEYS[1], 'handle', 'since', 'number', 'listed')
if not seat[1] then return {{}} end
local life = seat[1] .. ':' .. seat[2]
if life ~= ARGV[1] or tonumber(seat[3]) < tonumber(ARGV[2]) then return {{life, seat[3]}} end
if seat[4] ~= seat[2] then return {{life, seat[3], {{}}, {{}}}} end
local keys = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[2], '+inf', 'LIMIT', 0, {_FOLLOWED_MAX} + 1)
if #keys > {_FOLLOWED_MAX} then return {{life, seat[3]}} end
return {{life, seat[3], keys, #keys > 0 and redis.call('HMGET', KEYS[3], unpack(keys)) or {{}}}}
"""
_STALE = -1
_LOST = -2


def digest(script: str) -> str:
    """What EVALSHA calls the script."""
    return sha1(script.encode(), usedforsecurity=False).hexdigest()


_CLAIM_SHA, _WRITE_SHA, _CHANGES_SHA = digest(_CLAIM), digest(_WRITE), digest(_CHANGES)


class _Order(NamedTuple):
    """A call that waits: a claim by `holder`, or writes at `epoch`."""

    answer: "asyncio.Future[Any]"
    epoch: int
    writes: Sequence[Write]
    holder: str | None = None


class _Share(NamedTuple):
    """The orders that one script carries out, and the script's number."""

    number: int
    orders: list[_Order]


class _Lane:
    """What is asked about one seat. One turn of it is under way at a time, so no order is ever overtaken."""

    __slots__ = (
        "acknowledged", "busy", "changed", "epoch", "fence", "keys", "losses", "number", "pending", "scheduled", "seat",
        "slot",
    )  # fmt: skip

    def __init__(self, prefix: str, seat: str) -> None:
        self.seat = seat
        self.slot = key_slot(seat)
        self.fence = f"{prefix}:{{{seat}}}:epoch"
        self.keys = {kind: f"{prefix}:{{{seat}}}:{kind.value}" for kind in Kind}
        self.changed = f"{self.keys[FOLLOWED]}:changed"
        self.number = 0
        self.epoch = 0
        self.acknowledged = 0
        self.losses = 0
        self.pending: list[_Order] = []
        self.busy = False
        self.scheduled = False


class RedisSeatStore:
    """A `SeatStore` on the Redis of `settings`. Nothing connects before the first call.

    Calls about one seat are carried out in the order they were made; a cancelled call may still be carried out. The
    calls of one loop turn, and of all turns while an answer is under way, travel together; each still succeeds or
    fails as a whole. Every call ends within the connect timeout and two answer timeouts (plus the wait timeouts), and
    at once while a server is known to be gone. `Unavailable` says nothing of whether a write was carried out: write
    again what should be there. With `wait_replicas`, a write that too few replicas have is `Unavailable` as well.

    Raises `WardenError` where the settings cannot be used.
    """

    def __init__(self, settings: RedisSettings) -> None:
        check_name("redis: cluster", settings.cluster_name)
        self._servers = RedisServers(settings, (_CLAIM, _WRITE, _CHANGES))
        self._settings = settings
        self._handle = secrets.token_hex(8)
        self._lanes: dict[str, _Lane] = {}
        self._unanswered = 0
        self._drained: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def claim(self, seat: str, holder: str) -> int:
        """See `SeatStore.claim`."""
        epoch: int = await self._ask(seat, 0, (), holder)
        return epoch

    async def write(self, seat: str, epoch: int, writes: Sequence[Write]) -> int:
        """See `SeatStore.write`. Without writes it only fences: lower epochs are refused from here on."""
        check_writes(writes)
        losses: int = await self._ask(seat, epoch, writes)
        return losses

    async def read(self, seat: str, kind: Kind) -> Mapping[str, bytes]:
        """See `SeatStore.read`. What others change meanwhile may be missing, as it was, or as it will be."""
        lane = self._lane(seat)
        if self._drained is not None:
            raise Unavailable("redis: closed")
        connection, asking = await self._servers.reach(lane.slot), False
        for _ in range(REDIRECTS_MAX):
            records: dict[str, bytes] = {}
            cursor: bytes | int = 0
            while True:
                commands: Sequence[Command] = (("HSCAN", lane.keys[kind], cursor, "COUNT", _SLICE),)
                [*_, reply] = await connection.exchange(with_asking(commands) if asking else commands)
                if isinstance(reply, Refusal):
                    # A cursor means nothing to another server: begin again there.
                    connection, asking = await self._servers.follow(lane.slot, connection, reply)
                    break
                cursor, fields = reply
                records.update(zip((key.decode() for key in fields[::2]), fields[1::2], strict=True))
                if cursor == b"0":
                    return records
        raise Unavailable(f"redis {connection.address}: seat {seat} does not stop moving")

    async def changes(self, seat: str, kind: Kind, since: str) -> Changes:
        """See `SeatStore.changes`."""
        check_followed(kind)
        lane = self._lane(seat)
        life, _, number = since.rpartition(":")
        asked: Command = (
            "EVALSHA", _CHANGES_SHA, 3, lane.fence, lane.changed, lane.keys[kind], life, number or 0
        )  # fmt: skip
        [[*told]] = await self._servers.call(lane.slot, asked)
        match told:
            case []:
                return Changes("", True, {})
            case [life, number]:
                # The mark is older than the records: what changes meanwhile is told once more next time.
                return Changes(f"{life.decode()}:{number.decode()}", True, await self.read(seat, kind))
            case [life, number, keys, values]:
                records = dict(zip((key.decode() for key in keys), values, strict=True))
                return Changes(f"{life.decode()}:{number.decode()}", False, records)
        raise AssertionError("the script gives nothing else")

    async def doctor(self) -> list[str]:
        """A sentence for each setting of the servers that puts data at risk. Raises `Unavailable`."""
        return await examine(self._servers)

    async def leave_old_master(self) -> None:
        """Go where Sentinel says that the master is by now, though the old one still answers: it may be cut off from
        the others. What was written there since is lost: the first writes at the new one tell it. Raises `Unavailable`
        where no Sentinel answers.
        """
        await self._servers.leave_old_master()

    async def close(self) -> None:
        """Carry out what was asked for, then close the connections. Safe to call twice."""
        if self._drained is None:
            self._drained = asyncio.Event()
            if not self._unanswered:
                self._drained.set()
        await self._drained.wait()
        await self._servers.close()

    def _lane(self, seat: str) -> _Lane:
        lane = self._lanes.get(seat)
        if lane is None:
            check_name("seat", seat)
            lane = self._lanes[seat] = _Lane(self._settings.cluster_name, seat)
        return lane

    def _ask(self, seat: str, epoch: int, writes: Sequence[Write], holder: str | None = None) -> "asyncio.Future[Any]":
        if self._drained is not None:
            raise Unavailable("redis: closed")
        lane = self._lane(seat)
        if len(lane.pending) >= _PENDING_MAX:
            raise Unavailable(f"redis: too slow: {len(lane.pending)} calls of seat {seat} are waiting for it")
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        lane.pending.append(_Order(answer, epoch, writes, holder))
        self._unanswered += 1
        if not lane.busy and not lane.scheduled:
            lane.scheduled = True
            loop.call_soon(self._start, lane)
        return answer

    def _start(self, lane: _Lane) -> None:
        """Let the lane's next turn leave, if none is under way."""
        lane.scheduled = False
        if lane.busy or not lane.pending:
            return
        orders, lane.pending = lane.pending[:_TURN_MAX], lane.pending[_TURN_MAX:]
        lane.busy = True
        connection = self._servers.ready(lane.slot)
        if connection is not None:
            self._send(lane, orders, connection)
        else:
            self._spawn(lane, orders, self._reach(lane, orders))

    def _send(
        self, lane: _Lane, orders: list[_Order], connection: RedisConnection, asking: bool = False, tries: int = 1
    ) -> None:
        commands, shares = self._commands(lane, orders)
        extra_s = 0.0
        if self._settings.wait_replicas:
            extra_s = self._settings.wait_timeout_s
            commands.append(("WAIT", self._settings.wait_replicas, max(1, int(extra_s * 1000))))
        if asking:
            commands = with_asking(commands)
        connection.ask(commands, partial(self._answered, lane, orders, shares, connection, asking, tries), extra_s)

    def _commands(self, lane: _Lane, orders: list[_Order]) -> tuple[list[Command], list[_Share]]:
        """One script for each claim and each run of writes at one epoch, and the orders each carries out."""
        commands: list[Command] = []
        shares: list[_Share] = []
        at = 0
        while at < len(orders):
            first, start = orders[at], at
            at += 1
            lane.number += 1
            if first.holder is None:
                while at < len(orders) and orders[at].holder is None and orders[at].epoch == first.epoch:
                    at += 1
                share = _Share(lane.number, orders[start:at])
                commands.append(_write_command(self._handle, lane, share))
            else:
                share = _Share(lane.number, [first])
                commands.append(("EVALSHA", _CLAIM_SHA, 1, lane.fence, self._handle, lane.number, first.holder))
            shares.append(share)
        return commands, shares

    def _answered(
        self,
        lane: _Lane,
        orders: list[_Order],
        shares: list[_Share],
        connection: RedisConnection,
        asking: bool,
        tries: int,
        replies: Replies,
    ) -> None:
        if isinstance(replies, Unavailable):
            self._fail(lane, orders, replies)
            return
        if asking:
            replies = replies[1::2]
        scripts = replies[: len(shares)]
        first = scripts[0]
        if isinstance(first, Refusal):
            # Only if nothing of the turn was carried out may all of it be: else older values would follow newer ones.
            none = all(isinstance(reply, Refusal) for reply in scripts)
            last = tries >= REDIRECTS_MAX or first.code not in MAY_FOLLOW
            self._spawn(lane, orders, self._follow(lane, orders, connection, first, tries if none and not last else 0))
            return
        short = self._shortfall(connection, replies[-1])
        for share, reply in zip(shares, scripts, strict=True):
            if reply in (0, _LOST):
                lane.epoch, lane.acknowledged = share.orders[0].epoch, share.number
                lane.losses += reply == _LOST
            for order in share.orders:
                if not order.answer.done():
                    _settle(lane, order, reply, connection, short)
        self._finish(lane, orders)

    def _shortfall(self, connection: RedisConnection, acknowledged: Any) -> str:
        """Why a write that was carried out does not count, or nothing."""
        wanted = self._settings.wait_replicas
        if not wanted or (isinstance(acknowledged, int) and acknowledged >= wanted):
            return ""
        if isinstance(acknowledged, Refusal):
            return str(refused(connection.address, acknowledged))
        return f"redis {connection.address}: stored, but {acknowledged} of {wanted} replicas have it"

    async def _reach(self, lane: _Lane, orders: list[_Order]) -> None:
        self._send(lane, orders, await self._servers.reach(lane.slot))

    async def _follow(
        self, lane: _Lane, orders: list[_Order], connection: RedisConnection, refusal: Refusal, tries: int
    ) -> None:
        """Send the turn where it can be carried out; `tries` of 0: nowhere, only learn from the refusal."""
        elsewhere, asking = await self._servers.follow(lane.slot, connection, refusal)
        if not tries:
            raise Unavailable(f"redis {connection.address}: seat {lane.seat} is moving to another server")
        self._send(lane, orders, elsewhere, asking, tries + 1)

    def _spawn(self, lane: _Lane, orders: list[_Order], work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                # A bug's exception as well: a caller left waiting for ever would be worse than one that fails.
                self._fail(lane, orders, error)

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _fail(self, lane: _Lane, orders: list[_Order], why: Exception) -> None:
        for order in orders:
            if not order.answer.done():
                order.answer.set_exception(Unavailable(*why.args) if isinstance(why, Unavailable) else why)
        self._finish(lane, orders)

    def _finish(self, lane: _Lane, orders: list[_Order]) -> None:
        self._unanswered -= len(orders)
        if self._drained is not None and not self._unanswered:
            self._drained.set()
        lane.busy = False
        # Not here and now: a lane whose server is gone would go deeper and deeper into the stack.
        if lane.pending and not lane.scheduled:
            lane.scheduled = True
            asyncio.get_running_loop().call_soon(self._start, lane)


def _write_command(handle: str, lane: _Lane, share: _Share) -> Command:
    """The last write of each key wins; those of one script are seen together or not at all."""
    values: dict[Kind, dict[str, bytes | None]] = {}
    for order in share.orders:
        for write in order.writes:
            of_kind = values.get(write.kind)
            if of_kind is None:
                of_kind = values[write.kind] = {}
            of_kind[write.key] = write.value
    followed = values.pop(FOLLOWED, None)
    if followed is not None:
        values[FOLLOWED] = followed
    epoch = share.orders[0].epoch
    # What was acknowledged at another epoch may since have been changed by others.
    acknowledged = lane.acknowledged if lane.epoch == epoch else 0
    arguments: list[str | bytes | int] = [handle, share.number, epoch, acknowledged, 1 + len(values)]
    keys = [lane.fence]
    for kind, of_kind in values.items():
        gone = [key for key, value in of_kind.items() if value is None]
        keys.append(lane.keys[kind])
        arguments += (len(of_kind) - len(gone), len(gone))
        for key, value in of_kind.items():
            if value is not None:
                arguments += (key, value)
        arguments += gone
    if followed is not None:
        keys.append(lane.changed)
    return ("EVALSHA", _WRITE_SHA, len(keys), *keys, *arguments)


def _settle(lane: _Lane, order: _Order, reply: Any, connection: RedisConnection, short: str) -> None:
    """Tell one caller what became of its call."""
    answer = order.answer
    if isinstance(reply, Refusal):
        answer.set_exception(refused(connection.address, reply))
    elif reply == _STALE:
        answer.set_exception(Unavailable(f"redis {connection.address}: seat {lane.seat}: overtaken by newer writes"))
    elif order.holder is None and reply > 0:
        answer.set_exception(Fenced(f"seat {lane.seat}: epoch {order.epoch} is over, it is {reply} now", reply))
    elif short:
        answer.set_exception(Unavailable(short))
    else:
        answer.set_result(reply if order.holder is not None else lane.losses)
