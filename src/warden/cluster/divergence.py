"""What a node has in memory, against what the store would give its successor. Looked for when somebody asks."""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from warden.call.model import Phase
from warden.cluster.seat import HeldSeat
from warden.core.errors import Fenced, MalformedMessage
from warden.store.ports import Kind, Write
from warden.switch.live import SNAPSHOTS, LiveCall, is_same
from warden.switch.records import LINGER_S
from warden.switch.switch import Switch

AGAIN_AFTER_S: Final = 0.3
"""What differs is looked at once more then: records on their way into the store are no difference."""
LINGER_MAX_S: Final = LINGER_S + 30.0
"""How long the record of a refused call may stay at most; a tick comes late on a busy node."""


class Difference(Struct, frozen=True):
    """`key` is the id of a call or the number of registrations; `what` is wrong with its record."""

    seat: str
    kind: str
    key: str
    what: str


async def examine(seat: HeldSeat) -> list[Difference]:
    """The differences of a seat that this node holds. Raises `Unavailable`."""
    try:
        # An empty write asks whether the seat is still ours, and changes nothing.
        await seat.store.write(seat.name, seat.epoch, [])
    except Fenced as fenced:
        return [Difference(seat.name, "epoch", "", f"the store has given the seat away: {fenced}")]
    first = await _look(seat)
    if not first:
        return []
    await asyncio.sleep(AGAIN_AFTER_S)
    before = {(d.kind, d.key, d.what) for d in first}
    return [d for d in await _look(seat) if (d.kind, d.key, d.what) in before]


def repair(seat: HeldSeat, found: list[Difference]) -> int:
    """Have the store made right again; how many records that takes."""
    # As it is now: what was looked at is some milliseconds old.
    ours = {(write.kind, write.key): write for write in seat.switch.everything()}
    records = [(Kind(d.kind), d.key) for d in found if d.kind in (Kind.CALL, Kind.BINDING)]
    seat.runner.write([ours.get(record, Write(*record, None)) for record in records])
    return len(records)


async def _look(seat: HeldSeat) -> list[Difference]:
    calls = await seat.store.read(seat.name, Kind.CALL)
    bindings = await seat.store.read(seat.name, Kind.BINDING)
    now, switch = seat.runner.now(), seat.switch
    return [*compare_calls(switch, calls, now), *compare_bindings(switch, bindings)]


def compare_calls(switch: Switch, records: Mapping[str, bytes], now: float) -> list[Difference]:
    """Calls in memory against call records."""
    found = []
    seat = switch.settings.seat
    for call_id, live in switch.calls.items():
        if live.revision:
            what = _wrong_with(live, records.get(call_id))
            if what:
                found.append(Difference(seat, Kind.CALL.value, call_id, what))
    extra = [call_id for call_id in records.keys() - switch.calls.keys() if not _lingers(records[call_id], now)]
    over = "is in the store, but the call is over"
    return [*found, *(Difference(seat, Kind.CALL.value, call_id, over) for call_id in sorted(extra))]


def compare_bindings(switch: Switch, records: Mapping[str, bytes]) -> list[Difference]:
    """Registrations in memory against their records."""
    found = []
    seat, ours = switch.settings.seat, {w.key: w for w in switch.everything() if w.kind is Kind.BINDING}
    for number, write in ours.items():
        record = records.get(number)
        if record != write.value:
            what = "is missing in the store" if record is None else "is another one in the store"
            found.append(Difference(seat, Kind.BINDING.value, number, what))
    gone = "is in the store, but nobody is registered"
    extra = sorted(records.keys() - ours.keys())
    return [*found, *(Difference(seat, Kind.BINDING.value, number, gone) for number in extra)]


def _wrong_with(live: LiveCall, record: bytes | None) -> str:
    if record is None:
        return "is missing in the store"
    try:
        stored, _ = SNAPSHOTS.decode(record)
    except (msgspec.MsgspecError, MalformedMessage, UnicodeDecodeError):
        return "cannot be read in the store"
    if stored.revision != live.revision:
        age = "older" if stored.revision < live.revision else "newer"
        return f"is {age} in the store (revision {stored.revision}, not {live.revision})"
    if is_same(live.values, live.written) and (stored.call, stored.legs) != (live.call, tuple(live.legs.values())):
        return "is another one in the store"
    return ""


def _lingers(record: bytes, now: float) -> bool:
    """Whether a call that is over keeps its record for now, for the case that its caller has not heard so."""
    try:
        call = SNAPSHOTS.decode(record)[0].call
    except (msgspec.MsgspecError, MalformedMessage, UnicodeDecodeError):
        return False
    return call.phase is Phase.OVER and call.over_at is not None and now < call.over_at + LINGER_MAX_S
