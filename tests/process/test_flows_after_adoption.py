"""A node dies under phones on TCP, TLS and WebSocket: their connections go with it, and they come back on others."""

import asyncio
from pathlib import Path

import pytest

from warden.call.cdr import Result
from warden.ops.softphone import Softphone

from town import Town, end_all, town_of

PHONES = [f"1{i:03}" for i in range(20)]
pytestmark = [pytest.mark.timeout(300)]


async def is_adopted(town: Town, what: str) -> None:
    """The first node loses its power, and another takes up what it carried."""
    nodes = town.cluster.nodes
    await asyncio.to_thread(nodes["n1"].power_off)
    async with asyncio.timeout(30):
        while what not in town.cluster.logs():
            await asyncio.sleep(0.05)  # Nodes tell what they have done in their logs only.


async def come_back(*phones: Softphone) -> None:
    """Phones connect again from other ports, and register."""
    for phone in phones:
        await phone.reconnect()
        await phone.register()


@pytest.mark.parametrize("transport", ["tcp", "tls", "wss"])
async def test_calls_of_phones_with_connections_go_on_when_the_phones_are_back(tmp_path: Path, transport: str) -> None:
    async with town_of(tmp_path, *PHONES) as town:
        kind = {transport: True}
        # Even ones are on streams; the others of each pair are on UDP, except for the first pair.
        for i, number in enumerate(PHONES[:12]):
            stream = kind if i % 2 == 0 or i == 1 else {}
            await town.phone(number, 1, tone_hz=880 if i % 2 else 440, answers=i % 2 == 1 and i < 8, **stream)
        both, held, awaited, hung_up = [await town.talk(PHONES[i], PHONES[i + 1]) for i in (0, 2, 4, 6)]
        streams = [phone for number, phone in town.phones.items() if number in (*PHONES[:12:2], PHONES[1])]

        # One whose callee is on a stream rings, and one whose caller is.
        to_stream = town.phones[PHONES[9]].call(PHONES[8])
        rung = await town.phones[PHONES[8]].next_call()
        rung.ring()
        await to_stream.ringing()
        from_stream = town.phones[PHONES[10]].call(PHONES[11])
        waiting = await town.phones[PHONES[11]].next_call()
        waiting.ring()
        await from_stream.ringing()

        await is_adopted(town, "adopted 6 calls")
        # Somebody hangs up, and somebody answers, before the phones at the other ends are back.
        assert (await hung_up[1].hang_up()).status in (0, 200)
        answering = asyncio.create_task(waiting.answer())
        await come_back(*streams)

        await answering
        await from_stream.answered()
        assert await from_stream.hears(880)
        await hung_up[0].ended()
        await rung.answer()
        await to_stream.answered()
        assert await rung.hears(880)
        for line, other in (both, held, held[::-1]):
            await line.hold()
            await line.resume()
            assert await other.hears(440 if line.outgoing else 880)
        await end_all([both, held, awaited, (to_stream, rung), (from_stream, waiting)])

        cdrs = await asyncio.to_thread(town.cluster.cdrs, 6)
        assert [c.result for c in cdrs] == [Result.ANSWERED] * 6
        assert town.violations() == []


@pytest.mark.parametrize("transport", ["tcp", "wss"])
async def test_a_phone_with_a_connection_is_found_by_what_it_says_first_and_called_when_it_is_back(
    tmp_path: Path, transport: str
) -> None:
    async with town_of(tmp_path, *PHONES[:4]) as town:
        caller = await town.phone(PHONES[0], 1, **{transport: True})
        await town.phone(PHONES[1], 1, tone_hz=880, answers=True)
        silent = await town.phone(PHONES[2], 1, tone_hz=880, **{transport: True})
        outgoing, incoming = await town.talk(PHONES[0], PHONES[1])
        # It will say nothing of where it is.
        await caller.unregister()
        await is_adopted(town, "adopted 1 calls")

        await caller.reconnect()
        await outgoing.hold()
        await incoming.hold()
        await incoming.resume()
        await outgoing.resume()
        assert await incoming.hears(440)

        await come_back(silent)
        call = town.phones[PHONES[1]].call(PHONES[2])
        await silent.next_call()
        await call.ringing()
        call.release()
        await call.ended()
        await incoming.hang_up()
        await outgoing.ended()
        cdrs = await asyncio.to_thread(town.cluster.cdrs, 2)
        assert {c.result for c in cdrs} == {Result.ANSWERED, Result.CANCELLED}
        assert town.violations() == []
