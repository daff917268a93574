"""Messages from a stream, however it is cut (RFC 3261 section 18.3, RFC 5626 section 3.5.1)."""

import random
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warden.core.errors import MalformedMessage
from warden.sip.message import Request, Response
from warden.sip.parser import BODY_BYTES_MAX, HEAD_BYTES_MAX, parse_message
from warden.sip.stream import Broken, BrokenStream, Item, KeepAlive, StreamParser

HEAD = (
    b"Via: SIP/2.0/TCP 192.0.2.1:5060;branch=z9hG4bK1;rport\r\n"
    b"From: <sip:1001@example.com>;tag=a\r\n"
    b"To: <sip:pbx@example.com>\r\n"
    b"Call-ID: c1\r\n"
    b"CSeq: 1 MESSAGE\r\n"
)
PING = b"\r\n\r\n"


def message(body: bytes = b"", start: bytes = b"MESSAGE sip:pbx@example.com SIP/2.0", length: bytes = b"") -> bytes:
    return start + b"\r\n" + HEAD + b"Content-Length: %b\r\n\r\n" % (length or b"%d" % len(body)) + body


def read(parser: StreamParser, *chunks: bytes) -> list[Item]:
    return [item for chunk in chunks for item in parser.receive(chunk)]


def shown(items: list[Item]) -> list[object]:
    out: list[object] = []
    for item in items:
        match item:
            case Request() | Response():
                assert item.raw is not None
                assert parse_message(item.raw) == item
                out.append(item.raw)
            case Broken():
                out.append((item.data, item.error.status))
            case KeepAlive.PING:
                out.append(item)
    return out


pieces = st.sampled_from(
    [
        PING,
        b"\r\n",
        message(),
        message(b"hello"),
        message(b"\r\n\r\n"),
        message(b"INVITE sip:x SIP/2.0\r\n\r\n"),
        message(b"ok", b"SIP/2.0 200 OK"),
        message(b"broken", b"MESSAGE  sip:x SIP/2.0"),
        message(b"broken", b"MESSAGE sip:x SIP/9.0"),
        message(b"broken", b"SIP/2.0 999 x"),
        message(b"hello").replace(b"Content-Length", b"l"),
        message(b"").replace(b"Content-Length: 0", b"X: y"),
        message(b"", length=b"99999999"),
        message(b"hello", length=b"5x"),
        b"\x00garbage\r\n\r\n",
    ]
)


@given(st.lists(pieces, max_size=8), st.data())
def test_any_cut_of_a_stream_gives_the_same_items(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    whole, whole_end = collect([stream])
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert collect(chunks) == (whole, whole_end)
    assert collect([stream[i : i + 1] for i in range(len(stream))]) == (whole, whole_end)


def collect(chunks: list[bytes]) -> tuple[list[object], tuple[int | None, bytes] | None]:
    parser = StreamParser()
    items: list[Item] = []
    for chunk in chunks:
        try:
            items += parser.receive(chunk)
        except BrokenStream as end:
            return shown(items + end.items), (end.status, end.data)
    return shown(items), None


def test_messages_that_come_together_are_told_apart() -> None:
    one, two = message(b"hello"), message(b"", b"SIP/2.0 200 OK")
    items = StreamParser().receive(one + two)
    assert shown(items) == [one, two]
    assert isinstance(items[0], Request)
    assert isinstance(items[1], Response)
    assert items[0].body == b"hello"


def test_double_line_end_is_a_ping_and_a_single_one_is_nothing() -> None:
    parser = StreamParser()
    assert parser.receive(PING) == [KeepAlive.PING]
    assert parser.receive(PING + PING) == [KeepAlive.PING] * 2
    assert parser.receive(b"\r\n") == []
    assert shown(parser.receive(message())) == [message()]
    assert read(parser, b"\r", b"\n\r", b"\n") == [KeepAlive.PING]


def test_malformed_message_whose_end_is_known_does_not_end_the_stream() -> None:
    bad = message(b"body", b"MESSAGE sip:x SIP/7.0")
    first, second = StreamParser().receive(bad + message())
    assert isinstance(first, Broken)
    assert (first.data, first.error.status) == (bad, 505)
    assert shown([second]) == [message()]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (message().replace(b"Content-Length: 0\r\n", b""), 400),
        (message(start=b"SIP/2.0 200 OK").replace(b"Content-Length: 0\r\n", b""), None),
        (message(length=b"-1"), 400),
        (message(length=b"0\r\nl: 0"), 400),
        (message(start=b"SIP/2.0 200 OK", length=b"0\r\nl: 0"), None),
        (message(start=b"BAD", length=b"0\r\nl: 5"), 400),
        (message(start=b"BAD").replace(b"Call-ID: c1", b"Call-ID: c1\nl: 5"), 400),
        (message(length=b"%d" % (BODY_BYTES_MAX + 1)), 413),
        (message(length=b"%d" % (BODY_BYTES_MAX + 1), start=b"SIP/2.0 200 OK"), None),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (message().replace(b"c1", b"c" * HEAD_BYTES_MAX), 513),
        (b"x" * (HEAD_BYTES_MAX + 4), 513),
    ],
)
def test_stream_that_is_lost_delivers_what_came_before_and_then_nothing(data: bytes, status: int | None) -> None:
    parser = StreamParser()
    with pytest.raises(BrokenStream) as caught:
        parser.receive(PING + message(b"before") + data + message(b"after"))
    assert isinstance(caught.value, MalformedMessage)
    assert caught.value.status == status
    assert shown(caught.value.items) == [KeepAlive.PING, message(b"before")]
    assert data.startswith(caught.value.data[:HEAD_BYTES_MAX])
    assert parser.receive(message(b"after")) == []


def test_largest_message_passes() -> None:
    body = bytes(BODY_BYTES_MAX)
    room = HEAD_BYTES_MAX - message(body).index(b"\r\n\r\n")
    largest = message(body).replace(b"c1", b"c" * (room + 2))
    assert largest.index(b"\r\n\r\n") == HEAD_BYTES_MAX
    assert shown(read(StreamParser(), *(largest[i : i + 1] for i in range(len(largest))))) == [largest]


def test_unfinished_message_holds_no_more_than_the_limits() -> None:
    """A peer who sends a head for ever is stopped at the limit, not by memory."""
    parser = StreamParser()
    sent = 0
    with suppress(BrokenStream):
        while sent < 10 * HEAD_BYTES_MAX:
            sent += 1000
            parser.receive(b"x" * 1000)
    assert sent <= HEAD_BYTES_MAX + 1004


@given(st.integers(0, 2**32), st.binary(max_size=200))
def test_any_bytes_give_items_or_a_broken_stream(seed: int, data: bytes) -> None:
    noise = random.Random(seed)
    parser = StreamParser()
    stream = message(b"x")[: noise.randrange(300)] + data + PING
    with suppress(BrokenStream):
        read(parser, *(stream[i : i + 7] for i in range(0, len(stream), 7)))
