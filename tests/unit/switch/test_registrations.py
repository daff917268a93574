"""Phones register: who may, for how long, and what becomes of it (RFC 3261 section 10.3)."""

import pytest
from msgspec.structs import replace
from tests.unit.switch.world import REALM, SERVER, START, Peer, World, extensions, make_settings

from warden.phone.events import Ended, Incoming, Registered
from warden.sip.digest import Nonces
from warden.store.ports import Kind
from warden.switch.registrar import Binding

ME = "<sip:1001@10.9.0.1:5060>"


def lonely() -> tuple[World, Peer]:
    """A switch with nobody registered, and a peer to write REGISTERs by hand."""
    world = World()
    for name in ("1001", "1002"):
        world.register(name, 0)
    assert dict(world.switch.bindings) == {}
    return world, world.peer("10.9.0.1")


def contacts(world: World, number: str = "1001") -> list[str]:
    return [binding.contact for binding in world.switch.bindings.get(number, ())]


def test_a_phone_registers_and_the_200_lists_every_contact_with_its_time() -> None:
    world, peer = lonely()
    assert peer.ask("REGISTER", "1001", ("Contact", f"{ME};expires=100")) == 200
    world.run(30)
    assert peer.ask("REGISTER", "1001", ("Contact", "<sip:1001@10.9.0.1:5070>;q=0.5"), ("Expires", "200")) == 200
    listed = {str(c.uri): (c.param("expires"), c.param("q")) for c in peer.last().contacts}
    assert listed == {"sip:1001@10.9.0.1:5060": ("70", None), "sip:1001@10.9.0.1:5070": ("200", "0.5")}
    assert peer.ask("REGISTER", "1001", ("Contact", "")) == 200
    assert len(peer.last().contacts) == 2


def test_a_registration_ends_with_its_time_in_the_store_too() -> None:
    world, peer = lonely()
    peer.ask("REGISTER", "1001", ("Contact", f"{ME};expires=100"))
    peer.ask("REGISTER", "1001", ("Contact", "<sip:1001@10.9.0.1:5070>;expires=200"))
    world.run(110)
    assert contacts(world) == ["sip:1001@10.9.0.1:5070"]
    world.run(100)
    assert contacts(world) == []
    assert world.records[Kind.BINDING] == {}


def test_too_short_a_time_is_423_with_the_shortest_and_too_long_a_one_is_cut() -> None:
    world, peer = lonely()
    assert peer.ask("REGISTER", "1001", ("Contact", ME), ("Expires", "10")) == 423
    assert peer.last().get("Min-Expires") == "60"
    assert contacts(world) == []
    assert peer.ask("REGISTER", "1001", ("Contact", ME), ("Expires", "999999999999999")) == 200
    assert peer.ask("REGISTER", "1001", ("Contact", ME), ("Expires", "4000000000")) == 200
    assert peer.last().contacts[0].param("expires") == "7200"


def test_the_same_phone_from_another_address_takes_the_place_of_its_old_contact() -> None:
    world, peer = lonely()
    instance = ';+sip.instance="<urn:uuid:1>"'
    peer.ask("REGISTER", "1001", ("Contact", ME + instance))
    peer.ask("REGISTER", "1001", ("Contact", f"<sip:1001@10.9.0.7>{instance}"))
    assert contacts(world) == ["sip:1001@10.9.0.7"]
    peer.ask("REGISTER", "1001", ("Contact", '<sip:1001@10.9.0.7>;+sip.instance="<urn:uuid:2>"'))
    assert contacts(world) == ["sip:1001@10.9.0.7", "sip:1001@10.9.0.7"]


def test_an_equivalent_contact_is_the_same_contact() -> None:
    world, peer = lonely()
    peer.ask("REGISTER", "1001", ("Contact", "<sip:%31001@10.9.0.1>"))
    peer.ask("REGISTER", "1001", ("Contact", "<sip:1001@10.9.0.1>"))
    peer.ask("REGISTER", "1001", ("Contact", "<sip:1001@10.9.0.1>, <sip:1001@10.9.0.1>"))
    assert len(contacts(world)) == 1
    assert peer.last().status == 200


