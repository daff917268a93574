"""A cluster on one machine without root: real `warden serve` processes on loopback addresses, with a private Redis and,
where asked for, a private PostgreSQL; where the machine has no Redis, a file that they share keeps their calls.

Everything lies in a temporary folder and is gone at the end, also the processes. It starts and ends things and says
what the nodes log; what is done to them, and what to think of it, others know.
"""

import asyncio
import http.client
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec

import warden
from warden.core.address import Address
from warden.core.errors import WardenError
from warden.ops.lab_postgres import LabPostgres
from warden.store.durable import SqlDurable, open_durable
from warden.store.migrate import migrate
from warden.store.ports import Kind
from warden.store.redis_settings import RedisSettings
from warden.store.redis_store import RedisSeatStore
from warden.switch.directory import new_extension

START_S: Final = 90.0
"""A start takes one to two seconds; three at once on a machine that is busy with tests take twenty times that."""
STOP_S: Final = 20.0
REDIS_S: Final = 10.0
NETWORKS_MAX: Final = 50
"""Clusters side by side on one machine: 127.0.1.x, 127.0.2.x and so on."""
RTP_PORTS: Final = (24000, 32000)
"""Below the kernel's ephemeral ports, so that no test phone sits on one of them."""
SERVER_PORTS: Final = (17_000, 23_000)
"""Likewise, so that no connection takes the port of a node that is down."""
REALM: Final = "warden"
ADOPTED: Final = re.compile(r"adopted .* of seat (\S+) at epoch (\d+)")
ANSWER_S: Final = 5.0
PAGE: Final = 500
POLL_S: Final = 0.02
"""How often files and foreign processes, which tell nobody of themselves, are looked at."""


class LogLine(msgspec.Struct, frozen=True):
    """A line of a node's log; `event` is the sentence."""

    event: str = ""
    level: str = "info"
    seat: str = ""


class _Registration(msgspec.Struct):
    number: str


class _Registrations(msgspec.Struct):
    items: list[_Registration]
    next: str | None


def lines_of(log: Path, after: int) -> tuple[list[LogLine], int]:
    """The whole lines of a node's log behind a place in it, and the place behind them."""
    try:
        with log.open("rb") as file:
            file.seek(after)
            data = file.read()
    except FileNotFoundError:
        return [], after
    whole = data[: data.rfind(b"\n") + 1]
    lines = []
    for line in whole.splitlines():
        try:
            lines.append(msgspec.json.decode(line, type=LogLine))
        except msgspec.MsgspecError:
            # No line of ours: a traceback, or a library's warning.
            lines.append(LogLine(line.decode(errors="replace"), "raw"))
    return lines, after + len(whole)


