"""What a careful server refuses before it works on a request (RFC 3261 section 8.2), beside RFC 4475's messages."""

import pytest

from warden.core.errors import MalformedMessage
from warden.sip.check import METHODS, Refused, check_request, check_response
from warden.sip.message import Request

SDP = b"v=0\r\n"
INVITE = Request(
    "INVITE",
    "sip:bob@example.com",
    (
        ("Via", "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport"),
        ("From", '"Alice" <sip:alice@example.com>;tag=a'),
        ("To", "<sip:bob@example.com>"),
        ("Call-ID", "c1"),
        ("CSeq", "7 INVITE"),
        ("Max-Forwards", "70"),
        ("Contact", "<sip:alice@192.0.2.1>"),
        ("Content-Type", "application/sdp"),
    ),
    SDP,
)
WITHIN = ("To", "<sip:bob@example.com>;tag=b")


def as_method(method: str, request: Request = INVITE) -> Request:
    changed = request.with_fields(("CSeq", f"7 {method}"))
    return Request(method, request.target, changed.fields, request.body)


def status_of(request: Request) -> int | None:
    try:
        check_request(request, methods=METHODS, extensions=frozenset({"timer", "replaces"}))
    except MalformedMessage as error:
        return error.status
    return None


def test_ordinary_requests_pass() -> None:
    assert status_of(INVITE) is None
    for method in METHODS:
        assert status_of(as_method(method)) is None


@pytest.mark.parametrize("name", ["Via", "From", "To", "Call-ID", "CSeq"])
def test_request_without_a_mandatory_header_is_refused(name: str) -> None:
    assert status_of(INVITE.without(name)) == 400


@pytest.mark.parametrize("name", ["From", "To", "Call-ID", "CSeq", "Max-Forwards", "Content-Type"])
def test_header_that_may_stand_once_may_not_stand_twice(name: str) -> None:
    value = INVITE.get(name)
    assert value is not None
    assert status_of(INVITE.with_first(name, value)) == 400


@pytest.mark.parametrize(
    "field",
    [
        ("Via", "SIP/2.0/UDP"),
        ("From", "<sip:a@b"),
        ("To", "nobody"),
        ("Call-ID", ""),
        ("Call-ID", "a b"),
        ("CSeq", "7"),
        ("CSeq", "7 BYE"),
        ("Max-Forwards", "many"),
        ("Route", "<sip:p1>, sip"),
        ("Record-Route", "<sip:p1"),
        ("Contact", "<sip:a@b>, <sip:c@d>"),
        ("Contact", "*"),
        ("Contact", "<tel:+1555>"),
        ("Contact", "<"),
    ],
)
def test_header_that_cannot_be_read_is_refused(field: tuple[str, str]) -> None:
    assert status_of(INVITE.with_fields(field)) == 400


@pytest.mark.parametrize(
    "field",
    [
        ("Max-Forwards", "0"),
        ("Max-Forwards", "300"),
        ("Date", "tomorrow"),
        ("Expires", "x"),
        ("Require", "timer, Replaces"),
        ("Proxy-Require", "anything"),
        ("Subject", ""),
        ("Accept", "*/*"),
        ("Accept", "text/plain, Application/SDP;level=1"),
        ("Accept", "application/*;q=0.5"),
        ("Content-Disposition", "session"),
        ("Content-Encoding", "identity"),
        ("Via", "SIP/2.0/UDP a;branch=z9hG4bK1, what follows is for others"),
    ],
)
def test_what_harms_nobody_is_let_pass(field: tuple[str, str]) -> None:
    assert status_of(INVITE.with_fields(field)) is None
    assert status_of(INVITE.with_first("Subject", "a").with_first("Subject", "b")) is None


def test_request_uri_is_looked_at() -> None:
    for target, status in (
        ("sips:bob@example.com", None),
        ("tel:+1555", 416),
        ("http://example.com", 416),
        ("bob", 400),
        ("sip:bob@", 400),
        ("sip:bob@example.com?Subject=x", 400),
    ):
        assert status_of(Request("INVITE", target, INVITE.fields, SDP)) == status


def test_unknown_extension_is_named_unless_the_request_cannot_be_answered() -> None:
    wants = ("Require", "100rel, TIMER, x")
    with pytest.raises(Refused) as caught:
        check_request(INVITE.with_fields(wants), methods=METHODS, extensions=frozenset({"timer"}))
    assert (caught.value.status, caught.value.fields) == (420, (("Unsupported", "100rel, x"),))
    assert status_of(as_method("ACK").with_fields(wants)) is None
    assert status_of(as_method("CANCEL").with_fields(wants)) is None


def test_first_invite_needs_a_contact_and_a_later_one_does_not() -> None:
    bare = INVITE.without("Contact")
    assert status_of(bare) == 400
    assert status_of(bare.with_fields(WITHIN)) is None
    assert status_of(bare.with_fields(("Via", "SIP/2.0/UDP 192.0.2.1;branch=1"))) is None
    assert status_of(as_method("BYE", bare)) is None


def test_body_that_must_be_understood_is_refused_with_what_would_be() -> None:
    other = INVITE.with_body("text/plain", b"x")
    assert status_of(other) == 415
    assert status_of(other.with_fields(("Content-Disposition", "render; Handling = optional"))) is None
    assert status_of(as_method("MESSAGE", other)) is None
    assert status_of(other.with_body("text/plain", b"")) is None
    assert status_of(INVITE.without("Content-Type")) == 400
    with pytest.raises(Refused) as caught:
        check_request(INVITE.with_fields(("Content-Encoding", "gzip")), methods=METHODS, extensions=())
    assert (caught.value.status, caught.value.fields) == (415, (("Accept-Encoding", "identity"),))
    check_request(other, methods=METHODS, extensions=(), content_types=["application/sdp", "text/plain"])


@pytest.mark.parametrize(
    "accept", ["", "text/plain", "application/sdp;q=0", "application/sdp ; q = 0.000", "application/pidf+xml"]
)
def test_caller_who_takes_no_sdp_is_refused(accept: str) -> None:
    assert status_of(INVITE.with_fields(("Accept", accept))) == 406
    assert status_of(as_method("SUBSCRIBE").with_fields(("Accept", accept))) is None


def test_registration_removes_everything_only_with_an_expiry_of_zero() -> None:
    register = as_method("REGISTER").with_body("", b"")
    star = register.with_fields(("Contact", "*"))
    assert status_of(star.with_fields(("Expires", "0"))) is None
    assert status_of(star) == 400
    assert status_of(star.with_fields(("Expires", "60"))) == 400
    assert status_of(star.with_fields(("Expires", "0")).with_first("Contact", "<sip:a@b>")) == 400
    assert status_of(register.with_fields(("Contact", "<sip:a@b>, <sip:c@d;x=1>;expires=5"))) is None
    assert status_of(register.with_fields(("Contact", "<sip:a@b>, c"))) == 400
    assert status_of(register.without("Contact")) is None
    assert status_of(register.with_fields(("To", "<tel:+1555>"))) == 400


def test_response_is_for_us_when_it_has_one_via() -> None:
    ok = INVITE.respond(200, to_tag="b")
    check_response(ok)
    second = ("Via", "SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK9")
    for bad in (
        ok.with_first(*second),
        ok.with_fields(("Via", "SIP/2.0/UDP a;branch=1, SIP/2.0/UDP b;branch=2")),
        ok.with_fields(("CSeq", "x")),
        ok.without("Call-ID"),
        ok.with_first("CSeq", "7 INVITE"),
    ):
        with pytest.raises(MalformedMessage):
            check_response(bad)
