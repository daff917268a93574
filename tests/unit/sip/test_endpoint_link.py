"""Two endpoints on a seeded link that loses, copies and reorders, in virtual time: whole calls, CANCEL at every moment,
and processes that are replaced after every single step.
"""

from collections import Counter
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import assert_never

import msgspec
import pytest

from warden.core.address import Address, Flow, Transport
from warden.sip.dialog import Dialog, dialog_as_uac, dialog_as_uas
from warden.sip.endpoint import (
    AckArrived,
    AckMissing,
    Arrived,
    Cancelled,
    Endpoint,
    Output,
    Replied,
    Send,
    TimedOut,
    Transaction,
    Unreachable,
)
from warden.sip.message import Request
from warden.sip.parser import parse_message

CALLER, CALLEE = Address("192.0.2.1", 5060), Address("192.0.2.2", 5060)


class Side:
    """A minimal user of an endpoint: one call, as caller or callee."""

    def __init__(self, name: str, transport: Transport, local: Address, remote: Address) -> None:
        self.name = name
        self.flow = Flow(transport, local, remote)
        numbers = count(1)
        self._new_token = lambda: f"{name}{next(numbers)}"
        self.endpoint = self._make_endpoint()
        self.keys: dict[str, None] = {}
        self.invite: Request | None = None
        self.invite_key = ""
        self.dialog: Dialog | None = None
        self.seen: Counter[str] = Counter()
        self.end = ""

    def _make_endpoint(self) -> Endpoint:
        return Endpoint(self._new_token, {self.flow.transport: self.flow.local})

    def move(self) -> None:
        """Another process takes over with nothing but the snapshots."""
        successor = self._make_endpoint()
        successor.counters = self.endpoint.counters
        for key in self.keys:
            if (transaction := self.endpoint.export(key)) is not None:
                data = msgspec.msgpack.encode(transaction)
                assert successor.restore(0.0, msgspec.msgpack.decode(data, type=Transaction)) == []
                assert successor.export(key) == transaction
        assert len(successor) == len(self.endpoint), "a snapshot of every transaction is the whole endpoint"
        assert successor.deadline == self.endpoint.deadline
        self.endpoint = successor

    def start(self, now: float, request: Request) -> list[Output]:
        key, out = self.endpoint.request(now, request, self.flow)
        self.keys[key] = None
        if request.method == "INVITE":
            self.invite, self.invite_key = request, key
        return out

    def hang_up(self, now: float) -> list[Output]:
        if self.dialog is None or self.end:
            return []
        self.end = "hung up"
        self.dialog, bye = self.dialog.request("BYE")
        return self.start(now, bye)

    def answer(self, now: float, status: int) -> list[Output]:
        assert self.invite is not None
        response = self.invite.respond(status, ("Contact", "<sip:callee@192.0.2.2>"), to_tag="callee")
        return self.endpoint.respond(now, self.invite_key, response)


