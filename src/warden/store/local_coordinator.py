"""The embedded coordinator: one SQLite file for all nodes of one machine, each a process of its own.

Time is the machine's monotonic clock, which all its processes share and no clock step moves. It starts anew with the
machine, so leases of an earlier boot are over: whoever held them died with it.
"""

import asyncio
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from warden.core.errors import Unavailable
from warden.store import leases
from warden.store.leases import UNHELD, Lease
from warden.store.ports import Holding, Member

T = TypeVar("T")

POLL_S = 0.05
"""How soon a change is noticed: a look costs 30 us, and a lease is at least some tenths of a second."""

_BUSY_MS = 2000
"""How long a call waits for the other nodes' transactions, each of which takes well under a millisecond."""

_LOOK_S = 0.002
"""How soon a node that opens the file beside others has its turn: opening takes about so long."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS coordinator (
        one INTEGER PRIMARY KEY CHECK (one = 1), boot TEXT NOT NULL, version INTEGER NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS lease (
        seat TEXT PRIMARY KEY, holder TEXT NOT NULL, epoch INTEGER NOT NULL, ends_at REAL NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS member (
        node TEXT PRIMARY KEY, data BLOB NOT NULL, ends_at REAL NOT NULL
    ) WITHOUT ROWID""",
    "INSERT OR IGNORE INTO coordinator (one, boot, version) VALUES (1, '', 0)",
)
_STATE = (
    "SELECT version, (SELECT count(*) FROM lease WHERE holder <> '' AND ends_at > ?1),"
    " (SELECT count(*) FROM member WHERE ends_at > ?1) FROM coordinator"
)
_LEASE = "SELECT holder, epoch, ends_at FROM lease WHERE seat = ?"
_KEEP = (
    "INSERT INTO lease (seat, holder, epoch, ends_at) VALUES (?, ?, ?, ?) ON CONFLICT (seat) DO UPDATE"
    " SET holder = excluded.holder, epoch = excluded.epoch, ends_at = excluded.ends_at"
)
_MEMBER = "SELECT data, ends_at FROM member WHERE node = ?"
_ANNOUNCE = (
    "INSERT INTO member (node, data, ends_at) VALUES (?, ?, ?)"
    " ON CONFLICT (node) DO UPDATE SET data = excluded.data, ends_at = excluded.ends_at"
)
_NOTE_CHANGE = "UPDATE coordinator SET version = version + 1"


