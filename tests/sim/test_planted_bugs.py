"""The simulator finds a bug that was planted on purpose, within a few seeds."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from warden.cluster.seat import Gate, HeldSeat, RunTask
from warden.core.address import Flow
from warden.sim.node import Parts
from warden.sim.plan import Fault, Freeze, Kill, Mode, Moment, Move, make_plan
from warden.sim.run import tell
from warden.store.memory import MemoryStore, Shelf
from warden.store.ports import Write
from warden.switch.directory import Directory
from warden.switch.outcome import Outcome
from warden.switch.replicate import Replicator

SEEDS_MAX = 400
LOST = ("never ends", "never answered", "was registered", "CDRs", "CDR's end", "was dropped", "the other side heard")
"""A BYE that found nobody shows in the end of the CDR: the refresh of the session finds that the phone is gone."""


class TrustingStore(MemoryStore):
    """It takes the writes of whoever comes."""

    def __init__(self, shelf: Shelf) -> None:
        super().__init__(shelf)
        self._trusting = shelf

    async def write(self, seat: str, epoch: int, writes: Sequence[Write]) -> int:
        stored = self._trusting.seats.get(seat)
        return await super().write(seat, epoch if stored is None else max(epoch, stored.epoch), writes)


class OpenGate(Gate):
    """It never stops by its clock."""

    def send(self, flow: Flow, data: bytes) -> None:
        self._driver.send(flow, data)


class TirelessSeat(HeldSeat):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gate.__class__ = OpenGate


class HastyReplicator(Replicator):
    """It speaks before it writes."""

    def add(self, outcome: Outcome) -> None:
        self._speak(outcome)
        super().add(Outcome(outcome.writes, outcome.orders, [], outcome.lookups))


class HastySeat(HeldSeat):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.runner.replicator.__class__ = HastyReplicator


class OpenSeat(HeldSeat):
    """It listens before it has read what it should know."""

    async def adopt(self, directory: Directory, run: RunTask) -> str:
        self.runner.use_directory(directory)
        await self.driver.start()
        self._door.open(self.runner)
        return await super().adopt(directory, run)


def found(parts: Parts, *words: str, under: Callable[[Fault], bool]) -> str:
    """What the first seed that finds something says; only those are told that have such a fault."""
    plans = (make_plan(seed, Mode.SINGLE) for seed in range(SEEDS_MAX))
    for plan in (plan for plan in plans if any(under(fault) for fault in plan.faults)):
        for violation in tell(plan, parts).violations:
            if any(word in violation for word in words):
                return violation
    pytest.fail(f"nothing was found in {SEEDS_MAX} seeds")


def test_a_store_that_does_not_fence_and_a_node_that_does_not_stop_by_its_clock_are_found() -> None:
    assert found(Parts(TirelessSeat, TrustingStore), "speaks for", under=lambda fault: isinstance(fault, Freeze))


def test_a_message_that_leaves_before_its_record_is_written_is_found() -> None:
    assert found(
        Parts(HastySeat),
        *LOST,
        under=lambda fault: isinstance(fault, Kill) and fault.moment is Moment.SEND,
    )


def test_a_seat_that_listens_before_it_has_read_its_calls_is_found() -> None:
    assert found(Parts(OpenSeat), *LOST, under=lambda fault: isinstance(fault, Kill | Move))
