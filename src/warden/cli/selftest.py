"""`warden selftest`: two test phones call each other through the running node."""

import sys
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from warden.call.cdr import Cdr
from warden.cli.settings import Given
from warden.node.data import prepared_database
from warden.ops import selftest as test


async def selftest(
    *,
    as_json: Annotated[bool, Parameter("--json", negative="", help="Print the report as an object.")] = False,
    settings: Given,
) -> int:
    """Let two test phones call each other through the running node, and say what works and what does not."""
    config = settings.load()
    console = Console(stderr=as_json, highlight=False)
    async with prepared_database(config) as durable:
        with console.status("starting") as status:
            report = await test.run(config, durable, progress=lambda text: status.update(f"{text} ..."))
    if as_json:
        sys.stdout.write(msgspec.json.encode({"ok": report.ok, **msgspec.structs.asdict(report)}).decode() + "\n")
    else:
        show(report, console)
    return 0 if report.ok else 1


def show(report: test.Report, console: Console) -> None:
    """Print the report for people."""
    if report.registered_ms is not None:
        console.print(f"registered at {report.server} in {report.registered_ms:.0f} ms")
    if report.answered_ms is not None:
        ringing = "not told" if report.ringing_ms is None else f"{report.ringing_ms:.0f} ms"
        console.print(f"call set up: ringing after {ringing}, answered after {report.answered_ms:.0f} ms")
    if report.hearing:
        table = Table("", "tone", "heard", "packets", "lost", "longest gap", "jitter")
        for way, one in zip(("caller to callee", "callee to caller"), report.hearing, strict=True):
            heard = "[green]yes[/]" if one.heard else "[red]no[/]"
            counts = (f"{one.received} of {one.sent}", str(one.lost))
            table.add_row(way, f"{one.tone_hz} Hz", heard, *counts, f"{one.gap_ms_max} ms", f"{one.jitter_ms} ms")
        console.print(table)
    if report.cdr is not None:
        console.print(f"call detail record: {_line(report.cdr)}")
    for problem in report.problems:
        console.print(f"[red]wrong:[/] {escape(problem)}")
    for hint in report.hints:
        console.print(f"  look at: {escape(hint)}")
    console.print("[green]the node works[/]" if report.ok else "[red]the node does not work[/]")


def _line(cdr: Cdr) -> str:
    return (
        f"{cdr.caller} to {cdr.callee}, {cdr.result}, talked {cdr.talk_s:.1f} s, ended by {cdr.ended_by} "
        f"({cdr.status}), id {cdr.id}"
    )
