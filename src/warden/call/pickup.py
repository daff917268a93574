"""Somebody takes the place of a party: INVITE with Replaces (RFC 3891).

In an answered call the one who comes agrees on a session with the party that stays, and the one whose place is taken is
hung up. A call that rings elsewhere is taken so: both the caller and the one who picks up have made an offer, so the
latter is answered "inactive" first, and is then shown the caller's offer (RFC 3725).
"""

from typing import Final

from msgspec.structs import replace

from warden.call.cdr import Party, Result
from warden.call.descriptions import tell, tell_offer
from warden.call.ending import ELSEWHERE, NOT_ACCEPTABLE, Effects, drop_leg, end
from warden.call.events import Accept, CancelUpdate, Refuse, Update
from warden.call.model import (
    CALLER,
    LEGS_MAX,
    Call,
    Cause,
    Exchange,
    Leg,
    LegPhase,
    Phase,
    Transfer,
    set_phase,
)
from warden.core.errors import MalformedMessage
from warden.sdp.answer import hold
from warden.sdp.session import Direction

REPLACED: Final = Cause(200, "Replaced")
_OVER: Final = (LegPhase.CANCELLING, LegPhase.ENDING, LegPhase.GONE)


def why_not(call: Call, leg_id: str, *, early_only: bool, has_offer: bool) -> Cause | None:
    """Why nobody can take the place of this leg now; None where somebody can (RFC 3891 section 3)."""
    leg = call.leg(leg_id)
    if call.phase is Phase.OVER or leg.phase in _OVER:
        return Cause(603, "It is over")
    if leg.phase in (LegPhase.OFFERED, LegPhase.DIALLING):
        return Cause(481, "Nobody rings there")
    if len(call.legs) >= LEGS_MAX or call.transfer is not None or call.exchange is not None:
        return Cause(491, "Request Pending")
    if leg.phase is LegPhase.RINGING:
        if call.caller.told or not has_offer:
            # The caller hears early media, which no other phone can go on with; or nobody offers anything.
            return NOT_ACCEPTABLE
        return None if call.phase is Phase.SETUP and not _picker(call) else Cause(491, "Request Pending")
    if early_only:
        return Cause(486, "It was answered")
    other = call.other(leg_id)
    if other is None:
        return Cause(603, "Nobody is there")
    return None if leg.phase is other.phase is LegPhase.UP else Cause(491, "Request Pending")


def pick_up(call: Call, leg_id: str, number: str, sdp: str, host: str = "") -> tuple[Call, Effects]:
    """The extension `number` offers `sdp` ("": wants an offer) to take the place of this leg: it gets a new leg, the
    last of the call's, `host` being our address for its audio. Ask `why_not` before.
    """
    out: Effects = []
    side = "a" if call.leg(leg_id).on_a else "b"
    new = Leg(f"b{call.legs_made}", number, LegPhase.OFFERED, heard=sdp, side=side, inbound=True, host=host)
    call = replace(call, callees=(*call.callees, new), legs_made=call.legs_made + 1)
    other = call.other(leg_id)
    if call.phase is Phase.UP:
        assert other is not None, "`why_not` has asked"
        call = replace(call, exchange=Exchange(new.id, other.id, sdp, late=not sdp, takes=leg_id))
        call, told = tell_offer(call, other.id, sdp)
        out.append(Update(other.id, told))
        return call, out
    for leg in call.callees:
        if leg.phase in (LegPhase.DIALLING, LegPhase.RINGING):
            call = drop_leg(call, leg.id, ELSEWHERE, out)
    try:
        call, told = tell(call, new.id, hold(sdp, Direction.INACTIVE))
    except MalformedMessage:
        return drop_leg(call, new.id, NOT_ACCEPTABLE, out), out
    out.append(Accept(new.id, told))
    return replace(set_phase(call, new.id, LegPhase.ANSWERED), way=(), so_far=None, failures=()), out


def _picker(call: Call) -> Leg | None:
    """Who has picked up a call that is not answered yet."""
    if call.phase is not Phase.SETUP:
        return None
    return next((leg for leg in call.callees if leg.inbound and leg.phase not in _OVER), None)


def confirmed(call: Call, leg_id: str, out: Effects) -> Call:
    """Who picked up the call is there: the caller's offer is shown to it."""
    call = replace(call, exchange=Exchange(CALLER, leg_id, call.caller.heard, late=call.late))
    call, told = tell_offer(call, leg_id, call.caller.heard)
    out.append(Update(leg_id, told))
    return call


def agreed(call: Call, now: float, exchange: Exchange, told: str, out: Effects) -> Call:
    """The other side has agreed to what was offered in an INVITE, which is answered now."""
    by = call.leg(exchange.by)
    out.append(Accept(by.id, told))
    call = set_phase(call, by.id, LegPhase.ANSWERED)
    if not exchange.takes:
        to = call.leg(exchange.to)
        call = replace(call, joined=to.id, answered_by=to.number, phase=Phase.UP, answered_at=now)
        return replace(call, ringing_at=call.ringing_at or now)
    left = call.leg(exchange.takes)
    call = replace(call, near=by.id) if call.near == left.id else replace(call, joined=by.id)
    call = replace(call, transferred_by=left.number, transferred_to=by.number)
    return drop_leg(call, left.id, REPLACED, out)


def refused(call: Call, now: float, exchange: Exchange, cause: Cause, out: Effects) -> Call:
    """The other side will not have what was offered in an INVITE."""
    call = replace(call, exchange=None)
    if exchange.takes:
        return drop_leg(call, exchange.by, cause, out)
    return end(call, now, out, Result.FAILED, cause, Party.CALLEE)


def withdrawn(call: Call, leg_id: str, out: Effects) -> Call:
    """Who wanted to take a place no longer wants to; the party that was asked may have agreed already."""
    out.append(Refuse(leg_id, Cause(487, "Request Terminated")))
    exchange = call.exchange
    if exchange is not None and exchange.by == leg_id:
        out.append(CancelUpdate(exchange.to))
    return set_phase(call, leg_id, LegPhase.GONE)


def too_late(call: Call, exchange: Exchange) -> Call:
    """The party agreed with somebody who is gone: it is shown once more whom it talks with."""
    back = Transfer(exchange.takes, exchange.to, target=exchange.takes, returns=True)
    return replace(call, exchange=None, transfer=back)


def left(call: Call, now: float, leg_id: str, cause: Cause, out: Effects) -> Call:
    """Who picked up the call has hung up before the caller could be answered."""
    if call.leg(leg_id).inbound:
        return end(call, now, out, Result.FAILED, cause, Party.CALLEE)
    return call
