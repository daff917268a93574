"""The controller's end of the Unix socket: `Media` for the signalling process (asyncio)."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, cast

import msgspec

from warden.core.errors import MalformedMessage, Unavailable
from warden.media.control import frame, take_frame
from warden.media.protocol import PROTOCOL_VERSION, Answer, Answers, Event, FromMedia, Hello, Order, Orders

ORDERS_PER_FRAME: Final = 256
"""So that a re-attach of thousands of sessions is many short frames, each answered within its own time."""
ANSWER_S_MAX: Final = 1.0
"""The media process answers within milliseconds; one that takes a second is as good as dead."""


class OtherVersion(Unavailable):
    """The process that serves the socket is of another version, `version`; `pid` is to be ended for one of ours."""

    def __init__(self, path: Path, version: int, pid: int) -> None:
        super().__init__(
            f"media: process {pid} at {path} speaks protocol version {version} and this is version {PROTOCOL_VERSION};"
            f" end it when no calls are up (kill {pid}), then one of this version is started"
        )
        self.version = version
        self.pid = pid


class MediaClient:
    """A connection to `warden-media`. Events come by `on_event`; `on_lost` is called once when the connection ends
    otherwise than by `close`, after which only `close` makes sense. Both run in the event loop and must not raise.
    """

    def __init__(
        self,
        path: Path,
        on_event: Callable[[Event], None],
        on_lost: Callable[[], None],
        answer_s: float = ANSWER_S_MAX,
    ) -> None:
        self.pid = 0
        self._path = path
        self._on_event = on_event
        self._on_lost = on_lost
        self._answer_s = answer_s
        self._serial = 0
        self._waiting: dict[int, asyncio.Future[tuple[Answer, ...]]] = {}
        self._wire: _Wire | None = None
        self._hello: asyncio.Future[FromMedia] | None = None

    async def connect(self) -> None:
        """Attach: whoever controlled the process before is detached. Raises `Unavailable`, and as one of these
        `OtherVersion`.
        """
        assert self._wire is None, "a client connects once"
        loop = asyncio.get_running_loop()
        wire = _Wire(self._received, self._ended, loop.create_future())
        self._hello = loop.create_future()
        try:
            async with asyncio.timeout(self._answer_s):
                await loop.create_unix_connection(lambda: wire, str(self._path))
                wire.write(frame(Hello()))
                hello = await self._hello
        except (OSError, TimeoutError) as error:
            await wire.hang_up()
            raise Unavailable(f"media: {self._path} does not answer: {error or 'too late'}") from error
        except asyncio.CancelledError:
            await wire.hang_up()
            raise
        if not isinstance(hello, Hello):
            await wire.hang_up()
            raise Unavailable(f"media: {self._path} does not say hello")
        if hello.version != PROTOCOL_VERSION:
            await wire.hang_up()
            raise OtherVersion(self._path, hello.version, hello.pid)
        if wire.is_closing:
            raise Unavailable(f"media: {self._path} hung up")
        self.pid = hello.pid
        self._wire = wire

    async def apply(self, orders: Sequence[Order]) -> Sequence[Answer]:
        """Carry out the orders in turn; one answer each. Raises `Unavailable` when the process does not answer in time:
        the orders may then have been carried out or not. Any number of calls may wait at once.
        """
        wire = self._wire
        if wire is None or wire.is_closing:
            raise Unavailable(f"media: not connected to {self._path}")
        parts: list[tuple[int, asyncio.Future[tuple[Answer, ...]]]] = []
        loop = asyncio.get_running_loop()
        for at in range(0, len(orders), ORDERS_PER_FRAME):
            self._serial += 1
            part = loop.create_future()
            self._waiting[self._serial] = part
            parts.append((self._serial, part))
            wire.write(frame(Orders(self._serial, tuple(orders[at : at + ORDERS_PER_FRAME]))))
        answers: list[Answer] = []
        try:
            for _, part in parts:
                async with asyncio.timeout(self._answer_s):
                    answers += await part
        except TimeoutError as error:
            raise Unavailable(f"media: {self._path} did not answer within {self._answer_s} s") from error
        finally:
            for serial, part in parts:
                self._waiting.pop(serial, None)
                if part.done():
                    # Taken or not: an error nobody waits for is no news, the caller has had the first.
                    part.cancelled() or part.exception()
        return answers

    def tell(self, order: Order) -> None:
        """As `apply` of one order, without waiting for what becomes of it. Behind it comes what is applied later."""
        if self._wire is not None and not self._wire.is_closing:
            self._serial += 1
            self._wire.write(frame(Orders(self._serial, (order,))))

    async def close(self) -> None:
        """Detach. The media process goes on; whoever waits for an answer gets `Unavailable`."""
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.hang_up()

    def _ended(self) -> None:
        if self._hello is not None and not self._hello.done():
            self._hello.set_exception(ConnectionError("it hung up"))
        for part in self._waiting.values():
            if not part.done():
                part.set_exception(Unavailable(f"media: the connection to {self._path} ended"))
        if self._wire is not None:
            self._on_lost()

    def _received(self, message: FromMedia) -> None:
        if self._hello is not None and not self._hello.done():
            self._hello.set_result(message)
            return
        match message:
            case Answers(serial=serial, answers=answers):
                part = self._waiting.get(serial)
                if part is not None and not part.done():
                    part.set_result(answers)
            case Hello():
                pass
            case _:
                self._on_event(message)


class _Wire(asyncio.Protocol):
    """The connection, without the streams of asyncio, which wake a task for each answer."""

    def __init__(
        self, on_message: Callable[[FromMedia], None], on_end: Callable[[], None], ended: "asyncio.Future[None]"
    ) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._gone = ended
        self._inbox = bytearray()
        self._decode = msgspec.msgpack.Decoder(FromMedia).decode
        self._transport: asyncio.WriteTransport | None = None

    @property
    def is_closing(self) -> bool:
        """True where nothing more can be said."""
        return self._transport is None or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Say something."""
        assert self._transport is not None, "connected"
        self._transport.write(data)

    async def hang_up(self) -> None:
        """Close the socket now and wait until it is: the process must see that we are gone, not that we said hello."""
        if self._transport is not None:
            self._transport.abort()
            await self._gone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        inbox = self._inbox
        inbox += data
        try:
            while (body := take_frame(inbox)) is not None:
                self._on_message(self._decode(body))
        except (MalformedMessage, msgspec.DecodeError):
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's own name
        """See `asyncio.Protocol`."""
        if not self._gone.done():
            self._gone.set_result(None)
        self._on_end()
