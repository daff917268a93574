"""Drills on the cluster that serves people: only what an operator does there on any day, under calls of test phones."""

from typing import Final

from warden.config.tree import Config
from warden.ops.drills.planned import numbers, under_load
from warden.ops.drills.report import Report
from warden.ops.drills.stage import Drill, Say, Size, stage_live
from warden.ops.live import Door, ThereAndBack, live_cluster, own_address
from warden.store.durable import SqlDurable
from warden.web.models import Cluster, Seat

HANDOVER: Final = Drill(
    "handover",
    "P4: a seat that is handed over takes its calls along; nobody hears it, and no call set-up fails",
    "one seat of the running cluster handed to another node and back, under calls of test phones",
    full=Size(4, measured=4, rate_per_s=1.0),
    short=Size(2, measured=2, rate_per_s=1.0),
)
LIVE: Final = {HANDOVER.name: HANDOVER}
"""What `--target production` has."""


async def handover(
    size: Size, say: Say, config: Config, durable: SqlDurable, door: Door, cluster: Cluster, seat: Seat, to: str
) -> Report:
    """Carry out `HANDOVER` with a seat that may move. Raises `WardenError` where it cannot be."""
    members = [member.node for member in cluster.members]
    async with (
        live_cluster(config, durable, door, seat, members) as live,
        stage_live(HANDOVER, size, say, numbers(size), live, own_address(cluster)) as on,
    ):
        return await under_load(on, size, [ThereAndBack(live, to)])
