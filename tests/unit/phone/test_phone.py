"""Two phones on a small wire in virtual time, without a server between them."""

from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import TypeVar

import pytest

from warden.core.address import Address, Flow, Transport
from warden.phone.call import State
from warden.phone.events import (
    Answered,
    By,
    Confirmed,
    Ended,
    Event,
    Incoming,
    Info,
    Offered,
    Outcome,
    Output,
    Ringing,
    Talking,
    Updated,
    UpdateFailed,
    Violation,
)
from warden.phone.line import Account, Habits
from warden.phone.phone import CALLS_MAX, Phone
from warden.phone.session import Media
from warden.sdp.session import Direction
from warden.sip.endpoint import Send
from warden.sip.message import Request, Response
from warden.sip.parser import parse_message

T = TypeVar("T")
LATENCY_S = 0.01
ANN = Media("10.0.0.1", 4000)
BOB = Media("10.0.0.2", 4000)


class Wire:
    """Phones joined by datagrams; of all a part `loss` is lost, and as many come twice or late, all by the seed."""

    def __init__(self, *, seed: int = 0, loss: float = 0.0) -> None:
        self.now = 1000.0
        self.random = Random(seed)
        self.loss = loss
        self.phones: dict[str, Phone] = {}
        self.told: dict[str, list[Event]] = {}
        self.sent: list[tuple[str, Request | Response]] = []
        self._serial = count()
        self._flying: list[tuple[float, int, Flow, bytes]] = []
        self._at: dict[Address, str] = {}
        for number in ("ann", "bob"):
            self.add(number)

    def add(self, number: str, habits: Habits | None = None) -> Phone:
        here = Address(f"10.0.0.{len(self.phones) + 1}", 5060)
        tokens = count()
        phone = Phone(
            Account(number, "secret", "10.0.0.9"),
            Flow(Transport.UDP, here, Address("10.0.0.9", 5060)),
            lambda: f"{number}{next(tokens)}",
            habits=habits,
        )
        self.phones[number], self.told[number], self._at[here] = phone, [], number
        return phone

    def flow(self, source: str, target: str) -> Flow:
        where = {number: address for address, number in self._at.items()}
        return Flow(Transport.UDP, where[source], where[target])

    def do(self, number: str, outputs: Iterable[Output]) -> None:
        for output in outputs:
            if not isinstance(output, Send):
                self.told[number].append(output)
                continue
            self.sent.append((number, parse_message(output.data)))
            for _ in range(2 if self.random.random() < self.loss else 1):
                if self.random.random() >= self.loss:
                    late = self.random.random() * self.loss
                    heappush(self._flying, (self.now + LATENCY_S + late, next(self._serial), output.flow, output.data))

    def run(self, for_s: float | None = None) -> None:
        """Let everything happen that is due within `for_s` seconds, or until nothing is due any more."""
        until = float("inf") if for_s is None else self.now + for_s
        for _ in range(100_000):
            times = [phone.deadline for phone in self.phones.values()]
            due = [at for at in times if at is not None] + [at for at, *_ in self._flying[:1]]
            if not due or min(due) > until:
                break
            self.now = max(self.now, min(due))
            while self._flying and self._flying[0][0] <= self.now:
                _, _, flow, data = heappop(self._flying)
                number = self._at.get(flow.remote)
                if number is not None:
                    back = Flow(flow.transport, flow.remote, flow.local)
                    self.do(number, self.phones[number].receive(self.now, parse_message(data), back))
            for number, phone in self.phones.items():
                self.do(number, phone.tick(self.now))
        else:
            raise AssertionError("the wire never becomes quiet")
        if for_s is not None:
            self.now = until

    def call(self, *, late: bool = False, sdp: str = "", user: str = "bob") -> str:
        """Ann calls Bob; her handle of the call."""
        flow = self.flow("ann", "bob")
        tag, out = self.phones["ann"].call(self.now, f"sip:{user}@10.0.0.2:5060", ANN, flow=flow, late=late, sdp=sdp)
        self.do("ann", out)
        self.run(0.1)
        return tag

    def incoming(self) -> str:
        """Bob's handle of the latest call to him."""
        return self.of("bob", Incoming)[-1].call

    def up(self, *, late: bool = False) -> tuple[str, str]:
        """An answered call: Ann's handle and Bob's."""
        tag = self.call(late=late)
        self.do("bob", self.phones["bob"].ring(self.now, self.incoming()))
        self.run(1)
        self.do("bob", self.phones["bob"].answer(self.now, self.incoming(), BOB))
        self.run(1)
        return tag, self.incoming()

    def of(self, number: str, kind: type[T]) -> list[T]:
        return [event for event in self.told[number] if isinstance(event, kind)]

    def requests(self, method: str) -> list[Request]:
        return [m for _, m in self.sent if isinstance(m, Request) and m.method == method]

    def statuses(self, method: str) -> list[int]:
        return [m.status for _, m in self.sent if isinstance(m, Response) and m.cseq.method == method]

    def nothing_is_left(self) -> None:
        self.run()
        assert {number: len(phone) for number, phone in self.phones.items()} == dict.fromkeys(self.phones, 0)
        assert all(phone.deadline is None for phone in self.phones.values())

    def nobody_complained(self) -> None:
        assert [event for events in self.told.values() for event in events if isinstance(event, Violation)] == []


