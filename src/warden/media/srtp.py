"""SRTP and SRTCP (RFC 3711, 7714) of one port: what comes is unprotected, what goes is protected, by libsrtp.

A secured port has these two functions in place of its socket's, so that plain ports cost nothing more. What a successor
must know to go on, how far the packets of each source have been counted, is reported now and then (`RolledOver`).
"""

import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final
from zlib import crc32

from pylibsrtp import Policy, Session
from pylibsrtp._binding import ffi, lib  # type: ignore[import-not-found]  # compiled

from warden.media.protocol import Rolled, Way
from warden.rtp.packet import VERSION
from warden.sdp.crypto import Keys, key_octets

SOURCES_MAX: Final = 64
"""SSRCs of one direction that are counted at a time: more than a call has, held and transferred as often as may be.
Beyond that the one that was reported least recently is forgotten.
"""
QUARTER_BITS: Final = 14
"""A source is reported as often as its sequence number has gone on by a quarter of its range (16,384 packets, or five
minutes of audio): a successor that knows an index tells any later one from its 16 bits for twice as long.
"""
SRTCP_REPORT: Final = 64
"""Every so many SRTCP packets (five minutes' worth) their index is reported, and a successor goes on so much behind
what was reported last: an index used twice would give away what it protects.
"""
_STEP: Final = 1 << QUARTER_BITS
_BUFFER_BYTES: Final = 2048
_TRAILER_BYTES: Final = 16 + 4
"""What protection adds at most."""
_PROFILES: Final = {
    "AES_CM_128_HMAC_SHA1_80": Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    "AES_CM_128_HMAC_SHA1_32": Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
    "AEAD_AES_128_GCM": Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
}
_HEADER: Final = struct.Struct(">HHII")
_SEQUENCE_AND_SOURCE: Final = struct.Struct(">2xH4xI")
_RTCP_SOURCE: Final = struct.Struct(">4xI")

Source = tuple[Any, ...]
Processed = Callable[[bytes], bytes]
"""Raises `Unprotectable`."""
Report = Callable[[Rolled], None]
"""Told whenever a successor would have to know."""


def key_name(key: str) -> int:
    """What `Rolled.key` says of a key."""
    return crc32(key.encode())


class Unprotectable(OSError):
    """A packet that is not what its key makes, or comes again, or cannot be protected: it is as good as lost."""


class Context:
    """One direction of a port under one key. Raises `ValueError` for a key that is none."""

    __slots__ = (
        "_buffer", "_function", "_indexes", "_length", "_name", "_outbound", "_report", "_session", "_srtp", "_view"
    )  # fmt: skip

    def __init__(self, suite: str, key: str, *, outbound: bool, rtcp: bool, report: Report) -> None:
        kind = Policy.SSRC_ANY_OUTBOUND if outbound else Policy.SSRC_ANY_INBOUND
        self._session = Session(Policy(key_octets(key), kind, 0, _PROFILES[suite]))
        # The package's own functions copy through a buffer that is too short for video.
        self._srtp = self._session._srtp[0]  # noqa: SLF001
        self._buffer = ffi.new("unsigned char[]", _BUFFER_BYTES)
        self._view = ffi.buffer(self._buffer)
        self._length = ffi.new("int *")
        if rtcp:
            self._function = lib.srtp_protect_rtcp if outbound else lib.srtp_unprotect_rtcp
        else:
            self._function = lib.srtp_protect if outbound else lib.srtp_unprotect
        self._name = key_name(key)
        self._outbound = outbound
        self._report = report
        self._indexes: dict[int, int] = {}

    def process(self, data: bytes) -> bytes:
        """The packet protected, or unprotected. Raises `Unprotectable`."""
        size = len(data)
        if size > _BUFFER_BYTES - _TRAILER_BYTES:
            raise Unprotectable
        self._view[0:size] = data
        self._length[0] = size
        if self._function(self._srtp, self._buffer, self._length):
            raise Unprotectable
        return bytes(self._view[0 : self._length[0]])

    def _make_room(self) -> None:
        if len(self._indexes) >= SOURCES_MAX:
            oldest = next(iter(self._indexes))
            del self._indexes[oldest]
            self._session.remove_stream(oldest)


