"""Calls over trunks: where they go, what a carrier is told, and what becomes of them when it has no ear for them."""

from collections.abc import Sequence

import pytest
from msgspec import structs
from tests.unit.switch.carrier import USER, Carrier, outward, trunk
from tests.unit.switch.plans import item, planned
from tests.unit.switch.world import Crash, World, make_settings

from warden.call.cdr import Result
from warden.phone.events import Ended
from warden.sip.message import Request
from warden.store.ports import Item
from warden.switch.trunks.trunk import Identity

FAR = "0301234567"


def a_world(*trunks: Item, hosts: Sequence[str] = ("10.9.0.1",), **more: object) -> tuple[World, list[Carrier]]:
    """A world with carriers at these hosts, and numbers with a 0 go out over the trunks in their order."""

    world = World(directory=planned(*trunks, *outward(*trunks), numbers=("1001", "1002")), **more)  # type: ignore[arg-type]
    carriers = [Carrier(world, host) for host in hosts]
    world.run(8)
    return world, carriers


def invites(carrier: Carrier) -> list[Request]:
    found: dict[tuple[str, int], Request] = {}
    for request in carrier.requests("INVITE"):
        found.setdefault((request.call_id, request.cseq.number), request)
    return list(found.values())


def test_a_call_goes_to_the_carrier_and_is_one_call_with_one_record() -> None:
    world, (carrier,) = a_world(trunk(caller_id="+4930555{extension}"))
    tag = world.call("1001", FAR, run_s=3)
    (invite,) = invites(carrier)
    assert str(invite.uri) == f"sip:{FAR}@10.9.0.1"
    assert str(invite.from_.uri) == "sip:+49305551001@10.9.0.1"
    assert invite.get("P-Asserted-Identity") == '"Number 1001" <sip:+49305551001@10.9.0.1>'
    assert invite.get("Privacy") is None
    world.hang_up("1001", tag)
    (cdr,) = world.is_clean()
    assert (cdr.result, cdr.caller, cdr.callee, cdr.answered_by) == (Result.ANSWERED, "1001", FAR, FAR)


@pytest.mark.parametrize("is_proxy", [False, True])
def test_a_carrier_that_asks_for_proof_gets_it_in_the_same_dialog_and_for_what_follows(is_proxy: bool) -> None:
    world, (carrier,) = a_world(trunk())
    carrier.asks = {"INVITE", "BYE"}
    carrier.is_proxy = is_proxy
    tag = world.call("1001", FAR, run_s=3)
    first, second = invites(carrier)
    assert (first.call_id, first.from_.tag) == (second.call_id, second.from_.tag)
    assert [first.cseq.number, second.cseq.number] == [1, 2]
    field = "Proxy-Authorization" if is_proxy else "Authorization"
    acks = [ack for ack in carrier.requests("ACK") if ack.cseq.number == 2]
    assert [ack.get(field) for ack in acks] == [second.get(field)]
    assert world.switch.calls
    world.hang_up("1001", tag, run_s=1)
    assert [bye.get(field) is not None for bye in carrier.requests("BYE")] == [False, True]
    assert world.is_clean()[0].result is Result.ANSWERED


def test_the_carrier_that_hears_a_hold_may_ask_for_proof_too() -> None:
    world, (carrier,) = a_world(trunk())
    tag = world.call("1001", FAR, run_s=3)
    carrier.asks = {"INVITE"}
    carrier.answer_s = 0.1
    world.do("1001", world.phones["1001"].hold(world.now, tag))
    world.run(3)
    held = [request for request in invites(carrier) if request.to.tag]
    assert [request.get("Authorization") is not None for request in held] == [False, True]
    world.hang_up("1001", tag)
    world.is_clean()


def test_credentials_that_fail_end_the_call_and_are_told() -> None:
    world, (carrier,) = a_world(trunk(word="wrong"))
    carrier.asks = {"INVITE"}
    world.call("1001", FAR, run_s=3)
    assert world.ended("1001") == [480]
    assert len(invites(carrier)) == 2
    (status,) = world.switch.trunk_status(world.now)
    assert status.error == (
        f"trunk carrier: 401 Unauthorized to a call of user {USER} at 10.9.0.1:5060: check username and password"
    )
    assert world.news[-1] == status.error
    assert world.is_clean()[0].result is Result.UNREACHABLE


@pytest.mark.parametrize("answer", [503, 500, 408, 0])
def test_the_next_address_of_a_trunk_is_tried_then_the_next_trunk(answer: int) -> None:
    world, (one, two, three) = a_world(
        trunk("first", "10.9.0.1", "10.9.0.2"), trunk("second", "10.9.0.3"), hosts=("10.9.0.1", "10.9.0.2", "10.9.0.3")
    )
    one.answers["INVITE"] = two.answers["INVITE"] = answer
    tag = world.call("1001", FAR, run_s=12)
    assert [len(invites(carrier)) for carrier in (one, two, three)] == [1, 1, 1]
    assert world.switch.calls
    world.hang_up("1001", tag)
    (cdr,) = world.is_clean()
    assert cdr.result is Result.ANSWERED