class World:
    """The link, the clock and both sides. The fate of a packet depends on the seed and on what it is, not on when the
    random numbers were drawn, so that two runs meet the same link.
    """

    def __init__(
        self, seed: int, *, loss: float = 0.0, cancel_at: float | None = None, moving: bool = False, tcp: bool = False
    ) -> None:
        self.seed, self.loss, self.moving = seed, loss, moving
        transport = Transport.TCP if tcp else Transport.UDP
        self.caller = Side("caller", transport, CALLER, CALLEE)
        self.callee = Side("callee", transport, CALLEE, CALLER)
        self.packets: Counter[tuple[str, bytes]] = Counter()
        self.events: list[tuple[float, int, str, object]] = []
        self.serial = count()
        self.log: list[tuple[float, str, str]] = []
        chance = Random(seed)
        self.will_answer = chance.random() < 0.8
        self.later(0.0, "invite", None)
        self.later(chance.uniform(0.5, 20), "pick up", None)
        self.later(chance.uniform(1, 30) if cancel_at is None else 1000.0, "hang up", None)
        if cancel_at is not None:
            self.later(cancel_at, "cancel", None)

    def later(self, at: float, what: str, thing: object) -> None:
        heappush(self.events, (at, next(self.serial), what, thing))

    def run(self) -> None:
        while True:
            sides = (self.caller, self.callee)
            due = [(at, side) for side in sides if (at := side.endpoint.deadline) is not None]
            at = min([moment for moment, _ in due] + [event[0] for event in self.events[:1]], default=None)
            if at is None:
                return
            for moment, side in due:
                if moment == at:
                    self.carry_out(at, side, side.endpoint.tick(at))
            if self.events and self.events[0][0] == at:
                _, _, what, thing = heappop(self.events)
                self.happen(at, what, thing)
            for side in sides if self.moving else ():
                side.move()

    def happen(self, now: float, what: str, thing: object) -> None:
        caller, callee = self.caller, self.callee
        if what == "packet":
            assert isinstance(thing, tuple)
            side, data = thing
            self.carry_out(now, side, side.endpoint.receive(now, parse_message(data), side.flow))
        elif what == "invite":
            fields = (
                ("From", "<sip:caller@x>;tag=caller"),
                ("To", "<sip:callee@x>"),
                ("Call-ID", "call"),
                ("CSeq", "1 INVITE"),
                ("Contact", "<sip:caller@192.0.2.1>"),
            )
            self.carry_out(now, caller, caller.start(now, Request("INVITE", "sip:callee@192.0.2.2", fields)))
        elif what == "cancel":
            self.carry_out(now, caller, caller.endpoint.cancel(now, caller.invite_key, ("Reason", "SIP;cause=487")))
        elif what == "hang up":
            self.carry_out(now, caller, caller.hang_up(now))
        elif callee.invite is None:
            if now < 60:
                self.later(now + 1, "pick up", None)
        elif not callee.end:
            if not self.will_answer:
                callee.end = "refused"
            elif callee.dialog is None:
                callee.dialog = dialog_as_uas(callee.invite, "callee", "<sip:callee@192.0.2.2>", callee.flow)
            self.carry_out(now, callee, callee.answer(now, 200 if self.will_answer else 486))

    def carry_out(self, now: float, side: Side, outputs: list[Output]) -> None:
        for output in outputs:
            self.log.append((now, side.name, repr(output)))
            side.seen[type(output).__name__] += 1
            if isinstance(output, Send):
                self.travel(now, side, output.data)
            else:
                self.carry_out(now, side, self.decide(now, side, output))

    def travel(self, now: float, side: Side, data: bytes) -> None:
        self.packets[side.name, data] += 1
        fate = Random(f"{self.seed} {side.name} {self.packets[side.name, data]} {data!r}")
        other = self.callee if side is self.caller else self.caller
        copies = 0 if fate.random() < self.loss else 2 if fate.random() < self.loss / 2 else 1
        for _ in range(copies):
            self.later(now + fate.uniform(0.001, 0.9 if self.loss else 0.05), "packet", (other, data))

    def decide(self, now: float, side: Side, output: Output) -> list[Output]:
        match output:
            case Arrived(key, request, _):
                side.keys[key] = None
                if request.method == "INVITE":
                    assert side.invite is None, "one INVITE was sent, so one arrives"
                    side.invite, side.invite_key = request, key
                    return side.endpoint.respond(now, key, request.respond(100)) + side.answer(now, 180)
                if side.dialog is not None:
                    side.dialog = side.dialog.received(request)
                side.end = side.end or "was hung up on"
                return side.endpoint.respond(now, key, request.respond(200 if side.dialog else 481, to_tag="x"))
            case AckArrived():
                return side.endpoint.acked(now, side.invite_key)
            case Cancelled(key, request):
                assert request.get("Reason") == "SIP;cause=487"
                side.end = "was cancelled"
                assert side.invite is not None
                return side.endpoint.respond(now, key, side.invite.respond(487, to_tag="callee"))
            case Replied(key, response, _):
                return self.decide_reply(now, side, key, response.status, output)
            case TimedOut(key) | Unreachable(key):
                if key == side.invite_key:
                    side.end = "timed out"
                return []
            case AckMissing():
                return side.hang_up(now)
            case Send():
                return []
            case never:
                assert_never(never)

    def decide_reply(self, now: float, side: Side, key: str, status: int, reply: Replied) -> list[Output]:
        if key != side.invite_key or status < 200:
            return []
        if status >= 300:
            assert not side.end, "a failure is told once, and ends it"
            side.end = f"failed {status}"
            return []
        assert side.invite is not None
        is_first = side.dialog is None
        if side.dialog is None:
            side.dialog = dialog_as_uac(side.invite, reply.response, side.flow)
        out = side.endpoint.send_ack(now, side.dialog.ack(1), side.flow)
        if is_first:
            self.later(now + 40.0, "hang up", None)
        return out

    def assert_nothing_is_left(self) -> None:
        for side in (self.caller, self.callee):
            assert len(side.endpoint) == 0
            assert side.endpoint.deadline is None
            assert side.endpoint.counters.malformed == 0

    def assert_both_know_the_end(self) -> None:
        caller, callee = self.caller, self.callee
        assert caller.end
        if callee.invite is not None:
            assert callee.end
        if caller.dialog is not None:
            assert callee.seen["Cancelled"] == 0 or callee.end != "was cancelled"


