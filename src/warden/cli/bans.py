"""`warden bans`: the addresses that are shut out of the cluster. Any node can list them; a node that holds a seat makes
and lifts them.
"""

import sys
from collections.abc import Callable
from typing import Annotated, TypeVar
from urllib.parse import quote

from cyclopts import App, Parameter

from warden.cli.listing import AsJson, print_list
from warden.cli.local import LocalNode, RunningNode, members
from warden.cli.settings import Given
from warden.config.tree import Config
from warden.core.errors import WardenError
from warden.switch.bans import address_of
from warden.web.models import Ban, Bans

app = App(name="bans", help="Bans: the addresses that are shut out.")

T = TypeVar("T")


@app.command(name="list")
def list_(*, as_json: AsJson = False, settings: Given) -> None:
    """List the bans that hold, the newest first."""
    found = LocalNode(settings.load()).get("bans", Bans).items
    rows = [
        {
            "address": ban.address,
            "number": ban.number,
            "why": ban.why,
            "by": ban.by,
            "made": ban.made_at.isoformat(timespec="seconds"),
            "until": ban.until.isoformat(timespec="seconds"),
            "active": "yes" if ban.active else "no: phones are registered there",
        }
        for ban in found
    ]
    print_list(rows, as_json=as_json, none="Nobody is banned.")


@app.command
def add(
    address: str,
    /,
    *,
    hours: Annotated[float, Parameter(help="How long.")] = 24.0,
    why: Annotated[str, Parameter(help="Shown in the list and the log.")] = "",
    settings: Given,
) -> None:
    """Shut out an IPv4 address, or the /64 of an IPv6 address, also where phones are registered from there."""
    body = {"address": address_of(address), "duration_s": str(hours * 3600), "why": why}
    made = _at_a_seat(settings.load(), lambda node: node.post("bans", body, Ban))
    sys.stdout.write(f"{made.address} is banned until {made.until.isoformat(timespec='seconds')}\n")


@app.command
def lift(
    address: str,
    /,
    *,
    number: Annotated[str, Parameter(help="Of a ban that is of one extension only.")] = "",
    settings: Given,
) -> None:
    """End a ban, at whichever node it was made."""
    asked = f"bans?address={quote(address_of(address), safe='')}" + (f"&number={quote(number, safe='')}" * bool(number))
    was = _at_a_seat(settings.load(), lambda node: node.delete(asked, Ban))
    sys.stdout.write(f"the ban of {was.address}{' ' * bool(was.number)}{was.number} ({was.why}) is lifted\n")


def _at_a_seat(config: Config, ask: Callable[[RunningNode], T]) -> T:
    """Have it done by the node here, or where it holds no seat by one that does."""
    local = LocalNode(config)
    cluster, nodes = members(config, local)
    for member in sorted(cluster.members, key=lambda member: member.node != cluster.node):
        if member.seats and member.node in nodes:
            return ask(nodes[member.node])
    raise WardenError("no node holds a seat that could keep a ban")
