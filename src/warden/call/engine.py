"""The B2BUA engine: one function from (call, now, event) to (call, effects).

It joins one caller with one of several callees, or with an application, and keeps the offer/answer exchanges of both
sides in step. It knows no SIP: `switch.hearing` turns messages into events and `switch.legs` effects into messages. A
peer's SDP has been checked before it comes here. What an event means in a state where it has no meaning is: nothing.
"""

from typing import assert_never

from msgspec.structs import replace

from warden.call import joining, pickup
from warden.call.cdr import Party, Result
from warden.call.descriptions import answer_in_ack, answer_of, app_sdp, declined, fitted, note_told, tell, tell_offer
from warden.call.ending import NOT_ACCEPTABLE, Effects, drop_leg, end
from warden.call.events import (
    AcceptUpdate,
    Answered,
    Bye,
    CancelUpdate,
    Confirm,
    Confirmed,
    ConfirmUpdate,
    Due,
    Event,
    Failed,
    Found,
    Gone,
    HungUp,
    Led,
    Lost,
    RefuseUpdate,
    Ringing,
    Silent,
    SoundsEnded,
    Stopped,
    Tell,
    Told,
    Update,
    UpdateAnswered,
    UpdateCancelled,
    UpdateConfirmed,
    Updated,
    UpdateFailed,
)
from warden.call.model import CALLER, Call, Cause, Exchange, LegPhase, Phase, set_phase, with_leg
from warden.call.setup import answered, failed, found, led, ringing, silent, unanswered
from warden.call.way import SPEAKERS

PENDING = Cause(491, "Request Pending")


def step(call: Call, now: float, event: Event) -> tuple[Call, Effects]:
    """The next value of the call and what is to be done, in order. The value must be stored before it is done."""
    out: Effects = []
    match event:
        # What every call has comes first.
        case Found():
            call = found(call, now, event, out)
        case Ringing():
            call = ringing(call, now, event, out)
        case Answered():
            call = answered(call, now, event, out)
        case Confirmed():
            call = _confirmed(call, now, event, out)
        case HungUp():
            call = _hung_up(call, now, event, out)
        case Gone():
            call = set_phase(call, event.leg, LegPhase.GONE)
        case Failed():
            call = failed(call, now, event, out)
        case Led():
            call = led(call, now, event, out)
        case Updated():
            call = _updated(call, event, out)
        case UpdateAnswered():
            call = _update_answered(call, now, event, out)
        case UpdateFailed():
            call = _update_failed(call, now, event, out)
        case UpdateConfirmed():
            call = _update_confirmed(call, now, event, out)
        case UpdateCancelled():
            exchange = call.exchange
            if exchange is not None and exchange.by == event.leg and not exchange.answered:
                out.append(CancelUpdate(exchange.to))
        case Told():
            other = call.other(event.leg)
            if other is not None and other.phase is LegPhase.UP:
                out.append(Tell(other.id, event.content_type, event.body))
        case Lost():
            call = _lost(call, now, event, out)
        case Silent():
            call = silent(call, now, event, out)
        case SoundsEnded():
            if call.phase is Phase.UP and isinstance(call.app, SPEAKERS):
                call = end(call, now, out, Result.ANSWERED, Cause(200, "Said all"), Party.SYSTEM)
        case Stopped():
            if call.phase is not Phase.OVER:
                result = Result.ANSWERED if call.answered_at is not None else Result.FAILED
                call = end(call, now, out, result, event.cause, Party.SYSTEM)
        case Due():
            call = _due(call, now, out)
        case _:
            assert_never(event)
    return call if call.transfer is None else joining.settle(call, now, out), out


