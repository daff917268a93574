"""What a node does over HTTP for another one that does not reach the store (`cluster.relay`)."""

from typing import Final

from fastapi import FastAPI, HTTPException, Request
from starlette.responses import Response, StreamingResponse

from warden.cluster.relay import carry_out, frames_of
from warden.core.errors import MalformedMessage, Unavailable
from warden.store.ports import Kind, SeatStore
from warden.web.auth import CLUSTER, RELAY_URL
from warden.web.state import NodeState

RECORDS_URL: Final = RELAY_URL + "/{seat}/{kind}"
"""All records of a kind."""


def add_relay(app: FastAPI, state: NodeState) -> None:
    """What only nodes ask: the records of calls have keys in them."""

    async def write(request: Request) -> Response:
        store = _store_for(state, request)
        try:
            return Response(await carry_out(store, await request.body()))
        except MalformedMessage as error:
            raise HTTPException(400, str(error)) from error

    async def records(request: Request) -> Response:
        store, asked = _store_for(state, request), request.path_params
        try:
            kind = Kind(asked["kind"])
            found = await store.read(asked["seat"], kind)
        except ValueError as error:
            raise HTTPException(404, str(error)) from error
        except Unavailable as error:
            raise HTTPException(503, str(error)) from error
        return StreamingResponse(frames_of(kind, found), media_type="application/octet-stream")

    app.add_route(RELAY_URL, write, ["POST"], include_in_schema=False)
    app.add_route(RECORDS_URL, records, ["GET"], include_in_schema=False)


def _store_for(state: NodeState, request: Request) -> SeatStore:
    """The store as this node reaches it, never its way through another one: nothing is handed on twice."""
    if request.state.by != CLUSTER.name:
        raise HTTPException(403, "only a node may ask this")
    if state.own_store is None:
        raise HTTPException(404, "this node shares no store with others")
    return state.own_store
