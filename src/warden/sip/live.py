"""A transaction while it lives in an endpoint: what it knows of its peer, and how it goes from process to process."""

from math import inf
from typing import Final

from msgspec import Struct

from warden.core.address import Address, Flow, Transport
from warden.core.errors import MalformedMessage
from warden.sip import routing
from warden.sip.message import Fields, Request, Response
from warden.sip.parser import parse_message
from warden.sip.transaction import TABLES, Machine, State, Table, Transaction

SIPS_PORT: Final = 5061
"""Where a Via of TLS without a port means (section 18.2.2)."""
CLIENTS: Final = frozenset((Machine.INVITE_CLIENT, Machine.NON_INVITE_CLIENT))


class Live(Struct, eq=False, gc=False):
    """A transaction while it lives here; `Transaction` is its value. `data` is what SEND sends. Until `waits_until`
    the loss of its flow does not end a client's: for ever where the connection died with an earlier process and the
    peer has yet to make another.
    """

    key: str
    machine: Machine
    table: Table
    state: State
    method: str
    flow: Flow
    request: Request | None
    data: bytes
    ack: bytes = b""
    resend_at: float = inf
    interval: float = inf
    end_at: float = inf
    merge: str = ""
    cancel: Fields | None = None
    cancelled: bool = False
    acks: dict[str, tuple[Flow, bytes]] | None = None
    waits_until: float = 0.0

    def value(self, cancellation: Transaction | None) -> Transaction:
        """As a value for `revived`, together with its CANCEL."""
        request = self.request
        is_client = self.machine in CLIENTS
        if request is None:
            printed = b""
        elif is_client:
            printed = self.data
        else:
            # Printed once: a call is written more often than its INVITE changes.
            if request.raw is None:
                request.raw = bytes(request)
            printed = request.raw
        return Transaction(
            key=self.key,
            machine=self.machine,
            state=self.state,
            method=self.method,
            flow=self.flow,
            request=printed,
            response=b"" if is_client else self.data,
            ack=self.ack,
            resend_at=self.resend_at,
            interval=self.interval,
            end_at=self.end_at,
            merge=self.merge,
            cancel=self.cancel,
            cancelled=self.cancelled,
            cancellation=cancellation,
            acks=self.acks or {},
        )


def revived(transaction: Transaction) -> Live:
    """The transaction in another process, without its CANCEL: connections do not outlive their process, so a stream
    flow becomes "any connection to that peer" (connection 0). Raises `MalformedMessage` for a value that `Live.value`
    did not make.
    """
    request = parse_message(transaction.request) if transaction.request else None
    assert not isinstance(request, Response), "export wrote a request"
    is_client = transaction.machine in CLIENTS
    return Live(
        key=transaction.key,
        machine=transaction.machine,
        table=TABLES[transaction.machine],
        state=transaction.state,
        method=transaction.method,
        flow=transaction.flow._replace(connection=0),
        request=request,
        data=transaction.request if is_client else transaction.response,
        ack=transaction.ack,
        resend_at=transaction.resend_at,
        interval=transaction.interval,
        end_at=transaction.end_at,
        merge=transaction.merge,
        cancel=transaction.cancel,
        cancelled=transaction.cancelled,
        acks={tag: (flow._replace(connection=0), ack) for tag, (flow, ack) in transaction.acks.items()} or None,
        waits_until=inf if transaction.flow.transport.reliable else 0.0,
    )


def is_unanswered(live: Live) -> bool:
    """True where our last message waits for the peer's."""
    if live.machine in CLIENTS:
        return live.state in (State.CALLING, State.TRYING)
    if live.state is State.ACCEPTED:
        return live.resend_at < inf
    return live.state in (State.TRYING, State.PROCEEDING, State.COMPLETED)


def listening(live: Live) -> list[Flow]:
    """Where the peer of a server transaction says that it takes connections (the port of its Via), at the host that it
    came from, if that is not where it came from.
    """
    flow = live.flow
    if flow.transport in (Transport.WS, Transport.WSS):
        # A page listens nowhere.
        return []
    try:
        via = parse_message(live.data).via if live.data else None
    except MalformedMessage:
        return []
    if via is None:
        return []
    port = via.port or (SIPS_PORT if flow.transport is Transport.TLS else routing.SIP_PORT)
    return [] if port == flow.remote.port else [Flow(flow.transport, flow.local, Address(flow.remote.host, port))]


def cancel_key(key: str) -> str:
    """A CANCEL shares its INVITE's branch (section 9.1), so its transaction needs another name."""
    return key + " CANCEL"


def find_sent_tag(live: Live) -> str | None:
    """The To tag of the last response of a server transaction."""
    try:
        return parse_message(live.data).to.tag if live.data else None
    except MalformedMessage:
        return None
