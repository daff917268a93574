"""Draws the clusters of the deployment guide: `python docs/diagrams/ha.py` writes the SVGs beside it, and with
`rsvg-convert` (Debian: librsvg2-bin) the PNG of the whole.
"""

import shutil
import subprocess
from collections.abc import Sequence
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
WIDE, HIGH, ROW = 210, 190, 22
INK, SOFT, FILL, SEAT = "#223", "#778", "#f4f6fa", "#dbe9ff"
HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}" '
    'font-family="sans-serif" font-size="14"><rect width="{0}" height="{1}" fill="white"/>'
)


def text(
    x: float, y: float, words: str, *, size: int = 14, colour: str = INK, anchor: str = "middle", bold: bool = False
) -> str:
    """Words at a place."""
    look = f'font-size="{size}" fill="{colour}" text-anchor="{anchor}"' + (' font-weight="bold"' if bold else "")
    return f'<text x="{x}" y="{y}" {look}>{escape(words)}</text>'


def box(x: float, y: float, wide: float, high: float, fill: str = FILL) -> str:
    """A box with round corners."""
    return f'<rect x="{x}" y="{y}" width="{wide}" height="{high}" rx="8" fill="{fill}" stroke="{SOFT}"/>'


def line(x: float, y: float, x2: float, y2: float, *, dashed: bool = False) -> str:
    """A line between two places."""
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<line x1="{x}" y1="{y}" x2="{x2}" y2="{y2}" stroke="{SOFT}" stroke-width="1.5"{dash}/>'


def cluster(title: str, hosts: Sequence[tuple[str, str, Sequence[str]]], notes: Sequence[str]) -> tuple[str, int, int]:
    """The picture of one option: hosts with their seat ("" for none) and what runs on them."""
    gap = 40
    wide = len(hosts) * WIDE + (len(hosts) - 1) * gap + 80
    high = 150 + HIGH + 40 + ROW * len(notes) + 20
    parts = [text(wide / 2, 30, title, size=18, bold=True)]
    parts += [box(wide / 2 - 160, 48, 320, 34, "white"), text(wide / 2, 70, "phones: SIP and audio, found by DNS")]
    for i, (name, seat, runs) in enumerate(hosts):
        x, y = 40 + i * (WIDE + gap), 150
        if seat:
            parts += [
                line(wide / 2, 82, x + WIDE / 2, 108),
                box(x + 5, 108, WIDE - 10, 30, SEAT),
                text(x + WIDE / 2, 128, seat),
            ]
        parts += [box(x, y, WIDE, HIGH), text(x + WIDE / 2, y + 24, name, bold=True)]
        parts += [text(x + WIDE / 2, y + 48 + j * ROW, what, size=13) for j, what in enumerate(runs)]
        if i:
            parts.append(line(x - gap, y + HIGH / 2, x, y + HIGH / 2, dashed=True))
    parts += [
        text(40, 150 + HIGH + 36 + i * ROW, note, size=13, colour=SOFT, anchor="start") for i, note in enumerate(notes)
    ]
    return "".join(parts), wide, high


BESIDE = "Dashed: votes, replication, and what the nodes tell each other."
FIRST = ("Warden, warden-media", "keepalived, HAProxy")
LAST = ("etcd", "nftables, chrony")
PASSIVE = cluster(
    "active-passive: one seat, two hosts and a witness",
    (
        ("pbx1", "seat main 192.168.1.100", (*FIRST, "PostgreSQL (Patroni)", "Redis, Sentinel", *LAST)),
        ("pbx2", "", (*FIRST, "PostgreSQL (standby)", "Redis (replica), Sentinel", *LAST)),
        ("witness", "", ("etcd", "Sentinel", "Prometheus")),
    ),
    ("The seat moves to pbx2 with its calls; keepalived looks ten times a second.", BESIDE),
)
ACTIVE = cluster(
    "active-active: a seat for each host",
    tuple(
        (
            f"pbx{i}",
            f"seat{i} 192.168.1.{100 + i}",
            (*FIRST, "PostgreSQL (Patroni)", "Redis master, and a replica", *LAST),
        )
        for i in (1, 2, 3)
    ),
    (
        "Each seat has an order of successors, each another one, so that a dead host's calls spread.",
        "HAProxy's own address (.100) carries the API, and SIP over TCP for phones that know no other.",
        BESIDE,
    ),
)