def _confirmed(call: Call, now: float, event: Confirmed, out: Effects) -> Call:
    caller, leg, exchange = call.caller, call.leg(event.leg), call.exchange
    if leg.phase is not LegPhase.ANSWERED or not leg.is_inbound:
        return call
    if leg.closing is not None:
        out.append(Bye(leg.id, leg.closing))
        return set_phase(call, leg.id, LegPhase.ENDING)
    call = set_phase(call, leg.id, LegPhase.UP)
    if exchange is not None and exchange.by == leg.id and exchange.answered:
        return _update_confirmed(call, now, UpdateConfirmed(leg.id, event.sdp), out)
    if leg is not caller:
        return pickup.confirmed(call, leg.id, out) if call.phase is Phase.SETUP else call
    if not call.late:
        return call
    offered = call.leg(call.joined).heard if call.joined else caller.told
    answered = answer_in_ack(offered, event.sdp, to_app=not call.joined)
    if not answered:
        # Our 2xx had the offer, so the ACK has to bring the answer (RFC 3261 section 13.2.1).
        return end(call, now, out, Result.ANSWERED, NOT_ACCEPTABLE, Party.SYSTEM)
    call = with_leg(call, replace(call.caller, heard=answered))
    if call.joined:
        call, told = tell(call, call.joined, answered)
        out.append(Confirm(call.joined, told))
        call = set_phase(call, call.joined, LegPhase.UP)
    return call


def _updated(call: Call, event: Updated, out: Effects) -> Call:
    leg = call.leg(event.leg)
    if call.phase is Phase.OVER:
        out.append(RefuseUpdate(leg.id, Cause(481)))
        return call
    if call.phase is not Phase.UP or leg.phase is not LegPhase.UP or call.exchange is not None:
        out.append(RefuseUpdate(leg.id, PENDING))
        return call
    if call.app is not None:
        told = app_sdp(call, event.sdp)
        if told is None:
            out.append(RefuseUpdate(leg.id, NOT_ACCEPTABLE))
            return call
        call = note_told(with_leg(call, replace(leg, heard=event.sdp or leg.heard)), leg.id, told)
        out.append(AcceptUpdate(leg.id, told))
        if not event.sdp:
            call = replace(call, exchange=Exchange(leg.id, leg.id, told, late=True, answered=True))
        return call
    other = call.other(leg.id)
    if other is None or other.phase is not LegPhase.UP:
        out.append(RefuseUpdate(leg.id, PENDING))
        return call
    call = replace(call, exchange=Exchange(leg.id, other.id, event.sdp, late=not event.sdp))
    call, told = tell_offer(call, other.id, event.sdp)
    out.append(Update(other.id, told))
    return call


def _update_answered(call: Call, now: float, event: UpdateAnswered, out: Effects) -> Call:
    exchange = call.exchange
    if exchange is not None and joining.is_asked(call, exchange, event.leg):
        return joining.join_answered(call, now, exchange, event, out)
    if exchange is None or exchange.to != event.leg or exchange.answered or exchange.joins:
        out.append(ConfirmUpdate(event.leg, ""))
        leg = call.leg(event.leg)
        if exchange is None and leg.phase is LegPhase.UP and (sdp := event.sdp and fitted(leg.told, event.sdp)):
            # A refresh: it was asked for nothing new, and may have moved all the same.
            call = with_leg(call, replace(leg, heard=sdp))
        return call
    sdp = event.sdp if exchange.late else answer_of(call, event.leg, exchange.offer, event.sdp)
    by = call.leg(exchange.by)
    if exchange.takes and by.phase is LegPhase.GONE:
        out.append(ConfirmUpdate(event.leg, ""))
        return pickup.too_late(call, exchange)
    if not sdp:
        out.append(ConfirmUpdate(event.leg, ""))
        if by.phase is LegPhase.OFFERED:
            return pickup.refused(call, now, exchange, NOT_ACCEPTABLE, out)
        out.append(RefuseUpdate(exchange.by, NOT_ACCEPTABLE))
        return replace(call, exchange=None)
    if exchange.late:
        call = replace(call, exchange=replace(exchange, offer=sdp, answered=True))
    else:
        call = with_leg(call, replace(call.leg(event.leg), heard=sdp))
        call = with_leg(call, replace(call.leg(exchange.by), heard=exchange.offer))
        call = replace(call, exchange=None)
        out.append(ConfirmUpdate(event.leg, ""))
    call, told = (tell_offer if exchange.late else tell)(call, exchange.by, sdp)
    if by.phase is LegPhase.OFFERED:
        return pickup.agreed(call, now, exchange, told, out)
    out.append(AcceptUpdate(exchange.by, told))
    return call