def test_an_older_request_of_the_same_series_changes_nothing() -> None:
    world, peer = lonely()
    series = ("Call-ID", "one-series")
    peer.ask("REGISTER", "1001", ("Contact", ""))
    assert peer.ask("REGISTER", "1001", ("Contact", ME), series, ("CSeq", "100 REGISTER")) == 200
    assert peer.ask("REGISTER", "1001", ("Contact", f"{ME};expires=0"), series, ("CSeq", "99 REGISTER")) == 500
    assert peer.ask("REGISTER", "1001", ("Contact", "*"), ("Expires", "0"), series, ("CSeq", "98 REGISTER")) == 500
    assert len(contacts(world)) == 1
    # A phone that was restarted begins another series.
    assert peer.ask("REGISTER", "1001", ("Contact", f"{ME};expires=0"), ("CSeq", "1 REGISTER")) == 200
    assert contacts(world) == []


def test_star_removes_everything_and_needs_expires_0() -> None:
    world, peer = lonely()
    peer.ask("REGISTER", "1001", ("Contact", f"{ME}, <sip:1001@10.9.0.2>"))
    assert peer.ask("REGISTER", "1001", ("Contact", "*")) == 400
    assert peer.ask("REGISTER", "1001", ("Contact", "*"), ("Expires", "60")) == 400
    assert len(contacts(world)) == 2
    assert peer.ask("REGISTER", "1001", ("Contact", "*"), ("Expires", "0")) == 200
    assert contacts(world) == []
    assert world.records[Kind.BINDING] == {}


def test_one_bad_contact_spoils_the_whole_request() -> None:
    world, peer = lonely()
    for bad in ("<mailto:me@example.com>", "<sip:1001@10.9.0.2>;q=7", "<sip:1001@10.9.0.2>;q=x"):
        assert peer.ask("REGISTER", "1001", ("Contact", ME), ("Contact", bad)) == 400
    assert contacts(world) == []


def test_of_too_many_contacts_the_oldest_goes() -> None:
    world, peer = lonely()
    for port in range(5060, 5075):
        assert peer.ask("REGISTER", "1001", ("Contact", f"<sip:1001@10.9.0.1:{port}>")) == 200
    assert contacts(world) == [f"sip:1001@10.9.0.1:{port}" for port in range(5065, 5075)]


def test_only_the_owner_of_a_number_may_register_it() -> None:
    _, peer = lonely()
    them = ("To", f"<sip:1002@{SERVER.host}>")
    assert peer.ask("REGISTER", "1001", ("Contact", ME), them) == 403
    assert peer.ask("REGISTER", "1001", ("Contact", ME), ("From", f"<sip:1002@{SERVER.host}>;tag=x")) == 403


def test_a_wrong_password_and_an_unknown_user_get_the_same_answer() -> None:
    world, _ = lonely()
    answers: list[set[str]] = []
    for user, word in (("1001", "a wrong password"), ("9999", "any password"), ("1001", "")):
        peer = world.peer(f"10.9.1.{len(answers)}")
        assert peer.ask("REGISTER", user, ("Contact", ME), word=word) == (200 if not word else 401)
        answers.append({name for name, _ in peer.last().fields} - {"Via", "From", "To", "Call-ID", "CSeq"})
    assert answers[0] == answers[1]
    assert "WWW-Authenticate" in answers[0]
    assert world.switch.counters["auth_failures"] == 2


def test_a_stale_nonce_is_renewed_without_asking_the_user() -> None:
    world, peer = lonely()
    peer.ask("REGISTER", "1001", ("Contact", ME))
    world.run(400)
    request = peer.with_credentials(peer.request("REGISTER", "1001", ("Contact", ME)), "1001")
    peer.say(request)
    assert peer.last().status == 401
    assert all("stale=true" in value for value in peer.last().get_all("WWW-Authenticate"))
    # A wrong password with a stale nonce is a wrong password.
    peer.say(peer.with_credentials(peer.request("REGISTER", "1001", ("Contact", ME)), "1001", word="a wrong password"))
    assert not any("stale" in value for value in peer.last().get_all("WWW-Authenticate"))
    peer.challenges = []
    assert peer.ask("REGISTER", "1001", ("Contact", ME)) == 200


