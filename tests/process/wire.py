"""A way to a server that can be cut: then nothing comes through, and nobody is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from warden.core.address import Address

CHUNK_BYTES = 65536


class Wire:
    """Carries connections to `target`. What is sent while it is cut comes through, late, when it is mended."""

    def __init__(self) -> None:
        self.target = Address("127.0.0.1", 0)
        self.port = 0
        self._is_whole = asyncio.Event()
        self._is_whole.set()
        self._carrying: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def laid(cls) -> AsyncIterator["Wire"]:
        """A wire; nothing of it is left behind the block."""
        wire = cls()
        server = await asyncio.start_server(wire._take, "127.0.0.1", 0)
        wire.port = server.sockets[0].getsockname()[1]
        try:
            yield wire
        finally:
            server.close()
            for task in wire._carrying:
                task.cancel()
            await asyncio.gather(*wire._carrying, return_exceptions=True)

    def cut(self) -> None:
        """Let nothing through."""
        self._is_whole.clear()

    def mend(self) -> None:
        """Let everything through."""
        self._is_whole.set()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            await self._is_whole.wait()
            there, back = await asyncio.open_connection(*self.target)
            writers.append(back)
            ways = [asyncio.ensure_future(self._pass(reader, back)), asyncio.ensure_future(self._pass(there, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            # The server is gone: who connected sees the connection closed.
            pass
        finally:
            for one in writers:
                one.close()
                with suppress(OSError):
                    await one.wait_closed()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._is_whole.wait()
                writer.write(data)
                await writer.drain()