def _update_confirmed(call: Call, now: float, event: UpdateConfirmed, out: Effects) -> Call:
    exchange = call.exchange
    if exchange is None or exchange.by != event.leg or not exchange.answered:
        return call
    call = replace(call, exchange=None)
    to = "" if exchange.to == exchange.by else exchange.to
    if to:
        sdp = answer_of(call, event.leg, exchange.offer, event.sdp)
    else:
        sdp = answer_in_ack(exchange.offer, event.sdp, to_app=True)
    if not sdp:
        if to:
            out.append(ConfirmUpdate(to, declined(call, to, exchange.offer)))
        return end(call, now, out, Result.ANSWERED, NOT_ACCEPTABLE, Party.SYSTEM)
    call = with_leg(call, replace(call.leg(event.leg), heard=sdp))
    if to:
        call = with_leg(call, replace(call.leg(to), heard=exchange.offer))
        call, told = tell(call, to, sdp)
        out.append(ConfirmUpdate(to, told))
    return call


def _update_failed(call: Call, now: float, event: UpdateFailed, out: Effects) -> Call:
    exchange = call.exchange
    if exchange is not None and joining.is_asked(call, exchange, event.leg):
        return joining.join_failed(call, now, event, out)
    if exchange is not None and exchange.to == event.leg and not (exchange.answered or exchange.joins):
        if exchange.takes or call.phase is Phase.SETUP:
            call = pickup.refused(call, now, exchange, event.cause, out)
        else:
            call = replace(call, exchange=None)
            out.append(RefuseUpdate(exchange.by, event.cause))
    if event.cause.status in (408, 481):
        # The dialog is gone at the other end (RFC 3261 section 12.2.1.2).
        return _lost(call, now, Lost(event.leg, event.cause), out)
    return call


def _hung_up(call: Call, now: float, event: HungUp, out: Effects) -> Call:
    leg = call.leg(event.leg)
    if leg.phase is LegPhase.OFFERED:
        if leg.id != CALLER:
            return pickup.withdrawn(call, leg.id, out)
        if call.phase is Phase.SETUP:
            return end(call, now, out, Result.CANCELLED, Cause(487, "Request Terminated"), Party.CALLER)
        return call
    call = set_phase(call, leg.id, LegPhase.GONE)
    if call.phase is Phase.OVER:
        return call
    if call.transfer is not None and leg.id != call.transfer.of:
        return joining.left(call, now, leg.id, out)
    if call.phase is Phase.SETUP:
        return pickup.left(call, now, leg.id, Cause(480, "Hung up"), out)
    if leg.id not in call.pair:
        return call
    party = Party.CALLER if leg.id == call.near else Party.CALLEE
    return end(call, now, out, Result.ANSWERED, event.cause or Cause(200, "Hung up"), party)


def _lost(call: Call, now: float, event: Lost, out: Effects) -> Call:
    leg = call.leg(event.leg)
    if leg.phase is LegPhase.ANSWERED and leg.is_inbound:
        # Its ACK never came: the session is ended by a BYE all the same (RFC 3261 section 13.3.1.4).
        out.append(Bye(leg.id, event.cause))
        call = set_phase(call, leg.id, LegPhase.ENDING)
    if call.phase is Phase.UP and call.transfer is not None and leg.id != call.transfer.of:
        return joining.left(drop_leg(call, leg.id, event.cause, out), now, leg.id, out)
    if call.phase is Phase.SETUP:
        return pickup.left(call, now, leg.id, event.cause, out)
    if call.phase is not Phase.UP or leg.id not in call.pair:
        return call
    return end(call, now, out, Result.ANSWERED, event.cause, Party.SYSTEM)


def _due(call: Call, now: float, out: Effects) -> Call:
    deadline = call.deadline
    if deadline is None or now < deadline:
        return call
    if call.phase is Phase.OVER:
        for leg in call.legs:
            call = set_phase(call, leg.id, LegPhase.GONE)
        return call
    if call.answered_at is not None and now >= call.answered_at + call.max_duration_s:
        return end(call, now, out, Result.ANSWERED, Cause(200, "Maximum duration"), Party.SYSTEM)
    if call.transfer is not None and call.transfer.target:
        return joining.again(call, out)
    return unanswered(call, now, out)
