"""Everything that Warden may ever ask of bytes that claim to be SIP, in one call: for fuzzing and for mutations."""

from collections.abc import Callable
from contextlib import suppress

from warden.core.errors import MalformedMessage
from warden.sip.check import METHODS, SCHEMES, check_request, check_response
from warden.sip.message import Message, Request
from warden.sip.parser import parse_message, salvage_request
from warden.sip.stream import BrokenStream, StreamParser

EXTENSIONS = frozenset({"timer"})
NUMBERS = ("Content-Length", "Expires", "Max-Forwards", "Min-Expires", "Retry-After", "RSeq", "Session-Expires")
LISTS = ("Accept", "Contact", "Record-Route", "Require", "Route", "Supported", "Via")

READERS: tuple[Callable[[Message], object], ...] = (
    lambda m: m.call_id,
    lambda m: str(m.cseq),
    lambda m: (str(m.from_), m.from_.tag, m.from_.uri.username),
    lambda m: (str(m.to), m.to.with_tag("x"), m.to.uri.equivalent(m.from_.uri), m.to.uri.bare()),
    lambda m: (str(m.via), m.via.branch, m.via.param("rport")),
    lambda m: [(str(c), c.uri.username, c.uri.transport, c.param("expires")) for c in m.contacts],
    lambda m: m.contact_is_star,
    lambda m: [str(route) for route in m.routes],
    lambda m: [str(route) for route in m.record_routes],
    lambda m: m.content_type,
    lambda m: [m.tokens(name) for name in LISTS],
    *((lambda m, name=name: m.number(name)) for name in NUMBERS),
    *((lambda m, name=name: m.values(name)) for name in LISTS),
)


def read(data: bytes) -> None:
    """Read `data` as a datagram; only `MalformedMessage` may be raised on the way, and none comes out."""
    try:
        message = parse_message(data)
    except MalformedMessage as error:
        salvaged = salvage_request(data)
        if salvaged is not None and error.status is not None:
            parse_message(bytes(salvaged.respond(error.status, to_tag="x")))
        return
    copy = message.with_fields()
    assert parse_message(bytes(copy)) == message
    for reader in READERS:
        with suppress(MalformedMessage):
            reader(message)
    if isinstance(message, Request):
        _read_request(message)
    else:
        with suppress(MalformedMessage):
            check_response(message)


def _read_request(request: Request) -> None:
    parse_message(bytes(request.respond(400, to_tag="x")))
    with suppress(MalformedMessage):
        assert request.uri.equivalent(request.uri)
    try:
        check_request(request, methods=METHODS, extensions=EXTENSIONS)
    except MalformedMessage:
        return
    # What passed the check is read without a care from here on: nothing is suppressed.
    assert request.cseq.method == request.method
    assert request.call_id
    assert request.uri.scheme in SCHEMES
    for value in (request.from_, request.to, request.via, request.routes, request.record_routes):
        assert value is not None
    if request.method in ("INVITE", "REGISTER"):
        assert all(str(contact) for contact in request.contacts)
    assert request.respond(200, to_tag="x").to.tag is not None


def read_stream(data: bytes, step: int) -> None:
    """Read `data` as a stream in chunks of `step` bytes."""
    parser = StreamParser()
    with suppress(BrokenStream):
        for start in range(0, len(data), step):
            parser.receive(data[start : start + step])
