"""`warden drill run --target production`: a drill on the cluster that this node is in, which serves people; it asks."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import uvloop
from cyclopts import Parameter, validators
from rich.console import Console
from rich.markup import escape

from warden.cli.local import LocalNode
from warden.cli.over import OVER, SSH, OverHosts, inventory
from warden.cli.settings import Settings
from warden.config.tree import Config
from warden.core.errors import ConfigError, WardenError
from warden.node.data import prepared_database
from warden.ops.drills.live import LIVE, ON_HOST, OnHost, handover, on_host
from warden.ops.drills.report import Report, Verdict
from warden.ops.drills.stage import Drill, Say, Size
from warden.ops.live import route, unfit
from warden.ops.live_hosts import Target, at, calls_at, place_of, refusals, runs_everywhere
from warden.store.durable import SqlDurable
from warden.web.models import Cluster, Seat, Seats

CALLS_MAX: Final = 100_000
Work = Callable[[SqlDurable], Awaitable[Report]]


@dataclass(frozen=True)
class Production:
    """What is said of a drill on a cluster that serves people."""

    seat: Annotated[
        str | None, Parameter(help="In production, the seat of the phones, which `handover` moves; by default the "
                                   "host's, or that of this node.")
    ] = None  # fmt: skip
    yes: Annotated[str | None, Parameter(help="In production, the cluster's name, so that nobody is asked.")] = None
    despite_warnings: Annotated[
        bool, Parameter(negative="", help="In production, also where a node warns of something in `warden status`.")
    ] = False
    cluster: Annotated[
        Path | None, Parameter(help="In production, the cluster file: where the host is, and what it has.")
    ] = None
    host: Annotated[str | None, Parameter(help="In production, the host that is struck.")] = None
    calls_at_risk: Annotated[
        int, Parameter(help="In production, how many calls of people the host may carry.",
                       validator=validators.Number(gte=0, lte=CALLS_MAX))
    ] = 0  # fmt: skip
    over: Annotated[str, Parameter(help=f"In production: {OVER[0].lower()}{OVER[1:]}")] = SSH


def run_live(
    names: Sequence[str],
    size_of: Callable[[Drill], Size],
    settings: Settings,
    console: Console,
    say: Say,
    given: Production,
) -> Iterator[Report]:
    """Run the drills that a cluster in use bears, until one has failed. Raises `ConfigError` for another one, and
    `WardenError` where the cluster is not well as it is, or nobody agrees.
    """
    if wrong := [name for name in names if name not in LIVE]:
        allowed = f"a cluster that serves people bears only {', '.join(LIVE)}; the others make a cluster of their own"
        raise ConfigError(tuple(f"drill {name}: {allowed}" for name in wrong))
    if missing := [name for name in names if name in ON_HOST and (given.host is None or given.cluster is None)]:
        raise ConfigError(tuple(f"drill {name}: --host names the host, and --cluster its file" for name in missing))
    config = settings.load()
    node = LocalNode(config)
    for name in names:
        # Before each of them: the one before may have shown something.
        cluster, seats = node.get("cluster", Cluster), node.get("seats", Seats)
        if whys := unfit(cluster, seats, despite_warnings=given.despite_warnings):
            raise WardenError(f"drill: cluster {cluster.name} is not well, and is left alone: {'; '.join(whys)}")
        size = size_of(LIVE[name])
        target: Target | None = None
        if name in ON_HOST:
            one = ON_HOST[name]
            target = _target(one, cluster, seats, settings, given)
            seat = _phones_at(target, cluster, seats, given.seat)
            what = _strike(one, target, cluster)
            work: Work = partial(on_host, one, size, say, config, node, cluster, target, seat)
        else:
            seat, to = route(cluster, seats, given.seat)
            what = f"Seat {seat.name}, with its {seat.calls} calls, goes from {seat.holder} to {to} and back"
            work = partial(handover, size, say, config, node, cluster, seat, to)
        _ask(cluster, what, size, console, given.yes)
        if target is not None:
            # Who thinks it over finds other calls there than were told.
            _refuse(node.get("cluster", Cluster), node.get("seats", Seats), target.host, given)
        report = uvloop.run(carry_out(work, config, say))
        yield report
        if report.verdict is Verdict.FAILED and name != names[-1]:
            raise WardenError(f"drill: {name} has failed; nothing more is done to this cluster")


def _target(one: OnHost, cluster: Cluster, seats: Seats, settings: Settings, given: Production) -> Target:
    """The host, where it may be struck. Raises `WardenError`, `ConfigError`."""
    assert given.host is not None, "run_live has looked"
    assert given.cluster is not None, "run_live has looked"
    machines = inventory(given.cluster, settings)
    place = place_of(machines, cluster, seats, given.host, one.act)
    _refuse(cluster, seats, given.host, given)
    hosts = OverHosts(machines, given.over)
    asyncio.run(runs_everywhere(hosts, place, one.act))
    return Target(hosts, place, given.host, at(seats, given.host), given.despite_warnings)


def _refuse(cluster: Cluster, seats: Seats, host: str, given: Production) -> None:
    if whys := refusals(cluster, seats, host, given.calls_at_risk):
        raise WardenError(f"drill: {host} is left alone: {'; '.join(whys)}")


def _phones_at(target: Target, cluster: Cluster, seats: Seats, name: str | None) -> Seat:
    """Where the phones are: at a seat of the host, if it has one. Raises `WardenError`."""
    if name is None and target.homes:
        return target.homes[0]
    seat, _ = route(cluster, seats, name)
    if target.homes and seat.name not in {home.name for home in target.homes}:
        named = ", ".join(home.name for home in target.homes)
        raise WardenError(f"drill: {target.host} does not hold seat {seat.name}, but {named}, where the phones must be")
    return seat


def _strike(one: OnHost, target: Target, cluster: Cluster) -> str:
    act = one.act
    carried = ", ".join(f"seat {home.name}" for home in target.homes) or "no seat"
    mend = " && ".join(" ".join(words) for words in act.mend)
    return (
        f"Host {target.host}, which has {carried} and carries {calls_at(cluster, target.host)} calls: {act.does}, by "
        f"`{' '.join(act.strike)}` there; {act.lasts_s:g} s later `{mend}`, and its seats are brought back to it"
    )


async def carry_out(work: Work, config: Config, say: Say) -> Report:
    """Do it; a signal, also that of a terminal that closes, stops and undoes it. Raises what `work` raises."""
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in a task"
    stopping = False

    def stop() -> None:
        nonlocal stopping
        what = "is being undone; wait for it" if stopping else "is stopped, and undone"
        if not stopping:
            stopping = True
            task.cancel()
        # A terminal that has closed is told nothing; of a pipe, the console would end the program.
        with suppress(OSError, SystemExit):
            say("drill", what, True)

    # Whoever asks twice does not want the host left as it is.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # What `nohup` has started outlives its terminal.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, stop)
    async with prepared_database(config) as durable:
        return await work(durable)


def _ask(cluster: Cluster, what: str, size: Size, console: Console, yes: str | None) -> None:
    """Raises `WardenError` where the cluster's name is not said."""
    phones = f"test phones make {size.calls} calls that stand and {size.rate_per_s:g} a second that come and go."
    console.print(escape(f"Cluster {cluster.name}. {what}, while {phones}"), soft_wrap=True)
    if yes is None:
        if not sys.stdin.isatty():
            raise WardenError(
                f"drill: nobody is here to agree; `--yes {cluster.name}` agrees, which is the cluster's name"
            )
        yes = console.input("Type the cluster's name to go on: ").strip()
    if yes != cluster.name:
        raise WardenError(f"drill: {yes!r} is not the name of this cluster; nothing was done")
