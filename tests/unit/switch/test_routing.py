"""Where numbers lead by the dialplan, and why."""

from collections import Counter

import pytest
from tests.unit.switch.plans import group, item, planned, user
from tests.unit.switch.test_patterns import at

from warden.call.way import HOPS_MAX, Extension, Lead, Ring, Take
from warden.core.errors import WardenError
from warden.store.ports import Item
from warden.switch.dialplan.items import read_item
from warden.switch.directory import Directory
from warden.switch.routing import Asked, Way, is_emergency, route

NOON = at("2026-04-08 12:00")


def way(directory: Directory, to: str, *, caller: str = "1001", now: float = NOON, chance: str = "") -> Way:
    return route(Asked(now, caller, to, by=caller, chance=chance), directory)


def why(directory: Directory, to: str, *, caller: str = "1001") -> list[str]:
    said: list[str] = []
    route(Asked(NOON, caller, to, by=caller), directory, said.append)
    return said


def rung(found: Way) -> list[str]:
    return [target.number for step in found.steps if isinstance(step, Ring) for target in step.targets]


def test_the_narrowest_route_counts_and_says_why() -> None:
    plan = planned(
        item("route", "usa", pattern="001.", to="1003"),
        item("route", "abroad", pattern="00.", to="1002"),
    )
    assert rung(way(plan, "0015551234")) == ["1003"]
    assert rung(way(plan, "0044")) == ["1002"]
    assert why(plan, "0015551234") == [
        "0015551234: takes route usa, whose pattern 001. is the narrowest that fits",
        "1003 is an extension",
        "1003: its phones ring for 60 s",
    ]
    assert way(plan, "7").cause.status == 404


def test_a_number_is_dialled_again_without_its_prefix_and_with_another() -> None:
    plan = planned(item("route", "short", pattern="8XXXX", strip=1))
    assert rung(way(plan, "81002")) == ["1002"]
    assert way(plan, "89999").cause.status == 404
    assert rung(way(planned(item("route", "m", pattern="2", prepend="100")), "2")) == ["1002"]


def test_a_route_that_dials_itself_again_comes_to_an_end() -> None:
    plan = planned(item("route", "on", pattern="7!", prepend="7"))
    assert way(plan, "7").cause.status == 482
    assert len(why(plan, "7")) < 4 * HOPS_MAX


def test_emergency_comes_before_extensions_and_classes() -> None:
    nobody = item("class", "nobody", allow=["1002"])
    plan = planned(
        nobody,
        user("1001", **{"class": "nobody"}),
        item("route", "help", pattern="1004", to="1003", emergency=True),
    )
    assert is_emergency("1004", plan)
    assert not is_emergency("1003", plan)
    assert rung(way(plan, "1004")) == ["1003"]
    assert way(plan, "1003").cause.status == 403


def test_a_forward_dials_by_the_class_of_who_set_it() -> None:
    plan = planned(item("class", "c", deny=["1003"]), user("1002", always="1003", **{"class": "c"}))
    assert way(plan, "1002").cause.text == "Not allowed by class c"
    assert rung(way(plan, "1003")) == ["1003"]


def test_a_class_allows_and_denies_by_the_narrowest_pattern_and_default_is_for_all_others() -> None:
    plan = planned(
        item("route", "out", pattern="0.", to="1002"),
        item("class", "national", deny=["00.", "0900."], allow=["0049.", "1!", "*!", "0!"]),
        item("class", "default", deny=["0!"]),
        user("1001", **{"class": "national"}),
    )
    for number, status in (("030", 0), ("0044", 403), ("0049", 403), ("00493", 0), ("09001", 403), ("55", 403)):
        found = way(plan, number)
        assert (0 if found.steps else found.cause.status) == status, number
    assert way(plan, "030", caller="1003").cause.text == "Not allowed by class default"
    assert rung(way(plan, "1002", caller="1003")) == ["1002"]
    assert "1001: its class of service national does not allow 0044: 00. is denied" in why(plan, "0044")


@pytest.mark.parametrize(
    ("time", "goes_to"),
    [("2026-04-08 12:00", ["1002"]), ("2026-04-08 20:00", ["1003"]), ("2026-12-25 12:00", ["1004"])],
)
def test_hours_lead_by_the_time_of_the_call(time: str, goes_to: list[str]) -> None:
    hours = {"zone": "Europe/Berlin", "open": ["mon-fri 09:00-17:00"], "holidays": ["12-25"]}
    office = item("hours", "office", then="1002", closed="1003", holiday="1004", **hours)
    plan = planned(office, item("route", "main", pattern="0", to="hours:office"))
    assert rung(way(plan, "0", now=at(time))) == goes_to


