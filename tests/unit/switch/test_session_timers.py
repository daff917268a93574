"""Session timers on both legs (RFC 4028): a phone that is gone is found out, and its call ends with a true record."""

from msgspec.structs import replace
from tests.unit.switch.world import DOWN_S, Peer, World, make_settings

from warden.call.cdr import Party, Result
from warden.core.address import Address, Flow, Transport
from warden.phone.events import Ended
from warden.sip.dialog import Dialog, dialog_as_uac
from warden.sip.message import Request
from warden.sip.session_timer import Wish

SDP = "v=0\r\no=- 1 1 IN IP4 10.9.0.1\r\ns=-\r\nc=IN IP4 10.9.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"
KNOWS = ("Supported", "timer")


class TimedCaller:
    """A caller that knows session timers, from its INVITE on."""

    def __init__(self, world: World, *fields: tuple[str, str]) -> None:
        self.world = world
        self.peer = world.peer("10.9.0.1")
        world.rings_then_answers("1002", answer_s=0.2)
        self.status = self.peer.ask("INVITE", "1001", KNOWS, *fields, body=SDP, to="1002")
        if self.status == 100:
            world.run(1.0)
            self.status = self.peer.last().status
        self.answer = self.peer.last()
        if self.status == 200:
            flow = Flow(Transport.UDP, self.peer.address, world.server)
            invite = self.sent("INVITE")[-1]
            self.dialog: Dialog = dialog_as_uac(invite, self.answer, flow)
            self.say(self.dialog.ack(invite.cseq.number))

    def sent(self, method: str) -> list[Request]:
        return [
            m
            for _, source, _, m in self.world.log
            if source == self.peer.address and isinstance(m, Request) and m.method == method
        ]

    def say(self, request: Request) -> None:
        branch = f"z9hG4bK-{request.cseq.number}-{request.method}"
        self.peer.say(request.with_first("Via", f"SIP/2.0/UDP {self.peer.address};branch={branch}"))

    def ask(self, method: str, *fields: tuple[str, str]) -> int:
        self.dialog, request = self.dialog.request(method, ("Contact", f"<sip:{self.peer.address}>"), *fields)
        self.say(request)
        return self.peer.last().status

    def hear_bye(self) -> Request:
        bye = self.peer.requests("BYE")[-1]
        self.peer.say(bye.respond(200))
        return bye


def test_phones_that_know_no_session_timers_are_asked_half_way_whether_they_are_there() -> None:
    world = World()
    caller, _ = world.up()
    world.run(899)
    assert world.requests("UPDATE") == []
    world.run(1)
    assert len(world.requests("UPDATE", to="1002")) == 1
    world.run(1850)
    for name in ("1001", "1002"):
        updates = world.requests("UPDATE", to=name)
        assert len(updates) == 3
        assert all((u.body, u.get("Session-Expires")) == (b"", "1800;refresher=uac") for u in updates)
    assert len(world.responses("UPDATE")) == 6
    world.hang_up("1001", caller)
    (cdr,) = world.is_clean()
    assert (cdr.result, cdr.ended_by) == (Result.ANSWERED, Party.CALLER)


def test_a_phone_that_has_lost_its_power_is_found_out_and_the_other_is_hung_up() -> None:
    for dead, alive, side in (("1001", "1002", "caller"), ("1002", "1001", "callee")):
        world = World()
        world.up()
        world.run(100)
        del world.phones[dead], world.addresses[dead]
        world.run(835)
        assert world.of(alive, Ended)
        (bye,) = world.requests("BYE", to=alive)
        assert bye.get("Reason") == f'SIP;cause=408;text="Session not refreshed by the {side}"'
        (cdr,) = world.is_clean(strict=False)
        assert (cdr.result, cdr.status, cdr.ended_by) == (Result.ANSWERED, 200, Party.SYSTEM)
        assert cdr.reason == f"Session not refreshed by the {side}"
        assert 930 < cdr.ended_at_utc - (cdr.answered_at_utc or 0) < 935


