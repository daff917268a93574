"""How the audio of calls was, counted when their sessions end. Pure: whoever hears the final counters tells them here.

A node hears each phone on its own, so a figure is about the way from one phone to this node.
"""

from typing import Final

from warden.core.histogram import Histogram
from warden.media.protocol import SideStats
from warden.rtp.emodel import mos_of, rating_of

PACKETS_MIN: Final = 100
"""Two seconds of audio; of less there is nothing to say."""
JITTER_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5)
LOSS: Final = (0.0, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
ROUND_TRIP_S: Final = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
MOS: Final = (1.5, 2.0, 2.5, 3.0, 3.5, 3.8, 4.0, 4.2, 4.3, 4.5)

OWN_DELAY_S: Final = 0.03
"""A packet of 20 ms, and what the phone needs to make it."""
JITTER_BUFFER: Final = 2.0
"""How long a phone keeps packets back, in jitters."""


class Quality:
    """Sides of calls, by how they came through. Only grows."""

    def __init__(self) -> None:
        self.jitter_s = Histogram(JITTER_S)
        self.loss = Histogram(LOSS)
        self.round_trip_s = Histogram(ROUND_TRIP_S)
        self.mos = Histogram(MOS)

    def note(self, side: SideStats) -> None:
        """One side's final counters."""
        if side.packets < PACKETS_MIN:
            return
        lost = max(0, side.lost)
        loss = lost / (side.packets + lost)
        jitter_s, round_trip_s = side.jitter_ms / 1000.0, side.rtt_ms / 1000.0
        self.jitter_s.observe(jitter_s)
        self.loss.observe(loss)
        if round_trip_s:
            self.round_trip_s.observe(round_trip_s)
        delay_s = round_trip_s / 2 + JITTER_BUFFER * jitter_s + OWN_DELAY_S
        self.mos.observe(mos_of(rating_of(loss, delay_s * 1000.0)))
