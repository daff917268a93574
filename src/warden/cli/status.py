"""`warden status`: how the node that runs on this data folder is, and its whole cluster."""

import sys
from datetime import timedelta
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from warden.cli.local import LocalNode, members
from warden.cli.settings import Given
from warden.config.tree import Config
from warden.core.errors import WardenError
from warden.web.models import Cluster, Divergence, Seats, Status

REPAIR = "`warden status --repair` has each node write again what it has in memory"


def status(
    *,
    as_json: Annotated[bool, Parameter("--json", negative="", help="Print JSON.")] = False,
    divergence: Annotated[
        bool, Parameter(negative="", help="Compare what nodes and stores believe; exit code 1 where they differ.")
    ] = False,
    repair: Annotated[
        bool, Parameter(negative="", help="The same, and have every record that differs written again.")
    ] = False,
    settings: Given,
) -> int:
    """Say how the node on this machine is: whether it takes calls, how many it has, and what is not being stored; and
    where it is a member of a cluster, all nodes and seats, with what is wrong with them. Any node knows it of all.
    """
    config = settings.load()
    node = LocalNode(config)
    if divergence or repair:
        return _compare(config, node, as_json=as_json, repair=repair)
    found = node.get("status", Status)
    cluster, seats = node.get("cluster", Cluster), node.get("seats", Seats)
    if as_json:
        said = found.model_dump(mode="json")
        if cluster.clustered:
            said |= cluster.model_dump(mode="json", include={"coordinator_error", "members", "sentences"})
            said["all_seats"] = seats.model_dump(mode="json")["items"]
        _print(said)
        return 0
    console = Console()
    show(found, console)
    if cluster.clustered:
        show_cluster(cluster, seats, console)
    return 0


def show(found: Status, console: Console) -> None:
    """Print a status for people."""
    takes = "[green]takes new calls[/]" if found.status == "ok" else "[red]takes no new calls[/]"
    table = Table(show_header=False)
    table.add_row("node", escape(f"{found.node} of {found.cluster}, Warden {found.version}"))
    table.add_row("state", ": ".join([takes, *map(escape, ["; ".join(found.reasons)] if found.reasons else [])]))
    table.add_row(*_seat_row(found))
    table.add_row("up for", str(timedelta(seconds=round(found.uptime_s))))
    unprotected = f", {found.unprotected_calls} of them unprotected" if found.unprotected_calls else ""
    table.add_row("calls", f"{found.calls}{unprotected}")
    table.add_row("registrations", f"{found.registrations} of {found.extensions} extensions")
    for text in found.not_stored:
        table.add_row("[red]not stored[/]", escape(text))
    for text in found.warnings:
        table.add_row("[yellow]warning[/]", escape(text))
    console.print(table)


def _seat_row(found: Status) -> tuple[str, str]:
    if len(found.seats) > 1:
        return "seats", escape(", ".join(found.seats))
    return "seat", escape(f"{found.seat}, epoch {found.epoch}") if found.seats else "none"


def show_cluster(cluster: Cluster, seats: Seats, console: Console) -> None:
    """Print the nodes and seats of a cluster for people, and what the other nodes have to tell."""
    if cluster.coordinator_error:
        console.print(f"[red]coordinator is away[/], this is what was last known: {escape(cluster.coordinator_error)}")
    nodes = Table("node", "version", "new calls", "seats", "calls", "registrations", "clock", "last")
    for member in cluster.members:
        takes = f"[red]{escape('; '.join(member.refusals))}[/]" if member.refusals else "[green]yes[/]"
        unprotected = f" [red]{member.unprotected_calls} unprotected[/]" if member.unprotected_calls else ""
        nodes.add_row(
            escape(member.node) + (" [yellow]draining[/]" if member.draining else ""),
            escape(member.version),
            takes,
            escape(", ".join(member.seats)) or "none",
            f"{member.calls}{unprotected}",
            str(member.registrations),
            f"{0.0 - round(member.clock_behind_s, 1):+.1f} s",
            escape(member.sentence),
        )
    console.print(nodes)
    table = Table("seat", "address", "held by", "epoch", "calls", "successors")
    for seat in seats.items:
        holder = escape(seat.holder) if seat.holder else "[red]nobody[/]"
        named = escape(seat.name), escape(seat.address), holder
        table.add_row(*named, str(seat.epoch), str(seat.calls), escape(", ".join(seat.successors)))
    console.print(table)
    for member in cluster.members:
        if member.node != cluster.node:
            for text in member.not_stored:
                console.print(f"[red]{escape(member.node)} does not store[/]: {escape(text)}", soft_wrap=True)
            for text in member.warnings:
                console.print(f"[yellow]{escape(member.node)}[/]: {escape(text)}", soft_wrap=True)


def _compare(config: Config, local: LocalNode, *, as_json: bool, repair: bool) -> int:
    """Have every node compare what it has with what the stores have."""
    cluster, nodes = members(config, local)
    found: list[dict[str, Any]] = []
    repaired = 0
    for name, node in nodes.items():
        try:
            said = node.post("divergence/repair", None, Divergence) if repair else node.get("divergence", Divergence)
        except WardenError as error:
            found.append({"node": name, "seat": "", "kind": "node", "key": "", "what": f"cannot be asked: {error}"})
        else:
            repaired += said.repaired
            found += [{"node": name, **item.model_dump()} for item in said.items]
    if cluster.coordinator_error:
        why = f"cannot be asked: {cluster.coordinator_error}"
        found.append({"node": cluster.node, "seat": "", "kind": "coordinator", "key": "", "what": why})
    if as_json:
        _print({"diverges": bool(found), "repaired": repaired, "items": found})
        return 1 if found else 0
    console = Console(highlight=False)
    for item in found:
        where = f"seat {item['seat']} at {item['node']}" if item["seat"] else item["node"]
        console.print(f"{where}: {_named(item)}", soft_wrap=True, markup=False)
    if repaired:
        console.print(f"{repaired} records have been written again.")
    elif any(item["kind"] in ("call", "binding") for item in found):
        console.print(f"The calls and phones are not harmed while their node lives; {REPAIR}.", soft_wrap=True)
    elif not found:
        console.print(f"{', '.join(nodes)} and the stores agree.", soft_wrap=True)
    return 1 if found else 0


def _named(item: dict[str, Any]) -> str:
    kinds = {"call": "call ", "binding": "registration of "}
    return f"{kinds.get(item['kind'], '')}{item['key']} {item['what']}".strip()


def _print(said: dict[str, Any]) -> None:
    sys.stdout.write(msgspec.json.encode(said).decode() + "\n")
