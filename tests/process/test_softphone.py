"""Two softphones on real loopback sockets, calling each other without a server between them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from warden.core.address import Address, Transport
from warden.core.errors import Unavailable
from warden.ops.softphone import Line, Refused, Softphone
from warden.ops.sound import Sound
from warden.phone.events import By
from warden.sip.endpoint import Timers

NOBODY = Address("127.0.0.1", 9)
QUICK = Timers(t1=0.02)


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    before = _open_sockets()
    yield
    assert _open_sockets() <= before


def _open_sockets() -> set[str]:
    links = []
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(str(fd.readlink()))
    return {link for link in links if link.startswith("socket:")}


@asynccontextmanager
async def two_phones(*, answers: bool = True) -> AsyncIterator[tuple[Softphone, Softphone]]:
    async with AsyncExitStack() as stack:
        sound = Sound()
        stack.callback(sound.close)
        answers_after_s = 0.02 if answers else None
        bob = Softphone("bob", "", NOBODY, tone_hz=620, answers_after_s=answers_after_s, sound=sound, timers=QUICK)
        await stack.enter_async_context(bob)
        ann = Softphone("ann", "", bob.address, tone_hz=440, sound=sound, timers=QUICK)
        await stack.enter_async_context(ann)
        yield ann, bob


async def both_hear(one: Line, other: Line) -> bool:
    return all(await asyncio.gather(one.hears(620), other.hears(440)))


async def test_two_phones_talk_and_each_hears_the_others_tone_without_loss() -> None:
    async with two_phones() as (ann, bob):
        mine = ann.call("bob")
        await mine.answered()
        theirs = await bob.next_call()
        await theirs.answered()
        assert await both_hear(mine, theirs)
        assert not mine.listener.hears(440)
        ended = await mine.hang_up()
        await theirs.ended()
        assert (ended.by, ended.status) == (By.US, 200)
        # What was still on its way when the ports were closed is not loss: the numbers show none missing between.
        assert (mine.listener.lost, theirs.listener.lost) == (0, 0)
        assert (mine.listener.duplicates, mine.listener.foreign) == (0, 0)
        assert 0 <= theirs.talker.sent - mine.listener.packets <= 2
        assert 0 <= mine.talker.sent - theirs.listener.packets <= 2
        assert mine.setup_s is not None
        assert mine.ringing_at is not None
        assert (ann.lines, bob.lines, list(ann.violations), list(bob.violations)) == ({}, {}, [], [])


async def test_hold_stops_the_talking_one_way_and_resume_brings_it_back() -> None:
    async with two_phones() as (ann, bob):
        mine = ann.call("bob")
        theirs = await bob.next_call()
        await asyncio.gather(mine.answered(), theirs.answered())
        assert await both_hear(mine, theirs)
        await mine.hold()
        sent = theirs.talker.sent
        theirs.listener.forget()
        assert await theirs.hears(440)
        assert theirs.talker.sent == sent
        await mine.resume()
        mine.listener.forget()
        assert await mine.hears(620)
        assert mine.listener.lost == 0
        await mine.reinvite(late=True)
        await mine.update()
        await mine.hang_up()


async def test_keys_are_heard_as_rfc_4733_digits_and_by_info() -> None:
    async with two_phones() as (ann, bob):
        mine = ann.call("bob")
        theirs = await bob.next_call()
        await asyncio.gather(mine.answered(), theirs.answered())
        mine.press("7")
        await mine.info("#")
        assert theirs.digits == "#"
        theirs.listener.forget()
        assert await theirs.hears(440)
        assert theirs.listener.digits == "7"
        await theirs.hang_up()
        assert (await mine.ended()).by is By.PEER


async def test_an_incoming_call_waits_for_its_owner_who_may_refuse_it() -> None:
    async with two_phones(answers=False) as (ann, bob):
        mine = ann.call("bob")
        await mine.ringing()
        theirs = await bob.next_call()
        assert theirs.number == "ann"
        theirs.refuse(486)
        with pytest.raises(Refused, match="486"):
            await mine.answered()
        cancelled = ann.call("bob")
        theirs = await bob.next_call()
        assert (await cancelled.hang_up()).status == 487
        assert (await theirs.ended()).by is By.PEER
        answered = ann.call("bob", late=True)
        theirs = await bob.next_call()
        await theirs.answer()
        assert await both_hear(answered, theirs)


async def test_a_phone_that_loses_its_power_says_nothing_and_the_other_finds_out() -> None:
    async with two_phones() as (ann, bob):
        mine = ann.call("bob")
        await mine.answered()
        bob.abort()
        with pytest.raises(Refused, match="408"):
            await mine.hold()
        assert mine.end is not None
        assert mine.end.by is By.NETWORK


async def test_a_phone_that_closes_hangs_up_its_calls() -> None:
    async with two_phones() as (ann, bob):
        mine = ann.call("bob")
        await mine.answered()
        theirs = await bob.next_call()
        await ann.close()
        assert (await theirs.ended()).by is By.PEER


async def test_over_tcp_a_call_goes_on_over_the_next_connection() -> None:
    """The server joins the two latest connections, so that what one phone sends the other hears."""
    writers: list[asyncio.StreamWriter] = []
    joined: list[asyncio.Task[None] | None] = []

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        joined.append(asyncio.current_task())
        while data := await reader.read(65536):
            other = next((w for w in reversed(writers) if w is not writer and not w.is_closing()), None)
            if other is not None:
                other.write(data)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(join, "127.0.0.1", 0)
    address = Address(*server.sockets[0].getsockname()[:2])
    async with (
        Softphone("bob", "", address, transport=Transport.TCP, tone_hz=620, answers_after_s=0) as bob,
        Softphone("ann", "", address, transport=Transport.TCP, tone_hz=440) as ann,
    ):
        mine = ann.call("bob")
        theirs = await bob.next_call()
        await mine.answered()
        assert await both_hear(mine, theirs)
        await ann.reconnect()
        await mine.hold()
        await theirs.hang_up()
        assert (await mine.ended()).by is By.PEER
    async with asyncio.timeout(5):
        await asyncio.gather(*(task for task in joined if task is not None))
    server.close()
    await server.wait_closed()
    with pytest.raises(Unavailable, match="no connection to"):
        await Softphone("ann", "", address, transport=Transport.TCP).open()


async def test_nobody_at_the_server_is_a_time_out() -> None:
    async with Softphone("ann", "", NOBODY, timers=QUICK) as ann:
        with pytest.raises(Refused, match="408"):
            await ann.register()
        with pytest.raises(Refused, match="408"):
            await ann.call("bob").answered()
