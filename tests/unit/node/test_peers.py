"""What a node asks other nodes: one that is dead costs no socket."""

import asyncio
import socket
from contextlib import closing

from warden.node.peers import Peers


async def test_a_node_that_hears_and_never_answers_is_given_up_and_its_connection_closed() -> None:
    ended: asyncio.Queue[bytes] = asyncio.Queue()

    async def listen_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.put_nowait(await reader.read())
        writer.close()

    server = await asyncio.start_server(listen_only, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        peers = Peers(patience_s=0.05)
        assert await peers.ask(f"http://{host}:{port}", b"may I?") is None
        # Not only when this node ends: it asks as long as the other one is dead.
        async with asyncio.timeout(20):
            assert (await ended.get()).endswith(b"may I?")
        await peers.close()


async def test_a_node_that_is_not_there_gives_no_answer() -> None:
    peers = Peers(patience_s=0.05)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    assert await peers.ask(f"http://127.0.0.1:{port}", b"may I?") is None
    assert await peers.ask("not an address", b"may I?") is None
    await peers.close()
