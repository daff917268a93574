"""What a phone's registration and calls share: the account, the transactions, and the answers to challenges.

A request is asked with a way to make it (`make`), since a challenged request goes out again with the next CSeq
(RFC 3261 section 22.2). What comes back goes to one function (`reply`), provisional and final responses alike; where
nothing comes, a 408 or a 503 of our own making stands for it (section 8.1.3.1).
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from warden.core.address import Flow, Transport
from warden.core.deadlines import Deadlines
from warden.core.errors import MalformedMessage
from warden.phone.events import Output, Violation
from warden.sip import digest
from warden.sip.endpoint import Endpoint, Send, TimedOut, Unreachable
from warden.sip.endpoint import Output as EndpointOutput
from warden.sip.message import Request, Response

ALLOW: Final = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, NOTIFY"
USER_AGENT: Final = "Warden test phone"
TRIES_MAX: Final = 3
"""One request, one with credentials, one more for a nonce that went stale in between: a fourth would be a loop."""
LINGER_S: Final = 40.0
"""How long an answered INVITE is remembered: a 2xx is repeated for 64*T1 (32 s), and each needs its ACK."""


class Account(Struct, frozen=True):
    """Who the phone is. `domain` is the host of the address of record; `instance_id` a URN (RFC 5626 section 4.1);
    `q` the preference of its contact ("0" to "1").
    """

    number: str
    password: str
    domain: str
    display: str = ""
    instance_id: str = ""
    q: str = ""

    @property
    def aor(self) -> str:
        """The address of record."""
        return f"sip:{self.number}@{self.domain}"

    @property
    def name_addr(self) -> str:
        """The address of record as From and To show it."""
        return f'"{self.display}" <{self.aor}>' if self.display else f"<{self.aor}>"

    def __repr__(self) -> str:
        return f"Account(number={self.number!r}, domain={self.domain!r}, password=***)"


class Habits(Struct, frozen=True):
    """How the phone behaves, and how it misbehaves where a test wants that."""

    answers_updates: bool = True
    """False leaves every re-INVITE and UPDATE of the peer to the owner (`Offered`)."""
    sends_ack: bool = True
    """False owes the peer every ACK to a 2xx."""
    responds: bool = True
    """False leaves every request of the peer without any response, like a phone that lost its power."""
    retries_glare: bool = True
    """False reports a 491 at once instead of offering again after the pause of RFC 3261 section 14.1."""


class Asked:
    """A request on its way, through all its tries. `request` is the latest one sent, without our Via."""

    __slots__ = ("cancelled", "done", "flow", "key", "make", "reply", "request", "tries")

    def __init__(self, make: Callable[[], Request], flow: Flow, reply: "Reply") -> None:
        self.make = make
        self.flow = flow
        self.reply = reply
        self.request = make()
        self.key = ""
        self.tries = 0
        self.cancelled = False
        self.done = False
        """True when the final response came; an INVITE's 2xx may come again."""


Reply = Callable[[float, Asked, Response, bool], list[Output]]
"""(now, asked, response, heard): `heard` is False where the response is of our own making."""


