"""SRTP between phones and us: each leg has keys of its own, the policy holds, and a successor has all of it."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace
from tests.unit.switch.seats import Seats
from tests.unit.switch.world import World, extensions

from warden.media.protocol import Mode, Put, Rolled, RolledOver, Side, Way
from warden.phone.events import Incoming, Talking, Updated
from warden.sdp.crypto import Keys, disclosed
from warden.sdp.sdes import DEAF, Policy
from warden.sip.message import Request, Response
from warden.store.ports import Kind
from warden.switch.live import SNAPSHOTS
from warden.switch.outcome import Outcome


def world_of(caller: Policy = Policy.OFF, callee: Policy = Policy.OFF, **policies: str) -> World:
    """Two phones on TLS that speak SRTP so much, and what the extensions' policies are (`e1001="required"`)."""
    plain = extensions("1001", "1002")
    known = {
        number: replace(extension, srtp=Policy(policies.get(f"e{number}", "optional")))
        for number, extension in plain.extensions.items()
    }
    world = World(directory=replace(plain, extensions=known), tls=True)
    world.srtp = {"1001": caller, "1002": callee}
    return world


def sides(world: World) -> tuple[Side, Side]:
    (session,) = world.media.values()
    (stream,) = session.streams
    assert stream.b is not None
    return stream.a, stream.b


def mirrored(keys: Keys | None) -> Keys | None:
    """A phone's keys as we have them."""
    return None if keys is None else Keys(keys.suite, keys.outbound, keys.inbound)


def agree(world: World) -> tuple[Keys | None, Keys | None]:
    """What protects each side, which must be what its phone thinks."""
    a, b = sides(world)
    assert a.srtp == mirrored(world.of("1001", Talking)[-1].srtp)
    assert b.srtp == mirrored(world.of("1002", Talking)[-1].srtp)
    return a.srtp, b.srtp


def keys_are_private(world: World) -> None:
    """No key that a phone wrote, or that was written to it, went to the other one."""
    seen: dict[str, set[str]] = {}
    for _, source, target, message in world.log:
        phone = target.host if source == world.server else source.host
        body = message.body.decode()
        if "m=" in body:
            assert ("crypto" in body) == any(stream.cryptos for stream in disclosed(body)[1])
            seen.setdefault(phone, set()).update(c.key for s in disclosed(body)[1] for c in s.cryptos)
    hers, his = seen[world.addresses["1001"].host], seen[world.addresses["1002"].host]
    assert not hers & his


def over(world: World, tag: str) -> None:
    world.hang_up("1001", tag)
    world.is_clean()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("callee", Policy)
@pytest.mark.parametrize("caller", Policy)
def test_each_leg_is_as_secure_as_its_phone_can_be(caller: Policy, callee: Policy, late: bool) -> None:
    required = {"e1002": "required"} if callee is Policy.REQUIRED else {}
    world = world_of(caller, callee, **required)
    tag, _ = world.up(late=late)
    hers, his = agree(world)
    assert (hers is not None, his is not None) == (caller is not Policy.OFF, callee is not Policy.OFF)
    assert hers is None or hers != his
    keys_are_private(world)
    over(world, tag)


def test_a_phone_that_must_have_srtp_is_offered_nothing_else() -> None:
    world = world_of(Policy.OFF, Policy.REQUIRED, e1002="required")
    tag, _ = world.up()
    (invite,) = [m for _, s, _, m in world.log if s == world.server and isinstance(m, Request) and m.method == "INVITE"]
    assert b"RTP/SAVP " in invite.body
    assert invite.body.count(b"a=crypto:") == 3
    over(world, tag)


