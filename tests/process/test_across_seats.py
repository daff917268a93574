"""Real phones at different seats of a real cluster call each other, and nodes die under their calls."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from warden.call.cdr import Cdr, Party, Result
from warden.ops.softphone import Line

from baresip_phone import Baresip
from town import Town, end_all, heard_again, town_of

CALLERS = [f"1{i:03}" for i in range(6)]
CALLEES = [f"2{i:03}" for i in range(6)]
pytestmark = [pytest.mark.timeout(300), pytest.mark.alone]


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    async with town_of(tmp_path, *CALLERS, *CALLEES) as town:
        yield town


async def people(town: Town, count: int) -> None:
    """So many callers at the first seat, and their callees at the second, one each on TCP and WebSocket; the first node
    knows.
    """
    for i in range(count):
        await town.phone(CALLERS[i], 1)
        await town.phone(CALLEES[i], 2, tone_hz=880, answers=True, tcp=i == 1, wss=i == 2)
    await town.knows(1, 2, count)


async def hold_and_resume(line: Line, other: Line, hz: int) -> None:
    await line.hold()
    await line.resume()
    assert await other.hears(hz)


async def cdrs_of(town: Town, count: int) -> list[Cdr]:
    cdrs = await asyncio.to_thread(town.cluster.cdrs, count)
    assert len(cdrs) == count
    assert {(c.result, c.status, c.seat) for c in cdrs} == {(Result.ANSWERED, 200, "s1")}
    assert Party.SYSTEM not in {c.ended_by for c in cdrs}
    return cdrs


async def test_a_phone_calls_one_at_another_seat_and_both_hear_each_other(town: Town) -> None:
    await people(town, 3)
    calls = [await town.talk(a, b) for a, b in zip(CALLERS[:3], CALLEES[:3], strict=True)]
    for outgoing, incoming in calls:
        await hold_and_resume(outgoing, incoming, 440)
        await hold_and_resume(incoming, outgoing, 880)
    await end_all(calls)
    cdrs = await cdrs_of(town, 3)
    assert {c.answered_by for c in cdrs} == set(CALLEES[:3])
    assert town.violations() == []


async def test_nodes_that_have_a_seat_of_their_own_each_reach_each_others_phones(tmp_path: Path) -> None:
    async with town_of(tmp_path, *CALLERS, *CALLEES, own_seats=True) as town:
        await people(town, 1)
        outgoing, incoming = await town.talk(CALLERS[0], CALLEES[0])
        await hold_and_resume(incoming, outgoing, 880)
        await end_all([(outgoing, incoming)])
        (cdr,) = await asyncio.to_thread(town.cluster.cdrs, 1)
        assert (cdr.seat, cdr.answered_by) == ("n1", CALLEES[0])
        # Nobody else may have the seat of a node that is gone: who calls its phones is told so, once it has had time to
        # come back.
        await asyncio.to_thread(town.cluster.nodes["n2"].power_off)
        ended = await town.phones[CALLERS[0]].call(CALLEES[0]).ended()
        assert ended.status == 480


@pytest.mark.parametrize("seat", [1, 2])
async def test_calls_across_go_on_when_the_node_of_either_seat_loses_its_power(town: Town, seat: int) -> None:
    await people(town, 6)
    calls = [await town.talk(a, b) for a, b in zip(CALLERS[:4], CALLEES[:4], strict=True)]
    await calls[0][0].hold()
    town.phones[CALLEES[4]].answers_after_s = None
    ringing = town.phones[CALLERS[4]].call(CALLEES[4])
    rung = await town.phones[CALLEES[4]].next_call()
    rung.ring()
    await ringing.ringing()

    await asyncio.to_thread(town.cluster.nodes[f"n{seat}"].power_off)
    await heard_again([line for pair in calls[1:] for line in pair])
    if seat == 2:
        # Phones on TCP and WebSocket have lost their connections, and make others as soon as they can.
        await asyncio.to_thread(town.cluster.nodes["n3"].wait_for_log, "registered numbers of seat s2")
        for callee in CALLEES[1:3]:
            await town.phones[callee].reconnect()
            await town.phones[callee].register()

    await rung.answer()
    await ringing.answered()
    assert await ringing.hears(880)
    await calls[0][0].resume()
    assert await calls[0][1].hears(440)
    for outgoing, incoming in calls[1:3]:
        await hold_and_resume(incoming, outgoing, 880)
        await hold_and_resume(outgoing, incoming, 440)
    await end_all([*calls, (ringing, rung)])
    # Who calls now is served by the node that has taken over, in both directions.
    await end_all([await town.talk(CALLERS[5], CALLEES[5])])
    await cdrs_of(town, 6)
    assert town.violations() == []


async def test_calls_across_are_made_while_redis_is_down(town: Town) -> None:
    await people(town, 2)
    up = await town.talk(CALLERS[0], CALLEES[0])
    await asyncio.to_thread(town.cluster.redis.kill)
    made = await town.talk(CALLERS[1], CALLEES[1])
    await hold_and_resume(up[0], up[1], 440)
    await end_all([up, made])
    await asyncio.to_thread(town.cluster.redis.start)
    await cdrs_of(town, 2)
    assert town.violations() == []


async def test_a_phone_of_another_make_is_called_across_and_outlives_the_node_of_its_seat(
    town: Town, tmp_path: Path
) -> None:
    caller, callee = await town.phone(CALLERS[0], 1), CALLEES[0]
    seat = town.cluster.seat(2)

    def starts() -> Baresip:
        return Baresip(tmp_path / "baresip", callee, seat.port, host=seat.host, tone_hz=880.0, answers=True).__enter__()

    baresip = await asyncio.to_thread(starts)
    try:
        await asyncio.to_thread(baresip.registers)
        await town.knows(1, 2, 1)
        line = caller.call(callee)
        await line.answered()
        assert await line.hears(880)
        await line.hold()
        await line.resume()
        await asyncio.to_thread(town.cluster.nodes["n2"].power_off)
        await asyncio.to_thread(town.cluster.nodes["n3"].wait_for_log, "of seat s2")
        await line.reinvite()
        assert await line.hears(880)
        # It hangs up by the Route that it was given, which names the seat and not the node.
        await asyncio.to_thread(baresip.tell, "hangup")
        await line.ended()
        (cdr,) = await cdrs_of(town, 1)
        assert cdr.ended_by is Party.CALLEE
        again = caller.call(callee)
        await again.answered()
        assert await again.hears(880)
        await again.hang_up()
        await asyncio.to_thread(baresip.sees, "CALL_CLOSED")
        await asyncio.to_thread(baresip.sees, "CALL_CLOSED")
    finally:
        await asyncio.to_thread(baresip.__exit__)
    assert town.violations() == []
