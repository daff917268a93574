"""Opening hours: weekly hours and holidays, in the time of a place."""

import re
from collections.abc import Sequence
from datetime import date, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from msgspec import Struct

from warden.core.errors import WardenError

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SPAN: Final = re.compile(r"([a-z,-]+) ([0-9]{1,2}):([0-9]{2})-([0-9]{1,2}):([0-9]{2})\Z")
_DATE: Final = re.compile(r"(?:([0-9]{4})-)?([0-9]{2})-([0-9]{2})\Z")
_LEAP_YEAR: Final = 2000
_DAY_MIN: Final = 24 * 60


class When(StrEnum):
    """What a moment is to an office."""

    OPEN = "open"
    CLOSED = "closed"
    HOLIDAY = "holiday"


class Span(Struct, frozen=True, gc=False):
    """Hours of some days of the week (0 is Monday), in minutes; an end before the beginning is on the next day."""

    days: frozenset[int]
    from_min: int
    to_min: int


class Holiday(Struct, frozen=True, gc=False):
    """A range of days, each (year, month, day); year 0 is every year."""

    first: tuple[int, int, int]
    last: tuple[int, int, int]


def when(now: float, zone: str, open_: Sequence[str], holidays: Sequence[str]) -> When:
    """What `now` (seconds since the epoch) is. Raises `WardenError` where something cannot be read."""
    local = datetime.fromtimestamp(now, read_zone(zone))
    if any(_is_within(local.date(), read_holiday(text)) for text in holidays):
        return When.HOLIDAY
    minute, day = local.hour * 60 + local.minute, local.weekday()
    for span in map(read_span, open_):
        if span.from_min < span.to_min:
            is_open = day in span.days and span.from_min <= minute < span.to_min
        else:
            yesterday = (day - 1) % 7
            is_open = (day in span.days and minute >= span.from_min) or (
                yesterday in span.days and minute < span.to_min
            )
        if is_open:
            return When.OPEN
    return When.CLOSED


@lru_cache(maxsize=64)
def read_zone(zone: str) -> ZoneInfo:
    """The time zone of that name. Raises `WardenError`."""
    try:
        return ZoneInfo(zone)
    except (OSError, ValueError, KeyError):
        raise WardenError(f"time zone {zone[:64]!r}: is not known here; it is written like Europe/Berlin") from None


@lru_cache(maxsize=1024)
def read_span(text: str) -> Span:
    """Read `mon-fri 09:00-17:30`. Raises `WardenError`."""
    found = _SPAN.match(text)
    if found is None:
        raise WardenError(f"hours {text[:64]!r}: are written like 'mon-fri 09:00-17:30' or 'sat,sun 10:00-12:00'")
    days, from_hour, from_minute, to_hour, to_minute = found.groups()
    from_min, to_min = int(from_hour) * 60 + int(from_minute), int(to_hour) * 60 + int(to_minute)
    if from_min >= _DAY_MIN or to_min > _DAY_MIN or int(from_minute) > 59 or int(to_minute) > 59:
        raise WardenError(f"hours {text!r}: there is no such time of day")
    if from_min == to_min:
        raise WardenError(f"hours {text!r}: end where they begin; a whole day is 00:00-24:00")
    return Span(frozenset(_days(text, days)), from_min, to_min)


def _days(text: str, days: str) -> set[int]:
    found = set[int]()
    for part in days.split(","):
        first, _, last = part.partition("-")
        if first not in _DAYS or (last or first) not in _DAYS:
            raise WardenError(f"hours {text!r}: {part!r} is no day of {' '.join(_DAYS)}")
        day, end = _DAYS.index(first), _DAYS.index(last or first)
        while day != end:
            found.add(day)
            day = (day + 1) % 7
        found.add(end)
    return found


@lru_cache(maxsize=1024)
def read_holiday(text: str) -> Holiday:
    """Read `2026-12-25`, `12-25` (every year) or a range of either, `12-24..12-26`. Raises `WardenError`."""
    first, _, last = text.partition("..")
    days = _day(text, first), _day(text, last or first)
    if (days[0][0] == 0) != (days[1][0] == 0) or (days[0][0] and days[1] < days[0]):
        raise WardenError(f"holiday {text!r}: its end does not follow its beginning")
    return Holiday(*days)


def _day(text: str, day: str) -> tuple[int, int, int]:
    found = _DATE.match(day)
    if found is None:
        raise WardenError(f"holiday {text[:64]!r}: is written like 2026-12-25, 12-25 (every year) or 12-24..12-26")
    year, month, of_month = int(found.group(1) or 0), int(found.group(2)), int(found.group(3))
    try:
        date(year or _LEAP_YEAR, month, of_month)
    except ValueError:
        raise WardenError(f"holiday {text!r}: there is no such day") from None
    return year, month, of_month


def _is_within(day: date, holiday: Holiday) -> bool:
    year = day.year if holiday.first[0] else 0
    this = (year, day.month, day.day)
    if holiday.first <= holiday.last:
        return holiday.first <= this <= holiday.last
    # From one year into the next, every year.
    return this >= holiday.first or this <= holiday.last
