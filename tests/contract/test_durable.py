"""What the durable store promises, on SQLite and on PostgreSQL."""

import asyncio
import hashlib
import os
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from warden.call.cdr import Cdr, Party, Result
from warden.core.errors import Unavailable, WardenError
from warden.sdp.sdes import Policy
from warden.store.database import database_place
from warden.store.durable import CDR_LIMIT_MAX, SqlDurable, open_durable
from warden.store.migrate import migrate
from warden.store.ports import USER, AlreadyExists, ApiToken, Extension, Item


@pytest.fixture
async def durable(database_url: str) -> AsyncIterator[SqlDurable]:
    await migrate(database_url)
    opened = open_durable(database_url)
    yield opened
    await opened.close()


def extension(number: str, name: str = "") -> Extension:
    ha1 = {algorithm: hashlib.sha256(f"{number}{algorithm}".encode()).hexdigest() for algorithm in ("MD5", "SHA-256")}
    return Extension(number=number, realm="example.org", ha1=ha1, name=name, created_at_utc=1_700_000_000.25)


def cdr(id_: str, ended_at_utc: float, caller: str = "1001", callee: str = "1002", **more: Any) -> Cdr:
    return Cdr(
        id=id_,
        caller=caller,
        callee=callee,
        started_at_utc=ended_at_utc - 12.5,
        ended_at_utc=ended_at_utc,
        result=Result.ANSWERED,
        status=200,
        ended_by=Party.CALLEE,
        **more,
    )


async def test_extensions_are_kept_whole_and_listed_by_number(durable: SqlDurable) -> None:
    ann, bob = extension("1002", name="Ann Öztürk"), extension("1001")
    await durable.add_extension(ann)
    await durable.add_extension(bob)
    assert await durable.extensions() == [bob, ann]

    changed = msgspec.structs.replace(ann, name="Ann", ha1={"SHA-512-256": "ab" * 32}, srtp=Policy.REQUIRED)
    assert await durable.replace_extension(changed)
    assert await durable.extensions() == [bob, changed]
    assert await durable.remove_extension("1001")
    assert await durable.extensions() == [changed]


async def test_an_extension_that_exists_is_not_added_and_one_that_does_not_is_not_changed(durable: SqlDurable) -> None:
    await durable.add_extension(extension("1001", name="first"))
    with pytest.raises(AlreadyExists, match="1001"):
        await durable.add_extension(extension("1001", name="second"))
    assert not await durable.replace_extension(extension("1002"))
    assert not await durable.remove_extension("1002")
    assert [one.name for one in await durable.extensions()] == ["first"]


async def test_the_revision_grows_with_each_change_of_the_directory_and_with_nothing_else(durable: SqlDurable) -> None:
    assert await durable.revision() == 0
    await durable.add_extension(extension("1001"))
    assert await durable.revision() == 1
    await durable.replace_extension(extension("1001", name="new"))
    assert await durable.revision() == 2
    await durable.remove_extension("1001")
    assert await durable.revision() == 3

    await durable.add_extension(extension("1001"))
    with pytest.raises(AlreadyExists):
        await durable.add_extension(extension("1001"))
    await durable.replace_extension(extension("1002"))
    await durable.remove_extension("1002")
    await durable.add_cdrs([cdr("a", 1.0)])
    await durable.add_token(ApiToken("t", "admin", "d", 0.0))
    assert await durable.revision() == 4


async def test_an_item_of_the_dialplan_is_made_changed_and_removed_and_counts_as_a_change(durable: SqlDurable) -> None:
    route, group = Item("route", "abroad", '{"pattern": "00."}', 5.0, 5.0), Item("group", "abroad", "{}", 5.0, 5.0)
    assert await durable.put_item(route)
    assert await durable.put_item(group)
    assert await durable.items() == [group, route]
    assert await durable.put_item(Item("route", "abroad", '{"pattern": "0Ö"}', 9.0, 9.0))
    assert await durable.items() == [group, Item("route", "abroad", '{"pattern": "0Ö"}', 5.0, 9.0)]
    assert await durable.remove_item("group", "abroad") is True
    assert await durable.remove_item("group", "abroad") is None
    assert [item.kind for item in await durable.items()] == ["route"]
    assert await durable.revision() == 4


async def test_an_item_that_was_judged_by_an_older_directory_is_not_put_and_not_removed(durable: SqlDurable) -> None:
    item = Item("route", "abroad", "{}")
    assert await durable.put_item(item, at_revision=0)
    assert not await durable.put_item(Item("route", "home", "{}"), at_revision=0)
    assert await durable.remove_item("route", "abroad", at_revision=0) is False
    assert await durable.items() == [item]
    assert await durable.revision() == 1
    assert await durable.remove_item("route", "abroad", at_revision=1) is True


