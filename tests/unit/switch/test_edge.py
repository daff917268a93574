"""Calls between two seats: the other seat's edge stands between, and keeps nothing of them."""

from itertools import pairwise

import pytest
from tests.unit.switch.seats import OTHER, Seats
from tests.unit.switch.world import SERVER, World

from warden.call.cdr import Party, Result
from warden.core.address import Address, Flow, Transport
from warden.phone.events import Answered, Confirmed, Ended, Incoming, Ringing, Updated
from warden.sip.message import Request, Response
from warden.sip.parser import parse_message
from warden.store.ports import Kind
from warden.switch.flow_token import PREFIX
from warden.switch.registrar import decode_bindings


def test_a_phone_at_another_seat_is_called_through_that_seat_and_talks_to_the_callers() -> None:
    seats = Seats()
    seats.run(40)
    caller, callee = seats.up()
    assert len(seats.one.of("1001", Ringing)) == len(seats.one.of("1001", Answered)) == 1
    assert len(seats.two.of("2001", Confirmed)) == 1
    (invite,) = seats.two.requests("INVITE", to="2001")
    assert {v.partition(";")[0].rpartition(" ")[2] for v in invite.values("Via")} == {str(OTHER), str(SERVER)}
    assert invite.get("Route") is None
    assert invite.get("Max-Forwards") == "68", "one hop for the call, one for the edge"
    (session,) = seats.one.media.values()
    (stream,) = session.streams
    assert stream.b is not None
    assert stream.b.remote == Address(seats.two.addresses["2001"].host, 4000)
    assert seats.two.media == {}, "the other seat carries no media"
    assert len(seats.two.switch) == 0, "and keeps nothing of the call"
    seats.one.hang_up("1001", caller)
    (cdr,) = seats.is_clean()
    assert (cdr.result, cdr.answered_by, cdr.ended_by) == (Result.ANSWERED, "2001", Party.CALLER)
    assert seats.two.ended("2001") == [200]
    assert callee not in seats.two.phones["2001"].calls


def test_the_callee_hangs_up() -> None:
    seats = Seats()
    _, callee = seats.up()
    seats.two.hang_up("2001", callee)
    (cdr,) = seats.is_clean()
    assert cdr.ended_by is Party.CALLEE
    assert seats.one.ended("1001") == [200]


def test_what_a_phone_says_to_a_seat_that_is_not_known_just_now_is_not_sent_back_to_it() -> None:
    seats = Seats()
    _, callee = seats.up()
    known = seats.two.roster.addresses
    seats.two.roster.addresses = {seat: at for seat, at in known.items() if at == OTHER}
    seats.two.hang_up("2001", callee, run_s=1)
    assert seats.two.requests("BYE", to="2001") == []
    seats.two.roster.addresses = known
    seats.run(4)
    assert seats.two.ended("2001") == [200]
    seats.is_clean()


def test_hold_and_resume_go_both_ways() -> None:
    seats = Seats()
    caller, callee = seats.up()
    for world, name, tag in ((seats.one, "1001", caller), (seats.two, "2001", callee)):
        for change in ("hold", "resume"):
            phone = world.phones[name]
            world.do(name, getattr(phone, change)(world.now, tag))
            world.run(1)
    assert [e.ours for e in seats.one.of("1001", Updated)] == [True, True, False, False]
    assert [e.ours for e in seats.two.of("2001", Updated)] == [False, False, True, True]
    seats.two.hang_up("2001", callee)
    seats.is_clean()


def test_an_update_and_an_info_go_across() -> None:
    seats = Seats()
    caller, callee = seats.up()
    seats.two.do("2001", seats.two.phones["2001"].update(seats.two.now, callee))
    seats.run(1)
    seats.one.do("1001", seats.one.phones["1001"].info(seats.one.now, caller, "5"))
    seats.run(1)
    assert len(seats.one.of("1001", Updated)) == 1
    assert len(seats.two.requests("INFO", to="2001")) == 1
    seats.one.hang_up("1001", caller)
    seats.is_clean()


