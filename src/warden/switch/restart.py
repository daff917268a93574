"""Another process goes on with a record: whether it can be trusted, and what changes about it, since connections do not
outlive their process.
"""

from math import inf, isfinite, isnan
from typing import Final

from msgspec.structs import replace

from warden.call.engine import step
from warden.call.events import Stopped
from warden.call.model import CALLER, LEGS_MAX, Cause, LegPhase
from warden.core.versions import Unreadable
from warden.sip.dialog import Dialog
from warden.sip.endpoint import Send, Transaction
from warden.sip.message import Response
from warden.sip.parser import parse_message
from warden.sip.transaction import CLOCKS, Machine, State
from warden.sip.uri import parse_uri
from warden.switch.live import SipLeg, Snapshot, ports_of
from warden.switch.registrar import Binding

CSEQ_STEP: Final = 100
"""What a process before this one may have asked of a phone while the store was away, so that no record tells of it. A
phone takes any higher CSeq (RFC 3261 section 12.2.2), and a lower one or the same never."""

_CLIENTS: Final = (Machine.INVITE_CLIENT, Machine.NON_INVITE_CLIENT)
_ANSWERED: Final = (LegPhase.ANSWERED, LegPhase.UP, LegPhase.ENDING)
_UNANSWERED: Final = (State.CALLING, State.TRYING, State.PROCEEDING)


def check(call_id: str, snapshot: Snapshot) -> None:
    """Let nothing into the switch that could not have been written by one: a record may be damaged and yet be read, and
    a call that fails later takes all others with it. Raises `Unreadable`, or what the parts of the call raise.
    """
    call = snapshot.call
    legs = {leg.id for leg in call.legs}
    exchange, session = call.exchange, snapshot.session
    named = {call.near, call.joined, *(failure.leg for failure in call.failures)} - {""}
    if exchange is not None:
        named |= {exchange.by, exchange.to, exchange.takes} - {""}
    if call.transfer is not None:
        named |= {call.transfer.by, call.transfer.of, call.transfer.target} - {""}
    times = (call.started_at, call.no_answer_at, call.max_duration_s, call.answered_at, call.over_at, call.ringing_at)
    ports = (*call.ports.a, *call.ports.b)
    keys = [transaction.key for transaction in snapshot.transactions]
    facts = {
        "it is that of another call": call.id == call_id,
        "its legs are not those of one call": call.caller.id == CALLER
        and len(legs) == len(call.legs) == len(snapshot.legs) <= LEGS_MAX
        and legs == {leg.id for leg in snapshot.legs},
        "it speaks of legs that it does not have": named <= legs,
        "its answered legs lack their dialog": {leg.id for leg in snapshot.legs if leg.dialog is None}.isdisjoint(
            leg.id for leg in call.legs if leg.phase in _ANSWERED
        ),
        "its times are none": all(time is None or isfinite(time) for time in times),
        "its transactions have times that are none": all(map(_is_timed, snapshot.transactions)),
        "its transactions lack their request": all(
            t.request or t.machine not in _CLIENTS or t.state not in _UNANSWERED for t in snapshot.transactions
        ),
        "it has keys for legs that it does not have": {srtp.leg for srtp in snapshot.srtp} <= legs,
        "its ports are none": len(set(ports)) == len(ports) and all(0 < port < 65_536 for port in ports),
        "its transactions have one name": len(set(keys)) == len(keys),
        "its media are those of another call": session is None
        or (session.id == call_id and ports_of(session) <= set(ports)),
    }
    wrong = [what for what, is_so in facts.items() if not is_so]
    if wrong:
        raise Unreadable("; ".join(wrong), newer=False)
    for transaction in snapshot.transactions:
        # It may be said again as it is.
        if transaction.response and not isinstance(parse_message(transaction.response), Response):
            raise Unreadable(f"the answer of {transaction.key} is a request", newer=False)
    # Whatever else may happen to a call: it can be ended.
    step(call, call.started_at, Stopped(Cause(500)))
    for leg in snapshot.legs:
        if leg.dialog is not None:
            parse_uri(leg.dialog.remote_target)
            leg.dialog.request("BYE")
        if leg.instead is not None and leg.instead.dialog is not None:
            parse_uri(leg.instead.dialog.remote_target)
            leg.instead.dialog.request("BYE")


def _is_timed(transaction: Transaction) -> bool:
    """True where it has no times but those of its state's timers."""
    again, end = CLOCKS.get((transaction.machine, transaction.state), (None, None))
    return (
        not (isnan(transaction.resend_at) or isnan(transaction.interval) or isnan(transaction.end_at))
        and (again is not None or transaction.resend_at == inf)
        and (end is not None or transaction.end_at == inf)
        and (transaction.cancellation is None or _is_timed(transaction.cancellation))
    )


def said_again(transaction: Transaction) -> list[Send]:
    """The last message of a transaction that waits for its peer. The process before this one may have died between
    the record and the message, and whoever hears it twice knows it for a repetition.

    A response over a stream is left to `Endpoint.move`: its connection is gone, and the port at the other end of it was
    one that nobody listens on.
    """
    flow = transaction.flow._replace(connection=0)
    if transaction.machine in _CLIENTS:
        waits = transaction.state in (State.CALLING, State.TRYING)
        again = [Send(flow, transaction.request)] if waits and transaction.request else []
        return again if transaction.cancellation is None else again + said_again(transaction.cancellation)
    if flow.transport.reliable:
        return []
    match transaction.state:
        case State.PROCEEDING | State.COMPLETED:
            waits = True
        case State.ACCEPTED:
            # Without a time for the next repetition it has been acknowledged.
            waits = transaction.resend_at < inf
        case _:
            waits = False
    return [Send(flow, transaction.response)] if waits and transaction.response else []


def reconnecting(leg: SipLeg) -> SipLeg:
    """The leg with any connection to the same peer in place of the one it had, and with CSeqs that nobody has used."""
    dialog, instead = leg.dialog, leg.instead
    if dialog is not None:
        dialog = _reconnecting(dialog)
    if instead is not None and instead.dialog is not None:
        instead = replace(instead, dialog=_reconnecting(instead.dialog))
    return replace(leg, flow=leg.flow._replace(connection=0), dialog=dialog, instead=instead)


def _reconnecting(dialog: Dialog) -> Dialog:
    flow = dialog.flow._replace(connection=0)
    return replace(dialog, flow=flow, local_seq=dialog.local_seq + CSEQ_STEP)


def reconnected(bindings: tuple[Binding, ...]) -> tuple[Binding, ...]:
    """The bindings, likewise."""
    return tuple(replace(b, flow=b.flow._replace(connection=0)) for b in bindings)