class Line:
    """One account over one flow. `new_token` gives unguessable tokens, another one at each call."""

    def __init__(
        self, account: Account, flow: Flow, habits: Habits, endpoint: Endpoint, new_token: Callable[[], str]
    ) -> None:
        self.account = account
        self.flow = flow
        self.habits = habits
        self.endpoint = endpoint
        self.new_token = new_token
        self.forgetting: Deadlines[str] = Deadlines()
        self._asked: dict[str, Asked] = {}
        self._challenges: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._asked)

    @property
    def contact(self) -> str:
        """Our Contact where a dialog needs it."""
        transport = "" if self.flow.transport is Transport.UDP else f";transport={self.flow.transport.param}"
        return f"<sip:{self.account.number}@{self.flow.local}{transport}>"

    def ask(self, now: float, make: Callable[[], Request], flow: Flow, reply: Reply) -> tuple[Asked, list[Output]]:
        """Send the request that `make` gives, again with credentials if it is challenged."""
        asked = Asked(make, flow, reply)
        return asked, self._send(now, asked)

    def cancel(self, now: float, asked: Asked, *fields: tuple[str, str]) -> list[Output]:
        """Cancel an INVITE; it will not be sent again, whatever comes back."""
        asked.cancelled = True
        return self.sends(self.endpoint.cancel(now, asked.key, *fields))

    def respond(self, now: float, key: str, response: Response) -> list[Output]:
        """Answer a request; a transaction that is over swallows it."""
        return self.sends(self.endpoint.respond(now, key, response))

    def ack(self, now: float, ack: Request, flow: Flow) -> list[Output]:
        """Send the ACK of a 2xx, unless it is the phone's habit not to."""
        return self.sends(self.endpoint.send_ack(now, ack, flow)) if self.habits.sends_ack else []

    def sends(self, outputs: list[EndpointOutput]) -> list[Output]:
        """The messages among what the endpoint gave back when it was told to send something."""
        return [output for output in outputs if isinstance(output, Send)]

    def replied(self, now: float, key: str, response: Response) -> list[Output]:
        """A response came for one of our requests."""
        asked = self._asked.get(key)
        if asked is None:
            return []
        # The transaction has taken it as its own already, so it counts in spite of what is wrong.
        wrong: list[Output] = [
            Violation("", f"{response.status} to {asked.request.method}: {what}")
            for what in _faults(asked.request, response)
        ]
        if response.status in (401, 407) and not asked.done and not asked.cancelled:
            self._learn(response)
            if asked.tries < TRIES_MAX and (asked.tries < 2 or _is_stale(response)):
                del self._asked[key]
                asked.request = asked.make()
                return wrong + self._send(now, asked)
        return wrong + self._finish(now, asked, response, heard=True)

    def failed(self, now: float, failure: TimedOut | Unreachable) -> list[Output]:
        """One of our requests ended without a final response."""
        asked = self._asked.get(failure.key)
        if asked is None or asked.done:
            return []
        if isinstance(failure, TimedOut):
            response = asked.request.respond(408, reason="No Answer")
        else:
            response = asked.request.respond(503, reason=failure.why)
        return self._finish(now, asked, response, heard=False)

    def forget_due(self, now: float) -> None:
        """Let go of the INVITEs whose 2xx cannot come again."""
        while (key := self.forgetting.pop_due(now)) is not None:
            self._asked.pop(key, None)

    def _finish(self, now: float, asked: Asked, response: Response, *, heard: bool) -> list[Output]:
        if response.status < 200:
            return asked.reply(now, asked, response, heard)
        if asked.request.method == "INVITE" and response.status < 300:
            if not asked.done:
                self.forgetting.set(asked.key, now + LINGER_S)
        else:
            self._asked.pop(asked.key, None)
        outputs = asked.reply(now, asked, response, heard)
        asked.done = True
        return outputs

    def _send(self, now: float, asked: Asked) -> list[Output]:
        asked.tries += 1
        asked.request = self._with_credentials(asked.request)
        asked.key, outputs = self.endpoint.request(now, asked.request, asked.flow)
        self._asked[asked.key] = asked
        return self.sends(outputs)

    def _learn(self, response: Response) -> None:
        name = "WWW-Authenticate" if response.status == 401 else "Proxy-Authenticate"
        challenges = response.get_all(name)
        if challenges:
            if challenges != self._challenges.get(name):
                self._counts[name] = 0
            self._challenges[name] = challenges

    def _with_credentials(self, request: Request) -> Request:
        """The request with an answer to each challenge met so far: a nonce serves until the server calls it stale."""
        for name, challenges in self._challenges.items():
            count = self._counts[name] = self._counts.get(name, 0) + 1
            try:
                value = digest.authorize(
                    challenges,
                    username=self.account.number,
                    password=self.account.password,
                    method=request.method,
                    uri=request.target,
                    cnonce=self.new_token(),
                    nc=count,
                )
            except MalformedMessage:
                continue
            field = "Authorization" if name == "WWW-Authenticate" else "Proxy-Authorization"
            request = request.with_fields((field, value))
        return request


def _faults(request: Request, response: Response) -> list[str]:
    """Why a response cannot be one to this request (RFC 3261 sections 8.1.3.3, 8.2.6.2)."""
    wrong = []
    if len(response.values("Via")) != 1:
        wrong.append("there is another Via beside ours")
    if response.call_id != request.call_id:
        wrong.append("another Call-ID")
    if response.cseq != request.cseq:
        wrong.append("another CSeq")
    if response.from_.tag != request.from_.tag:
        wrong.append("another From tag")
    if request.to.tag is not None and response.to.tag != request.to.tag:
        wrong.append("another To tag")
    if response.status > 100 and response.to.tag is None:
        wrong.append("no To tag")
    return wrong


def _is_stale(response: Response) -> bool:
    fields = response.get_all("WWW-Authenticate") + response.get_all("Proxy-Authenticate")
    return any("stale=true" in field.lower().replace(" ", "") for field in fields)
