"""Clips are heard as they are, paced and numbered without a break."""

import asyncio
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from warden.media.clips import prompt_path, read_wav
from warden.media.protocol import (
    Clip,
    List,
    Listed,
    Mode,
    Played,
    Playing,
    Put,
    Refused,
    Session,
    Stream,
)
from warden.rtp import g711, packet
from warden.rtp.packet import Packet
from warden.rtp.tone import hears

from media_lab import HOST, Lab, Phone, running_lab


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with running_lab() as lab:
        yield lab


def wav(path: Path, samples: np.ndarray, rate: int = 8000, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    return path


async def hear_playing(phone: Phone, frames: int) -> list[Packet]:
    return [packet.parse(data) for data in await phone.hear(frames)]


@pytest.mark.parametrize(("codec", "payload_type"), [("PCMU", 0), ("PCMA", 8)])
async def test_played_file_arrives_sample_for_sample_with_unbroken_numbers(
    lab: Lab, codec: str, payload_type: int
) -> None:
    alice = lab.phone()
    (a,) = lab.ports()
    samples = np.random.default_rng(1).integers(-32768, 32767, 160 * 11 + 40).astype(np.int16)
    path = wav(lab.folder / "noise.wav", samples)
    playing = Playing("p1", (Clip(path=str(path)),), codec, payload_type)
    session = Session("play", HOST, (Stream(lab.side(a, alice), mode=Mode.SILENT),), playing)
    await lab.put(session)
    heard = await hear_playing(alice, 12)
    assert await lab.event() == Played("play", "p1")
    octets = b"".join(p.payload for p in heard)
    assert octets[: len(samples)] == g711.encode(codec, samples)
    assert octets[len(samples) :] == g711.SILENCE[codec] * 120
    first = heard[0]
    assert [((p.sequence - first.sequence) & 0xFFFF, (p.timestamp - first.timestamp) & 0xFFFFFFFF) for p in heard] == [
        (i, 160 * i) for i in range(12)
    ]
    assert [p.marker for p in heard] == [True] + [False] * 11
    assert {(p.payload_type, p.ssrc) for p in heard} == {(payload_type, first.ssrc)}
    await lab.put(session)
    await lab.totals()
    assert alice.hears_nothing(), "the same id is not played again"
    # The next clip goes on with the numbers of the one before.
    again = Playing("p2", (Clip(ms=40),), codec, payload_type)
    await lab.put(Session("play", HOST, session.streams, again))
    more = await hear_playing(alice, 2)
    assert await lab.event() == Played("play", "p2")
    assert [(p.sequence - first.sequence) & 0xFFFF for p in more] == [12, 13]
    assert more[0].ssrc == first.ssrc
    assert more[0].marker
    assert (more[0].timestamp - first.timestamp) & 0xFFFFFFFF >= 12 * 160


async def test_tone_silence_and_prompt_are_heard_one_behind_the_other(lab: Lab) -> None:
    alice = lab.phone()
    (a,) = lab.ports()
    prompt = read_wav(prompt_path("7"))
    clips = (Clip(tone_hz=440, ms=200), Clip(ms=100), Clip(path="7"), Clip(tone_hz=1000, ms=100))
    playing = Playing("p", clips, "PCMA", 8)
    await lab.put(Session("play", HOST, (Stream(lab.side(a, alice)),), playing))
    total = 2400 + len(prompt) + 800
    heard = await hear_playing(alice, -(-total // 160))
    samples = g711.decode("PCMA", b"".join(p.payload for p in heard))
    assert hears(samples[:1600], 440) > 0.24
    assert hears(samples[:1600], 1000) < 0.01
    assert np.abs(samples[1600:2400]).max() <= 8
    assert np.array_equal(samples[2400 : 2400 + len(prompt)], g711.decode("PCMA", g711.encode("PCMA", prompt)))
    assert hears(samples[2400 + len(prompt) : total], 1000) > 0.24
    assert await lab.event() == Played("play", "p")


async def test_packets_of_a_clip_come_no_faster_than_every_20_ms(lab: Lab) -> None:
    alice = lab.phone()
    (a,) = lab.ports()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await lab.put(Session("play", HOST, (Stream(lab.side(a, alice)),), Playing("p", (Clip(ms=1000),), "PCMU", 0)))
    await alice.hear(50)
    assert loop.time() - began >= 49 * 0.02


async def test_while_a_clip_plays_only_the_clip_is_heard_and_the_other_side_afterwards(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    session = await lab.call(alice, bob, playing=Playing("p", (Clip(tone_hz=440, ms=200),), "PCMU", 0))
    a, b = lab.ports_of(session)
    bob.talk(b, 3)
    said = alice.talk(a)
    assert await bob.hear() == said, "who listens to a clip is still heard"
    heard = await hear_playing(alice, 10)
    assert bob.ssrc not in {p.ssrc for p in heard}
    assert await lab.event() == Played("call", "p")
    answered = bob.talk(b)
    assert await alice.hear() == answered


async def test_put_without_the_clip_stops_it(lab: Lab) -> None:
    alice = lab.phone()
    (a,) = lab.ports()
    streams = (Stream(lab.side(a, alice)),)
    await lab.put(Session("play", HOST, streams, Playing("p", (Clip(ms=60_000),), "PCMU", 0)))
    await alice.hear(3)
    await lab.put(Session("play", HOST, streams))
    while not alice.hears_nothing():
        pass
    await lab.put(Session("play", HOST, streams, Playing("q", (Clip(tone_hz=440, ms=20),), "PCMU", 0)))
    (tone,) = await hear_playing(alice, 1)
    assert tone.payload != g711.SILENCE["PCMU"] * 160
    assert await lab.event() == Played("play", "q")


async def test_what_cannot_be_played_is_refused_by_name_and_nothing_is_opened(lab: Lab) -> None:
    alice = lab.phone()
    (a,) = lab.ports()
    stereo = wav(lab.folder / "stereo.wav", np.zeros(320, np.int16), channels=2)
    fast = wav(lab.folder / "fast.wav", np.zeros(320, np.int16), rate=44100)
    text = lab.folder / "text.wav"
    text.write_bytes(b"no wave")
    refusals = []
    for clip in (*(Clip(path=str(p)) for p in (stereo, fast, text, lab.folder / "none.wav")), Clip(path="../x")):
        playing = Playing("p", (clip,), "PCMU", 0)
        answer = await lab.order(Put(Session("play", HOST, (Stream(lab.side(a, alice)),), playing)))
        assert isinstance(answer, Refused)
        refusals.append(answer.why)
    for name, why in zip(("stereo.wav", "fast.wav", "text.wav", "none.wav", "../x"), refusals, strict=True):
        assert name in why
    assert "44100 Hz" in refusals[1]
    answer = await lab.order(Put(Session("play", HOST, (Stream(lab.side(a, alice)),), Playing("p", (), "G722", 9))))
    assert isinstance(answer, Refused)
    assert await lab.order(List()) == Listed(())
