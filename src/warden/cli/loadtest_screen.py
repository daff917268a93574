"""What `warden loadtest` shows: how far it is, and the tables at the end."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from warden.ops.drills.report import LATE_MS_MAX
from warden.ops.loadtest.phones import Pair
from warden.ops.loadtest.report import Report, Tried, Voice
from warden.ops.loadtest.run import LoadTest
from warden.ops.loadtest.tally import CallResult, Outcome, RegistrationResult, Times
from warden.ops.softphone import Softphone

FRAME_S: Final = 0.25
LINE_S: Final = 5.0
"""How often a line says how far it is where no bar can be drawn."""


class Screen:
    """Where the test is watched. `verbose` tells of each call and registration."""

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        self._console = console
        self._verbose = verbose

    @asynccontextmanager
    async def watch(self, test: LoadTest) -> AsyncIterator[None]:
        """Show how far it is: a bar on a terminal, else lines."""
        drawing = asyncio.create_task(self._draw(test) if self._console.is_terminal else self._tell(test))
        try:
            yield
        finally:
            drawing.cancel()
            with suppress(asyncio.CancelledError):
                await drawing

    def called(self, pair: Pair, result: CallResult) -> None:
        """A call is over."""
        if self._verbose:
            setup = "" if result.setup_s is None else f", set up in {result.setup_s * 1000:.0f} ms"
            self._say(f"{pair.caller.number} to {pair.callee.number}: ", result.outcome, result.why, setup)

    def registered(self, phone: Softphone, result: RegistrationResult) -> None:
        """A phone has registered, or not."""
        if self._verbose:
            self._say(f"REGISTER {phone.number}: ", result.outcome, result.why, f", {result.took_s * 1000:.0f} ms")

    def _say(self, what: str, outcome: Outcome, why: str, more: str) -> None:
        style = "green" if outcome is Outcome.OK else "red"
        reason = f" ({escape(why)})" if why else ""
        self._console.print(f"{escape(what)}[{style}]{outcome}[/]{reason}{more}", soft_wrap=True)

    async def _draw(self, test: LoadTest) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"))
        with Progress(*columns, TimeElapsedColumn(), console=self._console, transient=True) as progress:
            bar = progress.add_task("", total=None, figures="")
            while True:
                done, total = _how_far(test)
                figures = _figures(test) if test.began_at is not None else ""
                progress.update(bar, description=escape(test.doing), completed=done, total=total, figures=figures)
                await asyncio.sleep(FRAME_S)

    async def _tell(self, test: LoadTest) -> None:
        doing, told_at = "", time.monotonic()
        while True:
            if test.doing != doing:
                doing = test.doing
                self._console.print(escape(doing), soft_wrap=True)
            if test.began_at is not None and time.monotonic() - told_at >= LINE_S:
                told_at = time.monotonic()
                self._console.print(f"{told_at - test.began_at:6.0f} s: {_figures(test)}", soft_wrap=True)
            await asyncio.sleep(FRAME_S)


def _how_far(test: LoadTest) -> tuple[float, float | None]:
    plan, tally = test.plan, test.tally
    if test.began_at is None:
        return tally.registrations.attempted, plan.users
    if plan.duration_s is not None:
        return min(time.monotonic() - test.began_at, plan.duration_s), plan.duration_s
    if plan.has_calls:
        return tally.calls.attempted, plan.total_calls
    return tally.registrations.attempted, plan.users


def _figures(test: LoadTest) -> str:
    counts = test.tally.calls if test.plan.has_calls else test.tally.registrations
    elapsed_s = time.monotonic() - (test.began_at or 0.0)
    rate = counts.attempted / elapsed_s if elapsed_s > 0 else 0.0
    up = f"{test.up} up, " if test.plan.has_calls else ""
    unknown = f", {counts.unknown.total()} unknown" if counts.unknown else ""
    return f"{up}{counts.ok} ok, {counts.failed.total()} failed{unknown}, {rate:.1f}/s"


def show(report: Report, console: Console) -> None:
    """Print the report for people."""
    table = Table("", "attempted", "ok", "failed", "unknown", "per second", title=f"load test of {report.server}")
    for what, tried in _tried(report):
        table.add_row(
            what, f"{tried.attempted:,}", f"{tried.ok:,}", _bad(tried.failed), _bad(tried.unknown), f"{tried.per_s:g}"
        )
    console.print(table)
    for what, tried in _tried(report):
        for style, reasons in (("red", tried.failed_by), ("yellow", tried.unknown_by)):
            for why, count in reasons.items():
                console.print(f"[{style}]{count:,} {what}:[/] {escape(why)}", soft_wrap=True)
    console.print(_times(report))
    if report.calls is not None:
        calls = report.calls
        console.print(
            f"answered: {calls.answered:,} of {calls.tried.attempted:,} ({100 * calls.answer_seizure_ratio:.1f} %);"
            f" at most {calls.peak:,} calls at a time; {report.seconds:.1f} s",
            soft_wrap=True,
        )
    if report.voice is not None:
        console.print(_audio(report.voice), soft_wrap=True)
    late = report.generator
    lateness = f"the phones themselves were late by {late.late_p99_ms:.1f} ms (p99), {late.late_max_ms:.0f} ms (max)"
    if late.late_p99_ms > LATE_MS_MAX:
        console.print(
            f"[yellow]{lateness}: this machine was too busy to tell what the server is like[/]", soft_wrap=True
        )
    else:
        console.print(f"[dim]{lateness}: times and gaps are true to that[/]", soft_wrap=True)
    for breach in report.breaches:
        console.print(f"[yellow]noted, against the rules of SIP:[/] {escape(breach)}", soft_wrap=True)
    for problem in report.problems:
        console.print(f"[red]not good enough:[/] {escape(problem)}", soft_wrap=True)
    if report.ok:
        console.print("[green]all went well[/]")


def _tried(report: Report) -> list[tuple[str, Tried]]:
    calls = [("calls", report.calls.tried)] if report.calls is not None else []
    return [*calls, ("registrations", report.registrations.tried)]


def _bad(count: int) -> str:
    return f"[red]{count:,}[/]" if count else "0"


def _times(report: Report) -> Table:
    table = Table("ms", "p50", "p90", "p95", "p99", "max", "of")
    rows: list[tuple[str, Times | None]] = []
    if report.calls is not None:
        rows += [("INVITE to ringing", report.calls.ringing_ms), ("INVITE to answer", report.calls.setup_ms)]
    rows.append(("REGISTER", report.registrations.took_ms))
    if report.voice is not None:
        rows += [("longest gap in the audio", report.voice.gap_ms), ("jitter", report.voice.jitter_ms)]
    for what, times in rows:
        if times is not None:
            figures = (times.p50, times.p90, times.p95, times.p99, times.max)
            table.add_row(what, *(f"{figure:,.1f}" for figure in figures), f"{times.count:,}")
    return table


def _audio(voice: Voice) -> str:
    score = (
        ""
        if voice.mos_worst is None
        else f"; MOS {voice.mos_median:.2f} (median), {voice.mos_worst:.2f} (worst), without the network's delay"
    )
    return (
        f"audio: {voice.packets_lost:,} of {voice.packets_sent:,} packets lost ({voice.loss_percent:g} %),"
        f" {voice.packets_lost_at_ends:,} of them first or last ones of a call; {voice.duplicates:,} doubled{score}"
    )
