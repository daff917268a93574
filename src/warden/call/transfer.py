"""How a transfer begins: one party of a call asks that the other be put through to somebody else (RFC 3515, RFC 3891,
RFC 5589). `call.joining` goes on with it.
"""

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from warden.call.cdr import Party, Result
from warden.call.ending import Effects, end
from warden.call.events import Notify
from warden.call.joining import PENDING, settle
from warden.call.model import Call, Cause, Leg, LegPhase, Phase, Transfer, set_phase
from warden.call.setup import go_on
from warden.call.way import STEPS_MAX, Step

TRYING: Final = Cause(100, "Trying")
_TRANSFERRED: Final = Cause(200, "Transferred")


def why_not(call: Call, by: str) -> Cause | None:
    """Why this leg cannot have the party that it talks to transferred now; None where it can."""
    if call.phase is Phase.OVER or call.leg(by).phase not in (LegPhase.OFFERED, LegPhase.ANSWERED, LegPhase.UP):
        return Cause(481, "Call Leg Does Not Exist")
    if call.phase is Phase.SETUP or call.transfer is not None or call.leg(by).phase is not LegPhase.UP:
        return PENDING
    other = call.other(by)
    return Cause(403, "There is nobody to transfer") if other is None else None


def start_transfer(
    call: Call, now: float, by: str, way: tuple[Step, ...], visited: tuple[str, ...]
) -> tuple[Call, Effects]:
    """Leg `by` wants its party put through to whom this way leads to; it has a step. Ask `why_not` before."""
    other = call.other(by)
    assert other is not None, "asked before"
    out: Effects = [Notify(by, TRYING)]
    call = replace(
        call, transfer=Transfer(by, other.id), way=way[:STEPS_MAX], visited=visited, so_far=None, failures=()
    )
    return go_on(call, now, None, out), out


def take_over(call: Call, now: float, by: str, legs: Sequence[Leg], ring_until: float) -> tuple[Call, Effects]:
    """Leg `by` wants its party put through to whom it talks to, or whom it rings, in another call: `legs` come from
    there (`give_up`) and are answered, or ring until then; or are to be dialled to where that call is. Their ids are
    new to this call.
    """
    other = call.other(by)
    assert other is not None, "asked before"
    out: Effects = [Notify(by, TRYING)]
    side = "a" if call.leg(by).on_a else "b"
    legs = [replace(leg, side=side) for leg in legs]
    target = next((leg.id for leg in legs if leg.phase is LegPhase.UP), "")
    call = replace(call, callees=(*call.callees, *legs), legs_made=call.legs_made + len(legs), failures=())
    call = replace(call, transfer=Transfer(by, other.id, target), no_answer_at=ring_until, way=(), so_far=None)
    return settle(call, now, out), out


def what_to_give(call: Call, by: str) -> tuple[Leg, ...]:
    """The legs that another call would get if leg `by` were to transfer whom it talks to, or rings, to there."""
    other = call.other(by)
    if call.exchange is not None or call.transfer is not None or call.phase is Phase.OVER:
        return ()
    if call.phase is Phase.SETUP:
        return tuple(leg for leg in call.callees if leg.phase in (LegPhase.DIALLING, LegPhase.RINGING))
    return () if other is None or other.phase is not LegPhase.UP else (other,)


def give_up(call: Call, now: float, by: str, to: str, legs: Sequence[Leg]) -> tuple[Call, Effects]:
    """These legs have gone over to another call, where they are put through to `to`: this call ends."""
    out: Effects = []
    number = call.leg(by).number
    for leg in legs:
        call = set_phase(call, leg.id, LegPhase.GONE)
    party = Party.CALLER if by == call.near else Party.CALLEE
    if call.phase is Phase.SETUP:
        return end(call, now, out, Result.CANCELLED, Cause(487, "Transferred"), party), out
    call = replace(call, transferred_by=number, transferred_to=to)
    return end(call, now, out, Result.ANSWERED, _TRANSFERRED, party), out
