"""What a node says to other nodes by HTTP, and what it keeps of what it told them."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx
import msgspec

from warden.core.errors import WardenError
from warden.web.app import CONSENT_URL
from warden.web.auth import make_node_token
from warden.web.events import EVENTS_URL

PROMISES_FILE: Final = "promises"
ANSWER_BYTES_MAX: Final = 64 * 1024
"""The names of all seats, with room."""
IDLE_S: Final = 5.0
"""Connections to other nodes are kept for the next question while they are needed."""

EVENTS_SILENCE_S: Final = 40.0
"""A node that says nothing for so long, where it says something every 15 s, is gone."""

_decoder = msgspec.msgpack.Decoder(dict[str, float])


class Peers:
    """The other nodes. `ask` is an `Ask` (`cluster.consent`)."""

    def __init__(self, patience_s: float) -> None:
        """`patience_s` is how long to connect, and to wait for an answer: less than the caller waits, since httpx
        leaves sockets open when it is cancelled from outside.
        """
        self._patience_s = patience_s
        self._http: httpx.AsyncClient | None = None

    async def ask(self, http: str, question: bytes) -> bytes | None:
        """The answer of the node at that address; None where it gives none."""
        if self._http is None:
            # Proxies of the environment are for the world outside, not for the cluster.
            limits = httpx.Limits(keepalive_expiry=IDLE_S)
            self._http = httpx.AsyncClient(
                trust_env=False,
                verify=False,  # noqa: S501 - plain HTTP
                limits=limits,
                timeout=self._patience_s,
            )
        try:
            response = await self._http.post(f"{http}{CONSENT_URL}", content=question)
        except (httpx.HTTPError, httpx.InvalidURL):
            return None
        said = response.content
        return said if response.status_code == httpx.codes.OK and len(said) <= ANSWER_BYTES_MAX else None

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()


class CallEvents:
    """What other nodes say of their calls. `follow` is a `Follow` (`web.events`)."""

    def __init__(self, key: bytes) -> None:
        """`key` signs the tokens by which nodes ask each other."""
        self._key = key

    async def follow(self, http: str, tell: Callable[[bytes], None]) -> None:
        """Hand on whole events until the node is gone, or is silent for too long."""
        headers = {"Authorization": f"Bearer {make_node_token(self._key, time.time())}"}
        said: list[str] = []
        with suppress(httpx.HTTPError, httpx.InvalidURL, httpx.StreamError):
            async with (
                httpx.AsyncClient(trust_env=False, verify=False, timeout=EVENTS_SILENCE_S) as client,  # noqa: S501
                client.stream("GET", f"{http}{EVENTS_URL}?scope=node", headers=headers) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    return
                async for line in response.aiter_lines():
                    if line and len(line) <= ANSWER_BYTES_MAX:
                        said.append(line)
                    elif said:
                        tell("\n".join([*said, "", ""]).encode())
                        said.clear()


class PromisesFile:
    """Until when this node leaves which seats alone, in its data folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / PROMISES_FILE

    def read(self) -> Mapping[str, float]:
        """What was kept, if there is anything. Raises `WardenError` for a file that cannot be read."""
        try:
            return _decoder.decode(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            raise WardenError(f"{self._path}: cannot be read, remove it: {error}") from error

    def keep(self, promises: Mapping[str, float]) -> None:
        """Keep them for the next process. They end before a machine has started anew, so no disk is waited for.

        Raises `WardenError`.
        """
        scratch = self._path.with_name(PROMISES_FILE + ".new")
        try:
            scratch.write_bytes(msgspec.msgpack.encode(promises))
            scratch.replace(self._path)
        except OSError as error:
            raise WardenError(f"{self._path}: cannot be written: {error.strerror}") from error
