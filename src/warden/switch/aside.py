"""Records that cannot be read: kept aside for people to look at, so that no adoption stumbles over them again; and
those of a newer version, which are left as they are, since a node that understands them may take the seat next.
"""

from collections.abc import Mapping
from math import inf
from typing import Final, NamedTuple

from msgspec import Struct

from warden.core.deadlines import Deadlines
from warden.core.versions import Codec, Unreadable
from warden.media.protocol import Session
from warden.store.ports import Kind, Write
from warden.store.records import KEY_LENGTH_MAX, VALUE_SIZE_MAX
from warden.switch.live import find_session

SCHEMA: Final = 1
ASIDE_MAX: Final = 1_000
"""Records kept aside per seat, some 4 MB of calls: what fails is seldom one record only, and the first ones tell."""
ASIDE_S: Final = 30 * 86_400.0
"""How long they are kept: until somebody has had a holiday."""
LEFT_S: Final = 3_600.0
"""How long a newer version's call is left alone by the node that cannot carry it: an upgrade that is undone for a
moment is done again within the hour. Then its media ends, and its record is kept aside."""
WHY_LENGTH_MAX: Final = 300
_ROOM: Final = 4_096
"""What is said about a record takes less."""


class Unread(Struct, frozen=True, gc=False):
    """A record that could not be read, and what was done: `left` as it is for a newer version, or kept aside."""

    kind: Kind
    key: str
    why: str
    left: bool


class Aside(Struct, frozen=True, gc=False):
    """A record kept aside: what it was and when, where and why it could not be read. `whole` is False where the record
    was too long to be kept with this, and its end is missing.
    """

    schema: int
    kind: str
    key: str
    at_utc: float
    node: str
    why: str
    whole: bool
    record: bytes


ASIDES: Final = Codec(Aside, SCHEMA)
"""Records kept aside, as records."""


class Left(NamedTuple):
    """A newer version's record that is left as it is. `session` is the media of its call, which goes on."""

    record: bytes
    why: str
    session: Session | None


class AsideRecords:
    """A machine: what is to be stored is left in `writes`, for the owner to take. `unreadable` counts."""

    def __init__(self, node: str) -> None:
        self.writes: list[Write] = []
        self.left: dict[tuple[Kind, str], Left] = {}
        self.unreadable = 0
        self._node = node
        self._kept: Deadlines[str] = Deadlines()
        self._leave: Deadlines[tuple[Kind, str]] = Deadlines()

    def __len__(self) -> int:
        """How many records are kept aside."""
        return len(self._kept)

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called."""
        times = [at for at in (self._kept.earliest, self._leave.earliest) if at is not None]
        return min(times, default=None)

    def restore(self, now: float, records: Mapping[str, bytes]) -> None:
        """Know what earlier processes have kept aside."""
        for key, record in records.items():
            try:
                at = ASIDES.decode(record)[0].at_utc
            except Unreadable:
                at = now
            # A clock that was wrong keeps nothing for ever.
            self._kept.set(key, min(at, now) + ASIDE_S)

    def put(self, now: float, kind: Kind, key: str, record: bytes, why: str) -> None:
        """Keep a record aside, in the place of the record itself."""
        self.unreadable += 1
        room = VALUE_SIZE_MAX - _ROOM
        aside = Aside(
            SCHEMA, kind.value, key, now, self._node, why[:WHY_LENGTH_MAX], len(record) <= room, record[:room]
        )
        name = f"{kind} {key}"[:KEY_LENGTH_MAX]
        self._kept.set(name, now + ASIDE_S)
        self.writes += (Write(Kind.ASIDE, name, ASIDES.encode(aside)), Write(kind, key, None))
        while len(self._kept) > ASIDE_MAX and (oldest := self._kept.pop_due(inf)) is not None:
            self.writes.append(Write(Kind.ASIDE, oldest, None))

    def take(self, now: float, kind: Kind, key: str, record: bytes, error: Exception) -> Unread:
        """A record that could not be read, for this reason, is left or put aside."""
        why = str(error) if isinstance(error, Unreadable) else repr(error)
        newer = isinstance(error, Unreadable) and error.newer
        if newer:
            session = find_session(record) if kind is Kind.CALL else None
            self.leave(now, kind, key, Left(record, why, session))
        else:
            self.put(now, kind, key, record, why)
        return Unread(kind, key, why, newer)

    def leave(self, now: float, kind: Kind, key: str, left: Left) -> None:
        """Leave a newer version's record as it is, for a while."""
        self.unreadable += 1
        self.left[kind, key] = left
        self._leave.set((kind, key), now + LEFT_S)

    def forget(self, kind: Kind, key: str) -> None:
        """The record was written anew: nothing is left of what could not be read."""
        if self.left.pop((kind, key), None) is not None:
            self._leave.clear((kind, key))

    def tick(self, now: float) -> list[tuple[Kind, str, Left]]:
        """Delete what has been kept long enough. Gives what was left for a newer version that did not come, and is
        kept aside from now on.
        """
        while (name := self._kept.pop_due(now)) is not None:
            self.writes.append(Write(Kind.ASIDE, name, None))
        given_up = []
        while (which := self._leave.pop_due(now)) is not None:
            left = self.left.pop(which)
            self.unreadable -= 1
            self.put(now, *which, left.record, f"no newer version came to take it up: {left.why}")
            given_up.append((*which, left))
        return given_up
