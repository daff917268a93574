"""Paced G.711 streams through a relay: the generator of `relay.py`, a process of its own on a core of its own.

Reads a plan (JSON) from standard input, sends every stream's packet every 20 ms, each at a moment of its own, and takes
what comes back without ever sleeping, so that no packet waits here. Prints `ready`, `begin` and `end` as the measured
seconds begin and end, then what it has seen (JSON).
"""

import ctypes
import json
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Any, Final

import numpy as np

PERIOD_NS: Final = 20_000_000
SAMPLES: Final = 160
HEAD: Final = Struct(">BBHIIQ")
"""RTP's header (RFC 3550 section 5.1), then the time of sending in the first octets of the audio."""
STAMP: Final = Struct(">12xQ")
PACKET_BYTES: Final = 12 + SAMPLES
TAKEN: Final = 64
"""Packets taken from a socket at a time, the first of which is timed."""
ROOM_BYTES: Final = 256
MSG_DONTWAIT: Final = socket.MSG_DONTWAIT
BUFFER_BYTES: Final = 4 << 20
DRAIN_S: Final = 0.3


class Vector(ctypes.Structure):
    """`struct iovec`."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Message(ctypes.Structure):
    """`struct mmsghdr`."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(Vector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("padding", ctypes.c_int),
        ("done", ctypes.c_uint),
    )


_libc = ctypes.CDLL(None, use_errno=True)
sendmmsg = _libc.sendmmsg
sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
recvmmsg = _libc.recvmmsg
recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)


def messages(count: int, buffer: int, each: int, names: int = 0) -> "ctypes.Array[Message]":
    """Headers for so many packets of `each` bytes, one behind the other, and their addresses."""
    made = (Message * count)()
    for i, message in enumerate(made):
        message.vectors = ctypes.pointer(Vector(buffer + i * each, each))
        message.vector_count = 1
        if names:
            message.name, message.name_length = names + 16 * i, 16
    return made


def sockaddr(address: tuple[str, int]) -> bytes:
    """`struct sockaddr_in`."""
    host, port = address
    return struct.pack("=H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(host) + bytes(8)


def open_sockets(host: str, count: int) -> list[socket.socket]:
    """Where streams come from and go to; several streams share one, as they would share a network card."""
    made = []
    for _ in range(count):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for option in (socket.SO_RCVBUF, 33):  # SO_RCVBUFFORCE, for root.
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        sock.bind((host, 0))
        sock.setblocking(False)
        made.append(sock)
    return made


class Streams:
    """The streams of a plan: `targets` is where each is sent. Neighbours share a socket."""

    def __init__(self, sockets: list[socket.socket], targets: list[tuple[str, int]]) -> None:
        self.sockets = sockets
        self.fds = [sock.fileno() for sock in sockets]
        count = len(targets)
        self.count = count
        self.packets = bytearray(count * PACKET_BYTES)
        self._places = (ctypes.c_char * len(self.packets)).from_buffer(self.packets)
        self._names = ctypes.create_string_buffer(b"".join(map(sockaddr, targets)), 16 * count)
        self.out = messages(count, ctypes.addressof(self._places), PACKET_BYTES, ctypes.addressof(self._names))
        self._room = ctypes.create_string_buffer(TAKEN * ROOM_BYTES)
        self.taken = memoryview(self._room)
        self.into = messages(TAKEN, ctypes.addressof(self._room), ROOM_BYTES)
        self.bounds = [count * (i + 1) // len(sockets) for i in range(len(sockets))]
        self.sent = self.received = self.late_ns = 0
        self.delays: list[int] = []

    def run(self, seconds: float, *, timed: bool) -> None:
        """Send for so long. What is due is sent in one go; what has come is taken in one go after each."""
        clock, pack, unpack, count = time.perf_counter_ns, HEAD.pack_into, STAMP.unpack_from, self.count
        fds, ring, bounds, packets, taken = self.fds, len(self.fds), self.bounds, self.packets, self.taken
        out, each = ctypes.addressof(self.out), ctypes.sizeof(Message)
        number = self.sent // count
        sent = received = late = at = stream = home = 0
        step, due = PERIOD_NS / count, 0.0
        total = round(seconds * 1e9 / PERIOD_NS) * count
        start = clock()
        while sent < total:
            passed = clock() - start
            if passed >= due:
                late = max(late, passed - due)
                first, stop = stream, min(bounds[home], stream + int((passed - due) / step) + 1)
                now = start + passed
                for i in range(first, stop):
                    pack(packets, i * PACKET_BYTES, 0x80, 0, number & 0xFFFF, number * SAMPLES & 0xFFFFFFFF, i + 1, now)
                done = sendmmsg(fds[home], out + first * each, stop - first, MSG_DONTWAIT)
                if done > 0:
                    stream += done
                    sent += done
                    due = sent * step
                    if stream == bounds[home]:
                        home = (home + 1) % ring
                        if stream == count:
                            stream, number = 0, number + 1
            got = recvmmsg(fds[at], self.into, TAKEN, MSG_DONTWAIT, None)
            if got > 0:
                received += got
                if timed:
                    self.delays.append(clock() - unpack(taken, 0)[0])
            else:
                at = (at + 1) % ring
        self.sent += sent
        self.received += received
        self.late_ns = max(self.late_ns, int(late))

    def drain(self) -> None:
        """Take what is still under way."""
        until = time.monotonic() + DRAIN_S
        while time.monotonic() < until:
            for sock in self.sockets:
                with suppress(BlockingIOError):
                    while True:
                        sock.recv(2048)
                        self.received += 1

    def lost_here(self) -> int:
        """Packets that our own sockets had no room for: not the relay's fault."""
        ports = {f"{sock.getsockname()[1]:04X}" for sock in self.sockets}
        rows = [line.split() for line in Path("/proc/self/net/udp").read_text().splitlines()[1:]]
        return sum(int(row[-1]) for row in rows if row[1].rpartition(":")[2] in ports)


def say(line: str) -> None:
    """Tell who has started us."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """As the module says."""
    sockets = open_sockets(sys.argv[1], int(sys.argv[2]))
    say(json.dumps([sock.getsockname()[1] for sock in sockets]))
    plan: dict[str, Any] = json.loads(sys.stdin.readline())
    streams = Streams(sockets, [(host, port) for host, port in plan["targets"]])
    streams.run(plan["warm_s"], timed=False)
    streams.drain()
    sent, received, lost_here = streams.sent, streams.received, streams.lost_here()
    streams.late_ns = 0
    say("begin")
    streams.run(plan["seconds"], timed=True)
    say("end")
    streams.drain()
    p50, p99 = np.percentile(streams.delays, (50, 99)) / 1e3 if streams.delays else (0.0, 0.0)
    seen = {
        "sent": streams.sent - sent,
        "received": streams.received - received,
        "lost_by_generator": streams.lost_here() - lost_here,
        "delay_us_p50": float(p50),
        "delay_us_p99": float(p99),
        "late_ms_max": streams.late_ns / 1e6,
    }
    say(json.dumps(seen))


if __name__ == "__main__":
    main()
