"""Somebody takes the place of a party, by an INVITE with Replaces."""

from collections.abc import Callable

import pytest
from tests.unit.switch.test_transfers import talk_with_each_other, three
from tests.unit.switch.world import World

from warden.call.cdr import Party, Result
from warden.phone.events import Ended, Talking
from warden.phone.line import Habits
from warden.sip.message import Request, Response


def named(world: World, who: str) -> str:
    """The last dialog that we have with a phone, as the phone names it to others: by Call-ID and tags."""
    invites = [m for _, s, t, m in world.log if m.cseq.method == "INVITE" and world.addresses[who] in (s, t)]
    last = next(m for m in reversed(invites) if isinstance(m, Response) and m.to.tag and m.status != 401)
    request = next(m for m in invites if isinstance(m, Request) and m.call_id == last.call_id)
    is_ours = request.via.host == world.server.host
    ours, theirs = (last.from_.tag, last.to.tag) if is_ours else (last.to.tag, last.from_.tag)
    return f"{last.call_id};to-tag={ours};from-tag={theirs}"


def pick_up(world: World, who: str, replaces: str, *, late: bool = False) -> str:
    """A phone calls, to take the place of somebody."""
    phone = world.phones[who]
    tag, out = phone.call(world.now, "1002", world.media_of(who), late=late, replaces=replaces)
    world.do(who, out)
    world.run(2)
    return tag


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("left", "stays"), [("1001", "1002"), ("1002", "1001")])
def test_the_place_of_either_party_is_taken(left: str, stays: str, late: bool) -> None:
    world, _ = three()
    tag = pick_up(world, "1003", named(world, left), late=late)
    assert len(world.of(left, Ended)) == 1
    assert "Replaced" in world.of(left, Ended)[0].reason
    assert talk_with_each_other(world, stays, "1003")
    world.do("1003", world.phones["1003"].hold(world.now, tag))
    world.run(1)
    world.do("1003", world.phones["1003"].resume(world.now, tag))
    world.run(1)
    assert talk_with_each_other(world, stays, "1003")
    world.hang_up("1003", tag, run_s=1)
    (cdr,) = world.is_clean()
    assert (cdr.caller, cdr.answered_by, cdr.transferred_by, cdr.transferred_to) == ("1001", "1002", left, "1003")
    assert cdr.ended_by is (Party.CALLER if left == "1001" else Party.CALLEE)


@pytest.mark.parametrize("late", [False, True])
def test_a_call_that_rings_elsewhere_is_picked_up(late: bool) -> None:
    world = World("1001", "1002", "1003")
    world.on_incoming["1002"] = lambda e: world.do("1002", world.phones["1002"].ring(world.now, e.call))
    world.call("1001", "1002", late=late, run_s=1)
    tag = pick_up(world, "1003", named(world, "1002"))
    assert world.ended("1002") == [487]
    assert b"a=inactive" in next(r for r in world.responses("INVITE", to="1003") if r.status == 200).body
    assert talk_with_each_other(world, "1001", "1003")
    world.hang_up("1003", tag, run_s=1)
    (cdr,) = world.is_clean()
    assert (cdr.callee, cdr.answered_by, cdr.result, cdr.ended_by) == ("1002", "1003", Result.ANSWERED, Party.CALLEE)
    assert cdr.transferred_to == ""


def test_a_caller_that_gives_up_while_its_call_is_picked_up_ends_it_for_both() -> None:
    world = World("1001", "1002", "1003")
    world.on_incoming["1002"] = lambda e: world.do("1002", world.phones["1002"].ring(world.now, e.call))
    caller = world.call("1001", "1002", run_s=1)
    replaces = named(world, "1002")
    world.after(0.035, lambda: world.hang_up("1001", caller))
    pick_up(world, "1003", replaces)
    assert len(world.of("1003", Ended)) == 1
    assert not world.of("1001", Talking)
    (cdr,) = world.is_clean()
    assert cdr.result is Result.CANCELLED


@pytest.mark.parametrize("crosses", [False, True])
def test_who_wants_a_place_and_gives_up_leaves_the_two_together(crosses: bool) -> None:
    world, tags = three()
    world.phones["1001"].habits = Habits(answers_updates=False)
    tag = pick_up(world, "1003", named(world, "1002"))
    world.hang_up("1003", tag)
    world.phones["1001"].habits = Habits()
    if crosses:
        # It has agreed already, and is shown its own party once more.
        world.do("1001", world.phones["1001"].answer_update(world.now, tags["1001"]))
    world.run(5)
    assert world.ended("1003") == [487]
    assert talk_with_each_other(world, "1001", "1002")
    world.hang_up("1001", tags["1001"])
    world.is_clean(strict=not crosses)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda r: r, 200),
        (lambda r: r + ";early-only", 486),
        (lambda r: r.replace("to-tag=", "to-tag=x"), 481),
        (lambda r: r.replace("from-tag=", "from-tag=x"), 481),
        (lambda r: r.partition(";")[0], 400),
    ],
)
def test_a_place_that_cannot_be_taken_is_refused_as_the_rfc_says(change: Callable[[str], str], status: int) -> None:
    world, tags = three()
    tag = pick_up(world, "1003", change(named(world, "1002")))
    assert [r.status for r in world.responses("INVITE", to="1003") if r.status >= 200 and r.status != 401] == [status]
    if status == 200:
        world.hang_up("1003", tag)
    else:
        assert talk_with_each_other(world, "1001", "1002")
        world.hang_up("1001", tags["1001"])
    world.is_clean()


def test_the_dialog_of_a_call_that_is_over_cannot_be_taken() -> None:
    world, tags = three()
    replaces = named(world, "1002")
    del world.addresses["1001"]
    world.hang_up("1002", tags["1002"], run_s=1)
    pick_up(world, "1003", replaces)
    assert world.ended("1003") == [603]
