"""What a careful server looks at before it works on a message (RFC 3261 sections 8.1.3.3, 8.2).

Decides only whether a message may be processed at all, and what its refusal says; who sent it, what it asks for and
whether it fits a dialog is the matter of others. The verdicts are those of RFC 4475 for all its messages, whose names
stand in the comments; where that RFC leaves a choice, what works in the field was chosen, and the comment says so.
"""

import re
from collections.abc import Collection
from typing import Final

from warden.core.errors import MalformedMessage
from warden.sip.message import MAGIC_COOKIE, CSeq, Fields, Message, Request, Response
from warden.sip.uri import NameAddr, parse_name_addr, parse_uri

METHODS: Final = frozenset(
    "ACK BYE CANCEL INFO INVITE MESSAGE NOTIFY OPTIONS PRACK PUBLISH REFER REGISTER SUBSCRIBE UPDATE".split()
)
"""The methods that IANA knows: one of these that is not served is 405, any other is 501 (section 8.2.1)."""

SCHEMES: Final = frozenset({"sip", "sips"})
"""Schemes of a Request-URI that can be served; others are 416."""

SINGLE: Final = frozenset(
    "Call-ID Content-Disposition Content-Length Content-Type CSeq Event Expires From Max-Forwards Min-SE RAck Refer-To "
    "Replaces RSeq Session-Expires SIP-If-Match Subscription-State To".split()
)
"""Headers that may stand once and whose meaning would be doubtful if they stood twice. Two of a Subject or a User-Agent
harm nobody and are let pass."""

SDP_ONLY: Final = frozenset({"application/sdp"})

_OFFERING: Final = frozenset({"INVITE", "UPDATE", "PRACK"})
_TARGETING: Final = frozenset({"INVITE", "UPDATE", "SUBSCRIBE", "NOTIFY", "REFER"})
_CALL_ID: Final = re.compile(r"[^\s\x00-\x1f\x7f]+\Z")


class Refused(MalformedMessage):
    """The request may not be processed: answer with `status` and, beside the usual headers, `fields`."""

    def __init__(self, what: str, status: int, *fields: tuple[str, str]) -> None:
        super().__init__(what, status)
        self.refusal: int = status
        self.fields: Fields = fields


def check_request(
    request: Request,
    *,
    methods: Collection[str],
    extensions: Collection[str],
    content_types: Collection[str] = SDP_ONLY,
) -> None:
    """Raise unless the request may be processed: `MalformedMessage` with status 400, or `Refused` (which is one, too)
    with 405, 406, 415, 416, 420, 501 and the headers that the answer must carry.

    `methods` are those served (ACK and CANCEL included), `extensions` the option tags understood (lower case),
    `content_types` what a session description may be. Bodies of MESSAGE, INFO, NOTIFY and their kind are the matter of
    those who read them.

    Not looked at, on purpose: Date (nothing here uses it: RFC 4475 baddate), Max-Forwards of 0 (an endpoint answers;
    who sends the request on refuses with 483: zeromf) or above 255 (as if absent), Expires and the expiry of a
    Contact (the registrar bounds them: section 10.2.1.1), Authorization (of unknown schemes as if absent: regaut01).
    """
    method = request.method
    if method not in methods:
        allow = ("Allow", ", ".join(sorted(methods)))
        raise Refused(f"request: method {method[:40]!r}", 405 if method in METHODS else 501, allow)
    first = request.first
    if len(first) != len(request.fields):
        _check_single(request.fields)
    cseq, to = _check_frame(request, first)
    _check_via(request)
    if cseq.method != method:
        raise MalformedMessage(f"CSeq: method {cseq.method[:40]!r} in a request {method[:40]!r}", 400)
    if "Max-Forwards" in first:  # RFC 2543 knows none.
        request.number("Max-Forwards")
    uri = parse_uri(request.target)
    if uri.scheme not in SCHEMES:
        raise Refused(f"request-uri: scheme {uri.scheme[:40]!r}", 416)
    if uri.headers:  # Section 19.1.1; escruri. They would become headers of what we send on.
        raise MalformedMessage("request-uri: has headers", 400)
    if "Require" in first and method not in ("ACK", "CANCEL"):  # Section 8.2.2.3.
        _check_required(request, extensions)
    for name in ("Record-Route", "Route"):
        if name in first:
            _check_addresses(request.values(name))
    if method in _TARGETING:
        _check_target(request, to)
    elif method == "REGISTER":
        _check_registration(request, to)
    if request.body:
        _check_body(request, first, content_types)
    if method == "INVITE" and "Accept" in first and not _accepts_sdp(request):
        # sdp01: the answer would have to be something else than SDP.
        raise Refused("Accept: no application/sdp", 406, ("Accept", "application/sdp"))


