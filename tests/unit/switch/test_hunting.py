"""Forwards and ring groups, from the caller's phone to the phones that ring; and through the death of the process."""

from collections.abc import Callable

import pytest
from tests.unit.switch.plans import NUMBERS, group, item, planned, user
from tests.unit.switch.test_restart import hang_up_all
from tests.unit.switch.world import SERVER, Crash, World

from warden.call.cdr import Cdr, Party, Result
from warden.call.model import Cause
from warden.media.protocol import Played
from warden.phone.events import Answered, Incoming
from warden.phone.line import Habits
from warden.store.ports import Item

SALES = item("route", "sales", pattern="600", to="group:sales")


def world_of(*items: Item) -> World:
    return World(*NUMBERS, directory=planned(*items))


def rings(world: World, *names: str) -> None:
    """These phones ring, and nobody is there."""
    for name in names:
        phone = world.phones[name]
        world.on_incoming[name] = lambda e, n=name, p=phone: world.do(n, p.ring(world.now, e.call))  # type: ignore[misc]


def answers(world: World, name: str) -> None:
    world.rings_then_answers(name, ring_s=0.1, answer_s=1.0)


def called(world: World) -> dict[str, int]:
    """How often each phone was called."""
    return {name: calls for name in world.phones if (calls := len(world.of(name, Incoming)))}


def ended(world: World) -> Cdr:
    hang_up_all(world, "1001")
    (cdr,) = world.is_clean()
    return cdr


def test_a_busy_extension_forwards_its_calls() -> None:
    world = world_of(user("1002", busy="1003"))
    world.refuses("1002", 486)
    answers(world, "1003")
    world.call("1001", "1002", run_s=3)
    cdr = ended(world)
    assert (cdr.result, cdr.callee, cdr.answered_by) == (Result.ANSWERED, "1002", "1003")
    assert world.ended("1002") == [486]


def test_an_extension_that_does_not_answer_forwards_after_its_time() -> None:
    world = world_of(user("1002", no_answer="1003", no_answer_s=15))
    rings(world, "1002")
    answers(world, "1003")
    world.call("1001", "1002", run_s=14)
    assert called(world) == {"1002": 1}
    world.run(4)
    cdr = ended(world)
    assert (cdr.result, cdr.callee, cdr.answered_by) == (Result.ANSWERED, "1002", "1003")
    assert world.ended("1002") == [487]


def test_an_extension_without_a_phone_forwards_and_so_does_one_whose_phone_is_off() -> None:
    world = world_of(user("1002", unregistered="1003"), user("1004", unregistered="1003"))
    world.register("1002", 0)
    world.phones["1004"].habits = Habits(responds=False)
    answers(world, "1003")
    for number in ("1002", "1004"):
        world.call("1001", number, run_s=40)
        hang_up_all(world, "1001")
    cdrs = world.is_clean(cdrs=2)
    assert [(cdr.callee, cdr.answered_by) for cdr in cdrs] == [("1002", "1003"), ("1004", "1003")]


def test_a_forward_is_for_its_own_failure_only() -> None:
    world = world_of(user("1002", busy="1003", unregistered="1003"))
    rings(world, "1002")
    world.call("1001", "1002", run_s=70)
    (cdr,) = world.is_clean()
    assert (cdr.result, cdr.status, cdr.ended_by) == (Result.NO_ANSWER, 480, Party.SYSTEM)
    assert called(world) == {"1002": 1}


def test_forwards_that_turn_in_a_circle_come_to_an_end() -> None:
    world = world_of(user("1002", busy="1003"), user("1003", busy="1002"))
    world.refuses("1002", 486)
    world.refuses("1003", 486)
    world.call("1001", "1002", run_s=5)
    (cdr,) = world.is_clean()
    assert (cdr.result, cdr.status) == (Result.BUSY, 486)
    assert called(world) == {"1002": 1, "1003": 1}


def test_all_calls_of_a_boss_go_to_the_secretary_but_the_secretarys() -> None:
    world = world_of(user("1002", always="1001"))
    answers(world, "1001")
    answers(world, "1002")
    world.call("1003", "1002", run_s=3)
    hang_up_all(world, "1003")
    world.call("1001", "1002", run_s=3)
    hang_up_all(world, "1001")
    cdrs = world.is_clean(cdrs=2)
    assert [(cdr.caller, cdr.answered_by) for cdr in cdrs] == [("1003", "1001"), ("1001", "1002")]


