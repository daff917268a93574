"""Warden's own test phone: one line that registers, calls and is called, as a machine.

Nothing here knows sockets or clocks: `receive` and `tick` take what happened and when, commands take when, and all
give what to send and what to tell. The owner brings the RTP addresses and moves the audio (`Talking` says where to).
A command for a call that is over gives [].
"""

from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from warden.core.address import Flow
from warden.core.errors import MalformedMessage
from warden.phone.call import Call, State
from warden.phone.changes import Change
from warden.phone.events import Ended, Outcome, Output, Violation
from warden.phone.line import ALLOW, USER_AGENT, Account, Asked, Habits, Line
from warden.phone.registration import Registration
from warden.phone.session import SDP, Media
from warden.sdp.session import Direction
from warden.sip.endpoint import (
    AckArrived,
    AckMissing,
    Arrived,
    Cancelled,
    Endpoint,
    Replied,
    Send,
    TimedOut,
    Timers,
    Unreachable,
)
from warden.sip.endpoint import Output as EndpointOutput
from warden.sip.message import Request, Response

CALLS_MAX: Final = 16
"""Calls of one phone at a time: more than a desk phone has keys for; the next caller gets 486."""


class Phone:
    """`flow` leads to the server (or to whom the phone talks without one); `new_token` gives unguessable tokens,
    another one at each call.
    """

    def __init__(
        self,
        account: Account,
        flow: Flow,
        new_token: Callable[[], str],
        *,
        habits: Habits | None = None,
        timers: Timers | None = None,
    ) -> None:
        self._endpoint = Endpoint(new_token, {}, timers or Timers())
        self._line = Line(account, flow, habits or Habits(), self._endpoint, new_token)
        self._registration = Registration(self._line)
        self._calls: dict[str, Call] = {}

    def __len__(self) -> int:
        """Calls, requests and transactions that are not over: 0 when nothing is left behind."""
        return len(self._calls) + len(self._line) + len(self._endpoint)

    @property
    def calls(self) -> dict[str, State]:
        """The calls that are not over, and where they stand."""
        return {tag: call.state for tag, call in self._calls.items()}

    @property
    def habits(self) -> Habits:
        """How the phone behaves; may be changed at any time."""
        return self._line.habits

    @habits.setter
    def habits(self, habits: Habits) -> None:
        self._line.habits = habits

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called; None for never."""
        times = [self._endpoint.deadline, self._registration.due, self._line.forgetting.earliest]
        times += [call.due for call in self._calls.values()]
        return min((at for at in times if at is not None), default=None)

    # ---- what happens

    def receive(self, now: float, message: Request | Response, flow: Flow) -> list[Output]:
        """A message came over `flow`."""
        return self._carry(now, self._endpoint.receive(now, message, flow))

    def lost(self, now: float, flow: Flow, why: str) -> list[Output]:
        """A connection ended or nobody is at its other end: what waits for an answer over it fails."""
        return self._carry(now, self._endpoint.lost(now, flow, why))

    def tick(self, now: float) -> list[Output]:
        """Time has come (any time is fine; late is made up for)."""
        out = self._carry(now, self._endpoint.tick(now))
        self._line.forget_due(now)
        out += self._registration.tick(now)
        for call in tuple(self._calls.values()):
            if call.due is not None:
                out += call.tick(now)
        return self._told(out)

    def use(self, now: float, flow: Flow) -> list[Output]:
        """Another flow leads to the server from now on (a new connection): calls go on over it, and the phone
        registers again if it was registered.
        """
        self._line.flow = flow
        for call in self._calls.values():
            if call.dialog is not None and call.dialog.flow.transport.reliable:
                call.move(flow)
        return self._registration.again(now)

    # ---- commands

    def register(self, now: float, expires_s: int = 3600) -> list[Output]:
        """Register, and stay so until `unregister`."""
        return self._registration.register(now, expires_s)

    def unregister(self, now: float) -> list[Output]:
        """Remove our contact."""
        return self._registration.register(now, 0)

    def options(self, now: float, target: str = "") -> list[Output]:
        """Ask the server, or `target` (a URI), what it can do; `Outcome` tells."""
        account = self._line.account
        uri = target or f"sip:{account.domain}"
        call_id, tag = self._line.new_token(), self._line.new_token()
        seq = 0

        def make() -> Request:
            nonlocal seq
            seq += 1
            return Request(
                "OPTIONS",
                uri,
                (
                    ("Max-Forwards", "70"),
                    ("From", f"{account.name_addr};tag={tag}"),
                    ("To", f"<{uri}>"),
                    ("Call-ID", call_id),
                    ("CSeq", f"{seq} OPTIONS"),
                    ("Contact", self._line.contact),
                    ("Accept", SDP),
                    ("User-Agent", USER_AGENT),
                ),
            )

        return self._line.ask(now, make, self._line.flow, _outcome(""))[1]

    def call(
        self, now: float, target: str, media: Media, *, sdp: str = "", late: bool = False, flow: Flow | None = None,
        replaces: str = "",
    ) -> tuple[str, list[Output]]:  # fmt: skip
        """Call a number of our domain, or a SIP URI. Gives the call's handle. `sdp` is offered as it is; with `late`
        nothing is offered, and the ACK answers what the 2xx offers. `replaces` is the dialog whose place we want.
        """
        uri = target if ":" in target else f"sip:{target}@{self._line.account.domain}"
        call = Call(self._line, self._line.new_token(), State.CALLING)
        self._calls[call.tag] = call
        flow = flow or self._line.flow
        return call.tag, self._told(call.call(now, uri, media, sdp=sdp, late=late, flow=flow, replaces=replaces))

    def ring(self, now: float, tag: str, status: int = 180) -> list[Output]:
        """Tell the caller that we ring (180), or another provisional status."""
        call = self._calls.get(tag)
        return self._told(call.ring(now, status)) if call else []

    def early(self, now: float, tag: str, media: Media, status: int = 183, sdp: str = "") -> list[Output]:
        """Answer the offer already in a provisional response: early media."""
        call = self._calls.get(tag)
        return self._told(call.ring(now, status, media, sdp)) if call else []

    def answer(self, now: float, tag: str, media: Media, *, sdp: str = "", after_s: float = 0.0) -> list[Output]:
        """Answer with a 200, at once or after `after_s` seconds."""
        call = self._calls.get(tag)
        return self._told(call.answer(now, media, sdp, after_s)) if call else []

    def refuse(self, now: float, tag: str, status: int = 486, *fields: tuple[str, str]) -> list[Output]:
        """Refuse with a final status of 300 or more."""
        call = self._calls.get(tag)
        return self._told(call.refuse(now, status, *fields)) if call else []

    def hang_up(self, now: float, tag: str) -> list[Output]:
        """End the call: CANCEL, a refusal or BYE, whichever fits."""
        call = self._calls.get(tag)
        return self._told(call.hang_up(now)) if call else []

    def hold(self, now: float, tag: str) -> list[Output]:
        """Offer to hear nothing more (re-INVITE, sendonly)."""
        return self.reinvite(now, tag, direction=Direction.SENDONLY)

    def resume(self, now: float, tag: str) -> list[Output]:
        """Take the call off hold (re-INVITE, sendrecv)."""
        return self.reinvite(now, tag, direction=Direction.SENDRECV)

    def reinvite(
        self, now: float, tag: str, *, direction: Direction | None = None, sdp: str = "", late: bool = False
    ) -> list[Output]:
        """Send a re-INVITE with an offer of ours (or `sdp` as it is), or without one (`late`)."""
        call = self._calls.get(tag)
        return self._told(call.changes.offer(now, Change("INVITE", direction, sdp, late))) if call else []

    def update(self, now: float, tag: str, *, direction: Direction | None = None, sdp: str = "") -> list[Output]:
        """Send an UPDATE with an offer of ours (or `sdp` as it is)."""
        call = self._calls.get(tag)
        return self._told(call.changes.offer(now, Change("UPDATE", direction, sdp, late=False))) if call else []

    def answer_update(self, now: float, tag: str, *, sdp: str = "") -> list[Output]:
        """Accept the offer that `Offered` told of."""
        call = self._calls.get(tag)
        return self._told(call.changes.answer(now, text=sdp)) if call else []

    def refuse_update(self, now: float, tag: str, status: int = 488) -> list[Output]:
        """Refuse the offer that `Offered` told of."""
        call = self._calls.get(tag)
        return self._told(call.changes.refuse(now, status)) if call else []

    def info(self, now: float, tag: str, digit: str, ms: int = 160) -> list[Output]:
        """Send a digit by INFO (application/dtmf-relay)."""
        call = self._calls.get(tag)
        if call is None or not call.up:
            return []
        body = f"Signal={digit}\r\nDuration={ms}\r\n".encode()
        return call.ask(now, "INFO", _outcome(tag), body=body, content_type="application/dtmf-relay")[1]

    def transfer(self, now: float, tag: str, to: str, *, instead_of: str = "", quietly: bool = False) -> list[Output]:
        """Have the call's other party put through to a number of our domain, or a URI; with `instead_of` to the party
        of that call of ours, in our place. `Outcome` tells whether it is done, `Referred` (unless `quietly`) what
        comes of it.
        """
        call, other = self._calls.get(tag), self._calls.get(instead_of)
        if call is None or not call.up:
            return []
        uri = to if ":" in to else f"sip:{to}@{self._line.account.domain}"
        if other is not None:
            uri += f"?Replaces={quote(other.as_replaced, safe='')}"
        fields = [("Refer-To", f"<{uri}>"), ("Referred-By", f"<{self._line.account.aor}>")]
        if quietly:
            fields += [("Refer-Sub", "false"), ("Supported", "norefersub")]
        return call.ask(now, "REFER", _outcome(tag), *fields)[1]

    def ask(self, now: float, tag: str, method: str, *fields: tuple[str, str]) -> list[Output]:
        """Send any other request within the call (OPTIONS, or one the peer should refuse); `Outcome` tells."""
        call = self._calls.get(tag)
        return call.ask(now, method, _outcome(tag), *fields)[1] if call and call.up else []

    # ---- inside

    def _told(self, outputs: list[Output]) -> list[Output]:
        for output in outputs:
            if isinstance(output, Ended):
                self._calls.pop(output.call, None)
        return outputs

    def _carry(self, now: float, happened: list[EndpointOutput]) -> list[Output]:
        out: list[Output] = []
        for one in happened:
            try:
                out += self._carry_one(now, one)
            except MalformedMessage as error:
                out.append(Violation("", str(error)))
                if isinstance(one, Arrived):
                    out += self._line.respond(now, one.key, one.request.respond(error.status or 400))
        return self._told(out)

    def _carry_one(self, now: float, one: EndpointOutput) -> list[Output]:
        match one:
            case Send():
                return [one]
            case Replied(key, response, _):
                return self._line.replied(now, key, response)
            case TimedOut() | Unreachable():
                return self._line.failed(now, one)
            case Arrived(key, request, flow):
                if self._line.habits.responds:
                    return self._arrived(now, key, request, flow)
                self._endpoint.drop(key)
                return []
            case AckArrived(request, _):
                call = self._find(request)
                return call.acked(now, request) if call else []
            case Cancelled(key, request):
                found = self._owner(key)
                return found.cancelled(now, key, request) if found else []
            case AckMissing(key):
                found = self._owner(key)
                return found.ack_missing(now, key) if found else []

    def _owner(self, key: str) -> Call | None:
        return next((call for call in self._calls.values() if call.owns(key)), None)

    def _find(self, request: Request) -> Call | None:
        """The call whose dialog a request belongs to (section 12.2.2)."""
        call = self._calls.get(request.to.tag or "")
        if call is None or call.dialog is None or call.call_id != request.call_id:
            return None
        return call if call.dialog.remote_tag == (request.from_.tag or "") else None

    def _arrived(self, now: float, key: str, request: Request, flow: Flow) -> list[Output]:
        required = request.values("Require")
        if required:
            return self._refuse(now, key, request, 420, *(("Unsupported", option) for option in required))
        if request.to.tag is not None:
            call = self._find(request)
            return call.receive(now, key, request, flow) if call else self._refuse(now, key, request, 481)
        if request.uri.scheme not in ("sip", "sips"):
            return self._refuse(now, key, request, 416)
        match request.method:
            case "INVITE" if request.uri.username not in ("", self._line.account.number):
                return self._refuse(now, key, request, 404)
            case "INVITE" if len(self._calls) >= CALLS_MAX:
                return self._refuse(now, key, request, 486)
            case "INVITE":
                call = Call(self._line, request.call_id, State.INCOMING)
                out = call.invited(now, key, request, flow)
                self._calls[call.tag] = call
                return out
            case "OPTIONS":
                return self._refuse(now, key, request, 200, ("Accept", SDP), ("Contact", self._line.contact))
            case "BYE" | "UPDATE" | "INFO" | "PRACK":
                return self._refuse(now, key, request, 481)
            case _:
                return self._refuse(now, key, request, 405)

    def _refuse(self, now: float, key: str, request: Request, status: int, *fields: tuple[str, str]) -> list[Output]:
        """Answer a request that makes no call."""
        allow = (("Allow", ALLOW),) if status in (200, 405) else ()
        response = request.respond(status, *fields, *allow, to_tag=self._line.new_token())
        return self._line.respond(now, key, response)


def _outcome(tag: str) -> Callable[[float, Asked, Response, bool], list[Output]]:
    def reply(_now: float, asked: Asked, response: Response, _heard: bool) -> list[Output]:
        return [] if response.status < 200 else [Outcome(tag, asked.request.method, response.status)]

    return reply
