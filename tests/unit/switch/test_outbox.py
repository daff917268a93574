"""CDRs on their way into the database."""

from pathlib import Path

import msgspec
import pytest

from warden.call.cdr import Cdr, Party, Result, encode_cdr
from warden.store.durable import SqlDurable, open_durable
from warden.store.memory import MemoryStore, Shelf
from warden.store.migrate import migrate
from warden.store.ports import Kind, Write
from warden.switch.outbox import BATCH_MAX, Outbox


def cdr(id_: str) -> Cdr:
    return Cdr(id_, "1001", "1002", 1.0, 2.0, Result.ANSWERED, 200, Party.CALLER)


@pytest.fixture
async def durable(tmp_path: Path) -> SqlDurable:
    url = f"sqlite:///{tmp_path}/warden.sqlite"
    await migrate(url)
    return open_durable(url)


@pytest.mark.parametrize("damaged", [b"", b"\x00", msgspec.msgpack.encode({"id": "x"}), b"\x81\xa2\xff\xfe\x01"])
async def test_records_that_cannot_be_read_hold_up_none_behind_them_and_are_set_aside(
    durable: SqlDurable, damaged: bytes
) -> None:
    store = MemoryStore()
    epoch = await store.claim("a", "node1")
    unreadable = [Write(Kind.OUTBOX, f"damaged-{i}", damaged) for i in range(BATCH_MAX + 1)]
    readable = [Write(Kind.OUTBOX, f"call-{i}", encode_cdr(cdr(f"call-{i}"))) for i in range(BATCH_MAX + 1)]
    await store.write("a", epoch, [*unreadable, *readable])
    aside: list[str] = []
    outbox = Outbox(store, durable, seat="a", epoch=epoch, set_aside=lambda key, _record, _why: aside.append(key))
    try:
        assert await outbox.move()
        assert not await outbox.move()
        assert outbox.moved == len(readable)
        assert outbox.waiting == len(unreadable)
        assert aside == [write.key for write in unreadable], "once each"
        assert {x.id for x in await durable.cdrs(limit=1000)} == {write.key for write in readable}
        assert (await store.read("a", Kind.OUTBOX)).keys() == {write.key for write in unreadable}

        # What comes later goes as well.
        late = [Write(Kind.OUTBOX, "late", encode_cdr(cdr("late")))]
        await store.write("a", epoch, late)
        outbox.keep(late)
        assert not await outbox.move()
        assert outbox.moved == len(readable) + 1
    finally:
        await durable.close()


async def test_what_the_store_has_lost_while_the_database_was_away_reaches_it_all_the_same(durable: SqlDurable) -> None:
    shelf = Shelf()
    store = MemoryStore(shelf)
    epoch = await store.claim("a", "node1")
    outbox = Outbox(store, durable, seat="a", epoch=epoch, set_aside=lambda *_: None)
    ended = [Write(Kind.OUTBOX, f"call-{i}", encode_cdr(cdr(f"call-{i}"))) for i in range(3)]
    await store.write("a", epoch, ended)
    outbox.keep(ended)
    shelf.restore({})
    assert outbox.records() == ended
    try:
        assert await outbox.move()
        assert not await outbox.move()
        assert {x.id for x in await durable.cdrs()} == {write.key for write in ended}
        assert outbox.records() == []
        assert outbox.waiting == 0
    finally:
        await durable.close()


async def test_what_an_earlier_holder_left_is_moved_beside_what_is_new(durable: SqlDurable) -> None:
    store = MemoryStore()
    epoch = await store.claim("a", "node1")
    old, new = (Write(Kind.OUTBOX, key, encode_cdr(cdr(key))) for key in ("old", "new"))
    await store.write("a", epoch, [old, new])
    outbox = Outbox(store, durable, seat="a", epoch=epoch, set_aside=lambda *_: None)
    outbox.keep([new])
    try:
        while await outbox.move():
            pass
        assert {x.id for x in await durable.cdrs()} == {"old", "new"}
        assert await store.read("a", Kind.OUTBOX) == {}
    finally:
        await durable.close()


async def test_a_cdr_that_a_newer_version_has_written_stays_for_that_one(durable: SqlDurable) -> None:
    store = MemoryStore()
    epoch = await store.claim("a", "node1")
    await store.write("a", epoch, [Write(Kind.OUTBOX, "newer", msgspec.msgpack.encode({"schema": 9}))])
    aside: list[str] = []
    outbox = Outbox(store, durable, seat="a", epoch=epoch, set_aside=lambda key, _record, _why: aside.append(key))
    try:
        assert not await outbox.move()
        assert (await store.read("a", Kind.OUTBOX)).keys() == {"newer"}
        assert aside == []
    finally:
        await durable.close()
