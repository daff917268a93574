"""Nodes that differ in what must be the same say so, in one sentence that names the setting."""

import time

import msgspec
import pytest
from msgspec.structs import replace

from warden.cluster.decide import Seat
from warden.cluster.members import (
    TEXT_CHARS_MAX,
    TEXTS_MAX,
    Record,
    disagreements,
    encode_record,
    fingerprint,
    has_wrong_secret,
    is_gone,
    layout_of,
    lonely,
    read_record,
    short,
    strangers,
    yields_to,
)
from warden.store.leases import MEMBER_SIZE_MAX
from warden.store.ports import Member

SEATS = (Seat("s1", "192.0.2.1", ("n1", "n2")), Seat("s2", "192.0.2.2", ("n2", "n1")))
RED, BLUE = (fingerprint(secret, "pbx") for secret in (b"red", b"blue"))


def record(secret: str = RED, *seats: str) -> Record:
    return Record("1", secret=secret, seats=seats, layout=layout_of(SEATS))


@pytest.mark.parametrize(
    ("colours", "seats", "wrong"),
    [
        ({"n1": RED, "n2": RED, "n3": RED}, {}, set()),
        ({"n1": RED, "n2": ""}, {}, set()),
        # Nobody holds anything yet: the more are right, and of as many the first by name.
        ({"n1": BLUE, "n2": RED, "n3": RED}, {}, {"n1"}),
        ({"n1": BLUE, "n2": RED}, {}, {"n2"}),
        # Who carries phones is right, however many come with another secret.
        ({"n1": BLUE, "n2": BLUE, "n3": RED}, {"n3": ("s1", "s2")}, {"n1", "n2"}),
    ],
)
def test_of_two_secrets_one_is_right_and_all_nodes_think_so(
    colours: dict[str, str], seats: dict[str, tuple[str, ...]], wrong: set[str]
) -> None:
    peers = {node: record(colour, *seats.get(node, ())) for node, colour in colours.items()}
    assert {node for node, ours in peers.items() if has_wrong_secret(node, ours, peers)} == wrong
    for node, ours in peers.items():
        told = disagreements(node, ours, peers, {})
        assert ("secret" in told) == (len({c for c in colours.values() if c}) > 1 and colours[node] != "")
        if "secret" in told:
            assert told["secret"].startswith("secret: differs from that of n")


def test_another_list_of_seats_is_told_and_another_order_is_none() -> None:
    ours, peers = record(), {"n1": record(), "n2": replace(record(), layout=layout_of(SEATS[::-1]))}
    assert disagreements("n1", ours, peers, {}) == {}
    other = (SEATS[0], replace(SEATS[1], address="192.0.2.3"))
    told = disagreements("n1", ours, peers | {"n3": replace(record(), layout=layout_of(other))}, {})
    assert told["seats"].startswith("high_availability.seats: differs from that of n3:")


def test_clocks_more_than_a_second_apart_are_told_with_the_direction() -> None:
    peers = {"n1": record(), "n2": record(), "n3": record(), "n4": record()}
    told = disagreements("n1", record(), peers, {"n2": 1.5, "n3": -2.5, "n4": 0.9})
    assert list(told) == ["clock of n2", "clock of n3"]
    assert "n2 is 1.5 s behind ours" in told["clock of n2"]
    assert "n3 is 2.5 s ahead of ours" in told["clock of n3"]


def test_a_seat_that_only_one_node_may_hold_is_told() -> None:
    (told,) = lonely((*SEATS, Seat("s3", "192.0.2.3", ("n3",)))).values()
    assert told.startswith("high_availability.seats: seat s3 has no successor but n3")


def test_the_process_before_in_the_same_place_is_gone_and_one_elsewhere_may_live() -> None:
    ours = Record("1", instance="b", place="boot:1:2", started=20.0)
    assert is_gone(Record("1", instance="a", place="boot:1:2"), ours)
    assert is_gone(ours, ours)
    assert not is_gone(Record("1", instance="a", place="boot:1:3"), ours)
    assert not is_gone(Record("1", instance="a"), replace(ours, place=""))


def test_of_two_with_one_name_exactly_the_later_has_to_go() -> None:
    early, late = Record("1", instance="b", started=10.0), Record("1", instance="a", started=20.0)
    assert yields_to(late, early)
    assert not yields_to(early, late)
    twin = replace(early, instance="c")
    assert yields_to(twin, early) != yields_to(early, twin)


def test_the_longest_record_is_one_that_every_coordinator_keeps() -> None:
    texts = short(["x" * 1000] * 100)
    assert (len(texts), len(texts[0])) == (TEXTS_MAX, TEXT_CHARS_MAX)
    full = replace(record(), refusals=texts, unstored=texts, warnings=texts, now=time.time())
    full = replace(
        full, seat_calls={f"{i:063}": 10_000 for i in range(256)}, seats=tuple(f"{i:063}" for i in range(256))
    )
    data = encode_record(full)
    assert len(data) < MEMBER_SIZE_MAX
    assert read_record(Member("n1", data)) == full
    assert read_record(Member("n1", b"\xc1")) is None
    newer = {"schema": 2, "record": {"version": "9", "of the future": 1}}
    assert read_record(Member("n1", msgspec.msgpack.encode(newer))) == Record("9")


def test_a_member_that_is_not_understood_is_told_by_name() -> None:
    assert strangers(["n1", "n2"], {"n1": record()}) == {
        "stranger n2": "member n2 speaks as another version does, is not understood, and is given no seats"
    }
