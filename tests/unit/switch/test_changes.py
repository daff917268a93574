"""What happens in a call that stands: hold, resume, other codecs, glare, digits, questions."""

from itertools import pairwise

import pytest
from tests.unit.switch.world import SERVER, Peer, World

from warden.call.cdr import Result
from warden.call.model import Cause
from warden.phone.events import Ended, Info, Offered, Outcome, Talking, Updated, UpdateFailed
from warden.phone.line import Habits
from warden.sdp.relay import streams
from warden.sdp.session import Direction, parse
from warden.sip.message import Request, Response

SIDES = [("1001", "1002"), ("1002", "1001")]


def standing(*, late: bool = False) -> tuple[World, dict[str, str]]:
    world = World()
    caller, callee = world.up(late=late)
    return world, {"1001": caller, "1002": callee}


def leave(world: World, tags: dict[str, str], *, who: str = "1001", strict: bool = True) -> None:
    world.hang_up(who, tags[who])
    (cdr,) = world.is_clean(strict=strict)
    assert cdr.result is Result.ANSWERED


def last(world: World, who: str) -> tuple[bool, bool]:
    talking = world.of(who, Talking)[-1]
    return talking.sends, talking.hears


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("who", "other"), SIDES)
def test_hold_and_resume_from_either_side(who: str, other: str, late: bool) -> None:
    world, tags = standing(late=late)
    world.do(who, world.phones[who].hold(world.now, tags[who]))
    world.run(1)
    assert (last(world, who), last(world, other)) == ((True, False), (False, True))
    world.do(who, world.phones[who].resume(world.now, tags[who]))
    world.run(1)
    assert (last(world, who), last(world, other)) == ((True, True), (True, True))
    assert all(talking.remote is not None and talking.remote.host == SERVER.host for talking in world.of(who, Talking))
    leave(world, tags)


@pytest.mark.parametrize(("who", "other"), SIDES)
def test_another_codec_is_agreed_from_end_to_end(who: str, other: str) -> None:
    world, tags = standing()
    host = world.addresses[who].host
    before = parse(own_sdp(world, who)).origin
    sdp = offer(host, 8, version=int(before.version) + 1, session=before.session_id, name=before.username)
    world.do(who, world.phones[who].reinvite(world.now, tags[who], sdp=sdp))
    world.run(1)
    assert {world.of(name, Talking)[-1].codec for name in (who, other)} == {"PCMA"}
    leave(world, tags)


def offer(host: str, payload_type: int, *, version: int, session: str = "1", name: str = "-", port: int = 4000) -> str:
    head = f"v=0\r\no={name} {session} {version} IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
    return f"{head}m=audio {port} RTP/AVP {payload_type}\r\n"


def own_sdp(world: World, who: str) -> str:
    """What a phone said last about itself."""
    return next(m.body.decode() for _, source, _, m in reversed(world.log) if source == world.addresses[who] and m.body)


@pytest.mark.parametrize(("who", "other"), SIDES)
def test_a_reinvite_without_an_offer_is_passed_on_as_one(who: str, other: str) -> None:
    world, tags = standing()
    world.do(who, world.phones[who].reinvite(world.now, tags[who], late=True))
    world.run(1)
    assert len(world.of(who, Updated)) == len(world.of(other, Updated)) == 1
    assert world.requests("INVITE", to=other)[-1].body == b""
    assert [bool(ack.body) for ack in world.requests("ACK", to=other)][-1]
    leave(world, tags)


@pytest.mark.parametrize(("who", "other"), SIDES)
def test_update_is_passed_on_as_update(who: str, other: str) -> None:
    world, tags = standing()
    world.do(who, world.phones[who].update(world.now, tags[who], direction=Direction.SENDONLY))
    world.run(1)
    assert len(world.requests("UPDATE", to=other)) == 1
    assert last(world, other) == (False, True)
    leave(world, tags)


def test_update_becomes_a_reinvite_for_a_phone_that_does_not_allow_it() -> None:
    world = World()
    old = world.peer("10.9.0.1")
    world.register("1002", 0)
    old.ask("REGISTER", "1002", ("Contact", "<sip:1002@10.9.0.1>"))
    caller = world.call("1001", "1002", run_s=0.2)
    answered(old, old.requests("INVITE")[0], "m=audio 6000 RTP/AVP 0\r\n")
    world.do("1001", world.phones["1001"].update(world.now, caller, direction=Direction.SENDONLY))
    world.run(0.3)
    assert old.requests("UPDATE") == []
    answered(old, old.requests("INVITE")[-1], "m=audio 6000 RTP/AVP 0\r\na=recvonly\r\n", version=2)
    assert last(world, "1001") == (True, False)
    assert [r.status for r in world.responses("UPDATE", to="1001")] == [200]
    world.hang_up("1001", caller, run_s=0.1)
    old.say(old.requests("BYE")[0].respond(200))
    world.is_clean()


