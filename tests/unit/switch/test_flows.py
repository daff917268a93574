"""Phones that move: other connections, other ports, other addresses, in the middle of a call."""

import pytest
from tests.unit.switch.world import SERVER, World

from warden.core.address import Address, Flow, Transport
from warden.phone.events import Answered, Ended, Incoming, Ringing, Updated


def with_tcp_phone(*numbers: str) -> World:
    world = World(*numbers)
    world.register("1002", 0)
    world.add("1002", name="tcp", tcp=True)
    world.register("tcp")
    return world


def test_a_phone_on_tcp_is_called_over_its_connection() -> None:
    world = with_tcp_phone()
    caller = call_tcp(world)
    world.hang_up("1001", caller)
    world.is_clean()
    assert len(world.of("tcp", Ended)) == 1
    assert len(world.requests("INVITE", to="tcp")) == 1


def call_tcp(world: World) -> str:
    world.rings_then_answers("tcp")
    return world.call("1001", "1002", run_s=2)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("hanger", ["1001", "tcp"])
def test_a_phone_that_reconnects_keeps_its_call(hanger: str, restarts: bool) -> None:
    world = with_tcp_phone()
    caller = call_tcp(world)
    if restarts:
        world.restart()
        world.run(1)
    world.reconnect("tcp")
    world.do("1001", world.phones["1001"].hold(world.now, caller))
    world.run(1)
    assert len(world.of("tcp", Updated)) == 1
    world.hang_up(hanger, caller if hanger == "1001" else world.incoming("tcp"))
    # The phone has a new Contact, which only its own next request can tell.
    world.is_clean(strict=False)
    assert len(world.of("tcp", Ended)) == len(world.of("1001", Ended)) == 1


def test_a_phone_that_reconnects_and_offers_at_once_is_answered_over_the_new_connection() -> None:
    world = with_tcp_phone()
    caller = call_tcp(world)
    world.reconnect("tcp")
    world.do("tcp", world.phones["tcp"].hold(world.now, world.incoming("tcp")))
    world.run(1)
    assert len(world.of("tcp", Updated)) == len(world.of("1001", Updated)) == 1
    world.hang_up("1001", caller)
    world.is_clean()


def test_a_phone_whose_connection_is_gone_is_480_and_a_change_asked_of_it_leaves_the_call_as_it_is() -> None:
    world = with_tcp_phone()
    caller = call_tcp(world)
    here = world.addresses["tcp"]
    world.connections[here] = 99
    world.do("1001", world.phones["1001"].hold(world.now, caller))
    world.run(1)
    assert len(world.switch.calls) == 1
    other = world.call("1001", "1002", run_s=1)
    assert world.ended("1001") == [480]
    assert other not in world.phones["1001"].calls
    world.hang_up("1001", caller)
    world.run(100)
    assert len(world.cdrs) == 2
    assert len(world.switch) == 0


def test_calls_that_ring_to_and_from_a_phone_on_tcp_survive_a_restart_and_are_answered_when_it_is_back() -> None:
    world = with_tcp_phone("1001", "1002", "1003")
    ringing(world, "1001")
    ringing(world, "tcp")
    outgoing = world.call("tcp", "1001", run_s=1)
    incoming = world.call("1003", "1002", run_s=1)
    rung = len(world.responses("INVITE", to="tcp"))
    world.restart()
    world.run(5)
    assert len(world.responses("INVITE", to="tcp")) == rung, "nothing is said to a connection that is gone"
    assert world.ended("1003") == world.ended("tcp") == world.ended("1001") == []
    # It answers while it has no connection: nobody who calls may be told so before it is back.
    world.do("1001", world.phones["1001"].answer(world.now, world.incoming("1001"), world.media_of("1001")))
    world.run(1)
    assert world.of("tcp", Answered) == []
    world.reconnect("tcp")
    assert len(world.of("tcp", Answered)) == 1
    world.do("tcp", world.phones["tcp"].answer(world.now, world.incoming("tcp"), world.media_of("tcp")))
    world.run(1)
    assert len(world.of("1003", Answered)) == 1
    world.run(60)
    assert len(world.switch.calls) == 2, "both were acknowledged"
    world.hang_up("tcp", outgoing)
    world.hang_up("1003", incoming)
    world.is_clean(cdrs=2, strict=False)
    assert world.ended("1001") == world.ended("1003") == [200]


