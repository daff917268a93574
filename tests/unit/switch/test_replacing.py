"""Phones that refuse the re-INVITE after a relocation: they are asked for another dialog instead (RFC 3891)."""

import pytest
from tests.unit.switch.carrier import Carrier, outward, trunk
from tests.unit.switch.moving import THERE, join, only_session, relocate
from tests.unit.switch.plans import planned
from tests.unit.switch.stubborn import Stubborn, make_stubborn
from tests.unit.switch.world import DOWN_S, Crash, World, make_settings

from warden.call.cdr import Cdr, Party, Result
from warden.core.address import Address
from warden.phone.events import Ended, Referred, Talking
from warden.sdp.sdes import Policy
from warden.sip.message import Request
from warden.switch.restart import CSEQ_STEP

BOTH = ("1001", "1002")


def stubborn_call(name: str = "1002", world: World | None = None) -> tuple[World, Stubborn, dict[str, str]]:
    """1001 talks to 1002, and one of them accepts no re-INVITE: with the handles of their calls."""
    world = world or World()
    phone = make_stubborn(world, name)
    caller, callee = world.up()
    del world.on_incoming["1002"]
    return world, phone, {"1001": caller, "1002": callee}


def goes_on(world: World, phone: Stubborn, tags: dict[str, str]) -> None:
    """The stubborn phone's call is another one to it, and the same to everybody else."""
    tags[phone.name] = world.incoming(phone.name)
    assert set(phone.calls) == {tags[phone.name]}
    assert world.of(phone.name, Talking)[-1].remote == Address(THERE.host, near_port(world, phone.name))
    assert world.news == []


def near_port(world: World, name: str) -> int:
    """Our RTP port towards a phone."""
    stream = only_session(world).streams[0]
    side = stream.a if name == "1001" else stream.b
    assert side is not None
    return side.port


def byes_to(world: World, name: str) -> list[Request]:
    return world.requests("BYE", to=name)


def is_one_call(world: World, by: Party) -> Cdr:
    [cdr] = world.is_clean()
    assert (cdr.result, cdr.caller, cdr.answered_by, cdr.ended_by) == (Result.ANSWERED, "1001", "1002", by)
    return cdr


@pytest.mark.parametrize("leaves_first", [False, True])
@pytest.mark.parametrize("hanger", BOTH)
@pytest.mark.parametrize("stubborn", BOTH)
def test_the_call_goes_on_in_the_dialog_that_the_phone_accepts(stubborn: str, hanger: str, leaves_first: bool) -> None:
    world, phone, tags = stubborn_call(stubborn)
    phone.leaves_first = leaves_first
    relocate(world)
    goes_on(world, phone, tags)
    [invite] = phone.replacements
    assert invite.get("Require") == "replaces"
    assert invite.to.tag is None
    assert f"@{THERE}" in (invite.get("Contact") or "")
    assert f"c=IN IP4 {THERE.host}" in invite.body.decode()
    assert byes_to(world, stubborn) == [], "the old dialog is the phone's to end"
    assert [m.status for m in world.responses("BYE", to=stubborn)] == [200]
    world.hang_up(hanger, tags[hanger])
    is_one_call(world, Party.CALLER if hanger == "1001" else Party.CALLEE)


@pytest.mark.parametrize("status", [405, 420, 488, 501, 500, 603])
def test_any_answer_that_means_never_leads_to_it(status: int) -> None:
    world, phone, tags = stubborn_call()
    phone.refuses = status
    relocate(world)
    goes_on(world, phone, tags)
    world.hang_up("1001", tags["1001"])
    is_one_call(world, Party.CALLER)


