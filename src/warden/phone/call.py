"""One call of a phone: its dialog, from INVITE to BYE (RFC 3261 sections 9, 13, 15; RFC 5407 where they cross).

`Call` sets up and takes down; `Changes` makes and answers the offers while the call stands. Every function gives what
to send and what to tell; `Ended` comes once, as the last event of the call. What the peer sends may raise
`MalformedMessage`.
"""

from collections.abc import Callable
from enum import StrEnum
from ipaddress import ip_address

from msgspec.structs import replace

from warden.core.address import Address, Flow, Transport
from warden.core.errors import MalformedMessage
from warden.phone.changes import Changes
from warden.phone.events import (
    Answered,
    By,
    Confirmed,
    Ended,
    Incoming,
    Info,
    Outcome,
    Output,
    Referred,
    Ringing,
    Violation,
)
from warden.phone.line import ALLOW, USER_AGENT, Asked, Line
from warden.phone.session import SDP, Media, Session, sdp_of
from warden.sip.dialog import Dialog, OutOfOrder, dialog_as_uac, dialog_as_uas
from warden.sip.message import Fields, Request, Response
from warden.sip.uri import parse_name_addr, parse_uri

SIPFRAG = "message/sipfrag"


class State(StrEnum):
    """Where a call stands."""

    CALLING = "calling"
    """Our INVITE is on its way, perhaps ringing."""
    CANCELLING = "cancelling"
    """We cancelled it; what it came to is not known yet."""
    INCOMING = "incoming"
    """The peer's INVITE has no final response yet."""
    ANSWERED = "answered"
    """Our 2xx waits for its ACK."""
    UP = "up"
    HANGING_UP = "hanging up"
    """Our BYE is on its way."""
    OVER = "over"