def answered(peer: Peer, invite: Request, media: str, *, version: int = 1) -> None:
    """A peer without UPDATE answers an INVITE."""
    host = "10.9.0.1"
    sdp = f"v=0\r\no=- 1 {version} IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n{media}"
    fields = (("Contact", f"<sip:1002@{host}>"), ("Content-Type", "application/sdp"))
    peer.say(invite.respond(200, *fields, to_tag="old", body=sdp.encode()))


def test_an_update_without_an_offer_is_answered_here() -> None:
    world, tags = standing()
    world.do("1001", world.phones["1001"].ask(world.now, tags["1001"], "UPDATE"))
    world.run(1)
    assert world.of("1001", Outcome) == [Outcome(tags["1001"], "UPDATE", 200)]
    assert world.requests("UPDATE", to="1002") == []
    leave(world, tags)


def test_reinvites_that_cross_are_both_refused_and_then_come_one_by_one() -> None:
    world, tags = standing()
    for who in tags:
        world.do(who, world.phones[who].hold(world.now, tags[who]))
    world.run(0.2)
    assert 491 in [r.status for r in world.responses("INVITE")]
    world.run(15)
    assert last(world, "1001") == last(world, "1002") == (False, False)
    assert world.of("1001", UpdateFailed) == world.of("1002", UpdateFailed) == []
    leave(world, tags)


@pytest.mark.parametrize(("who", "other"), SIDES)
def test_an_offer_while_another_one_is_pending_is_491_and_one_on_top_of_ones_own_500(who: str, other: str) -> None:
    world, tags = standing()
    for name in tags:
        world.phones[name].habits = Habits(answers_updates=False, retries_glare=False)
    world.do(who, world.phones[who].hold(world.now, tags[who]))
    world.run(0.5)
    assert len(world.of(other, Offered)) == 1
    # The far phone asks for a change of its own instead of answering: its INVITE meets ours.
    mine = world.requests("INVITE", to=other)[-1]
    theirs = crossing(world, other, mine)
    world.send(world.addresses[other], SERVER, bytes(theirs))
    world.run(0.3)
    assert 491 in [r.status for r in world.responses("INVITE", to=other)]
    first = next(r for _, s, _, r in reversed(world.log) if isinstance(r, Request) and r.method == "INVITE"
                 and s == world.addresses[who])  # fmt: skip
    second = first.with_fields(
        ("CSeq", f"{first.cseq.number + 1} INVITE"), ("Via", f"SIP/2.0/UDP {world.addresses[who]};branch=z9hG4bKsecond")
    )
    world.send(world.addresses[who], SERVER, bytes(second))
    world.run(0.3)
    refused = [r for r in world.responses("INVITE", to=who) if r.status == 500]
    assert refused
    assert refused[0].get("Retry-After") is not None
    world.do(other, world.phones[other].answer_update(world.now, tags[other]))
    world.run(1)
    assert len(world.of(who, Updated)) == 1
    # The phones know nothing of what was said in their names, so the operator has to end it.
    (call_id,) = world.switch.calls
    world.tell(lambda s: s.stop_call(world.now, call_id, Cause(480)))
    world.is_clean(strict=False)


def crossing(world: World, who: str, theirs: Request) -> Request:
    """The re-INVITE that a phone would send within the dialog in which it got `theirs`."""
    here = world.addresses[who]
    fields = (
        ("Via", f"SIP/2.0/UDP {here};branch=z9hG4bKcrossing"),
        ("Max-Forwards", "70"),
        ("From", f"{theirs.get('To')}"),
        ("To", f"{theirs.get('From')}"),
        ("Call-ID", theirs.call_id),
        ("CSeq", "50 INVITE"),
        ("Contact", f"<sip:{who}@{here}>"),
    )
    body = offer(here.host, 0, version=9).encode()
    return Request("INVITE", str(theirs.contacts[0].uri), (*fields, ("Content-Type", "application/sdp")), body)


