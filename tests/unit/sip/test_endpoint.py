"""One endpoint against hand-written peers, in virtual time: schedules, answers, CANCEL."""

import pytest
from tests.unit.sip.peers import (
    G_SCHEDULE,
    TCP,
    UDP,
    arrive,
    assert_nothing_is_left,
    build,
    drain,
    heard,
    make_endpoint,
    resent_at,
    sent_request,
    sent_response,
)

from warden.core.address import Flow
from warden.sip.endpoint import AckArrived, AckMissing, Arrived, Cancelled, Replied, Send, TimedOut
from warden.sip.message import Request

# Clients


@pytest.mark.parametrize(
    ("method", "flow", "expected"),
    [
        ("INVITE", UDP, [0.5, 1.5, 3.5, 7.5, 15.5, 31.5]),
        ("REGISTER", UDP, G_SCHEDULE),
        ("INVITE", TCP, []),
        ("REGISTER", TCP, []),
    ],
)
def test_an_unanswered_request_is_resent_on_its_schedule_then_times_out(
    method: str, flow: Flow, expected: list[float]
) -> None:
    endpoint = make_endpoint()
    key, out = endpoint.request(0.0, build(method), flow)
    log = drain(endpoint)
    assert resent_at(log) == expected
    assert all(output == out[0] for _, output in log[:-1]), "a retransmission is a copy"
    assert log[-1] == (32.0, TimedOut(key))
    assert endpoint.counters.resent == len(expected)
    assert_nothing_is_left(endpoint)


def test_our_via_is_on_top_with_sent_by_of_the_transport_and_a_branch_of_its_own() -> None:
    endpoint = make_endpoint()
    key, out = endpoint.request(0.0, build("INVITE").with_first("Via", "SIP/2.0/WS below.invalid;branch=x"), UDP)
    other, _ = endpoint.request(0.0, build("OPTIONS"), UDP)
    assert sent_request(out).get_all("Via") == [
        "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKtoken1;rport",
        "SIP/2.0/WS below.invalid;branch=x",
    ]
    assert (key, other) == ("z9hG4bKtoken1", "z9hG4bKtoken2")
    _, out = endpoint.request(0.0, build("OPTIONS"), TCP)
    assert sent_request(out).get("Via") == "SIP/2.0/TCP 192.0.2.1:5060;branch=z9hG4bKtoken3;rport"


def test_a_provisional_response_slows_a_non_invite_request_to_t2() -> None:
    endpoint = make_endpoint()
    key, out = endpoint.request(0.0, build("SUBSCRIBE"), UDP)
    trying = sent_request(out).respond(100)
    assert endpoint.receive(0.2, trying, UDP) == [Replied(key, trying, UDP)]
    log = drain(endpoint)
    assert resent_at(log) == [0.5, 4.5, 8.5, 12.5, 16.5, 20.5, 24.5, 28.5]
    assert log[-1] == (32.0, TimedOut(key))
    assert_nothing_is_left(endpoint)


def test_a_ringing_invite_waits_without_limit_and_tells_each_provisional_response() -> None:
    endpoint = make_endpoint()
    key, out = endpoint.request(0.0, build("INVITE"), UDP)
    request = sent_request(out)
    for status in (100, 180, 183, 180):
        response = request.respond(status, to_tag="t" if status > 100 else "")
        assert endpoint.receive(0.1, response, UDP) == [Replied(key, response, UDP)]
    assert endpoint.deadline is None
    assert len(endpoint) == 1


@pytest.mark.parametrize(("flow", "gone_at"), [(UDP, 33.0), (TCP, 1.0)])
def test_a_failed_invite_is_acknowledged_as_often_as_the_failure_comes_but_told_once(
    flow: Flow, gone_at: float
) -> None:
    endpoint = make_endpoint()
    key, out = endpoint.request(0.0, build("INVITE", ("Route", "<sip:proxy.example.org;lr>")), flow)
    invite = sent_request(out)
    busy = invite.respond(486, to_tag="callee")
    ack_out, told = endpoint.receive(1.0, busy, flow)
    assert told == Replied(key, busy, flow)
    ack = sent_request([ack_out])
    assert (ack.method, ack.target, ack.body) == ("ACK", invite.target, b"")
    assert ack.get_all("Via") == invite.get_all("Via")
    assert ack.get_all("Route") == ["<sip:proxy.example.org;lr>"]
    assert ack.get("To") == "<sip:1002@example.org>;tag=callee"
    assert (ack.get("From"), ack.call_id, str(ack.cseq)) == (invite.get("From"), "call-1", "1 ACK")
    again = endpoint.receive(1.0, busy, flow)
    assert again == ([ack_out] if flow is UDP else [])
    assert endpoint.receive(1.0, invite.respond(200, to_tag="late"), flow) == []
    assert endpoint.deadline == (gone_at if flow is UDP else None)
    assert drain(endpoint) == []
    assert_nothing_is_left(endpoint)