class Call:
    """`tag` is our dialog tag and the call's handle. `dialog` is None until the peer gave its tag, `session` until
    the owner gave its media.
    """

    def __init__(self, line: Line, call_id: str, state: State) -> None:
        self.line = line
        self.call_id = call_id
        self.tag = line.new_token()
        self.state = state
        self.dialog: Dialog | None = None
        self.session: Session | None = None
        self.changes = Changes(self)
        self.answer_at: float | None = None
        self._answer_with: tuple[Media, str] | None = None
        self.outgoing = state is State.CALLING
        self._seq = 0
        self._invite: Asked | None = None
        self._incoming: tuple[str, Request] | None = None
        self._acks: dict[tuple[int, str], tuple[Request, Flow]] = {}
        self._unacked: dict[int, str] = {}
        self._hangs_up = False
        self._contacts: list[str] = []
        """Where the peer was told to reach us before we moved."""

    @property
    def up(self) -> bool:
        """True while offers of ours are in place."""
        return self.state is State.UP

    @property
    def standing(self) -> bool:
        """True while the peer's INVITE is one to change the call."""
        return self.state in (State.ANSWERED, State.UP)

    @property
    def owed_acks(self) -> int:
        """How many of our 2xx to INVITEs are not acknowledged yet."""
        return len(self._unacked)

    @property
    def due(self) -> float | None:
        """When `tick` has something to do."""
        times = [at for at in (self.answer_at, self.changes.again_at) if at is not None]
        return min(times) if times else None

    def tick(self, now: float) -> list[Output]:
        """Give the answer that was put off; offer again after a glare."""
        out: list[Output] = []
        if self.answer_at is not None and self.answer_at <= now and self._answer_with is not None:
            out += self.answer(now, *self._answer_with)
        return out + self.changes.tick(now)

    def owns(self, key: str) -> bool:
        """True where the server transaction `key` is one of this call's."""
        return (
            (self._incoming is not None and self._incoming[0] == key)
            or key in self._unacked.values()
            or self.changes.owns(key)
        )

    # ---- calling

    def call(
        self, now: float, target: str, media: Media, *, sdp: str, late: bool, flow: Flow, replaces: str = ""
    ) -> list[Output]:
        """Send the INVITE: with an offer (`sdp` instead of our own, if given), or without one."""
        self.session = Session(media, self.tag)
        body = "" if late else self.session.offer(text=sdp)

        def make() -> Request:
            self._seq += 1
            fields: Fields = (
                ("Max-Forwards", "70"),
                ("From", f"{self.line.account.name_addr};tag={self.tag}"),
                ("To", f"<{target}>"),
                ("Call-ID", self.call_id),
                ("CSeq", f"{self._seq} INVITE"),
                ("Contact", self.line.contact),
                ("Allow", ALLOW),
                ("User-Agent", USER_AGENT),
            )
            if replaces:
                fields = (*fields, ("Replaces", replaces))
            if body:
                fields = (*fields, ("Content-Type", SDP))
            return Request("INVITE", target, fields, body.encode())

        self._invite, out = self.line.ask(now, make, flow, self._invited)
        return out

    def _invited(self, now: float, asked: Asked, response: Response, heard: bool) -> list[Output]:
        if response.status < 200:
            return self._provisional(asked, response)
        if response.status < 300:
            return self._answered(now, asked, response)
        if self.state not in (State.CALLING, State.CANCELLING):
            return []
        by = By.US if self.state is State.CANCELLING else By.PEER if heard else By.NETWORK
        reason = response.get("Reason") or ("" if heard else response.reason)
        return self._end(by, response.status, reason)

    def _provisional(self, asked: Asked, response: Response) -> list[Output]:
        if response.status == 100 or self.state is not State.CALLING:
            return []
        out: list[Output] = []
        if "100rel" in response.tokens("Require"):
            out.append(Violation(self.tag, "a reliable provisional response that we did not offer to acknowledge"))
        if self.dialog is None or self.dialog.remote_tag != response.to.tag:
            self.dialog = dialog_as_uac(asked.request, response, asked.flow)
        sdp = sdp_of(response)
        out.append(Ringing(self.tag, response.status, sdp, response.to.tag or ""))
        return out + self._take_answer(sdp)

    def _answered(self, now: float, asked: Asked, response: Response) -> list[Output]:
        """A 2xx: the first makes the call, the same again wants its ACK again, that of another fork ACK and BYE."""
        tag = response.to.tag or ""
        sent = self._acks.get((asked.request.cseq.number, tag))
        if sent is not None:
            return self.line.ack(now, *sent)
        early = self.dialog if self.dialog is not None and self.dialog.remote_tag == tag else None
        dialog = early.confirmed(response) if early else dialog_as_uac(asked.request, response, asked.flow)
        if self.state not in (State.CALLING, State.CANCELLING):
            return self._release_fork(now, asked, dialog)
        wanted = self.state is State.CALLING
        self.state, self.dialog = State.UP, dialog
        sdp = sdp_of(response)
        try:
            assert self.session is not None, "an INVITE of ours always has a session"
            if asked.request.body:
                told, ours = self._take_answer(sdp, final=True), ""
            else:
                # Without an offer in the INVITE the 2xx has to bring one.
                ours = self.session.answer(sdp)
                told = self.session.settled(self.tag)
        except MalformedMessage as error:
            out = self.ack(now, asked, ours="")
            return [*out, Violation(self.tag, f"2xx to INVITE: {error}"), *self._bye(now)]
        out = self.ack(now, asked, ours=ours)
        if not wanted:
            return out + self._bye(now)
        if not response.contacts:
            told = [Violation(self.tag, "a 2xx to INVITE without Contact"), *told]
        return [*out, Answered(self.tag, sdp), *told]

    def _take_answer(self, sdp: str, *, final: bool = False) -> list[Output]:
        """Read the answer to our INVITE's offer, from a provisional response or from the 2xx."""
        session = self.session
        assert session is not None, "an INVITE of ours always has a session"
        if not sdp:
            if final and session.open:
                raise MalformedMessage("no answer to our offer")
            wrong = final and session.answer_sdp
            return [Violation(self.tag, "the early answer is not repeated in the 2xx")] if wrong else []
        if session.open:
            session.answered(sdp)
            return session.settled(self.tag)
        if not session.answer_sdp or session.answer_sdp == sdp:
            return []
        session.answered_again(sdp)
        return [Violation(self.tag, "the answer changed between two responses"), *session.settled(self.tag)]

    def _release_fork(self, now: float, asked: Asked, dialog: Dialog) -> list[Output]:
        """Another phone answered as well: take note of it and hang up there (section 13.2.2.4)."""
        flow = self.next_hop(dialog)
        ack = dialog.ack(asked.request.cseq.number)
        self._acks[asked.request.cseq.number, dialog.remote_tag] = (ack, flow)
        fork = dialog

        def make() -> Request:
            nonlocal fork
            fork, request = fork.request("BYE")
            return request

        out = self.line.ack(now, ack, flow)
        return out + self.line.ask(now, make, flow, lambda *_: [])[1]

    # ---- being called

    def invited(self, now: float, key: str, request: Request, flow: Flow) -> list[Output]:
        """A new INVITE: say that we try, and tell the owner."""
        self._incoming = (key, request)
        self.dialog = dialog_as_uas(request, self.tag, self.line.contact, flow)
        caller = request.from_
        out = self.line.respond(now, key, request.respond(100))
        out.append(Incoming(self.tag, caller.uri.username, caller.display, sdp_of(request)))
        return out

    def ring(self, now: float, status: int = 180, media: Media | None = None, sdp: str = "") -> list[Output]:
        """Send a provisional response; with `media` it carries the answer already (early media)."""
        if self.state is not State.INCOMING or self._incoming is None:
            return []
        try:
            body = "" if media is None and not sdp else self._our_sdp(media, sdp)
        except MalformedMessage:
            return self.refuse(now, 488)
        out = self._respond_incoming(now, status, body=body)
        return [*out, *self.session.settled(self.tag)] if body and self.session and not self.session.open else out

    def answer(self, now: float, media: Media, sdp: str = "", after_s: float = 0.0) -> list[Output]:
        """Answer with a 200, at once or after `after_s` seconds; 488 where no codec fits."""
        if self.state is not State.INCOMING or self._incoming is None:
            return []
        if after_s > 0:
            self.answer_at, self._answer_with = now + after_s, (media, sdp)
            return []
        self.answer_at = None
        try:
            body = self._our_sdp(media, sdp)
        except MalformedMessage as error:
            wrong = [] if error.status == 488 else [Violation(self.tag, f"offer: {error}")]
            return [*wrong, *self.refuse(now, 488)]
        key, request = self._incoming
        self.state = State.ANSWERED
        self._incoming = None
        self._unacked[request.cseq.number] = key
        out = self.respond(now, key, request, 200, body=body, dialog_made=True)
        assert self.session is not None, "our SDP comes from a session"
        return out if self.session.open else [*out, *self.session.settled(self.tag)]

    def refuse(self, now: float, status: int, *fields: tuple[str, str]) -> list[Output]:
        """Refuse the INVITE with a final `status` of 300 or more."""
        if self.state is not State.INCOMING:
            return []
        return self._respond_incoming(now, status, *fields) + self._end(By.US, status)

    def _our_sdp(self, media: Media | None, sdp: str) -> str:
        """Our answer to the INVITE's offer, or our offer where it has none; the same again once it was given early."""
        assert self._incoming is not None, "asked for only while an INVITE waits"
        if self.session is None:
            assert media is not None, "the first SDP of a call needs its media"
            self.session = Session(media, self.tag)
            offer = sdp_of(self._incoming[1])
            return self.session.answer(offer, text=sdp) if offer else self.session.offer(text=sdp)
        return self.session.local or self.session.offer()

    def _respond_incoming(self, now: float, status: int, *fields: tuple[str, str], body: str = "") -> list[Output]:
        assert self._incoming is not None, "asked for only while an INVITE waits"
        key, request = self._incoming
        return self.respond(now, key, request, status, *fields, body=body, dialog_made=status < 300)

    # ---- both ways

    def hang_up(self, now: float) -> list[Output]:
        """End the call in the way its state asks for: CANCEL, a refusal, or BYE."""
        match self.state:
            case State.CALLING:
                assert self._invite is not None, "calling means that an INVITE is out"
                self.state = State.CANCELLING
                return self.line.cancel(now, self._invite)
            case State.INCOMING:
                return self.refuse(now, 603)
            case State.ANSWERED:
                # No BYE before the ACK or its time-out (section 15).
                self._hangs_up = True
                return []
            case State.UP:
                return self._bye(now)
            case State.CANCELLING | State.HANGING_UP | State.OVER:
                return []

    def receive(self, now: float, key: str, request: Request, flow: Flow) -> list[Output]:
        """A request within the dialog, in its order (section 12.2.2)."""
        assert self.dialog is not None, "found by its dialog"
        wrong = self._faults(request)
        try:
            self.dialog = self.dialog.received(request)
        except OutOfOrder:
            return [*self.respond(now, key, request, 500), *wrong]
        if flow.transport.reliable and flow != self.dialog.flow:
            self.move(flow)
        return wrong + self._carry_out(now, key, request)

    def _faults(self, request: Request) -> list[Output]:
        """What is wrong with a request within the dialog, though a lenient phone could serve it."""
        assert self.dialog is not None, "found by its dialog"
        last, contacts = self.dialog.remote_seq, (*self._contacts, self.line.contact)
        wrong = []
        if request.cseq.number <= last:
            wrong.append(f"CSeq {request.cseq} after {last}")
        if not any(request.uri.equivalent(parse_name_addr(contact).uri) for contact in contacts):
            wrong.append(f"{request.method} to {request.target}, which is not our Contact")
        if request.method in ("INVITE", "UPDATE") and not request.contacts:
            wrong.append(f"{request.method} without Contact")
        if request.get("Max-Forwards") is None:
            wrong.append(f"{request.method} without Max-Forwards")
        return [Violation(self.tag, what) for what in wrong]

    def _carry_out(self, now: float, key: str, request: Request) -> list[Output]:
        match request.method:
            case "BYE":
                return self._released(now, key, request)
            case "INVITE" | "UPDATE":
                return self.changes.offered(now, key, request)
            case "INFO":
                digit = _digit(request)
                told = Info(self.tag, digit, request.content_type, request.body)
                return [*self.respond(now, key, request, 200), told]
            case "OPTIONS":
                return self.respond(now, key, request, 200, ("Accept", SDP))
            case "NOTIFY":
                return self._notified(now, key, request)
            case _:
                return self.respond(now, key, request, 405)

    def _notified(self, now: float, key: str, request: Request) -> list[Output]:
        """How our REFER is getting on (RFC 3515 section 2.4.4)."""
        if not (request.get("Event") or "").startswith("refer") or request.content_type != SIPFRAG:
            return self.respond(now, key, request, 489)
        status = request.body[8:11]
        if not request.body.startswith(b"SIP/2.0 ") or not status.isdigit():
            return [*self.respond(now, key, request, 400), Violation(self.tag, "NOTIFY without a status line")]
        final = (request.get("Subscription-State") or "").startswith("terminated")
        return [*self.respond(now, key, request, 200), Referred(self.tag, int(status), final)]

    @property
    def as_replaced(self) -> str:
        """The call as a Replaces value, which whoever is at its other end understands (RFC 3891)."""
        assert self.dialog is not None, "a call that has begun has one"
        return f"{self.call_id};to-tag={self.dialog.remote_tag};from-tag={self.tag}"

    def acked(self, now: float, request: Request) -> list[Output]:
        """The ACK of a 2xx of ours; one that comes again means nothing."""
        key = self._unacked.pop(request.cseq.number, None)
        if key is None:
            return []
        out = self.line.sends(self.line.endpoint.acked(now, key))
        if self.state is not State.ANSWERED:
            return out + self.changes.acked(now, sdp_of(request))
        self.state = State.UP
        out.append(Confirmed(self.tag))
        session = self.session
        assert session is not None, "an answered call has a session"
        if session.open:
            try:
                session.answered(sdp_of(request))
                out += session.settled(self.tag)
            except MalformedMessage as error:
                return [*out, Violation(self.tag, f"ACK: {error}"), *self._bye(now)]
        return out + self._bye(now) if self._hangs_up else out

    def ack_missing(self, now: float, key: str) -> list[Output]:
        """A 2xx of ours was never acknowledged: the call is given up with a BYE (section 13.3.1.4)."""
        self._unacked = {cseq: k for cseq, k in self._unacked.items() if k != key}
        if self.state not in (State.ANSWERED, State.UP):
            return []
        return self.give_up(now, 408, "no ACK")

    def cancelled(self, now: float, key: str, request: Request) -> list[Output]:
        """The peer cancelled its INVITE `key`."""
        if self._incoming is None or self._incoming[0] != key:
            return self.changes.cancelled(now, key)
        return self._respond_incoming(now, 487) + self._end(By.PEER, 487, request.get("Reason") or "")

    def _released(self, now: float, key: str, request: Request) -> list[Output]:
        out = self.respond(now, key, request, 200)
        reason = request.get("Reason") or ""
        if self._incoming is not None:
            return out + self._respond_incoming(now, 487) + self._end(By.PEER, 487, reason)
        for unacked in self._unacked.values():
            # Who sends BYE has seen our 2xx; it need not be repeated.
            out += self.line.sends(self.line.endpoint.acked(now, unacked))
        self._unacked.clear()
        out += self.changes.released(now)
        # Where two BYEs cross, ours ends the call when its answer comes.
        return out if self.state is State.HANGING_UP else out + self._end(By.PEER, 200, reason)

    def give_up(self, now: float, status: int, reason: str) -> list[Output]:
        """The peer is not there any more: BYE in case it is, and the call is over for us."""
        out = self._bye(now, Reason=f'SIP;cause={status};text="{reason}"')
        return out + self._end(By.NETWORK, status, reason)

    def _bye(self, now: float, **fields: str) -> list[Output]:
        self.state = State.HANGING_UP
        return self.ask(now, "BYE", self._bye_replied, *fields.items())[1]

    def _bye_replied(self, _now: float, _asked: Asked, response: Response, heard: bool) -> list[Output]:
        if response.status < 200 or self.state is State.OVER:
            return []
        out: list[Output] = [] if heard and response.status < 300 else [Outcome(self.tag, "BYE", response.status)]
        return out + self._end(By.US, 200)

    def _end(self, by: By, status: int, reason: str = "") -> list[Output]:
        if self.state is State.OVER:
            return []
        self.state = State.OVER
        self.answer_at = None
        self.changes.stop()
        self._incoming = None
        return [Ended(self.tag, by, status, reason)]

    # ---- what Changes uses too

    def ask(
        self,
        now: float,
        method: str,
        reply: Callable[[float, Asked, Response, bool], list[Output]],
        *fields: tuple[str, str],
        body: bytes = b"",
        content_type: str = "",
    ) -> tuple[Asked, list[Output]]:
        """Send a request within the dialog."""
        assert self.dialog is not None, "asked for only within a dialog"

        def make() -> Request:
            assert self.dialog is not None, "a dialog stays"
            self.dialog, request = self.dialog.request(method, *fields, body=body, content_type=content_type)
            return request

        return self.line.ask(now, make, self.next_hop(self.dialog), reply)

    def ack(self, now: float, asked: Asked, *, ours: str) -> list[Output]:
        """ACK the 2xx to an INVITE of ours; `ours` is our answer where the 2xx brought the offer. The credentials
        are those of the INVITE (section 22.1).
        """
        assert self.dialog is not None, "a 2xx makes the dialog"
        cseq = asked.request.cseq.number
        names = ("Authorization", "Proxy-Authorization")
        fields = [(name, value) for name in names if (value := asked.request.get(name)) is not None]
        ack = self.dialog.ack(cseq, *fields, body=ours.encode(), content_type=SDP if ours else "")
        flow = self.next_hop(self.dialog)
        self._acks[cseq, self.dialog.remote_tag] = (ack, flow)
        return self.line.ack(now, ack, flow)

    def ack_again(self, now: float, asked: Asked) -> list[Output]:
        """The same ACK, for a 2xx that came again."""
        assert self.dialog is not None, "a 2xx makes the dialog"
        sent = self._acks.get((asked.request.cseq.number, self.dialog.remote_tag))
        return self.line.ack(now, *sent) if sent else []

    def await_ack(self, cseq: int, key: str) -> None:
        """A 2xx to a re-INVITE went out as the response of `key`."""
        self._unacked[cseq] = key

    def respond(
        self, now: float, key: str, request: Request, status: int, *fields: tuple[str, str], body: str = "",
        dialog_made: bool = False,
    ) -> list[Output]:  # fmt: skip
        """Respond within the dialog; `dialog_made` copies Record-Route (section 12.1.1)."""
        more = list(fields)
        if dialog_made:
            more += [("Record-Route", value) for value in request.get_all("Record-Route")]
        if request.method in ("INVITE", "UPDATE") and 100 < status < 300:
            more += [("Contact", self.line.contact)]
        if status in (200, 405):
            more += [("Allow", ALLOW)]
        if body:
            more += [("Content-Type", SDP)]
        return self.line.respond(now, key, request.respond(status, *more, to_tag=self.tag, body=body.encode()))

    def next_hop(self, dialog: Dialog) -> Flow:
        """Where requests of the dialog go: over UDP to the address that the topmost Route or the remote target names
        (section 12.2.1.1), so that a peer which moved is followed; else over the connection the dialog has.
        """
        flow = dialog.flow
        if flow.transport is not Transport.UDP:
            return flow
        uri = parse_name_addr(dialog.route_set[0]).uri if dialog.route_set else parse_uri(dialog.remote_target)
        try:
            ip_address(uri.host)
        except ValueError:
            return flow
        return flow._replace(remote=Address(uri.host, uri.port or 5060))

    def move(self, flow: Flow) -> None:
        """The peer is reached over another connection from now on."""
        if self.dialog is not None:
            self._contacts.append(self.dialog.contact)
            self.dialog = replace(self.dialog, flow=flow, contact=self.line.contact)


def _digit(request: Request) -> str:
    """The digit of an INFO in one of the two forms in use (neither is in an RFC)."""
    text = request.body.decode("utf-8", "replace")
    if request.content_type == "application/dtmf":
        return text.strip()[:1]
    if request.content_type == "application/dtmf-relay":
        for line in text.splitlines():
            name, _, value = line.partition("=")
            if name.strip().lower() == "signal":
                return value.strip()[:1]
    return ""
