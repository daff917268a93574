"""The nodes of a lab, for those who make them fail: what `lab_cluster` and `namespaces` offer for theirs, with every
program of the deployment guide around them.
"""

import asyncio
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from warden.core.address import Address
from warden.core.errors import WardenError
from warden.node.build import database_url
from warden.ops.ha.inventory import Option
from warden.ops.ha.rendered import config_of
from warden.ops.ha.starter import starter
from warden.ops.lab.host import Host
from warden.ops.lab.lab import Health, Lab
from warden.ops.lab_cluster import ADOPTED, LogLine, lines_of
from warden.ops.lab_postgres import binaries
from warden.ops.netns import entered
from warden.store.durable import SqlDurable, open_durable
from warden.switch.directory import new_extension

READY_S: Final = 60.0
STOP_S: Final = 70.0
POLL_S: Final = 0.02
TOKEN: Final = "/var/lib/warden/operator.token"  # noqa: S105 - where it is


def small(option: Option, *, automatic: bool = True) -> str:
    """The option's cluster file, as it fits on this machine; `automatic` as for `starter`. Raises `WardenError` where
    there is no PostgreSQL.
    """
    text = starter(option, automatic=automatic) + "\ndatabase_memory_mb: 64\nredis_memory_mb: 64\n"
    # As Debian packages it: /usr/lib/postgresql/VERSION/bin.
    version = binaries().parent.name
    return re.sub(r"(?<=^postgresql_version: )\d+", version, text, flags=re.MULTILINE) if version.isdigit() else text


class HostedNode:
    """The node on a host."""

    def __init__(self, host: Host) -> None:
        self.name = host.name
        self.host = host
        self._read = 0
        self._stopping: asyncio.Task[str] | None = None

    async def start(self) -> None:
        """Switch the host on where it is off, start the node, and wait until it could take calls. Raises
        `WardenError`.
        """
        if not self.host.is_on:
            await self.host.start()
        await self.host.systemctl("start", "pbx")
        until = time.monotonic() + READY_S
        while True:
            with suppress(WardenError, msgspec.MsgspecError):
                if (await self.health()).is_well:
                    return
            if time.monotonic() > until:
                raise WardenError(f"{self.name} is not ready after {READY_S:g} s")
            await asyncio.sleep(0.1)

    async def health(self) -> Health:
        """What it says of itself. Raises `WardenError`."""
        said = await self.host.run("curl", "--silent", "--max-time", "2", "http://127.0.0.1:9000/health")
        return msgspec.json.decode(said, type=Health)

    async def ask(self, method: str, path: str, body: Mapping[str, str] | None = None) -> bytes:
        """What the node's API says, as its operator hears it. Raises `WardenError` where it refuses."""
        token = self.host.on_disk(TOKEN).read_text()
        words = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "5", "--request", method]
        words += ["--header", f"Authorization: Bearer {token}", "--header", "Content-Type: application/json"]
        if body:
            words += ["--data", msgspec.json.encode(body).decode()]
        return (await self.host.run(*words, f"http://127.0.0.1:9000/api/v1/{path}")).encode()

    def power_off(self) -> None:
        """The host loses its power."""
        self.host.power_off()

    def terminate(self) -> None:
        """As `systemctl stop pbx`."""
        self._stopping = asyncio.ensure_future(self.host.systemctl("stop", "pbx"))

    async def gone(self) -> int:
        """Wait until it has stopped; its exit status, or 0. Raises `TimeoutError`."""
        if self._stopping is not None:
            async with asyncio.timeout(STOP_S):
                await self._stopping
            self._stopping = None
        return 0

    def new_lines(self) -> list[LogLine]:
        """What was logged since the last time."""
        lines, self._read = lines_of(self.host.log("pbx"), self._read)
        return lines