async def test_the_settings_of_an_extension_go_with_it(durable: SqlDurable) -> None:
    await durable.add_extension(extension("1001"))
    await durable.put_item(Item(USER, "1001", "{}"))
    await durable.put_item(Item("group", "1001", "{}"))
    await durable.remove_extension("1001")
    assert [item.kind for item in await durable.items()] == ["group"]


async def test_changes_made_at_once_all_count(durable: SqlDurable) -> None:
    await asyncio.gather(*(durable.add_extension(extension(str(number))) for number in range(1000, 1030)))
    assert await durable.revision() == 30
    assert len(await durable.extensions()) == 30


async def test_a_digest_algorithm_without_a_column_is_the_callers_fault(durable: SqlDurable) -> None:
    with pytest.raises(ValueError, match="WHIRLPOOL"):
        await durable.add_extension(msgspec.structs.replace(extension("1001"), ha1={"WHIRLPOOL": "00"}))
    assert await durable.revision() == 0


async def test_a_cdr_comes_back_as_it_was(durable: SqlDurable) -> None:
    missed = Cdr(
        id="missed",
        caller="+4930123456",
        callee="1001",
        started_at_utc=1_700_000_000.123456,
        ended_at_utc=1_700_000_020.5,
        result=Result.NO_ANSWER,
        status=487,
        ended_by=Party.CALLER,
    )
    answered = cdr(
        "answered",
        1_700_000_010.0,
        reason='SIP;cause=200;text="it\'s over"',
        caller_name="Zoë \N{TELEPHONE RECEIVER}",
        answered_by="1003",
        ringing_at_utc=1_700_000_001.0,
        answered_at_utc=1_700_000_002.0,
        sip_call_id="a@b",
        seat="seat-1",
        node="node1",
    )
    await durable.add_cdrs([answered, missed])
    assert await durable.cdrs() == [missed, answered]


async def test_a_cdr_stored_twice_is_there_once_as_it_was_first(durable: SqlDurable) -> None:
    first = cdr("a", 1.0, node="node1")
    await durable.add_cdrs([first])
    await durable.add_cdrs([cdr("a", 9.0, node="node2"), cdr("b", 2.0), cdr("b", 3.0)])
    await durable.add_cdrs([])
    assert await durable.cdrs() == [cdr("b", 2.0), first]


async def test_successors_that_flush_the_same_cdrs_at_once_store_each_once(durable: SqlDurable) -> None:
    outbox = [cdr(f"c{n}", float(n)) for n in range(200)]
    await asyncio.gather(*(durable.add_cdrs(outbox) for _ in range(4)))
    assert await durable.cdrs(limit=1000) == outbox[::-1]


async def test_cdrs_are_read_newest_first_page_by_page_and_by_party(durable: SqlDurable) -> None:
    calls = [
        cdr("1", 1.0, caller="1001", callee="1002"),
        cdr("2", 2.0, caller="1002", callee="1001"),
        cdr("3", 3.0, caller="1003", callee="2000", answered_by="1001"),
        cdr("4", 4.0, caller="1003", callee="1002"),
        cdr("5", 5.0, caller="1001", callee="1001", answered_by="1001"),
        cdr("6", 6.0, caller="10011", callee="1002"),
    ]
    await durable.add_cdrs(calls)

    async def ids(**query: Any) -> str:
        return "".join(call.id for call in await durable.cdrs(**query))

    assert await ids() == "654321"
    assert await ids(limit=2) == "65"
    assert await ids(limit=2, before_utc=5.0) == "43"
    assert await ids(number="1001") == "5321"
    assert await ids(number="1001", limit=2) == "53"
    assert await ids(number="1001", limit=2, before_utc=3.0) == "21"
    assert await ids(number="nobody") == ""
    assert await ids(number="1001' OR ''='") == ""


async def test_one_answer_never_holds_more_cdrs_than_the_limit(durable: SqlDurable) -> None:
    await durable.add_cdrs([cdr(f"c{n}", float(n)) for n in range(CDR_LIMIT_MAX + 5)])
    assert len(await durable.cdrs()) == 100
    assert len(await durable.cdrs(limit=10**9)) == CDR_LIMIT_MAX
    assert len(await durable.cdrs(limit=-1)) == 1


async def test_a_peers_unprintable_name_does_not_hold_up_the_cdrs(durable: SqlDurable) -> None:
    await durable.add_cdrs([cdr("a", 1.0, caller_name="nul\0 half\ud83d\ude00\udcff", callee="\0"), cdr("b", 2.0)])
    fine, odd = await durable.cdrs()
    assert fine == cdr("b", 2.0)
    assert odd.caller_name.startswith("nul\ufffd half")
    assert odd.callee == "\ufffd"


