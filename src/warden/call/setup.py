"""A call that is being set up: the steps of its way, whom they ring, and what comes of that."""

from typing import assert_never

from msgspec.structs import replace

from warden.call import joining
from warden.call.cdr import Party, Result
from warden.call.descriptions import app_sdp, declined, fitted, note_told, tell
from warden.call.ending import ELSEWHERE, NOT_ACCEPTABLE, RESULTS, Effects, drop_leg, end
from warden.call.events import Accept, Answered, Bye, Confirm, Dial, Failed, Found, Hunt, Led, Progress, Ringing, Silent
from warden.call.model import (
    CALLER,
    LEGS_MAX,
    Call,
    Cause,
    Failure,
    Leg,
    LegPhase,
    Phase,
    set_phase,
    with_leg,
)
from warden.call.way import REASONS, STEPS_MAX, Diverted, Lead, Ring, Step, Take, Why

_BEST_FIRST = (600, 603, 486, 480, 488, 404, 408)
"""Of several failures the caller is told the most telling: a busy phone says more than one that is off."""
_NOT_REGISTERED = Cause(480, "Not registered")
_NO_ANSWER = Cause(480, "No answer")
_WAITING = (LegPhase.DIALLING, LegPhase.RINGING)


def start_call(call: Call, now: float, way: tuple[Step, ...], sdp: str) -> tuple[Call, Effects]:
    """A new call goes its way. `call` is fresh, its caller OFFERED and without `heard`; `sdp` is the caller's offer, ""
    for a late offer. An application without a common codec ends it with 488.
    """
    out: Effects = []
    call = replace(call, caller=replace(call.caller, heard=sdp), late=not sdp, way=way[:STEPS_MAX])
    return go_on(call, now, None, out), out


def start_nowhere(call: Call, now: float, cause: Cause) -> tuple[Call, Effects]:
    """A new call that leads nowhere is refused, and leaves a record."""
    out: Effects = []
    return end(call, now, out, RESULTS.get(cause.status, Result.FAILED), cause, Party.SYSTEM), out


def found(call: Call, now: float, event: Found, out: Effects) -> Call:
    """The phones of a step are known: they are called. Legs of earlier steps that are gone make room."""
    if not _seeks(call):
        return call
    transfer = call.transfer
    side = "" if transfer is None else "a" if call.leg(transfer.by).on_a else "b"
    legs = [leg for leg in call.callees if leg.phase is not LegPhase.GONE or leg.id in call.pair]
    made = call.legs_made
    hosts = event.hosts or ("",) * len(event.numbers)
    new = [
        Leg(f"b{made + i}", number, LegPhase.DIALLING, side=side, host=host)
        for i, (number, host) in enumerate(zip(event.numbers, hosts, strict=True))
    ]
    del new[LEGS_MAX - 1 - len(legs) :]
    if not new:
        failure = Failure("", event.cause or _NOT_REGISTERED, Why.UNREACHABLE, Party.SYSTEM)
        if any(leg.phase in _WAITING for leg in legs):
            # The step was to ring beside others, which go on.
            return replace(call, failures=(*call.failures, failure))
        return _step_failed(call, now, failure, out)
    call = replace(call, callees=(*legs, *new), legs_made=made + len(new))
    for leg in new:
        # What a party agreed to with its referrer, perhaps on hold, says little of what it can do: the target offers.
        call, told = tell(call, leg.id, call.caller.heard if transfer is None else "")
        out.append(Dial(leg.id, told))
    return call


def led(call: Call, now: float, event: Led, out: Effects) -> Call:
    """It is known where a step leads."""
    if not _seeks(call):
        return call
    diverted = (*call.diverted, *event.diverted)
    call = replace(call, way=event.way[:STEPS_MAX], visited=event.visited, diverted=diverted)
    if event.way:
        return go_on(call, now, None, out)
    failure = Failure("", event.cause or Cause(404, "Not Found"), Why.REFUSED, Party.SYSTEM)
    return _step_failed(call, now, failure, out)


