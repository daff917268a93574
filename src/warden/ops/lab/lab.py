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
from warden.core.address import Address
from warden.core.errors import ConfigError, WardenError
from warden.ops.ha import inventory
from warden.ops.ha.folder import write
from warden.ops.ha.inventory import Cluster, Seat
from warden.ops.ha.names import DNS_PORT
from warden.ops.ha.programs import certificate
from warden.ops.ha.regions import places, third_of
from warden.ops.ha.render import render
from warden.ops.ha.secret_values import Secrets, secrets_of
from warden.ops.ha.shared import shared_files
from warden.ops.ha.sites import Wire, with_prefix
from warden.ops.lab.host import Card, Host, plug
from warden.ops.lab_cluster import as_version
from warden.ops.netns import ip
from warden.ops.upgrade import NO_SEAT, NOT_HERE

FOLDER: Final = Path("/tmp/warden-lab")  # noqa: S108 - made for root alone
CHECKOUT: Final = Path(warden.__file__).parents[2]
READY_S: Final = 180.0
"""A cluster is there after half a minute on two idle processors."""
POLL_S: Final = 0.2
PROGRAMS: Final = {
    "ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux", "nft": "nftables", "keepalived": "keepalived",
    "haproxy": "haproxy", "redis-server": "redis-server", "redis-sentinel": "redis-sentinel", "etcd": "etcd-server",
    "etcdctl": "etcd-client", "patroni": "patroni", "curl": "curl", "prometheus": "prometheus", "psql": "postgresql",
    "arping": "iputils-arping", "faketime": "faketime", "named": "bind9",
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

    @property
    def is_well(self) -> bool:
        """It could take calls: one that holds no seat is told none, nor one in a region that is not primary."""
        return all(reason == NO_SEAT or reason.startswith(NOT_HERE) for reason in self.reasons)

    @property
    def sleeps(self) -> bool:
        """Its region is not primary."""
        return any(reason.startswith(NOT_HERE) for reason in self.reasons)


class Lab:
    """The hosts, by name, and `phones`, the namespace of everybody else on the phones' network.

    `regions` are the clusters by name, one named "" where there is one place only. `primary` is the one whose seats are
    held; whoever moves them says so here. `third` is the third site, where there is one.
    """

    def __init__(self, folder: Path, kept: Kept) -> None:
        self.folder = folder
        self.cluster = _cluster(kept.cluster)
        self.secrets: Secrets = secrets_of(folder / "cluster.secrets.json")
        self.phones = f"{kept.namespaces}-phones"
        self._kept = kept
        self._switch = f"{kept.namespaces}-switch"
        self.regions = {geo.name if geo is not None else "": region for region, geo in places(self.cluster)}
        self.primary = next(iter(self.regions))
        self.third = third_of(self.cluster)
        self._lost: set[str] = set()
        self.hosts: dict[str, Host] = {}
        for region in self._sites:
            for host in region.hosts:
                cards = [self._card(region, self._third_wire if region is self.third else "lan", host.address)]
                if host.cluster_address is not None:
                    cards.append(self._card(region, "back", host.cluster_address))
                namespace = f"{kept.namespaces}-{host.name}"
                self.hosts[host.name] = Host(host.name, namespace, folder / "hosts" / host.name, cards, CHECKOUT)

    def _card(self, region: Cluster, wire: str, address: str) -> Card:
        """The other sites are on the same wire: as if the way there took no time."""
        wires = [self._wires(site) for site in self._sites if site is not region]
        here = self._wires(region)[wire]
        return Card(
            here.interface, with_prefix(here, address), wire, tuple(w[wire].network for w in wires if wire in w)
        )

    def _wires(self, site: Cluster) -> dict[str, Wire]:
        """The networks of a site by their bridges' names."""
        found = {self._third_wire if site is self.third else "lan": site.network}
        if site.cluster_network is not None:
            found["back"] = site.cluster_network
        return found

    @property
    def _third_wire(self) -> str:
        """The third site is reached where the hosts of the regions reach each other."""
        return "lan" if next(iter(self.regions.values())).cluster_network is None else "back"

    @property
    def _sites(self) -> list[Cluster]:
        return [*self.regions.values(), *([] if self.third is None else [self.third])]

    @property
    def region(self) -> Cluster:
        """The cluster, or the region of it whose seats are held, as the cluster that it is by itself."""
        return self.regions[self.primary]

    @property
    def machines(self) -> list[inventory.Host]:
        """The hosts of all sites, as the cluster file has them."""
        return [host for site in self._sites for host in site.hosts]

    @property
    def phones_address(self) -> str:
        """The address of the phones: the last but one of the network, the first region's, that nobody has."""
        region = next(iter(self.regions.values()))
        taken = {host.address for host in region.hosts} | set(region.moving.values())
        free = (str(address) for address in reversed(list(ip_network(region.network.network).hosts())[:4096]))
        return next(address for address in free if address not in taken)

    @property
    def name_servers(self) -> list[Address]:
        """The two that phones are told beside their own address: one of each region, where there are two."""
        servers = [region.hosts_with("dns") for region in self.regions.values()]
        first = [host for here in servers for host in (here[:1] if len(servers) > 1 else here[:2])]
        return [Address(host.address, DNS_PORT) for host in first]

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
        if self.third is not None and self.third.third_site is not None:
            await self._set_up_all(self.third, files)
            say(f"files of {self.third.third_site.name}, the third site, are installed")
        for name in self.regions:
            # One after the other: the second region's database is a copy of the first's.
            await self._bring_up(name, files, say)
        await self.settled()
        say("all nodes are ready, every address is at one host")
        await self.home()
        say("every seat is at home")

    async def home(self) -> None:
        """Have every seat at its first successor, where each would go by itself half a minute later. Raises
        `WardenError`.
        """
        for seat in self.regions[self.primary].seats:
            await self.until(lambda seat=seat: self._bring_home(seat), f"{seat.name} is at home")  # type: ignore[misc]

    async def _bring_up(self, name: str, files: Path, say: Say) -> None:
        region, of = self.regions[name], f" of {name}" if name else ""
        await self._set_up_all(region, files)
        maker = region.maker
        assert maker is not None, "a region has votes"
        first = self.hosts[maker.name]
        voters = [f"http://{host.inside}:2379" for host in region.hosts_with("etcd", "witness")]
        await self.until(
            lambda: first.run("etcdctl", f"--endpoints={','.join(voters)}", "endpoint", "health"), f"etcd{of} answers"
        )
        say(f"files{of} are installed; etcd answers")
        for member in region.hosts_with("arbiter"):
            place = f"http://{member.inside}:2381"
            # As one who may see nothing: what is asked for here is whether two of the three sites agree.
            ask = ("curl", "--silent", "--fail", "--max-time", "2", f"{place}/health")
            await self.until(lambda ask=ask: first.run(*ask), f"the arbiter{of} answers")  # type: ignore[misc]
        said = await first.run("/usr/local/sbin/pbx-bootstrap", within_s=READY_S)
        (first.folder / "bootstrap.log").write_text(said)
        say(f"accounts in etcd{of} and Redis' cluster are made")
        role = "leads" if name == self.primary else "follows"
        await self.until(lambda: self._database_is_up(region, role), f"a database{of} {role}")
        say(f"a database{of} {role}")

    async def lose(self, region: str) -> None:
        """All power of a region is cut at once."""
        self._lost.add(region)
        hosts = (self.hosts[host.name] for host in self.regions[region].hosts)
        await asyncio.gather(*(asyncio.to_thread(host.power_off) for host in hosts))

    async def restore(self, region: str) -> None:
        """Switch its hosts on again, with what was enabled on them. Raises `WardenError`."""
        await asyncio.gather(*(self.hosts[host.name].start() for host in self.regions[region].hosts))
        self._lost.discard(region)

    async def settled(self, within_s: float = READY_S) -> None:
        """Wait until every node could take calls, and every address is at one host: those of a region's seats that is
        not primary at none. A region that is lost is not asked. Raises `WardenError`.
        """
        for name, region in self.regions.items():
            for node in region.hosts_with("pbx") if name not in self._lost else ():
                await self.until(
                    lambda node=node, name=name: self._is_ready(node.name, name),  # type: ignore[misc]
                    f"{node.name} is ready",
                    within_s,
                )
        await self.until(self._seats_are_held, "every address is at one host", within_s)

    async def _set_up_all(self, site: Cluster, files: Path) -> None:
        """All hosts of a site at once."""
        await asyncio.gather(*(self._set_up(site, self.hosts[host.name], files / host.name) for host in site.hosts))

    async def _set_up(self, region: Cluster, host: Host, files: Path) -> None:
        await host.start()
        for path in {region.balancer.certificate, region.sip_tls.certificate or region.balancer.certificate}:
            pem = host.on_disk(path)
            pem.parent.mkdir(parents=True, exist_ok=True)
            pem.write_bytes(self._certificate())
            pem.chmod(0o640)
        (host.folder / "install.log").write_text(await host.run("sh", str(files / "install.sh")))

    def _certificate(self) -> bytes:
        """The same on all hosts, with every name and address by which they are reached."""
        path = self.folder / "certificate.pem"
        if not path.exists():
            moving = [address for region in self.regions.values() for address in region.moving.values()]
            path.write_bytes(certificate(self.cluster.domain, f"*.{self.cluster.domain}", *moving))
            path.chmod(0o600)
        return path.read_bytes()

    async def _database_is_up(self, region: Cluster, role: str) -> None:
        way = {"leads": "primary", "follows": "standby-leader"}[role]
        for database in region.hosts_with("database"):
            with suppress(WardenError):
                await self.hosts[database.name].run(
                    "curl", "--silent", "--fail", "--max-time", "2", f"http://{database.inside}:8008/{way}"
                )
                return
        raise WardenError("none does")

    async def _is_ready(self, node: str, region: str) -> None:
        health = await self._health(node)
        if not health.is_well or (health.sleeps and region == self.primary):
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
        for name, region in self.regions.items():
            if name in self._lost:
                continue
            held = [address for host in region.hosts for address in self.hosts[host.name].addresses()]
            seats = {seat.address for seat in region.seats} if name != self.primary else set()
            wrong = [
                what for what, address in region.moving.items() if held.count(address) != (address not in seats)
            ]  # fmt: skip
            if wrong:
                raise WardenError(f"{', '.join(wrong)}{' of ' + name if name else ''} at none, or at two")

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
        for wire in self._wires(self.regions[self.primary]):
            ip("-n", self._switch, "link", "add", wire, "type", "bridge", "mcast_snooping", "0")
            ip("-n", self._switch, "link", "set", wire, "up")
        ends = [(host.namespace, card) for host in self.hosts.values() for card in host.cards]
        phones = self._card(self.regions[self.primary], "lan", self.phones_address)
        ends.append((self.phones, msgspec.structs.replace(phones, interface="lan")))
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
            plug(namespace, card)
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
        for host in self.hosts.values():
            host.reap()
        shutil.rmtree(self.folder, ignore_errors=True)


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