class HostedCluster:
    """The cluster in a lab. Phones are where the calling thread is: in the lab's namespace for them."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.lease_s = lab.cluster.timings.lease_ttl
        self.seats = {seat.name: Address(seat.address, lab.cluster.sip_port) for seat in lab.regions[lab.primary].seats}
        self.nodes = {host.name: HostedNode(lab.hosts[host.name]) for host in lab.cluster.hosts_with("pbx")}
        self.holders: dict[str, str] = {}
        self.on_line: Callable[[str, LogLine], None] = lambda _node, _line: None
        self._region = {host.name: name for name, region in lab.regions.items() for host in region.hosts}
        self._adoptions: dict[str, dict[tuple[str, int], str]] = {seat: {} for seat in self.seats}

    @property
    def adoptions(self) -> int:
        """How often a seat was taken by a node, so far as it was looked."""
        return sum(len(found) for found in self._adoptions.values())

    async def start(self, passwords: Mapping[str, str]) -> None:
        """Have the lab up, with an extension for each number in `passwords`. Raises `WardenError`."""
        await self.lab.up(lambda _what: None)
        async with self.database() as durable:
            now = time.time()
            for number, password in passwords.items():
                extension = new_extension(number, password, realm=self.lab.cluster.domain, now=now)
                await durable.add_extension(extension)
        self.look()

    def look(self) -> list[tuple[str, LogLine]]:
        """What the nodes have logged since the last look, by node; it brings `holders` up to date."""
        lines = [(name, line) for name, node in self.nodes.items() for line in node.new_lines()]
        for name, line in lines:
            self.on_line(name, line)
            if (adopted := ADOPTED.match(line.event)) is not None:
                seat, epoch = adopted[1], int(adopted[2])
                self._adoptions[seat][self._region[name], epoch] = name
        for seat, adoptions in self._adoptions.items():
            # Each region counts by itself.
            here = {epoch: node for (region, epoch), node in adoptions.items() if region == self.lab.primary}
            if here:
                self.holders[seat] = here[max(here)]
        return lines

    async def now_held(self) -> dict[str, str]:
        """Seat to node, as the nodes' logs tell by now."""
        self.look()
        return dict(self.holders)

    async def held(self, seat: str, by: Callable[[str], bool]) -> str:
        """Wait until the seat is held by a node as wanted; that node. Raises `WardenError`."""
        until = time.monotonic() + READY_S
        while not by(self.holders.get(seat, "")):
            if time.monotonic() > until:
                raise WardenError(f"seat {seat} is at {self.holders.get(seat, 'nobody')}")
            await asyncio.sleep(POLL_S)
            self.look()
        return self.holders[seat]

    async def leader(self) -> str:
        """The host whose database leads. Raises `WardenError`."""
        found = ""

        async def ask() -> None:
            nonlocal found
            for host in self.lab.region.hosts_with("database"):
                here = self.lab.hosts[host.name]
                with suppress(WardenError):
                    await here.run(
                        "curl", "--silent", "--fail", "--max-time", "1", f"http://{host.inside}:8008/primary"
                    )
                    found = host.name
                    return
            raise WardenError("no database leads")

        await self.lab.until(ask, "a database leads", READY_S)
        return found

    @asynccontextmanager
    async def database(self) -> AsyncIterator[SqlDurable]:
        """The durable database, as a node that is there reaches it. Within the block the thread is on its host."""
        host = next(node.host for node in self.nodes.values() if node.host.is_on)
        files = self.lab.folder / "files" / host.name
        paths = ("etc/warden/config.yml", "etc/warden/environment")
        config = config_of(host.name, {path: (files / path).read_text() for path in paths}).config
        with entered(host.namespace):
            durable = open_durable(database_url(config))
            try:
                yield durable
            finally:
                await durable.close()


@asynccontextmanager
async def hosted_cluster(option: Option, text: str = "") -> AsyncIterator[HostedCluster]:
    """A cluster that is not started yet; nothing is left of it behind the block, within which the calling thread is in
    the phones' namespace. `text` is a cluster file in the place of the option's. Raises `WardenError`.
    """
    parent = Path(tempfile.mkdtemp(prefix="wlab-"))
    try:
        lab = Lab.make(parent / "lab", text or small(option))
        try:
            await asyncio.to_thread(lab.wire)
            with entered(lab.phones):
                yield HostedCluster(lab)
        finally:
            lab.down()
    finally:
        shutil.rmtree(parent, ignore_errors=True)
