"""One connection to one Redis server: commands in, replies out, in order. Nothing here knows keys, or which server.

Commands of one loop turn leave in one write, so they travel as one pipeline. Whoever waits for a reply may be
cancelled at any time: the reply is still taken off the connection, and nobody else gets it.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import hiredis

from warden.core.address import Address
from warden.core.errors import Unavailable

Command: TypeAlias = tuple[str | bytes | int, ...]

_PENDING_MAX_BYTES = 256 << 20
"""What may wait for the server to read it. An adoption of 10,000 calls writes some 30 MB."""

_LAST_CHANCE_S = 0.01
"""A process that was paused finds deadlines passed before it has looked at what came meanwhile: it looks first."""

_KEEPALIVE = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 3))
"""Seconds idle, seconds between, count: idle connections that lead nowhere are cleared away too."""


class Refusal(Exception):
    """A server's error reply. `code` is its first word (`READONLY`, `MOVED`, `ERR` ...), `text` the rest."""

    def __init__(self, reply: str) -> None:
        super().__init__(reply)
        self.code, _, self.text = reply.partition(" ")


class _NotRedis(Exception):
    """The other side speaks something else."""


Replies: TypeAlias = list[Any] | Unavailable
"""A reply for each command (errors among them are `Refusal` values), or why there are none."""


class _Asked(NamedTuple):
    replies: int
    done: Callable[[Replies], None]
    deadline: float


