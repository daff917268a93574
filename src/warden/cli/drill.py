"""`warden drill`: have a cluster on this machine lose something under calls, and see whether the promises are kept."""

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import uvloop
from cyclopts import App, Parameter, validators
from msgspec.structs import replace
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from warden.cli.drill_live import Production, run_live
from warden.cli.settings import Given
from warden.core.errors import ConfigError
from warden.ops.drills.catalog import CATALOG
from warden.ops.drills.live import LIVE
from warden.ops.drills.page import html_of, markdown_of
from warden.ops.drills.report import Report, Verdict
from warden.ops.drills.stage import Drill, Say, Size
from warden.ops.ha.inventory import Option

STYLES: Final = {Verdict.OK: "green", Verdict.FAILED: "red", Verdict.UNKNOWN: "yellow"}
CALLS_MAX: Final = 1800
"""A seat's RTP ports in the lab are 8,000, and a call takes four."""
REGISTRATIONS_MAX: Final = 50_000

app = App(name="drill", help="Prove the promises, one by one, on a cluster that is made for it on this machine.")

Count = Annotated[int | None, Parameter(validator=validators.Number(gte=1, lte=CALLS_MAX))]
AsJson = Annotated[bool, Parameter("--json", negative="", help="Print JSON.")]
Target = Literal["lab", "production"]


@app.command(name="list")
def list_drills(
    *,
    target: Annotated[Target, Parameter(help="production: those that a cluster which serves people bears.")] = "lab",
    as_json: AsJson = False,
) -> None:
    """Show which drills there are, and what each of them proves."""
    drills = list(LIVE.values()) if target == "production" else [drill for drill, _ in CATALOG.values()]
    if as_json:
        sys.stdout.write(msgspec.json.encode(drills).decode() + "\n")
        return
    table = Table("drill", "promise", "what happens")
    for drill in drills:
        table.add_row(drill.name, drill.promise, drill.does)
    Console(highlight=False).print(table)


@app.command
def run(
    *names: str,
    option: Annotated[Option | None, Parameter(help="All drills of the deployment guide's option, in a lab.")] = None,
    short: Annotated[bool, Parameter(negative="", help="Each at a size that takes seconds.")] = False,
    calls: Annotated[Count, Parameter(help="Calls (beside traffic: those that stand).")] = None,
    measured: Annotated[Count, Parameter(help="Of these, how many speak in every 20 ms.")] = None,
    rate: Annotated[
        float | None, Parameter(help="New calls per second.", validator=validators.Number(gt=0, lte=100))
    ] = None,
    seconds: Annotated[
        float | None, Parameter(help="How long a store is away.", validator=validators.Number(gt=0, lte=600))
    ] = None,
    registrations: Annotated[
        int | None, Parameter(help="Phones.", validator=validators.Number(gte=1, lte=REGISTRATIONS_MAX))
    ] = None,
    save: Annotated[
        Path | None, Parameter(help="A folder for each drill's report, as JSON and as a page for a browser.")
    ] = None,
    target: Annotated[
        Target,
        Parameter(
            help="production: the cluster of the settings, which serves people; `drill list --target production`."
        ),
    ] = "lab",
    production: Annotated[Production | None, Parameter(name="*")] = None,
    as_json: AsJson = False,
    settings: Given,
) -> int:
    """Run the drills NAMES, or all that need no lab; about a minute each. With `--target production`, the named ones of
    those that the cluster which this node is in bears: it must be well, and its name is asked for.

    Needs redis-server (`stores` PostgreSQL as well), no root and no network. The exit code is 1 where a promise was
    broken, or could not be shown to be kept.
    """
    live = target == "production"
    if not live and production is not None:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in vars(Production()))
        raise ConfigError((f"drill: {flags} are for --target production",))
    if live and option:
        raise ConfigError(("drill: --option makes a lab, --target production has a cluster already",))
    chosen = names or tuple(
        name for name in CATALOG if name.startswith(f"{option}/" if option else "") and ("/" in name) == bool(option)
    )
    if not chosen:
        raise ConfigError((f"--option {option}: there is no drill of that option yet",))
    unknown = [name for name in names if name not in CATALOG]
    if live and not names:
        raise ConfigError((f"drill: with --target production, name what is to happen: {', '.join(LIVE)}",))
    if unknown and not live:
        raise ConfigError(
            tuple(f"drill {name}: there is none of that name, but {', '.join(CATALOG)}" for name in unknown)
        )
    changes = {
        "calls": calls, "measured": measured, "rate_per_s": rate, "seconds": seconds, "registrations": registrations
    }  # fmt: skip
    given = {name: value for name, value in changes.items() if value is not None}
    console = Console(stderr=as_json, highlight=False)

    def size_of(drill: Drill) -> Size:
        return replace(drill.short if short else drill.full, **given)

    if live:
        runs = run_live(names, size_of, settings, console, _teller(console), production or Production())
    else:
        runs = (uvloop.run(_run(name, size_of(CATALOG[name][0]), console)) for name in chosen)
    reports = []
    try:
        for report in runs:
            reports.append(report)
            _show(report, console)
            if save is not None:
                _save(report, save)
    except asyncio.CancelledError:
        return 1
    ok = all(report.verdict is Verdict.OK for report in reports)
    if as_json:
        drills = [{**msgspec.structs.asdict(report), "verdict": report.verdict} for report in reports]
        sys.stdout.write(msgspec.json.encode({"ok": ok, "drills": drills}).decode() + "\n")
    return 0 if ok else 1


@app.command
def page(folder: Path, /) -> None:
    """Print one page about all drills whose reports are in FOLDER: `warden drill page DIR > docs/drills.md`."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ConfigError((f"{folder}: there are no reports here; `warden drill run --save {folder}` writes them",))
    reports = [msgspec.json.decode(file.read_bytes(), type=Report) for file in files]
    sys.stdout.write(markdown_of(reports))


def _save(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = report.drill.replace("/", "-")
    (folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    (folder / f"{name}.html").write_text(html_of(report), encoding="utf-8")


async def _run(name: str, size: Size, console: Console) -> Report:
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in a task"
    # A terminated drill clears up as an interrupted one does.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    _, work = CATALOG[name]
    return await work(size, _teller(console))


def _teller(console: Console) -> Say:
    began = time.monotonic()

    def say(who: str, what: str, bad: bool) -> None:
        style = "red" if bad else "" if len(who) < 3 else "bold"
        at = f"{time.monotonic() - began:6.2f} s"
        said = Text.assemble((at, "dim"), f"  {who:<13} ", (what.replace("\n", " "), style))
        console.print(said, overflow="ellipsis", no_wrap=True)

    return say


def _show(report: Report, console: Console) -> None:
    table = Table("", "promised", "measured", "", title=f"warden drill {report.drill}", title_style="bold")
    for check in report.checks:
        style = STYLES[check.verdict]
        table.add_row(check.what, check.promised, escape(check.measured), f"[{style}]{check.verdict}[/]")
    console.print(table)
    console.print(f"{escape(report.promise)}.", style="dim")
    console.print(f"{escape(report.setting)}.", style="dim")
    for alert in report.alerts:
        console.print(f"[yellow]alert:[/] {escape(str(alert))}")
    for note in report.notes:
        console.print(f"[yellow]noted:[/] {escape(note)}")
    style = STYLES[report.verdict]
    console.print(f"{report.drill}: [{style}]{report.verdict}[/] ({report.seconds:.0f} s)\n")