def test_a_phone_that_takes_keys_only_in_a_secure_transport_is_asked_once_more() -> None:
    world = world_of(Policy.OPTIONAL, Policy.REQUIRED)
    phone = world.phones["1002"]

    def take(incoming: Incoming) -> None:
        if "RTP/SAVP" in incoming.offer:
            world.do("1002", phone.answer(world.now, incoming.call, world.media_of("1002")))
        else:
            world.do("1002", phone.refuse(world.now, incoming.call, 488))

    world.on_incoming["1002"] = take
    tag = world.call("1001", "1002", run_s=2.0)
    assert len(world.of("1002", Incoming)) == 2
    assert None not in agree(world)
    over(world, tag)
    # Who will have neither is asked no third time.
    world.refuses("1002", 488)
    world.call("1001", "1002", run_s=2.0)
    assert len(world.of("1002", Incoming)) == 4
    assert world.ended("1001")[-1] == 488
    world.is_clean(cdrs=2)


def test_over_udp_nobody_is_offered_keys_that_everybody_could_read() -> None:
    world = World()
    tag, _ = world.up()
    assert not any(b"crypto" in m.body for _, _, _, m in world.log)
    over(world, tag)


@pytest.mark.parametrize("who", ["1001", "1002"])
def test_hold_and_resume_keep_the_keys_of_both_sides(who: str) -> None:
    world = world_of(Policy.OPTIONAL, Policy.OPTIONAL)
    tags = dict(zip(("1001", "1002"), world.up(), strict=True))
    before = agree(world)
    for act in (world.phones[who].hold, world.phones[who].resume, world.phones[who].update):
        world.do(who, act(world.now, tags[who]))
        world.run(1)
    world.do(who, world.phones[who].reinvite(world.now, tags[who], late=True))
    world.run(1)
    assert len(world.of(who, Updated)) == 4
    assert agree(world) == before
    assert None not in before
    over(world, tags["1001"])


def test_nothing_goes_to_a_phone_in_the_clear_before_its_keys_are_agreed() -> None:
    world = world_of(Policy.REQUIRED, Policy.REQUIRED, e1002="required")
    world.rings_then_answers("1002", answer_s=5.0)
    tag = world.call("1001", "1002", run_s=2.0)
    a, b = sides(world)
    assert a.srtp is not None
    assert (a.srtp.outbound, b.srtp) == ("", DEAF)
    world.run(5)
    agree(world)
    over(world, tag)


def test_early_media_is_protected_as_the_answer_is() -> None:
    world = world_of(Policy.OPTIONAL, Policy.OPTIONAL)
    world.on_incoming["1002"] = lambda e: world.do(
        "1002", world.phones["1002"].early(world.now, e.call, world.media_of("1002"), 183)
    )
    tag = world.call("1001", "1002", run_s=1.0)
    early = agree(world)
    assert None not in early
    world.do("1002", world.phones["1002"].answer(world.now, world.incoming("1002"), world.media_of("1002")))
    world.run(1)
    assert agree(world) == early
    over(world, tag)


def test_of_several_phones_each_is_offered_keys_of_its_own() -> None:
    world = world_of(Policy.OFF, Policy.OPTIONAL)
    world.add("1002", name="mobile", tls=True)
    world.srtp["mobile"] = Policy.OPTIONAL
    world.register("mobile")
    world.rings_then_answers("mobile")
    tag = world.call("1001", "1002", run_s=2.0)
    offers = [m for _, s, _, m in world.log if s == world.server and isinstance(m, Request) and m.method == "INVITE"]
    assert len(offers) == 2
    one, two = ({c.key for c in disclosed(m.body.decode())[1][0].cryptos} for m in offers)
    assert len(one) == len(two) == 3
    assert not one & two
    assert sides(world)[1].srtp == mirrored(world.of("mobile", Talking)[-1].srtp)
    over(world, tag)


def test_the_echo_test_speaks_srtp() -> None:
    world = world_of(Policy.REQUIRED)
    tag = world.call("1001", "*43", run_s=1.0)
    (session,) = world.media.values()
    assert session.streams[0].mode is Mode.ECHO
    assert session.streams[0].a.srtp == mirrored(world.of("1001", Talking)[-1].srtp)
    over(world, tag)


