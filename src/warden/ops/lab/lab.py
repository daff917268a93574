"""A cluster's hosts on one machine: wired, set up from their rendered files as an operator would do it, and taken down.

What is done once it stands, and what to think of it, others know.
"""

import asyncio
import hashlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

import warden
from warden.config.load import parse
from warden.core.errors import ConfigError, WardenError
from warden.ops.ha.folder import write
from warden.ops.ha.inventory import Cluster, Seat, Wire, with_prefix
from warden.ops.ha.programs import certificate
from warden.ops.ha.render import render
from warden.ops.ha.secret_values import Secrets, secrets_of
from warden.ops.ha.shared import shared_files
from warden.ops.lab.host import Card, Host
from warden.ops.lab_cluster import as_version
from warden.ops.netns import ip

FOLDER: Final = Path("/tmp/warden-lab")  # noqa: S108 - made for root alone
CHECKOUT: Final = Path(warden.__file__).parents[2]
READY_S: Final = 180.0
"""A cluster is there after half a minute on two idle processors."""
POLL_S: Final = 0.2
PROGRAMS: Final = {
    "ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux", "nft": "nftables", "keepalived": "keepalived",
    "haproxy": "haproxy", "redis-server": "redis-server", "redis-sentinel": "redis-sentinel", "etcd": "etcd-server",
    "etcdctl": "etcd-client", "patroni": "patroni", "curl": "curl", "prometheus": "prometheus", "psql": "postgresql",
    "arping": "iputils-arping", "faketime": "faketime",
}  # fmt: skip
Say = Callable[[str], None]


class Kept(Struct, frozen=True):
    """What is written down of a lab, so that another process finds it."""

    namespaces: str
    """What their names begin with."""
    cluster: str
    """The text of the cluster file."""


class Health(Struct):
    """Of a node's `/health`: why it takes no calls, and which seats it holds."""

    reasons: list[str] = []
    seats: list[str] = []


