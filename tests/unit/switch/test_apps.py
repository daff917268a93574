"""Calls that Warden takes itself: the echo test and the speaking clock."""

import pytest
from tests.unit.switch.world import SERVER, World

from warden.call.cdr import Party, Result
from warden.call.model import Cause
from warden.media.protocol import Latched, Mode, Played, Session
from warden.phone.events import Answered, Talking, Updated
from warden.sdp.session import Direction, parse
from warden.sip.message import Response


def calling(number: str, *, late: bool = False) -> tuple[World, str]:
    world = World()
    return world, world.call("1001", number, late=late, run_s=1)


def session_of(world: World) -> Session:
    (session,) = world.media.values()
    return session


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("who", ["caller", "operator"])
def test_the_echo_test_answers_and_sends_everything_back(late: bool, who: str) -> None:
    world, caller = calling("*43", late=late)
    assert len(world.of("1001", Answered)) == 1
    (stream,) = session_of(world).streams
    assert (stream.mode, stream.b, session_of(world).playing) == (Mode.ECHO, None, None)
    assert stream.a.remote == (world.addresses["1001"].host, 4000)
    talking = world.of("1001", Talking)[-1]
    assert (talking.remote, talking.sends, talking.hears) == ((SERVER.host, stream.a.port), True, True)
    if who == "caller":
        world.hang_up("1001", caller)
    else:
        world.tell(lambda s: s.stop_call(world.now, next(iter(s.calls)), Cause(480)))
    (cdr,) = world.is_clean()
    assert (cdr.result, cdr.answered_by) == (Result.ANSWERED, "*43")


@pytest.mark.parametrize("late", [False, True])
def test_the_clock_speaks_once_the_caller_listens_and_hangs_up_when_it_has_spoken(late: bool) -> None:
    world = World()
    world.call("1001", "*60", late=late, run_s=0.015)
    assert session_of(world).playing is None
    world.run(1)
    playing = session_of(world).playing
    assert playing is not None
    assert playing.codec == "PCMU"
    assert any(clip.path == "the-time-is.wav" for clip in playing.clips)
    world.hear(Played(session_of(world).id, playing.id))
    (cdr,) = world.is_clean()
    assert (cdr.result, cdr.ended_by, cdr.reason) == (Result.ANSWERED, Party.SYSTEM, "Said all")
    assert world.ended("1001") == [200]


def test_the_clock_begins_again_in_another_codec_and_goes_on_through_a_hold() -> None:
    world, caller = calling("*60")
    before = session_of(world).playing
    assert before is not None
    phone = world.phones["1001"]
    world.do("1001", phone.hold(world.now, caller))
    world.run(1)
    assert session_of(world).playing == before
    world.do("1001", phone.resume(world.now, caller))
    world.run(1)
    own = next(m.body for _, s, _, m in reversed(world.log) if s == world.addresses["1001"] and m.body)
    was = parse(own).origin
    sdp = (
        f"v=0\r\no={was.username} {was.session_id} {int(was.version) + 1} IN IP4 10.0.0.1\r\ns=-\r\n"
        "c=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 8\r\n"
    )
    world.do("1001", phone.reinvite(world.now, caller, sdp=sdp))
    world.run(1)
    after = session_of(world).playing
    assert after is not None
    assert (after.codec, after.payload_type) == ("PCMA", 8)
    assert after.id != before.id
    world.hang_up("1001", caller)
    world.is_clean()


@pytest.mark.parametrize("number", ["*43", "*60"])
def test_changes_in_a_call_to_an_application(number: str) -> None:
    world, caller = calling(number)
    phone = world.phones["1001"]
    world.do("1001", phone.hold(world.now, caller))
    world.run(1)
    assert "a=recvonly" in world.of("1001", Updated)[-1].answer
    world.do("1001", phone.update(world.now, caller, direction=Direction.SENDRECV))
    world.run(1)
    world.do("1001", phone.reinvite(world.now, caller, late=True))
    world.run(1)
    assert len(world.of("1001", Updated)) == 3
    world.do("1001", phone.info(world.now, caller, "1"))
    world.hang_up("1001", caller, run_s=1)
    world.is_clean()


