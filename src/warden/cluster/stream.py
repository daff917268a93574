"""The records of a seat, told to another region while they are written: first all of them, then every change.

Nobody waits for the other region: what it does not have yet when this one is lost is lost with it. A follower that is
too slow is let go, and begins again with everything.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

from warden.core.errors import MalformedMessage
from warden.store.ports import Changes, Kind, SeatStore, Write

BEAT_S: Final = 0.5
"""How often something is said where nothing has changed, so that silence means something."""
BEHIND_MAX: Final = 50_000
"""Changes that wait for a follower: half a minute of a full node. What is behind further is quicker to send anew."""
SLICE: Final = 500
"""Changes in a frame: about a megabyte of calls."""
FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of a frame: as many of the largest records as are in one."""
_LENGTH: Final = 4


class Step(StrEnum):
    """What a frame is."""

    BEGIN = "begin"
    """All records follow."""
    RECORDS = "records"
    """Some of them, or some changes."""
    WHOLE = "whole"
    """Those were all; what follows are changes."""
    BEAT = "beat"
    """Nothing has changed."""
    END = "end"
    """The seat is not here any more, and there was nothing after this."""


class Frame(Struct, frozen=True, array_like=True):
    """One message of the stream; `writes` as `Write`: (kind, key, value)."""

    step: Step
    writes: list[tuple[str, str, bytes | None]] = []


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


def encode(frame: Frame) -> bytes:
    """A frame as bytes, its length in front."""
    body = _encoder.encode(frame)
    return len(body).to_bytes(_LENGTH, "big") + body


class Frames:
    """Bytes as they come become frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are whole now. Raises `MalformedMessage`."""
        self._buffer += data
        frames = []
        while len(self._buffer) >= _LENGTH:
            length = int.from_bytes(self._buffer[:_LENGTH], "big")
            if length > FRAME_BYTES_MAX:
                raise MalformedMessage(f"stream: a frame of {length} bytes")
            if len(self._buffer) < _LENGTH + length:
                break
            try:
                frames.append(_decoder.decode(self._buffer[_LENGTH : _LENGTH + length]))
            except msgspec.MsgspecError as error:
                raise MalformedMessage(f"stream: {error}") from error
            del self._buffer[: _LENGTH + length]
        return frames


def writes_of(frame: Frame) -> list[Write]:
    """Its changes, those of a kind that a newer version has left out."""
    known = {kind.value: kind for kind in Kind}
    return [Write(known[kind], key, value) for kind, key, value in frame.writes if kind in known]


class Follower:
    """Somebody who is told of a seat's changes."""

    def __init__(self) -> None:
        self.waiting: deque[Write] = deque()
        self.is_too_slow = False
        self.has_ended = False
        self._wake = asyncio.Event()

    def tell(self, writes: Sequence[Write]) -> None:
        """The store has taken these."""
        if len(self.waiting) + len(writes) > BEHIND_MAX:
            self.is_too_slow = True
            self.waiting.clear()
        if not self.is_too_slow:
            self.waiting += writes
        self._wake.set()

    def end(self) -> None:
        """The seat is gone."""
        self.has_ended = True
        self._wake.set()

    async def news(self) -> None:
        """Return when there is something to tell, and after a while in any case."""
        with suppress(TimeoutError):
            async with asyncio.timeout(BEAT_S):
                await self._wake.wait()
        self._wake.clear()


class Told:
    """A `SeatStore` of which followers are told what it has taken."""

    def __init__(self, store: SeatStore) -> None:
        self._store = store
        self._followers: dict[str, set[Follower]] = {}

    async def claim(self, seat: str, holder: str) -> int:
        """As `SeatStore.claim`."""
        return await self._store.claim(seat, holder)

    async def write(self, seat: str, epoch: int, writes: Sequence[Write]) -> int:
        """As `SeatStore.write`."""
        losses = await self._store.write(seat, epoch, writes)
        if writes:
            for follower in self._followers.get(seat, ()):
                follower.tell(writes)
        return losses

    async def read(self, seat: str, kind: Kind) -> Mapping[str, bytes]:
        """As `SeatStore.read`."""
        return await self._store.read(seat, kind)

    async def changes(self, seat: str, kind: Kind, since: str) -> Changes:
        """As `SeatStore.changes`."""
        return await self._store.changes(seat, kind, since)

    async def close(self) -> None:
        """As `SeatStore.close`."""
        await self._store.close()

    def end(self, seat: str) -> None:
        """The seat is not here any more: its followers have heard everything."""
        for follower in self._followers.get(seat, ()):
            follower.end()

    async def frames(self, seat: str, is_here: Callable[[], bool]) -> AsyncIterator[bytes]:
        """All records of a seat, then what changes, until it is gone. `is_here` tells whether it is. Raises
        `Unavailable` where the store does not answer at the beginning.
        """
        follower = Follower()
        followers = self._followers.setdefault(seat, set())
        followers.add(follower)
        try:
            yield encode(Frame(Step.BEGIN))
            # What changes meanwhile is told once more behind it.
            for kind in Kind:
                records = await self._store.read(seat, kind)
                for part in parts([(kind.value, key, value) for key, value in records.items()]):
                    yield encode(Frame(Step.RECORDS, part))
            yield encode(Frame(Step.WHOLE))
            while not follower.is_too_slow:
                has_ended = follower.has_ended or not is_here()
                told = [(w.kind.value, w.key, w.value) for w in follower.waiting]
                follower.waiting.clear()
                for part in parts(told):
                    yield encode(Frame(Step.RECORDS, part))
                if has_ended:
                    yield encode(Frame(Step.END))
                    return
                if not told:
                    yield encode(Frame(Step.BEAT))
                if not follower.waiting:
                    await follower.news()
        finally:
            followers.discard(follower)


def parts(rows: list[tuple[str, str, bytes | None]]) -> list[list[tuple[str, str, bytes | None]]]:
    """The rows as they go into frames."""
    return [rows[i : i + SLICE] for i in range(0, len(rows), SLICE)]
