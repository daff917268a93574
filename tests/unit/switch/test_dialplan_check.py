"""A dialplan as a whole: what is wrong with it, and that who would break it is refused."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from tests.unit.switch.plans import NUMBERS, group, item, planned, user

from warden.core.errors import WardenError
from warden.store.durable import SqlDurable, open_durable
from warden.store.migrate import migrate
from warden.store.ports import Item
from warden.switch.dialplan.change import Conflict, faults_of, read_directory, remove
from warden.switch.dialplan.change import put as put_sealed
from warden.switch.directory import new_extension
from warden.switch.trunks.sealed import shown

put = partial(put_sealed, sealer=lambda password: f"sealed1:{password[::-1]}")


def grave(*items: Item) -> list[str]:
    return [fault.text for fault in faults_of(planned(*items)) if fault.grave]


def light(*items: Item) -> list[str]:
    return [fault.text for fault in faults_of(planned(*items)) if not fault.grave]


def test_a_dialplan_that_makes_sense_has_no_faults() -> None:
    plan = (
        item("route", "main", pattern="600", to="hours:office"),
        item("route", "short", pattern="8XXXX", strip=1),
        item("hours", "office", zone="UTC", open=["mon-fri 09:00-17:00"], then="group:sales", closed="*60"),
        group("sales", "1002", "1003", then="1004"),
        item("class", "default", deny=["900."]),
        user("1004", no_answer="1003"),
    )
    assert faults_of(planned(*plan)) == []


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([item("route", "r", pattern="7", to="1009")], "route r: leads to 1009 (leads there), which is no extension"),
        (
            [item("route", "r", pattern="7", to="group:g")],
            "route r: leads to group:g (leads there), which is not",
        ),
        ([group("g", "1002", "1009")], "group g: its member 1009 is no extension"),
        ([group("g", "1002", then="hours:h")], "group g: leads to hours:h (when nobody takes it), which is not there"),
        ([user("1002", busy="77")], "user 1002: leads to 77 (when busy), which is no extension, and no route fits it"),
        ([item("outbound", "o", trunks=["t"])], "outbound o: its trunk t is not there"),
        ([item("inbound", "i", pattern="1!", trunk="t")], "inbound i: its trunk t is not there"),
        ([item("inbound", "i", pattern="1!", to="group:g")], "inbound i: leads to group:g (leads there), which is not"),
        ([user("1009")], "user 1009: there is no such extension"),
        ([user("1002", **{"class": "staff"})], "user 1002: its class staff is not there"),
    ],
)
def test_what_leads_to_nothing_is_grave(items: list[Item], says: str) -> None:
    (fault,) = grave(*items)
    assert fault.startswith(says)


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (
            [user("1002", always="1003"), user("1003", always="1002")],
            "user 1002 always to user 1003, user 1003 always",
        ),
        ([user("1002", always="1002")], "user 1002 always to user 1002"),
        ([group("g", "1002", then="group:g")], "group g when nobody takes it to group g"),
        ([group("g", "1002", then="600"), item("route", "r", pattern="600", to="group:g")], "group g when nobody"),
        ([item("route", "r", pattern="7!", prepend="7")], "route r dials 77"),
        ([item("hours", "h", zone="UTC", open=[], then="1002", closed="hours:h")], "hours h when closed to hours h"),
    ],
)
def test_what_leads_back_to_itself_is_grave_and_the_circle_is_told(items: list[Item], says: str) -> None:
    faults = grave(*items)
    assert len(faults) == 1
    assert "leads in a circle: " in faults[0]
    assert says in faults[0]


def test_colleagues_that_forward_to_each_other_when_busy_are_told_and_not_refused() -> None:
    pair = (user("1002", busy="1003"), user("1003", no_answer="1002"))
    assert grave(*pair) == []
    (fault,) = light(*pair)
    assert "user 1002 when busy to user 1003, user 1003 without an answer to user 1002" in fault


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([item("route", "r", pattern="1002", to="1003")], "route r: no number takes it, since 1002 is an extension"),
        ([item("route", "r", pattern="*43", to="1003")], "route r: no number takes it, since *43 is a feature code"),
        (
            [item("route", "a", pattern="00.", to="1003"), item("route", "b", pattern="_00.", to="1002")],
            "route b: no number takes it, since route a has the same numbers",
        ),
        (
            [item("route", n, pattern=p, to="1003") for n, p in (("a", "7[0-4]"), ("b", "7[5-9]"), ("c", "7X"))],
            "route c: no number takes it, since 70 takes route a (and so on for all of its 10 numbers)",
        ),
        (
            [item("route", "sos", pattern="X001", to="1003", emergency=True)],
            "route sos: keeps 1001 from being called, since emergency comes first",
        ),
        ([group("g", "1002")], "group g: nothing leads to it"),
        ([item("class", "c")], "class c: no extension has it"),
        ([Item("maze", "m", "{}")], "maze m: this version of warden knows no such kind; calls are carried"),
    ],
)
def test_what_never_counts_is_told(items: list[Item], says: str) -> None:
    assert grave(*items) == []
    (fault,) = light(*items)
    assert fault.startswith(says)


@pytest.fixture
async def durable(tmp_path: Path) -> AsyncIterator[SqlDurable]:
    url = f"sqlite:///{tmp_path}/warden.db"
    await migrate(url)
    opened = open_durable(url)
    for number in NUMBERS:
        await opened.add_extension(new_extension(number, "opens-sesame", realm="r", now=0.0))
    yield opened
    await opened.close()


async def test_a_change_that_breaks_the_plan_is_refused_and_one_that_does_not_is_stored(durable: SqlDurable) -> None:
    assert await put(durable, "user", "1002", '{"always": "1003"}', 5.0) == (
        Item("user", "1002", '{"always":"1003"}', 5.0, 5.0),
        [],
    )
    with pytest.raises(Conflict, match="user 1003: is not changed: user 1002: leads in a circle"):
        await put(durable, "user", "1003", '{"always": "1002"}', 6.0)
    _, told = await put(durable, "group", "sales", '{"members": [{"number": "1002"}]}', 7.0)
    assert told == ["group sales: nothing leads to it"]
    _, told = await put(durable, "route", "sales", '{"pattern": "600", "to": "group:sales"}', 8.0)
    assert told == []
    with pytest.raises(Conflict, match="group sales: is not changed: route sales: leads to group:sales"):
        await remove(durable, "group", "sales")
    assert [i.kind for i in await durable.items()] == ["group", "route", "user"]
    again, _ = await put(durable, "route", "sales", '{"pattern": "601", "to": "group:sales"}', 9.0)
    assert (again.created_at_utc, again.changed_at_utc) == (8.0, 9.0)
    assert (await durable.items())[1] == again
    assert await remove(durable, "route", "sales")
    assert not await remove(durable, "route", "sales")
    assert await remove(durable, "group", "sales")
    assert (await read_directory(durable)).plan.users.keys() == {"1002"}


async def test_what_was_broken_before_does_not_keep_others_from_their_changes(durable: SqlDurable) -> None:
    await put(durable, "group", "sales", '{"members": [{"number": "1002"}]}', 5.0)
    await durable.remove_extension("1002")
    assert any(fault.grave for fault in faults_of(await read_directory(durable)))
    await put(durable, "user", "1003", '{"do_not_disturb": true}', 6.0)
    with pytest.raises(WardenError, match="user 1004: destination"):
        await put(durable, "user", "1004", '{"busy": ":"}', 6.0)


async def test_a_trunks_password_is_stored_sealed_never_shown_and_kept_where_none_is_given(
    durable: SqlDurable,
) -> None:
    body = '{"targets": ["192.0.2.1"], "username": "account-1", "password": "%s"}'
    with pytest.raises(WardenError, match="no password that could stay"):
        await put(durable, "trunk", "carrier", body % "***", 1.0)
    made, _ = await put(durable, "trunk", "carrier", body % "drowssap", 1.0)
    assert '"password":"sealed1:password"' in made.body
    assert shown("trunk", made.body) == made.body.replace("sealed1:password", "***")
    again, _ = await put(durable, "trunk", "carrier", shown("trunk", made.body), 2.0)
    assert again.body == made.body
    restored, _ = await put(durable, "trunk", "other", made.body, 3.0)
    assert restored.body == made.body, "as it was stored it may be put back"
