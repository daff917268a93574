"""CDRs on their way from the seat's outbox into the database, each exactly once."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from warden.call.cdr import Cdr, Party, decode_cdr
from warden.core.errors import Unavailable
from warden.core.versions import Unreadable
from warden.store.ports import CdrStore, Kind, SeatStore, Write
from warden.store.retry import Retry

BATCH_MAX: Final = 500
"""CDRs per transaction: one round trip for the calls of some seconds."""
GATHER_S: Final = 1.0
"""How long those that come behind a move wait for others: moving one costs the processor as much as moving fifty."""
KEPT_MAX: Final = 100_000
"""CDRs that wait in memory as well, some 30 MB: an hour of a full node. More are only in the store meanwhile."""

_log = structlog.get_logger()


class Outbox:
    """Moves CDRs. A CDR leaves the outbox only after the database has it; the database takes one id once.

    What the store has is kept here too, so that the store need not be asked, and may forget it.
    """

    def __init__(
        self,
        store: SeatStore,
        durable: CdrStore,
        *,
        seat: str,
        epoch: int,
        set_aside: Callable[[str, bytes, str], None],
        retry: Retry | None = None,
    ) -> None:
        """`set_aside(key, record, why)` keeps a record that cannot be read out of the way; `retry` says how long to
        wait between attempts, to which there is no end.
        """
        self.retry = retry or Retry()
        self._store = store
        self._durable = durable
        self._seat = seat
        self._epoch = epoch
        self._set_aside = set_aside
        self._wake = asyncio.Event()
        self._wake.set()
        self._kept: dict[str, bytes] = {}
        self._has_all = False
        self._unreadable: set[str] = set()
        self.error = ""
        self.moved = 0

    @property
    def waiting(self) -> int:
        """CDRs that the database does not have yet, as far as is known."""
        return len(self._kept) + len(self._unreadable)

    def keep(self, cdrs: Sequence[Write]) -> None:
        """The store has these: they may be moved."""
        for cdr in cdrs:
            if len(self._kept) >= KEPT_MAX:
                self._has_all = False
                break
            if cdr.value is not None:
                self._kept[cdr.key] = cdr.value
        self._wake.set()

    def records(self) -> list[Write]:
        """What the store should have."""
        return [Write(Kind.OUTBOX, key, value) for key, value in self._kept.items()]

    async def bring(self, cdrs: Sequence[Cdr]) -> list[Cdr]:
        """Have the database take these, of which the store may know nothing; those that it was given. What a phone said
        has happened. What this node gave up by itself while it was cut off may have gone on at the next holder: that
        counts only where the store has neither the call nor a record of it. Raises `Unavailable`.
        """
        known: set[str] = set()
        if any(cdr.ended_by is Party.SYSTEM for cdr in cdrs):
            # In this order: a call that ends in between is found as a record then.
            for kind in (Kind.CALL, Kind.OUTBOX):
                known.update(await self._store.read(self._seat, kind))
        ours = [cdr for cdr in cdrs if cdr.ended_by is not Party.SYSTEM or cdr.id not in known]
        await self._durable.add_cdrs(ours)
        return ours

    async def run(self) -> None:
        """Work until cancelled."""
        failures = 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                while await self.move():
                    pass
                self.error = ""
                failures = 0
            except Unavailable as error:
                if not self.error:
                    _log.warning("cdrs wait in the outbox", seat=self._seat, epoch=self._epoch, why=str(error))
                self.error = str(error)
                failures += 1
                await asyncio.sleep(self.retry.delay_after(failures))
                self._wake.set()
            else:
                await asyncio.sleep(GATHER_S)

    async def move(self) -> bool:
        """Move one batch; False when nothing is left behind it. Raises `Unavailable`.

        A record that cannot be read holds up no other: a newer version's stays for that one and is told once, a damaged
        one is set aside.
        """
        if not self._has_all and not self._kept:
            self._has_all = True
            try:
                records = await self._store.read(self._seat, Kind.OUTBOX)
            except Unavailable:
                self._has_all = False
                raise
            self._unreadable &= records.keys()
            self._kept |= {key: value for key, value in records.items() if key not in self._unreadable}
        cdrs: dict[str, Cdr] = {}
        unreadable = []
        for key, record in self._kept.items():
            if len(cdrs) == BATCH_MAX:
                break
            try:
                cdrs[key] = decode_cdr(record)
            except Unreadable as error:
                unreadable.append(key)
                if error.newer:
                    where = {"seat": self._seat, "epoch": self._epoch, "key": key}
                    _log.error("cdr of a newer version stays in the outbox", **where, why=str(error))
                else:
                    self._set_aside(key, record, str(error))
        for key in unreadable:
            del self._kept[key]
        self._unreadable.update(unreadable)
        if cdrs:
            await self._durable.add_cdrs(list(cdrs.values()))
            await self._store.write(self._seat, self._epoch, [Write(Kind.OUTBOX, key, None) for key in cdrs])
            for key in cdrs:
                self._kept.pop(key, None)
            self.moved += len(cdrs)
        return bool(self._kept) or not self._has_all