def regions(title: str, sites: Sequence[tuple[str, str, Sequence[str]]], notes: Sequence[str]) -> tuple[str, int, int]:
    """The picture of two regions and a third site: name, seat, and hosts of each, with what goes from the first to the
    second.
    """
    site_wide, gap, top = 2 * WIDE + 60, 200, 150
    site_high = HIGH + 111
    wide = 2 * site_wide + gap + 80
    high = top + site_high + 40 + ROW * len(notes) + 20
    parts = [text(wide / 2, 30, title, size=18, bold=True)]
    parts += [box(wide / 2 - 160, 48, 320, 34, "white"), text(wide / 2, 70, "phones: SIP and audio, found by DNS")]
    for i, (name, seat, runs) in enumerate(sites):
        x = 40 + i * (site_wide + gap)
        middle = x + site_wide / 2
        parts += [
            line(wide / 2, 82, middle, 108, dashed=bool(i)),
            box(middle - WIDE / 2, 108, WIDE, 30, SEAT if not i else "white"),
            text(middle, 128, seat),
            box(x, top, site_wide, site_high, "white"),
            text(middle, top + 26, f"region {name}: {('primary', 'standby')[i]}", bold=True),
        ]
        for j in (1, 2):
            left = x + 20 + (j - 1) * (WIDE + 20)
            parts += [box(left, top + 45, WIDE, HIGH - 40), text(left + WIDE / 2, top + 69, f"{name}{j}", bold=True)]
            parts += [text(left + WIDE / 2, top + 92 + k * ROW, what, size=13) for k, what in enumerate(runs)]
        parts += [
            box(x + 20, top + HIGH + 25, 2 * WIDE + 20, 66),
            text(middle, top + HIGH + 49, f"{name}-witness", bold=True),
            text(middle, top + HIGH + 73, "etcd, Sentinel, Prometheus, arbiter", size=13),
            line(middle, top + HIGH + 5, middle, top + HIGH + 25, dashed=True),
        ]
    left, right = 40 + site_wide, 40 + site_wide + gap
    for i, words in enumerate(("calls, registrations", "(HTTP 9000)", "database", "(PostgreSQL 5432)")):
        parts.append(text(left + gap / 2, top + 78 + i * ROW + (i > 1) * 42, words, size=13))
    for y in (top + 108, top + 194):
        parts += [
            line(left + 8, y, right - 8, y),
            line(right - 8, y, right - 18, y - 6),
            line(right - 8, y, right - 18, y + 6),
        ]
    parts += [
        box(left + 20, top + HIGH + 25, gap - 40, 66),
        text(left + gap / 2, top + HIGH + 49, "third site", bold=True),
        text(left + gap / 2, top + HIGH + 73, "arbiter (etcd 2381)", size=13),
        line(left - 20, top + HIGH + 58, left + 20, top + HIGH + 58, dashed=True),
        line(right - 20, top + HIGH + 58, right + 20, top + HIGH + 58, dashed=True),
    ]
    parts += [
        text(40, top + site_high + 36 + i * ROW, note, size=13, colour=SOFT, anchor="start")
        for i, note in enumerate(notes)
    ]
    return "".join(parts), wide, high


GEO = regions(
    "geo: two regions, each a cluster by itself, and a third site with a vote",
    (
        ("east", "seat main 192.168.1.100", (*FIRST, "PostgreSQL (Patroni)", "Redis, Sentinel", "etcd")),
        ("west", "seat main 192.168.2.100", (*FIRST, "PostgreSQL (a copy)", "Redis, Sentinel", "etcd")),
    ),
    (
        "Each region has its own etcd, Redis, Patroni and keepalived: the loss of one host stays within its region.",
        "The primary region renews a lease at the arbiter, whose members are at three sites; when it ends, the other",
        "region takes the seats. Without a third site that is for an operator to say: `warden dr promote --lost`.",
        "Dashed: votes, and what phones are told second.",
    ),
)


def page(*pictures: tuple[str, int, int]) -> str:
    """Pictures below each other."""
    wide = max(picture[1] for picture in pictures)
    parts, y = [], 0
    for drawn, its_width, high in pictures:
        parts.append(f'<g transform="translate({(wide - its_width) / 2} {y})">{drawn}</g>')
        y += high
    return HEAD.format(wide, y) + "".join(parts) + "</svg>\n"


def main() -> None:
    """Write them."""
    (HERE / "ha-active-passive.svg").write_text(page(PASSIVE), encoding="utf-8")
    (HERE / "ha-active-active.svg").write_text(page(ACTIVE), encoding="utf-8")
    (HERE / "ha-geo.svg").write_text(page(GEO), encoding="utf-8")
    whole = HERE / "ha-architecture.svg"
    whole.write_text(page(PASSIVE, ACTIVE, GEO), encoding="utf-8")
    if (program := shutil.which("rsvg-convert")) is not None:
        subprocess.run([program, "--output", str(HERE / "ha-architecture.png"), str(whole)], check=True)  # noqa: S603


if __name__ == "__main__":
    main()
