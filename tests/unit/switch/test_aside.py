"""Records that cannot be read: they cost their own call, are kept aside, and nobody else notices."""

from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.switch.world import World

from warden.call.model import Cause
from warden.media.protocol import Drop, Put
from warden.phone.events import Ended
from warden.store.ports import Kind, Write
from warden.store.records import VALUE_SIZE_MAX, check_writes
from warden.switch.aside import ASIDE_MAX, ASIDE_S, ASIDES, LEFT_S, AsideRecords
from warden.switch.outcome import Outcome

NUMBERS = ("1001", "1002", "1003", "1004", "1005", "1006")


def three_calls() -> World:
    """One answered, one that rings, one in the middle of a change."""
    world = World(*NUMBERS)
    world.up()
    world.on_incoming["1004"] = lambda e: world.do("1004", world.phones["1004"].ring(world.now, e.call))
    world.call("1003", "1004", run_s=1)
    caller, _ = world.up("1005", "1006")
    world.do("1005", world.phones["1005"].hold(world.now, caller))
    world.run(0.005)
    return world


THREE = three_calls()
RECORDS = dict(THREE.records[Kind.CALL])
BINDINGS = dict(THREE.records[Kind.BINDING])


def adopted(records: dict[str, bytes], bindings: dict[str, bytes] | None = None) -> tuple[World, list[str], Outcome]:
    """Another process goes on with these records: which of them it could not read, and what it wants done first."""
    world = World("1001")
    world.now = THREE.now
    world.switch = world.make_switch()
    outcome, unread = world.switch.restore(world.now, bindings or {}, records)
    assert all(x.kind in (Kind.CALL, Kind.BINDING) for x in unread)
    return world, [x.key for x in unread], outcome


def ends(world: World) -> None:
    """Every call can be ended, and nothing is left of any but, of a damaged one, a transaction that nobody knows."""
    for call_id in list(world.switch.calls):
        world.carry_out(world.switch.stop_call(world.now, call_id, Cause(480)))
    world.run(LEFT_S + 200)
    assert world.switch.calls == {}
    assert len(world.switch) == len(world.switch.endpoint) <= 1


def damaged(record: bytes, random: Random) -> bytes:
    """Cut, changed, or with a piece twice."""
    at, to = sorted((random.randrange(len(record)), random.randrange(len(record))))
    match random.randrange(4):
        case 0:
            return record[:at]
        case 1:
            return record[:at] + random.randbytes(random.randrange(1, 5)) + record[at + 1 :]
        case 2:
            return record[:to] + record[at:]
        case _:
            return record[:at] + record[to:]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(sorted(RECORDS)))
def test_whatever_happened_to_one_record_the_others_are_adopted(seed: int, victim: str) -> None:
    records = dict(RECORDS)
    records[victim] = damaged(records[victim], Random(seed))
    world, unread, outcome = adopted(records)
    others = RECORDS.keys() - {victim}
    assert others <= world.switch.calls.keys()
    assert unread in ([], [victim])
    world.carry_out(outcome)
    ends(world)