def test_every_2xx_and_every_fork_is_told_until_timer_m() -> None:
    endpoint = make_endpoint()
    key, out = endpoint.request(0.0, build("INVITE"), UDP)
    invite = sent_request(out)
    first, fork = invite.respond(200, to_tag="one"), invite.respond(200, to_tag="two")
    for response in (first, first, fork):
        assert endpoint.receive(1.0, response, UDP) == [Replied(key, response, UDP)]
    assert endpoint.receive(2.0, invite.respond(180, to_tag="two"), UDP) == []
    assert endpoint.receive(2.0, invite.respond(486, to_tag="two"), UDP) == []
    assert endpoint.deadline == 33.0
    assert drain(endpoint) == []
    assert endpoint.receive(34.0, first, UDP) == []
    assert endpoint.counters.stray_responses == 1
    assert_nothing_is_left(endpoint)


def test_copies_of_a_final_response_to_a_non_invite_request_are_absorbed_until_timer_k() -> None:
    endpoint = make_endpoint()
    key, out = endpoint.request(0.0, build("BYE"), UDP)
    fine = sent_request(out).respond(200)
    assert endpoint.receive(1.0, fine, UDP) == [Replied(key, fine, UDP)]
    assert endpoint.receive(1.1, fine, UDP) == []
    assert endpoint.deadline == 6.0
    assert drain(endpoint) == []
    assert_nothing_is_left(endpoint)


def test_a_response_needs_our_branch_and_the_method_of_the_request() -> None:
    endpoint = make_endpoint()
    _, out = endpoint.request(0.0, build("BYE"), UDP)
    response = sent_request(out).respond(200)
    assert endpoint.receive(0.1, response.with_fields(("CSeq", "1 INVITE")), UDP) == []
    assert endpoint.receive(0.1, response.with_fields(("Via", "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKother")), UDP) == []
    assert endpoint.receive(0.1, response.without("Via"), UDP) == []
    assert endpoint.counters.stray_responses == 3
    assert endpoint.receive(0.1, response.with_fields(("To", '"unclosed <sip:x@y>')), UDP) == []
    assert endpoint.receive(0.1, response.without("CSeq"), UDP) == []
    assert endpoint.counters.malformed == 2
    assert len(endpoint.receive(0.1, response, UDP)) == 1


def test_an_ack_of_ours_is_no_transaction() -> None:
    endpoint = make_endpoint()
    (output,) = endpoint.send_ack(0.0, build("ACK"), UDP)
    ack = sent_request([output])
    assert ack.via.branch == "z9hG4bKtoken1"
    assert_nothing_is_left(endpoint)


def test_an_ack_that_was_sent_with_its_invite_answers_each_repetition_of_the_2xx_also_after_a_restart() -> None:
    endpoint = make_endpoint()
    key, out = endpoint.request(0.0, build("INVITE"), UDP)
    answer = sent_request(out).respond(200, to_tag="far")
    assert len(endpoint.receive(0.1, answer, UDP)) == 1
    ack = build("ACK").with_fields(("To", answer.get("To") or ""))
    (first,) = endpoint.send_ack(0.1, ack, UDP, key)
    assert endpoint.receive(0.5, answer, UDP) == [first]
    transaction = endpoint.export(key)
    assert transaction is not None
    successor = make_endpoint()
    successor.restore(1.0, transaction)
    assert successor.receive(1.5, answer, UDP) == [first]
    # Another phone behind the same proxy is another matter.
    assert isinstance(successor.receive(1.6, sent_request(out).respond(200, to_tag="other"), UDP)[0], Replied)


# Servers


