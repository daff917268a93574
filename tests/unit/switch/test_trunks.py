"""Trunks: what a carrier hears of us before anybody calls."""

import json

import pytest
from msgspec import structs
from tests.unit.switch.carrier import USER, Carrier, trunk
from tests.unit.switch.plans import planned
from tests.unit.switch.seats import NUMBERS, Seats
from tests.unit.switch.world import Crash, World, make_settings

from warden.core.address import Address, Flow, Transport
from warden.core.errors import WardenError
from warden.store.ports import Item, Kind
from warden.switch.dialplan.items import read_item
from warden.switch.trunks.state import TrunkStatus


def a_world(*trunks: Item, hosts: tuple[str, ...] = ("10.9.0.1",), **more: object) -> tuple[World, Carrier]:
    """A world with carriers at these hosts, and the first of them."""
    world = World(directory=planned(*trunks, numbers=("1001", "1002")), **more)  # type: ignore[arg-type]
    carriers = [Carrier(world, host) for host in hosts]
    return world, carriers[0]


def status(world: World) -> TrunkStatus:
    (only,) = world.switch.trunks.status(world.now, {})
    return only


def another(world: World, host: str) -> Carrier:
    found = world.peers[Address(host, 5060)]
    assert isinstance(found, Carrier)
    return found


def test_a_trunk_registers_with_the_proof_that_its_carrier_asks_for_and_refreshes_in_time() -> None:
    world, carrier = a_world(trunk(register=True, expires_s=600))
    world.run(5)
    assert [r.get("Authorization") is not None for r in carrier.requests("REGISTER")] == [False, True]
    assert len(carrier.contacts) == 1
    assert status(world).registered is True
    assert world.news == ["trunk carrier: registered"]
    world.run(540)
    # The nonce is answered again without being asked, which the carrier takes for good.
    assert [r.cseq.number for r in carrier.requests("REGISTER")] == [1, 2, 3]
    assert {r.call_id for r in carrier.requests("REGISTER")} == {carrier.requests("REGISTER")[0].call_id}
    assert status(world).registered is True


def test_a_nonce_that_has_become_old_costs_one_more_question() -> None:
    world, carrier = a_world(trunk(register=True, expires_s=600))
    world.run(5)
    carrier.nonces.clear()
    world.run(540)
    assert [r.cseq.number for r in carrier.requests("REGISTER")] == [1, 2, 3, 4]
    assert status(world).error == ""
    assert status(world).registered is True


def test_a_carrier_that_wants_a_longer_registration_gets_it() -> None:
    world, carrier = a_world(trunk(register=True, expires_s=60))
    carrier.min_expires_s = 900
    world.run(5)
    assert [r.number("Expires") for r in carrier.requests("REGISTER")] == [60, 60, 900]
    assert status(world).registered_until_utc == pytest.approx(world.now + 900, abs=6)


def test_a_wrong_password_is_told_in_one_sentence_and_tried_again_seldom() -> None:
    world, carrier = a_world(trunk(register=True, word="another word"))
    world.run(120)
    said = f"trunk carrier: 401 Unauthorized for user {USER} at 10.9.0.1:5060: check username and password"
    assert status(world).error == said
    assert status(world).registered is False
    assert world.news == [said]
    assert len(carrier.requests("REGISTER")) == 2
    world.directory = planned(trunk(register=True), numbers=("1001", "1002"))
    world.tell(lambda s: s.replace_directory(world.now, world.directory))
    world.run(2)
    assert status(world).registered is True
    assert world.news[-1] == "trunk carrier: registered"


def test_a_password_that_was_sealed_under_another_secret_is_told_and_nothing_is_sent() -> None:
    world, carrier = a_world(trunk(register=True, password="sealed1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"))
    world.run(10)
    assert "set it again" in status(world).error
    assert not status(world).up
    assert carrier.requests("REGISTER") == []


def test_another_target_is_asked_where_one_is_busy_or_silent() -> None:
    for answer in (503, 0):
        world, first = a_world(trunk("carrier", "10.9.0.1", "10.9.0.2", register=True), hosts=("10.9.0.1", "10.9.0.2"))
        first.answers["REGISTER"] = answer
        world.run(15)
        assert len(another(world, "10.9.0.2").contacts) == 1, answer
        assert status(world).registered is True


def test_a_silent_carrier_is_asked_ever_more_seldom_and_found_again() -> None:
    world, carrier = a_world(trunk(register=True))
    carrier.answers = {"REGISTER": 0, "OPTIONS": 0}
    world.run(300)
    began = {r.cseq.number for r in carrier.requests("REGISTER")}
    assert 4 <= len(began) <= 9
    assert not status(world).up
    assert status(world).error == "trunk carrier: no answer from 10.9.0.1:5060"
    carrier.answers = {}
    world.run(70)
    assert status(world).registered is True
    assert status(world).up
    assert status(world).error == ""


def test_a_name_is_resolved_to_all_its_servers_and_they_are_probed() -> None:
    world, first = a_world(trunk("carrier", "sip.carrier.test"), hosts=("10.9.0.1", "10.9.0.2"))
    world.services["sip.carrier.test"] = [Address("10.9.0.1", 5060), Address("10.9.0.2", 5060)]
    another(world, "10.9.0.2").answers["OPTIONS"] = 0
    world.run(10)
    assert [(t.address, t.up) for t in status(world).targets] == [("10.9.0.1:5060", True), ("10.9.0.2:5060", False)]
    assert status(world).registered is None
    assert len(first.requests("OPTIONS")) == 1
    assert world.switch.trunks.flows(world.now, "carrier")[0].remote.host == "10.9.0.1"
    assert len(world.switch.trunks.flows(world.now, "carrier")) == 1
    first.answers["OPTIONS"] = 503
    another(world, "10.9.0.2").answers = {}
    world.run(31)
    assert [f.remote.host for f in world.switch.trunks.flows(world.now, "carrier")] == ["10.9.0.2"]


