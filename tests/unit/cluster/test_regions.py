"""Which region is the primary one: what is learned, kept, and refused."""

from collections.abc import Mapping

import pytest

from warden.cluster.regions import HEARD_S, SCHEMA, WORDS, YIELD_S, Primary, Regions, Word, WordRecord
from warden.core.errors import WardenError


class Knowing:
    """A node of west, with a clock of its own."""

    def __init__(self, primary: Primary | None = None) -> None:
        self.now = 100.0
        self.kept: list[Primary] = []
        self.changes = 0
        self.regions = Regions("west", ("east", "west"), primary or Primary("east"), self.kept.append, lambda: self.now)
        self.regions.on_change = self._changed

    def _changed(self) -> None:
        assert self.kept, "it is kept before anybody acts on it"
        self.changes += 1

    def hear(
        self, node: str, primary: Primary, holders: Mapping[str, str] | None = None, holds: tuple[str, ...] = ()
    ) -> None:
        self.regions.hear(Word(node, "east", primary, holds, holders or {}))


def test_a_higher_term_is_learned_once_and_kept_and_a_lower_one_never() -> None:
    node = Knowing()
    assert node.regions.learn(Primary("west", 3))
    assert not node.regions.learn(Primary("west", 3))
    assert not node.regions.learn(Primary("east", 2))
    assert not node.regions.learn(None)
    assert node.regions.is_primary
    assert (node.kept, node.changes) == ([Primary("west", 3)], 1)


def test_of_two_promotions_of_one_term_the_same_holds_at_both_sides() -> None:
    one, other = Primary("east", 4), Primary("west", 4)
    first, second = Knowing(one), Knowing(other)
    first.regions.learn(other)
    second.regions.learn(one)
    assert first.regions.primary == second.regions.primary == one


def test_what_is_heard_and_cannot_be_kept_holds_all_the_same_and_what_is_decided_must_be_kept() -> None:
    node = Knowing()
    node.kept.append(Primary("east"))

    def fail(_: Primary) -> None:
        raise WardenError("disk is full")

    node.regions._keep = fail
    with pytest.raises(WardenError, match="disk is full"):
        node.regions.decide(Primary("west", 1))
    assert node.regions.primary == Primary("east")
    assert node.regions.learn(Primary("west", 1))
    assert node.regions.is_primary
    assert node.regions.keep_error == "disk is full"
    node.regions._keep = node.kept.append
    assert node.regions.learn(Primary("east", 2))
    assert node.regions.keep_error == ""


def test_why_no_seat_may_be_in_the_standby_region() -> None:
    node = Knowing()
    assert node.regions.refusal == "region east is the primary one"
    node.regions.learn(Primary("west", 1))
    assert node.regions.refusal == ""


def test_a_promotion_needs_the_word_of_every_node_that_holds_a_seat() -> None:
    node = Knowing()
    assert "no node of region east answers" in node.regions.why_not(node.regions.present())
    node.hear("east1", Primary("east"), {"main": "east2"})
    assert node.regions.why_not(node.regions.present()) == "east2 lives in region east and does not answer here"
    node.hear("east2", Primary("east"), {"main": "east2"}, holds=("main",))
    assert node.regions.why_not(node.regions.present()) == ""
    node.now += HEARD_S
    assert "no node of region east answers" in node.regions.why_not(node.regions.present())
    node.regions.learn(Primary("west", 1))
    assert node.regions.why_not(node.regions.present()) == "region west is the primary one already"


def test_also_a_node_that_holds_nothing_must_answer_since_it_would_take_what_the_others_let_go_of() -> None:
    node = Knowing()
    node.regions.hear(Word("east1", "east", Primary("east"), ("main",), {"main": "east1"}, ("east1", "east2")))
    assert node.regions.why_not(node.regions.present()) == "east2 lives in region east and does not answer here"


def test_a_region_that_makes_way_has_no_seats_until_it_goes_on() -> None:
    node = Knowing(Primary("west", 1))
    node.kept.append(Primary("west", 1))
    assert node.regions.refusal == ""
    node.regions.make_way("east1")
    assert node.regions.refusal == "region east is taking the seats"
    assert node.regions.is_primary, "nobody else is, yet"
    node.regions.go_on("east2")
    assert node.regions.refusal == "region east is taking the seats", "what another node was about to do"
    node.regions.go_on("east1")
    assert node.regions.refusal == ""
    assert node.changes == 2


def test_where_nobody_knows_whether_the_other_region_has_the_seats_they_wait_for_its_word_or_an_operators() -> None:
    node = Knowing(Primary("west", 1))
    node.kept.append(Primary("west", 1))
    node.regions.make_way("east1")
    node.hear("east1", Primary("west", 1))
    node.now += YIELD_S
    assert "east1 has not been heard of since; if it is lost" in node.regions.refusal
    assert node.regions.waits_for_word
    node.regions.hear(Word("east2", "east", Primary("west", 1), (), {}, ("east1", "east2")))
    assert node.regions.waits_for_word, "east1 lives, and may be the one who knows"
    node.hear("east1", Primary("west", 1))
    assert (node.regions.refusal, node.regions.waits_for_word) == ("", False)
    # Once it goes on, nobody need be heard for it to go on.
    node.now += HEARD_S
    assert node.regions.refusal == ""
    # A node that has died knows nothing any more.
    node.regions.make_way("east1")
    node.now += YIELD_S
    node.regions.hear(Word("east2", "east", Primary("west", 1), (), {}, ("east2",)))
    assert node.regions.refusal == ""
    # And who did become the primary one says so.
    node.regions.make_way("east1")
    node.now += YIELD_S
    node.hear("east1", Primary("east", 2))
    assert node.regions.refusal == "region east is the primary one"


def test_a_word_outlives_the_wire() -> None:
    word = Word("east1", "east", Primary("east", 2), ("main",), {"main": "east1"}, ("east1", "east2"), "primary")
    assert WORDS.decode(WORDS.encode(WordRecord(SCHEMA, word)))[0].word == word


def test_a_region_that_made_way_and_gets_its_seats_back_has_them_at_once() -> None:
    node = Knowing(Primary("west", 1))
    node.kept.append(Primary("west", 1))
    node.regions.make_way("east1")
    node.regions.learn(Primary("east", 2))
    node.regions.decide(Primary("west", 3))
    assert node.regions.refusal == ""
