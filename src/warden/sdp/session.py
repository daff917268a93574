"""Session descriptions as values: read leniently, printed strictly, asked for addresses, directions and codecs.

RFC 8866, with what RFC 4566 and RFC 2327 peers leave out or spell otherwise. Nothing here knows SIP, nor which
description is an offer and which an answer.
"""

from collections.abc import Iterator
from enum import StrEnum
from functools import lru_cache
from ipaddress import ip_address
from operator import itemgetter
from typing import Final

from msgspec import Struct

from warden.core.address import Address
from warden.core.errors import MalformedMessage

SDP_CHARS_MAX: Final = 32_768
"""A browser's offer with video and all its candidates stays below 16 KiB."""
LINES_MAX: Final = 1_024
"""As many as 32 KiB hold of the shortest lines that phones write (about 30 characters)."""
MEDIA_MAX: Final = 16
"""Video phones offer up to six media; each one more costs work in every later answer."""
FORMATS_MAX: Final = 128
"""There are no more payload types than these."""


class Direction(StrEnum):
    """Which way media flows, as the describing side sees it (RFC 8866 section 6.7)."""

    SENDRECV = "sendrecv"
    SENDONLY = "sendonly"
    RECVONLY = "recvonly"
    INACTIVE = "inactive"

    @property
    def mirrored(self) -> "Direction":
        """The same as the other side sees it: what an answer says at most (RFC 3264 section 6.1)."""
        return _MIRRORED[self]

    @property
    def muted(self) -> "Direction":
        """What is left of it when the describing side can receive nothing."""
        return _MUTED[self]


_MIRRORED: Final = {
    Direction.SENDRECV: Direction.SENDRECV,
    Direction.SENDONLY: Direction.RECVONLY,
    Direction.RECVONLY: Direction.SENDONLY,
    Direction.INACTIVE: Direction.INACTIVE,
}
_MUTED: Final = {
    Direction.SENDRECV: Direction.SENDONLY,
    Direction.SENDONLY: Direction.SENDONLY,
    Direction.RECVONLY: Direction.INACTIVE,
    Direction.INACTIVE: Direction.INACTIVE,
}
DIRECTIONS: Final[dict[str, Direction]] = {d.value: d for d in Direction}
"""Directions by attribute name."""

Lines = tuple[tuple[str, str], ...]
"""Lines in order: (type letter, value)."""


class Origin(Struct, frozen=True, gc=False):
    """The o= line. The numbers stay text: peers write more digits, and other things, than numbers hold."""

    username: str
    session_id: str
    version: str
    family: str
    host: str

    def __str__(self) -> str:
        return f"{self.username} {self.session_id} {self.version} IN {self.family} {self.host}"


class Connection(Struct, frozen=True, gc=False):
    """A c= line. `family` is IP4 or IP6, `suffix` the multicast part (`/127`) or ""."""

    family: str
    host: str
    suffix: str = ""

    def __str__(self) -> str:
        return f"IN {self.family} {self.host}{self.suffix}"

    @property
    def unicast(self) -> str | None:
        """The host where packets may be sent to it: a literal address of one machine. None for names, which nobody
        resolves here, for groups, and for the unspecified address.
        """
        return None if self.suffix else read_host(self.host)[0]

    @property
    def held(self) -> bool:
        """True for 0.0.0.0 and its IPv6 like: the old way to say "send me nothing" (RFC 3264 section 8.4)."""
        return read_host(self.host)[1]


class Codec(Struct, frozen=True, gc=False):
    """A payload format of an RTP stream. `name` is in upper case, `clock` in Hz, `fmtp` its parameters as written."""

    payload_type: int
    name: str
    clock: int
    channels: int = 1
    fmtp: str = ""

    @property
    def key(self) -> tuple[str, int, int]:
        """What makes two codecs the same whatever their payload types: name, clock, channels."""
        return (self.name, self.clock, self.channels)

    @property
    def carries_media(self) -> bool:
        """False for what only goes along with a codec: digits, comfort noise, redundancy, retransmission."""
        return self.name not in _COMPANIONS


_COMPANIONS: Final = frozenset(("TELEPHONE-EVENT", "CN", "RED", "ULPFEC", "FLEXFEC", "FLEXFEC-03", "RTX"))

