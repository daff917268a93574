"""What a load test is to do follows from a few options, and what cannot be done is said before anything is."""

from pathlib import Path

import pytest

from warden.core.errors import ConfigError, WardenError
from warden.ops.loadtest.accounts import Login, numbered, read_logins, read_password
from warden.ops.loadtest.plan import Kind, Plan, plan_of


def test_without_options_ten_calls_at_a_time_need_twenty_phones_and_a_hundred_calls_are_made() -> None:
    plan = plan_of()
    assert (plan.kind, plan.concurrent_calls, plan.users, plan.total_calls) == (Kind.CALLS, 10, 20, 100)
    assert (plan.duration_s, plan.call_duration_s, plan.ramp_up_s) == (None, 10.0, 1.0)
    assert not plan.refreshes


def test_a_time_replaces_the_number_of_calls_unless_both_are_given() -> None:
    assert plan_of(duration_s=60.0).total_calls is None
    assert plan_of(duration_s=60.0, total_calls=500).total_calls == 500


def test_calls_come_up_evenly_over_the_ramp() -> None:
    plan = plan_of(concurrent_calls=4, ramp_up_s=2.0)
    assert [plan.call_begins_s(place) for place in range(4)] == [0.0, 0.5, 1.0, 1.5]
    assert plan_of(concurrent_calls=4, ramp_up_s=0.0).call_begins_s(3) == 0.0


def test_registrations_come_over_the_ramp_and_refreshes_over_their_interval() -> None:
    registrations = plan_of(Kind.REGISTRATIONS, users=10, ramp_up_s=5.0)
    assert [registrations.registers_s(phone) for phone in (0, 1, 9)] == [0.0, 0.5, 4.5]
    assert not registrations.refreshes
    assert plan_of(Kind.REGISTRATIONS, duration_s=5.0).refreshes
    mixed = plan_of(Kind.MIXED, users=20, refresh_s=10.0)
    assert mixed.refreshes
    assert mixed.registers_s(19) == 9.5


@pytest.mark.parametrize(("users", "concurrent"), [(20, 10), (27, 10), (64, 3)])
def test_every_pair_of_phones_has_one_place_and_every_place_has_a_pair(users: int, concurrent: int) -> None:
    plan = plan_of(users=users, concurrent_calls=concurrent)
    places = [list(plan.pairs_of(place)) for place in range(concurrent)]
    assert all(places)
    assert sorted(pair for pairs in places for pair in pairs) == list(range(users // 2))


def problems_of(**options: int | Kind) -> str:
    with pytest.raises(ConfigError) as raised:
        plan_of(**options)  # type: ignore[arg-type]
    return str(raised.value)


def test_too_few_phones_for_the_calls_are_told_with_both_numbers() -> None:
    assert "--users 19: 10 concurrent calls need 20, two for each" in problems_of(users=19)
    said = problems_of(accounts=6)
    assert said == "loadtest: --accounts: has 6, fewer than the 20 users, which 10 concurrent calls need"
    assert "has 6, fewer than the 8 users" in problems_of(users=8, concurrent_calls=4, accounts=6)
    assert len(problems_of(users=50_000, concurrent_calls=20_000).splitlines()) == 2


def test_a_test_of_registrations_takes_the_accounts_there_are() -> None:
    plan: Plan = plan_of(Kind.REGISTRATIONS, accounts=7)
    assert (plan.users, plan.measured) == (7, 0)
    assert plan_of(Kind.REGISTRATIONS, users=3, concurrent_calls=100).files < 100


def test_numbers_are_counted_on_and_keep_their_zeros() -> None:
    assert [login.number for login in numbered("0099", 3, "word")] == ["0099", "0100", "0101"]
    with pytest.raises(ConfigError, match="must be digits"):
        numbered("a1", 2, "word")


def test_accounts_are_read_from_a_file_whatever_program_wrote_it(tmp_path: Path) -> None:
    file = tmp_path / "accounts.csv"
    file.write_bytes('\ufeffnumber,password\r\n\r\n# two phones\r\n1000, käse\r\n1001,"a,b"\r\n'.encode())
    assert read_logins(file) == [Login("1000", "käse"), Login("1001", "a,b")]
    assert "käse" not in repr(read_logins(file))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1000,a\n1001\n", ":2: must be number,password"),
        ("1000,a\n1000,b\n", ":2: 1000 is there twice"),
        ("1000,\n", ":1: must be number,password"),
        ("number,password\n", "has no line number,password"),
    ],
)
def test_a_file_of_accounts_that_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "accounts.csv"
    file.write_text(text)
    with pytest.raises(WardenError, match=why):
        read_logins(file)


def test_a_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("open sesame\nand more\n")
    assert read_password(file) == "open sesame"
    file.write_text("\n")
    with pytest.raises(WardenError, match="is empty"):
        read_password(file)
    with pytest.raises(WardenError, match="cannot be read: no such file"):
        read_password(tmp_path / "none")
