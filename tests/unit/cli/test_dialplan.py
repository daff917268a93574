"""The dialplan at the command line: made, listed, checked and explained, and what is refused."""

import json

import pytest
from tests.unit.cli.test_directory import Warden, refusal, warden  # noqa: F401


@pytest.fixture
def planned(warden: Warden) -> Warden:  # noqa: F811
    for number in ("1001", "1002", "1003"):
        assert warden("extension", "add", number, "--password-stdin").code == 0
    assert warden("dialplan", "put", "group", "sales", "members=1002", "members=1003", "strategy=in_turn").code == 0
    assert warden("dialplan", "put", "route", "sales", "pattern=600", "to=group:sales").code == 0
    return warden


def test_items_are_made_shown_listed_and_removed(planned: Warden) -> None:
    made = planned("dialplan", "put", "hours", "office", "zone=UTC", "open=mon 9:00-17:00", "then=group:sales")
    assert made.out.startswith("hours office: {")
    assert made.err == "warden: note: hours office: nothing leads to it\n"
    assert json.loads(planned("dialplan", "show", "hours", "office").out)["open"] == ["mon 9:00-17:00"]
    rows = json.loads(planned("dialplan", "list", "--json").out)
    assert [(row["kind"], row["name"]) for row in rows] == [("group", "sales"), ("hours", "office"), ("route", "sales")]
    assert [row["name"] for row in json.loads(planned("dialplan", "list", "hours", "--json").out)] == ["office"]
    assert planned("dialplan", "remove", "hours", "office").out == "hours office removed\n"
    assert "there is none" in refusal(planned("dialplan", "remove", "hours", "office"))
    assert "there is none" in refusal(planned("dialplan", "show", "hours", "office"))
    put = planned("dialplan", "put", "class", "guests", "--json-stdin", given=b'{"deny": ["00."]}')
    assert put.out == 'class guests: {"deny":["00."]}\n'


def test_settings_of_an_extension_are_set_one_by_one(planned: Warden) -> None:
    def settings(*argv: str) -> dict[str, object]:
        done = planned("extension", "set", "1001", *argv)
        assert done.code == 0, done
        return dict(json.loads(done.out.partition(": ")[2]))

    assert settings("--forward-busy", "1002", "--dnd") == {"busy": "1002", "do_not_disturb": True}
    assert settings("--no-dnd", "--no-answer-s", "15") == {"busy": "1002", "no_answer_s": 15}
    assert settings("--forward-busy", "", "--forward-always", "group:sales") == {
        "no_answer_s": 15,
        "always": "group:sales",
    }
    assert "there is none" in refusal(planned("extension", "set", "1009", "--dnd"))
    assert "its class staff is not there" in refusal(planned("extension", "set", "1001", "--class", "staff"))


def test_a_numbers_way_is_explained_step_by_step(planned: Warden) -> None:
    planned("extension", "set", "1003", "--forward-busy", "1001")
    assert planned("dialplan", "explain", "1001", "1003").out == (
        "1003 is an extension\n1003: its phones ring for 60 s\n"
    )
    assert planned("dialplan", "explain", "1002", "1003").out.splitlines()[2:] == [
        "1003: if it is busy the call goes to 1001",
        "  (1003: busy) on to 1001",
        "  1001 is an extension",
        "  1001: its phones ring for 60 s",
    ]
    lines = json.loads(planned("dialplan", "explain", "1001", "7", "--at", "2026-12-24T18:00", "--json").out)
    assert [line["text"] for line in lines] == [
        "7: is no extension, and no route has a pattern that fits it",
        "the call is refused: 404 Not Found",
    ]


def test_a_feature_code_is_explained_and_hides_routes(planned: Warden) -> None:
    assert planned("dialplan", "explain", "1001", "*78").out.splitlines()[-1] == (
        "the setting is stored, and two tones say so"
    )
    made = planned("dialplan", "put", "route", "x", "pattern=*78", "to=1001")
    assert made.err == "warden: note: route x: no number takes it, since *78 is a feature code\n"
    assert "is a feature code" in refusal(planned("extension", "add", "*78", "--password-stdin"))


def test_the_plan_is_checked_and_a_grave_fault_is_an_exit_code(planned: Warden) -> None:
    assert planned("dialplan", "check").out == "The dialplan makes sense.\n"
    assert planned("extension", "remove", "1003").code == 0
    done = planned("dialplan", "check", "--json")
    assert (done.code, json.loads(done.out)) == (
        1,
        [{"fault": "grave", "what": "group sales: its member 1003 is no extension"}],
    )


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("put", "route", "x", "pattern=7", "to=77"), "route x: leads to 77 (leads there), which is no extension"),
        (("put", "route", "x", "pattrn=7"), "'pattrn=7': is written FIELD=VALUE; the fields are pattern,"),
        (("put", "route", "x", "pattern"), "'pattern': is written FIELD=VALUE"),
        (("put", "group", "x", "members=1002", "ring_s=long"), "'ring_s=long': Expected `int`"),
        (("put", "group", "x", "members={"), "members={: is no JSON"),
        (("put", "maze", "x", "a=b"), "'maze': there is no such kind of item; there are route,"),
        (("put", "user", "1001", "always=1001"), "user 1001: leads in a circle"),
        (("remove", "group", "sales"), "route sales: leads to group:sales (leads there), which is not there"),
        (("list", "maze"), "'maze': there is no such kind"),
        (("explain", "1001", "7", "--at", "noon"), "'noon': a time is written like"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_changes(planned: Warden, argv: tuple[str, ...], why: str) -> None:
    before = planned("dialplan", "list", "--json").out
    assert why in refusal(planned("dialplan", *argv))
    assert planned("dialplan", "list", "--json").out == before


def test_a_trunk_is_added_with_a_password_from_stdin_listed_and_removed(planned: Warden) -> None:
    fields = ("targets=sip.example.net", "targets=192.0.2.1:5080;transport=tcp", "username=account-1", "register=true")
    made = planned("trunk", "add", "carrier", *fields, "--password-stdin", given=b"open sesame\n")
    assert made.code == 0, made
    body = json.loads(made.out.partition(": ")[2])
    assert body["password"] == "***"
    assert "open sesame" not in planned("dialplan", "show", "trunk", "carrier").out
    (row,) = json.loads(planned("trunk", "list", "--json").out)
    assert (row["trunk"], row["registers"], row["channels_max"]) == ("carrier", "yes", 0)
    assert row["targets"] == "sip.example.net 192.0.2.1:5080;transport=tcp"
    assert "takes a username" in refusal(planned("trunk", "add", "other", "targets=a.example", "register=true"))
    assert planned("dialplan", "put", "outbound", "all", "trunks=carrier").code == 0
    assert "is not changed" in refusal(planned("trunk", "remove", "carrier"))
    assert planned("dialplan", "remove", "outbound", "all").code == 0
    assert planned("trunk", "remove", "carrier").out == "trunk carrier removed\n"