def test_a_call_is_answered_and_the_caller_hangs_up() -> None:
    wire = Wire()
    ann, bob = wire.up()
    wire.do("ann", wire.phones["ann"].hang_up(wire.now, ann))
    wire.nothing_is_left()
    kinds = [type(event) for event in wire.told["ann"]]
    assert kinds == [Ringing, Answered, Talking, Ended]
    assert [type(event) for event in wire.told["bob"]] == [Incoming, Talking, Confirmed, Ended]
    assert wire.of("bob", Incoming)[0].number == "ann"
    assert wire.of("ann", Talking) == [Talking(ann, Address("10.0.0.2", 4000), True, True, "PCMU", 0, 101)]
    assert wire.of("bob", Talking) == [Talking(bob, Address("10.0.0.1", 4000), True, True, "PCMU", 0, 101)]
    assert wire.of("ann", Ended) == [Ended(ann, By.US, 200)]
    assert wire.of("bob", Ended) == [Ended(bob, By.PEER, 200)]
    wire.nobody_complained()


def test_the_callee_hangs_up() -> None:
    wire = Wire()
    ann, bob = wire.up()
    wire.do("bob", wire.phones["bob"].hang_up(wire.now, bob))
    wire.nothing_is_left()
    assert wire.of("ann", Ended) == [Ended(ann, By.PEER, 200)]
    assert wire.of("bob", Ended) == [Ended(bob, By.US, 200)]


def test_both_hang_up_at_once_and_each_bye_is_answered() -> None:
    wire = Wire()
    ann, bob = wire.up()
    wire.do("ann", wire.phones["ann"].hang_up(wire.now, ann))
    wire.do("bob", wire.phones["bob"].hang_up(wire.now, bob))
    wire.nothing_is_left()
    assert wire.statuses("BYE") == [200, 200]
    assert len(wire.of("ann", Ended)) == len(wire.of("bob", Ended)) == 1


def test_a_ringing_call_is_cancelled() -> None:
    wire = Wire()
    ann = wire.call()
    wire.do("bob", wire.phones["bob"].ring(wire.now, wire.incoming()))
    wire.run(1)
    wire.do("ann", wire.phones["ann"].hang_up(wire.now, ann))
    wire.nothing_is_left()
    assert wire.of("ann", Ended) == [Ended(ann, By.US, 487)]
    assert wire.of("bob", Ended) == [Ended(wire.incoming(), By.PEER, 487)]
    assert wire.statuses("CANCEL") == [200]


