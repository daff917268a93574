"""What happens to calls, told as it happens (server-sent events): of this node, or of all nodes of its cluster."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from warden.call.model import Call, Phase
from warden.switch.live import LiveCall
from warden.web import views
from warden.web.state import NodeState

EVENTS_URL: Final = "/api/v1/events"
SUBSCRIBERS_MAX: Final = 100
"""Consoles and programs of a large site."""
WAITING_MAX: Final = 10_000
"""Events kept for one that reads slowly: all calls of a full node. One that falls behind further is cut off, since it
would be told nonsense."""
SILENCE_S: Final = 15.0
"""How often something is said in silence, so that nobody on the way takes the connection for dead."""
RETRY_S: Final = 1.0
"""How often a node that cannot be followed is tried again."""

Follow = Callable[[str, Callable[[bytes], None]], Awaitable[None]]
"""(http, tell): hand on what the node at that address says until it is gone."""


def stage_of(call: Call) -> str:
    """How far a call has come, in one word."""
    if call.phase is Phase.OVER:
        return "ended"
    if call.answered_at is not None:
        return "answered"
    return "started" if call.ringing_at is None else "ringing"


class Listeners:
    """Who listens to this node. Without anybody, a change of a call costs a look at an empty set."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._queues: set[asyncio.Queue[bytes | None]] = set()
        self._stages: dict[str, str] = {}

    def hear(self, seat: str, live: LiveCall) -> None:
        """A call of a seat may have changed."""
        if not self._queues:
            return
        call = live.call
        stage = stage_of(call)
        if self._stages.get(call.id) != stage:
            self._stages[call.id] = stage
            self._tell(self._event(stage, seat, live))
        if call.is_finished:
            self._stages.pop(call.id, None)

    def join(self) -> "asyncio.Queue[bytes | None]":
        """Listen from now on; first told are the calls that there are. None ends it."""
        if len(self._queues) >= SUBSCRIBERS_MAX:
            raise HTTPException(503, f"{SUBSCRIBERS_MAX} listen already")
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(WAITING_MAX + 1)
        if not self._queues:
            self._stages.clear()
        for seat in self._state.seats.values():
            for live in list(seat.switch.calls.values())[: WAITING_MAX // 2]:
                stage = self._stages.setdefault(live.call.id, stage_of(live.call))
                queue.put_nowait(self._event(stage, seat.name, live))
        self._queues.add(queue)
        return queue

    def leave(self, queue: "asyncio.Queue[bytes | None]") -> None:
        """Listen no more."""
        self._queues.discard(queue)

    def close(self) -> None:
        """The node stops: nobody has anything more to hear."""
        for queue in list(self._queues):
            self._cut_off(queue)

    def _tell(self, said: bytes) -> None:
        for queue in list(self._queues):
            put(queue, said)
            if queue.qsize() > WAITING_MAX:
                self._cut_off(queue)

    def _cut_off(self, queue: "asyncio.Queue[bytes | None]") -> None:
        self.leave(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)

    def _event(self, stage: str, seat: str, live: LiveCall) -> bytes:
        shown = views.call(live, self._state.now(), seat).model_dump(mode="json")
        data = msgspec.json.encode({"node": self._state.node, "call": shown})
        return b"event: %s\ndata: %s\n\n" % (stage.encode(), data)


def put(queue: "asyncio.Queue[bytes | None]", said: bytes) -> None:
    """Let a listener be told, unless it is so far behind that it is about to be cut off."""
    with suppress(asyncio.QueueFull):
        queue.put_nowait(said)


def respond(state: NodeState, listeners: Listeners, follow: Follow | None, request: Request) -> Response:
    """The stream: with `scope=node` what happens at this node, else at all of them."""
    scope = request.query_params.get("scope", "cluster")
    if scope not in ("cluster", "node"):
        raise HTTPException(422, "query.scope: is cluster or node")
    queue = listeners.join()
    wanted = follow if scope == "cluster" else None
    return StreamingResponse(_stream(state, listeners, queue, wanted), media_type="text/event-stream")


async def _stream(
    state: NodeState, listeners: Listeners, queue: "asyncio.Queue[bytes | None]", follow: Follow | None
) -> AsyncIterator[bytes]:
    others = None if follow is None else asyncio.create_task(_follow_all(state, follow, queue))
    try:
        yield b": warden\n\n"
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    said = await queue.get()
            except TimeoutError:
                said = b":\n\n"
            if said is None:
                return
            yield said
    finally:
        listeners.leave(queue)
        if others is not None:
            others.cancel()


async def _follow_all(state: NodeState, follow: Follow, queue: "asyncio.Queue[bytes | None]") -> None:
    """Follow every other node for as long as it is a member."""
    followed: dict[str, asyncio.Task[None]] = {}

    async def keep_on(http: str) -> None:
        while True:
            await follow(http, lambda said: put(queue, said))
            await asyncio.sleep(RETRY_S)

    try:
        while True:
            peers = {} if state.agent is None else state.agent.peers
            wanted = {peer.http for node, peer in peers.items() if node != state.node and peer.http}
            for http in followed.keys() - wanted:
                followed.pop(http).cancel()
            for http in wanted - followed.keys():
                followed[http] = asyncio.create_task(keep_on(http))
            await asyncio.sleep(RETRY_S)
    finally:
        for task in followed.values():
            task.cancel()
