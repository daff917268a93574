"""What goes wrong in a lab's cluster, with Warden's hosts and with every program beside it, and how it is put right."""

import asyncio
import os
import signal
from contextlib import suppress
from typing import Final, Protocol

import warden
from warden.core.errors import WardenError
from warden.ops.ha.inventory import Seat
from warden.ops.lab.host import Host
from warden.ops.lab.hosted import HostedCluster
from warden.ops.lab_cluster import next_version
from warden.ops.nemesis import PLANNED_GAP_MS, VRRP_GAP_MS, frozen_gap_ms
from warden.ops.upgrade import Places, upgrade

UNHEARD_MS: Final = PLANNED_GAP_MS
"""What has nothing to do with audio must not be heard: three packets, as in planned work."""
AGAIN_S: Final = 30.0
LOSS_PERCENT: Final = 10
PAUSE_S: Final = 1.0
COMMAND: Final = "/usr/local/bin/warden"
"""What an operator types on a host."""


class HostFault:
    """Something that happens to one host: the base facts. `strike` and `mend` are those of each kind."""

    gap_ms_max: float | None = UNHEARD_MS

    def __init__(self, cluster: HostedCluster, host: str, what: str) -> None:
        self.name = f"{what} {host}"
        self.cluster = cluster
        self.host: Host = cluster.lab.hosts[host]

    @property
    def struck(self) -> list[str]:
        """The seats whose calls are listened to: those that are there, or all where nobody is to hear of it."""
        self.cluster.look()
        if self.gap_ms_max == UNHEARD_MS:
            return list(self.cluster.seats)
        return [seat for seat, holder in self.cluster.holders.items() if holder == self.host.name]

    async def settled(self) -> None:
        """Wait until every address is at one host, and every node could take calls. Raises `WardenError`."""
        await self.cluster.lab.settled(AGAIN_S)


class PowerOff(HostFault):
    """The host's power is cut, with everything on it."""

    gap_ms_max = VRRP_GAP_MS

    def __init__(self, cluster: HostedCluster, host: str) -> None:
        super().__init__(cluster, host, "power off at")

    async def strike(self) -> None:
        """As `Fault.strike`."""
        await asyncio.to_thread(self.host.power_off)

    async def mend(self) -> None:
        """As `Fault.mend`."""
        await self.cluster.nodes[self.host.name].start()
        await self.settled()


class PlannedStop(HostFault):
    """`systemctl restart pbx`."""

    def __init__(self, cluster: HostedCluster, host: str) -> None:
        super().__init__(cluster, host, "restart of Warden on")

    async def strike(self) -> None:
        """As `Fault.strike`."""
        await self.host.systemctl("stop", "pbx")

    async def mend(self) -> None:
        """As `Fault.mend`."""
        await self.cluster.nodes[self.host.name].start()
        await self.settled()


class HandedOver(HostFault):
    """`warden handover` of a seat to its next host, and back home."""

    def __init__(self, cluster: HostedCluster, seat: Seat) -> None:
        home, self._to = seat.successors[:2]
        super().__init__(cluster, home, f"hand-over of {seat.name} to {self._to} and back to")
        self._seat = seat.name

    @property
    def struck(self) -> list[str]:
        """The seat that moves."""
        return [self._seat]

    async def strike(self) -> None:
        """As `Fault.strike`."""
        await self._hand_to(self._to)

    async def mend(self) -> None:
        """As `Fault.mend`."""
        await self._hand_to(self.host.name)
        await self.settled()

    async def _hand_to(self, node: str) -> None:
        await self.host.run(COMMAND, "handover", self._seat, node)
        await self.cluster.held(self._seat, lambda holder: holder == node)


class Upgrade(HostFault):
    """`warden upgrade` of the whole cluster to another version, and back."""

    def __init__(self, cluster: HostedCluster, host: str) -> None:
        super().__init__(cluster, host, "rolling upgrade from")
        self.name = "rolling upgrade"
        self._next = next_version()
        self._places = Places(cluster.lab.cluster.paths.warden)

    @property
    def struck(self) -> list[str]:
        """All seats move."""
        return list(self.cluster.seats)

    async def strike(self) -> None:
        """As `Fault.strike`."""
        await self.cluster.lab.add_version(self._next)
        await upgrade(self.cluster.lab, self._next, self._places, PAUSE_S, lambda _what: None)

    async def mend(self) -> None:
        """As `Fault.mend`."""
        await upgrade(self.cluster.lab, warden.__version__, self._places, PAUSE_S, lambda _what: None)
        await self.settled()