def test_a_busy_number_is_busy_over_every_trunk() -> None:
    world, (one, two) = a_world(trunk("a", "10.9.0.1"), trunk("b", "10.9.0.2"), hosts=("10.9.0.1", "10.9.0.2"))
    one.answers["INVITE"] = 486
    world.call("1001", FAR, run_s=3)
    assert world.ended("1001") == [486]
    assert invites(two) == []
    assert world.is_clean()[0].result is Result.BUSY


def test_a_carrier_that_rings_too_late_is_not_left_ringing() -> None:
    """It said nothing for four seconds, so that the call went elsewhere; then it rings, and is told to stop."""
    world, (one, two) = a_world(trunk("a", "10.9.0.1"), trunk("b", "10.9.0.2"), hosts=("10.9.0.1", "10.9.0.2"))
    one.answers["INVITE"] = 0
    tag = world.call("1001", FAR, run_s=6)
    assert len(invites(two)) == 1
    del one.answers["INVITE"]
    one.answer_s = 5
    world.run(10)
    assert len(one.requests("CANCEL")) == 1
    world.hang_up("1001", tag)
    world.is_clean()


def test_a_carrier_that_answers_too_late_is_hung_up() -> None:
    world, (one, _) = a_world(trunk("a", "10.9.0.1"), trunk("b", "10.9.0.2"), hosts=("10.9.0.1", "10.9.0.2"))
    one.answers["INVITE"] = 0
    tag = world.call("1001", FAR, run_s=6)
    (invite,) = invites(one)
    one._ringing[invite.call_id] = invite
    one._take(invite)
    world.run(2)
    assert len(one.requests("BYE")) == 1
    assert world.switch.calls
    world.hang_up("1001", tag)
    world.is_clean()


def test_an_address_that_failed_a_call_is_the_last_to_be_tried_by_the_next() -> None:
    world, (one, two) = a_world(trunk("a", "10.9.0.1", "10.9.0.2", probe_s=0.0), hosts=("10.9.0.1", "10.9.0.2"))
    one.answers["INVITE"] = 503
    for _ in range(2):
        world.hang_up("1001", world.call("1001", FAR, run_s=3), run_s=1)
    assert [len(invites(one)), len(invites(two))] == [1, 2]
    world.run(40)
    world.hang_up("1001", world.call("1001", FAR, run_s=3), run_s=1)
    assert len(invites(one)) == 2
    world.is_clean(cdrs=3)


def test_a_trunk_of_which_no_address_answers_is_passed_over_at_once() -> None:
    world, (one, two) = a_world(trunk("a", "10.9.0.1"), trunk("b", "10.9.0.2"), hosts=("10.9.0.1", "10.9.0.2"))
    one.answers["OPTIONS"] = 0
    world.run(60)
    world.hang_up("1001", world.call("1001", FAR, run_s=0.5), run_s=1)
    assert (len(invites(one)), len(invites(two))) == (0, 1)
    world.is_clean()


def test_no_more_calls_than_channels_go_over_a_trunk() -> None:
    world, (one, two) = a_world(
        trunk("a", "10.9.0.1", channels_max=1), trunk("b", "10.9.0.2"), hosts=("10.9.0.1", "10.9.0.2")
    )
    first = world.call("1001", FAR, run_s=2)
    assert [(s.name, s.channels) for s in world.switch.trunk_status(world.now)] == [("a", 1), ("b", 0)]
    second = world.call("1002", FAR, run_s=2)
    assert (len(invites(one)), len(invites(two))) == (1, 1)
    world.hang_up("1001", first, run_s=1)
    world.hang_up("1002", second, run_s=1)
    assert [s.channels for s in world.switch.trunk_status(world.now)] == [0, 0]
    world.is_clean(cdrs=2)


@pytest.mark.parametrize(
    ("identity", "field", "says"),
    [
        (Identity.PAI, "P-Asserted-Identity", "<sip:1001@10.9.0.1>"),
        (Identity.PPI, "P-Preferred-Identity", "<sip:1001@10.9.0.1>"),
        (Identity.RPID, "Remote-Party-ID", "<sip:1001@10.9.0.1>;party=calling;screen=yes;privacy=full"),
        (Identity.NONE, "", ""),
    ],
)
def test_who_does_not_want_to_be_known_is_told_to_the_carrier_alone(identity: Identity, field: str, says: str) -> None:
    world, (carrier,) = a_world(trunk(identity=identity))
    peer = world.peer("10.0.0.70")
    sdp = "v=0\r\no=c 1 1 IN IP4 10.0.0.70\r\ns=-\r\nc=IN IP4 10.0.0.70\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
    peer.ask("INVITE", "1001", ("Privacy", "id"), body=sdp, to=FAR)
    world.run(1)
    (invite,) = invites(carrier)
    assert str(invite.from_.uri) == "sip:anonymous@anonymous.invalid"
    assert invite.from_.display == "Anonymous"
    assert invite.get("Privacy") == "id"
    told = {name: invite.get(name) for name in ("P-Asserted-Identity", "P-Preferred-Identity", "Remote-Party-ID")}
    assert {name for name, value in told.items() if value} == ({field} if field else set())
    if field:
        assert (invite.get(field) or "").endswith(says)