def test_a_phone_without_update_is_refreshed_by_an_invite_with_the_description_that_it_has() -> None:
    world = World()
    old = world.peer("10.9.0.1")
    world.register("1002", 0)
    old.ask("REGISTER", "1002", ("Contact", "<sip:1002@10.9.0.1>"))
    caller = world.call("1001", "1002", run_s=0.2)
    fields = (("Contact", "<sip:1002@10.9.0.1>"), ("Content-Type", "application/sdp"))
    old.say(old.requests("INVITE")[0].respond(200, *fields, to_tag="old", body=SDP.encode()))
    world.run(905)
    first, refresh = old.requests("INVITE")[0], old.requests("INVITE")[-1]
    assert refresh.cseq.number > first.cseq.number
    assert refresh.body == first.body
    before = world.media
    moved = SDP.replace("4000", "4444").replace("o=- 1 1", "o=- 1 2")
    old.say(refresh.respond(200, *fields, body=moved.encode()))
    assert old.requests("ACK")[-1].cseq.number == refresh.cseq.number
    (session,) = before.values()
    b = session.streams[0].b
    assert b is not None
    assert b.remote == Address("10.9.0.1", 4444)
    world.run(700)
    world.hang_up("1001", caller, run_s=0.1)
    old.say(old.requests("BYE")[0].respond(200))
    world.is_clean()


def test_a_phone_that_wants_to_refresh_by_itself_keeps_its_call_for_as_long_as_it_does() -> None:
    world = World()
    caller = TimedCaller(world, ("Session-Expires", "90;refresher=uac"))
    assert caller.answer.get("Session-Expires") == "90;refresher=uac"
    assert caller.answer.get("Require") == "timer"
    for _ in range(3):
        world.run(50)
        assert caller.ask("UPDATE", KNOWS, ("Session-Expires", "90;refresher=uac")) == 200
        assert caller.answer.get("Session-Expires") == "90;refresher=uac"
    assert caller.peer.requests("UPDATE") == []
    world.run(59)
    assert caller.peer.requests("BYE") == []
    world.run(2)
    assert 'text="Session not refreshed by the caller"' in (caller.hear_bye().get("Reason") or "")
    (cdr,) = world.is_clean()
    assert (cdr.result, cdr.ended_by) == (Result.ANSWERED, Party.SYSTEM)


def test_a_phone_that_leaves_it_to_us_is_refreshed_at_the_interval_that_it_wants() -> None:
    world = World()
    caller = TimedCaller(world, ("Session-Expires", "120"), ("Allow", "INVITE, ACK, BYE, CANCEL, UPDATE"))
    assert (caller.answer.get("Session-Expires"), caller.answer.get("Require")) == ("120;refresher=uas", None)
    world.run(61)
    update = caller.peer.requests("UPDATE")[-1]
    assert update.get("Session-Expires") == "120;refresher=uac"
    caller.peer.say(update.respond(200, ("Require", "timer"), ("Session-Expires", "120;refresher=uas")))
    world.run(80)
    assert caller.peer.requests("UPDATE")[-1] == update
    world.run(20)
    caller.hear_bye()
    (cdr,) = world.is_clean()
    assert cdr.reason == "Session not refreshed by the caller"


def test_an_interval_that_is_too_short_is_refused_and_costs_no_call() -> None:
    world = World()
    caller = TimedCaller(world, ("Session-Expires", "60"))
    assert (caller.status, caller.answer.get("Min-SE")) == (422, "90")
    world.is_clean(cdrs=0)


def test_a_change_with_an_interval_that_is_too_short_is_refused_and_the_call_goes_on() -> None:
    world = World()
    caller = TimedCaller(world)
    assert caller.ask("UPDATE", KNOWS, ("Session-Expires", "60")) == 422
    assert caller.peer.last().get("Min-SE") == "90"
    assert caller.ask("UPDATE", KNOWS, ("Session-Expires", "what")) == 400
    assert caller.ask("BYE") == 200
    world.is_clean()


