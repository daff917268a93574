"""What the SQLite store promises beyond the contract: kills, disks that are full, broken, slow or locked."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import pytest

from warden.core.errors import Unavailable, WardenError
from warden.store.local import _PENDING_MAX, LocalStore
from warden.store.ports import Kind, Write


def call(key: str, value: bytes | None = b"v") -> Write:
    return Write(Kind.CALL, key, value)


WRITER = """
import asyncio, sys
from warden.store.local import LocalStore
from warden.store.ports import Kind, Write

async def main() -> None:
    store = LocalStore(sys.argv[1], slow_s=float(sys.argv[2]))
    epoch = await store.claim("s", "victim")

    async def writer(name: int) -> None:
        for n in range(1_000_000):
            value = str(n).encode()
            await store.write("s", epoch, [Write(Kind.CALL, f"{name}-{part}", value * 400) for part in "abc"])
            sys.stdout.write(f"{name} {n}\\n")
            sys.stdout.flush()

    await asyncio.gather(*(writer(name) for name in range(4)))

asyncio.run(main())
"""


def kill_while_writing(path: Path, slow_s: str) -> dict[str, int]:
    """The number each of the victim's writers was last told is stored."""
    with subprocess.Popen([sys.executable, "-c", WRITER, path, slow_s], stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        told = [victim.stdout.readline() for _ in range(3000)]
        victim.send_signal(signal.SIGKILL)
        told += victim.stdout.readlines()
    return {name: int(n) for name, n in (line.split() for line in told if line.endswith("\n"))}


@pytest.mark.parametrize("slow_s", ["1", "0"], ids=["by the loop", "by the thread"])
async def test_a_killed_process_loses_nothing_it_was_told_is_stored(tmp_path: Path, slow_s: str) -> None:
    path = tmp_path / "seats.db"
    acknowledged = kill_while_writing(path, slow_s)
    store = LocalStore(path)
    records = await store.read("s", Kind.CALL)
    for name, n in acknowledged.items():
        stored = {records[f"{name}-{part}"] for part in "abc"}
        assert len(stored) == 1, "a batch is there as a whole or not at all"
        # The next one may have been stored too, and not acknowledged any more.
        assert stored.pop() in (str(n).encode() * 400, str(n + 1).encode() * 400)
    assert len(acknowledged) == 4
    assert await store.claim("s", "successor") == 2
    await store.close()


async def test_a_full_store_says_so_takes_deletes_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "seats.db"
    store = LocalStore(path, size_max_bytes=200_000)
    await store.claim("s", "a")
    stored = 0

    async def fill() -> None:
        nonlocal stored
        while stored < 1000:
            await store.write("s", 1, [call(f"k{stored}", bytes(5000))])
            stored += 1

    with pytest.raises(Unavailable, match=r"seats\.db: disk full, or file at its size limit"):
        await fill()
    assert 10 < stored < 100
    assert len(await store.read("s", Kind.CALL)) == stored

    # A call that ends beside one that begins: what frees room is not held up by what needs it.
    ended, begun = await asyncio.gather(
        store.write("s", 1, [call(f"k{n}", None) for n in range(10)]),
        store.write("s", 1, [call(f"more{n}", bytes(100_000)) for n in range(5)]),
        return_exceptions=True,
    )
    assert ended == 0
    assert isinstance(begun, Unavailable)
    await store.write("s", 1, [call("room again", bytes(5000))])
    assert len(await store.read("s", Kind.CALL)) == stored - 10 + 1
    await store.close()


FAILING_DISK = """
import asyncio, resource, sys
from warden.core.errors import Unavailable
from warden.store.local import LocalStore
from warden.store.ports import Kind, Write

async def main() -> None:
    store = LocalStore(sys.argv[1])
    epoch = await store.claim("s", "a")
    losses = await store.write("s", epoch, [Write(Kind.CALL, "before", b"1")])
    # The kernel refuses to let files grow: to SQLite a disk that fails its writes.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    for _ in range(3):
        try:
            await store.write("s", epoch, [Write(Kind.CALL, "during", b"2")])
        except Unavailable as error:
            print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    print("all that was written is to be written again:", await store.write("s", epoch, []) > losses)
    await store.write("s", epoch, [Write(Kind.CALL, "after", b"3")])
    print(sorted(await store.read("s", Kind.CALL)))
    await store.close()

asyncio.run(main())
"""


def test_a_failing_disk_is_told_by_name_and_the_store_works_again_when_the_disk_does(tmp_path: Path) -> None:
    path = tmp_path / "seats.db"
    done = subprocess.run([sys.executable, "-c", FAILING_DISK, path], capture_output=True, text=True, check=False)
    *errors, again, records = done.stdout.splitlines()
    # The file was opened anew, and may be another one.
    assert again.endswith(": True")
    assert len(errors) == 3, done.stderr
    assert all(error.startswith(f"{path}: ") for error in errors)
    assert records == "['after', 'before']"


READ_ONLY = """
import os, sys
from warden.core.errors import Unavailable
from warden.store.local import LocalStore
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    LocalStore(sys.argv[1])
except Unavailable as error:
    print(error)
"""


@pytest.mark.parametrize(("exists", "mode"), [(False, 0o555), (True, 0o555), (True, 0o777)])
def test_a_read_only_folder_or_file_is_refused_at_the_start_by_name(exists: bool, mode: int) -> None:
    # Root may write anywhere, so there the child becomes nobody, who must be able to come to the folder.
    with tempfile.TemporaryDirectory(prefix="warden-ro-") as name:
        folder = Path(name)
        path = folder / "seats.db"
        if exists:
            asyncio.run(LocalStore(path).close())
            path.chmod(0o444)
        folder.chmod(mode)
        done = subprocess.run([sys.executable, "-c", READ_ONLY, path], capture_output=True, text=True, check=False)
        folder.chmod(0o700)
    assert done.stdout.startswith(f"{path}: cannot be written"), done.stdout + done.stderr


async def test_the_file_and_its_log_are_for_their_owner_only(tmp_path: Path) -> None:
    loose = os.umask(0)
    try:
        store = LocalStore(tmp_path / "seats.db")
        await store.write("s", 1, [call("k")])
    finally:
        os.umask(loose)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"seats.db": 0o600, "seats.db-wal": 0o600, "seats.db-shm": 0o600}
    await store.close()


