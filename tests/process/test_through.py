"""A node whose own way to Redis is cut goes on writing through another one: what began meanwhile outlives it too."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from warden.call.cdr import Result
from warden.config.load import load
from warden.node.build import node_key
from warden.web.auth import BODY_BYTES_MAX, RELAY_URL, make_node_token

from town import Town, end_all, heard_again, town_of
from wire import Wire

CALLERS = [f"1{i:03}" for i in range(4)]
CALLEES = [f"2{i:03}" for i in range(4)]
pytestmark = [pytest.mark.timeout(300), pytest.mark.alone]


@pytest.fixture
async def wires() -> AsyncIterator[dict[str, Wire]]:
    """The ways of n1 and n2 to Redis; n3 has its own."""
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(Wire.laid()) for name in ("n1", "n2")}


@pytest.fixture
async def town(tmp_path: Path, wires: dict[str, Wire]) -> AsyncIterator[Town]:
    async with town_of(tmp_path, *CALLERS, *CALLEES, lease_s=2.0, wires=wires) as town:
        yield town


async def says(town: Town, node: str, *metrics: str) -> None:
    """Wait until a node's metrics have these lines."""
    url = f"http://127.0.0.1:{town.cluster.nodes[node].http_port}/metrics"
    async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(30):
        while not set(metrics) <= set((await http.get(url)).text.splitlines()):
            await asyncio.sleep(0.05)  # A node tells nobody what it counts.


async def warnings(town: Town, node: str) -> list[str]:
    """What a node says of the way that calls are written."""
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"http://127.0.0.1:{town.cluster.nodes[node].http_port}/health")
    return [said for said in answer.json()["warnings"] if "call state" in said]


async def phones(town: Town, count: int) -> None:
    for i in range(count):
        await town.phone(CALLERS[i], 1)
        await town.phone(CALLEES[i], 1, tone_hz=880, answers=True)


async def test_calls_that_begin_while_a_node_does_not_reach_redis_outlive_it(
    town: Town, wires: dict[str, Wire]
) -> None:
    await phones(town, 3)
    calls = [await town.talk(CALLERS[0], CALLEES[0])]
    wires["n1"].cut()
    calls.append(await town.talk(CALLERS[1], CALLEES[1]))
    through = "pbx_store_through_peer 1.0", 'pbx_unprotected_calls{seat="s1"} 0.0', "pbx_state_store_up 0.0"
    await says(town, "n1", *through)
    [told] = await warnings(town, "n1")
    assert told.startswith("call state is written through n2: own store: redis 127.0.0.1:")
    # The first was written again; what has begun since is written as it goes.
    calls.append(await town.talk(CALLERS[2], CALLEES[2]))
    await end_all(calls[:1])
    await says(town, "n1", *through)
    n2 = town.cluster.nodes["n2"]
    await asyncio.to_thread(town.cluster.nodes["n1"].power_off)
    await asyncio.to_thread(n2.wait_for_log, "adopted 2 calls and 6 registered numbers of seat s1")
    await heard_again([line for pair in calls[1:] for line in pair])
    await end_all(calls[1:])
    cdrs = await asyncio.to_thread(town.cluster.cdrs, 3)
    assert [cdr.result for cdr in cdrs] == [Result.ANSWERED] * 3
    assert town.violations() == []


async def test_a_node_that_is_cut_off_itself_writes_for_nobody_and_all_go_their_own_way_again_afterwards(
    town: Town, wires: dict[str, Wire]
) -> None:
    await phones(town, 2)
    calls = [await town.talk(CALLERS[0], CALLEES[0])]
    for wire in wires.values():
        wire.cut()
    n1, n2 = town.cluster.nodes["n1"], town.cluster.nodes["n2"]
    for node in (n1, n2):
        await asyncio.to_thread(node.wait_for_log, "call state is written through n3")
    calls.append(await town.talk(CALLERS[1], CALLEES[1]))
    await says(town, "n1", "pbx_store_through_peer 1.0", 'pbx_unprotected_calls{seat="s1"} 0.0')
    for wire in wires.values():
        wire.mend()
    for name in wires:
        await asyncio.to_thread(town.cluster.nodes[name].wait_for_log, "own store answers again")
        await says(town, name, "pbx_store_through_peer 0.0", "pbx_state_store_up 1.0")
    await says(town, "n1", 'pbx_unprotected_records{seat="s1"} 0.0')
    assert await warnings(town, "n1") == []
    logs = town.cluster.logs()
    assert "written through n1" not in logs
    assert "written through n2" not in logs
    # What had been under way on the cut wire came late, and did no harm.
    in_redis = {kind: int(town.cluster.redis.say("HLEN", f"pbx-cluster:{{s1}}:{kind}")) for kind in ("call", "binding")}
    assert in_redis == {"call": 2, "binding": 4}
    await asyncio.to_thread(n1.power_off)
    await heard_again([line for pair in calls for line in pair])
    await end_all(calls)
    assert town.violations() == []


async def test_only_a_node_may_have_another_one_write_and_read(town: Town) -> None:
    n1 = town.cluster.nodes["n1"]
    url = f"http://127.0.0.1:{n1.http_port}"
    operator = {"Authorization": f"Bearer {(n1.data / 'operator.token').read_text()}"}
    async with httpx.AsyncClient(trust_env=False, base_url=url) as http:
        for headers, status in (({}, 401), (operator, 403)):
            assert (await http.post(RELAY_URL, content=b"", headers=headers)).status_code == status
            assert (await http.get(f"{RELAY_URL}/s1/call", headers=headers)).status_code == status
        node = {"Authorization": f"Bearer {make_node_token(node_key(load(n1.file, {})), time.time())}"}
        # A node may say more than others, and is heard only if it makes sense.
        assert (await http.post(RELAY_URL, content=bytes(BODY_BYTES_MAX + 1), headers=node)).status_code == 400
        assert (await http.get(f"{RELAY_URL}/s1/call", headers=node)).status_code == 200
        assert (await http.get(f"{RELAY_URL}/s1/fish", headers=node)).status_code == 404
        large = bytes(BODY_BYTES_MAX + 1)
        assert (await http.post("/api/v1/extensions", content=large, headers=operator)).status_code == 413
