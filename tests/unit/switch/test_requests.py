"""What anybody may ask without being in a call, and what is refused."""

import pytest
from msgspec.structs import replace
from tests.unit.switch.world import SERVER, Peer, World, make_settings

from warden.call.cdr import Result
from warden.phone.events import Updated
from warden.sip.message import Request

SDP = "v=0\r\no=- 1 1 IN IP4 10.9.0.1\r\ns=-\r\nc=IN IP4 10.9.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"


def world_and_peer() -> tuple[World, Peer]:
    world = World()
    return world, world.peer("10.9.0.1")


def test_options_tells_what_warden_can_do_without_asking_who_wants_to_know() -> None:
    world, peer = world_and_peer()
    assert peer.ask("OPTIONS") == 200
    answer = peer.last()
    assert {*"INVITE ACK BYE CANCEL OPTIONS UPDATE INFO REGISTER REFER".split()} == answer.tokens("Allow")
    assert (answer.get("Accept"), answer.get("Supported")) == (
        "application/sdp",
        "norefersub, outbound, path, replaces, timer",
    )
    assert answer.to.tag
    world.is_clean(cdrs=0)


@pytest.mark.parametrize(
    ("method", "status"),
    [
        ("BYE", 481),
        ("INFO", 481),
        ("UPDATE", 481),
        ("REFER", 403),
        ("SUBSCRIBE", 405),
        ("MESSAGE", 405),
        ("DANCE", 501),
    ],
)
@pytest.mark.parametrize("dialog", [False, True])
def test_requests_outside_any_call(method: str, status: int, dialog: bool) -> None:
    world, peer = world_and_peer()
    fields = (("To", f"<sip:1002@{SERVER.host}>;tag=nobody"),) if dialog else ()
    assert peer.ask(method, "1001", *fields, to="1002") == (481 if dialog else status)
    assert (peer.last().get("Allow") is not None) == (peer.last().status in (405, 501))
    world.is_clean(cdrs=0)


def test_an_invite_without_credentials_is_asked_for_them_and_leaves_nothing_behind() -> None:
    world, peer = world_and_peer()
    peer.say(peer.request("INVITE", "1001", body=SDP, to="1002"))
    assert peer.last().status == 401
    assert peer.last().to.tag
    assert world.switch.calls == {}
    peer.say(ack_of(peer))
    world.is_clean(cdrs=0)
    assert world.switch.counters["challenges"] >= 1


@pytest.mark.parametrize(
    ("method", "fields", "status"),
    [
        ("INVITE", (), 401),
        ("INVITE", (("Authorization", 'Digest realm="warden.test", nonce="made up"'),), 400),
        ("INVITE", (("Max-Forwards", "0"),), 483),
        ("INVITE", (("Require", "100rel"),), 420),
        ("INVITE", (("To", f"<sip:1002@{SERVER.host}>;tag=nobody"),), 481),
        ("REGISTER", (), 401),
        ("OPTIONS", (), 200),
        ("BYE", (), 481),
        ("DANCE", (), 501),
    ],
)
def test_what_anybody_may_send_is_answered_once_per_copy_and_leaves_no_transaction(
    method: str, fields: tuple[tuple[str, str], ...], status: int
) -> None:
    world, peer = world_and_peer()
    world.run(60)
    before = len(world.switch.endpoint)
    request = peer.request(method, "1001", *fields, body=SDP, to="1002")
    # An answer that nobody acknowledges is not repeated: the address may be that of somebody else.
    peer.say(request)
    assert len(world.switch.endpoint) == before
    world.run(40)
    assert peer.statuses(method) == [status]
    peer.say(request)
    assert peer.statuses(method) == [status] * 2
    first, second = (m for m in peer.heard if not isinstance(m, Request))
    assert first.to.tag
    assert first.to.tag == second.to.tag
    peer.say(ack_of(peer))
    assert peer.statuses(method) == [status] * 2
    world.is_clean(cdrs=0)