@pytest.mark.parametrize("status", [302, 401, 488, 491, 500, 503, 603])
@pytest.mark.parametrize(("who", "other"), SIDES)
def test_a_change_that_the_far_phone_refuses_leaves_the_call_as_it_was(who: str, other: str, status: int) -> None:
    world, tags = standing()
    world.phones[other].habits = Habits(answers_updates=False)
    world.phones[who].habits = Habits(retries_glare=False)
    world.do(who, world.phones[who].hold(world.now, tags[who]))
    world.run(0.5)
    world.do(other, world.phones[other].refuse_update(world.now, tags[other], status))
    world.run(1)
    (failed,) = world.of(who, UpdateFailed)
    assert failed.status == (488 if status in (302, 401, 503) else status)
    assert last(world, who) == last(world, other) == (True, True)
    # The next offer has a higher o= version, and is taken.
    world.phones[other].habits = Habits()
    world.do(who, world.phones[who].resume(world.now, tags[who]))
    world.run(1)
    assert len(world.of(who, Updated)) == 1
    leave(world, tags)


@pytest.mark.parametrize("status", [408, 481])
@pytest.mark.parametrize(("who", "other"), SIDES)
def test_a_phone_that_has_lost_the_call_ends_it_when_asked(who: str, other: str, status: int) -> None:
    world, tags = standing()
    world.phones[other].habits = Habits(answers_updates=False)
    world.do(who, world.phones[who].hold(world.now, tags[who]))
    world.run(0.5)
    world.do(other, world.phones[other].refuse_update(world.now, tags[other], status))
    (cdr,) = world.is_clean()
    assert cdr.result is Result.ANSWERED
    assert len(world.of("1001", Ended)) == len(world.of("1002", Ended)) == 1


def test_a_cancelled_reinvite_is_taken_back_on_the_far_side_and_the_call_goes_on() -> None:
    world, tags = standing()
    world.phones["1002"].habits = Habits(answers_updates=False)
    world.do("1001", world.phones["1001"].hold(world.now, tags["1001"]))
    world.run(0.5)
    trying = world.requests("INVITE", to="1002")[-1].respond(100)
    world.send(world.addresses["1002"], SERVER, bytes(trying))
    invite = next(r for _, s, _, r in reversed(world.log) if isinstance(r, Request) and r.method == "INVITE"
                  and s == world.addresses["1001"])  # fmt: skip
    kept = [f for f in invite.fields if f[0] in ("Via", "From", "To", "Call-ID", "Max-Forwards")]
    cancel = Request("CANCEL", invite.target, (*kept, ("CSeq", f"{invite.cseq.number} CANCEL")))
    world.send(world.addresses["1001"], SERVER, bytes(cancel))
    world.run(0.5)
    assert len(world.requests("CANCEL", to="1002")) == 1
    assert world.of("1001", UpdateFailed) == [UpdateFailed(tags["1001"], 487)]
    assert len(world.switch.calls) == 1
    assert last(world, "1001") == last(world, "1002") == (True, True)
    leave(world, tags, strict=False)


@pytest.mark.parametrize("hanger", ["1001", "1002"])
@pytest.mark.parametrize(("who", "other"), SIDES)
def test_a_hang_up_during_a_change_answers_the_change_487(who: str, other: str, hanger: str) -> None:
    world, tags = standing()
    world.phones[other].habits = Habits(answers_updates=False)
    world.do(who, world.phones[who].hold(world.now, tags[who]))
    world.run(0.5)
    world.hang_up(hanger, tags[hanger])
    world.is_clean()
    assert 487 in [r.status for r in world.responses("INVITE", to=who)]
    assert len(world.of("1001", Ended)) == len(world.of("1002", Ended)) == 1


@pytest.mark.parametrize(("who", "other"), SIDES)
def test_digits_by_info_reach_the_other_side(who: str, other: str) -> None:
    world, tags = standing()
    for digit in "15#":
        world.do(who, world.phones[who].info(world.now, tags[who], digit))
        world.run(0.5)
    assert "".join(info.digit for info in world.of(other, Info)) == "15#"
    assert world.of(who, Outcome) == [Outcome(tags[who], "INFO", 200)] * 3
    leave(world, tags)


def test_an_info_that_carries_too_much_is_413() -> None:
    world, tags = standing()
    ask(world, "1001", "INFO", body=b"x" * 5000)
    assert [r.status for r in world.responses("INFO", to="1001")] == [413]
    assert world.requests("INFO", to="1002") == []
    leave(world, tags, who="1002", strict=False)


