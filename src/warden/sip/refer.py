"""REFER and Replaces as values (RFC 3515, RFC 3891, RFC 4488), and the NOTIFY that tells how a reference goes on."""

from typing import Final

from msgspec import Struct

from warden.core.errors import MalformedMessage
from warden.sip.check import SCHEMES
from warden.sip.message import REASONS, Fields, Request
from warden.sip.uri import NameAddr, Uri, parse_name_addr, unescape

SIPFRAG: Final = "message/sipfrag;version=2.0"
SUBSCRIPTION_S: Final = 600
"""How long a referrer hears how its REFER goes on, if nothing is final before: longer than any way of a call rings."""


class Replaces(Struct, frozen=True, gc=False):
    """A dialog as its peer names it: `to_tag` is ours, `from_tag` the other's. With `early_only` it is not meant once
    it is answered.
    """

    call_id: str
    to_tag: str
    from_tag: str
    early_only: bool = False

    def __str__(self) -> str:
        early_only = ";early-only" if self.early_only else ""
        return f"{self.call_id};to-tag={self.to_tag};from-tag={self.from_tag}{early_only}"


class Referral(Struct, frozen=True, gc=False):
    """What a REFER asks for: that `to` be called, in place of the peer of dialog `replaces`. `is_followed` is False
    where the referrer wants to hear nothing more of it (RFC 4488).
    """

    to: Uri
    replaces: Replaces | None = None
    is_followed: bool = True


class NotReferred(MalformedMessage):
    """The REFER asks for something that is not done: the status says what, the text why."""


def read_referral(request: Request) -> Referral:
    """The meaning of a REFER. Raises `NotReferred` (400, 403, 416)."""
    values = request.values("Refer-To")
    if len(values) != 1:
        raise NotReferred("Refer-To: one is wanted" if values else "Refer-To: missing", 400)
    try:
        uri = _as_address(values[0]).uri
    except MalformedMessage as error:
        raise NotReferred(f"Refer-To: {error}", 400) from None
    if uri.scheme not in SCHEMES:
        raise NotReferred(f"Refer-To: scheme {uri.scheme[:20]}", 416)
    if (uri.param("method") or "INVITE").upper() != "INVITE":
        raise NotReferred("Refer-To: only INVITE is done", 403)
    replaces = None
    for header in uri.headers.split("&") if uri.headers else ():
        name, _, value = header.partition("=")
        if unescape(name).lower() == "replaces":
            if replaces is not None:
                raise NotReferred("Refer-To: two Replaces", 400)
            replaces = read_replaces(unescape(value))
    is_followed = (request.get("Refer-Sub") or "true").strip().lower() != "false"
    return Referral(uri, replaces, is_followed)


def _as_address(value: str) -> NameAddr:
    """Phones that write the URI without angle brackets mean its headers and parameters to be its own all the same."""
    return parse_name_addr(value if "<" in value else f"<{value.strip()}>")


def read_replaces(value: str) -> Replaces:
    """The meaning of a Replaces value. Raises `NotReferred` (400)."""
    call_id, *params = (part.strip() for part in value.split(";"))
    found: dict[str, str] = {}
    for param in params:
        name, _, text = param.partition("=")
        if name.strip().lower() in found:
            raise NotReferred(f"Replaces: {name[:20]} twice", 400)
        found[name.strip().lower()] = text.strip()
    if not call_id or not found.get("to-tag") or not found.get("from-tag"):
        raise NotReferred("Replaces: wants a Call-ID, a to-tag and a from-tag", 400)
    return Replaces(call_id, found["to-tag"], found["from-tag"], "early-only" in found)


def progress(event_id: int, status: int, *, final: bool) -> tuple[Fields, bytes]:
    """The fields and the body of a NOTIFY that says how the REFER with CSeq `event_id` is getting on."""
    state = "terminated;reason=noresource" if final else f"active;expires={SUBSCRIPTION_S}"
    body = f"SIP/2.0 {status} {REASONS.get(status, 'Unknown')}\r\n"
    return (("Event", f"refer;id={event_id}"), ("Subscription-State", state)), body.encode()