def test_a_carrier_may_want_its_account_in_from() -> None:
    world, (carrier,) = a_world(trunk(from_user=USER, domain="carrier.test", caller_id="+493055500"))
    world.call("1001", FAR, run_s=2)
    (invite,) = invites(carrier)
    assert str(invite.from_.uri) == f"sip:{USER}@carrier.test"
    assert (invite.get("P-Asserted-Identity") or "").endswith("<sip:+493055500@carrier.test>")
    assert str(invite.uri) == f"sip:{FAR}@carrier.test"


@pytest.mark.parametrize("at", range(1, 16))
def test_a_successor_goes_on_with_a_call_that_is_on_its_way_to_the_second_trunk(at: int) -> None:
    """Each outcome of the call may be the process's last, spoken or unspoken."""
    for speaks in (True, False):
        world, (one, two) = a_world(trunk("a", "10.9.0.1"), trunk("b", "10.9.0.2"), hosts=("10.9.0.1", "10.9.0.2"))
        one.answers["INVITE"] = 503
        two.asks = {"INVITE", "BYE"}
        two.answer_s = 1
        world.crash = Crash(world.outcomes + at, speaks)
        tag = world.call("1001", FAR, run_s=20)
        if tag in world.phones["1001"].calls:
            world.hang_up("1001", tag, run_s=5)
        (cdr,) = world.is_clean(strict=False)
        assert cdr.result is Result.ANSWERED, (cdr, speaks)
        assert len(world.of("1001", Ended)) == 1
        assert len({invite.call_id for invite in invites(two)}) == 1


def test_an_emergency_call_has_a_channel_and_a_trunk_whatever_speaks_against_it() -> None:
    only = trunk(channels_max=1)
    items = (
        only,
        *outward(only),
        item("route", "help", pattern="112", to="outbound:all", emergency=True),
        item("class", "default", deny=["."]),
        item("class", "inside", allow=["XXXX", "0."]),
        item("user", "1001", **{"class": "inside"}),
    )
    directory = planned(*items, numbers=("1001", "1002"))
    world = World(directory=directory, settings=structs.replace(make_settings(), calls_max=1))
    carrier = Carrier(world, "10.9.0.1")
    carrier.answers["OPTIONS"] = 0
    world.run(1)
    first = world.call("1001", FAR, run_s=2)
    world.run(20)
    assert not world.switch.trunk_status(world.now)[0].up
    world.call("1002", FAR, run_s=1)
    assert world.ended("1002") == [503], "the seat is full"
    second = world.call("1002", "112", run_s=2)
    assert [request.uri.user for request in invites(carrier)] == [FAR, "112"]
    assert len(world.switch.calls) == 2
    world.hang_up("1001", first, run_s=1)
    world.hang_up("1002", second, run_s=1)
    assert world.call("1002", FAR, run_s=1)
    assert world.ended("1002")[-1] == 403


def test_a_number_is_dialled_as_the_carrier_wants_it() -> None:
    only = trunk()
    world = World(directory=planned(only, *outward(only, strip=1, prepend="+49"), numbers=("1001", "1002")))
    carrier = Carrier(world, "10.9.0.1")
    world.run(1)
    world.call("1001", FAR, run_s=1)
    assert invites(carrier)[0].uri.user == "+49301234567"


def test_a_call_that_is_transferred_outside_tries_one_trunk_after_the_other_too() -> None:
    world, (one, two) = a_world(trunk("a", "10.9.0.1"), trunk("b", "10.9.0.2"), hosts=("10.9.0.1", "10.9.0.2"))
    one.answers["INVITE"] = 0
    two.asks = {"INVITE"}
    caller, callee = world.up()
    world.do("1002", world.phones["1002"].transfer(world.now, callee, FAR))
    world.run(8)
    assert [invite.from_.uri.user for invite in invites(two)] == ["1001", "1001"]
    assert [s.channels for s in world.switch.trunk_status(world.now)] == [1, 1], "the first may still ring"
    world.run(40)
    assert [s.channels for s in world.switch.trunk_status(world.now)] == [0, 1]
    world.hang_up("1001", caller, run_s=1)
    (cdr,) = world.is_clean()
    assert (cdr.transferred_by, cdr.transferred_to) == ("1002", FAR)


def test_a_call_over_a_trunk_stays_one_of_its_channels_when_it_is_transferred() -> None:
    world, (carrier,) = a_world(trunk())
    out = world.call("1001", FAR, run_s=2)
    world.rings_then_answers("1002")
    other = world.call("1001", "1002", run_s=2)
    world.do("1001", world.phones["1001"].transfer(world.now, other, FAR, instead_of=out))
    world.run(3)
    assert [s.channels for s in world.switch.trunk_status(world.now)] == [1]
    assert len(world.of("1001", Ended)) == 2
    world.hang_up("1002", world.incoming("1002"), run_s=1)
    assert [s.channels for s in world.switch.trunk_status(world.now)] == [0]
    assert len(carrier.requests("BYE")) == 1
    world.is_clean(cdrs=2)