async def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "seats.db"
    await LocalStore(path).close()
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 7")
    before = path.read_bytes()
    with pytest.raises(
        WardenError, match=r"seats\.db: its schema 7 is newer than this version .* knows up to 1: start"
    ):
        LocalStore(path)
    assert path.read_bytes() == before


async def test_a_damaged_file_is_refused_at_the_start_by_name(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"this is no database at all" * 1000)
    with pytest.raises(Unavailable, match=r"garbage\.db: damaged"):
        LocalStore(garbage)

    holed = tmp_path / "holed.db"
    store = LocalStore(holed)
    await store.claim("s", "a")
    await store.write("s", 1, [call(f"k{n}", bytes(2000)) for n in range(100)])
    await store.close()
    data = bytearray(holed.read_bytes())
    data[5 * 4096 : 12 * 4096] = os.urandom(7 * 4096)
    holed.write_bytes(data)
    with pytest.raises(Unavailable, match=r"holed\.db: damaged"):
        LocalStore(holed)


async def test_a_file_held_by_another_process_is_unavailable_until_it_is_free(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "seats.db")
    await store.claim("s", "a")
    intruder = sqlite3.connect(tmp_path / "seats.db", isolation_level=None)
    intruder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match=r"seats\.db: held by another process"):
        await store.write("s", 1, [call("k")])
    # That took long enough to call the disk slow: the next write leaves the loop free to run while it waits.
    waiting = asyncio.ensure_future(store.write("s", 1, [call("k")]))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    await asyncio.wait([waiting])
    assert isinstance(waiting.exception(), Unavailable)
    intruder.execute("ROLLBACK")
    intruder.close()
    await store.write("s", 1, [call("k")])
    assert await store.read("s", Kind.CALL) == {"k": b"v"}
    await store.close()


async def test_behind_a_disk_that_hangs_calls_wait_in_order_and_not_without_end(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "seats.db")
    await store.claim("s", "a")
    intruder = sqlite3.connect(tmp_path / "seats.db", isolation_level=None)
    intruder.execute("BEGIN IMMEDIATE")
    claim = asyncio.ensure_future(store.claim("s", "a"))
    await asyncio.sleep(0)
    writes = [asyncio.ensure_future(store.write("s", 2, [call("n", b"%d" % n)])) for n in range(_PENDING_MAX - 1)]
    for _ in range(5):
        await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="disk too slow"):
        await store.write("s", 2, [call("one too many")])
    assert not claim.done()
    intruder.execute("ROLLBACK")
    intruder.close()
    assert await claim == 2
    await asyncio.gather(*writes)
    assert await store.read("s", Kind.CALL) == {"n": b"%d" % (_PENDING_MAX - 2)}
    await store.close()


async def test_a_caller_who_gave_up_waiting_disturbs_nobody(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "seats.db", slow_s=0)
    await store.claim("s", "a")
    impatient = asyncio.ensure_future(store.write("s", 1, [call("k", b"1")]))
    await asyncio.sleep(0)
    impatient.cancel()
    await store.write("s", 1, [call("k", b"2")])
    assert await store.read("s", Kind.CALL) == {"k": b"2"}
    await store.close()


async def test_the_log_is_moved_into_the_file_while_the_store_works(tmp_path: Path) -> None:
    path = tmp_path / "seats.db"
    store = LocalStore(path)
    await store.claim("s", "a")
    for n in range(1100):
        await store.write("s", 1, [call(f"k{n}", bytes(1000))])
    # The thread flushes between its calls: when the second has been answered, it has done so.
    await store.read("s", Kind.CALL)
    await store.read("s", Kind.CALL)
    assert path.stat().st_size > 1_000_000
    await store.close()


async def test_closing_leaves_no_thread_and_one_file(tmp_path: Path) -> None:
    before = threading.active_count()
    store = LocalStore(tmp_path / "seats.db")
    await store.claim("s", "a")
    await store.write("s", 1, [call("k")])
    await store.close()
    assert threading.active_count() == before
    assert [name for _, _, names in os.walk(tmp_path) for name in names] == ["seats.db"]
