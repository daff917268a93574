"""Connections of an endpoint that are lost, and peers that come back on others."""

from math import inf

import pytest
from tests.unit.sip.peers import (
    TCP,
    UDP,
    US,
    arrive,
    assert_nothing_is_left,
    build,
    drain,
    heard,
    make_endpoint,
    sent_request,
)

from warden.core.address import Address, Flow, Transport
from warden.sip.endpoint import Send, TimedOut, Unreachable


def test_a_lost_flow_ends_its_unanswered_client_transactions_and_no_others() -> None:
    endpoint = make_endpoint()
    calling, _ = endpoint.request(0.0, build("INVITE"), TCP)
    ringing, out = endpoint.request(0.0, build("INVITE"), TCP)
    endpoint.receive(0.1, sent_request(out).respond(180, to_tag="t"), TCP)
    plain, _ = endpoint.request(0.0, build("OPTIONS"), TCP)
    answered, out = endpoint.request(0.0, build("INVITE"), TCP)
    endpoint.receive(0.1, sent_request(out).respond(200, to_tag="t"), TCP)
    other, _ = endpoint.request(0.0, build("OPTIONS"), TCP._replace(connection=4))
    server = arrive(endpoint, heard("INVITE"), TCP)
    assert endpoint.lost(1.0, TCP, "reset") == [Unreachable(key, "reset") for key in (calling, ringing, plain)]
    assert [key for key in (calling, ringing, plain, answered, other) if endpoint.export(key)] == [answered, other]
    assert endpoint.lost(1.0, TCP, "reset") == []
    assert endpoint.export(server.key) is not None
    assert [output for _, output in drain(endpoint)] == [TimedOut(other)]


def test_a_connection_lost_after_a_failure_was_told_is_not_told_again() -> None:
    endpoint = make_endpoint()
    _, out = endpoint.request(0.0, build("INVITE"), UDP)
    assert len(endpoint.receive(0.1, sent_request(out).respond(404, to_tag="t"), UDP)) == 2
    assert endpoint.lost(0.2, UDP, "port unreachable") == []
    assert_nothing_is_left(endpoint)


def test_a_peer_that_answers_over_another_connection_is_followed_there() -> None:
    endpoint = make_endpoint()
    new = Flow(Transport.TCP, US, Address("192.0.2.9", 40_001), 4)
    key, out = endpoint.request(0.0, build("INVITE"), TCP)
    endpoint.receive(0.1, sent_request(out).respond(180, to_tag="t"), new)
    assert endpoint.lost(0.2, TCP, "reset") == []
    (cancel,) = endpoint.cancel(0.3, key)
    assert isinstance(cancel, Send)
    assert cancel.flow == new
    assert Unreachable(key, "reset") in endpoint.lost(0.4, new, "reset")
    assert_nothing_is_left(endpoint)


def test_after_a_restart_a_request_waits_for_its_peer_to_come_back_and_is_said_again_there() -> None:
    endpoint = make_endpoint()
    key, _ = endpoint.request(0.0, build("INVITE"), TCP)
    transaction = endpoint.export(key)
    assert transaction is not None
    successor = make_endpoint()
    successor.restore(1.0, transaction)
    dead, new = TCP._replace(connection=0), TCP._replace(remote=Address("192.0.2.9", 40_001))
    assert successor.lost(1.1, dead, "refused") == []
    assert successor.move(key, TCP, new) == [], "it is not there"
    assert successor.move(key, dead, new) == [Send(new, transaction.request)]
    assert successor.lost(1.2, dead, "refused") == []
    assert successor.lost(1.2, new, "reset") == [Unreachable(key, "reset")]
    assert_nothing_is_left(successor)


def test_an_unacknowledged_answer_is_said_again_over_the_connection_that_its_peer_came_back_on() -> None:
    endpoint = make_endpoint()
    new = TCP._replace(connection=4)
    arrived = arrive(endpoint, heard("INVITE"), TCP)
    (ringing,) = endpoint.respond(0.0, arrived.key, arrived.request.respond(180, to_tag="t"))
    assert isinstance(ringing, Send)
    assert endpoint.move(arrived.key, TCP, new) == [Send(new, ringing.data)]
    (answer,) = endpoint.respond(0.1, arrived.key, arrived.request.respond(200, to_tag="t"))
    assert isinstance(answer, Send)
    assert answer.flow == new
    assert endpoint.move(arrived.key, new, TCP) == [Send(TCP, answer.data)]
    endpoint.acked(0.2, arrived.key)
    assert endpoint.move(arrived.key, TCP, new) == []


