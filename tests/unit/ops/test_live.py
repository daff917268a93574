"""Whether a cluster that serves people may be drilled, and which of its seats."""

import asyncio
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from warden.config.tree import Config
from warden.core.errors import WardenError
from warden.ops.live import live_cluster, own_address, route, unfit
from warden.store.durable import open_durable
from warden.web.models import Cluster, Member, Seat, Seats

WELL = Member(
    node="n1", version="0.3.0", http="http://192.0.2.1:9000", draining=False, seats=["s1"], calls=2, sentence="",
    clock_behind_s=0.0, unprotected_calls=0, registrations=9, refusals=[], not_stored=[], warnings=[],
)  # fmt: skip
OTHER = WELL.model_copy(
    update={"node": "n2", "http": "http://192.0.2.2:9000", "seats": [], "refusals": ["holds no seat"]}
)
SEAT = Seat(
    name="s1",
    address="192.0.2.10",
    holder="n1",
    epoch=3,
    successors=["n1", "n2"],
    held_here=True,
    calls_here=2,
    calls=2,
)


def cluster(*members: Member, error: str = "", clustered: bool = True) -> Cluster:
    return Cluster(
        name="pbx", node="n1", clustered=clustered, drained=False, coordinator_error=error, members=list(members),
        sentences=[],
    )  # fmt: skip


def test_a_cluster_that_lacks_nothing_may_be_drilled() -> None:
    assert unfit(cluster(WELL, OTHER), Seats(items=[SEAT])) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"refusals": ["overloaded"]}, "n2: overloaded"),
        ({"not_stored": ["3 records"]}, "n2: does not store: 3 records"),
        ({"warnings": ["Redis has no replica"]}, "n2: warns: Redis has no replica"),
        ({"draining": True}, "n2: is draining"),
        ({"unprotected_calls": 4}, "n2: has 4 unprotected calls"),
    ],
)
def test_a_node_that_is_not_well_is_told_and_the_cluster_left_alone(change: dict[str, object], why: str) -> None:
    assert unfit(cluster(WELL, OTHER.model_copy(update=change)), Seats(items=[SEAT])) == [why]


def test_warnings_alone_may_be_put_up_with() -> None:
    warned = OTHER.model_copy(update={"warnings": ["a certificate expires"], "draining": True})
    told = unfit(cluster(WELL, warned), Seats(items=[SEAT]), despite_warnings=True)
    assert told == ["n2: is draining"]


def test_a_cluster_without_a_node_a_holder_or_a_coordinator_is_left_alone() -> None:
    orphan = SEAT.model_copy(update={"holder": None})
    assert unfit(cluster(WELL), Seats(items=[SEAT])) == ["n2 is missing"]
    assert unfit(cluster(WELL, OTHER), Seats(items=[orphan])) == ["seat s1 is held by nobody"]
    assert unfit(cluster(WELL, OTHER, error="timed out"), Seats(items=[SEAT])) == ["the coordinator is away: timed out"]
    assert unfit(cluster(WELL, clustered=False), Seats(items=[])) == ["n1 is in no cluster"]


def test_the_seat_of_the_node_that_is_asked_goes_to_its_next_successor_or_the_named_one_does() -> None:
    second = SEAT.model_copy(update={"name": "s2", "holder": "n2", "successors": ["n2", "n1"], "held_here": False})
    seats = Seats(items=[second, SEAT])
    assert route(cluster(WELL, OTHER), seats, None) == (SEAT, "n2")
    assert route(cluster(WELL, OTHER), seats, "s2") == (second, "n1")
    with pytest.raises(WardenError, match="there is no seat s3; --seat names one of s2, s1"):
        route(cluster(WELL, OTHER), seats, "s3")
    with pytest.raises(WardenError, match="n1 holds no seat; --seat names one of s2"):
        route(cluster(WELL, OTHER), Seats(items=[second]), None)
    alone = SEAT.model_copy(update={"successors": ["n1"]})
    with pytest.raises(WardenError, match="seat s1 has no successor but n1"):
        route(cluster(WELL), Seats(items=[alone]), None)


def test_phones_are_at_the_own_address_of_the_node_that_is_asked() -> None:
    assert own_address(cluster(OTHER, WELL)) == "192.0.2.1"
    with pytest.raises(WardenError, match="does not say where"):
        own_address(cluster(OTHER))


class Door:
    """A node whose cluster moves a seat when it is told to, some looks later."""

    def __init__(self) -> None:
        self.seat = SEAT
        self.told: list[str] = []
        self.is_told = threading.Event()
        self._looks = 0

    def get(self, path: str, model: type[Any]) -> Any:  # noqa: ARG002 - as `Door`
        self._looks += 1
        if self.told and self._looks > 3:
            self.seat = SEAT.model_copy(update={"holder": self.told[-1]})
        if path == "seats":
            return Seats(items=[self.seat])
        held = {member.node: ["s1"] if member.node == self.seat.holder else [] for member in (WELL, OTHER)}
        return cluster(*(member.model_copy(update={"seats": held[member.node]}) for member in (WELL, OTHER)))

    def post(self, path: str, body: Mapping[str, str] | None, model: type[Any]) -> Any:  # noqa: ARG002 - as `Door`
        self.told.append((body or {})["to"])
        self._looks = 0
        self.is_told.set()
        return self.seat


async def test_a_seat_that_is_on_its_way_when_its_drill_is_interrupted_is_brought_back(tmp_path: Path) -> None:
    door, durable = Door(), open_durable(f"sqlite:///{tmp_path}/warden.sqlite")
    async with live_cluster(Config(), durable, door, SEAT, ["n1", "n2"]) as live:
        moving = asyncio.create_task(live.hand_over("n2"))
        await asyncio.to_thread(door.is_told.wait)
        moving.cancel()
        with suppress(asyncio.CancelledError):
            await moving
        assert door.seat.holder == "n1"
    assert (door.told, door.seat.holder) == (["n2", "n1"], "n1")
    await durable.close()
