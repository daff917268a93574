"""One SIP connection: what it brings is cut into messages and handed on, what goes out is written.

Nothing here opens or accepts: that is `Streams`, which knows all connections.
"""

import asyncio
import os
import ssl
from collections.abc import Set
from typing import Final, Protocol, cast

from warden.core.address import Flow
from warden.core.errors import MalformedMessage
from warden.net.counters import Counters, Dropped
from warden.net.framing import Framing
from warden.net.limits import RateLimit
from warden.net.ports import Receiver
from warden.net.settings import Limits
from warden.sip.stream import Broken, BrokenStream, KeepAlive

_PAUSE_S: Final = 0.1
"""How long a peer above its message rate is left unread: TCP's own way of slowing it down."""
_BROKEN_MESSAGES_MAX: Final = 100
"""Malformed messages borne on one connection: a phone with a bug is worth answering, a fuzzer is not."""
_MALFORMED_BYTES_MAX: Final = 4_096
"""What is shown of a stream that broke."""


class Owner(Protocol):
    """Who has the connections, as one of them sees it."""

    loop: asyncio.AbstractEventLoop
    receiver: Receiver
    counters: Counters
    limits: Limits
    rate: RateLimit
    barred: Set[str]

    def ended(self, connection: "Connection", why: str) -> None:
        """A connection is no more, whoever wanted it."""


class Connection(asyncio.Protocol):
    """One connection. `waiting` holds what is to be sent once it is open, None from then on."""

    def __init__(self, streams: Owner, flow: Flow, key: str, framing: Framing, *, outgoing: bool) -> None:
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
        self._framing = framing
        self.is_greeted = framing.is_open  # No handshake is awaited behind that of TLS.
        self._pinged_at = 0.0
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
        self.transport.write(self._framing.wrap(data))
        self._traffic.messages_out += 1
        self._traffic.bytes_out += len(data)

    @property
    def takes_messages(self) -> bool:
        """It can be sent to, if not at once; before its handshake a phone is nobody who could be sent anything."""
        return not self.ending and (self._framing.is_open or (self.outgoing and self.waiting is not None))

    def ping(self, now: float, every_s: float) -> None:
        """Have the peer show that it is there, once in so long, where there is a way to."""
        if now - self._pinged_at >= every_s and self.takes_messages and (ping := self._framing.ping()):
            self._pinged_at = now
            assert self.transport is not None, "only who is heard is pinged"
            self.transport.write(ping)

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
            items = self._framing.receive(data)
        except BrokenStream as error:
            items, broken = error.items, error
        self._traffic.bytes_in += len(data)
        self.is_greeted = self.is_greeted or self._framing.is_open
        owed = self._framing.owed()
        if owed and self.transport is not None:
            self.transport.write(owed)
        now = self._streams.loop.time()
        self.heard = self.heard or any(not isinstance(item, KeepAlive) for item in items)
        # Whoever only pings has yet to say what it is here for: keep-alives hold what a message has opened.
        if items and (self.heard or self.outgoing):
            self.heard_at = now
        for item in items:
            if item is KeepAlive.PING:
                self._traffic.keep_alives += 1
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
        elif self._framing.over:
            if not self.is_greeted:
                self._streams.counters.dropped[Dropped.HANDSHAKE] += 1
            self.end(self._framing.over)

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, whoever wanted it."""
        self.transport = None
        why = self.ending or (why_of(exc) if exc else "the peer closed the connection")
        self._streams.ended(self, why)

    def _close(self) -> None:
        if self.ending and self._may_close and self.transport is not None:
            if self._abort:
                self.transport.abort()
            else:
                goodbye = self._framing.goodbye()
                if goodbye:
                    self.transport.write(goodbye)
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


def why_of(error: Exception) -> str:
    """Why a connection ended or did not come, in words for the log."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"tls: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"tls: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error).lower()
