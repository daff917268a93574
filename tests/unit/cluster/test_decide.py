"""Who tries for a seat, and when."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from warden.cluster.decide import (
    FOLLOWS_S,
    RANK_DELAY_S,
    START_DELAY_S,
    Acquire,
    Adopt,
    HandOver,
    Held,
    Holder,
    Leave,
    Peer,
    Rules,
    Seat,
    Stop,
    Take,
    View,
    decide,
    find_refusal,
    stop_at,
)

NODES = ("n1", "n2", "n3")
SEAT = Seat("s1", "127.0.1.1", NODES)
FREE = Holder("", 3, since=100.0)


def view(
    node: str = "n1",
    now: float = 100.0,
    held: Mapping[str, Held] | None = None,
    holder: Holder | None = FREE,
    peers: Mapping[str, Peer] | None = None,
    draining: bool = False,
    **more: Any,
) -> View:
    everybody = {name: Peer(name) for name in NODES}
    holders = {} if holder is None else {"s1": holder}
    return View(node, now, (SEAT,), held or {}, holders, everybody if peers is None else peers, draining, **more)


def test_the_first_successor_that_lives_tries_for_a_free_seat_at_once_and_the_others_later() -> None:
    assert decide(view("n1")) == [Acquire("s1")]
    assert decide(view("n2")) == []
    assert decide(view("n2", now=100.0 + RANK_DELAY_S)) == [Acquire("s1")]
    alive = {"n2": Peer("n2"), "n3": Peer("n3")}
    assert decide(view("n2", peers=alive)) == [Acquire("s1")]


def test_nobody_waits_for_the_node_that_did_not_renew_its_lease_though_it_is_a_member_for_a_while() -> None:
    lapsed = replace(FREE, last="n1")
    assert decide(view("n2", holder=lapsed)) == [Acquire("s1")]
    assert decide(view("n3", holder=lapsed)) == []
    assert decide(view("n1", holder=lapsed)) == []
    assert decide(view("n1", now=101.0, holder=lapsed)) == [Acquire("s1")]


def test_a_dead_nodes_seats_go_to_the_nodes_that_carry_fewest() -> None:
    peers = {"n2": Peer("n2", seats=2), "n3": Peer("n3", seats=1)}
    assert decide(view("n2", peers=peers)) == []
    assert decide(view("n3", peers=peers)) == [Acquire("s1")]


def test_nobody_tries_for_a_seat_that_is_held_or_of_which_nothing_is_known() -> None:
    assert decide(view("n1", holder=Holder("n2", 3))) == []
    assert decide(view("n1", holder=None)) == []
    assert decide(view("stranger", now=1e6)) == []


def test_a_seat_that_nobody_ever_held_waits_for_the_node_whose_it_is() -> None:
    never = Holder("", 0, since=100.0)
    alone = {"n2": Peer("n2")}
    assert decide(view("n2", holder=never, peers=alone)) == []
    assert decide(view("n2", now=100.0 + START_DELAY_S, holder=never, peers=alone)) == [Acquire("s1")]
    assert decide(view("n1", holder=never)) == [Acquire("s1")]


def test_a_seat_that_was_handed_to_us_is_adopted() -> None:
    assert decide(view("n2", holder=Holder("n2", 4))) == [Adopt("s1", 4)]


def test_a_holder_stops_when_its_own_time_is_up_whatever_the_coordinator_said_last() -> None:
    held = {"s1": Held(3, until=100.0, adopted=True)}
    assert decide(view("n1", now=99.9, held=held, holder=Holder("n1", 3))) == []
    assert decide(view("n1", now=100.0, held=held, holder=Holder("n1", 3))) == [Stop("s1")]
    assert decide(view("n1", now=100.0, held=held, holder=None)) == [Stop("s1")]


def test_a_draining_node_hands_its_seats_over_and_takes_none() -> None:
    held = {"s1": Held(3, until=200.0, adopted=True)}
    assert decide(view("n1", held=held, holder=Holder("n1", 3), draining=True)) == [HandOver("s1", 3, "n2")]
    assert decide(view("n1", draining=True)) == []
    alone = {"n1": Peer("n1", draining=True)}
    assert decide(view("n1", held=held, holder=Holder("n1", 3), peers=alone, draining=True)) == []


def test_a_seat_is_not_handed_over_before_it_has_been_adopted() -> None:
    held = {"s1": Held(3, until=200.0, adopted=False)}
    assert decide(view("n1", held=held, holder=Holder("n1", 3), draining=True)) == []


@pytest.mark.parametrize(
    ("wish", "expected"),
    [("n3", [HandOver("s1", 3, "n3")]), ("n1", []), ("nobody", []), ("draining", [])],
)
def test_an_operators_wish_is_carried_out_by_the_holder_where_it_can_be(wish: str, expected: list[object]) -> None:
    peers = {"n1": Peer("n1"), "n2": Peer("n2", wishes={"s1": wish}), "n3": Peer("n3")}
    held = {"s1": Held(3, until=200.0, adopted=True)}
    assert decide(view("n1", held=held, holder=Holder("n1", 3), peers=peers)) == expected


@given(ttl_s=st.floats(0.5, 60), sent_at=st.floats(0, 1e6), travel_s=st.floats(0, 10), step_s=st.floats(-1e5, 1e5))
def test_a_holder_stops_before_its_lease_can_end_however_slow_the_answer(
    ttl_s: float, sent_at: float, travel_s: float, step_s: float
) -> None:
    # The coordinator's clock may show anything (step_s); what counts is that its lease began after `sent_at`.
    lease_ends_at = (sent_at + step_s) + travel_s + ttl_s
    assert stop_at(sent_at, ttl_s) + step_s < lease_ends_at


def test_who_gets_a_seat_in_planned_work_is_whom_keepalived_would_choose_where_that_moves_the_addresses() -> None:
    held = {"s1": Held(3, 200.0, adopted=True)}
    peers = {"n1": Peer("n1"), "n2": Peer("n2", seats=2), "n3": Peer("n3")}
    leaves = view("n1", held=held, holder=Holder("n1", 3), peers=peers, draining=True)
    assert decide(leaves) == [HandOver("s1", 3, "n3")]
    moves = replace(leaves, rules=Rules(address_moves=True), arrivals={"s1": 1})
    assert decide(moves) == [HandOver("s1", 3, "n2")]


def test_a_seat_waits_for_its_dead_node_where_the_operator_wants_that() -> None:
    rules = Rules(takes_over=False)
    at = 100.0 + START_DELAY_S + RANK_DELAY_S * 3
    assert decide(view("n2", now=at, peers={"n2": Peer("n2")}, rules=rules)) == []
    assert decide(view("n1", rules=rules)) == [Acquire("s1")]
    never = Holder("", 0, since=100.0)
    assert decide(view("n2", now=at, holder=never, peers={"n2": Peer("n2")}, rules=rules)) == [Acquire("s1")]


HOME_RULES = Rules(home_after_s=30.0)
BACK = {"n1": Peer("n1", steady_since=60.0), "n2": Peer("n2")}
TAKEN = {"s1": Held(4, until=200.0, adopted=True, since=50.0)}
OURS = Holder("n2", 4)


def test_a_node_that_came_back_gets_its_seat_when_it_has_been_steady_for_a_while() -> None:
    before = view("n2", now=89.9, held=TAKEN, holder=OURS, peers=BACK, rules=HOME_RULES)
    assert decide(before) == []
    assert decide(replace(before, now=90.0)) == [HandOver("s1", 4, "n1")]
    assert decide(replace(before, now=90.0, rules=Rules())) == []
    # Also where something else moves the address, which comes behind.
    moving = replace(before, now=90.0, rules=replace(HOME_RULES, address_moves=True), arrivals=HERE)
    assert decide(moving) == [HandOver("s1", 4, "n1")]


def test_a_seat_that_was_taken_because_nobody_had_it_goes_home_too_to_a_node_that_was_a_little_late() -> None:
    # All nodes of a cluster start at once, and whoever is ready first takes every seat.
    first = {"s1": Held(4, until=200.0, adopted=True, since=70.0)}
    late = view("n2", now=99.9, held=first, holder=OURS, peers=BACK, rules=HOME_RULES)
    assert decide(late) == []
    assert decide(replace(late, now=100.0)) == [HandOver("s1", 4, "n1")]


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        (
            "it was there when the operator moved the seat",
            {"held": {"s1": Held(4, 200.0, True, since=70.0, given=True)}},
        ),
        ("it is on its way out", {"peers": {**BACK, "n1": Peer("n1", steady_since=60.0, draining=True)}}),
        ("it got the seat a while ago and lost it again", {"sent_home": {"s1": 80.0}}),
        ("it is gone", {"peers": {"n2": Peer("n2")}}),
    ],
)
def test_a_seat_does_not_go_home_where_that_would_be_wrong(what: str, changed: dict[str, Any]) -> None:
    at_home = view("n2", now=120.0, held=TAKEN, holder=OURS, peers=BACK, rules=HOME_RULES)
    assert decide(at_home) == [HandOver("s1", 4, "n1")]
    assert decide(replace(at_home, **changed)) == [], what


FOLLOW = Rules(address_moves=True)
HERE = {"s1": 1}


def test_a_seat_follows_its_address_at_once_whoever_holds_it() -> None:
    for holder in (Holder("n1", 3), FREE):
        assert decide(view("n2", holder=holder, rules=FOLLOW)) == []
        assert decide(view("n2", holder=holder, rules=FOLLOW, arrivals=HERE)) == [Take("s1", 3, arrival=1)]
    assert decide(view("n2", holder=Holder("n2", 3), rules=FOLLOW, arrivals=HERE)) == [Adopt("s1", 3)]
    assert decide(view("n2", holder=None, rules=FOLLOW, arrivals=HERE)) == []


def test_a_holder_whose_address_has_gone_leaves_the_seat() -> None:
    held = {"s1": Held(3, until=200.0, adopted=True)}
    assert decide(view("n1", held=held, holder=Holder("n1", 3), rules=FOLLOW, arrivals=HERE)) == []
    assert decide(view("n1", held=held, holder=Holder("n1", 3), rules=FOLLOW)) == [Leave("s1", 3)]
    assert decide(view("n1", now=200.0, held=held, holder=None, rules=FOLLOW, arrivals=HERE)) == [Stop("s1")]


def test_an_heir_has_the_calls_before_the_address_comes_and_lets_go_of_them_where_it_does_not() -> None:
    held = {"s1": Held(3, until=200.0, adopted=True)}
    leaving = view("n1", held=held, holder=Holder("n1", 3), draining=True, rules=FOLLOW, arrivals=HERE)
    assert decide(leaving) == [HandOver("s1", 3, "n2")]
    assert decide(view("n2", holder=Holder("n2", 4), rules=FOLLOW)) == [Adopt("s1", 4)]
    waiting = view("n2", held=held, holder=Holder("n2", 3), rules=FOLLOW, awaited={"s1": 102.0})
    assert decide(waiting) == []
    assert decide(replace(waiting, draining=True)) == []
    assert decide(replace(waiting, now=102.0)) == [Leave("s1", 3)]


def test_a_node_that_was_beaten_to_a_seat_takes_it_from_one_that_vrrp_prefers_only_if_the_address_stays() -> None:
    beaten = view("n2", holder=Holder("n1", 4), rules=FOLLOW, arrivals=HERE, beaten={"s1": 100.2})
    assert decide(beaten) == []
    assert decide(replace(beaten, now=100.2)) == [Take("s1", 4, arrival=1)]
    assert decide(replace(beaten, holders={"s1": Holder("n3", 4)})) == [Take("s1", 4, arrival=1)]


def test_two_nodes_that_both_believe_to_have_the_address_do_not_take_the_seat_to_and_fro() -> None:
    taken = view("n1", holder=Holder("n2", 4), rules=FOLLOW, arrivals=HERE, used=HERE)
    assert decide(taken) == []
    assert find_refusal(taken, SEAT) == "n2 has taken it at epoch 4"
    assert decide(replace(taken, arrivals={"s1": 2})) == [Take("s1", 4, arrival=2)]
    assert decide(replace(taken, holders={"s1": Holder("", 4)})) == [Take("s1", 4, arrival=1)]


def test_a_node_that_promised_to_leave_a_seat_alone_does_not_follow_its_address() -> None:
    assert decide(view("n2", rules=FOLLOW, arrivals=HERE, promised={"s1": 100.1})) == []


def test_an_address_may_be_where_its_seat_can_be_held_and_is_wanted() -> None:
    held = {"s1": Held(3, until=200.0, adopted=True)}
    assert find_refusal(view("n1", rules=FOLLOW), SEAT) == ""
    assert find_refusal(view("n1", holder=None, rules=FOLLOW), SEAT) == "the coordinator does not answer"
    assert find_refusal(view("n1", held=held, holder=None, rules=FOLLOW), SEAT) == ""
    assert find_refusal(view("n9", rules=FOLLOW), SEAT) == "this node is none of its successors"
    assert find_refusal(view("n1", held=held, draining=True, rules=FOLLOW), SEAT) == ""
    assert find_refusal(view("n1", draining=True, rules=FOLLOW), SEAT) == "it goes to n2"
    alone = {"n1": Peer("n1", draining=True)}
    assert find_refusal(view("n1", held=held, draining=True, peers=alone, rules=FOLLOW), SEAT) == ""
    assert find_refusal(view("n1", draining=True, peers=alone, rules=FOLLOW), SEAT) == "draining"
    wanted = {"n1": Peer("n1"), "n2": Peer("n2"), "n3": Peer("n3", wishes={"s1": "n2"})}
    assert find_refusal(view("n1", held=held, peers=wanted, rules=FOLLOW), SEAT) == ""
    assert find_refusal(view("n3", peers=wanted, rules=FOLLOW), SEAT) == "it goes to n2"
    assert find_refusal(view("n2", peers=wanted, rules=FOLLOW), SEAT) == ""


def test_an_address_that_follows_its_seat_is_left_alone_by_all_others_until_it_has_had_time_to_come() -> None:
    given = view("n3", holder=Holder("n2", 4, since=100.0), rules=FOLLOW)
    assert find_refusal(given, SEAT) == "it goes to n2"
    assert find_refusal(replace(given, now=100.0 + FOLLOWS_S), SEAT) == ""
    assert find_refusal(replace(given, node="n2"), SEAT) == ""
    # It is here already, or nobody is there to whom it could go.
    assert find_refusal(replace(given, arrivals=HERE), SEAT) == ""
    assert find_refusal(replace(given, peers={"n1": Peer("n1"), "n3": Peer("n3")}), SEAT) == ""
    assert find_refusal(replace(given, holders={"s1": Holder("", 4, since=100.0)}), SEAT) == ""


ELSEWHERE = Rules(elsewhere="region west is the primary one")


def test_where_another_region_has_the_seats_none_is_taken_and_those_that_are_here_are_let_go_of() -> None:
    held = {"s1": Held(3, 200.0, adopted=True)}
    assert decide(view("n1", rules=ELSEWHERE)) == []
    assert decide(view("n1", held=held, holder=Holder("n1", 3), rules=ELSEWHERE)) == [Leave("s1", 3)]
    assert decide(view("n1", held=held, holder=None, rules=ELSEWHERE)) == [Leave("s1", 3)]
    half = {"s1": Held(3, 200.0, adopted=False)}
    assert decide(view("n1", held=half, holder=Holder("n1", 3), rules=ELSEWHERE)) == []
    assert decide(view("n1", now=300.0, held=held, holder=Holder("n1", 3), rules=ELSEWHERE)) == [Stop("s1")]


def test_an_address_may_not_come_to_a_region_that_has_no_seats_and_stays_until_the_seat_is_gone() -> None:
    moves = replace(ELSEWHERE, address_moves=True)
    assert find_refusal(view("n1", rules=moves), SEAT) == ELSEWHERE.elsewhere
    held = {"s1": Held(3, 200.0, adopted=True)}
    assert find_refusal(view("n1", held=held, holder=Holder("n1", 3), rules=moves), SEAT) == ""
    assert decide(view("n1", rules=moves, arrivals={"s1": 1})) == []


def test_a_seat_that_is_free_is_left_alone_while_none_may_come() -> None:
    assert decide(view("n1")) == [Acquire("s1")]
    waiting = Rules(waits="the arbiter: no quorum")
    assert decide(view("n1", rules=waiting)) == []
    assert find_refusal(view("n1", rules=waiting), SEAT) == "the arbiter: no quorum"
