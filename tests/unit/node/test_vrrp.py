"""What is made of keepalived's FIFO: the address is 127.x, which every machine has."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from warden.core.errors import WardenError
from warden.net import netlink
from warden.node.vrrp import Claim, Said, Vrrp, parse

SEATS = {"s1": ("VI_1", "127.0.0.1"), "s2": ("VI_2", "192.0.2.1")}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('INSTANCE "VI_1" MASTER 150', Said("VI_1", True)),
        ('GROUP "both" BACKUP 0', Said("both", False)),
        ('INSTANCE "VI_1" FAULT 100', Said("VI_1", False)),
        ('INSTANCE "VI_1" STOP 100', Said("VI_1", False)),
        ('INSTANCE "VI_1" MASTER_RX_LOWER_PRI 100', None),
        ('VS [192.0.2.1]:tcp:80" UP', None),
        ("", None),
    ],
)
def test_lines_of_keepalived(line: str, said: Said | None) -> None:
    assert parse(line) == said


class Keepalived:
    """Its end of the FIFO, and what Warden made of it."""

    def __init__(self, fifo: Path) -> None:
        self.fifo = fifo
        self.look_again = asyncio.Event()
        self.moves: list[tuple[str, bool]] = []
        self.vrrp = Vrrp(fifo, SEATS, lambda seat, here: self.moves.append((seat, here)), self._claim, self.look_again)
        self.claims = dict.fromkeys(SEATS, Claim.USUAL)
        self._writer = -1

    def _claim(self, seat: str) -> Claim:
        return self.claims[seat]

    def start(self) -> None:
        self._writer = os.open(self.fifo, os.O_RDWR | os.O_NONBLOCK)

    def say(self, line: str) -> None:
        os.write(self._writer, line.encode() + b"\n")

    def stop(self) -> None:
        if self._writer >= 0:
            os.close(self._writer)
        self._writer = -1

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not true():
                await asyncio.sleep(0.01)  # It tells of moves only.


@asynccontextmanager
async def keepalived(folder: Path) -> AsyncIterator[Keepalived]:
    there = Keepalived(folder / "vrrp.fifo")
    task = asyncio.create_task(there.vrrp.run())
    try:
        await there.until(there.fifo.exists)
        yield there
    finally:
        there.stop()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_an_address_comes_and_goes_with_keepalived_s_word(tmp_path: Path) -> None:
    async with keepalived(tmp_path) as there:
        there.start()
        there.say('INSTANCE "VI_1" BACKUP 100')
        await there.until(lambda: there.vrrp.error == "")
        there.say('INSTANCE "VI_1" MASTER 100')
        await there.until(lambda: there.moves == [("s1", True)])
        there.say('INSTANCE "VI_1" FAULT 100')
        await there.until(lambda: there.moves == [("s1", True), ("s1", False)])
        # Keepalived says so for an address that this machine does not have.
        there.say('INSTANCE "VI_2" MASTER 100')
        there.say('INSTANCE "VI_1" MASTER 100')
        await there.until(lambda: there.moves[2:] == [("s1", True)])


async def test_an_address_that_was_here_before_is_found_without_a_word(tmp_path: Path) -> None:
    assert "127.0.0.1" in netlink.local_addresses()
    async with keepalived(tmp_path) as there:
        there.start()
        await there.until(lambda: there.moves == [("s1", True)])


async def test_an_address_counts_as_gone_when_keepalived_has_died_and_is_found_again_with_it(tmp_path: Path) -> None:
    async with keepalived(tmp_path) as there:
        await there.until(lambda: there.vrrp.error == "keepalived does not run")
        there.start()
        await there.until(lambda: there.moves == [("s1", True)])
        there.stop()
        await there.until(lambda: there.moves == [("s1", True), ("s1", False)])
        assert there.vrrp.error == "keepalived does not run"
        # One that ends in peace takes its FIFO along and makes another.
        there.fifo.unlink()
        os.mkfifo(there.fifo)
        there.start()
        await there.until(lambda: there.moves[2:] == [("s1", True)])


async def test_keepalived_finds_in_a_file_how_much_each_address_is_wanted_here(tmp_path: Path) -> None:
    async with keepalived(tmp_path) as there:
        file = tmp_path / "s1.claim"
        await there.until(file.exists)
        assert file.read_text() == "0\n"
        there.claims["s1"] = Claim.FIRST
        there.look_again.set()
        await there.until(lambda: file.read_text() == "254\n")
        assert (tmp_path / "s2.claim").read_text() == "0\n"
    # A node that has ended gets no address.
    assert file.read_text() == "-254\n"


async def test_what_is_no_fifo_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WardenError, match=r"notify_fifo: .*file is no FIFO"):
        await Vrrp(
            tmp_path / "file", SEATS, lambda _seat, _here: None, lambda _seat: Claim.USUAL, asyncio.Event()
        ).run()
    with pytest.raises(WardenError, match=r"notify_fifo: .*nowhere/fifo: no such file"):
        await Vrrp(
            tmp_path / "nowhere" / "fifo", SEATS, lambda _seat, _here: None, lambda _seat: Claim.USUAL, asyncio.Event()
        ).run()
