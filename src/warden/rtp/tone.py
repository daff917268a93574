"""Tones: make one, and tell how loud one is among other sounds. Samples are 16-bit at 8 kHz."""

from typing import Final

import numpy as np

from warden.rtp.g711 import CLOCK_HZ, Samples

LEVEL: Final = 0.25
"""Amplitude of our tones against full scale: -12 dBFS, about what a phone calls a loud voice."""


def sine(hz: float, ms: int, level: float = LEVEL, start: int = 0) -> Samples:
    """A sine of amplitude `level` (1.0 is full scale), `ms` long; `start` samples of it have been played already."""
    at = np.arange(start, start + ms * CLOCK_HZ // 1000)
    samples: Samples = np.round(32767.0 * level * np.sin(2.0 * np.pi * hz / CLOCK_HZ * at)).astype(np.int16)
    return samples


def hears(samples: Samples, hz: float) -> float:
    """The amplitude of `hz` in the samples (1.0 is full scale), as Goertzel's algorithm gives it.

    A tone of another frequency counts for next to nothing when it is further away than 1 / duration.
    """
    if len(samples) == 0:
        return 0.0
    phases = np.exp(-2j * np.pi * hz / CLOCK_HZ * np.arange(len(samples)))
    return float(2.0 * abs(np.dot(samples / 32767.0, phases)) / len(samples))