def test_what_a_process_left_unsaid_to_a_phone_on_tcp_is_said_over_its_next_connection() -> None:
    world = with_tcp_phone()
    ringing(world, "tcp")
    caller = world.call("1001", "1002")
    world.run(1, until=lambda: bool(world.requests("INVITE", to="tcp")))
    world.restart()
    world.run(2)
    assert not world.of("tcp", Incoming)
    assert not world.ended("1001")
    world.reconnect("tcp")
    world.run(1)
    assert len(world.of("tcp", Incoming)) == len(world.of("1001", Ringing)) == 1
    world.hang_up("1001", caller)
    world.is_clean()
    assert world.ended("tcp") == [487]


def test_a_phone_that_answers_over_a_new_connection_before_it_registers_is_acknowledged_there() -> None:
    world = with_tcp_phone()
    ringing(world, "tcp")
    caller = world.call("1001", "1002", run_s=1)
    phone, old = world.phones["tcp"], world.addresses["tcp"]
    world.connections.pop(old)
    here = world.addresses["tcp"] = old._replace(port=15_060)
    new = Flow(Transport.TCP, here, SERVER, world.connect(here))
    phone._line.flow = new
    said = phone.answer(world.now, world.incoming("tcp"), world.media_of("tcp"))
    world.do("tcp", said)
    world.run(1)
    assert len(world.of("1001", Answered)) == 1
    assert len(world.requests("ACK", to="tcp")) == 1
    world.hang_up("1001", caller, run_s=1)
    assert world.ended("tcp") == [200]
    world.is_clean()


@pytest.mark.parametrize("restarts", [False, True])
def test_who_is_hung_up_on_while_it_has_no_connection_is_told_when_it_is_back(restarts: bool) -> None:
    world = with_tcp_phone()
    caller = call_tcp(world)
    world.disconnect("tcp")
    if restarts:
        world.restart()
        world.run(1)
    world.hang_up("1001", caller, run_s=3)
    assert world.ended("1001") == [200]
    assert len(world.cdrs) == 1, "nobody waits for it"
    assert world.of("tcp", Ended) == []
    world.reconnect("tcp")
    assert len(world.of("tcp", Ended)) == 1
    world.is_clean(strict=False)


def test_who_never_comes_back_keeps_nothing_waiting() -> None:
    world = with_tcp_phone()
    caller = call_tcp(world)
    world.disconnect("tcp")
    world.hang_up("1001", caller, run_s=110)
    assert len(world.switch) == 0
    assert len(world.cdrs) == 1


@pytest.mark.parametrize("restarts", [False, True])
def test_a_phone_that_speaks_over_a_new_connection_before_it_registers_is_found_there(restarts: bool) -> None:
    world = with_tcp_phone()
    caller = call_tcp(world)
    if restarts:
        world.restart()
        world.run(1)
    world.another_connection("tcp")
    world.do("tcp", world.phones["tcp"].hold(world.now, world.incoming("tcp")))
    world.run(1)
    assert len(world.of("tcp", Updated)) == len(world.of("1001", Updated)) == 1
    world.do("1001", world.phones["1001"].update(world.now, caller))
    world.run(1)
    assert len(world.of("tcp", Updated)) == 2
    world.hang_up("1001", caller)
    world.is_clean(strict=False)
    assert len(world.of("tcp", Ended)) == 1


def test_a_bye_that_waits_for_a_phone_is_said_as_soon_as_it_speaks() -> None:
    world = with_tcp_phone()
    caller = call_tcp(world)
    world.disconnect("tcp")
    world.hang_up("1001", caller, run_s=1)
    world.another_connection("tcp")
    world.do("tcp", world.phones["tcp"].hold(world.now, world.incoming("tcp")))
    world.run(1)
    assert len(world.of("tcp", Ended)) == 1
    world.is_clean(strict=False)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("same_call_id", [False, True], ids=["booted", "reconnected"])
