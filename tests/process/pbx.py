"""A real node for tests: its own process, folder and ports on 127.0.0.1."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from warden.call.cdr import Cdr
from warden.core.address import Address
from warden.store.durable import open_durable
from warden.store.migrate import migrate
from warden.store.ports import Extension, Item
from warden.switch.directory import new_extension

from port_numbers import port_number

START_S = 60.0
"""A start takes about a second; a machine that runs the whole suite may need far longer."""
REALM = "warden"
MEDIA_PAIRS_MAX = 1000
"""Pairs of media ports for one node: 500 calls at once, and room for 11 nodes below the ephemeral ports."""


def free_ports(count: int) -> list[int]:
    """Ports free for both UDP and TCP on 127.0.0.1 at this moment."""
    ports: list[int] = []
    with ExitStack() as stack:
        while len(ports) < count:
            tcp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            port = port_number()
            with suppress(OSError):
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
                ports.append(port)
    return ports


def take_media_range(pairs: int) -> tuple[int, int, int]:
    """A range of UDP ports below the ephemeral ones that no other node of any test has, for as long as the descriptor
    that comes with it is open.
    """
    assert pairs <= MEDIA_PAIRS_MAX
    for first in range(10_240, 32_768 - 2 * MEDIA_PAIRS_MAX, 2 * MEDIA_PAIRS_MAX):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with suppress(OSError):
            # A name in the abstract namespace is given back by the kernel, however the test ends.
            claim.bind(f"\0warden-test-media-{first}")
            return first, first + 2 * pairs - 1, claim.detach()
        claim.close()
    raise AssertionError("every range of media ports is taken")


def password_of(number: str) -> str:
    """The password of a test extension."""
    return f"{number}-opens-sesame"


class Pbx:
    """`warden serve` on a folder of its own. Start it as often as you like; `close` leaves nothing behind."""

    def __init__(self, folder: Path, *, config: str = "", sip: str = "", rtp: str = "", pairs: int = 600) -> None:
        """`config` are further sections of the settings, `sip` and `rtp` further lines of the sections on these."""
        self.folder = folder
        self.sip_port, self.http_port = free_ports(2)
        self.data = folder / "data"
        self.file = folder / "config.yml"
        first, last, self._media_claim = take_media_range(pairs)
        self.file.write_text(
            f"""\
