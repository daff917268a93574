"""Session timers as values (RFC 4028): what two peers agree about refreshing a session, and when it is overdue.

Each side of a B2BUA agrees for itself. A peer that knows no session timers is refreshed all the same: a phone that has
lost its power is found out by it, and one that is alive answers any request in its dialog.
"""

from typing import Final

from msgspec import Struct

from warden.core.errors import MalformedMessage
from warden.sip.check import Refused
from warden.sip.message import Fields, Message, Request, Response

OPTION: Final = "timer"
SUPPORTED: Final = ("Supported", f"{OPTION}, replaces")
LEAST_S: Final = 90
"""What Min-SE means where it is absent (section 5)."""
MOST_S: Final = 86_400
"""No interval is longer: a peer that asks for more does not want to be asked whether it lives."""


class Wish(Struct, frozen=True, gc=False):
    """What we want: the interval that we ask for, and the shortest that we accept, in seconds."""

    expires_s: int = 1800
    min_s: int = LEAST_S


class SessionTimer(Struct, frozen=True, gc=False, omit_defaults=True):
    """The agreement with one peer. Times are seconds since the epoch: `refreshed_at` when the session was agreed or
    refreshed last, `again_at` when to try again after a refresh that has not succeeded (0: none was tried).
    `refreshes` is True where we are the refresher; `is_agreed` False where the peer knows no session timers.
    """

    interval_s: int
    refreshed_at: float
    refreshes: bool = True
    is_agreed: bool = True
    again_at: float = 0.0

    @property
    def ends_at(self) -> float:
        """When the session is over for want of a refresh (section 10)."""
        return self.refreshed_at + self.interval_s - min(32.0, self.interval_s / 3)

    @property
    def due_at(self) -> float:
        """When we have something to do: to refresh, half way (section 7.2), or to end the session."""
        if not self.refreshes:
            return self.ends_at
        return self.again_at or self.refreshed_at + self.interval_s / 2

    def is_over(self, now: float) -> bool:
        """True where the session is to be ended: nothing that could still be tried is left."""
        return now >= self.ends_at and (not self.refreshes or self.again_at > 0)


def request_fields(wish: Wish, least_s: int, timer: SessionTimer | None) -> Fields:
    """What an INVITE or UPDATE of ours says: before there is a `timer`, that we would refresh. `least_s` is what the
    peer has said is too short, 0 where it has not.
    """
    interval = wish.expires_s if timer is None else timer.interval_s
    ours = timer is None or timer.refreshes
    least = max(wish.min_s, least_s)
    asked = ("Session-Expires", f"{max(interval, least)};refresher={'uac' if ours else 'uas'}")
    return (SUPPORTED, asked) if least == LEAST_S else (SUPPORTED, asked, ("Min-SE", str(least)))


def check(request: Request, wish: Wish) -> None:
    """Raise `Refused` (422) where an INVITE or UPDATE asks for an interval that is too short (section 9), and
    `MalformedMessage` (400) where what it asks for cannot be read.
    """
    asked = _find_interval(request)
    if asked is not None and asked[0] < wish.min_s and OPTION in request.tokens("Supported"):
        raise Refused(f"Session-Expires: {asked[0]} s", 422, ("Min-SE", str(wish.min_s)))


def accept(now: float, request: Request, wish: Wish) -> tuple[Fields, SessionTimer]:
    """What our 2xx to an INVITE or UPDATE says that `check` let pass, and what is agreed by it (section 9, table 2)."""
    knows = OPTION in request.tokens("Supported")
    if not knows:
        # It has no ear for our wishes, and a proxy that asks in its name is content where we refresh.
        return (), SessionTimer(wish.expires_s, now, is_agreed=False)
    asked, refresher = _find_interval(request) or (wish.expires_s, "")
    interval = min(max(min(asked, wish.expires_s), request.number("Min-SE") or 0), MOST_S)
    if refresher == "uac":
        fields = (SUPPORTED, ("Require", OPTION), ("Session-Expires", f"{interval};refresher=uac"))
        return fields, SessionTimer(interval, now, refreshes=False)
    return (SUPPORTED, ("Session-Expires", f"{interval};refresher=uas")), SessionTimer(interval, now)


def agreed(now: float, response: Response, wish: Wish, least_s: int) -> SessionTimer:
    """What is agreed by a 2xx to an INVITE or UPDATE of ours (section 7.2). `least_s` as in `request_fields`."""
    least = max(wish.min_s, least_s)
    try:
        answered = _find_interval(response)
    except MalformedMessage:
        answered = None
    if answered is None:
        return SessionTimer(max(wish.expires_s, least), now, is_agreed=False)
    interval, refresher = answered
    return SessionTimer(max(interval, least), now, refreshes=refresher != "uas")


def least_of(response: Response) -> int:
    """The interval that a 422 asks for (section 6), in seconds; 0 where it says nothing that helps."""
    try:
        least = response.number("Min-SE")
    except MalformedMessage:
        return 0
    return least if least is not None and least <= MOST_S else 0


def _find_interval(message: Message) -> tuple[int, str] | None:
    """Seconds and refresher ("" for none) of Session-Expires. Raises `MalformedMessage` (400)."""
    value = message.get("Session-Expires")
    if value is None:
        return None
    digits, *params = (part.strip() for part in value.split(";"))
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        raise MalformedMessage("Session-Expires: no number of seconds", 400)
    for param in params:
        name, _, who = param.partition("=")
        if name.strip().lower() == "refresher" and who.strip().lower() in ("uac", "uas"):
            return min(int(digits), MOST_S), who.strip().lower()
    return min(int(digits), MOST_S), ""
