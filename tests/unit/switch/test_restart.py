"""The process dies at any moment, and another one goes on from the store: what was promised is kept.

Each story is told once to count its outcomes. Then it is told again for each of them, with a process that dies there:
once after its records were written and before anything was sent, once after both.
"""

import re
from collections.abc import Callable
from itertools import count

import msgspec
import pytest
from msgspec.structs import replace
from tests.unit.switch.world import Crash, Message, World

from warden.call.cdr import Result
from warden.core.address import Flow
from warden.media.protocol import Played
from warden.phone.events import Answered, Ended, Incoming, Ringing, Talking, Updated
from warden.phone.line import Habits
from warden.sdp.sdes import Policy
from warden.sip.message import Request
from warden.store.ports import Kind
from warden.switch.live import SNAPSHOTS, SipLeg
from warden.switch.restart import CSEQ_STEP
from warden.switch.switch import Outcome, Switch

Story = Callable[[World], None]


def hang_up_all(world: World, who: str) -> None:
    for tag in list(world.phones[who].calls):
        world.hang_up(who, tag)


def answered_and_hung_up(world: World, hanger: str = "1001") -> None:
    world.rings_then_answers("1002", ring_s=0.3, answer_s=2.0)
    world.call("1001", "1002")
    world.after(8.0, lambda: hang_up_all(world, hanger))
    world.run(12)


def hung_up_by_the_callee(world: World) -> None:
    answered_and_hung_up(world, "1002")


def late_offer(world: World) -> None:
    world.rings_then_answers("1002", ring_s=0.3, answer_s=2.0)
    world.call("1001", "1002", late=True)
    world.after(8.0, lambda: hang_up_all(world, "1001"))
    world.run(12)


def changed(world: World) -> None:
    world.rings_then_answers("1002", ring_s=0.2, answer_s=0.6)
    tag = world.call("1001", "1002")
    phone, other = world.phones["1001"], world.phones["1002"]
    world.after(4.0, lambda: world.do("1001", phone.hold(world.now, tag)))
    world.after(8.0, lambda: world.do("1001", phone.resume(world.now, tag)))
    world.after(12.0, lambda: world.do("1002", other.reinvite(world.now, world.incoming("1002"), late=True)))
    world.after(16.0, lambda: world.do("1002", other.update(world.now, world.incoming("1002"))))
    world.after(20.0, lambda: hang_up_all(world, "1002"))
    world.run(24)
    assert len(world.of("1001", Updated)) == len(world.of("1002", Updated)) == 4


def cancelled(world: World) -> None:
    world.on_incoming["1002"] = lambda e: world.do("1002", world.phones["1002"].ring(world.now, e.call))
    world.call("1001", "1002")
    world.after(3.0, lambda: hang_up_all(world, "1001"))
    world.run(8)


def busy(world: World) -> None:
    world.refuses("1002", 486, ring=True, after_s=1.0)
    world.call("1001", "1002")
    world.run(5)


def nowhere(world: World) -> None:
    world.call("1001", "7777")
    world.run(5)


def raced(world: World) -> None:
    world.rings_then_answers("1002", ring_s=0.2, answer_s=2.0)
    world.rings_then_answers("1001", ring_s=0.2, answer_s=2.0)
    world.add("1002", name="mobile")
    world.register("mobile")
    world.rings_then_answers("mobile", ring_s=0.2, answer_s=2.005)
    world.call("1001", "1002")
    world.after(8.0, lambda: hang_up_all(world, "1001"))
    world.run(12)


def clock(world: World) -> None:
    world.call("1001", "*60")

    def said_all() -> None:
        for session in list(world.media.values()):
            if session.playing is not None:
                world.hear(Played(session.id, session.playing.id))

    world.after(6.0, said_all)
    world.run(10)


def secured(world: World) -> None:
    """The caller speaks SRTP and the callee does not."""
    world.srtp["1001"] = Policy.REQUIRED
    changed(world)
    assert all(talking.srtp is not None for talking in world.of("1001", Talking))


STORIES: dict[Story, tuple[Result, int]] = {
    answered_and_hung_up: (Result.ANSWERED, 200),
    hung_up_by_the_callee: (Result.ANSWERED, 200),
    late_offer: (Result.ANSWERED, 200),
    changed: (Result.ANSWERED, 200),
    cancelled: (Result.CANCELLED, 487),
    busy: (Result.BUSY, 486),
    nowhere: (Result.FAILED, 404),
    raced: (Result.ANSWERED, 200),
    clock: (Result.ANSWERED, 200),
    secured: (Result.ANSWERED, 200),
}


