"""Datagrams to messages, and the limits of that (RFC 3261 sections 7, 18.3)."""

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from warden.core.errors import MalformedMessage
from warden.sip.message import Request, Response
from warden.sip.parser import FIELDS_MAX, HEAD_BYTES_MAX, parse_head, parse_message, salvage_request

OPTIONS = (
    b"OPTIONS sip:pbx@example.com SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport\r\n"
    b"From: <sip:1001@example.com>;tag=a\r\n"
    b"To: <sip:pbx@example.com>\r\n"
    b"Call-ID: c1\r\n"
    b"CSeq: 1 OPTIONS\r\n"
    b"Content-Length: 5\r\n"
    b"\r\n"
    b"hello"
)


def change(old: bytes, new: bytes) -> bytes:
    assert old in OPTIONS
    return OPTIONS.replace(old, new)


def status_of(data: bytes) -> int | None:
    with pytest.raises(MalformedMessage) as caught:
        parse_message(data)
    return caught.value.status


def test_datagram_is_one_message() -> None:
    message = parse_message(OPTIONS)
    assert isinstance(message, Request)
    assert (message.method, message.target, message.body) == ("OPTIONS", "sip:pbx@example.com", b"hello")
    assert message.raw == bytes(message) == OPTIONS


def test_line_ends_in_front_and_bytes_behind_are_no_part_of_the_message() -> None:
    message = parse_message(b"\r\n\r\n" + OPTIONS + b"\r\nINVITE sip:x SIP/2.0\r\n\r\n")
    assert message.raw == OPTIONS


def test_without_content_length_the_body_goes_to_the_end_of_the_datagram() -> None:
    assert parse_message(change(b"Content-Length: 5\r\n", b"") + b", world").body == b"hello, world"


def test_head_parses_alone() -> None:
    message = parse_head(OPTIONS.partition(b"\r\n\r\n")[0])
    assert (message.body, message.raw) == (b"", None)
    assert message.number("Content-Length") == 5


def test_text_that_is_not_utf8_prints_as_it_came_also_in_a_copy() -> None:
    data = change(b"From: ", b'From: "Zo\xeb \xc3\xab" ')
    message = parse_message(data)
    assert b'From: "Zo\xeb \xc3\xab" <sip:1001@example.com>;tag=a\r\n' in bytes(message.with_first("Via", "x"))
    assert isinstance(message, Request)
    assert b'"Zo\xeb \xc3\xab"' in bytes(message.respond(200))


def test_folded_lines_are_one_value() -> None:
    message = parse_message(change(b"Call-ID: c1", b"Subject:  a \r\n\t b\r\n  \r\n c\r\nCall-ID:\r\n c1"))
    assert (message.get("Subject"), message.call_id) == ("a b  c", "c1")


def test_status_line_forms() -> None:
    for line, status, reason in (
        (b"SIP/2.0 200 OK", 200, "OK"),
        (b"sip/2.0 183 Session Progress", 183, "Session Progress"),
        (b"SIP/2.0 100 ", 100, ""),
        (b"SIP/2.0 100", 100, ""),
        (b"SIP/2.0 699  ", 699, " "),
    ):
        response = parse_message(change(b"OPTIONS sip:pbx@example.com SIP/2.0", line))
        assert isinstance(response, Response)
        assert (response.status, response.reason) == (status, reason)


@pytest.mark.parametrize(
    "line",
    [
        b"SIP/2.0",
        b"SIP/2.0 99 x",
        b"SIP/2.0 700 x",
        b"SIP/2.0 2000 x",
        b"SIP/2.0 20 x",
        b"SIP/2.0  200 OK",
        b"SIP/3.0 200 OK",
        b"SIP/2.0 2\xd9\xa30 x",
    ],
)
def test_bad_response_is_not_to_be_answered(line: bytes) -> None:
    data = change(b"OPTIONS sip:pbx@example.com SIP/2.0", line)
    assert status_of(data) is None
    assert salvage_request(data) is None


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"OPTIONS", 400),
        (b"OPTIONS SIP/2.0", 400),
        (b"OPTIONS  SIP/2.0", 400),
        (b"OPTIONS sip:pbx@example.com", 400),
        (b"OPTIONS sip:pbx@example.com HTTP/1.1", 400),
        (b"OPT:IONS sip:pbx@example.com SIP/2.0", 400),
        (b"OPTIONS sip:p bx@example.com SIP/2.0", 400),
        (b"OPTIONS sip:p\x00bx@example.com SIP/2.0", 400),
        (b"OPTIONS sip:p\x7fbx@example.com SIP/2.0", 400),
        (b"OPTIONS sip:pbx@example.com SIP/3.0", 505),
        (b"OPTIONS sip:pbx@example.com SIP/2.00", 505),
    ],
)
def test_bad_request_line_is_refused(line: bytes, status: int) -> None:
    assert status_of(change(b"OPTIONS sip:pbx@example.com SIP/2.0", line)) == status


