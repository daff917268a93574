"""Plays octets to a side, a packet every 20 ms, by deadlines that do not drift.

Nothing here knows files or orders.
"""

from heapq import heappop, heappush
from typing import Final

from warden.media.port import Port
from warden.media.protocol import Event, Played
from warden.rtp.packet import VERSION

FRAME_S: Final = 0.02
FRAME_SAMPLES: Final = 160
BEHIND_S_MAX: Final = 1.0
"""Packets that are late by less are sent at once; after a longer stop the clip goes on where it stood, since a burst of
seconds would only overflow the phone's buffer.
"""


class Player:
    """One `Playing` under way. `port` is where it is heard and may change."""

    __slots__ = ("at", "due", "id", "octets", "port", "silence", "started", "stopped", "type")

    def __init__(self, id: str, port: Port, octets: bytes, silence: bytes, payload_type: int) -> None:  # noqa: A002
        self.id = id
        self.port = port
        self.octets = octets
        self.silence = silence
        self.type = payload_type
        self.at = 0
        self.due = 0.0
        self.started = False
        self.stopped = False

    @property
    def ended(self) -> bool:
        """True once all has been sent."""
        return self.at >= len(self.octets)

    def play(self) -> None:
        """Send the frame that is due; nothing is sent, nor lost, while it is not known where to."""
        port = self.port
        if port.to is not None:
            head = VERSION << 14 | self.type
            if not self.started:
                self.started = True
                port.own_timestamp(self.due)
                head |= 0x80
            frame = self.octets[self.at : self.at + FRAME_SAMPLES]
            if len(frame) < FRAME_SAMPLES:
                frame += self.silence * (FRAME_SAMPLES - len(frame))
            port.send_own(self.due, head, frame, FRAME_SAMPLES)
            self.at += FRAME_SAMPLES
        self.due += FRAME_S


class Players:
    """All players, the next due first."""

    def __init__(self, events: list[Event]) -> None:
        self._events = events
        self._heap: list[tuple[float, int, Player]] = []
        self._serial = 0

    @property
    def due(self) -> float | None:
        """When `tick` is wanted next, or None while nobody plays."""
        return self._heap[0][0] if self._heap else None

    def start(self, player: Player, now: float) -> None:
        """Play from now on."""
        player.due = now
        self._push(player)

    def _push(self, player: Player) -> None:
        self._serial += 1
        heappush(self._heap, (player.due, self._serial, player))

    def tick(self, now: float) -> list[Player]:
        """Send what is due; the players that have come to their end."""
        ended = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            player = heappop(heap)[2]
            if player.stopped:
                continue
            if player.due < now - BEHIND_S_MAX:
                player.due = now
                player.started = False
            if not player.ended:
                player.play()
                self._push(player)
            else:
                # A frame's time after the last packet: then its last sample has been heard.
                player.stopped = True
                ended.append(player)
                self._events.append(Played(player.port.session, player.id))
        return ended