data_dir: {self.data}
http: {{bind_address: 127.0.0.1, port: {self.http_port}}}
sip:
  bind_address: 127.0.0.1
  bind_port: {self.sip_port}
{sip}rtp:
  bind_address: 127.0.0.1
  port_range: [{first}, {last}]
  orphan_timeout: 60
{rtp}{config}"""
        )
        self.environ: dict[str, str] = {}
        """Variables that it is started with, beside ours."""
        self.process: subprocess.Popen[str] | None = None
        self.stderr = folder / "stderr.log"

    @property
    def sip_address(self) -> Address:
        """Where phones register."""
        return Address("127.0.0.1", self.sip_port)

    @property
    def url(self) -> str:
        """The durable database."""
        return f"sqlite:///{self.data / 'warden.sqlite'}"

    def command(self, *argv: str) -> list[str]:
        """A `warden` command line for this node."""
        return [sys.executable, "-m", "warden", "--config", str(self.file), *argv]

    def run(self, *argv: str, input: str = "") -> subprocess.CompletedProcess[str]:  # noqa: A002
        """Run a `warden` command to its end."""
        return subprocess.run(self.command(*argv), input=input, text=True, capture_output=True, timeout=60, check=False)

    def add_extensions(self, *numbers: str, names: Mapping[str, str] | None = None) -> None:
        """Make extensions with the passwords of `password_of`."""
        asyncio.run(_add(self.url, self.data, [_extension(n, (names or {}).get(n, "")) for n in numbers]))

    def add_items(self, *items: Item) -> None:
        """Put pieces of the dialplan as they stand."""
        asyncio.run(_put(self.url, self.data, items))

    def start(self, *, ready: bool = True) -> None:
        """Start the node and wait for its word that it is ready."""
        assert self.process is None or self.process.poll() is not None, "it runs already"
        with self.stderr.open("a") as log:
            self.process = subprocess.Popen(
                self.command("serve"),
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                text=True,
                env=os.environ | self.environ,
            )
        if ready:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            assert line == "warden: ready\n", f"{line!r}\n{self.stderr.read_text()}"

    @contextmanager
    def up(self) -> Iterator[None]:
        """Started within the block, and closed at its end; nothing must have gone wrong unseen."""
        try:
            self.start()
            yield
            assert "Traceback" not in self.stderr.read_text()
        finally:
            self.close()

    def kill(self, how: signal.Signals = signal.SIGKILL) -> int:
        """End the node's process and wait until it is gone; its exit status."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.wait()

    def wait(self) -> int:
        """Wait for the node's process to end; its exit status."""
        assert self.process is not None
        status = self.process.wait(timeout=30)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status

    @property
    def media_pid(self) -> int | None:
        """The media process that serves the folder."""
        with suppress(OSError, ValueError):
            return int((self.data / "media.sock.pid").read_text())
        return None

    def wait_for_log(self, text: str, within_s: float = 20.0) -> None:
        """Wait until the node's log says this."""
        until = time.monotonic() + within_s
        while text not in self.stderr.read_text():
            assert time.monotonic() < until, f"{text!r} is not in:\n{self.stderr.read_text()}"
            time.sleep(0.02)  # A file tells nobody that it has grown.

    def kill_media(self) -> None:
        """Kill the media process."""
        pid = self.media_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def bid_stop(self) -> None:
        """Tell the node to end, and do not wait until it has."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """End the node and its media process."""
        pid = self.media_pid
        if self.process is not None and self.process.poll() is None:
            self.bid_stop()
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()
        pid = self.media_pid or pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
                until = time.monotonic() + 10
                while time.monotonic() < until and Path(f"/proc/{pid}").exists():
                    with suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
                    time.sleep(0.01)  # A stranger's process can only be looked at again and again.
        if self._media_claim >= 0:
            os.close(self._media_claim)
            self._media_claim = -1

    def cdrs(self, count: int, within_s: float = 15.0) -> list[Cdr]:
        """The CDRs in the database as soon as there are `count` of them, or what there is in the end."""
        return asyncio.run(_cdrs(self.url, count, within_s))

    def status(self) -> dict[str, object]:
        """What `warden status --json` says."""
        done = self.run("status", "--json")
        assert done.returncode == 0, done.stderr
        return msgspec.json.decode(done.stdout, type=dict[str, object])


def close_all(nodes: Collection[Pbx]) -> None:
    """End nodes that may wait for each other: all at once."""
    for node in nodes:
        node.bid_stop()
    for node in nodes:
        node.close()


def _extension(number: str, name: str) -> Extension:
    return new_extension(number, password_of(number), realm=REALM, now=time.time(), name=name)


async def _add(url: str, folder: Path, extensions: Sequence[Extension]) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    await migrate(url)
    durable = open_durable(url)
    try:
        for extension in extensions:
            await durable.add_extension(extension)
    finally:
        await durable.close()


async def _put(url: str, folder: Path, items: Sequence[Item]) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    await migrate(url)
    durable = open_durable(url)
    try:
        for item in items:
            await durable.put_item(item)
    finally:
        await durable.close()


async def _cdrs(url: str, count: int, within_s: float) -> list[Cdr]:
    durable = open_durable(url)
    until = time.monotonic() + within_s
    try:
        while True:
            found = list(await durable.cdrs(limit=1000))
            if len(found) >= count or time.monotonic() > until:
                return found
            await asyncio.sleep(0.05)  # The database tells nobody when a row comes.
    finally:
        await durable.close()
