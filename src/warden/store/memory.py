"""The fast store in memory: for the simulator and for tests. It outlives its handles, not the process."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from warden.core.errors import Fenced, Unavailable
from warden.store.ports import Changes, Kind, Write
from warden.store.records import check_followed, check_writes


class Stored(Struct):
    """What is stored of a seat. `writer` is the handle that wrote last and `number` counts its writes; since its write
    `since` nothing of it has been lost. `changed` says for each key that was followed since then which write it was.
    """

    epoch: int = 0
    holder: str = ""
    writer: int = 0
    number: int = 0
    since: int = 0
    records: dict[Kind, dict[str, bytes]] = {}
    changed: dict[str, int] = {}


class Shelf:
    """What is stored; nodes that share a store hold one shelf by a `MemoryStore` each."""

    def __init__(self) -> None:
        self.seats: dict[str, Stored] = {}
        self.handles = 0

    def copy(self) -> dict[str, Stored]:
        """What is stored, as it is now: for `restore`."""
        return {
            seat: Stored(
                stored.epoch, stored.holder, stored.writer, stored.number, stored.since,
                {kind: dict(records) for kind, records in stored.records.items()}, dict(stored.changed),
            )
            for seat, stored in self.seats.items()
        }  # fmt: skip

    def restore(self, older: Mapping[str, Stored]) -> None:
        """Lose what came after the copy (empty: everything), like a store that fails over to an older copy."""
        self.seats = dict(older)


class MemoryStore:
    """A `SeatStore` on a shelf, its own unless one is given."""

    def __init__(self, shelf: Shelf | None = None) -> None:
        self._shelf = Shelf() if shelf is None else shelf
        self._shelf.handles += 1
        self._handle = self._shelf.handles
        self._number = 0
        self._acknowledged: dict[str, tuple[int, int]] = {}
        self._losses: dict[str, int] = {}
        self._closed = False

    async def claim(self, seat: str, holder: str) -> int:
        """See `SeatStore.claim`."""
        stored = self._open(seat)
        stored.epoch += 1
        stored.holder = holder
        self._begin(stored)
        return stored.epoch

    async def write(self, seat: str, epoch: int, writes: Sequence[Write]) -> int:
        """See `SeatStore.write`."""
        check_writes(writes)
        stored = self._open(seat)
        if epoch < stored.epoch:
            raise Fenced(f"seat {seat}: epoch {epoch} is over, it is {stored.epoch} now", stored.epoch)
        stored.epoch = epoch
        of_epoch, acknowledged = self._acknowledged.get(seat, (epoch, 0))
        is_other = stored.writer != self._handle
        is_lost = of_epoch == epoch and acknowledged > 0 and (is_other or stored.number < acknowledged)
        if is_lost:
            self._losses[seat] = self._losses.get(seat, 0) + 1
        if is_lost or is_other:
            self._begin(stored)
        self._number += 1
        stored.number = self._number
        for write in writes:
            records = stored.records.setdefault(write.kind, {})
            if write.value is None:
                records.pop(write.key, None)
            else:
                records[write.key] = write.value
            if write.kind is Kind.BINDING:
                stored.changed[write.key] = self._number
        self._acknowledged[seat] = epoch, self._number
        return self._losses.get(seat, 0)

    async def read(self, seat: str, kind: Kind) -> Mapping[str, bytes]:
        """See `SeatStore.read`."""
        return dict(self._open(seat).records.get(kind, {}))

    async def changes(self, seat: str, kind: Kind, since: str) -> Changes:
        """See `SeatStore.changes`."""
        check_followed(kind)
        stored = self._open(seat)
        if not stored.writer:
            return Changes("", True, {})
        records = stored.records.get(kind, {})
        life, _, number = since.rpartition(":")
        mark = f"{stored.writer}:{stored.since}"
        if life != mark or int(number) > stored.number:
            return Changes(f"{mark}:{stored.number}", True, dict(records))
        changed = {key: records.get(key) for key, at in stored.changed.items() if at > int(number)}
        return Changes(f"{mark}:{stored.number}", False, changed)

    async def close(self) -> None:
        """See `SeatStore.close`."""
        self._closed = True

    def _begin(self, stored: Stored) -> None:
        """Whoever followed the seat until now has to read all of it again."""
        self._number += 1
        stored.writer, stored.number, stored.since = self._handle, self._number, self._number
        stored.changed.clear()

    def _open(self, seat: str) -> Stored:
        if self._closed:
            raise Unavailable("memory store: closed")
        return self._shelf.seats.setdefault(seat, Stored())
