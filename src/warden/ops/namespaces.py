"""A cluster in network namespaces: real nodes, each with a kernel's network stack of its own, and addresses that move.

Two networks: on `lan` are the phones, the seats' addresses and VRRP, on `back` Redis, etcd and the nodes' own traffic.
So a node can be cut from either, or lose its power, as machines do. Needs root. Everything is gone at the end; what an
earlier run left that was killed is removed at the next start. What is done to the nodes, and what to think of it,
others know.
"""

import asyncio
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, Literal

from warden.core.address import Address
from warden.core.errors import WardenError
from warden.ops.lab_cluster import ADOPTED, REALM, LabNode, LogLine
from warden.ops.netns import entered, inside, ip
from warden.store.durable import SqlDurable, open_durable
from warden.store.migrate import migrate
from warden.switch.directory import new_extension

Driver = Literal["keepalived", "lease"]
Wire = Literal["lan", "back"]

CLIENT: Final = "198.18.0.1"
"""Where the phones are; the same host has 198.19.0.1 on `back`, from where stores can be looked at."""
STORE: Final = "198.19.0.2"
"""The host of Redis and etcd."""
REDIS_PORT: Final = 6379
ETCD_PORT: Final = 2379
SIP_PORT: Final = 5060
HTTP_PORT: Final = 9000
ADVERT_S: Final = 0.1
"""Keepalived's advertisement interval: three are missed before a backup takes over."""
PRIORITIES: Final = (250, 190, 100)
"""High, since the time by which a backup waits after the master said goodbye is (256 - priority) / 256 of an interval;
and far enough apart that two backups do not begin at once.
"""
START_S: Final = 15.0
POLL_S: Final = 0.02
_NAMES: Final = "warden-lab"
_ETH_IPV4: Final = 0x0800
_SO_RCVBUFFORCE: Final = 33
_PROGRAMS: Final = {
    "ip": "iproute2",
    "keepalived": "keepalived",
    "redis-server": "redis-server",
    "etcd": "etcd-server",
}


