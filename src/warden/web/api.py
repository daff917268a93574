"""The API's routes. Who may use them has been decided by the gate before."""

from collections.abc import Sequence
from heapq import nsmallest
from math import inf, nextafter
from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.routing import APIRoute
from msgspec.structs import replace
from starlette.exceptions import HTTPException

from warden.call.cdr import Cdr
from warden.cluster.agent import Agent
from warden.cluster.divergence import examine, repair
from warden.cluster.seat import HeldSeat
from warden.core.errors import Unavailable, WardenError
from warden.store.ports import AlreadyExists, Durable, Extension
from warden.switch.directory import new_extension
from warden.switch.registrar import live
from warden.web import models, views
from warden.web.bans import add_bans
from warden.web.dialplan import add_dialplan
from warden.web.models import NUMBER_PATTERN, PAGE, PAGE_MAX, TEXT_PATTERN
from warden.web.paging import CURSOR_CHARS_MAX, Cursor, read_cursor
from warden.web.parts import errors, known
from warden.web.regions import add_regions
from warden.web.state import NodeState
from warden.web.trunks import add_trunks

CDRS_READ_MAX: Final = 1_000
"""The most that `Durable.cdrs` gives at once."""

_log = structlog.get_logger()

Number = Annotated[str, Path(pattern=NUMBER_PATTERN, max_length=64)]
CallId = Annotated[str, Path(max_length=64)]
SeatName = Annotated[str, Path(max_length=64)]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
After = Annotated[str, Query(max_length=64, pattern=TEXT_PATTERN, description="`next` of the page before.")]
Before = Annotated[
    str | None,
    Query(
        max_length=CURSOR_CHARS_MAX,
        pattern=TEXT_PATTERN,
        description="`next` of the page before, or an ISO 8601 time (UTC where it names no zone).",
    ),
]
Party = Annotated[
    str | None, Query(max_length=128, pattern=TEXT_PATTERN, description="Only calls from, to or taken by this number.")
]


def make_router(state: NodeState) -> APIRouter:
    """The routes of one node."""
    router = APIRouter(
        prefix="/api/v1",
        dependencies=[Depends(_refuse_unknown)],
        responses=errors(401, 422, 503),
        generate_unique_id_function=lambda route: route.name,
    )
    _add_status(router, state)
    _add_cluster(router, state)
    _add_extensions(router, state)
    add_dialplan(router, state)
    _add_registrations(router, state)
    _add_calls(router, state)
    _add_cdrs(router, state)
    add_bans(router, state, errors(400, 403, 404, 409, 413))
    add_trunks(router, state)
    add_regions(router, state)
    return router


async def _refuse_unknown(request: Request) -> None:
    """A misspelled parameter is told, not ignored."""
    route = request.scope["route"]
    assert isinstance(route, APIRoute), "the dependency is that of the API's routes"
    known = [field.alias for field in route.dependant.query_params]
    for name in request.query_params:
        if name not in known:
            raise HTTPException(
                422, f"query.{name[:64]}: is not known here; " + (", ".join(known) or "nothing") + " is"
            )


def _add_status(router: APIRouter, state: NodeState) -> None:
    @router.get("/status", tags=["node"])
    async def read_status() -> models.Status:
        """The node at a glance."""
        return views.status(state)

    @router.get("/records/aside", tags=["node"])
    async def list_records_aside() -> models.AsideRecords:
        """The records of the seats held here that could not be read."""
        items = [x for seat in list(state.seats.values()) for x in views.aside(seat.name, await seat.kept_aside())]
        items.sort(key=lambda x: x.at, reverse=True)
        return models.AsideRecords(items=items[: models.PAGE_MAX])


# Cluster


