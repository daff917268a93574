"""Two PostgreSQL servers, a primary and its standby, from the durable store; and what its pool settings do."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest
from sqlalchemy import URL
from sqlalchemy.engine import make_url

from warden.call.cdr import Cdr, Party, Result, encode_cdr
from warden.core.errors import Unavailable
from warden.store.durable import SqlDurable, open_durable
from warden.store.memory import MemoryStore
from warden.store.migrate import migrate
from warden.store.ports import Extension, Kind, Write
from warden.switch.outbox import Outbox

from private_postgres import Postgres

PATIENCE_S = 30.0
"""For a machine that is busy with other tests."""


def at_hosts(url: str, *ports: int) -> URL:
    """The database at several places, the first of which is asked first."""
    hosts = {"host": ",".join(["127.0.0.1"] * len(ports)), "port": ",".join(map(str, ports))}
    return make_url(url).set(host=None, port=None, query=hosts)


@asynccontextmanager
async def opened(url: str | URL, **settings: Any) -> AsyncIterator[SqlDurable]:
    durable = open_durable(url, **settings)
    try:
        yield durable
    finally:
        await durable.close()


def cdr(id_: str) -> Cdr:
    return Cdr(id_, "1001", "1002", 1.0, 2.0, Result.ANSWERED, 200, Party.CALLER)


@pytest.fixture
def pair() -> Iterator[tuple[Postgres, Postgres]]:
    """A primary and its standby, both running."""
    servers: list[Postgres] = []
    try:
        servers.append(Postgres())
        servers[0].start()
        servers.append(Postgres(of=servers[0]))
        servers[1].start()
        yield servers[0], servers[1]
    finally:
        for server in servers:
            server.close()


async def test_after_a_fail_over_the_new_primary_is_found_and_the_standby_is_never_written_to(
    pair: tuple[Postgres, Postgres],
) -> None:
    primary, standby = pair
    url = primary.new_database()
    # The standby is asked first, takes the connection, and is of no use.
    hosts = at_hosts(url, standby.port, primary.port)
    await migrate(hosts)
    async with opened(hosts) as durable:
        await durable.add_cdrs([cdr("before")])
        await durable.add_extension(Extension("1001", "r", {}))
        # What was committed is at the standby before the primary goes: how to make sure of it is PostgreSQL's business.
        async with asyncio.timeout(PATIENCE_S):
            while not await standby_has(standby, url, "before"):
                await asyncio.sleep(0.02)
        primary.kill()
        with pytest.raises(Unavailable, match="database postgresql://"):
            await durable.add_cdrs([cdr("while there is none")])
        standby.promote()
        await durable.add_cdrs([cdr("after")])
        assert {row.id for row in await durable.cdrs()} == {"before", "after"}
        assert await durable.revision() == 1


async def standby_has(standby: Postgres, url: str, id_: str) -> bool:
    try:
        connection = await asyncpg.connect(make_url(url).set(port=standby.port).render_as_string(hide_password=False))
    except asyncpg.InvalidCatalogNameError:
        # It has not come as far as to the database yet.
        return False
    try:
        return bool(await connection.fetchval("SELECT count(*) FROM cdrs WHERE id = $1", id_))
    except asyncpg.UndefinedTableError:
        return False
    finally:
        await connection.close()


async def test_a_primary_that_takes_no_changes_any_more_is_left_by_all_connections(
    pair: tuple[Postgres, Postgres],
) -> None:
    primary, standby = pair
    url = primary.new_database()
    hosts = at_hosts(url, primary.port, standby.port)
    await migrate(hosts)
    async with opened(hosts) as durable:
        await asyncio.gather(*(durable.add_cdrs([cdr(f"{n}")]) for n in range(8)))
        async with asyncio.timeout(PATIENCE_S):
            while not all([await standby_has(standby, url, f"{n}") for n in range(8)]):
                await asyncio.sleep(0.02)
        standby.promote()
        primary.sql(url, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        async with asyncio.timeout(PATIENCE_S):
            while await is_writable(url):
                await asyncio.sleep(0.02)
        with suppress(Unavailable):
            await durable.add_cdrs([cdr("told by the refusal")])
        await asyncio.gather(*(durable.add_cdrs([cdr(f"after {n}")]) for n in range(8)))
        assert {f"after {n}" for n in range(8)} <= {row.id for row in await durable.cdrs()}
        assert await standby_has(standby, url, "after 0")
        assert not await standby_has(primary, url, "after 0")


async def is_writable(url: str) -> bool:
    connection = await asyncpg.connect(url)
    try:
        return bool(await connection.fetchval("SHOW default_transaction_read_only") == "off")
    finally:
        await connection.close()


async def test_a_host_that_answers_nothing_at_all_does_not_keep_the_other_from_being_found(postgres: Postgres) -> None:
    url = postgres.new_database()
    await migrate(url)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # the system takes connections, and nobody ever reads from them
        port = silent.getsockname()[1]
        async with opened(at_hosts(url, port, port, postgres.port)) as durable:
            await durable.add_cdrs([cdr("found")])
            assert [row.id for row in await durable.cdrs()] == ["found"]


async def test_where_no_host_is_there_the_reason_is_told_without_the_password(postgres: Postgres) -> None:
    url = postgres.new_database()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        async with opened(at_hosts(url, port, port)) as durable:
            with pytest.raises(Unavailable, match=r"host=127\.0\.0\.1.*[Cc]onnect") as caught:
                await durable.revision()
            assert "not-to-be-shown" not in str(caught.value)


async def connections(url: str) -> set[int]:
    """The server's processes for Warden."""
    asking = await asyncpg.connect(url)
    try:
        rows = await asking.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = 'warden'")
    finally:
        await asking.close()
    return {row["pid"] for row in rows}


