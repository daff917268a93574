"""The transaction layer of one seat: a machine (RFC 3261 sections 8.2.2.2, 9, 13.3.1.4, 17, 18; RFC 3581, RFC 6026).

Messages, time and losses go in, outputs come out; what is to be put on the wire is an output too. Nothing here knows
dialogs: the transaction user (TU) finds them by Call-ID and tags.
"""

from collections.abc import Callable, Mapping
from math import inf
from typing import Final

from warden.core.address import Address, Flow, Transport
from warden.core.deadlines import Deadlines
from warden.core.errors import MalformedMessage
from warden.sip import routing
from warden.sip.check import METHODS, check_response
from warden.sip.live import CLIENTS, Live, cancel_key, find_sent_tag, is_unanswered, listening, revived
from warden.sip.message import MAGIC_COOKIE, CSeq, Request, Response, Via, print_via
from warden.sip.outputs import (
    AckArrived,
    AckMissing,
    Arrived,
    Cancelled,
    Counters,
    Output,
    Replied,
    Send,
    TimedOut,
    Unreachable,
)
from warden.sip.transaction import (
    CLOCKS,
    RFC_TIMERS,
    TABLES,
    Action,
    Input,
    Machine,
    State,
    Timers,
    Transaction,
    next_interval,
    spans,
)
from warden.sip.uri import NameAddr

__all__ = [
    "AckArrived",
    "AckMissing",
    "Arrived",
    "Cancelled",
    "Counters",
    "Endpoint",
    "Output",
    "Replied",
    "Send",
    "TimedOut",
    "Timers",
    "Transaction",
    "Unreachable",
]

TRANSACTIONS_MAX: Final = 100_000
"""Live transactions of one endpoint. A call through the B2BUA costs about 100 transaction-seconds (three that linger
32 s, one 5 s), so this is 1,000 calls a second, all that one process can carry; at about 3 KiB each, 300 MiB."""
ACKS_MAX: Final = 16
"""ACKs kept per INVITE, one for each phone behind a forking proxy that answered: as many as a call has legs."""
OVERLOAD_RETRY_AFTER_S: Final = 5
"""When a refused peer may try again: most lingering transactions are gone within T4 to 64*T1."""