def test_a_phone_that_gives_no_instance_is_known_again(restarts: bool, same_call_id: bool) -> None:
    world = World()
    world.register("1002", 0)
    world.add("1002", name="plain", tcp=True, instance=False)
    world.register("plain")
    world.rings_then_answers("plain")
    caller = world.call("1001", "1002", run_s=2)
    world.disconnect("plain")
    if restarts:
        world.restart()
        world.run(1)
    if not same_call_id:
        world.phones["plain"]._registration._call_id = "after-a-boot"
    world.reconnect("plain")
    assert len(world.switch.bindings["1002"]) == 1, "its old contact is not called any more"
    world.do("1001", world.phones["1001"].hold(world.now, caller))
    world.run(1)
    assert len(world.of("plain", Updated)) == 1
    world.hang_up("1001", caller)
    world.is_clean(strict=False)
    assert len(world.of("plain", Ended)) == 1


@pytest.mark.parametrize("gone", [False, True])
def test_two_phones_of_one_user_that_give_no_instance_are_not_mixed_up(gone: bool) -> None:
    world = World()
    world.register("1002", 0)
    for name in ("desk", "hall"):
        world.add("1002", name=name, tcp=True, instance=False)
        world.register(name)
    world.rings_then_answers("desk")
    caller = world.call("1001", "1002", run_s=2)
    if gone:
        world.restart()
        world.run(1)
    world.reconnect("hall")
    assert len(world.switch.bindings["1002"]) == 2
    world.reconnect("desk")
    assert len(world.switch.bindings["1002"]) == 2
    world.hang_up("1001", caller)
    world.is_clean(strict=False)
    assert len(world.of("desk", Ended)) == 1


@pytest.mark.parametrize("restarts", [False, True])
def test_a_caller_that_was_refused_while_it_had_no_connection_is_told_when_it_is_back(restarts: bool) -> None:
    world = with_tcp_phone()
    ringing(world, "1001")
    world.call("tcp", "1001", run_s=1)
    if restarts:
        world.restart()
        world.run(1)
    else:
        world.disconnect("tcp")
    world.do("1001", world.phones["1001"].refuse(world.now, world.incoming("1001"), 486))
    world.run(3)
    assert world.ended("tcp") == []
    world.reconnect("tcp")
    assert world.ended("tcp") == [486]
    world.is_clean(strict=False)


def test_a_caller_that_gives_up_over_a_new_connection_hears_there_that_it_is_over() -> None:
    world = with_tcp_phone()
    ringing(world, "1001")
    call = world.call("tcp", "1001", run_s=1)
    world.another_connection("tcp")
    world.hang_up("tcp", call, run_s=1)
    assert world.ended("tcp") == [487]
    assert len(world.of("1001", Ended)) == 1
    world.is_clean(strict=False)


def test_a_phone_that_rang_when_its_node_died_stops_when_it_is_back_and_the_caller_has_given_up() -> None:
    world = with_tcp_phone()
    ringing(world, "tcp")
    caller = world.call("1001", "1002", run_s=1)
    world.restart()
    world.run(1)
    world.hang_up("1001", caller, run_s=2)
    assert world.ended("1001") == [487]
    world.reconnect("tcp")
    assert world.ended("tcp") == [487]
    world.is_clean(strict=False)


def ringing(world: World, name: str) -> None:
    """From now on the phone rings, and nobody takes the call."""
    world.on_incoming[name] = lambda e: world.do(name, world.phones[name].ring(world.now, e.call))


def test_a_nat_that_gives_a_phone_another_port_is_followed_when_the_phone_registers_again() -> None:
    world = World()
    world.register("1002", 0)
    world.add("1002", name="home", nat=True)
    world.register("home")
    world.rings_then_answers("home")
    caller = world.call("1001", "1002", run_s=2)
    inside = world.addresses["home"]
    world.nat[inside] = Address(world.nat[inside].host, 55_555)
    world.register("home")
    world.hang_up("1001", caller)
    world.is_clean()
    assert len(world.of("home", Ended)) == 1


def test_a_phone_that_says_in_a_reinvite_where_it_is_now_is_found_there() -> None:
    world = World()
    caller, _ = world.up()
    phone, old = world.phones["1001"], world.addresses["1001"]
    new = Address("10.0.0.99", 5080)
    world.addresses["1001"] = new
    phone._line.flow = phone._line.flow._replace(local=new)
    call = phone._calls[caller]
    assert call.dialog is not None
    call.move(phone._line.flow)
    world.do("1001", phone.reinvite(world.now, caller))
    world.run(1)
    world.hang_up("1002", world.incoming("1002"))
    world.is_clean()
    assert len(world.of("1001", Ended)) == 1
    assert old not in {target for at, _, target, m in world.log if b"BYE" in bytes(m)[:3]}
