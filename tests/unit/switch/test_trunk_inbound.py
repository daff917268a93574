"""Calls from carriers: whose they are, where they lead, and where they do not."""

import pytest
from tests.unit.switch.carrier import Carrier, outward, trunk
from tests.unit.switch.plans import group, item, planned, user
from tests.unit.switch.world import Crash, World

from warden.call.cdr import Result
from warden.core.address import Address, Flow, Transport
from warden.phone.events import Incoming
from warden.sip.message import Request, Response
from warden.store.ports import Item

DID = item("inbound", "dids", pattern="49305551XXX", strip=7)
"""49305551001 is extension 1001."""


def a_world(*items: Item, **more: object) -> tuple[World, Carrier]:
    world = World(directory=planned(*items, numbers=("1001", "1002")), **more)  # type: ignore[arg-type]
    carrier = Carrier(world, "10.9.0.1")
    world.run(3)
    return world, carrier


def final(carrier: Carrier, request: Request) -> int:
    """The status that the carrier's INVITE got; 0 for none yet."""
    found = [m for m in carrier.heard if isinstance(m, Response) and m.call_id == request.call_id and m.status >= 200]
    return found[-1].status if found else 0


def confirm(carrier: Carrier, invite: Request) -> Request:
    """The ACK of the carrier, and a BYE that it may send later."""
    ok = next(m for m in carrier.heard if isinstance(m, Response) and m.call_id == invite.call_id and m.status == 200)
    (contact,) = ok.contacts

    def make(method: str, number: int) -> Request:
        via = f"SIP/2.0/UDP {carrier.address};branch=z9hG4bK{method}{number}{invite.call_id}"
        kept = tuple((name, value) for name, value in invite.fields if name in ("Max-Forwards", "From", "Call-ID"))
        fields = (("Via", via), *kept, ("To", ok.get("To") or ""), ("CSeq", f"{number} {method}"))
        return Request(method, str(contact.uri), fields)

    carrier.say(make("ACK", invite.cseq.number))
    return make("BYE", invite.cseq.number + 1)


def test_a_call_from_a_carriers_address_rings_the_extension_of_its_number() -> None:
    world, carrier = a_world(trunk(), DID)
    world.rings_then_answers("1001")
    invite = carrier.calls("49305551001")
    world.run(3)
    assert final(carrier, invite) == 200
    shown = world.requests("INVITE", to="1001")[0].from_
    assert (shown.uri.user, shown.display) == ("0409876543", "Someone")
    bye = confirm(carrier, invite)
    assert [s.channels for s in world.switch.trunk_status(world.now)] == [1]
    carrier.say(bye)
    (cdr,) = world.is_clean()
    assert (cdr.caller, cdr.callee, cdr.answered_by) == ("0409876543", "49305551001", "1001")
    assert cdr.result is Result.ANSWERED


def test_a_registered_trunk_is_known_by_the_contact_that_it_registered_wherever_the_call_comes_from() -> None:
    registered = trunk(register=True)
    world, carrier = a_world(registered, *outward(registered), DID)
    (contact,) = carrier.contacts
    token = contact.partition(":")[2].partition("@")[0]
    stranger = Carrier(world, "10.9.0.77")
    invite = stranger.calls(token, to="49305551001")
    world.run(1)
    assert len(world.of("1001", Incoming)) == 1
    unknown = stranger.calls("49305551001")
    assert final(stranger, unknown) == 401, "who is not known is asked who it is"
    world.call("1002", "0301234567", run_s=1)
    told = [request for request in carrier.heard if isinstance(request, Request) and request.method != "REGISTER"]
    assert told
    assert not any(token in str(request.fields) for request in told), "only the registrar learns it"
    cancel = Request("CANCEL", invite.target, tuple(f for f in invite.fields if f[0] not in ("CSeq", "Contact")))
    stranger.say(cancel.with_fields(("CSeq", f"{invite.cseq.number} CANCEL")))
    world.run(1)
    assert final(stranger, invite) == 487


def test_calls_from_further_networks_of_a_carrier_are_its_calls() -> None:
    world, _ = a_world(trunk(accept_from=["10.9.1.0/24"]), DID)
    for host, status in (("10.9.1.200", 0), ("10.9.2.200", 401)):
        caller = Carrier(world, host)
        assert final(caller, caller.calls("49305551001")) == status


