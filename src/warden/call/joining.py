"""Puts a party of a call through to somebody else: what happens from the ringing of the target to the last word.

While the target rings nothing changes for the two that talk. When it answers, its offer is shown to the party that is
transferred and the answer is taken back (RFC 3725), so that codecs are agreed anew between those two; then the referrer
is told, and hung up. Where it fails, the two talk on as before. A referrer that has hung up meanwhile is called back
once, so that its party is not left alone.
"""

from typing import Final

from msgspec.structs import replace

from warden.call.cdr import Party, Result
from warden.call.descriptions import answer_of, declined, tell, tell_offer
from warden.call.ending import ELSEWHERE, NOT_ACCEPTABLE, Effects, drop_leg, end
from warden.call.events import (
    Confirm,
    ConfirmUpdate,
    Hunt,
    Notify,
    RefuseUpdate,
    Ringing,
    Update,
    UpdateAnswered,
    UpdateFailed,
)
from warden.call.model import Call, Cause, Exchange, Leg, LegPhase, Phase, Transfer, set_phase, with_leg
from warden.call.way import Extension, Ring

PENDING: Final = Cause(491, "Request Pending")
GLARES_MAX: Final = 4
"""Re-INVITEs after so many 491 in a row; two sides that both wait as they should never need more than two."""
RECALL_S: Final = 60.0
"""How long a referrer that has hung up is rung when the transfer failed: as long as a phone rings by default."""

_HUNG_UP: Final = Cause(480, "Hung up")


def ringing(call: Call, event: Ringing, out: Effects) -> Call:
    """A target's phone rings."""
    leg, transfer = call.leg(event.leg), call.transfer
    assert transfer is not None, "asked before"
    if leg.phase is not LegPhase.DIALLING:
        return call
    if not transfer.returns and not any(other.phase is LegPhase.RINGING for other in call.callees):
        out.append(Notify(transfer.by, Cause(180, "Ringing")))
    return set_phase(call, leg.id, LegPhase.RINGING)


def answered(call: Call, leg: Leg, sdp: str, out: Effects) -> Call:
    """A target's phone took the call, with its offer: `settle` goes on."""
    transfer = call.transfer
    assert transfer is not None, "asked before"
    phase = LegPhase.ANSWERED
    if leg.told:
        # It rang for the referrer, and was shown its offer.
        out.append(Confirm(leg.id, ""))
        phase = LegPhase.UP
    call = with_leg(call, replace(leg, phase=phase, heard=sdp))
    for rival in call.callees:
        if rival.phase in (LegPhase.DIALLING, LegPhase.RINGING):
            call = drop_leg(call, rival.id, ELSEWHERE, out)
    return replace(call, transfer=replace(transfer, target=leg.id), way=(), so_far=None, failures=())


def settle(call: Call, now: float, out: Effects) -> Call:
    """Go on with a transfer whose target is there as soon as no other change is under way."""
    transfer = call.transfer
    if transfer is None or not transfer.target or transfer.again_at is not None:
        return call
    if call.exchange is not None or call.phase is not Phase.UP:
        return call
    target = call.leg(transfer.target)
    if target.phase not in (LegPhase.ANSWERED, LegPhase.UP):
        return fail(call, now, _HUNG_UP, out)
    if call.leg(transfer.of).phase is not LegPhase.UP:
        return call
    exchange = Exchange(target.id, transfer.of, joins=True)
    if target.phase is LegPhase.ANSWERED:
        # Our INVITE had no offer, so its answer has one.
        return _offer(call, exchange, target.heard, out)
    out.append(Update(target.id, ""))
    return replace(call, exchange=exchange)


def _offer(call: Call, exchange: Exchange, sdp: str, out: Effects) -> Call:
    call, told = tell_offer(call, exchange.to, sdp)
    out.append(Update(exchange.to, told))
    return replace(call, exchange=replace(exchange, offer=sdp))


def is_asked(call: Call, exchange: Exchange, leg_id: str) -> bool:
    """True where the exchange that joins two waits for this leg's word."""
    if not exchange.joins or call.transfer is None or call.transfer.again_at is not None:
        return False
    return leg_id == (exchange.to if exchange.offer else exchange.by)


def join_answered(call: Call, now: float, exchange: Exchange, event: UpdateAnswered, out: Effects) -> Call:
    """One of the two that are to be joined has agreed to what it was asked."""
    if not exchange.offer:
        if event.sdp:
            return _offer(call, exchange, event.sdp, out)
        out.append(ConfirmUpdate(event.leg, ""))
        return fail(call, now, NOT_ACCEPTABLE, out)
    out.append(ConfirmUpdate(event.leg, ""))
    sdp = answer_of(call, exchange.to, exchange.offer, event.sdp)
    target = call.leg(exchange.by)
    if not sdp or target.phase not in (LegPhase.ANSWERED, LegPhase.UP):
        return fail(call, now, NOT_ACCEPTABLE if not sdp else _HUNG_UP, out, has_changed=True)
    call = with_leg(call, replace(call.leg(exchange.to), heard=sdp))
    call = with_leg(call, replace(target, heard=exchange.offer, phase=LegPhase.UP))
    call, told = tell(call, target.id, sdp)
    is_first = target.phase is LegPhase.ANSWERED
    out.append(Confirm(target.id, told) if is_first else ConfirmUpdate(target.id, told))
    return _joined(replace(call, exchange=None), out)