def _add_cluster(router: APIRouter, state: NodeState) -> None:
    @router.get("/cluster", tags=["cluster"])
    async def read_cluster() -> models.Cluster:
        """The members and what this node did last, as it sees them."""
        return views.cluster(state)

    @router.get("/seats", tags=["cluster"])
    async def list_seats() -> models.Seats:
        """All seats and who holds them, as this node sees them."""
        return models.Seats(items=views.seats(state))

    @router.get("/divergence", tags=["cluster"])
    async def read_divergence() -> models.Divergence:
        """What this node has in memory of its seats against what the stores have. It reads every record of them."""
        found = [d for seat in list(state.seats.values()) for d in await examine(seat)]
        return models.Divergence(node=state.node, items=[*views.disagreements(state), *map(views.difference, found)])

    @router.post("/divergence/repair", tags=["cluster"], responses=errors(403))
    async def repair_divergence(request: Request) -> models.Divergence:
        """The same, and every record that differs is written again as this node has it."""
        items, repaired = views.disagreements(state), 0
        for seat in list(state.seats.values()):
            found = await examine(seat)
            repaired += repair(seat, found)
            items += map(views.difference, found)
        _log.info("records written again", records=repaired, by=request.state.by)
        return models.Divergence(node=state.node, items=items, repaired=repaired)

    @router.post("/drain", tags=["cluster"], status_code=202, responses=errors(403, 409))
    async def drain(request: Request) -> models.Cluster:
        """Have this node hand over its seats with their calls, and take no more until it is started again. It goes on
        after this is answered, until the cluster says `drained`.
        """
        agent = _agent(state)
        _log.info("drain", by=request.state.by)
        agent.drain()
        return views.cluster(state)

    @router.delete("/drain", tags=["cluster"], responses=errors(403, 409))
    async def undrain(request: Request) -> models.Cluster:
        """Have this node take seats again. What it has handed over stays where it is until it is handed back."""
        agent = _agent(state)
        if state.stopping:
            raise HTTPException(409, f"node {state.node} is being stopped")
        _log.info("drain cancelled", by=request.state.by)
        agent.undrain()
        return views.cluster(state)

    @router.post("/seats/{seat}/handover", tags=["cluster"], status_code=202, responses=errors(400, 403, 404, 409, 413))
    async def hand_over(seat: SeatName, given: models.Handover, request: Request) -> models.Seat:
        """Have whoever holds the seat hand it over, with its calls. That goes on after this is answered."""
        found = next((x for x in views.seats(state) if x.name == seat), None)
        if found is None:
            raise HTTPException(404, f"seat {seat}: there is none")
        agent = _agent(state)
        if agent.error:
            raise Unavailable(f"coordinator: {agent.error}")
        peer = agent.peers.get(given.to)
        for wrong, why in (
            (found.holder is None, "is free: the first of its successors takes it by itself"),
            (found.holder == given.to, f"is at {given.to} already"),
            (given.to not in found.successors, f"{given.to} is none of its successors"),
            (peer is None, f"{given.to} is not alive"),
            (peer is not None and peer.draining, f"{given.to} is draining"),
        ):
            if wrong:
                raise HTTPException(409, f"seat {seat}: {why}")
        _log.info("hand-over", seat=seat, to=given.to, by=request.state.by)
        agent.wish(seat, given.to)
        return found


def _agent(state: NodeState) -> Agent:
    if state.agent is None:
        raise HTTPException(409, f"node {state.node} is no member of a cluster")
    return state.agent


# Extensions


def _add_extensions(router: APIRouter, state: NodeState) -> None:
    durable, realm = state.durable, state.realm

    @router.get("/extensions", tags=["extensions"])
    async def list_extensions(limit: Limit = PAGE, after: After = "") -> models.Extensions:
        """Extensions by number."""
        behind = [x for x in await _extensions(state) if x.number > after]
        page = nsmallest(limit, behind, key=lambda x: x.number)
        return models.Extensions(
            items=[views.extension(x) for x in page], next=page[-1].number if len(behind) > limit else None
        )

    @router.post("/extensions", tags=["extensions"], status_code=201, responses=errors(400, 403, 409, 413))
    async def add_extension(given: models.NewExtension, request: Request, response: Response) -> models.Extension:
        """Make an extension. Phones can register at this node as soon as this is answered."""
        made = _checked(given.number, given.password.get_secret_value(), realm=realm, now=state.now(), name=given.name)
        made = replace(made, srtp=given.srtp)
        try:
            await durable.add_extension(made)
        except AlreadyExists:
            raise HTTPException(409, f"extension {given.number}: there is one already") from None
        _log.info("extension added", number=made.number, by=request.state.by)
        await known(state)
        response.headers["Location"] = f"{router.prefix}/extensions/{made.number.replace('#', '%23')}"
        return views.extension(made)

    @router.get("/extensions/{number}", tags=["extensions"], responses=errors(404))
    async def read_extension(number: Number) -> models.Extension:
        """One extension."""
        return views.extension(await _extension(state, number))

    @router.put("/extensions/{number}", tags=["extensions"], responses=errors(400, 403, 404, 413))
    async def change_extension(number: Number, given: models.ExtensionChange, request: Request) -> models.Extension:
        """Change the name, the password or whether the media are protected. A new password does not end registrations
        made with the old one before they expire.
        """
        old = await _extension(state, number)
        name = old.name if given.name is None else given.name
        if given.password is None:
            new = replace(old, name=name)
        else:
            new = _checked(number, given.password.get_secret_value(), realm=realm, now=old.created_at_utc, name=name)
        new = replace(new, srtp=old.srtp if given.srtp is None else given.srtp)
        if new != old:
            if not await durable.replace_extension(new):
                raise _no_extension(number)
            _log.info("extension changed", number=number, by=request.state.by)
            await known(state)
        return views.extension(new)

    @router.delete("/extensions/{number}", tags=["extensions"], status_code=204, responses=errors(403, 404))
    async def remove_extension(number: Number, request: Request) -> None:
        """Remove an extension and its registrations. Its calls in progress go on."""
        if not await durable.remove_extension(number):
            raise _no_extension(number)
        _log.info("extension removed", number=number, by=request.state.by)
        await known(state)


