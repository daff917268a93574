"""What one leg described, as the other leg is to see it: our address and ports in place of the peer's.

Codecs and all else pass through as they were written. Nothing here knows SIP or remembers anything.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from msgspec import Struct

from warden.core.address import Address
from warden.core.errors import MalformedMessage
from warden.sdp.session import (
    DIRECTIONS,
    MEDIA_MAX,
    Direction,
    Media,
    Session,
    parse,
    parse_connection,
    parse_media_line,
    parse_origin,
    split_lines,
)

STREAMS_MAX: Final = 4
"""Media relayed per call: audio, video, a second video and text or fax; each costs four ports."""

RELAYED: Final = frozenset(("RTP/AVP", "RTP/AVPF", "UDPTL"))
"""Transports that a relay of datagrams can carry unseen. TCP it cannot carry, DTLS needs what is dropped here, and SRTP
is each peer's own matter with us (`sdes`).
"""

_DROPPED: Final = frozenset(
    (
        # The relay's RTCP port is always the one behind RTP's.
        "rtcp",
        "rtcp-mux",
        "rtcp-mux-only",
        # Addresses by which the peers would go around the relay.
        "candidate",
        "remote-candidates",
        "end-of-candidates",
        "ice-lite",
        "ice-mismatch",
        "ice-options",
        "ice-pacing",
        "ice-pwd",
        "ice-ufrag",
        "ice2",
        "altc",
        # Keys are between us and the peer that wrote them.
        "crypto",
        # Every stream has ports of its own, so nothing is bundled, and nothing else refers to `mid`.
        "group",
        "mid",
        "bundle-only",
    )
)


# What begins like one of them: whether it is one is seen line by line.
_OF_THE_DROPPED: Final = re.compile("\na=(?:" + "|".join(_DROPPED) + ")")


class StreamInfo(Struct, frozen=True, gc=False):
    """One m= line for those who move packets.

    `active`: Warden relays it (its port is not 0, its transport is known, it is one of the first `STREAMS_MAX`).
    `rtp`, `rtcp`: where the describing side wants its packets; None where it wants none, or where the place is known
    only once it has sent something. `direction`: as the describing side sees it, the hold of 0.0.0.0 included.
    """

    kind: str
    active: bool
    rtp: Address | None
    rtcp: Address | None
    direction: Direction
    protocol: str


@lru_cache(maxsize=512)
def streams(sdp: str) -> tuple[StreamInfo, ...]:
    """The streams of a description, one per m= line, in order. Raises `MalformedMessage` as `parse`."""
    session = parse(sdp)
    return tuple(_stream(session, i, media) for i, media in enumerate(session.media))


def _stream(session: Session, index: int, media: Media) -> StreamInfo:
    active = media.port != 0 and index < STREAMS_MAX and media.protocol.upper() in RELAYED
    rtp = session.rtp_of(media) if active else None
    rtcp = session.rtcp_of(media) if active else None
    return StreamInfo(media.kind, active, rtp, rtcp, session.direction_of(media), media.protocol)


def rewrite(sdp: str, *, host: str, ports: Sequence[int], session_id: int, version: int) -> str:
    """The description for the other leg.

    `host` is our address there (IPv6 without brackets), `ports[i]` our RTP port for the m= line i; RTCP is on the port
    behind it. A stream that is not active (`StreamInfo`), has no port in `ports` or has 0 there gets port 0.
    The o= line is ours: the caller keeps `session_id` for the leg and adds one to `version` with every change
    (RFC 3264 section 8). A stream held by the address 0.0.0.0 is described by its direction instead.
    Raises `MalformedMessage` (400, 413, 488).
    """
    if "\ns=" not in sdp or "\nt=" not in sdp:
        sdp = str(parse(sdp))
    family = "IP6" if ":" in host else "IP4"
    our_connection = f"c=IN {family} {host}"
    out: list[str] = []
    add = out.append
    index = -1
    start = 0
    has_origin = needs_connection = False
    session_held: bool | None = None
    session_direction: Direction | None = None
    held: bool | None = None
    keeps_all = _OF_THE_DROPPED.search(sdp) is None
    for line in split_lines(sdp):
        type_ = line[0]
        if type_ == "a":
            if keeps_all and index >= 0:
                add(line)
                continue
            name = line[2:].partition(":")[0].rstrip(" ")
            if name in _DROPPED:
                continue
            if index < 0 and session_direction is None:
                session_direction = DIRECTIONS.get(name)
            add(line)
        elif type_ == "m":
            if index < 0:
                session_held = held
            else:
                _end_section(out, start, needs_connection, session_held if held is None else held, session_direction)
            index += 1
            start, held = len(out), None
            kind, port, _, protocol, formats = parse_media_line(line)
            if port:
                port = ports[index] if index < STREAMS_MAX and index < len(ports) else 0
                if protocol not in RELAYED and protocol.upper() not in RELAYED:
                    port = 0
            needs_connection = port != 0
            add(f"m={kind} {port} {protocol} {formats}" if formats else f"m={kind} {port} {protocol}")
        elif type_ == "c":
            if held is None:
                held = parse_connection(line[2:]).held
                add(our_connection)
        elif type_ == "o" and index < 0:
            if has_origin:
                raise MalformedMessage("sdp: more than one o= line", 400)
            has_origin = True
            parse_origin(line[2:])
            add(f"o=warden {session_id} {version} IN {family} {host}")
        else:
            add(line)
    if not has_origin:
        raise MalformedMessage("sdp: no o= line", 400)
    if index >= MEDIA_MAX:
        raise MalformedMessage(f"sdp: more than {MEDIA_MAX} media", 488)
    if index >= 0:
        _end_section(out, start, needs_connection, session_held if held is None else held, session_direction)
    add("")
    return "\r\n".join(out)


def _end_section(
    out: list[str], start: int, needs_connection: bool, held: bool | None, inherited: Direction | None
) -> None:
    """Settle the media section that begins at `out[start]`: `held` is None where no c= line holds for it."""
    if held is None and needs_connection:
        raise MalformedMessage(f"sdp: no c= line for {out[start][:60]!r}", 400)
    if not held:
        return
    said = [d for line in out[start:] if line[0] == "a" and (d := DIRECTIONS.get(line[2:].rstrip(" ")))]
    muted = (said[0] if said else inherited or Direction.SENDRECV).muted
    out[start:] = [line for line in out[start:] if line[0] != "a" or line[2:].rstrip(" ") not in DIRECTIONS]
    out.append(f"a={muted}")


def readdressed(sdp: str, *, host: str, version: int) -> str:
    """A description of ours, as `rewrite` made it, from another address of ours, with the same ports. Raises
    `MalformedMessage` for one that is not ours.
    """
    family = "IP6" if ":" in host else "IP4"
    at = f"IN {family} {host}"
    out = []
    for line in split_lines(sdp):
        if line[0] == "o":
            user, session_id, *_ = line[2:].split(" ")
            out.append(f"o={user} {session_id} {version} {at}")
        else:
            out.append(f"c={at}" if line[0] == "c" else line)
    return "\r\n".join([*out, ""])


def refused(media: Media) -> str:
    """The m= line (without line end) of an answer that refuses `media`."""
    return " ".join((f"m={media.kind} 0 {media.protocol}", *(media.formats or ("0",))))
