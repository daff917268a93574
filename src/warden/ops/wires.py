"""The SIP sockets of test phones: a UDP socket, a part of one, a TCP connection or a WebSocket. They decide nothing.

These are not the server's sockets (`warden.net`) on purpose: a fault in those should not hide behind itself.
"""

import asyncio
import socket
import ssl
from itertools import count
from typing import Final, Protocol, cast

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri as parse_websocket_uri

from warden.core.address import Address, Flow, Transport
from warden.core.errors import MalformedMessage, Unavailable
from warden.sip.message import Request, Response
from warden.sip.parser import parse_message
from warden.sip.stream import Broken, BrokenStream, KeepAlive, StreamParser

CONNECT_S: Final = 5.0
FLUSH_S: Final = 1.0
"""How long a closed connection may take to send what is left."""
DATAGRAM_BYTES_MAX: Final = 65_535
DATAGRAMS_PER_WAKE_MAX: Final = 64


class Hearer(Protocol):
    """Who hears what a wire hears."""

    def heard(self, message: Request | Response, flow: Flow) -> None:
        """A message arrived."""

    def malformed(self, what: str) -> None:
        """Something arrived that is no SIP message."""

    def lost(self, flow: Flow, why: str) -> None:
        """The connection ended; not told where it was closed by us."""


class UdpWire:
    """One SIP socket over UDP."""

    def __init__(self, hearer: Hearer) -> None:
        self.flow: Flow | None = None
        self._hearer = hearer
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None

    async def open(self, host: str, server: Address) -> Flow:
        """The flow to the server. Raises `Unavailable`."""
        try:
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        except OSError as error:
            raise Unavailable(f"softphone: no socket: {error.strerror}") from error
        sock.setblocking(False)
        try:
            sock.bind((host, 0))
        except OSError as error:
            sock.close()
            raise Unavailable(f"softphone: no port at {host}: {error.strerror}") from error
        self._socket = sock
        self.flow = Flow(Transport.UDP, Address(*sock.getsockname()[:2]), server)
        self._loop.add_reader(sock.fileno(), self._read)
        return self.flow

    def send(self, flow: Flow, data: bytes) -> None:
        """Send a datagram; one that the kernel does not take is a lost one, which SIP sends again."""
        if self._socket is not None:
            try:
                self._socket.sendto(data, flow.remote)
            except OSError:
                return

    def close(self) -> None:
        """Stop hearing and sending. Safe to call twice."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    async def closed(self) -> None:
        """Wait until nothing is left of it."""

    def _read(self) -> None:
        for _ in range(DATAGRAMS_PER_WAKE_MAX):
            if self._socket is None or self.flow is None:
                return
            try:
                data, source = self._socket.recvfrom(DATAGRAM_BYTES_MAX)
            except OSError:
                return
            if not data.strip(b"\r\n\0"):
                # A keep-alive.
                continue
            try:
                message = parse_message(data)
            except MalformedMessage as error:
                self._hearer.malformed(str(error))
                continue
            self._hearer.heard(message, self.flow._replace(remote=Address(*source[:2])))


class SharedSocket:
    """One UDP socket for many phones, told apart by their numbers, so that ten thousand need no ten thousand sockets.
    Who sends something that names none of them is not heard.
    """

    def __init__(self) -> None:
        self._wire = UdpWire(self)
        self._hearers: dict[str, Hearer] = {}

    async def open(self, host: str, server: Address) -> Flow:
        """The flow to the server, the same for all. Raises `Unavailable`."""
        return self._wire.flow or await self._wire.open(host, server)

    def add(self, number: str, hearer: Hearer) -> None:
        """What is for this number goes to `hearer`."""
        self._hearers[number] = hearer

    def remove(self, number: str) -> None:
        """The number is not heard any more. Safe to call twice."""
        self._hearers.pop(number, None)

    def send(self, flow: Flow, data: bytes) -> None:
        """As `UdpWire.send`."""
        self._wire.send(flow, data)

    def close(self) -> None:
        """Stop hearing and sending. Safe to call twice."""
        self._wire.close()

    def heard(self, message: Request | Response, flow: Flow) -> None:
        """As `Hearer.heard`."""
        uri = message.uri if isinstance(message, Request) else message.from_.uri
        hearer = self._hearers.get(uri.username)
        if hearer is not None:
            hearer.heard(message, flow)

    def malformed(self, what: str) -> None:
        """As `Hearer.malformed`: whose it was cannot be told, so all of them know."""
        for hearer in self._hearers.values():
            hearer.malformed(what)

    def lost(self, flow: Flow, why: str) -> None:
        """As `Hearer.lost`; UDP tells nobody."""


class SharedWire:
    """One phone's part of a `SharedSocket`, which stays open when the phone closes its part."""

    def __init__(self, hearer: Hearer, shared: SharedSocket, number: str) -> None:
        self.flow: Flow | None = None
        self._hearer = hearer
        self._shared = shared
        self._number = number

    async def open(self, host: str, server: Address) -> Flow:
        """The flow to the server. Raises `Unavailable`."""
        self.flow = await self._shared.open(host, server)
        self._shared.add(self._number, self._hearer)
        return self.flow

    def send(self, flow: Flow, data: bytes) -> None:
        """As `UdpWire.send`."""
        self._shared.send(flow, data)

    def close(self) -> None:
        """Stop hearing. Safe to call twice."""
        self._shared.remove(self._number)

    async def closed(self) -> None:
        """Wait until nothing is left of it."""


