"""Which streams of one peer are protected, and with which keys (SDES: RFC 4568): the two halves of every exchange.

The peer's descriptions go through `heard_*`, which give them as if there were no SRTP; what it is told, as if there
were none, goes through `say_*`. So nobody else knows of keys, and none gets from one peer to another.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Final
from zlib import crc32

from msgspec import Struct
from msgspec.structs import replace

from warden.core.errors import MalformedMessage
from warden.sdp.crypto import (
    KEY_BYTES,
    SUITES,
    Crypto,
    Described,
    Keys,
    disclosed,
    enclosed,
    key_text,
    secure_protocol,
    without_streams,
)
from warden.sdp.relay import streams
from warden.sdp.session import encode

NewKey = Callable[[int], bytes]
"""Unguessable octets, as many as asked for, other ones at each call."""

DEAF: Final = Keys("")
"""Keys are on offer and none is agreed: nothing that comes can be understood, and nothing must be sent."""


class Policy(StrEnum):
    """Whether the media of a peer are protected."""

    OFF = "off"
    OPTIONAL = "optional"
    REQUIRED = "required"


class NotSecure(MalformedMessage):
    """What is left of a description under the policy is nothing (488)."""


class Line(Struct, frozen=True, gc=False, omit_defaults=True):
    """One m= line: its transport as it was written, and what protects it (None: nothing). `tag` is that of the peer's
    crypto line that was chosen.
    """

    protocol: str
    keys: Keys | None = None
    tag: int = 1


class Sdes(Struct, frozen=True, gc=False, omit_defaults=True):
    """What there is between us and one peer. `offers`: our offers bring keys; `insists`: they do so in a transport that
    a peer must understand, although it may do without. `ours`: the exchange under way, or the
    last, began with an offer of ours; `offered` are its keys. `lines` is in force; `pending` is what comes into force
    with our answer. `mark` tells what keys we said last, `later` is how often these have changed.
    """

    policy: Policy
    offers: bool = False
    ours: bool = True
    lines: tuple[Line, ...] = ()
    offered: tuple[tuple[Crypto, ...], ...] = ()
    pending: tuple[Line, ...] = ()
    insists: bool = False
    mark: int = 0
    later: int = 0

    def keys(self, index: int) -> Keys | None:
        """What protects the stream now; None where nothing does."""
        lines = self.lines or self.pending
        if index < len(lines):
            return lines[index].keys
        return DEAF if not lines and any(self.offered) else None


def speaks_of_keys(sdp: str) -> bool:
    """True where a description cannot be taken as it is by who knows nothing of SRTP."""
    return "a=crypto:" in sdp or "/SAVP" in sdp


def heard_offer(sdes: Sdes, sdp: str) -> tuple[Sdes, str]:
    """The peer offers. Raises `NotSecure`, and `MalformedMessage` as the parser."""
    text, described = disclosed(sdp)
    lines: list[Line] = []
    refused: list[bool] = []
    for i, stream in enumerate(described):
        before = sdes.lines[i].keys if i < len(sdes.lines) else None
        crypto = None if sdes.policy is Policy.OFF else _choose(stream, before)
        keys = None
        if crypto is not None:
            # The same key goes on being ours unless the peer has another: then the far end may have changed, and would
            # not know how far our packets are counted.
            goes_on = before is not None and (before.suite, before.inbound) == (crypto.suite, crypto.key)
            keys = Keys(crypto.suite, crypto.key, before.outbound if before is not None and goes_on else "")
        lines.append(Line(stream.protocol, keys, crypto.tag if crypto is not None else 1))
        refused.append(stream.is_rtp and crypto is None and (stream.is_secure or sdes.policy is Policy.REQUIRED))
    return replace(sdes, ours=False, pending=tuple(lines)), _allowed(text, refused)


def say_answer(sdes: Sdes, sdp: str, new_key: NewKey) -> tuple[Sdes, str]:
    """We answer; the same again where the answer is said again."""
    lines = tuple(
        line
        if line.keys is None or line.keys.outbound
        else replace(line, keys=replace(line.keys, outbound=key_text(new_key(KEY_BYTES[line.keys.suite]))))
        for line in sdes.pending or sdes.lines
    )
    said = [
        Described(line.protocol, () if line.keys is None else (Crypto(line.tag, line.keys.suite, line.keys.outbound),))
        for line in lines
    ]
    return _said(replace(sdes, lines=lines, pending=()), sdp, said)


def say_offer(sdes: Sdes, sdp: str, new_key: NewKey) -> tuple[Sdes, str]:
    """We offer: what is in force again, or where nothing is yet, all that the policy allows."""
    said = []
    required = sdes.policy is Policy.REQUIRED
    for i, stream in enumerate(streams(sdp)):
        line = sdes.lines[i] if i < len(sdes.lines) else None
        protocol = ""
        cryptos: tuple[Crypto, ...] = ()
        if line is not None and line.keys is not None:
            protocol, cryptos = line.protocol, (Crypto(1, line.keys.suite, line.keys.outbound),)
        elif sdes.offers and stream.protocol.upper().startswith("RTP/") and (line is None or required):
            # A peer that took no keys once is not offered any again in this call, unless it must have them.
            protocol = secure_protocol(stream.protocol) if required or sdes.insists else stream.protocol
            cryptos = _all_suites(new_key)
        said.append(Described(protocol, cryptos))
    offered = tuple(stream.cryptos for stream in said)
    return _said(replace(sdes, ours=True, offered=offered, pending=()), sdp, said)


def _said(sdes: Sdes, sdp: str, said: list[Described]) -> tuple[Sdes, str]:
    """The version of a description grows with everything that changes (RFC 3264 section 8), and who wrote `sdp` knows
    of no keys.
    """
    mark = crc32(encode("".join(f"{x.protocol} {' '.join(map(str, x.cryptos))};" for x in said)))
    if mark != sdes.mark:
        sdes = replace(sdes, mark=mark, later=sdes.later + (sdes.mark != 0))
    return sdes, enclosed(sdp, said, sdes.later)


def heard_answer(sdes: Sdes, sdp: str) -> tuple[Sdes, str]:
    """The peer answers. Raises as `heard_offer`."""
    text, described = disclosed(sdp)
    lines: list[Line] = []
    refused: list[bool] = []
    for i, stream in enumerate(described):
        ours = {c.suite: c for c in (sdes.offered[i] if i < len(sdes.offered) else ())}
        crypto = next((c for c in stream.cryptos if c.suite in ours), None)
        keys = None if crypto is None else Keys(crypto.suite, crypto.key, ours[crypto.suite].key)
        lines.append(Line(stream.protocol, keys))
        refused.append(stream.is_rtp and keys is None and (stream.is_secure or sdes.policy is Policy.REQUIRED))
    return replace(sdes, lines=tuple(lines)), _allowed(text, refused)


def _choose(stream: Described, before: Keys | None) -> Crypto | None:
    """What is in force if the peer still offers it, else the first that it names: its preference (RFC 4568 5.1.2)."""
    if before is not None:
        for crypto in stream.cryptos:
            if crypto.suite == before.suite:
                return crypto
    return stream.cryptos[0] if stream.cryptos else None


def _allowed(text: str, refused: list[bool]) -> str:
    wrong = [stream.active and is_wrong for stream, is_wrong in zip(streams(text), refused, strict=True)]
    if not any(wrong):
        return text
    text = without_streams(text, wrong)
    if not any(stream.active for stream in streams(text)):
        raise NotSecure("sdp: no stream with SRTP keys that are allowed here", 488)
    return text


def _all_suites(new_key: NewKey) -> tuple[Crypto, ...]:
    return tuple(Crypto(tag, suite, key_text(new_key(KEY_BYTES[suite]))) for tag, suite in enumerate(SUITES, 1))
