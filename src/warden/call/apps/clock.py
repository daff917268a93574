"""The speaking clock: says the time twice, then hangs up."""

from datetime import datetime, timedelta, timezone

from msgspec import Struct

TIMES_SAID = 2
"""Once may be missed while the phone is on its way to the ear."""


class Clock(Struct, frozen=True, gc=False, tag="clock"):
    """`prompts` are the names of the prompts to play, in order; "" is a pause."""

    prompts: tuple[str, ...]


def clock_at(now: float, utc_offset_s: float) -> Clock:
    """The clock as it speaks at `now` (seconds since the epoch), `utc_offset_s` east of Greenwich."""
    local = datetime.fromtimestamp(now, timezone(timedelta(seconds=utc_offset_s)))
    said = ("the-time-is", *_hour_and_minute(local.hour, local.minute))
    return Clock(("", *((*said, "") * TIMES_SAID)))


def _hour_and_minute(hour: int, minute: int) -> tuple[str, ...]:
    half = "am" if hour < 12 else "pm"
    shown = hour % 12 or 12
    if minute == 0:
        return (str(shown), "o-clock", half)
    if minute < 10:
        return (str(shown), "oh", str(minute), half)
    return (str(shown), *_number(minute), half)


def _number(value: int) -> tuple[str, ...]:
    if value <= 20 or value % 10 == 0:
        return (str(value),)
    return (str(value - value % 10), str(value % 10))
