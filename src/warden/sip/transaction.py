"""The four transaction machines of RFC 3261 section 17 as tables, with the changes of RFC 6026.

What a machine may do is here; carrying it out (bytes, timers, outputs) is `warden.sip.endpoint`'s matter. A pair of
state and input that a table lacks is ignored on purpose.
"""

from enum import StrEnum
from math import inf
from typing import Final

from msgspec import Struct

from warden.core.address import Flow
from warden.sip.message import Fields


class Machine(StrEnum):
    """Which of the four figures a transaction follows."""

    INVITE_CLIENT = "invite-client"
    NON_INVITE_CLIENT = "non-invite-client"
    INVITE_SERVER = "invite-server"
    NON_INVITE_SERVER = "non-invite-server"


class State(StrEnum):
    """The states of all four figures."""

    CALLING = "calling"
    TRYING = "trying"
    PROCEEDING = "proceeding"
    COMPLETED = "completed"
    CONFIRMED = "confirmed"
    ACCEPTED = "accepted"
    TERMINATED = "terminated"


class Input(StrEnum):
    """The inputs of all four figures. Responses come from the peer at a client, from the transaction user (TU) at a
    server; `REQUEST` is a retransmission of the request that created a server transaction.
    """

    TIMER_A = "timer A"
    TIMER_B = "timer B"
    TIMER_D = "timer D"
    TIMER_E = "timer E"
    TIMER_F = "timer F"
    TIMER_G = "timer G"
    TIMER_H = "timer H"
    TIMER_I = "timer I"
    TIMER_J = "timer J"
    TIMER_K = "timer K"
    TIMER_L = "timer L"
    TIMER_M = "timer M"
    CANCEL_EXPIRED = "64*T1 since CANCEL"
    PROVISIONAL = "1xx"
    SUCCESS = "2xx"
    FAILURE = "300-699"
    FINAL = "200-699"
    REQUEST = "request"
    ACK = "ACK"
    TRANSPORT_ERROR = "transport error"


class Action(StrEnum):
    """What a transition asks for, in the figures' words."""

    SEND = "send"
    """Send the request (client) or the last response (server)."""
    ACK = "send ACK"
    TO_TU = "to TU"
    INFORM_TU = "inform TU"


Table = dict[tuple[State, Input], tuple[State, tuple[Action, ...]]]
_S, _I, _A = State, Input, Action

INVITE_CLIENT: Final[Table] = {  # figure 5, with RFC 6026's Accepted
    (_S.CALLING, _I.TIMER_A): (_S.CALLING, (_A.SEND,)),
    (_S.CALLING, _I.TIMER_B): (_S.TERMINATED, (_A.INFORM_TU,)),
    (_S.CALLING, _I.TRANSPORT_ERROR): (_S.TERMINATED, (_A.INFORM_TU,)),
    (_S.CALLING, _I.PROVISIONAL): (_S.PROCEEDING, (_A.TO_TU,)),
    (_S.CALLING, _I.SUCCESS): (_S.ACCEPTED, (_A.TO_TU,)),
    (_S.CALLING, _I.FAILURE): (_S.COMPLETED, (_A.ACK, _A.TO_TU)),
    (_S.PROCEEDING, _I.PROVISIONAL): (_S.PROCEEDING, (_A.TO_TU,)),
    (_S.PROCEEDING, _I.SUCCESS): (_S.ACCEPTED, (_A.TO_TU,)),
    (_S.PROCEEDING, _I.FAILURE): (_S.COMPLETED, (_A.ACK, _A.TO_TU)),
    (_S.COMPLETED, _I.FAILURE): (_S.COMPLETED, (_A.ACK,)),
    (_S.COMPLETED, _I.TRANSPORT_ERROR): (_S.TERMINATED, (_A.INFORM_TU,)),
    (_S.COMPLETED, _I.TIMER_D): (_S.TERMINATED, ()),
    (_S.ACCEPTED, _I.SUCCESS): (_S.ACCEPTED, (_A.TO_TU,)),
    (_S.ACCEPTED, _I.TIMER_M): (_S.TERMINATED, ()),
    # Not in the figure: section 9.1 gives a cancelled INVITE 64*T1 to end.
    (_S.PROCEEDING, _I.CANCEL_EXPIRED): (_S.TERMINATED, (_A.INFORM_TU,)),
    # Not in the figure: a peer whose connection is gone while it rings is tried elsewhere at once, not after minutes.
    (_S.PROCEEDING, _I.TRANSPORT_ERROR): (_S.TERMINATED, (_A.INFORM_TU,)),
}