def test_a_caller_who_gives_up_stops_the_ringing() -> None:
    seats = Seats()
    ringing(seats.two, "2001")
    caller = seats.one.call("1001", "2001", run_s=1)
    seats.one.hang_up("1001", caller, run_s=1)
    assert seats.two.ended("2001") == [487]
    (cdr,) = seats.is_clean()
    assert cdr.result is Result.CANCELLED


@pytest.mark.parametrize("status", [486, 480, 603])
def test_who_refuses_is_heard_at_the_other_seat(status: int) -> None:
    seats = Seats()
    seats.two.refuses("2001", status, ring=True)
    seats.one.call("1001", "2001", run_s=2)
    assert seats.one.ended("1001") == [status]
    seats.is_clean()


def test_a_late_offer_goes_across() -> None:
    seats = Seats()
    seats.two.rings_then_answers("2001")
    caller = seats.one.call("1001", "2001", late=True, run_s=2)
    assert len(seats.two.of("2001", Confirmed)) == 1
    seats.one.hang_up("1001", caller)
    seats.is_clean()


@pytest.mark.parametrize("seed", range(12))
def test_lost_doubled_and_overtaken_datagrams_harm_no_call(seed: int) -> None:
    seats = Seats(seed=seed, loss=0.2)
    seats.two.rings_then_answers("2001")
    caller = seats.one.call("1001", "2001", run_s=40)
    callee = seats.two.incoming("2001")
    seats.one.do("1001", seats.one.phones["1001"].hold(seats.one.now, caller))
    seats.run(40)
    assert [e.ours for e in seats.two.of("2001", Updated)] == [False]
    seats.two.hang_up("2001", callee)
    seats.is_clean(strict=False)
    assert len(seats.one.of("1001", Ended)) == len(seats.two.of("2001", Ended)) == 1


def test_copies_of_a_request_are_forwarded_as_copies() -> None:
    seats = Seats()
    seats.one.loss = 0.0
    ringing(seats.two, "2001")
    caller = seats.one.call("1001", "2001", run_s=1)
    sent = next(m for _, source, target, m in seats.one.log if (source, target) == (SERVER, OTHER))
    seats.one.send(SERVER, OTHER, bytes(sent))
    seats.run(1)
    first, again = seats.two.requests("INVITE", to="2001")
    assert bytes(first) == bytes(again)
    seats.one.hang_up("1001", caller, run_s=1)
    (cancel,) = seats.two.requests("CANCEL", to="2001")
    assert cancel.via.branch == first.via.branch
    seats.is_clean()


# Who may use it


def a_request(seats: Seats, method: str = "INVITE", **changed: str) -> Request:
    """A request that goes by a phone's own token, as a stranger who knows it would send it."""
    _, callee = seats.up()
    seats.two.hang_up("2001", callee, run_s=40)
    route = next(m for m in seats.one.requests("INVITE") if m.get("Route")).get("Route")
    request = seats.two.peer("10.9.9.9").request(method, "9", to="9")
    fields = {"Route": route or "", **changed}
    return request.with_fields(*((name.replace("_", "-"), value) for name, value in fields.items()))


def statuses_after(seats: Seats, request: Request) -> list[int]:
    stranger = seats.two.peer("10.9.9.9")
    stranger.heard.clear()
    stranger.say(request)
    seats.run(1)
    return [m.status for m in stranger.heard if isinstance(m, Response)]


def test_a_forged_token_is_forbidden() -> None:
    seats = Seats()
    request = a_request(seats)
    token = parse_user(request)
    for forged in (
        token[:-4] + ("A" if token[-4] != "A" else "B") + token[-3:],
        PREFIX + ("A" if token[5] != "A" else "B") + token[6:],
        PREFIX,
        PREFIX + "x",
        PREFIX + "%41",
    ):
        forged_route = f"<sip:{forged}@{OTHER};lr>"
        before = len(seats.two.log)
        assert statuses_after(seats, request.with_fields(("Route", forged_route))) == [403]
        assert len(seats.two.log) == before + 2, "the question and its answer"
    assert seats.two.switch.counters["edge_refusals"] == 5
    seats.is_clean()