STRANGE: tuple[Any, ...] = (
    None, "", "x", 0, -1, 10**12, float("nan"), float("inf"), 1.5, True, b"", [], {}, "b7", ["udp", ["", 0], ["", 0]]
)  # fmt: skip


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every value of a record, as where it is."""
    members = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    return [(tree, name) for name, _ in members] + [place for _, member in members for place in places(member)]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(sorted(RECORDS)), st.sampled_from(STRANGE))
def test_whatever_a_record_says_the_others_are_adopted_and_every_call_can_be_ended(
    seed: int, victim: str, strange: Any
) -> None:
    tree = msgspec.msgpack.decode(RECORDS[victim])
    where, name = Random(seed).choice(places(tree))
    where[name] = strange
    world, unread, outcome = adopted(RECORDS | {victim: msgspec.msgpack.encode(tree)})
    assert RECORDS.keys() - {victim} <= world.switch.calls.keys()
    assert unread in ([], [victim])
    world.carry_out(outcome)
    ends(world)


@pytest.mark.parametrize("record", [b"", b"\xc1", b"nonsense", b"\x90", b"\x91" * 100_000])
def test_a_record_that_cannot_be_read_is_kept_aside_and_met_no_more(record: bytes) -> None:
    world, unread, outcome = adopted({**RECORDS, "bad": record}, {**BINDINGS, "1009": record})
    assert unread == ["1009", "bad"]
    world.carry_out(outcome)
    check_writes(outcome.writes)
    assert "bad" not in world.records[Kind.CALL]
    assert "1009" not in world.records[Kind.BINDING]
    kept = ASIDES.decode(world.records[Kind.ASIDE]["call bad"])[0]
    assert (kept.kind, kept.key, kept.record, kept.whole) == ("call", "bad", record, True)
    assert (kept.at_utc, kept.node) == (world.now, "node1")
    assert kept.why
    assert world.switch.aside.unreadable == len(world.switch.aside) == len(world.records[Kind.ASIDE]) == 2

    after = world.make_switch()
    _, unread_again = after.restore(
        world.now, world.records[Kind.BINDING], world.records[Kind.CALL], world.records[Kind.ASIDE]
    )
    assert unread_again == []
    assert len(after.aside) == 2
    assert after.aside.unreadable == 0


def test_what_was_kept_aside_long_enough_is_deleted() -> None:
    world, _, outcome = adopted({"bad": b"nonsense"})
    world.carry_out(outcome)
    world.run(ASIDE_S - 100)
    world.restart()
    world.run(1)
    assert len(world.records[Kind.ASIDE]) == 1
    world.run(200)
    assert world.records[Kind.ASIDE] == {}
    assert len(world.switch.aside) == 0


def test_no_more_is_kept_aside_than_the_limit_and_the_oldest_goes() -> None:
    aside, kept = AsideRecords("node1"), dict[str, bytes]()
    for i in range(ASIDE_MAX + 5):
        aside.put(float(i), Kind.CALL, f"c{i}", b"\xc1", "nonsense")
    for write in aside.writes:
        if write.kind is Kind.ASIDE and write.value is not None:
            kept[write.key] = write.value
        elif write.kind is Kind.ASIDE:
            del kept[write.key]
    assert len(aside) == len(kept) == ASIDE_MAX
    assert "call c4" not in kept
    assert "call c5" in kept
    assert aside.unreadable == ASIDE_MAX + 5


def test_the_longest_record_that_a_store_takes_can_be_kept_aside() -> None:
    aside = AsideRecords("node1")
    aside.put(1.0, Kind.CALL, "k" * 1024, b"\xc1" * VALUE_SIZE_MAX, "w" * 5_000)
    check_writes(aside.writes)
    assert aside.writes[0].value is not None
    kept = ASIDES.decode(aside.writes[0].value)[0]
    assert not kept.whole
    assert len(kept.record) > VALUE_SIZE_MAX // 2


# Calls of a newer version


def newer(record: bytes, schema: int = 2) -> bytes:
    tree = msgspec.msgpack.decode(record)
    tree["schema"] = schema
    tree["call"]["app"] = {"type": "fishing", "rods": 2}
    return msgspec.msgpack.encode(tree)


def test_a_call_that_only_a_newer_version_can_carry_keeps_its_record_and_its_audio() -> None:
    world = World()
    world.up()
    ((call_id, record),) = world.records[Kind.CALL].items()
    its = world.records[Kind.CALL][call_id] = newer(record)
    session = world.media[call_id]
    world.switch = world.make_switch()
    outcome, unread = world.switch.restore(world.now, {}, world.records[Kind.CALL])
    assert [(x.key, x.left) for x in unread] == [(call_id, True)]
    assert outcome.orders == [Put(session)]
    assert outcome.writes == []
    assert world.switch.session_ids == {call_id}
    assert world.switch.sessions() == [Put(session)]
    assert world.switch.everything() == [Write(Kind.CALL, call_id, its)]
    # Its ports are nobody else's.
    world.carry_out(outcome)
    world.run(LEFT_S - 10)
    assert world.records[Kind.CALL] == {call_id: its}
    other = world.call("1001", "*43", run_s=1)
    assert len(world.media) == 2
    world.hang_up("1001", other, run_s=100)

    # Nobody came for it.
    assert world.records[Kind.CALL] == {}
    assert world.media == {}
    assert ASIDES.decode(world.records[Kind.ASIDE][f"call {call_id}"])[0].record == its
    assert len(world.switch) == 0
    assert len(world.of("1001", Ended)) == 1


def test_of_a_call_from_too_far_in_the_future_nothing_is_touched() -> None:
    world = World()
    world.up()
    ((call_id, record),) = world.records[Kind.CALL].items()
    switch = world.make_switch()
    outcome, unread = switch.restore(world.now, {}, {call_id: newer(record, 3)})
    assert [(x.key, x.left) for x in unread] == [(call_id, True)]
    assert (outcome.orders, outcome.writes, outcome.sends) == ([], [], [])
    outcome = switch.tick(world.now + LEFT_S)
    assert outcome.orders == [Drop(call_id)]
    assert [(w.kind, w.value is None) for w in outcome.writes] == [(Kind.ASIDE, False), (Kind.CALL, True)]


def test_a_registration_of_a_newer_version_gives_way_to_a_new_one() -> None:
    world = World()
    world.switch = world.make_switch()
    its = msgspec.msgpack.encode({"schema": 2, "bindings": "elsewhere"})
    world.records[Kind.BINDING] = {"1002": its}
    outcome, unread = world.switch.restore(world.now, {"1002": its}, {})
    assert [(x.key, x.left) for x in unread] == [("1002", True)]
    world.carry_out(outcome)
    assert world.records[Kind.BINDING] == {"1002": its}
    world.register("1002")
    world.run(LEFT_S + 10)
    assert len(world.switch.bindings["1002"]) == 1
    assert world.records[Kind.BINDING]["1002"] != its
    assert world.records[Kind.ASIDE] == {}
