"""What goes wrong in demonstrations and drills, and how it is put right again. The nemesis looks at no call."""

import asyncio
from typing import Final, Protocol

from warden.core.errors import WardenError
from warden.ops.lab_cluster import LabCluster, LabNode, LabRedis
from warden.ops.namespaces import NamespaceCluster, NamespaceNode

SURE_S: Final = 0.5
"""What the lease driver may take beyond the lease until audio is back (promise P1)."""
ETCD_STEP_S: Final = 0.5
"""Etcd looks twice a second which leases are over, so a lease lasts so much longer at worst."""
VRRP_GAP_MS: Final = 600.0
"""What keepalived may take at an advertisement interval of 0.1 s (promise P1)."""
ETCD_LED_MS: Final = 1000.0
"""The same where etcd's leader dies as well: whoever gets the address waits for an election (0.3 to 0.6 s)."""
FREED_S: Final = 1.0
"""From when a track script has been waited for in vain until the audio is back: VRRP, and the adoption of all calls."""
PLANNED_GAP_MS: Final = 60.0
"""Three packets: what planned work may take from the audio (promise P4)."""


Cluster = LabCluster | NamespaceCluster


class Fault(Protocol):
    """Something that happens to the cluster once."""

    @property
    def name(self) -> str:
        """What happens, in a few words."""

    @property
    def struck(self) -> list[str]:
        """The seats whose calls it touches; asked before it strikes."""

    @property
    def gap_ms_max(self) -> float | None:
        """What it may cost the audio; None where nothing is promised."""

    async def strike(self) -> None:
        """Let it happen. Raises `WardenError` where it cannot."""

    async def mend(self) -> None:
        """Have everything in its place again. Raises `WardenError`."""


def frozen_gap_ms(health_interval_s: float) -> float:
    """What keepalived may take where a node stands still and its host does not: its track script is run at this
    interval, and is waited for as long.
    """
    return (2 * health_interval_s + FREED_S) * 1000


class PowerLoss:
    """A node's signalling and media processes are killed at once."""

    def __init__(self, cluster: Cluster, node: str, *, gap_ms_max: float | None = None) -> None:
        """The audio may be away for `gap_ms_max` milliseconds; by default what the lease driver promises."""
        self.gap_ms_max = (cluster.lease_s + SURE_S) * 1000 if gap_ms_max is None else gap_ms_max
        self._cluster = cluster
        self._node = cluster.nodes[node]

    @property
    def name(self) -> str:
        """As `Fault.name`."""
        return f"kill -9 of {self._node.name}"

    @property
    def struck(self) -> list[str]:
        """As `Fault.struck`."""
        return _held_by(self._cluster, self._node)

    async def strike(self) -> None:
        """As `Fault.strike`."""
        # To pull plugs takes commands, and the phones are not to wait for those.
        await asyncio.to_thread(self._node.power_off)
        await self._node.gone()

    async def mend(self) -> None:
        """As `Fault.mend`."""
        await self._node.start()


class Handover:
    """A node is told to stop, and hands its seats over with their calls."""

    def __init__(self, cluster: Cluster, node: str) -> None:
        self.gap_ms_max = PLANNED_GAP_MS
        self._cluster = cluster
        self._node = cluster.nodes[node]

    @property
    def name(self) -> str:
        """As `Fault.name`."""
        return f"planned stop of {self._node.name}"

    @property
    def struck(self) -> list[str]:
        """As `Fault.struck`."""
        return _held_by(self._cluster, self._node)

    async def strike(self) -> None:
        """As `Fault.strike`."""
        self._node.terminate()
        try:
            status = await self._node.gone()
        except TimeoutError:
            raise WardenError(f"{self._node.name} does not stop") from None
        if status != 0:
            raise WardenError(f"{self._node.name} stopped with exit status {status}")

    async def mend(self) -> None:
        """As `Fault.mend`."""
        await self._node.start()


class SeatMove:
    """The operator has a seat, with its calls, handed to another node."""

    def __init__(self, cluster: LabCluster, seat: str, node: str) -> None:
        self.gap_ms_max = PLANNED_GAP_MS
        self.name = f"hand-over of {seat} to {node}"
        self.struck = [seat]
        self._cluster = cluster
        self._to = node

    async def strike(self) -> None:
        """As `Fault.strike`; returns when the other node has the seat."""
        (seat,) = self.struck
        await self._cluster.nodes[self._to].ask("POST", f"seats/{seat}/handover", {"to": self._to})
        await self._cluster.held(seat, lambda node: node == self._to)

    async def mend(self) -> None:
        """As `Fault.mend`: it stays where it is."""


class Freeze:
    """No process of a node runs for some seconds; then all go on as if nothing had been."""

    def __init__(self, cluster: Cluster, node: str) -> None:
        self.gap_ms_max = (cluster.lease_s + ETCD_STEP_S + SURE_S) * 1000
        self.name = f"SIGSTOP of {node}"
        self._cluster = cluster
        self._node = cluster.nodes[node]

    @property
    def struck(self) -> list[str]:
        """As `Fault.struck`."""
        return _held_by(self._cluster, self._node)

    async def strike(self) -> None:
        """As `Fault.strike`."""
        self._node.freeze()

    async def mend(self) -> None:
        """As `Fault.mend`."""
        self._node.thaw()


class Cut:
    """A node is cut from the other nodes and the stores, and not from the phones."""

    def __init__(self, cluster: NamespaceCluster, node: str) -> None:
        self.gap_ms_max = (cluster.lease_s + ETCD_STEP_S + SURE_S) * 1000
        self.name = f"{node} cut from all but the phones"
        self._cluster = cluster
        self._node: NamespaceNode = cluster.nodes[node]

    @property
    def struck(self) -> list[str]:
        """As `Fault.struck`."""
        return _held_by(self._cluster, self._node)

    async def strike(self) -> None:
        """As `Fault.strike`."""
        await asyncio.to_thread(self._node.cut, "back")

    async def mend(self) -> None:
        """As `Fault.mend`."""
        await asyncio.to_thread(self._node.mend, "back")


class StoreLoss:
    """Redis is killed, is away for some seconds, and comes back with nothing in it."""

    def __init__(self, cluster: LabCluster, redis: LabRedis, away_s: float) -> None:
        self.gap_ms_max = None
        self.name = f"Redis killed, back empty after {away_s:g} s"
        self.struck = list(cluster.seats)
        self._redis = redis
        self._away_s = away_s
        self._back_at = 0.0

    async def strike(self) -> None:
        """As `Fault.strike`."""
        self._back_at = asyncio.get_running_loop().time() + self._away_s
        await self._redis.kill()

    async def mend(self) -> None:
        """As `Fault.mend`."""
        await asyncio.sleep(self._back_at - asyncio.get_running_loop().time())
        await self._redis.start()


def _held_by(cluster: Cluster, node: LabNode) -> list[str]:
    cluster.look()
    return [seat for seat, holder in cluster.holders.items() if holder == node.name]
