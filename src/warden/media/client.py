"""The controller's end of the Unix socket: `Media` for the signalling process (asyncio)."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

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
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Attach: whoever controlled the process before is detached. Raises `Unavailable`, and as one of these
        `OtherVersion`.
        """
        assert self._writer is None, "a client connects once"
        writer: asyncio.StreamWriter | None = None
        inbox = bytearray()
        decoder = msgspec.msgpack.Decoder(FromMedia)
        try:
            async with asyncio.timeout(self._answer_s):
                reader, writer = await asyncio.open_unix_connection(str(self._path))
                writer.write(frame(Hello()))
                while (body := take_frame(inbox)) is None and (data := await reader.read(65536)):
                    inbox += data
                hello = None if body is None else decoder.decode(body)
        except (OSError, TimeoutError, MalformedMessage, msgspec.DecodeError) as error:
            await _hang_up(writer)
            raise Unavailable(f"media: {self._path} does not answer: {error or 'too late'}") from error
        except asyncio.CancelledError:
            await _hang_up(writer)
            raise
        if not isinstance(hello, Hello):
            await _hang_up(writer)
            raise Unavailable(f"media: {self._path} does not say hello")
        if hello.version != PROTOCOL_VERSION:
            await _hang_up(writer)
            raise OtherVersion(self._path, hello.version, hello.pid)
        self.pid = hello.pid
        self._writer = writer
        self._reading = asyncio.create_task(self._read(reader, inbox, decoder), name="media-client")

    async def apply(self, orders: Sequence[Order]) -> Sequence[Answer]:
        """Carry out the orders in turn; one answer each. Raises `Unavailable` when the process does not answer in time:
        the orders may then have been carried out or not. Any number of calls may wait at once.
        """
        writer = self._writer
        if writer is None or writer.is_closing() or self._reading is None or self._reading.done():
            raise Unavailable(f"media: not connected to {self._path}")
        parts: list[tuple[int, asyncio.Future[tuple[Answer, ...]]]] = []
        loop = asyncio.get_running_loop()
        for at in range(0, len(orders), ORDERS_PER_FRAME):
            self._serial += 1
            part = loop.create_future()
            self._waiting[self._serial] = part
            parts.append((self._serial, part))
            writer.write(frame(Orders(self._serial, tuple(orders[at : at + ORDERS_PER_FRAME]))))
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
        if self._writer is not None and not self._writer.is_closing():
            self._serial += 1
            self._writer.write(frame(Orders(self._serial, (order,))))

    async def close(self) -> None:
        """Detach. The media process goes on; whoever waits for an answer gets `Unavailable`."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.wait([reading])
        self._end()
        await _hang_up(self._writer)

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        for part in self._waiting.values():
            if not part.done():
                part.set_exception(Unavailable(f"media: the connection to {self._path} ended"))

    async def _read(
        self, reader: asyncio.StreamReader, inbox: bytearray, decoder: "msgspec.msgpack.Decoder[FromMedia]"
    ) -> None:
        try:
            while True:
                while (body := take_frame(inbox)) is not None:
                    self._received(decoder.decode(body))
                data = await reader.read(65536)
                if not data:
                    break
                inbox += data
        except (OSError, MalformedMessage, msgspec.DecodeError):
            pass
        self._end()
        self._on_lost()

    def _received(self, message: FromMedia) -> None:
        match message:
            case Answers(serial=serial, answers=answers):
                part = self._waiting.get(serial)
                if part is not None and not part.done():
                    part.set_result(answers)
            case Hello():
                pass
            case _:
                self._on_event(message)


async def _hang_up(writer: asyncio.StreamWriter | None) -> None:
    """Close the socket now and wait until it is: the process must see that we are gone, not that we said hello."""
    if writer is not None:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()
