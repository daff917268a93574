"""The way of a call, step by step: who rings when, and what the caller hears when nobody takes it."""

from collections.abc import Sequence

import pytest
from tests.unit.call.test_engine import ANSWER, OFFER, new_call

from warden.call import events as e
from warden.call.apps.echo import Echo
from warden.call.cdr import Cdr, Party, Result
from warden.call.engine import step
from warden.call.model import CALLER, LEGS_MAX, Call, Cause, LegPhase
from warden.call.setup import start_call
from warden.call.way import Extension, Lead, Ring, Step, Take, Why

NOW = 1000.0


class Story:
    """A call whose phones are found as the story says; `done` is everything that it asked for."""

    def __init__(self, *way: Step, sdp: str = OFFER, phones: dict[str, int] | None = None) -> None:
        self.now = NOW
        self.phones = phones or {}
        self.leads: dict[str, tuple[Step, ...]] = {}
        self.done: list[e.Effect] = []
        self.call: Call = new_call()
        self._follow(*start_call(self.call, NOW, way, sdp))

    def _follow(self, call: Call, effects: Sequence[e.Effect]) -> None:
        self.call = call
        for effect in effects:
            self.done.append(effect)
            if isinstance(effect, e.Hunt):
                if isinstance(effect.step, Ring):
                    numbers = [t.number for t in effect.step.targets for _ in range(self.phones.get(t.number, 1))]
                    self._follow(*step(self.call, self.now, e.Found(tuple(numbers))))
                else:
                    way = self.leads.get(effect.step.to, ())
                    self._follow(*step(self.call, self.now, e.Led(way, (effect.step.to,))))

    def hear(self, event: e.Event, after_s: float = 0.0) -> None:
        self.now += after_s
        self._follow(*step(self.call, self.now, event))

    def ringing(self) -> list[str]:
        return [leg.number for leg in self.call.callees if leg.phase in (LegPhase.DIALLING, LegPhase.RINGING)]

    def leg(self, number: str) -> str:
        return next(leg.id for leg in reversed(self.call.callees) if leg.number == number)

    def refuse(self, number: str, status: int) -> None:
        self.hear(e.Failed(self.leg(number), Cause(status)))

    @property
    def cdr(self) -> Cdr:
        (finished,) = (x for x in self.done if isinstance(x, e.Finished))
        return finished.cdr


def ring(*numbers: str, s: float = 20.0, when: tuple[Why, ...] = (), also: bool = False, early: bool = False) -> Ring:
    return Ring(tuple(map(Extension, numbers)), s, when, also=also, early=early)


def test_who_does_not_answer_is_left_for_the_next_and_the_first_to_answer_has_the_call() -> None:
    story = Story(ring("1002"), ring("1003"))
    story.hear(e.Ringing("b0", 180))
    assert story.call.deadline == NOW + 20
    story.hear(e.Due(), 20)
    assert story.ringing() == ["1003"]
    assert e.Cancel("b0", Cause(480, "No answer")) in story.done
    story.hear(e.Failed("b0", Cause(487)))
    story.hear(e.Answered("b1", ANSWER), 5)
    story.hear(e.Confirmed(CALLER))
    story.hear(e.HungUp(CALLER), 10)
    assert (story.cdr.result, story.cdr.callee, story.cdr.answered_by) == (Result.ANSWERED, "1002", "1003")
    assert story.call.way == ()


@pytest.mark.parametrize(
    ("status", "rang", "goes_to"),
    [
        (486, False, "busy"),
        (600, True, "busy"),
        (603, True, "busy"),
        (480, False, "away"),
        (408, False, "away"),
        (480, True, "unanswered"),
        (404, False, "other"),
        (500, False, "broken"),
    ],
)
def test_a_failure_leads_where_its_kind_says(status: int, rang: bool, goes_to: str) -> None:
    story = Story(
        ring("1002"),
        ring("busy", when=(Why.BUSY,)),
        ring("unanswered", when=(Why.NO_ANSWER,)),
        ring("away", when=(Why.UNREACHABLE,)),
        ring("broken", when=(Why.BROKEN,)),
        ring("other"),
    )
    if rang:
        story.hear(e.Ringing("b0", 180))
    story.refuse("1002", status)
    assert story.ringing() == [goes_to]


def test_without_a_step_for_the_failure_the_caller_hears_of_it() -> None:
    story = Story(ring("1002"), ring("1003", when=(Why.NO_ANSWER,)))
    story.refuse("1002", 486)
    assert (story.cdr.result, story.cdr.status, story.cdr.ended_by) == (Result.BUSY, 486, Party.CALLEE)


