"""The HTTP server in the node's event loop."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from warden.core.address import Transport
from warden.net.bind import bind
from warden.net.settings import Listener

CONNECTIONS_MAX: Final = 1_024
"""Load balancers, Prometheus, consoles and tools of a large site, with room; more would be an attack on calls."""
CONNECTIONS_PER_ADDRESS_MAX: Final = 128
"""A load balancer in front of several nodes needs a few, a browser six: one address must not fill the above."""
FIRST_REQUEST_S: Final = 5.0
"""A connection that has not brought a whole request head by then is closed: it would only take a place."""


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the node's: a SIGTERM hands calls over, it does not just close a web server."""
        yield


class _Protocol(H11Protocol):
    """HTTP for strangers: bounded in number, and nobody may sit there in silence."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        host = self.client[0] if self.client else ""
        clients = (getattr(connection, "client", None) for connection in self.connections)
        same = sum(1 for client in clients if client is not None and client[0] == host)
        if len(self.connections) > CONNECTIONS_MAX or same > CONNECTIONS_PER_ADDRESS_MAX:
            transport.abort()
            return
        self.loop.call_later(FIRST_REQUEST_S, self._close_if_silent)

    def _close_if_silent(self) -> None:
        cycle: object = self.cycle  # None until a whole head has come.
        if cycle is None and not self.transport.is_closing():
            self.transport.close()


class HttpServer:
    """Serves an application on one address. The port is taken at once, so that a taken one is known at the start."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        """Raises `WardenError` that names who has the port."""
        self._sock = bind(Listener(Transport.TCP, host, port))
        self.port = int(self._sock.getsockname()[1])
        self._server = _Server(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=2,
                http=_Protocol,
                ws="none",
            )
        )

    async def run(self) -> None:
        """Serve until `stop`."""
        await self._server.serve(sockets=[self._sock])

    def stop(self) -> None:
        """Let `run` return soon."""
        self._server.should_exit = True