@pytest.mark.parametrize("seed", range(40))
def test_a_call_over_a_lossy_link_completes_or_times_out_and_leaves_nothing(seed: int) -> None:
    world = World(seed, loss=0.3)
    world.run()
    world.assert_nothing_is_left()
    world.assert_both_know_the_end()


def test_most_calls_survive_a_link_that_loses_a_third() -> None:
    ends: Counter[str] = Counter()
    for seed in range(60):
        world = World(seed, loss=0.3)
        world.run()
        ends[world.caller.end] += 1
    assert ends["timed out"] <= 3
    assert ends["hung up"] + ends["was hung up on"] >= 40
    assert ends["failed 486"] >= 5


def test_a_call_over_a_good_link_takes_no_retransmission() -> None:
    world = World(3)
    world.run()
    assert world.caller.end == "hung up"
    assert world.callee.end == "was hung up on"
    assert sum(world.packets.values()) == 7
    assert set(world.packets.values()) == {1}
    assert world.callee.seen["Arrived"] == 2
    world.assert_nothing_is_left()


@pytest.mark.parametrize("step", range(40))
@pytest.mark.parametrize("loss", [0.0, 0.25])
def test_a_cancel_at_any_moment_ends_the_call_on_both_sides(step: int, loss: float) -> None:
    # From before the INVITE has arrived until after the call was answered or refused, at the latest at 20 s.
    world = World(step, loss=loss, cancel_at=step * step * 0.013)
    world.run()
    world.assert_nothing_is_left()
    world.assert_both_know_the_end()
    if not loss:
        assert (world.caller.end, world.callee.end) in {
            ("failed 487", "was cancelled"),
            ("failed 486", "refused"),
            ("hung up", "was hung up on"),
        }


def test_cancels_at_many_moments_meet_every_ending() -> None:
    ends = set()
    for step in range(40):
        world = World(step, cancel_at=step * step * 0.013)
        world.run()
        ends.add(world.caller.end)
    assert ends == {"failed 487", "failed 486", "hung up"}


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("seed", range(24))
def test_a_call_whose_processes_are_replaced_after_every_step_goes_exactly_as_without(seed: int, tcp: bool) -> None:
    loss = 0.0 if tcp else 0.3
    cancel_at = None if seed % 2 else seed * 0.4
    still = World(seed, loss=loss, cancel_at=cancel_at, tcp=tcp)
    still.run()
    moving = World(seed, loss=loss, cancel_at=cancel_at, tcp=tcp, moving=True)
    moving.run()
    assert sorted(moving.log) == sorted(still.log)
    assert (moving.caller.end, moving.callee.end) == (still.caller.end, still.callee.end)
    moving.assert_nothing_is_left()


def test_a_connection_does_not_outlive_its_process_but_the_call_does() -> None:
    flow = Flow(Transport.TLS, CALLER, CALLEE, 7)
    numbers = count()
    first = Endpoint(lambda: str(next(numbers)), {})
    fields = (("From", "<sip:a@x>;tag=a"), ("To", "<sip:b@x>"), ("Call-ID", "c"), ("CSeq", "1 INVITE"))
    key, out = first.request(0.0, Request("INVITE", "sip:b@x", fields), flow)
    assert isinstance(out[0], Send)
    invite = parse_message(out[0].data)
    assert isinstance(invite, Request)
    assert invite.via.host == CALLER.host, "a transport without sent-by says the flow's own address"
    snapshot = first.export(key)
    assert snapshot is not None
    second = Endpoint(lambda: str(next(numbers)), {})
    second.restore(5.0, snapshot)
    new_flow = flow._replace(connection=1)
    ack, told = second.receive(6.0, invite.respond(486, to_tag="b"), new_flow)
    assert isinstance(ack, Send)
    assert ack.flow == flow._replace(connection=0), "any connection to that peer"
    assert isinstance(told, Replied)
    assert len(second) == 0


def test_what_fell_due_while_nobody_held_the_seat_is_due_at_once() -> None:
    world = World(1)
    caller = world.caller
    caller.start(0.0, Request("OPTIONS", "sip:x", (("From", "<sip:a@x>;tag=a"), ("To", "<sip:b@x>"), ("Call-ID", "c"))))
    caller.move()
    late = caller.endpoint.tick(3.0)
    assert [type(output) for output in late] == [Send], "missed repetitions are made up for by one"
    caller.move()
    assert [type(output) for output in caller.endpoint.tick(100.0)] == [TimedOut]
    assert len(caller.endpoint) == 0