STATIC: Final[dict[int, tuple[str, int, int]]] = {
    0: ("PCMU", 8000, 1),
    3: ("GSM", 8000, 1),
    4: ("G723", 8000, 1),
    5: ("DVI4", 8000, 1),
    6: ("DVI4", 16000, 1),
    7: ("LPC", 8000, 1),
    8: ("PCMA", 8000, 1),
    9: ("G722", 8000, 1),
    10: ("L16", 44100, 2),
    11: ("L16", 44100, 1),
    12: ("QCELP", 8000, 1),
    13: ("CN", 8000, 1),
    14: ("MPA", 90000, 1),
    15: ("G728", 8000, 1),
    16: ("DVI4", 11025, 1),
    17: ("DVI4", 22050, 1),
    18: ("G729", 8000, 1),
    25: ("CELB", 90000, 1),
    26: ("JPEG", 90000, 1),
    28: ("NV", 90000, 1),
    31: ("H261", 90000, 1),
    32: ("MPV", 90000, 1),
    33: ("MP2T", 90000, 1),
    34: ("H263", 90000, 1),
}
"""Payload types that need no rtpmap: name, clock in Hz, channels (RFC 3551 section 6)."""


class Media(Struct, frozen=True, gc=False):
    """An m= line and what stands below it. `lines` holds all but the first c= line, in order."""

    kind: str
    port: int
    protocol: str
    formats: tuple[str, ...]
    port_count: int = 1
    connection: Connection | None = None
    lines: Lines = ()

    def attribute(self, name: str) -> str | None:
        """The value of the first attribute `name`, "" where it has none, None where it is absent."""
        return next(_attributes(self.lines, name), None)

    def attributes(self, name: str) -> list[str]:
        """The values of every attribute `name`, in order."""
        return list(_attributes(self.lines, name))

    @property
    def codecs(self) -> tuple[Codec, ...]:
        """The payload formats in the order of preference; static types need no rtpmap. Formats that are no payload
        type or that nothing explains are left out, since nobody can agree on them.
        """
        maps = _by_payload_type(self.attributes("rtpmap"))
        parameters = _by_payload_type(self.attributes("fmtp"))
        codecs = []
        for text in self.formats:
            number = _number(text, 127)
            if number is None:
                continue
            known = _read_rtpmap(maps[text], number) if text in maps else STATIC.get(number)
            if known is not None:
                codecs.append(Codec(number, *known, parameters.get(text, "")))
        return tuple(codecs)

    def find_telephone_event(self, clock: int) -> int | None:
        """The payload type of RFC 4733 digits that go with a codec of `clock` Hz; where none has that clock, the
        first one (phones that speak Opus often offer digits at 8000 Hz only).
        """
        events = [c for c in self.codecs if c.name == "TELEPHONE-EVENT"]
        return next((c.payload_type for c in events if c.clock == clock), events[0].payload_type if events else None)


class Session(Struct, frozen=True, gc=False):
    """A whole description. `lines` holds what stands between s= and the first m= but the first c= line, in order."""

    origin: Origin
    name: str = "-"
    connection: Connection | None = None
    lines: Lines = (("t", "0 0"),)
    media: tuple[Media, ...] = ()

    def __str__(self) -> str:
        """The description with CRLF line ends; what was read in the order of RFC 8866 prints as it was read."""
        out = ["v=0", f"o={self.origin}", f"s={self.name}"]
        out += _print_lines(self.lines, self.connection, before="iuep")
        for media in self.media:
            count = "" if media.port_count == 1 else f"/{media.port_count}"
            out.append(" ".join((f"m={media.kind} {media.port}{count} {media.protocol}", *media.formats)))
            out += _print_lines(media.lines, media.connection, before="i")
        return "\r\n".join(out) + "\r\n"

    def attribute(self, name: str) -> str | None:
        """The value of the first session attribute `name`, "" where it has none, None where it is absent."""
        return next(_attributes(self.lines, name), None)

    def connection_of(self, media: Media) -> Connection | None:
        """The connection line that holds for `media`; None where there is none at all."""
        return media.connection or self.connection

    def direction_of(self, media: Media) -> Direction:
        """The direction of `media`: its own, else the session's, else sendrecv; less receiving where it is held by
        the unspecified address.
        """
        direction = _find_direction(media.lines) or _find_direction(self.lines) or Direction.SENDRECV
        connection = media.connection or self.connection
        return direction.muted if connection is not None and connection.held else direction

    def rtp_of(self, media: Media) -> Address | None:
        """Where `media` wants its RTP; None where it wants none or nothing can be sent there (`Connection.unicast`)."""
        connection = media.connection or self.connection
        host = connection.unicast if connection is not None else None
        return Address(host, media.port) if host is not None and media.port else None

    def rtcp_of(self, media: Media) -> Address | None:
        """Where `media` wants its RTCP: as a=rtcp says (RFC 3605), else on the port behind RTP's.

        a=rtcp-mux alone changes nothing, since it holds only where both sides agree and Warden's relay never does;
        a=rtcp-mux-only (RFC 8858) leaves no choice and gives RTP's own address.
        """
        rtp = self.rtp_of(media)
        if rtp is None:
            return None
        host, port = rtp.host, media.port + 1
        for type_, value in media.lines:
            if type_ == "a" and value.startswith("rtcp"):
                if value == "rtcp-mux-only":
                    return rtp
                if value.startswith("rtcp:"):
                    parts = value[5:].split()
                    port = (_number(parts[0], 65535) or 0) if parts else 0
                    if len(parts) == 4:
                        host = read_host(parts[3])[0] or ""
        return Address(host, port) if host and 0 < port <= 65535 else None


