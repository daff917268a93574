"""Offer and answer (RFC 3264) for the calls that Warden takes or makes itself: applications and test phones.

One audio stream is used, with one codec and RFC 4733 digits beside it; every other stream is refused.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from warden.core.errors import MalformedMessage
from warden.sdp.relay import refused
from warden.sdp.session import DIRECTIONS, Codec, Direction, Lines, Media, Session, parse

OFFERED: Final[dict[str, tuple[int, str]]] = {
    "PCMU": (0, "PCMU/8000"),
    "PCMA": (8, "PCMA/8000"),
    "G722": (9, "G722/8000"),
    "OPUS": (111, "opus/48000/2"),
}
"""What `offer` can write: payload type and rtpmap by codec name."""
TELEPHONE_EVENT: Final = 101
"""The payload type of digits in our offers: the one that every phone uses."""
_PLAIN_RTP: Final = frozenset(("RTP/AVP", "RTP/AVPF"))


class NoCommonCodec(MalformedMessage):
    """The two sides have no codec, or no stream, in common: the call cannot be, and asking again does not help."""

    def __init__(self, what: str) -> None:
        super().__init__(what, 488)


class Answer(Struct, frozen=True, gc=False):
    """An answer and what it settles. `stream` is the place of the m= line in use, `codec` is in upper case,
    `payload_type` and `telephone_event` (None: no digits this way) are what to send to the other side, `direction`
    is ours.
    """

    sdp: str
    codec: str
    payload_type: int
    telephone_event: int | None
    stream: int = 0
    direction: Direction = Direction.SENDRECV


def answer(
    offer: str,
    *,
    host: str,
    port: int,
    session_id: int,
    version: int,
    codecs: Sequence[str] = ("PCMU", "PCMA"),
    any_codec: bool = False,
) -> Answer:
    """Answer `offer` from `host` and `port` with the first of its codecs that is in `codecs`, or with `any_codec` the
    first one that it names, whatever it is. Raises `MalformedMessage`, and `NoCommonCodec` (488) when nothing fits.
    """
    session = parse(offer)
    wanted = {name.upper() for name in codecs}
    chosen: tuple[int, Media, Codec] | None = None
    for i, media in enumerate(session.media):
        if _usable(media) and (codec := _choose(media, None if any_codec else wanted)) is not None:
            chosen = i, media, codec
            break
    if chosen is None:
        raise NoCommonCodec("sdp: no audio stream with a codec of ours in the offer")
    index, media, codec = chosen
    if session.connection_of(media) is None:
        raise MalformedMessage("sdp: no c= line for the audio stream", 400)
    event = media.find_telephone_event(codec.clock)
    direction = session.direction_of(media).mirrored
    out = _head(host, session_id, version, [value for type_, value in session.lines if type_ == "t"])
    for i, other in enumerate(session.media):
        if i != index:
            out.append(refused(other))
            continue
        formats = str(codec.payload_type) if event is None else f"{codec.payload_type} {event}"
        out.append(f"m=audio {port} {media.protocol} {formats}")
        out += _explain(media, codec)
        if event is not None:
            out += _explain_events(media, event)
        out += [f"a=ptime:{ptime}" for ptime in media.attributes("ptime")[:1]]
        out.append(f"a={direction}")
    return Answer("\r\n".join(out) + "\r\n", codec.name, codec.payload_type, event, index, direction)


def offer(
    *,
    host: str,
    port: int,
    session_id: int,
    version: int,
    codecs: Sequence[str] = ("PCMU", "PCMA"),
) -> str:
    """An offer of one audio stream with these codecs (names of `OFFERED`) and digits, for calls that begin here or
    come without an offer.
    """
    formats = [OFFERED[name.upper()] for name in codecs]
    out = _head(host, session_id, version, ["0 0"])
    out.append(f"m=audio {port} RTP/AVP " + " ".join(str(n) for n, _ in formats) + f" {TELEPHONE_EVENT}")
    out += [f"a=rtpmap:{n} {text}" for n, text in formats]
    out += [f"a=rtpmap:{TELEPHONE_EVENT} telephone-event/8000", f"a=fmtp:{TELEPHONE_EVENT} 0-15"]
    out += ["a=ptime:20", "a=sendrecv"]
    return "\r\n".join(out) + "\r\n"


def read_answer(offer: str, answer: str) -> Answer:
    """What the other side's `answer` to our `offer` settles: the first codec of its first audio stream that we
    offered. Raises `MalformedMessage`, and `NoCommonCodec` when it refused the audio or took no codec of ours.
    """
    ours, theirs = _checked(offer, answer)
    for i, (mine, media) in enumerate(zip(ours.media, theirs.media, strict=True)):
        if not mine.port or not _usable(media):
            continue
        offered = {codec.key for codec in mine.codecs}
        for codec in media.codecs:
            if codec.carries_media and codec.key in offered:
                event = media.find_telephone_event(codec.clock) if mine.find_telephone_event(codec.clock) else None
                direction = theirs.direction_of(media).mirrored
                return Answer(answer, codec.name, codec.payload_type, event, i, direction)
    raise NoCommonCodec("sdp: the answer takes no codec of ours")


def check_answer(offer: str, answer: str) -> None:
    """Raise `MalformedMessage` (488) where `answer` does not have the m= lines of `offer`, in number, order and kind
    (RFC 3264 section 6): what came is no answer to it.
    """
    _checked(offer, answer)


def hold(sdp: str, direction: Direction) -> str:
    """A description of ours as the next offer: `direction` for every active stream, the version one higher."""
    session = parse(sdp)
    version = session.origin.version
    if not (version.isascii() and version.isdigit()) or len(version) > 20:
        raise MalformedMessage(f"sdp: o= version {version[:40]!r} is no number", 400)
    media = tuple(
        replace(m, lines=(*_undirected(m.lines), ("a", direction.value))) if m.port else m for m in session.media
    )
    origin = replace(session.origin, version=str(int(version) + 1))
    return str(replace(session, origin=origin, lines=_undirected(session.lines), media=media))


def _checked(offer: str, answer: str) -> tuple[Session, Session]:
    ours, theirs = parse(offer), parse(answer)
    if [m.kind for m in ours.media] != [m.kind for m in theirs.media]:
        raise MalformedMessage("sdp: the answer's m= lines are not those of the offer", 488)
    return ours, theirs


def _undirected(lines: Lines) -> Lines:
    return tuple(line for line in lines if line[0] != "a" or line[1].rstrip(" ") not in DIRECTIONS)


def _usable(media: Media) -> bool:
    return media.kind == "audio" and media.port != 0 and media.protocol.upper() in _PLAIN_RTP


def _choose(media: Media, wanted: set[str] | None) -> Codec | None:
    for codec in media.codecs:
        if codec.carries_media and (wanted is None or codec.name in wanted):
            return codec
    return None


def _head(host: str, session_id: int, version: int, times: list[str]) -> list[str]:
    family = "IP6" if ":" in host else "IP4"
    head = ["v=0", f"o=warden {session_id} {version} IN {family} {host}", "s=-", f"c=IN {family} {host}"]
    return head + [f"t={time}" for time in times]


def _explain(media: Media, codec: Codec) -> list[str]:
    """The rtpmap and fmtp lines of `codec`, the rtpmap as `media` spells it."""
    start = f"{codec.payload_type} "
    maps = [value for value in media.attributes("rtpmap") if value.startswith(start)]
    channels = f"/{codec.channels}" if codec.channels > 1 else ""
    out = [f"a=rtpmap:{maps[-1] if maps else f'{start}{codec.name}/{codec.clock}{channels}'}"]
    if codec.fmtp:
        out.append(f"a=fmtp:{start}{codec.fmtp}")
    return out


def _explain_events(media: Media, payload_type: int) -> list[str]:
    """Digits 0 to 9, *, # and A to D: all that Warden reads (RFC 4733 section 3.2)."""
    clock = next(c.clock for c in media.codecs if c.payload_type == payload_type)
    return [f"a=rtpmap:{payload_type} telephone-event/{clock}", f"a=fmtp:{payload_type} 0-15"]
