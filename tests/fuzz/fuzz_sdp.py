"""Descriptions of chance against every reader of SDP, guided by coverage: only `MalformedMessage` may come out.

Run by itself: `python tests/fuzz/fuzz_sdp.py -max_total_time=60 [CORPUS_FOLDER ...]`.
"""

import sys
from contextlib import suppress

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["warden.sdp"]):
    from warden.core.errors import MalformedMessage
    from warden.sdp.answer import answer, hold, offer, read_answer
    from warden.sdp.relay import rewrite, streams
    from warden.sdp.session import Direction, decode, parse

HEAD = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 96\r\n"
OURS = offer(host="127.0.0.1", port=4000, session_id=5, version=1, codecs=("PCMU", "PCMA", "G722"))


def one_input(data: bytes) -> None:
    """Read `data` as a body, or behind the head of an ordinary one where its first byte is odd."""
    body = HEAD + data[1:] if data[:1] and data[0] & 1 else data[1:]
    try:
        text = decode(body)
        session = parse(text)
    except MalformedMessage:
        return
    assert parse(str(session)) == session
    for media in session.media:
        assert all(codec.clock > 0 for codec in media.codecs)
    with suppress(MalformedMessage):
        relayed = rewrite(text, host="127.0.0.1", ports=(30000, 30002), session_id=1, version=1)
        assert [s.direction for s in streams(relayed)] == [s.direction for s in streams(text)]
        assert {s.rtp.host for s in streams(relayed) if s.rtp} <= {"127.0.0.1"}
    with suppress(MalformedMessage):
        made = answer(text, host="127.0.0.1", port=4000, session_id=1, version=1, any_codec=True)
        assert read_answer(text, made.sdp).payload_type == made.payload_type
    with suppress(MalformedMessage):
        hold(text, Direction.SENDONLY)
    with suppress(MalformedMessage):
        read_answer(OURS, text)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
