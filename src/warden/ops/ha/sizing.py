"""How many hosts for how many users: the deployment guide's table, with what Warden was measured to need beside it."""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from warden.ops.ha.inventory import REGIONS, Option

BUSY_SHARE: Final = 0.25
"""Of the users, how many are in a call at the busiest moment (the guide: 25 calls for 100 users)."""
PACKETS_PER_CALL_S: Final = 100
"""Two directions of G.711 in pieces of 20 ms."""
RELAY_US: Final = 6.3
"""CPU of one packet relayed, at 1,000 calls (docs/performance.md, `make bench`)."""
CALL_MS: Final = 1.9
"""CPU of one call from INVITE to BYE (docs/performance.md)."""
REGISTRATION_MS: Final = 0.24
"""CPU of one registration with digest (docs/performance.md)."""
CALL_S: Final = 180
"""How long a call lasts on average: the guide does not say; telephony's usual figure."""
REFRESH_S: Final = 1800
"""Phones register anew at half of `default_expires`."""
MEMORY_PER_CALL_KIB: Final = 22
STREAM_KBIT_S: Final = 87


class Size(Struct, frozen=True):
    """A row of the guide's table."""

    users: int
    calls: int
    nodes: int
    cores: int
    memory_gb: int
    database: str
    redis: str


TABLE: Final = (
    Size(100, 25, 2, 4, 16, "1 primary + 1 replica", "master + replica + witness"),
    Size(500, 125, 3, 8, 32, "1 primary + 2 replicas, Patroni", "3 masters + 3 replicas"),
    Size(1000, 250, 5, 16, 64, "Patroni cluster (3 nodes)", "3 masters + 3 replicas"),
)
"""The guide's, with Redis as it works (errata: a cluster without replicas dies with one node, two masters are none)."""


class Worth(Struct, frozen=True):
    """A row of the guide's table of options."""

    uptime: str
    complexity: str
    users: str


OPTIONS: Final[dict[Option, Worth]] = {
    "active-passive": Worth("99.9%", "low", "small deployments (< 100 users)"),
    "active-active": Worth("99.99%", "medium", "medium deployments (100-500 users)"),
    "geo": Worth("99.999%", "high", "enterprise (> 500 users, multi-site)"),
}
"""The guide's words. Of geo its figure holds only with a third site that has a vote, or for who promotes the other
region within seconds (errata 20).
"""

SERVER_USD: Final = 3000
NETWORK_USD: Final = 2000
STORAGE_USD: Final = 1000
POWER_PER_SERVER_USD: Final = 500
BANDWIDTH_USD: Final = 600


class Need(Struct, frozen=True):
    """What a number of users needs of Warden, as measured, on one node that carries everything."""

    calls: int
    cores: float
    """Busy, of one core."""
    memory_mb: int
    mbit_s: float


def size_for(users: int, option: Option | None = None) -> Size:
    """The smallest row of the table that bears so many users, the largest where none does; with the nodes and stores
    that the option has. Of `geo` it is each region's.
    """
    found = next((size for size in TABLE if users <= size.users), TABLE[-1])
    two, three = TABLE[:2]
    if option == "active-passive":
        return replace(found, nodes=two.nodes, database=two.database, redis=two.redis)
    if option == "active-active" and found.nodes < three.nodes:
        return replace(found, nodes=three.nodes, database=three.database, redis=three.redis)
    return found


def option_for(size: Size) -> Option:
    """What so many nodes are, where nobody says."""
    return "active-passive" if size.nodes == TABLE[0].nodes else "active-active"


def need_of(users: int) -> Need:
    """What the busiest hour costs."""
    calls = max(1, round(users * BUSY_SHARE))
    relay = calls * PACKETS_PER_CALL_S * RELAY_US / 1e6
    signalling = calls / CALL_S * CALL_MS / 1e3 + users / REFRESH_S * REGISTRATION_MS / 1e3
    return Need(
        calls, relay + signalling, round(200 + calls * MEMORY_PER_CALL_KIB / 1024), 2 * calls * STREAM_KBIT_S / 1e3
    )


def cost_of(size: Size, option: Option) -> tuple[int, int]:
    """US dollars, once and per year, by the guide's prices, of all sites. A third one has a server and a line."""
    once = size.nodes * SERVER_USD + NETWORK_USD + STORAGE_USD
    yearly = size.nodes * POWER_PER_SERVER_USD + BANDWIDTH_USD
    if option == "geo":
        return REGIONS * once + SERVER_USD, REGIONS * yearly + POWER_PER_SERVER_USD + BANDWIDTH_USD
    return once, yearly