def refusal(world: World, method: str = "INVITE") -> Response:
    found = [m for _, s, _, m in world.log if s == world.server and isinstance(m, Response) and m.cseq.method == method]
    return next(m for m in reversed(found) if m.status >= 400 and m.status not in (401, 487))


def test_a_plain_offer_of_who_must_be_secure_is_refused_and_told_why() -> None:
    world = world_of(Policy.OFF, Policy.OFF, e1001="required")
    world.call("1001", "1002", run_s=2.0)
    assert world.ended("1001") == [488]
    assert refusal(world).get("Warning") == '302 10.0.0.254 "sdp: no stream with SRTP keys that are allowed here"'
    assert len(world.switch) == 0


def test_a_secure_offer_is_refused_where_the_policy_is_off() -> None:
    world = world_of(Policy.REQUIRED, Policy.OFF, e1001="off")
    world.call("1001", "1002", run_s=2.0)
    assert world.ended("1001") == [488]
    assert (refusal(world).get("Warning") or "").startswith("302 ")


def test_a_callee_that_must_be_secure_and_answers_plainly_is_not_talked_to() -> None:
    world = world_of(Policy.OFF, Policy.OFF, e1002="required")
    sdp = "v=0\r\no=- 1 1 IN IP4 10.0.0.9\r\ns=-\r\nc=IN IP4 10.0.0.9\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
    world.on_incoming["1002"] = lambda e: world.do(
        "1002", world.phones["1002"].answer(world.now, e.call, world.media_of("1002"), sdp=sdp)
    )
    world.call("1001", "1002", run_s=2.0)
    assert world.ended("1001") == [488]
    assert (refusal(world).get("Warning") or "").startswith("305 ")
    world.is_clean(strict=False)


def test_who_must_be_secure_is_served_over_tls_only() -> None:
    world = world_of(e1002="required")
    world.register("1002", 0)
    peer = world.peer("10.9.0.7")
    assert peer.ask("REGISTER", "1002") == 403
    assert "TLS only" in (peer.last().get("Warning") or "")
    assert peer.ask("INVITE", "1002", to="1001", body="v=0\r\n") == 403
    world.call("1001", "1002", run_s=1.0)
    assert world.ended("1001") == [480]
    assert world.switch.counters["srtp_refused"] == 2


def test_a_phone_that_registered_before_it_had_to_be_secure_is_not_rung_in_the_clear() -> None:
    world = World()
    extensions = dict(world.directory.extensions)
    extensions["1002"] = replace(extensions["1002"], srtp=Policy.REQUIRED)
    directory = replace(world.directory, extensions=extensions)
    world.carry_out(world.switch.replace_directory(world.now, directory))
    world.call("1001", "1002", run_s=1.0)
    assert world.ended("1001") == [480]


def test_a_phone_on_tls_at_another_seat_is_offered_keys_through_that_seat() -> None:
    seats = Seats()
    seats.two.add("2001", name="secure", tls=True)
    seats.two.register("2001", 0)
    seats.two.register("secure")
    seats.two.srtp["secure"] = Policy.REQUIRED
    tag, callee = seats.up("secure")
    theirs = seats.two.of("secure", Talking)[-1].srtp
    assert theirs is not None
    assert [side.srtp for side in sides(seats.one)] == [None, mirrored(theirs)]
    seats.two.do("secure", seats.two.phones["secure"].hold(seats.two.now, callee))
    seats.run(1)
    assert [side.srtp for side in sides(seats.one)] == [None, mirrored(theirs)]
    seats.one.hang_up("1001", tag)
    seats.is_clean()


def three() -> World:
    """Phones on TLS that speak SRTP where they can."""
    numbers = ("1001", "1002", "1003")
    world = World(*numbers, tls=True)
    world.srtp = dict.fromkeys(numbers, Policy.OPTIONAL)
    world.rings_then_answers("1003")
    return world


