"""`warden status` and `warden calls` at any node of a cluster, and what they find when a store says something else."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from warden.ops.softphone import Softphone
from warden.ops.sound import Sound
from warden.store.ports import Kind

from cluster_lab import Cluster, Member, password_of

pytestmark = [pytest.mark.timeout(180)]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = await asyncio.to_thread(Cluster, tmp_path, 2)
    try:
        await asyncio.to_thread(cluster.add_extensions, "1001", "1002")
        for node in cluster.nodes.values():
            await asyncio.to_thread(node.start)
        yield cluster
        assert "Traceback" not in cluster.logs()
    finally:
        await asyncio.to_thread(cluster.close)


async def run(node: Member, *argv: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(node.run, *argv)


async def said(node: Member, *argv: str, code: int = 0) -> Any:
    """What a command prints as JSON."""
    done = await run(node, *argv, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return msgspec.json.decode(done.stdout)


async def test_any_node_shows_the_whole_cluster_and_finds_what_the_store_has_wrong(cluster: Cluster) -> None:
    first, second = cluster.nodes.values()
    async with AsyncExitStack() as stack:
        sound = Sound()
        stack.callback(sound.close)
        phones = [
            Softphone(n, password_of(n), cluster.seat(1), sound=sound, answers_after_s=0.01) for n in ("1001", "1002")
        ]
        for phone in phones:
            await stack.enter_async_context(phone)
            await phone.register()
        line = phones[0].call("1002")
        await line.answered()

        # At the node that does not have the seat. The calls of the other are told at its next word.
        async with asyncio.timeout(30):
            while True:
                status = await said(second, "status")
                members = {member["node"]: member for member in status["members"]}
                seats = {seat["name"]: seat for seat in status["all_seats"]}
                if seats["s1"]["calls"] == 1 and members["n1"]["registrations"] == 2:
                    break
        assert (seats["s1"]["holder"], members["n1"]["calls"]) == ("n1", 1)
        (call,) = await said(second, "calls")
        assert (call["seat"], call["node"], call["from"], call["to"]) == ("s1", "n1", "1001", "1002")
        assert await said(second, "calls", "--number", "1003") == []
        agreed = await said(second, "status", "--divergence")
        assert agreed == {"diverges": False, "repaired": 0, "items": []}

        # Somebody deletes the call's record, gives a phone another one, and leaves one of a call that never was.
        calls, bindings = (f"pbx-cluster:{{s1}}:{kind.value}" for kind in (Kind.CALL, Kind.BINDING))
        record = cluster.redis.say("HGET", calls, call["call"])
        assert cluster.redis.say("HDEL", calls, call["call"]) == 1
        cluster.redis.say("HSET", bindings, "1001", cluster.redis.say("HGET", bindings, "1002"))
        cluster.redis.say("HSET", calls, "ghost", record)
        found = await said(second, "status", "--divergence", code=1)
        assert found["diverges"]
        assert {(x["node"], x["seat"], x["kind"], x["key"], x["what"]) for x in found["items"]} == {
            ("n1", "s1", "call", call["call"], "is missing in the store"),
            ("n1", "s1", "call", "ghost", "is in the store, but the call is over"),
            ("n1", "s1", "binding", "1001", "is another one in the store"),
        }
        people = await run(first, "status", "--divergence")
        assert people.returncode == 1
        assert f"seat s1 at n1: call {call['call']} is missing in the store\n" in people.stdout
        assert "`warden status --repair` has each node write again" in people.stdout
        repaired = await said(second, "status", "--repair", code=1)
        assert repaired["repaired"] == 3
        assert (await said(first, "status", "--divergence"))["items"] == []
        assert cluster.redis.say("HGET", calls, "ghost") is None

        # What was repaired is what the other node needs.
        assert (await run(first, "drain")).returncode == 0
        assert [c["node"] for c in await said(first, "calls")] == ["n2"]
        assert (await run(first, "drain", "--cancel")).returncode == 0
        assert (await run(first, "handover", "s1", "n1")).returncode == 0
        assert (await line.hang_up()).status in (0, 200)
