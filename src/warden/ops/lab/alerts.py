"""What the Prometheus of a lab has noticed."""

from typing import Final, Literal

import msgspec
from msgspec import Struct

from warden.core.errors import WardenError
from warden.ops.lab.lab import Lab

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


async def alerts(lab: Lab, since_s: float) -> dict[str, str]:
    """Every alert that was pending or firing at some time in the last seconds, with the worse of both. Raises
    `WardenError` where no Prometheus answers.
    """
    # What is over already counts as well: the list of alerts would have only what lasts.
    query = f"query=last_over_time(ALERTS[{max(1, round(since_s))}s])"
    words = ("curl", "--silent", "--show-error", "--fail", "--max-time", "5", "--get", "--data-urlencode", query)
    hosts = lab.cluster.hosts_with("monitor")
    if not hosts:
        raise WardenError("alerts: no host has the role monitor")
    return worst_of(await lab.hosts[hosts[0].name].run(*words, "http://127.0.0.1:9090/api/v1/query"))


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