def ask(world: World, who: str, method: str, *fields: tuple[str, str], body: bytes = b"", cseq: int = 40) -> None:
    """A request of any kind within the phone's dialog."""
    ack = next(m for _, s, _, m in world.log if isinstance(m, Request) and m.method == "ACK"
               and s == world.addresses[who])  # fmt: skip
    kept = [f for f in ack.fields if f[0] in ("From", "To", "Call-ID", "Max-Forwards")]
    via = ("Via", f"SIP/2.0/UDP {world.addresses[who]};branch=z9hG4bK{method}{cseq}")
    more = (("Content-Type", "application/sdp" if body[:2] == b"v=" else "text/plain"),) if body else ()
    request = Request(method, ack.target, (via, *kept, ("CSeq", f"{cseq} {method}"), *fields, *more), body)
    world.send(world.addresses[who], SERVER, bytes(request))
    world.run(0.3)


@pytest.mark.parametrize(("method", "status"), [("OPTIONS", 200), ("SUBSCRIBE", 405), ("MESSAGE", 405), ("DANCE", 501)])
def test_other_methods_in_a_call(method: str, status: int) -> None:
    world, tags = standing()
    ask(world, "1001", method)
    (response,) = world.responses(method, to="1001")
    assert response.status == status
    assert "INVITE" in response.tokens("Allow")
    leave(world, tags, who="1002", strict=False)


def test_a_request_out_of_order_is_500_and_one_that_requires_too_much_420() -> None:
    world, tags = standing()
    ask(world, "1001", "OPTIONS", cseq=40)
    ask(world, "1001", "INFO", cseq=39)
    ask(world, "1001", "UPDATE", ("Require", "100rel"), cseq=41)
    assert [r.status for r in world.responses("INFO", to="1001")] == [500]
    assert [r.status for r in world.responses("UPDATE", to="1001")] == [420]
    assert world.responses("UPDATE", to="1001")[0].get("Unsupported") == "100rel"
    leave(world, tags, who="1002", strict=False)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"hello", 415),
        (b"v=0\r\nnonsense", 400),
        (b"v=0\r\no=- 1 1 IN IP4 1.2.3.4\r\ns=-\r\nt=0 0\r\nm=audio 1 RTP/AVP 0\r\n", 400),
    ],
)
def test_an_offer_that_is_none_is_refused_and_the_call_goes_on(body: bytes, status: int) -> None:
    world, tags = standing()
    contact = ("Contact", "<sip:1001@10.0.0.1:5060>")
    ask(world, "1001", "UPDATE", contact, body=body)
    assert [r.status for r in world.responses("UPDATE", to="1001")] == [status]
    assert world.requests("UPDATE", to="1002") == []
    leave(world, tags, who="1002", strict=False)


def test_our_o_line_keeps_its_session_and_its_version_grows_only_with_a_change() -> None:
    world, tags = standing()
    phone = world.phones["1001"]
    for change in (phone.hold, phone.hold, phone.resume):
        world.do("1001", change(world.now, tags["1001"]))
        world.run(1)
    sdps = [parse(m.body) for _, s, t, m in world.log if s == SERVER and t == world.addresses["1002"] and m.body]
    assert len({(sdp.origin.session_id, sdp.origin.username, sdp.origin.host) for sdp in sdps}) == 1
    versions = [int(sdp.origin.version) for sdp in sdps]
    assert versions == sorted(versions)
    for before, after in pairwise(sdps):
        assert (before.origin.version == after.origin.version) == (str(before) == str(after))
    leave(world, tags)


VIDEO = "m=video {port} RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"


def test_audio_and_video_each_get_ports_of_their_own() -> None:
    world = World()
    far = world.peer("10.9.0.1")
    world.register("1002", 0)
    far.ask("REGISTER", "1002", ("Contact", "<sip:1002@10.9.0.1>"))
    sdp = offer("10.0.0.1", 0, version=1) + VIDEO.format(port=4002)
    caller = world.call("1001", "1002", sdp=sdp, run_s=0.2)
    (invite,) = far.requests("INVITE")
    told = streams(invite.body.decode())
    assert [s.kind for s in told] == ["audio", "video"]
    assert all(s.rtp is not None and s.rtp.host == SERVER.host for s in told)
    answered(far, invite, "m=audio 6000 RTP/AVP 0\r\n" + VIDEO.format(port=6002))
    (session,) = world.media.values()
    assert [(s.a.remote.port, s.b.remote.port) for s in session.streams if s.a.remote and s.b and s.b.remote] == [
        (4000, 6000),
        (4002, 6002),
    ]
    assert [s.a.clock_hz for s in session.streams] == [8000, 90000]
    world.hang_up("1001", caller, run_s=0.1)
    far.say(far.requests("BYE")[0].respond(200))
    world.is_clean()