def test_who_does_not_want_to_be_disturbed_is_not_rung() -> None:
    world = world_of(user("1002", do_not_disturb=True), user("1003", do_not_disturb=True, busy="1004"))
    answers(world, "1004")
    world.call("1001", "1002", run_s=1)
    world.call("1001", "1003", run_s=3)
    hang_up_all(world, "1001")
    cdrs = world.is_clean(cdrs=2)
    assert [(cdr.result, cdr.status, cdr.answered_by) for cdr in cdrs] == [
        (Result.UNREACHABLE, 480, ""),
        (Result.ANSWERED, 200, "1004"),
    ]
    assert called(world) == {"1004": 1}


def test_what_a_class_of_service_does_not_allow_is_refused_also_to_who_is_forwarded_there() -> None:
    guests = item("class", "guests", deny=["1004"])
    world = world_of(guests, user("1001", **{"class": "guests"}), user("1002", busy="1004", **{"class": "guests"}))
    world.refuses("1002", 486)
    for caller, number in (("1001", "1004"), ("1003", "1002")):
        world.call(caller, number, run_s=2)
    cdrs = world.is_clean(cdrs=2)
    assert [(cdr.status, cdr.reason) for cdr in cdrs] == [(403, "Not allowed by class guests"), (486, "Busy Here")]
    assert "1004" not in called(world)


def test_a_group_rings_all_its_members_and_the_first_to_answer_has_the_call() -> None:
    world = world_of(SALES, group("sales", "1002", "1003", "1004"))
    rings(world, "1002", "1004")
    answers(world, "1003")
    world.call("1001", "600", run_s=3)
    assert called(world) == {"1002": 1, "1003": 1, "1004": 1}
    cdr = ended(world)
    assert (cdr.result, cdr.callee, cdr.answered_by) == (Result.ANSWERED, "600", "1003")
    assert (world.ended("1002"), world.ended("1004")) == ([487], [487])


def test_a_member_may_join_in_later() -> None:
    members = [{"number": "1002"}, {"number": "1003", "delay_s": 10}]
    world = world_of(SALES, item("group", "sales", members=members, ring_s=30))
    rings(world, "1002", "1003")
    world.call("1001", "600", run_s=9)
    assert called(world) == {"1002": 1}
    world.run(2)
    assert called(world) == {"1002": 1, "1003": 1}
    assert world.ended("1002") == []
    world.run(17)
    assert world.ended("1001") == []
    world.run(3)
    assert world.ended("1001") == [480]
    (cdr,) = world.is_clean()
    assert cdr.result is Result.NO_ANSWER


def test_a_group_rings_one_after_the_other_and_then_goes_elsewhere() -> None:
    world = world_of(SALES, group("sales", "1002", "1003", strategy="in_turn", ring_s=10, then="*43"))
    rings(world, "1002")
    world.refuses("1003", 486)
    world.call("1001", "600", run_s=9)
    assert called(world) == {"1002": 1}
    world.run(3)
    cdr = ended(world)
    assert (cdr.result, cdr.callee, cdr.answered_by) == (Result.ANSWERED, "600", "*43")


def test_a_member_that_declines_leaves_the_call_to_the_others() -> None:
    world = world_of(SALES, group("sales", "1002", "1003"))
    world.refuses("1002", 603)
    answers(world, "1003")
    world.call("1001", "600", run_s=3)
    assert ended(world).answered_by == "1003"


def test_the_phone_that_rings_in_the_end_is_told_who_forwarded_the_call_and_why() -> None:
    world = world_of(user("1002", always="1003"), user("1003", busy="1004"))
    world.refuses("1003", 486)
    answers(world, "1004")
    world.call("1001", "1002", run_s=3)
    (invite,) = world.requests("INVITE", to="1004")
    host = SERVER.host
    assert invite.get_all("Diversion") == [
        f"<sip:1003@{host}>;reason=user-busy;counter=1",
        f"<sip:1002@{host}>;reason=unconditional;counter=1",
    ]
    assert invite.values("History-Info") == [
        f"<sip:1002@{host}?Reason=SIP%3Bcause%3D302>;index=1",
        f"<sip:1003@{host};cause=302?Reason=SIP%3Bcause%3D486>;index=1.1",
        f"<sip:1004@{host};cause=486>;index=1.1.1",
    ]
    (before,) = world.requests("INVITE", to="1003")
    assert before.get_all("Diversion") == [f"<sip:1002@{host}>;reason=unconditional;counter=1"]
    ended(world)


def test_a_late_offer_goes_along_the_way() -> None:
    world = world_of(user("1002", busy="1003"))
    world.refuses("1002", 486)
    answers(world, "1003")
    world.call("1001", "1002", late=True, run_s=3)
    assert ended(world).answered_by == "1003"