@pytest.mark.parametrize(("status", "fields"), [(491, ()), (500, (("Retry-After", "3"),)), (401, ())])
def test_an_answer_that_means_not_now_is_another_try_later(status: int, fields: tuple[tuple[str, str], ...]) -> None:
    world, phone, tags = stubborn_call()
    phone.refuses, phone.fields = status, fields
    relocate(world, 30.0)
    assert phone.replacements == []
    phone.refuses, phone.fields = 488, ()
    world.run(30)
    goes_on(world, phone, tags)
    world.hang_up("1001", tags["1001"])
    is_one_call(world, Party.CALLER)


def test_a_refusal_of_what_the_other_one_wanted_is_none_of_where_we_are() -> None:
    world, phone, tags = stubborn_call()
    phone.refuses = 401
    relocate(world)
    phone.refuses = 488
    world.do("1001", world.phones["1001"].hold(world.now, tags["1001"]))
    world.run(1)
    assert world.responses("INVITE", to="1001")[-1].status == 488
    assert phone.replacements == []
    world.hang_up("1001", tags["1001"])
    is_one_call(world, Party.CALLER)


def test_a_phone_that_has_lost_the_call_ends_it() -> None:
    world, phone, _ = stubborn_call()
    phone.refuses = 481
    relocate(world)
    assert phone.replacements == []
    assert len(world.of("1001", Ended)) == 1
    is_one_call(world, Party.SYSTEM)


@pytest.mark.parametrize("status", [420, 481, 486, 401])
def test_a_phone_that_refuses_both_keeps_its_call_and_the_log_says_so(status: int) -> None:
    world, phone, tags = stubborn_call()
    phone.takes = status
    relocate(world, 200.0)
    assert len(phone.replacements) == 1
    [said] = world.news
    assert said.startswith(f"1002 is not moved: {status}")
    assert all(world.phones[name].calls for name in BOTH)
    world.do("1001", world.phones["1001"].hold(world.now, tags["1001"]))
    world.run(1)
    # It is still told what others want of it, and has its way.
    assert world.responses("INVITE", to="1001")[-1].status == 488
    world.hang_up("1001", tags["1001"])
    is_one_call(world, Party.CALLER)


def test_a_phone_that_rings_instead_is_left_alone_after_a_while() -> None:
    world, phone, tags = stubborn_call()
    phone.takes = 180
    relocate(world, 30.0)
    assert len(phone.calls) == 2
    world.run(30)
    assert set(phone.calls) == {tags["1002"]}
    assert world.news == ["1002 is not moved: 487 Request Terminated"]
    world.hang_up("1001", tags["1001"])
    is_one_call(world, Party.CALLER)


@pytest.mark.parametrize("takes", [0, 180])
def test_a_phone_that_hangs_up_before_it_has_answered_ends_the_call(takes: int) -> None:
    world, phone, tags = stubborn_call()
    phone.takes = takes
    relocate(world, 1.0)
    phone.follow(phone._calls[tags["1002"]])
    world.hang_up("1002", tags["1002"], run_s=1.0)
    for tag in list(phone.calls):
        world.hang_up("1002", tag)
    world.run(40)
    assert len(world.of("1001", Ended)) == 1
    [cdr] = world.is_clean(strict=False)
    assert (cdr.result, cdr.ended_by) == (Result.ANSWERED, Party.CALLEE)


@pytest.mark.parametrize("takes", [0, 180, 200])
def test_the_other_one_hangs_up_while_the_phone_is_asked(takes: int) -> None:
    world, phone, tags = stubborn_call()
    phone.takes = takes
    relocate(world, 0.0)
    world.run(1.0, until=lambda: bool(world.requests("INVITE", to="1002")[-1].get("Replaces")))
    world.hang_up("1001", tags["1001"], run_s=1.0)
    assert phone.calls == {}
    is_one_call(world, Party.CALLER)


