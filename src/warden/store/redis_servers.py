"""Which Redis server to ask, and the connections to those in use. Nothing here knows what is asked.

One connection to each master that is needed; it is opened at the first use and again after every loss, by whoever
asks first. Where the servers can say who is the master (Sentinel, Cluster), they are asked before every connect.
"""

import asyncio
from binascii import crc_hqx
from collections.abc import Callable, Coroutine, Hashable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

from warden.core.address import Address
from warden.core.errors import Unavailable, WardenError
from warden.store.redis_connection import Command, RedisConnection, Refusal, refused
from warden.store.redis_settings import RedisMode, RedisSettings, tls_context

T = TypeVar("T")

SLOTS = 16384
"""Of a Redis Cluster (specification: key distribution model)."""

_ASKING: Command = ("ASKING",)

_BACKOFF_S = 0.05
_BACKOFF_MAX_S = 0.5
"""After a failed attempt calls fail at once for this long, doubled each time: a dead server costs one attempt at a
time, and one that is back is found within half a second."""

REDIRECTS_MAX = 5
"""How often a slot that is moving is followed."""

_TRY_AGAIN_S = 0.02
"""A slot's keys move one by one; until all that one script needs are there, it has to wait."""

_LOST = frozenset({"READONLY", "CLUSTERDOWN", "MASTERDOWN", "LOADING", "NOAUTH", "WRONGPASS"})
"""Refusals after which the connection is good for nothing: another server may be the master by now."""

MAY_FOLLOW = frozenset({"MOVED", "ASK", "TRYAGAIN", "NOSCRIPT"})
"""Refusals after which `follow` may know more."""

_ASKED_MAX = 8
"""Servers asked at once where the masters are; any that answers knows all."""

_OPINIONS_S = 0.1
"""How long the other Sentinels may take once one has answered: the newest view wins."""


def key_slot(tag: str) -> int:
    """The slot of all keys with this hash tag (the text between their braces)."""
    return crc_hqx(tag.encode(), 0) % SLOTS


def with_asking(commands: Sequence[Command]) -> list[Command]:
    """The commands, each allowed to a server that is only about to get the slot; every other reply is theirs."""
    return [sent for command in commands for sent in (_ASKING, command)]


