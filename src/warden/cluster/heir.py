"""How a node that hands a seat over knows that its heir has begun."""

import asyncio
from contextlib import suppress
from typing import Final

from warden.cluster.members import read_record
from warden.core.errors import Unavailable
from warden.store.ports import Coordinator

POLL_S: Final = 0.003
"""How often is looked: a packet is 20 ms."""
BEGINS_S_MAX: Final = 3.0
"""An heir that has not begun by then is dead. (A lease may be longer, where something else moves the addresses.)"""


async def wait_for_heir(coordinator: Coordinator, heir: str, seat: str, ttl_s: float) -> None:
    """Return when the heir says that it has the seat, its media too, or is no member any more, or does not begin."""
    with suppress(TimeoutError, Unavailable):
        async with asyncio.timeout(min(ttl_s, BEGINS_S_MAX)):
            while True:
                member = (await coordinator.members()).get(heir)
                record = None if member is None else read_record(member)
                if record is None or seat in record.seats:
                    return
                await asyncio.sleep(POLL_S)
