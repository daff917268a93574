"""`warden dialplan`: where numbers lead. Works on the database itself, whether the node runs or not; a running node
goes by a change within a second.
"""

import sys
import time
from datetime import datetime
from typing import Annotated, Any, Final, get_origin

import msgspec
from cyclopts import App, Parameter

from warden.cli.listing import AsJson, Row, print_list
from warden.cli.settings import Given
from warden.core.errors import WardenError
from warden.node.build import database_url, sealer_of
from warden.node.data import prepared_database
from warden.store.database import database_place
from warden.switch.dialplan import change
from warden.switch.dialplan.items import KINDS
from warden.switch.explaining import explain as explain_call
from warden.switch.routing import Asked
from warden.switch.trunks.sealed import shown

app = App(name="dialplan", help="Where numbers lead: routes, classes of service, hours, groups, users.")

FromStdin = Annotated[bool, Parameter("--json-stdin", negative="", help="Read the item from stdin, as JSON.")]
_INDENT: Final = "  "


@app.command(name="list")
async def list_(kind: str = "", /, *, as_json: AsJson = False, settings: Given) -> None:
    """List the dialplan, or its items of one kind: route, class, hours, group, user, trunk, outbound or inbound."""
    if kind and kind not in KINDS:
        raise WardenError(f"{kind!r}: there is no such kind of item; there are {', '.join(KINDS)}")
    config = settings.load()
    async with prepared_database(config) as durable:
        found = [item for item in await durable.items() if kind in ("", item.kind)]
    rows: list[Row] = [{"kind": x.kind, "name": x.name, "says": shown(x.kind, x.body)} for x in found]
    none = f"nothing in {database_place(database_url(config))} yet: warden dialplan put KIND NAME FIELD=VALUE ..."
    print_list(rows, as_json=as_json, none=none)


@app.command
async def show(kind: str, name: str, /, *, settings: Given) -> None:
    """Print one item as JSON."""
    async with prepared_database(settings.load()) as durable:
        found = next((x for x in await durable.items() if (x.kind, x.name) == (kind, name)), None)
    if found is None:
        raise WardenError(f"{kind} {name}: there is none")
    sys.stdout.write(msgspec.json.format(shown(kind, found.body)) + "\n")


@app.command
async def put(
    kind: str,
    name: str,
    /,
    *fields: str,
    from_stdin: FromStdin = False,
    settings: Given,
) -> None:
    """Make an item, or put it in the place of the one of that name: `put route abroad pattern=00. to=group:sales`. A
    field that may have several values is given several times: `put group sales members=1002 members=1003`. It is
    refused where calls would go nowhere or in a circle.
    """
    body = sys.stdin.read() if from_stdin else body_of(kind, fields)
    config = settings.load()
    async with prepared_database(config) as durable:
        item, told = await change.put(durable, kind, name, body, time.time(), sealer_of(config))
    sys.stdout.write(f"{item.kind} {item.name}: {shown(kind, item.body)}\n")
    sys.stderr.write("".join(f"warden: note: {text}\n" for text in told))


@app.command
async def remove(kind: str, name: str, /, *, settings: Given) -> None:
    """Remove an item. It is refused where others lead to it."""
    async with prepared_database(settings.load()) as durable:
        if not await change.remove(durable, kind, name):
            raise WardenError(f"{kind} {name}: there is none")
    sys.stdout.write(f"{kind} {name} removed\n")


@app.command
async def check(*, as_json: AsJson = False, settings: Given) -> int:
    """Look at the dialplan as a whole. Exit code 1 where calls would go nowhere or in circles."""
    async with prepared_database(settings.load()) as durable:
        faults = change.faults_of(await change.read_directory(durable))
    rows: list[Row] = [{"fault": "grave" if x.grave else "note", "what": x.text} for x in faults]
    print_list(rows, as_json=as_json, none="The dialplan makes sense.")
    return int(any(fault.grave for fault in faults))


@app.command
async def explain(
    caller: str,
    dialled: str,
    /,
    *,
    at: Annotated[str, Parameter(help="When, like 2026-12-24T18:00 (default: now).")] = "",
    as_json: AsJson = False,
    settings: Given,
) -> None:
    """Say which way a call of CALLER to DIALLED would take, step by step, and why. Nobody is called."""
    try:
        now = datetime.fromisoformat(at).timestamp() if at else time.time()
    except (ValueError, OverflowError):
        raise WardenError(f"{at[:40]!r}: a time is written like 2026-12-24T18:00") from None
    config = settings.load()
    async with prepared_database(config) as durable:
        directory = await change.read_directory(durable)
    lines = explain_call(Asked(now, caller, dialled, by=caller), directory)
    if as_json:
        sys.stdout.write(msgspec.json.encode(lines).decode() + "\n")
        return
    sys.stdout.write("".join(f"{_INDENT * line.depth}{line.text}\n" for line in lines))


def body_of(kind: str, given: tuple[str, ...]) -> str:
    """An item as JSON from FIELD=VALUE, by the types of its fields. Raises `WardenError`."""
    if kind not in KINDS:
        raise WardenError(f"{kind!r}: there is no such kind of item; there are {', '.join(KINDS)}")
    known = {field.encode_name: field.type for field in msgspec.structs.fields(KINDS[kind])}
    body: dict[str, Any] = {}
    for word in given:
        name, is_given, value = word.partition("=")
        if name not in known or not is_given:
            raise WardenError(f"{word[:64]!r}: is written FIELD=VALUE; the fields are {', '.join(known)}")
        if _is_many(known[name]):
            body.setdefault(name, []).append(_member(value) if name == "members" else value)
        elif known[name] is str or not value:
            body[name] = value
        else:
            body[name] = _typed(known[name], word, value)
    return msgspec.json.encode(body).decode()


def _is_many(field: Any) -> bool:
    return tuple in (get_origin(field), get_origin(getattr(field, "__origin__", field)))


def _member(value: str) -> Any:
    if not value.startswith("{"):
        return {"number": value}
    try:
        return msgspec.json.decode(value)
    except msgspec.MsgspecError:
        raise WardenError(f"members={value[:64]}: is no JSON; a number will do") from None


def _typed(field: Any, word: str, value: str) -> Any:
    try:
        return msgspec.to_builtins(msgspec.convert(value, field, strict=False))
    except msgspec.ValidationError as error:
        raise WardenError(f"{word[:64]!r}: {error}") from None
