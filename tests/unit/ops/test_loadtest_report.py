"""A load test is good only where every call is known to be: what failed and what nobody knows are told apart, and both
count.
"""

import json
from io import StringIO

import msgspec
import pytest
from rich.console import Console

from warden.cli.loadtest_screen import show
from warden.ops.loadtest.plan import Kind, Plan, plan_of
from warden.ops.loadtest.report import Bounds, Generator, Report, Run, encode, report_of
from warden.ops.loadtest.tally import OTHER, REASONS_MAX, CallResult, Outcome, RegistrationResult, Tally, Times, Way

RUN = Run(1_800_000_000.0, 20.0, 4.0, "192.0.2.1:5060", "udp", 3, Generator(1.0, 5.0))
PLAN = plan_of(total_calls=4, concurrent_calls=3)
GOOD_WAY = Way(500, 500, 0, 0, 21.0, 0.5, True)


def good(setup_s: float = 0.02, *ways: Way) -> CallResult:
    return CallResult(Outcome.OK, "", 0.01, setup_s, ways or (GOOD_WAY, GOOD_WAY))


def tally_of(*calls: CallResult) -> Tally:
    tally = Tally()
    for call in calls:
        tally.add_call(call)
    tally.add_registration(RegistrationResult(Outcome.OK, 0.003))
    return tally


def report(*calls: CallResult, bounds: Bounds = Bounds(), run: Run = RUN, plan: Plan = PLAN) -> Report:  # noqa: B008
    return report_of("warden 0", plan, bounds, run, tally_of(*calls))


def test_percentiles_are_values_that_were_measured() -> None:
    assert Times.of([]) is None
    assert Times.of([0.004]) == Times(1, 4.0, 4.0, 4.0, 4.0, 4.0)
    assert Times.of([i / 1000 for i in range(200, 0, -1)]) == Times(200, 100.0, 180.0, 190.0, 198.0, 200.0)


def test_four_good_calls_are_all_that_was_asked_for() -> None:
    found = report(good(), good(), good(), good())
    assert (found.ok, found.problems) == (True, ())
    assert found.calls is not None
    assert found.calls.tried.per_s == 0.2
    assert found.calls.answer_seizure_ratio == 1.0


def test_a_call_of_which_nobody_knows_is_no_good_call() -> None:
    lost = CallResult(Outcome.UNKNOWN, "no answer to BYE", 0.01, 0.02)
    found = report(good(), good(), good(), lost)
    assert found.problems == ("1 of 4 calls failed or are unknown",)
    assert found.calls is not None
    assert (found.calls.tried.ok, found.calls.tried.failed, found.calls.tried.unknown) == (3, 0, 1)
    assert found.calls.tried.unknown_by == {"no answer to BYE": 1}
    # It was answered, whatever came later.
    assert found.calls.answered == 4


def test_some_may_fail_where_the_bound_says_so() -> None:
    busy = CallResult(Outcome.FAILED, "486 Busy Here")
    assert report(good(), good(), good(), busy, bounds=Bounds(max_failed=1)).ok
    found = report(good(), good(), busy, busy, bounds=Bounds(max_failed=1))
    assert found.problems == ("2 of 4 calls failed or are unknown, and 1 may",)
    assert found.calls is not None
    assert found.calls.tried.failed_by == {"486 Busy Here": 2}
    assert found.calls.answer_seizure_ratio == 0.5


def test_a_test_in_which_nothing_succeeded_shows_nothing_whatever_may_fail() -> None:
    busy = CallResult(Outcome.FAILED, "486 Busy Here")
    assert "no call has succeeded" in report(busy, busy, busy, busy, bounds=Bounds(max_failed=10)).problems
    assert "no call has succeeded" in report(plan=plan_of(duration_s=0.0)).problems


def test_fewer_calls_than_were_asked_for_are_not_enough() -> None:
    assert report(good()).problems == ("3 of 4 calls were not made",)
    assert report(good(), plan=plan_of(duration_s=20.0)).ok


def test_an_interrupted_test_is_not_ok_and_says_only_that() -> None:
    found = report(good(), run=msgspec.structs.replace(RUN, interrupted=True))
    assert (found.ok, found.interrupted, found.problems) == (False, True, ("it was interrupted",))