def test_video_that_is_added_later_gets_ports_too() -> None:
    world, tags = standing()
    before = parse(own_sdp(world, "1001")).origin
    sdp = offer("10.0.0.1", 0, version=int(before.version) + 1, session=before.session_id, name=before.username)
    world.do("1001", world.phones["1001"].reinvite(world.now, tags["1001"], sdp=sdp + VIDEO.format(port=4002)))
    world.run(1)
    assert len(next(iter(world.media.values())).streams) == 2
    offered = streams(world.requests("INVITE", to="1002")[-1].body.decode())
    assert offered[1].active
    # The far phone has no video: it says so, in the place that the offer gives it.
    answer = streams(world.of("1001", Updated)[0].answer)
    assert [s.active for s in answer] == [True, False]
    leave(world, tags)


def test_an_answer_that_leaves_out_a_stream_is_completed() -> None:
    world = World()
    far = world.peer("10.9.0.1")
    world.register("1002", 0)
    far.ask("REGISTER", "1002", ("Contact", "<sip:1002@10.9.0.1>"))
    caller = world.call("1001", "1002", sdp=offer("10.0.0.1", 0, version=1) + VIDEO.format(port=4002), run_s=0.2)
    answered(far, far.requests("INVITE")[0], "m=audio 6000 RTP/AVP 0\r\n")
    (answer,) = [r for r in world.responses("INVITE", to="1001") if r.status == 200]
    assert [(s.kind, s.active) for s in streams(answer.body.decode())] == [("audio", True), ("video", False)]
    world.hang_up("1001", caller, run_s=0.1)
    far.say(far.requests("BYE")[0].respond(200))
    world.is_clean()


@pytest.mark.parametrize(
    "media", ["", "m=video 6000 RTP/AVP 0\r\n", "m=audio 6000 RTP/AVP 0\r\nm=audio 6002 RTP/AVP 0\r\n"]
)
def test_an_answer_that_is_none_ends_both_legs(media: str) -> None:
    world = World()
    far = world.peer("10.9.0.1")
    world.register("1002", 0)
    far.ask("REGISTER", "1002", ("Contact", "<sip:1002@10.9.0.1>"))
    world.call("1001", "1002", run_s=0.2)
    answered(far, far.requests("INVITE")[0], media)
    assert len(far.requests("ACK")) == len(far.requests("BYE")) == 1
    far.say(far.requests("BYE")[0].respond(200))
    (cdr,) = world.is_clean()
    assert world.ended("1001") == [488]
    assert (cdr.result, cdr.status) == (Result.FAILED, 488)


def test_a_late_offer_that_is_not_answered_in_the_ack_ends_the_call() -> None:
    world = World()
    world.rings_then_answers("1002")
    caller = world.peer("10.9.0.1")
    caller.ask("INVITE", "1001", to="1002")
    world.run(2)
    answer = next(m for m in caller.heard if isinstance(m, Response) and m.status == 200)
    caller.say(caller.request("ACK", "1001", ("To", answer.get("To") or ""), ("Call-ID", answer.call_id),
                              ("CSeq", f"{answer.cseq.number} ACK"), to="1002"))  # fmt: skip
    world.run(1)
    caller.say(caller.requests("BYE")[0].respond(200))
    (cdr,) = world.is_clean(strict=False)
    assert cdr.reason == "Not Acceptable Here"
    assert world.ended("1002") == [200]


def test_early_media_is_passed_on_and_the_200_repeats_it() -> None:
    world = World()
    phone = world.phones["1002"]
    world.on_incoming["1002"] = lambda e: world.do("1002", phone.early(world.now, e.call, world.media_of("1002")))
    caller = world.call("1001", "1002", run_s=1)
    early = [r for r in world.responses("INVITE", to="1001") if r.status == 183]
    assert len(early) == 1
    (session,) = world.media.values()
    assert session.streams[0].b is not None
    assert session.streams[0].b.remote == (world.addresses["1002"].host, 4000)
    world.do("1002", phone.answer(world.now, world.incoming("1002"), world.media_of("1002")))
    world.run(1)
    (final,) = [r for r in world.responses("INVITE", to="1001") if r.status == 200]
    assert final.body == early[0].body
    assert len(world.of("1001", Talking)) == 1
    world.hang_up("1001", caller)
    world.is_clean()


