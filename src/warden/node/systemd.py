"""What a node tells the systemd that started it: sd_notify(3), a datagram of `NAME=value` lines to a Unix socket.

Where nobody supervises the node, nothing is told.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

STATUS_S: Final = 2.0
"""How old the sentence in `systemctl status` may be."""
STATUS_CHARS_MAX: Final = 500


class Supervisor:
    """systemd, or nobody. No method raises, and none waits: a supervisor that hangs must not hold up calls."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        where = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + where[1:] if where.startswith("@") else where
        self._watchdog_s = _watchdog_s(environ)
        self._told = ""

    async def run(self, sentence: Callable[[], str]) -> None:
        """Keep the watchdog quiet and the sentence fresh until cancelled. This runs in the loop that carries the calls:
        one that stands still says nothing, and is started anew. (A task that fails ends the process by itself.)
        """
        if not self._address:
            return
        # systemd's own advice is half of its time.
        pause_s = min(STATUS_S, self._watchdog_s / 2) if self._watchdog_s else STATUS_S
        while True:
            lines = ["WATCHDOG=1"] if self._watchdog_s else []
            said = _line(sentence())
            if said != self._told:
                self._told = said
                lines.append(f"STATUS={said}")
            self._tell(*lines)
            await asyncio.sleep(pause_s)

    def tell_ready(self, sentence: str) -> None:
        """The node has its seats and takes calls; or has read its certificates again."""
        self._told = _line(sentence)
        self._tell("READY=1", f"STATUS={self._told}")

    def tell_reloading(self) -> None:
        """It is about to read its certificates; `tell_ready` ends it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def tell_stopping(self) -> None:
        """It hands its calls over and ends."""
        self._tell("STOPPING=1", "STATUS=handing over and stopping")

    def _tell(self, *lines: str) -> None:
        if not self._address or not lines:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.sendto("\n".join(lines).encode(), self._address)


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """After how long a silence we would be ended; 0 for never. The media process must not take it for its own."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not microseconds.isdigit() or pid not in ("", str(os.getpid())):
        return 0.0
    return int(microseconds) / 1e6


def _line(text: str) -> str:
    return " ".join(text.split())[:STATUS_CHARS_MAX]
