"""Brings a database to the schema this version of Warden knows. Run at every start, by every node."""

import asyncio
from importlib.resources import files
from threading import Lock

from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from warden.core.errors import WardenError
from warden.store.database import database_name, database_url, make_engine, reaching, set_up_sqlite
from warden.store.tables import SCHEMA_REVISION

LOCK_KEY = 0x77617264656E
"""`warden` in ASCII: the advisory lock (PostgreSQL) that one migrating node holds."""

_WAIT_S = 60
"""How long a node waits for another one's migration, and a step for the running nodes' transactions."""

# Alembic keeps the migration it runs in module globals, so within one process they must run in turn.
_ALEMBIC = Lock()


class SchemaTooNew(WardenError):
    """A newer Warden has changed the schema: the operator's business, trying again does not help."""


async def migrate(url: str | URL) -> str:
    """Bring the database at `url` to the newest known schema and return its revision; nothing happens if it is there.

    All steps are one transaction: a failed migration leaves the schema as it was. Nodes that start together wait for
    each other. Raises `SchemaTooNew`, or `Unavailable` where the database cannot be reached or changed.
    """
    return await asyncio.to_thread(_migrate, database_url(url))


def _migrate(url: URL) -> str:
    name = database_name(url)
    with _ALEMBIC, reaching(name):
        if url.get_backend_name() == "sqlite":
            engine = create_engine(url.set(drivername="sqlite"), hide_parameters=True, poolclass=NullPool)
            set_up_sqlite(engine)
            with engine.connect() as connection:
                return _upgrade(connection, name)
        # A loop of its own: compiling and applying steps would hold up the caller's for too long.
        return asyncio.run(_migrate_postgresql(url, name))


async def _migrate_postgresql(url: URL, name: str) -> str:
    engine = make_engine(url, command_timeout_s=None, poolclass=NullPool)
    async with engine.connect() as connection:
        return await connection.run_sync(_upgrade, name)


def _upgrade(connection: Connection, name: str) -> str:
    if _is_newest(connection):
        return SCHEMA_REVISION
    # Half a second of imports that an ordinary start does without.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.migration import MigrationContext  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(files("warden.store").joinpath("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    known = ScriptDirectory.from_config(config)
    newest = known.get_current_head()
    assert newest == SCHEMA_REVISION, "tables.py names the newest step"
    with connection.begin():
        _take_turn(connection)
        heads = MigrationContext.configure(connection).get_current_heads()
        if heads != (newest,):
            revisions = {script.revision for script in known.walk_revisions()}
            strange = [head for head in heads if head not in revisions]
            if strange:
                raise SchemaTooNew(
                    f"{name}: its schema {', '.join(strange)} is newer than this version of warden, which knows up to "
                    f"{newest}: start the version that wrote it, or a newer one"
                )
            command.upgrade(config, "head")
    return newest


def _is_newest(connection: Connection) -> bool:
    with connection.begin():
        if not inspect(connection).has_table("alembic_version"):
            return False
        return list(connection.execute(text("SELECT version_num FROM alembic_version")).scalars()) == [SCHEMA_REVISION]


def _take_turn(connection: Connection) -> None:
    """Until the transaction ends no other node migrates."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL lock_timeout = '{_WAIT_S}s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
    else:
        # SQLite's driver would begin only at the first INSERT, and leave CREATE TABLE outside.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
