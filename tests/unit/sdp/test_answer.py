"""Offers are answered, refused, held and read as RFC 3264 wants it."""

from pathlib import Path

import pytest

from warden.core.errors import MalformedMessage
from warden.sdp.answer import Answer, NoCommonCodec, answer, check_answer, hold, offer, read_answer
from warden.sdp.session import Direction, parse

SAMPLES = {
    path.stem: path.read_text("utf-8").replace("\n", "\r\n")
    for path in sorted((Path(__file__).parent / "samples").glob("*.sdp"))
}
HEAD = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"


def answered(sdp: str, *codecs: str, any_codec: bool = False) -> Answer:
    names = codecs or ("PCMU", "PCMA")
    return answer(sdp, host="127.0.0.1", port=30000, session_id=9, version=1, codecs=names, any_codec=any_codec)


def test_a_phone_s_offer_is_answered_with_the_first_common_codec_and_digits() -> None:
    ours = answered(SAMPLES["yealink"])
    assert ours.sdp == (
        "v=0\r\no=warden 9 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        "m=audio 30000 RTP/AVP 0 101\r\na=rtpmap:0 PCMU/8000\r\n"
        "a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n"
    )
    assert (ours.codec, ours.payload_type, ours.telephone_event, ours.stream) == ("PCMU", 0, 101, 0)


def test_the_offerer_s_order_of_codecs_decides_and_its_payload_types_are_used() -> None:
    sdp = HEAD + "m=audio 4000 RTP/AVP 101 96 8\r\na=rtpmap:96 pcmu/8000\r\na=rtpmap:101 telephone-event/8000\r\n"
    assert (answered(sdp).codec, answered(sdp).payload_type) == ("PCMU", 96)
    assert "a=rtpmap:96 pcmu/8000\r\n" in answered(sdp).sdp
    assert answered(sdp, "PCMA").payload_type == 8


def test_an_echo_takes_whatever_codec_comes_first_with_its_parameters() -> None:
    ours = answered(SAMPLES["linphone"], any_codec=True)
    assert (ours.codec, ours.payload_type, ours.telephone_event) == ("OPUS", 96, 101)
    assert "m=audio 30000 RTP/AVPF 96 101\r\na=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1\r\n" in ours.sdp
    assert "a=rtpmap:101 telephone-event/48000\r\n" in ours.sdp


def test_an_offer_without_digits_is_answered_without_digits() -> None:
    ours = answered(SAMPLES["sdp01"])
    assert ours.telephone_event is None
    assert "telephone-event" not in ours.sdp


@pytest.mark.parametrize(
    ("line", "direction"),
    [
        ("a=sendrecv", Direction.SENDRECV),
        ("a=sendonly", Direction.RECVONLY),
        ("a=recvonly", Direction.SENDONLY),
        ("a=inactive", Direction.INACTIVE),
        ("c=IN IP4 0.0.0.0", Direction.RECVONLY),
    ],
)
def test_the_direction_is_mirrored(line: str, direction: Direction) -> None:
    ours = answered(HEAD + f"m=audio 4000 RTP/AVP 0\r\n{line}\r\n")
    assert ours.direction is direction
    assert ours.sdp.endswith(f"a={direction}\r\n")


def test_other_streams_are_refused_in_their_places_as_in_rfc_3264_section_10_1() -> None:
    # Alice offers one audio and two video streams; an application of ours wants the audio only.
    offered = (
        "v=0\r\no=alice 2890844526 2890844526 IN IP4 host.anywhere.com\r\ns= \r\nc=IN IP4 host.anywhere.com\r\n"
        "t=3034423619 3042462419\r\nm=audio 49170 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
        "m=video 51372 RTP/AVP 31\r\na=rtpmap:31 H261/90000\r\nm=video 53000 RTP/AVP 32\r\na=rtpmap:32 MPV/90000\r\n"
    )
    ours = parse(answered(offered).sdp)
    assert [(m.kind, m.port, m.formats) for m in ours.media] == [
        ("audio", 30000, ("0",)),
        ("video", 0, ("31",)),
        ("video", 0, ("32",)),
    ]
    assert ("t", "3034423619 3042462419") in ours.lines
    check_answer(offered, str(ours))


def test_the_answer_of_rfc_4317_section_2_1_is_read() -> None:
    # Alice offers PCMU, PCMA and iLBC beside two video codecs, Bob takes the first two and one video codec.
    alice = (
        HEAD
        + "m=audio 49170 RTP/AVP 0 8 97\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:97 iLBC/8000\r\n"
        "m=video 51372 RTP/AVP 31 32\r\na=rtpmap:31 H261/90000\r\na=rtpmap:32 MPV/90000\r\n"
    )
    bob = (
        HEAD + "m=audio 49174 RTP/AVP 0 8\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n"
        "m=video 49170 RTP/AVP 32\r\na=rtpmap:32 MPV/90000\r\n"
    )
    got = read_answer(alice, bob)
    assert (got.codec, got.payload_type, got.telephone_event, got.stream) == ("PCMU", 0, None, 0)
    check_answer(alice, bob)


