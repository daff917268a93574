"""SIP over WebSocket (RFC 7118), the server's side of one connection: bytes in, messages and bytes out; no I/O.

The frames are the library's business (RFC 6455). Here is what SIP wants of them: the subprotocol, one message in each
message, and keep-alives of either kind. Nothing is compressed, so that nothing grows when it is read.

Where a page comes from (its Origin) is not looked at: a browser adds cookies to what a stranger's page asks, but never
the password that every request needs here which matters (digest authentication). Nobody is known by an address alone
over a WebSocket, trunks neither: a page in a carrier's network has its address.
"""

import logging
from typing import Final

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request as Handshake
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from warden.core.errors import MalformedMessage
from warden.sip.parser import BODY_BYTES_MAX, HEAD_BYTES_MAX, parse_message
from warden.sip.stream import Broken, Item, KeepAlive

MESSAGE_BYTES_MAX: Final = HEAD_BYTES_MAX + 4 + BODY_BYTES_MAX
"""As long as a message over any other transport may be."""
HANDSHAKE_BYTES_MAX: Final = 16_384
"""The head of a browser's request is below 2 KiB, cookies included that are not ours."""
FRAGMENTS_MAX: Final = 64
"""Frames of one message; browsers send one."""
_HEAD_END: Final = b"\r\n\r\n"
_PING: Final = b"\r\n\r\n"
_PONG: Final = b"\r\n"
_SIP: Final = Subprotocol("sip")
_log = logging.getLogger(__name__)
# What goes wrong with a peer is counted and told by the connection; the library's own word would be the same again.
_log.setLevel(logging.CRITICAL)


class WebSocket:
    """The framing of a connection that a phone has opened."""

    def __init__(self) -> None:
        self.over = ""
        self._protocol = ServerProtocol(subprotocols=[_SIP], max_size=MESSAGE_BYTES_MAX, logger=_log)
        self._handshake_bytes = 0
        self._seam = b""  # Of the handshake, where the end of its head may have begun.
        self._fragments: list[bytes] = []
        self._is_text = False

    @property
    def is_open(self) -> bool:
        """The handshake is done, and nobody has said goodbye."""
        return self._protocol.state is State.OPEN and not self.over

    def receive(self, data: bytes) -> list[Item]:
        """As `Framing.receive`. A message that is none is `Broken`: its end is known, and the connection goes on."""
        if self._is_over():
            return []
        items = list[Item]()
        if self._protocol.state is State.CONNECTING:
            data = self._greet(data)
        # All frames of one read are parsed before the first is taken: the library may be past a goodbye by then.
        if data and self.is_open:
            self._protocol.receive_data(data)
            for event in self._protocol.events_received():
                if isinstance(event, Frame):
                    self._take(event, items)
                if self._is_over():
                    break
            self.over = self.over or self._fault()
        return items

    def owed(self) -> bytes:
        """The answer to the handshake, to pings, and to a goodbye."""
        # An empty piece stands for the end, which `over` tells.
        return b"".join(self._protocol.data_to_send())

    def wrap(self, message: bytes) -> bytes:
        """A message as a text frame, as browsers like it; one that is no text as a binary frame."""
        if message.isascii() or _is_text(message):
            self._protocol.send_text(message)
        else:
            self._protocol.send_binary(message)
        return self.owed()

    def ping(self) -> bytes:
        """A page cannot ping, but its browser answers."""
        self._protocol.send_ping(b"")
        return self.owed()

    def goodbye(self) -> bytes:
        """A close frame, if the peer can read one and has not got one."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(CloseCode.GOING_AWAY)
        return self.owed()

    def _is_over(self) -> bool:
        return self.over != ""

    def _greet(self, data: bytes) -> bytes:
        """Answer the handshake when its head is whole; the bytes behind it. The library would take those for frames, or
        for the end, before there is an answer.
        """
        seen = self._seam + data
        end = seen.find(_HEAD_END)
        size = len(data) if end < 0 else end + len(_HEAD_END) - len(self._seam)
        self._seam = seen[1 - len(_HEAD_END) :]
        self._handshake_bytes += size
        if self._handshake_bytes > HANDSHAKE_BYTES_MAX:
            self.over = f"websocket: a handshake of more than {HANDSHAKE_BYTES_MAX} bytes"
            return b""
        self._protocol.receive_data(data[:size])
        for event in self._protocol.events_received():
            if isinstance(event, Handshake):
                self._protocol.send_response(self._protocol.accept(event))
        self.over = self._fault()
        return data[size:]

    def _take(self, frame: Frame, items: list[Item]) -> None:
        match frame.opcode:
            case Opcode.TEXT | Opcode.BINARY | Opcode.CONT:
                if frame.opcode is not Opcode.CONT:
                    self._is_text = frame.opcode is Opcode.TEXT
                self._fragments.append(bytes(frame.data))
                if frame.fin:
                    message, self._fragments = b"".join(self._fragments), []
                    self._read(message, items)
                elif len(self._fragments) >= FRAGMENTS_MAX:
                    self._fail(CloseCode.POLICY_VIOLATION, f"a message in more than {FRAGMENTS_MAX} frames")
                else:
                    items.append(KeepAlive.PIECE)
            case Opcode.PING | Opcode.PONG:
                items.append(KeepAlive.PING)
            case Opcode.CLOSE:
                self.over = "the peer closed the connection"

    def _read(self, message: bytes, items: list[Item]) -> None:
        if self._is_text and not _is_text(message):
            self._fail(CloseCode.INVALID_DATA, "a text that is not utf-8")
        elif not message.strip(b"\r\n"):
            items.append(KeepAlive.PING)
            if message == _PING and self.is_open:
                self._protocol.send_text(_PONG)
        else:
            try:
                items.append(parse_message(message))
            except MalformedMessage as error:
                items.append(Broken(message, error))

    def _fail(self, code: CloseCode, what: str) -> None:
        self._protocol.fail(code, what)
        self.over = f"websocket: {what}"

    def _fault(self) -> str:
        """What the library thinks is wrong, "" while nothing is."""
        error = self._protocol.handshake_exc or self._protocol.parser_exc
        return "" if error is None else f"websocket: {error}".rstrip(": ")


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
