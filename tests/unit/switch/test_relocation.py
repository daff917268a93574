"""Calls that are adopted at another address: their phones are told by re-INVITE, and all goes on from there."""

import pytest
from tests.unit.switch.moving import THERE, join, only_session, relocate
from tests.unit.switch.world import World

from warden.call.cdr import Party, Result
from warden.core.address import Address
from warden.phone.events import Ended, Talking
from warden.sip.message import Request


def told_to(world: World, name: str) -> list[Request]:
    """The re-INVITEs that a phone got from the new address."""
    return [invite for _, invite in invites_to(world, name)]


def invites_to(world: World, name: str) -> list[tuple[float, Request]]:
    """With the time of each."""
    at = world.addresses[name]
    return [
        (when, m)
        for when, source, target, m in world.log
        if (source, target) == (THERE, at) and isinstance(m, Request) and m.method == "INVITE"
    ]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("hanger", ["1001", "1002"])
def test_an_answered_call_goes_on_from_the_new_address_and_can_be_ended_by_both(hanger: str, late: bool) -> None:
    world = World()
    caller, callee = world.up(late=late)
    relocate(world)
    for name, tag in ("1001", caller), ("1002", callee):
        [invite] = told_to(world, name)
        assert f"@{THERE}" in (invite.get("Contact") or "")
        assert f"c=IN IP4 {THERE.host}" in invite.body.decode()
        assert f"IN IP4 {THERE.host}" in invite.body.decode().split("o=warden ")[1].splitlines()[0]
        talking = world.of(name, Talking)[-1]
        assert talking.remote is not None
        assert talking.remote.host == THERE.host
        assert world.phones[name].calls[tag]
    session = only_session(world)
    assert session.host == THERE.host
    assert session.streams[0].a.remote == Address(world.addresses["1001"].host, 4000)
    world.hang_up(hanger, caller if hanger == "1001" else callee)
    [cdr] = world.is_clean()
    assert cdr.result is Result.ANSWERED
    assert len(world.of("1001", Ended)) == len(world.of("1002", Ended)) == 1


def test_the_version_of_what_a_phone_is_told_grows_by_one_and_a_later_hold_goes_through() -> None:
    world = World()
    caller, callee = world.up()
    before = world.of("1002", Talking)[-1]
    relocate(world)
    [invite] = told_to(world, "1002")
    session_id, version = invite.body.decode().split("o=warden ")[1].split()[:2]
    [first] = [m for m in world.requests("INVITE", to="1002") if m.to.tag is None]
    old_id, old_version = first.body.decode().split("o=warden ")[1].split()[:2]
    assert (session_id, int(version)) == (old_id, int(old_version) + 1)
    world.do("1001", world.phones["1001"].hold(world.now, caller))
    world.run(1)
    after = world.of("1002", Talking)[-1]
    assert before.remote != after.remote
    world.hang_up("1002", callee)
    world.is_clean()


def test_a_phone_is_called_from_the_new_address_without_having_registered_there() -> None:
    world = World()
    relocate(world)
    join(world, "1001")
    tag, _ = world.up()
    [invite] = told_to(world, "1002")
    assert invite.to.tag is None
    world.hang_up("1001", tag)
    world.is_clean()


def test_a_phone_on_tcp_is_told_when_it_has_come_to_the_new_address() -> None:
    world = World()
    world.register("1002", 0)
    world.add("1002", name="tcp", tcp=True)
    world.register("tcp")
    world.rings_then_answers("tcp")
    tag = world.call("1001", "1002", run_s=2)
    relocate(world, 20.0)
    assert told_to(world, "1001")
    assert told_to(world, "tcp") == []
    assert world.phones["1001"].calls, "the other one waits for it"
    join(world, "tcp")
    assert len(told_to(world, "tcp")) == 1
    world.hang_up("1001", tag)
    world.is_clean(strict=False)
    assert len(world.of("tcp", Ended)) == 1


def test_a_call_that_rings_ends_with_503_and_its_record() -> None:
    world = World()
    world.call("1001", "1002", run_s=1)
    world.do("1002", world.phones["1002"].ring(world.now, world.incoming("1002")))
    world.run(1)
    relocate(world, 40.0)
    assert world.ended("1001") == [503]
    [cdr] = world.is_clean()
    assert (cdr.result, cdr.status) == (Result.FAILED, 503)


def test_a_phone_that_died_with_the_region_ends_its_call() -> None:
    world = World()
    world.up()
    del world.addresses["1002"], world.phones["1002"]
    relocate(world, 40.0)
    assert world.ended("1001") == [200]
    [cdr] = world.is_clean()
    assert cdr.ended_by is Party.SYSTEM


def test_what_was_told_is_not_told_again_by_the_next_process() -> None:
    world = World()
    tag, _ = world.up()
    relocate(world)
    said = len(told_to(world, "1001"))
    world.restart()
    world.run(60)
    assert len(told_to(world, "1001")) == said == 1
    world.hang_up("1001", tag)
    world.is_clean()


def test_a_phone_that_asks_for_something_at_the_same_time_is_told_a_little_later() -> None:
    world = World()
    caller, callee = world.up()
    moved = world.now
    relocate(world, 0.205)
    # Its own re-INVITE goes where we were, so it refuses ours.
    world.do("1002", world.phones["1002"].hold(world.now, callee))
    world.run(20)
    assert [m.status for m in world.responses("INVITE") if m.status == 491]
    times = [when for when, _ in invites_to(world, "1002")]
    assert len(times) >= 2
    assert times[-1] - moved < 40
    world.hang_up("1001", caller)
    world.is_clean(strict=False)
