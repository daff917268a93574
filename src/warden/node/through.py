"""The other nodes as a way to the store (`cluster.through`), by HTTP."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Final

import httpx
import structlog

from warden.cluster.members import Record
from warden.cluster.relay import ANSWER_BYTES_MAX, losses_of, order_of, records_of
from warden.cluster.through import Through
from warden.config.tree import Config
from warden.core.errors import Unavailable
from warden.node.build import node_key
from warden.store.ports import Kind, SeatStore, Write
from warden.store.redis_store import RedisSeatStore
from warden.web.auth import RELAY_URL, make_node_token
from warden.web.relay import RECORDS_URL

CONNECT_S: Final = 0.25
"""In one site a connection takes a millisecond; a node that has lost its power does not answer at all."""
ANSWER_S: Final = 1.0
"""What the other node's store takes for the largest slice of a backlog, on a busy machine."""
IDLE_S: Final = 5.0
"""Connections are kept while they are needed: a holder writes every second."""
MASTER_S: Final = 1.0
"""How often it is looked whether the others have another master."""

_log = structlog.get_logger()


class OtherNodes:
    """`Others` of `cluster.through`."""

    def __init__(self, node: str, key: bytes, members: Callable[[], Mapping[str, Record]]) -> None:
        """`key` signs what nodes ask each other; `members` gives those that were seen last, `node` among them."""
        self._node = node
        self._key = key
        self._members = members
        self._http: httpx.AsyncClient | None = None
        self._is_closed = False

    def nodes(self) -> Sequence[str]:
        """As `Others.nodes`: one that may go soon comes last."""
        members = self._members()
        found = [name for name, record in members.items() if name != self._node and record.http]
        return sorted(found, key=lambda name: (members[name].draining, name))

    async def write(self, node: str, seat: str, epoch: int, writes: Sequence[Write]) -> int:
        """As `Others.write`."""
        order = order_of(seat, epoch, writes)
        try:
            response = await self._client().post(self._place(node) + RELAY_URL, content=order, headers=self._proof())
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _gone(node, error) from error
        if response.status_code != httpx.codes.OK or len(response.content) > ANSWER_BYTES_MAX:
            raise Unavailable(f"{node}: answered with {response.status_code}")
        return losses_of(node, response.content)

    async def read(self, node: str, seat: str, kind: Kind) -> Mapping[str, bytes]:
        """As `Others.read`."""
        url = self._place(node) + RECORDS_URL.format(seat=seat, kind=kind.value)
        try:
            async with self._client().stream("GET", url, headers=self._proof()) as response:
                if response.status_code != httpx.codes.OK:
                    raise Unavailable(f"{node}: answered with {response.status_code}")
                async with aclosing(response.aiter_raw()) as chunks:  # type: ignore[type-var]
                    return await records_of(node, chunks)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise _gone(node, error) from error

    async def close(self) -> None:
        """As `Others.close`."""
        self._is_closed = True
        if self._http is not None:
            await self._http.aclose()

    def _client(self) -> httpx.AsyncClient:
        if self._is_closed:
            raise Unavailable("other nodes: closed")
        if self._http is None:
            # Proxies of the environment are for the world outside, not for the cluster.
            self._http = httpx.AsyncClient(
                trust_env=False,
                verify=False,  # noqa: S501 - plain HTTP
                limits=httpx.Limits(keepalive_expiry=IDLE_S),
                timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
            )
        return self._http

    def _place(self, node: str) -> str:
        record = self._members().get(node)
        if record is None:
            raise Unavailable(f"{node}: is not there any more")
        return record.http

    def _proof(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {make_node_token(self._key, time.time())}"}


def _gone(node: str, error: Exception) -> Unavailable:
    return Unavailable(f"{node}: {str(error) or type(error).__name__}")


def through_of(config: Config, store: SeatStore, members: Callable[[], Mapping[str, Record]]) -> Through | None:
    """The way to `store` through other nodes, where there are some that reach it by themselves and share a secret. None
    where nobody is to read on the way what Redis is given (`redis.tls`): nodes talk in the clear.
    """
    key, redis = node_key(config), config.redis
    if not (config.high_availability.enabled and redis.enabled and key) or redis.tls.enabled:
        return None
    return Through(store, OtherNodes(config.high_availability.node_id, key, members))


async def keep_to_master(store: SeatStore) -> None:
    """See to it, until cancelled, that what is written is written where the other nodes will read it: a server that is
    cut off from the others does not know that they have another master, and says yes to everything.
    """
    if not isinstance(store, RedisSeatStore):
        return
    while True:
        await asyncio.sleep(MASTER_S)
        with suppress(Unavailable):
            await store.leave_old_master()