class Lab:
    """The hosts, by name, and `phones`, the namespace of everybody else on the phones' network."""

    def __init__(self, folder: Path, kept: Kept) -> None:
        self.folder = folder
        self.cluster = _cluster(kept.cluster)
        self.secrets: Secrets = secrets_of(folder / "cluster.secrets.json")
        self.phones = f"{kept.namespaces}-phones"
        self._kept = kept
        self._switch = f"{kept.namespaces}-switch"
        self.hosts: dict[str, Host] = {}
        for host in self.cluster.hosts:
            cards = [_card(self.cluster.network, host.address, "lan")]
            if self.cluster.cluster_network is not None and host.cluster_address is not None:
                cards.append(_card(self.cluster.cluster_network, host.cluster_address, "back"))
            namespace = f"{kept.namespaces}-{host.name}"
            self.hosts[host.name] = Host(host.name, namespace, folder / "hosts" / host.name, cards, CHECKOUT)

    @property
    def phones_address(self) -> str:
        """The address of the phones: the last but one of the network that nobody has."""
        taken = {host.address for host in self.cluster.hosts} | set(self.cluster.moving.values())
        free = (str(address) for address in reversed(list(ip_network(self.cluster.network.network).hosts())[:4096]))
        return next(address for address in free if address not in taken)

    @property
    def names(self) -> list[str]:
        """The hosts that run Warden."""
        return [host.name for host in self.cluster.hosts_with("pbx")]

    async def run(self, host: str, *words: str) -> str:
        """Run a command on a host; what it prints. Raises `WardenError`."""
        return await self.hosts[host].run(*words)

    async def add_version(self, version: str, *, works: bool = True) -> None:
        """Have this checkout on every host as another version too, or something that is none and does not start."""
        words: tuple[str, ...] = ("false",)
        if works:
            words = await asyncio.to_thread(as_version, version, self.folder / f"src-{version}")
        start = f'exec {" ".join(words)} "$@"'
        program = f"/opt/PBX/versions/{version}/bin/warden"
        script = (
            f"mkdir -p {program.removesuffix('/warden')} && echo '#!/bin/sh\n{start}' >{program} && chmod 755 {program}"
        )
        await asyncio.gather(*(self.run(name, "sh", "-c", script) for name in self.names))

    @classmethod
    def make(cls, folder: Path, cluster: str) -> "Lab":
        """A lab that is not up yet, from the text of a cluster file. Raises `WardenError`, `ConfigError`."""
        _check()
        _cluster(cluster)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            raise WardenError(f"{folder}: there is a lab already; `warden lab down` takes it down") from None
        kept = Kept(f"wlab{hashlib.sha256(str(folder).encode()).hexdigest()[:6]}", cluster)
        (folder / "lab.json").write_bytes(msgspec.json.encode(kept))
        return cls(folder, kept)

    @classmethod
    def find(cls, folder: Path) -> "Lab":
        """The lab in a folder. Raises `WardenError` where there is none."""
        try:
            return cls(folder, msgspec.json.decode((folder / "lab.json").read_bytes(), type=Kept))
        except FileNotFoundError:
            raise WardenError(f"{folder}: there is no lab; `warden lab up` makes one") from None

    async def up(self, say: Say) -> None:
        """Have everything run. Raises `WardenError` with what did not come."""
        if not self.is_wired:
            await asyncio.to_thread(self.wire)
        files = self.folder / "files"
        write(render(self.cluster, self.secrets, shared_files()), files)
        say(f"{len(self.hosts)} hosts are wired, their files rendered")
        await asyncio.gather(*(self._set_up(host, files / host.name) for host in self.hosts.values()))
        first = next(iter(self.hosts.values()))
        voters = [f"http://{host.inside}:2379" for host in self.cluster.hosts_with("etcd", "witness")]
        await self.until(
            lambda: first.run("etcdctl", f"--endpoints={','.join(voters)}", "endpoint", "health"), "etcd answers"
        )
        say("files are installed; etcd answers")
        said = await first.run("/usr/local/sbin/pbx-bootstrap", within_s=READY_S)
        (first.folder / "bootstrap.log").write_text(said)
        say("accounts in etcd and Redis' cluster are made")
        await self.until(self._database_leads, "a database leads")
        say("a database leads")
        await self.settled()
        say("all nodes are ready, every address is at one host")
        await self.home()
        say("every seat is at home")

    async def home(self) -> None:
        """Have every seat at its first successor, where each would go by itself half a minute later. Raises
        `WardenError`.
        """
        for seat in self.cluster.seats:
            await self.until(lambda seat=seat: self._bring_home(seat), f"{seat.name} is at home")  # type: ignore[misc]

    async def settled(self, within_s: float = READY_S) -> None:
        """Wait until every node could take calls, and every address is at one host. Raises `WardenError`."""
        for node in self.cluster.hosts_with("pbx"):
            await self.until(lambda node=node: self._is_ready(node.name), f"{node.name} is ready", within_s)  # type: ignore[misc]
        await self.until(self._seats_are_held, "every address is at one host", within_s)

    async def _set_up(self, host: Host, files: Path) -> None:
        await host.start()
        pem = host.on_disk(self.cluster.balancer.certificate)
        pem.parent.mkdir(parents=True, exist_ok=True)
        pem.write_bytes(certificate())
        pem.chmod(0o640)
        (host.folder / "install.log").write_text(await host.run("sh", str(files / "install.sh")))

    async def _database_leads(self) -> None:
        for database in self.cluster.hosts_with("database"):
            with suppress(WardenError):
                await self.hosts[database.name].run(
                    "curl", "--silent", "--fail", "--max-time", "2", f"http://{database.inside}:8008/primary"
                )
                return
        raise WardenError("none does")

    async def _is_ready(self, node: str) -> None:
        health = await self._health(node)
        # One that holds no seat is told no calls, and could.
        if health.reasons not in ([], ["holds no seat"]):
            raise WardenError(", ".join(health.reasons))

    async def _health(self, node: str) -> Health:
        said = await self.hosts[node].run("curl", "--silent", "--max-time", "2", "http://127.0.0.1:9000/health")
        return msgspec.json.decode(said, type=Health)

    async def _bring_home(self, seat: Seat) -> None:
        home = self.hosts[seat.successors[0]]
        health = await self._health(home.name)
        if seat.name not in health.seats:
            holder = next((host for host in self.hosts.values() if seat.address in host.addresses()), home)
            await holder.run("/usr/local/bin/warden", "handover", seat.name, home.name)
            raise WardenError("on its way")

    async def _seats_are_held(self) -> None:
        held = [address for host in self.hosts.values() for address in host.addresses()]
        missing = [name for name, address in self.cluster.moving.items() if held.count(address) != 1]
        if missing:
            raise WardenError(f"{', '.join(missing)} at none, or at two")

    async def until(self, ask: Callable[[], Coroutine[Any, Any, Any]], what: str, within_s: float = READY_S) -> None:
        """Ask until it does not raise. Raises `WardenError` with the last reason, and what the hosts' units do."""
        until = time.monotonic() + within_s
        while True:
            try:
                await ask()
            except WardenError as error:
                if time.monotonic() > until:
                    raise WardenError(f"not reached: {what}: {error}\n{await self._said()}") from error
            else:
                return
            await asyncio.sleep(POLL_S)

    async def _said(self) -> str:
        lines = []
        for host in self.hosts.values():
            with suppress(WardenError):
                for unit in await host.units():
                    tail = host.log(unit.unit).read_text(errors="replace").splitlines()[-2:]
                    lines.append(
                        f"{host.name} {unit.unit} {unit.state} ({unit.starts} starts): {' / '.join(tail)[:300]}"
                    )
        return "\n".join(lines)

    @property
    def is_wired(self) -> bool:
        """Its namespaces are there."""
        return Path(f"/run/netns/{self._switch}").exists()

    def wire(self) -> None:
        """Make the namespaces and the cables between them. Raises `WardenError`."""
        ip("netns", "add", self._switch)
        wires = {"lan": self.cluster.network}
        if self.cluster.cluster_network is not None:
            wires["back"] = self.cluster.cluster_network
        for wire in wires:
            ip("-n", self._switch, "link", "add", wire, "type", "bridge", "mcast_snooping", "0")
            ip("-n", self._switch, "link", "set", wire, "up")
        ends = [(host.namespace, card) for host in self.hosts.values() for card in host.cards]
        ends.append((self.phones, Card("lan", with_prefix(self.cluster.network, self.phones_address), "lan")))
        for namespace in dict.fromkeys(namespace for namespace, _ in ends):
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
        for number, (namespace, card) in enumerate(ends):
            port = f"p{number}"
            ip(
                "-n",
                namespace,
                "link",
                "add",
                card.interface,
                "type",
                "veth",
                "peer",
                "name",
                port,
                "netns",
                self._switch,
            )
            ip("-n", self._switch, "link", "set", port, "master", card.wire, "up")
            ip("-n", namespace, "addr", "add", card.address, "dev", card.interface)
            ip("-n", namespace, "link", "set", card.interface, "up")
        for host in self.hosts.values():
            host.folder.mkdir(parents=True)

    def down(self) -> None:
        """End everything and remove it, whatever state it is in."""
        for line in ip("netns", "list").splitlines():
            name = line.split()[0]
            if name.startswith(f"{self._kept.namespaces}-"):
                for pid in ip("netns", "pids", name).split():
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                ip("netns", "del", name)
        shutil.rmtree(self.folder, ignore_errors=True)


def _card(wire: Wire, address: str, name: str) -> Card:
    return Card(wire.interface, with_prefix(wire, address), name)


def _cluster(text: str) -> Cluster:
    document = parse(text.encode(), {}, Cluster, name="cluster.yml")
    if document.problems:
        raise ConfigError(document.problems)
    return document.config


def _check() -> None:
    if os.geteuid() != 0:
        raise WardenError("a lab needs root: it makes network namespaces and disks for its hosts")
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = {package for program, package in PROGRAMS.items() if shutil.which(program, path=path) is None}
    if missing:
        raise WardenError(f"missing on this machine; on Debian: apt-get install {' '.join(sorted(missing))}")
