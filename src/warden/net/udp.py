"""SIP over UDP: one bound socket, read and written without asyncio's transports, which cost several times as much.

Nothing here knows what a message means: it is parsed and handed on.
"""

import asyncio
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Set
from typing import Final

from warden.core.address import Address, Flow, Transport
from warden.core.errors import MalformedMessage
from warden.core.stun import answer, is_stun
from warden.net.counters import Counters, Dropped
from warden.net.limits import RateLimit, is_numeric, limit_key
from warden.net.ports import Receiver
from warden.net.settings import Limits
from warden.sip.parser import parse_message

_BATCH: Final = 64
"""Datagrams read per wake, so that timers and streams get their turn: at 20 us each about a millisecond."""
_GATHER_S: Final = 0.003
"""While datagrams keep coming they are read once in so long, and what they cause is written, ordered and said together:
a turn of the loop, a commit and an order to the media process cost more than a message does. Nobody hears 3 ms.
"""
_DATAGRAM_BYTES_MAX: Final = 65_535
_PEERS_MAX: Final = 16_384
"""Remembered flows; a flood of spoofed addresses empties the table, which costs a microsecond a peer."""
_ERRORS_MAX: Final = 256
"""ICMP errors read at a time; the kernel holds more for the next wake."""
_KEEP_ALIVE_BYTES: Final = b"\r\n\0"
_IP_RECVERR: Final = 11
_IPV6_RECVERR: Final = 25
_EXTENDED_ERROR: Final = struct.Struct("=IBBBB")
"""The head of `struct sock_extended_err`: errno, origin, type, code, padding."""
_ICMP, _ICMP6 = 2, 3


