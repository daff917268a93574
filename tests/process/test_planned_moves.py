"""Seats are moved on purpose, under calls that begin and end all the time: nobody is refused, nobody is cut off."""

import asyncio
import http.client
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from warden.ops.softphone import Line, Refused, Softphone
from warden.ops.sound import Sound

from cluster_lab import Cluster, Member, password_of

PAIRS = 12
"""Each pair makes a call of half a second in turn: 20 calls a second in all."""
CALLERS = [f"1{i:03}" for i in range(PAIRS)]
CALLEES = [f"2{i:03}" for i in range(PAIRS)]
pytestmark = [pytest.mark.timeout(240)]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = await asyncio.to_thread(Cluster, tmp_path, 2)
    try:
        await asyncio.to_thread(cluster.add_extensions, *CALLERS, *CALLEES)
        yield cluster
        logs = [node.stderr.read_text() for node in cluster.nodes.values() if node.process is not None]
        assert "Traceback" not in "".join(logs)
    finally:
        await asyncio.to_thread(cluster.close)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def phone(stack: AsyncExitStack, cluster: Cluster, sound: Sound, number: str, **more: float) -> Softphone:
    made = Softphone(number, password_of(number), cluster.seat(1), sound=sound, **more)  # type: ignore[arg-type]
    await stack.enter_async_context(made)
    await made.register()
    return made


def move(node: Member, seat: str, to: str) -> None:
    """Ask any node to have a seat moved."""
    token = (node.data / "operator.token").read_text()
    connection = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=10)
    try:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request("POST", f"/api/v1/seats/{seat}/handover", msgspec.json.encode({"to": to}), headers)
        response = connection.getresponse()
        assert response.status == 202, response.read()
    finally:
        connection.close()


async def test_at_twenty_calls_a_second_no_call_fails_while_the_seat_goes_to_and_fro(
    cluster: Cluster, stack: AsyncExitStack
) -> None:
    for node in cluster.nodes.values():
        await asyncio.to_thread(node.start)
    sound = Sound()
    stack.callback(sound.close)
    callers = [await phone(stack, cluster, sound, number) for number in CALLERS]
    callees = [await phone(stack, cluster, sound, n, answers_after_s=0.01) for n in CALLEES]
    standing = callers[0].call(CALLEES[0])
    await standing.answered()
    done, made, over = 0, 0, asyncio.Event()

    async def call_again_and_again(caller: Softphone, callee: str, first_s: float) -> None:
        nonlocal done, made
        await asyncio.sleep(first_s)
        while not over.is_set():
            made += 1
            line = caller.call(callee)
            await line.answered()
            await asyncio.sleep(0.5)
            ended = await line.hang_up()
            assert ended.status in (0, 200), ended
            done += 1

    async with asyncio.TaskGroup() as calling:
        for i in range(1, PAIRS):
            calling.create_task(call_again_and_again(callers[i], CALLEES[i], i * 0.05))
        for i in range(8):
            at, to = ("n1", "n2") if i % 2 == 0 else ("n2", "n1")
            before, taken = done, adoptions(cluster.nodes[to])
            await asyncio.to_thread(move, cluster.nodes[at], "s1", to)
            async with asyncio.timeout(30):
                while adoptions(cluster.nodes[to]) == taken or done < before + PAIRS:
                    await asyncio.sleep(0.02)  # Neither logs nor calls tell that they have grown in number.
        over.set()
    assert made == done > 8 * PAIRS
    assert (await standing.hang_up()).status in (0, 200)
    assert [v for p in (*callers, *callees) for v in p.violations] == []
    cdrs = await asyncio.to_thread(cluster.cdrs, made + 1)
    assert [c.status for c in cdrs] == [200] * (made + 1)


def adoptions(node: Member) -> int:
    """How often the node has taken up the seat."""
    return node.stderr.read_text().count("registered numbers of seat s1 at epoch")


async def talk(cluster: Cluster, stack: AsyncExitStack, sound: Sound) -> Line:
    """A call at the first seat."""
    caller = await phone(stack, cluster, sound, CALLERS[0])
    await phone(stack, cluster, sound, CALLEES[0], answers_after_s=0.01)
    line = caller.call(CALLEES[0])
    await line.answered()
    return line


async def test_with_no_successor_a_stop_waits_for_the_calls_to_end_and_takes_no_new_ones(
    cluster: Cluster, stack: AsyncExitStack
) -> None:
    node = cluster.nodes["n1"]
    await asyncio.to_thread(node.start)
    sound = Sound()
    stack.callback(sound.close)
    line = await talk(cluster, stack, sound)
    other = await phone(stack, cluster, sound, CALLERS[1])
    assert await is_served(other)
    assert node.process is not None
    node.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        while await is_served(other):
            pass
    assert node.process.poll() is None
    await line.hang_up()
    assert await asyncio.to_thread(node.wait) == 0
    assert node.media_pid is None


async def is_served(phone: Softphone) -> bool:
    """Whether a new call gets through; one that does not is told to go elsewhere."""
    line = phone.call("*43")
    try:
        await line.answered()
    except Refused as refused:
        if refused.status != 503:
            raise
        return False
    await line.hang_up()
    return True


async def test_with_no_successor_a_stop_leaves_after_the_grace_period_what_has_not_ended(
    cluster: Cluster, stack: AsyncExitStack
) -> None:
    node = cluster.nodes["n1"]
    text = node.file.read_text()
    node.file.write_text(text.replace("  seats:\n", "  call_preservation: {grace_period: 2}\n  seats:\n"))
    await asyncio.to_thread(node.start)
    sound = Sound()
    stack.callback(sound.close)
    line = await talk(cluster, stack, sound)
    assert await asyncio.to_thread(node.kill, signal.SIGTERM) == 0
    # The next start takes it up, with its audio, which ends with the lease where somebody else might have the seat.
    await asyncio.to_thread(node.start)
    heard = line.listener.packets
    async with asyncio.timeout(30):
        while line.listener.packets < heard + 25:
            await asyncio.sleep(0.02)  # Packets come by the clock.
    assert (await line.hang_up()).status in (0, 200)