def parse_user(request: Request) -> str:
    return request.routes[0].uri.user or ""


def test_a_token_of_one_seat_is_worth_nothing_at_another() -> None:
    seats = Seats()
    request = a_request(seats)
    token = parse_user(request)
    stranger = seats.one.peer("10.9.9.8")
    elsewhere = Request("INVITE", "sip:9@10.9.9.9", request.fields)
    stranger.say(elsewhere.with_fields(("Route", f"<sip:{token}@{SERVER};lr>")))
    seats.run(1)
    assert [m.status for m in stranger.heard if isinstance(m, Response)] == [403]
    seats.is_clean()


def test_a_request_for_a_seat_that_begins_something_is_forbidden() -> None:
    seats = Seats()
    request = a_request(seats)
    outward = Request("INVITE", f"sip:1001@{SERVER}", request.fields)
    assert statuses_after(seats, outward) == [403]
    seats.is_clean()


def test_with_a_token_nobody_reaches_anybody_but_its_phone() -> None:
    seats = Seats()
    request = a_request(seats)
    victim = seats.two.peer("10.66.66.66")
    aimed = Request("OPTIONS", f"sip:x@{victim.address}", request.fields).with_fields(("CSeq", "1 OPTIONS"))
    seats.two.peer("10.9.9.9").say(aimed)
    seats.run(1)
    assert victim.heard == []
    assert len(seats.two.requests("OPTIONS", to="2001")) == 1
    seats.run(40)
    seats.is_clean()


def test_a_response_goes_nowhere_but_where_its_request_came_from() -> None:
    seats = Seats()
    _, callee = seats.up()
    ok = next(m for m in seats.two.responses("INVITE") if m.status == 200 and len(m.values("Via")) == 2)
    victim, liar = seats.two.peer("10.66.66.66"), seats.two.peer("10.9.9.9")
    top, below = ok.values("Via")
    for via in (
        below.replace(f"received={SERVER.host}", f"received={victim.address.host}"),
        below.replace(f"rport={SERVER.port}", "rport=9"),
        f"SIP/2.0/UDP {victim.address};branch=z9hG4bKx",
        f"SIP/2.0/UDP {victim.address};branch=z9hG4bKx;rport=\u00b2",
        f"SIP/2.0/SCTP {victim.address};branch=z9hG4bKx",
    ):
        liar.say(ok.with_fields(("Via", f"{top}, {via}")))
    liar.say(ok.with_fields(("Via", top)))
    liar.say(ok.with_fields(("Via", f"{top}, nonsense")))
    assert victim.heard == []
    assert seats.two.switch.counters["edge_refusals"] == 7
    seats.two.hang_up("2001", callee)
    seats.is_clean()


def test_a_request_without_hops_left_goes_no_further() -> None:
    seats = Seats()
    request = a_request(seats)
    assert statuses_after(seats, request.with_fields(("Max-Forwards", "0"))) == [483]
    assert statuses_after(seats, request.with_fields(("Max-Forwards", "many"), ("CSeq", "77 INVITE"))) == [400]
    assert len(seats.two.requests("INVITE", to="2001")) == 1
    seats.is_clean()


def test_a_call_that_comes_back_to_the_seat_that_made_it_is_a_loop() -> None:
    seats = Seats()
    ringing(seats.two, "2001")
    caller = seats.one.call("1001", "2001", run_s=1)
    (invite,) = seats.two.requests("INVITE", to="2001")
    stray = seats.one.peer("10.9.9.8")
    via = f"SIP/2.0/UDP {stray.address};branch=z9hG4bKs;rport"
    back = Request("INVITE", f"sip:2001@{SERVER}", invite.fields, invite.body).with_fields(("Via", via))
    stray.say(back)
    assert stray.statuses("INVITE") == [482]
    seats.one.hang_up("1001", caller)
    seats.is_clean()