class RedisConnection(asyncio.Protocol):
    """A connection that is up. `lost` says why once it is not; from then on every request fails with that."""

    def __init__(self, address: Address, answer_timeout_s: float) -> None:
        self.address = address
        self.lost: Unavailable | None = None
        self._answer_timeout_s = answer_timeout_s
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=Refusal, protocolError=_NotRedis)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._asked: deque[_Asked] = deque()
        self._replies: list[Any] = []
        self._watch: asyncio.TimerHandle | None = None
        self._suspect: _Asked | None = None

    @classmethod
    async def open(
        cls, address: Address, answer_timeout_s: float, tls: ssl.SSLContext | None = None
    ) -> "RedisConnection":
        """Connect; the caller bounds the time. Raises `Unavailable`."""
        loop = asyncio.get_running_loop()
        try:
            transport, connection = await loop.create_connection(
                lambda: cls(address, answer_timeout_s), address.host, address.port, ssl=tls
            )
        except ssl.SSLCertVerificationError as error:
            raise Unavailable(
                f"redis {address}: its certificate is not accepted ({error.verify_message}): check tls_ca"
            ) from error
        except ssl.SSLError as error:
            raise Unavailable(f"redis {address}: no tls connection ({error.reason}): check tls") from error
        except OSError as error:
            raise Unavailable(f"redis {address}: cannot be reached: {error.strerror or error}") from error
        if (line := transport.get_extra_info("socket")) is not None:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                line.setsockopt(socket.IPPROTO_TCP, option, value)
        return connection

    def ask(self, commands: Sequence[Command], done: Callable[[Replies], None], extra_s: float = 0.0) -> None:
        """Send the commands; `done` gets their replies together, later, exactly once. `extra_s` is added to the time
        the server has to answer, for commands that wait by themselves.
        """
        assert commands, "replies to nothing would never come"
        if self.lost is not None:
            self._loop.call_soon(done, self.lost)
            return
        if not self._out:
            self._loop.call_soon(self._flush)
        pack = hiredis.pack_command
        self._out += [pack(command) for command in commands]  # type: ignore[arg-type]  # the stub says 1-tuple
        deadline = self._loop.time() + self._answer_timeout_s + extra_s
        self._asked.append(_Asked(len(commands), done, deadline))
        if self._watch is None:
            self._watch = self._loop.call_at(deadline, self._check)

    async def exchange(self, commands: Sequence[Command], extra_s: float = 0.0) -> list[Any]:
        """The replies to the commands, `Refusal` values among them; raises `Unavailable` where they do not come."""
        answered: asyncio.Future[Replies] = self._loop.create_future()
        self.ask(commands, lambda replies: None if answered.done() else answered.set_result(replies), extra_s)
        replies = await answered
        if isinstance(replies, Unavailable):
            raise Unavailable(*replies.args)
        return replies

    async def call(self, *commands: Command) -> list[Any]:
        """The replies to the commands. Raises `Unavailable` where they do not come, and for the first that refuses."""
        replies = await self.exchange(commands)
        for reply in replies:
            if isinstance(reply, Refusal):
                raise refused(self.address, reply)
        return replies

    def drop(self, why: str) -> None:
        """Close at once; whatever is not answered fails with `why`."""
        if self.lost is not None:
            return
        lost = self.lost = Unavailable(why)
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._out.clear()
        asked, self._asked = self._asked, deque()
        for one in asked:
            one.done(lost)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`, as with the two that follow."""
        # uvloop's transports are none by inheritance.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits is told."""
        reason = f": {exc}" if exc is not None and str(exc) else ""
        self.drop(f"redis {self.address}: closed the connection{reason}")

    def data_received(self, data: bytes) -> None:
        """Replies go to who asked, in the order they were asked for."""
        try:
            self._reader.feed(data)
            while self.lost is None and (reply := self._reader.gets()) is not False:
                if not self._asked:
                    # A farewell such as `-ERR max number of clients reached`, or not Redis at all.
                    self.drop(f"redis {self.address}: says without being asked: {str(reply)[:200]}")
                    return
                replies = self._replies
                replies.append(reply)
                if len(replies) == self._asked[0].replies:
                    self._replies = []
                    self._asked.popleft().done(replies)
        except _NotRedis as error:
            self.drop(f"redis {self.address}: does not speak Redis: {str(error)[:200]}")

    def _flush(self) -> None:
        if self._out and self._transport is not None:
            if self._transport.get_write_buffer_size() > _PENDING_MAX_BYTES:
                self.drop(f"redis {self.address}: does not read what is sent to it")
                return
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def _check(self) -> None:
        """Is the oldest request overdue? One timer serves them all."""
        self._watch = None
        if not self._asked:
            return
        oldest = self._asked[0]
        if self._loop.time() < oldest.deadline:
            self._watch = self._loop.call_at(oldest.deadline, self._check)
        elif self._suspect is not oldest:
            self._suspect = oldest
            self._watch = self._loop.call_later(_LAST_CHANCE_S, self._check)
        else:
            self.drop(f"redis {self.address}: does not answer within {self._answer_timeout_s:g} s")


_HINTS = {
    "NOAUTH": "wants a user and password: set redis.username and redis.password",
    "WRONGPASS": "does not accept the user or its password: check redis.username and redis.password",
    "NOPERM": "its acl does not allow the user what warden needs",
    "DENIED": "is in protected mode and not reachable from here: give it a password and its bind address",
    "READONLY": "is a replica and takes no writes: redis.nodes must lead to the master",
    "LOADING": "is still loading its data",
    "BUSY": "is busy with a script of somebody else",
    "MASTERDOWN": "is a replica that has lost its master",
    "CLUSTERDOWN": "its cluster does not serve this part of the keys: a shard has no master",
    "MOVED": "belongs to a redis cluster: set redis.cluster",
    "OOM": "is full: raise its maxmemory",
    "MISCONF": "cannot save to its disk and takes no writes until it can",
    "NOREPLICAS": "has fewer replicas than its min-replicas-to-write and takes no writes",
    "WRONGTYPE": "holds keys of somebody else under warden's names: check high_availability.cluster_name",
}
_HINTS_BY_TEXT = {
    "cluster support disabled": "is not a redis cluster: unset redis.cluster",
    "without any password configured": "has no password: unset redis.password, or give it one",
    "No such master": "knows no master of that name: check redis.master_name",
    "max number of clients": "has all the clients it takes: raise its maxclients",
}


def refused(address: Address, refusal: Refusal) -> Unavailable:
    """What the operator is told of an error reply: which server, what to change, and the server's own words."""
    hint = _HINTS.get(refusal.code)
    if hint is None:
        hint = next((hint for text, hint in _HINTS_BY_TEXT.items() if text in str(refusal)), "refuses")
    return Unavailable(f"redis {address}: {hint} ({str(refusal)[:200]})")
