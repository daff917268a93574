"""What a call's legs are told of each other: their session descriptions, rewritten to our address and ports."""

import re
from typing import Final

from msgspec.structs import replace

from warden.call.apps.echo import Echo
from warden.call.model import Call, with_leg
from warden.core.errors import MalformedMessage
from warden.sdp.answer import answer, offer, read_answer
from warden.sdp.relay import refused, rewrite, streams
from warden.sdp.session import Direction, parse

_DIRECTION: Final = re.compile(rf"^a=(?:{'|'.join(Direction)})[ \t]*\r\n", re.MULTILINE)
_MEDIA_LINE: Final = re.compile("^m=", re.MULTILINE)
_APP_CODECS = ("PCMU", "PCMA")


def tell(call: Call, leg_id: str, sdp: str) -> tuple[Call, str]:
    """What `leg_id` is to see of the other side's `sdp`: our address and ports in it, our o= line, its version grown
    where the text differs from what the leg was told before.
    """
    if not sdp:
        return call, ""
    leg = call.leg(leg_id)
    ports = call.ports.a if leg.on_a else call.ports.b
    session_id = leg.sdp_id or call.sdp_id

    def told_as(version: int) -> str:
        return rewrite(sdp, host=leg.host or call.ports.host, ports=ports, session_id=session_id, version=version)

    text = told_as(max(leg.version, 1))
    if leg.told and text != leg.told:
        text = told_as(leg.version + 1)
    return note_told(call, leg_id, text), text


def tell_offer(call: Call, leg_id: str, sdp: str) -> tuple[Call, str]:
    """As `tell`, for an offer: the m= lines that the leg knows of stay, refused where the offer has fewer, since a
    session never has fewer than before (RFC 3264 section 8). The one who offers may never have heard of them: other
    legs of a transferred call had other streams.
    """
    known = call.leg(leg_id).told
    if sdp and known and len(streams(known)) > (count := len(streams(sdp))):
        missing = [refused(media) for media in parse(known).media[count:]]
        sdp = sdp.rstrip("\r\n") + "\r\n" + "\r\n".join(missing) + "\r\n"
    return tell(call, leg_id, sdp)


def answer_of(call: Call, leg_id: str, offered: str, sdp: str) -> str:
    """What the leg answered to `offered`, which it was told by `tell_offer`: with the m= lines of `offered`, "" where
    it is no answer.
    """
    sdp = fitted(call.leg(leg_id).told, sdp)
    count = len(streams(offered))
    if not sdp or len(streams(sdp)) == count:
        return sdp
    starts = [found.start() for found in _MEDIA_LINE.finditer(sdp)]
    return sdp[: starts[count]]


def declined(call: Call, leg_id: str, offered: str) -> str:
    """The answer to an offer of the leg by which nothing flows, "" where it offered nothing. Who offers in a 2xx has an
    answer coming in the ACK, also where a BYE comes behind it (RFC 3261 section 13.2.2.4).
    """
    if not offered:
        return ""
    _, text = tell(call, leg_id, offered)
    head, media, rest = _DIRECTION.sub("", text).partition("\r\nm=")
    return f"{head}\r\na={Direction.INACTIVE}{media}{rest}"


def note_told(call: Call, leg_id: str, text: str) -> Call:
    """The call in which `leg_id` was told this; the o= version it will be told next counts on."""
    leg = call.leg(leg_id)
    if text == leg.told:
        return call
    return with_leg(call, replace(leg, told=text, version=leg.version + 1))


def app_sdp(call: Call, sdp: str) -> str | None:
    """The application's answer to `sdp`, or its offer where there is none; None where no codec fits."""
    caller, port = call.caller, call.ports.a[0]
    host = caller.host or call.ports.host
    any_codec = isinstance(call.app, Echo)

    def told_as(version: int) -> str:
        if not sdp:
            return offer(host=host, port=port, codecs=_APP_CODECS, session_id=call.sdp_id, version=version)
        return answer(
            sdp,
            host=host,
            port=port,
            codecs=_APP_CODECS,
            any_codec=any_codec,
            session_id=call.sdp_id,
            version=version,
        ).sdp

    try:
        text = told_as(max(caller.version, 1))
        return told_as(caller.version + 1) if caller.told and text != caller.told else text
    except MalformedMessage:
        return None


def fitted(offered: str, sdp: str) -> str:
    """`sdp` as an answer to `offered`: with the same m= lines (RFC 3264 section 6). Old phones leave out those that
    they do not know; these are refused in their name. "" where it is no answer at all.
    """
    asked, given = [s.kind for s in streams(offered)], [s.kind for s in streams(sdp)] if sdp else []
    if asked == given:
        return sdp
    if not given or asked[: len(given)] != given:
        return ""
    missing = [refused(media) for media in parse(offered).media[len(given) :]]
    return sdp.rstrip("\r\n") + "\r\n" + "\r\n".join(missing) + "\r\n"


def answer_in_ack(offered: str, sdp: str, *, to_app: bool) -> str:
    """The answer that an ACK brought to `offered`; "" for none, or for one that an application can do nothing with."""
    sdp = fitted(offered, sdp)
    if sdp and to_app:
        try:
            read_answer(offered, sdp)
        except MalformedMessage:
            return ""
    return sdp
