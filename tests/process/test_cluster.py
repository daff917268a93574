"""Nodes die and are moved under real phones with numbered audio; the calls stay."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from warden.call.cdr import Result

from town import Town, end_all, heard_again, town_of

CALLERS = [f"1{i:03}" for i in range(24)]
CALLEES = [f"2{i:03}" for i in range(24)]
pytestmark = [pytest.mark.timeout(300), pytest.mark.alone]


@pytest.fixture(params=[("embedded", 1.0)])
async def town(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Town]:
    """Its parameter is who grants the leases, and for how long."""
    coordinator, lease_s = request.param
    async with town_of(tmp_path, *CALLERS, *CALLEES, coordinator=coordinator, lease_s=lease_s) as town:
        yield town


async def test_a_holder_that_was_frozen_says_nothing_when_it_wakes_up(town: Town) -> None:
    await town.phone(CALLERS[0], 1)
    await town.phone(CALLEES[0], 1, tone_hz=880, answers=True)
    calls = [await town.talk(CALLERS[0], CALLEES[0])]
    frozen = town.cluster.nodes["n1"]
    assert frozen.process is not None
    media = frozen.media_pid
    assert media is not None
    frozen.process.send_signal(signal.SIGSTOP)
    # Its sockets are still bound on this one machine, so the seat can only be adopted where it is gone: that the others
    # try, and that the frozen node notices when it wakes up, is what is seen here.
    await asyncio.to_thread(town.cluster.nodes["n2"].wait_for_log, "could not adopt seat s1")
    frozen.process.send_signal(signal.SIGCONT)
    await asyncio.to_thread(frozen.wait_for_log, "stopped seat s1")
    await heard_again([calls[0][0], calls[0][1]])
    await end_all(calls)
    assert town.violations() == []


@pytest.mark.parametrize("town", [("redis", 3.0)], indirect=True)
async def test_losing_the_redis_that_has_both_the_calls_and_the_leases_costs_nothing(town: Town) -> None:
    for i in range(4):
        await town.phone(CALLERS[i], i % 3 + 1)
        await town.phone(CALLEES[i], i % 3 + 1, tone_hz=880, answers=True)
    calls = [await town.talk(CALLERS[i], CALLEES[i]) for i in range(3)]
    lines = [line for pair in calls for line in pair]
    town.cluster.redis.kill()
    for name in ("n1", "n2", "n3"):
        await asyncio.to_thread(town.cluster.nodes[name].wait_for_log, "is away: all others agree")
    # 200 packets are more than a lease: all that was granted before the loss is over.
    await heard_again(lines, packets=200)
    calls.append(await town.talk(CALLERS[3], CALLEES[3]))
    await calls[0][0].hold()
    await calls[0][0].resume()
    await end_all(calls[1:2])
    await asyncio.to_thread(town.cluster.redis.start)
    for name in ("n1", "n2", "n3"):
        await asyncio.to_thread(town.cluster.nodes[name].wait_for_log, "coordinator answers again")
    await heard_again([line for pair in (calls[0], calls[2]) for line in pair])
    assert "was not renewed" not in town.cluster.logs()
    await end_all([calls[0], *calls[2:]])
    cdrs = await asyncio.to_thread(town.cluster.cdrs, 4)
    assert [c.result for c in cdrs] == [Result.ANSWERED] * 4
    assert town.violations() == []


async def test_calls_outlive_their_node_though_redis_was_restarted_empty_while_nothing_happened(town: Town) -> None:
    for i in range(3):
        await town.phone(CALLERS[i], 1)
        await town.phone(CALLEES[i], 1, tone_hz=880, answers=True)
    calls = [await town.talk(CALLERS[i], CALLEES[i]) for i in range(3)]

    def in_redis(kind: str) -> int:
        return int(town.cluster.redis.say("HLEN", f"pbx-cluster:{{s1}}:{kind}"))

    assert (in_redis("call"), in_redis("binding")) == (3, 6)
    await asyncio.to_thread(town.cluster.redis.kill)
    await asyncio.to_thread(town.cluster.redis.start)
    await asyncio.to_thread(town.cluster.redis.until, lambda: (in_redis("call"), in_redis("binding")) == (3, 6))
    await asyncio.to_thread(town.cluster.nodes["n1"].power_off)
    await heard_again([line for pair in calls for line in pair])
    await end_all(calls)
    cdrs = await asyncio.to_thread(town.cluster.cdrs, 3)
    assert [c.result for c in cdrs] == [Result.ANSWERED] * 3
    assert town.violations() == []
