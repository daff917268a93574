"""Calls from phone to phone: how they begin, and all the ways in which they end."""

from functools import partial

import pytest
from msgspec.structs import replace
from tests.unit.switch.world import SERVER, World, make_settings

from warden.call.cdr import Party, Result
from warden.call.model import Cause
from warden.phone.events import Answered, By, Ended, Incoming, Ringing
from warden.phone.line import Habits
from warden.sip.message import Response


@pytest.mark.parametrize("who", ["1001", "1002"])
def test_a_call_rings_is_answered_and_either_side_hangs_up(who: str) -> None:
    world = World()
    caller, callee = world.up()
    assert [event.status for event in world.of("1001", Ringing)] == [180]
    assert world.of("1002", Incoming)[0].number == "1001"
    assert world.of("1002", Incoming)[0].display == "Number 1001"
    assert len(world.media) == 1
    world.run(10)
    world.hang_up(who, caller if who == "1001" else callee)
    (cdr,) = world.is_clean()
    assert (cdr.result, cdr.status) == (Result.ANSWERED, 200)
    assert cdr.ended_by is (Party.CALLER if who == "1001" else Party.CALLEE)
    assert (cdr.caller, cdr.callee, cdr.answered_by) == ("1001", "1002", "1002")
    assert cdr.talk_s == pytest.approx(11, abs=0.3)
    others = {"1001": "1002", "1002": "1001"}
    assert world.of(who, Ended)[0].by is By.US
    assert world.of(others[who], Ended)[0].by is By.PEER
    assert len(world.of("1001", Answered)) == 1


def test_how_long_it_took_until_it_rang_is_told_apart_from_how_long_until_it_was_answered() -> None:
    world = World()
    world.on_incoming["1002"] = lambda e: world.do("1002", world.phones["1002"].ring(world.now, e.call))
    world.call("1001", "1002", run_s=20)
    assert world.switch.setup_seconds == []
    callee = world.of("1002", Incoming)[0].call
    world.do("1002", world.phones["1002"].answer(world.now, callee, world.media_of("1002")))
    world.run(1)
    (until_it_rang,) = world.switch.post_dial_seconds
    (until_answered,) = world.switch.setup_seconds
    assert 0 < until_it_rang < 0.2
    assert until_answered == pytest.approx(20, abs=0.3)
    world.hang_up("1002", callee)
    world.is_clean()
    assert len(world.switch.post_dial_seconds) == 1


def test_a_call_that_is_refused_at_once_never_rang() -> None:
    world = World()
    world.refuses("1002", 486)
    world.call("1001", "1002")
    world.is_clean()
    assert world.switch.post_dial_seconds == world.switch.setup_seconds == []


@pytest.mark.parametrize(
    ("refusal", "heard", "result"),
    [
        (404, 404, Result.FAILED),
        (408, 408, Result.UNREACHABLE),
        (480, 480, Result.UNREACHABLE),
        (486, 486, Result.BUSY),
        (488, 488, Result.FAILED),
        (500, 500, Result.FAILED),
        (600, 600, Result.BUSY),
        (603, 603, Result.REJECTED),
        # These concern the hop between Warden and the phone, and say nothing to the caller.
        (302, 480, Result.UNREACHABLE),
        (401, 480, Result.UNREACHABLE),
        (420, 480, Result.UNREACHABLE),
        (503, 480, Result.UNREACHABLE),
    ],
)
def test_a_refusal_reaches_the_caller_with_its_reason(refusal: int, heard: int, result: Result) -> None:
    world = World()
    world.refuses("1002", refusal)
    world.call("1001", "1002")
    (cdr,) = world.is_clean()
    (ended,) = world.of("1001", Ended)
    assert (ended.status, ended.by) == (heard, By.PEER)
    assert ended.reason.startswith(f"SIP;cause={heard}")
    assert (cdr.result, cdr.status, cdr.ended_by, cdr.answered_at_utc) == (result, heard, Party.CALLEE, None)
    assert world.ended("1002") == [refusal]


def test_a_number_that_nobody_has_is_404() -> None:
    world = World()
    world.call("1001", "7777")
    (cdr,) = world.is_clean()
    assert world.ended("1001") == [404]
    assert (cdr.result, cdr.status, cdr.callee, cdr.ended_by) == (Result.FAILED, 404, "7777", Party.SYSTEM)


def test_an_extension_without_a_phone_is_480() -> None:
    world = World()
    world.register("1002", 0)
    world.call("1001", "1002")
    (cdr,) = world.is_clean()
    assert world.ended("1001") == [480]
    assert (cdr.result, cdr.reason) == (Result.UNREACHABLE, "Not registered")


def test_a_phone_that_says_nothing_at_all_is_408_after_timer_b() -> None:
    world = World()
    world.phones["1002"].habits = Habits(responds=False)
    world.call("1001", "1002")
    began = world.now
    world.run(40, until=lambda: world.ended("1001") != [])
    assert world.now - began == pytest.approx(32, abs=0.5)
    (cdr,) = world.is_clean()
    assert world.ended("1001") == [408]
    assert cdr.result is Result.UNREACHABLE


