"""A call and its legs as frozen values: everything that a successor must know to go on with it."""

from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from warden.call.cdr import Cdr, Party
from warden.call.way import App, Diverted, Step, Why

CALLER = "a"
"""The id of the caller's leg; all others are "b0", "b1" and so on, whichever side they are on, each used once."""
LEGS_MAX = 33
"""Legs of a call at a time: an AOR has at most ten contacts, a group rings 32 phones at once at most."""
LINGER_S = 40.0
"""How long a call that is over waits for the last BYE or CANCEL to be answered: above timer F's 32 s, so that only
a lost event is swept up by it."""


class Phase(StrEnum):
    """Where the whole call stands."""

    SETUP = "setup"
    UP = "up"
    OVER = "over"


class LegPhase(StrEnum):
    """Where one leg stands. OFFERED is the caller waiting for an answer, ANSWERED a leg whose ACK is still to come."""

    OFFERED = "offered"
    DIALLING = "dialling"
    RINGING = "ringing"
    ANSWERED = "answered"
    UP = "up"
    CANCELLING = "cancelling"
    ENDING = "ending"
    GONE = "gone"


class Cause(Struct, frozen=True, gc=False):
    """Why something ends: a SIP status (RFC 3326 protocol SIP) and a word for people."""

    status: int
    text: str = ""


class Leg(Struct, frozen=True, gc=False, omit_defaults=True):
    """One side of the call. `heard` is the SDP of its peer that is in force, `told` the SDP we sent it last ("" where
    there was none yet) and `version` that one's o= version. `closing` is set while a hang-up waits for the ACK, since a
    BYE must not overtake it (RFC 3261 section 15). `side` is whose ports the leg uses, "" for the usual ones: "a" of
    the caller, "b" of the others. `inbound` is True for a leg beside the caller's that was opened by its peer. `sdp_id`
    is the session id in its o= line where that is not the call's, `host` our address for its audio, likewise.
    """

    id: str
    number: str
    phase: LegPhase
    heard: str = ""
    told: str = ""
    version: int = 0
    closing: Cause | None = None
    side: str = ""
    inbound: bool = False
    sdp_id: int = 0
    host: str = ""

    @property
    def on_a(self) -> bool:
        """True where the leg uses the ports of the caller's side."""
        return self.side == "a" if self.side else self.id == CALLER

    @property
    def is_inbound(self) -> bool:
        """True where the peer called us: it is answered, and its ACK awaited."""
        return self.inbound or self.id == CALLER


class Exchange(Struct, frozen=True, gc=False, omit_defaults=True):
    """An offer/answer exchange inside the call, on its way from one leg to the other. `offer` is the offering side's
    SDP, "" while it is still to come from the answering phone (late offer); `answered` once the 2xx went back.

    One that `joins` was asked for by neither: the offer of `by` is fetched for `to` (RFC 3725), to put the two
    together. One that `takes` is an INVITE of `by` to be put in the place of that leg.
    """

    by: str
    to: str
    offer: str = ""
    late: bool = False
    answered: bool = False
    joins: bool = False
    takes: str = ""


class Transfer(Struct, frozen=True, gc=False, omit_defaults=True):
    """The leg `by` asks that leg `of`, which it talks to, be put through to somebody else (RFC 3515). `target` is the
    leg that was answered, "" while it is looked for. `again_at` is when the joining is tried again after a glare
    (`tries` of them so far). `returns`: nobody is put through, but `of` joined with `by` once more, or with who answers
    in its place.
    """

    by: str
    of: str
    target: str = ""
    again_at: float | None = None
    tries: int = 0
    returns: bool = False


class Ports(Struct, frozen=True, gc=False):
    """Where the call's media lives: our address and one even RTP port per stream and side."""

    host: str
    a: tuple[int, ...]
    b: tuple[int, ...] = ()


class Failure(Struct, frozen=True, gc=False, omit_defaults=True):
    """How one callee's leg failed, or a whole step of the way ("" for `leg`), and who had it fail."""

    leg: str
    cause: Cause
    why: Why = Why.REFUSED
    party: Party = Party.CALLEE


