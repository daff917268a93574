"""`warden drill run --target production`: a drill on the cluster that this node is in, which serves people; it asks."""

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator, Sequence

import uvloop
from rich.console import Console
from rich.markup import escape

from warden.cli.local import LocalNode
from warden.config.tree import Config
from warden.core.errors import ConfigError, WardenError
from warden.node.data import prepared_database
from warden.ops.drills.live import LIVE, handover
from warden.ops.drills.report import Report
from warden.ops.drills.stage import Drill, Say, Size
from warden.ops.live import route, unfit
from warden.web.models import Cluster, Seat, Seats


def run_live(
    names: Sequence[str],
    size_of: Callable[[Drill], Size],
    config: Config,
    console: Console,
    say: Say,
    *,
    seat: str | None,
    yes: str | None,
    despite_warnings: bool,
) -> Iterator[Report]:
    """Run the drills that a cluster in use bears. Raises `ConfigError` for another one, and `WardenError` where the
    cluster is not well as it is, or nobody agrees.
    """
    if wrong := [name for name in names if name not in LIVE]:
        allowed = f"a cluster that serves people bears only {', '.join(LIVE)}; the others make a cluster of their own"
        raise ConfigError(tuple(f"drill {name}: {allowed}" for name in wrong))
    node = LocalNode(config)
    for name in names or tuple(LIVE):
        # Before each of them: the one before may have shown something.
        cluster, seats = node.get("cluster", Cluster), node.get("seats", Seats)
        if whys := unfit(cluster, seats, despite_warnings=despite_warnings):
            raise WardenError(f"drill: cluster {cluster.name} is not well, and is left alone: {'; '.join(whys)}")
        moved, to = route(cluster, seats, seat)
        size = size_of(LIVE[name])
        _ask(cluster, moved, to, size, console, yes)
        yield uvloop.run(_carry_out(size, say, config, node, cluster, moved, to))


async def _carry_out(
    size: Size, say: Say, config: Config, node: LocalNode, cluster: Cluster, seat: Seat, to: str
) -> Report:
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in a task"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with prepared_database(config) as durable:
        return await handover(size, say, config, durable, node, cluster, seat, to)


def _ask(cluster: Cluster, seat: Seat, to: str, size: Size, console: Console, yes: str | None) -> None:
    """Raises `WardenError` where the cluster's name is not said."""
    what = (
        f"Seat {seat.name} of cluster {cluster.name}, with its {seat.calls} calls, goes from {seat.holder} to {to} and "
        f"back, while test phones make {size.calls} calls that stand and {size.rate_per_s:g} a second that come and go."
    )
    console.print(escape(what), soft_wrap=True)
    if yes is None:
        if not sys.stdin.isatty():
            raise WardenError(
                f"drill: nobody is here to agree; `--yes {cluster.name}` agrees, which is the cluster's name"
            )
        yes = console.input("Type the cluster's name to go on: ").strip()
    if yes != cluster.name:
        raise WardenError(f"drill: {yes!r} is not the name of this cluster; nothing was done")
