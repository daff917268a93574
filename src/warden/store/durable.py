"""The durable truth in a database: SQLite, or PostgreSQL. Nothing here knows where extensions and CDRs come from."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, RowMapping, and_, delete, select, union, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from warden.call.cdr import Cdr, Party, Result
from warden.core.histogram import Histogram
from warden.sdp.sdes import Policy
from warden.store.database import database_name, database_url, make_engine, reaching
from warden.store.ports import USER, AlreadyExists, ApiToken, Extension, Item
from warden.store.tables import HA1_COLUMNS, api_tokens, cdrs, dialplan, extensions, meta

CDR_LIMIT_MAX = 1000
"""CDRs in one answer: a screenful for people, and about 300 KB of memory. More are fetched page by page."""

_POOL_TIMEOUT_S = 5.0
"""How long a call waits for a free connection before the database counts as unavailable."""

_SQLITE_POOL: Final = (5, 10)
"""Connections to a file that are kept, and more at peaks: opening one costs next to nothing."""


class SqlDurable:
    """A `Durable` on a migrated database (see `migrate`). It connects at the first call and again after every loss."""

    def __init__(self, engine: AsyncEngine, name: str, connections_max: int) -> None:
        """`name` is what messages call the database; `connections_max` how many connections there are at most."""
        self.connections_max = connections_max
        self.seconds = Histogram()
        """How long transactions took, with the wait for a connection."""
        self._engine = engine
        self._name = name
        self._insert = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert

    @property
    def connections(self) -> tuple[int, int]:
        """Connections in use now, and kept open for use."""
        pool = self._engine.pool
        return (pool.checkedout(), pool.checkedin()) if isinstance(pool, QueuePool) else (0, 0)

    async def extensions(self) -> Sequence[Extension]:
        """See `Durable.extensions`."""
        async with self._transaction() as connection:
            rows = (await connection.execute(select(extensions).order_by(extensions.c.number))).mappings().all()
        return [_to_extension(row) for row in rows]

    async def add_extension(self, extension: Extension) -> None:
        """See `Durable.add_extension`."""
        try:
            async with self._transaction() as connection:
                await connection.execute(extensions.insert().values(_from_extension(extension)))
                await _bump(connection)
        except IntegrityError:
            raise AlreadyExists(f"extension {extension.number} exists already") from None

    async def replace_extension(self, extension: Extension) -> bool:
        """See `Durable.replace_extension`."""
        change = update(extensions).where(extensions.c.number == extension.number)
        async with self._transaction() as connection:
            found = (await connection.execute(change.values(_from_extension(extension)))).rowcount > 0
            if found:
                await _bump(connection)
        return found

    async def remove_extension(self, number: str) -> bool:
        """See `Durable.remove_extension`."""
        async with self._transaction() as connection:
            found = (await connection.execute(delete(extensions).where(extensions.c.number == number))).rowcount > 0
            if found:
                await connection.execute(delete(dialplan).where(_is_item(USER, number)))
                await _bump(connection)
        return found

    async def items(self) -> Sequence[Item]:
        """See `Durable.items`."""
        query = select(dialplan).order_by(dialplan.c.kind, dialplan.c.name)
        async with self._transaction() as connection:
            rows = (await connection.execute(query)).all()
        return [Item(row.kind, row.name, row.body, row.created_at, row.changed_at) for row in rows]

    async def put_item(self, item: Item, at_revision: int | None = None) -> bool:
        """See `Durable.put_item`."""
        changed = {"body": item.body, "changed_at": item.changed_at_utc}
        row = changed | {"kind": item.kind, "name": item.name, "created_at": item.created_at_utc}
        async with self._transaction() as connection:
            if not await _bump(connection, at_revision):
                return False
            insert = self._insert(dialplan).values(row)
            await connection.execute(insert.on_conflict_do_update(index_elements=["kind", "name"], set_=changed))
        return True

    async def remove_item(self, kind: str, name: str, at_revision: int | None = None) -> bool | None:
        """See `Durable.remove_item`."""
        async with self._transaction() as connection:
            if await connection.scalar(select(dialplan.c.name).where(_is_item(kind, name))) is None:
                return None
            if not await _bump(connection, at_revision):
                return False
            await connection.execute(delete(dialplan).where(_is_item(kind, name)))
        return True

    async def revision(self) -> int:
        """See `Durable.revision`."""
        async with self._transaction() as connection:
            return int((await connection.execute(select(meta.c.revision))).scalar_one())

    async def add_cdrs(self, cdrs: Sequence[Cdr]) -> None:
        """See `Durable.add_cdrs`."""
        if not cdrs:
            return
        async with self._transaction() as connection:
            await connection.execute(self._insert(_CDRS).on_conflict_do_nothing(), [_from_cdr(cdr) for cdr in cdrs])

    async def cdrs(
        self, *, limit: int = 100, before_utc: float | None = None, number: str | None = None
    ) -> Sequence[Cdr]:
        """See `Durable.cdrs`. Calls that `number` took (`answered_by`) are among those to it."""
        limit = min(max(limit, 1), CDR_LIMIT_MAX)
        newest = (_CDRS.c.ended_at.desc(), _CDRS.c.id)
        wanted = select(_CDRS) if before_utc is None else select(_CDRS).where(_CDRS.c.ended_at < before_utc)
        query = wanted.order_by(*newest).limit(limit)
        if number is not None:
            # Each party's newest by its own index; with OR the database would read all of a number's calls.
            parties = (_CDRS.c.caller, _CDRS.c.callee, _CDRS.c.answered_by)
            found = union(*(query.where(party == number).subquery().select() for party in parties)).subquery()
            query = select(found).order_by(found.c.ended_at.desc(), found.c.id).limit(limit)
        async with self._transaction() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [_to_cdr(row) for row in rows]

    async def add_token(self, token: ApiToken) -> None:
        """See `Durable.add_token`; a digest in use is refused in the same way."""
        row = {"name": token.name, "role": token.role, "digest": token.digest, "created_at": token.created_at_utc}
        try:
            async with self._transaction() as connection:
                await connection.execute(api_tokens.insert().values(row))
        except IntegrityError:
            raise AlreadyExists(f"api token {token.name} exists already") from None

    async def tokens(self) -> Sequence[ApiToken]:
        """See `Durable.tokens`."""
        async with self._transaction() as connection:
            rows = (await connection.execute(select(api_tokens).order_by(api_tokens.c.name))).all()
        return [ApiToken(row.name, row.role, row.digest, row.created_at) for row in rows]

    async def remove_token(self, name: str) -> bool:
        """See `Durable.remove_token`."""
        async with self._transaction() as connection:
            return (await connection.execute(delete(api_tokens).where(api_tokens.c.name == name))).rowcount > 0

    async def close(self) -> None:
        """See `Durable.close`."""
        with reaching(self._name):
            await self._engine.dispose()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        """Commits at the end; raises `IntegrityError` as it is and all else of the driver as `Unavailable`."""
        duplicate: IntegrityError | None = None
        began = time.monotonic()
        with reaching(self._name):
            try:
                async with self._engine.begin() as connection:
                    yield connection
            except IntegrityError as error:
                duplicate = error
            finally:
                self.seconds.observe(time.monotonic() - began)
        if duplicate is not None:
            raise duplicate


def open_durable(
    url: str | URL,
    *,
    pool_size: int = 10,
    max_overflow: int = 10,
    pool_pre_ping: bool = True,
    pool_recycle_s: int = 1800,
) -> SqlDurable:
    """The durable store at `url` (see `database_url`), which must have been migrated.

    Nothing connects yet, so a database that is down does not keep a node from starting. The pool settings are
    PostgreSQL's: connections kept, more at peaks, whether each is tried before use (so that a restarted database is
    not noticed), and the age at which one is replaced. Raises `WardenError` for a URL that is none.
    """
    parsed = database_url(url)
    if parsed.get_backend_name() == "sqlite":
        pool_size, max_overflow = _SQLITE_POOL
        engine = make_engine(parsed, pool_size=pool_size, max_overflow=max_overflow, pool_timeout=_POOL_TIMEOUT_S)
    else:
        engine = make_engine(
            parsed,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_pre_ping=pool_pre_ping,
            pool_recycle=pool_recycle_s,
            pool_timeout=_POOL_TIMEOUT_S,
        )
    return SqlDurable(engine, database_name(parsed), pool_size + max_overflow)


_CDRS = cdrs  # `SqlDurable.cdrs` is a method


async def _bump(connection: AsyncConnection, at_revision: int | None = None) -> bool:
    """The directory has changed: in the same transaction, so that who sees the new revision sees the change. False, and
    it has not, where it is not at `at_revision`.
    """
    change = update(meta).values(revision=meta.c.revision + 1)
    if at_revision is not None:
        change = change.where(meta.c.revision == at_revision)
    return (await connection.execute(change)).rowcount > 0


def _is_item(kind: str, name: str) -> ColumnElement[bool]:
    return and_(dialplan.c.kind == kind, dialplan.c.name == name)


def _from_extension(extension: Extension) -> dict[str, Any]:
    unknown = extension.ha1.keys() - HA1_COLUMNS.keys()
    if unknown:
        raise ValueError(f"extension {extension.number}: no column for digest algorithm {sorted(unknown)}")
    return {
        "number": extension.number,
        "name": extension.name,
        "realm": extension.realm,
        "created_at": extension.created_at_utc,
        "srtp": extension.srtp,
        **{column: extension.ha1.get(algorithm) for algorithm, column in HA1_COLUMNS.items()},
    }


def _to_extension(row: RowMapping) -> Extension:
    hashes = {algorithm: row[column] for algorithm, column in HA1_COLUMNS.items()}
    return Extension(
        number=row["number"],
        realm=row["realm"],
        ha1={algorithm: ha1 for algorithm, ha1 in hashes.items() if ha1 is not None},
        name=row["name"],
        created_at_utc=row["created_at"],
        srtp=Policy(row["srtp"]),
    )


def _from_cdr(cdr: Cdr) -> dict[str, Any]:
    fields = msgspec.structs.asdict(cdr).items()
    return {k.removesuffix("_utc"): _text(str(v)) if isinstance(v, str) else v for k, v in fields}


def _to_cdr(row: RowMapping) -> Cdr:
    fields = {name: row[name.removesuffix("_utc")] for name in Cdr.__struct_fields__}
    fields["result"] = Result(fields["result"])
    fields["ended_by"] = Party(fields["ended_by"])
    return Cdr(**fields)


def _text(value: str) -> str:
    """Text that every database takes. Names come from peers, and a NUL or half a surrogate pair in one, which
    PostgreSQL refuses, must not hold up the CDR and all behind it.
    """
    if "\0" not in value and value.isascii():
        return value
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
