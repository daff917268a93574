"""What a session timer has to do with a leg: nothing is sent here."""

from typing import Final

from msgspec.structs import replace

from warden.call.model import Cause
from warden.sip.message import Response
from warden.sip.session_timer import SessionTimer, least_of
from warden.switch.live import LiveCall, SipLeg

DEAD: Final = (408, 481)
"""Answers that end a dialog (RFC 3261 section 12.2.1.2)."""
GLARE_S: Final = 3.0
"""When a peer is told where we are that was just asking for something itself (RFC 3261 section 14.1: 2.1 to 4 s)."""
_NO_METHOD: Final = (405, 501)


def after_refusal(now: float, leg: SipLeg, response: Response) -> SipLeg:
    """The leg after its peer has refused a re-INVITE or UPDATE of ours."""
    timer, status = leg.timer, response.status
    if leg.tell_at is not None and status == 491:
        leg = replace(leg, tell_at=now + GLARE_S)
    if timer is None or status in DEAD:
        return leg
    if status == 422 and not leg.least_s and (least := least_of(response)) > timer.interval_s:
        return replace(leg, least_s=least, timer=replace(timer, again_at=0.0))
    if status in _NO_METHOD and leg.update_out_method == "UPDATE":
        return replace(leg, allows_update=False, timer=replace(timer, again_at=0.0))
    if not timer.is_agreed:
        # It refuses, so it lives; and it has no timer of its own that could end the session.
        return replace(leg, timer=SessionTimer(timer.interval_s, now, is_agreed=False))
    return leg


def why_lost(live: LiveCall, leg_id: str, cause: Cause) -> Cause:
    """Why the leg is lost whose peer did not agree to a re-INVITE or UPDATE: as the call detail record says it, where
    nobody but us asked for it.
    """
    exchange = live.call.exchange
    is_refresh = exchange is None or exchange.to != leg_id
    return not_refreshed(live, leg_id, cause.status) if is_refresh and cause.status in DEAD else cause


def not_refreshed(live: LiveCall, leg_id: str, status: int = 408) -> Cause:
    """A session that is over for want of a refresh."""
    return Cause(status, f"Session not refreshed by the {'caller' if leg_id == live.call.near else 'callee'}")
