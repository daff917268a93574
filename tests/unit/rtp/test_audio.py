"""G.711 against the recommendation's rules worked out one value at a time, and tones."""

import numpy as np
import pytest

from warden.rtp import g711
from warden.rtp.tone import LEVEL, hears, sine

EVERY = np.arange(-32768, 32768).astype(np.int16)
OCTETS = bytes(range(256))


def ulaw(linear: int) -> int:
    """G.711 table 2: 14 bits, a bias of 33, the segment by the highest bit, all bits inverted."""
    magnitude = min(((~linear if linear < 0 else linear) >> 2) + 33, 8191)
    segment = magnitude.bit_length() - 6
    code = segment << 4 | (magnitude >> segment + 1 & 15)
    return (code | (0x80 if linear < 0 else 0)) ^ 0xFF


def alaw(linear: int) -> int:
    """G.711 table 1: 13 bits, two linear segments, even bits inverted."""
    magnitude = (~linear if linear < 0 else linear) >> 4
    segment = max(0, magnitude.bit_length() - 4)
    code = magnitude if segment == 0 else segment << 4 | (magnitude >> segment - 1 & 15)
    return (code | (0 if linear < 0 else 0x80)) ^ 0x55


@pytest.mark.parametrize(("codec", "rule"), [("PCMU", ulaw), ("PCMA", alaw)])
def test_every_sample_is_encoded_as_the_recommendation_says(codec: str, rule: object) -> None:
    assert callable(rule)
    assert g711.encode(codec, EVERY) == bytes(rule(int(x)) for x in EVERY)


@pytest.mark.parametrize("codec", ["PCMU", "PCMA"])
def test_every_octet_comes_back_after_decoding(codec: str) -> None:
    again = g711.encode(codec, g711.decode(codec, OCTETS))
    differ = [i for i in range(256) if again[i] != i]
    # Mu-law has two zeros; linear samples have one.
    assert differ == ([0x7F] if codec == "PCMU" else [])


@pytest.mark.parametrize(
    ("codec", "octet", "sample"),
    [
        ("PCMU", 0xFF, 0),
        ("PCMU", 0x80, 32124),
        ("PCMU", 0x00, -32124),
        ("PCMU", 0xFE, 8),
        ("PCMU", 0x6F, -120 - 12),
        ("PCMA", 0xD5, 8),
        ("PCMA", 0x55, -8),
        ("PCMA", 0xAA, 32256),
        ("PCMA", 0x2A, -32256),
    ],
)
def test_known_octets_are_the_output_values_of_the_tables(codec: str, octet: int, sample: int) -> None:
    assert g711.decode(codec, bytes([octet])).tolist() == [sample]


@pytest.mark.parametrize("codec", ["PCMU", "PCMA"])
def test_decoded_sample_is_within_half_a_step_and_grows_with_the_sample(codec: str) -> None:
    decoded = g711.decode(codec, g711.encode(codec, EVERY)).astype(int)
    steps = np.maximum(np.abs(EVERY.astype(int)) // 16, 16 if codec == "PCMA" else 8)
    inside = np.abs(EVERY.astype(int)) < 31_700
    assert (np.abs(decoded - EVERY)[inside] <= steps[inside]).all()
    assert (np.diff(decoded) >= 0).all()


def test_silence_is_the_smallest_value() -> None:
    for codec, octet in g711.SILENCE.items():
        assert abs(int(g711.decode(codec, octet)[0])) <= 8


def test_tone_is_heard_at_its_frequency_and_level_and_nowhere_else() -> None:
    samples = sine(440, 200)
    assert hears(samples, 440) == pytest.approx(LEVEL, rel=1e-3)
    for hz in (220, 400, 480, 880, 1000):
        assert hears(samples, hz) < 0.005


def test_tone_survives_g711_and_noise() -> None:
    noise = np.random.default_rng(1).normal(0, 1500, 8000)
    samples = np.clip(sine(1000, 1000, level=0.1) + noise, -32768, 32767).astype(np.int16)
    for codec in g711.SILENCE:
        heard = g711.decode(codec, g711.encode(codec, samples))
        assert hears(heard, 1000) == pytest.approx(0.1, rel=0.05)
        assert hears(heard, 1500) < 0.01


def test_tone_goes_on_without_a_click() -> None:
    whole = sine(333, 100)
    assert np.array_equal(np.concatenate([sine(333, 40), sine(333, 60, start=320)]), whole)


def test_silence_and_nothing_sound_of_nothing() -> None:
    assert hears(np.zeros(800, np.int16), 440) == 0.0
    assert hears(np.zeros(0, np.int16), 440) == 0.0