def test_nobody_answers_in_time() -> None:
    world = World()
    world.on_incoming["1002"] = lambda e: world.do("1002", world.phones["1002"].ring(world.now, e.call))
    world.call("1001", "1002")
    began = world.now
    world.run(80, until=lambda: world.ended("1001") != [])
    assert world.now - began == pytest.approx(world.settings.no_answer_s, abs=0.5)
    (cdr,) = world.is_clean()
    assert (world.ended("1001"), world.ended("1002")) == ([480], [487])
    assert (cdr.result, cdr.status) == (Result.NO_ANSWER, 480)
    assert 'cause=480;text="No answer"' in (world.requests("CANCEL", to="1002")[0].get("Reason") or "")


def test_a_call_ends_at_its_maximum_duration() -> None:
    world = World(settings=replace(make_settings(), max_duration_s=600.0))
    world.up()
    world.run(595)
    assert len(world.switch.calls) == 1
    (cdr,) = world.is_clean()
    assert cdr.talk_s == pytest.approx(600)
    assert (cdr.result, cdr.ended_by, cdr.reason) == (Result.ANSWERED, Party.SYSTEM, "Maximum duration")
    assert world.ended("1001") == world.ended("1002") == [200]


def test_the_operator_ends_a_call() -> None:
    world = World()
    world.up()
    (call_id,) = world.switch.calls
    world.tell(lambda s: s.stop_call(world.now, call_id, Cause(480, "Ended by admin")))
    (cdr,) = world.is_clean()
    assert (cdr.ended_by, cdr.reason) == (Party.SYSTEM, "Ended by admin")
    assert "Ended by admin" in world.of("1001", Ended)[0].reason


def test_media_that_cannot_be_made_ends_the_call() -> None:
    world = World()
    world.call("1001", "1002", run_s=0.05)
    (call_id,) = world.switch.calls
    world.tell(lambda s: s.media_refused(world.now, call_id, "no such address"))
    (cdr,) = world.is_clean()
    assert (cdr.result, world.ended("1001")) == (Result.FAILED, [500])


def test_a_phone_that_calls_itself_hears_its_own_line_ring() -> None:
    world = World()
    world.rings_then_answers("1001")
    caller = world.call("1001", "1001", run_s=2)
    assert len(world.phones["1001"].calls) == 2
    world.hang_up("1001", caller)
    world.is_clean()


# CANCEL at every moment


def cancelled_at(moment_ms: int, *, loss: float = 0.0, seed: int = 0) -> World:
    """A call whose caller gives up so many milliseconds after it dialled."""
    world = World(seed=seed)
    world.loss = loss
    world.rings_then_answers("1002", ring_s=0.03, answer_s=0.1)
    caller = world.call("1001", "1002")
    world.after(moment_ms / 1000, lambda: world.hang_up("1001", caller))
    return world


@pytest.mark.parametrize("moment_ms", range(0, 200, 2))
def test_cancel_at_every_moment_ends_both_sides(moment_ms: int) -> None:
    world = cancelled_at(moment_ms)
    (cdr,) = world.is_clean()
    assert world.ended("1001") in ([487], [200])
    assert cdr.result is (Result.CANCELLED if world.ended("1001") == [487] else Result.ANSWERED)
    assert cdr.status == (487 if cdr.result is Result.CANCELLED else 200)
    assert len(world.ended("1002")) == len(world.of("1002", Incoming))


@pytest.mark.parametrize("seed", range(60))
def test_cancel_at_any_moment_on_a_lossy_wire_ends_both_sides(seed: int) -> None:
    world = cancelled_at(seed * 40, loss=0.15, seed=seed)
    world.run(100)
    world.loss = 0.0
    world.is_clean(cdrs=len(world.cdrs), strict=False)
    assert len(world.ended("1001")) == 1
    assert len(world.ended("1002")) == len(world.of("1002", Incoming))
    assert len(world.cdrs) == world.switch.counters["calls"]


def test_the_callee_of_a_cancelled_call_is_told_why() -> None:
    world = World()
    world.on_incoming["1002"] = lambda e: world.do("1002", world.phones["1002"].ring(world.now, e.call))
    caller = world.call("1001", "1002", run_s=1)
    world.hang_up("1001", caller)
    (cdr,) = world.is_clean()
    assert (cdr.result, cdr.status, cdr.ended_by) == (Result.CANCELLED, 487, Party.CALLER)
    assert world.ended("1001") == [487]
    assert world.of("1002", Ended)[0].reason.startswith("SIP;cause=487")
    assert {r.status for r in world.responses("CANCEL")} == {200}


# Hanging up


