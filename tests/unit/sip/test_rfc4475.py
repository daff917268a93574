"""Every message of RFC 4475, the verdict that RFC gives, and what must be read from those that are fine.

Where the RFC lets an element choose, the choice stands beside the verdict.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from warden.core.errors import MalformedMessage
from warden.sip.check import METHODS, Refused, check_request, check_response
from warden.sip.message import Request, Response
from warden.sip.parser import parse_message, salvage_request
from warden.sip.stream import Broken, BrokenStream, StreamParser

CORPUS = Path(__file__).parents[2] / "corpus" / "rfc4475"

ACCEPTED = "accepted"
DROPPED = "dropped"

VERDICTS: dict[str, str | int] = {
    # 3.1.1 valid messages
    "wsinv": ACCEPTED,
    "intmeth": 501,  # The message is fine; nobody serves its method.
    "esc01": ACCEPTED,
    "escnull": ACCEPTED,
    "esc02": 501,  # Valid: the escapes of a method mean nothing, so this is not a REGISTER.
    "lwsdisp": ACCEPTED,
    "longreq": ACCEPTED,
    "dblreq": ACCEPTED,
    "semiuri": ACCEPTED,
    "transports": ACCEPTED,
    "mpart01": ACCEPTED,
    "unreason": ACCEPTED,
    "noreason": ACCEPTED,
    # 3.1.2 invalid messages
    "badinv01": 400,
    "clerr": 400,
    "ncl": 400,
    "scalar02": 400,
    "scalarlg": DROPPED,
    "quotbal": 400,  # Or infer the quote.
    "ltgtruri": 400,  # Or ignore the brackets.
    "lwsruri": 400,  # Or remove the space.
    "lwsstart": 400,  # Or ignore the spaces.
    "trws": ACCEPTED,  # Or 400; the space is harmless.
    "escruri": 400,  # Or ignore the headers.
    "baddate": ACCEPTED,  # Or 400; nothing here uses Date.
    "regbadct": 400,  # Or infer the brackets.
    "badaspec": 400,  # Or ignore the spaces.
    "baddn": 400,  # The file ends without the empty line; with one, see the test below.
    "badvers": 505,
    "mismatch01": 400,
    "mismatch02": 501,  # Or 400.
    "bigcode": DROPPED,
    # 3.2 transaction layer
    "badbranch": 400,  # Or match as RFC 2543 does.
    # 3.3 application layer
    "insuf": 400,
    "unkscm": 416,
    "novelsc": 416,
    "unksm2": 400,  # A registrar's verdict; others take the message.
    "bext01": 420,
    "invut": 415,
    "regaut01": ACCEPTED,  # As if without Authorization: the registrar challenges it.
    "multi01": 400,
    "mcl01": 400,
    "bcast": DROPPED,
    "zeromf": ACCEPTED,  # By an endpoint; 483 is for who would have to send it on.
    "cparam01": ACCEPTED,
    "cparam02": ACCEPTED,
    "regescrt": ACCEPTED,
    "sdp01": 406,
    # 3.4 backward compatibility
    "inv2543": ACCEPTED,
}


def load(name: str) -> bytes:
    return (CORPUS / f"{name}.dat").read_bytes()


def request(name: str) -> Request:
    message = parse_message(load(name))
    assert isinstance(message, Request)
    return message


def response(name: str) -> Response:
    message = parse_message(load(name))
    assert isinstance(message, Response)
    return message


def check(message: Request | Response) -> None:
    if isinstance(message, Request):
        check_request(message, methods=METHODS, extensions=frozenset({"replaces", "timer"}))
    else:
        check_response(message)


def verdict(data: bytes) -> str | int:
    message: Request | Response | None = None
    try:
        message = parse_message(data)
        check(message)
    except MalformedMessage as error:
        return DROPPED if error.status is None or isinstance(message, Response) else error.status
    return ACCEPTED


def test_every_message_of_the_corpus_has_a_verdict() -> None:
    assert {path.stem for path in CORPUS.glob("*.dat")} == set(VERDICTS)
    assert len(VERDICTS) == 49


@pytest.mark.parametrize("name", VERDICTS)
def test_message_gets_the_verdict_of_the_rfc(name: str) -> None:
    assert verdict(load(name)) == VERDICTS[name]


@pytest.mark.parametrize("name", [name for name, expected in VERDICTS.items() if isinstance(expected, int)])
def test_refused_request_can_be_answered_by_a_response_that_parses(name: str) -> None:
    data = load(name)
    try:
        broken: Request | None = request(name)
    except MalformedMessage:
        broken = salvage_request(data)
    assert broken is not None
    status = VERDICTS[name]
    assert isinstance(status, int)
    answer = parse_message(bytes(broken.respond(status, to_tag="ours")))
    assert isinstance(answer, Response)
    assert answer.status == status
    for header in ("Via", "From", "Call-ID", "CSeq"):
        assert answer.get(header) == broken.get(header)
    assert ("To" in dict(broken.fields)) == ("To" in dict(answer.fields))


@pytest.mark.parametrize("name", [name for name, expected in VERDICTS.items() if expected == DROPPED])
def test_response_is_never_answered(name: str) -> None:
    assert salvage_request(load(name)) is None


def test_refusals_carry_the_headers_that_the_peer_needs() -> None:
    wanted = {
        "bext01": ("Unsupported", "nothingSupportsThis, nothingSupportsThisEither"),
        "invut": ("Accept", "application/sdp"),
        "sdp01": ("Accept", "application/sdp"),
        "intmeth": ("Allow", ", ".join(sorted(METHODS))),
    }
    for name, field in wanted.items():
        with pytest.raises(Refused) as caught:
            check(request(name))
        assert caught.value.fields == (field,)


def test_known_method_that_is_not_served_is_405_with_allow() -> None:
    with pytest.raises(Refused) as caught:
        check_request(request("mpart01"), methods=["INVITE", "ACK", "BYE"], extensions=())
    assert caught.value.status == 405
    assert caught.value.fields == (("Allow", "ACK, BYE, INVITE"),)


def test_display_name_of_baddn_is_taken_as_if_it_had_quotes() -> None:
    message = parse_message(load("baddn") + b"\r\n")
    check(message)
    assert message.from_.display == "Bell, Alexander"
    assert str(message.to) == '"Watson, Thomas" <sip:t.watson@example.org>'


def read_wsinv() -> None:
    m = request("wsinv")
    assert (m.uri.username, m.uri.param("unknownparam")) == ("vivekg", "")
    assert m.to.tag == "1918181833n"
    assert (m.from_.display, m.from_.tag) == ('J Rosenberg \\"', "98asjd8")
    assert m.number("Max-Forwards") == 68
    assert (m.cseq.number, m.cseq.method) == (9, "INVITE")
    assert m.number("Content-Length") == len(m.body) == 150
    assert m.get("Subject") == ""
    assert m.get("Newfangledheader") == "newfangled value continued newfangled value"
    assert m.get("Unknownheaderwithunusualvalue") == ";;,,;;,;"
    assert m.via.branch == "390skdjuw"
    assert len(m.values("Via")) == 3
    assert [str(route.uri) for route in m.routes] == ["sip:services.example.com;lr;unknownwith=value;unknown-no-value"]
    (contact,) = m.contacts
    assert (contact.display, contact.param("newparam"), contact.param("q")) == ('Quoted string ""', "newvalue", "0.33")
    assert contact.param("secondparam") == ""


def read_intmeth() -> None:
    m = request("intmeth")
    assert m.method == m.cseq.method == "!interesting-Method0123456789_*+`.%indeed'~"
    assert m.uri.user == "1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"
    assert m.uri.password == "&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"
    assert m.uri.host == "example.com"
    assert m.via.branch == "z9hG4bK-.!%66*_+`'~"
    assert m.to.display == "BEL:\x07 NUL:\x00 DEL:\x7f"
    assert m.from_.display == "token1~` token2'+_ token3*%!.-"
    assert m.from_.tag == "_token~1'+`*%!-."
    assert m.from_.param("fromparam''~+*_!.-%") == '"работающий"'
    assert m.call_id == "intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{"
    assert m.number("Max-Forwards") == 255
    assert m.get("Extensionheader-!.%*+_`'~") == "\ufeff大停電"


def read_esc01() -> None:
    m = request("esc01")
    assert (m.uri.user, m.uri.host) == ("sips%3Auser%40example.com", "example.net")
    assert m.uri.username == "sips:user@example.com"
    assert m.to.uri.username == "user"
    assert m.from_.uri.username == "I have spaces"
    (contact,) = m.contacts
    assert contact.uri.username == "caller"
    assert str(contact.uri) == "sip:cal%6Cer@host5.example.net;%6C%72;n%61me=v%61lue%25%34%31"


def read_escnull() -> None:
    m = request("escnull")
    assert m.to.uri.username == "null-\x00-null"
    assert [c.uri.username for c in m.contacts] == ["\x00", "\x00\x00"]
    assert not m.contacts[0].uri.equivalent(m.contacts[1].uri)


def read_esc02() -> None:
    m = request("esc02")
    assert m.method == "RE%47IST%45R"
    assert m.to.display == m.from_.display == "%Z%45"
    assert m.via.branch == "z9hG4bK209%fzsnel234"
    assert [c.uri.username for c in m.contacts] == ["alias1", "alias3"]


def read_lwsdisp() -> None:
    assert request("lwsdisp").from_.display == "caller"


def read_longreq() -> None:
    m = request("longreq")
    assert len(m.fields) == 43
    assert m.from_.tag is not None
    assert len(m.from_.tag) > 100
    assert m.to.display.endswith(" proportion")
    assert m.to.uri.port == 6000
    assert len(m.values("Via")) == 34
    assert m.via.host == "sip33.example.com"
    assert len(m.body) == m.number("Content-Length")


def read_dblreq() -> None:
    m = request("dblreq")
    assert (m.method, m.call_id, m.body) == ("REGISTER", "dblreq.0ha0isndaksdj99sdfafnl3lk233412", b"")
    assert b"INVITE" not in bytes(m), "what follows the message in its datagram is no part of it"


def read_semiuri() -> None:
    m = request("semiuri")
    assert m.uri.username == "user;par=u@example.net"
    assert m.uri.params == ()
    assert len(m.values("Accept")) == 6


def read_transports() -> None:
    assert [v.split()[0] for v in request("transports").values("Via")] == [
        f"SIP/2.0/{transport}" for transport in ("UDP", "SCTP", "TLS", "UNKNOWN", "TCP")
    ]


def read_mpart01() -> None:
    m = request("mpart01")
    assert m.content_type == "multipart/mixed"
    assert len(m.body) == 553
    assert m.via.param("rport") == ""
    assert m.body.endswith(b"--7a9cbec02ceef655--\r\n")


def read_unreason() -> None:
    m = response("unreason")
    assert (m.status, m.reason) == (200, "= 2**3 * 5**2 но сто девяносто девять - простое")


def read_noreason() -> None:
    m = response("noreason")
    assert (m.status, m.reason) == (100, "")


def read_trws() -> None:
    m = request("trws")
    assert (m.target, m.start_line) == (
        "sip:remote-target@example.com",
        "OPTIONS sip:remote-target@example.com SIP/2.0",
    )


def read_baddate() -> None:
    assert request("baddate").get("Date") == "Fri, 01 Jan 2010 16:00:00 EST"


def read_regaut01() -> None:
    assert request("regaut01").get("Authorization") == "NoOneKnowsThisScheme opaque-data=here"


def read_zeromf() -> None:
    assert request("zeromf").number("Max-Forwards") == 0


def read_cparam01() -> None:
    (contact,) = request("cparam01").contacts
    assert contact.uri.params == ()
    assert contact.param("unknownparam") == ""


def read_cparam02() -> None:
    (contact,) = request("cparam02").contacts
    assert contact.params == ()
    assert contact.uri.param("unknownparam") == ""
    assert contact.uri.username == "+19725552222"


def read_regescrt() -> None:
    (contact,) = request("regescrt").contacts
    assert contact.uri.headers == "Route=%3Csip:sip.example.com%3E"


def read_inv2543() -> None:
    m = request("inv2543")
    assert m.via.branch == ""
    assert m.from_.tag is None
    assert m.number("Max-Forwards") is None
    assert m.number("Content-Length") is None
    assert m.to.param("user") == "phone", "without brackets it is a parameter of the header"
    assert [r.uri.param("maddr") for r in m.record_routes] == ["ss1.example.com"]
    assert m.body.endswith(b"m=audio 49217 RTP/AVP 0\r\n")


READINGS: dict[str, Callable[[], None]] = {
    name.removeprefix("read_"): reading for name, reading in list(globals().items()) if name.startswith("read_")
}


@pytest.mark.parametrize("name", READINGS)
def test_values_are_read_as_the_rfc_says(name: str) -> None:
    READINGS[name]()


def test_every_accepted_message_is_read() -> None:
    assert {name for name, expected in VERDICTS.items() if expected == ACCEPTED} <= set(READINGS)


@pytest.mark.parametrize("name", VERDICTS)
def test_parsed_message_prints_as_it_came(name: str) -> None:
    data = load(name)
    try:
        message = parse_message(data)
    except MalformedMessage:
        return
    assert data.startswith(bytes(message))
    rebuilt = parse_message(bytes(message.with_fields()))
    assert rebuilt == message


# What ends a stream rather than a message: nobody can know where the next message begins.
# (dblreq's second message is two bytes longer than it says.)
STREAM_ENDS = {"ncl": 400, "mcl01": 400, "inv2543": 400, "dblreq": 400}
# Their Content-Length or their end is further than the file goes: the stream waits for more.
STREAM_WAITS = {"clerr", "baddn"}


@pytest.mark.parametrize("name", VERDICTS)
def test_stream_goes_on_behind_a_message_whose_end_is_known(name: str) -> None:
    data, ping = load(name), load("zeromf")
    parser = StreamParser()
    if name in STREAM_ENDS:
        with pytest.raises(BrokenStream) as caught:
            parser.receive(ping + data)
        assert caught.value.status == STREAM_ENDS[name]
        raws = [item.raw for item in caught.value.items if isinstance(item, Request)]
        assert raws[0] == ping
        assert len(raws) == (3 if name == "dblreq" else 1)
        assert parser.receive(ping) == []
    elif name in STREAM_WAITS:
        assert parser.receive(data) == []
    else:
        (first, *_, last) = parser.receive(data + ping)
        assert isinstance(last, Request)
        assert last.raw == ping
        if isinstance(first, Broken):
            assert isinstance(VERDICTS[name], int) or VERDICTS[name] == DROPPED
            assert first.data == data
        else:
            assert isinstance(first, Request | Response)
            assert data.startswith(bytes(first))