def test_a_refusal_of_somebody_known_is_repeated_until_it_is_acknowledged() -> None:
    world, peer = world_and_peer()
    peer.say(peer.request("INVITE", "1001", body=SDP, to="1002"))
    peer.learn()
    request = peer.request("INVITE", "1001", ("From", f"<sip:1002@{SERVER.host}>;tag=x"), body=SDP, to="1002")
    request = peer.with_credentials(request, "1001")
    peer.say(request)
    world.run(1)
    # A copy is the same request: its nonce count is no replay.
    peer.say(request)
    assert set(peer.statuses("INVITE")) == {401, 403}
    assert peer.statuses("INVITE").count(403) >= 3
    peer.say(ack_of(peer))
    world.is_clean(cdrs=0)


def test_without_media_new_calls_are_503_with_a_time_to_come_back_and_those_that_are_up_go_on() -> None:
    world, peer = world_and_peer()
    caller, _ = world.up()
    world.switch.media_works = False
    peer.say(peer.request("INVITE", "1001", body=SDP, to="1002"))
    assert peer.last().status == 503
    assert peer.last().get("Retry-After")
    assert peer.ask("OPTIONS") == 503
    world.do("1001", world.phones["1001"].hold(world.now, caller))
    world.run(1)
    assert len(world.of("1002", Updated)) == 1
    assert world.switch.counters["calls_shed"] == 1
    world.switch.media_works = True
    assert peer.ask("OPTIONS") == 200
    peer.say(peer.request("INVITE", "1001", body=SDP, to="1002"))
    assert peer.last().status == 401
    world.hang_up("1001", caller)
    world.is_clean()


def ack_of(peer: Peer) -> Request:
    """The ACK for the refusal that the peer heard last."""
    answer = peer.last()
    via = (answer.get("Via") or "").partition(";received")[0]
    fields = (("Via", via), ("To", answer.get("To") or ""), ("Call-ID", answer.call_id))
    return peer.request("ACK", "1001", *fields, ("CSeq", f"{answer.cseq.number} ACK"), to="1002")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ((("From", f"<sip:1002@{SERVER.host}>;tag=x"),), 403),
        ((("Max-Forwards", "0"),), 483),
        ((("Max-Forwards", "many"),), 400),
        ((("Require", "100rel"),), 420),
        ((("Contact", ""),), 400),
        ((("Contact", "<sip:a@b>, <sip:c@d>"),), 400),
        ((("Content-Type", "text/html"),), 415),
        ((("Content-Encoding", "gzip"),), 415),
        ((("Accept", "text/html"),), 406),
        ((("Record-Route", "<nonsense"),), 400),
    ],
)
def test_an_invite_that_cannot_be_served(fields: tuple[tuple[str, str], ...], status: int) -> None:
    world, peer = world_and_peer()
    request = peer.request("INVITE", "1001", body=SDP, to="1002")
    peer.ask("OPTIONS")
    peer.say(request)
    peer.learn()
    peer.say(ack_of(peer))
    request = peer.request("INVITE", "1001", body=SDP, to="1002")
    for name in {name for name, _ in fields}:
        request = request.without(name)
    request = request.with_fields(*(f for f in fields if f[1]))
    peer.say(peer.with_credentials(request, "1001"))
    assert peer.last().status == status
    assert peer.last().to.tag
    assert world.requests("INVITE", to="1002") == []
    assert (peer.last().get("Unsupported") == "100rel") == (status == 420)
    world.is_clean(cdrs=0)


@pytest.mark.parametrize(
    ("sdp", "status"),
    [
        (SDP.replace("audio 4000", "audio 0"), 488),
        (SDP.replace("RTP/AVP", "TCP/MSRP"), 488),
        (SDP.replace("m=audio 4000 RTP/AVP 0\r\n", ""), 488),
        (SDP.replace("c=IN IP4 10.9.0.1\r\n", ""), 400),
        (SDP.replace("v=0", "v=9"), 400),
        ("x" * 40_000, 413),
    ],
)
def test_an_offer_without_anything_to_relay_is_refused(sdp: str, status: int) -> None:
    world, peer = world_and_peer()
    assert peer.ask("INVITE", "1001", body=sdp, to="1002") in (status, 400)
    assert peer.last().status == status
    assert (peer.last().get("Warning") is not None) == (status == 488)
    world.is_clean(cdrs=0)


def test_a_request_uri_without_a_number_is_484() -> None:
    world, peer = world_and_peer()
    peer.ask("INVITE", "1001", body=SDP)
    assert peer.last().status == 484
    peer.ask("INVITE", "1001", body=SDP, to="9" * 200)
    assert peer.last().status == 484
    world.is_clean(cdrs=0)