def test_nobody_is_a_carrier_over_a_websocket_whatever_its_address_or_the_contact_that_it_calls() -> None:
    registered = trunk(register=True, accept_from=["10.9.1.0/24"])
    world, carrier = a_world(registered, *outward(registered), DID)
    (contact,) = carrier.contacts
    token = contact.partition(":")[2].partition("@")[0]
    for called, host in (("49305551001", "10.9.1.200"), ("49305551001", "10.9.0.1"), (token, "10.9.0.77")):
        request = Request("INVITE", f"sip:{called}@{world.server}", ())
        for transport in Transport:
            caller = world.switch.trunks.find_caller(Flow(transport, world.server, Address(host, 5060)), request)
            if transport in (Transport.WS, Transport.WSS):
                assert caller is None
            elif host != carrier.address.host:
                assert caller is not None, "its network and its contact tell it over any other transport"


@pytest.mark.parametrize("called", ["1001", "0301234567", "*43", "49305559999", "49305551777", "group:all"])
def test_nobody_outside_reaches_what_no_inbound_rule_leads_to(called: str) -> None:
    """Not by the number of an extension, and least of all out again over a trunk."""
    out = trunk()
    world, carrier = a_world(out, *outward(out), DID, group("all", "1001"))
    invite = carrier.calls(called)
    world.run(2)
    assert final(carrier, invite) == 404
    assert carrier.requests("INVITE") == []
    assert world.of("1001", Incoming) == []


def test_the_narrowest_rule_counts_and_one_for_the_trunk_before_one_for_all() -> None:
    world, carrier = a_world(
        trunk(),
        item("inbound", "wide", pattern="4930.", to="1001"),
        item("inbound", "narrow", pattern="493055X", to="1001"),
        item("inbound", "mine", pattern="493055X", to="group:two", trunk="carrier"),
        item("inbound", "other", pattern="4930555", to="1001", trunk="another"),
        group("two", "1002"),
    )
    carrier.calls("4930555")
    world.run(1)
    assert (len(world.of("1001", Incoming)), len(world.of("1002", Incoming))) == (0, 1)


def test_a_call_from_outside_may_be_forwarded_outside_where_an_extension_says_so() -> None:
    out = trunk(caller_id="+493055500")
    world, carrier = a_world(out, *outward(out), DID, user("1001", always="0170123456"))
    carrier.calls("49305551001")
    world.run(1)
    (invite, *_) = carrier.requests("INVITE")
    assert invite.uri.user == "0170123456"
    assert invite.from_.uri.user == "0409876543", "who called is shown"
    assert (invite.get("P-Asserted-Identity") or "").endswith("<sip:+493055500@10.9.0.1>"), "and who vouches for it"


@pytest.mark.parametrize(
    ("trusts", "fields", "shown"),
    [
        (False, (), ("0409876543", "Someone")),
        (False, (("P-Asserted-Identity", "<sip:111@carrier.test>"),), ("0409876543", "Someone")),
        (True, (("P-Asserted-Identity", '"Real" <sip:+49111@carrier.test>'),), ("+49111", "Real")),
        (True, (("P-Asserted-Identity", "<tel:+49111>"),), ("+49111", "")),
        (True, (("P-Asserted-Identity", "%%"),), ("0409876543", "Someone")),
        (False, (("Privacy", "id"),), ("anonymous", "Anonymous")),
        (False, (("From", '"Anonymous" <sip:anonymous@anonymous.invalid>;tag=1'),), ("anonymous", "Anonymous")),
    ],
)
def test_who_calls_is_whom_the_carrier_names(
    trusts: bool, fields: tuple[tuple[str, str], ...], shown: tuple[str, str]
) -> None:
    world, carrier = a_world(trunk(trusts_identity=trusts), DID)
    carrier.calls("49305551001", *fields)
    world.run(1)
    found = world.requests("INVITE", to="1001")[0].from_
    assert (found.uri.username, found.display) == shown


@pytest.mark.parametrize("at", range(1, 9))
def test_a_successor_goes_on_with_a_call_from_a_carrier(at: int) -> None:
    for speaks in (True, False):
        world, carrier = a_world(trunk(), DID)
        world.rings_then_answers("1001")
        world.crash = Crash(world.outcomes + at, speaks)
        invite = carrier.calls("49305551001")
        world.run(1)
        if not final(carrier, invite):
            carrier.say(invite)  # As it is said again where no answer comes.
        world.run(5)
        assert final(carrier, invite) == 200, (at, speaks)
        bye = confirm(carrier, invite)
        assert [s.channels for s in world.switch.trunk_status(world.now)] == [1]
        carrier.say(bye)
        (cdr,) = world.is_clean(strict=False)
        assert cdr.caller == "0409876543"
