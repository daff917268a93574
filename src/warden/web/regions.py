"""The two regions over HTTP: what their nodes tell each other, and what operators see and decide."""

from typing import Final

import structlog
from fastapi import APIRouter, FastAPI, HTTPException, Request
from starlette.responses import Response, StreamingResponse

from warden.core.errors import MalformedMessage, WardenError
from warden.web import models
from warden.web.auth import CLUSTER
from warden.web.parts import errors
from warden.web.state import NodeState, RegionView

REGION_URL: Final = "/api/v1/region/word"
"""Where a node of the other region says how it is there, and hears how it is here."""
LETS_GO: Final = "?lets_go=1"
"""The answer is to come when no seat is here any more: the other region is about to take them."""
GOES_ON: Final = "?goes_on=1"
"""It does not take them after all."""
STREAM_URL: Final = "/api/v1/region/seats/{seat}/stream"
"""All records of a seat, and then what changes (`cluster.stream`)."""

_log = structlog.get_logger()


def add_between_regions(app: FastAPI, state: NodeState) -> None:
    """What only nodes ask: the records of calls have keys in them."""

    async def word(request: Request) -> Response:
        link = _for_nodes(state, request)
        try:
            asked = request.query_params
            said = await link.answer(await request.body(), lets_go="lets_go" in asked, goes_on="goes_on" in asked)
        except MalformedMessage as error:
            raise HTTPException(400, str(error)) from error
        return Response(said)

    async def stream(request: Request) -> Response:
        link, seat = _for_nodes(state, request), request.path_params["seat"]
        if seat not in state.seats:
            raise HTTPException(404, f"seat {seat}: is not here")
        frames = link.told.frames(seat, lambda: seat in state.seats and not state.stopping)
        return StreamingResponse(frames, media_type="application/octet-stream")

    app.add_route(REGION_URL, word, ["POST"], include_in_schema=False)
    app.add_route(STREAM_URL, stream, ["GET"], include_in_schema=False)


def add_regions(router: APIRouter, state: NodeState) -> None:
    """What operators ask."""

    @router.get("/region", tags=["regions"], responses=errors(404))
    async def region() -> models.Region:
        """The region here, the other one, and how well the one follows the other."""
        return show(state, _link(state))

    @router.post("/region/promote", tags=["regions"], responses=errors(400, 403, 404, 409, 413))
    async def promote(given: models.Promotion, request: Request) -> models.Region:
        """Make this node's region the primary one: it takes the seats, with what lives on them. The other region lets
        go of them first. With `lost` it need not answer: whoever says so vouches that none of its nodes reaches a
        phone.
        """
        link = _link(state)
        _log.info("region is to be promoted", by=request.state.by, lost=given.lost)
        try:
            await link.promote(lost=given.lost)
        except WardenError as error:
            raise HTTPException(409, str(error)) from error
        return show(state, link)


def show(state: NodeState, link: RegionView) -> models.Region:
    """The regions as this node sees them."""
    regions, mirror = link.regions, link.mirror
    present = regions.present()
    now = state.now()
    return models.Region(
        region=regions.own,
        other=regions.other,
        primary=regions.primary.region,
        term=regions.primary.term,
        is_primary=regions.is_primary,
        database=link.database,
        database_error=link.database_error,
        lease_s=link.lease_s,
        arbiter_error=link.arbiter_error,
        nodes=[
            models.RegionNode(
                node=node,
                present=node in present,
                silent_s=round(now - heard.at, 1),
                seats=list(heard.word.holds),
                database=heard.word.database,
            )
            for node, heard in sorted(regions.heard.items())
        ],
        seats=[
            models.FollowedSeat(
                seat=seat, age_s=round(age, 2), why=mirror.why.get(seat, ""), followed=seat in mirror.following
            )
            for seat, age in mirror.age_s().items()
        ],
        followed_by=_followers(state),
    )


def _followers(state: NodeState) -> dict[str, str]:
    peers = {} if state.agent is None else state.agent.peers
    return {seat: node for node, record in peers.items() for seat in record.follows}


def _link(state: NodeState) -> RegionView:
    if state.region is None:
        raise HTTPException(404, "this cluster has one region (high_availability.regions)")
    return state.region


def _for_nodes(state: NodeState, request: Request) -> RegionView:
    if request.state.by != CLUSTER.name:
        raise HTTPException(403, "only a node may ask this")
    return _link(state)