def test_the_caller_hears_the_most_telling_of_all_failures() -> None:
    story = Story(ring("1002"), ring("1003"), ring("1004"), phones={"1004": 0})
    story.refuse("1002", 486)
    story.refuse("1003", 404)
    assert (story.cdr.result, story.cdr.status) == (Result.BUSY, 486)


def test_that_nobody_answered_says_more_than_that_nobody_was_there() -> None:
    story = Story(ring("1002"), ring("1003"), ring("1004"), phones={"1002": 0, "1004": 0})
    assert story.ringing() == ["1003"]
    story.hear(e.Due(), 20)
    assert (story.cdr.result, story.cdr.status, story.cdr.reason) == (Result.NO_ANSWER, 480, "No answer")


def test_a_step_that_also_rings_leaves_the_others_ringing() -> None:
    story = Story(ring("1002", s=10), ring("1003", s=15, also=True))
    story.hear(e.Due(), 10)
    assert story.ringing() == ["1002", "1003"]
    assert not [x for x in story.done if isinstance(x, e.Cancel)]
    story.hear(e.Answered("b0", ANSWER))
    assert e.Cancel("b1", Cause(200, "Call completed elsewhere")) in story.done


def test_a_step_that_finds_nobody_to_ring_beside_others_leaves_them_ringing() -> None:
    story = Story(ring("1002", s=10), ring("1003", s=15, also=True), ring("1004"), phones={"1003": 0})
    story.hear(e.Due(), 10)
    assert story.ringing() == ["1002"]
    assert story.call.deadline == NOW + 25
    story.hear(e.Due(), 15)
    assert story.ringing() == ["1004"]


def test_who_declines_declines_for_all_its_phones_and_for_nobody_else() -> None:
    story = Story(ring("1002", "1003"), phones={"1002": 2})
    story.hear(e.Failed("b0", Cause(603)))
    assert story.ringing() == ["1003"]
    story.hear(e.Answered("b2", ANSWER))
    assert story.call.joined == "b2"


def test_a_lead_takes_the_place_of_what_is_left_of_the_way() -> None:
    story = Story(ring("1002"), Lead("1003", "1002", (Why.BUSY,)), ring("1004"))
    story.leads["1003"] = (ring("1003"),)
    story.refuse("1002", 486)
    assert story.ringing() == ["1003"]
    assert story.call.visited == ("1003",)
    story.refuse("1003", 480)
    assert (story.cdr.result, story.cdr.status) == (Result.BUSY, 486)


def test_a_lead_to_nowhere_leaves_the_caller_with_what_it_heard_before() -> None:
    story = Story(ring("1002"), Lead("1003", "1002", (Why.BUSY,)))
    story.refuse("1002", 486)
    assert (story.cdr.status, story.cdr.ended_by) == (486, Party.CALLEE)


def test_an_application_at_the_end_of_the_way_takes_the_call() -> None:
    story = Story(ring("1002"), Take(Echo(), "*43"))
    story.refuse("1002", 486)
    assert [type(x) for x in story.done][-1] is e.Accept
    story.hear(e.Confirmed(CALLER))
    story.hear(e.HungUp(CALLER))
    assert (story.cdr.result, story.cdr.callee, story.cdr.answered_by) == (Result.ANSWERED, "1002", "*43")


def test_early_media_is_passed_only_where_nobody_else_may_answer() -> None:
    story = Story(ring("1002"), ring("1003"))
    story.hear(e.Ringing("b0", 183, ANSWER))
    assert story.call.caller.told == ""
    story.refuse("1002", 486)
    story.hear(e.Ringing("b1", 183, ANSWER))
    assert story.call.caller.told != ""


def test_whose_early_media_was_heard_has_the_call_or_nobody_has() -> None:
    story = Story(ring("1002", early=True), ring("1003"))
    story.hear(e.Ringing("b0", 183, ANSWER))
    assert story.call.caller.told != ""
    story.refuse("1002", 404)
    assert story.cdr.status == 404


def test_a_large_group_in_turn_never_has_more_legs_than_a_call_may() -> None:
    numbers = [str(n) for n in range(60)]
    story = Story(*(ring(number) for number in numbers))
    for number in numbers:
        assert story.ringing() == [number]
        assert len(story.call.legs) <= LEGS_MAX
        story.refuse(number, 480)
    assert [x.leg for x in story.done if isinstance(x, e.Dial)] == [f"b{n}" for n in range(60)]


def test_a_caller_that_gives_up_half_way_ends_what_rings_and_nothing_else_begins() -> None:
    story = Story(ring("1002"), ring("1003"), ring("1004"))
    story.hear(e.Due(), 20)
    story.hear(e.HungUp(CALLER), 1)
    assert story.cdr.result is Result.CANCELLED
    assert [type(x) for x in story.done if isinstance(x, e.Dial)] == [e.Dial] * 2
    assert story.ringing() == []
