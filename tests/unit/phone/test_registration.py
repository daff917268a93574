"""One phone and a registrar that challenges everything, written here out of the server's half of the digest code."""

from collections.abc import Callable, Iterable
from itertools import count

from warden.core.address import Address, Flow, Transport
from warden.phone.events import Answered, Ended, Event, Outcome, Output, Registered, RegisterFailed, Violation
from warden.phone.line import Account, Habits
from warden.phone.phone import Phone
from warden.phone.session import Media
from warden.sdp import answer as sdp
from warden.sip.digest import NonceCounts, Nonces, NonceState, challenge, ha1, read_credentials, verify
from warden.sip.endpoint import AckArrived, Arrived, Endpoint, Send
from warden.sip.message import Request, Response
from warden.sip.parser import parse_message

HERE = Address("10.0.0.1", 5060)
SERVER = Address("10.0.0.9", 5060)
FLOW = Flow(Transport.UDP, HERE, SERVER)
BACK = Flow(Transport.UDP, SERVER, HERE)
Answer = Callable[["Registrar", Request], Response]


def grants(registrar: "Registrar", request: Request) -> Response:
    """A 200 that lists the contact for the time asked for (at most 120 s), or nothing for 0."""
    expires = min(request.number("Expires") or 0, 120)
    contact = request.get("Contact") or ""
    listed = (("Contact", f"{contact};expires={expires}"),) if expires else ()
    return request.respond(200, *listed, to_tag=registrar.token())


class Registrar:
    """Answers REGISTER by `answers`, takes a call and its BYE; everything needs credentials."""

    def __init__(self, *, lifetime_s: float = 300.0) -> None:
        tokens = count()
        self.token: Callable[[], str] = lambda: f"r{next(tokens)}"
        self.endpoint = Endpoint(self.token, {})
        self.nonces = Nonces(b"key", lifetime_s=lifetime_s)
        self.counts = NonceCounts()
        self.answers: Answer = grants
        self.silent = False
        self.requests: list[Request] = []
        self.accepted: list[Request] = []
        self.acks: list[Request] = []

    def receive(self, now: float, data: bytes) -> list[bytes]:
        out = self.endpoint.receive(now, parse_message(data), BACK)
        answers: list[bytes] = []
        for one in out:
            if isinstance(one, Arrived):
                self.requests.append(one.request)
                if not self.silent:
                    answers += self.sends(self.endpoint.respond(now, one.key, self.answer(now, one.request)))
            elif isinstance(one, AckArrived):
                self.acks.append(one.request)
        return answers + self.sends(out)

    def sends(self, outputs: Iterable[object]) -> list[bytes]:
        return [output.data for output in outputs if isinstance(output, Send)]

    def answer(self, now: float, request: Request) -> Response:
        proxy = request.method != "REGISTER"
        credentials = read_credentials(request, "Proxy-Authorization" if proxy else "Authorization")
        stale = False
        for one in credentials:
            state = self.nonces.check(now, one.nonce)
            right = verify(one, request.method, ha1("1001", "warden", "secret", one.algorithm))
            if right and state is NonceState.FRESH and self.counts.accept(one.nonce, one.nonce_count):
                return self.accept(request)
            stale = stale or (right and state is NonceState.STALE)
        name = "Proxy-Authenticate" if proxy else "WWW-Authenticate"
        values = challenge("warden", self.nonces.issue(now), ["SHA-256", "MD5"], stale=stale)
        return request.respond(407 if proxy else 401, *((name, value) for value in values), to_tag="c")

    def accept(self, request: Request) -> Response:
        self.accepted.append(request)
        if request.method == "REGISTER":
            return self.answers(self, request)
        if request.method != "INVITE":
            return request.respond(200, to_tag="s")
        ours = sdp.answer(request.body.decode(), host="10.0.0.9", port=6000, session_id=1, version=1).sdp
        fields = (("Contact", "<sip:10.0.0.9:5060>"), ("Content-Type", "application/sdp"))
        return request.respond(200, *fields, to_tag="s", body=ours.encode())


