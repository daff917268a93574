"""Descriptions are read leniently, printed strictly, and answer for addresses, directions and codecs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warden.core.address import Address
from warden.core.errors import MalformedMessage
from warden.sdp import session as limits
from warden.sdp.session import Connection, Direction, Media, Origin, Session, decode, encode, parse

SAMPLES = {
    path.stem: path.read_text("utf-8").replace("\n", "\r\n")
    for path in sorted((Path(__file__).parent / "samples").glob("*.sdp"))
}


def described(*lines: str, head: tuple[str, ...] = ("s=-", "c=IN IP4 192.0.2.1", "t=0 0")) -> Session:
    return parse("\r\n".join(("v=0", "o=- 1 1 IN IP4 192.0.2.1", *head, *lines)) + "\r\n")


@pytest.mark.parametrize("name", SAMPLES)
def test_what_phones_write_prints_as_it_was_read(name: str) -> None:
    text = SAMPLES[name]
    assert str(parse(text)) == text
    assert parse(encode(text)) == parse(text)


def test_bare_line_feeds_a_missing_end_of_line_and_missing_s_and_t_lines_are_mended() -> None:
    session = parse("v=0\no=- 1 1 IN IP4 192.0.2.1\nc=IN IP4 192.0.2.1\na=tool:x\n\nm=audio 4000 RTP/AVP 0")
    assert str(session) == (
        "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\na=tool:x\r\n"
        "m=audio 4000 RTP/AVP 0\r\n"
    )


def test_unknown_lines_stay_in_their_place() -> None:
    text = "\r\n".join(
        (
            "v=0",
            "o=- 1 1 IN IP4 192.0.2.1",
            "s=-",
            "i=about",
            "c=IN IP4 192.0.2.1",
            "b=AS:80",
            "y=what",
            "t=0 0",
            "r=7d 1h",
            "m=audio 4000 RTP/AVP 0",
            "i=leg",
            "c=IN IP4 192.0.2.2",
            "y=ever",
            "a=ptime:20",
            "",
        )
    )
    assert str(parse(text)) == text


def test_a_user_name_with_spaces_in_the_origin_is_taken_as_it_is() -> None:
    origin = parse("v=0\r\no=Front Desk 12 13 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n").origin
    assert (origin.username, origin.session_id, origin.version) == ("Front Desk", "12", "13")


def test_bytes_that_are_not_utf_8_come_out_as_they_went_in() -> None:
    body = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=caf\xe9\r\nt=0 0\r\n"
    assert encode(str(parse(body))) == body
    assert encode(decode(body)) == body


def test_static_payload_types_need_no_rtpmap_and_unexplained_ones_are_left_out() -> None:
    media = described("m=audio 4000 RTP/AVP 0 8 9 3 18 96 97 junk", "a=rtpmap:97 iLBC/8000", "a=fmtp:97 mode=30").media[
        0
    ]
    assert [(c.payload_type, c.name, c.clock, c.channels, c.fmtp) for c in media.codecs] == [
        (0, "PCMU", 8000, 1, ""),
        (8, "PCMA", 8000, 1, ""),
        (9, "G722", 8000, 1, ""),
        (3, "GSM", 8000, 1, ""),
        (18, "G729", 8000, 1, ""),
        (97, "ILBC", 8000, 1, "mode=30"),
    ]


def test_an_rtpmap_outranks_the_static_table_and_may_lack_its_clock() -> None:
    codecs = [c for media in parse(SAMPLES["sdp01"]).media for c in media.codecs]
    assert [(c.payload_type, c.name, c.clock) for c in codecs] == [
        (0, "PCMU", 8000),
        (12, "QCELP", 8000),
        (31, "LPC", 8000),
    ]
    opus = parse(SAMPLES["linphone"]).media[0].codecs[0]
    assert (opus.name, opus.clock, opus.channels, opus.fmtp) == ("OPUS", 48000, 2, "useinbandfec=1")


def test_digits_go_with_the_clock_of_the_codec_where_they_can() -> None:
    media = parse(SAMPLES["linphone"]).media[0]
    assert media.find_telephone_event(48000) == 101
    assert media.find_telephone_event(8000) == 99
    assert media.find_telephone_event(16000) == 101
    assert parse(SAMPLES["sdp01"]).media[0].find_telephone_event(8000) is None


@pytest.mark.parametrize(
    ("head", "lines", "direction"),
    [
        ((), (), Direction.SENDRECV),
        (("a=inactive",), (), Direction.INACTIVE),
        (("a=inactive",), ("a=recvonly",), Direction.RECVONLY),
        ((), ("a=sendonly ",), Direction.SENDONLY),
        ((), ("c=IN IP4 0.0.0.0",), Direction.SENDONLY),
        ((), ("c=IN IP4 0.0.0.0", "a=recvonly"), Direction.INACTIVE),
        ((), ("c=IN IP6 ::", "a=sendrecv"), Direction.SENDONLY),
    ],
)
def test_a_stream_has_its_own_direction_or_the_session_s_less_what_a_null_address_takes_away(
    head: tuple[str, ...], lines: tuple[str, ...], direction: Direction
) -> None:
    session = described("m=audio 4000 RTP/AVP 0", *lines, head=("s=-", "c=IN IP4 192.0.2.1", "t=0 0", *head))
    assert session.direction_of(session.media[0]) is direction


@pytest.mark.parametrize(
    ("lines", "rtp", "rtcp"),
    [
        (("m=audio 4000 RTP/AVP 0",), Address("192.0.2.1", 4000), Address("192.0.2.1", 4001)),
        (("m=audio 4000 RTP/AVP 0", "a=rtcp:5000"), Address("192.0.2.1", 4000), Address("192.0.2.1", 5000)),
        (
            ("m=audio 4000 RTP/AVP 0", "a=rtcp:5000 IN IP4 192.0.2.9"),
            Address("192.0.2.1", 4000),
            Address("192.0.2.9", 5000),
        ),
        (("m=audio 4000 RTP/AVP 0", "a=rtcp-mux"), Address("192.0.2.1", 4000), Address("192.0.2.1", 4001)),
        (("m=audio 4000 RTP/AVP 0", "a=rtcp-mux-only"), Address("192.0.2.1", 4000), Address("192.0.2.1", 4000)),
        (("m=audio 4000 RTP/AVP 0", "a=rtcp:none"), Address("192.0.2.1", 4000), None),
        (("m=audio 65535 RTP/AVP 0",), Address("192.0.2.1", 65535), None),
        (
            ("m=audio 4000 RTP/AVP 0", "c=IN IP6 2001:db8::7"),
            Address("2001:db8::7", 4000),
            Address("2001:db8::7", 4001),
        ),
        (("m=audio 0 RTP/AVP 0",), None, None),
        (("m=audio 4000 RTP/AVP 0", "c=IN IP4 0.0.0.0"), None, None),
        (("m=audio 4000 RTP/AVP 0", "c=IN IP4 224.2.1.1/127"), None, None),
        (("m=audio 4000 RTP/AVP 0", "c=IN IP4 239.0.0.1"), None, None),
        (("m=audio 4000 RTP/AVP 0", "c=IN IP4 255.255.255.255"), None, None),
        (("m=audio 4000 RTP/AVP 0", "c=IN IP4 phone.example.com"), None, None),
        (("m=audio 4000 RTP/AVP 0", "c=IN IP6 fe80::1%lo"), None, None),
    ],
)
def test_packets_go_where_the_description_says_and_to_single_literal_addresses_only(
    lines: tuple[str, ...], rtp: Address | None, rtcp: Address | None
) -> None:
    session = described(*lines)
    assert session.rtp_of(session.media[0]) == rtp
    assert session.rtcp_of(session.media[0]) == rtcp


HEAD = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("", 400),
        ("v=1\r\no=- 1 1 IN IP4 192.0.2.1\r\n", 400),
        ("o=- 1 1 IN IP4 192.0.2.1\r\nv=0\r\n", 400),
        ("v=0\r\ns=-\r\n", 400),
        ("v=0\r\no=- 1 1 IN IP4\r\n", 400),
        (HEAD + "o=- 1 1 IN IP4 192.0.2.1\r\n", 400),
        (HEAD + "no line\r\n", 400),
        (HEAD + "a=x\ry\r\n", 400),
        (HEAD + "a=x\0y\r\n", 400),
        (HEAD + "m=audio\r\n", 400),
        (HEAD + "m=audio x RTP/AVP 0\r\n", 400),
        (HEAD + "m=audio 65536 RTP/AVP 0\r\n", 400),
        (HEAD + "m=audio -1 RTP/AVP 0\r\n", 400),
        (HEAD + "m=audio " + "9" * 5000 + " RTP/AVP 0\r\n", 400),
        (HEAD + "m=audio 4000/0 RTP/AVP 0\r\n", 400),
        (HEAD + "m=audio 4000 RTP/AVP\r\n", 400),
        (HEAD + "m=audio 4000 RTP/AVP 0\r\nc=IN IP4\r\n", 400),
        (HEAD + "m=audio 4000 RTP/AVP 0\r\nc=IN IP4 /3\r\n", 400),
        (HEAD + "m=audio 4000 RTP/AVP 0\r\nc=ATM NSAP 47.0091\r\n", 488),
        (HEAD + "m=audio 4000 RTP/AVP 0\r\n" * (limits.MEDIA_MAX + 1), 488),
        (HEAD + "m=audio 4000 RTP/AVP" + " 0" * (limits.FORMATS_MAX + 1) + "\r\n", 488),
        (HEAD + "a=x\r\n" * limits.LINES_MAX, 413),
        (HEAD + "a=" + "x" * limits.SDP_CHARS_MAX, 413),
    ],
)
def test_what_is_no_description_or_too_much_of_one_is_refused_with_a_status(text: str, status: int) -> None:
    with pytest.raises(MalformedMessage) as caught:
        parse(text)
    assert caught.value.status == status


def test_a_body_far_too_long_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(MalformedMessage) as caught:
        parse(b"v=0\r\n" * 100_000)
    assert caught.value.status == 413


WORD = st.text(st.characters(min_codepoint=33, exclude_characters="/\x7f", exclude_categories=["Z", "C"]), min_size=1)
VALUE = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=30)
CONNECTION = st.none() | st.builds(Connection, st.sampled_from(["IP4", "IP6"]), WORD, st.sampled_from(["", "/127"]))
MEDIA = st.builds(
    Media,
    kind=WORD,
    port=st.integers(0, 65535),
    protocol=WORD,
    formats=st.lists(WORD, min_size=1, max_size=5).map(tuple),
    port_count=st.integers(1, 9),
    connection=CONNECTION,
    lines=st.lists(st.tuples(st.sampled_from("ibkaxt"), VALUE), max_size=6).map(tuple),
)
SESSION = st.builds(
    Session,
    origin=st.builds(Origin, WORD, WORD, WORD, st.sampled_from(["IP4", "IP6"]), WORD),
    name=VALUE,
    connection=CONNECTION,
    lines=st.lists(st.tuples(st.sampled_from("iuepbtrzkax"), VALUE), max_size=6).map(lambda x: (*x, ("t", "0 0"))),
    media=st.lists(MEDIA, max_size=4).map(tuple),
)


@given(SESSION)
def test_every_description_that_is_printed_reads_back_as_the_same(session: Session) -> None:
    assert parse(str(session)) == session
    assert parse(encode(str(session))) == session