class UdpSocket:
    """A bound UDP socket in the running loop, from `start` to `close`."""

    def __init__(
        self,
        sock: socket.socket,
        local: Address,
        *,
        receiver: Receiver,
        counters: Counters,
        limits: Limits,
        rate: RateLimit,
        barred: Set[str] = frozenset(),
    ) -> None:
        """What comes from the addresses of `barred` (as `limit_key` spells them) is not looked at."""
        self.local = local
        self.sock = sock
        self._receiver = receiver
        self._traffic = counters.traffic[Transport.UDP]
        self._dropped = counters.dropped
        self._unsent_max = limits.unsent_datagrams_max
        self._rate = rate
        self._barred = barred
        self._sendto = sock.sendto
        self._peers: dict[tuple[str, int], tuple[Flow, str]] = {}
        self._unsent: deque[tuple[bytes, Address]] = deque()
        self._gathering: asyncio.TimerHandle | asyncio.Handle | None = None
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)

    def start(self) -> None:
        """Begin to read, in the running loop."""
        # libuv stops watching a socket for good at its first POLLERR, which any ICMP error causes. An epoll between
        # the two hides it: the loop sees a descriptor that is merely readable.
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._epoll.register(self.sock.fileno(), select.EPOLLIN)
        self._loop.add_reader(self.descriptor, self._ready)

    @property
    def descriptor(self) -> int:
        """What the loop watches: readable while there is anything to do."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Stop reading and close the socket; datagrams that the kernel had no room for are dropped."""
        if self._gathering is not None:
            self._gathering.cancel()
        self._loop.remove_reader(self.descriptor)
        self._epoll.close()
        self.sock.close()
        self._dropped[Dropped.UNSENT_DATAGRAMS] += len(self._unsent)
        self._unsent.clear()

    def send(self, remote: Address, data: bytes) -> None:
        """Send one datagram; what fails is told to the receiver in the loop's next turn."""
        if self._unsent:
            self._queue(remote, data)
            return
        if not is_numeric(remote.host):
            self._tell_lost(remote, f"{remote.host} is not an ip address")
            return
        try:
            self._sendto(data, remote)
        except BlockingIOError:
            self._queue(remote, data)
            return
        except OSError:
            # Most likely the ICMP error of an earlier datagram to some other peer, which the kernel reports on the
            # next call whatever that is about; reading the error queue clears it.
            self._read_errors()
            try:
                self._sendto(data, remote)
            except BlockingIOError:
                self._queue(remote, data)
                return
            except OSError as error:
                self._dropped[Dropped.SEND_FAILED] += 1
                self._tell_lost(remote, error.strerror or str(error))
                return
        traffic = self._traffic
        traffic.messages_out += 1
        traffic.bytes_out += len(data)

    def _ready(self) -> None:
        """There is something to do after a pause."""
        if self._unsent:
            self._flush()
        if self._gathering is not None:
            # Not for us, since reading is not watched now: there is an error.
            self._read_errors()
        elif self._read():
            self._watch(reads=False)

    def _gathered(self) -> None:
        heard = self._read()
        if heard == _BATCH:
            self._gathering = self._loop.call_soon(self._gathered)
        elif heard:
            self._gathering = self._loop.call_later(_GATHER_S, self._gathered)
        else:
            self._watch(reads=True)

    def _watch(self, *, reads: bool) -> None:
        """Be woken by the next datagram, or have a look in a while whether there are any."""
        self._gathering = None if reads else self._loop.call_later(_GATHER_S, self._gathered)
        self._epoll.modify(self.sock.fileno(), self._mask)

    @property
    def _mask(self) -> int:
        return (0 if self._gathering else select.EPOLLIN) | (select.EPOLLOUT if self._unsent else 0)

    def _read(self) -> int:
        """Read what is there, up to a batch; how many datagrams it was."""
        now = self._loop.time()
        recvfrom, peers, allows = self.sock.recvfrom, self._peers, self._rate.allows
        receiver, traffic, barred = self._receiver, self._traffic, self._barred
        for heard in range(_BATCH):
            try:
                data, peer = recvfrom(_DATAGRAM_BYTES_MAX)
            except BlockingIOError:
                if heard == 0:
                    self._read_errors()
                return heard
            except OSError:
                self._read_errors()
                continue
            flow, key = peers.get(peer) or self._meet(peer)
            if key in barred:
                self._dropped[Dropped.BANNED] += 1
                continue
            if not allows(key, now):
                self._dropped[Dropped.MESSAGE_RATE] += 1
                continue
            traffic.bytes_in += len(data)
            if (len(data) < 4 or data[0] <= 0x20) and self._is_no_message(data, flow.remote):
                continue
            traffic.messages_in += 1
            try:
                message = parse_message(data)
            except MalformedMessage as error:
                traffic.malformed += 1
                receiver.malformed(flow, data, error)
            else:
                receiver.received(flow, message)
        return _BATCH

    def _is_no_message(self, data: bytes, source: Address) -> bool:
        if len(data) < 4 or not data.strip(_KEEP_ALIVE_BYTES):
            self._traffic.keep_alives += 1
            return True
        if is_stun(data):
            said = answer(data, source)
            if said is None:
                self._dropped[Dropped.STUN] += 1
            else:
                self._traffic.keep_alives += 1
                self.send(source, said)
            return True
        return False

    def _meet(self, peer: tuple[str, int]) -> tuple[Flow, str]:
        if len(self._peers) >= _PEERS_MAX:
            self._peers.clear()
        host, port = peer[:2]
        known = Flow(Transport.UDP, self.local, Address(host, port)), limit_key(host)
        self._peers[peer] = known
        return known

    def _queue(self, remote: Address, data: bytes) -> None:
        if len(self._unsent) >= self._unsent_max:
            self._dropped[Dropped.UNSENT_DATAGRAMS] += 1
            return
        self._unsent.append((data, remote))
        if len(self._unsent) == 1:
            self._epoll.modify(self.sock.fileno(), self._mask)

    def _flush(self) -> None:
        waiting, self._unsent = self._unsent, deque()
        self._epoll.modify(self.sock.fileno(), self._mask)
        while waiting:
            data, remote = waiting.popleft()
            self.send(remote, data)
            if self._unsent:
                # The kernel is full again, and `send` has queued this datagram: the rest goes behind it.
                self._unsent.extend(waiting)
                return

    def _read_errors(self) -> None:
        for _ in range(_ERRORS_MAX):
            try:
                _, ancillary, _, peer = self.sock.recvmsg(0, 512, socket.MSG_ERRQUEUE)
            except OSError:
                return
            for level, kind, payload in ancillary:
                if (level, kind) in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)):
                    number, origin, icmp_type, code, _ = _EXTENDED_ERROR.unpack_from(payload)
                    if _is_final(origin, icmp_type, code):
                        self._traffic.icmp_errors += 1
                        self._tell_lost(Address(*peer[:2]), f"icmp: {os.strerror(number).lower()}")

    def _tell_lost(self, remote: Address, why: str) -> None:
        # Not from within `send`: its caller is in the midst of its own outputs.
        self._loop.call_soon(self._receiver.lost, Flow(Transport.UDP, self.local, remote), why)


def _is_final(origin: int, icmp_type: int, code: int) -> bool:
    """RFC 3261 section 18.4: unreachable and parameter problem end the transaction, the rest is transient.

    Fragmentation needed and packet too big are no loss either: the kernel has learned the smaller size by now, and the
    retransmission gets through.
    """
    if origin == _ICMP:
        return (icmp_type == 3 and code != 4) or icmp_type == 12
    return origin == _ICMP6 and icmp_type in (1, 4)
