"""The prompts that come with Warden, and what may be played."""

import wave
from pathlib import Path

import numpy as np
import pytest

from warden.media import clips
from warden.media.clips import PROMPTS, Unplayable, encoded, prompt_names, prompt_path, read_wav
from warden.media.protocol import Clip, Playing
from warden.rtp import g711

CLOCK_WORDS = {*map(str, range(21)), "30", "40", "50", "hundred", "oh", "o-clock", "am", "pm", "the-time-is"}


def playing(*given: Clip, codec: str = "PCMU", payload_type: int = 0) -> Playing:
    return Playing("p", given, codec, payload_type)


def test_all_words_of_a_speaking_clock_are_there() -> None:
    assert set(prompt_names()) >= CLOCK_WORDS


@pytest.mark.parametrize("name", prompt_names())
def test_prompt_is_short_speech_at_an_even_level(name: str) -> None:
    samples = read_wav(prompt_path(name)).astype(int)
    assert 0.2 < len(samples) / 8000 < 6.0
    assert 0.48 < np.abs(samples).max() / 32768 < 0.52


def test_prompts_are_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in PROMPTS.glob("*.wav")) < 600_000


@pytest.mark.parametrize("name", ["none", "../clips", "", "a/b", "\0"])
def test_prompt_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(Unplayable):
        prompt_path(name)


def test_clips_follow_one_another_octet_by_octet() -> None:
    seven = g711.encode("PCMA", read_wav(prompt_path("7")))
    octets = encoded(playing(Clip(ms=20), Clip(path="7"), Clip(path="7.wav"), codec="PCMA", payload_type=8))
    assert octets == g711.SILENCE["PCMA"] * 160 + seven + seven


def test_changed_prompt_is_read_again(tmp_path: Path) -> None:
    heard = []
    for value in (100, 5000):
        with wave.open(str(tmp_path / "word.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(np.full(160, value, "<i2").tobytes())
        heard.append(encoded(playing(Clip(path="word")), tmp_path))
    assert heard[0] != heard[1]


@pytest.mark.parametrize(
    "wrong",
    [
        playing(codec="G722"),
        playing(payload_type=128),
        playing(Clip(ms=-1)),
        playing(Clip(tone_hz=4000, ms=10)),
        playing(Clip(tone_hz=-5, ms=10)),
        playing(Clip(ms=clips.MS_MAX), Clip(ms=1)),
        playing(*[Clip(ms=1)] * (clips.CLIPS_MAX + 1)),
        playing(Clip(path="../../etc/passwd")),
        playing(Clip(path="a\0b")),
        playing(Clip(path="/a\0b")),
        playing(Clip(path="/")),
    ],
)
def test_what_makes_no_sense_is_not_played(wrong: Playing) -> None:
    with pytest.raises(Unplayable):
        encoded(wrong)


def test_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    whole = prompt_path("7").read_bytes()
    for size in (0, 3, 11, 20, 40):
        path = tmp_path / f"cut-{size}.wav"
        path.write_bytes(whole[:size])
        with pytest.raises(Unplayable, match=path.name):
            read_wav(path)