NON_INVITE_CLIENT: Final[Table] = {  # figure 6
    (_S.TRYING, _I.TIMER_E): (_S.TRYING, (_A.SEND,)),
    (_S.TRYING, _I.TIMER_F): (_S.TERMINATED, (_A.INFORM_TU,)),
    (_S.TRYING, _I.TRANSPORT_ERROR): (_S.TERMINATED, (_A.INFORM_TU,)),
    (_S.TRYING, _I.PROVISIONAL): (_S.PROCEEDING, (_A.TO_TU,)),
    (_S.TRYING, _I.FINAL): (_S.COMPLETED, (_A.TO_TU,)),
    (_S.PROCEEDING, _I.TIMER_E): (_S.PROCEEDING, (_A.SEND,)),
    (_S.PROCEEDING, _I.TIMER_F): (_S.TERMINATED, (_A.INFORM_TU,)),
    (_S.PROCEEDING, _I.TRANSPORT_ERROR): (_S.TERMINATED, (_A.INFORM_TU,)),
    (_S.PROCEEDING, _I.PROVISIONAL): (_S.PROCEEDING, (_A.TO_TU,)),
    (_S.PROCEEDING, _I.FINAL): (_S.COMPLETED, (_A.TO_TU,)),
    (_S.COMPLETED, _I.TIMER_K): (_S.TERMINATED, ()),
}

INVITE_SERVER: Final[Table] = {  # figure 7, with RFC 6026's Accepted
    (_S.PROCEEDING, _I.REQUEST): (_S.PROCEEDING, (_A.SEND,)),
    (_S.PROCEEDING, _I.PROVISIONAL): (_S.PROCEEDING, (_A.SEND,)),
    (_S.PROCEEDING, _I.SUCCESS): (_S.ACCEPTED, (_A.SEND,)),
    (_S.PROCEEDING, _I.FAILURE): (_S.COMPLETED, (_A.SEND,)),
    (_S.PROCEEDING, _I.TRANSPORT_ERROR): (_S.PROCEEDING, (_A.INFORM_TU,)),
    (_S.COMPLETED, _I.REQUEST): (_S.COMPLETED, (_A.SEND,)),
    (_S.COMPLETED, _I.TIMER_G): (_S.COMPLETED, (_A.SEND,)),
    (_S.COMPLETED, _I.TIMER_H): (_S.TERMINATED, ()),
    (_S.COMPLETED, _I.TRANSPORT_ERROR): (_S.COMPLETED, (_A.INFORM_TU,)),
    (_S.COMPLETED, _I.ACK): (_S.CONFIRMED, ()),
    (_S.CONFIRMED, _I.TIMER_I): (_S.TERMINATED, ()),
    (_S.ACCEPTED, _I.ACK): (_S.ACCEPTED, (_A.TO_TU,)),
    (_S.ACCEPTED, _I.SUCCESS): (_S.ACCEPTED, (_A.SEND,)),
    (_S.ACCEPTED, _I.TRANSPORT_ERROR): (_S.ACCEPTED, (_A.INFORM_TU,)),
    (_S.ACCEPTED, _I.TIMER_L): (_S.TERMINATED, ()),
}

NON_INVITE_SERVER: Final[Table] = {  # figure 8, transport errors as RFC 6026 section 8.8
    (_S.TRYING, _I.PROVISIONAL): (_S.PROCEEDING, (_A.SEND,)),
    (_S.TRYING, _I.FINAL): (_S.COMPLETED, (_A.SEND,)),
    (_S.PROCEEDING, _I.REQUEST): (_S.PROCEEDING, (_A.SEND,)),
    (_S.PROCEEDING, _I.PROVISIONAL): (_S.PROCEEDING, (_A.SEND,)),
    (_S.PROCEEDING, _I.FINAL): (_S.COMPLETED, (_A.SEND,)),
    (_S.PROCEEDING, _I.TRANSPORT_ERROR): (_S.PROCEEDING, (_A.INFORM_TU,)),
    (_S.COMPLETED, _I.REQUEST): (_S.COMPLETED, (_A.SEND,)),
    (_S.COMPLETED, _I.TRANSPORT_ERROR): (_S.COMPLETED, (_A.INFORM_TU,)),
    (_S.COMPLETED, _I.TIMER_J): (_S.TERMINATED, ()),
}

TABLES: Final[dict[Machine, Table]] = {
    Machine.INVITE_CLIENT: INVITE_CLIENT,
    Machine.NON_INVITE_CLIENT: NON_INVITE_CLIENT,
    Machine.INVITE_SERVER: INVITE_SERVER,
    Machine.NON_INVITE_SERVER: NON_INVITE_SERVER,
}