def _joined(call: Call, out: Effects) -> Call:
    transfer = call.transfer
    assert transfer is not None, "it is what joins"
    by, target = call.leg(transfer.by), call.leg(transfer.target)
    if call.near == by.id:
        call = replace(call, near=target.id, transfer=None)
    else:
        call = replace(call, joined=target.id, transfer=None)
    if not transfer.returns:
        call = replace(call, transferred_by=by.number, transferred_to=target.number)
        out.append(Notify(by.id, Cause(200, "OK"), final=True))
        call = drop_leg(call, by.id, Cause(200, "Transferred"), out)
    return call


def join_failed(call: Call, now: float, event: UpdateFailed, out: Effects) -> Call:
    """One of the two that are to be joined has refused what it was asked, or is not there."""
    transfer = call.transfer
    assert transfer is not None, "it is what joins"
    cause = event.cause
    if cause.status == 491 and transfer.tries < GLARES_MAX:
        # Whoever opened the dialog waits longer (RFC 3261 section 14.1), so that the next two do not meet.
        pause = 1.0 if call.leg(event.leg).is_inbound else 3.0
        return replace(call, transfer=replace(transfer, tries=transfer.tries + 1, again_at=now + pause))
    if cause.status in (408, 481):
        if event.leg == transfer.of:
            return end(call, now, out, Result.ANSWERED, cause, Party.SYSTEM)
        call = drop_leg(call, event.leg, cause, out)
    return fail(call, now, cause, out)


def again(call: Call, out: Effects) -> Call:
    """The pause after a glare is over."""
    transfer, exchange = call.transfer, call.exchange
    assert transfer is not None, "asked before"
    if exchange is not None and exchange.joins:
        asked = exchange.to if exchange.offer else exchange.by
        out.append(Update(asked, call.leg(asked).told if exchange.offer else ""))
    return replace(call, transfer=replace(transfer, again_at=None))


def left(call: Call, now: float, leg_id: str, out: Effects) -> Call:
    """A leg has ended while a transfer is under way, other than that of the party which is transferred."""
    transfer, exchange = call.transfer, call.exchange
    assert transfer is not None, "asked before"
    if leg_id == transfer.target:
        if exchange is None or not exchange.joins:
            return call
        # What the party was offered may be in force already: its word is waited for.
        return call if exchange.offer else fail(call, now, _HUNG_UP, out)
    if leg_id == transfer.by and exchange is not None and leg_id in (exchange.by, exchange.to) and not exchange.joins:
        if exchange.to == leg_id and not exchange.answered:
            out.append(RefuseUpdate(exchange.by, PENDING))
        elif exchange.late and exchange.answered:
            out.append(ConfirmUpdate(exchange.to, declined(call, exchange.to, exchange.offer)))
        else:
            return call
        return replace(call, exchange=None)
    return call


def fail(call: Call, now: float, cause: Cause, out: Effects, *, has_changed: bool = False) -> Call:
    """The transfer has come to nothing. `has_changed`: its party was shown the target already, and has to be shown the
    referrer again.
    """
    transfer, exchange = call.transfer, call.exchange
    assert transfer is not None, "it is what fails"
    if transfer.returns:
        return end(call, now, out, Result.ANSWERED, cause, Party.SYSTEM)
    joins = exchange is not None and exchange.joins
    if transfer.target:
        if joins and exchange is not None and exchange.offer and call.leg(transfer.target).phase is LegPhase.UP:
            # Its 2xx to our re-INVITE waits.
            out.append(ConfirmUpdate(transfer.target, declined(call, transfer.target, exchange.offer)))
        call = drop_leg(call, transfer.target, cause, out)
    call = replace(call, exchange=None if joins else exchange, way=(), so_far=None, failures=())
    out.append(Notify(transfer.by, cause, final=True))
    by = call.leg(transfer.by)
    if by.phase is LegPhase.UP:
        back = Transfer(by.id, transfer.of, target=by.id, returns=True) if has_changed else None
        return replace(call, transfer=back)
    # It has hung up, and its party waits.
    out.append(Hunt(Ring((Extension(by.number),), RECALL_S)))
    return replace(call, transfer=Transfer(by.id, transfer.of, returns=True), no_answer_at=now + RECALL_S)