class Call(Struct, frozen=True, gc=False, omit_defaults=True):
    """One call. Times are seconds since the epoch, UTC; deadlines are absolute. Who talks with whom are `near`, on the
    caller's side of the media, and `joined`, on the other; `answered_by` is the number that took the call first.

    While it is set up, and while a transfer looks for its target, `way` holds the steps that are left, `visited` where
    forwards have led it and `diverted` whose they were, `failures` those of the step under way and `so_far` the most
    telling of the steps before. `legs_made` legs were made by steps, or came from other calls.
    """

    id: str
    caller: Leg
    dialled: str
    ports: Ports
    sdp_id: int
    started_at: float
    no_answer_at: float
    max_duration_s: float
    phase: Phase = Phase.SETUP
    callees: tuple[Leg, ...] = ()
    near: str = CALLER
    joined: str = ""
    answered_by: str = ""
    transferred_by: str = ""
    transferred_to: str = ""
    app: App | None = None
    late: bool = False
    exchange: Exchange | None = None
    transfer: Transfer | None = None
    failures: tuple[Failure, ...] = ()
    caller_name: str = ""
    sip_call_id: str = ""
    ringing_at: float | None = None
    answered_at: float | None = None
    over_at: float | None = None
    cdr: Cdr | None = None
    way: tuple[Step, ...] = ()
    visited: tuple[str, ...] = ()
    diverted: tuple[Diverted, ...] = ()
    early: bool = False
    so_far: Failure | None = None
    legs_made: int = 0

    def leg(self, leg_id: str) -> Leg:
        """The leg of that id, which must be there."""
        if leg_id == CALLER:
            return self.caller
        for leg in self.callees:
            if leg.id == leg_id:
                return leg
        raise KeyError(leg_id)

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The caller, then the callees."""
        return (self.caller, *self.callees)

    def other(self, leg_id: str) -> Leg | None:
        """The leg that `leg_id` talks to; None before the answer, for applications, and for legs that lost the race."""
        if not self.joined:
            return None
        if leg_id == self.near:
            return self.leg(self.joined)
        return self.leg(self.near) if leg_id == self.joined else None

    @property
    def calling(self) -> Leg:
        """Whom the legs that are made now are called by: the caller, or the party that is transferred."""
        return self.caller if self.transfer is None else self.leg(self.transfer.of)

    @property
    def asking(self) -> str:
        """The number in whose name legs are made now: the caller's, or the referrer's."""
        return self.caller.number if self.transfer is None else self.leg(self.transfer.by).number

    @property
    def taken_by(self) -> str:
        """The extension or application that took an answered call first."""
        return self.answered_by or (self.leg(self.joined).number if self.joined else self.dialled)

    @property
    def pair(self) -> tuple[str, str]:
        """The two legs whose end is that of the call; the second is "" where there is none yet."""
        return self.near, self.joined

    @property
    def deadline(self) -> float | None:
        """When the engine wants a `Due` event."""
        if self.over_at is not None:
            return self.over_at + LINGER_S
        if self.answered_at is not None:
            end = self.answered_at + self.max_duration_s
            if self.transfer is None:
                return end
            due_at = self.transfer.again_at if self.transfer.target else self.no_answer_at
            return end if due_at is None else min(end, due_at)
        return self.no_answer_at

    @property
    def is_finished(self) -> bool:
        """True when nothing is left to wait for: the call may be forgotten."""
        return self.phase is Phase.OVER and not [leg for leg in self.legs if leg.phase is not LegPhase.GONE]


def with_leg(call: Call, leg: Leg) -> Call:
    """The call with this leg in place of the one of the same id."""
    if leg.id == CALLER:
        return replace(call, caller=leg)
    callees = call.callees
    if len(callees) == 1 and callees[0].id == leg.id:
        return replace(call, callees=(leg,))
    return replace(call, callees=tuple([leg if old.id == leg.id else old for old in callees]))


def set_phase(call: Call, leg_id: str, phase: LegPhase) -> Call:
    """The call with that leg in this phase."""
    return with_leg(call, replace(call.leg(leg_id), phase=phase))
