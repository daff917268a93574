"""What is on a connection: SIP messages one behind the other, or in a WebSocket's frames. Bytes in and out; no I/O."""

from typing import Protocol

from warden.sip.stream import Item, KeepAlive, StreamParser


class Framing(Protocol):
    """Cuts what a connection brings into messages, and wraps what goes out. One per connection."""

    @property
    def is_open(self) -> bool:
        """Messages may be sent."""

    @property
    def over(self) -> str:
        """Why the connection is to be closed, "" while it is not."""

    def receive(self, data: bytes) -> list[Item]:
        """The messages and keep-alives that `data` completes, in order; `owed` has what they cause. Raises
        `BrokenStream` where it is not known where the next message begins.
        """

    def owed(self) -> bytes:
        """What is to be sent without anybody's order, once: answers to keep-alives, and to a handshake."""

    def wrap(self, message: bytes) -> bytes:
        """A message as it goes over the connection, which must be open."""

    def ping(self) -> bytes:
        """What has a peer show that it is there; b"" where nothing has."""

    def goodbye(self) -> bytes:
        """The last that the peer hears when the connection is closed by this side."""


class Plain:
    """TCP and TLS (RFC 3261 section 18.3): messages tell their length themselves."""

    is_open = True
    over = ""

    def __init__(self) -> None:
        self._parser = StreamParser()
        self._owed = b""

    def receive(self, data: bytes) -> list[Item]:
        """As `StreamParser.receive`."""
        items = self._parser.receive(data)
        if KeepAlive.PING in items:
            self._owed += b"\r\n" * items.count(KeepAlive.PING)
        return items

    def owed(self) -> bytes:
        """A CRLF for each double one (RFC 5626 section 3.5.1)."""
        owed, self._owed = self._owed, b""
        return owed

    def wrap(self, message: bytes) -> bytes:
        """As it is."""
        return message

    def ping(self) -> bytes:
        """Phones ping, and are not pinged."""
        return b""

    def goodbye(self) -> bytes:
        """Nothing: TCP says it."""
        return b""
