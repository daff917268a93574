"""Transfers on a real node with real sound: who is put through is heard, and hears."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from warden.ops.softphone import Line, Refused, Softphone

from pbx import Pbx, password_of

pytestmark = pytest.mark.timeout(180)

TONES = {"1001": 440, "1002": 620, "1003": 880}


@pytest.fixture(scope="module")
def pbx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pbx]:
    made = Pbx(tmp_path_factory.mktemp("node"), pairs=60)
    try:
        made.add_extensions(*TONES)
        made.start()
        yield made
    finally:
        made.close()
    assert "Traceback" not in made.stderr.read_text()


@asynccontextmanager
async def three_phones(pbx: Pbx, *, third_answers: bool = True) -> AsyncIterator[dict[str, Softphone]]:
    async with AsyncExitStack() as stack:
        phones = {}
        for number, tone_hz in TONES.items():
            answers_after_s = None if number == "1003" and not third_answers else 0.05
            phone = Softphone(
                number, password_of(number), pbx.sip_address, tone_hz=tone_hz, answers_after_s=answers_after_s
            )
            phones[number] = await stack.enter_async_context(phone)
            await phone.register()
        yield phones
        assert [list(phone.violations) for phone in phones.values()] == [[], [], []]


async def talk(phones: dict[str, Softphone], caller: str, callee: str) -> tuple[Line, Line]:
    mine = phones[caller].call(callee)
    await mine.answered()
    theirs = await phones[callee].next_call()
    await theirs.answered()
    return mine, theirs


async def hear_each_other(one: Line, two: Line, tones: tuple[int, int]) -> bool:
    """From now on each hears the other's tone, and `one` nobody else's."""
    for line in (one, two):
        line.listener.forget()
    both = all(await asyncio.gather(one.hears(tones[1]), two.hears(tones[0])))
    return both and not any(one.listener.hears(hz) for hz in {*TONES.values()} - {tones[1]})


async def test_after_a_blind_transfer_the_two_hear_each_other(pbx: Pbx) -> None:
    async with three_phones(pbx) as phones:
        first, second = await talk(phones, "1001", "1002")
        assert await hear_each_other(first, second, (440, 620))
        await second.hold()
        await second.transfer("1003")
        third = await phones["1003"].next_call()
        await second.ended()
        assert await hear_each_other(first, third, (440, 880))
        await first.hang_up()
        await third.ended()


async def test_after_an_attended_transfer_the_two_hear_each_other_also_when_the_node_has_died(pbx: Pbx) -> None:
    async with three_phones(pbx) as phones:
        first, held = await talk(phones, "1001", "1002")
        await held.hold()
        consulting, third = await talk(phones, "1002", "1003")
        assert await hear_each_other(consulting, third, (620, 880))
        await held.transfer("1003", instead_of=consulting)
        await asyncio.gather(held.ended(), consulting.ended())
        assert await hear_each_other(first, third, (440, 880))
        await asyncio.to_thread(pbx.kill, signal.SIGKILL)
        await asyncio.to_thread(pbx.start)
        await third.hold()
        await third.resume()
        assert await hear_each_other(first, third, (440, 880))
        await third.hang_up()
        await first.ended()


async def test_a_busy_target_gives_the_two_back_to_each_other(pbx: Pbx) -> None:
    async with three_phones(pbx, third_answers=False) as phones:
        first, second = await talk(phones, "1001", "1002")
        await second.hold()
        transfer = asyncio.create_task(second.transfer("1003"))
        (await phones["1003"].next_call()).refuse(486)
        with pytest.raises(Refused, match="transfer: 486"):
            await transfer
        await second.resume()
        assert await hear_each_other(first, second, (440, 620))
        await first.hang_up()
        await second.ended()
