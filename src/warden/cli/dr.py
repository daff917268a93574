"""`warden dr`: two regions; which one has the seats, how well the other follows, and how that is changed."""

import sys
from typing import Annotated, Final

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from warden.cli.local import LocalNode
from warden.cli.settings import Given
from warden.core.errors import WardenError
from warden.web.models import Region

PROMOTION_S: Final = 40.0
"""The other region may take ten seconds to let go, and its last records five."""

app = App(name="dr", help="Two regions: which one has the seats, and the change from one to the other.")

AsJson = Annotated[bool, Parameter("--json", negative="", help="Print JSON.")]


@app.command
def status(*, as_json: AsJson = False, settings: Given) -> int:
    """Show both regions as the node here sees them. Exit code 1 where the standby region does not follow."""
    found = LocalNode(settings.load()).get("region", Region)
    missing = [seat.seat for seat in found.seats if not seat.followed]
    present = [node for node in found.nodes if node.present]
    ok = bool(present) and not missing and found.database != "behind" and not found.arbiter_error
    if as_json:
        sys.stdout.write(found.model_dump_json() + "\n")
        return 0 if ok else 1
    sys.stdout.write(
        f"region {found.primary} is the primary one (term {found.term}); this node is in {found.region}, "
        f"{'which has the seats' if found.is_primary else 'which follows'}\n"
    )
    if found.lease_s is not None:
        lets = f"lets this node hold seats for {found.lease_s:g} s more" if found.is_primary else "answers"
        sys.stdout.write(f"the arbiter {f'is away: {found.arbiter_error}' if found.arbiter_error else lets}\n")
    if found.database:
        sys.stdout.write(f"database of {found.region}: {found.database}\n")
    if found.database_error:
        sys.stdout.write(f"database of {found.region} is not seen to: {found.database_error}\n")
    table = Table(f"node of {found.other}", "", "seats", "database")
    for node in found.nodes:
        heard = "answers" if node.present else f"silent for {node.silent_s:.0f} s"
        table.add_row(node.node, heard, ", ".join(node.seats), node.database)
    console = Console(highlight=False)
    if found.nodes:
        console.print(table)
    else:
        sys.stdout.write(f"no node of {found.other} has been heard of\n")
    for seat in found.seats:
        state = f"followed here, {seat.age_s:.1f} s old at most" if seat.followed else f"not followed: {seat.why}"
        sys.stdout.write(f"seat {seat.seat}: {state}\n")
    for name, keeper in found.followed_by.items():
        sys.stdout.write(f"seat {name}: the copy is kept by {keeper}\n")
    return 0 if ok else 1


@app.command
def promote(
    *,
    lost: Annotated[
        bool,
        Parameter(
            negative="",
            help="The other region does not answer. You vouch that none of its nodes reaches a phone any more: "
            "two that speak for the same calls are worse than silence.",
        ),
    ] = False,
    as_json: AsJson = False,
    settings: Given,
) -> None:
    """Make the region of this node the primary one: it takes the seats and goes on with their calls, whose phones are
    told by re-INVITE. Where the other region answers, it lets go first; nothing is lost then.
    """
    node = LocalNode(settings.load(), answer_s=PROMOTION_S)
    found = node.post("region/promote", {"lost": lost}, Region)
    sys.stdout.write(
        found.model_dump_json() + "\n" if as_json else f"region {found.primary} is the primary one, term {found.term}\n"
    )


@app.command
def failback(*, as_json: AsJson = False, settings: Given) -> None:
    """Bring the seats back to the region of this node, once it has caught up: as `promote`, and refused where anything
    would be lost.
    """
    node = LocalNode(settings.load(), answer_s=PROMOTION_S)
    found = node.get("region", Region)
    if found.is_primary:
        raise WardenError(f"region {found.region} is the primary one already")
    followed = set(found.followed_by)
    held = {seat for other in found.nodes if other.present for seat in other.seats}
    missing = sorted(held - followed)
    if missing or not held:
        raise WardenError(
            f"not yet: {', '.join(missing)} is not followed here"
            if missing
            else f"no node of region {found.other} that has a seat answers"
        )
    if found.database and found.database != "standby":
        raise WardenError(f"not yet: the database of {found.region} does not follow that of {found.other}")
    promote(as_json=as_json, settings=settings)