def _checked(number: str, password: str, *, realm: str, now: float, name: str) -> Extension:
    try:
        return new_extension(number, password, realm=realm, now=now, name=name)
    except WardenError as error:
        raise HTTPException(422, str(error)) from None


async def _extensions(state: NodeState) -> Sequence[Extension]:
    """The truth, not a node's memory of it; rows are fetched only where that memory is out of date."""
    directory = state.directory
    if await state.durable.revision() == directory.revision:
        return tuple(directory.extensions.values())
    return await state.durable.extensions()


async def _extension(state: NodeState, number: str) -> Extension:
    found = next((x for x in await _extensions(state) if x.number == number), None)
    if found is None:
        raise _no_extension(number)
    return found


def _no_extension(number: str) -> HTTPException:
    return HTTPException(404, f"extension {number}: there is none")


# Registrations


def _add_registrations(router: APIRouter, state: NodeState) -> None:
    @router.get("/registrations", tags=["registrations"])
    async def list_registrations(limit: Limit = PAGE, after: After = "", number: Party = None) -> models.Registrations:
        """Registrations by number. `limit` counts numbers; each may have several contacts."""
        seats, now = list(state.seats.values()), state.now()
        # A number may have phones at several seats.
        wanted = {
            n
            for seat in seats
            for n in (seat.switch.bindings if number is None else (number,))
            if n > after and live(seat.switch.bindings.get(n, ()), now)
        }
        page = nsmallest(limit, wanted)
        items = [
            item
            for n in page
            for seat in seats
            for item in views.registrations_of(n, seat.switch.bindings.get(n, ()), now, seat.name)
        ]
        return models.Registrations(items=items, next=page[-1] if len(wanted) > limit else None)


# Calls


def _add_calls(router: APIRouter, state: NodeState) -> None:
    @router.get("/calls", tags=["calls"])
    async def list_calls(limit: Limit = PAGE, before: Before = None, number: Party = None) -> models.Calls:
        """Calls in progress, the newest first."""
        cursor = _cursor(before)
        wanted = [
            (x, seat.name)
            for seat in state.seats.values()
            for x in seat.switch.calls.values()
            if cursor.is_before(x.call.started_at, x.call.id)
            and (number is None or number == x.call.dialled or any(leg.number == number for leg in x.call.legs))
        ]
        page = nsmallest(limit, wanted, key=lambda x: (-x[0].call.started_at, x[0].call.id))
        now = state.now()
        last = Cursor(page[-1][0].call.started_at, page[-1][0].call.id) if len(wanted) > limit else None
        return models.Calls(items=[views.call(x, now, seat) for x, seat in page], next=last and str(last))

    @router.get("/calls/{id}", tags=["calls"], responses=errors(404))
    async def read_call(id: CallId) -> models.Call:  # noqa: A002 - the API's name for it.
        """One call."""
        seat = _seat_of(state, id)
        return views.call(seat.switch.calls[id], state.now(), seat.name)

    @router.delete("/calls/{id}", tags=["calls"], status_code=204, responses=errors(403, 404))
    async def hang_up(id: CallId, request: Request) -> None:  # noqa: A002
        """End a call. Its phones are told at once; it is in the list until they have answered."""
        _seat_of(state, id).runner.hang_up(id, "Ended by the operator")
        _log.info("call ended", call=id, by=request.state.by)


def _seat_of(state: NodeState, call_id: str) -> HeldSeat:
    found = next((seat for seat in state.seats.values() if call_id in seat.switch.calls), None)
    if found is None:
        raise HTTPException(404, f"call {call_id}: there is none")
    return found


# CDRs


def _add_cdrs(router: APIRouter, state: NodeState) -> None:
    @router.get("/cdrs", tags=["cdrs"])
    async def list_cdrs(limit: Limit = PAGE, before: Before = None, number: Party = None) -> models.Cdrs:
        """Records of calls that are over, the newest first."""
        cursor = _cursor(before)
        found = await _cdrs(state.durable, cursor, limit + 1, number)
        page = found[:limit]
        last = Cursor(page[-1].ended_at_utc, page[-1].id) if len(found) > limit else None
        return models.Cdrs(items=[views.cdr(x) for x in page], next=last and str(last))


async def _cdrs(durable: Durable, cursor: Cursor, limit: int, number: str | None) -> list[Cdr]:
    """CDRs behind the cursor. Those of its very moment are read again, and the ones told already left out."""
    before = nextafter(cursor.time, inf) if cursor.id else cursor.time
    read = limit + 1 if cursor.id else limit
    while True:
        rows = await durable.cdrs(limit=read, before_utc=None if before == inf else before, number=number)
        found = [x for x in rows if cursor.is_before(x.ended_at_utc, x.id)]
        if len(found) >= limit or len(rows) < read or read == CDRS_READ_MAX:
            return found[:limit]
        read = min(2 * read, CDRS_READ_MAX)


def _cursor(before: str | None) -> Cursor:
    if before is None:
        return Cursor(inf)
    try:
        return read_cursor(before)
    except WardenError as error:
        raise HTTPException(422, str(error)) from None