class Line:
    """The phone and the registrar on a line without delay."""

    def __init__(self, registrar: Registrar, *, password: str = "secret") -> None:
        tokens = count()
        account = Account("1001", password, "pbx.test", instance_id="urn:uuid:1", q="0.5")
        self.phone = Phone(account, FLOW, lambda: f"t{next(tokens)}")
        self.registrar = registrar
        self.now = 1000.0
        self.told: list[Event] = []

    def do(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            if isinstance(output, Send):
                for data in self.registrar.receive(self.now, output.data):
                    self.do(self.phone.receive(self.now, parse_message(data), FLOW))
            else:
                self.told.append(output)

    def run(self, for_s: float) -> None:
        until = self.now + for_s
        while True:
            due = [at for at in (self.phone.deadline, self.registrar.endpoint.deadline) if at is not None]
            if not due or min(due) > until:
                break
            self.now = max(self.now, min(due))
            for data in self.registrar.sends(self.registrar.endpoint.tick(self.now)):
                self.do(self.phone.receive(self.now, parse_message(data), FLOW))
            self.do(self.phone.tick(self.now))
        self.now = until


def test_a_challenged_register_goes_out_again_with_the_next_cseq_and_credentials() -> None:
    line = Line(Registrar())
    line.do(line.phone.register(line.now, 120))
    first, second = line.registrar.requests
    assert (first.cseq.number, second.cseq.number) == (1, 2)
    assert first.call_id == second.call_id
    assert first.get("Authorization") is None
    assert read_credentials(second)[0].algorithm == "SHA-256"
    assert line.told == [Registered(120, ("sip:1001@10.0.0.1:5060",))]
    contact = second.contacts[0]
    assert contact.param("+sip.instance") == '"<urn:uuid:1>"'
    assert contact.param("q") == "0.5"


def test_a_registration_is_refreshed_before_it_ends_with_the_next_nonce_count() -> None:
    line = Line(Registrar())
    line.do(line.phone.register(line.now, 120))
    line.run(79)
    assert len(line.told) == 1
    line.run(2)
    assert len(line.told) == 2
    assert [one.nc for request in line.registrar.accepted for one in read_credentials(request)] == [
        "00000001",
        "00000002",
    ]
    line.run(400)
    assert all(isinstance(event, Registered) for event in line.told)


def test_a_stale_nonce_costs_one_more_round_and_no_failure() -> None:
    line = Line(Registrar(lifetime_s=60))
    line.do(line.phone.register(line.now, 120))
    line.run(81)
    assert [type(event) for event in line.told] == [Registered, Registered]
    assert len(line.registrar.requests) == 4


def test_a_wrong_password_fails_after_one_try_and_is_not_tried_again() -> None:
    line = Line(Registrar(), password="wrong")
    line.do(line.phone.register(line.now, 120))
    line.run(1000)
    assert line.told == [RegisterFailed(401)]
    assert len(line.registrar.requests) == 2
    assert len(line.phone) == 0


def test_unregistering_removes_the_contact_and_ends_the_refreshing() -> None:
    line = Line(Registrar())
    line.do(line.phone.register(line.now, 120))
    line.do(line.phone.unregister(line.now))
    line.run(1000)
    assert line.told[1:] == [Registered(0)]
    assert line.registrar.requests[-1].number("Expires") == 0
    assert line.phone.deadline is None
    assert len(line.phone) == 0


def test_a_too_brief_interval_is_asked_for_again_as_long_as_the_server_wants() -> None:
    def at_least_90(registrar: Registrar, request: Request) -> Response:
        brief = (request.number("Expires") or 0) < 90
        return request.respond(423, ("Min-Expires", "90"), to_tag="r") if brief else grants(registrar, request)

    line = Line(Registrar())
    line.registrar.answers = at_least_90
    line.do(line.phone.register(line.now, 30))
    assert line.told == [Registered(90, ("sip:1001@10.0.0.1:5060",))]


def test_a_silent_server_is_tried_again_with_growing_pauses_until_it_answers() -> None:
    line = Line(Registrar())
    line.registrar.silent = True
    line.do(line.phone.register(line.now, 120))
    line.run(80)
    failed = [event for event in line.told if isinstance(event, RegisterFailed)]
    assert [event.status for event in failed] == [408, 408]
    assert [event.retry_at for event in failed] == [1034.0, 1070.0]
    line.registrar.silent = False
    line.run(40)
    assert isinstance(line.told[-1], Registered)


def test_retry_after_is_kept_to() -> None:
    line = Line(Registrar())
    line.registrar.answers = lambda _, request: request.respond(503, ("Retry-After", "30"), to_tag="r")
    line.do(line.phone.register(line.now, 120))
    assert line.told == [RegisterFailed(503, 1030.0)]


def test_a_200_without_tag_and_without_our_contact_breaks_two_rules() -> None:
    line = Line(Registrar())
    line.registrar.answers = lambda _, request: request.respond(200)
    line.do(line.phone.register(line.now, 120))
    assert [event.what for event in line.told if isinstance(event, Violation)] == [
        "200 to REGISTER: no To tag",
        "REGISTER: the 200 does not list our contact",
    ]


def test_a_new_flow_is_registered_at_once() -> None:
    line = Line(Registrar())
    line.do(line.phone.register(line.now, 120))
    moved = Flow(Transport.UDP, Address("10.0.0.1", 5099), SERVER)
    line.do(line.phone.use(line.now, moved))
    assert line.told[-1] == Registered(120, ("sip:1001@10.0.0.1:5099",))


def test_calls_answer_the_proxys_challenge_and_the_ack_carries_the_invites_credentials() -> None:
    line = Line(Registrar())
    tag, out = line.phone.call(line.now, "1002", Media("10.0.0.1", 4000))
    line.do(out)
    refused, invite = line.registrar.requests
    assert (refused.cseq.number, invite.cseq.number) == (1, 2)
    assert refused.from_.tag == invite.from_.tag
    (ack,) = line.registrar.acks
    assert (ack.cseq.number, ack.get("Proxy-Authorization")) == (2, invite.get("Proxy-Authorization"))
    assert isinstance(line.told[0], Answered)
    line.run(1)
    line.do(line.phone.hang_up(line.now, tag))
    line.run(100)
    assert isinstance(line.told[-1], Ended)
    assert [request.method for request in line.registrar.accepted] == ["INVITE", "BYE"]
    assert (len(line.phone), line.phone.deadline) == (0, None)


def test_a_call_with_a_wrong_password_ends_as_the_server_says() -> None:
    line = Line(Registrar(), password="wrong")
    line.do(line.phone.call(line.now, "1002", Media("10.0.0.1", 4000))[1])
    line.run(100)
    assert [event.status for event in line.told if isinstance(event, Ended)] == [407]
    assert len(line.phone) == 0


def test_options_to_the_server_tells_the_outcome() -> None:
    line = Line(Registrar())
    line.phone.habits = Habits()
    line.do(line.phone.options(line.now))
    assert line.told == [Outcome("", "OPTIONS", 200)]


def test_the_password_is_in_no_repr() -> None:
    assert "secret" not in repr(Account("1001", "secret", "pbx.test"))
