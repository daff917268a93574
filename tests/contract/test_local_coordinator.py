"""What the coordinator in a file promises beyond the contract: several processes, reboots, files that are broken."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from warden.core.errors import Unavailable
from warden.store.local_coordinator import LocalCoordinator
from warden.store.ports import Member

RACER = """
import asyncio, sys
from warden.store.local_coordinator import LocalCoordinator

async def main() -> None:
    coordinator = LocalCoordinator(sys.argv[1])
    for n in range(50):
        epoch = await coordinator.acquire(f"s{n}", sys.argv[2], 60)
        if epoch is not None:
            print(n, epoch)
    await coordinator.close()

asyncio.run(main())
"""


def test_processes_that_race_share_the_seats_between_them(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACER, str(tmp_path / "coordinator.db")]
    racers = [subprocess.Popen([*command, f"n{n}"], stdout=subprocess.PIPE, text=True) for n in range(3)]
    won = [line for racer in racers for line in racer.communicate()[0].splitlines()]
    assert [racer.returncode for racer in racers] == [0] * 3
    assert sorted(won) == sorted(f"{n} 1" for n in range(50))


async def test_what_was_held_before_the_machine_started_anew_is_free_and_keeps_its_epoch(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.db"
    before = LocalCoordinator(path)
    assert await before.acquire("s", "a", 60) == 1
    await before.announce(Member("a", b""), 60)
    await before.close()
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE coordinator SET boot = 'the one before'")
    after = LocalCoordinator(path)
    assert await after.members() == {}
    assert await after.acquire("s", "b", 60) == 2
    await after.close()


async def test_a_file_that_cannot_be_used_is_unavailable_until_it_can(tmp_path: Path) -> None:
    folder = tmp_path / "not there yet"
    coordinator = LocalCoordinator(folder / "coordinator.db")
    with pytest.raises(Unavailable, match=r"coordinator\.db: unable to open"):
        await coordinator.acquire("s", "a", 60)
    await coordinator.changed(0.1)
    folder.mkdir()
    assert await coordinator.acquire("s", "a", 60) == 1
    await coordinator.close()