def parse(sdp: str | bytes) -> Session:
    """Read a description: any line ends, the last one may be missing, as may s= and t=; lines in any order but that
    v= is first and m= opens a section. Unknown lines are kept.

    Raises `MalformedMessage`: 400 for what is no SDP, 413 and 488 for more of it than Warden takes.
    """
    lines = split_lines(sdp if isinstance(sdp, str) else decode(sdp))
    origin: Origin | None = None
    name: str | None = None
    session_connection: Connection | None = None
    session_lines: list[tuple[str, str]] = []
    media: list[Media] = []
    count = len(lines)
    at = 1
    while at < count:
        line = lines[at]
        type_ = line[0]
        if type_ == "m":
            break
        value = line[2:]
        if type_ == "o" and origin is None:
            origin = parse_origin(value)
        elif type_ == "s" and name is None:
            name = value
        elif type_ == "c" and session_connection is None:
            session_connection = parse_connection(value)
        elif type_ in "vos":
            raise MalformedMessage(f"sdp: more than one {type_}= line", 400)
        else:
            session_lines.append((type_, value))
        at += 1
    if origin is None:
        raise MalformedMessage("sdp: no o= line", 400)
    while at < count:
        kind, port, port_count, protocol, formats = parse_media_line(lines[at])
        connection: Connection | None = None
        media_lines: list[tuple[str, str]] = []
        at += 1
        while at < count:
            line = lines[at]
            type_ = line[0]
            if type_ == "m":
                break
            if type_ == "c" and connection is None:
                connection = parse_connection(line[2:])
            else:
                media_lines.append((type_, line[2:]))
            at += 1
        if len(media) == MEDIA_MAX:
            raise MalformedMessage(f"sdp: more than {MEDIA_MAX} media", 488)
        media.append(Media(kind, port, protocol, tuple(formats.split()), port_count, connection, tuple(media_lines)))
    if not any(type_ == "t" for type_, _ in session_lines):
        place = next((i for i, (type_, _) in enumerate(session_lines) if type_ not in "iuepcb"), len(session_lines))
        session_lines.insert(place, ("t", "0 0"))
    return Session(origin, "-" if name is None else name, session_connection, tuple(session_lines), tuple(media))


def decode(body: bytes) -> str:
    """A body as text: UTF-8, other bytes kept as surrogates, so that `encode` gives the same bytes back."""
    if len(body) > 4 * SDP_CHARS_MAX:
        raise MalformedMessage(f"sdp: {len(body)} bytes", 413)
    return body.decode("utf-8", "surrogateescape")


def encode(sdp: str) -> bytes:
    """The body for a text: the reverse of `decode`."""
    return sdp.encode("utf-8", "surrogateescape")


_SECOND: Final = itemgetter(1)
_EQUALS: Final = {"="}


def split_lines(sdp: str) -> list[str]:
    """The lines, each `<letter>=<value>`, the first one v=0, none empty. Raises `MalformedMessage` (400, 413)."""
    if len(sdp) > SDP_CHARS_MAX:
        raise MalformedMessage(f"sdp: longer than {SDP_CHARS_MAX} characters", 413)
    if "\r" in sdp:
        sdp = sdp.replace("\r\n", "\n")
        if "\r" in sdp:
            raise MalformedMessage("sdp: carriage return inside a line", 400)
    if "\0" in sdp:
        raise MalformedMessage("sdp: zero byte", 400)
    lines = list(filter(None, sdp.split("\n")))
    if len(lines) > LINES_MAX:
        raise MalformedMessage(f"sdp: more than {LINES_MAX} lines", 413)
    try:
        are_lines = set(map(_SECOND, lines)) == _EQUALS
    except IndexError:
        are_lines = False
    if not are_lines:
        bad = next((line for line in lines if line[1:2] != "="), "")
        raise MalformedMessage(f"sdp: bad line {bad[:60]!r}", 400)
    if lines[0].rstrip(" ") != "v=0":
        raise MalformedMessage("sdp: does not begin with v=0", 400)
    return lines


