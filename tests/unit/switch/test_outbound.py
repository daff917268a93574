"""Phones that are to be reached over the flow that they keep open, and over nothing else (RFC 5626)."""

import pytest
from tests.unit.switch.world import Peer, World

from warden.core.address import Address, Flow, Transport
from warden.sip.dialog import dialog_as_uac
from warden.switch.registrar import Binding, flows_of
from warden.switch.roster import newest

SUPPORTED = ("Supported", "path, outbound")
SDP = "v=0\r\no=- 1 1 IN IP4 10.9.0.1\r\ns=-\r\nc=IN IP4 10.9.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"


def lonely() -> World:
    world = World()
    world.register("1002", 0)
    return world


def contact(reg_id: int = 1, *, host: str = "10.9.0.1:7777", instance: str = "<urn:uuid:7f>") -> tuple[str, str]:
    return "Contact", f'<sip:1002@{host};ob>;+sip.instance="{instance}";reg-id={reg_id}'


def test_a_phone_that_keeps_its_flow_open_is_told_how_often_and_is_called_over_it() -> None:
    world = lonely()
    phone = world.peer("10.9.0.1")
    assert phone.ask("REGISTER", "1002", contact(), SUPPORTED) == 200
    answer = phone.last()
    assert (answer.get("Require"), answer.get("Flow-Timer")) == ("outbound", "30")
    assert [c.param("reg-id") for c in answer.contacts] == ["1"]
    world.call("1001", "1002", run_s=0.2)
    assert len(phone.requests("INVITE")) == 1


@pytest.mark.parametrize(
    "fields", [(contact(),), (contact(0), SUPPORTED), (contact(instance=""), SUPPORTED)], ids=["unsupported", "0", "no"]
)
def test_a_phone_that_does_not_ask_for_it_is_called_at_its_contact(fields: tuple[tuple[str, str], ...]) -> None:
    world = lonely()
    phone, there = world.peer("10.9.0.1"), world.peer("10.9.0.1", 7777)
    assert phone.ask("REGISTER", "1002", *fields) == 200
    assert (phone.last().get("Require"), phone.last().get("Flow-Timer")) == (None, None)
    world.call("1001", "1002", run_s=0.2)
    assert (len(phone.requests("INVITE")), len(there.requests("INVITE"))) == (0, 1)


def test_a_phone_with_two_flows_is_called_over_the_newer_one_only() -> None:
    world = lonely()
    one, two = world.peer("10.9.0.1"), world.peer("10.9.0.2")
    for phone, reg_id in ((one, 1), (two, 2)):
        assert phone.ask("REGISTER", "1002", contact(reg_id, host=str(phone.address)), SUPPORTED) == 200
    assert len(two.last().contacts) == 2
    world.call("1001", "1002", run_s=0.2)
    assert (len(one.requests("INVITE")), len(two.requests("INVITE"))) == (0, 1)
    another = world.peer("10.9.0.3")
    assert another.ask("REGISTER", "1002", contact(host="10.9.0.3", instance="<urn:uuid:8f>"), SUPPORTED) == 200
    assert one.ask("REGISTER", "1002", contact(1, host="10.9.0.1"), SUPPORTED) == 200
    world.call("1001", "1002", run_s=0.2)
    assert [len({i.call_id for i in phone.requests("INVITE")}) for phone in (one, two, another)] == [1, 1, 1]


def over(connection: int) -> Binding:
    flow = Flow(Transport.TCP, Address("10.0.0.254", 5060), Address("10.9.0.1", 40_000 + connection), connection)
    return Binding("sip:1002@10.9.0.1", 1e9, "c", 1, flow, instance="urn:uuid:7f", reg_id=connection)


def test_a_phone_with_two_flows_at_another_seat_is_called_over_the_newer_one_only() -> None:
    assert newest([("1002", "seat-2", over(1)), ("1002", "seat-2", over(2))]) == [("1002", "seat-2", over(2))]


def test_a_flow_that_is_gone_gives_way_to_the_one_before() -> None:
    first, second = over(1), over(2)
    gone: set[Flow] = set()
    assert flows_of((first, second), gone.__contains__) == [second]
    gone.add(second.flow)
    assert flows_of((first, second), gone.__contains__) == [first]
    gone.add(first.flow)
    assert flows_of((first, second), gone.__contains__) == [second]


def test_a_proxy_that_keeps_no_flow_is_no_first_hop_for_a_phone_that_needs_one() -> None:
    world = lonely()
    phone = world.peer("10.9.0.1")
    assert ask_by(phone, ("Path", "<sip:10.9.0.1;lr>")) == 439
    assert dict(world.switch.bindings).get("1002") is None
    assert ask_by(phone, ("Path", "<sip:flow@10.9.0.1;lr;ob>")) == 200


def ask_by(proxy: Peer, path: tuple[str, str]) -> int:
    """A proxy passes on a REGISTER."""
    proxy.ask("REGISTER", "1002", ("Contact", ""))
    branch = f"z9hG4bK{len(proxy.heard)}"
    vias = ("Via", f"SIP/2.0/UDP 10.9.0.1;branch={branch}, SIP/2.0/UDP 192.168.1.7;branch=z9hG4bKphone")
    request = proxy.request("REGISTER", "1002", contact(host="192.168.1.7"), SUPPORTED, path)
    proxy.say(proxy.with_credentials(request.without("Via").with_first(*vias), "1002"))
    return proxy.last().status


def test_a_caller_whose_contact_says_so_is_hung_up_over_its_flow() -> None:
    for param, heard_at in ((";ob", 5060), ("", 7777)):
        world = World()
        world.rings_then_answers("1002", answer_s=0.2)
        ann, elsewhere = world.peer("10.9.0.1"), world.peer("10.9.0.1", 7777)
        ann.ask("INVITE", "1001", ("Contact", f"<sip:1001@10.9.0.1:7777{param}>"), body=SDP, to="1002")
        world.run(1)
        invite = world.requests("INVITE")[1]
        dialog = dialog_as_uac(invite, ann.last(), Flow(Transport.UDP, ann.address, world.server))
        ack = dialog.ack(invite.cseq.number)
        ann.say(ack.with_first("Via", f"SIP/2.0/UDP {ann.address};branch=z9hG4bKack"))
        world.hang_up("1002", world.incoming("1002"), run_s=0.2)
        (bye,) = (bye for peer in (ann, elsewhere) for bye in peer.requests("BYE"))
        assert [peer.address.port for peer in (ann, elsewhere) if peer.requests("BYE")] == [heard_at]
        ann.say(bye.respond(200))
        world.is_clean()
