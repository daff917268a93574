"""What a node does about the arbiter, for everything that it may believe and hear."""

from math import inf

import pytest

from warden.cluster.primacy import Seen, Step, find_step
from warden.cluster.regions import YIELD_S, Primary, Regions


@pytest.mark.parametrize(
    ("primary", "seen", "step"),
    [
        # A cluster that was never started before: the first region makes itself known, the other one waits.
        (Primary("west"), Seen(), Step.TAKE),
        (Primary("east"), Seen(), Step.WAIT),
        # Every day.
        (Primary("west", 3), Seen("west", 3), Step.RENEW),
        (Primary("east", 3), Seen("east", 3), Step.WAIT),
        # The lease is over: who had it may have it again, and the other one may succeed it. The arbiter gives it once.
        (Primary("west", 3), Seen("", 3), Step.TAKE),
        (Primary("east", 3), Seen("", 3), Step.SUCCEED),
        # Somebody was made the primary one, and nobody told us.
        (Primary("west", 3), Seen("east", 4), Step.LEARN),
        (Primary("east", 3), Seen("west", 4), Step.LEARN),
        # It may be either, and has gone: only who had it knows what has happened since.
        (Primary("west", 3), Seen("", 4), Step.WAIT),
        (Primary("east", 3), Seen("", 4), Step.WAIT),
        # An operator has vouched for a region without the arbiter, which has not heard of it yet.
        (Primary("west", 4, alone=True), Seen("east", 3), Step.TAKE),
        (Primary("west", 4, alone=True), Seen("", 3), Step.TAKE),
        # Its answer was lost when it gave us that term: from now on it decides again.
        (Primary("west", 4, alone=True), Seen("west", 4), Step.TAKE),
        # We had lost our data, and know fewer terms than it.
        (Primary("west", 4, alone=True), Seen("", 6), Step.TAKE),
        (Primary("east", 4, alone=True), Seen("west", 3), Step.WAIT),
        (Primary("east", 4, alone=True), Seen("", 3), Step.WAIT),
        # It has forgotten everything.
        (Primary("west", 4), Seen(), Step.TAKE),
        (Primary("east", 4), Seen(), Step.WAIT),
    ],
)
def test_what_a_node_of_west_does(primary: Primary, seen: Seen, step: Step) -> None:
    assert find_step("west", primary, seen) is step


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_node_may_hold_seats_only_as_long_as_the_arbiter_lets_it() -> None:
    clock = Clock()
    regions = Regions("west", ("east", "west"), Primary("west", 2), lambda _: None, clock, -inf)
    assert "the arbiter does not let region west have the seats: not asked" in regions.refusal
    regions.permit(118.0, 100.0)
    assert (regions.refusal, regions.waits, regions.permitted_until) == ("", "", 118.0)
    # It keeps what it has, and takes nothing more that it would have to give away soon.
    regions.refuse("no quorum")
    assert (regions.refusal, regions.waits) == ("", "the arbiter: no quorum")
    clock.now = 118.0
    assert regions.refusal == "the arbiter does not let region west have the seats: no quorum"
    # An operator vouches for the region, until it decides again.
    regions.decide(Primary("west", 3, alone=True))
    assert (regions.refusal, regions.waits, regions.permitted_until) == ("", "", inf)
    regions.decide(Primary("west", 4))
    assert "no quorum" in regions.refusal


def test_what_the_arbiter_said_before_a_region_had_made_way_is_good_for_letting_go_and_not_for_going_on() -> None:
    clock = Clock()
    regions = Regions("west", ("east", "west"), Primary("west", 2), lambda _: None, clock, -inf)
    regions.permit(118.0, 100.0)
    regions.make_way("east1")
    # What is said last is still to be written, and another answer may be on its way.
    assert regions.permitted_until == 118.0
    clock.now = 103.0
    regions.permit(121.0, 103.0)
    clock.now = 104.0
    regions.go_on("east1")
    assert "the arbiter does not let region west have the seats" in regions.refusal
    regions.permit(121.5, 103.5)
    assert "the arbiter does not let region west have the seats" in regions.refusal
    regions.permit(122.0, 104.0)
    assert (regions.refusal, regions.permitted_until) == ("", 122.0)
    # Nor where nobody says anything more.
    regions.make_way("east1")
    clock.now += YIELD_S
    assert "the arbiter does not let region west have the seats" in regions.refusal


def test_in_one_term_the_arbiters_word_is_more_than_an_operators_who_did_without_it() -> None:
    told, vouched = Primary("west", 4), Primary("west", 4, alone=True)
    assert told.is_newer(vouched)
    assert not vouched.is_newer(told)
    assert told.is_newer(Primary("east", 4, alone=True))
    assert not Primary("east", 4, alone=True).is_newer(told)
    assert Primary("east", 5, alone=True).is_newer(told)