class Killed(HostFault):
    """`kill -9` of programs of a host; what systemd restarts is restarted, as it would be."""

    def __init__(
        self, cluster: HostedCluster, host: str, *programs: str, gap_ms_max: float | None = UNHEARD_MS
    ) -> None:
        """`programs` by words of their command lines."""
        super().__init__(cluster, host, f"kill -9 of {' and '.join(programs)} on")
        self.gap_ms_max = gap_ms_max
        self._programs = programs

    async def strike(self) -> None:
        """As `Fault.strike`."""
        _signal(running(self.host, *self._programs), signal.SIGKILL)

    async def mend(self) -> None:
        """As `Fault.mend`."""
        await self.settled()


class RedisKilled(HostFault):
    """`kill -9` of every Redis server of the cluster at once; systemd starts them again, with what their files have."""

    def __init__(self, cluster: HostedCluster, host: str) -> None:
        """`host` is where the calls are listened to."""
        super().__init__(cluster, host, "kill -9 of")
        self.name = "kill -9 of all Redis servers"

    async def strike(self) -> None:
        """As `Fault.strike`."""
        servers = [self.cluster.lab.hosts[host.name] for host in self.cluster.lab.region.hosts_with("redis")]
        # The exporter beside each is a program of its own, and not what is lost.
        _signal([pid for server in servers for pid in running(server, "/usr/bin/redis-server")], signal.SIGKILL)

    async def mend(self) -> None:
        """As `Fault.mend`."""
        await self.settled()


class DatabaseKilled(Killed):
    """`kill -9` of Patroni and PostgreSQL on the host whose database leads at that moment."""

    def __init__(self, cluster: HostedCluster, host: str) -> None:
        """`host` is where the calls are listened to."""
        super().__init__(cluster, host, "patroni", "postgres")
        self.name = "kill -9 of the leading database"

    async def strike(self) -> None:
        """As `Fault.strike`."""
        self.host = self.cluster.lab.hosts[await self.cluster.leader()]
        await super().strike()


class Frozen(HostFault):
    """Every process of Warden on the host stands still for some seconds, and goes on as if nothing had been."""

    def __init__(self, cluster: HostedCluster, host: str) -> None:
        super().__init__(cluster, host, "SIGSTOP of Warden on")
        self.gap_ms_max = frozen_gap_ms(cluster.lab.cluster.timings.health_interval)

    async def strike(self) -> None:
        """As `Fault.strike`."""
        _signal(running(self.host, "warden"), signal.SIGSTOP)

    async def mend(self) -> None:
        """As `Fault.mend`."""
        _signal(running(self.host, "warden"), signal.SIGCONT)
        await self.settled()


class Cut(HostFault):
    """A cable of the host is pulled, and put back."""

    gap_ms_max = VRRP_GAP_MS

    def __init__(self, cluster: HostedCluster, host: str, wire: str = "lan") -> None:
        super().__init__(cluster, host, "cable cut at")
        self._wire = wire

    async def strike(self) -> None:
        """As `Fault.strike`."""
        await asyncio.to_thread(self.host.cut, self._wire)

    async def mend(self) -> None:
        """As `Fault.mend`."""
        await asyncio.to_thread(self.host.mend, self._wire)
        await self.settled()


class Deaf(HostFault):
    """A host hears nobody of the cluster any more, and is heard: a partition in one direction. Phones reach it."""

    gap_ms_max = None

    def __init__(self, cluster: HostedCluster, host: str) -> None:
        super().__init__(cluster, host, "one-way partition of")
        others = [other.inside for other in cluster.lab.machines if other.name != host]
        self._rules = (
            f"add table inet deaf; {_chain('deaf', 'input')}; "
            f"add rule inet deaf input ip saddr {{ {', '.join(others)} }} drop"
        )

    async def strike(self) -> None:
        """As `Fault.strike`."""
        await self.host.run("nft", self._rules)

    async def mend(self) -> None:
        """As `Fault.mend`."""
        await self.host.run("nft", "delete", "table", "inet", "deaf")
        await self.settled()


class Lossy(HostFault):
    """One of ten of the datagrams that a host is sent is lost: SIP, audio and DNS, not the stores' connections."""

    gap_ms_max = None

    def __init__(self, cluster: HostedCluster, host: str) -> None:
        super().__init__(cluster, host, f"{LOSS_PERCENT} % of datagrams lost on the way to")

    async def strike(self) -> None:
        """As `Fault.strike`."""
        rule = f"add rule inet lossy input meta l4proto udp numgen random mod 100 < {LOSS_PERCENT} drop"
        await self.host.run("nft", f"add table inet lossy; {_chain('lossy', 'input')}; {rule}")

    async def mend(self) -> None:
        """As `Fault.mend`."""
        await self.host.run("nft", "delete", "table", "inet", "lossy")
        await self.settled()