def test_the_other_one_hangs_up_while_the_phone_accepts_and_is_not_heard() -> None:
    world, phone, tags = stubborn_call()
    phone.takes = 180
    relocate(world, 1.0)
    world.hang_up("1001", tags["1001"], run_s=0.015)
    # The CANCEL is on its way.
    world.loss = 1.0
    accepted = world.incoming("1002")
    world.do("1002", phone.answer(world.now, accepted, world.media_of("1002")))
    world.loss = 0.0
    world.run(0.2)
    assert set(phone.calls) == {accepted}, "the BYE was for the other one"
    world.run(1.0)
    assert phone.calls == {}
    is_one_call(world, Party.CALLER)


def test_what_comes_later_goes_through_the_new_dialog() -> None:
    world, phone, tags = stubborn_call()
    relocate(world)
    goes_on(world, phone, tags)
    world.do("1002", phone.hold(world.now, tags["1002"]))
    world.run(1)
    held = world.of("1001", Talking)[-1]
    assert not held.sends
    world.do("1002", phone.resume(world.now, tags["1002"]))
    world.run(1)
    assert world.of("1001", Talking)[-1].sends
    world.hang_up("1002", tags["1002"])
    is_one_call(world, Party.CALLEE)


def test_the_phone_transfers_its_call_afterwards() -> None:
    world, phone, tags = stubborn_call("1001", World("1001", "1002", "1003"))
    relocate(world)
    goes_on(world, phone, tags)
    join(world, "1001")
    world.rings_then_answers("1003")
    second = world.call("1001", "1003", run_s=2.0)
    world.do("1001", phone.transfer(world.now, tags["1001"], "1003", instead_of=second))
    world.run(2)
    assert [event.status for event in world.of("1001", Referred)][-1] == 200
    assert phone.calls == {}
    world.hang_up("1002", tags["1002"])
    world.is_clean(cdrs=2)


def test_nobody_is_told_in_the_new_dialog_of_a_transfer_that_began_in_the_old_one() -> None:
    world, phone, tags = stubborn_call("1002", World("1001", "1002", "1003"))
    world.do("1002", phone.transfer(world.now, tags["1002"], "1003"))
    world.run(1)
    assert world.requests("NOTIFY", to="1002")
    relocate(world)
    goes_on(world, phone, tags)
    world.run(200)
    [invite] = phone.replacements
    assert invite.call_id not in [m.call_id for m in world.requests("NOTIFY", to="1002")]
    for name in (*BOTH, "1003"):
        for tag in list(world.phones[name].calls):
            world.hang_up(name, tag)
    world.is_clean(strict=False)


def test_it_is_the_party_of_the_new_dialog_that_others_replace() -> None:
    world, phone, tags = stubborn_call("1002", World("1001", "1002", "1003"))
    relocate(world)
    goes_on(world, phone, tags)
    join(world, "1003")
    [call] = phone._calls.values()
    target = f"sip:1002@{world.server.host}"
    tag, out = world.phones["1003"].call(world.now, target, world.media_of("1003"), replaces=call.as_replaced)
    world.do("1003", out)
    world.run(2)
    assert phone.calls == {}
    assert world.phones["1003"].calls
    world.hang_up("1003", tag)
    world.is_clean()


def test_each_region_in_turn_is_told_of() -> None:
    world, phone, tags = stubborn_call()
    before = world.settings
    relocate(world)
    goes_on(world, phone, tags)
    world.settings = before
    world.server = before.advertised[phone._line.flow.transport]
    world.restart()
    world.run(2)
    tags["1002"] = world.incoming("1002")
    assert len(phone.replacements) == 2
    assert set(phone.calls) == {tags["1002"]}
    world.hang_up("1001", tags["1001"])
    is_one_call(world, Party.CALLER)


def test_a_phone_that_accepts_an_address_where_we_are_no_more_is_told_of_the_next() -> None:
    world, phone, tags = stubborn_call()
    phone.takes = 0
    relocate(world, 1.0)
    phone.takes = 200
    third = Address("10.8.8.8", 5060)
    world.settings, world.server = make_settings(third), third
    world.restart()
    world.run(3)
    tags["1002"] = world.incoming("1002")
    assert set(phone.calls) == {tags["1002"]}
    assert f"@{third}" in (phone.replacements[-1].get("Contact") or "")
    world.hang_up("1001", tags["1001"])
    is_one_call(world, Party.CALLER)


