"""One number, several phones: who wins, who is told, and what becomes of the rest."""

import pytest
from msgspec.structs import replace
from tests.unit.switch.world import SERVER, Peer, World, make_settings

from warden.call.cdr import Result
from warden.call.model import LEGS_MAX
from warden.phone.events import Answered, Confirmed, Ended, Incoming, Ringing
from warden.sip.message import Request, Response


def two_phones(*, loss: float = 0.0, seed: int = 0) -> World:
    """1002 has a desk phone and a mobile one."""
    world = World(seed=seed)
    world.add("1002", name="mobile")
    world.register("mobile")
    world.loss = loss
    return world


def test_all_phones_of_a_number_ring_and_the_others_stop_when_one_answers() -> None:
    world = two_phones()
    world.rings_then_answers("1002", answer_s=1.0)
    world.on_incoming["mobile"] = lambda e: world.do("mobile", world.phones["mobile"].ring(world.now, e.call))
    caller = world.call("1001", "1002", run_s=3)
    assert [len(world.of(name, Incoming)) for name in ("1002", "mobile")] == [1, 1]
    (stopped,) = world.of("mobile", Ended)
    assert (stopped.status, stopped.reason) == (487, 'SIP;cause=200;text="Call completed elsewhere"')
    world.hang_up("1001", caller)
    (cdr,) = world.is_clean()
    assert cdr.result is Result.ANSWERED


@pytest.mark.parametrize("gap_ms", range(-14, 15, 2))
def test_two_phones_that_answer_at_once_leave_one_call(gap_ms: int) -> None:
    world = two_phones()
    world.rings_then_answers("1002", answer_s=1.0)
    world.rings_then_answers("mobile", answer_s=1.0 + gap_ms / 1000)
    caller = world.call("1001", "1002", run_s=3)
    # Whoever lost was acknowledged and hung up, not left alone.
    assert sorted(len(world.phones[name].calls) for name in ("1002", "mobile")) == [0, 1]
    assert len(world.of("1001", Answered)) == 1
    world.hang_up("1001", caller)
    world.is_clean()
    assert all(world.of(name, Confirmed) for name in ("1002", "mobile") if world.ended(name) == [200])


@pytest.mark.parametrize("seed", range(40))
def test_the_race_of_two_answers_ends_well_on_a_lossy_wire(seed: int) -> None:
    world = two_phones(loss=0.15, seed=seed)
    world.rings_then_answers("1002", answer_s=1.0)
    world.rings_then_answers("mobile", answer_s=1.0 + seed % 5 / 100)
    caller = world.call("1001", "1002", run_s=50)
    world.hang_up("1001", caller, run_s=100)
    world.loss = 0.0
    world.is_clean(strict=False)


def test_one_busy_phone_does_not_stop_the_other_from_being_answered() -> None:
    world = two_phones()
    world.refuses("1002", 486)
    world.rings_then_answers("mobile")
    caller = world.call("1001", "1002", run_s=3)
    assert len(world.of("1001", Answered)) == 1
    world.hang_up("1001", caller)
    (cdr,) = world.is_clean()
    assert cdr.result is Result.ANSWERED


@pytest.mark.parametrize(
    ("one", "other", "heard"), [(480, 486, 486), (486, 480, 486), (404, 480, 480), (503, 488, 480), (500, 488, 488)]
)
def test_of_several_refusals_the_most_telling_is_heard(one: int, other: int, heard: int) -> None:
    world = two_phones()
    world.refuses("1002", one)
    world.refuses("mobile", other, after_s=0.5)
    world.call("1001", "1002")
    world.is_clean()
    assert world.ended("1001") == [heard]


def test_a_6xx_stops_all_phones() -> None:
    world = two_phones()
    world.refuses("1002", 603, after_s=1.0)
    world.on_incoming["mobile"] = lambda e: world.do("mobile", world.phones["mobile"].ring(world.now, e.call))
    world.call("1001", "1002")
    (cdr,) = world.is_clean()
    assert (world.ended("1001"), world.ended("mobile")) == ([603], [487])
    assert cdr.result is Result.REJECTED


def test_the_caller_gives_up_and_every_phone_stops() -> None:
    world = two_phones()
    for name in ("1002", "mobile"):
        world.rings_then_answers(name, answer_s=30)
    caller = world.call("1001", "1002", run_s=1)
    world.hang_up("1001", caller)
    world.is_clean()
    assert world.ended("1001") == world.ended("1002") == world.ended("mobile") == [487]


