"""The drill of a region that gives its seats away and gets them back, both times by an operator (P8)."""

import asyncio
from typing import Final

from warden.ops.drills.region_steps import (
    RECORDS_S,
    RTO_S,
    by_hand,
    have,
    is_followed,
    leads,
    setting,
    silence_within,
    until_heard,
)
from warden.ops.drills.report import Check, Report, exactly
from warden.ops.drills.stage import SETTLED_S, Drill, Say, Size, numbers_of, stage_in_lab, talk_at

SWITCH: Final = Drill(
    "geo/region-switch",
    "P8: a region gives its seats to the other one, and gets them back, and no call ends",
    "`warden dr promote` in the standby region while both are well, then `warden dr failback` (a lab: needs root)",
    full=Size(30, measured=30),
    short=Size(6, measured=6),
)


async def region_switch(size: Size, say: Say) -> Report:
    """Carry out `SWITCH`. Raises `WardenError` where it cannot be."""
    async with stage_in_lab(SWITCH, size, say, numbers_of(size.calls), "geo", by_hand()) as on:
        first, second = on.cluster.lab.regions
        on.town.talks += [talk_at(on.town, i, 0) for i in range(size.calls)]
        await on.open()
        silences: list[Check] = []
        broken = 0
        for region, command in ((second, "promote"), (first, "failback")):
            await is_followed(on, region)
            await asyncio.sleep(SETTLED_S)
            on.checker.open_window()
            on.say(f"warden dr {command} in {region}")
            await have(on, region, command)
            silences.append(silence_within(f"silence while the seats went to {region}", await until_heard(on), RTO_S))
            broken += await on.checker.prove_calls()
        broken += await on.checker.hang_up_all()
        await leads(on, first)
        checks = [exactly("calls that ended, or did not work", broken, 0), *silences, await on.cdrs(RECORDS_S)]
        return on.report(checks, setting(size))
