"""SIP over TCP and TLS: connections that peers open and connections opened on demand.

Nothing here knows what a message means: it is cut from the stream and handed on.
"""

import asyncio
import errno
import os
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine, Set
from contextlib import suppress
from typing import Final, cast

from warden.core.address import Address, Flow, Transport
from warden.core.errors import MalformedMessage
from warden.net.bind import bind, local_address
from warden.net.counters import Counters, Dropped
from warden.net.limits import RateLimit, is_numeric, limit_key
from warden.net.ports import Receiver
from warden.net.proxied import FIXED, length_of_rest, source_of
from warden.net.settings import Limits, Listener
from warden.sip.stream import Broken, BrokenStream, KeepAlive, StreamParser

_INTRODUCED_MAX: Final = 1_000
"""Connections of balancers that have not said yet whose they are: all phones come back within a second or two."""
_ACCEPT_BATCH: Final = 64
"""Connections accepted per wake, so that those that are open get their turn."""
_PAUSE_S: Final = 0.1
"""How long a peer above its message rate is left unread: TCP's own way of slowing it down."""
_NO_DESCRIPTORS_PAUSE_S: Final = 0.5
"""How long nothing is accepted when the process has no file descriptor left; trying at once would spin."""
_BROKEN_MESSAGES_MAX: Final = 100
"""Malformed messages borne on one connection: a phone with a bug is worth answering, a fuzzer is not."""
_UNACKNOWLEDGED_MS: Final = 20_000
"""TCP_USER_TIMEOUT: a peer that vanished is noticed before the transaction gives up (timer B, 32 s)."""
_GOODBYE_S: Final = 1.0
"""How long closing waits for what is unsent and for the peer's TLS close_notify."""
_MALFORMED_BYTES_MAX: Final = 4_096
"""What is shown of a stream that broke."""
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER that makes close() reset: a refused connection leaves no TIME_WAIT behind."""


class Connection(asyncio.Protocol):
    """One connection. `waiting` holds what is to be sent once it is open, None from then on."""

    def __init__(self, streams: "Streams", flow: Flow, key: str, *, outgoing: bool) -> None:
        self.flow = flow
        self.key = key
        self.outgoing = outgoing
        self.transport: asyncio.Transport | None = None
        self.waiting: list[bytes] | None = []
        self.by_zero = outgoing  # Somebody knows it as the flow with connection 0, and wants to hear of its end.
        self.heard_at = streams.loop.time()
        self.heard = False
        self.ending = ""  # Why we are closing it, "" while we are not.
        self._streams = streams
        self._traffic = streams.counters.traffic[flow.transport]
        self._parser = StreamParser()
        self._broken = 0
        self._abort = False
        self._may_close = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open, with TLS behind the handshake: what waited goes out."""
        # uvloop's transports have the methods of asyncio.Transport without being of that class.
        self.transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=self._streams.limits.unsent_bytes_max)
        waiting, self.waiting = self.waiting or [], None
        for data in waiting:
            self.send(data)

    def established(self) -> None:
        """The loop has done with opening, so that the transport may be closed: uvloop mislays the socket of one that
        closes within `connection_made`.
        """
        self._may_close = True
        self._close()

    def send(self, data: bytes) -> None:
        """Send, or queue until the connection is open."""
        if self.transport is None:
            assert self.waiting is not None, "a connection that has ended is no longer found"
            self.waiting.append(data)
            return
        self.transport.write(data)
        self._traffic.messages_out += 1
        self._traffic.bytes_out += len(data)

    def pause_writing(self) -> None:
        """The peer does not read: what is unsent has grown to `unsent_bytes_max`."""
        self._streams.counters.dropped[Dropped.SLOW_READER] += 1
        self.end("the peer does not read what it is sent", abort=True)

    def end(self, why: str, *, abort: bool = False) -> None:
        """Close, after what is unsent has gone out or (`abort`) at once."""
        if self.ending:
            return
        self.ending = why
        self._abort = abort
        self._close()

    def data_received(self, data: bytes) -> None:
        """Cut the bytes into messages and hand them on, in order."""
        if self.ending:
            return
        if self.key in self._streams.barred:
            self._streams.counters.dropped[Dropped.BANNED] += 1
            self.end("the peer's address is banned", abort=True)
            return
        broken: BrokenStream | None = None
        try:
            items = self._parser.receive(data)
        except BrokenStream as error:
            items, broken = error.items, error
        self._traffic.bytes_in += len(data)
        now = self._streams.loop.time()
        self.heard = self.heard or any(not isinstance(item, KeepAlive) for item in items)
        # Whoever only pings has yet to say what it is here for: keep-alives hold what a message has opened.
        if items and (self.heard or self.outgoing):
            self.heard_at = now
        for item in items:
            if item is KeepAlive.PING:
                self._traffic.keep_alives += 1
                if self.transport is not None:
                    self.transport.write(b"\r\n")
            elif isinstance(item, Broken):
                self._traffic.messages_in += 1
                self._broken += 1
                self._malformed(item.data, item.error)
            elif not isinstance(item, KeepAlive):
                self._traffic.messages_in += 1
                self._streams.receiver.received(self.flow, item)
            if not self._streams.rate.allows(self.key, now):
                self._pause()
        if broken is not None:
            self._malformed(broken.data[:_MALFORMED_BYTES_MAX], broken)
        if broken is not None or self._broken > _BROKEN_MESSAGES_MAX:
            self.end("the peer sent what is no sip")

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, whoever wanted it."""
        self.transport = None
        why = self.ending or (_why(exc) if exc else "the peer closed the connection")
        self._streams.ended(self, why)

    def _close(self) -> None:
        if self.ending and self._may_close and self.transport is not None:
            if self._abort:
                self.transport.abort()
            else:
                self.transport.close()

    def _malformed(self, data: bytes, error: MalformedMessage) -> None:
        self._traffic.malformed += 1
        self._streams.receiver.malformed(self.flow, data, error)

    def _pause(self) -> None:
        transport = self.transport
        if transport is not None and not self.ending and transport.is_reading():
            self._streams.counters.dropped[Dropped.MESSAGE_RATE] += 1
            transport.pause_reading()
            self._streams.loop.call_later(_PAUSE_S, self._resume)

    def _resume(self) -> None:
        if self.transport is not None and not self.ending:
            self.transport.resume_reading()


class Streams:
    """All TCP and TLS connections, in the running loop.

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
        self._introduced: set[asyncio.Task[Address | None]] = set()
        self._stopping = False
        self._all_gone = asyncio.Event()
        self._sweep_every_s = min(5.0, max(0.05, min(limits.silence_s, limits.idle_s) / 4))
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
        """As `Net.send`, for a TCP or TLS flow."""
        if flow.connection:
            connection = self._live.get(flow.connection)
            # Numbers begin anew with each process: a flow of an earlier one must not reach somebody else.
            if connection is None or connection.flow != flow or connection.ending:
                self.counters.dropped[Dropped.CONNECTION_GONE] += 1
                self._tell_lost(flow, "the connection is gone")
                return
        else:
            connection = self._by_zero.get(flow)
            if connection is None or connection.ending:
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
                self._take(sock, flow)
            elif len(self._introduced) >= _INTRODUCED_MAX:
                self._reset(sock, Dropped.PROXY_HEADER)
            else:
                self._introduce(sock, flow)

    def _take(self, sock: socket.socket, flow: Flow) -> None:
        key = limit_key(flow.remote.host)
        refusal = self._refusal(key)
        if refusal is not None:
            self._reset(sock, refusal)
            return
        connection = self._admit(flow, key, outgoing=False)
        self.counters.traffic[flow.transport].connections_in += 1
        self._run(self._shake_hands(connection, sock), connection, sock)

    def _reset(self, sock: socket.socket, why: Dropped) -> None:
        self.counters.dropped[why] += 1
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        sock.close()

    def _introduce(self, sock: socket.socket, flow: Flow) -> None:
        """Take the connection when its balancer has said whose it is."""

        def done(task: asyncio.Task[Address | None]) -> None:
            self._introduced.discard(task)
            if task.cancelled() or self._stopping:
                sock.close()
            elif task.exception() is not None:
                self._reset(sock, Dropped.PROXY_HEADER)
            elif (peer := task.result()) is None:
                # The balancer looks whether anybody is here.
                sock.close()
            else:
                self._take(sock, flow._replace(remote=peer))

        task = self.loop.create_task(self._introduction(sock))
        self._introduced.add(task)
        task.add_done_callback(done)

    async def _introduction(self, sock: socket.socket) -> Address | None:
        """Who is behind a balancer. Raises `MalformedMessage`, `OSError`, `TimeoutError`."""
        async with asyncio.timeout(self.limits.proxy_header_s):
            fixed = await self._exactly(sock, FIXED)
            return source_of(fixed, await self._exactly(sock, length_of_rest(fixed)))

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
        connection = Connection(self, flow._replace(connection=self._number), key, outgoing=outgoing)
        self._live[self._number] = connection
        self._by_zero[flow] = connection
        self._per_address[key] = self._per_address.get(key, 0) + 1
        self.counters.traffic[flow.transport].connections_open += 1
        return connection

    def _open(self, flow: Flow) -> Connection | None:
        why = ""
        if not is_numeric(flow.remote.host):
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

    async def _shake_hands(self, connection: Connection, sock: socket.socket) -> None:
        tls = connection.flow.transport is Transport.TLS
        try:
            _harden(sock)
            await self.loop.connect_accepted_socket(
                lambda: connection,
                sock,
                ssl=self._server_tls if tls else None,
                ssl_handshake_timeout=self.limits.handshake_s if tls else None,
                ssl_shutdown_timeout=_GOODBYE_S if tls else None,
            )
            connection.established()
        except OSError as error:
            sock.close()
            self.counters.dropped[Dropped.HANDSHAKE] += 1
            self.ended(connection, _why(error))

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
            self.ended(connection, _why(error))

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in list(self._live.values()):
            if connection.transport is None or connection.ending:
                continue
            quiet_s = now - connection.heard_at
            if quiet_s > self.limits.idle_s:
                self.counters.dropped[Dropped.IDLE] += 1
                connection.end(f"nothing was heard for {self.limits.idle_s:g} s")
            elif quiet_s > self.limits.silence_s and not connection.heard and not connection.outgoing:
                self.counters.dropped[Dropped.SILENT] += 1
                connection.end(f"no message came within {self.limits.silence_s:g} s", abort=True)
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


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"tls: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"tls: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error).lower()