def test_early_media_of_a_fork_is_not_passed_on_since_another_phone_may_answer() -> None:
    world = two_phones()
    world.on_incoming["1002"] = lambda e: world.do(
        "1002", world.phones["1002"].early(world.now, e.call, world.media_of("1002"))
    )
    world.rings_then_answers("mobile")
    caller = world.call("1001", "1002", run_s=3)
    assert {(event.status, event.sdp) for event in world.of("1001", Ringing)} == {(180, "")}
    world.hang_up("1001", caller)
    world.is_clean()


# A contact that is a proxy, behind which several phones answer the same INVITE.


def behind_a_proxy(contact: str = "<sip:1002@10.9.0.1>") -> tuple[World, Peer]:
    world = World()
    proxy = world.peer("10.9.0.1")
    world.register("1002", 0)
    assert proxy.ask("REGISTER", "1002", ("Contact", contact)) == 200
    return world, proxy


def answer(invite: Request, tag: str, host: str, port: int) -> Response:
    sdp = f"v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n"
    contact = ("Contact", f"<sip:{tag}@{host}>")
    return invite.respond(200, contact, ("Content-Type", "application/sdp"), to_tag=tag, body=sdp.encode())


def test_a_second_answer_of_one_invite_is_acknowledged_and_hung_up_once() -> None:
    world, proxy = behind_a_proxy()
    caller = world.call("1001", "1002", run_s=0.5)
    (invite,) = proxy.requests("INVITE")
    first, second = answer(invite, "desk", "10.9.0.2", 6000), answer(invite, "lobby", "10.9.0.3", 6000)
    desk, lobby = world.peer("10.9.0.2"), world.peer("10.9.0.3")
    for response in (first, second, second, first):
        proxy.say(response)
        world.run(0.3)
    assert [ack.to.tag for ack in desk.requests("ACK")] == ["desk", "desk"]
    assert [ack.to.tag for ack in lobby.requests("ACK")] == ["lobby", "lobby"]
    (bye,) = {bytes(bye) for bye in lobby.requests("BYE")}
    assert b"Call completed elsewhere" in bye
    assert desk.requests("BYE") == []
    lobby.say(lobby.requests("BYE")[0].respond(200))
    world.hang_up("1001", caller, run_s=0.1)
    desk.say(desk.requests("BYE")[0].respond(200))
    world.is_clean()


def test_a_fork_that_answers_after_the_hang_up_is_hung_up_too() -> None:
    world, proxy = behind_a_proxy()
    caller = world.call("1001", "1002", run_s=0.5)
    (invite,) = proxy.requests("INVITE")
    desk, lobby = world.peer("10.9.0.2"), world.peer("10.9.0.3")
    proxy.say(answer(invite, "desk", "10.9.0.2", 6000))
    world.run(0.5)
    world.hang_up("1001", caller, run_s=0.1)
    proxy.say(answer(invite, "lobby", "10.9.0.3", 6000))
    world.run(0.1)
    assert len(lobby.requests("BYE")) == 1
    lobby.say(lobby.requests("BYE")[0].respond(200))
    desk.say(desk.requests("BYE")[0].respond(200))
    world.is_clean()


def test_a_contact_that_leads_back_to_warden_is_no_endless_loop() -> None:
    world, _ = behind_a_proxy(f"<sip:1002@{SERVER.host}>")
    world.call("1001", "1002", run_s=1)
    assert [r.status for _, s, t, r in world.log if isinstance(r, Response) and s == t == SERVER] == [482]
    (cdr,) = world.is_clean()
    assert world.ended("1001") == [480]
    assert (cdr.status, cdr.reason) == (480, "482 Loop Detected")


def test_no_more_phones_ring_than_a_call_has_legs() -> None:
    world = World(settings=replace(make_settings(), contacts_max=50))
    world.register("1002", 0)
    peer = world.peer("10.9.0.1")
    for i in range(40):
        peer.ask("REGISTER", "1002", ("Contact", f"<sip:1002@10.9.0.1:5060;line={i}>;q=0.{i:02}"))
    world.call("1001", "1002", run_s=0.2)
    invites = peer.requests("INVITE")
    assert len(invites) == LEGS_MAX - 1
    # The least wanted are left out.
    assert {invite.uri.param("line") for invite in invites} == {str(i) for i in range(8, 40)}
    for invite in invites:
        peer.say(invite.respond(486, to_tag="x"))
    world.is_clean()