@pytest.mark.parametrize(("sent_by", "port"), [("192.0.2.9:5080", 5080), ("phone.example:5080", 5080), ("phone", 5060)])
def test_an_answer_whose_connection_is_gone_is_tried_where_the_peer_says_that_it_listens(
    sent_by: str, port: int
) -> None:
    endpoint = make_endpoint()
    came = TCP._replace(remote=Address("192.0.2.9", 40_001))
    request = heard("INVITE", via=f"SIP/2.0/TCP {sent_by};branch=z9hG4bKpeer1")
    key = arrive(endpoint, request, came).key
    assert endpoint.lost(0.1, came, "reset") == [], "there is no answer yet"
    (answer,) = endpoint.respond(0.2, key, request.respond(486, to_tag="t"))
    assert isinstance(answer, Send)
    listening = Flow(Transport.TCP, US, Address("192.0.2.9", port))
    assert endpoint.lost(0.2, came, "reset") == [Send(listening, answer.data)]
    assert endpoint.lost(0.3, listening, "refused") == []
    # It may come to us all the same.
    new = came._replace(remote=Address("192.0.2.9", 40_002), connection=4)
    assert endpoint.move_all(came, new) == [Send(new, answer.data)]
    assert endpoint.receive(0.5, heard("ACK", via=f"SIP/2.0/TCP {sent_by};branch=z9hG4bKpeer1"), new) == []
    assert_nothing_is_left(endpoint)


def test_an_answer_is_not_tried_again_at_the_port_whose_connection_is_gone() -> None:
    endpoint = make_endpoint()
    came = TCP._replace(remote=Address("192.0.2.9", 40_001))
    request = heard("INVITE", via="SIP/2.0/TCP 192.0.2.9:40001;branch=z9hG4bKpeer1")
    key = arrive(endpoint, request, came).key
    endpoint.respond(0.2, key, request.respond(486, to_tag="t"))
    assert endpoint.lost(0.2, came, "reset") == []


def test_a_request_that_comes_again_over_another_connection_is_answered_there() -> None:
    endpoint = make_endpoint()
    new = TCP._replace(remote=Address("192.0.2.9", 40_002), connection=4)
    request = heard("INVITE", via="SIP/2.0/TCP 192.0.2.9:5060;branch=z9hG4bKpeer1")
    key = arrive(endpoint, request, TCP).key
    (ringing,) = endpoint.respond(0.1, key, request.respond(180, to_tag="t"))
    assert isinstance(ringing, Send)
    assert endpoint.receive(0.2, request, new) == [Send(new, ringing.data)]
    (cancelled, *_) = endpoint.receive(0.3, heard("CANCEL", via=str(request.via), CSeq="1 CANCEL"), TCP)
    assert isinstance(cancelled, Send)
    assert [x.flow for x in endpoint.respond(0.3, key, request.respond(487, to_tag="t")) if isinstance(x, Send)] == [
        TCP
    ]


def test_who_waits_for_a_lost_peer_waits_until_it_is_back_or_the_transaction_is_over() -> None:
    endpoint = make_endpoint()
    key, (said,) = endpoint.request(0.0, build("BYE"), TCP, patience_s=inf)
    assert isinstance(said, Send)
    assert endpoint.lost(0.1, TCP, "reset") == []
    new = TCP._replace(connection=4)
    assert endpoint.move_all(TCP, new) == [Send(new, said.data)]
    assert endpoint.lost(0.2, new, "reset") == [Unreachable(key, "reset")]
    late, _ = endpoint.request(1.0, build("BYE"), TCP, patience_s=inf)
    assert [output for _, output in drain(endpoint)] == [TimedOut(late)]
    assert_nothing_is_left(endpoint)


def test_an_address_where_nobody_is_is_asked_again_as_long_as_somebody_may_take_it() -> None:
    endpoint = make_endpoint()
    key, (said,) = endpoint.request(0.0, build("INVITE"), UDP, patience_s=5.0)
    assert isinstance(said, Send)
    assert endpoint.lost(0.1, UDP, "refused") == []
    assert endpoint.tick(0.5) == [said]
    assert endpoint.lost(4.9, UDP, "refused") == []
    assert endpoint.lost(5.0, UDP, "refused") == [Unreachable(key, "refused")]
    assert_nothing_is_left(endpoint)