def pair_agrees(world: World, one: str, other: str) -> None:
    """Each of the two speaks to us under keys that we use towards it."""
    found = {side.remote.host: side.srtp for side in sides(world) if side.remote is not None}
    told = {world.addresses[who].host: mirrored(world.of(who, Talking)[-1].srtp) for who in (one, other)}
    assert found == told
    assert len({repr(keys) for keys in told.values()} - {"None"}) == 1
    assert len(set(told.values())) == 2


@pytest.mark.parametrize(("referrer", "party"), [("1001", "1002"), ("1002", "1001")])
def test_who_is_put_through_keeps_its_keys_and_the_target_gets_others(referrer: str, party: str) -> None:
    world = three()
    tags = dict(zip(("1001", "1002"), world.up(), strict=True))
    before = world.of(party, Talking)[-1].srtp
    world.do(referrer, world.phones[referrer].transfer(world.now, tags[referrer], "1003"))
    world.run(3)
    assert world.of(party, Talking)[-1].srtp == before
    pair_agrees(world, party, "1003")
    world.hang_up(party, tags[party])
    world.is_clean()


def test_a_leg_that_is_joined_to_another_call_takes_its_keys_and_counters_along() -> None:
    world = three()
    first, _ = world.up()
    (one,) = world.media
    second, _ = world.up("1001", "1003")
    (two,) = set(world.media) - {one}
    stream = world.media[two].streams[0]
    assert stream.b is not None
    world.hear(RolledOver(two, stream.b.port, Rolled(Way.IN, 7, 65_536, 1)))
    target = world.of("1003", Talking)[-1].srtp
    world.do("1001", world.phones["1001"].transfer(world.now, first, "1003", instead_of=second))
    world.run(5)
    assert world.of("1003", Talking)[-1].srtp == target
    pair_agrees(world, "1002", "1003")
    assert all(Rolled(Way.IN, 7, 65_536, 1) in side.rolled for side in sides(world))
    world.hang_up("1002", world.incoming("1002"))
    world.is_clean(cdrs=2)


def roll(world: World, port: int, *, ssrc: int = 7, index: int = 65536 + 5, way: Way = Way.OUT) -> None:
    (session,) = world.media
    world.hear(RolledOver(session, port, Rolled(way, ssrc, index, 1)))


def test_how_far_packets_are_counted_is_in_the_record_and_goes_to_the_next_media_process() -> None:
    world = world_of(Policy.OPTIONAL, Policy.OPTIONAL)
    tag, _ = world.up()
    a, b = sides(world)
    roll(world, a.port)
    roll(world, a.port, index=2 * 65536)
    roll(world, b.port, way=Way.IN)
    (record,) = world.records[Kind.CALL].values()
    session = SNAPSHOTS.decode(record)[0].session
    assert session is not None
    assert session.streams[0].a.rolled == (Rolled(Way.OUT, 7, 2 * 65536, 1),)
    put: list[Put] = []
    carry_out: Callable[[Outcome], None] = world.carry_out

    def noted(outcome: Outcome) -> None:
        put.extend(order for order in outcome.orders if isinstance(order, Put))
        carry_out(outcome)

    world.carry_out = noted  # type: ignore[method-assign]
    world.restart()
    world.run(1)
    assert put[-1].session == session
    assert agree(world) == (a.srtp, b.srtp)
    world.reconnect("1001")
    world.reconnect("1002")
    over(world, tag)


def test_only_the_last_sources_are_kept() -> None:
    world = world_of(Policy.OPTIONAL, Policy.OPTIONAL)
    tag, _ = world.up()
    for ssrc in range(50):
        roll(world, sides(world)[0].port, ssrc=ssrc)
    (live,) = world.switch.calls.values()
    assert live.session is not None
    assert [r.ssrc for r in live.session.streams[0].a.rolled] == list(range(38, 50))
    over(world, tag)