def test_a_phone_that_is_no_longer_registered_is_not_rung() -> None:
    seats = Seats()
    kept = dict(seats.one.roster._seats["seat-2"])
    seats.two.register("2001", 0)
    assert seats.one.call("1001", "2001", run_s=1)
    assert seats.one.ended("1001") == [480]
    # The first seat has not heard of it yet: the edge knows.
    seats.one.roster.take("seat-2", kept, whole=True)
    seats.one.call("1001", "2001", run_s=1)
    assert seats.one.ended("1001") == [480, 480]
    assert seats.two.requests("INVITE", to="2001") == seats.two.requests("ACK", to="2001") == []
    seats.is_clean(cdrs=2)


# Phones that move


def test_a_phone_whose_nat_gives_it_another_port_is_followed() -> None:
    seats = Seats()
    name = nat_phone(seats)
    caller, _ = seats.up(name)
    inside = seats.two.addresses[name]
    seats.two.nat[inside] = Address(seats.two.nat[inside].host, 55_555)
    seats.two.register(name)
    seats.one.hang_up("1001", caller)
    seats.is_clean()
    assert len(seats.two.of(name, Ended)) == 1


def nat_phone(seats: Seats) -> str:
    seats.two.register("2001", 0)
    seats.two.add("2001", name="home", nat=True)
    seats.two.register("home")
    return "home"


def test_the_media_of_a_phone_behind_nat_are_let_in_from_its_public_address() -> None:
    seats = Seats()
    name = nat_phone(seats)
    caller, callee = seats.up(name)
    inside = seats.two.addresses[name]

    def hosts() -> tuple[str, ...]:
        (session,) = seats.one.media.values()
        assert session.streams[0].b is not None
        return session.streams[0].b.hosts

    assert hosts() == (inside.host, seats.two.nat[inside].host)
    # It has moved to another network, and says so.
    seats.two.nat[inside] = Address("10.3.3.3", 1234)
    seats.two.do(name, seats.two.phones[name].reinvite(seats.two.now, callee))
    seats.run(1)
    assert hosts() == (inside.host, "10.3.3.3")
    seats.two.register(name)
    seats.one.hang_up("1001", caller)
    seats.is_clean()


def tcp_phone(seats: Seats) -> str:
    seats.two.register("2001", 0)
    seats.two.add("2001", name="tcp", tcp=True)
    seats.two.register("tcp")
    return "tcp"


def test_a_phone_behind_a_proxy_is_called_through_it() -> None:
    seats = Seats()
    seats.two.register("2001", 0)
    proxy = seats.two.peer("10.0.1.77")
    path = "<sip:in@10.0.1.77;lr>"
    contact = ("Contact", "<sip:2001@192.168.7.7:5060>")
    assert proxy.ask("REGISTER", "2001", ("Path", path), ("Supported", "path"), contact) == 200
    caller = seats.one.call("1001", "2001", run_s=0.1)
    invite = proxy.requests("INVITE")[0]
    assert (invite.values("Route"), invite.target) == ([path], "sip:2001@192.168.7.7:5060")
    proxy.say(invite.respond(486, to_tag="busy"))
    assert seats.one.ended("1001") == [486]
    assert caller not in seats.one.phones["1001"].calls
    seats.is_clean()


def test_a_phone_on_tcp_is_told_to_come_back_over_tcp_and_the_seat_over_udp() -> None:
    seats = Seats()
    _, callee = seats.up(tcp_phone(seats))
    (invite,) = seats.two.requests("INVITE", to="tcp")
    assert [r.uri.param("transport") for r in invite.record_routes] == ["tcp", None]
    (bye,) = pairs_of_hops(seats, "BYE", lambda: seats.two.hang_up("tcp", callee, run_s=1))
    assert bye == (OTHER, SERVER)
    seats.is_clean()