class NamespaceNode(LabNode):
    """A node in a namespace of its own, with its keepalived where the cluster has that driver."""

    def __init__(self, name: str, folder: Path, settings: str, namespace: str, lan: str, keepalived: str) -> None:
        super().__init__(name, folder, settings, HTTP_PORT, prefix=inside(namespace))
        self.http_host = self.lan = lan
        self.namespace = namespace
        self._folder = folder
        self._keepalived = keepalived
        self._vrrp: Process | None = None

    async def start(self) -> None:
        """Start Warden, and keepalived after it. Raises `WardenError` where it does not come up."""
        # In this order only to save time: what keepalived asks every second costs a busy machine as much as the start.
        await super().start()
        if self._keepalived and (self._vrrp is None or self._vrrp.returncode is not None):
            await self.start_keepalived()

    async def start_keepalived(self) -> None:
        """Start keepalived alone."""
        file = self._folder / "keepalived.conf"
        file.write_text(self._keepalived)
        with (self._folder / "keepalived.log").open("ab") as log:
            self._vrrp = await asyncio.create_subprocess_exec(
                *inside(self.namespace), "keepalived", "--dont-fork", "--vrrp", "--log-console", "--log-detail",
                "--use-file", str(file), "--pid", str(self._folder / "keepalived.pid"),
                "--vrrp_pid", str(self._folder / "vrrp.pid"), stdin=DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def pids(self) -> list[int]:
        """All that runs on the node."""
        return [int(pid) for pid in ip("netns", "pids", self.namespace).split()]

    def keepalived_pids(self) -> list[int]:
        """Keepalived's processes."""
        return [pid for pid in self.pids if _command_of(pid) == "keepalived"]

    def power_off(self) -> None:
        """All that runs on the node is gone at once, and so is its kernel: nothing of it is heard any more."""
        for wire in ("lan", "back"):
            self.cut(wire)
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def cut(self, wire: Wire) -> None:
        """Pull the plug of one network."""
        ip("-n", self.namespace, "link", "set", wire, "down")

    def mend(self, wire: Wire) -> None:
        """Put it back."""
        ip("-n", self.namespace, "link", "set", wire, "up")

    @property
    def card(self) -> str:
        """The hardware address on `lan`."""
        return ip("-n", self.namespace, "-o", "link", "show", "dev", "lan").split("link/ether ")[1].split()[0]

    def addresses(self) -> list[str]:
        """The addresses that the node has on `lan`."""
        shown = ip("-n", self.namespace, "-o", "addr", "show", "dev", "lan")
        return [line.split()[3].partition("/")[0] for line in shown.splitlines()]

    async def close(self) -> None:
        """End all processes of the node."""
        await super().close()
        if self._vrrp is not None and self._vrrp.returncode is None:
            with suppress(ProcessLookupError):
                self._vrrp.terminate()
            try:
                async with asyncio.timeout(START_S):
                    await self._vrrp.wait()
            except TimeoutError:
                self._vrrp.kill()
                await self._vrrp.wait()
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Server:
    """A server on the store's host: what it is started with is there again after a kill, except what was in memory."""

    def __init__(self, folder: Path, namespace: str, port: int, *command: str) -> None:
        self.address = Address(STORE, port)
        self._log = folder / "log"
        self._command = (*inside(namespace), *command)
        self._process: Process | None = None
        folder.mkdir()

    async def start(self) -> None:
        """Start it, and wait until it takes connections. Raises `WardenError`."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=DEVNULL, stdout=log, stderr=log, env={"PATH": os.environ["PATH"]}
            )
        until = time.monotonic() + START_S
        while not self._answers():
            if time.monotonic() > until or self._process.returncode is not None:
                raise WardenError(f"{self._command[4]} did not start: {self._log.read_text()[-1000:]}")
            await asyncio.sleep(POLL_S)

    async def kill(self) -> None:
        """Without warning."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(self.address, timeout=1):
            return True
        return False


class NamespaceCluster:
    """Nodes n1, n2 ... with seats s1, s2 ..., each at home on the node of its number. Phones are at `CLIENT`."""

    def __init__(self, folder: Path, lab: str, nodes: int, driver: Driver, lease_s: float, settings: str) -> None:
        self.lab = lab
        self.lease_s = lease_s
        self.seats: dict[str, Address] = {f"s{i + 1}": Address(f"198.18.0.{101 + i}", SIP_PORT) for i in range(nodes)}
        """Where phones register."""
        self.holders: dict[str, str] = {}
        """Seat to node, as the nodes' logs tell."""
        self.on_line: Callable[[str, LogLine], None] = lambda _node, _line: None
        """Told of every line that a node logs, when it is looked at."""
        self._adoptions: dict[str, dict[int, str]] = {seat: {} for seat in self.seats}
        self._database = folder / "warden.sqlite"
        store = f"{lab}-store"
        self.redis = Server(
            folder / "redis", store, REDIS_PORT,
            "redis-server", "--port", str(REDIS_PORT), "--bind", STORE, "--protected-mode", "no",
            "--save", "", "--appendonly", "no", "--dir", str(folder / "redis"),
        )  # fmt: skip
        url = f"http://{STORE}:{ETCD_PORT}"
        self.etcd = Server(
            folder / "etcd", store, ETCD_PORT,
            "etcd", "--data-dir", str(folder / "etcd" / "data"), "--listen-client-urls", url,
            "--advertise-client-urls", url, "--listen-peer-urls", "http://127.0.0.1:2380",
            "--heartbeat-interval", "50", "--election-timeout", "500", "--unsafe-no-fsync",
        )  # fmt: skip
        names = [f"n{i + 1}" for i in range(nodes)]
        secret = secrets.token_hex(16)
        self.nodes: dict[str, NamespaceNode] = {}
        for i, name in enumerate(names):
            home = folder / name
            order = {seat: names[j:] + names[:j] for j, seat in enumerate(self.seats)}
            text = f"""\
data_dir: {home / "data"}
secret: {secret}
http: {{bind_address: 0.0.0.0, port: {HTTP_PORT}}}
sip: {{bind_address: {lan_address(i)}, bind_port: {SIP_PORT}, realm: {REALM}, call: {{no_answer_timeout: 600}}}}
rtp: {{bind_address: {lan_address(i)}}}
log: {{format: json}}
database: {{file: {self._database}}}
redis: {{enabled: true, nodes: [{{host: {STORE}, port: {REDIS_PORT}}}]}}
etcd: {{nodes: [{{host: {STORE}, port: {ETCD_PORT}}}]}}
high_availability:
  enabled: true
  node_id: {name}
  lease_ttl: {lease_s}
  coordinator: etcd
{_driver_settings(driver, home)}
  seats:
{_seat_settings(self.seats, order)}
{settings}"""
            conf = _keepalived_conf(name, home, self.seats, order) if driver == "keepalived" else ""
            self.nodes[name] = NamespaceNode(name, home, text, f"{lab}-{name}", lan_address(i), conf)

    async def start(self, passwords: Mapping[str, str]) -> None:
        """Start everything, with an extension for each number in `passwords`, and wait until every seat is at home.
        Raises `WardenError`.
        """
        await asyncio.gather(self.redis.start(), self.etcd.start())
        await migrate(f"sqlite:///{self._database}")
        now = time.time()
        async with self.database() as durable:
            for number, password in passwords.items():
                await durable.add_extension(new_extension(number, password, realm=REALM, now=now))
        await asyncio.gather(*(node.start() for node in self.nodes.values()))
        await self.until(lambda: len(self.holders) == len(self.seats), "seats are held")
        await self._bring_home()

    async def _bring_home(self) -> None:
        """Addresses were given to whoever was there first, and may be on their way home by themselves: a seat that is
        free at the moment, or moving, is not handed over, and looked at again.
        """
        home = dict(zip(self.seats, self.nodes, strict=True))
        until = time.monotonic() + 3 * START_S
        while time.monotonic() < until:
            for seat, node in home.items():
                if self.holders[seat] != node:
                    with suppress(WardenError):
                        await self.nodes[node].ask("POST", f"seats/{seat}/handover", {"to": node})
            with suppress(WardenError):
                return await self.until(lambda: self.holders == home, "seats are at home", START_S / 3)
        raise WardenError(f"seats do not go home: {self.holders}")

    def look(self) -> list[tuple[str, LogLine]]:
        """What the nodes have logged since the last look, by node; it brings `holders` up to date."""
        lines = [(name, line) for name, node in self.nodes.items() for line in node.new_lines()]
        for name, line in lines:
            self.on_line(name, line)
            if (adopted := ADOPTED.match(line.event)) is not None:
                seat, epoch = adopted[1], int(adopted[2])
                self._adoptions[seat][epoch] = name
                self.holders[seat] = self._adoptions[seat][max(self._adoptions[seat])]
        return lines

    def adopters(self, seat: str) -> list[str]:
        """The nodes that have adopted the seat, in turn; one that did so twice in a row is there once."""
        self.look()
        found = [name for _, name in sorted(self._adoptions[seat].items())]
        return [name for before, name in zip(["", *found], found, strict=False) if name != before]

    def epoch(self, seat: str) -> int:
        """How often the seat was taken, as the nodes' logs tell."""
        self.look()
        return max(self._adoptions[seat])

    async def until(self, reached: Callable[[], bool], what: str, within_s: float = 30.0) -> None:
        """Look until it is so. Raises `WardenError` with what the nodes said."""
        until, said = time.monotonic() + within_s, list[str]()
        while True:
            said += [f"{name}: {line.event}" for name, line in self.look()]
            if reached():
                return
            if time.monotonic() > until:
                raise WardenError("\n".join([f"not reached: {what}", *said[-40:]]))
            await asyncio.sleep(POLL_S)

    async def now_held(self) -> dict[str, str]:
        """Seat to node, as the nodes' logs tell by now."""
        self.look()
        return dict(self.holders)

    async def held(self, seat: str, by: Callable[[str], bool]) -> str:
        """Wait until the seat is held by a node as wanted; that node. Raises `WardenError`."""
        await self.until(lambda: by(self.holders.get(seat, "")), f"seat {seat} is where it should be")
        return self.holders[seat]

    @asynccontextmanager
    async def database(self) -> AsyncIterator[SqlDurable]:
        """The durable database, which all nodes share."""
        durable = open_durable(f"sqlite:///{self._database}")
        try:
            yield durable
        finally:
            await durable.close()

    async def close(self) -> None:
        """End everything."""
        await asyncio.gather(*(node.close() for node in self.nodes.values()))
        await asyncio.gather(self.redis.kill(), self.etcd.kill())


class Tap:
    """Hears on the phones' cable who speaks over UDP from which address: it tells the nodes apart by their network
    cards, however the address moves. Open it in the phones' namespace.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_IPV4))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
        self._socket.bind(("lan", _ETH_IPV4))
        self._socket.setblocking(False)
        self._speakers: dict[str, list[str]] = {}
        asyncio.get_running_loop().add_reader(self._socket, self._hear)

    def speakers(self, host: str) -> list[str]:
        """The cards that spoke from an address, in turn; one that speaks again after another is there again."""
        self._hear()
        return self._speakers.get(host, [])

    def close(self) -> None:
        """Hear no more."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _hear(self) -> None:
        with suppress(BlockingIOError):
            while True:
                frame = self._socket.recv(64)
                if frame[23] != socket.IPPROTO_UDP:
                    # A kernel that has the address, and no such port open, says so itself.
                    continue
                said = self._speakers.setdefault(socket.inet_ntoa(frame[26:30]), [])
                card = frame[6:12].hex(":")
                if said[-1:] != [card]:
                    said.append(card)


@asynccontextmanager
async def namespace_cluster(
    *, nodes: int = 3, driver: Driver = "keepalived", lease_s: float | None = None, settings: str = ""
) -> AsyncIterator[NamespaceCluster]:
    """A cluster that is not started yet; nothing is left of it behind the block. The lease is 10 s with keepalived,
    else 1 s. `settings` are further lines for each node's section `high_availability`.

    Within the block the calling thread is in the phones' namespace: sockets and processes that it makes are there.
    Raises `WardenError` where that needs what is not there.
    """
    _check()
    _sweep()
    lease_s = lease_s or (10.0 if driver == "keepalived" else 1.0)
    lab = f"{_NAMES}-{os.getpid()}-{secrets.token_hex(2)}"
    # Short: there is a Unix socket in it.
    with tempfile.TemporaryDirectory(prefix="wardens-", ignore_cleanup_errors=True) as folder:
        try:
            _wire(lab, nodes)
            cluster = NamespaceCluster(Path(folder), lab, nodes, driver, lease_s, settings)
            with entered(f"{lab}-client"):
                try:
                    yield cluster
                finally:
                    await asyncio.shield(cluster.close())
        finally:
            _remove(lab)


def lan_address(node: int) -> str:
    """The address of the node with this index, which is its own and does not move."""
    return f"198.18.0.{11 + node}"


def _check() -> None:
    if os.geteuid() != 0:
        raise WardenError("network namespaces need root")
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            raise WardenError(f"there is no {program} on this machine; on Debian: apt-get install {package}")


def _wire(lab: str, nodes: int) -> None:
    """Two bridges in a namespace of their own, and everybody's cables to them."""
    switch = f"{lab}-switch"
    hosts = {"client": 1, "store": 2, **{f"n{i + 1}": 11 + i for i in range(nodes)}}
    for name in ("switch", *hosts):
        ip("netns", "add", f"{lab}-{name}")
        ip("-n", f"{lab}-{name}", "link", "set", "lo", "up")
    for net, wire in ((18, "lan"), (19, "back")):
        ip("-n", switch, "link", "add", wire, "type", "bridge", "mcast_snooping", "0")
        ip("-n", switch, "link", "set", wire, "up")
        for name, number in hosts.items():
            here, port = f"{lab}-{name}", f"{name}-{wire}"
            ip("-n", here, "link", "add", wire, "type", "veth", "peer", "name", port, "netns", switch)
            ip("-n", switch, "link", "set", port, "master", wire, "up")
            ip("-n", here, "addr", "add", f"198.{net}.0.{number}/24", "dev", wire)
            ip("-n", here, "link", "set", wire, "up")


def _remove(lab: str) -> None:
    for line in ip("netns", "list").splitlines():
        name = line.split()[0]
        if name.startswith(f"{lab}-"):
            for pid in ip("netns", "pids", name).split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            ip("netns", "del", name)


def _sweep() -> None:
    """Remove what labs have left that were killed."""
    for line in ip("netns", "list").splitlines():
        found = re.match(rf"({_NAMES}-(\d+)-[0-9a-f]+)-switch", line)
        if found is not None and not Path(f"/proc/{found[2]}").exists():
            _remove(found[1])


def _command_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _driver_settings(driver: Driver, home: Path) -> str:
    if driver == "keepalived":
        return f"  failover_driver: keepalived\n  keepalived: {{notify_fifo: {home / 'vrrp.fifo'}}}"
    # Soon, since a node that is slow to start under load finds its seat taken.
    return "  auto_recovery_delay: 2\n  manage_address: netlink\n  address_interface: lan\n  address_prefix: 24"


def _seat_settings(seats: Mapping[str, Address], order: Mapping[str, Sequence[str]]) -> str:
    return "\n".join(
        f"    - {{name: {seat}, address: {address.host}, successors: [{', '.join(order[seat])}]}}"
        for seat, address in seats.items()
    )


def _keepalived_conf(name: str, home: Path, seats: Mapping[str, Address], order: Mapping[str, Sequence[str]]) -> str:
    """As `warden ha render` makes it, for all seats."""
    parts = [
        f"""\
global_defs {{
    router_id {name}
    vrrp_version 3
    vrrp_notify_fifo {home / "vrrp.fifo"}
    vrrp_priority -20
    enable_script_security
    script_user root
}}
"""
    ]
    for number, (seat, address) in enumerate(seats.items(), 1):
        priority = PRIORITIES[min(order[seat].index(name), len(PRIORITIES) - 1)]
        parts.append(f"""\
vrrp_script may_hold_{seat} {{
    script "{sys.executable} -I -S {_may_hold_file()} {seat}"
    interval 1
    timeout 1
    fall 1
    rise 1
}}
track_file claim_{seat} {{
    file {home / f"{seat}.claim"}
    weight 1
}}
vrrp_instance {seat} {{
    state BACKUP
    interface lan
    virtual_router_id {number}
    priority {priority}
    advert_int {ADVERT_S}
    virtual_ipaddress {{
        {address.host}/24 dev lan
    }}
    track_script {{
        may_hold_{seat}
    }}
    track_file {{
        claim_{seat} weight 1
    }}
}}
""")
    return "\n".join(parts)


def _may_hold_file() -> Path:
    """The program behind `warden ha may-hold`, which needs nothing but itself."""
    return Path(sys.modules["warden"].__file__ or "").with_name("cli") / "may_hold.py"