def test_a_captured_request_cannot_be_sent_again() -> None:
    world, peer = lonely()
    peer.ask("REGISTER", "1001", ("Contact", ME))
    request = peer.with_credentials(peer.request("REGISTER", "1001", ("Contact", f"{ME};expires=0")), "1001")
    peer.say(request)
    assert peer.last().status == 200
    peer.ask("REGISTER", "1001", ("Contact", ME))
    thief = world.peer("10.9.0.66")
    thief.say(request.with_fields(("Via", "SIP/2.0/UDP 10.9.0.66;branch=z9hG4bKthief"), ("Call-ID", "thief")))
    assert thief.last().status == 401
    assert len(contacts(world)) == 1


def test_a_nonce_of_another_key_is_no_nonce() -> None:
    world, peer = lonely()
    forged = Nonces(b"another key").issue(START)
    peer.challenges = [f'Digest realm="{REALM}", nonce="{forged}", qop="auth", algorithm=MD5']
    request = peer.with_credentials(peer.request("REGISTER", "1001", ("Contact", ME)), "1001")
    peer.say(request)
    assert peer.last().status == 401
    assert contacts(world) == []


def test_every_digest_algorithm_on_offer_works() -> None:
    world = World(settings=replace(make_settings(), digest_algorithms=("SHA-256", "MD5")))
    world.register("1001", 0)
    peer = world.peer("10.9.0.1")
    peer.ask("REGISTER", "1001", ("Contact", ""))
    offered = list(peer.challenges)
    assert len(offered) == 2
    for challenge in offered:
        peer.challenges = [challenge]
        peer._nonce_count += 10
        assert peer.ask("REGISTER", "1001", ("Contact", ME)) == 200
    assert len(contacts(world)) == 1


def test_a_phone_behind_nat_is_called_where_it_was_heard() -> None:
    world = World()
    world.register("1002", 0)
    world.add("1002", name="home", nat=True)
    world.register("home")
    (binding,) = world.switch.bindings["1002"]
    assert "192.168.1." in binding.contact
    world.rings_then_answers("home")
    caller = world.call("1001", "1002", run_s=2)
    assert len(world.of("home", Incoming)) == 1
    (session,) = world.media.values()
    side = session.streams[0].b
    assert side is not None
    # Its SDP names a private address, so packets from where its SIP comes from are taken at once.
    assert set(side.hosts) == {world.addresses["home"].host, binding.flow.remote.host}
    world.hang_up("1001", caller)
    world.is_clean()


def test_a_caller_behind_nat_is_hung_up_where_it_was_heard() -> None:
    world = World()
    world.add("1001", name="home", nat=True)
    world.register("home")
    world.rings_then_answers("1002")
    world.call("home", "1002", run_s=2)
    world.hang_up("1002", world.incoming("1002"))
    world.is_clean()
    assert len(world.of("home", Ended)) == 1


def test_a_phone_without_nat_is_called_at_its_contact_even_if_it_registers_from_another_port() -> None:
    world, peer = lonely()
    peer.ask("REGISTER", "1002", ("Contact", "<sip:1002@10.9.0.1:5099>"))
    ringing = world.peer("10.9.0.1", 5099)
    world.call("1001", "1002", run_s=0.3)
    (invite,) = ringing.requests("INVITE")
    assert invite.target == "sip:1002@10.9.0.1:5099"
    ringing.say(invite.respond(486, to_tag="x"))
    world.is_clean()


def test_a_contact_is_no_way_to_slip_headers_into_our_requests() -> None:
    world, peer = lonely()
    peer.ask("REGISTER", "1002", ("Contact", "<sip:1002@10.9.0.1;method=BYE?Replaces=x%3Bto-tag%3Dy>"))
    world.call("1001", "1002", run_s=0.3)
    (invite,) = peer.requests("INVITE")
    assert invite.target == "sip:1002@10.9.0.1"
    peer.say(invite.respond(486, to_tag="x"))
    world.is_clean()


def test_a_path_is_kept_answered_and_used_as_route() -> None:
    world, proxy = lonely()
    path = "<sip:10.9.0.1;lr>"
    assert proxy.ask("REGISTER", "1002", ("Contact", "<sip:1002@10.77.0.1>"), ("Path", path)) == 200
    assert proxy.last().get("Path") == path
    world.call("1001", "1002", run_s=0.3)
    (invite,) = proxy.requests("INVITE")
    assert (invite.target, invite.get("Route")) == ("sip:1002@10.77.0.1", path)
    proxy.say(invite.respond(486, to_tag="x"))
    world.is_clean()


