"""The RTP of many test phones in one event loop: every packet on time, every arrival noted by the kernel's clock.

One timer paces all senders and one epoll hears all sockets, so that 500 phones cost little more than their packets.
Nothing here knows SIP.
"""

import asyncio
import secrets
import select
import socket
import struct
import time
from typing import Final

from warden.core.address import Address
from warden.core.errors import WardenError
from warden.ops.protection import Protection
from warden.phone.events import Talking
from warden.phone.talk import PACKET_S, Listener, Talker

PHASES: Final = 4
"""The senders are spread over the 20 ms: real phones do not all speak in the same instant."""
ROUNDS: Final = 10
"""The slowest port sends one packet of ten: a load test listens closely to some calls, and to the others now and then.
"""
CATCH_UP_MAX: Final = 50
"""Packets made up for after the process was held up: a second; what was due before is left out, as by a real phone."""
READS_PER_WAKE_MAX: Final = 8
"""Packets read from each port before anything else is done: a process that was held up reads faster than it sends, or
it would never come to the end of what has arrived meanwhile."""
DATAGRAM_BYTES_MAX: Final = 2048
PORT_TRIES_MAX: Final = 64
"""Half of all free ports are even, so not finding one in 64 tries means that there is none."""

_SO_TIMESTAMPNS: Final = 35
"""The kernel notes when a datagram arrived (socket(7)); Python's socket module does not name the option."""
_TIMESPEC: Final = struct.Struct("@ll")
_CONTROL_BYTES: Final = socket.CMSG_SPACE(_TIMESPEC.size)


class Port:
    """One RTP socket with a talker and a listener. `speak` changes `tone_hz`. It sends one packet of `every`, a divisor
    of `ROUNDS`, and is silent for the time of the others; with 0 it sends none.
    """

    def __init__(self, sound: "Sound", host: str, tone_hz: int, every: int) -> None:
        assert not every or ROUNDS % every == 0, "the rounds repeat themselves"
        self._sound = sound
        self._socket = _even_socket(host)
        self.address = Address(host, self._socket.getsockname()[1])
        self.every = every
        first, step = sound.next_phase(), PHASES * every
        self.slots = range(first % step, PHASES * ROUNDS, step) if every else range(0)
        self.talker = Talker(secrets.randbits(32), sequence=secrets.randbits(16), timestamp=secrets.randbits(32))
        self.listener = Listener()
        self.unsent = 0
        """Packets that the kernel did not take."""
        self.strangers = 0
        """Datagrams from elsewhere than where the far side said it would be; many phones do not play them."""
        self.unreadable = 0
        """Datagrams that were not protected by the key that was agreed, or not at all."""
        self.tone_hz = tone_hz
        self._protection: Protection | None = None
        self._talking: Talking | None = None
        self._remote: Address | None = None
        self._silent_since = time.monotonic()
        sound.add(self, self._socket)

    def talk(self, talking: Talking) -> None:
        """Speak and listen as offer and answer say."""
        if self._talking is not None and talking.hears and not self._talking.hears:
            self.listener.excuse(time.time())
        self._talking = talking
        if talking.srtp is None:
            self._protection = None
        elif self._protection is None or self._protection.keys != talking.srtp:
            self._protection = Protection(talking.srtp, self._protection)
        self.listener.expect_events(talking.telephone_event)
        if talking.codec in ("PCMU", "PCMA"):
            self.talker.retune(talking.codec, talking.payload_type, self.tone_hz)
        if not talking.sends or talking.remote is None:
            self.hush()
            return
        if self._remote is None:
            self.talker.skip(int((time.monotonic() - self._silent_since) / PACKET_S))
        self._remote = talking.remote
        self._sound.speaks(self, speaks=self.every > 0)

    def speak(self, tone_hz: int) -> None:
        """Another tone from the next packet on; 0 is silence."""
        self.tone_hz = tone_hz
        if self._talking is not None:
            self.talk(self._talking)

    def hush(self) -> None:
        """Send nothing more until `talk`; what is on its way may still arrive."""
        if self._remote is not None:
            self._remote = None
            self._silent_since = time.monotonic()
        self._sound.speaks(self, speaks=False)

    def press(self, digit: str) -> None:
        """Press a key (RFC 4733); nothing happens where the peer takes no digits this way."""
        if self._talking is not None and self._talking.telephone_event is not None:
            self.talker.press(digit, self._talking.telephone_event)

    def send(self) -> None:
        """Send the packet that is due."""
        data = self.talker.next()
        if self.every > 1:
            self.talker.skip(self.every - 1)
        if self._protection is not None:
            protected = self._protection.protect(data)
            if protected is None:
                return
            data = protected
        try:
            self._socket.sendto(data, self._remote)  # type: ignore[arg-type]  # only called while there is one
        except OSError:
            self.unsent += 1

    def hear(self) -> bool:
        """Hear one datagram, if there is one; says whether there was."""
        try:
            data, control, _, source = self._socket.recvmsg(DATAGRAM_BYTES_MAX, _CONTROL_BYTES)
        except OSError:
            # Nothing there, or an ICMP error that an earlier packet of ours caused (cleared by being read).
            return False
        if self._talking is not None and source[:2] != self._talking.remote:
            self.strangers += 1
        if self._protection is not None:
            said = self._protection.unprotect(data)
            if said is None:
                self.unreadable += 1
                return True
            data = said
        if control:
            seconds, nanoseconds = _TIMESPEC.unpack(control[0][2])
            self.listener.hear(seconds + nanoseconds * 1e-9, data)
        else:
            self.listener.hear(time.time(), data)
        return True

    def close(self) -> None:
        """Stop; the listener may still be read. Safe to call twice."""
        if self._socket.fileno() < 0:
            return
        while self.hear():
            pass
        self._sound.remove(self, self._socket)
        self._socket.close()


