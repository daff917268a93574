"""Messages as values: printed, read back, answered (RFC 3261 sections 7, 8.2.6, 20)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warden.core.address import Transport
from warden.core.errors import MalformedMessage
from warden.sip.message import (
    COMPACT,
    REASONS,
    VALUES_MAX,
    Request,
    Response,
    canonical_name,
    is_token,
    parse_cseq,
    parse_via,
    print_via,
)
from warden.sip.parser import parse_message

TOKEN = "ABCabcXYZxyz019-.!%*_+`'~"
tokens = st.text(TOKEN, min_size=1, max_size=12)
spellings = st.sampled_from(
    [
        spelling
        for name in [*COMPACT, *COMPACT.values(), "CSeq", "WWW-Authenticate", "X-Thing"]
        for spelling in (name, name.upper(), name.lower())
    ]
)
names = (tokens | spellings).map(canonical_name).filter(lambda name: name != "Content-Length")
line_chars = st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])
values = st.text(line_chars, max_size=30).map(lambda text: text.strip(" \t"))
fields = st.lists(st.tuples(names, values), max_size=8).map(tuple)
targets = st.text(
    st.characters(min_codepoint=0x21, exclude_characters="\x7f", exclude_categories=["Cs"]), min_size=1, max_size=20
)
requests = st.builds(Request, tokens, targets, fields, st.binary(max_size=40))
responses = st.builds(Response, st.integers(100, 699), values, fields, st.binary(max_size=40))
messages = requests | responses


@given(messages)
def test_printed_message_parses_to_itself(message: Request | Response) -> None:
    data = bytes(message)
    parsed = parse_message(data)
    assert parsed == message
    assert hash(parsed) == hash(message)
    assert bytes(parsed) == data
    assert bytes(parsed.with_fields()) == data, "built anew it prints the same"


@given(messages, st.data())
def test_message_is_the_same_however_it_is_spelled(message: Request | Response, data: st.DataObject) -> None:
    """Compact or odd header names, folds and white space change the bytes, not the message."""
    lines = [message.start_line]
    for name, value in (*message.fields, ("Content-Length", str(len(message.body)))):
        short = next((short for short, long in COMPACT.items() if long == name), name)
        spelled = data.draw(st.sampled_from([name, name.lower(), name.upper(), short, short.upper()]))
        colon = data.draw(st.sampled_from([":", " : ", "\t:\t", ":\r\n ", ":  \r\n\t "]))
        end = data.draw(st.sampled_from(["", " ", "\t ", "\r\n ", " \r\n\t"]))
        lines.append(spelled + colon + value.replace(" ", data.draw(st.sampled_from([" ", " \r\n "]))) + end)
    raw = "\r\n".join(lines).encode() + b"\r\n\r\n" + message.body
    parsed = parse_message(raw)
    assert bytes(parsed) == raw
    assert [(n, "".join(v.split())) for n, v in parsed.fields[:-1]] == [
        (n, "".join(v.split())) for n, v in message.fields
    ]
    assert parsed.body == message.body
    assert parse_message(bytes(parsed.with_fields())) == parsed


@given(messages, st.text(max_size=20))
def test_value_never_becomes_two_headers(message: Request | Response, text: str) -> None:
    parsed = parse_message(bytes(message.with_fields(("Subject", f"a\r\nVia: x{text}\nb"))))
    assert [name for name, _ in parsed.fields[:-1]] == [n for n, _ in message.fields if n != "Subject"] + ["Subject"]


INVITE = Request(
    "INVITE",
    "sip:bob@example.com",
    (
        ("Via", "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport, SIP/2.0/TCP 192.0.2.2;branch=z9hG4bK0"),
        ("Record-Route", "<sip:p1.example.com;lr>, <sip:p2.example.com;lr>"),
        ("Record-Route", "<sip:p3.example.com;lr>"),
        ("From", '"Alice" <sip:alice@example.com>;tag=a'),
        ("To", "<sip:bob@example.com>"),
        ("Call-ID", "c1"),
        ("CSeq", "7 INVITE"),
        ("Timestamp", "54"),
        ("Max-Forwards", "70"),
        ("Contact", '"A, B" <sip:alice@192.0.2.1>;q=0.5, <sip:alice@192.0.2.3>'),
        ("Supported", "timer, replaces"),
        ("Supported", "path"),
        ("Content-Type", "Application/SDP ; charset=x"),
    ),
    b"v=0\r\n",
)


def test_headers_are_read_as_values() -> None:
    assert INVITE.call_id == "c1"
    assert (INVITE.cseq.number, INVITE.cseq.method, str(INVITE.cseq)) == (7, "INVITE", "7 INVITE")
    assert (INVITE.from_.display, INVITE.from_.tag, INVITE.to.tag) == ("Alice", "a", None)
    assert (INVITE.via.transport, INVITE.via.host, INVITE.via.port, INVITE.via.branch) == (
        "UDP",
        "192.0.2.1",
        5060,
        "z9hG4bK1",
    )
    assert INVITE.via.param("rport") == ""
    assert [c.display for c in INVITE.contacts] == ["A, B", ""]
    assert [r.uri.host for r in INVITE.record_routes] == ["p1.example.com", "p2.example.com", "p3.example.com"]
    assert INVITE.routes == ()
    assert INVITE.tokens("Supported") == {"timer", "replaces", "path"}
    assert INVITE.number("Max-Forwards") == 70
    assert INVITE.number("Expires") is None
    assert INVITE.content_type == "application/sdp"
    assert INVITE.uri.user == "bob"
    assert repr(INVITE) == "<INVITE sip:bob@example.com SIP/2.0>"


def test_response_copies_what_it_must_and_nothing_else() -> None:
    ringing = INVITE.respond(180, ("Contact", "<sip:pbx@192.0.2.9>"), to_tag="b")
    assert ringing.start_line == "SIP/2.0 180 Ringing"
    assert [name for name, _ in ringing.fields] == ["Via", "From", "To", "Call-ID", "CSeq", "Contact"]
    assert ringing.to.tag == "b"
    assert ringing.get("Via") == INVITE.get("Via")
    assert INVITE.respond(100).get("Timestamp") == "54"
    assert INVITE.respond(299).reason == "Unknown"
    assert INVITE.respond(486, reason="Busy").reason == "Busy"


def test_response_keeps_the_tag_that_the_request_has() -> None:
    within = INVITE.with_fields(("To", "<sip:bob@example.com>;tag=theirs"))
    assert within.respond(200, to_tag="ours").to.tag == "theirs"
    host_named_tag = INVITE.with_fields(("To", "sip:tag@tag.example.com"))
    assert host_named_tag.respond(200, to_tag="ours").to.tag == "ours"
    broken = INVITE.with_fields(("To", '"tag <sip:bob@example.com>'))
    assert broken.respond(400, to_tag="ours").get("To") == '"tag <sip:bob@example.com>'


def test_changed_message_is_another_one_and_does_not_print_as_received() -> None:
    received = parse_message(bytes(INVITE))
    assert isinstance(received, Request)
    pushed = received.with_first("Via", "SIP/2.0/TCP 192.0.2.7;branch=z9hG4bK2")
    assert (pushed.via.host, received.via.host) == ("192.0.2.7", "192.0.2.1")
    assert pushed.raw is None
    assert b"192.0.2.7" in bytes(pushed)
    assert pushed.without("Via").get("Via") is None
    assert received.with_fields(("Record-Route", "<sip:x>")).get_all("Record-Route") == ["<sip:x>"]
    body = received.with_body("text/plain", b"hi")
    assert (body.content_type, body.body, body.get_all("Content-Type")) == ("text/plain", b"hi", ["text/plain"])
    assert parse_message(bytes(body)).number("Content-Length") == 2


def test_star_contact_is_no_address() -> None:
    star = INVITE.with_fields(("Contact", "*"))
    assert star.contact_is_star
    assert star.contacts == ()
    assert not INVITE.contact_is_star


def test_missing_header_is_named() -> None:
    empty = Request("OPTIONS", "sip:a@b", ())
    for read, name in (
        (lambda: empty.call_id, "Call-ID"),
        (lambda: empty.cseq, "CSeq"),
        (lambda: empty.from_, "From"),
        (lambda: empty.to, "To"),
        (lambda: empty.via, "Via"),
    ):
        with pytest.raises(MalformedMessage, match=f"^{name}: missing"):
            read()
    assert empty.content_type == ""


@pytest.mark.parametrize("value", ["", "x", "-1", "+1", "4294967296", "9" * 5000, "²", "٣", "1 2", "1.5"])
def test_bad_number_is_refused(value: str) -> None:
    with pytest.raises(MalformedMessage):
        Request("OPTIONS", "sip:a@b", (("Expires", value),)).number("Expires")


@pytest.mark.parametrize(
    ("value", "number"), [("0068", 68), ("4294967295", 2**32 - 1), ("18 (in a meeting)", 18), ("60 ;x=y", 60)]
)
def test_number_is_read_without_parameters_and_comment(value: str, number: int) -> None:
    assert Request("OPTIONS", "sip:a@b", (("Retry-After", value),)).number("Retry-After") == number


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        "INVITE",
        "x INVITE",
        "-1 INVITE",
        "2147483648 INVITE",
        "9" * 5000 + " INVITE",
        "1 IN VITE",
        "1 INVITE,",
        "² INVITE",
    ],
)
def test_bad_cseq_is_refused(value: str) -> None:
    with pytest.raises(MalformedMessage):
        parse_cseq(value)


@pytest.mark.parametrize(
    ("value", "number"), [("0 INVITE", 0), ("2147483647 INVITE", 2**31 - 1), ("0009 \t INVITE", 9), ("1\tINVITE", 1)]
)
def test_cseq_is_read(value: str, number: int) -> None:
    assert (parse_cseq(value).number, parse_cseq(value).method) == (number, "INVITE")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "SIP/2.0/UDP",
        "SIP/2.0/UDP ",
        "SIP/2.0 h",
        "SIP/2.0/ h",
        "SIP/3.0/UDP h",
        "HTTP/2.0/UDP h",
        "SIP/2.0/UDP h h",
        "SIP/2.0/UDP h:x",
        "SIP/2.0/UDP h:70000",
        "SIP/2.0/UDP ;branch=1",
        "SIP/2.0/UDP h;",
        "SIP/2.0/UDP h;branch=1;branch=2",
        "SIP/2.0/UDP h;branch=1, SIP/2.0/UDP h",
        "SIP/2.0/UDP h, SIP/2.0/UDP h",
    ],
)
def test_bad_via_is_refused(value: str) -> None:
    with pytest.raises(MalformedMessage):
        parse_via(value)


def test_via_prints_as_it_is_read() -> None:
    for transport in Transport:
        text = print_via(transport, "2001:db8::1", 5060, "z9hG4bK1")
        via = parse_via(text)
        assert (via.host, via.port, via.branch, via.transport) == ("2001:db8::1", 5060, "z9hG4bK1", transport.via)
        assert str(via) == text
    odd = parse_via("sip / 2.0\t/ tcp  Host.example.com : 5070 ; branch = z9hG4bK1 ;received=2001:db8::9")
    assert str(odd) == "SIP/2.0/TCP Host.example.com:5070;branch=z9hG4bK1;received=2001:db8::9"


def test_list_with_more_values_than_the_limit_is_refused() -> None:
    many = Request("OPTIONS", "sip:a@b", (("Contact", ",".join(["<sip:a@b>"] * VALUES_MAX)),))
    assert len(many.values("Contact")) == VALUES_MAX
    with pytest.raises(MalformedMessage):
        many.with_first("Contact", "<sip:a@b>").values("Contact")


def test_header_names_have_one_spelling() -> None:
    for short, name in COMPACT.items():
        assert canonical_name(short) == canonical_name(short.upper()) == canonical_name(name.upper()) == name
    assert canonical_name("x-FOO-id") == canonical_name("X-Foo-Id") == "X-Foo-Id"


def test_tokens_are_those_of_the_grammar() -> None:
    assert is_token(TOKEN)
    assert not is_token("")
    assert not any(is_token(f"a{c}") for c in ' \t\n\r"(),/:;<=>?@[\\]{}é\x00\x7f')


def test_every_reason_phrase_belongs_to_a_status() -> None:
    assert all(100 <= status <= 699 and phrase for status, phrase in REASONS.items())


@pytest.mark.parametrize("rport", ["{};rport", "{}", ";rport{}", ";rport{};rport"])
@pytest.mark.parametrize("port", ["", ":5060", ":65536", ":0"])
@pytest.mark.parametrize("transport", ["UDP", "TLS", "WSS", "udp"])
def test_the_usual_via_is_read_as_any_other_is(transport: str, port: str, rport: str) -> None:
    value = f"SIP/2.0/{transport} 192.0.2.1{port}{rport.format(';branch=z9hG4bK-1')}"

    def read(text: str) -> object:
        try:
            return parse_via(text)
        except MalformedMessage as error:
            return type(error)

    # White space at the end means nothing, and is not usual.
    assert read(value) == read(value + " ")
