"""A host of the lab: its namespaces, its first process, and what can happen to a machine."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

from warden.core.errors import WardenError
from warden.ops.lab import init
from warden.ops.netns import inside, ip

START_S: Final = 20.0
ANSWER_S: Final = 90.0
"""A stop takes a minute at most."""
POLL_S: Final = 0.02


class Card(Struct, frozen=True):
    """A cable of a host: what its card is called, and its address with prefix length."""

    interface: str
    address: str
    wire: str
    """The network: the name of its bridge."""
    routes: tuple[str, ...] = ()
    """Other networks that are reached there without a router: those of another region."""


class State(Struct, frozen=True):
    """What a unit of a host is doing, and how often it was started."""

    unit: str
    state: str
    starts: int


class Host:
    """One machine. `folder` has its disk and its logs; it is there before and after the machine runs."""

    def __init__(self, name: str, namespace: str, folder: Path, cards: Sequence[Card], checkout: Path) -> None:
        self.name = name
        self.namespace = namespace
        self.folder = folder
        self.cards = tuple(cards)
        self._checkout = checkout
        self._process: subprocess.Popen[bytes] | None = None

    # Power

    async def start(self) -> None:
        """Switch it on: all that was enabled on it starts. Raises `WardenError`."""
        for card in self.cards:
            plug(self.namespace, card)
        control = self.folder / "control"
        control.unlink(missing_ok=True)
        with (self.folder / "boot.log").open("ab") as log:
            command = (
                *inside(self.namespace), "unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child",
                "--mount-proc", sys.executable, "-IS", init.__file__, str(self.folder), self.name, str(self._checkout),
            )  # fmt: skip
            process = self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - our own words
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + START_S
        while not self.is_on:
            if process.poll() is not None or time.monotonic() > until:
                raise WardenError(f"{self.name} does not start: {(self.folder / 'boot.log').read_text()[-500:]}")
            await asyncio.sleep(POLL_S)

    @property
    def is_on(self) -> bool:
        """Its first process answers."""
        with suppress(OSError, ValueError):
            return self._ask(["list-units"], 2.0)[0] == 0
        return False

    def power_off(self) -> None:
        """All that runs on it is gone at once, and so is its kernel: nothing of it is heard any more."""
        for card in self.cards:
            self.cut(card.wire)
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.reap()

    def reap(self) -> None:
        """See to the end of its first process, where it was this one that had switched the host on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def pids(self) -> list[int]:
        """All that runs on it."""
        return [int(pid) for pid in ip("netns", "pids", self.namespace).split()]

    # Cables

    def cut(self, wire: str) -> None:
        """Pull the plug of one network."""
        ip("-n", self.namespace, "link", "set", self._card(wire).interface, "down")

    def mend(self, wire: str) -> None:
        """Put it back."""
        plug(self.namespace, self._card(wire))

    def _card(self, wire: str) -> Card:
        return next(card for card in self.cards if card.wire == wire)

    def addresses(self) -> list[str]:
        """All addresses that it has now, without those of itself to itself."""
        shown = ip("-n", self.namespace, "-o", "-4", "addr", "show").splitlines()
        return [line.split()[3].partition("/")[0] for line in shown if " lo " not in line]

    def mac(self, wire: str) -> str:
        """The hardware address of its card in a network. Raises `WardenError`."""
        shown = ip("-n", self.namespace, "-o", "link", "show", "dev", self._card(wire).interface).split()
        return shown[shown.index("link/ether") + 1]

    # What runs

    async def systemctl(self, *words: str) -> str:
        """As typed on it; what it says. Raises `WardenError` where the status is not 0."""
        try:
            status, said = await asyncio.to_thread(self._ask, list(words), ANSWER_S)
        except (OSError, ValueError) as error:
            raise WardenError(f"{self.name}: systemctl {' '.join(words)}: {error or 'no answer'}") from error
        if status:
            raise WardenError(f"{self.name}: systemctl {' '.join(words)}: {said.strip()}")
        return said

    async def units(self) -> list[State]:
        """What runs on it."""
        lines = (await self.systemctl("list-units")).splitlines()
        return [State(unit, state, int(starts)) for unit, state, starts in map(str.split, lines)]

    def command(self, *words: str) -> tuple[str, ...]:
        """What to type on the machine outside to have a command run on this host."""
        pid = self._first_pid()
        if pid is None:
            raise WardenError(f"{self.name} is switched off")
        flags = ("--mount", "--uts", "--pid", "--net")
        return ("nsenter", "--target", str(pid), *flags, "--wd=/", "env", "-i", *_ENVIRON, *words)

    async def run(self, *words: str, within_s: float = ANSWER_S) -> str:
        """Run a command on it; what it prints. Raises `WardenError` where it fails."""
        # In a thread, not by the loop: uvloop copies the whole process for it, and phones in this one are late then.
        return await asyncio.to_thread(self._run, words, within_s)

    def _run(self, words: Sequence[str], within_s: float) -> str:
        what = f"{self.name}: {' '.join(words)[:200]}"
        try:
            done = subprocess.run(  # noqa: S603 - our own words
                self.command(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                check=False, timeout=within_s, text=True, errors="replace",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise WardenError(f"{what}: not done within {within_s:g} s") from None
        if done.returncode:
            raise WardenError(f"{what}: {done.stdout.strip()[-1000:]}")
        return done.stdout

    def pids_of(self, program: str) -> list[int]:
        """The processes of a program, by a word of their command lines, as numbered outside."""
        found = []
        for pid in self.pids:
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
                if any(program in word for word in words[:4]) and init.__file__ not in words:
                    found.append(pid)
        return found

    def log(self, unit: str) -> Path:
        """Where what a unit says is kept."""
        return self.folder / "log" / unit

    def on_disk(self, path: str) -> Path:
        """Where a file is that the host made or was given: its `/var/lib/x` is `disk/var/lib/x` here."""
        return self.folder / "disk" / path.lstrip("/")

    def _first_pid(self) -> int | None:
        for pid in self.pids:
            with suppress(OSError):
                if f"\0{init.__file__}\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return None

    def _ask(self, words: list[str], within_s: float) -> tuple[int, str]:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(within_s)
            line.connect(str(self.folder / "control"))
            line.sendall(json.dumps(words).encode() + b"\n")
            with line.makefile("rb") as reply:
                said = json.loads(reply.readline())
        return int(said["status"]), str(said["said"])


def plug(namespace: str, card: Card) -> None:
    """Have the card of a namespace take part. Without it, the kernel forgets its routes."""
    ip("-n", namespace, "link", "set", card.interface, "up")
    for network in card.routes:
        ip("-n", namespace, "route", "replace", network, "dev", card.interface)


_ENVIRON: Final = tuple(f"{name}={value}" for name, value in init.ENVIRON.items())