def test_a_cancel_waits_for_the_first_provisional_response() -> None:
    wire = Wire()
    flow = wire.flow("ann", "bob")
    tag, out = wire.phones["ann"].call(wire.now, "sip:bob@10.0.0.2:5060", ANN, flow=flow)
    wire.do("ann", out)
    wire.do("ann", wire.phones["ann"].hang_up(wire.now, tag))
    assert wire.requests("CANCEL") == []
    wire.nothing_is_left()
    assert len(wire.requests("CANCEL")) == 1
    assert wire.of("ann", Ended) == [Ended(tag, By.US, 487)]


def test_an_answer_that_crosses_the_cancel_is_acknowledged_and_hung_up() -> None:
    wire = Wire()
    ann = wire.call()
    wire.do("bob", wire.phones["bob"].ring(wire.now, wire.incoming()))
    wire.run(1)
    wire.do("ann", wire.phones["ann"].hang_up(wire.now, ann))
    wire.do("bob", wire.phones["bob"].answer(wire.now, wire.incoming(), BOB))
    wire.nothing_is_left()
    assert wire.of("bob", Confirmed) != []
    assert wire.of("bob", Ended) == [Ended(wire.incoming(), By.PEER, 200)]
    assert wire.of("ann", Ended) == [Ended(ann, By.US, 200)]
    assert wire.of("ann", Answered) == []


@pytest.mark.parametrize("status", [404, 480, 486, 488, 500, 603])
def test_a_refusal_reaches_the_caller(status: int) -> None:
    wire = Wire()
    ann = wire.call()
    wire.do("bob", wire.phones["bob"].refuse(wire.now, wire.incoming(), status, ("Reason", "Q.850;cause=21")))
    wire.nothing_is_left()
    assert wire.of("ann", Ended) == [Ended(ann, By.PEER, status, "Q.850;cause=21")]
    assert wire.of("bob", Ended) == [Ended(wire.incoming(), By.US, status)]


def test_hanging_up_a_call_that_rings_here_declines_it() -> None:
    wire = Wire()
    ann = wire.call()
    wire.do("bob", wire.phones["bob"].hang_up(wire.now, wire.incoming()))
    wire.nothing_is_left()
    assert wire.of("ann", Ended) == [Ended(ann, By.PEER, 603)]


def test_an_answer_can_be_put_off() -> None:
    wire = Wire()
    wire.call()
    before = wire.now
    wire.do("bob", wire.phones["bob"].answer(wire.now, wire.incoming(), BOB, after_s=2.5))
    assert wire.phones["bob"].deadline == before + 2.5
    wire.run(2.4)
    assert wire.of("ann", Answered) == []
    wire.run(0.2)
    assert wire.of("ann", Answered) != []


def test_early_media_is_settled_once_and_the_answer_repeats_it() -> None:
    wire = Wire()
    wire.call()
    wire.do("bob", wire.phones["bob"].early(wire.now, wire.incoming(), BOB))
    wire.run(1)
    assert wire.of("ann", Ringing)[0].status == 183
    assert wire.of("ann", Talking)[0].remote == Address("10.0.0.2", 4000)
    wire.do("bob", wire.phones["bob"].answer(wire.now, wire.incoming(), BOB))
    wire.run(1)
    assert wire.of("ann", Answered)[0].sdp == wire.of("ann", Ringing)[0].sdp
    assert len(wire.of("ann", Talking)) == 1
    wire.nobody_complained()


