"""Calls whose phones have fallen silent: which are ended for it, and what their record says."""

import pytest
from msgspec.structs import replace
from tests.unit.switch.world import World, make_settings

from warden.call.cdr import Party, Result
from warden.media.protocol import FellSilent, Session
from warden.phone.events import Ended

SETTINGS = replace(make_settings(), rtp_timeout_s=60.0, rtp_hold_timeout_s=900.0)


def session(world: World) -> Session:
    (session,) = world.media.values()
    return session


def silent(world: World, leg: str) -> None:
    stream = session(world).streams[0]
    side = stream.a if leg == "a" else stream.b
    assert side is not None
    world.hear(FellSilent(session(world).id, side.port))


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize(("leg", "side", "alive"), [("a", "caller", "1002"), ("b", "callee", "1001")])
def test_a_phone_from_which_nothing_comes_any_more_ends_its_call(
    leg: str, side: str, alive: str, restarts: bool
) -> None:
    world = World(settings=SETTINGS)
    world.up()
    assert session(world).silence_s == 60.0
    if restarts:
        world.restart()
        world.run(1)
    silent(world, leg)
    world.run(1)
    assert world.of(alive, Ended)[0].reason == f'SIP;cause=408;text="No audio from the {side}"'
    (cdr,) = world.is_clean()
    assert (cdr.result, cdr.ended_by, cdr.reason) == (Result.ANSWERED, Party.SYSTEM, f"No audio from the {side}")


def test_nobody_is_missed_before_the_answer_and_on_hold_only_after_a_long_time() -> None:
    world = World(settings=SETTINGS)
    world.rings_then_answers("1002", answer_s=2.0)
    tag = world.call("1001", "1002", run_s=1)
    assert session(world).silence_s == 0.0
    world.run(2)
    for who in ("1001", "1002"):
        world.do(who, world.phones[who].hold(world.now, tag if who == "1001" else world.incoming("1002")))
        world.run(1)
        assert session(world).silence_s == 900.0
        world.do(who, world.phones[who].resume(world.now, tag if who == "1001" else world.incoming("1002")))
        world.run(1)
        assert session(world).silence_s == 60.0
    world.hang_up("1001", tag)
    world.is_clean()


def test_who_listens_to_an_application_may_be_silent() -> None:
    world = World(settings=SETTINGS)
    tag = world.call("1001", "*43", run_s=2)
    assert session(world).silence_s == 0.0
    silent(world, "a")
    assert len(world.switch.calls) == 1
    world.hang_up("1001", tag)
    world.is_clean()


def test_what_was_told_before_the_setting_was_turned_off_ends_no_call() -> None:
    world = World(settings=replace(SETTINGS, rtp_timeout_s=0.0))
    tag, _ = world.up()
    silent(world, "b")
    assert len(world.switch.calls) == 1
    world.hang_up("1001", tag)
    world.is_clean()
