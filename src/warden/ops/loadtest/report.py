"""What a load test says in the end: the figures, whether they keep within the bounds, and the file for programs. Pure.

The file is this module's `Report` as JSON. `schema` grows when a field goes or means something else; fields that come
are no new schema. Times are milliseconds unless a name says otherwise.
"""

from typing import Final

import msgspec
from msgspec import Struct

from warden.ops.checker import nearest_rank
from warden.ops.loadtest.plan import Plan
from warden.ops.loadtest.tally import Counts, Tally, Times

SCHEMA: Final = 1


class Bounds(Struct, frozen=True):
    """What the figures must keep to, None where anything will do. `max_failed` counts the calls and registrations that
    failed, or of which nobody knows.
    """

    max_failed: int = 0
    max_setup_p95_ms: float | None = None
    max_loss_percent: float | None = None
    max_gap_ms: float | None = None
    min_mos: float | None = None


class Tried(Struct, frozen=True):
    """Calls or registrations; the reasons are in words, with their numbers."""

    attempted: int
    ok: int
    failed: int
    unknown: int
    failed_by: dict[str, int]
    unknown_by: dict[str, int]
    per_s: float


class Calls(Struct, frozen=True):
    """The calls. `answer_seizure_ratio` is the share of calls that were answered."""

    tried: Tried
    answered: int
    answer_seizure_ratio: float
    peak: int
    ringing_ms: Times | None
    setup_ms: Times | None


class Registrations(Struct, frozen=True):
    """The registrations, those before the first call too."""

    tried: Tried
    took_ms: Times | None


class Voice(Struct, frozen=True):
    """The audio. Packets are those of all calls, in both directions; of the lost ones those `at_ends` were the first or
    the last of their call, such as those that overtake the answer. Gaps and jitter are those of the
    `directions_measured`, scores (MOS by the E-model, without the network's delay) of those that lasted a second.
    """

    packets_sent: int
    packets_received: int
    packets_lost: int
    packets_lost_at_ends: int
    duplicates: int
    loss_percent: float
    directions_measured: int
    gap_ms: Times | None
    jitter_ms: Times | None
    mos_worst: float | None
    mos_median: float | None


class Generator(Struct, frozen=True):
    """How late the phones themselves were: gaps and jitter are true to that and no better. `late_p99_ms` is that of the
    worst ten seconds.
    """

    late_p99_ms: float
    late_max_ms: float


class Report(Struct, frozen=True):
    """A test's accounts. `problems` says in words what is not as it should be; there is none where it is `ok`."""

    schema: int
    program: str
    started_at_utc: float
    seconds: float
    server: str
    transport: str
    plan: Plan
    bounds: Bounds
    ok: bool
    interrupted: bool
    problems: tuple[str, ...]
    calls: Calls | None
    registrations: Registrations
    voice: Voice | None
    generator: Generator
    breaches: tuple[str, ...]
    """What the server did against the rules of SIP, as the phones saw it; this is told, and no failure."""


class Run(Struct, frozen=True):
    """What is known of a run beside its tally. Within `seconds` calls were made, within `registering_s` phones
    registered (some of which is before the first call). `stopped` says why it could not go on, "" where it could.
    """

    started_at_utc: float
    seconds: float
    registering_s: float
    server: str
    transport: str
    peak: int
    generator: Generator
    interrupted: bool = False
    stopped: str = ""
    breaches: tuple[str, ...] = ()


def report_of(program: str, plan: Plan, bounds: Bounds, run: Run, tally: Tally) -> Report:
    """The accounts, judged."""
    calls = _calls(tally, run) if plan.has_calls else None
    voice = _voice(tally) if plan.has_calls else None
    registrations = Registrations(_tried(tally.registrations, run.registering_s), Times.of(tally.registered_s))
    problems = tuple(_problems(plan, bounds, run, calls, registrations, voice))
    return Report(
        SCHEMA,
        program,
        round(run.started_at_utc, 3),
        round(run.seconds, 3),
        run.server,
        run.transport,
        plan,
        bounds,
        not problems,
        run.interrupted,
        problems,
        calls,
        registrations,
        voice,
        run.generator,
        run.breaches,
    )


def encode(report: Report) -> bytes:
    """The file for programs."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def _tried(counts: Counts, seconds: float) -> Tried:
    return Tried(
        counts.attempted,
        counts.ok,
        counts.failed.total(),
        counts.unknown.total(),
        dict(counts.failed.most_common()),
        dict(counts.unknown.most_common()),
        round(counts.attempted / seconds, 2) if seconds > 0 else 0.0,
    )


def _calls(tally: Tally, run: Run) -> Calls:
    tried = _tried(tally.calls, run.seconds)
    ratio = round(tally.answered / tried.attempted, 4) if tried.attempted else 0.0
    return Calls(tried, tally.answered, ratio, run.peak, Times.of(tally.ringing_s), Times.of(tally.setup_s))


def _voice(tally: Tally) -> Voice:
    scores = sorted(tally.scores)
    return Voice(
        tally.sent,
        tally.received,
        tally.lost,
        tally.lost_at_ends,
        tally.duplicates,
        round(100 * tally.lost / tally.sent, 3) if tally.sent else 0.0,
        tally.directions_measured,
        Times.of(tally.gaps_s),
        Times.of(tally.jitters_s),
        round(scores[0], 2) if scores else None,
        round(nearest_rank(scores, 0.5), 2) if scores else None,
    )


def _problems(
    plan: Plan, bounds: Bounds, run: Run, calls: Calls | None, registrations: Registrations, voice: Voice | None
) -> list[str]:
    problems = [run.stopped] if run.stopped else []
    if run.interrupted:
        problems.append("it was interrupted")
    for what, tried in (("call", calls.tried if calls else None), ("registration", registrations.tried)):
        if tried is None:
            continue
        bad = tried.failed + tried.unknown
        if bad > bounds.max_failed:
            allowed = f", and {bounds.max_failed} may" if bounds.max_failed else ""
            problems.append(f"{bad} of {tried.attempted} {what}s failed or are unknown{allowed}")
        if not tried.ok and not run.stopped:
            problems.append(f"no {what} has succeeded")
    if calls is not None:
        problems += _short_of(plan, run, calls)
        problems += _above(
            "set-up time, p95", calls.setup_ms.p95 if calls.setup_ms else None, bounds.max_setup_p95_ms, "ms"
        )
    if voice is not None:
        problems += _above("lost packets", voice.loss_percent, bounds.max_loss_percent, "%")
        problems += _above("longest gap", voice.gap_ms.max if voice.gap_ms else None, bounds.max_gap_ms, "ms")
        if bounds.min_mos is not None and (voice.mos_worst or 0.0) < bounds.min_mos:
            problems.append(f"the worst MOS is {voice.mos_worst or 'not known'}, below {bounds.min_mos:g}")
    return problems


def _short_of(plan: Plan, run: Run, calls: Calls) -> list[str]:
    """Fewer calls than were asked for show less than was asked for."""
    if plan.total_calls is None or plan.duration_s is not None or run.interrupted or run.stopped:
        return []
    missing = plan.total_calls - calls.tried.attempted
    return [f"{missing} of {plan.total_calls} calls were not made"] if missing else []


def _above(what: str, value: float | None, limit: float | None, unit: str) -> list[str]:
    if limit is None:
        return []
    if value is None:
        return [f"{what}: not known, so not within {limit:g} {unit}"]
    return [f"{what}: {value:g} {unit}, above {limit:g} {unit}"] if value > limit else []