async def test_the_pool_keeps_and_opens_as_many_connections_as_it_is_told(postgres: Postgres) -> None:
    url = postgres.new_database()
    await migrate(url)
    blocker = await asyncpg.connect(url)
    async with opened(url, pool_size=2, max_overflow=3) as durable:
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("LOCK TABLE cdrs IN ACCESS EXCLUSIVE MODE")
        asked = [asyncio.create_task(durable.cdrs()) for _ in range(20)]
        async with asyncio.timeout(PATIENCE_S):
            while len(await connections(url)) < 5:
                await asyncio.sleep(0.02)
        # All the others have asked as well by now, and wait for a connection that is free.
        assert len(await connections(url)) == 5
        await transaction.rollback()
        await asyncio.gather(*asked)
        async with asyncio.timeout(PATIENCE_S):
            while len(await connections(url)) > 2:
                await asyncio.sleep(0.02)
        assert len(await connections(url)) == 2
    await blocker.close()


async def test_a_connection_that_is_too_old_is_replaced(postgres: Postgres) -> None:
    url = postgres.new_database()
    await migrate(url)
    async with opened(url, pool_size=1, pool_recycle_s=3600) as kept, opened(url, pool_recycle_s=0) as replaced:
        await kept.revision()
        first = await connections(url)
        await kept.revision()
        assert await connections(url) == first
        await replaced.revision()
        old = await connections(url) - first
        await replaced.revision()
        assert not old & await connections(url)


async def test_without_a_test_before_use_a_lost_connection_is_noticed_by_a_call(postgres: Postgres) -> None:
    url = postgres.new_database()
    await migrate(url)
    async with opened(url, pool_pre_ping=False) as trusting, opened(url, pool_pre_ping=True) as testing:
        assert [await trusting.revision(), await testing.revision()] == [0, 0]
        for pid in await connections(url):
            postgres.sql(url, f"SELECT pg_terminate_backend({pid})")
        assert await testing.revision() == 0
        with pytest.raises(Unavailable):
            await trusting.revision()
        assert await trusting.revision() == 0


class CutLine:
    """A way to the server that breaks after the server has answered the next COMMIT, before the client hears of it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.is_armed = False
        self.cuts = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> int:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        cut = asyncio.Event()
        for work in (
            self._pass(reader, far_writer, cut), self._pass_back(far_reader, writer, far_writer, cut)
        ):  # fmt: skip
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, cut: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if self.is_armed and b"COMMIT" in data:
                    self.is_armed = False
                    cut.set()
                sink.write(data)
        sink.close()

    async def _pass_back(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, back: asyncio.StreamWriter, cut: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if cut.is_set():
                    assert b"COMMIT" in data, "what the server says of it"
                    self.cuts += 1
                    break
                sink.write(data)
        sink.close()
        back.close()


def refuse(key: str, record: bytes, why: str) -> None:
    raise AssertionError(f"{key} {record!r} can be read: {why}")


async def test_a_cdr_whose_commit_was_never_confirmed_is_stored_once(postgres: Postgres) -> None:
    url = postgres.new_database()
    await migrate(url)
    line = CutLine(postgres.port)
    port = await line.listen()
    store = MemoryStore()
    epoch = await store.claim("s", "n")
    ended = [Write(Kind.OUTBOX, key, encode_cdr(cdr(key))) for key in ("a", "b")]
    async with opened(make_url(url).set(port=port)) as durable, opened(url) as truth:
        outbox = Outbox(store, durable, seat="s", epoch=epoch, set_aside=refuse)
        await durable.revision()  # a connection is there
        await store.write("s", epoch, ended)
        line.is_armed = True
        with pytest.raises(Unavailable):
            await outbox.move()
        assert line.cuts == 1
        assert {row.id for row in await truth.cdrs()} == {"a", "b"}
        assert (await store.read("s", Kind.OUTBOX)).keys() == {"a", "b"}
        while await outbox.move():
            pass
        assert sorted(row.id for row in await truth.cdrs()) == ["a", "b"]
        assert await store.read("s", Kind.OUTBOX) == {}
    await line.close()