def check_response(response: Response, *, via_is_ours: bool = False) -> None:
    """Raise `MalformedMessage` unless the response may be looked at; else it is dropped (sections 8.1.3.3, 18.1.2).

    Several Vias mean that somebody else sent the request (bcast); CSeq and the others must be readable (scalarlg).
    `via_is_ours`: the topmost Via was found to be one that we wrote, and is not read again.
    """
    fields = response.fields
    first = response.first
    if len(first) != len(fields):
        _check_single(fields)
    _check_frame(response, first)
    if not via_is_ours:
        _check_via(response)
    if (len(first) != len(fields) or "," in first["Via"]) and len(response.values("Via")) != 1:
        raise MalformedMessage("Via: a response that is for another element")


def _check_frame(message: Message, first: dict[str, str]) -> tuple[CSeq, NameAddr]:
    """Check what every message must have; give CSeq and To."""
    cseq, _, to, call_id = message.cseq, message.from_, message.to, message.call_id
    if "Via" not in first:
        raise MalformedMessage("Via: missing", 400)
    if not _CALL_ID.match(call_id):
        raise MalformedMessage(f"Call-ID: bad {call_id[:60]!r}", 400)
    return cseq, to


def _check_via(message: Message) -> None:
    branch = message.via.branch
    if len(branch) == len(MAGIC_COOKIE) and branch.lower() == MAGIC_COOKIE.lower():
        # badbranch: all requests of such a peer would be one transaction.
        raise MalformedMessage("Via: a branch that is nothing but the cookie", 400)


def _check_single(fields: Fields) -> None:
    seen = set()
    for name, _ in fields:
        if name in SINGLE:
            if name in seen:
                raise MalformedMessage(f"{name}: given twice", 400)
            seen.add(name)


def _check_required(request: Request, extensions: Collection[str]) -> None:
    unknown = [tag for tag in request.values("Require") if tag.lower() not in extensions]
    if unknown:
        raise Refused(f"Require: {', '.join(unknown)[:80]}", 420, ("Unsupported", ", ".join(unknown)))


def _check_target(request: Request, to: NameAddr) -> None:
    """A request that sets a remote target has one Contact with a SIP URI (sections 8.1.1.8, 12.1.1)."""
    contacts = request.values("Contact")
    if not contacts:
        # RFC 2543 lets an INVITE go without (inv2543), and some peers leave it out of a re-INVITE.
        if request.method == "INVITE" and to.tag is None and request.via.branch.startswith(MAGIC_COOKIE):
            raise MalformedMessage("Contact: missing", 400)
        return
    if len(contacts) > 1 or parse_name_addr(contacts[0]).uri.scheme not in SCHEMES:
        raise MalformedMessage("Contact: not one sip uri", 400)


def _check_registration(request: Request, to: NameAddr) -> None:
    """What a registrar refuses at sight (section 10.3; unksm2, regbadct)."""
    if to.uri.scheme not in SCHEMES:
        raise MalformedMessage(f"To: an address of record of scheme {to.uri.scheme[:40]!r}", 400)
    contacts = request.values("Contact")
    if "*" in contacts:
        if len(contacts) > 1 or request.number("Expires") != 0:
            raise MalformedMessage("Contact: * beside other contacts or without an Expires of 0", 400)
        return
    _check_addresses(contacts)


def _check_addresses(values: list[str]) -> None:
    for value in values:
        parse_name_addr(value)


def _check_body(request: Request, first: dict[str, str], content_types: Collection[str]) -> None:
    """415 for a body that must be understood and cannot be (section 8.2.3; invut)."""
    disposition = first.get("Content-Disposition", "").lower().replace(" ", "")
    if ";handling=optional" in disposition:
        return
    encoding = first.get("Content-Encoding", "identity").lower()
    if encoding not in ("identity", ""):
        raise Refused(f"Content-Encoding: {encoding[:40]!r}", 415, ("Accept-Encoding", "identity"))
    if request.method in _OFFERING:
        if "Content-Type" not in first:  # Section 20.15.
            raise MalformedMessage("Content-Type: missing", 400)
        if request.content_type not in content_types:
            accept = ("Accept", ", ".join(sorted(content_types)))
            raise Refused(f"Content-Type: {request.content_type[:80]!r}", 415, accept)


def _accepts_sdp(request: Request) -> bool:
    for value in request.values("Accept"):
        kind, *params = (part.strip().lower() for part in value.split(";"))
        if kind in ("application/sdp", "application/*", "*/*") and not any(_ZERO.match(p) for p in params):
            return True
    return False


_ZERO: Final = re.compile(r"q\s*=\s*0(?:\.0*)?\Z")
