"""Answers to a carrier's challenges (RFC 3261 section 22, RFC 8760)."""

from collections.abc import Sequence

from warden.core.errors import MalformedMessage
from warden.sip import digest
from warden.sip.message import Request, Response


def challenges_of(response: Response) -> list[str]:
    """The challenges of a 401 or 407."""
    return response.get_all("WWW-Authenticate" if response.status == 401 else "Proxy-Authenticate")


def says_stale(response: Response) -> bool:
    """True where only the nonce of our proof was too old (RFC 7616 section 3.3)."""
    return any("stale=true" in field.lower().replace(" ", "") for field in challenges_of(response))


def proof(
    challenges: Sequence[str],
    status: int,
    request: Request,
    *,
    username: str,
    password: str,
    cnonce: str,
    count: int = 1,
) -> tuple[str, str] | None:
    """The field that answers a challenge of this status (401 or 407), `count` how often its nonce has been answered
    with this one; None where it cannot be answered.
    """
    try:
        value = digest.authorize(
            challenges,
            username=username,
            password=password,
            method=request.method,
            uri=request.target,
            cnonce=cnonce,
            nc=count,
        )
    except MalformedMessage:
        return None
    return ("Authorization" if status == 401 else "Proxy-Authorization", value)
