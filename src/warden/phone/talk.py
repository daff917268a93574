"""Numbered RTP: what a test phone says, and an account of what it hears.

Every packet carries the next sequence number and 20 ms of a steady tone in G.711, so the listener can tell loss, gaps
and foreign audio from what arrives. Nothing here knows sockets or clocks.
"""

from collections import deque
from functools import lru_cache
from struct import Struct as Layout
from typing import Final

import numpy as np

from warden.core.errors import MalformedMessage
from warden.rtp import dtmf, packet
from warden.rtp.g711 import Samples, decode, encode
from warden.rtp.tone import hears, sine

PACKET_S: Final = 0.02
SAMPLES_PER_PACKET: Final = 160
PACKETS_KEPT: Final = 50
"""One second: enough to tell tones 2 Hz apart."""
AUDIBLE: Final = 0.05
"""The least amplitude that counts as hearing a tone; ours are sent at 0.25, and silence or another tone gives 0.01."""
CODECS: Final = {0: "PCMU", 8: "PCMA"}
WINDOW: Final = 1024
"""How far behind the newest packet (20 s) a late one is told from a duplicate."""

_WINDOW_MASK: Final = (1 << WINDOW) - 1
_header = Layout(">BBHII").pack
_fields = Layout(">HHII").unpack_from


@lru_cache(maxsize=64)
def frames(codec: str, hz: int) -> tuple[bytes, ...]:
    """One second of a tone as 50 payloads; a whole number of hertz, so the second follows itself without a click."""
    sound = encode(codec, sine(hz, 1000))
    return tuple(sound[i : i + SAMPLES_PER_PACKET] for i in range(0, len(sound), SAMPLES_PER_PACKET))


class Talker:
    """One RTP stream of ours. Sequence number and timestamp go on through `retune` and pauses, as a phone's do."""

    __slots__ = ("_frames", "_marker", "_payload_type", "_pressing", "_ssrc", "sent", "sequence", "timestamp")

    def __init__(self, ssrc: int, *, sequence: int = 0, timestamp: int = 0) -> None:
        self._ssrc = ssrc & 0xFFFFFFFF
        self.sequence = sequence & 0xFFFF
        self.timestamp = timestamp & 0xFFFFFFFF
        self.sent = 0
        self._payload_type = 0
        self._frames: tuple[bytes, ...] = frames("PCMU", 0)
        self._marker = 0x80
        self._pressing: deque[packet.Packet] = deque()

    @property
    def ssrc(self) -> int:
        """Whose packets ours are."""
        return self._ssrc

    def retune(self, codec: str, payload_type: int, hz: int) -> None:
        """Send this tone with this codec (PCMU or PCMA) from the next packet on; 0 Hz is silence."""
        self._frames = frames(codec, hz)
        self._payload_type = payload_type

    def press(self, digit: str, payload_type: int, ms: int = 100) -> None:
        """Press a key: the next packets are RFC 4733 events. Raises `ValueError` for what is no key."""
        payloads = dtmf.encode(digit, ms * 8)
        stamp = (self.timestamp + len(self._pressing) * SAMPLES_PER_PACKET) & 0xFFFFFFFF
        for i, payload in enumerate(payloads):
            self._pressing.append(packet.Packet(payload_type, 0, stamp, self._ssrc, payload, marker=i == 0))

    def skip(self, packets: int = 1) -> None:
        """Let time pass without sending: the timestamp goes on, the sequence number does not (RFC 3550 section 5.1)."""
        self.timestamp = (self.timestamp + packets * SAMPLES_PER_PACKET) & 0xFFFFFFFF
        self._marker = 0x80

    def next(self) -> bytes:
        """The next packet, due 20 ms after the one before."""
        sequence, timestamp, sent = self.sequence, self.timestamp, self.sent
        self.sequence = (sequence + 1) & 0xFFFF
        self.timestamp = (timestamp + SAMPLES_PER_PACKET) & 0xFFFFFFFF
        self.sent = sent + 1
        if self._pressing:
            event = self._pressing.popleft()
            return (
                packet.HEADER.pack(
                    0x8000 | event.marker << 7 | event.payload_type, sequence, event.timestamp, self._ssrc
                )
                + event.payload
            )
        flags = self._marker | self._payload_type
        self._marker = 0
        return _header(0x80, flags, sequence, timestamp, self._ssrc) + self._frames[sent % PACKETS_KEPT]


