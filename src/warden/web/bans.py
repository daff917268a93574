"""The API's routes about bans. What one node does about them, all do within a second or two."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from starlette.exceptions import HTTPException

from warden.cluster.seat import HeldSeat
from warden.core.errors import WardenError
from warden.switch.bans import Ban, address_of, key_of
from warden.web import models
from warden.web.models import NUMBER_PATTERN, TEXT_PATTERN, at
from warden.web.state import NodeState

SHOWN_MAX: Final = 10_000
"""Bans in one answer: those of five seats that are full of them, 2 MB."""

Address = Annotated[str, Query(max_length=64, pattern=TEXT_PATTERN, description="As the ban names it.")]
Number = Annotated[
    str | None, Query(max_length=64, pattern=NUMBER_PATTERN, description="Of a ban that is of one extension only.")
]


def add_bans(router: APIRouter, state: NodeState, errors: dict[int | str, dict[str, Any]]) -> None:
    """Add the routes; `errors` describes what may go wrong."""

    @router.get("/bans", tags=["bans"])
    async def list_bans() -> models.Bans:
        """The bans that hold in the whole cluster, as this node knows them."""
        return models.Bans(items=[_shown(state, ban) for ban in state.bans.listed(state.now())[:SHOWN_MAX]])

    @router.post("/bans", tags=["bans"], status_code=201, responses=errors)
    async def add_ban(given: models.NewBan, request: Request) -> models.Ban:
        """Shut an address out of the whole cluster, from now on for so long."""
        try:
            address = address_of(given.address)
        except WardenError as error:
            raise HTTPException(422, str(error)) from None
        if state.bans.is_spared(address):
            raise HTTPException(
                409, f"ban: {address} is never banned: the cluster's, a carrier's or security.never_ban"
            )
        _seat(state).runner.ban(address, given.duration_s, given.why or "by hand", request.state.by)
        return _shown(state, _found(state, key_of(address)))

    @router.delete("/bans", tags=["bans"], responses=errors)
    async def lift_ban(address: Address, request: Request, number: Number = None) -> models.Ban:
        """End a ban in the whole cluster, at whichever seat it was made; what it was."""
        try:
            key = key_of(address_of(address), number or "")
        except WardenError as error:
            raise HTTPException(422, str(error)) from None
        found = _found(state, key)
        shown = _shown(state, found)
        _seat(state).runner.lift(key, request.state.by)
        return shown


def _found(state: NodeState, key: str) -> Ban:
    found = state.bans.find(key)
    if found is None or found.until <= state.now():
        raise HTTPException(404, f"ban: there is none of {key}")
    return found


def _seat(state: NodeState) -> HeldSeat:
    """One that keeps the record, whichever it is."""
    if not state.seats:
        raise HTTPException(409, f"node {state.node} holds no seat that could keep a ban: ask another")
    return next(iter(state.seats.values()))


def _shown(state: NodeState, ban: Ban) -> models.Ban:
    names = state.bans.barred_numbers(ban.address)
    return models.Ban(
        address=ban.address,
        number=ban.number,
        why=ban.why,
        by=ban.by,
        made_at=at(ban.made_at),
        until=at(ban.until),
        active=ban.number in names if ban.number else ban.address in state.bans.barred,
    )