class TcpWire(asyncio.Protocol):
    """One SIP connection over TCP, or with `tls` over TLS."""

    _numbers = count(1)

    def __init__(self, hearer: Hearer, tls: ssl.SSLContext | None = None) -> None:
        self.flow: Flow | None = None
        self._hearer = hearer
        self._tls = tls
        self._parser = StreamParser()
        self._transport: asyncio.Transport | None = None
        self._lost = asyncio.Event()

    async def open(self, host: str, server: Address) -> Flow:
        """The flow to the server. Raises `Unavailable`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                await loop.create_connection(
                    lambda: self, server.host, server.port, local_addr=(host, 0), ssl=self._tls
                )
        except OSError as error:
            raise Unavailable(f"softphone: no connection to {server}: {error or 'no answer'}") from error
        assert self._transport is not None, "connection_made came first"
        local = Address(*self._transport.get_extra_info("sockname")[:2])
        self.flow = Flow(self.kind, local, server, next(self._numbers))
        return self.flow

    @property
    def kind(self) -> Transport:
        """What it speaks."""
        return Transport.TCP if self._tls is None else Transport.TLS

    def send(self, flow: Flow, data: bytes) -> None:
        """Send a message; what goes to another connection than this one cannot be sent any more."""
        if self._transport is not None and flow == self.flow and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        self.flow = None
        if self._transport is not None:
            self._transport.close()

    async def closed(self) -> None:
        """Wait until nothing is left of it."""
        if self._transport is None:
            return
        try:
            async with asyncio.timeout(FLUSH_S):
                await self._lost.wait()
        except TimeoutError:
            # The far side does not read what is left to send.
            self._transport.abort()
            await self._lost.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """For asyncio."""
        # Uvloop's is one by what it can do, not by its class.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """For asyncio."""
        broken = False
        try:
            items = self._parser.receive(data)
        except BrokenStream as error:
            self._hearer.malformed(str(error))
            items, broken = error.items, True
        for item in items:
            if self.flow is None:
                return
            if isinstance(item, KeepAlive):
                self.send(self.flow, b"\r\n")
            elif isinstance(item, Broken):
                self._hearer.malformed(str(item.error))
            else:
                self._hearer.heard(item, self.flow)
        if broken and self._transport is not None:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """For asyncio."""
        self._lost.set()
        flow, self.flow = self.flow, None
        if flow is not None:
            self._hearer.lost(flow, str(error) if error else "closed by the far side")


class WebSocketWire(TcpWire):
    """One SIP connection over WebSocket (RFC 7118), or with `tls` over WebSocket and TLS, as a browser has it."""

    def __init__(self, hearer: Hearer, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(hearer, tls)
        self._frames: ClientProtocol | None = None
        self._changed = asyncio.Event()

    @property
    def kind(self) -> Transport:
        """What it speaks."""
        return Transport.WS if self._tls is None else Transport.WSS

    async def open(self, host: str, server: Address) -> Flow:
        """The flow to the server. Raises `Unavailable`."""
        scheme = "ws" if self._tls is None else "wss"
        frames = self._frames = ClientProtocol(
            parse_websocket_uri(f"{scheme}://{server}/"), subprotocols=[Subprotocol("sip")]
        )
        flow = await super().open(host, server)
        frames.send_request(frames.connect())
        self._flush()
        try:
            async with asyncio.timeout(CONNECT_S):
                while frames.state is State.CONNECTING and not self._lost.is_set():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        if not self._is_open or frames.subprotocol != "sip":
            self.close()
            raise Unavailable(f"softphone: no websocket at {server}: {frames.handshake_exc or 'no answer'}")
        return flow

    @property
    def _is_open(self) -> bool:
        return self._frames is not None and self._frames.state is State.OPEN

    def send(self, flow: Flow, data: bytes) -> None:
        """Send a message; what goes to another connection than this one cannot be sent any more."""
        if self._frames is not None and self._is_open and flow == self.flow:
            self._frames.send_text(data)
            self._flush()

    def data_received(self, data: bytes) -> None:
        """For asyncio."""
        assert self._frames is not None, "open comes first"
        self._frames.receive_data(data)
        for event in self._frames.events_received():
            if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY) and self.flow is not None:
                try:
                    message = parse_message(bytes(event.data))
                except MalformedMessage as error:
                    self._hearer.malformed(str(error))
                else:
                    self._hearer.heard(message, self.flow)
        self._flush()
        self._changed.set()

    def connection_lost(self, error: Exception | None) -> None:
        """For asyncio."""
        super().connection_lost(error)
        self._changed.set()

    def _flush(self) -> None:
        assert self._frames is not None, "open comes first"
        for data in self._frames.data_to_send():
            if self._transport is not None and data:
                self._transport.write(data)
