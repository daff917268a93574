"""What keepalived says of the seats' addresses (its notify FIFO, and the addresses that this machine has), and what it
is told: for each seat a file with what is to be added to its priority.

Keepalived writes a line when it has set or removed an address. It may have done so before this process was there, and a
full FIFO loses lines, so what is true is looked up: an address counts as here while keepalived runs, has not said
otherwise since, and this machine has the address. Nothing here knows who holds a seat.
"""

import asyncio
import os
import re
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import Final

import structlog
from msgspec import Struct

from warden.core.errors import WardenError
from warden.net import netlink

LOOK_S: Final = 0.25
"""How often the addresses of the machine are looked at, for the case that a line was lost."""
COMING_S: Final = 0.01
"""The same while keepalived has said that an address is coming which is not there yet."""
READ_BYTES: Final = 65536
LINE_BYTES_MAX: Final = 4096
"""A name in keepalived is shorter; what has no end by then is no line of its."""

_LINE: Final = re.compile(r'(?:INSTANCE|GROUP) "([^"]*)" (MASTER|BACKUP|FAULT|STOP|DELETED) ?\d*\s*')
_log = structlog.get_logger()


class Claim(IntEnum):
    """What keepalived is to add to the priority of a seat's instance (`track_file`): of -254 it makes a fault, and more
    than 254 cannot be had.
    """

    NONE = -254
    """The address must not be here."""
    USUAL = 0
    FIRST = 254
    """It must be nowhere else: the seat is here."""


class Said(Struct, frozen=True):
    """One line: the VRRP instance or group, and whether it is master now."""

    instance: str
    master: bool


def parse(line: str) -> Said | None:
    """A line of keepalived's FIFO; None where it is about something else (keepalived.conf(5), `vrrp_notify_fifo`)."""
    found = _LINE.fullmatch(line)
    return Said(found[1], found[2] == "MASTER") if found is not None else None


class Vrrp:
    """Runs until cancelled, and tells `on_move(seat, here)` whenever a seat's address has come or gone.

    `seats` maps a seat to its instance and address. `claim(seat)` is asked at every look, and written to the file
    SEAT.claim beside the FIFO; `look_again` brings a look about. `error` says why nothing is heard of keepalived;
    "" where it is.
    """

    def __init__(
        self,
        fifo: Path,
        seats: Mapping[str, tuple[str, str]],
        on_move: Callable[[str, bool], None],
        claim: Callable[[str], Claim],
        look_again: asyncio.Event,
    ) -> None:
        self.error = "keepalived has not been heard of yet"
        self._fifo = fifo
        self._seats = seats
        self._on_move = on_move
        self._claim = claim
        self._claims: dict[str, Claim] = {}
        self._masters: dict[str, bool] = {}
        self._here: dict[str, bool] = dict.fromkeys(seats, False)
        self._inbox = b""
        self._descriptor = -1
        self._readable = look_again

    async def run(self) -> None:
        """Listen until cancelled. Raises `WardenError` where the FIFO cannot be made or opened."""
        self._open()
        try:
            while True:
                coming = self._look()
                # Behind what the look has brought about.
                for seat in self._seats:
                    self._write(seat, self._claim(seat))
                with suppress(TimeoutError):
                    async with asyncio.timeout(COMING_S if coming else LOOK_S):
                        await self._readable.wait()
        finally:
            for seat in self._seats:
                self._write(seat, Claim.NONE)
            self._close()

    def _write(self, seat: str, claim: Claim) -> None:
        if self._claims.get(seat) is claim:
            return
        path = self._fifo.with_name(f"{seat}.claim")
        new = path.with_name(f"{path.name}.new")
        try:
            # Wholly or not at all: keepalived reads as soon as something happens to it.
            new.write_text(f"{claim:d}\n")
            new.replace(path)
        except OSError as error:
            _log.error("keepalived cannot be told who may have an address", file=str(path), why=error.strerror)
        else:
            self._claims[seat] = claim

    def _open(self) -> None:
        try:
            with suppress(FileExistsError):
                os.mkfifo(self._fifo, 0o600)
            # Reading only: while nobody has it open for writing, keepalived does not run.
            self._descriptor = os.open(self._fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise WardenError(
                f"high_availability.keepalived.notify_fifo: {self._fifo}: {(error.strerror or str(error)).lower()}"
            ) from error
        if not stat.S_ISFIFO(os.fstat(self._descriptor).st_mode):
            raise WardenError(f"high_availability.keepalived.notify_fifo: {self._fifo} is no FIFO")

    def _close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _look(self) -> bool:
        """Bring everything up to date; True where an address should be here in a moment."""
        runs = self._read()
        if not runs:
            self._blame("keepalived does not run")
            self._masters.clear()
            self._reopen()
        else:
            self._blame("")
        addresses = netlink.local_addresses() if runs else frozenset()
        coming = False
        for seat, (instance, address) in self._seats.items():
            says = self._masters.get(instance)
            here = runs and says is not False and address in addresses
            coming = coming or (says is True and not here)
            if here is not self._here[seat]:
                self._here[seat] = here
                self._on_move(seat, here)
        return coming

    def _read(self) -> bool:
        """Take in the lines that are there; False where nobody has the FIFO open for writing."""
        loop = asyncio.get_running_loop()
        self._readable.clear()
        while True:
            try:
                data = os.read(self._descriptor, READ_BYTES)
            except BlockingIOError:
                loop.add_reader(self._descriptor, self._readable.set)
                return True
            if not data:
                # The kernel says so again and again, which is no news.
                loop.remove_reader(self._descriptor)
                self._inbox = b""
                return False
            *lines, self._inbox = (self._inbox + data).split(b"\n")
            self._inbox = self._inbox[-LINE_BYTES_MAX:]
            for line in lines:
                if (said := parse(line.decode(errors="replace"))) is not None:
                    self._masters[said.instance] = said.master

    def _reopen(self) -> None:
        """Keepalived removes a FIFO of its own when it ends, and makes another when it starts."""
        with suppress(OSError):
            here, there = os.fstat(self._descriptor), self._fifo.stat()
            if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                return
        os.close(self._descriptor)
        self._open()

    def _blame(self, error: str) -> None:
        if error != self.error:
            (_log.warning if error else _log.info)(error or "keepalived is heard", fifo=str(self._fifo))
            self.error = error
