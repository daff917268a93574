"""Session descriptions in messages: what may be let in, as text."""

from typing import Final

from warden.core.errors import MalformedMessage
from warden.sdp.relay import streams
from warden.sdp.session import decode, parse
from warden.sip.message import Request, Response

SDP_TYPE: Final = "application/sdp"


def sdp_of(message: Request | Response) -> str:
    """The message's SDP as text that can be stored, "" where it has none. What is given out here can be relayed: no
    later step finds fault with it. Raises `MalformedMessage` (400, 413, 415, 488).
    """
    if not message.body:
        return ""
    if message.content_type != SDP_TYPE:
        raise MalformedMessage(f"Content-Type: {message.content_type[:40]!r} is no session description", 415)
    text = decode(message.body)
    if not text.isascii():
        text = message.body.decode("utf-8", "replace")
    described = streams(text)
    first = text.find("\nm=")
    if first >= 0 and "\nc=" not in text[:first] and any(s.active for s in described):
        session = parse(text)
        if any(media.port and session.connection_of(media) is None for media in session.media):
            raise MalformedMessage("sdp: a stream without a c= line", 400)
    return text


def no_way(host: str) -> tuple[str, str]:
    """What a 488 says to a peer whose audio we cannot reach (RFC 3261 section 20.43); `host` is our address."""
    return "Warning", f'301 {host} "Incompatible network address formats"'


def audio_host(sdp: str) -> str:
    """Where a description wants its first stream, "" where it does not say."""
    if sdp:
        for stream in streams(sdp):
            if stream.rtp is not None:
                return stream.rtp.host
    return ""


def offer_of(message: Request) -> str:
    """As `sdp_of`, for a body that may be of another type where nobody has to understand it
    (Content-Disposition `handling=optional`): such a one counts as none.
    """
    if message.body and message.content_type != SDP_TYPE:
        disposition = (message.get("Content-Disposition") or "").lower().replace(" ", "")
        if ";handling=optional" in disposition:
            return ""
    return sdp_of(message)