def pairs_of_hops(seats: Seats, method: str, act: object) -> list[tuple[Address, Address]]:
    """Which requests went from seat to seat."""
    assert callable(act)
    act()
    return [
        (source, target)
        for world in seats.worlds
        for _, source, target, m in world.log
        if isinstance(m, Request) and m.method == method and {source, target} == {SERVER, OTHER}
    ]


@pytest.mark.parametrize("hanger", ["1001", "tcp"])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_phone_on_tcp_that_reconnects_keeps_its_call(hanger: str, restarts: bool) -> None:
    seats = Seats()
    name = tcp_phone(seats)
    caller, callee = seats.up(name)
    if restarts:
        seats.two.restart()
        seats.run(1)
    seats.two.reconnect(name)
    seats.one.do("1001", seats.one.phones["1001"].hold(seats.one.now, caller))
    seats.run(1)
    assert len(seats.two.of(name, Updated)) == 1
    if hanger == "1001":
        seats.one.hang_up("1001", caller)
    else:
        seats.two.hang_up(name, callee)
    seats.is_clean(strict=False)
    assert len(seats.two.of(name, Ended)) == len(seats.one.of("1001", Ended)) == 1


def test_a_caller_is_told_at_once_that_a_phone_has_no_connection() -> None:
    seats = Seats()
    name = tcp_phone(seats)
    seats.two.connections[seats.two.addresses[name]] = 99
    began = seats.one.now
    seats.one.call("1001", "2001")
    seats.one.run(10, until=lambda: seats.one.ended("1001") == [480])
    assert seats.one.now - began < 1
    assert {m.status for m in seats.two.responses("INVITE")} == {430}
    seats.run(1)
    # From now on it is known without asking.
    began = seats.one.now
    seats.one.call("1001", "2001")
    seats.one.run(10, until=lambda: seats.one.ended("1001") == [480, 480])
    assert seats.one.now - began < 0.1
    seats.two.reconnect(name)
    caller, _ = seats.up(name)
    seats.one.hang_up("1001", caller)
    seats.is_clean(cdrs=3)


def test_a_change_asked_of_a_phone_without_connection_leaves_the_call_as_it_is() -> None:
    seats = Seats()
    name = tcp_phone(seats)
    caller, _ = seats.up(name)
    seats.two.connections[seats.two.addresses[name]] = 99
    seats.one.do("1001", seats.one.phones["1001"].hold(seats.one.now, caller))
    seats.run(2)
    assert len(seats.one.switch.calls) == 1
    assert seats.one.ended("1001") == []
    # It hangs up, and the phone is back before the BYE is given up.
    seats.one.hang_up("1001", caller, run_s=3)
    seats.two.reconnect(name)
    seats.is_clean(strict=False)
    assert len(seats.two.of(name, Ended)) == 1


def test_an_address_where_nobody_was_is_asked_again_when_somebody_may_be_back() -> None:
    seats = Seats()
    ringing(seats.two, "2001")
    (binding,) = decode_bindings(seats.two.records[Kind.BINDING]["2001"])
    seats.two.tell(lambda s: s.lost(seats.two.now, binding.flow, "icmp: connection refused"))
    seats.one.call("1001", "2001", run_s=1)
    assert seats.one.ended("1001") == [480]
    seats.run(5)
    caller = seats.one.call("1001", "2001", run_s=1)
    assert len(seats.two.of("2001", Incoming)) == 1
    seats.one.hang_up("1001", caller)
    # Or as soon as it says something.
    seats.two.tell(lambda s: s.lost(seats.two.now, binding.flow, "icmp: connection refused"))
    seats.two.register("2001")
    caller = seats.one.call("1001", "2001", run_s=1)
    assert len(seats.two.of("2001", Incoming)) == 2
    seats.one.hang_up("1001", caller)
    seats.is_clean(cdrs=3)


