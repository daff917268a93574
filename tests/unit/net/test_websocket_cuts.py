"""A WebSocket's bytes however they are cut into reads: what is behind a handshake, and what is in front of an end."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.net.conftest import options
from tests.unit.net.test_websocket import CLOSE, HANDSHAKE, frame, opened, shown
from websockets.frames import Close, Frame, Opcode

from warden.net.websocket import HANDSHAKE_BYTES_MAX, WebSocket
from warden.sip.stream import KeepAlive


@pytest.mark.parametrize("behind", [b"xxx", HANDSHAKE, CLOSE, b"\r\n" * 9], ids=range(4))
@pytest.mark.parametrize(
    ("first", "answer"), [(b"POST / HTTP/1.1\r\n\r\n", b"HTTP/1.1 405 "), (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 426 ")]
)
def test_what_comes_behind_a_refused_handshake_is_not_read(first: bytes, answer: bytes, behind: bytes) -> None:
    framing = WebSocket()
    assert framing.receive(first + behind) == []
    assert framing.owed().startswith(answer)
    assert framing.over.startswith("websocket: ")
    assert (framing.receive(behind), framing.owed(), framing.goodbye()) == ([], b"", b"")


@pytest.mark.parametrize("at", [0, 7, *range(len(HANDSHAKE) - 4, len(HANDSHAKE) + 1)])
def test_frames_right_behind_the_handshake_are_read_and_a_goodbye_among_them_is_answered(at: int) -> None:
    framing = WebSocket()
    data = HANDSHAKE + frame(options(1)) + CLOSE
    assert shown(framing.receive(data[:at]) + framing.receive(data[at:])) == ["1"]
    answer, _, rest = framing.owed().partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert rest == Frame(Opcode.CLOSE, Close(1000, "").serialize()).serialize(mask=False)
    assert (framing.over, framing.goodbye()) == ("the peer closed the connection", b"")


@pytest.mark.parametrize("end", [CLOSE, frame(b"", Opcode.CLOSE), frame(b"a", Opcode.CONT)], ids=range(3))
def test_a_keep_alive_right_before_the_end_is_not_answered_behind_it(end: bytes) -> None:
    framing = opened()
    assert framing.receive(frame(b"\r\n\r\n") + end) == [KeepAlive.PING]
    assert framing.over
    assert framing.owed()[0] == 0x88, "a close frame is the last"
    assert framing.goodbye() == b""


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_a_handshake_is_too_long_however_it_is_cut(size: int) -> None:
    long = HANDSHAKE[:-2] + (b"A: " + b"b" * 5_000 + b"\r\n") * 4 + b"\r\n"
    framing = WebSocket()
    for i in range(0, len(long), size):
        framing.receive(long[i : i + size])
    assert framing.over == f"websocket: a handshake of more than {HANDSHAKE_BYTES_MAX} bytes"
    assert framing.owed() == b""


PIECES = [
    HANDSHAKE,
    b"POST / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: pbx.example.com\r\n\r\n",
    b"\r\n\r\n",
    frame(b"\r\n\r\n"),
    frame(b"\r\n"),
    frame(b""),
    frame(options(1)),
    frame(b"hello"),
    frame(b"\xff"),
    frame(options(2)[:20], fin=False),
    frame(options(2)[20:], Opcode.CONT),
    frame(b"there?", Opcode.PING),
    frame(b"", Opcode.CLOSE),
    frame(b"a", Opcode.CLOSE),
    CLOSE,
]


@given(
    st.sampled_from([b"", HANDSHAKE]),
    st.lists(st.sampled_from(PIECES) | st.binary(max_size=9), max_size=6),
    st.lists(st.integers(0, 2_000), max_size=6),
)
def test_however_the_bytes_are_cut_they_mean_the_same_and_nothing_raises(
    first: bytes, pieces: list[bytes], cuts: list[int]
) -> None:
    data = first + b"".join(pieces)
    at = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    whole, cut = WebSocket(), WebSocket()
    items = [item for start, end in pairwise(at) for item in cut.receive(data[start:end])]
    assert shown(whole.receive(data)) == shown(items)
    assert (whole.over, whole.is_open) == (cut.over, cut.is_open)
    for framing in (whole, cut):
        framing.owed()
        assert framing.goodbye() == b"" or not framing.over