def test_both_hang_up_at_once_and_each_bye_is_answered() -> None:
    world = World()
    caller, callee = world.up()
    world.hang_up("1001", caller)
    world.hang_up("1002", callee)
    world.is_clean()
    assert {r.status for r in world.responses("BYE")} <= {200, 481}
    assert world.ended("1001") == world.ended("1002") == [200]


def test_a_bye_that_overtakes_the_ack_ends_the_call_and_the_200_is_not_repeated() -> None:
    world = World()
    world.phones["1001"].habits = Habits(sends_ack=False)
    caller, _ = world.up()
    before = len([r for r in world.responses("INVITE", to="1001") if r.status == 200])
    assert before > 1
    world.hang_up("1001", caller)
    (cdr,) = world.is_clean()
    assert cdr.result is Result.ANSWERED
    assert len([r for r in world.responses("INVITE", to="1001") if r.status == 200]) == before


def test_a_callee_that_hangs_up_before_the_caller_has_acknowledged_waits_for_the_ack() -> None:
    world = World()
    world.rings_then_answers("1002", ring_s=0.05, answer_s=0.1)
    world.phones["1001"].habits = Habits(sends_ack=False)
    world.call("1001", "1002", run_s=0.3)
    world.hang_up("1002", world.incoming("1002"), run_s=1)
    assert world.requests("BYE", to="1001") == []
    world.phones["1001"].habits = Habits()
    (cdr,) = world.is_clean()
    assert len(world.requests("BYE", to="1001")) == 1
    assert (cdr.result, cdr.ended_by) == (Result.ANSWERED, Party.CALLEE)


def test_an_ack_that_never_comes_ends_the_call_on_both_sides() -> None:
    world = World()
    world.phones["1001"].habits = Habits(sends_ack=False)
    world.up()
    began = world.now
    world.run(40, until=lambda: world.ended("1002") != [])
    assert world.now - began == pytest.approx(31, abs=2)
    (cdr,) = world.is_clean()
    assert (cdr.reason, cdr.ended_by) == ("No ACK", Party.SYSTEM)


def test_a_200_that_comes_again_is_acknowledged_again_even_when_the_call_has_moved_on() -> None:
    world = World()
    caller, _ = world.up()
    answer = next(r for _, source, _, r in world.log if isinstance(r, Response) and r.status == 200
                  and r.cseq.method == "INVITE" and source == world.addresses["1002"])  # fmt: skip
    first = world.requests("ACK", to="1002")
    world.send(world.addresses["1002"], SERVER, bytes(answer))
    world.do("1001", world.phones["1001"].hold(world.now, caller))
    world.run(1)
    world.send(world.addresses["1002"], SERVER, bytes(answer))
    world.run(1)
    assert [bytes(ack) for ack in world.requests("ACK", to="1002")].count(bytes(first[0])) == 3
    world.hang_up("1001", caller)
    world.is_clean()


def test_a_phone_that_lost_power_in_the_call_does_not_hold_it_up() -> None:
    world = World()
    caller, _ = world.up()
    world.phones["1002"].habits = Habits(responds=False)
    world.hang_up("1001", caller)
    world.run(60)
    assert len(world.switch) == 0
    assert world.ended("1001") == [200]
    assert len(world.cdrs) == 1


def change(world: World, who: str, way: int) -> None:
    """Something that a phone may do in a call, if it is in one."""
    phone = world.phones[who]
    for tag in list(phone.calls):
        match way:
            case 0:
                world.do(who, phone.hold(world.now, tag))
            case 1:
                world.do(who, phone.reinvite(world.now, tag, late=True))
            case 2:
                world.do(who, phone.update(world.now, tag))
            case _:
                world.do(who, phone.info(world.now, tag, "5"))


@pytest.mark.parametrize("seed", range(200))
def test_over_a_lossy_wire_every_call_ends_on_both_sides_with_one_record(seed: int) -> None:
    world = World(seed=seed)
    world.loss = 0.05 + 0.15 * (seed % 4) / 3
    world.rings_then_answers("1002")
    caller = world.call("1001", "1002", late=seed % 5 == 4)
    plan = world.random
    for _ in range(plan.randrange(4)):
        who, way = plan.choice(("1001", "1002")), plan.randrange(4)
        world.after(plan.random() * 20, partial(change, world, who, way))
    last = plan.choice(("1001", "1002"))
    world.run(plan.random() * 25)
    if last == "1002" and world.of("1002", Incoming):
        world.hang_up("1002", world.incoming("1002"))
    else:
        world.hang_up("1001", caller)
    world.run(150)
    for name in ("1001", "1002"):
        for tag in list(world.phones[name].calls):
            world.hang_up(name, tag)
    world.run(100)
    world.loss = 0.0
    world.is_clean(cdrs=world.switch.counters["calls"], strict=False)
    assert len(world.ended("1001")) == 1
    assert len(world.ended("1002")) == len(world.of("1002", Incoming))