class Sound:
    """All ports of one event loop. Close it when the last phone is closed."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._loop.add_reader(self._epoll.fileno(), self._hear)
        self._ports: dict[int, Port] = {}
        self._slots: tuple[dict[Port, None], ...] = tuple({} for _ in range(PHASES * ROUNDS))
        self._speaking: set[Port] = set()
        self._timer: asyncio.Handle | None = None
        self._step = 0
        self._started_at = 0.0
        self._opened = 0

    def open(self, host: str, tone_hz: int, every: int = 1) -> Port:
        """A port on an even number at `host`. Raises `WardenError` where there is none."""
        return Port(self, host, tone_hz, every)

    def close(self) -> None:
        """Close every port."""
        for port in tuple(self._ports.values()):
            port.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    # ---- for Port

    def next_phase(self) -> int:
        """Which slot the next port speaks in first."""
        self._opened += 1
        return self._opened

    def add(self, port: Port, sock: socket.socket) -> None:
        """Hear this port."""
        self._ports[sock.fileno()] = port
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def remove(self, port: Port, sock: socket.socket) -> None:
        """Neither hear nor send for this port any more."""
        self._epoll.unregister(sock.fileno())
        del self._ports[sock.fileno()]
        self.speaks(port, speaks=False)

    def speaks(self, port: Port, *, speaks: bool) -> None:
        """Send the packets of this port at their time, or none."""
        for slot in port.slots:
            if speaks:
                self._slots[slot][port] = None
            else:
                self._slots[slot].pop(port, None)
        if not speaks:
            self._speaking.discard(port)
            return
        self._speaking.add(port)
        if self._timer is None:
            self._started_at = time.monotonic()
            self._step = 0
            self._timer = self._loop.call_soon(self._pace)

    # ---- inside

    def _pace(self) -> None:
        now = time.monotonic()
        due = int((now - self._started_at) * PHASES / PACKET_S)
        if due - self._step > CATCH_UP_MAX * PHASES:
            for port in self._speaking:
                port.talker.skip((due - self._step) // PHASES)
            self._step = due
        while self._step <= due:
            for port in self._slots[self._step % len(self._slots)]:
                port.send()
            self._step += 1
        if not self._speaking:
            self._timer = None
            return
        at = self._started_at + self._step * PACKET_S / PHASES
        self._timer = self._loop.call_later(max(0.0, at - time.monotonic()), self._pace)

    def _hear(self) -> None:
        for _ in range(READS_PER_WAKE_MAX):
            ready = self._epoll.poll(0)
            if not ready:
                return
            for fd, _ in ready:
                port = self._ports.get(fd)
                if port is not None:
                    # One each: epoll tells again of what is left, and no port keeps the others waiting.
                    port.hear()


def _even_socket(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(PORT_TRIES_MAX):
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM)
        except OSError as error:
            raise WardenError(f"rtp: no socket: {error.strerror}") from error
        sock.setblocking(False)
        try:
            sock.bind((host, 0))
        except OSError as error:
            sock.close()
            raise WardenError(f"rtp: no port at {host}: {error.strerror}") from error
        if sock.getsockname()[1] % 2 == 0:
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            return sock
        sock.close()
    raise WardenError(f"rtp: no even port is free at {host}")
