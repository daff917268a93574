"""Phones that speak IPv6 and phones that speak IPv4 in one call: each is told an address of its own kind."""

import pytest
from msgspec.structs import replace
from tests.unit.switch.seats import OTHER, Seats
from tests.unit.switch.world import SERVER, Peer, World, make_settings

from warden.core.address import Address, Flow, Transport
from warden.media.protocol import Session
from warden.phone.events import Answered
from warden.sdp.relay import streams
from warden.sip.dialog import dialog_as_uas
from warden.sip.message import Fields, Request, Response
from warden.switch.settings import V6

OURS = Address("2001:db8::fe", 5060)
SETTINGS = replace(make_settings(), v6=V6({Transport.UDP: OURS}, OURS.host, "::"))
THERE = "2001:db8::1"


def sdp(host: str, *, version: int = 1, direction: str = "sendrecv") -> str:
    family = "IP6" if ":" in host else "IP4"
    head = f"v=0\r\no=- 1 {version} IN {family} {host}\r\ns=-\r\nc=IN {family} {host}\r\nt=0 0\r\n"
    return f"{head}m=audio 4000 RTP/AVP 0\r\na={direction}\r\n"


def session(world: World) -> Session:
    (session,) = world.media.values()
    return session


def hosts(world: World) -> tuple[str, str]:
    stream = session(world).streams[0]
    assert stream.b is not None
    return stream.a.host, stream.b.host


def callee_at(world: World, host: str, number: str = "1002") -> Peer:
    """A phone of the number there, and no other."""
    world.register(number, 0)
    phone = world.peer(host)
    assert phone.ask("REGISTER", number, ("Contact", f"<sip:{number}@{phone.address}>")) == 200
    return phone


def take(
    phone: Peer, invite: Request, host: str, *, version: int = 1, direction: str = "sendrecv", fields: Fields = ()
) -> None:
    fields = (*fields, ("Contact", f"<sip:1002@{phone.address}>"), ("Content-Type", "application/sdp"))
    body = sdp(host, version=version, direction=direction)
    phone.say(invite.respond(200, *fields, to_tag="here", body=body.encode()))


@pytest.mark.parametrize("restarts", [False, True])
def test_a_phone_of_each_kind_is_told_an_address_that_it_can_reach(restarts: bool) -> None:
    world = World(settings=SETTINGS)
    phone = callee_at(world, THERE)
    tag = world.call("1001", "1002", run_s=0.2)
    (invite,) = phone.requests("INVITE")
    assert invite.contacts[0].uri.host == OURS.host
    assert [s.rtp for s in streams(invite.body.decode())] == [Address(OURS.host, session(world).streams[0].b.port)]  # type: ignore[union-attr]
    assert hosts(world) == ("", "::")
    take(phone, invite, THERE)
    assert hosts(world) == ("", "::")
    answer = next(m for m in world.responses("INVITE", to="1001") if m.status == 200)
    assert streams(answer.body.decode())[0].rtp == Address(SERVER.host, session(world).streams[0].a.port)
    if restarts:
        world.restart()
        world.run(0.3)
    world.do("1001", world.phones["1001"].hold(world.now, tag))
    world.run(0.2)
    held = phone.requests("INVITE")[-1]
    assert b"c=IN IP6 2001:db8::fe" in held.body
    take(phone, held, THERE, version=2, direction="recvonly")
    assert hosts(world) == ("", "::")
    world.hang_up("1001", tag, run_s=0.1)
    phone.say(phone.requests("BYE")[0].respond(200))
    world.is_clean()


@pytest.mark.parametrize(("speaks", "host"), [(THERE, "::"), ("10.9.0.1", "")])
def test_a_caller_gets_audio_at_the_kind_of_address_that_its_offer_names(speaks: str, host: str) -> None:
    world = World(settings=SETTINGS)
    world.rings_then_answers("1002", answer_s=0.2)
    caller = world.peer(THERE)
    caller.ask("INVITE", "1001", body=sdp(speaks), to="1002")
    world.run(1)
    assert hosts(world) == (host, "")
    assert (b"c=IN IP6" in caller.last().body) is bool(host)


