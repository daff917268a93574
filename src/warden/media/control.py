"""The controller's connections: frames in, frames out, never blocking. Nothing here knows what the orders mean."""

import errno
import os
import select
import socket
from collections import deque
from typing import Final

import msgspec

from warden.core.errors import MalformedMessage
from warden.media.protocol import (
    FRAME_BYTES_MAX,
    PROTOCOL_VERSION,
    Answer,
    Answers,
    Digit,
    Event,
    FromMedia,
    Hello,
    Order,
    Orders,
    ToMedia,
)

CONNECTIONS_MAX: Final = 8
"""One controls; the others are successors that have not said hello yet."""
UNREAD_BYTES_MAX: Final = 16 * 1024 * 1024
"""A controller that lets more lie than some frames is stuck: it is left, and comes back or is replaced."""
KEPT_EVENTS_MAX: Final = 1000
"""Key presses kept while no controller is there: some restarts' worth."""
_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_encode = msgspec.msgpack.Encoder().encode


def frame(message: FromMedia | ToMedia) -> bytes:
    """A message as it goes over the socket. Raises `ValueError` when it is longer than a frame may be."""
    body = _encode(message)
    if len(body) > FRAME_BYTES_MAX:
        raise ValueError(f"media: a frame of {len(body)} bytes is too long")
    return len(body).to_bytes(4, "big") + body


def take_frame(inbox: bytearray) -> bytes | None:
    """Take the first whole frame out of `inbox`; None when there is none. Raises `MalformedMessage` when too long."""
    if len(inbox) < 4:
        return None
    size = int.from_bytes(inbox[:4], "big")
    if size > FRAME_BYTES_MAX:
        raise MalformedMessage(f"media: a frame of {size} bytes is too long")
    if len(inbox) < 4 + size:
        return None
    body = bytes(inbox[4 : 4 + size])
    del inbox[: 4 + size]
    return body


class _Connection:
    __slots__ = ("answers", "fd", "inbox", "number", "orders", "outbox", "sock", "writing")

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.number = number
        self.inbox = bytearray()
        self.outbox = bytearray()
        self.writing = False
        self.orders: deque[Orders] = deque()
        self.answers: list[Answer] = []


class Control:
    """The listening socket and its connections; the newest that said hello is the controller."""

    def __init__(self, epoll: select.epoll, listener: socket.socket) -> None:
        self._epoll = epoll
        self._listener = listener
        self._connections: dict[int, _Connection] = {}
        self._controller: _Connection | None = None
        self._kept: deque[Digit] = deque(maxlen=KEPT_EVENTS_MAX)
        self._numbers = 0
        self._decoder = msgspec.msgpack.Decoder(ToMedia)
        self._accepts = True
        epoll.register(listener.fileno(), select.EPOLLIN)

    @property
    def number(self) -> int:
        """Which controller is there (they are numbered from 1); 0 when none is."""
        return 0 if self._controller is None else self._controller.number

    @property
    def has_orders(self) -> bool:
        """True while orders of the controller wait."""
        return self._controller is not None and bool(self._controller.orders)

    def next_order(self) -> Order | None:
        """The order to carry out next; `answer` it before asking again."""
        here = self._controller
        while here is not None and here.orders:
            orders = here.orders[0]
            if len(here.answers) < len(orders.orders):
                return orders.orders[len(here.answers)]
            here.orders.popleft()
            answers, here.answers = tuple(here.answers), []
            self._send(here, Answers(orders.serial, answers))
            here = self._controller
        return None

    def answer(self, answer: Answer) -> None:
        """The answer to what `next_order` gave."""
        if self._controller is not None:
            self._controller.answers.append(answer)

    def tell(self, events: list[Event]) -> None:
        """Tell the controller. Without one, key presses are kept; the rest is told by `Put` again."""
        for event in events:
            if self._controller is not None:
                self._send(self._controller, event)
            elif isinstance(event, Digit):
                self._kept.append(event)

    def happened(self, fd: int, mask: int) -> None:
        """Epoll says that something can be done about `fd`."""
        if fd == self._listener.fileno():
            self._accept()
            return
        connection = self._connections.get(fd)
        if connection is None:
            return
        if mask & select.EPOLLOUT:
            self._flush(connection)
        if mask & ~select.EPOLLOUT and self._connections.get(fd) is connection:
            self._read(connection)

    def accept_again(self) -> None:
        """Some time has passed: try again what there was no file descriptor for."""
        if not self._accepts:
            self._accepts = True
            self._epoll.register(self._listener.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Send what can be sent without waiting, and close."""
        for connection in list(self._connections.values()):
            self._flush(connection)
            self._lose(connection)
        self._listener.close()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _NO_ROOM:
                # The listener stays readable, and the loop would spin on it.
                self._epoll.unregister(self._listener.fileno())
                self._accepts = False
            return
        if len(self._connections) >= CONNECTIONS_MAX:
            sock.close()
            return
        sock.setblocking(False)
        self._numbers += 1
        connection = _Connection(sock, self._numbers)
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLIN)

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose(connection)
            return
        connection.inbox += data
        try:
            while (body := take_frame(connection.inbox)) is not None:
                self._received(connection, self._decoder.decode(body))
                if self._connections.get(connection.fd) is not connection:
                    return
        except (MalformedMessage, msgspec.DecodeError, UnicodeDecodeError):
            self._lose(connection)

    def _received(self, connection: _Connection, message: ToMedia) -> None:
        match message:
            case Hello():
                self._send(connection, Hello(PROTOCOL_VERSION, os.getpid()))
                if message.version != PROTOCOL_VERSION or _gone(connection.sock):
                    self._lose(connection)
                elif connection is not self._controller:
                    self._attach(connection)
            case Orders():
                if connection is self._controller:
                    connection.orders.append(message)
                else:
                    self._lose(connection)

    def _attach(self, connection: _Connection) -> None:
        before, self._controller = self._controller, connection
        if before is not None:
            self._lose(before)
        while self._kept and self._controller is connection:
            self._send(connection, self._kept.popleft())

    def _send(self, connection: _Connection, message: FromMedia) -> None:
        if self._connections.get(connection.fd) is not connection:
            return
        connection.outbox += frame(message)
        if not connection.writing:
            self._flush(connection)
        elif len(connection.outbox) > UNREAD_BYTES_MAX:
            self._lose(connection)

    def _flush(self, connection: _Connection) -> None:
        try:
            while connection.outbox:
                del connection.outbox[: connection.sock.send(connection.outbox)]
        except BlockingIOError:
            pass
        except OSError:
            self._lose(connection)
            return
        writing = bool(connection.outbox)
        if writing is not connection.writing:
            connection.writing = writing
            self._epoll.modify(connection.fd, select.EPOLLIN | (select.EPOLLOUT if writing else 0))

    def _lose(self, connection: _Connection) -> None:
        # The number of a descriptor is used again at once, so it does not tell whose it is.
        if self._connections.get(connection.fd) is not connection:
            return
        del self._connections[connection.fd]
        self._epoll.unregister(connection.fd)
        connection.sock.close()
        if connection is self._controller:
            self._controller = None


def _gone(sock: socket.socket) -> bool:
    """True when the peer hung up (or we did, since it could not be answered): it gave up waiting for us, and must not
    take the place of one that did not.
    """
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