class RtpContext(Context):
    """The same for RTP, whose packets are counted in 48 bits of which they carry 16 (RFC 3711 section 3.3.1)."""

    __slots__ = ()

    def rtp(self, data: bytes) -> bytes:
        """As `process`."""
        made = self.process(data)
        # The header is in the clear either way.
        sequence, source = _SEQUENCE_AND_SOURCE.unpack_from(data)
        index = self._indexes.get(source, -1)
        if (index ^ sequence) & 0xFFFF >= _STEP or index < 0:
            self._count(source, index, sequence)
        return made

    def _count(self, source: int, index: int, sequence: int) -> None:
        if index < 0:
            self._make_room()
            self._indexes[source] = sequence
            return
        ahead = (sequence - index) & 0xFFFF
        if ahead < 0x8000 and (index + ahead) >> QUARTER_BITS > index >> QUARTER_BITS:
            index += ahead
            # The newest stands last.
            del self._indexes[source]
            self._indexes[source] = index
            self._report(Rolled(Way.OUT if self._outbound else Way.IN, source, index, self._name))

    def go_on(self, source: int, index: int, sender: Context | None) -> None:
        """Count the packets of `source` on from `index`, which an earlier process reported. libsrtp offers no way to
        say so, but packets that nobody gets count like others: `sender` makes those that an inbound one is to have had.
        """
        at = 0
        while True:
            at = min(at + _STEP, index)
            packet = _HEADER.pack(VERSION << 14, at & 0xFFFF, 0, source)
            self.process(packet if sender is None else sender.process(packet))
            if at == index:
                break
        self._indexes[source] = index


class RtcpContext(Context):
    """The same for RTCP, whose packets carry their index: only ours must be counted on."""

    __slots__ = ()

    def rtcp(self, data: bytes) -> bytes:
        """As `process`."""
        made = self.process(data)
        (source,) = _RTCP_SOURCE.unpack_from(data)
        index = self._indexes.get(source, 0)
        if index == 0:
            self._make_room()
        self._indexes[source] = index + 1
        if self._outbound and index % SRTCP_REPORT == 0:
            self._report(Rolled(Way.RTCP, source, index + 1, self._name))
        return made

    def go_on(self, source: int, index: int) -> None:
        """Count the packets of `source` on behind all that an earlier process may have sent since its last report."""
        packet = b"\x80\xc9\x00\x01" + source.to_bytes(4, "big")
        for _ in range(index + SRTCP_REPORT):
            self.process(packet)
        self._indexes[source] = index + SRTCP_REPORT


class Guard:
    """The two directions of one port. `refused` are packets that came and were none of the peer's. A direction whose
    key is the one that it had `before` goes on as it was.
    """

    __slots__ = ("_recvfrom", "_sendto", "inbound", "keys", "outbound", "refused")

    def __init__(
        self,
        sock: socket.SocketType,
        keys: Keys,
        rolled: Sequence[Rolled],
        *,
        rtcp: bool,
        report: Report,
        before: "Guard | None" = None,
    ) -> None:
        self.keys = keys
        self.refused = 0
        self._recvfrom = sock.recvfrom
        self._sendto = sock.sendto
        self.inbound: Processed | None = None
        self.outbound: Processed | None = None
        goes_on = before is not None and before.keys.suite == keys.suite
        if before is not None and goes_on and keys.inbound == before.keys.inbound:
            self.inbound = before.inbound
        elif keys.inbound:
            self.inbound = _context(keys.suite, keys.inbound, rolled, outbound=False, rtcp=rtcp, report=report)
        if before is not None and goes_on and keys.outbound == before.keys.outbound:
            self.outbound = before.outbound
        elif keys.outbound:
            self.outbound = _context(keys.suite, keys.outbound, rolled, outbound=True, rtcp=rtcp, report=report)

    def recvfrom(self, size: int) -> tuple[bytes, Source]:
        """As the socket's. Raises `OSError` also for what is not the peer's."""
        data, source = self._recvfrom(size)
        if self.inbound is None:
            self.refused += 1
            raise Unprotectable
        try:
            return self.inbound(data), source
        except (Unprotectable, struct.error):
            self.refused += 1
            raise Unprotectable from None

    def sendto(self, data: bytes, to: Source) -> int:
        """As the socket's. Raises `OSError` also for what cannot be protected."""
        if self.outbound is None:
            raise Unprotectable
        return self._sendto(self.outbound(data), to)


def _context(
    suite: str, key: str, rolled: Sequence[Rolled], *, outbound: bool, rtcp: bool, report: Report
) -> Processed:
    if rtcp:
        control = RtcpContext(suite, key, outbound=outbound, rtcp=True, report=report)
        for known in rolled:
            if outbound and known.way is Way.RTCP and known.key == key_name(key):
                control.go_on(known.ssrc, known.index)
        return control.rtcp
    context = RtpContext(suite, key, outbound=outbound, rtcp=False, report=report)
    way, name = Way.OUT if outbound else Way.IN, key_name(key)
    mine = [known for known in rolled if known.way is way and known.key == name]
    if mine:
        sender = None if outbound else Context(suite, key, outbound=True, rtcp=False, report=report)
        for known in mine:
            context.go_on(known.ssrc, known.index, sender)
    return context.rtp
