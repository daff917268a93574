"""A node in the company of the others: what it says of itself, and what it hears of them.

Nothing here holds a seat: who may have one is decided from what is heard.
"""

from collections.abc import Callable, Mapping
from math import inf
from typing import Final

import msgspec
import structlog

from warden.cluster.decide import Peer, Seat
from warden.cluster.members import (
    Record,
    disagreements,
    encode_record,
    has_wrong_secret,
    is_gone,
    lonely,
    read_record,
    strangers,
    yields_to,
)
from warden.core.errors import WardenError
from warden.store.ports import Coordinator, Member

CYCLES_PER_LEASE: Final = 4
"""A lease is renewed at every quarter: two renewals in a row may be lost."""
MEMBER_LEASES: Final = 3
"""A node is a member for this many leases, so that a slow renewal does not hide it."""
WORD_S: Final = 2.0
"""How often a member's word is new although nothing has happened, so that the others see what its clock says."""

_log = structlog.get_logger()


class Company:
    """`peers` are the members with their last words, this node among them; `clock_behind_s` by how much each one's
    clock seemed to be behind ours when we first saw that word; `warnings` tell in what the nodes differ.
    """

    def __init__(
        self,
        node: str,
        seats: tuple[Seat, ...],
        coordinator: Coordinator,
        record: Record,
        *,
        ttl_s: float,
        now: Callable[[], float],
        word: Callable[[], Record],
        warn: Callable[[str], None],
    ) -> None:
        """`record` is the node's at its start, and `word` gives it as it is; `warn` tells the operator."""
        self.peers: dict[str, Record] = {}
        self.clock_behind_s: dict[str, float] = {}
        self.warnings: list[str] = []
        self._node = node
        self._seats = seats
        self._coordinator = coordinator
        self._record = self._said = record
        self._ttl_s = ttl_s
        self._now = now
        self._word = word
        self._warn = warn
        self._said_at = -inf
        self._rival: Record | None = None
        self._heard: set[str] = set()
        self._warned: frozenset[str] = frozenset()
        self._strangers: dict[str, str] = {}
        self._steady_since: dict[str, float] = {}

    @property
    def is_refused(self) -> bool:
        """True where the others have another secret than this node, and are in the right."""
        return bool(has_wrong_secret(self._node, self._said, self.peers))

    async def announce(self) -> None:
        """Tell the others how this node is, if that is news or time."""
        record, now = self._word(), self._now()
        # Each new word wakes all others, who look at once: if that made them say one of their own, the nodes would do
        # nothing else.
        if _urgent(record) == _urgent(self._said) and now - self._said_at < self._ttl_s / CYCLES_PER_LEASE / 2:
            return
        if now - self._said.now < WORD_S:
            same = msgspec.structs.replace(record, now=self._said.now)
            record = same if same == self._said else record
        self._said = record
        await self._coordinator.announce(Member(self._node, encode_record(record)), self._ttl_s * MEMBER_LEASES)
        self._said_at = now

    def hear(self, members: Mapping[str, Member]) -> bool:
        """Know what the members say. False while it is not sure that this node is the only one of its name. Raises
        `WardenError` where it is not.
        """
        now = self._now()
        peers = {name: record for name, member in members.items() if (record := read_record(member)) is not None}
        self._strangers = strangers(members, peers)
        if not self._is_only_one(peers.get(self._node)):
            return False
        peers[self._node] = self._word()
        self._heard |= {name for name, record in peers.items() if self._is_news(name, record)}
        self._heard &= peers.keys()
        self.clock_behind_s = {name: self._clock_behind_s(name, record, now) for name, record in peers.items()}
        self._steady_since = self._find_steady(peers, now)
        self.peers = peers
        return True

    def compare(self) -> None:
        """Tell, once each, in what the nodes differ."""
        age_s = self._ttl_s / CYCLES_PER_LEASE
        # The first word of a node may be as old as its membership; and any is up to a cycle old.
        behind_s = {n: max(0.0, s - age_s) if s > 0 else s for n, s in self.clock_behind_s.items() if n in self._heard}
        found = lonely(self._seats) | disagreements(self._node, self._said, self.peers, behind_s) | self._strangers
        for what, text in found.items():
            if what not in self._warned:
                _log.warning(text, node=self._node)
        self._warned = frozenset(found)
        self.warnings = list(found.values())

    def standing(self) -> dict[str, Peer]:
        """The members as they matter to who gets a seat."""
        return {node: self._peer(node, record) for node, record in self.peers.items()}

    def _find_steady(self, peers: dict[str, Record], now: float) -> dict[str, float]:
        """Since when each node can hold seats. One that was started again is new, though its membership never ended."""
        known = {name for name, record in self.peers.items() if record.instance == peers.get(name, record).instance}
        return {
            name: self._steady_since.get(name, now) if name in known else now
            for name, record in peers.items()
            if not record.draining and not record.barred
        }

    def _is_only_one(self, found: Record | None) -> bool:
        """What is found under our name is our own word, that of a process before us, or another node's."""
        ours = self._record
        if found is None or is_gone(found, ours):
            return True
        where = f"high_availability.node_id: {self._node} is the name of another live node"
        if self._said is not ours:
            if yields_to(ours, found):
                raise WardenError(f"{where} ({found.http or 'it tells no address'}): each needs its own")
            return True
        if self._rival is not None and self._rival.instance == found.instance and self._rival.now != found.now:
            raise WardenError(f"{where} ({found.http or 'it tells no address'}): each needs its own")
        if self._rival is None:
            self._warn(f"another node called {self._node} was here just now: waiting to see whether it lives")
        self._rival = found
        return False

    def _is_news(self, node: str, record: Record) -> bool:
        before = self.peers.get(node)
        return before is not None and before.instance == record.instance and before.now != record.now

    def _clock_behind_s(self, node: str, record: Record, now: float) -> float:
        """Reckoned once for every word of a member: later it only tells how long the member has been silent."""
        before = self.peers.get(node)
        if node == self._node:
            return 0.0
        return self.clock_behind_s[node] if before is not None and before.now == record.now else now - record.now

    def _peer(self, node: str, record: Record) -> Peer:
        # Who has another secret gets no seat: it could not speak for its phones.
        stranger = record.secret != "" and self._record.secret not in ("", record.secret)
        since = self._steady_since.get(node, self._now())
        return Peer(node, record.draining or record.barred or stranger, len(record.seats), record.wishes, since)


def _urgent(record: Record) -> tuple[object, ...]:
    """What others wait for."""
    return record.draining, record.barred, record.seats, record.wishes, record.primary, record.follows, record.seen
