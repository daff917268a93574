"""How a call and its legs end, and the record that is made of it."""

from typing import Final, assert_never

from msgspec.structs import replace

from warden.call.cdr import Cdr, Party, Result
from warden.call.descriptions import declined
from warden.call.events import Bye, Cancel, Confirm, Effect, Finished, Notify, Refuse
from warden.call.model import Call, Cause, LegPhase, Phase, set_phase, with_leg

Effects = list[Effect]

ELSEWHERE = Cause(200, "Call completed elsewhere")
NOT_ACCEPTABLE = Cause(488, "Not Acceptable Here")
TERMINATED = Cause(487, "Request Terminated")

RESULTS: Final = {
    404: Result.FAILED,
    408: Result.UNREACHABLE,
    480: Result.UNREACHABLE,
    486: Result.BUSY,
    487: Result.CANCELLED,
    600: Result.BUSY,
    603: Result.REJECTED,
}


def drop_leg(call: Call, leg_id: str, cause: Cause, out: Effects) -> Call:
    """End one leg in the way that its phase asks for."""
    leg = call.leg(leg_id)
    match leg.phase:
        case LegPhase.OFFERED:
            out.append(Refuse(leg.id, cause))
            return set_phase(call, leg.id, LegPhase.GONE)
        case LegPhase.DIALLING | LegPhase.RINGING:
            out.append(Cancel(leg.id, cause))
            return set_phase(call, leg.id, LegPhase.CANCELLING)
        case LegPhase.ANSWERED if leg.is_inbound:
            return with_leg(call, replace(leg, closing=cause))
        case LegPhase.ANSWERED:
            # Its 2xx answered our offer, or brought one of its own.
            out += (Confirm(leg.id, declined(call, leg.id, "" if leg.told else leg.heard)), Bye(leg.id, cause))
            return set_phase(call, leg.id, LegPhase.ENDING)
        case LegPhase.UP:
            out.append(Bye(leg.id, cause))
            return set_phase(call, leg.id, LegPhase.ENDING)
        case LegPhase.CANCELLING | LegPhase.ENDING | LegPhase.GONE:
            return call
        case _:
            assert_never(leg.phase)


def end(call: Call, now: float, out: Effects, result: Result, cause: Cause, party: Party) -> Call:
    """End the call with all its legs; it gets its one record here."""
    assert call.phase is not Phase.OVER, "a call ends once: its record is given out here"
    answered_by = call.taken_by if call.answered_at is not None else ""
    cdr = Cdr(
        id=call.id,
        caller=call.caller.number,
        caller_name=call.caller_name,
        callee=call.dialled,
        answered_by=answered_by,
        started_at_utc=call.started_at,
        ringing_at_utc=call.ringing_at,
        answered_at_utc=call.answered_at,
        ended_at_utc=max(now, call.answered_at or call.started_at),
        result=result,
        status=200 if call.answered_at is not None else cause.status,
        ended_by=party,
        reason=cause.text,
        sip_call_id=call.sip_call_id,
        transferred_by=call.transferred_by,
        transferred_to=call.transferred_to,
    )
    if call.transfer is not None and not call.transfer.returns:
        out.append(Notify(call.transfer.by, TERMINATED, final=True))
    call = replace(call, phase=Phase.OVER, over_at=now, cdr=cdr, exchange=None, transfer=None, way=(), so_far=None)
    for leg in call.legs:
        call = drop_leg(call, leg.id, cause, out)
    out.append(Finished(cdr))
    return call
