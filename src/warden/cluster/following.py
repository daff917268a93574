"""Follows the registrations and bans at all seats: a node knows whom to call where, and whom not to hear, also while
the store is away.

Nothing here decides anything: what the store tells goes to the node's roster, and to its bans.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from warden.core.errors import Unavailable
from warden.core.versions import Unreadable
from warden.store.ports import FOLLOWED, Kind, SeatStore
from warden.switch.bans import Ban, Bans, read_ban
from warden.switch.roster import Roster

POLL_S: Final = 0.1
"""How soon after a phone has registered at one seat those at the others can call it."""
POLL_PER_SEAT_S: Final = 0.02
"""With more seats than five each is asked less often: a node asks at most 50 times a second."""
BANS_S: Final = 1.0
"""How soon a ban that was made at one seat holds at the others. There are few, so they are read as they are."""
AWAY_S: Final = 0.5
"""How long a store that does not answer is left alone."""
REFILLED_S: Final = 4.0
"""How long it may take until a store that has lost its memory has everything again: its holder notices within a second,
and gives it all records, not all at once.
"""


class Following:
    """The seats that the roster has addresses of are followed, also those of this node: it may hold another tomorrow
    whose phones call theirs.
    """

    def __init__(
        self,
        store: SeatStore,
        roster: Roster,
        bans: Bans,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._roster = roster
        self._bans = bans
        self._now = now
        self._marks: dict[str, str] = {}
        self._bans_read_at: dict[str, float] = {}
        self._ban_records: dict[str, Mapping[str, bytes]] = {}
        self._asked: set[str] = set()
        self._doubted_until: dict[str, float] = {}

    async def catch_up(self) -> None:
        """Ask for every seat once, so that nobody who is called at first is unknown. What cannot be read is left."""
        with suppress(Unavailable):
            for seat in self._roster.addresses:
                await self._look(seat)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                seats = self._roster.addresses
                for seat in seats:
                    if seat not in self._asked:
                        self._asked.add(seat)
                        tasks.create_task(self._ask(seat), name=f"{seat} roster")
                await asyncio.sleep(max(POLL_S, POLL_PER_SEAT_S * len(seats)))

    async def _ask(self, seat: str) -> None:
        try:
            await self._look(seat)
        except Unavailable:
            await asyncio.sleep(AWAY_S)
        finally:
            self._asked.discard(seat)

    async def _look(self, seat: str) -> None:
        clock = asyncio.get_running_loop().time
        is_sure = clock() >= self._doubted_until.get(seat, math.inf)
        known = self._marks.get(seat, "")
        changes = await self._store.changes(seat, FOLLOWED, "" if is_sure else known)
        if changes.mark:
            # Without one the store knows nothing: what was known before is as good as it gets.
            self._marks[seat] = changes.mark
            whole = changes.whole and (is_sure or not known)
            self._roster.take(seat, changes.records, whole=whole)
            if whole:
                self._doubted_until.pop(seat, None)
            elif changes.whole:
                # It may be a store that is just being told everything again: whoever it does not know yet is not gone.
                self._doubted_until[seat] = clock() + REFILLED_S
            if self._now() - self._bans_read_at.get(seat, float("-inf")) >= BANS_S:
                self._bans_read_at[seat] = self._now()
                self._take_bans(seat, await self._store.read(seat, Kind.BAN))

    def _take_bans(self, seat: str, records: Mapping[str, bytes]) -> None:
        if records != self._ban_records.get(seat, {}):
            self._ban_records[seat] = records
            self._bans.take(self._now(), seat, _readable(records))


def _readable(records: Mapping[str, bytes]) -> dict[str, Ban]:
    """The seat's own node tells of those that cannot be read when it takes the seat up."""
    found = {}
    for key, record in records.items():
        with suppress(Unreadable):
            found[key] = read_ban(record)
    return found