class RedisServers:
    """Connections to the masters of `settings`. `scripts` are loaded at every connect.

    Raises `WardenError` where settings cannot be used.
    """

    def __init__(self, settings: RedisSettings, scripts: tuple[str, ...] = ()) -> None:
        if not settings.nodes:
            raise WardenError("redis.nodes: names no server")
        self.settings = settings
        self.loads: tuple[Command, ...] = tuple(("SCRIPT", "LOAD", script) for script in scripts)
        self._tls = tls_context(settings)
        self._connections: dict[Address, RedisConnection] = {}
        self._only: Address | None = settings.nodes[0] if settings.mode is RedisMode.SINGLE else None
        self._view = 0
        self._owners: list[Address | None] = [None] * SLOTS if settings.mode is RedisMode.CLUSTER else []
        self._known: tuple[Address, ...] = settings.nodes
        self._under_way: dict[Hashable, asyncio.Task[Any]] = {}
        self._failures: dict[int, tuple[float, float, str]] = {}
        self._closed = False

    def ready(self, slot: int) -> RedisConnection | None:
        """The connection to the slot's master, if it is up."""
        owner = self._owners[slot] if self._owners else self._only
        if owner is None:
            return None
        connection = self._connections.get(owner)
        return None if connection is None or connection.lost is not None else connection

    async def reach(self, slot: int) -> RedisConnection:
        """The same, connecting if need be; raises `Unavailable` within the connect timeout."""
        connection = self.ready(slot)
        if connection is not None:
            return connection
        self._refuse_if_closed()
        again_at, _, why = self._failures.get(slot, (0.0, 0.0, ""))
        if asyncio.get_running_loop().time() < again_at:
            raise Unavailable(why)
        try:
            connection = await self._bounded(lambda: self._connect(slot))
        except Unavailable as error:
            self._note_failure(slot, str(error))
            raise
        self._failures.pop(slot, None)
        return connection

    async def call(self, slot: int, *commands: Command, extra_s: float = 0.0) -> list[Any]:
        """What the slot's master replies, following it where it moves. Raises `Unavailable`, also for an error reply.
        Use it for commands that may be repeated together.
        """
        connection, asking = await self.reach(slot), False
        for _ in range(REDIRECTS_MAX):
            sent = with_asking(commands) if asking else commands
            replies = await connection.exchange(sent, extra_s)
            if asking:
                replies = replies[1::2]
            refusal = next((reply for reply in replies if isinstance(reply, Refusal)), None)
            if refusal is None:
                return replies
            connection, asking = await self.follow(slot, connection, refusal)
        raise Unavailable(f"redis {connection.address}: slot {slot} does not stop moving")

    async def follow(self, slot: int, connection: RedisConnection, refusal: Refusal) -> tuple[RedisConnection, bool]:
        """Where what was refused may be asked again, and whether with ASKING; raises `Unavailable` where nowhere."""
        match refusal.code:
            case "MOVED" | "ASK" if self._owners:
                host, _, port = refusal.text.split(" ", 1)[1].rpartition(":")
                # A server that does not know its peers' host names leaves them out: they are as this one's.
                address = Address(host.strip("[]") or connection.address.host, int(port))
                if refusal.code == "MOVED":
                    self._owners[slot] = address
                return await self.connection(address), refusal.code == "ASK"
            case "TRYAGAIN":
                await asyncio.sleep(_TRY_AGAIN_S)
                return connection, False
            case "NOSCRIPT" if self.loads:
                await connection.call(*self.loads)
                return connection, False
        if refusal.code in _LOST:
            why = str(refused(connection.address, refusal))
            connection.drop(why)
            self._note_failure(slot, why)
        raise refused(connection.address, refusal)

    async def connection(self, address: Address) -> RedisConnection:
        """The connection to that server, whatever it serves."""
        self._refuse_if_closed()
        connection = self._connections.get(address)
        if connection is None or connection.lost is not None:
            connection = await self._once(address, lambda: self._open(address))
        return connection

    async def masters(self) -> list[RedisConnection]:
        """A connection to every master; raises `Unavailable` for the first that cannot be reached."""
        if not self._owners:
            return [await self.reach(0)]
        await self._once("owners", self._find_owners)
        owners = sorted({owner for owner in self._owners if owner is not None})
        return [await self.connection(owner) for owner in owners]

    async def leave_old_master(self) -> None:
        """Drop the connection to a master that has been replaced since, by what the Sentinels say. Raises `Unavailable`
        where none of them answers.
        """
        used = self._connections.get(self._only) if self._only is not None else None
        if self.settings.mode is not RedisMode.SENTINEL or used is None or used.lost is not None:
            return
        # An older view than the one by which it was found is that of a Sentinel which was cut off.
        view, master = await self._once("master", self._find_master)
        if view > self._view and master != used.address:
            used.drop(f"redis {used.address}: is not the master any more, that is {master}")

    async def close(self) -> None:
        """Close every connection. Safe to call twice."""
        self._closed = True
        # Attempts are left to end by themselves: who waits for one is not to be cancelled with it.
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
        for connection in self._connections.values():
            connection.drop("redis: closed")

    async def _connect(self, slot: int) -> RedisConnection:
        match self.settings.mode:
            case RedisMode.SINGLE:
                address = self.settings.nodes[0]
            case RedisMode.SENTINEL:
                self._view, address = await self._once("master", self._find_master)
                self._only = address
            case RedisMode.CLUSTER:
                await self._once("owners", self._find_owners)
                owner = self._owners[slot]
                if owner is None:
                    raise Unavailable(f"redis {self.settings.nodes[0]}: nobody serves slot {slot} of the cluster")
                address = owner
        return await self.connection(address)

    async def _open(self, address: Address) -> RedisConnection:
        settings = self.settings
        connection = await self.log_in(address, settings.username, settings.password)
        try:
            if settings.mode is RedisMode.SENTINEL:
                await _refuse_replica(connection)
            if self.loads:
                await connection.call(*self.loads)
        except BaseException:
            connection.drop(f"redis {address}: not used")
            raise
        for lost in [known for known, one in self._connections.items() if one.lost is not None]:
            del self._connections[lost]
        self._connections[address] = connection
        return connection

    async def log_in(self, address: Address, username: str, password: str) -> RedisConnection:
        """A connection of the caller's own, as that user. The caller bounds the time, and drops it in the end."""
        connection = await RedisConnection.open(address, self.settings.answer_timeout_s, self._tls)
        try:
            if password or username:
                await connection.call(("AUTH", *((username,) if username else ()), password))
            else:
                await connection.call(("PING",))
        except BaseException as error:
            connection.drop(f"redis {address}: not used")
            if isinstance(error, Unavailable) and self._tls is None and "closed the connection" in str(error):
                raise Unavailable(f"{error} (if it expects tls, set it)") from None
            raise
        return connection

    async def _find_master(self) -> tuple[int, Address]:
        """What the Sentinels say, the newest view of them, and how new that is."""
        settings = self.settings

        async def ask(sentinel: Address) -> tuple[int, tuple[int, Address]]:
            connection = await self.log_in(sentinel, settings.sentinel_username, settings.sentinel_password)
            try:
                [fields] = await connection.call(("SENTINEL", "MASTER", settings.master_name))
            finally:
                connection.drop("redis: answered")
            told = dict(zip(fields[::2], fields[1::2], strict=True))
            view = int(told[b"config-epoch"])
            return view, (view, Address(told[b"ip"].decode(), int(told[b"port"])))

        return await _newest([ask(sentinel) for sentinel in settings.nodes[:_ASKED_MAX]])

    async def _find_owners(self) -> None:
        """What a node of the cluster says that is asked anyway, or the newest view of all known ones."""
        for connection in self._connections.values():
            if connection.lost is None:
                with suppress(Unavailable):
                    _, owners = await _ask_owners(connection)
                    self._learn(owners)
                    return
        settings = self.settings

        async def ask(node: Address) -> tuple[int, _Owners]:
            connection = await self.log_in(node, settings.username, settings.password)
            try:
                return await _ask_owners(connection)
            finally:
                connection.drop("redis: answered")

        self._learn(await _newest([ask(node) for node in self._known[:_ASKED_MAX]]))

    def _learn(self, owners: "_Owners") -> None:
        known: dict[Address, None] = {}
        slots: list[Address | None] = [None] * SLOTS
        for first, last, servers in owners:
            known.update(dict.fromkeys(servers))
            if servers:
                slots[first : last + 1] = [servers[0]] * (last + 1 - first)
        self._owners = slots
        # Masters and replicas as they are now, then those of the settings: the whole cluster may have moved.
        known.update(dict.fromkeys(self.settings.nodes))
        self._known = tuple(known)

    async def _once(self, what: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Whoever needs the same at the same time shares one attempt; a cancelled caller does not end it."""
        task = self._under_way.get(what)
        if task is None or task.done():
            task = self._under_way[what] = asyncio.create_task(self._bounded(work))
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        result: T = await asyncio.shield(task)
        return result

    async def _bounded(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        limit_s = self.settings.connect_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await work()
        except TimeoutError:
            places = ", ".join(map(str, self.settings.nodes))
            what = "connection" if self._tls is None else "tls connection"
            raise Unavailable(f"redis {places}: no {what} within {limit_s:g} s") from None

    def _note_failure(self, slot: int, why: str) -> None:
        _, backoff_s, _ = self._failures.get(slot, (0.0, 0.0, ""))
        backoff_s = min(max(_BACKOFF_S, 2 * backoff_s), _BACKOFF_MAX_S)
        self._failures[slot] = (asyncio.get_running_loop().time() + backoff_s, backoff_s, why)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise Unavailable("redis: closed")


async def _refuse_replica(connection: RedisConnection) -> None:
    [[role, *_]] = await connection.call(("ROLE",))
    if role != b"master":
        raise Unavailable(f"redis {connection.address}: is not the master yet, a fail-over is under way")


_Owners: TypeAlias = list[tuple[int, int, list[Address]]]
"""First and last slot, and their servers, the master first."""


async def _ask_owners(connection: RedisConnection) -> tuple[int, _Owners]:
    """The node's view, and how new it is."""
    info, ranges = await connection.call(("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"))
    facts = dict(line.split(":", 1) for line in info.decode().split() if ":" in line)
    owners = []
    for first, last, *servers in ranges:
        # A node that has not learnt its own address leaves it out: it is where we asked it.
        places = [
            Address(host.decode() if host and host != b"?" else connection.address.host, port)
            for host, port, *_ in servers
        ]
        owners.append((first, last, places))
    return int(facts["cluster_current_epoch"]), owners


async def _newest(opinions: Sequence[Coroutine[Any, Any, tuple[int, T]]]) -> T:
    """The answer with the highest epoch of those that come; raises `Unavailable` where none does."""
    tasks = [asyncio.create_task(opinion) for opinion in opinions]
    try:
        pending: set[asyncio.Task[tuple[int, T]]] = set(tasks)
        answers: list[tuple[int, T]] = []
        reasons: list[str] = []
        while pending:
            done, pending = await asyncio.wait(
                pending, timeout=_OPINIONS_S if answers else None, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for task in done:
                try:
                    answers.append(task.result())
                except Unavailable as error:
                    reasons.append(str(error))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if not answers:
        raise Unavailable("; ".join(sorted(reasons)[:3]))
    return max(answers, key=lambda answer: answer[0])[1]
