"""The API's routes for the dialplan and for the settings of extensions, which are a part of it."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
import structlog
from fastapi import APIRouter, Body, Path, Query, Request, Response
from starlette.exceptions import HTTPException

from warden.core.errors import WardenError
from warden.store.ports import USER, Item
from warden.switch.dialplan.change import Conflict, faults_of, put, read_directory, remove
from warden.switch.dialplan.items import KINDS
from warden.switch.explaining import explain
from warden.switch.routing import Asked
from warden.switch.trunks.sealed import shown
from warden.web import models
from warden.web.models import NUMBER_PATTERN, PAGE, PAGE_MAX, TEXT_PATTERN, at
from warden.web.parts import errors, known
from warden.web.state import NodeState

_log = structlog.get_logger()

_KIND_PATTERN: Final = f"^({'|'.join(KINDS)})$"
Kind = Annotated[str, Path(pattern=_KIND_PATTERN, description="What sort of item.")]
Name = Annotated[str, Path(pattern=NUMBER_PATTERN, max_length=64)]
Dialled = Annotated[str, Query(min_length=1, max_length=64, pattern=TEXT_PATTERN)]
Given = Annotated[dict[str, Any], Body(description="The fields of the item, as in docs/dialplan.md.")]


def add_dialplan(router: APIRouter, state: NodeState) -> None:
    """The routes of one node."""
    durable = state.durable

    @router.get("/dialplan/check", tags=["dialplan"])
    async def check_dialplan() -> models.DialplanFaults:
        """What is wrong with the dialplan as a whole, the grave first."""
        faults = faults_of(await read_directory(durable))
        items = [models.DialplanFault(text=fault.text, grave=fault.grave) for fault in faults[:PAGE_MAX]]
        return models.DialplanFaults(items=items)

    @router.get("/dialplan/explain", tags=["dialplan"])
    async def explain_number(
        caller: Dialled,
        dialled: Dialled,
        time: Annotated[
            str, Query(max_length=40, pattern=TEXT_PATTERN, description="ISO 8601; UTC where it names no zone.")
        ] = "",
    ) -> models.Explanation:
        """Which way a call would take, and why: nobody is called."""
        asked = Asked(_time(time, state.now()), caller, dialled, by=caller)
        lines = explain(asked, await read_directory(durable))
        return models.Explanation(lines=[models.ExplanationLine(depth=x.depth, text=x.text) for x in lines])

    @router.get("/dialplan/{kind}", tags=["dialplan"])
    async def list_items(
        kind: Kind,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = PAGE,
        after: Annotated[
            str, Query(max_length=64, pattern=TEXT_PATTERN, description="`next` of the page before.")
        ] = "",
    ) -> models.DialplanItems:
        """The items of a kind by name."""
        behind = [item for item in await durable.items() if item.kind == kind and item.name > after]
        behind.sort(key=lambda item: item.name)
        page = behind[:limit]
        return models.DialplanItems(
            items=[_shown(item) for item in page], next=page[-1].name if len(behind) > limit else None
        )

    @router.get("/dialplan/{kind}/{name}", tags=["dialplan"], responses=errors(404))
    async def read_item(kind: Kind, name: Name) -> models.DialplanItem:
        """One item."""
        return _shown(await _find(kind, name))

    @router.put("/dialplan/{kind}/{name}", tags=["dialplan"], responses=errors(400, 403, 409, 413))
    async def put_item(kind: Kind, name: Name, given: Given, request: Request) -> models.DialplanItem:
        """Make an item, or put it in the place of the one of that name. Refused (409) where it would lead to something
        that is not there, or in a circle; what else is to be known of it stands in `warnings`. This node goes by it as
        soon as this is answered, the others within a second.
        """
        return await _put(kind, name, given, request)

    @router.delete("/dialplan/{kind}/{name}", tags=["dialplan"], status_code=204, responses=errors(403, 404, 409))
    async def remove_item(kind: Kind, name: Name, request: Request) -> Response:
        """Remove an item. Refused (409) where others lead to it."""
        try:
            done = await remove(durable, kind, name)
        except Conflict as error:
            raise HTTPException(409, str(error)) from None
        if not done:
            raise _none(kind, name)
        _log.info("dialplan item removed", kind=kind, name=name, by=request.state.by)
        await known(state)
        return Response(status_code=204)

    @router.get("/extensions/{number}/settings", tags=["extensions"], responses=errors(404))
    async def read_settings(number: Name) -> models.DialplanItem:
        """The settings of an extension: its class, its forwards, whether it may be disturbed."""
        await _check_extension(number)
        found = next((x for x in await durable.items() if (x.kind, x.name) == (USER, number)), None)
        return _shown(found or Item(USER, number, "{}"))

    @router.put("/extensions/{number}/settings", tags=["extensions"], responses=errors(400, 403, 404, 409, 413))
    async def put_settings(number: Name, given: Given, request: Request) -> models.DialplanItem:
        """Give an extension these settings in place of all that it had."""
        await _check_extension(number)
        return await _put(USER, number, given, request)

    async def _put(kind: str, name: str, given: dict[str, Any], request: Request) -> models.DialplanItem:
        try:
            item, told = await put(durable, kind, name, msgspec.json.encode(given).decode(), state.now(), state.sealer)
        except Conflict as error:
            raise HTTPException(409, str(error)) from None
        except WardenError as error:
            raise HTTPException(422, str(error)) from None
        _log.info("dialplan item put", kind=kind, name=name, by=request.state.by)
        await known(state)
        return _shown(item, told)

    async def _find(kind: str, name: str) -> Item:
        found = next((x for x in await durable.items() if (x.kind, x.name) == (kind, name)), None)
        if found is None:
            raise _none(kind, name)
        return found

    async def _check_extension(number: str) -> None:
        if all(x.number != number for x in await durable.extensions()):
            raise HTTPException(404, f"extension {number}: there is none")


def _none(kind: str, name: str) -> HTTPException:
    return HTTPException(404, f"{kind} {name}: there is none")


def _shown(item: Item, told: list[str] | None = None) -> models.DialplanItem:
    return models.DialplanItem(
        kind=item.kind,
        name=item.name,
        body=msgspec.json.decode(shown(item.kind, item.body)),
        created_at=at(item.created_at_utc),
        changed_at=at(item.changed_at_utc),
        warnings=told or [],
    )


def _time(text: str, now: float) -> float:
    if not text:
        return now
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise HTTPException(422, "query.time: is not written like 2026-12-24T18:00:00+01:00") from None
