"""One UDP port of a side: its socket, where its peer is, what came and what went.

The relay's loop (`process.py`) does the usual case itself with the public slots; everything else comes here. What the
controller is to be told is appended to `events`, a list that all ports share.
"""

import ctypes
import socket
from collections.abc import Callable
from errno import EADDRINUSE
from functools import lru_cache
from ipaddress import ip_address
from os import urandom
from struct import Struct as Layout
from typing import Any, Final, NamedTuple

from warden.core.address import Address
from warden.core.errors import MalformedMessage
from warden.media.protocol import Digit, Event, Latched, Mode, Rolled, RolledOver, Side, SideStats
from warden.media.srtp import Guard
from warden.rtp import dtmf, rtcp
from warden.rtp.packet import HEADER_BYTES, is_rtcp, payload_of, ssrc_of, timestamp_of
from warden.rtp.stats import BROKEN, CHANGED, OPAQUE, Reception

Source = tuple[Any, ...]
"""A socket address as `recvfrom` gives it: host, port, and for IPv6 flow and scope."""

STRANGER_PACKETS: Final = 10
"""In a row from one source that is not allowed, before it is latched."""
STRANGER_SILENCE_S: Final = 1.0
"""How long a stranger that was latched must have been silent before another may take its place: a peer that suppresses
silence pauses for less than that between two comfort noise packets."""
MOVED_PACKETS: Final = 5
"""In a row from another port of the same host (0.1 s), before it takes the place of the one that was latched: two
phones behind one address that both send must not take turns."""
MOVED_SILENCE_S: Final = 0.1
"""How long the old port must have been silent before, where the source is the same (SSRC): a NAT that has given the
phone another port has closed the old one. Nobody but the phone and who hears it knows its SSRC. Another source has to
wait for as long as a stranger."""
OPAQUE_BYTES_MIN: Final = 4
"""Shorter datagrams are keep-alives, which neither side needs from the other."""
RECEIVE_BUFFER_BYTES: Final = 512 * 1024
"""Packets wait here while the process has other things to do; the kernel may give less. RTCP, which has some a minute,
has enough in what the kernel gives unasked."""
DRAINED_MAX: Final = 4096
"""Packets thrown away at the opening of a port: more than the buffer holds, and an end to it under a flood."""
EXPEDITED: Final = 0xB8
"""DSCP EF (RFC 3246) in the TOS octet: audio goes before data."""
RTP_PAYLOAD_CLOCK_HZ: Final = 8000
"""What we send ourselves is G.711 or an echo, whose timestamps we only shift."""

NARROW_SILENCE_S: Final = 0.1
"""A peer that has been silent for so long may have moved: the port hears everybody again."""

_HEAD = Layout(">HHII")
_STARTS: Final = Layout(">IIH")
_UNSPECIFIED: Final = bytes(16)
"""A socket address of the family AF_UNSPEC, which takes a connection back (connect(2))."""
_libc: Final = ctypes.CDLL(None, use_errno=True)
_IP_FREEBIND: Final = (socket.IPPROTO_IP, 15)
_IPV6_FREEBIND: Final = (socket.IPPROTO_IPV6, 78)


class Host(NamedTuple):
    """What an IP address is, in the kernel's spelling."""

    text: str
    version: int
    is_unspecified: bool
    is_multicast: bool


@lru_cache(maxsize=4096)
def read_host(host: str) -> Host:
    """Raises `ValueError` for what is no IP address. Each call names some addresses a dozen times, so they are kept."""
    found = ip_address(host)
    return Host(str(found), found.version, found.is_unspecified, found.is_multicast)


def usable(address: Address | None) -> Address | None:
    """The address if something can be sent there: not the unspecified one of an old-style hold, and not port 0."""
    if address is None or address.port == 0:
        return None
    host = read_host(address.host)
    return None if host.is_unspecified else Address(host.text, address.port)


def _bind(sock: socket.SocketType, address: tuple[str, int]) -> None:
    """Bind it alone, or beside one that has been shared (`Port.share`); nobody else may come beside it then."""
    try:
        sock.bind(address)
    except OSError as error:
        if error.errno != EADDRINUSE:
            raise
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


@lru_cache(maxsize=1024)
def _allowed(hosts: tuple[str, ...]) -> frozenset[str]:
    """The hosts of a side; its two ports have the same, and often other calls too."""
    return frozenset([read_host(host).text for host in hosts])


def _update_rtcp(_now: float, data: bytes) -> int:
    return OPAQUE if is_rtcp(data) else BROKEN


