"""Cursors through what is ordered by time, the newest first, and by id where the times are equal."""

from datetime import UTC, datetime
from typing import Final, NamedTuple

from warden.core.errors import WardenError

CURSOR_CHARS_MAX: Final = 200


class Cursor(NamedTuple):
    """A place in the order: behind the entry of this time and id. Without an id, behind everything of that time."""

    time: float
    id: str = ""

    def is_before(self, time: float, entry_id: str) -> bool:
        """True where the entry comes behind the cursor."""
        return time < self.time or (time == self.time and bool(self.id) and entry_id > self.id)

    def __str__(self) -> str:
        # `repr` of a float reads back as the same float; a time rounded to milliseconds would lose or repeat entries.
        return f"{self.time!r}~{self.id}"


def read_cursor(text: str) -> Cursor:
    """The `next` of an earlier page, or an ISO 8601 time with its zone. Raises `WardenError`."""
    number, mark, entry_id = text.partition("~")
    try:
        time = float(number) if mark else _seconds(text)
    except (ValueError, OverflowError):
        time = -1.0
    if not 0 <= time < 1e11:
        raise WardenError("before: neither the `next` of a page nor a time such as 2026-01-31T12:00:00Z")
    return Cursor(time, entry_id)


def _seconds(text: str) -> float:
    time = datetime.fromisoformat(text)
    return time.replace(tzinfo=time.tzinfo or UTC).timestamp()
