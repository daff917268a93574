"""`warden demo`: a cluster on this machine, and what its calls live through."""

import asyncio
import signal
import sys
import time
from contextlib import suppress
from typing import Annotated, Final

import msgspec
from cyclopts import Parameter, validators
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from warden.ops import demo as ops

FRAMES_PER_S: Final = 4
SENTENCES: Final = 14
RINGING_MAX: Final = 60

Calls = Annotated[
    int, Parameter(help="Calls that talk.", validator=validators.Number(gte=3, lte=ops.CALLS_MAX - RINGING_MAX))
]
Ringing = Annotated[int, Parameter(help="Calls that ring.", validator=validators.Number(gte=0, lte=RINGING_MAX))]


async def demo(
    *,
    calls: Calls = 30,
    ringing: Ringing = 6,
    as_json: Annotated[bool, Parameter("--json", negative="", help="Print the accounts as an object.")] = False,
) -> int:
    """Run three nodes here, kill one under its calls, stop the next, take Redis away, kill the last, and count.

    Needs no root and no network; takes about a minute. Without redis-server (on Debian: apt-get install redis-server) a
    file keeps the calls, and there is no Redis to lose. The exit code is 1 where a promise was broken.
    """
    console = Console(stderr=as_json, highlight=False)
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in a task"
    terminated = asyncio.Event()

    def terminate() -> None:
        terminated.set()
        task.cancel()

    # A terminated demonstration clears up as an interrupted one does.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    try:
        report = await _run(console, calls, ringing)
    except asyncio.CancelledError:
        if not terminated.is_set():
            raise
        return 1
    if as_json:
        answer = {"ok": report.ok, "events": report.events}
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    show(report, console)
    return 0 if report.ok else 1


async def _run(console: Console, calls: int, ringing: int) -> ops.Report:
    scene = ops.Scene()
    if not console.is_terminal:
        scene.on_said = lambda said: console.print(_sentence(scene, said))
        return await ops.run(scene, calls=calls, ringing=ringing)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        drawing = asyncio.create_task(_draw(scene, live))
        try:
            return await ops.run(scene, calls=calls, ringing=ringing)
        finally:
            drawing.cancel()
            with suppress(asyncio.CancelledError):
                await drawing


def show(report: ops.Report, console: Console) -> None:
    """Print the accounts for people."""
    console.print(accounts(report))
    for problem in report.problems:
        console.print(f"[yellow]noted:[/] {escape(problem)}")
    for promise in report.broken:
        console.print(f"[red]promise broken:[/] {escape(promise)}")
    verdict = "[green]every promise was kept[/]" if report.ok else "[red]not every promise was kept[/]"
    console.print(f"{verdict} ({report.seconds:.0f} s)")


def accounts(report: ops.Report) -> Table:
    """What each event cost."""
    table = Table("event", title="warden demo", title_style="bold")
    for column in (
        "calls\nkept / dropped",
        "ringing\nkept / dropped",
        "audio gap, ms\np50 / p99 / max",
        "phones\nlost",
        "CDRs\nwrong",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for event in report.events:
        gap = event.gap_ms
        table.add_row(
            event.name,
            f"[green]{event.calls_kept}[/] / {_bad(event.calls_dropped)}",
            f"[green]{event.ringing_kept}[/] / {_bad(event.ringing_dropped)}",
            "-" if gap is None else f"{gap.p50:.0f} / {gap.p99:.0f} / {gap.max:.0f}",
            _bad(event.registrations_lost),
            _bad(event.cdrs_wrong),
        )
    return table


def _bad(count: int) -> str:
    return f"[red]{count}[/]" if count else "0"


async def _draw(scene: ops.Scene, live: Live) -> None:
    while True:
        live.update(_picture(scene), refresh=True)
        await asyncio.sleep(1 / FRAMES_PER_S)


def _picture(scene: ops.Scene) -> Group:
    nodes = Table("node", "signalling", "media", "seats")
    seats = Table("seat", "address", "held by", "calls", "ringing")
    cluster, checker = scene.cluster, scene.checker
    if cluster is not None:
        holders = cluster.holders
        for name, node in cluster.nodes.items():
            pids = [f"pid {pid}" if pid is not None else "[red]gone[/]" for pid in (node.pid, node.media_pid)]
            held = [seat for seat, holder in holders.items() if holder == name] if node.pid is not None else []
            nodes.add_row(name, *pids, " ".join(sorted(held)))
        for i, (seat, address) in enumerate(cluster.seats.items()):
            alive = 0 if checker is None else sum(talk.seat == i for talk in checker.alive)
            rings = 0 if checker is None else sum(talk.seat == i for talk in checker.ringing)
            holder = holders.get(seat, "")
            up = holder in cluster.nodes and cluster.nodes[holder].pid is not None
            seats.add_row(seat, str(address), holder if up else "[red]nobody[/]", str(alive), str(rings))
        redis = "none" if cluster.redis is None else "[green]runs[/]" if cluster.redis.runs else "[red]gone[/]"
    else:
        redis = "not yet"
    side = Table.grid(padding=(0, 2))
    side.add_row(nodes, seats)
    figures = f"{scene.packets_per_s:,.0f} packets/s heard   Redis {redis}   {time.time() - scene.began_at:.0f} s"
    told = [_sentence(scene, said) for said in list(scene.story)[-SENTENCES:]]
    return Group(Text.from_markup(f"[bold]{escape(scene.doing)}[/]"), side, Text.from_markup(figures), *told)


def _sentence(scene: ops.Scene, said: ops.Said) -> Text:
    at = f"{said.at_utc - scene.began_at:6.2f} s"
    style = "red" if said.bad else "bold" if said.who == "demo" else ""
    return Text.assemble(
        (at, "dim"), f"  {said.who:<5}", (said.text.replace("\n", " "), style), overflow="ellipsis", no_wrap=True
    )