def ringing(call: Call, now: float, event: Ringing, out: Effects) -> Call:
    """A callee's phone rings."""
    leg = call.leg(event.leg)
    if not _seeks(call) or leg.phase not in _WAITING:
        return call
    if call.transfer is not None:
        return joining.ringing(call, event, out)
    first = call.ringing_at is None
    # Early media is an answer, and the 200 has to repeat it: so it is passed on only where no other phone may answer.
    only = sum(other.phase in _WAITING for other in call.callees) == 1 and (not call.way or call.early)
    sdp = fitted(call.caller.heard, event.sdp) if only and event.sdp and not call.late else ""
    if first:
        call = replace(call, ringing_at=now)
    call = with_leg(call, replace(leg, phase=LegPhase.RINGING, heard=sdp or leg.heard))
    call, told = tell(call, CALLER, sdp)
    status = 180 if event.sdp and not told else event.status
    if first or told or status != 180:
        out.append(Progress(CALLER, status, told))
    return call


def answered(call: Call, now: float, event: Answered, out: Effects) -> Call:
    """A callee's phone took the call: the first one gets it."""
    leg = call.leg(event.leg)
    if not _seeks(call) or leg.phase not in _WAITING:
        # It lost the race against another phone, or against our CANCEL (RFC 3261 section 13.2.2.4).
        if leg.phase in (LegPhase.CANCELLING, LegPhase.GONE):
            told = declined(call, leg.id, "" if leg.told else event.sdp)
            out += (Confirm(leg.id, told), Bye(leg.id, ELSEWHERE))
            call = set_phase(call, leg.id, LegPhase.ENDING)
        return call
    sdp = event.sdp or leg.heard
    if not call.late and call.transfer is None:
        sdp = fitted(call.caller.heard, sdp)
    if not sdp:
        out += (Confirm(leg.id, ""), Bye(leg.id, NOT_ACCEPTABLE))
        call = set_phase(call, leg.id, LegPhase.ENDING)
        return _callee_failed(call, now, leg, NOT_ACCEPTABLE, out)
    if call.transfer is not None:
        return joining.answered(call, leg, sdp, out)
    phase = LegPhase.ANSWERED if call.late else LegPhase.UP
    call = replace(
        with_leg(call, replace(leg, phase=phase, heard=sdp)),
        caller=replace(call.caller, phase=LegPhase.ANSWERED),
        joined=leg.id,
        answered_by=leg.number,
        phase=Phase.UP,
        ringing_at=call.ringing_at or now,
        answered_at=now,
        way=(),
        so_far=None,
    )
    for rival in call.callees:
        if rival.id != leg.id:
            call = drop_leg(call, rival.id, ELSEWHERE, out)
    call, told = tell(call, CALLER, sdp)
    if not call.late:
        out.append(Confirm(leg.id, ""))
    out.append(Accept(CALLER, told))
    return call


def failed(call: Call, now: float, event: Failed, out: Effects) -> Call:
    """A callee's phone will not take the call, or has ended."""
    leg = call.leg(event.leg)
    if leg.phase not in (*_WAITING, LegPhase.CANCELLING):
        return call
    call = set_phase(call, event.leg, LegPhase.GONE)
    if _seeks(call) and leg.phase is not LegPhase.CANCELLING:
        return _callee_failed(call, now, leg, event.cause, out)
    return call


def silent(call: Call, now: float, event: Silent, out: Effects) -> Call:
    """A callee has not said a word. It may still do: its leg is there until it is certain that it does not ring."""
    leg = call.leg(event.leg)
    if not _seeks(call) or leg.phase is not LegPhase.DIALLING:
        return call
    return _callee_failed(drop_leg(call, leg.id, event.cause, out), now, leg, event.cause, out)


def unanswered(call: Call, now: float, out: Effects) -> Call:
    """The time of a step is over."""
    following = _next(call, Why.NO_ANSWER)
    if following is None or not (isinstance(step := call.way[following], Ring) and step.also):
        for leg in call.callees:
            if leg.phase in _WAITING:
                call = drop_leg(call, leg.id, _NO_ANSWER, out)
    return _step_failed(call, now, Failure("", _NO_ANSWER, Why.NO_ANSWER, Party.SYSTEM), out)