@pytest.mark.parametrize("flow", [UDP, TCP])
def test_an_answer_that_is_given_once_leaves_nothing_and_a_copy_of_the_request_is_told_again(flow: Flow) -> None:
    endpoint = make_endpoint()
    request = heard("INVITE")
    first = arrive(endpoint, request, flow)
    answer = first.request.respond(401, to_tag="same")
    assert endpoint.respond_once(first.key, answer) == [Send(flow, bytes(answer))]
    assert endpoint.respond_once(first.key, answer) == endpoint.respond(0.0, first.key, answer) == []
    assert_nothing_is_left(endpoint)
    assert isinstance(endpoint.receive(0.1, heard("ACK", To="<sip:1001@example.org>;tag=same"), flow)[0], AckArrived)
    assert arrive(endpoint, request, flow, 0.5).key == first.key


def test_a_retransmitted_invite_gets_the_latest_response_and_is_not_told_again() -> None:
    endpoint = make_endpoint()
    invite = heard("INVITE")
    key = arrive(endpoint, invite).key
    assert endpoint.receive(0.1, invite, UDP) == []
    endpoint.respond(0.2, key, invite.respond(100))
    ringing = endpoint.respond(0.3, key, invite.respond(180, to_tag="us"))
    assert endpoint.receive(0.5, invite, UDP) == ringing
    assert endpoint.counters.retransmitted == 2
    assert endpoint.deadline is None, "how long it may ring is the TU's matter"


@pytest.mark.parametrize(("flow", "expected"), [(UDP, G_SCHEDULE), (TCP, [])])
def test_a_failure_is_repeated_until_timer_h(flow: Flow, expected: list[float]) -> None:
    endpoint = make_endpoint()
    invite = heard("INVITE")
    key = arrive(endpoint, invite, flow).key
    refused = endpoint.respond(0.0, key, invite.respond(486, to_tag="us"))
    assert endpoint.receive(0.0, invite, flow) == refused
    assert resent_at(drain(endpoint)) == expected
    assert_nothing_is_left(endpoint)


@pytest.mark.parametrize(("flow", "gone_at"), [(UDP, 6.0), (TCP, None)])
def test_the_ack_silences_a_failure_and_copies_of_it_are_absorbed_until_timer_i(
    flow: Flow, gone_at: float | None
) -> None:
    endpoint = make_endpoint()
    invite = heard("INVITE")
    key = arrive(endpoint, invite, flow).key
    endpoint.respond(0.0, key, invite.respond(486, to_tag="us"))
    ack = heard("ACK", To="<sip:1001@example.org>;tag=us")
    assert endpoint.receive(1.0, ack, flow) == []
    assert endpoint.deadline == gone_at
    if flow is UDP:
        assert endpoint.receive(1.1, ack, flow) == []
        assert endpoint.receive(1.2, invite, flow) == []
    assert drain(endpoint) == []
    assert_nothing_is_left(endpoint)


@pytest.mark.parametrize("flow", [UDP, TCP])
def test_a_2xx_is_repeated_over_any_transport_and_its_missing_ack_is_told(flow: Flow) -> None:
    endpoint = make_endpoint()
    invite = heard("INVITE")
    key = arrive(endpoint, invite, flow).key
    endpoint.respond(0.0, key, invite.respond(200, to_tag="us"))
    log = drain(endpoint)
    assert resent_at(log) == G_SCHEDULE
    assert log[-1] == (32.0, AckMissing(key))
    assert_nothing_is_left(endpoint)


def test_an_acknowledged_2xx_falls_silent_and_copies_of_the_invite_are_absorbed_until_timer_l() -> None:
    endpoint = make_endpoint()
    invite = heard("INVITE")
    key = arrive(endpoint, invite).key
    endpoint.respond(0.0, key, invite.respond(200, to_tag="us"))
    ack = heard("ACK", "SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bKpeer2", To="<sip:1001@example.org>;tag=us")
    assert endpoint.receive(0.7, ack, UDP) == [AckArrived(ack, UDP)]
    assert endpoint.acked(0.7, key) == []
    assert endpoint.receive(0.8, invite, UDP) == []
    assert endpoint.deadline == 32.0
    assert drain(endpoint) == []
    assert_nothing_is_left(endpoint)


def test_an_ack_for_a_2xx_under_the_branch_of_its_invite_is_still_told() -> None:
    endpoint = make_endpoint()
    invite = heard("INVITE")
    key = arrive(endpoint, invite).key
    endpoint.respond(0.0, key, invite.respond(200, to_tag="us"))
    ack = heard("ACK", To="<sip:1001@example.org>;tag=us")
    assert endpoint.receive(0.7, ack, UDP) == [AckArrived(ack, UDP)]


