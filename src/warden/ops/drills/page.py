"""Drills' reports as pages: one for a browser that needs nothing else, and a table for the documentation. Pure."""

from collections.abc import Sequence
from html import escape
from typing import Final

from warden.ops.drills.report import Report, Verdict

COLOURS: Final = {Verdict.OK: "#2a7", Verdict.FAILED: "#c33", Verdict.UNKNOWN: "#b80"}
WIDTH: Final = 720
ROW: Final = 16
BARS: Final = 24
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .2em .6em; border-bottom: 1px solid #ddd }
.at { color: #888; white-space: nowrap }
.bad { color: #c33 } .dim { color: #666 } svg { display: block; margin: .5em 0 }
h1 { font-size: 1.3em } h2 { font-size: 1.05em; margin-top: 2em }
"""


def html_of(report: Report) -> str:
    """The report as a page of its own: figures, how long each silence was, and the story with its times."""
    rows = "".join(
        f"<tr><td>{escape(check.what)}<td>{escape(check.promised)}<td>{escape(check.measured)}"
        f'<td style="color:{COLOURS[check.verdict]}">{check.verdict}'
        for check in report.checks
    )
    story = "".join(
        f"<tr{' class=bad' if moment.bad else ''}><td class=at>{moment.at_s:.2f} s<td>{escape(moment.who)}"
        f"<td>{escape(moment.what)}"
        for moment in report.story
    )
    notes = "".join(f"<li>{escape(note)}" for note in report.notes)
    alerts = "".join(f"<li>{escape(str(alert))}" for alert in report.alerts)
    return f"""<!doctype html>
<html lang=en><meta charset=utf-8><title>Drill {escape(report.drill)}</title><style>{_STYLE}</style>
<h1>{escape(report.drill)}: <span style="color:{COLOURS[report.verdict]}">{report.verdict}</span></h1>
<p>{escape(report.promise)}.<p class=dim>{escape(report.setting)}. It took {report.seconds:.0f} s. {escape(report.run)}
<table><tr><th><th>promised<th>measured<th>{rows}</table>
<h2>Silence in each direction of each call</h2>{_histogram(report.gaps_ms)}
<h2>Who spoke when</h2>{_timeline(report)}
<h2>Alerts</h2><ul>{alerts or "<li>none"}</ul>
<h2>Noted</h2><ul>{notes or "<li>nothing"}</ul>
<h2>What happened</h2><table>{story}</table>
</html>
"""


def _histogram(gaps_ms: Sequence[float]) -> str:
    if not gaps_ms:
        return "<p class=dim>No call was listened to."
    top = max(*gaps_ms, 60.0)
    counts = [0] * BARS
    for gap in gaps_ms:
        counts[min(BARS - 1, int(gap / top * BARS))] += 1
    wide, high = WIDTH / BARS, 120
    bars = "".join(
        f'<rect x="{i * wide:.1f}" y="{high - count / max(counts) * high:.1f}" width="{wide - 2:.1f}" '
        f'height="{count / max(counts) * high:.1f}" fill="#47a"><title>{count} of {i * top / BARS:.0f} to '
        f"{(i + 1) * top / BARS:.0f} ms</title></rect>"
        for i, count in enumerate(counts)
    )
    axis = (
        f'<text x="0" y="{high + 16}">0</text><text x="{WIDTH}" y="{high + 16}" text-anchor="end">{top:.0f} ms</text>'
    )
    return f'<svg width="{WIDTH}" height="{high + 20}" font-size="12">{bars}{axis}</svg>'


def _timeline(report: Report) -> str:
    """A row for each speaker, and a mark for each sentence."""
    speakers = list(dict.fromkeys(moment.who for moment in report.story))
    if not speakers:
        return "<p class=dim>Nobody said anything."
    last = max(moment.at_s for moment in report.story) or 1.0
    room = WIDTH - 160
    names = "".join(f'<text x="0" y="{i * ROW + 12}">{escape(who[:22])}</text>' for i, who in enumerate(speakers))
    marks = "".join(
        f'<circle cx="{150 + moment.at_s / last * room:.1f}" cy="{speakers.index(moment.who) * ROW + 8}" r="4" '
        f'fill="{"#c33" if moment.bad else "#47a"}"><title>{moment.at_s:.2f} s: {escape(moment.what)}</title></circle>'
        for moment in report.story
    )
    return f'<svg width="{WIDTH}" height="{len(speakers) * ROW + 4}" font-size="12">{names}{marks}</svg>'


def markdown_of(reports: Sequence[Report]) -> str:
    """All reports as one table each for the documentation, and the worst of each in front."""
    lines = [
        "# Drills: what was measured last",
        "",
        "Made by `warden drill run ... --save DIR` and `warden drill page DIR`. A drill is `unknown` where the machine",
        "was too busy to tell: phones that are late themselves cannot tell a silence from their own lateness.",
        "",
        "Alerts are those of the lab's own Prometheus, which looks every 15 s, so that a fault may be over before it",
        "is seen: no verdict depends on them. `pending` is one that would fire if the fault lasted.",
        "",
        "| drill | verdict | calls dropped | set-ups failed | audio gap | records wrong | run |",
        "|---|---|---|---|---|---|---|",
    ]
    for report in sorted(reports, key=lambda report: report.drill):
        found = {check.what: check.measured for check in report.checks}
        dropped = [
            measured for what, measured in found.items() if what.startswith(("calls dropped", "calls that ended"))
        ]
        cells = [
            report.drill, f"{report.verdict}", next(iter(dropped), ""), found.get("call set-ups failed", ""),
            found.get("audio gap", ""), found.get("CDRs wrong, missing or doubled", ""), report.run,
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    for report in sorted(reports, key=lambda report: report.drill):
        lines += ["", f"## {report.drill}", "", f"{report.promise}.", "", f"{report.setting}.", ""]
        lines += [
            f"- {check.what}: {check.measured} (promised: {check.promised}): {check.verdict}" for check in report.checks
        ]
        lines += [f"- alert: {alert}" for alert in report.alerts]
        lines += [f"- noted: {note}" for note in report.notes]
    return "\n".join(lines) + "\n"
