"""`warden calls`: the calls in progress, of all nodes of the cluster."""

import sys
from collections.abc import Iterator
from typing import Annotated, Final
from urllib.parse import quote

from cyclopts import Parameter

from warden.cli.listing import AsJson, print_list
from warden.cli.local import LocalNode, RunningNode, members
from warden.cli.settings import Given
from warden.core.errors import WardenError
from warden.web.models import PAGE_MAX, Call, Calls

SHOWN_MAX: Final = 10_000
"""Calls of one node: what it carries at most."""


def calls(
    *,
    number: Annotated[str, Parameter(help="Only calls from, to or taken by this number.")] = "",
    as_json: AsJson = False,
    settings: Given,
) -> int:
    """List the calls in progress, the newest first. Exit code 1 where a node of the cluster could not be asked."""
    config = settings.load()
    found: list[tuple[str, Call]] = []
    silent: list[str] = []
    _, nodes = members(config, LocalNode(config))
    for name, node in nodes.items():
        try:
            found += [(name, call) for call in _calls_of(node, number)]
        except WardenError as error:
            silent.append(f"warden: {name} cannot be asked: {error}\n")
    found.sort(key=lambda x: x[1].started_at, reverse=True)
    rows = [
        {
            "call": call.id,
            "seat": call.seat,
            "node": name,
            "from": call.caller,
            "to": call.callee,
            "phase": call.phase.value,
            "seconds": round(call.duration_s),
            "codec": call.codec or "",
        }
        for name, call in found
    ]
    print_list(rows, as_json=as_json, none="No calls.")
    sys.stderr.write("".join(silent))
    return 1 if silent else 0


def _calls_of(node: RunningNode, number: str) -> Iterator[Call]:
    asked = f"calls?limit={PAGE_MAX}" + (f"&number={quote(number, safe='')}" if number else "")
    before = ""
    for _ in range(SHOWN_MAX // PAGE_MAX):
        page = node.get(asked + before, Calls)
        yield from page.items
        if page.next is None:
            return
        before = f"&before={quote(page.next, safe='')}"
