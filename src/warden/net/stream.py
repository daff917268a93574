"""SIP over TCP, TLS and WebSocket: connections that peers open and connections opened on demand.

Nothing here knows what a message means: it is cut from the stream and handed on.
"""

import asyncio
import errno
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine, Set
from contextlib import suppress
from typing import Final, NamedTuple

from warden.core.address import Address, Flow, Transport
from warden.core.errors import MalformedMessage
from warden.net.bind import bind, local_address
from warden.net.connection import Connection, why_of
from warden.net.counters import Counters, Dropped
from warden.net.framing import Plain
from warden.net.limits import RateLimit, is_numeric, limit_key
from warden.net.ports import Receiver
from warden.net.proxied import FIXED, is_over_tls, length_of_rest, source_of
from warden.net.settings import Limits, Listener
from warden.net.websocket import WebSocket

_INTRODUCED_MAX: Final = 1_000
"""Connections of balancers that have not said yet whose they are: all phones come back within a second or two."""
_ACCEPT_BATCH: Final = 64
"""Connections accepted per wake, so that those that are open get their turn."""
_NO_DESCRIPTORS_PAUSE_S: Final = 0.5
"""How long nothing is accepted when the process has no file descriptor left; trying at once would spin."""
_UNACKNOWLEDGED_MS: Final = 20_000
"""TCP_USER_TIMEOUT: a peer that vanished is noticed before the transaction gives up (timer B, 32 s)."""
_GOODBYE_S: Final = 1.0
"""How long closing waits for what is unsent and for the peer's TLS close_notify."""
_PINGS: Final = 4
"""Unanswered pings' time after which a page is gone; less would cut off who is under a bridge."""
_TLS: Final = (Transport.TLS, Transport.WSS)
_WEBSOCKET: Final = (Transport.WS, Transport.WSS)
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER that makes close() reset: a refused connection leaves no TIME_WAIT behind."""


class _Behind(NamedTuple):
    """Whom a balancer passes on, and whether TLS ended there."""

    peer: Address
    over_tls: bool


class Streams:
    """All connections, in the running loop.

    `server_tls` and `client_tls` are needed where a listener or a flow is TLS. `server_name` tells the name that the
    certificate of a server at an address must carry. No connection is taken from the addresses of `barred`. Those of
    `balancers` begin with a header that says who is behind them: from there on the connection is that peer's.
    """

    def __init__(
        self,
        receiver: Receiver,
        counters: Counters,
        limits: Limits,
        rate: RateLimit,
        *,
        server_tls: ssl.SSLContext | None,
        client_tls: Callable[[], ssl.SSLContext],
        server_name: Callable[[Address], str],
        barred: Set[str] = frozenset(),
        balancers: Set[str] = frozenset(),
    ) -> None:
        self.receiver = receiver
        self.counters = counters
        self.limits = limits
        self.rate = rate
        self.barred = barred
        self._balancers = balancers
        self.loop = asyncio.get_running_loop()
        self._server_tls = server_tls
        self._client_tls = client_tls
        self._server_name = server_name
        self._arrivals = RateLimit(limits.new_connections_per_address_per_s, limits.new_connections_per_address_burst)
        self._doors: dict[socket.socket, tuple[Transport, Address]] = {}
        self._bound_hosts: dict[tuple[Transport, Address], str] = {}
        self._number = 0
        self._live: dict[int, Connection] = {}
        self._by_zero: dict[Flow, Connection] = {}
        self._per_address: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._introduced: set[asyncio.Task[_Behind | None]] = set()
        self._stopping = False
        self._all_gone = asyncio.Event()
        soonest_s = min(limits.silence_s, limits.idle_s, limits.handshake_s, limits.ping_s)
        self._sweep_every_s = min(5.0, max(0.05, soonest_s / 4))
        self._sweeper = self.loop.call_later(self._sweep_every_s, self._sweep)

    def listen(self, listener: Listener) -> Address:
        """Accept connections; the address that their flows carry as local. Raises `WardenError`."""
        sock = bind(listener)
        local = local_address(sock, listener)
        self._doors[sock] = listener.transport, local
        self._bound_hosts[listener.transport, local] = sock.getsockname()[0]
        self.loop.add_reader(sock.fileno(), self._accept, sock)
        return local

    def send(self, flow: Flow, data: bytes) -> None:
        """As `Net.send`, for any flow but UDP."""
        if flow.connection:
            connection = self._live.get(flow.connection)
            # Numbers begin anew with each process: a flow of an earlier one must not reach somebody else.
            if connection is None or connection.flow != flow or not connection.takes_messages:
                self.counters.dropped[Dropped.CONNECTION_GONE] += 1
                self._tell_lost(flow, "the connection is gone")
                return
        else:
            connection = self._by_zero.get(flow)
            if connection is None or not connection.takes_messages:
                connection = self._open(flow)
                if connection is None:
                    return
            connection.by_zero = True
        if connection.waiting is not None and len(connection.waiting) >= self.limits.waiting_messages_max:
            self.counters.dropped[Dropped.WAITING_MESSAGES] += 1
            self._tell_lost(flow, "too many messages wait for the connection")
            return
        connection.send(data)

    def close(self, flow: Flow) -> None:
        """As `Net.close`: what was sent before still goes out."""
        connection = self._live.get(flow.connection) if flow.connection else self._by_zero.get(flow)
        if connection is not None and flow in (connection.flow, connection.flow._replace(connection=0)):
            connection.end("closed by this side")

    async def stop(self) -> None:
        """Close everything; the receiver hears nothing more. Unsent bytes get `_GOODBYE_S`."""
        self._stopping = True
        self._sweeper.cancel()
        for sock in self._doors:
            self.loop.remove_reader(sock.fileno())
            sock.close()
        self._doors.clear()
        for task in (*self._tasks, *self._introduced):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._introduced, return_exceptions=True)
        for abort in (False, True):
            for connection in list(self._live.values()):
                if connection.transport is not None and abort:
                    connection.transport.abort()
                connection.end("closed by this side")
            with suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE_S):
                    while self._live:
                        self._all_gone.clear()
                        await self._all_gone.wait()

    def ended(self, connection: Connection, why: str) -> None:
        """Forget a connection, and tell whoever knows its flow."""
        flow = connection.flow
        if self._live.pop(flow.connection, None) is None:
            return
        self._per_address[connection.key] -= 1
        if not self._per_address[connection.key]:
            del self._per_address[connection.key]
        self.counters.traffic[flow.transport].connections_open -= 1
        zero = flow._replace(connection=0)
        if self._by_zero.get(zero) is connection:
            del self._by_zero[zero]
        if not self._live:
            self._all_gone.set()
        if self._stopping:
            return
        if connection.waiting:
            self.counters.dropped[Dropped.CONNECT_FAILED] += len(connection.waiting)
        if connection.waiting is None:
            self._tell_lost(flow, why)
        if connection.by_zero:
            self._tell_lost(zero, why)

    def _accept(self, door: socket.socket) -> None:
        transport, local = self._doors[door]
        for _ in range(_ACCEPT_BATCH):
            try:
                sock, peer = door.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self.counters.dropped[Dropped.NO_DESCRIPTORS] += 1
                    self.loop.remove_reader(door.fileno())
                    self.loop.call_later(_NO_DESCRIPTORS_PAUSE_S, self._accept_again, door)
                    return
                continue
            sock.setblocking(False)
            flow = Flow(transport, local, Address(*peer[:2]))
            if flow.remote.host not in self._balancers:
                self._take(sock, flow, over_tls=transport in _TLS)
            elif len(self._introduced) >= _INTRODUCED_MAX:
                self._reset(sock, Dropped.PROXY_HEADER)
            else:
                self._introduce(sock, flow)

    def _take(self, sock: socket.socket, flow: Flow, *, over_tls: bool) -> None:
        key = limit_key(flow.remote.host)
        refusal = self._refusal(key)
        if refusal is not None:
            self._reset(sock, refusal)
            return
        connection = self._admit(flow, key, outgoing=False)
        self.counters.traffic[flow.transport].connections_in += 1
        self._run(self._shake_hands(connection, sock, over_tls=over_tls), connection, sock)

    def _reset(self, sock: socket.socket, why: Dropped) -> None:
        self.counters.dropped[why] += 1
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        sock.close()

    def _introduce(self, sock: socket.socket, flow: Flow) -> None:
        """Take the connection when its balancer has said whose it is."""

        def done(task: asyncio.Task[_Behind | None]) -> None:
            self._introduced.discard(task)
            if task.cancelled() or self._stopping:
                sock.close()
            elif task.exception() is not None:
                self._reset(sock, Dropped.PROXY_HEADER)
            elif (behind := task.result()) is None:
                # The balancer looks whether anybody is here.
                sock.close()
            else:
                self._take(sock, self._flow_of(flow, behind), over_tls=flow.transport in _TLS)

        task = self.loop.create_task(self._introduction(sock))
        self._introduced.add(task)
        task.add_done_callback(done)

    def _flow_of(self, flow: Flow, behind: _Behind) -> Flow:
        """The flow to whoever is behind the balancer. A page that speaks TLS with that one speaks WSS, and has the
        address of our own listener for it where there is one: a flow is told by that, too.
        """
        if flow.transport is Transport.WS and behind.over_tls:
            doors = (local for door, local in self._doors.values() if door is Transport.WSS)
            local = next((one for one in doors if (":" in one.host) == (":" in flow.local.host)), flow.local)
            flow = flow._replace(transport=Transport.WSS, local=local)
        return flow._replace(remote=behind.peer)

    async def _introduction(self, sock: socket.socket) -> _Behind | None:
        """Who is behind a balancer. Raises `MalformedMessage`, `OSError`, `TimeoutError`."""
        async with asyncio.timeout(self.limits.proxy_header_s):
            fixed = await self._exactly(sock, FIXED)
            rest = await self._exactly(sock, length_of_rest(fixed))
            peer = source_of(fixed, rest)
            return None if peer is None else _Behind(peer, is_over_tls(fixed, rest))

    async def _exactly(self, sock: socket.socket, size: int) -> bytes:
        # What comes behind the header is the phone's: not a byte too many is read.
        data = b""
        while len(data) < size:
            piece = await self.loop.sock_recv(sock, size - len(data))
            if not piece:
                raise MalformedMessage("proxy: the connection ends within the header")
            data += piece
        return data

    def _accept_again(self, door: socket.socket) -> None:
        if not self._stopping:
            self.loop.add_reader(door.fileno(), self._accept, door)

    def _refusal(self, key: str) -> Dropped | None:
        if key in self.barred:
            return Dropped.BANNED
        if len(self._live) >= self.limits.connections_max:
            return Dropped.CONNECTIONS
        if self._per_address.get(key, 0) >= self.limits.connections_per_address_max:
            return Dropped.CONNECTIONS_PER_ADDRESS
        if not self._arrivals.allows(key, self.loop.time()):
            return Dropped.CONNECTION_RATE
        return None

    def _admit(self, flow: Flow, key: str, *, outgoing: bool) -> Connection:
        self._number += 1
        framing = WebSocket() if flow.transport in _WEBSOCKET else Plain()
        connection = Connection(self, flow._replace(connection=self._number), key, framing, outgoing=outgoing)
        self._live[self._number] = connection
        self._by_zero[flow] = connection
        self._per_address[key] = self._per_address.get(key, 0) + 1
        self.counters.traffic[flow.transport].connections_open += 1
        return connection

    def _open(self, flow: Flow) -> Connection | None:
        why = ""
        if flow.transport in _WEBSOCKET:
            # Pages take no connections: the phone is back when it has opened another one.
            self.counters.dropped[Dropped.CONNECTION_GONE] += 1
            why = "the phone's websocket is gone"
        elif not is_numeric(flow.remote.host):
            why = f"{flow.remote.host} is not an ip address"
        elif len(self._live) >= self.limits.connections_max:
            self.counters.dropped[Dropped.CONNECTIONS] += 1
            why = f"there are {self.limits.connections_max} connections already"
        elif self._stopping:
            why = "shutting down"
        if why:
            self._tell_lost(flow, why)
            return None
        connection = self._admit(flow, limit_key(flow.remote.host), outgoing=True)
        self.counters.traffic[flow.transport].connections_out += 1
        self._run(self._connect(connection), connection)
        return connection

    async def _shake_hands(self, connection: Connection, sock: socket.socket, *, over_tls: bool) -> None:
        try:
            _harden(sock)
            await self.loop.connect_accepted_socket(
                lambda: connection,
                sock,
                ssl=self._server_tls if over_tls else None,
                ssl_handshake_timeout=self.limits.handshake_s if over_tls else None,
                ssl_shutdown_timeout=_GOODBYE_S if over_tls else None,
            )
            connection.established()
        except OSError as error:
            sock.close()
            self.counters.dropped[Dropped.HANDSHAKE] += 1
            self.ended(connection, why_of(error))

    async def _connect(self, connection: Connection) -> None:
        flow = connection.flow
        tls = flow.transport is Transport.TLS
        bound_host = self._bound_hosts.get((flow.transport, flow.local))
        try:
            async with asyncio.timeout(self.limits.connect_s):
                family = socket.AF_INET6 if ":" in flow.remote.host else socket.AF_INET
                sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                try:
                    _harden(sock)
                    # The peer must see the address of the seat, which may be another than the machine's own.
                    if bound_host is not None:
                        sock.bind((bound_host, 0))
                    await self.loop.sock_connect(sock, flow.remote)
                    await self.loop.create_connection(
                        lambda: connection,
                        sock=sock,
                        ssl=self._client_tls() if tls else None,
                        server_hostname=self._server_name(flow.remote) if tls else None,
                        ssl_shutdown_timeout=_GOODBYE_S if tls else None,
                    )
                    connection.established()
                except BaseException:
                    sock.close()
                    raise
        except TimeoutError:
            self.ended(connection, f"no connection within {self.limits.connect_s:g} s")
        except (OSError, ValueError) as error:
            self.ended(connection, why_of(error))

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in list(self._live.values()):
            if connection.transport is None or connection.ending:
                continue
            quiet_s = now - connection.heard_at
            if quiet_s > self.limits.idle_s:
                self.counters.dropped[Dropped.IDLE] += 1
                connection.end(f"nothing was heard for {self.limits.idle_s:g} s")
            elif not connection.is_greeted and quiet_s > self.limits.handshake_s:
                self.counters.dropped[Dropped.HANDSHAKE] += 1
                connection.end(f"no websocket within {self.limits.handshake_s:g} s", abort=True)
            elif quiet_s > self.limits.silence_s and not connection.heard and not connection.outgoing:
                self.counters.dropped[Dropped.SILENT] += 1
                connection.end(f"no message came within {self.limits.silence_s:g} s", abort=True)
            elif connection.flow.transport in _WEBSOCKET and quiet_s > self.limits.ping_s:
                if quiet_s > self.limits.ping_s * _PINGS:
                    self.counters.dropped[Dropped.IDLE] += 1
                    connection.end(f"no ping was answered for {self.limits.ping_s * _PINGS:g} s", abort=True)
                else:
                    connection.ping(now, self.limits.ping_s)
        self._sweeper = self.loop.call_later(self._sweep_every_s, self._sweep)

    def _run(
        self, work: Coroutine[None, None, None], connection: Connection, accepted: socket.socket | None = None
    ) -> None:
        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                # Perhaps before its first step, so that nothing in the task itself could clean up.
                if accepted is not None:
                    accepted.close()
                self.ended(connection, "shutting down")

        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(done)

    def _tell_lost(self, flow: Flow, why: str) -> None:
        # Not from within `send`: its caller is in the midst of its own outputs.
        self.loop.call_soon(self._lost, flow, why)

    def _lost(self, flow: Flow, why: str) -> None:
        if not self._stopping:
            self.receiver.lost(flow, why)


def _harden(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
