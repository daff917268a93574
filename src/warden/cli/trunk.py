"""`warden trunk`: the ways to carriers, and how they are doing. Changes are made in the database itself, whether the
node runs or not; how the trunks are doing the nodes of the cluster are asked.
"""

import sys
import time

import msgspec
from cyclopts import App

from warden.cli.dialplan import body_of
from warden.cli.extension import FromStdin, read_password
from warden.cli.listing import AsJson, Row, print_list
from warden.cli.local import LocalNode, members
from warden.cli.settings import Given
from warden.core.errors import WardenError
from warden.node.build import database_url, sealer_of
from warden.node.data import prepared_database
from warden.store.database import database_place
from warden.switch.dialplan import change
from warden.switch.trunks.sealed import shown
from warden.web.models import Trunk, Trunks

app = App(name="trunk", help="Trunks: the ways to carriers and other exchanges.")


@app.command
async def add(
    name: str,
    /,
    *fields: str,
    password_stdin: FromStdin = False,
    settings: Given,
) -> None:
    """Make a trunk, or put it in the place of the one of that name: `add carrier targets=sip.example.net
    username=account-1 register=true`. The password of its account is asked for, and stored sealed.
    """
    body = msgspec.json.decode(body_of("trunk", fields))
    if "username" in body and "password" not in body:
        body["password"] = read_password(password_stdin)
    config = settings.load()
    async with prepared_database(config) as durable:
        encoded = msgspec.json.encode(body).decode()
        item, told = await change.put(durable, "trunk", name, encoded, time.time(), sealer_of(config))
    sys.stdout.write(f"trunk {name}: {shown(item.kind, item.body)}\n")
    sys.stderr.write("".join(f"warden: note: {text}\n" for text in told))


@app.command
async def remove(name: str, /, *, settings: Given) -> None:
    """Remove a trunk. It is refused where numbers still go out over it. Calls in progress go on."""
    async with prepared_database(settings.load()) as durable:
        if not await change.remove(durable, "trunk", name):
            raise WardenError(f"trunk {name}: there is none")
    sys.stdout.write(f"trunk {name} removed\n")


@app.command(name="list")
async def list_(*, as_json: AsJson = False, settings: Given) -> None:
    """List the trunks."""
    config = settings.load()
    async with prepared_database(config) as durable:
        found = (await change.read_directory(durable)).plan.trunks
    rows: list[Row] = [
        {
            "trunk": x.name,
            "targets": " ".join(x.targets),
            "username": x.username,
            "registers": "yes" if x.register else "no",
            "channels_max": x.channels_max,
            "note": x.note,
        }
        for _, x in sorted(found.items())
    ]
    none = f"no trunk in {database_place(database_url(config))} yet: warden trunk add NAME targets=HOST ..."
    print_list(rows, as_json=as_json, none=none)


@app.command
def status(name: str = "", /, *, as_json: AsJson = False, settings: Given) -> int:
    """Show how the trunks are doing, at every seat of the cluster. Exit code 1 where something is wrong with one, or a
    node could not be asked.
    """
    config = settings.load()
    found: list[tuple[str, Trunk]] = []
    silent: list[str] = []
    _, nodes = members(config, LocalNode(config))
    for node, where in nodes.items():
        try:
            found += [(node, x) for x in where.get("trunks", Trunks).items if name in ("", x.name)]
        except WardenError as error:
            silent.append(f"warden: {node} cannot be asked: {error}\n")
    found.sort(key=lambda x: (x[1].name, x[1].seat))
    rows = [
        {
            "trunk": x.name,
            "seat": x.seat,
            "node": node,
            "state": "up" if x.up else "down",
            "registered": "" if x.registered is None else "yes" if x.registered else "no",
            "channels": f"{x.channels}/{x.channels_max}" if x.channels_max else str(x.channels),
            "targets": " ".join(f"{t.address}{'' if t.up is None else ' up' if t.up else ' down'}" for t in x.targets),
            "error": x.error,
        }
        for node, x in found
    ]
    print_list(rows, as_json=as_json, none=f"No trunk {name}." if name else "No trunks.")
    sys.stderr.write("".join(silent))
    return 1 if silent or any(x.error for _, x in found) or (name and not found) else 0
