"""The stream of a seat's records from region to region, over stores in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from warden.cluster.decide import Seat
from warden.cluster.mirror import Mirror
from warden.cluster.stream import BEHIND_MAX, Frame, Frames, Step, Told, encode, writes_of
from warden.core.errors import MalformedMessage, Unavailable
from warden.store.memory import MemoryStore
from warden.store.ports import Kind, Write

SEAT = Seat("main", "192.0.2.1", ("west1", "west2"))


class Link:
    """What a mirror knows of the two regions; `pieces` cuts what is said into such lengths."""

    def __init__(self, told: Told, *, pieces: int = 7) -> None:
        self.told = told
        self.is_here = True
        self.turn = True
        self.at: int | None = 0
        self.away = False
        self._pieces = pieces

    async def frames(self, seat: str) -> AsyncIterator[Frame]:
        if self.away:
            raise Unavailable("nobody has it")
        reader = Frames()
        async for data in self.told.frames(seat, lambda: self.is_here):
            for i in range(0, len(data), self._pieces):
                for frame in reader.feed(data[i : i + self._pieces]):
                    yield frame

    def epoch(self, seat: str) -> int | None:
        assert seat == SEAT.name
        return self.at

    def is_ours(self, seat: Seat) -> bool:
        assert seat is SEAT
        return self.turn


class Two:
    """The store of each region, and the mirror between them."""

    def __init__(self) -> None:
        self.there, self.here = Told(MemoryStore()), MemoryStore()
        self.link = Link(self.there)
        self.now = 0.0
        self.mirror = Mirror((SEAT,), self.here, self.link, self.link, lambda: self.now)
        self.epoch = 0

    async def holds(self) -> None:
        self.epoch = await self.there.claim(SEAT.name, "east1")

    async def write(self, *writes: Write) -> None:
        await self.there.write(SEAT.name, self.epoch, writes)

    async def has(self, kind: Kind = Kind.CALL) -> dict[str, bytes]:
        return dict(await self.here.read(SEAT.name, kind))


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not reached():
            await asyncio.sleep(0.001)


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    made = Two()
    await made.holds()
    task: asyncio.Task[None] | None = None

    def start() -> None:
        nonlocal task
        task = asyncio.create_task(made.mirror.run())

    made.start = start  # type: ignore[attr-defined]
    yield made
    assert task is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def call(key: str, value: bytes | None = b"x") -> Write:
    return Write(Kind.CALL, key, value)


async def test_all_there_is_and_every_change_comes_over_and_what_has_ended_meanwhile_goes(two: Two) -> None:
    await two.here.write(SEAT.name, 0, [call("of old"), Write(Kind.BINDING, "1009", b"gone")])
    await two.write(*(call(f"c{i}") for i in range(1_200)), Write(Kind.BINDING, "1001", b"b"))
    two.start()  # type: ignore[attr-defined]
    await until(lambda: two.mirror.following == {"main"})
    assert len(await two.has()) == 1_200
    assert await two.has(Kind.BINDING) == {"1001": b"b"}
    await two.write(call("c0", b"new"), call("c1", None), Write(Kind.OUTBOX, "cdr", b"cdr"))
    await until(lambda: two.mirror.records["main"] == 1_204)
    assert (await two.has())["c0"] == b"new"
    assert "c1" not in await two.has()
    assert await two.has(Kind.OUTBOX) == {"cdr": b"cdr"}


async def test_the_end_of_a_seat_comes_behind_its_last_change_and_nothing_is_followed_then(two: Two) -> None:
    two.start()  # type: ignore[attr-defined]
    await until(lambda: two.mirror.following == {"main"})
    await two.write(call("last"))
    two.link.away = True
    two.there.end(SEAT.name)
    await until(lambda: two.mirror.following == set())
    assert await two.has() == {"last": b"x"}


async def test_a_seat_that_was_adopted_here_takes_nothing_more_from_the_other_region(two: Two) -> None:
    two.start()  # type: ignore[attr-defined]
    await until(lambda: two.mirror.following == {"main"})
    epoch = await two.here.claim(SEAT.name, "west1")
    await two.write(call("late"))
    await until(lambda: two.mirror.following == set())
    assert await two.has() == {}
    assert epoch == 1
    assert "main" in two.mirror.why["main"]


async def test_after_a_loss_everything_is_asked_for_again(two: Two) -> None:
    two.start()  # type: ignore[attr-defined]
    await until(lambda: two.mirror.following == {"main"})
    two.link.is_here = False
    await two.write(call("one"))
    await until(lambda: two.mirror.following == set())
    two.link.is_here = True
    await two.write(call("two"), call("one", None))
    await until(lambda: two.mirror.following == {"main"})
    assert await two.has() == {"two": b"x"}


async def test_who_has_not_the_turn_follows_nothing_and_who_loses_it_stops(two: Two) -> None:
    two.link.turn = False
    two.start()  # type: ignore[attr-defined]
    await asyncio.sleep(0.05)
    assert two.mirror.age_s() == {}
    two.link.turn = True
    await until(lambda: two.mirror.following == {"main"})
    two.now = 4.0
    assert two.mirror.age_s() == {"main": 4.0}
    two.link.turn = False
    await two.write(call("x"))
    await until(lambda: two.mirror.following == set())


async def test_a_follower_that_is_too_slow_is_let_go() -> None:
    told = Told(MemoryStore())
    epoch = await told.claim("main", "east1")
    frames = told.frames("main", lambda: True)
    reader = Frames()
    steps = [reader.feed(await anext(frames))[0].step for _ in range(2)]
    assert steps == [Step.BEGIN, Step.WHOLE]
    for i in range(0, BEHIND_MAX + 500, 500):
        await told.write("main", epoch, [call(f"c{j}") for j in range(i, i + 500)])
    assert [data async for data in frames] == []


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\2\x91\xa3"])
def test_what_is_no_stream_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        Frames().feed(data)


def test_a_kind_that_a_newer_version_has_is_left_out() -> None:
    [frame] = Frames().feed(encode(Frame(Step.RECORDS, [("call", "a", b"x"), ("hologram", "b", b"y")])))
    assert writes_of(frame) == [call("a")]
