"""Walking through what is ordered by time, page by page."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warden.core.errors import WardenError
from warden.web.paging import Cursor, read_cursor

TIMES = st.floats(min_value=0, max_value=4e9)
ENTRIES = st.lists(
    st.tuples(st.one_of(TIMES, st.sampled_from((1.0, 2.0))), st.text("abc123", min_size=1)), unique_by=lambda e: e[1]
)


@given(ENTRIES, st.integers(1, 4))
def test_pages_hold_every_entry_once_the_newest_first_however_many_are_of_one_moment(
    entries: list[tuple[float, str]], size: int
) -> None:
    cursor, seen = Cursor(inf), []
    while page := sorted((e for e in entries if cursor.is_before(*e)), key=lambda e: (-e[0], e[1]))[:size]:
        seen += page
        cursor = read_cursor(str(Cursor(*page[-1])))
    assert seen == sorted(entries, key=lambda e: (-e[0], e[1]))


@pytest.mark.parametrize(
    "text",
    ["2026-01-31T12:00:00Z", "2026-01-31T13:00:00+01:00", "2026-01-31T12:00:00", "2026-01-31 12:00"],
)
def test_a_time_is_a_cursor_too_and_in_utc_where_it_names_no_zone(text: str) -> None:
    cursor = read_cursor(text)
    assert cursor == (1_769_860_800.0, "")
    assert cursor.is_before(1_769_860_799.9, "any")
    assert not cursor.is_before(1_769_860_800.0, "any")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "~",
        "x~y",
        "nan~a",
        "inf~a",
        "-1~a",
        "1e400~a",
        "9" * 150 + "~a",
        "12",
        "yesterday",
        "0001-01-01T00:00+14:00",
    ],
)
def test_anything_else_is_refused_in_words(text: str) -> None:
    with pytest.raises(WardenError, match=r"^before: neither"):
        read_cursor(text)