async def test_tokens_have_names_and_digests_of_their_own(durable: SqlDurable) -> None:
    ops, wall = ApiToken("ops", "admin", "aa" * 32, 5.0), ApiToken("wallboard", "viewer", "bb" * 32, 6.5)
    await durable.add_token(wall)
    await durable.add_token(ops)
    assert await durable.tokens() == [ops, wall]
    with pytest.raises(AlreadyExists):
        await durable.add_token(ApiToken("ops", "viewer", "cc" * 32, 7.0))
    with pytest.raises(AlreadyExists):
        await durable.add_token(ApiToken("other", "viewer", "aa" * 32, 7.0))
    assert await durable.remove_token("ops")
    assert not await durable.remove_token("ops")
    assert await durable.tokens() == [wall]


async def test_what_one_store_wrote_the_next_reads_and_closing_twice_is_fine(database_url: str) -> None:
    await migrate(database_url)
    first = open_durable(database_url)
    await first.add_extension(extension("1001"))
    await first.close()
    await first.close()
    second = open_durable(database_url)
    assert await second.extensions() == [extension("1001")]
    assert await second.revision() == 1
    await second.close()


async def test_an_error_shows_neither_the_password_nor_the_hashes(database_url: str) -> None:
    durable = open_durable(database_url)  # never migrated: there are no tables
    one = extension("1001")
    with pytest.raises(Unavailable, match=r"database .*extensions") as caught:
        await durable.add_extension(one)
    story = "".join(traceback.format_exception(caught.value))
    assert "not-to-be-shown" not in story
    assert not any(ha1 in story for ha1 in one.ha1.values())
    await durable.close()


async def test_a_database_file_that_cannot_be_opened_is_unavailable_by_name_until_it_can(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "warden.db"
    durable = open_durable(f"sqlite:///{path}")
    with pytest.raises(Unavailable, match=f"^database {path}: unable to open"):
        await durable.revision()
    with pytest.raises(Unavailable, match=f"^database {path}: unable to open"):
        await migrate(f"sqlite:///{path}")
    path.parent.mkdir()
    await migrate(f"sqlite:///{path}")
    assert await durable.revision() == 0
    await durable.close()


async def test_the_database_file_and_its_log_are_for_their_owner_only(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/warden.db"
    loose = os.umask(0)
    try:
        await migrate(url)
        modes = [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()]
        (tmp_path / "warden.db").unlink()
        # Also where the file is made by whoever comes first after an accident.
        durable = open_durable(url)
        with pytest.raises(Unavailable):
            await durable.revision()
        modes += [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()]
        await durable.close()
    finally:
        os.umask(loose)
    assert len(modes) >= 2
    assert set(modes) == {0o600}


def test_a_database_is_named_in_short_by_its_file_or_by_host_and_name() -> None:
    assert database_place("sqlite:///data/warden.sqlite") == "data/warden.sqlite"
    assert database_place("postgresql://user:secret@db1:5433/pbx") == "db1/pbx"


FAILING_DISK = """
import asyncio, resource, sys
from warden.core.errors import Unavailable
from warden.store.durable import open_durable
from warden.store.migrate import migrate
from warden.store.ports import Extension

async def main() -> None:
    url = f"sqlite:///{sys.argv[1]}"
    await migrate(url)
    durable = open_durable(url)
    await durable.add_extension(Extension("1001", "r", {}))
    # The kernel refuses to let files grow: to SQLite a disk that fails its writes.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    for number in ("1002", "1003"):
        try:
            await durable.add_extension(Extension(number, "r", {}))
        except Unavailable as error:
            print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    await durable.add_extension(Extension("1004", "r", {}))
    print([one.number for one in await durable.extensions()], await durable.revision())
    await durable.close()

asyncio.run(main())
"""


def test_a_failing_disk_is_told_by_name_and_changes_go_on_when_it_works_again(tmp_path: Path) -> None:
    path = tmp_path / "warden.db"
    done = subprocess.run([sys.executable, "-c", FAILING_DISK, path], capture_output=True, text=True, check=False)
    *errors, after = done.stdout.splitlines()
    assert len(errors) == 2, done.stderr
    assert all(error.startswith(f"database {path}: ") for error in errors)
    assert after == "['1001', '1004'] 2"


@pytest.mark.parametrize(
    "url", ["mysql://warden:not-to-be-shown@host/db", "nonsense", "sqlite://", "sqlite:///:memory:"]
)
def test_a_url_that_names_no_known_database_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(WardenError, match=r"^database: ") as caught:
        open_durable(url)
    assert "not-to-be-shown" not in "".join(traceback.format_exception(caught.value))
