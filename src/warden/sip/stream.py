"""The bytes of a TCP or TLS connection to messages (RFC 3261 section 18.3, RFC 5626 section 3.5.1).

One parser per connection and direction. Nothing here knows sockets, addresses or transactions.
"""

import re
from enum import Enum, auto
from typing import Final, NamedTuple, NoReturn

from warden.core.errors import MalformedMessage
from warden.sip.message import Request, Response
from warden.sip.parser import BODY_BYTES_MAX, HEAD_BYTES_MAX, read_head

_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\n(?:Content-Length|l)[ \t]*:[ \t]*([0-9]{1,10})[ \t]*(?=\r\n|\Z)", re.IGNORECASE)
_LENGTH_NAME: Final = re.compile(rb"[\r\n](?:Content-Length|l)[ \t]*:", re.IGNORECASE)


class KeepAlive(Enum):
    """What a peer sends between messages to keep its connection open."""

    PING = auto()
    """A double CRLF: answer it with one CRLF (RFC 5626 section 3.5.1)."""
    PIECE = auto()
    """A WebSocket's frame with more of its message to come: no message yet, but it counts against the rate."""


class Broken(NamedTuple):
    """A message that is malformed, but whose end is known: the connection goes on behind it."""

    data: bytes
    error: MalformedMessage


class BrokenStream(MalformedMessage):
    """It is not known where the next message begins: answer what can be answered, then close the connection.

    `items` are those that were whole in front of it, in the same `receive`. `data` is the head that broke the stream.
    """

    def __init__(self, what: str, status: int | None, items: "list[Item]", data: bytes) -> None:
        super().__init__(what, status)
        self.items = items
        self.data = data


Item = Request | Response | KeepAlive | Broken


class StreamParser:
    """Cuts a stream into messages; however the bytes are cut into reads, the items are the same.

    It holds at most one unfinished message: HEAD_BYTES_MAX and BODY_BYTES_MAX bound its memory. Each byte is looked
    at a fixed number of times, also when they come one by one.
    """

    __slots__ = ("_buffer", "_closed", "_head_bytes", "_message", "_need", "_scanned")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._closed = False
        self._scanned = 0  # how far the buffer holds no end of a head
        self._message: Request | Response | MalformedMessage | None = None  # whose body is awaited
        self._head_bytes = 0
        self._need = 0  # bytes of head and body of `_message`

    def receive(self, data: bytes) -> list[Item]:
        """The items that `data` completes, in order. Messages carry `raw`.

        Raises `BrokenStream` (a `MalformedMessage`) when the rest of the stream cannot be read; from then on all
        bytes are swallowed.
        """
        if self._closed:
            return []
        buffer = self._buffer
        buffer += data
        items: list[Item] = []
        while buffer:
            if self._message is None and not self._find_head(items):
                break
            if len(buffer) < self._need:
                break
            items.append(self._take())
        return items

    def _find_head(self, items: list[Item]) -> bool:
        """Read the next head into `_message` and `_need`; False when its end is still to come."""
        buffer = self._buffer
        while buffer and buffer[0] in b"\r\n":
            if buffer[:4] == _END:
                items.append(KeepAlive.PING)
                del buffer[:4]
            elif _END.startswith(buffer):
                return False  # A lone CRLF may yet become a ping; it is no message, so nothing waits for it.
            else:
                del buffer[:1]
        end = buffer.find(_END, self._scanned)
        if end > HEAD_BYTES_MAX or (end < 0 and len(buffer) > HEAD_BYTES_MAX + 3):
            head = bytes(buffer[:HEAD_BYTES_MAX])
            self._fail(f"stream: headers longer than {HEAD_BYTES_MAX} bytes", 513, items, head)
        if end < 0:
            self._scanned = max(0, len(buffer) - 3)
            return False
        self._scanned = 0
        self._head_bytes = end + 4
        self._need = self._head_bytes + self._read_head(bytes(buffer[:end]), items)
        return True

    def _read_head(self, head: bytes, items: list[Item]) -> int:
        """Set `_message`; the length of its body."""
        try:
            self._message, length = read_head(head)
        except MalformedMessage as error:
            found = _LENGTH.findall(head)
            if len(found) != 1 or len(_LENGTH_NAME.findall(head)) != 1:
                self._fail(str(error), error.status, items, head)
            self._message, length = error, int(found[0])
        if length is None:
            self._fail("stream: no Content-Length", 400, items, head)
        if length > BODY_BYTES_MAX:
            self._fail(f"stream: a body of {length} bytes", 413, items, head)
        return length

    def _take(self) -> Item:
        raw = bytes(self._buffer[: self._need])
        del self._buffer[: self._need]
        message, self._message = self._message, None
        assert message is not None, "receive() calls this only when a head was read"
        if isinstance(message, MalformedMessage):
            return Broken(raw, message)
        message.body = raw[self._head_bytes :]
        message.raw = raw
        return message

    def _fail(self, what: str, status: int | None, items: list[Item], data: bytes) -> NoReturn:
        self._closed = True
        self._message = None
        self._buffer.clear()
        if data[:4].upper() == b"SIP/":
            status = None  # A response is never answered.
        raise BrokenStream(what, status, items, data)
