"""The schema the migrations make, on SQLite and on PostgreSQL."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from sqlalchemy.pool import NullPool

from warden.core.errors import Unavailable
from warden.store.database import database_url as parsed
from warden.store.database import make_engine
from warden.store.durable import open_durable
from warden.store.migrate import LOCK_KEY, SchemaTooNew, migrate
from warden.store.ports import Extension
from warden.store.tables import metadata

T = TypeVar("T")


async def run(url: str, work: Callable[[Connection], T]) -> T:
    engine = make_engine(parsed(url), poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(work)
    finally:
        await engine.dispose()


async def test_the_migrated_schema_is_the_one_the_code_knows(database_url: str) -> None:
    await migrate(database_url)

    def differences(connection: Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata))

    assert await run(database_url, differences) == []


async def test_a_database_already_migrated_stays_as_it_is(database_url: str) -> None:
    first = await migrate(database_url)
    durable = open_durable(database_url)
    await durable.add_extension(Extension("1001", "r", {"MD5": "00"}))
    assert await migrate(database_url) == first
    assert await durable.revision() == 1
    assert [one.number for one in await durable.extensions()] == ["1001"]
    await durable.close()


async def test_migrations_asked_for_at_once_in_one_process_take_turns(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/{n}.db" for n in range(6)]
    await asyncio.gather(*(migrate(url) for url in urls))
    tables = [await run(url, lambda c: sorted(inspect(c).get_table_names())) for url in urls]
    assert tables == [["alembic_version", "api_tokens", "cdrs", "dialplan", "extensions", "meta"]] * 6


START = "import asyncio, sys; from warden.store.migrate import migrate; print(asyncio.run(migrate(sys.argv[1])))"


def test_nodes_that_start_together_do_not_get_in_each_others_way(database_url: str) -> None:
    nodes = [
        subprocess.Popen(
            [sys.executable, "-c", START, database_url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(3)
    ]
    said = [node.communicate()[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0] * 3, said
    assert len(set(said)) == 1


async def test_a_node_waits_for_another_ones_migration(postgres: Any) -> None:
    url = postgres.new_database()
    engine = make_engine(parsed(url), poolclass=NullPool)
    async with engine.connect() as other_node:
        await other_node.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
        mine = asyncio.ensure_future(migrate(url))
        waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        while not (await other_node.execute(waiting)).scalar_one():
            assert not mine.done()
        await other_node.commit()
    await mine
    await engine.dispose()


async def test_a_database_written_by_a_newer_version_is_refused_and_left_alone(database_url: str) -> None:
    newest = await migrate(database_url)
    await run(database_url, lambda c: c.execute(text("UPDATE alembic_version SET version_num = 'from-the-future'")))
    with pytest.raises(SchemaTooNew, match=f"^database .* from-the-future is newer than .* knows up to {newest}"):
        await migrate(database_url)


async def test_a_migration_that_fails_leaves_nothing_behind(database_url: str) -> None:
    await run(database_url, lambda c: c.execute(text("CREATE TABLE meta (something_else TEXT)")))
    with pytest.raises(Unavailable, match=r"database .*meta.* already exists"):
        await migrate(database_url)
    assert await run(database_url, lambda c: inspect(c).get_table_names()) == ["meta"]