# Feature codes


def said_all(world: World) -> None:
    for session in list(world.media.values()):
        if session.playing is not None:
            world.hear(Played(session.id, session.playing.id))


@pytest.mark.parametrize(
    ("code", "field", "to"),
    [
        ("*721003", "always", "1003"),
        ("*73", "always", ""),
        ("*901003", "busy", "1003"),
        ("*91", "busy", ""),
        ("*921003", "no_answer", "1003"),
        ("*93", "no_answer", ""),
        ("*78", "do_not_disturb", True),
        ("*79", "do_not_disturb", False),
    ],
)
def test_a_phone_changes_its_settings_and_hears_tones_when_that_is_stored(
    code: str, field: str, to: str | bool
) -> None:
    world = world_of()
    world.lookup_s = 2.0
    world.call("1001", code, run_s=1.9)
    assert world.of("1001", Answered) == []
    world.run(1)
    ((change),) = world.changes
    assert (change.number, change.field, change.to) == ("1001", field, to)
    assert len(world.of("1001", Answered)) == 1
    (session,) = world.media.values()
    assert session.playing is not None
    assert [clip.tone_hz for clip in session.playing.clips].count(880) == 2
    said_all(world)
    (cdr,) = world.is_clean()
    assert (cdr.result, cdr.answered_by, cdr.ended_by) == (Result.ANSWERED, code, Party.SYSTEM)


def test_a_setting_that_cannot_be_stored_is_refused_with_the_reason() -> None:
    world = world_of()
    world.no_change = Cause(503, "Settings cannot be stored now")
    world.call("1001", "*78", run_s=1)
    (cdr,) = world.is_clean()
    assert (cdr.status, cdr.reason) == (503, "Settings cannot be stored now")


def test_nobody_changes_a_setting_in_anothers_name() -> None:
    world = World(*NUMBERS, directory=planned(Item("user", "1002", '{"always": "*78"}')))
    world.call("1001", "1002", run_s=1)
    (cdr,) = world.is_clean()
    assert (cdr.status, world.changes) == (404, [])


@pytest.mark.parametrize("speaks", [False, True])
def test_a_setting_that_a_call_waits_for_is_changed_by_the_next_process_too(speaks: bool) -> None:
    def story(world: World) -> None:
        world.lookup_s = 0.5
        world.call("1001", "*78")
        world.after(3.0, lambda: said_all(world))
        world.run(6)

    counted = world_of()
    before = counted.outcomes
    story(counted)
    for at in range(before + 1, counted.outcomes + 1):
        world = World(*NUMBERS, directory=planned(), crash=Crash(at, speaks))
        story(world)
        assert world.crash is None, "the process died"
        said_all(world)
        (cdr,) = world.is_clean(strict=False)
        assert (cdr.result, cdr.answered_by) == (Result.ANSWERED, "*78"), f"died at {at}"
        assert {(change.field, change.to) for change in world.changes} == {("do_not_disturb", True)}


# Another process goes on


def in_turn(world: World) -> None:
    rings(world, "1002")
    world.refuses("1003", 486, ring=True, after_s=1.0)
    answers(world, "1004")
    world.call("1001", "600")
    world.after(30.0, lambda: hang_up_all(world, "1001"))
    world.run(34)


def forwarded(world: World) -> None:
    rings(world, "1002")
    world.register("1003", 0)
    answers(world, "1004")
    world.call("1001", "1002")
    world.after(30.0, lambda: hang_up_all(world, "1001"))
    world.run(34)


PLAN = (
    SALES,
    group("sales", "1002", "1003", "1004", strategy="in_turn", ring_s=8),
    user("1002", no_answer="1003", no_answer_s=8),
    user("1003", unregistered="1004"),
)


@pytest.mark.parametrize("story", [in_turn, forwarded])
@pytest.mark.parametrize("speaks", [False, True])
def test_a_call_half_way_along_its_way_is_taken_to_its_end_by_another_process(
    story: Callable[[World], None], speaks: bool
) -> None:
    counted = world_of(*PLAN)
    before = counted.outcomes
    story(counted)
    for at in range(before + 1, counted.outcomes + 1):
        world = World(*NUMBERS, directory=planned(*PLAN), crash=Crash(at, speaks))
        story(world)
        assert world.crash is None, "the process died"
        world.run(60)
        hang_up_all(world, "1001")
        (cdr,) = world.is_clean(strict=False)
        assert (cdr.result, cdr.answered_by) == (Result.ANSWERED, "1004"), f"died at {at}"
