"""Which way a number takes and why, for people: every turn that a call may take, one sentence after the other."""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from warden.call.way import HOPS_MAX, Lead
from warden.switch.directory import Directory
from warden.switch.routing import CHANGE, Asked, route

LINES_MAX: Final = 500
"""A plan that says more is not read by anybody."""


class Line(Struct, frozen=True, gc=False):
    """A sentence; `depth` counts the forwards before it."""

    depth: int
    text: str


def explain(asked: Asked, directory: Directory) -> list[Line]:
    """What would become of a call, and of every turn that it may take when nobody answers."""
    lines: list[Line] = []
    _explain(asked, directory, 0, lines)
    return lines[:LINES_MAX]


def _explain(asked: Asked, directory: Directory, depth: int, lines: list[Line]) -> None:
    way = route(asked, directory, lambda text: lines.append(Line(depth, text)))
    if not way.steps:
        lines.append(Line(depth, f"the call is refused: {way.cause.status} {way.cause.text}"))
        return
    for step in way.steps:
        if isinstance(step, Lead) and step.to.startswith(CHANGE):
            lines.append(Line(depth, "the setting is stored, and two tones say so"))
            continue
        if isinstance(step, Lead) and depth < HOPS_MAX and len(lines) < LINES_MAX:
            when = f"{step.by}: {', '.join(step.when)}" if step.by else "when nobody has taken it"
            lines.append(Line(depth + 1, f"({when}) on to {step.to}"))
            _explain(replace(asked, to=step.to, by=step.by, visited=way.visited), directory, depth + 1, lines)