def test_a_contact_with_a_name_is_looked_up_before_it_is_called() -> None:
    world, peer = lonely()
    peer.ask("REGISTER", "1002", ("Contact", "<sip:1002@phone.example>"))
    world.names["phone.example"] = world.peer("10.9.0.5").address
    world.call("1001", "1002", run_s=0.3)
    (invite,) = world.peer("10.9.0.5").requests("INVITE")
    world.peer("10.9.0.5").say(invite.respond(486, to_tag="x"))
    world.is_clean()
    assert world.ended("1001") == [486]


@pytest.mark.parametrize("gives_up_s", [None, 0.1])
def test_a_name_that_leads_nowhere_is_480(gives_up_s: float | None) -> None:
    world, peer = lonely()
    peer.ask("REGISTER", "1002", ("Contact", "<sip:1002@nowhere.example>"))
    world.lookup_s = 0.3
    caller = world.call("1001", "1002")
    if gives_up_s is not None:
        world.after(gives_up_s, lambda: world.hang_up("1001", caller))
    world.is_clean()
    assert world.ended("1001") == [480 if gives_up_s is None else 487]


def test_bindings_outlive_the_process() -> None:
    world = World()
    world.restart()
    world.run(1)
    world.rings_then_answers("1002")
    caller = world.call("1001", "1002", run_s=2)
    world.hang_up("1001", caller)
    world.is_clean()


def test_what_expired_or_lost_its_extension_while_nobody_was_there_is_gone_afterwards() -> None:
    world, peer = lonely()
    peer.ask("REGISTER", "1001", ("Contact", f"{ME};expires=60"))
    peer.ask("REGISTER", "1001", ("Contact", "<sip:1001@10.9.0.9>;expires=1000"))
    world.peer("10.9.0.2").ask("REGISTER", "1002", ("Contact", "<sip:1002@10.9.0.2>"))
    world.directory = replace(extensions("1001"), revision=2)
    world.switch.replace_directory(world.now, extensions("1001", "1002"))
    world.now += 100
    world.restart()
    world.run(1)
    assert contacts(world) == ["sip:1001@10.9.0.9"]
    assert set(world.records[Kind.BINDING]) == {"1001"}


def test_an_extension_that_is_removed_takes_its_bindings_along() -> None:
    world = World()
    world.tell(lambda s: s.replace_directory(world.now, extensions("1001")))
    assert set(world.switch.bindings) == {"1001"}
    assert set(world.records[Kind.BINDING]) == {"1001"}
    world.call("1001", "1002")
    world.is_clean()
    assert world.ended("1001") == [404]


def test_the_phone_registers_again_in_time_and_ends_its_registration() -> None:
    world = World()
    world.register("1001", 600)
    world.run(3000)
    assert len(contacts(world)) == 1
    granted = [event.expires_s for event in world.of("1001", Registered)]
    assert granted[1:] == [600] * (len(granted) - 1)
    world.register("1001", 0)
    assert contacts(world) == []
    assert world.complaints() == []


def test_bindings_are_stored_before_the_200_is_sent() -> None:
    world, peer = lonely()
    peer.ask("REGISTER", "1001", ("Contact", ""))
    flow = next(iter(world.peers.values())).address
    request = peer.with_credentials(peer.request("REGISTER", "1001", ("Contact", ME)), "1001")
    switch = world.switch
    assert isinstance(switch.bindings.get("1001", ()), tuple)
    peer.say(request)
    (binding,) = switch.bindings["1001"]
    assert isinstance(binding, Binding)
    assert binding.flow.remote == flow
    assert world.records[Kind.BINDING]["1001"]


def test_many_values_of_a_header_are_refused() -> None:
    world, peer = lonely()
    many = ", ".join(f"<sip:10.9.0.{i};lr>" for i in range(20))
    assert peer.ask("REGISTER", "1001", ("Contact", ME), ("Path", many)) == 400
    assert contacts(world) == []


def test_a_server_with_other_limits_says_so() -> None:
    world = World(settings=replace(make_settings(), min_expires_s=300, max_expires_s=400))
    peer = world.peer("10.9.0.1")
    assert peer.ask("REGISTER", "1001", ("Contact", ME), ("Expires", "299")) == 423
    assert peer.ask("REGISTER", "1001", ("Contact", ME), ("Expires", "0")) == 200
