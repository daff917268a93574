"""Patterns of numbers, and opening hours: how they are written and what they mean."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warden.core.errors import WardenError
from warden.switch.dialplan.hours import When, read_holiday, read_span, read_zone, when
from warden.switch.dialplan.patterns import best, matcher_of, read_pattern


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not"),
    [
        ("112", ("112",), ("1121", "11", "0112")),
        ("_9NXX", ("9200", "9999"), ("9100", "92000", "9a00")),
        ("00.", ("001", "0015551234"), ("00", "01")),
        ("0!", ("0", "01"), ("1",)),
        ("[2-46]Z", ("21", "49", "61"), ("51", "20", "2")),
        ("*7X#", ("*70#",), ("70#", "*7a#")),
        ("+49.", ("+4930",), ("49", "+48")),
        ("sales-x", ("sales-x",), ("salesXx",)),
    ],
)
def test_a_pattern_fits_whole_numbers_only(pattern: str, fits: tuple[str, ...], does_not: tuple[str, ...]) -> None:
    read = read_pattern(pattern)
    assert all(read.matches(number) for number in fits)
    assert not any(read.matches(number) for number in (*does_not, "", f"{fits[0]}\n"))


@pytest.mark.parametrize("pattern", ["", "_", ".X", "1.2", "[", "[]", "[a-z]", "[5-2]", "1 2", "1A", "é", "1" * 65])
def test_what_is_no_pattern_is_refused_with_its_text(pattern: str) -> None:
    with pytest.raises(WardenError, match=r"^pattern "):
        read_pattern(pattern)


@given(st.text("0123456789XZN[]-.!*#_", max_size=12))
def test_any_text_is_a_pattern_or_is_refused(text: str) -> None:
    try:
        pattern = read_pattern(text)
    except WardenError:
        return
    numbers = pattern.numbers(1000)
    assert all(pattern.matches(number) for number in numbers or ())


def test_the_narrowest_pattern_counts_whatever_the_order() -> None:
    patterns = [("any", "."), ("world", "00."), ("usa", "001."), ("x", "00X."), ("one", "0015551234"), ("opt", "001!")]
    for given_ in (patterns, patterns[::-1]):
        assert best("0015551234", iter(given_)) == "one"
        assert best("0015", iter(given_)) == "usa"
        assert best("001", iter(given_)) == "opt"
        assert best("0099", iter(given_)) == "x"
        assert best("5", iter(given_)) == "any"
    assert best("5", iter([])) is None
    assert best("55", iter([("b", "5[0-5]"), ("a", "5[0-5]")])) == "a"


PATTERNS = ("1", "1X", "1.", "1!", ".", "[12]3", "N", "2X!", "*1")


@given(st.lists(st.sampled_from(PATTERNS), max_size=6), st.text("0123*", max_size=4))
def test_many_patterns_at_once_find_what_they_find_one_by_one(patterns: list[str], number: str) -> None:
    named = [(f"{i}", pattern) for i, pattern in enumerate(patterns)]
    named.sort(key=lambda x: (read_pattern(x[1]).order, x[0]))
    assert matcher_of(named).find(number) == best(number, iter(named))


OFFICE = ("mon-thu 09:00-17:30", "fri 9:00-12:00")
HOLIDAYS = ("2026-04-03", "12-24..01-01")


def at(text: str, zone: str = "Europe/Berlin") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("time", "is_"),
    [
        ("2026-03-30 09:00", When.OPEN),
        ("2026-03-30 17:29", When.OPEN),
        ("2026-03-30 17:30", When.CLOSED),
        ("2026-03-30 08:59", When.CLOSED),
        ("2026-04-10 11:00", When.OPEN),
        ("2026-04-10 13:00", When.CLOSED),
        ("2026-04-03 10:00", When.HOLIDAY),
        ("2027-04-02 10:00", When.OPEN),
        ("2026-12-23 10:00", When.OPEN),
        ("2026-12-24 10:00", When.HOLIDAY),
        ("2031-01-01 03:00", When.HOLIDAY),
        ("2026-04-05 10:00", When.CLOSED),
    ],
)
def test_an_office_is_open_by_the_clock_of_its_place(time: str, is_: When) -> None:
    assert when(at(time), "Europe/Berlin", OFFICE, HOLIDAYS) is is_


def test_the_hours_follow_summer_time() -> None:
    # 07:30 UTC is 08:30 in Berlin on the last day of winter time, and 09:30 one week later.
    assert when(at("2026-03-26 07:30", "UTC"), "Europe/Berlin", OFFICE, ()) is When.CLOSED
    assert when(at("2026-04-02 07:30", "UTC"), "Europe/Berlin", OFFICE, ()) is When.OPEN


def test_a_night_shift_ends_on_the_next_day_and_a_day_may_be_whole() -> None:
    for time, is_ in (
        ("2026-04-10 23:00", When.OPEN),
        ("2026-04-11 05:59", When.OPEN),
        ("2026-04-11 23:00", When.CLOSED),
    ):
        assert when(at(time), "Europe/Berlin", ("fri 22:00-06:00",), ()) is is_, time
    for time in ("2026-04-12 00:00", "2026-04-12 23:59"):
        assert when(at(time), "Europe/Berlin", ("sat-sun 00:00-24:00",), ()) is When.OPEN


@pytest.mark.parametrize("text", ["", "mon", "mon 9-17", "mon 25:00-26:00", "xyz 09:00-10:00", "mon 09:00-09:00"])
def test_hours_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(WardenError, match=r"^hours "):
        read_span(text)


@pytest.mark.parametrize("text", ["", "02-30", "2027-02-29", "2026-12-24..12-26", "2026-12-26..2026-12-24", "Xmas"])
def test_holidays_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(WardenError, match=r"^holiday "):
        read_holiday(text)


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../etc/passwd", "\0"])
def test_a_zone_that_nobody_knows_is_refused(zone: str) -> None:
    with pytest.raises(WardenError, match=r"^time zone "):
        read_zone(zone)
