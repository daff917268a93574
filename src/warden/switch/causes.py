"""Why something ends, in SIP: Reason header fields, and which statuses one side is told of the other's."""

from typing import Final

from warden.call.model import Cause
from warden.sip.message import Request, Response
from warden.switch.text import printable

TEXT_CHARS_MAX: Final = 60
"""How much of a peer's reason phrase is kept: it ends up in CDRs and on displays."""

_OUR_HOP: Final = frozenset((401, 407, 420, 421, 430, 482, 483, 503))
"""Statuses that concern only the hop between Warden and who sent them: a challenge, a refusal of our extensions, a
lost connection, a loop, and a 503, which would say that Warden itself is overloaded (RFC 3261 section 16.7 step 6)."""


def cause(status: int, text: str) -> Cause:
    """A cause with as much of a foreign text as is kept."""
    return Cause(status, printable(text)[:TEXT_CHARS_MAX])


def reason(cause: Cause) -> tuple[str, str]:
    """A Reason header field (RFC 3326)."""
    text = cause.text.replace("\\", "").replace('"', "")
    return ("Reason", f'SIP;cause={cause.status};text="{text}"' if text else f"SIP;cause={cause.status}")


def cause_of(response: Response, *, from_carrier: bool = False) -> Cause:
    """A failed INVITE's response as the caller is to hear it. A redirection is not followed. A carrier's 503 is trouble
    on the other side (RFC 3261 section 16.7 step 6 makes a 500 of it), a phone's that nobody is there.
    """
    status = response.status
    if status == 503 and from_carrier:
        return cause(500, f"503 {response.reason}")
    if status < 400 or status in _OUR_HOP:
        return cause(480, f"{status} {response.reason}")
    return cause(status, response.reason)


def update_cause_of(response: Response) -> Cause:
    """A refused re-INVITE's or UPDATE's response as the asking side is to hear it."""
    if response.status == 422:
        # It wants a longer session interval of us, and gets it when the asking side tries again.
        return Cause(491, "Request Pending")
    status = 488 if response.status < 400 or response.status in _OUR_HOP else response.status
    return cause(status, response.reason)


def said_cause(request: Request) -> Cause | None:
    """The first SIP cause of a request's Reason header (RFC 3326), None where there is none to understand."""
    for value in request.get_all("Reason"):
        protocol, _, rest = value.partition(";")
        if protocol.strip().upper() != "SIP":
            continue
        for param in rest.split(";"):
            name, _, digits = (part.strip() for part in param.partition("="))
            if name.lower() == "cause" and len(digits) == 3 and digits.isascii() and digits.isdigit():
                return Cause(int(digits))
    return None
