"""A seat store's SQLite file, used by one thread at a time (`flush` excepted). Nothing here knows loops, or what a
record means.
"""

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from warden.core.errors import Fenced, Unavailable, WardenError
from warden.store.ports import FOLLOWED, Changes, Kind, Write
from warden.store.private import make_private

T = TypeVar("T")

SIZE_MAX_BYTES = 4 << 30
"""10,000 phones and 10,000 calls take about 100 MB; what grows to this is a bug, and must not fill the disk."""

_PAGE_BYTES = 4096
_ROWS_MAX = 16
"""Rows in one statement: most of what several statements would cost is saved by then, and few texts are compiled."""

_BUSY_MS = 50
"""How long a write waits for another process (an operator at the file): it may hold up an event loop meanwhile."""

_BUSY_PATIENT_MS = 2000
"""The same for opening and claiming, which are rare and worth the wait."""

_LOG_PAGES_MAX = 16_000
"""64 MB. `flush` keeps the log far below; should it fall behind, the commit that finds the log this long empties it."""

_SCHEMA_VERSION = 1

# A table with a rowid rather than WITHOUT ROWID: a record of up to a page then stays on one leaf, and writing it
# again leaves the index alone (measured: 10 us against 16 us for 1,500 bytes).
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS seat (
        seat TEXT PRIMARY KEY, epoch INTEGER NOT NULL, holder TEXT NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS record (
        seat TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (seat, kind, key)
    )""",
)

_PASSING = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
"""Errors of a moment: the connection is as good as before, once what was begun is rolled back."""

_EPOCH = "SELECT epoch FROM seat WHERE seat = ?"
_RAISE_EPOCH = (
    "INSERT INTO seat (seat, epoch, holder) VALUES (?, ?, '') ON CONFLICT (seat) DO UPDATE SET epoch = excluded.epoch"
)
_CLAIM = (
    "INSERT INTO seat (seat, epoch, holder) VALUES (?, 1, ?)"
    " ON CONFLICT (seat) DO UPDATE SET epoch = epoch + 1, holder = excluded.holder RETURNING epoch"
)
_READ = "SELECT key, value FROM record WHERE seat = ? AND kind = ?"


class Batch(NamedTuple):
    """What one `write` call asked for: all of it or nothing."""

    seat: str
    epoch: int
    writes: Sequence[Write]


class SeatFile:
    """One open file, made for its owner only. Every method raises `Unavailable` naming the file and what is wrong with
    it; the constructor also raises `WardenError` where a newer Warden has written the file.

    After an error that may have to do with the connection the file is opened afresh at the next call, so the store
    works again as soon as the disk does. `openings` counts that: what is found then may be another file.
    """

    def __init__(self, path: Path, size_max_bytes: int = SIZE_MAX_BYTES) -> None:
        self._path = path
        self._pages_max = max(1, size_max_bytes // _PAGE_BYTES)
        self._connection: sqlite3.Connection | None = None
        self._flusher: sqlite3.Connection | None = None
        self.openings = 0
        self._opening = ""
        self._changes = 0
        self._guarded(_check, busy_ms=_BUSY_PATIENT_MS)

    def claim(self, seat: str, holder: str) -> int:
        """The seat's next epoch, from now on `holder`'s."""

        def take(connection: sqlite3.Connection) -> int:
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_PATIENT_MS}")
            try:
                # All rows are fetched: the statement, and with it the change, ends with its last row.
                [(epoch,)] = connection.execute(_CLAIM, (seat, holder)).fetchall()
            finally:
                connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            return int(epoch)

        return self._guarded(take)

    def read(self, seat: str, kind: Kind) -> dict[str, bytes]:
        """All records of one kind, by key."""
        return self._guarded(lambda connection: dict(connection.execute(_READ, (seat, kind.value)).fetchall()))

    def changes(self, seat: str, since: str) -> Changes:
        """See `SeatStore.changes`. Where anything that is followed has changed since, in any seat, or where anybody
        else has written, these are all records.
        """

        def look(connection: sqlite3.Connection) -> Changes:
            # The mark is taken before the records: what changes in between is told once more next time.
            [(others,)] = connection.execute("PRAGMA data_version").fetchall()
            mark = f"{self._opening}:{others}:{self._changes}"
            if mark == since:
                return Changes(mark, False, {})
            if connection.execute(_EPOCH, (seat,)).fetchone() is None:
                return Changes("", True, {})
            return Changes(mark, True, dict(connection.execute(_READ, (seat, FOLLOWED.value)).fetchall()))

        return self._guarded(look)

    def write(self, batches: Sequence[Batch]) -> list[Fenced | Unavailable | None]:
        """Carry out the batches in order, in one transaction; for each None, or why it was not carried out."""
        if any(write.kind is FOLLOWED for batch in batches for write in batch.writes):
            self._changes += 1
        try:
            return self._guarded(lambda connection: _transact(connection, batches))
        except Unavailable as error:
            # Where the file is full, what is small or deletes may still go through without its big neighbours.
            if len(batches) > 1 and _is_full(error.__cause__):
                return [self.write((batch,))[0] for batch in batches]
            return [error] * len(batches)

    def flush(self) -> None:
        """Move what the log holds into the file proper and wait for the disk. May run beside the other methods, in
        one thread; a failure is left for the next write to find.
        """
        try:
            if self._flusher is None:
                self._flusher = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._flusher.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error:
            _close(self._flusher)
            self._flusher = None

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        _close(self._flusher)
        _close(self._connection)
        self._flusher = self._connection = None

    def _guarded(self, work: Callable[[sqlite3.Connection], T], busy_ms: int = _BUSY_MS) -> T:
        try:
            connection = self._connection
            if connection is None:
                connection = self._connection = self._connect(busy_ms)
            return work(connection)
        except sqlite3.Error as error:
            if _primary_code(error) in _PASSING and self._connection is not None:
                with suppress(sqlite3.Error):
                    self._connection.rollback()
            else:
                _close(self._connection)
                self._connection = None
            raise Unavailable(f"{self._path}: {_reason(error)}") from error

    def _connect(self, busy_ms: int) -> sqlite3.Connection:
        make_private(self._path)
        # What one connection counts means nothing to the next, and the file may be another one.
        self._opening = secrets.token_hex(8)
        self.openings += 1
        connection = sqlite3.connect(
            self._path,
            timeout=busy_ms / 1000,
            isolation_level=None,
            cached_statements=64,
            check_same_thread=False,
        )
        try:
            # Before anything is written: a newer version's file stays as that version left it.
            self._refuse_newer(connection)
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode = WAL")
            # The operating system has each commit before it is acknowledged, so it survives the death of the
            # process by any signal. A power cut may lose the last commits, but never tears the file.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES_MAX}")
            connection.execute(f"PRAGMA max_page_count = {self._pages_max}")
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                connection.execute(statement)
            # This writes always, so that a file which cannot be written is found out here and not by the first call.
            connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            connection.execute("COMMIT")
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _refuse_newer(self, connection: sqlite3.Connection) -> None:
        [(version,)] = connection.execute("PRAGMA user_version").fetchall()
        if version > _SCHEMA_VERSION:
            raise WardenError(
                f"{self._path}: its schema {version} is newer than this version of warden, which knows up to "
                f"{_SCHEMA_VERSION}: start the version that wrote it, or a newer one"
            )


def _check(connection: sqlite3.Connection) -> None:
    [(verdict,)] = connection.execute("PRAGMA quick_check(1)").fetchall()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


def _close(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        # Whatever was acknowledged is in the log already: a checkpoint that fails here loses nothing.
        with suppress(sqlite3.Error):
            connection.close()


def _transact(connection: sqlite3.Connection, batches: Sequence[Batch]) -> list[Fenced | Unavailable | None]:
    execute = connection.execute
    outcomes: list[Fenced | Unavailable | None] = []
    epochs: dict[str, int] = {}
    # The last write of each key wins; those of one transaction are seen together or not at all.
    values: dict[tuple[str, str, str], bytes | None] = {}
    execute("BEGIN IMMEDIATE")
    for seat, epoch, writes in batches:
        newest = epochs.get(seat)
        if newest is None:
            row = execute(_EPOCH, (seat,)).fetchone()
            newest = epochs[seat] = 0 if row is None else row[0]
        if epoch < newest:
            outcomes.append(Fenced(f"seat {seat}: epoch {epoch} is over, it is {newest} now", newest))
            continue
        if epoch > newest:
            # A file that lost its memory learns how far the seat had come, so that it fences rightly again.
            execute(_RAISE_EPOCH, (seat, epoch))
            epochs[seat] = epoch
        outcomes.append(None)
        for write in writes:
            values[seat, write.kind._value_, write.key] = write.value
    stored: list[str | bytes] = []
    for where, value in values.items():
        if value is None:
            execute("DELETE FROM record WHERE seat = ? AND kind = ? AND key = ?", where)
        else:
            stored += where
            stored.append(value)
    for start in range(0, len(stored), 4 * _ROWS_MAX):
        chunk = stored[start : start + 4 * _ROWS_MAX]
        execute(_upsert(len(chunk) // 4), chunk)
    execute("COMMIT")
    return outcomes


@lru_cache(maxsize=_ROWS_MAX)
def _upsert(rows: int) -> str:
    places = ", ".join(["(?, ?, ?, ?)"] * rows)
    return (
        f"INSERT INTO record (seat, kind, key, value) VALUES {places}"  # noqa: S608 -- only the number of places varies
        " ON CONFLICT (seat, kind, key) DO UPDATE SET value = excluded.value"
    )


def _primary_code(error: BaseException | None) -> int:
    """SQLite's primary result code; errors of the Python module itself have none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_full(error: BaseException | None) -> bool:
    return _primary_code(error) == sqlite3.SQLITE_FULL


def _reason(error: sqlite3.Error) -> str:
    name = getattr(error, "sqlite_errorname", None)
    text = str(error) if name is None else f"{error} ({name})"
    match _primary_code(error):
        case sqlite3.SQLITE_FULL:
            return f"disk full, or file at its size limit: {text}"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return f"cannot be written: {text}"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"held by another process: {text}"
        case sqlite3.SQLITE_IOERR:
            return f"disk failure: {text}"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB | 0:
            return f"damaged: {text}; restore a copy, or move the file away and start with an empty one"
        case _:
            return text