def test_without_an_offer_in_the_invite_the_ack_answers_the_one_of_the_200() -> None:
    wire = Wire()
    ann, bob = wire.up(late=True)
    assert wire.of("bob", Incoming)[0].offer == ""
    assert [ack.content_type for ack in wire.requests("ACK")] == ["application/sdp"]
    assert wire.of("ann", Talking)[0].remote == Address("10.0.0.2", 4000)
    assert wire.of("bob", Talking)[0].remote == Address("10.0.0.1", 4000)
    wire.do("bob", wire.phones["bob"].hang_up(wire.now, bob))
    wire.nothing_is_left()
    assert wire.of("ann", Ended) == [Ended(ann, By.PEER, 200)]
    wire.nobody_complained()


def test_hold_stops_one_way_and_resume_brings_it_back() -> None:
    wire = Wire()
    ann, _ = wire.up()
    wire.do("ann", wire.phones["ann"].hold(wire.now, ann))
    wire.run(1)
    mine, theirs = wire.of("ann", Talking)[-1], wire.of("bob", Talking)[-1]
    assert (mine.sends, mine.hears, theirs.sends, theirs.hears) == (True, False, False, True)
    assert "a=recvonly" in wire.of("ann", Updated)[0].answer
    wire.do("ann", wire.phones["ann"].resume(wire.now, ann))
    wire.run(1)
    mine, theirs = wire.of("ann", Talking)[-1], wire.of("bob", Talking)[-1]
    assert (mine.sends, mine.hears, theirs.sends, theirs.hears) == (True, True, True, True)
    wire.nobody_complained()


def test_a_call_held_from_both_sides_is_inactive_until_both_resume() -> None:
    wire = Wire()
    ann, bob = wire.up()
    wire.do("ann", wire.phones["ann"].hold(wire.now, ann))
    wire.run(1)
    wire.do("bob", wire.phones["bob"].hold(wire.now, bob))
    wire.run(1)
    last = wire.of("ann", Talking)[-1]
    assert (last.sends, last.hears) == (False, False)
    wire.do("ann", wire.phones["ann"].resume(wire.now, ann))
    wire.run(1)
    last = wire.of("bob", Talking)[-1]
    assert (last.sends, last.hears) == (True, False)
    wire.do("bob", wire.phones["bob"].resume(wire.now, bob))
    wire.run(1)
    last = wire.of("bob", Talking)[-1]
    assert (last.sends, last.hears) == (True, True)
    wire.nobody_complained()


def test_update_changes_the_session_like_a_reinvite_without_an_ack() -> None:
    wire = Wire()
    ann, _ = wire.up()
    acks = len(wire.requests("ACK"))
    wire.do("ann", wire.phones["ann"].update(wire.now, ann, direction=Direction.SENDONLY))
    wire.run(1)
    assert wire.of("bob", Talking)[-1].sends is False
    assert len(wire.requests("ACK")) == acks


def test_a_reinvite_without_an_offer_is_answered_with_one() -> None:
    wire = Wire()
    ann, bob = wire.up()
    wire.do("bob", wire.phones["bob"].reinvite(wire.now, bob, late=True))
    wire.run(1)
    assert wire.of("ann", Updated)[0].answer == wire.of("bob", Updated)[0].answer
    assert wire.requests("ACK")[-1].content_type == "application/sdp"
    wire.do("ann", wire.phones["ann"].hang_up(wire.now, ann))
    wire.nothing_is_left()
    wire.nobody_complained()


def test_two_reinvites_that_cross_are_both_refused_and_offered_again_after_a_pause() -> None:
    wire = Wire()
    ann, bob = wire.up()
    wire.do("ann", wire.phones["ann"].hold(wire.now, ann))
    wire.do("bob", wire.phones["bob"].hold(wire.now, bob))
    wire.run(0.5)
    assert wire.statuses("INVITE").count(491) == 2
    wire.run(10)
    assert len(wire.of("ann", Updated)) == len(wire.of("bob", Updated)) == 2
    assert wire.of("ann", UpdateFailed) == []
    last = wire.of("ann", Talking)[-1]
    assert (last.sends, last.hears) == (False, False)
    wire.do("ann", wire.phones["ann"].hang_up(wire.now, ann))
    wire.nothing_is_left()
    wire.nobody_complained()