def test_a_name_that_does_not_resolve_is_told_and_asked_for_again() -> None:
    world, carrier = a_world(trunk("carrier", "sip.carrier.test"))
    world.run(3)
    assert status(world).error == "trunk carrier: dns: sip.carrier.test has no address"
    assert not status(world).up
    world.services["sip.carrier.test"] = [carrier.address]
    world.run(6)
    assert status(world).error == ""
    # An answer that fails later costs nothing.
    world.services.clear()
    world.run(130)
    assert status(world).up


def test_a_trunk_that_is_taken_away_takes_its_contact_with_it() -> None:
    world, carrier = a_world(trunk(register=True))
    world.run(3)
    world.directory = planned(numbers=("1001", "1002"))
    world.tell(lambda s: s.replace_directory(world.now, world.directory))
    world.run(3)
    assert carrier.contacts == {}
    assert world.records[Kind.TRUNK] == {}
    assert world.switch.trunks.deadline is None
    world.run(40)
    assert len(world.switch) == 0


@pytest.mark.parametrize("at", [0, *range(3, 12)])
def test_a_successor_goes_on_with_the_registration_instead_of_making_another(at: int) -> None:
    """The process dies around each step of the first registration, or long after."""
    world, carrier = a_world(trunk(register=True, expires_s=600), crash=Crash(at, speaks=at % 2 == 0) if at else None)
    world.run(30)
    if not at:
        asked = len(carrier.requests("REGISTER"))
        world.restart()
        world.run(30)
        assert len(carrier.requests("REGISTER")) == asked, "nothing was due"
    assert status(world).registered is True
    assert len(carrier.contacts) == 1
    world.run(600)
    said = carrier.requests("REGISTER")
    numbers = [r.cseq.number for r in said]
    assert numbers == sorted(numbers)
    assert len({(r.cseq.number, r.get("Via")) for r in said}) == len(set(numbers)), "each CSeq is one request"
    assert len({r.call_id for r in said}) == 1
    assert status(world).registered is True


def test_a_carrier_that_calls_over_our_connection_is_given_another_when_it_is_gone() -> None:
    world = World(
        directory=planned(trunk("carrier", "10.9.0.1;transport=tcp", register=True), numbers=("1001", "1002"))
    )
    carrier = Carrier(world, "10.9.0.1")
    world.connect(carrier.address)
    world.run(40)
    assert status(world).registered is True
    asked = len(carrier.requests("REGISTER"))
    gone = Flow(Transport.TCP, world.server, carrier.address, world.connections[carrier.address])
    world.connect(carrier.address)
    world.tell(lambda s: s.lost(world.now, gone, "closed by the peer"))
    world.run(3)
    assert len(carrier.requests("REGISTER")) == asked + 1
    world.restart()
    world.connect(carrier.address)
    world.run(1)
    assert len(carrier.requests("REGISTER")) > asked + 1
    assert len({r.call_id for r in carrier.requests("REGISTER")}) == 1
    assert status(world).registered is True


def test_of_all_seats_the_first_registers_and_the_one_that_the_trunk_names() -> None:
    for named, home in (("", 0), ("seat-2", 1)):
        seats = Seats(directory=planned(trunk(register=True, seat=named), numbers=NUMBERS))
        worlds = seats.worlds
        carrier = Carrier(worlds[home], "10.9.0.1")
        seats.run(20)
        registered = [status(world).registered for world in worlds]
        assert registered == [True if i == home else None for i in range(2)]
        assert len(carrier.contacts) == 1


def test_a_seat_that_is_not_there_registers_nothing_and_is_named() -> None:
    settings = structs.replace(make_settings(), seats=("seat-1", "seat-2"))
    world, carrier = a_world(trunk(register=True, seat="seat-3"), settings=settings)
    world.run(3)
    assert carrier.requests("REGISTER") == []
    assert status(world).error == (
        "trunk carrier: seat seat-3, which is to register it, is not there; there are seat-1, seat-2"
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"targets": []}, "1 to 8 targets"),
        ({"targets": ["user@host"]}, "a target is HOST"),
        ({"targets": ["host;transport=ws"]}, "transport is udp, tcp or tls"),
        ({"register": True, "password": ""}, "takes a username and a password"),
        ({"expires_s": 5}, "expires_s"),
        ({"caller_id": "+49 30"}, "caller_id"),
        ({"channels_max": -1}, "channels_max"),
        ({"accept_from": ["all"]}, "accept_from"),
        ({"name": "another"}, "its name is not part of it"),
        ({"realm": "x"}, "not known here"),
    ],
)
def test_what_is_wrong_with_a_trunk_is_said(wrong: dict[str, object], says: str) -> None:
    good = {"targets": ["10.9.0.1"], "username": "a", "password": "b"}
    read_item("trunk", "carrier", json.dumps(good))
    with pytest.raises(WardenError, match=f"^trunk carrier: .*{says}"):
        read_item("trunk", "carrier", json.dumps({**good, **wrong}))
