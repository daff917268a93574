"""How long what comes in has to wait, and how busy the loop is: measured, for whoever decides what is let in."""

import asyncio
import time
from collections.abc import Callable
from typing import Final
from weakref import WeakSet

from warden.net.sockets import Sockets
from warden.switch.overload import Overload

BEAT_S: Final = 0.05
"""How often it is measured: a queue that grows is seen within four of these."""
DATAGRAM_BYTES: Final = 1_700
"""What the kernel counts for a datagram with a request or response: 1,280 for most, 2,304 for those with a long SDP."""
DATAGRAM_S_MAX: Final = 0.001
"""What one that waits takes to be served, at most: where few came, what they took is not known."""

OWN_DOING: Final = 0.7
"""From this use of the processor on it is the loop's own work that it is late."""


class Pulse:
    """`now` is the clock of the switches. `watch` the sockets of each seat while it is held."""

    def __init__(self, overload: Overload, now: Callable[[], float]) -> None:
        self._overload = overload
        self._now = now
        self._sockets: WeakSet[Sockets] = WeakSet()

    def watch(self, sockets: Sockets) -> Sockets:
        """Look at the queues of these, too, for as long as there is anything of them."""
        self._sockets.add(sockets)
        return sockets

    async def run(self) -> None:
        """Work until cancelled."""
        loop = asyncio.get_running_loop()
        at, used_s, heard = loop.time(), time.thread_time(), self._heard()
        while True:
            await asyncio.sleep(BEAT_S)
            late_s = loop.time() - at - BEAT_S
            elapsed_s, at = loop.time() - at, loop.time()
            before_s, used_s = used_s, time.thread_time()
            before, heard = heard, self._heard()
            busy = min(1.0, (used_s - before_s) / elapsed_s)
            if busy < OWN_DOING:
                # Others had the processor: that fewer calls are let in would not make it come sooner.
                late_s = 0.0
            each_s = min(DATAGRAM_S_MAX, elapsed_s / max(1, heard - before))
            queued_s = sum(sockets.queued_bytes for sockets in self._sockets) / DATAGRAM_BYTES * each_s
            self._overload.sample(self._now(), max(0.0, late_s) + queued_s, busy)

    def _heard(self) -> int:
        return sum(traffic.messages_in for sockets in self._sockets for traffic in sockets.counters.traffic.values())
