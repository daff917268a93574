"""What belongs to which transaction of an endpoint, and what is refused: Via rules, merging, older peers, limits."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.sip.peers import (
    TCP,
    UDP,
    arrive,
    assert_nothing_is_left,
    build,
    drain,
    heard,
    make_endpoint,
    resent_at,
    sent,
    sent_request,
    sent_response,
)

from warden.core.address import Address, Flow
from warden.core.errors import MalformedMessage
from warden.sip.endpoint import AckArrived, Arrived, Cancelled, Send
from warden.sip.message import Request, Response
from warden.sip.parser import parse_message


@pytest.mark.parametrize(
    ("via", "flow", "expected", "reply_to"),
    [
        ("SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bKa", UDP, None, 5060),
        ("SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKa", UDP, None, 5060),
        ("SIP/2.0/UDP 192.0.2.9:5070;branch=z9hG4bKa", UDP, None, 5070),
        ("SIP/2.0/UDP 10.0.0.5:5070;branch=z9hG4bKa", UDP, ";branch=z9hG4bKa;received=192.0.2.9", 5070),
        ("SIP/2.0/UDP pc.invalid;branch=z9hG4bKa", UDP, ";branch=z9hG4bKa;received=192.0.2.9", 5060),
        (
            "SIP/2.0/UDP 10.0.0.5:5070;rport;branch=z9hG4bKa",
            UDP._replace(remote=Address("192.0.2.9", 61234)),
            ";branch=z9hG4bKa;received=192.0.2.9;rport=61234",
            61234,
        ),
        (
            "SIP/2.0/UDP 192.0.2.9:5060;rport;branch=z9hG4bKa",
            UDP,
            ";branch=z9hG4bKa;received=192.0.2.9;rport=5060",
            5060,
        ),
        (
            "SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bKa;received=198.51.100.1;rport=7",
            UDP,
            ";branch=z9hG4bKa;received=192.0.2.9;rport=5060",
            5060,
        ),
        ("SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bKa;maddr=198.51.100.1", UDP, None, 5060),
        ("SIP/2.0/TCP 10.0.0.5:5070;branch=z9hG4bKa", TCP, ";branch=z9hG4bKa;received=192.0.2.9", 5060),
    ],
)
def test_the_top_via_says_where_it_was_heard_and_where_the_response_goes(
    via: str, flow: Flow, expected: str | None, reply_to: int
) -> None:
    endpoint = make_endpoint()
    below = "SIP/2.0/UDP below.invalid;branch=z9hG4bKb"
    options = heard("OPTIONS", f"{via}, {below}")
    output = arrive(endpoint, options, flow)
    assert output.flow == flow
    top = via if expected is None else via.split(";", maxsplit=1)[0] + expected
    assert [value.strip() for value in output.request.values("Via")] == [top, below]
    (answer,) = endpoint.respond(0.0, output.key, output.request.respond(200, to_tag="us"))
    assert isinstance(answer, Send)
    assert answer.flow == flow._replace(remote=Address("192.0.2.9", reply_to))
    assert parse_message(answer.data).values("Via") == output.request.values("Via")


def test_one_branch_from_two_senders_or_with_two_methods_is_two_transactions() -> None:
    endpoint = make_endpoint()
    first = arrive(endpoint, heard("OPTIONS"))
    neighbour = arrive(endpoint, heard("OPTIONS", "SIP/2.0/UDP 192.0.2.8:5060;branch=z9hG4bKpeer1", Call_ID="call-3"))
    other_port = arrive(endpoint, heard("OPTIONS", "SIP/2.0/UDP 192.0.2.9:5062;branch=z9hG4bKpeer1", Call_ID="call-4"))
    other_method = arrive(endpoint, heard("INFO"))
    assert len({first.key, neighbour.key, other_port.key, other_method.key}) == 4


def test_a_request_that_came_by_two_ways_is_answered_482_the_second_time() -> None:
    endpoint = make_endpoint()
    key = arrive(endpoint, heard("INVITE")).key
    copy = heard("INVITE", "SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bKotherway")
    merged = endpoint.receive(0.1, copy, UDP)
    assert sent_response(merged).status == 482
    assert endpoint.receive(0.2, copy, UDP) == merged, "without state, yet with the same tag"
    assert endpoint.counters.merged == 2
    other_call = heard("INVITE", "SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bKthird", Call_ID="call-3")
    next_try = heard("INVITE", "SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bKfourth", CSeq="2 INVITE")
    inside = heard("INVITE", "SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bKfifth", To="<sip:1001@example.org>;tag=us")
    for request in (other_call, next_try, inside):
        endpoint.drop(arrive(endpoint, request).key)
    endpoint.drop(key)
    assert arrive(endpoint, copy)


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        (heard("OPTIONS", To=""), 400),
        (heard("OPTIONS", From=""), 400),
        (heard("OPTIONS", Call_ID=""), 400),
        (heard("OPTIONS", CSeq=""), 400),
        (heard("OPTIONS", CSeq="1 INVITE"), 400),
        (heard("OPTIONS", CSeq="36893488147419103232 OPTIONS"), 400),
        (heard("OPTIONS", To='"Mr. Nobody <sip:x@example.org>'), 400),
        (heard("OPTIONS", From="<sip:x@example.org>;tag=a;tag=b"), 400),
        (heard("OPTIONS", "SIP/2.0/UDP"), None),
        (heard("OPTIONS").without("Via"), None),
        (heard("ACK", CSeq="1 INVITE"), None),
        (heard("ACK", To=""), None),
    ],
)
def test_a_request_whose_essential_headers_are_broken_gets_400_where_its_via_allows(
    broken: Request, status: int | None
) -> None:
    endpoint = make_endpoint()
    out = endpoint.receive(0.0, broken, UDP)
    assert [message.status for message in sent(out) if isinstance(message, Response)] == ([status] if status else [])
    assert endpoint.receive(0.0, broken, UDP) == out
    assert endpoint.counters.malformed == 2
    assert_nothing_is_left(endpoint)


@pytest.mark.parametrize("branch", ["", ";branch=1", ";branch=z9hG4bK"])
def test_a_peer_without_rfc_3261_branches_is_matched_by_the_older_rule(branch: str) -> None:
    endpoint = make_endpoint()
    via = f"SIP/2.0/UDP 192.0.2.9:5060{branch}"
    invite = heard("INVITE", via)
    key = arrive(endpoint, invite).key
    other = arrive(endpoint, heard("INVITE", via, CSeq="2 INVITE")).key
    assert key != other
    endpoint.drop(other)
    refused = endpoint.respond(0.0, key, invite.respond(486, to_tag="us"))
    assert endpoint.receive(0.1, invite, UDP) == refused
    foreign = heard("ACK", via, To="<sip:1001@example.org>;tag=else")
    assert endpoint.receive(0.2, foreign, UDP) == [AckArrived(foreign, UDP)]
    assert endpoint.receive(0.3, heard("ACK", via, To="<sip:1001@example.org>;tag=us"), UDP) == []
    assert resent_at(drain(endpoint)) == []
    assert_nothing_is_left(endpoint)


def test_an_older_peer_can_cancel_and_its_re_invite_is_acknowledged_with_the_tag_it_had() -> None:
    endpoint = make_endpoint()
    via = "SIP/2.0/UDP 192.0.2.9:5060"
    key = arrive(endpoint, heard("INVITE", via)).key
    assert endpoint.receive(0.1, heard("CANCEL", via), UDP)[1:] == [Cancelled(key, heard("CANCEL", via))]
    endpoint.drop(key)
    tagged = "<sip:1001@example.org>;tag=us"
    again = heard("INVITE", via, To=tagged, CSeq="2 INVITE")
    endpoint.respond(1.0, arrive(endpoint, again).key, again.respond(488))
    assert endpoint.receive(1.1, heard("ACK", via, To=tagged, CSeq="2 ACK"), UDP) == []
    assert resent_at(drain(endpoint)) == []
    assert_nothing_is_left(endpoint)


def test_beyond_the_limit_new_requests_are_refused_and_known_ones_served() -> None:
    endpoint = make_endpoint(transactions_max=2)
    requests = [heard("OPTIONS", f"SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK{n}", Call_ID=f"c{n}") for n in range(3)]
    keys = [arrive(endpoint, request).key for request in requests[:2]]
    refused = sent_response(endpoint.receive(0.0, requests[2], UDP))
    assert (refused.status, refused.number("Retry-After")) == (503, 5)
    assert len(endpoint) == 2
    assert endpoint.counters.refused == 1
    answered = endpoint.respond(0.1, keys[0], requests[0].respond(200, to_tag="us"))
    assert endpoint.receive(0.2, requests[0], UDP) == answered
    endpoint.drop(keys[1])
    assert arrive(endpoint, requests[2])


def test_a_refusal_without_state_is_the_same_each_time_and_no_ack_is_ever_refused() -> None:
    endpoint = make_endpoint()
    options = heard("OPTIONS", "SIP/2.0/UDP 10.0.0.5;rport;branch=z9hG4bKa")
    out = endpoint.refuse(options, UDP, 420, ("Unsupported", "100rel"))
    response = sent_response(out)
    assert (response.status, response.get("Unsupported"), response.via.param("rport")) == (420, "100rel", "5060")
    assert response.to.tag
    assert endpoint.refuse(options, UDP, 420, ("Unsupported", "100rel")) == out
    assert endpoint.refuse(heard("ACK"), UDP, 400) == []
    assert endpoint.refuse(options.without("Via"), UDP, 400) == []
    assert_nothing_is_left(endpoint)


SEEDS: list[Callable[[], bytes]] = [
    lambda: bytes(heard("INVITE", "SIP/2.0/UDP 192.0.2.9;rport;branch=z9hG4bKpeer1, SIP/2.0/TCP [2001:db8::1]:5061")),
    lambda: bytes(heard("CANCEL")),
    lambda: bytes(heard("ACK", "SIP/2.0/UDP 192.0.2.9", To="<sip:1001@example.org>;tag=us")),
    lambda: bytes(build("INVITE").with_first("Via", "SIP/2.0/UDP h;branch=z9hG4bKtoken1").respond(486, to_tag="x")),
    lambda: bytes(build("CANCEL").with_first("Via", "SIP/2.0/UDP h;branch=z9hG4bKtoken1").respond(200)),
]


@settings(deadline=None, max_examples=300, derandomize=True)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 8), st.binary(max_size=6)), max_size=6),
    st.booleans(),
)
def test_whatever_is_heard_nothing_is_raised_and_all_ends(
    seed: Callable[[], bytes], edits: list[tuple[int, int, bytes]], has_rung: bool
) -> None:
    endpoint = make_endpoint()
    key, out = endpoint.request(0.0, build("INVITE"), UDP)
    if has_rung:
        endpoint.receive(0.0, sent_request(out).respond(180, to_tag="t"), UDP)
    endpoint.cancel(0.0, key)
    server = arrive(endpoint, heard("INVITE"))
    endpoint.respond(0.0, server.key, server.request.respond(180, to_tag="us"))
    data = seed()
    for at, removed, put in edits:
        data = data[:at] + put + data[at + removed :]
    try:
        message = parse_message(data)
    except MalformedMessage:
        return
    for output in endpoint.receive(0.1, message, UDP):
        if isinstance(output, Arrived):
            endpoint.respond(0.2, output.key, output.request.respond(500, to_tag="us"))
    endpoint.respond(0.2, server.key, server.request.respond(486, to_tag="us"))
    drain(endpoint)
    assert_nothing_is_left(endpoint)


def test_a_response_that_is_for_somebody_else_or_says_a_thing_twice_is_dropped() -> None:
    endpoint = make_endpoint()
    _, out = endpoint.request(0.0, build("OPTIONS"), UDP)
    good = sent_request(out).respond(200, to_tag="far")
    two_vias = Response(200, "OK", (*good.fields, ("Via", "SIP/2.0/UDP 192.0.2.77;branch=z9hG4bKx")))
    two_calls = Response(200, "OK", (*good.fields, ("Call-ID", "another")))
    assert endpoint.receive(0.1, two_vias, UDP) == endpoint.receive(0.1, two_calls, UDP) == []
    assert endpoint.counters.malformed == 2
    assert len(endpoint.receive(0.2, good, UDP)) == 1
