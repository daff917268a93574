"""How good speech is after what a network did to it: the E-model (ITU-T G.107) for G.711 and phones without echo.

What is not known of a call is at the recommendation's default. `loss` is a share (0 to 1) of packets lost at random.
"""

from math import log2
from typing import Final

BEST: Final = 93.2
"""The rating of a call that nothing happened to, with all defaults."""
ROBUSTNESS: Final = 25.1
"""Of G.711 where the phone conceals what is missing (Bpl, ITU-T G.113 appendix I)."""
UNNOTICED_MS: Final = 100.0
"""A delay from mouth to ear up to which nobody minds."""


def rating_of(loss: float, delay_ms: float = 0.0) -> float:
    """The rating R (0 to `BEST`) of speech that arrives `delay_ms` after it was spoken."""
    percent = loss * 100
    equipment = 95 * percent / (percent + ROBUSTNESS)
    return max(0.0, BEST - equipment - _delay_impairment(delay_ms))


def _delay_impairment(delay_ms: float) -> float:
    """Idd (section 7.4): what a delay costs though there is no echo."""
    if delay_ms <= UNNOTICED_MS:
        return 0.0
    x = log2(delay_ms / UNNOTICED_MS)
    return float(25 * ((1 + x**6) ** (1 / 6) - 3 * (1 + (x / 3) ** 6) ** (1 / 6) + 2))


def mos_of(rating: float) -> float:
    """The mean opinion score (1 to 4.5) that listeners give for a rating (annex B)."""
    if rating <= 0:
        return 1.0
    if rating >= 100:
        return 4.5
    return max(1.0, 1 + 0.035 * rating + rating * (rating - 60) * (100 - rating) * 7e-6)