class Minority(HostFault):
    """A host and all others hear nothing of each other any more, and phones hear all of them: a partition that leaves
    the host alone.
    """

    gap_ms_max = None

    def __init__(self, cluster: HostedCluster, host: str) -> None:
        super().__init__(cluster, host, "partition that leaves alone")
        # Also by the seats' addresses, wherever those are: what the host sends to itself does not leave it.
        inventory = cluster.lab.cluster
        every = {address for one in inventory.hosts for address in (one.address, one.inside)}
        whom = f"{{ {', '.join(sorted(every | set(inventory.moving.values())))} }}"
        self._rules = (
            f"add table inet alone; {_chain('alone', 'input')}; {_chain('alone', 'output')}; "
            f"add rule inet alone input iif != lo ip saddr {whom} drop; "
            f"add rule inet alone output oif != lo ip daddr {whom} drop"
        )

    async def strike(self) -> None:
        """As `Fault.strike`."""
        await self.host.run("nft", self._rules)

    async def mend(self) -> None:
        """As `Fault.mend`."""
        await self.host.run("nft", "delete", "table", "inet", "alone")
        await self.settled()


class LineCut(HostFault):
    """No packet passes between the two regions any more. Phones reach both."""

    def __init__(self, cluster: HostedCluster, host: str) -> None:
        """`host` is where the calls are listened to."""
        super().__init__(cluster, host, "")
        lab = cluster.lab
        self.name = f"line cut between {' and '.join(lab.regions)}"
        here = lab.region
        # Both directions, on the hosts of the other region alone: the phones are in the primary one's network.
        self._cut = [host.name for one in lab.regions.values() if one is not here for host in one.hosts]
        every = {address for one in here.hosts for address in (one.address, one.inside)}
        whom = f"{{ {', '.join(sorted(every | set(here.moving.values())))} }}"
        self._rules = (
            f"add table inet line; {_chain('line', 'input')}; {_chain('line', 'output')}; "
            f"add rule inet line input ip saddr {whom} drop; add rule inet line output ip daddr {whom} drop"
        )

    async def strike(self) -> None:
        """As `Fault.strike`."""
        await self._at_all(self._rules)

    async def mend(self) -> None:
        """As `Fault.mend`."""
        await self._at_all("delete table inet line")
        await self.settled()

    async def _at_all(self, rules: str) -> None:
        await asyncio.gather(*(self.cluster.lab.run(name, "nft", rules) for name in self._cut))


class StoresUnreachable(HostFault):
    """A host reaches neither Redis, etcd nor PostgreSQL of any other, and all else: a partition of the stores."""

    gap_ms_max = None

    def __init__(self, cluster: HostedCluster, host: str) -> None:
        super().__init__(cluster, host, "stores cut off from")

    async def strike(self) -> None:
        """As `Fault.strike`."""
        ports = "tcp dport { 2379, 2380, 5432, 6379, 6380, 16379, 16380 }"
        hooks = "; ".join(
            f"{_chain('apart', hook)}; add rule inet apart {hook} {card} {ports} drop"
            for hook, card in (("input", "iif != lo"), ("output", "oif != lo"))
        )
        await self.host.run("nft", f"add table inet apart; {hooks}")

    async def mend(self) -> None:
        """As `Fault.mend`."""
        await self.host.run("nft", "delete", "table", "inet", "apart")
        await self.settled()


class Runs(Protocol):
    """A host, as far as it says what runs on it."""

    name: str

    def pids_of(self, program: str) -> list[int]:
        """As `Host.pids_of`."""


def running(host: Runs, *programs: str) -> list[int]:
    """The processes of these programs. Raises `WardenError` where one of them has none: to strike nothing shows
    nothing.
    """
    found = {program: host.pids_of(program) for program in programs}
    if missing := [program for program, pids in found.items() if not pids]:
        raise WardenError(f"{host.name} runs no {' and no '.join(missing)}")
    return [pid for pids in found.values() for pid in pids]


def _chain(table: str, hook: str) -> str:
    return f"add chain inet {table} {hook} {{ type filter hook {hook} priority -200; policy accept; }}"


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