class Port:
    """A bound socket. Raises `OSError` when it cannot be bound."""

    __slots__ = (
        "_candidate",
        "_echo_shift",
        "_echo_ssrc",
        "_generation",
        "_guard",
        "_heard",
        "_keys",
        "_known",
        "_opaque",
        "_opaque_at",
        "_opaque_octets",
        "_out_at",
        "_out_sequence",
        "_out_timestamp",
        "_report",
        "_ssrc",
        "_stays_wide",
        "_streak",
        "_trusted",
        "dropped",
        "emit",
        "events",
        "fd",
        "hosts",
        "mode",
        "muted",
        "narrow",
        "number",
        "peer",
        "receive",
        "reception",
        "recvfrom",
        "rtcp",
        "rtt_s",
        "sendto",
        "sent",
        "session",
        "side",
        "sock",
        "source",
        "talking",
        "to",
        "update",
    )

    def __init__(
        self, session: str, host: str, side: Side, events: list[Event], *, rtcp: bool, ahead: bool = False
    ) -> None:
        self.number = side.port + rtcp
        six = ":" in host
        family = socket.AF_INET6 if six else socket.AF_INET
        # Without the layer that `socket.socket` puts around it, which has a price at each opening and closing.
        self.sock = socket.SocketType(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            if not rtcp:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            if six:
                # An IPv4 peer is reached by a port of its own, and is not to show up as ::ffff:192.0.2.1.
                self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, EXPEDITED)
            else:
                self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, EXPEDITED)
            if ahead:
                # The machine need not have the address yet; until then nothing can be sent from it (ip(7)).
                self.sock.setsockopt(*(_IPV6_FREEBIND if six else _IP_FREEBIND), 1)
            _bind(self.sock, (host, self.number))
        except BaseException:
            self.sock.close()
            raise
        self.fd = self.sock.fileno()
        self.recvfrom: Callable[[int], tuple[bytes, Source]] = self.sock.recvfrom
        self.sendto: Callable[[bytes, Source], int] = self.sock.sendto
        # In the place of those two, for the relay's usual case, where the kernel keeps to the peer (`keep_to_peer`).
        self.receive: Callable[[int], bytes] | None = None
        self.emit: Callable[[bytes], int] | None = None
        self.narrow = False
        # A connection would give one that is bound to no address of its own one of ours, and the peer may have another.
        self._stays_wide = read_host(host).is_unspecified
        self.session = session
        self.events = events
        self.rtcp = rtcp
        self.reception = Reception(side.clock_hz, side.dtmf_payload_type)
        self.update = _update_rtcp if rtcp else self.reception.update
        self.mode = Mode.SILENT
        self.peer: Port | None = None  # Whose peer gets what comes here, in the usual case.
        self.muted = False  # Too many packets come: none is passed on.
        self.talking = False  # A player has the word: nothing else is sent to this side.
        self.sent = 0
        self.dropped = 0
        self._opaque = 0
        self._opaque_octets = 0
        self._opaque_at = -1.0
        self._keys = dtmf.Keys()
        self._candidate: Source | None = None
        self._streak = 0
        self._heard = 0
        # Our own numbering towards the peer, for what we play or echo: random starts (RFC 3550 section 5.1).
        starts: tuple[int, int, int] = _STARTS.unpack(urandom(_STARTS.size))
        self._ssrc, self._out_timestamp, self._out_sequence = starts
        self._out_at: float | None = None
        self._echo_ssrc = -1
        self._echo_shift = 0
        self._report: tuple[int, float] | None = None  # The sender report passed on to our peer last, and when.
        self.rtt_s = 0.0
        self.source: Source | None = None
        self._trusted = False
        self._generation = side.generation
        self._known = usable(side.learned_rtcp if rtcp else side.learned)
        self.to: Source | None = None
        self._guard: Guard | None = None
        self.describe(side)
        self._drain()

    def _drain(self) -> None:
        """What came between binding and here was meant for somebody before us."""
        try:
            for _ in range(DRAINED_MAX):
                self.sock.recv(1)
        except OSError:
            return

    def share(self) -> None:
        """Let one more socket of the same user be bound to the port; the kernel gives it what comes from then on."""
        self._stays_wide = True
        self.widen()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    def keep_to_peer(self) -> None:
        """The peer sends steadily: have the kernel take nobody else's packets, in two calls some time apart, so that
        what others had sent before the first has been read by the second. Then no address is read, written or looked
        up for each packet, which saves a seventh of its cost.
        """
        if self.narrow:
            self.receive, self.emit = self.sock.recv, self.sock.send
        elif self.source is not None and self.to == self.source and self._guard is None and not self._stays_wide:
            try:
                self.sock.connect(self.source)
            except OSError:
                return
            self.narrow = True

    def widen(self) -> None:
        """Hear everybody again."""
        if self.narrow:
            self.narrow, self.receive, self.emit = False, None, None
            _libc.connect(self.fd, _UNSPECIFIED, len(_UNSPECIFIED))

    def close(self) -> None:
        """Free the port. An epoll that watches it forgets it by itself, since nobody else has the descriptor."""
        self.sock.close()

    def describe(self, side: Side) -> None:
        """Take over what the order says of the side; what was latched stays unless the generation changed."""
        self.side = side
        if side.srtp != (None if self._guard is None else self._guard.keys):
            self._secure(side)
        self.hosts = _allowed(side.hosts)
        self.reception.describe(side.clock_hz, side.dtmf_payload_type)
        if side.generation != self._generation:
            self._generation = side.generation
            self._known = None
            self.widen()
            self.source = None
            self._trusted = False
        if self.source is None:
            self.to = self._known or usable(side.remote_rtcp if self.rtcp else side.remote)
            self._candidate = None

    def _secure(self, side: Side) -> None:
        """Protect what goes and comes from now on, with other keys than before or none."""
        self.widen()
        if self._guard is not None:
            self.dropped += self._guard.refused
        if side.srtp is None:
            self._guard, self.recvfrom, self.sendto = None, self.sock.recvfrom, self.sock.sendto
            return
        guard = Guard(self.sock, side.srtp, side.rolled, rtcp=self.rtcp, report=self._rolled, before=self._guard)
        self._guard, self.recvfrom, self.sendto = guard, guard.recvfrom, guard.sendto

    def _rolled(self, rolled: Rolled) -> None:
        self.events.append(RolledOver(self.session, self.side.port, rolled))

    def untold(self) -> Latched | None:
        """What to tell a controller that has not heard of the latched source, judged by its order."""
        if self.source is None:
            return None
        side = self.side
        known = usable((side.learned_rtcp or side.remote_rtcp) if self.rtcp else (side.learned or side.remote))
        return None if known == self.source[:2] else self._latched(self.source)

    def _latched(self, source: Source) -> Latched:
        return Latched(self.session, self.side.port, Address(*source[:2]), rtcp=self.rtcp)

    def admits(self, now: float, data: bytes, source: Source) -> bool:
        """A packet that is not from the latched source: may it be taken? Latches its source if so (see `Side`)."""
        two = len(data) > 0 and data[0] >> 6 == 2
        ours = is_rtcp(data) if self.rtcp else two and len(data) >= HEADER_BYTES
        opaque = self.mode is Mode.RELAY and not self.rtcp and not two and len(data) >= OPAQUE_BYTES_MIN
        allowed = source[0] in self.hosts or source[:2] == self._known
        heard = self.reception.packets + self._opaque
        if source != self._candidate or heard != self._heard:
            self._candidate, self._streak, self._heard = source, 0, heard
        self._streak += 1
        silence_s = now - self.reception.heard_at
        same = ours and not self.rtcp and ssrc_of(data) == self.reception.ssrc
        moved = self._streak >= MOVED_PACKETS and silence_s >= (MOVED_SILENCE_S if same else STRANGER_SILENCE_S)
        if allowed:
            take = (ours or opaque) and (self.source is None or not self._trusted or moved)
            self._trusted = self._trusted or take
        elif self.source is not None and source[0] == self.source[0] and same and moved:
            take = True
        else:
            # A peer that was heard from an allowed host may be silent for long (on hold, muted) and is still the peer.
            quiet = self.source is None or silence_s >= STRANGER_SILENCE_S
            take = ours and quiet and not self._trusted and self._streak >= STRANGER_PACKETS
        if not take:
            self.dropped += 1
            return False
        before = self.to
        self.widen()
        self.source = self.to = source
        if before is None or before[:2] != source[:2]:
            self.events.append(self._latched(source))
        return True

    def handle(self, now: float, data: bytes, verdict: int) -> None:
        """A packet from the latched source that is not simply passed on."""
        if verdict >= OPAQUE:
            if verdict == BROKEN or self.mode is not Mode.RELAY or len(data) < OPAQUE_BYTES_MIN:
                self.dropped += 1
                return
            self._opaque += 1
            self._opaque_at = now
            self._opaque_octets += len(data)
            if self.rtcp:
                self._read_report(now, data)
        elif verdict == CHANGED and self.side.dtmf_payload_type >= 0:
            self._watch_keys(data)
        peer = self.peer
        if peer is not None:
            peer.send(data)
        elif self.muted:
            self.dropped += 1
        elif self.mode is Mode.ECHO and not self.talking:
            self._echo(now, data)

    def send(self, data: bytes) -> bool:
        """Send to our peer, if it is known where that is; counts what went and what did not."""
        if self.to is not None:
            try:
                self.sendto(data, self.to)
            except OSError:
                self.dropped += 1
            else:
                self.sent += 1
                return True
        return False

    def _watch_keys(self, data: bytes) -> None:
        side = self.side
        timestamp = timestamp_of(data)
        if data[1] & 0x7F == side.dtmf_payload_type:
            try:
                presses = self._keys.receive(timestamp, dtmf.parse(payload_of(data)))
            except MalformedMessage:
                return
        else:
            presses = self._keys.voice(timestamp)
        for press in presses:
            ms = press.duration * 1000 // side.clock_hz
            self.events.append(Digit(self.session, side.port, press.digit, ms))

    def _read_report(self, now: float, data: bytes) -> None:
        """The peer answers the sender report that we passed on to it: that tells the round trip to it."""
        try:
            reports = rtcp.parse(data)
        except MalformedMessage:
            return  # Encrypted, or wrong; whoever it is for will know.
        for report in reports:
            if isinstance(report, rtcp.SenderReport) and self.peer is not None:
                self.peer.passed_report(rtcp.middle(report.ntp), now)
            if isinstance(report, rtcp.SenderReport | rtcp.ReceiverReport) and self._report is not None:
                middle, at = self._report
                for block in report.blocks:
                    if block.lsr == middle:
                        arrived = middle + round((now - at) * 65536)
                        self.rtt_s = rtcp.round_trip_s(block, arrived) or self.rtt_s

    def passed_report(self, middle: int, now: float) -> None:
        """A sender report with this `middle` goes out to our peer."""
        self._report = (middle, now)

    def own_timestamp(self, now: float) -> int:
        """The timestamp of what we begin to send at `now`: goes on from what we sent before, pauses counted."""
        if self._out_at is not None:
            pause = max(0, round((now - self._out_at) * RTP_PAYLOAD_CLOCK_HZ))
            self._out_timestamp = (self._out_timestamp + pause) & 0xFFFFFFFF
        self._out_at = now
        return self._out_timestamp

    def send_own(self, due: float, head: int, payload: bytes, samples: int) -> None:
        """Send a packet of our own, with our SSRC and the next number. `due` is when its first sample is heard."""
        self._out_sequence = (self._out_sequence + 1) & 0xFFFF
        timestamp = self._out_timestamp
        self._out_timestamp = (timestamp + samples) & 0xFFFFFFFF
        self._out_at = due + samples / RTP_PAYLOAD_CLOCK_HZ
        self.send(_HEAD.pack(head, self._out_sequence, timestamp, self._ssrc) + payload)
        self._echo_ssrc = -1

    def _echo(self, now: float, data: bytes) -> None:
        head, _, timestamp, ssrc = _HEAD.unpack_from(data)
        if ssrc != self._echo_ssrc:
            self._echo_ssrc = ssrc
            self._echo_shift = self.own_timestamp(now) - timestamp
            head |= 0x80
        timestamp = (timestamp + self._echo_shift) & 0xFFFFFFFF
        self._out_sequence = (self._out_sequence + 1) & 0xFFFF
        self._out_timestamp, self._out_at = timestamp, now
        self.send(_HEAD.pack(head, self._out_sequence, timestamp, self._ssrc) + data[12:])

    @property
    def packets(self) -> int:
        """All that was taken from the peer."""
        return self.reception.packets + self._opaque

    @property
    def heard_at(self) -> float:
        """When the last packet was taken from the peer (-1 before the first)."""
        return max(self.reception.heard_at, self._opaque_at)

    def stats(self, rtt_s: float) -> SideStats:
        """The counters; `rtt_s` is what the RTCP port beside knows."""
        reception = self.reception
        return SideStats(
            port=self.number,
            packets=reception.packets + self._opaque,
            bytes=reception.octets + self._opaque_octets,
            lost=reception.lost,
            jitter_ms=reception.jitter_ms,
            gap_ms_max=reception.gap_ms_max,
            sent=self.sent,
            dropped=self.dropped + (0 if self._guard is None else self._guard.refused),
            remote=None if self.to is None else Address(*self.to[:2]),
            rtt_ms=rtt_s * 1000.0,
        )
