"""How the durable database is reached: its URL, its engine, and what its errors are called. Nothing here knows a table.

Passwords stay in the URL: no message, log or traceback made from here shows one, nor any value of a statement.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from warden.core.errors import NotAdmitted, Unavailable, WardenError
from warden.store.primary import Primary
from warden.store.private import make_private

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}

_CONNECT_S = 5.0
"""A primary that does not answer within this is treated as gone; the caller tries again."""

_COMMAND_S = 10.0
"""No statement of Warden takes more than milliseconds; this long means that the other side hangs."""

_READ_ONLY = "25006"
"""SQLSTATE read_only_sql_transaction (PostgreSQL, appendix A)."""

_SQLITE_BUSY_MS = 5000
"""Only the command line writes beside the node, and briefly."""


def database_url(url: str | URL) -> URL:
    """The URL with the asynchronous driver named: `sqlite:///relative`, `sqlite:////absolute`, or
    `postgresql://user:password@host:port/database` (more hosts: `?host=a,b&port=5432,5432`). Raises `WardenError`.
    """
    try:
        parsed = make_url(url)
        driver = _DRIVERS[parsed.get_backend_name()]
    except (ArgumentError, ValueError, KeyError):
        # The text is not repeated: what does not parse as a URL may have its password anywhere.
        raise WardenError("database: the url is neither sqlite:///path nor postgresql://user@host/database") from None
    if driver.startswith("sqlite") and parsed.database in (None, "", ":memory:"):
        raise WardenError("database: the sqlite url names no file")
    return parsed.set(drivername=driver)


def database_name(url: URL) -> str:
    """What messages call the database: the file, or host, port and name; never the password."""
    if url.get_backend_name() == "sqlite":
        return f"database {url.database}"
    shown = url.set(drivername="postgresql", query={k: v for k, v in url.query.items() if k == "host"})
    return f"database {shown.render_as_string(hide_password=True)}"


def database_place(url: str | URL) -> str:
    """The same in short, for whoever is to see at once which database a command worked on: the file, or host/name."""
    parsed = database_url(url)
    if parsed.get_backend_name() == "sqlite":
        return str(parsed.database)
    return f"{parsed.host or parsed.query.get('host', '')}/{parsed.database}"


def make_engine(url: URL, *, command_timeout_s: float | None = _COMMAND_S, **pool: Any) -> AsyncEngine:
    """An engine; nothing connects before the first use. `pool` goes to SQLAlchemy as it is."""
    # hide_parameters: they would stand in tracebacks, and HA1 hashes are among them.
    if url.get_backend_name() == "sqlite":
        engine = create_async_engine(url, hide_parameters=True, **pool)
        set_up_sqlite(engine.sync_engine)
        return engine
    connect = {
        "timeout": _CONNECT_S,
        "command_timeout": command_timeout_s,
        # A standby takes connections too, and would refuse every change.
        "async_creator_fn": Primary().connect,
        "server_settings": {"application_name": "warden"},
    }
    engine = create_async_engine(url, hide_parameters=True, connect_args=connect, **pool)
    event.listen(engine.sync_engine, "handle_error", _leave_if_read_only)
    return engine


def _leave_if_read_only(context: ExceptionContext) -> None:
    """A server that takes no changes any more is no longer the primary: none of its connections is of use."""
    if getattr(context.original_exception, "sqlstate", "") == _READ_ONLY:
        context.is_disconnect = True


def set_up_sqlite(engine: Engine) -> None:
    """Let each of the engine's connections to the file behave as Warden relies on."""
    event.listen(engine, "do_connect", _make_file)
    event.listen(engine, "connect", _prepare_sqlite)


_NOT_ADMITTED = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
"""SQLSTATE 28 with wrong passwords and pg_hba.conf, and 3D000."""


@contextmanager
def reaching(name: str) -> Iterator[None]:
    """Turn whatever the driver raises into `Unavailable`, with the database's name and the driver's own words."""
    try:
        yield
    except TimeoutError as error:
        raise Unavailable(f"{name}: does not answer in time") from error
    except (SQLAlchemyError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, sqlite3.Error) as error:
        cause: BaseException = error
        if isinstance(error, DBAPIError) and error.orig is not None:
            # SQLAlchemy wraps asyncpg's errors twice, and its own text holds the statement.
            cause = error.orig.__cause__ or error.orig
        first_line = (str(cause) or type(cause).__name__).splitlines()[0]
        raise (NotAdmitted if isinstance(cause, _NOT_ADMITTED) else Unavailable)(f"{name}: {first_line}") from error


def _make_file(_dialect: object, _record: object, arguments: Any, _more: object) -> None:
    # HA1 hashes are in it, which are as good as the passwords to whoever may read them.
    make_private(arguments[0])


def _prepare_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_SQLITE_BUSY_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    # What is durable must survive a power cut too, and is written seldom enough to wait for the disk.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()