_M = Machine
CLOCKS: Final[dict[tuple[Machine, State], tuple[Input | None, Input | None]]] = {
    # The input that repeats and the input that ends, while in a state.
    (_M.INVITE_CLIENT, _S.CALLING): (_I.TIMER_A, _I.TIMER_B),
    (_M.INVITE_CLIENT, _S.PROCEEDING): (None, _I.CANCEL_EXPIRED),
    (_M.INVITE_CLIENT, _S.COMPLETED): (None, _I.TIMER_D),
    (_M.INVITE_CLIENT, _S.ACCEPTED): (None, _I.TIMER_M),
    (_M.NON_INVITE_CLIENT, _S.TRYING): (_I.TIMER_E, _I.TIMER_F),
    (_M.NON_INVITE_CLIENT, _S.PROCEEDING): (_I.TIMER_E, _I.TIMER_F),
    (_M.NON_INVITE_CLIENT, _S.COMPLETED): (None, _I.TIMER_K),
    (_M.INVITE_SERVER, _S.COMPLETED): (_I.TIMER_G, _I.TIMER_H),
    (_M.INVITE_SERVER, _S.CONFIRMED): (None, _I.TIMER_I),
    # The TU's own retransmission of its 2xx (section 13.3.1.4) comes in as what it is: a 2xx from the TU.
    (_M.INVITE_SERVER, _S.ACCEPTED): (_I.SUCCESS, _I.TIMER_L),
    (_M.NON_INVITE_SERVER, _S.COMPLETED): (None, _I.TIMER_J),
}


class Timers(Struct, frozen=True, gc=False):
    """RFC 3261 table 4, in seconds. All others follow from these."""

    t1: float = 0.5
    t2: float = 4.0
    t4: float = 5.0
    timer_d: float = 32.0

    @property
    def give_up(self) -> float:
        """64*T1: timers B, F, H, J (unreliable), L and M."""
        return 64 * self.t1


RFC_TIMERS: Final = Timers()
"""The RFC's defaults."""

Spans = dict[tuple[Machine, State, bool], tuple[float, float] | None]


def spans(timers: Timers) -> Spans:
    """By (machine, state, transport is reliable): seconds from entering the state to its first repetition and to its
    end, `inf` for never; None where the timers of the state before go on.
    """
    t1, t4, end = timers.t1, timers.t4, timers.give_up
    out: Spans = {}
    for reliable in (False, True):
        again = inf if reliable else t1
        out |= {
            (_M.INVITE_CLIENT, _S.CALLING, reliable): (again, end),
            (_M.INVITE_CLIENT, _S.PROCEEDING, reliable): (inf, inf),
            (_M.INVITE_CLIENT, _S.COMPLETED, reliable): (inf, 0.0 if reliable else timers.timer_d),
            (_M.INVITE_CLIENT, _S.ACCEPTED, reliable): (inf, end),
            (_M.NON_INVITE_CLIENT, _S.TRYING, reliable): (again, end),
            (_M.NON_INVITE_CLIENT, _S.PROCEEDING, reliable): None,
            (_M.NON_INVITE_CLIENT, _S.COMPLETED, reliable): (inf, 0.0 if reliable else t4),
            (_M.INVITE_SERVER, _S.PROCEEDING, reliable): (inf, inf),
            (_M.INVITE_SERVER, _S.COMPLETED, reliable): (again, end),
            (_M.INVITE_SERVER, _S.CONFIRMED, reliable): (inf, 0.0 if reliable else t4),
            (_M.INVITE_SERVER, _S.ACCEPTED, reliable): (t1, end),
            (_M.NON_INVITE_SERVER, _S.TRYING, reliable): (inf, inf),
            (_M.NON_INVITE_SERVER, _S.PROCEEDING, reliable): (inf, inf),
            (_M.NON_INVITE_SERVER, _S.COMPLETED, reliable): (inf, 0.0 if reliable else end),
        }
    return out


def next_interval(machine: Machine, state: State, interval: float, timers: Timers) -> float:
    """The seconds from one repetition to the next (sections 17.1.1.2, 17.1.2.2, 17.2.1, 13.3.1.4)."""
    if machine is Machine.INVITE_CLIENT:
        return 2 * interval
    if machine is Machine.NON_INVITE_CLIENT and state is State.PROCEEDING:
        return timers.t2
    return min(2 * interval, timers.t2)


class Transaction(Struct, frozen=True, gc=False, omit_defaults=True):
    """A transaction as a value that another process can go on with (msgpack-able).

    `request` is as sent (client, our Via on top) or as heard (server, `received` and `rport` filled in); b"" once a
    final response has passed, when nothing needs it any more. `response` is the last one sent (server). `ack` is our
    ACK for a final response from 300 on (client), `acks` those for a 2xx, by To tag. Times are absolute seconds, `inf`
    for none; `interval` is the span that led to `resend_at`.

    `cancel` holds the extra fields of a CANCEL that was asked for, None if none was (client INVITE);
    `cancellation` the CANCEL's own transaction while it lives; `cancelled` is true once a CANCEL for a server INVITE
    was reported or, at a client, ours was sent.
    """

    key: str
    machine: Machine
    state: State
    method: str
    flow: Flow
    request: bytes = b""
    response: bytes = b""
    ack: bytes = b""
    resend_at: float = inf
    interval: float = inf
    end_at: float = inf
    merge: str = ""
    cancel: Fields | None = None
    cancelled: bool = False
    cancellation: "Transaction | None" = None
    acks: dict[str, tuple[Flow, bytes]] = {}