class Endpoint:
    """The transaction layer of one seat.

    `new_token` gives unguessable text for branches (token characters, unique). `sent_by` is what our Via says per
    transport, read as requests are sent; a transport that it lacks says the flow's local address.
    """

    def __init__(
        self,
        new_token: Callable[[], str],
        sent_by: Mapping[Transport, Address],
        timers: Timers = RFC_TIMERS,
        *,
        transactions_max: int = TRANSACTIONS_MAX,
    ) -> None:
        self.counters = Counters()
        self._transactions_max = transactions_max
        self._new_token = new_token
        self._sent_by = sent_by
        self._timers = timers
        self._spans = spans(timers)
        self._live: dict[str, Live] = {}
        self._deadlines: Deadlines[str] = Deadlines()
        self._merges: dict[str, str] = {}
        # What a lost or replaced flow may concern, by remote address, so that it costs what hangs on it and no more:
        # client transactions, and all those on streams.
        self._at: dict[Address, dict[str, None]] = {}

    def __len__(self) -> int:
        """Live transactions."""
        return len(self._live)

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called; None for never."""
        return self._deadlines.earliest

    def knows(self, request: Request) -> bool:
        """True where the request, which is no ACK and no CANCEL, is the one of a transaction here. Raises
        `MalformedMessage`.
        """
        return routing.server_key(request, request.via, request.method) in self._live

    # From the wire

    def receive(self, now: float, message: Request | Response, flow: Flow) -> list[Output]:
        """A message was heard on `flow`. Whatever it holds, nothing is raised."""
        if isinstance(message, Request):
            return self._receive_request(now, message, flow)
        return self._receive_response(now, message, flow)

    def lost(self, now: float, flow: Flow, why: str) -> list[Output]:
        """The flow is gone (stream closed, or ICMP says nobody is there): unanswered client transactions on it end as
        `Unreachable`. Server transactions stay (RFC 6026 section 8.8): their retransmissions and the peer's decide; a
        final answer that was not acknowledged is tried where the peer says that it listens (section 18.2.2). Those
        that wait for the peer to come back stay too: behind NAT it can come to us and we cannot go to it.
        """
        out: list[Output] = []
        for key in tuple(self._at.get(flow.remote, ())):
            live = self._live.get(key)
            if live is None or live.flow != flow:
                continue
            if live.machine not in CLIENTS:
                if is_unanswered(live) and live.state is not State.PROCEEDING:
                    out += [Send(to, live.data) for to in listening(live)]
            elif now >= live.waits_until:
                out += self._step(now, live, Input.TRANSPORT_ERROR, why=why)
        return out

    def tick(self, now: float) -> list[Output]:
        """Do what is due at `now`. Repetitions that were missed meanwhile are made up for by one."""
        out: list[Output] = []
        while (key := self._deadlines.pop_due(now)) is not None:
            live = self._live[key]
            again, end = CLOCKS[live.machine, live.state]
            if live.end_at <= now:
                assert end is not None, "a deadline is only set where CLOCKS names its timer"
                if live.machine is Machine.INVITE_SERVER and live.state is State.ACCEPTED and live.resend_at < inf:
                    out.append(AckMissing(key))
                if live.table.get((live.state, end)) == _ENDS:
                    # What nearly all end by: nobody is told.
                    self._remove(live)
                else:
                    out += self._step(now, live, end)
            else:
                assert again is not None, "a repetition is only set where CLOCKS names its timer"
                self.counters.resent += 1
                live.interval = next_interval(live.machine, live.state, live.interval, self._timers)
                live.resend_at = now + live.interval
                out += self._step(now, live, again)
                self._arm(live)
        return out

    # From the transaction user

    def request(self, now: float, request: Request, flow: Flow, *, patience_s: float = 0.0) -> tuple[str, list[Output]]:
        """Start a client transaction (no ACK, no CANCEL: see `send_ack`, `cancel`) and send its request with our Via
        on top. Returns the key (its branch) and the outputs. Losing its flow does not end it in the first `patience_s`:
        a peer whose connection is gone may come back (`move`), or somebody take the address where nobody is.
        """
        assert request.method not in ("ACK", "CANCEL"), "these have their own ways"
        key = MAGIC_COOKIE + self._new_token()
        return key, self._start(now, key, request.with_first("Via", self._via(flow, key)), flow, now + patience_s)

    def respond(self, now: float, key: str, response: Response) -> list[Output]:
        """Answer the request of server transaction `key`. A late answer (transaction gone, or answered finally
        before) gives []. A 2xx to an INVITE is repeated, over any transport, until `acked` (section 13.3.1.4).
        """
        live = self._live.get(key)
        if live is None:
            return []
        status = response.status
        if status < 200:
            happened = Input.PROVISIONAL
        elif live.machine is Machine.NON_INVITE_SERVER:
            happened = Input.FINAL
        else:
            happened = Input.SUCCESS if status < 300 else Input.FAILURE
        if (live.state, happened) not in live.table or live.machine in CLIENTS:
            return []
        live.data = bytes(response)
        return self._step(now, live, happened)

    def respond_once(self, key: str, response: Response) -> list[Output]:
        """Answer the request of server transaction `key` finally, and forget it (sections 8.2.7 and 26.3.2.4): for
        requests whose sender is not known yet, who could otherwise fill our memory, or let us repeat the answer to
        somebody else. Each copy of the request is `Arrived` again and wants the same answer, so the To tag must be
        `routing.stateless_tag`; an ACK for it is an `AckArrived` that fits no dialog. A late answer gives [].
        """
        live = self._live.get(key)
        if live is None or live.machine in CLIENTS or live.state not in (State.TRYING, State.PROCEEDING):
            return []
        self._remove(live)
        return [Send(live.flow, bytes(response))]

    def refuse(
        self, request: Request, flow: Flow, status: int, *fields: tuple[str, str], to_tag: str = ""
    ) -> list[Output]:
        """Answer a request that is no transaction here, without keeping state (section 8.2.7): each copy gets the same
        answer. [] for an ACK, and where the Via is too broken to tell anybody.
        """
        if request.method == "ACK":
            return []
        try:
            heard, reply_flow = routing.as_heard(request, request.via, flow)
        except MalformedMessage:
            return []
        try:
            response = heard.respond(status, *fields, to_tag=to_tag or routing.stateless_tag(request))
        except MalformedMessage:
            response = heard.respond(status, *fields)
        return [Send(reply_flow, bytes(response))]

    def acked(self, now: float, key: str) -> list[Output]:  # noqa: ARG002 - every input of a machine carries the time
        """The ACK for the 2xx of server INVITE `key` was heard, or its dialog has ended: stop repeating the 2xx."""
        live = self._live.get(key)
        if live is not None and live.machine is Machine.INVITE_SERVER and live.state is State.ACCEPTED:
            live.resend_at = inf
            self._arm(live)
        return []

    def cancel(self, now: float, key: str, *fields: tuple[str, str]) -> list[Output]:
        """CANCEL client INVITE `key`, `fields` (Reason ...) added: at once if a provisional response came, else as
        soon as one comes (section 9.1). After a final response or a first `cancel`: []. The INVITE still ends by
        `Replied`, or 64*T1 after the CANCEL by `TimedOut`.
        """
        live = self._live.get(key)
        if live is None or live.machine is not Machine.INVITE_CLIENT or live.cancel is not None:
            return []
        if live.state is State.CALLING:
            live.cancel = fields
        elif live.state is State.PROCEEDING:
            live.cancel = fields
            return self._send_cancel(now, live)
        return []

    def send_ack(self, now: float, ack: Request, flow: Flow, key: str = "") -> list[Output]:  # noqa: ARG002
        """Send the ACK for a 2xx, with our Via and a branch of its own; it is no transaction.

        With the `key` of its INVITE the same ACK answers each repetition of the 2xx until timer M, which then is no
        `Replied` any more; `export` carries it along.
        """
        branch = MAGIC_COOKIE + self._new_token()
        data = bytes(ack.with_first("Via", self._via(flow, branch)))
        if (live := self._live.get(key)) is not None:
            acks = live.acks = live.acks or {}
            if len(acks) < ACKS_MAX:
                acks[ack.to.tag or ""] = flow, data
        return [Send(flow, data)]

    def move(self, key: str, old: Flow, new: Flow) -> list[Output]:
        """The peer that was reached by stream flow `old` has come back on `new`: transaction `key` goes on there, and
        what is still unanswered is said again, since the peer may have missed it.
        """
        live = self._live.get(key)
        if live is None or live.flow != old or not (old.transport.reliable and new.transport.reliable):
            return []
        self._take_along(live, new)
        out: list[Output] = [Send(new, live.data)] if is_unanswered(live) and live.data else []
        return out + self.move(cancel_key(key), old, new) if live.cancelled else out

    def move_all(self, old: Flow, new: Flow) -> list[Output]:
        """The same for every transaction on the old flow, also those that nobody keeps any more: refusals."""
        return [output for key in tuple(self._at.get(old.remote, ())) for output in self.move(key, old, new)]

    def drop(self, key: str) -> None:
        """Forget a transaction (and the CANCEL of a client INVITE) silently."""
        if (live := self._live.get(key)) is not None:
            self._remove(live)

    # Moving to another process

    def export(self, key: str) -> Transaction | None:
        """The transaction as a value for `restore`; None where it is gone. That of a client INVITE holds its CANCEL."""
        live = self._live.get(key)
        if live is None:
            return None
        return live.value(self.export(cancel_key(key)) if live.cancel is not None else None)

    def restore(self, now: float, transaction: Transaction) -> list[Output]:
        """Go on with a transaction where `export` left it. What fell due meanwhile is due at the next `tick`.

        Connections do not outlive their process: a stream flow becomes "any connection to that peer" (connection 0).
        Raises `MalformedMessage` for a value that `export` did not make.
        """
        live = revived(transaction)
        self.drop(live.key)
        self._add(live, is_client=live.machine in CLIENTS)
        self._arm(live)
        if transaction.cancellation is not None:
            self.restore(now, transaction.cancellation)
        return []

    # Inside

    def _receive_request(self, now: float, request: Request, flow: Flow) -> list[Output]:
        method = request.method
        try:
            via, cseq, from_, to = _essentials(request)
            key = routing.server_key(request, via, "INVITE" if method in ("ACK", "CANCEL") else method)
        except MalformedMessage as error:
            self.counters.malformed += 1
            return self.refuse(request, flow, error.status or 400)
        live = self._live.get(key)
        if method == "ACK":
            if live is None and not routing.has_rfc3261_branch(via):
                live = self._find_acked_by_rfc2543(request, to)
            if live is None:
                return [AckArrived(request, flow)]
            return self._step(now, live, Input.ACK, request=request, heard_on=flow)
        if method == "CANCEL":
            return self._receive_cancel(request, live, flow)
        if live is not None:
            self.counters.retransmitted += 1
            self._take_along(live, followed(live.flow, flow))
            return self._step(now, live, Input.REQUEST)
        if len(self._live) >= self._transactions_max:
            self.counters.refused += 1
            return self.refuse(request, flow, 503, ("Retry-After", str(OVERLOAD_RETRY_AFTER_S)))
        merge = ""
        if to.tag is None:
            merge = routing.merge_key(request, from_.tag or "", cseq)
            if merge in self._merges:
                self.counters.merged += 1
                return self.refuse(request, flow, 482)
        heard, reply_flow = routing.as_heard(request, via, flow)
        if method == "INVITE":
            machine, state = Machine.INVITE_SERVER, State.PROCEEDING
        else:
            machine, state = Machine.NON_INVITE_SERVER, State.TRYING
        live = Live(key, machine, TABLES[machine], state, method, reply_flow, heard, b"", merge=merge)
        self._add(live, is_client=False)
        return [Arrived(key, heard, flow)]

    def _find_acked_by_rfc2543(self, ack: Request, to: NameAddr) -> Live | None:
        # The INVITE that created the transaction had no To tag; the ACK has the one of our response (17.2.3).
        live = self._live.get(routing.rfc2543_key(ack, "INVITE", ""))
        return live if live is not None and find_sent_tag(live) == to.tag else None

    def _receive_cancel(self, cancel: Request, live: Live | None, flow: Flow) -> list[Output]:
        # A CANCEL is answered without state: each copy gets the same answer, and only the first is told.
        if live is None:
            # Other requests than INVITE cannot be cancelled any more, only the CANCEL be answered (section 9.2).
            keys = (routing.server_key(cancel, cancel.via, method) for method in METHODS)
            return self.refuse(cancel, flow, 200 if any(key in self._live for key in keys) else 481)
        out = self.refuse(cancel, flow, 200, to_tag=find_sent_tag(live) or "")
        if live.state is State.PROCEEDING and not live.cancelled:
            self._take_along(live, followed(live.flow, flow))
            live.cancelled = True
            out.append(Cancelled(live.key, cancel))
        return out

    def _receive_response(self, now: float, response: Response, flow: Flow) -> list[Output]:
        try:
            branch, method = routing.find_branch(response.get("Via") or ""), response.cseq.method
            live = self._live.get(cancel_key(branch) if method == "CANCEL" else branch)
            if live is None or live.method != method:
                self.counters.stray_responses += 1
                return []
            check_response(response, via_is_ours=True)
        except MalformedMessage:
            self.counters.malformed += 1
            return []
        if flow != live.flow and flow.transport.reliable:
            self._take_along(live, followed(live.flow, flow))
        status = response.status
        if status < 200:
            happened = Input.PROVISIONAL
        elif live.machine is Machine.NON_INVITE_CLIENT:
            happened = Input.FINAL
        else:
            happened = Input.SUCCESS if status < 300 else Input.FAILURE
            if live.acks and happened is Input.SUCCESS and (ack := live.acks.get(response.to.tag or "")):
                return [Send(*ack)]
        out = self._step(now, live, happened, response=response, heard_on=flow)
        if live.cancel is not None and not live.cancelled and live.state is State.PROCEEDING:
            out += self._send_cancel(now, live)
        return out

    def _send_cancel(self, now: float, live: Live) -> list[Output]:
        assert live.request is not None, "kept until a final response"
        assert live.cancel is not None, "asked for"
        live.cancelled = True
        live.end_at = now + self._timers.give_up
        self._arm(live)
        cancel = routing.build_cancel(live.request, live.cancel)
        return self._start(now, cancel_key(live.key), cancel, live.flow, live.waits_until)

    def _start(self, now: float, key: str, request: Request, flow: Flow, waits_until: float) -> list[Output]:
        if request.method == "INVITE":
            machine, state = Machine.INVITE_CLIENT, State.CALLING
        else:
            machine, state = Machine.NON_INVITE_CLIENT, State.TRYING
        data = bytes(request)
        live = Live(key, machine, TABLES[machine], state, request.method, flow, request, data)
        live.waits_until = waits_until
        self._add(live, is_client=True)
        self._enter(now, live, state)
        return [Send(flow, data)]

    def _via(self, flow: Flow, branch: str) -> str:
        ours = self._sent_by.get(flow.transport) or flow.local
        if ":" in flow.remote.host and ":" not in ours.host:
            # A peer that speaks the other version of IP was heard at the other address.
            ours = flow.local
        return print_via(flow.transport, *ours, branch)

    def _step(
        self,
        now: float,
        live: Live,
        happened: Input,
        *,
        response: Response | None = None,
        request: Request | None = None,
        heard_on: Flow | None = None,
        why: str = "",
    ) -> list[Output]:
        transition = live.table.get((live.state, happened))
        if transition is None:
            return []
        state, actions = transition
        out: list[Output] = []
        for action in actions:
            if action is Action.SEND:
                if live.data:
                    out.append(Send(live.flow, live.data))
            elif action is Action.ACK:
                if not live.ack:
                    assert live.request is not None, "kept until a final response"
                    assert response is not None, "ACK acknowledges one"
                    live.ack = bytes(routing.build_ack(live.request, response.get("To") or ""))
                out.append(Send(live.flow, live.ack))
            elif action is Action.TO_TU:
                if response is not None and live.method != "CANCEL":
                    assert heard_on is not None, "came from the wire"
                    out.append(Replied(live.key, response, heard_on))
                elif request is not None:
                    assert heard_on is not None, "came from the wire"
                    out.append(AckArrived(request, heard_on))
            elif live.machine in CLIENTS and live.state is not State.COMPLETED and live.method != "CANCEL":
                # INFORM_TU. Nobody waits for a CANCEL, nor for a transaction whose final response was told.
                out.append(Unreachable(live.key, why) if happened is Input.TRANSPORT_ERROR else TimedOut(live.key))
        if state is not live.state:
            self._enter(now, live, state)
        return out

    def _enter(self, now: float, live: Live, state: State) -> None:
        live.state = state
        if state is State.TERMINATED:
            self._remove(live)
            return
        span = self._spans[live.machine, state, live.flow.transport is not Transport.UDP]
        if span is None:
            return
        again, end = span
        if end <= 0:
            live.state = State.TERMINATED
            self._remove(live)
            return
        live.interval = again
        live.resend_at = now + again
        live.end_at = now + end
        if state in _ANSWERED:
            live.request = None
            if live.machine in CLIENTS:
                live.data = b""
        self._arm(live)

    def _arm(self, live: Live) -> None:
        at = min(live.resend_at, live.end_at)
        if at < inf:
            self._deadlines.set(live.key, at)
        else:
            self._deadlines.clear(live.key)

    def _add(self, live: Live, *, is_client: bool) -> None:
        self._live[live.key] = live
        if is_client or live.flow.transport.reliable:
            self._at.setdefault(live.flow.remote, {})[live.key] = None
        if live.merge:
            self._merges[live.merge] = live.key

    def _take_along(self, live: Live, flow: Flow) -> None:
        """The peer of the transaction is there and nowhere else."""
        live.waits_until = 0.0
        if flow == live.flow:
            return
        old, live.flow = live.flow, flow
        if live.acks:
            live.acks = {tag: (flow if at == old else at, ack) for tag, (at, ack) in live.acks.items()}
        if flow.remote != old.remote:
            self._forget_flow(live.key, old.remote)
            self._at.setdefault(flow.remote, {})[live.key] = None

    def _forget_flow(self, key: str, remote: Address) -> None:
        if (keys := self._at.get(remote)) is not None:
            keys.pop(key, None)
            if not keys:
                del self._at[remote]

    def _remove(self, live: Live) -> None:
        del self._live[live.key]
        self._deadlines.clear(live.key)
        if live.merge and self._merges.get(live.merge) == live.key:
            del self._merges[live.merge]
        self._forget_flow(live.key, live.flow.remote)
        # A CANCEL ends with its INVITE: its answer interests nobody, and a snapshot of the INVITE holds all there is.
        if live.cancelled and (cancel := self._live.get(cancel_key(live.key))) is not None:
            self._remove(cancel)


_ENDS: Final = (State.TERMINATED, ())
_ANSWERED: Final = frozenset((State.COMPLETED, State.CONFIRMED, State.ACCEPTED))


def followed(known: Flow, heard: Flow) -> Flow:
    """Where a peer is that was reached by `known` and has answered on `heard`: on its new connection, if both are
    streams. Any connection to the same address (connection 0) stays that.
    """
    if not (known.transport.reliable and heard.transport.reliable):
        return known
    new = heard if known.connection else heard._replace(connection=0)
    return known if new == known else heard


def _essentials(request: Request) -> tuple[Via, CSeq, NameAddr, NameAddr]:
    """The headers without which nothing can be matched. Raises `MalformedMessage` (400)."""
    via, cseq, from_, to = request.via, request.cseq, request.from_, request.to
    if not request.call_id:
        raise MalformedMessage("Call-ID: empty", 400)
    if cseq.method != request.method:
        raise MalformedMessage("CSeq: not the method of the request", 400)
    return via, cseq, from_, to
