"""Who speaks for an address: the machines whose frames with it as their sender reach the phones' network, in order."""

import asyncio
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

_ETH_P_IP: Final = 0x0800
_HEADER_BYTES: Final = 34
"""Ethernet, and IPv4 without options; only UDP is looked at."""
_MAC: Final = slice(6, 12)
_PROTOCOL: Final = 23
_SENDER: Final = slice(26, 30)
_PER_WAKE_MAX: Final = 256
_BUFFER_BYTES: Final = 8 * 1024 * 1024


@dataclass
class Turn:
    """Packets of one machine, before another speaks; times are of the steady clock."""

    mac: str
    packets: int
    first_at: float
    last_at: float


def out_of_turn(turns: Sequence[Turn]) -> int:
    """Packets of machines behind those of others that came after them: two spoke at a time."""
    seen: set[str] = set()
    wrong = 0
    for turn in turns:
        wrong += turn.packets if turn.mac in seen else 0
        seen.add(turn.mac)
    return wrong


class Speakers:
    """Listens while it is entered, in the network namespace of the thread that made it."""

    def __init__(self, interface: str, host: str) -> None:
        self.turns: list[Turn] = []
        self._interface = interface
        self._sender = socket.inet_aton(host)
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_IP))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._socket.setblocking(False)
        self._socket.bind((self._interface, 0))
        self._loop.add_reader(self._socket.fileno(), self._read)
        return self

    def __exit__(self, *_: object) -> None:
        self._read()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    @property
    def silence_ms(self) -> float:
        """From the last packet of the first speaker to the first of the next; 0 where there was one only."""
        if len(self.turns) < 2:
            return 0.0
        return (self.turns[1].first_at - self.turns[0].last_at) * 1000

    def _read(self) -> None:
        for _ in range(_PER_WAKE_MAX):
            try:
                frame = self._socket.recv(_HEADER_BYTES)
            except OSError:
                return
            if frame[_SENDER] != self._sender or frame[_PROTOCOL] != socket.IPPROTO_UDP:
                continue
            mac, now = frame[_MAC].hex(":"), time.monotonic()
            if not self.turns or self.turns[-1].mac != mac:
                self.turns.append(Turn(mac, 0, now, now))
            turn = self.turns[-1]
            turn.packets += 1
            turn.last_at = now
