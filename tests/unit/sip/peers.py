"""What the stories about one endpoint have in common: hand-written peers, in virtual time."""

from itertools import count

from warden.core.address import Address, Flow, Transport
from warden.sip.endpoint import Arrived, Endpoint, Output, Send, Timers
from warden.sip.message import Request, Response
from warden.sip.parser import parse_message

US = Address("192.0.2.1", 5060)
PEER = Address("192.0.2.9", 5060)
UDP = Flow(Transport.UDP, US, PEER)
TCP = Flow(Transport.TCP, US, PEER, 3)
G_SCHEDULE = [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]


def make_endpoint(**limits: int) -> Endpoint:
    numbers = count(1)
    return Endpoint(lambda: f"token{next(numbers)}", {Transport.UDP: US}, Timers(), **limits)


def build(method: str, *fields: tuple[str, str]) -> Request:
    """A request of ours, as the TU hands it over."""
    named = {
        "Max-Forwards": "70",
        "From": "<sip:1001@example.org>;tag=ours",
        "To": "<sip:1002@example.org>",
        "Call-ID": "call-1",
        "CSeq": f"1 {method}",
        **dict(fields),
    }
    return Request(method, "sip:1002@192.0.2.9", tuple(named.items()))


def heard(method: str, via: str = "SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bKpeer1", **fields: str) -> Request:
    """A request of the peer, as the parser gives it."""
    named = {
        "From": "<sip:1002@example.org>;tag=theirs",
        "To": "<sip:1001@example.org>",
        "Call-ID": "call-2",
        "CSeq": f"1 {method}",
        **{name.replace("_", "-"): value for name, value in fields.items()},
    }
    lines = [f"{method} sip:1001@192.0.2.1 SIP/2.0", f"Via: {via}", *(f"{k}: {v}" for k, v in named.items() if v)]
    message = parse_message(("\r\n".join(lines) + "\r\n\r\n").encode())
    assert isinstance(message, Request)
    return message


def sent(outputs: list[Output]) -> list[Request | Response]:
    return [parse_message(output.data) for output in outputs if isinstance(output, Send)]


def sent_request(outputs: list[Output]) -> Request:
    (message,) = sent(outputs)
    assert isinstance(message, Request)
    return message


def sent_response(outputs: list[Output]) -> Response:
    (message,) = sent(outputs)
    assert isinstance(message, Response)
    return message


def drain(endpoint: Endpoint, until: float = float("inf")) -> list[tuple[float, Output]]:
    """Let time pass, deadline by deadline."""
    log: list[tuple[float, Output]] = []
    while (at := endpoint.deadline) is not None and at <= until:
        log += [(at, output) for output in endpoint.tick(at)]
    return log


def resent_at(log: list[tuple[float, Output]]) -> list[float]:
    return [at for at, output in log if isinstance(output, Send)]


def arrive(endpoint: Endpoint, request: Request, flow: Flow = UDP, now: float = 0.0) -> Arrived:
    (output,) = endpoint.receive(now, request, flow)
    assert isinstance(output, Arrived)
    return output


def assert_nothing_is_left(endpoint: Endpoint) -> None:
    assert len(endpoint) == 0
    assert endpoint.deadline is None
