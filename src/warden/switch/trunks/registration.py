"""One trunk's registration with its carrier (RFC 3261 section 10.2) as a value: what to ask, and what an answer means.

It is a record of the seat that keeps it: who adopts the seat goes on with the same Call-ID and a higher CSeq, and asks
only when it is time.
"""

import math
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from warden.core.errors import MalformedMessage
from warden.sip.message import Fields, Request, Response
from warden.sip.uri import NameAddr, Uri, escape_user
from warden.switch.trunks.trunk import Trunk, target_uri

MARGIN_S: Final = 60.0
"""A refresh starts so long before the end, or at half of a shorter time: several targets can be asked meanwhile."""
RETRY_S: Final = (2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
"""The pauses after one failure of the network and the next (RFC 5626 section 4.5 backs off likewise)."""
REFUSED_S: Final = 300.0
"""After a refusal, which only people can mend: often enough to see that they have, too seldom for a carrier's ban."""
RETRY_AFTER_MAX_S: Final = 3_600.0
BUSY: Final = (408, 480, 500, 502, 503, 504, 513)
"""Answers that say nothing against us: another target, or another time, may do."""
ANSWER_S: Final = 8.0
"""How long an answer is waited for before another target is asked."""


class Registration(Struct, frozen=True, gc=False, omit_defaults=True):
    """Times are seconds since the epoch, UTC. `until` is the end of what the carrier has granted (0 for nothing),
    `due` when the carrier is to be asked next; while it is being asked, when that has failed.
    """

    call_id: str
    tag: str
    due: float
    expires_s: int
    seq: int = 0
    until: float = 0.0
    failures: int = 0
    error: str = ""


def ask(registration: Registration, trunk: Trunk, contact: NameAddr, *fields: tuple[str, str]) -> Request:
    """The REGISTER. Its CSeq is the registration's; `fields` come behind ours."""
    ours = NameAddr(Uri("sip", trunk.host, user=escape_user(trunk.username)))
    expires = registration.expires_s
    head: Fields = (
        ("Max-Forwards", "70"),
        ("From", str(ours.with_tag(registration.tag))),
        ("To", str(ours)),
        ("Call-ID", registration.call_id),
        ("CSeq", f"{registration.seq} REGISTER"),
        ("Contact", str(contact)),
        ("Expires", str(expires)),
    )
    return Request("REGISTER", f"sip:{target_host(trunk)}", (*head, *fields))


def target_host(trunk: Trunk) -> str:
    """The registrar's domain, as it stands in the request line."""
    if trunk.domain:
        return trunk.domain
    uri = target_uri(trunk.targets[0])
    return str(Uri("sip", uri.host, port=uri.port)).removeprefix("sip:")


def granted(now: float, registration: Registration, response: Response, contact_user: str) -> Registration:
    """The registration after a 2xx."""
    seconds = _granted_s(response, contact_user)
    seconds = registration.expires_s if seconds is None or seconds <= 0 else min(seconds, 86_400)
    due = now + max(seconds / 2, seconds - MARGIN_S)
    return replace(registration, until=now + seconds, due=due, failures=0, error="")


def _granted_s(response: Response, contact_user: str) -> int | None:
    try:
        mine = next((contact for contact in response.contacts if contact.uri.user == contact_user), None)
        text = mine.param("expires") if mine is not None else None
        if text is not None:
            return int(text) if text.isascii() and text.isdigit() and len(text) < 11 else None
        return response.number("Expires")
    except MalformedMessage:
        return None


def failed(now: float, registration: Registration, error: str, *, again_at_once: bool) -> Registration:
    """The registration after nobody answered, or a server that is busy; `again_at_once` where there is another."""
    pause = 0.0 if again_at_once else RETRY_S[min(registration.failures, len(RETRY_S) - 1)]
    failures = registration.failures if again_at_once else registration.failures + 1
    return replace(registration, due=now + pause, failures=failures, error=error)


def refused(now: float, registration: Registration, error: str) -> Registration:
    """The registration after an answer that another try will not change."""
    return replace(registration, due=now + REFUSED_S, until=0.0, error=error)


def retry_after(response: Response) -> float:
    """What a server asks us to wait, in seconds; 0 where it does not say."""
    try:
        wait = response.number("Retry-After")
    except MalformedMessage:
        wait = None
    return min(float(math.ceil(wait or 0)), RETRY_AFTER_MAX_S)
