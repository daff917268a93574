"""What may happen to a call, and what a call may ask to be done: two closed unions, both free of SIP.

`leg` is always the id of the leg concerned. An `sdp` is the text as the peer sent it (events) or as it is to be sent
(effects), "" where there is none.
"""

from msgspec import Struct

from warden.call.cdr import Cdr
from warden.call.model import Cause
from warden.call.way import Diverted, Lead, Ring, Step


class Ringing(Struct, frozen=True, gc=False):
    """A callee's phone rings (`status` 180) or makes progress (183), perhaps with early media."""

    leg: str
    status: int
    sdp: str = ""


class Answered(Struct, frozen=True, gc=False):
    """A callee took the call. `sdp` is the answer, or the offer of a call without one."""

    leg: str
    sdp: str = ""


class Failed(Struct, frozen=True, gc=False):
    """A callee will not take the call, cannot be reached, or its cancelled ringing has ended."""

    leg: str
    cause: Cause


class Confirmed(Struct, frozen=True, gc=False):
    """The caller has our answer (its ACK came); `sdp` is its answer to a late offer."""

    leg: str
    sdp: str = ""


class Updated(Struct, frozen=True, gc=False):
    """A party asks to change the session: its offer, or "" where it asks for ours."""

    leg: str
    sdp: str = ""


class UpdateAnswered(Struct, frozen=True, gc=False):
    """A party agreed to the change that we asked of it; `sdp` is its answer, or its offer where we asked for one."""

    leg: str
    sdp: str = ""


class UpdateFailed(Struct, frozen=True, gc=False):
    """A party refused the change that we asked of it."""

    leg: str
    cause: Cause


class UpdateConfirmed(Struct, frozen=True, gc=False):
    """A party has our agreement to its change; `sdp` is its answer to the offer in it, if there was one."""

    leg: str
    sdp: str = ""


class UpdateCancelled(Struct, frozen=True, gc=False):
    """A party no longer wants the change that it asked for."""

    leg: str


class Told(Struct, frozen=True, gc=False):
    """A party sent something for the other (INFO: key presses and the like)."""

    leg: str
    content_type: str
    body: bytes


class HungUp(Struct, frozen=True, gc=False):
    """A party ended its leg: the caller gave up before the answer, or either hung up."""

    leg: str
    cause: Cause | None = None


class Lost(Struct, frozen=True, gc=False):
    """A party's leg is dead: it does not know the dialog, never confirmed, or cannot be reached."""

    leg: str
    cause: Cause


class Silent(Struct, frozen=True, gc=False):
    """A callee has not said a word in the time that it had: its leg is taken back, as one that cannot be reached."""

    leg: str
    cause: Cause


class Gone(Struct, frozen=True, gc=False):
    """A leg that we hung up or cancelled has ended for good."""

    leg: str


class Found(Struct, frozen=True, gc=False):
    """The phones to be rung for the step under way, by what they are called: a leg is made for each, in this order.
    `cause` says why there are none. `hosts` are our addresses for their audio, "" for the call's own.
    """

    numbers: tuple[str, ...]
    cause: Cause | None = None
    hosts: tuple[str, ...] = ()


class Led(Struct, frozen=True, gc=False):
    """Where the step under way leads, in place of what is left of the way; `cause` says why where `way` is empty.
    `visited` are the places gone through in all, `diverted` the extensions that forwarded the call on its way there.
    """

    way: tuple[Step, ...]
    visited: tuple[str, ...] = ()
    cause: Cause | None = None
    diverted: tuple[Diverted, ...] = ()


class SoundsEnded(Struct, frozen=True, gc=False):
    """The application's sounds were played to the end."""


class Stopped(Struct, frozen=True, gc=False):
    """The operator, or trouble on our side, ends the call."""

    cause: Cause


class Due(Struct, frozen=True, gc=False):
    """The call's deadline has come."""


Event = (
    Ringing
    | Answered
    | Failed
    | Confirmed
    | Updated
    | UpdateAnswered
    | UpdateFailed
    | UpdateConfirmed
    | UpdateCancelled
    | Told
    | HungUp
    | Lost
    | Silent
    | Gone
    | Found
    | Led
    | SoundsEnded
    | Stopped
    | Due
)


class Hunt(Struct, frozen=True, gc=False):
    """Find out whom this step rings, or where it leads, and say so at once by `Found` or `Led`."""

    step: Ring | Lead


class Dial(Struct, frozen=True, gc=False):
    """Call this leg's phone."""

    leg: str
    sdp: str


class Progress(Struct, frozen=True, gc=False):
    """Tell the caller that it rings (180) or that there is progress (183)."""

    leg: str
    status: int
    sdp: str


class Accept(Struct, frozen=True, gc=False):
    """Answer the caller."""

    leg: str
    sdp: str


class Refuse(Struct, frozen=True, gc=False):
    """Turn the caller down."""

    leg: str
    cause: Cause


class Confirm(Struct, frozen=True, gc=False):
    """Acknowledge the callee's answer."""

    leg: str
    sdp: str


class Cancel(Struct, frozen=True, gc=False):
    """Stop a callee's phone from ringing."""

    leg: str
    cause: Cause


class Bye(Struct, frozen=True, gc=False):
    """Hang up a leg that was answered."""

    leg: str
    cause: Cause


class Update(Struct, frozen=True, gc=False):
    """Ask a party to change the session: our offer, or "" to ask for its own."""

    leg: str
    sdp: str


class AcceptUpdate(Struct, frozen=True, gc=False):
    """Agree to a party's change."""

    leg: str
    sdp: str


class RefuseUpdate(Struct, frozen=True, gc=False):
    """Refuse a party's change; what was in force stays in force."""

    leg: str
    cause: Cause


class ConfirmUpdate(Struct, frozen=True, gc=False):
    """Acknowledge a party's agreement."""

    leg: str
    sdp: str


class CancelUpdate(Struct, frozen=True, gc=False):
    """Take back the change that we asked of a party; it still ends by `UpdateAnswered` or `UpdateFailed`."""

    leg: str


class Tell(Struct, frozen=True, gc=False):
    """Pass on what the other party sent."""

    leg: str
    content_type: str
    body: bytes


class Notify(Struct, frozen=True, gc=False):
    """Tell a party how the transfer that it asked for is getting on; `final` is the last word on it."""

    leg: str
    cause: Cause
    final: bool = False


class Finished(Struct, frozen=True, gc=False):
    """The call is over and this is its record. Given out exactly once per call."""

    cdr: Cdr


Effect = (
    Hunt
    | Dial
    | Progress
    | Accept
    | Refuse
    | Confirm
    | Cancel
    | Bye
    | Update
    | AcceptUpdate
    | RefuseUpdate
    | ConfirmUpdate
    | CancelUpdate
    | Tell
    | Notify
    | Finished
)