def outcomes_of(story: Story) -> range:
    world = World()
    began = world.outcomes
    story(world)
    return range(began + 1, world.outcomes + 1)


@pytest.mark.parametrize("speaks", [False, True], ids=["before it speaks", "after it spoke"])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_process_that_dies_at_any_moment_is_not_noticed(story: Story, speaks: bool) -> None:
    result, status = STORIES[story]
    for at in outcomes_of(story):
        world = World(crash=Crash(at, speaks))
        story(world)
        assert world.crash is None, "the process died"
        where = f"outcome {at} of {story.__name__}"
        # What the phones may see of it are repetitions, which they know.
        (cdr,) = world.is_clean()
        assert (cdr.result, cdr.status) == (result, status), where
        assert len(world.of("1001", Ended)) == 1, where
        assert world.ended("1001") == [status], where
        assert len(world.of("1002", Ended)) == len(world.of("1002", Incoming)) <= 1, where
        if result is Result.ANSWERED:
            assert len(world.of("1001", Answered)) == 1, where


@pytest.mark.parametrize("hanger", ["1001", "1002"])
@pytest.mark.parametrize("who", ["1001", "1002"])
def test_after_a_restart_both_sides_can_hold_and_hang_up(who: str, hanger: str) -> None:
    world = World()
    caller, callee = world.up()
    tags = {"1001": caller, "1002": callee}
    media = dict(world.media)
    world.restart()
    world.run(5)
    assert world.media == media
    world.do(who, world.phones[who].hold(world.now, tags[who]))
    world.run(1)
    assert len(world.of("1001", Updated)) == len(world.of("1002", Updated)) == 1
    world.hang_up(hanger, tags[hanger])
    (cdr,) = world.is_clean()
    assert cdr.talk_s == pytest.approx(7, abs=0.5)


def test_a_call_that_rings_is_answered_or_given_up_after_the_restart_and_its_deadline_holds() -> None:
    world = World()
    world.on_incoming["1002"] = lambda e: world.do("1002", world.phones["1002"].ring(world.now, e.call))
    world.call("1001", "1002", run_s=20)
    world.restart()
    world.run(world.settings.no_answer_s - 20 + 1)
    assert world.ended("1001") == [480]
    (cdr,) = world.is_clean()
    assert cdr.result is Result.NO_ANSWER


def test_a_change_that_is_pending_across_a_restart_is_still_answered() -> None:
    world = World()
    caller, callee = world.up()
    world.phones["1002"].habits = Habits(answers_updates=False)
    world.do("1001", world.phones["1001"].hold(world.now, caller))
    world.run(1)
    world.restart()
    world.run(1)
    world.do("1002", world.phones["1002"].answer_update(world.now, callee))
    world.run(1)
    assert len(world.of("1001", Updated)) == 1
    world.hang_up("1002", callee)
    world.is_clean()


def test_a_look_up_that_was_under_way_is_asked_again() -> None:
    world = World()
    world.register("1002", 0)
    peer = world.peer("10.9.0.5")
    peer.ask("REGISTER", "1002", ("Contact", "<sip:1002@phone.example>"))
    world.names["phone.example"] = peer.address
    world.lookup_s = 1.0
    world.call("1001", "1002", run_s=0.1)
    world.restart()
    world.run(2)
    peer.say(peer.requests("INVITE")[0].respond(486, to_tag="x"))
    world.is_clean()
    assert world.ended("1001") == [486]


def test_restarts_again_and_again_lose_nothing() -> None:
    world = World()
    world.rings_then_answers("1002", answer_s=2.0)
    caller = world.call("1001", "1002")
    for _ in range(10):
        world.run(0.7)
        world.restart()
    world.run(3)
    assert len(world.of("1001", Answered)) == 1
    world.hang_up("1001", caller)
    world.is_clean()


def test_what_was_asked_of_a_phone_without_a_record_is_never_asked_under_the_same_number_again() -> None:
    world = World()
    caller, _ = world.up()
    old = dict(world.records[Kind.CALL])
    # The store fails over without its last writes: the phone has heard of a hold that no record tells of.
    world.do("1001", world.phones["1001"].hold(world.now, caller))
    world.run(1)
    heard = [m.cseq.number for _, _, to, m in world.log if isinstance(m, Request) and to != world.server]
    world.records[Kind.CALL] = old
    world.restart()
    world.hang_up("1001", caller, run_s=2)
    (bye,) = [m for _, _, to, m in world.log if isinstance(m, Request) and m.method == "BYE" and to != world.server]
    assert bye.cseq.number > max(heard)