def test_hours_without_a_place_for_a_closed_office_refuse() -> None:
    plan = planned(item("hours", "h", zone="UTC", open=[], then="1002"), item("route", "r", pattern="0", to="hours:h"))
    assert (way(plan, "0").cause.status, way(plan, "0").cause.text) == (480, "Closed")


def test_a_group_leaves_out_who_calls_who_is_not_to_be_disturbed_and_who_is_no_more() -> None:
    plan = planned(
        group("g", "1001", "1002", "1003", "9999", then="1004"),
        item("route", "g", pattern="600", to="group:g"),
        user("1002", do_not_disturb=True),
    )
    found = way(plan, "600")
    assert found.steps == (Ring((Extension("1003"),), 20.0), Lead("1004"))
    assert found.visited == ("600", "group:g")


def test_a_group_of_nobody_goes_on_at_once() -> None:
    plan = planned(group("g", "1001", then="*43"), item("route", "g", pattern="600", to="group:g"))
    assert isinstance(way(plan, "600").steps[0], Take)


def test_by_weight_the_first_is_drawn_as_often_as_its_weight_says() -> None:
    members = [{"number": "1002", "weight": 3}, {"number": "1003"}]
    plan = planned(
        item("group", "g", members=members, strategy="by_weight"), item("route", "g", pattern="600", to="group:g")
    )
    first = Counter(rung(way(plan, "600", chance=f"call {i}"))[0] for i in range(4000))
    assert first["1002"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert sorted(rung(way(plan, "600", chance="x"))) == ["1002", "1003"]


def test_an_extension_says_where_its_calls_go() -> None:
    plan = planned(user("1002", busy="1003", no_answer="1004", no_answer_s=15, unregistered="1001"))
    said = why(plan, "1002", caller="1003")
    assert said == [
        "1002 is an extension",
        "1002: its phones ring for 15 s",
        "1002: if it does not answer the call goes to 1004",
        "1002: if it has no phone registered the call goes to 1001",
    ]


def test_what_this_version_cannot_read_is_left_out_and_told() -> None:
    plan = planned(
        Item("route", "good", '{"pattern": "7", "to": "1002", "from_the_future": 1}'),
        Item("route", "bad", '{"pattern": "["}'),
        Item("maze", "m", "{}"),
        Item("group", "g", "no json"),
    ).plan
    assert list(plan.routes) == ["good"]
    assert [text.split(":")[0] for text in plan.unread] == ["route bad", "maze m", "group g"]


@pytest.mark.parametrize(
    ("kind", "name", "body", "says"),
    [
        ("route", "r", "{}", "route r: Object missing required field `pattern`"),
        ("route", "r", '{"pattern": "7"}', "route r: leads nowhere"),
        ("route", "r", '{"pattern": "7", "to": "maze:x"}', "route r: destination 'maze:x'"),
        ("route", "r", '{"pattern": "7", "to": "1", "strip": 1}', "route r: `strip` and `prepend`"),
        ("route", "r", '{"pattern": "7", "too": "1002"}', "route r: 'too' is not known here; pattern, to,"),
        ("route", "R!", '{"pattern": "7", "to": "1"}', "route R!: a name is"),
        ("maze", "m", "{}", "'maze': there is no such kind of item; there are route"),
        ("group", "g", '{"members": []}', "group g: Expected `array` of length >= 1"),
        ("group", "g", '{"members": [{"number": "1"}, {"number": "1"}]}', "group g: extension 1 is a member twice"),
        ("group", "g", '{"members": [{"numbr": "1"}]}', "group g: Object missing required field `number`"),
        ("hours", "h", '{"zone": "X", "open": [], "then": "1"}', "hours h: time zone 'X'"),
        ("class", "c", '{"deny": ["["]}', "class c: pattern '['"),
        ("user", "1001", '{"busy": "a b"}', "user 1001: destination 'a b'"),
        ("user", "1001", "[]", "user 1001: Expected `object`"),
    ],
)
def test_an_item_that_makes_no_sense_is_refused_in_a_sentence(kind: str, name: str, body: str, says: str) -> None:
    with pytest.raises(WardenError) as refused:
        read_item(kind, name, body)
    assert str(refused.value).startswith(says), str(refused.value)
