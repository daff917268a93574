"""What the transaction layer tells its user: a closed union of small values."""

from msgspec import Struct

from warden.core.address import Flow
from warden.sip.message import Request, Response


class Send(Struct, frozen=True, gc=False):
    """Put `data` on the wire."""

    flow: Flow
    data: bytes


class Arrived(Struct, frozen=True, gc=False):
    """A new request wants a final answer through `Endpoint.respond(key, ...)`, or `drop(key)`: the transaction waits
    for it. Never an ACK or a CANCEL. `request` has `received` and `rport` filled in; `flow` is where it was heard.
    """

    key: str
    request: Request
    flow: Flow


class AckArrived(Struct, frozen=True, gc=False):
    """An ACK for a 2xx: the dialog layer knows whose, and calls `Endpoint.acked`. Ignore one that fits none."""

    request: Request
    flow: Flow


class Cancelled(Struct, frozen=True, gc=False):
    """The peer's CANCEL (`request`) for server INVITE `key`, already answered 200: now `respond(key, 487)`."""

    key: str
    request: Request


class Replied(Struct, frozen=True, gc=False):
    """A response to client transaction `key`. For an INVITE also every 2xx of other forks and every retransmission of
    a 2xx until timer M; each wants an ACK from the TU.
    """

    key: str
    response: Response
    flow: Flow


class TimedOut(Struct, frozen=True, gc=False):
    """Client transaction `key` ended without a final response (timer B or F, or 64*T1 after CANCEL): like a 408."""

    key: str


class Unreachable(Struct, frozen=True, gc=False):
    """The flow of client transaction `key` was lost before a final response: like a 503."""

    key: str
    why: str


class AckMissing(Struct, frozen=True, gc=False):
    """The 2xx sent for server INVITE `key` was not acknowledged within 64*T1: the TU should send BYE."""

    key: str


Output = Send | Arrived | AckArrived | Cancelled | Replied | TimedOut | Unreachable | AckMissing


class Counters(Struct):
    """What happened, for metrics; all only grow.

    `malformed` peer messages dropped or answered 400; `retransmitted` requests heard again; `resent` messages that a
    timer repeated; `stray_responses` that match nothing; `merged` requests answered 482; `refused` for
    `TRANSACTIONS_MAX`.
    """

    malformed: int = 0
    retransmitted: int = 0
    resent: int = 0
    stray_responses: int = 0
    merged: int = 0
    refused: int = 0