@pytest.mark.parametrize(
    "data",
    [
        OPTIONS[:-1],
        OPTIONS.partition(b"\r\n\r\n")[0],
        change(b"Content-Length: 5", b"Content-Length: 5\r\nl: 5"),
        change(b"Content-Length: 5", b"Content-Length: 5, 5"),
        change(b"Content-Length: 5", b"Content-Length: -5"),
        change(b"Content-Length: 5", b"Content-Length: +5"),
        change(b"Content-Length: 5", b"Content-Length: 0x5"),
        change(b"Content-Length: 5", b"Content-Length:"),
        change(b"Content-Length: 5", b"Content-Length: " + b"9" * 5000),
        change(b"Content-Length: 5", b"Content-Length: 9999999999"),
        change(b"Content-Length: 5", b"Content-Length: \xd9\xa5"),
        change(b"Call-ID: c1", b"Call-ID: c1\nVia: SIP/2.0/UDP other"),
        change(b"Call-ID: c1", b"Call-ID: c1\rVia: SIP/2.0/UDP other"),
        change(b"Call-ID: c1", b"Call-ID c1"),
        change(b"Call-ID: c1", b"Call-ID"),
        change(b"Call-ID: c1", b": c1"),
        change(b"Call-ID: c1", b"Call ID: c1"),
        change(b"Call-ID: c1", b"Call-ID\xc3\xa9: c1"),
    ],
)
def test_bad_frame_is_refused_with_400_and_can_be_answered(data: bytes) -> None:
    assert status_of(data) == 400
    salvaged = salvage_request(data)
    assert salvaged is not None
    answer = parse_message(bytes(salvaged.respond(400, to_tag="b")))
    assert (answer.via.branch, answer.from_.tag, answer.to.tag, answer.cseq.number) == ("z9hG4bK1", "a", "b", 1)
    assert len(answer.values("Via")) == 1


def test_salvaged_request_has_each_header_once_but_every_via() -> None:
    data = change(b"Call-ID: c1", b"v: SIP/2.0/UDP 192.0.2.2\r\nCall-ID: c1\r\ni: c2\r\nX-Secret: s\r\nbad line")
    salvaged = salvage_request(data)
    assert salvaged is not None
    assert len(salvaged.get_all("Via")) == 2
    assert salvaged.get_all("Call-ID") == ["c1"]
    assert salvaged.get("X-Secret") is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        b"\x00" * 40,
        b"GET / HTTP/1.1\r\nVia: SIP/2.0/UDP h\r\n\r\n",
        OPTIONS.replace(b"OPTIONS sip", b"ACK sip"),
        change(b"Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport\r\n", b""),
    ],
)
def test_what_cannot_be_answered_is_not_salvaged(data: bytes) -> None:
    assert salvage_request(data) is None


def test_head_and_fields_are_limited() -> None:
    filler = b"".join(b"X-%d: x\r\n" % i for i in range(FIELDS_MAX - 6))
    parse_message(change(b"Call-ID", filler + b"Call-ID"))
    assert status_of(change(b"Call-ID", b"X: x\r\n" + filler + b"Call-ID")) == 400
    room = HEAD_BYTES_MAX - len(OPTIONS.partition(b"\r\n\r\n")[0])
    parse_message(change(b"c1", b"c1" + b"c" * room))
    too_long = change(b"c1", b"c1" + b"c" * (room + 1))
    assert status_of(too_long) == 513
    assert salvage_request(too_long) is not None


@given(st.binary(max_size=80), st.sampled_from([b"", OPTIONS[:-5], OPTIONS[: OPTIONS.index(b"CSeq")]]))
@example(b"", b"")
@example(b"\r", b"")
@example(b"SIP/2.0 200", b"")
def test_any_bytes_give_a_message_or_a_malformed_message(data: bytes, front: bytes) -> None:
    with suppress(MalformedMessage):
        parse_message(front + data)
    salvage_request(front + data)