def test_a_phone_offers_nothing_before_its_last_answer_is_acknowledged() -> None:
    wire = Wire()
    ann, bob = wire.up()
    wire.do("ann", wire.phones["ann"].hold(wire.now, ann))
    wire.run(0.015)
    assert len(wire.of("bob", Updated)) == 1
    wire.do("bob", wire.phones["bob"].hold(wire.now, bob))
    assert len(wire.requests("INVITE")) == 2, "the ACK has not come"
    wire.run(1)
    assert len(wire.of("ann", Updated)) == len(wire.of("bob", Updated)) == 2
    wire.do("ann", wire.phones["ann"].hang_up(wire.now, ann))
    wire.nothing_is_left()
    wire.nobody_complained()


def test_a_phone_without_patience_reports_the_glare() -> None:
    wire = Wire()
    ann, bob = wire.up()
    wire.phones["ann"].habits = Habits(retries_glare=False)
    wire.do("ann", wire.phones["ann"].hold(wire.now, ann))
    wire.do("bob", wire.phones["bob"].hold(wire.now, bob))
    wire.run(0.5)
    assert wire.of("ann", UpdateFailed) == [UpdateFailed(ann, 491)]


def test_an_offer_left_to_the_owner_may_be_refused_and_the_call_goes_on_as_it_was() -> None:
    wire = Wire()
    ann, bob = wire.up()
    wire.phones["bob"].habits = Habits(answers_updates=False)
    wire.do("ann", wire.phones["ann"].hold(wire.now, ann))
    wire.run(1)
    assert [offered.method for offered in wire.of("bob", Offered)] == ["INVITE"]
    wire.do("bob", wire.phones["bob"].refuse_update(wire.now, bob, 488))
    wire.run(1)
    assert wire.of("ann", UpdateFailed) == [UpdateFailed(ann, 488)]
    assert wire.of("ann", Talking)[-1].hears
    wire.do("ann", wire.phones["ann"].reinvite(wire.now, ann))
    wire.run(1)
    wire.do("bob", wire.phones["bob"].answer_update(wire.now, bob))
    wire.run(1)
    assert len(wire.of("ann", Updated)) == 1


def test_digits_reach_the_other_side_by_info() -> None:
    wire = Wire()
    ann, _ = wire.up()
    for digit in "1#":
        wire.do("ann", wire.phones["ann"].info(wire.now, ann, digit))
        wire.run(1)
    assert [info.digit for info in wire.of("bob", Info)] == ["1", "#"]
    assert wire.of("ann", Outcome) == [Outcome(ann, "INFO", 200)] * 2


def test_options_tells_what_the_phone_can_do_and_other_methods_are_not_allowed() -> None:
    wire = Wire()
    ann, _ = wire.up()
    wire.do("ann", wire.phones["ann"].ask(wire.now, ann, "OPTIONS"))
    wire.do("ann", wire.phones["ann"].ask(wire.now, ann, "REFER", ("Refer-To", "<sip:carl@10.0.0.3>")))
    wire.run(1)
    assert sorted((o.method, o.status) for o in wire.of("ann", Outcome)) == [("OPTIONS", 200), ("REFER", 405)]
    allowed = [m.tokens("Allow") for _, m in wire.sent if isinstance(m, Response) and m.cseq.method == "OPTIONS"]
    assert {"INVITE", "BYE", "UPDATE"} <= allowed[0]


def test_a_call_to_somebody_else_is_not_found() -> None:
    wire = Wire()
    ann = wire.call(user="carl")
    assert wire.of("ann", Ended) == [Ended(ann, By.PEER, 404)]
    assert wire.of("bob", Incoming) == []


