"""Whatever is done to a description, readers raise `MalformedMessage` and nothing else."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warden.core.errors import MalformedMessage
from warden.sdp.answer import answer, hold, offer, read_answer
from warden.sdp.relay import rewrite, streams
from warden.sdp.sdes import Policy, Sdes, heard_answer, heard_offer, say_answer, say_offer
from warden.sdp.session import Direction, decode, encode, parse

SAMPLES = {path.stem: path.read_bytes() for path in sorted((Path(__file__).parent / "samples").glob("*.sdp"))}
NASTY = (b"", b"\0", b"\r", b"\n", b" ", b"=", b":", b"/", b"9" * 25, b"-", b"\xff", b"\xc2\x85", b"0.0.0.0")
OURS = offer(host="127.0.0.1", port=4000, session_id=5, version=1, codecs=("PCMU", "PCMA", "G722"))


def mutations(body: bytes) -> Iterator[bytes]:
    for i in range(len(body)):
        yield body[:i]
        yield body[i:]
        for nasty in NASTY:
            yield body[:i] + nasty + body[i + 1 :]
    lines = body.splitlines(keepends=True)
    for i, line in enumerate(lines):
        yield b"".join(lines[:i] + lines[i + 1 :])
        yield b"".join([*lines[:i], line, *lines[i:]])
        yield b"".join([*lines[:i], *lines[i + 1 :], line])


def agree_keys(text: str) -> None:
    """Keys are taken out and put in, and what is left of the rest is sound."""
    for policy in Policy:
        with suppress(MalformedMessage):
            sdes, plain = heard_offer(Sdes(policy), text)
            assert "a=crypto:" not in plain
            assert len(streams(say_answer(sdes, plain, bytes)[1])) == len(streams(text))
        with suppress(MalformedMessage):
            sdes, _ = say_offer(Sdes(policy, offers=True), OURS, bytes)
            heard_answer(sdes, text)


def read_all(body: bytes) -> None:
    """Every public reader over `body`; what they make of it must itself be sound."""
    try:
        text = decode(body)
        session = parse(text)
    except MalformedMessage:
        return
    assert parse(str(session)) == session
    assert encode(decode(encode(text))) == encode(text)
    for media in session.media:
        assert all(0 <= codec.payload_type <= 127 and codec.clock > 0 for codec in media.codecs)
    relayed = None
    with suppress(MalformedMessage):
        relayed = rewrite(text, host="127.0.0.1", ports=(30000, 30002), session_id=1, version=1)
    if relayed is not None:
        before, after = streams(text), streams(relayed)
        assert [s.kind for s in before] == [s.kind for s in after]
        assert [s.active for s in after[:2]] == [s.active for s in before[:2]]
        assert [s.direction for s in after] == [s.direction for s in before]
        assert {s.rtp.host for s in after if s.rtp} <= {"127.0.0.1"}
    for any_codec in (False, True):
        with suppress(MalformedMessage):
            made = answer(text, host="127.0.0.1", port=4000, session_id=1, version=1, any_codec=any_codec)
            assert read_answer(text, made.sdp).payload_type == made.payload_type
    if "crypto" in text:
        agree_keys(text)
    with suppress(MalformedMessage):
        hold(text, Direction.SENDONLY)
    with suppress(MalformedMessage):
        read_answer(OURS, text)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_description_damaged_anywhere_is_read_or_refused_and_never_breaks_a_reader(name: str) -> None:
    for body in mutations(SAMPLES[name]):
        read_all(body)


@given(st.binary(max_size=300))
def test_bytes_of_chance_behind_a_sound_beginning_never_break_a_reader(tail: bytes) -> None:
    read_all(tail)
    read_all(b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0\r\n" + tail)
    read_all(b"v=0\no=- 1 1 IN IP4 192.0.2.1\nc=" + tail)
