"""What a phone tells its owner: a closed union of small frozen values. Nothing here decides anything.

`call` is the phone's handle of a call (its own dialog tag). SDP is text, "" where there is none.
"""

from enum import StrEnum

from msgspec import Struct

from warden.core.address import Address
from warden.sdp.crypto import Keys
from warden.sip.endpoint import Send


class By(StrEnum):
    """Who or what ended a call."""

    US = "us"
    PEER = "peer"
    NETWORK = "network"


class Registered(Struct, frozen=True):
    """A REGISTER was answered 2xx. `expires_s` is what was granted to us, 0 when we are not registered any more;
    `contacts` are all contact URIs of the answer, ours and others'.
    """

    expires_s: int
    contacts: tuple[str, ...] = ()


class RegisterFailed(Struct, frozen=True):
    """A REGISTER came to nothing: `status` is the final one (408 without any answer, 503 without a way there).
    `retry_at` is when the phone tries again by itself, None when it does not.
    """

    status: int
    retry_at: float | None = None


class Incoming(Struct, frozen=True):
    """An INVITE came. The owner goes on with `ring`, `early`, `answer` or `refuse`. `offer` is "" for a late offer."""

    call: str
    number: str
    display: str
    offer: str


class Ringing(Struct, frozen=True):
    """A provisional response (101 to 199) to our INVITE; `sdp` may carry early media, `dialog` is the peer's tag."""

    call: str
    status: int
    sdp: str
    dialog: str = ""


class Answered(Struct, frozen=True):
    """Our INVITE was answered 2xx, and the ACK is on its way (unless the phone's habit is to owe it)."""

    call: str
    sdp: str


class Confirmed(Struct, frozen=True):
    """Our 2xx to an INVITE was acknowledged: the call stands."""

    call: str


class Offered(Struct, frozen=True):
    """A re-INVITE or UPDATE came and the phone's habit is to leave it to the owner: `answer_update` or
    `refuse_update` goes on. `offer` is "" where the peer wants an offer from us.
    """

    call: str
    method: str
    offer: str


class Updated(Struct, frozen=True):
    """An offer within the call was agreed; `ours`: by our re-INVITE or UPDATE."""

    call: str
    ours: bool
    offer: str
    answer: str


class UpdateFailed(Struct, frozen=True):
    """Our re-INVITE or UPDATE was refused; the call goes on as it was."""

    call: str
    status: int


class Talking(Struct, frozen=True):
    """Offer and answer are complete: RTP goes to `remote` (None: nowhere) if `sends`, and is expected if `hears`,
    protected by the keys of `srtp` where there are any.
    """

    call: str
    remote: Address | None
    sends: bool
    hears: bool
    codec: str
    payload_type: int
    telephone_event: int | None = None
    srtp: Keys | None = None


class Info(Struct, frozen=True):
    """An INFO came within the call and was answered 200; `digit` is "" where it carried none."""

    call: str
    digit: str
    content_type: str
    body: bytes


class Referred(Struct, frozen=True):
    """How the transfer is getting on that we asked for: a SIP status, `final` where it is the last word."""

    call: str
    status: int
    final: bool


class Outcome(Struct, frozen=True):
    """The final status of a request whose outcome nothing else tells: OPTIONS (`call` "" outside a call), INFO, REFER,
    BYE.
    """

    call: str
    method: str
    status: int


class Ended(Struct, frozen=True):
    """The call is over. `status` is the final one of the INVITE (200 when it had been answered); `reason` is the
    value of the peer's Reason field, or what went wrong, or "".
    """

    call: str
    by: By
    status: int
    reason: str = ""


class Violation(Struct, frozen=True):
    """The peer broke a rule that a lenient phone would have passed over. Tests want none of these."""

    call: str
    what: str


Event = (
    Registered
    | RegisterFailed
    | Incoming
    | Ringing
    | Answered
    | Confirmed
    | Offered
    | Updated
    | UpdateFailed
    | Talking
    | Info
    | Referred
    | Outcome
    | Ended
    | Violation
)
Output = Send | Event