def test_a_phone_with_too_many_calls_is_busy() -> None:
    wire = Wire()
    for _ in range(CALLS_MAX):
        wire.call()
        wire.do("bob", wire.phones["bob"].ring(wire.now, wire.incoming()))
    flow = wire.flow("bob", "ann")
    wire.do("bob", wire.phones["bob"].call(wire.now, "sip:ann@10.0.0.1:5060", BOB, flow=flow)[1])
    wire.run(1)
    assert [ended.status for ended in wire.of("bob", Ended)] == [486]


def test_an_offer_without_a_common_codec_is_refused() -> None:
    wire = Wire()
    sdp = "v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 18\r\n"
    ann = wire.call(sdp=sdp)
    wire.do("bob", wire.phones["bob"].answer(wire.now, wire.incoming(), BOB))
    wire.nothing_is_left()
    assert wire.of("ann", Ended) == [Ended(ann, By.PEER, 488)]


def test_a_2xx_without_any_ack_ends_the_call_with_bye_after_64_t1() -> None:
    wire = Wire()
    wire.phones["ann"].habits = Habits(sends_ack=False)
    ann, bob = wire.up()
    since = wire.now
    wire.nothing_is_left()
    ended = wire.of("bob", Ended)
    assert ended == [Ended(bob, By.NETWORK, 408, "no ACK")]
    assert wire.of("bob", Confirmed) == []
    assert wire.of("ann", Ended)[0].reason == 'SIP;cause=408;text="no ACK"'
    assert wire.requests("BYE")[0].from_.uri.username == "bob"
    assert ann in {event.call for event in wire.of("ann", Ended)}
    assert 30 < wire.now - since < 80


def test_a_hang_up_before_the_ack_waits_for_it() -> None:
    wire = Wire()
    wire.call()
    wire.do("bob", wire.phones["bob"].answer(wire.now, wire.incoming(), BOB))
    wire.do("bob", wire.phones["bob"].hang_up(wire.now, wire.incoming()))
    assert wire.requests("BYE") == []
    wire.nothing_is_left()
    assert wire.of("bob", Ended) == [Ended(wire.incoming(), By.US, 200)]


def test_a_dead_callee_is_a_time_out() -> None:
    wire = Wire()
    wire.phones["bob"].habits = Habits(responds=False)
    ann = wire.call()
    wire.nothing_is_left()
    assert wire.of("ann", Ended) == [Ended(ann, By.NETWORK, 408, "No Answer")]
    assert len(wire.requests("INVITE")) == 7


def test_a_peer_that_died_in_the_call_is_noticed_at_the_next_offer() -> None:
    wire = Wire()
    ann, _ = wire.up()
    wire.phones["bob"].habits = Habits(responds=False)
    wire.do("ann", wire.phones["ann"].hold(wire.now, ann))
    wire.run(100)
    assert wire.of("ann", Ended) == [Ended(ann, By.NETWORK, 408, "No Answer")]
    assert len(wire.phones["ann"]) == 0


def test_an_offer_may_come_again_without_end_but_only_one_at_a_time() -> None:
    wire = Wire()
    ann, _ = wire.up()
    wire.do("ann", wire.phones["ann"].hold(wire.now, ann))
    wire.do("ann", wire.phones["ann"].resume(wire.now, ann))
    assert wire.of("ann", UpdateFailed) == [UpdateFailed(ann, 491)]
    wire.run(1)
    assert len(wire.of("ann", Updated)) == 1


def test_another_forks_answer_is_acknowledged_and_hung_up() -> None:
    wire = Wire()
    ann, _ = wire.up()
    answer = next(m for _, m in wire.sent if isinstance(m, Response) and m.status == 200)
    other = parse_message(bytes(answer).replace(b";tag=bob", b";tag=carl"))
    acks = len(wire.requests("ACK"))
    wire.do("ann", wire.phones["ann"].receive(wire.now, other, wire.flow("ann", "bob")))
    assert len(wire.requests("ACK")) == acks + 1
    assert [bye.to.tag for bye in wire.requests("BYE")] == [other.to.tag]
    wire.do("ann", wire.phones["ann"].receive(wire.now, answer, wire.flow("ann", "bob")))
    assert len(wire.requests("ACK")) == acks + 2
    assert wire.phones["ann"].calls == {ann: State.UP}