def test_our_answer_is_word_for_word_the_same_when_nothing_changed() -> None:
    world, caller = calling("*43")
    phone = world.phones["1001"]
    for _ in range(3):
        world.do("1001", phone.reinvite(world.now, caller))
        world.run(1)
    answers = [m for _, s, _, m in world.log if isinstance(m, Response) and s == SERVER and m.body and m.status == 200]
    assert len(answers) == 4
    assert len({answer.body for answer in answers}) == 1
    world.hang_up("1001", caller)
    world.is_clean()


@pytest.mark.parametrize(("number", "status"), [("*60", 488), ("*43", 200)])
def test_an_echo_needs_no_codec_that_warden_knows_and_a_clock_does(number: str, status: int) -> None:
    world = World()
    peer = world.peer("10.9.0.1")
    sdp = (
        "v=0\r\no=- 1 1 IN IP4 10.9.0.1\r\ns=-\r\nc=IN IP4 10.9.0.1\r\nt=0 0\r\n"
        "m=audio 4000 RTP/AVP 98\r\na=rtpmap:98 OPUS/48000/2\r\n"
    )
    peer.ask("INVITE", "1001", body=sdp, to=number)
    assert peer.last().status == status
    warning = '305 10.0.0.254 "Incompatible media format"' if status == 488 else None
    assert peer.last().get("Warning") == warning
    if status == 200:
        peer.say(
            peer.request(
                "ACK",
                "1001",
                ("To", peer.last().get("To") or ""),
                ("Call-ID", peer.last().call_id),
                ("CSeq", f"{peer.last().cseq.number} ACK"),
                to=number,
            )
        )
        world.tell(lambda s: s.stop_call(world.now, next(iter(s.calls)), Cause(480)))
        world.run(0.1)
        peer.say(peer.requests("BYE")[0].respond(200))
    world.is_clean()


def test_an_ack_without_an_answer_ends_a_late_call_to_an_application() -> None:
    world = World()
    peer = world.peer("10.9.0.1")
    peer.ask("INVITE", "1001", to="*60")
    answer = peer.last()
    peer.say(
        peer.request(
            "ACK",
            "1001",
            ("To", answer.get("To") or ""),
            ("Call-ID", answer.call_id),
            ("CSeq", f"{answer.cseq.number} ACK"),
            body="v=0\r\no=- 1 1 IN IP4 10.9.0.1\r\ns=-\r\nc=IN IP4 10.9.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 18\r\n",
            to="*60",
        )
    )
    world.run(0.1)
    peer.say(peer.requests("BYE")[0].respond(200))
    (cdr,) = world.is_clean()
    assert cdr.reason == "Not Acceptable Here"


def test_what_media_has_learned_stays_until_the_phone_names_another_address() -> None:
    world, caller = calling("*43")
    side = session_of(world).streams[0].a
    heard = world.addresses["1001"]._replace(port=4444)
    world.hear(Latched(session_of(world).id, side.port, heard))
    world.hear(Latched(session_of(world).id, side.port, heard, rtcp=True))
    world.hear(Latched("no such session", side.port, heard))
    phone = world.phones["1001"]
    world.do("1001", phone.hold(world.now, caller))
    world.run(1)
    (live,) = world.switch.calls.values()
    assert live.session is not None
    kept = live.session.streams[0].a
    assert (kept.learned, kept.learned_rtcp, kept.generation) == (heard, heard, 0)
    own = parse(next(m.body for _, s, _, m in reversed(world.log) if s == world.addresses["1001"] and m.body)).origin
    sdp = (
        f"v=0\r\no={own.username} {own.session_id} {int(own.version) + 1} IN IP4 10.0.0.77\r\ns=-\r\n"
        "c=IN IP4 10.0.0.77\r\nt=0 0\r\nm=audio 5000 RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\n"
    )
    world.do("1001", phone.reinvite(world.now, caller, sdp=sdp))
    world.run(1)
    moved = session_of(world).streams[0].a
    assert (moved.remote, moved.learned, moved.generation) == (("10.0.0.77", 5000), None, 1)
    assert (moved.dtmf_payload_type, moved.clock_hz) == (101, 8000)
    world.hang_up("1001", caller)
    world.is_clean()