def test_a_test_that_could_not_go_on_says_why_first() -> None:
    found = report(good(), run=msgspec.structs.replace(RUN, stopped="no more ports"))
    assert found.problems == ("no more ports",)


@pytest.mark.parametrize(
    ("bounds", "why"),
    [
        (Bounds(max_setup_p95_ms=100), "set-up time, p95: 150 ms, above 100 ms"),
        (Bounds(max_loss_percent=1), "lost packets: 1.111 %, above 1 %"),
        (Bounds(max_gap_ms=60), "longest gap: 80 ms, above 60 ms"),
        (Bounds(min_mos=4.3), "the worst MOS is 3.92, below 4.3"),
    ],
)
def test_each_bound_is_told_with_what_was_measured(bounds: Bounds, why: str) -> None:
    bad = Way(1000, 950, 50, 0, 80.0, 30.0, True)
    assert report(good(), good(), good(), good(0.15, bad, GOOD_WAY), bounds=bounds).problems == (why,)
    assert report(good(), good(), good(), good(), bounds=bounds).ok


def test_packets_that_overtook_the_answer_are_lost_ones_and_told_apart() -> None:
    way = Way(1000, 995, 3, 0, 21.0, 0.5, True)
    found = report(good(), good(), good(), good(0.02, way, GOOD_WAY))
    assert found.voice is not None
    assert (found.voice.packets_lost, found.voice.packets_lost_at_ends) == (5, 2)


def test_a_bound_on_what_was_not_measured_is_not_kept() -> None:
    unmeasured = good(0.02, Way(50, 50, 0, 0, 200.0, 0.5, False))
    bounds = Bounds(max_gap_ms=60, min_mos=4.0)
    found = report(unmeasured, unmeasured, unmeasured, unmeasured, bounds=bounds)
    assert found.problems == (
        "longest gap: not known, so not within 60 ms",
        "the worst MOS is not known, below 4",
    )


def test_registrations_are_judged_like_calls() -> None:
    tally = Tally()
    tally.add_registration(RegistrationResult(Outcome.OK, 0.01))
    tally.add_registration(RegistrationResult(Outcome.FAILED, 0.5, "503 Service Unavailable"))
    found = report_of("warden 0", plan_of(Kind.REGISTRATIONS, users=2), Bounds(), RUN, tally)
    assert found.problems == ("1 of 2 registrations failed or are unknown",)
    assert (found.calls, found.voice) == (None, None)
    assert found.registrations.took_ms == Times(1, 10.0, 10.0, 10.0, 10.0, 10.0)


def test_a_server_that_gives_a_thousand_reasons_is_remembered_for_some() -> None:
    found = report(*(CallResult(Outcome.FAILED, f"dropped: {i}") for i in range(1000)))
    assert found.calls is not None
    by = found.calls.tried.failed_by
    assert len(by) == REASONS_MAX + 1
    assert by[OTHER] == 1000 - REASONS_MAX
    assert found.calls.tried.failed == 1000


def test_the_file_says_its_schema_and_reads_back_as_what_was_reported() -> None:
    found = report(good(), good(), good(), CallResult(Outcome.FAILED, "486 Busy Here"))
    told = json.loads(encode(found))
    assert (told["schema"], told["ok"], told["plan"]["kind"]) == (1, False, "calls")
    assert told["calls"]["setup_ms"]["p95"] == 20.0
    assert msgspec.json.decode(encode(found), type=Report) == found


def test_the_tables_for_people_have_what_failed_and_why() -> None:
    text = StringIO()
    failed = CallResult(Outcome.FAILED, "486 Busy Here [sic]")
    show(report(good(), good(), good(), failed), Console(width=120, file=text, highlight=False))
    said = text.getvalue()
    for part in ("1 calls: 486 Busy Here [sic]", "INVITE to answer", "answered: 3 of 4 (75.0 %)", "0 of 3,000 packets"):
        assert part in said
    assert "not good enough: 1 of 4 calls failed or are unknown" in said
    assert "all went well" not in said