@pytest.mark.parametrize(("flow", "gone_at"), [(UDP, 33.0), (TCP, None)])
def test_a_non_invite_request_is_answered_again_until_timer_j(flow: Flow, gone_at: float | None) -> None:
    endpoint = make_endpoint()
    register = heard("REGISTER")
    key = arrive(endpoint, register, flow).key
    assert endpoint.receive(0.5, register, flow) == [], "nothing to say yet"
    answer = endpoint.respond(1.0, key, register.respond(200, to_tag="us"))
    assert sent_response(answer).status == 200
    assert endpoint.deadline == gone_at
    if flow is UDP:
        assert endpoint.receive(2.0, register, flow) == answer
    assert drain(endpoint) == []
    assert_nothing_is_left(endpoint)


def test_late_and_second_answers_are_dropped() -> None:
    endpoint = make_endpoint()
    invite = heard("INVITE")
    key = arrive(endpoint, invite).key
    first = endpoint.respond(0.0, key, invite.respond(486, to_tag="us"))
    assert endpoint.respond(0.1, key, invite.respond(200, to_tag="us")) == []
    assert endpoint.respond(0.1, key, invite.respond(180, to_tag="us")) == []
    assert endpoint.receive(0.2, invite, UDP) == first, "what was dropped is not repeated either"
    drain(endpoint)
    assert endpoint.respond(40.0, key, invite.respond(200, to_tag="us")) == []
    client, out = endpoint.request(50.0, build("INVITE"), UDP)
    assert endpoint.respond(50.0, client, sent_request(out).respond(200)) == [], "that is the peer's to answer"


def test_a_dropped_transaction_says_nothing_more() -> None:
    endpoint = make_endpoint()
    key, out = endpoint.request(0.0, build("INVITE"), UDP)
    endpoint.receive(0.1, sent_request(out).respond(180, to_tag="t"), UDP)
    endpoint.cancel(0.2, key)
    server = arrive(endpoint, heard("INVITE")).key
    endpoint.drop(key)
    endpoint.drop(server)
    endpoint.drop("never was")
    assert_nothing_is_left(endpoint)
    assert arrive(endpoint, heard("INVITE", "SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKnew")), "its merge key is gone too"


def test_what_a_finished_transaction_needs_no_more_is_let_go() -> None:
    endpoint = make_endpoint()
    invite = heard("INVITE")
    server = arrive(endpoint, invite).key
    client, out = endpoint.request(0.0, build("INVITE"), UDP)
    before = [endpoint.export(key) for key in (server, client)]
    assert [bool(transaction and transaction.request) for transaction in before] == [True, True]
    endpoint.respond(0.0, server, invite.respond(200, to_tag="us"))
    endpoint.receive(0.0, sent_request(out).respond(200, to_tag="t"), UDP)
    after = [endpoint.export(key) for key in (server, client)]
    assert [transaction.request if transaction else None for transaction in after] == [b"", b""]


# CANCEL


def test_a_cancel_before_any_response_waits_for_the_first_one() -> None:
    endpoint = make_endpoint()
    key, out = endpoint.request(0.0, build("INVITE", ("Route", "<sip:p.example.org;lr>")), UDP)
    invite = sent_request(out)
    assert endpoint.cancel(0.1, key, ("Reason", "SIP;cause=200")) == []
    told, cancel_out = endpoint.receive(0.2, invite.respond(100), UDP)
    assert isinstance(told, Replied)
    cancel = sent_request([cancel_out])
    assert (cancel.method, cancel.target, str(cancel.cseq)) == ("CANCEL", invite.target, "1 CANCEL")
    for name in ("Via", "Route", "From", "To", "Call-ID"):
        assert cancel.get_all(name) == invite.get_all(name)
    assert cancel.get("Reason") == "SIP;cause=200"
    assert endpoint.cancel(0.3, key) == [], "once is enough"
    assert endpoint.receive(0.4, cancel.respond(200, to_tag="t"), UDP) == [], "its answer interests nobody"
    ack, told = endpoint.receive(0.5, invite.respond(487, to_tag="t"), UDP)
    assert sent_request([ack]).method == "ACK"
    assert isinstance(told, Replied)
    assert told.response.status == 487
    assert drain(endpoint) == []
    assert_nothing_is_left(endpoint)


