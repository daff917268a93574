"""Redis and PostgreSQL lost for half a minute, both at once, under calls (P7)."""

import asyncio
from typing import Final

from warden.core.errors import WardenError
from warden.ops.drills.planned import TALK_S, numbers, people
from warden.ops.drills.report import Report, at_pace, exactly
from warden.ops.drills.stage import SETTLED_S, Drill, Say, Size, Stage, stage
from warden.ops.drills.traffic import Traffic
from warden.ops.lab_cluster import LabCluster
from warden.ops.nemesis import StoreLoss
from warden.ops.softphone import Softphone
from warden.ops.town import side_by_side

AFTERWARDS_S: Final = 5.0
CDRS_S: Final = 60.0
"""What has piled up meanwhile goes to the database in pieces; until all of it is there may take longer than usual."""

STORES: Final = Drill(
    "stores",
    "P7: losing Redis and PostgreSQL for half a minute costs nothing",
    "kill -9 of Redis, which comes back empty, and of PostgreSQL, under calls and registrations at a steady rate",
    full=Size(30, measured=30, rate_per_s=20.0, seconds=30.0),
    short=Size(6, measured=6, rate_per_s=5.0, seconds=5.0),
)


async def stores(size: Size, say: Say) -> Report:
    """Carry out `STORES`. Raises `WardenError` where it cannot be."""
    async with stage(STORES, size, say, numbers(size), postgres=True) as on:
        pairs = people(on, size)
        await on.open()
        postgres = on.cluster.postgres
        assert postgres is not None, "asked for"
        assert on.cluster.redis is not None, "no stage is made without it"
        redis = StoreLoss(on.cluster, on.cluster.redis, size.seconds)
        async with Traffic(on.town, on.checker, pairs, rate_per_s=size.rate_per_s, talk_s=TALK_S) as traffic:
            await asyncio.sleep(SETTLED_S)
            on.say(f"Redis and PostgreSQL are killed, for {size.seconds:g} s", bad=True)
            await asyncio.gather(redis.strike(), postgres.kill())
            await asyncio.sleep(size.seconds / 2)
            refused = await _register_again(on, [talk.caller for talk in on.town.talks])
            await redis.mend()
            await postgres.start()
            on.say("both are back; Redis has nothing in it")
            await asyncio.sleep(AFTERWARDS_S)
            offered, planned = traffic.offered, traffic.planned
        dropped = await on.checker.prove_calls() + await on.checker.hang_up_all()
        on.notes += [
            *(f"refused: {why}" for why in traffic.failed),
            *(f"dropped: {why}" for why in traffic.dropped),
        ]
        checks = [
            at_pace(offered, planned),
            exactly("calls refused", len(traffic.failed), 0),
            exactly("calls dropped", dropped + len(traffic.dropped), 0),
            exactly("registrations refused meanwhile", refused, 0),
            await on.cdrs(CDRS_S),
        ]
        setting = (
            f"both away for {size.seconds:g} s, Redis back empty; {size.rate_per_s:g} calls/s of {TALK_S:g} s, "
            f"{size.calls} standing calls; three nodes, leases in a file"
        )
        return on.report(checks, setting)


async def _register_again(on: Stage[LabCluster], phones: list[Softphone]) -> int:
    async def again(phone: Softphone) -> str:
        try:
            await phone.register()
        except (WardenError, TimeoutError) as error:
            return f"{phone.number} is not registered again: {error or 'no answer'}"
        return ""

    whys = [why for why in await side_by_side([again(phone) for phone in phones]) if why]
    on.notes += whys
    return len(whys)