def _callee_failed(call: Call, now: float, failed: Leg, cause: Cause, out: Effects) -> Call:
    """`failed` is the leg as it was before."""
    call = replace(call, failures=(*call.failures, Failure(failed.id, cause, _why(cause, failed.phase))))
    if cause.status >= 600:
        # Who is called wants to be called nowhere (RFC 3261 section 21.6).
        for leg in call.callees:
            if leg.number == failed.number and leg.phase in _WAITING:
                call = drop_leg(call, leg.id, cause, out)
    if any(leg.phase in _WAITING for leg in call.callees):
        return call
    return _step_failed(call, now, min(call.failures, key=_telling), out)


def _why(cause: Cause, phase: LegPhase) -> Why:
    match cause.status:
        case 486 | 600 | 603:
            return Why.BUSY
        case 408 | 480:
            return Why.NO_ANSWER if phase is LegPhase.RINGING else Why.UNREACHABLE
        case status if 500 <= status < 600:
            return Why.BROKEN
        case _:
            return Why.REFUSED


def _step_failed(call: Call, now: float, failure: Failure, out: Effects) -> Call:
    so_far = failure if call.so_far is None else min(call.so_far, failure, key=_telling)
    return go_on(replace(call, so_far=so_far, failures=()), now, failure.why, out)


def go_on(call: Call, now: float, why: Why | None, out: Effects) -> Call:
    """Take the next step that is for this failure; without one the call ends, or its transfer."""
    # Who has heard early media has its answer: no other phone's can take its place (RFC 3261 section 13.2.1).
    following = None if call.caller.told and call.transfer is None else _next(call, why)
    if following is None:
        failure = call.so_far
        assert failure is not None, "a way without a step begins nowhere"
        if call.transfer is not None:
            return joining.fail(call, now, failure.cause, out)
        result = RESULTS.get(failure.cause.status, Result.FAILED)
        if failure.why is Why.NO_ANSWER:
            result = Result.NO_ANSWER
        return end(call, now, out, result, failure.cause, failure.party)
    step, way = call.way[following], call.way[following + 1 :]
    match step:
        case Ring():
            out.append(Hunt(step))
            return replace(call, way=way, no_answer_at=now + step.ring_s, early=step.early)
        case Lead():
            out.append(Hunt(step))
            by = () if why not in REASONS or not step.by else (Diverted(step.by, REASONS[why]),)
            return replace(call, way=way, diverted=(*call.diverted, *by))
        case Take() if call.transfer is not None:
            return joining.fail(call, now, Cause(403, "Cannot transfer to an application"), out)
        case Take():
            return _taken(replace(call, way=()), now, step, out)
        case _:
            assert_never(step)


def _seeks(call: Call) -> bool:
    """True while somebody is looked for: a callee, or the target of a transfer."""
    return call.phase is Phase.SETUP or (call.transfer is not None and not call.transfer.target)


def _next(call: Call, why: Why | None) -> int | None:
    for i, step in enumerate(call.way):
        if why is None or not step.when or why in step.when:
            return i
    return None


def _taken(call: Call, now: float, step: Take, out: Effects) -> Call:
    for leg in call.callees:
        call = drop_leg(call, leg.id, ELSEWHERE, out)
    call = replace(call, app=step.app, answered_by="" if step.number == call.dialled else step.number)
    told = app_sdp(call, call.caller.heard)
    if told is None:
        return end(call, now, out, Result.FAILED, NOT_ACCEPTABLE, Party.SYSTEM)
    call = set_phase(note_told(call, CALLER, told), CALLER, LegPhase.ANSWERED)
    out.append(Accept(CALLER, told))
    return replace(call, phase=Phase.UP, answered_at=now, so_far=None)


def _telling(failure: Failure) -> tuple[int, bool]:
    status = failure.cause.status
    rank = _BEST_FIRST.index(status) if status in _BEST_FIRST else len(_BEST_FIRST)
    return rank, failure.why is not Why.NO_ANSWER
