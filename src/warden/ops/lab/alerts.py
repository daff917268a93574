"""What the Prometheus of a lab has noticed."""

import time
from datetime import datetime
from typing import Final, Literal

import msgspec
from msgspec import Struct

from warden.core.errors import WardenError
from warden.ops.lab.lab import Lab

LOOK_S: Final = 15.0
"""Prometheus measures, and asks its rules, so often."""
LOOKED_S: Final = 60.0
LOUDER: Final = ("firing", "pending")


class _Labels(Struct):
    alertname: str
    alertstate: Literal["firing", "pending"]


class _Series(Struct):
    metric: _Labels


class _Found(Struct):
    result: list[_Series]


class _Answer(Struct):
    data: _Found


class _Group(Struct, rename={"last_evaluation": "lastEvaluation"}):
    last_evaluation: datetime


class _Groups(Struct):
    groups: list[_Group]


class _Rules(Struct):
    data: _Groups


async def looked(lab: Lab) -> None:
    """Wait until all rules have been asked of what was measured from now on: twice as long as Prometheus takes for a
    look. Raises `WardenError` where no Prometheus answers.
    """
    now = time.time()

    async def ask() -> None:
        if oldest_look(await _ask(lab, "rules")) < now + LOOK_S:
            raise WardenError("not yet")

    await lab.until(ask, "Prometheus has looked", LOOKED_S)


async def alerts(lab: Lab, since_s: float) -> dict[str, str]:
    """Every alert that was pending or firing at some time in the last seconds, with the worse of both. Raises
    `WardenError` where no Prometheus answers.
    """
    # What is over already counts as well: the list of alerts would have only what lasts.
    return worst_of(await _ask(lab, "query", f"query=last_over_time(ALERTS[{max(1, round(since_s))}s])"))


async def _ask(lab: Lab, what: str, *data: str) -> str:
    hosts = lab.region.hosts_with("monitor")
    if not hosts:
        raise WardenError("alerts: no host has the role monitor")
    words = ["curl", "--silent", "--show-error", "--fail", "--max-time", "5", "--get"]
    words += [word for one in data for word in ("--data-urlencode", one)]
    return await lab.hosts[hosts[0].name].run(*words, f"http://127.0.0.1:9090/api/v1/{what}")


def oldest_look(answer: str) -> float:
    """When the group of rules was asked that has waited longest, in what Prometheus says of its rules; UTC seconds.
    Raises `WardenError` where that is no answer.
    """
    try:
        groups = msgspec.json.decode(answer, type=_Rules).data.groups
    except msgspec.MsgspecError as error:
        raise WardenError(f"alerts: Prometheus says what is no answer: {answer[:100]!r}") from error
    return min((group.last_evaluation.timestamp() for group in groups), default=0.0)


def worst_of(answer: str) -> dict[str, str]:
    """The state of each alert in what Prometheus says of a query. Raises `WardenError` where that is no answer."""
    try:
        found = msgspec.json.decode(answer, type=_Answer)
    except msgspec.MsgspecError as error:
        raise WardenError(f"alerts: Prometheus says what is no answer: {answer[:100]!r}") from error
    worst: dict[str, str] = {}
    for labels in (series.metric for series in found.data.result):
        worst[labels.alertname] = min(worst.get(labels.alertname, LOUDER[-1]), labels.alertstate, key=LOUDER.index)
    return worst
