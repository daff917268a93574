"""Every message, wounded at every place: whatever comes in, only `MalformedMessage` comes out.

The sweep is exhaustive over places and the same in each run; the fuzz targets beside it go further by chance.
"""

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CORPUS = HERE.parent / "corpus" / "rfc4475"
READING = runpy.run_path(str(HERE / "read_sip.py"))
read: Callable[[bytes], None] = READING["read"]
read_stream: Callable[[bytes, int], None] = READING["read_stream"]

NASTY = (b"\x00", b" ", b"\r\n", b'"', b"<", b";", b",", b"9", b"\xff")
"""One of each kind that some reader treats specially: ends, quotes, brackets, separators, digits, no UTF-8."""
PLACES_MAX = 1500
"""Only longreq is longer, and repeats itself: it is wounded at every seventh place."""
BODY_BYTES = 8
"""Of a body only the first bytes are wounded: none of the readers here looks into it."""

SDP = (
    b"v=0\r\no=- 1 1 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\n"
    b"m=audio 20000 RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\n"
)
DIALOG = (
    b"Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK77ef4c;rport\r\n"
    b'From: "Alice" <sip:1001@pbx.example.com>;tag=8fc2\r\n'
    b"To: <sip:1002@pbx.example.com>%b\r\n"
    b"Call-ID: 3848276298220188511@192.0.2.10\r\n"
    b"CSeq: %b\r\n"
)
CAPTURED = {
    "register": b"REGISTER sip:pbx.example.com SIP/2.0\r\n"
    + DIALOG % (b"", b"1 REGISTER")
    + b"Max-Forwards: 70\r\n"
    + b'Contact: <sip:1001@192.0.2.10:5060;transport=tcp;ob>;q=0.7;+sip.instance="<urn:uuid:0-1>";reg-id=1\r\n'
    + b"Expires: 3600\r\nSupported: path, outbound\r\n"
    + b'Authorization: Digest username="1001", realm="pbx", nonce="a,b", uri="sip:pbx.example.com", response="0"\r\n'
    + b"Content-Length: 0\r\n\r\n",
    "invite": b"INVITE sip:1002@pbx.example.com;user=phone SIP/2.0\r\n"
    + DIALOG % (b"", b"2 INVITE")
    + b"Max-Forwards: 70\r\nContact: <sip:1001@192.0.2.10:5060>\r\n"
    + b"Record-Route: <sip:p1.example.com;lr>, <sip:[2001:db8::1]:5061;lr>\r\nRoute: <sip:pbx.example.com;lr>\r\n"
    + b"Accept: application/sdp\r\nRequire: timer\r\nSession-Expires: 1800;refresher=uac\r\n"
    + b"Content-Type: application/sdp\r\nContent-Length: %d\r\n\r\n" % len(SDP)
    + SDP,
    "ok": b"SIP/2.0 200 OK\r\n"
    + DIALOG % (b";tag=314159", b"2 INVITE")
    + b"Contact: <sip:1002@192.0.2.20>\r\nContent-Type: application/sdp\r\nContent-Length: %d\r\n\r\n" % len(SDP)
    + SDP,
    "ack": b"ACK sip:1002@192.0.2.20 SIP/2.0\r\n" + DIALOG % (b";tag=314159", b"2 ACK") + b"l: 0\r\n\r\n",
    "bye": b"BYE sip:1002@192.0.2.20 SIP/2.0\r\n"
    + DIALOG % (b";tag=314159", b"3 BYE")
    + b'Reason: Q.850;cause=16;text="Terminated"\r\nContent-Length: 0\r\n\r\n',
    "unauthorized": b"SIP/2.0 401 Unauthorized\r\n"
    + DIALOG % (b";tag=5", b"1 REGISTER")
    + b'WWW-Authenticate: Digest realm="pbx", nonce="n", algorithm=SHA-256, qop="auth"\r\nContent-Length: 0\r\n\r\n',
}
MESSAGES = {**{path.stem: path.read_bytes() for path in sorted(CORPUS.glob("*.dat"))}, **CAPTURED}


def mutations(data: bytes, *, thorough: bool) -> Iterator[bytes]:
    """Ordinary messages get every nasty byte at every place; those of the corpus, for time's sake, three in turn."""
    places = min(len(data), data.find(b"\r\n\r\n") % (len(data) + 1) + 4 + BODY_BYTES)
    step = 1 if places <= PLACES_MAX else 7
    for i in range(0, places, step):
        yield data[:i]
        yield data[:i] + data[i + 1 :]
        for byte in NASTY if thorough else (NASTY[i % 9], NASTY[(i + 3) % 9], NASTY[(i + 6) % 9]):
            yield data[:i] + byte + data[i + 1 :]
    lines = data.split(b"\r\n")
    for i in range(len(lines)):
        yield b"\r\n".join(lines[:i] + lines[i + 1 :])
        yield b"\r\n".join(lines[: i + 1] + lines[i:])
        yield b"\r\n".join([*lines[:i], lines[i] * 50, *lines[i + 1 :]])


@pytest.mark.parametrize("name", MESSAGES)
def test_wounded_message_is_read_or_refused(name: str) -> None:
    data = MESSAGES[name]
    read(data)
    for mutant in mutations(data, thorough=name in CAPTURED):
        read(mutant)


@pytest.mark.parametrize("name", MESSAGES)
def test_wounded_stream_is_read_or_refused(name: str) -> None:
    data = MESSAGES[name]
    for i, mutant in enumerate(mutations(data, thorough=False)):
        if i % 7 == 0:
            read_stream(mutant + data, 97)


def test_captured_messages_are_whole() -> None:
    """The sweep starts from messages that pass, so that a wound is what makes the difference."""
    for data in CAPTURED.values():
        message = READING["parse_message"](data)
        if isinstance(message, READING["Request"]):
            READING["check_request"](message, methods=READING["METHODS"], extensions=READING["EXTENSIONS"])
        else:
            READING["check_response"](message)