def test_a_callee_that_finds_our_interval_too_short_is_called_again_with_its_own() -> None:
    world = World()
    slow = _callee(world)
    caller = world.call("1001", "1002", run_s=0.2)
    first = slow.requests("INVITE")[0]
    slow.say(first.respond(422, ("Min-SE", "3600"), to_tag="no"))
    second = slow.requests("INVITE")[1]
    assert (second.get("Session-Expires"), second.get("Min-SE")) == ("3600;refresher=uac", "3600")
    assert (second.call_id, second.cseq.number) == (first.call_id, first.cseq.number + 1)
    _answer(slow, second, ("Session-Expires", "3600;refresher=uac"))
    world.run(1801)
    assert slow.requests("UPDATE")[0].get("Session-Expires") == "3600;refresher=uac"
    slow.say(slow.requests("UPDATE")[0].respond(200))
    world.hang_up("1001", caller, run_s=0.1)
    slow.say(slow.requests("BYE")[0].respond(200))
    world.is_clean()


def test_a_callee_that_is_never_content_with_the_interval_is_not_called_for_ever() -> None:
    world = World()
    slow = _callee(world)
    world.call("1001", "1002", run_s=0.2)
    for at in range(2):
        slow.say(slow.requests("INVITE")[at].respond(422, ("Min-SE", str(3600 + at)), to_tag="no"))
    assert len(slow.requests("INVITE")) == 2
    assert world.ended("1001") == [422]
    world.is_clean()


def test_a_refresh_that_falls_due_while_no_process_runs_is_made_by_the_next() -> None:
    world = World()
    caller, _ = world.up()
    world.run(100)
    due = world.switch.deadline or 0.0
    world.at(due - DOWN_S / 2, world.restart)
    world.run(810)
    said = [at for at, source, _, m in world.log if source == world.server and m.start_line.startswith("UPDATE")]
    assert len(said) == 2
    assert all(due + DOWN_S / 2 <= at < due + DOWN_S for at in said)
    world.restart()
    world.run(880)
    assert len(world.requests("UPDATE")) == 2
    world.run(40)
    assert len(world.requests("UPDATE")) == 4
    world.hang_up("1001", caller)
    world.is_clean()


def test_a_phone_that_died_with_the_process_is_found_out_by_the_next() -> None:
    world = World()
    world.up()
    world.run(100)
    del world.phones["1002"], world.addresses["1002"]
    world.run(810)
    assert world.requests("UPDATE")[-1].uri.user == "1002"
    world.restart()
    world.run(40)
    assert world.of("1001", Ended)
    (cdr,) = world.is_clean(strict=False)
    assert cdr.reason == "Session not refreshed by the callee"


def test_a_phone_that_changes_its_call_during_a_refresh_is_asked_to_come_again() -> None:
    world = World()
    mute = _callee(world)
    caller = world.call("1001", "1002", run_s=0.2)
    _answer(mute, mute.requests("INVITE")[0])
    world.run(905)
    update = mute.requests("UPDATE")[0]
    world.do("1001", world.phones["1001"].hold(world.now, caller))
    world.run(0.2)
    assert [r.status for r in world.responses("INVITE", to="1001")][-1] == 491
    mute.say(update.respond(200))
    world.run(5)
    held = mute.requests("INVITE")[-1]
    assert b"a=sendonly" in held.body
    _answer(mute, held, version=2)
    world.hang_up("1001", caller, run_s=0.1)
    mute.say(mute.requests("BYE")[0].respond(200))
    world.is_clean()


def test_the_intervals_of_the_configuration_are_those_that_are_asked_for() -> None:
    world = World(settings=replace(make_settings(), session=Wish(600, 300)))
    caller, _ = world.up()
    world.run(301)
    update = world.requests("UPDATE")[0]
    assert (update.get("Session-Expires"), update.get("Min-SE")) == ("600;refresher=uac", "300")
    world.hang_up("1001", caller)
    world.is_clean()


def _callee(world: World) -> Peer:
    """A phone of 1002 whose words the test writes."""
    peer = world.peer("10.9.0.1")
    world.register("1002", 0)
    peer.ask("REGISTER", "1002", ("Contact", "<sip:1002@10.9.0.1>"))
    return peer


def _answer(peer: Peer, invite: Request, *fields: tuple[str, str], version: int = 1) -> None:
    about = (("Contact", "<sip:1002@10.9.0.1>"), ("Allow", "INVITE, ACK, BYE, UPDATE"))
    body = SDP.replace("o=- 1 1", f"o=- 1 {version}").encode()
    peer.say(invite.respond(200, *about, *fields, ("Content-Type", "application/sdp"), to_tag="here", body=body))
