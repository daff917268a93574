"""Whoever listens at one node of a cluster hears what happens to the calls of all nodes, also when one of them dies."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from warden.ops.softphone import Softphone
from warden.ops.sound import Sound

from cluster_lab import Cluster, Member, password_of

pytestmark = [pytest.mark.timeout(120)]
EVENTS = "/api/v1/events"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = await asyncio.to_thread(Cluster, tmp_path, 2)
    try:
        await asyncio.to_thread(cluster.add_extensions, "1001", "1002")
        await asyncio.to_thread(cluster.start)
        yield cluster
        assert "Traceback" not in cluster.logs()
    finally:
        await asyncio.to_thread(cluster.close)


def client_of(node: Member) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {(node.data / 'operator.token').read_text()}"}
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{node.http_port}", headers=headers, trust_env=False, timeout=60
    )


class Ear:
    """Somebody who listens."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines

    async def next(self) -> tuple[str, Any]:
        """The next event, and what it tells."""
        async with asyncio.timeout(30):
            async for line in self._lines:
                if line.startswith("event: "):
                    what = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    return what, msgspec.json.decode(line.removeprefix("data: "))
        raise EOFError

    async def ends(self) -> bool:
        """True when the stream has come to its end."""
        with suppress(EOFError, httpx.RemoteProtocolError):
            while True:
                await self.next()
        return True

    async def until(self, what: str, node: str) -> Any:
        """The next event of that kind from that node."""
        while (heard := await self.next())[0] != what or heard[1]["node"] != node:
            pass
        return heard[1]["call"]


@asynccontextmanager
async def listening(node: Member, scope: str = "cluster") -> AsyncIterator[Ear]:
    async with client_of(node) as client, client.stream("GET", EVENTS, params={"scope": scope}) as response:
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        lines = response.aiter_lines()
        assert await anext(lines) == ": warden"
        yield Ear(lines)


async def test_a_listener_at_any_node_hears_of_all_calls_and_of_those_that_move(cluster: Cluster) -> None:
    first, second = cluster.nodes.values()
    async with AsyncExitStack() as stack:
        sound = Sound()
        stack.callback(sound.close)
        phones = [
            Softphone(n, password_of(n), cluster.seat(1), sound=sound, answers_after_s=0.3) for n in ("1001", "1002")
        ]
        for phone in phones:
            await stack.enter_async_context(phone)
            await phone.register()
        here = await stack.enter_async_context(listening(first, "node"))
        line = phones[0].call("1002")
        heard = [await here.next() for _ in range(3)]
        assert [what for what, _ in heard] == ["started", "ringing", "answered"]
        assert heard[-1][1]["call"]["answered_by"] == "1002"
        await line.answered()
        # Who comes later is told first what there is, wherever it is.
        there = await stack.enter_async_context(listening(second))
        call = await there.until("answered", "n1")
        assert (call["id"], call["seat"]) == (heard[0][1]["call"]["id"], "s1")
        await asyncio.to_thread(first.power_off)
        assert (await there.until("answered", "n2"))["id"] == call["id"]
        await line.hang_up()
        assert (await there.until("ended", "n2"))["id"] == call["id"]
        # A node that comes back is heard again, and one that stops lets go of who listens.
        await asyncio.to_thread(first.start)
        again = phones[1].call("*43")
        await there.until("answered", "n2")
        await again.hang_up()
        await there.until("ended", "n2")
        await asyncio.to_thread(second.kill, signal.SIGTERM)
        assert await there.ends()


async def test_who_may_not_listen_is_told_so(cluster: Cluster) -> None:
    (node, _) = cluster.nodes.values()
    async with client_of(node) as client:
        assert (await client.get(EVENTS, headers={"Authorization": ""})).status_code == 401
        refused = await client.get(EVENTS, params={"scope": "world"})
        assert (refused.status_code, refused.json()["detail"]) == (422, "query.scope: is cluster or node")
