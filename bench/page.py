"""Writes the table of `docs/performance.md` from `bench/out/latest.json`; the words around it stay."""

import json
import sys
from pathlib import Path
from typing import Any, Final

from results import LATEST

PAGE: Final = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN: Final = "<!-- figures: begin (make bench) -->"
END: Final = "<!-- figures: end -->"


def rows(found: dict[str, Any]) -> list[str]:
    """The table: a row for each server in each part."""
    made = ["| what | server | figure | at |", "|---|---|---|---|"]
    for part, what in (("b2bua", "calls from INVITE to BYE, 1 s of hold"), ("register", "registrations with digest")):
        if part not in found:
            continue
        for name, its in found[part]["details"].items():
            figure = f"{its['per_cpu_s']:,.0f} per processor second, {its['ms']:.2f} ms each"
            at = f"{its['rate_per_s']:,.0f}/s, {its['busy']:.0%} of a core"
            made.append(f"| {what} | {name.replace('_', ' ')} | {figure} | {at} |")
    for part in ("relay_250", "relay_1000"):
        for name, (its, *_) in found.get(part, {}).get("details", {}).items():
            delay = f"delay p50 {its['delay_us_p50']:.0f} us, p99 {its['delay_us_p99']:.0f} us"
            figure = f"{its['us_per_packet']:.2f} us per packet, {its['lost']:.0f} lost, {delay}"
            made.append(f"| relay, {part[6:]} calls | {name} | {figure} | {its['packets_per_s']:,.0f} packets/s |")
    if "growth" in found:
        for level, its in found["growth"]["details"].items():
            figure = f"{its['per_cpu_s']:,.0f} per processor second, {its['ms']:.2f} ms each"
            made.append(f"| calls while {int(level):,} others stand | warden | {figure} | {its['rate_per_s']:,.0f}/s |")
    if "memory" in found:
        its = found["memory"]["details"]
        figure = f"{found['memory']['warden']:.1f} KiB resident, {its['signalling_kib']:.1f} of them signalling"
        made.append(f"| memory of an established call with media | warden | {figure} | {its['calls']:,} calls |")
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return [*made, "", f"Measured {found['measured_at'][:10]} with {versions}."]


def main() -> int:
    """See the module."""
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text("\n".join([f"{head}{BEGIN}", "", *rows(json.loads(LATEST.read_text())), "", f"{END}{tail}"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
