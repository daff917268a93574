"""How a node that hands a seat over knows that its heir has begun, and that all others leave the address alone."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Final

from warden.cluster.members import Record, read_record
from warden.core.errors import Unavailable
from warden.store.ports import Coordinator

POLL_S: Final = 0.003
"""How often is looked: a packet is 20 ms."""
BEGINS_S_MAX: Final = 3.0
"""An heir that has not begun by then is dead. (A lease may be longer, where something else moves the addresses.)"""
SEEN_S_MAX: Final = 0.4
"""A node that has not seen by then who has a seat is frozen or cut off. A phone repeats its request after 0.5 s."""


async def wait_for_heir(coordinator: Coordinator, heir: str, seat: str, ttl_s: float) -> None:
    """Return when the heir says that it has the seat, its media too, or is no member any more, or does not begin."""

    def has_begun(members: Mapping[str, Record]) -> bool:
        return heir not in members or seat in members[heir].seats

    await _until(coordinator, has_begun, min(ttl_s, BEGINS_S_MAX))


async def wait_for_others(coordinator: Coordinator, others: Collection[str], seat: str, epoch: int) -> None:
    """Return when all these that are members say that they have seen this epoch of the seat, or for too long do not."""

    def have_seen(members: Mapping[str, Record]) -> bool:
        return all(members[node].seen.get(seat, 0) >= epoch for node in others if node in members)

    await _until(coordinator, have_seen, SEEN_S_MAX)


async def _until(coordinator: Coordinator, true: Callable[[Mapping[str, Record]], bool], within_s: float) -> None:
    with suppress(TimeoutError, Unavailable):
        async with asyncio.timeout(within_s):
            while True:
                found = {node: read_record(member) for node, member in (await coordinator.members()).items()}
                if true({node: record for node, record in found.items() if record is not None}):
                    return
                await asyncio.sleep(POLL_S)
