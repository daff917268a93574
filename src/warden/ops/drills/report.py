"""What a drill says in the end. Nothing here runs anything."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from msgspec import Struct

from warden.ops.checker import Gap
from warden.ops.drills.lateness import Late

LATE_MS_MAX: Final = 10.0
"""Phones that are later than half a packet, at the 99th percentile, cannot tell a gap from their own lateness."""
LATE_ONCE_MS_MAX: Final = 20.0
"""Nor can those that were once late by a packet tell the longest one."""
SET_UP_S_MAX: Final = 2.0
"""An INVITE is said again after 0.5 and 1.5 s (T1), and a phone of the drills answers after 0.1 s: who waits longer has
lost more than what moving a seat may cost.
"""
SILENT: Final = "silent"


class Verdict(StrEnum):
    """Whether a promise was kept."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Check(Struct, frozen=True):
    """One figure: what was promised, what was measured, and what that means."""

    what: str
    promised: str
    measured: str
    verdict: Verdict


class Moment(Struct, frozen=True):
    """A sentence of the story: seconds since the drill began, who said it, and whether it is a bad one."""

    at_s: float
    who: str
    what: str
    bad: bool


class Alert(Struct, frozen=True):
    """What Prometheus had of an alert during the drill: `state` is firing or pending, or silent where it has noticed
    nothing. `expected`: the fault should be noticed by it. `was_there`: it was so before the drill, and shows nothing.
    """

    name: str
    state: str
    expected: bool = False
    was_there: bool = False

    def __str__(self) -> str:
        expected = (", though it should not be" if self.state == SILENT else ", as it should") if self.expected else ""
        return f"{self.name}: {self.state}{expected}{', and was so before' if self.was_there else ''}"


class Report(Struct, frozen=True):
    """A drill's accounts. `notes` say in words what happened and what was not as it should be, `story` what everybody
    said and when, `gaps_ms` the longest silence of each direction of each call that was listened to, `alerts` what the
    cluster's own Prometheus noticed: no verdict depends on it, for it looks every 15 s, and many a drill is shorter.
    `run` tells when it ended and with which version, as "2026-11-30 00:10 UTC, Warden 0.3.0".
    """

    drill: str
    promise: str
    setting: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...]
    seconds: float
    story: tuple[Moment, ...] = ()
    gaps_ms: tuple[float, ...] = ()
    alerts: tuple[Alert, ...] = ()
    run: str = ""

    @property
    def verdict(self) -> Verdict:
        """The worst of the checks; a drill without any has shown nothing."""
        found = {check.verdict for check in self.checks}
        if Verdict.FAILED in found:
            return Verdict.FAILED
        return Verdict.OK if found == {Verdict.OK} else Verdict.UNKNOWN


def exactly(what: str, measured: int, promised: int) -> Check:
    """A count that must be so."""
    return Check(what, f"{promised:,}", f"{measured:,}", Verdict.OK if measured == promised else Verdict.FAILED)


def silence(gap: Gap | None, late: Late, *, p99_ms: float | None = None, max_ms: float | None = None) -> Check:
    """A gap in the audio. It is void where the phones themselves were late, or where no call was measured."""
    limit, which = (p99_ms, "p99") if p99_ms is not None else (max_ms or 0.0, "max")
    promised = f"{which} at most {limit:,.0f} ms"
    if gap is None:
        return Check("audio gap", promised, "no call was measured", Verdict.UNKNOWN)
    measured = f"p50 {gap.p50:,.0f}, p99 {gap.p99:,.0f}, max {gap.max:,.0f} ms"
    if late.p99_ms > LATE_MS_MAX:
        return Check("audio gap", promised, f"{measured}, but the phones were late: {late}", Verdict.UNKNOWN)
    value = gap.p99 if p99_ms is not None else gap.max
    if p99_ms is None and value > limit and late.max_ms > LATE_ONCE_MS_MAX:
        return Check("audio gap", promised, f"{measured}, but the phones were late: {late}", Verdict.UNKNOWN)
    return Check("audio gap", promised, measured, Verdict.OK if value <= limit else Verdict.FAILED)


def alerts_of(before: Mapping[str, str], found: Mapping[str, str], expected: Sequence[str]) -> tuple[Alert, ...]:
    """Those that were found and those that should have been, by name; `before` and `found` have names and states."""
    return tuple(
        Alert(name, found.get(name, SILENT), name in expected, before.get(name) == found.get(name, SILENT))
        for name in sorted({*found, *expected})
    )


def longest_set_up(setup_s: Sequence[float], failed: int) -> Check:
    """Whether nobody who called waited longer than where an INVITE is lost twice; `setup_s` from INVITE to 200. Those
    that `failed` count by themselves.
    """
    promised = f"at most {SET_UP_S_MAX:g} s"
    if not setup_s:
        return Check("longest set-up", promised, "no call was", Verdict.UNKNOWN if not failed else Verdict.FAILED)
    verdict = Verdict.OK if max(setup_s) <= SET_UP_S_MAX else Verdict.FAILED
    return Check("longest set-up", promised, f"{max(setup_s):.2f} s", verdict)


def taken(host: str, homes: Sequence[str], holders: Mapping[str, str]) -> Check:
    """Whether each of the seats that a host held when it was struck (`homes`) has another holder before it is mended:
    what a host takes up again by itself has not failed over.
    """
    left = [seat for seat in homes if holders.get(seat, "") in ("", host)]
    what, promised = f"seats of {host} that another node took", f"{len(homes)}"
    if not homes:
        return Check(what, "all", f"{host} held none", Verdict.UNKNOWN)
    return Check(what, promised, f"{len(homes) - len(left)}", Verdict.FAILED if left else Verdict.OK)


def at_pace(offered: int, planned: int) -> Check:
    """Whether the phones made as many calls as the drill asks for: a promise about fewer is none."""
    ok = offered >= planned * 0.95
    return Check("calls offered", f"about {planned:,}", f"{offered:,}", Verdict.OK if ok else Verdict.UNKNOWN)


def shortened(notes: Sequence[str], longest: int = 20) -> tuple[str, ...]:
    """As many as somebody reads."""
    kept = tuple(dict.fromkeys(notes))
    return kept if len(kept) <= longest else (*kept[:longest], f"... and {len(kept) - longest} more")