class LabNode:
    """One node: its settings, its processes, its log."""

    def __init__(
        self,
        name: str,
        folder: Path,
        settings: str,
        http_port: int,
        prefix: Sequence[str] = (),
        program: Sequence[str] | None = None,
    ) -> None:
        """`prefix` stands before the command that starts it, `program` in the place of `warden`."""
        self.name = name
        self.http_host = "127.0.0.1"
        self.http_port = http_port
        self._command = (*prefix, *(program or (sys.executable, "-m", "warden")))
        self.data = folder / "data"
        self._file = folder / "config.yml"
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._read = 0
        folder.mkdir()
        self._file.write_text(settings)

    @property
    def pid(self) -> int | None:
        """The signalling process, while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def media_pid(self) -> int | None:
        """The media process, which may outlive the other."""
        path = self.data / "media.sock"
        with suppress(OSError, ValueError):
            pid = int(path.with_name("media.sock.pid").read_text())
            # One that was killed leaves its file behind, and its number may be somebody else's by now.
            if os.fsencode(path) in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return None

    async def start(self) -> None:
        """Start it and wait for its word that it is ready. Raises `WardenError` where it does not come."""
        self._close_pipe()
        with self._log.open("ab") as log:
            # Not by the loop: uvloop copies the whole process for it, and phones in this one are late by a tenth of a
            # second then.
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - our own words
                [*self._command, "--config", str(self._file), "serve"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        line = b""
        with suppress(TimeoutError):
            assert self._process.stdout is not None
            async with asyncio.timeout(START_S):
                line = await asyncio.to_thread(self._process.stdout.readline)
        if line != b"warden: ready\n":
            said = [line.decode(errors="replace").strip(), *self._log.read_text(errors="replace").splitlines()]
            raise WardenError(f"{self.name} did not start: {next((s for s in reversed(said) if s), 'it said nothing')}")

    def power_off(self) -> None:
        """Kill all that runs on the node, at once."""
        self._signal_all(signal.SIGKILL)

    def freeze(self) -> None:
        """Let no process of the node run any more, as on a machine that is short of everything."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on as if nothing had been."""
        self._signal_all(signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM: planned work."""
        self._signal(signal.SIGTERM)

    async def ask(self, method: str, path: str, body: Mapping[str, str] | None = None) -> bytes:
        """What the node's API says, as its operator hears it. Raises `WardenError` where it refuses."""
        return await asyncio.to_thread(self._ask, method, path, body)

    async def registered(self) -> set[str]:
        """The numbers that are registered at the seats of this node, as its API lists them. Raises `WardenError`."""
        found: set[str] = set()
        after = ""
        while True:
            page = msgspec.json.decode(await self.ask("GET", f"registrations?limit={PAGE}{after}"), type=_Registrations)
            found |= {item.number for item in page.items}
            if page.next is None:
                return found
            after = f"&after={quote(page.next)}"

    def _ask(self, method: str, path: str, body: Mapping[str, str] | None) -> bytes:
        token = (self.data / "operator.token").read_text()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection(self.http_host, self.http_port, timeout=ANSWER_S)
        try:
            connection.request(method, f"/api/v1/{path}", msgspec.json.encode(body) if body else None, headers)
            response = connection.getresponse()
            said = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise WardenError(f"{self.name}: the API does not answer: {error}") from error
        finally:
            connection.close()
        if response.status >= 300:
            raise WardenError(f"{self.name}: {method} {path} was answered with {response.status}: {said.decode()}")
        return said

    async def gone(self) -> int:
        """Wait until the signalling process has ended; its exit status. Raises `TimeoutError`."""
        assert self._process is not None, "it was started"
        try:
            status = await asyncio.to_thread(self._process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        self._close_pipe()
        return status

    async def close(self) -> None:
        """End both processes, whatever state they are in."""
        media = self.media_pid
        if self.pid is not None:
            self._signal(signal.SIGINT)
            try:
                await self.gone()
            except TimeoutError:
                self.power_off()
                await self.gone()
        self._close_pipe()
        media = self.media_pid or media
        if media is not None:
            with suppress(ProcessLookupError):
                os.kill(media, signal.SIGTERM)
                await _until(lambda: not _runs(media), STOP_S)

    def _close_pipe(self) -> None:
        """Nobody waited for a node that lost its power, and its pipe is still open."""
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()

    def new_lines(self) -> list[LogLine]:
        """What was logged since the last time."""
        lines, self._read = lines_of(self._log, self._read)
        return lines

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in (self.pid, self.media_pid):
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


class LabRedis:
    """A private Redis that keeps nothing: after a kill it comes back empty."""

    def __init__(self, folder: Path, program: str, port: int) -> None:
        self.port = port
        self._program = program
        self._folder = folder
        self._process: Process | None = None
        folder.mkdir()

    @classmethod
    def found(cls, folder: Path, port: int) -> "LabRedis | None":
        """One of this machine's, if it has any."""
        program = shutil.which("redis-server")
        return None if program is None else cls(folder, program, port)

    @property
    def pid(self) -> int | None:
        """Its process, once it was started."""
        return None if self._process is None else self._process.pid

    @property
    def runs(self) -> bool:
        """Whether its process does."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it on its port, and wait until it takes connections. Raises `WardenError`."""
        with (self._folder / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                "--dir", str(self._folder), stdin=DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        if not await _until(self._answers, REDIS_S):
            raise WardenError(f"redis-server did not start: {(self._folder / 'log').read_text()[-1000:]}")

    async def kill(self) -> None:
        """Without warning."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


class LabCluster:
    """Nodes n1, n2 ... with seats s1, s2 ... on 127.0.N.1, 127.0.N.2 ..., each at home on the node of its number."""

    def __init__(
        self,
        folder: Path,
        network: int,
        nodes: int,
        lease_s: float,
        postgres: LabPostgres | None,
        newer: Collection[str] = (),
    ) -> None:
        (folder / "next").mkdir()
        program = as_version(next_version(), folder / "next") if newer else None
        hosts = [f"127.0.{network}.{i + 1}" for i in range(nodes)]
        # No two alike: a node's own address bears them all.
        sip_port, redis_port, *http_ports = free_ports(["127.0.0.1", *hosts], 2 + nodes)
        names = [f"n{i + 1}" for i in range(nodes)]
        self.lease_s = lease_s
        self.redis = LabRedis.found(folder / "redis", redis_port)
        """None where this machine has no redis-server."""
        self.seats: dict[str, Address] = {f"s{i + 1}": Address(host, sip_port) for i, host in enumerate(hosts)}
        """Where phones register."""
        self.holders: dict[str, str] = {}
        """Seat to node, as the nodes' logs tell."""
        self.on_line: Callable[[str, LogLine], None] = lambda _node, _line: None
        """Told of every line that a node logs, when it is looked at."""
        self._epochs: dict[str, int] = {}
        self.postgres = postgres
        self._url = f"sqlite:///{folder / 'warden.sqlite'}" if postgres is None else postgres.url
        database = f"file: {folder / 'warden.sqlite'}" if postgres is None else postgres.settings
        secret = secrets.token_hex(16)
        redis, state_file = "{enabled: false}", f"state_file: {folder / 'state.sqlite'}"
        if self.redis is not None:
            redis, state_file = f"{{enabled: true, nodes: [{{host: 127.0.0.1, port: {self.redis.port}}}]}}", ""
        seats = "\n".join(
            f"    - {{name: s{i + 1}, address: {host}, successors: [{', '.join(names[i:] + names[:i])}]}}"
            for i, host in enumerate(hosts)
        )
        self.nodes: dict[str, LabNode] = {}
        for name, http_port in zip(names, http_ports, strict=True):
            self.nodes[name] = LabNode(
                name,
                folder / name,
                http_port=http_port,
                program=program if name in newer else None,
                settings=f"""\
data_dir: {folder / name / "data"}
secret: {secret}
http: {{bind_address: 127.0.0.1, port: {http_port}}}
sip: {{bind_address: 127.0.0.1, bind_port: {sip_port}, realm: {REALM}, call: {{no_answer_timeout: 600}}}}
rtp: {{bind_address: 127.0.0.1, port_range: [{RTP_PORTS[0]}, {RTP_PORTS[1]}], orphan_timeout: 60}}
log: {{format: json}}
database: {{{database}}}
redis: {redis}
high_availability:
  enabled: true
  node_id: {name}
  lease_ttl: {lease_s}
  coordinator: embedded
  coordinator_file: {folder / "leases.sqlite"}
  {state_file}
  seats:
{seats}
""",
            )

    async def start(self, passwords: Mapping[str, str]) -> None:
        """Start everything, with an extension for each number in `passwords`. Raises `WardenError`."""
        if self.redis is not None:
            await self.redis.start()
        if self.postgres is not None:
            await self.postgres.start()
        await migrate(self._url)
        now = time.time()
        async with self.database() as durable:
            for number, password in passwords.items():
                await durable.add_extension(new_extension(number, password, realm=REALM, now=now))
        await asyncio.gather(*(node.start() for node in self.nodes.values()))

    def look(self) -> None:
        """Read what the nodes have logged since the last look: it brings `holders` up to date."""
        for name, line in [(name, line) for name, node in self.nodes.items() for line in node.new_lines()]:
            self.on_line(name, line)
            if (adopted := ADOPTED.match(line.event)) is not None:
                seat, epoch = adopted[1], int(adopted[2])
                if epoch >= self._epochs.get(seat, 0):
                    self.holders[seat], self._epochs[seat] = name, epoch

    async def now_held(self) -> dict[str, str]:
        """Seat to node, as the nodes' logs tell by now."""
        self.look()
        return dict(self.holders)

    async def held(self, seat: str, by: Callable[[str], bool], within_s: float = STOP_S) -> str:
        """Wait until the seat is held by a node as wanted; that node. Raises `WardenError`."""

        def reached() -> bool:
            self.look()
            return by(self.holders.get(seat, ""))

        if not await _until(reached, within_s):
            raise WardenError(f"seat {seat} is held by {self.holders.get(seat) or 'nobody'} after {within_s:g} s")
        return self.holders[seat]

    async def records(self, seat: str, kind: Kind) -> set[str]:
        """The keys of the seat's records of one kind, as Redis has them. Raises `Unavailable`."""
        assert self.redis is not None, "drills are not begun without it"
        store = RedisSeatStore(RedisSettings((Address("127.0.0.1", self.redis.port),)))
        try:
            return set(await store.read(seat, kind))
        finally:
            await store.close()

    @asynccontextmanager
    async def database(self) -> AsyncIterator[SqlDurable]:
        """The durable database, which all nodes share."""
        durable = open_durable(self._url)
        try:
            yield durable
        finally:
            await durable.close()

    async def close(self) -> None:
        """End everything."""
        await asyncio.gather(*(node.close() for node in self.nodes.values()))
        if self.redis is not None:
            await self.redis.kill()
        if self.postgres is not None:
            await self.postgres.kill()


def next_version() -> str:
    """The version that follows this one."""
    major, minor, _ = warden.__version__.split(".", 2)
    return f"{major}.{int(minor) + 1}.0"


def as_version(version: str, folder: Path) -> tuple[str, ...]:
    """Warden's source in a folder of its own, as if it were another version: the words that run it there."""
    shutil.copytree(Path(warden.__file__).parent, folder / "warden", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "warden" / "__init__.py"
    file.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', file.read_text()))
    return ("env", f"PYTHONPATH={folder}", sys.executable, "-m", "warden")


@asynccontextmanager
async def lab_cluster(
    *, nodes: int = 3, lease_s: float = 1.0, postgres: bool = False, newer: Collection[str] = ()
) -> AsyncIterator[LabCluster]:
    """A cluster that is not started yet; nothing is left of it behind the block. The nodes in `newer` run what calls
    itself the next version. Raises `WardenError`.
    """
    with ExitStack() as stack:
        network, claim = _claim_network()
        stack.enter_context(closing(claim))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="warden-lab-", ignore_cleanup_errors=True))
        database = LabPostgres(Path(folder) / "postgres") if postgres else None
        cluster = LabCluster(Path(folder), network, nodes, lease_s, database, newer)
        try:
            yield cluster
        finally:
            await _surely(cluster.close())


def _claim_network() -> tuple[int, socket.socket]:
    """The first of the networks 127.0.N that no other lab has; a name in the abstract namespace is given back by the
    kernel, however this process ends.
    """
    for number in range(1, NETWORKS_MAX + 1):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0warden-lab-{number}")
        except OSError:
            claim.close()
        else:
            return number, claim
    raise WardenError(f"{NETWORKS_MAX} labs run on this machine already")


def free_ports(hosts: Iterable[str], count: int) -> list[int]:
    """Ports free for UDP and TCP on all these addresses at this moment. Raises `WardenError`."""
    first, *others = hosts
    ports: list[int] = []
    with ExitStack() as stack:

        def bind(kind: socket.SocketKind, host: str, port: int) -> int:
            sock = stack.enter_context(socket.socket(socket.AF_INET, kind))
            sock.bind((host, port))
            return int(sock.getsockname()[1])

        for _ in range(count * 20):
            try:
                port = bind(
                    socket.SOCK_STREAM, first, SERVER_PORTS[0] + secrets.randbelow(SERVER_PORTS[1] - SERVER_PORTS[0])
                )
                bind(socket.SOCK_DGRAM, first, port)
                for host in others:
                    bind(socket.SOCK_STREAM, host, port)
                    bind(socket.SOCK_DGRAM, host, port)
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                return ports
    raise WardenError(f"no port is free on {first}; this needs Linux, where all of 127.0.0.0/8 is this machine")


async def _surely(work: Coroutine[Any, Any, None]) -> None:
    """Do it to the end, however often it is cancelled meanwhile: no process may be left behind."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError


async def _until(reached: Callable[[], bool], within_s: float) -> bool:
    until = time.monotonic() + within_s
    while not reached():
        if time.monotonic() > until:
            return False
        await asyncio.sleep(POLL_S)
    return True


def _runs(pid: int) -> bool:
    try:
        # A child that has ended stays until somebody asks; a stranger's is not ours to ask about.
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"