class Listener:
    """What has arrived on one port. Times are the caller's seconds; a new SSRC begins a new numbering, and what was
    counted before stays.
    """

    __slots__ = (
        "_base",
        "_before",
        "_event_type",
        "_events",
        "_highest",
        "_jitter",
        "_recent",
        "_ssrc",
        "_transit",
        "_window",
        "digits",
        "duplicates",
        "first_at",
        "foreign",
        "gap_ended_at",
        "gap_s_max",
        "last_at",
        "late",
        "packets",
        "sources",
    )

    def __init__(self) -> None:
        self.packets = 0
        """Packets received, duplicates left out."""
        self.duplicates = 0
        self.late = 0
        """Packets that came behind one with a higher number (they are not lost)."""
        self.foreign = 0
        """Datagrams that are no RTP, or no good one."""
        self.sources = 0
        """Streams (SSRCs) heard, one behind the other."""
        self.gap_s_max = 0.0
        self.gap_ended_at = 0.0
        self.first_at: float | None = None
        self.last_at = 0.0
        self.digits = ""
        self._ssrc = -1
        self._base = 0
        self._highest = -1
        self._window = 0
        self._before = 0
        self._jitter = 0.0
        self._transit = 0.0
        self._event_type = -1
        self._events = dtmf.Keys()
        self._recent: deque[tuple[int, bytes]] = deque(maxlen=PACKETS_KEPT)

    def expect_events(self, payload_type: int | None) -> None:
        """Read packets of this payload type as RFC 4733 digits (None: there are none)."""
        self._event_type = -1 if payload_type is None else payload_type

    def hear(self, now: float, data: bytes) -> None:
        """A datagram arrived at `now`."""
        if len(data) < packet.HEADER_BYTES:
            self.foreign += 1
            return
        flags, sequence, timestamp, ssrc = _fields(data)
        if flags >> 14 != packet.VERSION:
            self.foreign += 1
            return
        if ssrc != self._ssrc:
            self._before = self.expected
            self.sources += 1
            self._base, self._highest, self._window = sequence, sequence - 1, 0
        # Numbers go on behind 65,535: what is less than half the circle ahead is newer.
        ahead = ((sequence - self._highest + 0x8000) & 0xFFFF) - 0x8000
        if ahead > 0:
            self._highest += ahead
            self._window = (self._window << ahead | 1) & _WINDOW_MASK if ahead < WINDOW else 1
        else:
            seen = 1 << -ahead
            if -ahead >= WINDOW or self._window & seen:
                self.duplicates += 1
                return
            self._window |= seen
            self.late += 1
            self._base = min(self._base, self._highest + ahead)
        self.packets += 1
        self._time(now, timestamp, first=ssrc != self._ssrc)
        self._ssrc = ssrc
        payload_type = flags & 0x7F
        try:
            payload = packet.payload_of(data)
            if payload_type == self._event_type:
                presses = self._events.receive(timestamp, dtmf.parse(payload))
                self.digits += "".join(press.digit for press in presses)
            else:
                self._recent.append((payload_type, payload))
        except MalformedMessage:
            self.foreign += 1

    def _time(self, now: float, timestamp: int, *, first: bool) -> None:
        if self.first_at is None:
            self.first_at = now
        else:
            gap = now - self.last_at
            if gap > self.gap_s_max:
                self.gap_s_max, self.gap_ended_at = gap, now
        self.last_at = now
        transit = now - timestamp / 8000
        if not first:
            moved = abs(transit - self._transit)
            # Half a second is no jitter: the timestamp wrapped, or the sender was silent.
            if moved < 0.5:
                self._jitter += (moved - self._jitter) / 16
        self._transit = transit

    @property
    def ssrc(self) -> int:
        """Whose packets were heard last; -1 before the first."""
        return self._ssrc

    @property
    def expected(self) -> int:
        """Packets that were sent, as far as the numbers tell."""
        return self._before + (self._highest - self._base + 1 if self.sources else 0)

    @property
    def lost(self) -> int:
        """Packets that did not arrive."""
        return self.expected - self.packets

    @property
    def gap_ms_max(self) -> float:
        """The longest time between two arrivals."""
        return self.gap_s_max * 1000

    @property
    def jitter_ms(self) -> float:
        """Interarrival jitter (RFC 3550 section 6.4.1)."""
        return self._jitter * 1000

    def silence_ms(self, now: float) -> float:
        """How long nothing has arrived; 0 before the first packet."""
        return 0.0 if self.first_at is None else (now - self.last_at) * 1000

    def excuse(self, now: float) -> None:
        """The silence up to `now` was agreed (a hold): it is no gap."""
        if self.first_at is not None:
            self.last_at = now

    def samples(self) -> Samples:
        """The last second of G.711 audio."""
        heard = [
            decode(CODECS[payload_type], payload) for payload_type, payload in self._recent if payload_type in CODECS
        ]
        return np.concatenate(heard) if heard else np.zeros(0, np.int16)

    def level(self, hz: float) -> float:
        """The amplitude of a tone in the last second (1.0 is full scale)."""
        return hears(self.samples(), hz)

    def hears(self, hz: float) -> bool:
        """True where the tone is there, loud enough to be heard."""
        return self.level(hz) >= AUDIBLE

    def forget(self) -> None:
        """Forget the audio (not the counts), so that `hears` tells of what comes from now on."""
        self._recent.clear()