def test_a_late_offer_is_made_by_the_callee_and_answered_in_the_ack() -> None:
    world, tags = standing(late=True)
    assert world.requests("INVITE", to="1002")[0].body == b""
    assert world.of("1001", Talking)[0].remote is not None
    assert world.of("1002", Talking)[0].remote is not None
    leave(world, tags)


def in_early_dialog() -> tuple[World, Peer, Request, str]:
    """A call that rings at a peer's."""
    world = World()
    far = world.peer("10.9.0.1")
    world.register("1002", 0)
    far.ask("REGISTER", "1002", ("Contact", "<sip:1002@10.9.0.1>"))
    caller = world.call("1001", "1002", run_s=0.2)
    (invite,) = far.requests("INVITE")
    far.say(invite.respond(180, ("Contact", "<sip:1002@10.9.0.1>"), to_tag="far"))
    return world, far, invite, caller


@pytest.mark.parametrize(
    ("method", "body", "tag", "status"),
    [
        ("UPDATE", "", "far", 200),
        ("UPDATE", offer("10.9.0.1", 0, version=1), "far", 491),
        ("INVITE", offer("10.9.0.1", 0, version=1), "far", 491),
        ("INVITE", "", "far", 500),
        ("INFO", "", "far", 200),
        ("OPTIONS", "", "far", 200),
        ("REFER", "", "far", 405),
        ("BYE", "", "far", 481),
        ("INFO", "", "somebody", 481),
    ],
)
def test_what_a_callee_may_say_before_it_answers(method: str, body: str, tag: str, status: int) -> None:
    world, far, invite, caller = in_early_dialog()
    dialog = (
        ("From", f"{invite.get('To')};tag={tag}"),
        ("To", invite.get("From") or ""),
        ("Call-ID", invite.call_id),
        ("CSeq", f"7 {method}"),
    )
    far.say(far.request(method, "1002", *dialog, body=body))
    assert (far.last().cseq.method, far.last().status) == (method, status)
    assert world.of("1001", Ended) == []
    world.hang_up("1001", caller, run_s=0.1)
    far.say(invite.respond(487, to_tag="far"))
    far.say(far.requests("CANCEL")[0].respond(200))
    world.is_clean()


def test_a_caller_that_offers_anew_before_its_first_offer_is_answered_has_to_wait() -> None:
    world, far, invite, caller = in_early_dialog()
    ringing = next(r for r in world.responses("INVITE", to="1001") if r.status == 180)
    via = ("Via", f"SIP/2.0/UDP {world.addresses['1001']};branch=z9hG4bKearly")
    sent = next(m for _, s, _, m in world.log if s == world.addresses["1001"] and m.cseq.method == "INVITE")
    fields = (via, ("To", ringing.get("To") or ""), ("CSeq", "9 UPDATE"))
    body = offer("10.0.0.1", 0, version=5).encode()
    kept = [f for f in sent.fields if f[0] in ("From", "Call-ID", "Max-Forwards", "Contact", "Content-Type")]
    update = Request("UPDATE", str(ringing.contacts[0].uri), (*kept, *fields), body)
    world.send(world.addresses["1001"], SERVER, bytes(update))
    world.run(0.1)
    (refused,) = world.responses("UPDATE", to="1001")
    assert (refused.status, refused.get("Retry-After")) == (500, "1")
    far.say(invite.respond(486, to_tag="far"))
    world.is_clean(strict=False)
    assert world.of("1001", Ended)[0].call == caller


def test_a_change_whose_ack_was_lost_does_not_stand_in_the_way_of_the_next() -> None:
    world, tags = standing()
    phone = world.phones["1001"]
    phone.habits = Habits(sends_ack=False)
    world.do("1001", phone.hold(world.now, tags["1001"]))
    world.run(0.3)
    phone.habits = Habits()
    world.do("1001", phone.resume(world.now, tags["1001"]))
    world.run(1)
    assert len(world.of("1001", Updated)) == 2
    assert last(world, "1002") == (True, True)
    world.run(40)
    leave(world, tags)