# A twin that was restored from the record goes on in the same words.


class Twins(World):
    """Before each message the switch gets a twin, restored from the store, that hears the same message."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Message, Outcome, Outcome]] = []
        super().__init__()

    def received(self, flow: Flow, message: Message, switch: Switch) -> Outcome:
        twin = self.make_switch()
        twin.restore(self.now, dict(self.records[Kind.BINDING]), dict(self.records[Kind.CALL]))
        # Both draw the same tokens from here on.
        self.token_serial = count(10_000 * (len(self.pairs) + 1))
        his = twin.received(self.now, flow, message)
        self.token_serial = count(10_000 * (len(self.pairs) + 1))
        ours = switch.received(self.now, flow, message)
        self.pairs.append((message, ours, his))
        return ours


def in_step(data: bytes) -> bytes:
    """The message with its CSeq as if no process had taken a step."""
    return re.sub(rb"(?<=CSeq: )\d+", lambda found: b"%d" % (int(found[0]) % CSEQ_STEP), data)


def legs_in_step(legs: tuple[SipLeg, ...]) -> list[SipLeg]:
    """The legs, likewise."""
    found = []
    for leg in legs:
        dialog = leg.dialog and replace(leg.dialog, local_seq=leg.dialog.local_seq % CSEQ_STEP)
        found.append(replace(leg, dialog=dialog, update_out_cseq=leg.update_out_cseq % CSEQ_STEP))
    return found


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_restored_switch_says_the_same_as_the_one_that_died(story: Story) -> None:
    compared = 0
    world = Twins()
    story(world)
    for message, ours, his in world.pairs:
        if isinstance(message, Request) and message.method == "REGISTER":
            continue  # No two challenges have the same nonce.
        said = [(s.flow.remote, in_step(s.data)) for s in ours.sends]
        assert [(s.flow.remote, in_step(s.data)) for s in his.sends] == said, message
        # The original may know that a refusal was acknowledged, and delete a record that the twin keeps for a while.
        assert [(w.kind, w.key) for w in his.writes] == [(w.kind, w.key) for w in ours.writes], message
        for mine, theirs in zip(ours.writes, his.writes, strict=True):
            if mine.kind is Kind.CALL and mine.value is not None and theirs.value is not None:
                a, b = SNAPSHOTS.decode(mine.value)[0], SNAPSHOTS.decode(theirs.value)[0]
                assert a.call == b.call
                assert legs_in_step(a.legs) == legs_in_step(b.legs)
                assert a.srtp == b.srtp
            elif mine.kind is Kind.OUTBOX:
                assert mine.value is not None
                assert theirs.value is not None
                assert msgspec.msgpack.decode(mine.value) == msgspec.msgpack.decode(theirs.value)
        compared += isinstance(message, Request) or bool(said)
    assert compared > 1


@pytest.mark.parametrize("seed", range(80))
def test_on_a_lossy_wire_with_restarts_every_call_still_ends_with_one_record(seed: int) -> None:
    world = World(seed=seed)
    world.loss = 0.1
    world.rings_then_answers("1002")
    caller = world.call("1001", "1002", late=seed % 4 == 3)
    phone = world.phones["1001"]
    for _ in range(3):
        world.after(world.random.random() * 40, world.restart)
    world.after(world.random.random() * 20, lambda: world.do("1001", phone.hold(world.now, caller)))
    world.run(10 + world.random.random() * 30)
    world.hang_up("1001", caller, run_s=150)
    hang_up_all(world, "1002")
    world.run(100)
    world.loss = 0.0
    world.is_clean(cdrs=len(world.call_ids), strict=False)
    assert len(world.call_ids) == 1
    assert len(world.ended("1001")) == 1
    assert len(world.ended("1002")) == len(world.of("1002", Incoming))


def rings_until_it_is_given_up(world: World) -> None:
    world.on_incoming["1002"] = lambda e: world.do("1002", world.phones["1002"].ring(world.now, e.call))
    world.call("1001", "1002", run_s=10)
    hang_up_all(world, "1001")


def test_what_nobody_repeats_by_himself_is_said_by_the_successor() -> None:
    for at in outcomes_of(rings_until_it_is_given_up):
        world = World(crash=Crash(at, speaks=False))
        rings_until_it_is_given_up(world)
        # A 180 is sent once only; the caller would hear nothing for as long as it rings.
        assert [event.status for event in world.of("1001", Ringing)] in ([180], [180, 180])
        world.is_clean()