def test_max_forwards_is_counted_down_and_never_above_70() -> None:
    for given, passed in ((None, "69"), ("10", "9"), ("1", "0"), ("255", "69")):
        world, peer = world_and_peer()
        world.refuses("1002", 486)
        peer.ask("INVITE", "1001", ("Max-Forwards", given or ""), body=SDP, to="1002")
        assert world.requests("INVITE", to="1002")[0].get("Max-Forwards") == passed
        world.is_clean()


def test_a_switch_that_takes_no_calls_says_when_to_try_again() -> None:
    world, peer = world_and_peer()
    world.switch.accepts_calls = False
    assert peer.ask("OPTIONS") == 503
    assert peer.last().get("Retry-After") == "5"
    world.call("1001", "1002")
    world.is_clean(cdrs=0)
    assert world.ended("1001") == [503]
    assert world.switch.counters["calls_shed"] == 1


def test_calls_beyond_the_limit_and_calls_without_ports_are_503() -> None:
    for settings in (replace(make_settings(), calls_max=1), replace(make_settings(), rtp_ports=(20_000, 20_005))):
        world = World(settings=settings)
        caller, _ = world.up()
        world.call("1002", "1001", run_s=1)
        assert world.ended("1002") == [503]
        assert world.responses("INVITE", to="1002")[-1].get("Retry-After") == "5"
        world.hang_up("1001", caller)
        world.is_clean()


def test_ports_rest_before_another_call_gets_them() -> None:
    world = World()
    used = []
    for _ in range(3):
        caller, _ = world.up()
        used += [side.port for s in world.media.values() for x in s.streams for side in (x.a, x.b) if side]
        world.hang_up("1001", caller, run_s=1)
    assert len(set(used)) == 6
    world.is_clean(cdrs=3)


def test_a_cancel_that_fits_nothing_is_481_and_one_for_another_method_200() -> None:
    world, peer = world_and_peer()
    peer.say(peer.request("REGISTER", "1001"))
    peer.learn()
    query = peer.with_credentials(peer.request("REGISTER", "1001"), "1001")
    peer.say(query)
    kept = [f for f in query.fields if f[0] in ("Via", "From", "To", "Call-ID", "Max-Forwards")]
    peer.say(Request("CANCEL", query.target, (*kept, ("CSeq", f"{query.cseq.number} CANCEL"))))
    assert (peer.last().cseq.method, peer.last().status) == ("CANCEL", 200)
    assert peer.ask("CANCEL", "1001") == 481
    world.is_clean(cdrs=0)


def test_an_invite_as_rfc_2543_writes_it_works_as_far_as_it_goes() -> None:
    world, peer = world_and_peer()
    peer.ask("OPTIONS")
    peer.say(peer.request("INVITE", "1001", body=SDP, to="1002"))
    peer.learn()
    request = peer.request(
        "INVITE", "1001", ("Via", f"SIP/2.0/UDP {peer.address}"), ("Contact", ""), body=SDP, to="1002"
    )
    peer.say(peer.with_credentials(request, "1001"))
    # Without a Contact there is nobody to send the BYE to.
    assert peer.last().status == 400
    world.run(40)
    world.is_clean(cdrs=0)


def test_a_display_name_that_is_no_utf_8_is_no_reason_to_refuse_a_call() -> None:
    world, peer = world_and_peer()
    world.refuses("1002", 486)
    peer.ask("REGISTER", "1001", ("Contact", ""))
    request = peer.with_credentials(peer.request("INVITE", "1001", body=SDP.replace("s=-", "s=caf"), to="1002"), "1001")
    raw = bytes(request).replace(b"From: <", b'From: "Jos\xe9" <').replace(b"s=caf", b"s=ca\xe9")
    peer.say(raw)
    (cdr,) = world.is_clean()
    assert peer.statuses("INVITE")[-1] == 486
    assert cdr.result is Result.BUSY


def test_a_dialled_number_of_odd_bytes_is_stored_as_something_readable() -> None:
    world, peer = world_and_peer()
    peer.ask("INVITE", "1001", body=SDP, to="%FF%00%0A7")
    (cdr,) = world.is_clean()
    assert (cdr.status, cdr.callee) == (404, "\ufffd\ufffd\ufffd7")