def test_what_the_peer_does_wrong_is_told() -> None:
    wire = Wire()
    wire.call()
    wire.do("bob", wire.phones["bob"].early(wire.now, wire.incoming(), BOB))
    wire.run(1)
    # The same phone answers with another port than it announced.
    wire.do("bob", wire.phones["bob"].ring(wire.now, wire.incoming()))
    early = next(m for _, m in wire.sent if isinstance(m, Response) and m.status == 183)
    changed = bytes(early).replace(b"183 Session Progress", b"200 OK").replace(b"audio 4000", b"audio 5000")
    wire.do("ann", wire.phones["ann"].receive(wire.now, parse_message(changed), wire.flow("ann", "bob")))
    assert [violation.what for violation in wire.of("ann", Violation)] == [
        "the answer changed between two responses",
        "sdp: another description under the same o= version",
    ]
    assert wire.of("ann", Talking)[-1].remote == Address("10.0.0.2", 5000)


def test_requests_within_the_call_that_a_lenient_phone_would_take_are_told() -> None:
    wire = Wire()
    ann, _ = wire.up()
    wire.do("ann", wire.phones["ann"].hold(wire.now, ann))
    wire.run(1)
    changed = bytes(wire.requests("INVITE")[-1]).replace(b"branch=", b"branch=z9hG4bKx").replace(b"Max-Forwards", b"X")
    changed = changed.replace(b"INVITE sip:bob@", b"INVITE sip:robert@")
    wire.do("bob", wire.phones["bob"].receive(wire.now, parse_message(changed), wire.flow("bob", "ann")))
    assert [violation.what for violation in wire.of("bob", Violation)] == [
        "CSeq 2 INVITE after 2",
        "INVITE to sip:robert@10.0.0.2:5060, which is not our Contact",
        "INVITE without Max-Forwards",
    ]


def test_a_request_out_of_order_is_refused() -> None:
    wire = Wire()
    ann, _ = wire.up()
    wire.do("ann", wire.phones["ann"].hold(wire.now, ann))
    wire.run(1)
    old = wire.requests("INVITE")[-1]
    stale = parse_message(
        bytes(old).replace(b"CSeq: 2 INVITE", b"CSeq: 0 INVITE").replace(b"branch=", b"branch=z9hG4bKx")
    )
    wire.do("bob", wire.phones["bob"].receive(wire.now, stale, wire.flow("bob", "ann")))
    assert wire.statuses("INVITE")[-1] == 500
    assert len(wire.of("bob", Violation)) == 1


@pytest.mark.parametrize("seed", range(40))
def test_over_a_lossy_link_every_call_ends_on_both_sides_and_nothing_is_left(seed: int) -> None:
    wire = Wire(seed=seed, loss=0.25)
    ann = wire.call(late=seed % 2 == 1)
    wire.run(10)
    calls = wire.of("bob", Incoming)
    if calls:
        wire.do("bob", wire.phones["bob"].ring(wire.now, calls[0].call))
        wire.run(2)
        if seed % 3:
            wire.do("bob", wire.phones["bob"].answer(wire.now, calls[0].call, BOB))
            wire.run(15)
            wire.do("bob", wire.phones["bob"].hold(wire.now, calls[0].call))
            wire.run(15)
    wire.do("ann", wire.phones["ann"].hang_up(wire.now, ann))
    wire.run(200)
    for call in calls:
        wire.do("bob", wire.phones["bob"].hang_up(wire.now, call.call))
    wire.nothing_is_left()
    assert len(wire.of("ann", Ended)) == 1
    assert len(wire.of("bob", Ended)) == len(calls)