class LocalCoordinator:
    """A `Coordinator` on the SQLite file `path` (made if missing, its folder must be there). Nothing is opened before
    the first call; after an error the file is opened afresh. A cancelled call may still be carried out.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._connection: sqlite3.Connection | None = None
        self._seen: tuple[int, int, int] | None = None
        # One thread: the file has one user here, and calls are carried out in the order they were made.
        self._thread = ThreadPoolExecutor(1, "warden-coordinator")
        self._closed = False

    async def acquire(self, seat: str, node: str, ttl_s: float, at_least: int = 0) -> int | None:
        """See `Coordinator.acquire`."""
        leases.check_lease(seat, node, ttl_s)
        return await self._change(seat, lambda now, old: leases.acquired(now, old, node, ttl_s, at_least))

    async def take(self, seat: str, node: str, ttl_s: float, from_epoch: int, at_least: int = 0) -> int | None:
        """See `Coordinator.take`."""
        leases.check_lease(seat, node, ttl_s)
        return await self._change(seat, lambda now, old: leases.taken(now, old, node, ttl_s, from_epoch, at_least))

    async def renew(self, node: str, held: Mapping[str, int], ttl_s: float) -> frozenset[str]:
        """See `Coordinator.renew`."""
        leases.check_held(node, held, ttl_s)
        wanted = tuple(held.items())

        def work(connection: sqlite3.Connection, now: float) -> frozenset[str]:
            ours = set()
            for seat, epoch in wanted:
                old = _lease(connection, seat)
                if _keep(connection, now, seat, old, leases.renewed(now, old, node, epoch, ttl_s)) is not None:
                    ours.add(seat)
            return frozenset(ours)

        return await self._ask(work)

    async def release(self, seat: str, node: str, epoch: int) -> bool:
        """See `Coordinator.release`."""
        return await self._change(seat, lambda now, old: leases.released(now, old, node, epoch)) is not None

    async def holdings(self) -> Mapping[str, Holding]:
        """See `Coordinator.holdings`."""

        def work(connection: sqlite3.Connection, now: float) -> dict[str, Holding]:
            found = {}
            for seat, holder, epoch, ends_at in connection.execute("SELECT seat, holder, epoch, ends_at FROM lease"):
                held = leases.is_held(Lease(holder, epoch, ends_at), now)
                found[seat] = Holding(seat, holder, epoch, ends_at - now) if held else Holding(seat, "", epoch, 0.0)
            return found

        return await self._ask(work, writes=False)

    async def announce(self, member: Member, ttl_s: float) -> None:
        """See `Coordinator.announce`."""
        leases.check_member(member, ttl_s)

        def work(connection: sqlite3.Connection, now: float) -> None:
            known = connection.execute(_MEMBER, (member.node,)).fetchone()
            connection.execute("DELETE FROM member WHERE ends_at <= ?", (now,))
            connection.execute(_ANNOUNCE, (member.node, member.data, now + ttl_s))
            if known is None or known[0] != member.data or known[1] <= now:
                connection.execute(_NOTE_CHANGE)

        await self._ask(work)

    async def members(self) -> Mapping[str, Member]:
        """See `Coordinator.members`."""

        def work(connection: sqlite3.Connection, now: float) -> dict[str, Member]:
            rows = connection.execute("SELECT node, data FROM member WHERE ends_at > ?", (now,))
            return {node: Member(node, data) for node, data in rows}

        return await self._ask(work, writes=False)

    async def changed(self, timeout_s: float) -> None:
        """See `Coordinator.changed`."""
        seen = self._seen
        give_up = time.monotonic() + timeout_s
        while True:
            if self._closed:
                raise Unavailable(f"{self._path}: closed")
            with suppress(Unavailable):
                state = await self._ask(_state, writes=False)
                if state != seen:
                    self._seen = state
                    return
            left = give_up - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(left, POLL_S))

    async def close(self) -> None:
        """See `Coordinator.close`."""
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._let_go)
            self._thread.shutdown(wait=False)

    async def _change(self, seat: str, decide: Callable[[float, Lease], Lease | None]) -> int | None:
        def work(connection: sqlite3.Connection, now: float) -> int | None:
            old = _lease(connection, seat)
            return _keep(connection, now, seat, old, decide(now, old))

        return await self._ask(work)

    async def _ask(self, work: Callable[[sqlite3.Connection, float], T], *, writes: bool = True) -> T:
        if self._closed:
            raise Unavailable(f"{self._path}: closed")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._transact, work, writes)

    def _transact(self, work: Callable[[sqlite3.Connection, float], T], writes: bool) -> T:
        """Runs in the thread."""
        try:
            connection = self._connection
            if connection is None:
                connection = self._connection = _connect(self._path)
            connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            # The clock is read once nobody else can change anything: an order of transactions is one of times.
            answer = work(connection, time.monotonic())
            connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            self._let_go()
            raise Unavailable(f"{self._path}: {error}") from error
        return answer

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Nodes that start at once open a new file one after the other: who changes its journal does not wait for others
    that do, but is told that it is locked (SQLite waits only where it is sure that nobody waits for it).
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        until = time.monotonic() + _BUSY_MS / 1000
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # A node that is frozen at this moment must not freeze the others.
                if time.monotonic() > until:
                    raise
                time.sleep(_LOOK_S)
        yield
    finally:
        os.close(descriptor)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
    try:
        with _alone_in(path.parent):
            connection.execute("PRAGMA journal_mode = WAL")
        # A power cut may lose the last commits. It ends every node of the machine too, and what it cost in epochs
        # their seat stores know: `at_least`.
        connection.execute("PRAGMA synchronous = NORMAL")
        boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            connection.execute(statement)
        if connection.execute("UPDATE coordinator SET boot = ?1 WHERE boot <> ?1", (boot,)).rowcount:
            connection.execute("UPDATE lease SET holder = '', ends_at = 0")
            connection.execute("DELETE FROM member")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _lease(connection: sqlite3.Connection, seat: str) -> Lease:
    with closing(connection.execute(_LEASE, (seat,))) as found:
        row = found.fetchone()
    return UNHELD if row is None else Lease(*row)


def _keep(connection: sqlite3.Connection, now: float, seat: str, old: Lease, lease: Lease | None) -> int | None:
    if lease is None:
        return None
    connection.execute(_KEEP, (seat, lease.holder, lease.epoch, lease.ends_at))
    if (old.holder, old.epoch) != (lease.holder, lease.epoch) or not leases.is_held(old, now):
        connection.execute(_NOTE_CHANGE)
    return lease.epoch


def _state(connection: sqlite3.Connection, now: float) -> tuple[int, int, int]:
    """Differs whenever something has changed, running out included."""
    with closing(connection.execute(_STATE, (now,))) as found:
        version, held, present = found.fetchone()
    return version, held, present