def test_a_cancel_that_crosses_the_final_response_is_never_sent() -> None:
    endpoint = make_endpoint()
    key, out = endpoint.request(0.0, build("INVITE"), UDP)
    endpoint.cancel(0.1, key)
    answered = sent_request(out).respond(200, to_tag="t")
    assert endpoint.receive(0.2, answered, UDP) == [Replied(key, answered, UDP)]
    assert endpoint.cancel(0.3, key) == []
    assert drain(endpoint) == []


def test_an_invite_that_outlives_its_cancel_by_64_t1_is_given_up() -> None:
    endpoint = make_endpoint()
    key, out = endpoint.request(0.0, build("INVITE"), UDP)
    endpoint.receive(1.0, sent_request(out).respond(180, to_tag="t"), UDP)
    cancel = sent_request(endpoint.cancel(10.0, key))
    endpoint.receive(10.1, cancel.respond(200), UDP)
    assert drain(endpoint) == [(42.0, TimedOut(key))]
    assert_nothing_is_left(endpoint)


def test_an_unanswered_cancel_is_resent_but_only_the_invite_is_told_of() -> None:
    endpoint = make_endpoint()
    key, out = endpoint.request(0.0, build("INVITE"), UDP)
    endpoint.receive(0.0, sent_request(out).respond(180, to_tag="t"), UDP)
    endpoint.cancel(0.0, key)
    log = drain(endpoint)
    assert resent_at(log) == G_SCHEDULE
    assert [output for _, output in log if not isinstance(output, Send)] == [TimedOut(key)]
    assert_nothing_is_left(endpoint)


def test_only_an_invite_of_ours_can_be_cancelled() -> None:
    endpoint = make_endpoint()
    key, out = endpoint.request(0.0, build("OPTIONS"), UDP)
    endpoint.receive(0.1, sent_request(out).respond(100), UDP)
    assert endpoint.cancel(0.2, key) == []
    assert endpoint.cancel(0.2, arrive(endpoint, heard("INVITE")).key) == []
    assert endpoint.cancel(0.2, "never was") == []


def test_the_peers_cancel_is_answered_each_time_and_told_once() -> None:
    endpoint = make_endpoint()
    invite, cancel = heard("INVITE"), heard("CANCEL")
    key = arrive(endpoint, invite).key
    endpoint.respond(0.0, key, invite.respond(180, to_tag="us"))
    answer, told = endpoint.receive(1.0, cancel, UDP)
    assert told == Cancelled(key, cancel)
    response = sent_response([answer])
    assert (response.status, response.to.tag) == (200, "us")
    assert endpoint.receive(1.5, cancel, UDP) == [answer]
    assert sent_response(endpoint.respond(1.6, key, invite.respond(487, to_tag="us"))).status == 487
    assert endpoint.receive(1.7, heard("ACK", To="<sip:1001@example.org>;tag=us"), UDP) == []
    drain(endpoint)
    assert_nothing_is_left(endpoint)


def test_a_cancel_for_an_answered_invite_changes_nothing_and_one_for_nothing_gets_481() -> None:
    endpoint = make_endpoint()
    invite = heard("INVITE")
    key = arrive(endpoint, invite).key
    endpoint.respond(0.0, key, invite.respond(200, to_tag="us"))
    assert sent_response(endpoint.receive(0.1, heard("CANCEL"), UDP)).status == 200
    endpoint.acked(0.2, key)
    stray = heard("CANCEL", "SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bKelse")
    assert sent_response(endpoint.receive(0.3, stray, UDP)).status == 481


def test_a_cancel_of_anything_but_an_invite_is_answered_and_changes_nothing() -> None:
    endpoint = make_endpoint()
    options = heard("OPTIONS")
    (arrived,) = endpoint.receive(0.0, options, UDP)
    assert isinstance(arrived, Arrived)
    kept = [f for f in options.fields if f[0] != "CSeq"]
    cancel = Request("CANCEL", options.target, (*kept, ("CSeq", f"{options.cseq.number} CANCEL")))
    (answer,) = endpoint.receive(0.1, cancel, UDP)
    assert isinstance(answer, Send)
    assert answer.data.startswith(b"SIP/2.0 200")
