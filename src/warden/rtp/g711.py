"""G.711 as two tables each way: PCMU (payload type 0) and PCMA (8) to 16-bit linear samples and back.

The tables are computed from the recommendation's rules for every possible value, with the left-justified 14-bit
(mu-law) and 13-bit (A-law) samples of ITU-T G.191, whose ones' complement of negative samples is kept.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]
Octets = NDArray[np.uint8]

CLOCK_HZ: Final = 8000
PAYLOAD_TYPES: Final = {"PCMU": 0, "PCMA": 8}
"""Static payload types (RFC 3551 section 6)."""
SILENCE: Final = {"PCMU": b"\xff", "PCMA": b"\xd5"}
"""The octet of the smallest positive value."""


def _ulaw_decoded() -> Samples:
    code = ~np.arange(256) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 132 << ((code >> 4) & 7)) - 132
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw_decoded() -> Samples:
    code = np.arange(256) ^ 0x55
    step, segment = (code & 0x0F) << 4, (code >> 4) & 7
    magnitude = np.where(segment == 0, step + 8, (step + 264) << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


def _ulaw_encoded() -> Octets:
    linear = np.arange(65536).astype(np.uint16).view(np.int16).astype(np.int32)
    magnitude = np.minimum((np.where(linear < 0, ~linear, linear) >> 2) + 33, 0x1FFF)
    # The segment is the place of the highest bit: 5 (values from 33) to 12.
    segment = np.searchsorted(1 << np.arange(6, 13), magnitude, side="right")
    code = (segment << 4) | (magnitude >> (segment + 1) & 0x0F)
    octets: Octets = (~np.where(linear < 0, code | 0x80, code) & 0xFF).astype(np.uint8)
    return octets


def _alaw_encoded() -> Octets:
    linear = np.arange(65536).astype(np.uint16).view(np.int16).astype(np.int32)
    magnitude = np.where(linear < 0, ~linear, linear) >> 4
    # The first two segments have the same step; from 32 on each is twice as coarse as the one before.
    shift = np.searchsorted(1 << np.arange(5, 11), magnitude, side="right")
    code = np.where(shift == 0, magnitude, (shift + 1 << 4) | (magnitude >> shift & 0x0F))
    octets: Octets = (np.where(linear < 0, code, code | 0x80) ^ 0x55).astype(np.uint8)
    return octets


_DECODED: Final = {"PCMU": _ulaw_decoded(), "PCMA": _alaw_decoded()}
_ENCODED: Final = {"PCMU": _ulaw_encoded(), "PCMA": _alaw_encoded()}


def decode(codec: str, payload: bytes) -> Samples:
    """Octets to 16-bit samples, one each. `codec` is `PCMU` or `PCMA` (`KeyError` otherwise: the caller's mistake)."""
    return _DECODED[codec][np.frombuffer(payload, np.uint8)]


def encode(codec: str, samples: Samples) -> bytes:
    """16-bit samples to octets, one each. `codec` as in `decode`."""
    return _ENCODED[codec][np.ascontiguousarray(samples, np.int16).view(np.uint16)].tobytes()