def test_a_held_call_of_rfc_4317_section_3_1_is_put_on_hold_and_resumed() -> None:
    mine = offer(host="127.0.0.1", port=4000, session_id=5, version=1)
    held = hold(mine, Direction.SENDONLY)
    assert parse(held).origin.version == "2"
    theirs = answered(held)
    assert theirs.direction is Direction.RECVONLY
    assert read_answer(held, theirs.sdp).direction is Direction.SENDONLY
    resumed = hold(held, Direction.SENDRECV)
    assert resumed == mine.replace("o=warden 5 1 ", "o=warden 5 3 ")
    assert answered(resumed).direction is Direction.SENDRECV


def test_hold_changes_active_streams_only_and_outranks_the_session_s_direction() -> None:
    sdp = hold(SAMPLES["polycom"].replace("m=video 2230", "m=video 0"), Direction.INACTIVE)
    session = parse(sdp)
    assert [session.direction_of(m) for m in session.media] == [Direction.INACTIVE, Direction.SENDRECV]
    assert session.origin.version == "1446043013"


def test_our_own_offer_and_answer_agree() -> None:
    mine = offer(host="127.0.0.1", port=4000, session_id=5, version=1, codecs=("OPUS", "G722", "PCMA"))
    assert "m=audio 4000 RTP/AVP 111 9 8 101\r\na=rtpmap:111 opus/48000/2\r\n" in mine
    theirs = answered(mine)
    got = read_answer(mine, theirs.sdp)
    assert (got.codec, got.payload_type, got.telephone_event) == ("PCMA", 8, 101)
    assert str(parse(mine)) == mine


def test_digits_are_sent_only_where_both_sides_know_them() -> None:
    mine = offer(host="127.0.0.1", port=4000, session_id=5, version=1)
    assert read_answer(mine, HEAD + "m=audio 4000 RTP/AVP 0\r\n").telephone_event is None
    other = HEAD + "m=audio 4000 RTP/AVP 8 97\r\na=rtpmap:97 telephone-event/8000\r\n"
    assert read_answer(mine, other).telephone_event == 97
    without_digits = HEAD + "m=audio 4000 RTP/AVP 0 8\r\n"
    assert read_answer(without_digits, other).telephone_event is None


@pytest.mark.parametrize(
    "sdp",
    [
        HEAD,
        HEAD + "m=audio 4000 RTP/AVP 18\r\n",
        HEAD + "m=audio 0 RTP/AVP 0\r\n",
        HEAD + "m=audio 4000 RTP/AVP 101\r\na=rtpmap:101 telephone-event/8000\r\n",
        HEAD + "m=audio 4000 RTP/SAVP 0\r\n",
        HEAD + "m=video 4000 RTP/AVP 31\r\n",
    ],
)
def test_an_offer_with_nothing_for_us_is_not_acceptable_here(sdp: str) -> None:
    with pytest.raises(NoCommonCodec) as caught:
        answered(sdp)
    assert caught.value.status == 488


def test_an_answer_that_takes_nothing_of_ours_is_not_acceptable() -> None:
    mine = offer(host="127.0.0.1", port=4000, session_id=5, version=1)
    for other in (HEAD + "m=audio 0 RTP/AVP 0\r\n", HEAD + "m=audio 4000 RTP/AVP 18\r\n"):
        with pytest.raises(NoCommonCodec):
            read_answer(mine, other)


@pytest.mark.parametrize(
    "other",
    [
        HEAD,
        HEAD + "m=video 4000 RTP/AVP 31\r\n",
        HEAD + "m=audio 4000 RTP/AVP 0\r\nm=video 0 RTP/AVP 31\r\n",
    ],
)
def test_an_answer_with_other_streams_than_the_offer_s_is_no_answer(other: str) -> None:
    mine = offer(host="127.0.0.1", port=4000, session_id=5, version=1)
    with pytest.raises(MalformedMessage) as caught:
        check_answer(mine, other)
    assert caught.value.status == 488


def test_an_active_stream_without_an_address_cannot_be_answered() -> None:
    with pytest.raises(MalformedMessage) as caught:
        answered("v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n")
    assert caught.value.status == 400
    with pytest.raises(MalformedMessage):
        hold("v=0\r\no=- 1 x IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n", Direction.INACTIVE)
