"""Who speaks for an address: the machines whose frames with it as their sender reach the phones' network, in order."""

import asyncio
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final, Self

from warden.ops.drills.report import Check, Verdict, exactly

_ETH_P_IP: Final = 0x0800
_HEADER_BYTES: Final = 34
"""Ethernet, and IPv4 without options; only UDP is looked at."""
_MAC: Final = slice(6, 12)
_PROTOCOL: Final = 23
_SENDER: Final = slice(26, 30)
_PER_WAKE_MAX: Final = 256
_BUFFER_BYTES: Final = 8 * 1024 * 1024
_SO_RCVBUFFORCE: Final = 33
"""Beyond what others may have (`net.core.rmem_max`)."""
_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6
_STATISTICS: Final = Struct("II")
"""Frames that came, and those of them that there was no room for."""


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


def against_order(turns: Sequence[Turn], order: Sequence[str]) -> int:
    """Packets of machines that spoke when it was not their turn: `order` has the holder of a seat and those that took
    it one after the other, of which one may come twice.
    """
    place, wrong = 0, 0
    for turn in turns:
        if turn.mac in order[place:]:
            place = order.index(turn.mac, place)
        else:
            wrong += turn.packets
    return wrong


class Speakers:
    """Listens while it is entered, in the network namespace of the thread that made it. Where the same is said from
    several addresses, as by two regions, `hosts` are all of them, and `turns` is for all of them together; `turns_of`
    has each by itself. `missed` are the frames that the kernel had no room for, known behind the block.
    """

    def __init__(self, interface: str, *hosts: str) -> None:
        self.turns: list[Turn] = []
        self.turns_of: dict[str, list[Turn]] = {host: [] for host in hosts}
        self.missed = 0
        self._interface = interface
        self._senders = {socket.inet_aton(host): turns for host, turns in self.turns_of.items()}
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_IP))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.setblocking(False)
        self._socket.bind((self._interface, 0))
        self._loop.add_reader(self._socket.fileno(), self._read)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove_reader(self._socket.fileno())
        while self._read():
            pass
        _, self.missed = _STATISTICS.unpack(self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size))
        self._socket.close()

    @property
    def silence_ms(self) -> float:
        """From the last packet of the first speaker to the first of the next; 0 where there was one only."""
        if len(self.turns) < 2:
            return 0.0
        return (self.turns[1].first_at - self.turns[0].last_at) * 1000

    def check(self, what: str, wrong: int) -> Check:
        """A count of packets, made behind the block, that must be 0; where some were missed nobody knows that."""
        if self.missed and not wrong:
            return Check(what, "0", f"0, but {self.missed:,} were not looked at", Verdict.UNKNOWN)
        return exactly(what, wrong, 0)

    def _read(self) -> bool:
        """Whether there may be more."""
        for _ in range(_PER_WAKE_MAX):
            try:
                frame = self._socket.recv(_HEADER_BYTES)
            except OSError:
                return False
            its = self._senders.get(frame[_SENDER])
            if its is None or frame[_PROTOCOL] != socket.IPPROTO_UDP:
                continue
            mac, now = frame[_MAC].hex(":"), time.monotonic()
            for turns in (self.turns, its):
                if not turns or turns[-1].mac != mac:
                    turns.append(Turn(mac, 0, now, now))
                turns[-1].packets += 1
                turns[-1].last_at = now
        return True
