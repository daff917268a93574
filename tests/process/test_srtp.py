"""A node dies while phones speak SRTP, with sequence numbers that have come round: its successor counts on."""

import asyncio
from pathlib import Path

import pytest

from warden.ops.softphone import Line

from town import Town, end_all, heard_again, town_of

PHONES = ["1000", "1001", "1002", "1003"]
FIRST = 65_500
"""A sequence number that comes round within a second."""
pytestmark = [pytest.mark.timeout(300)]


async def talk(town: Town, caller: str, callee: str) -> tuple[Line, Line]:
    """A call in which both sides have spoken for so long that their roll-over counters are 1."""
    outgoing = town.phones[caller].call(callee)
    incoming = await town.phones[callee].next_call()
    outgoing.talker.sequence = incoming.talker.sequence = FIRST
    await incoming.answer()
    await outgoing.answered()
    await heard_again([outgoing, incoming], 2 * (65_536 - FIRST))
    return outgoing, incoming


async def test_calls_with_srtp_keep_their_audio_and_keys_when_their_node_dies(tmp_path: Path) -> None:
    async with town_of(tmp_path, *PHONES) as town:
        for i, number in enumerate(PHONES):
            secure = number != "1001"
            await town.phone(number, 1, tone_hz=880 if i % 2 else 440, tls=secure, srtp=secure)
        calls = [await talk(town, "1000", "1001"), await talk(town, "1002", "1003")]
        lines = [line for call in calls for line in call]
        talking = [line.talking for line in lines if line.talking is not None]
        assert [t.srtp is not None for t in talking] == [True, False, True, True]
        refused = [line.port.unreadable for line in lines]

        nodes = town.cluster.nodes
        await asyncio.to_thread(nodes["n1"].power_off)
        await asyncio.to_thread(nodes["n2"].wait_for_log, "adopted 2 calls")
        await heard_again(lines)
        for number in ("1000", "1002", "1003"):
            await town.phones[number].reconnect()
            await town.phones[number].register()
        for line, other in (calls[0], calls[1], calls[1][::-1]):
            await line.hold()
            await line.resume()
            assert await other.hears(440 if line.outgoing else 880)
        await heard_again(lines)
        assert [line.port.unreadable for line in lines] == refused
        assert [line.talking.srtp for line in lines if line.talking is not None] == [t.srtp for t in talking]
        await end_all(calls)
        assert town.violations() == []
