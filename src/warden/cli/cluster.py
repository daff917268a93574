"""`warden drain` and `warden handover`: ask the node on this machine to move seats, and wait until they have moved."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Final, TypeVar
from urllib.parse import quote

import msgspec
from cyclopts import Parameter

from warden.cli.local import LocalNode
from warden.cli.settings import Given
from warden.core.errors import WardenError
from warden.web.models import Cluster, Seat, Seats

ASK_AGAIN_S: Final = 0.1
"""A hand-over takes some tenths of a second."""

Found = TypeVar("Found")
AsJson = Annotated[bool, Parameter("--json", negative="", help="Print JSON.")]
Timeout = Annotated[float, Parameter(help="How long to wait for it, in seconds.")]


def drain(
    *,
    cancel: Annotated[bool, Parameter(negative="", help="Have it take seats again instead.")] = False,
    as_json: AsJson = False,
    timeout: Timeout = 60.0,
    settings: Given,
) -> None:
    """Have this node hand its seats, with their calls, to other nodes, and take no more until it is started again, or
    the drain is cancelled. It is asked once and goes on by itself; this command waits and prints what it does. Exit
    code 1: after the timeout it still had a seat. What SIGTERM does is the same, and the end of the process.
    """
    if cancel:
        done = LocalNode(settings.load()).delete("drain", Cluster)
        _say(
            msgspec.json.encode({"node": done.node, "drained": False}).decode()
            if as_json
            else f"{done.node} takes seats again; those that it gave away stay until they are handed back"
        )
        return
    node = LocalNode(settings.load())
    known = {(said.at, said.text) for said in node.get("cluster", Cluster).sentences}
    asked = node.post("drain", None, Cluster)
    told: list[str] = []
    for found in _again(timeout, asked, lambda: node.get("cluster", Cluster)):
        for said in found.sentences:
            if (said.at, said.text) not in known:
                known.add((said.at, said.text))
                told.append(said.text)
                if not as_json:
                    _say(said.text)
        if found.drained:
            break
    else:
        seats = [seat for seat in node.get("seats", Seats).items if seat.held_here]
        has = ", ".join(f"{seat.name} with {seat.calls_here} calls" for seat in seats) or "work to do"
        raise WardenError(f"drain: after {timeout:g} s this node still has {has}; it goes on trying")
    if as_json:
        _say(msgspec.json.encode({"node": asked.node, "drained": True, "sentences": told}).decode())
    else:
        _say(f"{asked.node} is drained")


def handover(seat: str, node: str, /, *, as_json: AsJson = False, timeout: Timeout = 60.0, settings: Given) -> None:
    """Have the seat SEAT, with its calls, handed to the node NODE by whichever node has it, and wait until it is there.

    SEAT and NODE are names as `warden status` shows them.
    """
    local = LocalNode(settings.load())
    asked = local.post(f"seats/{quote(seat, safe='')}/handover", {"to": node}, Seat)

    def look() -> tuple[Seat, Cluster]:
        seats = {found.name: found for found in local.get("seats", Seats).items}
        return seats[seat], local.get("cluster", Cluster)

    for now, cluster in _again(timeout, look(), look):
        # The new holder counts once it has taken up the calls, which is when it tells the others so.
        if now.holder == node and any(seat in member.seats for member in cluster.members if member.node == node):
            if as_json:
                _say(now.model_dump_json())
            else:
                _say(f"seat {seat} went from {asked.holder} to {node}, epoch {now.epoch}")
            return
    raise WardenError(f"handover: after {timeout:g} s seat {seat} is not at {node}, but at {now.holder or 'no node'}")


def _again(timeout_s: float, first: Found, ask: Callable[[], Found]) -> Iterator[Found]:
    """What was found first, and what is found from then on, until the time is over."""
    until = time.monotonic() + timeout_s
    found = first
    while True:
        yield found
        if time.monotonic() >= until:
            return
        time.sleep(ASK_AGAIN_S)
        found = ask()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