def parse_origin(value: str) -> Origin:
    """Read the value of an o= line. A user name with spaces, which some phones write, is taken as it is."""
    parts = value.rsplit(" ", 5)
    if len(parts) != 6 or parts[3].upper() != "IN" or not all(parts):
        raise MalformedMessage(f"sdp: bad o= line {value[:80]!r}", 400)
    return Origin(parts[0], parts[1], parts[2], parts[4], parts[5])


def parse_connection(value: str) -> Connection:
    """Read the value of a c= line. Raises `MalformedMessage` (400; 488 for networks other than the Internet)."""
    parts = value.split()
    if len(parts) != 3:
        raise MalformedMessage(f"sdp: bad c= line {value[:80]!r}", 400)
    if parts[0].upper() != "IN" or parts[1].upper() not in ("IP4", "IP6"):
        raise MalformedMessage(f"sdp: no Internet address in c= line {value[:80]!r}", 488)
    host, slash, rest = parts[2].partition("/")
    if not host:
        raise MalformedMessage(f"sdp: bad c= line {value[:80]!r}", 400)
    return Connection(parts[1].upper(), host, slash + rest)


def parse_media_line(line: str) -> tuple[str, int, int, str, str]:
    """Read an m= line: kind, port, number of ports, protocol, formats separated by spaces (none only for port 0)."""
    parts = line[2:].split(None, 3)
    if len(parts) == 4:
        kind, ports, protocol, formats = parts
    elif len(parts) == 3:
        kind, ports, protocol, formats = *parts, ""
    else:
        raise MalformedMessage(f"sdp: bad m= line {line[:80]!r}", 400)
    digits, slash, more = ports.partition("/")
    port = _number(digits, 65535)
    port_count = _number(more, 65535) if slash else 1
    if port is None or not port_count or (port and not formats):
        raise MalformedMessage(f"sdp: bad m= line {line[:80]!r}", 400)
    if formats.count(" ") >= FORMATS_MAX:
        raise MalformedMessage(f"sdp: more than {FORMATS_MAX} formats", 488)
    return kind, port, port_count, protocol, formats


@lru_cache(maxsize=4096)
def read_host(host: str) -> tuple[str | None, bool]:
    """(the host where one machine can be reached at it, else None; whether it is the unspecified address)."""
    try:
        address = ip_address(host)
    except ValueError:
        return None, False
    if address.is_unspecified:
        return None, True
    return (None if address.is_multicast or host == "255.255.255.255" or "%" in host else host), False


def _number(text: str, highest: int) -> int | None:
    if not (text.isascii() and text.isdigit()) or len(text) > 5:
        return None
    number = int(text)
    return number if number <= highest else None


def _attributes(lines: Lines, name: str) -> Iterator[str]:
    start = name + ":"
    for type_, value in lines:
        if type_ == "a":
            if value.startswith(start):
                yield value[len(start) :]
            elif value == name:
                yield ""


def _find_direction(lines: Lines) -> Direction | None:
    for type_, value in lines:
        if type_ == "a" and (direction := DIRECTIONS.get(value.rstrip(" "))) is not None:
            return direction
    return None


def _by_payload_type(values: list[str]) -> dict[str, str]:
    pairs = (value.strip().partition(" ") for value in values)
    return {payload_type: rest.strip() for payload_type, _, rest in pairs}


def _read_rtpmap(text: str, payload_type: int) -> tuple[str, int, int] | None:
    """What stands behind `rtpmap:NN `: PCMU/8000, opus/48000/2; a clock left out is the static type's, or 8000."""
    name, _, rest = text.partition("/")
    digits, _, channels = rest.partition("/")
    name = name.strip().upper()
    static = STATIC.get(payload_type, ("", 8000, 1))
    clock: int | None = static[1] if static[0] == name else 8000
    if digits.strip():
        digits = digits.strip()
        clock = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 7 else None
    if not name or not clock:
        return None
    return name, clock, _number(channels.strip(), 255) or 1


def _print_lines(lines: Lines, connection: Connection | None, before: str) -> list[str]:
    """The lines with the c= line at its place: behind the lines of the types in `before`."""
    out = [f"{type_}={value}" for type_, value in lines]
    if connection is not None:
        place = next((i for i, (type_, _) in enumerate(lines) if type_ not in before), len(lines))
        out.insert(place, f"c={connection}")
    return out
