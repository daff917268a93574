"""A drill is believed only where it knows: what it does not know for sure is never a promise kept."""

import msgspec
import pytest

from warden.ops.checker import Gap
from warden.ops.drills.lateness import Late
from warden.ops.drills.page import html_of, markdown_of
from warden.ops.drills.report import (
    Check,
    Moment,
    Report,
    Verdict,
    alerts_of,
    at_pace,
    exactly,
    longest_set_up,
    silence,
    taken,
)
from warden.ops.drills.speakers import Turn, against_order, out_of_turn

IN_TIME = Late(p99_ms=3.0, max_ms=12.0)
LATE = Late(p99_ms=14.0, max_ms=80.0)
ONCE_LATE = Late(p99_ms=3.0, max_ms=80.0)


def verdict(*checks: Check) -> Verdict:
    return Report("kill", "P1", "", checks, (), 1.0).verdict


def test_a_drill_is_ok_where_every_check_is_and_failed_where_one_has_failed() -> None:
    kept, broken = exactly("calls dropped", 0, 0), exactly("calls dropped", 1, 0)
    unknown = at_pace(offered=90, planned=100)
    assert verdict(kept, kept) is Verdict.OK
    assert verdict(kept, unknown) is Verdict.UNKNOWN
    assert verdict(kept, unknown, broken) is Verdict.FAILED
    assert verdict() is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("gap", "late", "expected"),
    [
        (Gap(900, 1400, 1600), IN_TIME, Verdict.OK),
        (Gap(900, 1501, 1501), IN_TIME, Verdict.FAILED),
        (Gap(900, 1400, 1600), LATE, Verdict.UNKNOWN),
        (None, IN_TIME, Verdict.UNKNOWN),
    ],
)
def test_a_gap_is_void_where_the_phones_were_late_or_no_call_was_listened_to(
    gap: Gap | None, late: Late, expected: Verdict
) -> None:
    assert silence(gap, late, p99_ms=1500).verdict is expected


def test_the_longest_gap_may_be_that_of_phones_that_were_late_once() -> None:
    assert silence(Gap(20, 50, 58), ONCE_LATE, max_ms=60).verdict is Verdict.OK
    assert silence(Gap(20, 50, 90), ONCE_LATE, max_ms=60).verdict is Verdict.UNKNOWN
    assert silence(Gap(20, 50, 90), IN_TIME, max_ms=60).verdict is Verdict.FAILED


def test_a_machine_that_speaks_again_behind_its_successor_is_counted_by_its_packets() -> None:
    def turns(*spoken: tuple[str, int]) -> list[Turn]:
        return [Turn(mac, packets, 0.0, 0.0) for mac, packets in spoken]

    assert out_of_turn(turns(("a", 100), ("b", 50))) == 0
    assert out_of_turn(turns(("a", 100), ("b", 50), ("a", 3), ("b", 50))) == 53


def test_a_report_is_a_page_that_needs_nothing_else_and_hides_no_markup() -> None:
    checks = (exactly("calls dropped", 1, 0), silence(Gap(10, 20, 30), IN_TIME, max_ms=60))
    story = (Moment(0.0, "n1", "adopted <b>4</b> calls", bad=False), Moment(2.5, "drill", "power off", bad=True))
    report = Report(
        "active-active/kill",
        "P1 & more",
        "3 nodes",
        checks,
        ("gone < back",),
        12.0,
        story,
        (10.0, 30.0),
        run="2026-11-30 00:10 UTC, Warden 1.2.3",
    )
    page = html_of(report)
    assert "adopted &lt;b&gt;4&lt;/b&gt; calls" in page
    assert "failed" in page
    assert page.count("<circle") == 2
    assert page.count("<rect") == 24
    assert "http" not in page.replace("http-equiv", "")
    told = markdown_of([report])
    assert "| active-active/kill | failed | 1 |" in told
    assert "| 2026-11-30 00:10 UTC, Warden 1.2.3 |\n" in told
    assert "It took 12 s. 2026-11-30 00:10 UTC, Warden 1.2.3" in page
    assert "No call was listened to" in html_of(Report("x", "", "", (), (), 1.0))


def test_alerts_say_whether_they_should_be_there_and_whether_they_were_before() -> None:
    before = {"PBXFailover": "firing", "MachineCpuBusy": "pending"}
    found = {"PBXFailover": "firing", "PBXNodeDown": "pending", "MachineCpuBusy": "firing"}
    told = [str(alert) for alert in alerts_of(before, found, ("PBXNodeDown", "PBXFailover", "EtcdMemberDown"))]
    assert told == [
        "EtcdMemberDown: silent, though it should not be",
        "MachineCpuBusy: firing",
        "PBXFailover: firing, as it should, and was so before",
        "PBXNodeDown: pending, as it should",
    ]


def test_alerts_are_on_every_page_change_no_verdict_and_are_missing_in_older_reports() -> None:
    kept = (exactly("calls dropped", 0, 0),)
    report = Report("active-active/kill", "P1", "", kept, (), 1.0, alerts=alerts_of({}, {}, ("PBXNodeDown",)))
    assert report.verdict is Verdict.OK
    assert "PBXNodeDown: silent, though it should not be" in html_of(report)
    assert "- alert: PBXNodeDown: silent, though it should not be\n" in markdown_of([report])
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
    old = msgspec.json.decode(msgspec.json.encode(report))
    del old["alerts"]
    assert msgspec.convert(old, Report).alerts == ()


def test_a_seat_that_nobody_else_took_has_not_failed_over() -> None:
    assert taken("a", ["s1", "s2"], {"s1": "b", "s2": "c"}).verdict is Verdict.OK
    assert taken("a", ["s1", "s2"], {"s1": "b", "s2": "a"}).verdict is Verdict.FAILED
    assert taken("a", ["s1"], {"s1": ""}).verdict is Verdict.FAILED
    assert taken("a", [], {"s1": "b"}).verdict is Verdict.UNKNOWN


def test_a_caller_who_waited_too_long_is_a_promise_broken() -> None:
    assert longest_set_up([0.1, 1.7], 0).verdict is Verdict.OK
    assert longest_set_up([0.1, 9.0], 0).verdict is Verdict.FAILED
    assert longest_set_up([], 0).verdict is Verdict.UNKNOWN


def test_a_machine_may_speak_again_only_where_it_took_its_seat_again() -> None:
    turns = [Turn(mac, 10, 0.0, 0.0) for mac in ("a", "b", "a")]
    assert against_order(turns, ["a", "b", "a"]) == 0
    assert against_order(turns, ["a", "b"]) == 10
    assert against_order(turns, ["a"]) == 10
