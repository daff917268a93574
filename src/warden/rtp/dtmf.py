"""Key presses as RTP telephone events (RFC 4733 section 2): the payload, and one press per event whatever is lost.

Nothing here knows sockets or sessions; timestamps are the packets'.
"""

from struct import Struct as Layout
from typing import Final, NamedTuple

from warden.core.errors import MalformedMessage

DIGITS: Final = "0123456789*#ABCD"
"""Event codes 0 to 15 (RFC 4733 section 3.2). Other events (16 is flash) are not keys."""
DURATION_MAX: Final = 0xFFFF

_PAYLOAD: Final = Layout(">BBH")


class Event(NamedTuple):
    """A telephone-event payload: the event code, whether it has ended, -dBm0, and timestamp units since it began."""

    code: int
    end: bool
    volume: int
    duration: int


class Press(NamedTuple):
    """A key was pressed (and released); `duration` in timestamp units."""

    digit: str
    duration: int


def parse(payload: bytes) -> Event:
    """Read the first event of a payload (more follow only in redundant streams). Raises `MalformedMessage`."""
    if len(payload) < 4:
        raise MalformedMessage(f"telephone-event: {len(payload)} bytes")
    code, flags, duration = _PAYLOAD.unpack_from(payload)
    return Event(code, bool(flags & 0x80), flags & 0x3F, duration)


def build(event: Event) -> bytes:
    """Print a payload. Raises `ValueError` when a field does not fit: the caller's mistake."""
    if not (0 <= event.code < 256 and 0 <= event.volume < 64 and 0 <= event.duration <= DURATION_MAX):
        raise ValueError(f"telephone-event: a field does not fit: {event}")
    return _PAYLOAD.pack(event.code, event.end << 7 | event.volume, event.duration)


def encode(digit: str, duration: int, step: int = 160, volume: int = 10) -> tuple[bytes, ...]:
    """The payloads of one key press, one packet per `step` timestamp units, the end sent three times (section 2.5.1.4).

    All packets carry the timestamp of the first, and the first carries the marker. Raises `ValueError` for what is no
    key, and for a press of more than 65,535 units (8 s at 8 kHz), which would have to be cut into segments.
    """
    if len(digit) != 1 or digit not in DIGITS:
        raise ValueError(f"telephone-event: {digit!r} is no key")
    code = DIGITS.index(digit)
    running = [build(Event(code, end=False, volume=volume, duration=at)) for at in range(step, duration, step)]
    return (*running, *[build(Event(code, end=True, volume=volume, duration=duration))] * 3)


class Keys:
    """Finds the key presses in one peer's events: each event once, by its timestamp.

    An event is told when its first end packet comes. Were all three lost, it is told when the next event begins or
    when `voice` says that audio with a later timestamp has come.
    """

    __slots__ = ("_code", "_duration", "_open", "_timestamp")

    def __init__(self) -> None:
        self._timestamp = -1
        self._code = -1
        self._duration = 0
        self._open = False

    def receive(self, timestamp: int, event: Event) -> tuple[Press, ...]:
        """Take an event packet; the presses that it ends (nearly always none or one)."""
        if event.code >= len(DIGITS):
            return ()
        told: tuple[Press, ...] = ()
        if timestamp != self._timestamp:
            since = (timestamp - self._timestamp) & 0xFFFFFFFF
            if self._timestamp >= 0 and since >= 1 << 31:
                return ()  # A late packet of an event before the one at hand.
            # A press of more than 8 s comes in segments, each with a timestamp of its own (section 2.5.1.3).
            continues = self._open and event.code == self._code and since <= DURATION_MAX and self._duration >= since
            if not continues:
                told = self.close()
                self._duration = 0
            self._timestamp, self._code, self._open = timestamp, event.code, True
        if self._open:
            self._duration = max(self._duration, event.duration)
            if event.end:
                told += self.close()
        return told

    def voice(self, timestamp: int) -> tuple[Press, ...]:
        """Audio has come: ends the open event when it is later than the event was known to last."""
        if not self._open:
            return ()
        since = (timestamp - self._timestamp) & 0xFFFFFFFF
        return self.close() if self._duration < since < 1 << 31 else ()

    def close(self) -> tuple[Press, ...]:
        """End the open event, if there is one."""
        if not self._open:
            return ()
        self._open = False
        return (Press(DIGITS[self._code], self._duration),)