def test_a_phone_at_another_seat_is_reached_by_the_kind_of_address_that_it_has_and_answers_by_it() -> None:
    there = Address("2001:db8::fd", 5060)
    second = V6({Transport.UDP: there}, there.host, "::")
    seats = Seats(v6=(SETTINGS.v6, second))
    phone = callee_at(seats.two, THERE, "2001")
    tag = seats.one.call("1001", "2001", run_s=0.2)
    invite = phone.requests("INVITE")[0]
    assert invite.via.host == there.host
    assert [route.uri.host for route in invite.record_routes] == [there.host, OTHER.host]
    assert hosts(seats.one) == ("", "::")
    routes = tuple(f for f in invite.fields if f[0] == "Record-Route")
    take(phone, invite, THERE, fields=routes)
    seats.run(0.2)
    assert len(seats.one.of("1001", Answered)) == 1
    bye = dialog_as_uas(invite, "here", f"<sip:2001@{phone.address}>", Flow(Transport.UDP, phone.address, there))
    _, request = bye.request("BYE")
    assert [route.uri.host for route in request.routes] == [there.host, OTHER.host]
    phone.say(request.with_first("Via", f"SIP/2.0/UDP {phone.address};branch=z9hG4bKbye"))
    seats.run(0.2)
    assert tag not in seats.one.phones["1001"].calls
    assert phone.last().status == 200
    seats.is_clean()


def reinvites(world: World, phone: Peer, invite: Request, body: str) -> Response:
    """The callee changes the session; the caller, an honest phone, agrees to what it is asked."""
    dialog = dialog_as_uas(invite, "here", f"<sip:1002@{phone.address}>", Flow(Transport.UDP, phone.address, SERVER))
    dialog, request = dialog.request("INVITE", body=body.encode(), content_type="application/sdp")
    via = f"SIP/2.0/UDP {phone.address};branch=z9hG4bKre"
    phone.say(request.with_first("Via", via))
    world.run(0.2)
    answer = phone.last()
    if answer.status == 200:
        phone.say(dialog.ack(request.cseq.number).with_first("Via", f"{via}2"))
    return answer


@pytest.mark.parametrize(("before", "after"), [(THERE, "10.9.0.1"), ("10.9.0.1", THERE)])
def test_a_phone_that_goes_on_with_the_other_version_of_ip_keeps_its_audio(before: str, after: str) -> None:
    world = World(settings=SETTINGS)
    phone = callee_at(world, before)
    tag = world.call("1001", "1002", run_s=0.2)
    invite = phone.requests("INVITE")[0]
    take(phone, invite, before)
    answer = reinvites(world, phone, invite, sdp(after, version=2))
    assert answer.status == 200
    b = session(world).streams[0].b
    assert b is not None
    assert streams(answer.body.decode())[0].rtp == Address(OURS.host if ":" in after else SERVER.host, b.port)
    assert (b.host, b.remote) == ("::" if ":" in after else "", Address(after, 4000))
    world.hang_up("1001", tag, run_s=0.1)
    phone.say(phone.requests("BYE")[0].respond(200))
    world.is_clean()


def test_a_version_of_ip_that_we_do_not_speak_is_refused_with_the_reason_and_ends_no_call() -> None:
    world = World()
    ann = world.peer("10.9.0.1")
    assert ann.ask("INVITE", "1001", body=sdp(THERE), to="1002") == 488
    assert (ann.last().get("Warning") or "").startswith("301 ")
    phone = callee_at(world, "10.9.0.2")
    tag = world.call("1001", "1002", run_s=0.2)
    invite = phone.requests("INVITE")[0]
    take(phone, invite, "10.9.0.2")
    refusal = reinvites(world, phone, invite, sdp(THERE, version=2))
    assert refusal.status == 488
    assert (refusal.get("Warning") or "").startswith("301 ")
    assert len(world.switch.calls) == 1
    world.hang_up("1001", tag, run_s=0.1)
    phone.say(phone.requests("BYE")[0].respond(200))
    world.is_clean()