def test_who_speaks_over_a_connection_is_answered_over_it_though_it_asks_for_no_rport() -> None:
    seats = Seats()
    request = a_request(seats, "OPTIONS", Via="SIP/2.0/TCP 10.9.9.9:5060;branch=z9hG4bKt")
    phone = Flow(Transport.TCP, OTHER, Address("10.9.9.9", 33_333), 7)
    (forwarded,) = seats.two.switch.received(seats.two.now, phone, request.with_fields(("CSeq", "1 OPTIONS"))).sends
    asked = parse_message(forwarded.data)
    assert isinstance(asked, Request)
    (answer,) = seats.two.switch.received(seats.two.now, forwarded.flow, asked.respond(200)).sends
    assert answer.flow == phone._replace(connection=0)
    seats.is_clean()


# Phones at several seats


def test_the_contacts_of_a_number_ring_at_all_seats_and_the_others_stop_when_one_answers() -> None:
    seats = Seats()
    seats.one.add("2001", name="upstairs")
    seats.one.register("upstairs")
    for world, name in ((seats.one, "upstairs"), (seats.two, "2001")):
        ringing(world, name)
    caller = seats.one.call("1001", "2001", run_s=1)
    assert len(seats.one.of("upstairs", Incoming)) == len(seats.two.of("2001", Incoming)) == 1
    phone = seats.two.phones["2001"]
    seats.two.do("2001", phone.answer(seats.two.now, seats.two.incoming("2001"), seats.two.media_of("2001")))
    seats.run(1)
    assert seats.one.ended("upstairs") == [487]
    seats.one.hang_up("1001", caller)
    seats.is_clean()


def test_a_phone_that_has_moved_to_another_seat_rings_once_where_it_is_now() -> None:
    seats = Seats()
    # The same phone by its instance, and its old registration is still there.
    seats.one.add("2001", name="2001")
    seats.run(10)
    seats.one.register("2001")
    ringing(seats.one, "2001")
    ringing(seats.two, "2001")
    caller = seats.one.call("1001", "2001", run_s=1)
    assert len(seats.one.of("2001", Incoming)) == 1
    assert seats.two.of("2001", Incoming) == []
    seats.one.hang_up("1001", caller)
    # And back.
    seats.run(40)
    seats.two.register("2001")
    caller = seats.one.call("1001", "2001", run_s=1)
    assert len(seats.one.of("2001", Incoming)) == len(seats.two.of("2001", Incoming)) == 1
    seats.one.hang_up("1001", caller)
    seats.is_clean(cdrs=2)


# Nodes that die


@pytest.mark.parametrize("at", [0, 0.05, 0.3, 0.6, 1.2, 3])
@pytest.mark.parametrize("seat", [0, 1])
def test_a_call_across_outlives_the_node_of_either_seat_at_any_moment(seat: int, at: float) -> None:
    seats = Seats()
    seats.two.rings_then_answers("2001")
    caller = seats.one.call("1001", "2001", run_s=at)
    seats.worlds[seat].restart()
    seats.run(5)
    callee = seats.two.incoming("2001")
    assert len(seats.one.of("1001", Answered)) == 1
    seats.two.do("2001", seats.two.phones["2001"].hold(seats.two.now, callee))
    seats.run(1)
    seats.one.do("1001", seats.one.phones["1001"].hold(seats.one.now, caller))
    seats.run(1)
    assert [e.ours for e in seats.one.of("1001", Updated)] == [False, True]
    assert [e.ours for e in seats.two.of("2001", Updated)] == [True, False]
    seats.one.hang_up("1001", caller)
    seats.is_clean()
    assert seats.two.ended("2001") == [200]


def test_tokens_are_as_long_as_any_phone_can_bear() -> None:
    seats = Seats()
    caller, _ = seats.up()
    tokens = [m.routes[0].uri.user or "" for m in seats.one.requests("INVITE") if m.get("Route")]
    assert tokens
    assert all(len(token) < 100 for token in tokens)
    assert all(a == b for a, b in pairwise(tokens))
    seats.one.hang_up("1001", caller)
    seats.is_clean()


def ringing(world: World, name: str) -> None:
    """From now on the phone rings, and nobody takes the call."""
    world.on_incoming[name] = lambda e: world.do(name, world.phones[name].ring(world.now, e.call))
