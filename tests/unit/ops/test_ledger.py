"""The ledger finds every call detail record that does not say what the phones saw."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from warden.call.cdr import Cdr, Party, Result
from warden.core.errors import NotAdmitted, Unavailable
from warden.ops.ledger import Ended, Ledger
from warden.store.durable import SqlDurable, open_durable
from warden.store.migrate import migrate

START = 1_700_000_000.0
TRUE = Cdr(
    id="1",
    caller="1001",
    callee="2001",
    started_at_utc=START,
    ringing_at_utc=START + 0.1,
    answered_at_utc=START + 2,
    ended_at_utc=START + 12,
    result=Result.ANSWERED,
    status=200,
    ended_by=Party.CALLER,
    seat="s1",
)
ENDED = Ended(0, "1001", "2001", "s1", Result.ANSWERED, 200, Party.CALLER, START, START + 2, START + 12)


@pytest.fixture
async def durable(tmp_path: Path) -> AsyncIterator[SqlDurable]:
    url = f"sqlite:///{tmp_path}/warden.sqlite"
    await migrate(url)
    made = open_durable(url)
    yield made
    await made.close()


async def wrong(durable: SqlDurable, ended: list[Ended], *cdrs: Cdr) -> list[str]:
    ledger = Ledger()
    ledger.ended += ended
    await durable.add_cdrs(cdrs)
    return [one.why.partition(": ")[2] for one in await ledger.compare(durable, within_s=0.0, late_s=0.0)]


async def test_a_record_that_says_what_the_phones_saw_is_right(durable: SqlDurable) -> None:
    assert await wrong(durable, [ENDED], TRUE) == []


async def test_a_record_that_is_missing_is_wrong(durable: SqlDurable) -> None:
    assert await wrong(durable, [ENDED]) == ["missing"]


async def test_a_record_that_is_there_twice_is_wrong(durable: SqlDurable) -> None:
    assert await wrong(durable, [ENDED], TRUE, replace(TRUE, id="2")) == ["nobody knows this call (answered)"]


@pytest.mark.parametrize(
    ("untrue", "why"),
    [
        (replace(TRUE, ended_at_utc=START + 14), "duration is 14.0 s, not 12.0 s"),
        (replace(TRUE, ended_by=Party.SYSTEM), "ended_by is system, not caller"),
        (replace(TRUE, seat="s2"), "seat is s2, not s1"),
    ],
)
async def test_a_record_of_another_duration_end_or_seat_is_wrong(durable: SqlDurable, untrue: Cdr, why: str) -> None:
    assert await wrong(durable, [ENDED], untrue) == [why]


async def test_each_of_two_calls_between_the_same_phones_is_compared_with_the_nearest_record(
    durable: SqlDurable,
) -> None:
    later = {"started_at": START + 60, "answered_at": START + 62, "ended_at": START + 65}
    second = replace(
        TRUE,
        id="2",
        started_at_utc=START + 60,
        ringing_at_utc=START + 61,
        answered_at_utc=START + 62,
        ended_at_utc=START + 65,
    )
    assert await wrong(durable, [ENDED, replace(ENDED, **later)], second, TRUE) == []


async def test_an_invite_that_was_heard_when_it_was_said_again_and_a_bye_that_was_answered_late_are_no_fault(
    durable: SqlDurable,
) -> None:
    late = replace(TRUE, id="late", started_at_utc=START + 1.9, ringing_at_utc=START + 1.9)
    assert await wrong(durable, [ENDED], late) == []
    answered_late = replace(ENDED, released_at=START + 12, ended_at=START + 16)
    assert await wrong(durable, [ENDED, answered_late], TRUE) == []


async def test_a_record_that_ends_before_anybody_hung_up_is_wrong(durable: SqlDurable) -> None:
    early = replace(TRUE, ended_at_utc=START + 8)
    assert await wrong(durable, [replace(ENDED, released_at=START + 12, ended_at=START + 16)], early) == [
        "duration is 8.0 s, not 16.0 s"
    ]


class Away:
    """A database that answers, and then has to be asked twice."""

    def __init__(self) -> None:
        self.asked = 0

    async def cdrs(self, **_page: object) -> Sequence[Cdr]:
        self.asked += 1
        if self.asked in (2, 3):
            raise Unavailable("database warden.sqlite: database is locked")
        return [TRUE]


async def test_a_database_that_is_away_for_a_moment_is_asked_again() -> None:
    ledger = Ledger()
    ledger.ended.append(ENDED)
    away = Away()
    assert await ledger.compare(away, within_s=0.0, late_s=0.0) == []
    assert away.asked > 3


async def test_a_database_that_does_not_know_us_is_asked_once() -> None:
    class Stranger(Away):
        async def cdrs(self, **_page: object) -> Sequence[Cdr]:
            self.asked += 1
            raise NotAdmitted("database: password authentication failed")

    stranger = Stranger()
    with pytest.raises(NotAdmitted):
        await Ledger().compare(stranger)
    assert stranger.asked == 1


async def test_a_record_that_another_node_writes_a_moment_later_is_doubled() -> None:
    class Doubling(Away):
        async def cdrs(self, **_page: object) -> Sequence[Cdr]:
            self.asked += 1
            # It asks whether anybody is there, and then for a page until none is new: what comes later is seen too.
            return [TRUE] if self.asked <= 3 else [TRUE, replace(TRUE, id="2")]

    ledger = Ledger()
    ledger.ended.append(ENDED)
    assert [one.why.partition(": ")[2] for one in await ledger.compare(Doubling(), late_s=0.01)] == [
        "nobody knows this call (answered)"
    ]