def test_a_secured_phone_gets_other_keys() -> None:
    world = World(tls=True)
    world.srtp = dict.fromkeys(BOTH, Policy.REQUIRED)
    world, phone, tags = stubborn_call("1002", world)
    before = world.of("1002", Talking)[-1]
    relocate(world)
    for name in BOTH:
        flow = world.phones[name]._line.flow
        new = flow._replace(remote=THERE, connection=world.connect(world.addresses[name]))
        world.do(name, world.phones[name].use(world.now, new))
    world.run(5)
    tags["1002"] = world.incoming("1002")
    assert set(phone.calls) == {tags["1002"]}
    after = world.of("1002", Talking)[-1]
    side = only_session(world).streams[0].b
    assert side is not None
    assert side.srtp is not None
    assert before.srtp is not None
    assert after.srtp is not None
    assert after.srtp.inbound not in (before.srtp.inbound, before.srtp.outbound)
    assert (side.srtp.inbound, side.srtp.outbound) == (after.srtp.outbound, after.srtp.inbound)
    world.hang_up("1001", tags["1001"])
    is_one_call(world, Party.CALLER)


def test_a_carrier_is_not_asked() -> None:
    line = trunk()
    world = World("1001", directory=planned(line, *outward(line), numbers=("1001",)))
    carrier = Carrier(world, "10.9.0.1")
    world.run(1)
    tag = world.call("1001", "0301234567", run_s=2)
    carrier.answers["INVITE"] = 488
    relocate(world, 3.0)
    assert [m for m in carrier.requests("INVITE") if m.get("Replaces") is not None] == []
    world.hang_up("1001", tag)
    world.is_clean()


@pytest.mark.parametrize("leaves_first", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_a_bad_line_costs_time_and_no_call(seed: int, leaves_first: bool) -> None:
    world, phone, tags = stubborn_call("1002", World(seed=seed))
    phone.leaves_first = leaves_first
    world.loss = 0.3
    relocate(world, 33.0)
    world.loss = 0.0
    world.run(33)
    goes_on(world, phone, tags)
    assert world.phones["1001"].calls
    world.hang_up("1001", tags["1001"])
    is_one_call(world, Party.CALLER)


def test_the_next_process_counts_on_in_the_new_dialog_where_none_has_before() -> None:
    """What the process before it may have said there, while the store was away, was never written."""
    world, phone, tags = stubborn_call()
    phone.takes = 0
    relocate(world, 1.0)
    phone.takes = 200
    world.restart()
    world.run(3)
    goes_on(world, phone, tags)
    world.hang_up("1001", tags["1001"], run_s=1)
    assert byes_to(world, "1002")[-1].cseq.number == CSEQ_STEP + 2
    is_one_call(world, Party.CALLER)


@pytest.mark.parametrize("speaks", [False, True])
@pytest.mark.parametrize("leaves_first", [False, True])
def test_whoever_dies_in_the_middle_the_next_goes_on(leaves_first: bool, speaks: bool) -> None:
    """A crash at every outcome between the adoption and the end of all this, until it dies after the end."""
    done = 0
    for at in range(1, 60):
        world, phone, tags = stubborn_call()
        phone.leaves_first = leaves_first
        relocate(world, DOWN_S)
        world.crash = Crash(world.outcomes + at, speaks)
        world.run(20)
        happened = world.crash is None
        tags["1002"] = world.incoming("1002")
        assert set(phone.calls) == {tags["1002"]}, at
        assert world.phones["1001"].calls, at
        world.crash = None
        world.hang_up("1002", tags["1002"])
        is_one_call(world, Party.CALLEE)
        if not happened:
            break
        done += 1
    assert 5 < done < 59
