"""Other nodes as a way to the store, over HTTP: who is asked, and what becomes of those that do not do as asked."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from warden.cluster.members import Record
from warden.config.load import load
from warden.core.errors import Unavailable
from warden.node.through import ANSWER_S, OtherNodes, through_of
from warden.store.memory import MemoryStore
from warden.store.ports import Kind

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
KEY = b"k" * 32


@asynccontextmanager
async def node_that(talks: Talk) -> AsyncIterator[OtherNodes]:
    """The other nodes of n1: one, n2, that does so with each connection."""
    server = await asyncio.start_server(talks, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        nodes = OtherNodes("n1", KEY, lambda: {"n1": Record("1"), "n2": Record("1", http=f"http://{host}:{port}")})
        yield nodes
        await nodes.close()


async def fails(nodes: OtherNodes, why: str) -> None:
    with pytest.raises(Unavailable, match=f"^n2: {why}"):
        await nodes.write("n2", "s", 1, [])
    with pytest.raises(Unavailable, match=f"^n2: {why}"):
        await nodes.read("n2", "s", Kind.CALL)


def says(answer: bytes) -> Talk:
    async def talks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    return talks


def test_those_are_asked_that_were_seen_last_and_whoever_leaves_is_asked_last() -> None:
    members = {
        "n1": Record("1", http="http://1"),
        "n2": Record("1", http="http://2", draining=True),
        "n3": Record("1"),
        "n4": Record("1", http="http://4"),
    }
    assert OtherNodes("n1", KEY, lambda: members).nodes() == ["n4", "n2"]


async def test_a_node_of_an_older_version_knows_of_no_such_thing() -> None:
    async with node_that(says(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}")) as nodes:
        await fails(nodes, "answered with 404")


async def test_a_node_that_says_what_is_no_answer_is_of_no_use() -> None:
    async with node_that(says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")) as nodes:
        await fails(nodes, "")
    async with node_that(says(b"SSH-2.0\r\n\r\n")) as nodes:
        await fails(nodes, "")


async def test_a_node_that_hears_and_never_answers_is_given_up_and_its_connection_closed() -> None:
    ended: asyncio.Queue[bytes] = asyncio.Queue()

    async def listen_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.put_nowait(await reader.read())
        writer.close()

    async with node_that(listen_only) as nodes:
        before = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable, match=r"^n2: ReadTimeout"):
            await nodes.write("n2", "s", 1, [])
        assert asyncio.get_running_loop().time() - before >= ANSWER_S
        async with asyncio.timeout(20):
            assert b"POST /api/v1/cluster/records" in await ended.get()


async def test_a_node_that_is_not_there_does_not_answer_and_nobody_is_asked_after_the_end() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    nodes = OtherNodes("n1", KEY, lambda: {"n2": Record("1", http=f"http://127.0.0.1:{port}")})
    await fails(nodes, "")
    with pytest.raises(Unavailable, match="n3: is not there"):
        await nodes.write("n3", "s", 1, [])
    await nodes.close()
    with pytest.raises(Unavailable, match="closed"):
        await nodes.write("n2", "s", 1, [])


SETTINGS = """
secret: the-secret-of-this-test-cluster
http: {bind_address: 127.0.0.1}
redis: {enabled: true, nodes: [{host: 127.0.0.1, port: 6379}]}
high_availability: {enabled: true, node_id: n1, coordinator: redis}
"""


@pytest.mark.parametrize(
    ("settings", "there"),
    [
        (SETTINGS, True),
        (SETTINGS.replace("enabled: true, nodes", "enabled: true, tls: {enabled: true}, nodes"), False),
        (SETTINGS.replace("high_availability: {enabled: true", "high_availability: {enabled: false"), False),
    ],
)
async def test_there_is_such_a_way_in_a_cluster_whose_records_may_go_in_the_clear(
    tmp_path: Path, settings: str, there: bool
) -> None:
    file = tmp_path / "config.yml"
    file.write_text(settings)
    store = MemoryStore()
    through = through_of(load(file, {}), store, dict)
    assert (through is not None) is there
    await (store if through is None else through).close()
