"""Phones on TCP whose node loses its power: how soon they can be called when they have connected again (P5)."""

import asyncio
from typing import Final

from warden.core.address import Transport
from warden.ops.drills.report import Check, Report, Verdict, exactly
from warden.ops.drills.stage import Drill, Say, Size, Stage, stage
from warden.ops.lab_cluster import LabCluster
from warden.ops.nemesis import PowerLoss
from warden.ops.softphone import Softphone
from warden.ops.town import join, side_by_side

AT_ONCE: Final = 10
REACHABLE_S: Final = 1.0
"""Promise P5."""

RECONNECT: Final = Drill(
    "reconnect",
    "P5: a phone on TCP whose node has died can be called within a second of its connecting again",
    "kill -9 of the node at which all phones have connections; when another node has the seat they connect and "
    "register, ten at a time, and each is called",
    full=Size(0, registrations=200),
    short=Size(0, registrations=20),
)


async def reconnect(size: Size, say: Say) -> Report:
    """Carry out `RECONNECT`. Raises `WardenError` where it cannot be."""
    numbers = [f"1{i:05}" for i in range(size.registrations)]
    async with stage(RECONNECT, size, say, [*numbers, "90000"]) as on:
        phones = [on.town.phone(number, 0, transport=Transport.TCP) for number in numbers]
        on.town.prober("90000", 0)
        on.say(f"{len(phones):,} phones connect to {on.seats[0]} and register")
        await side_by_side([join(phone) for phone in (*phones, *on.town.probers)])
        fault = PowerLoss(on.cluster, "n1")
        on.say(f"{fault.name}: {len(phones):,} connections end with it", bad=True)
        await on.strike(fault, on.seats[0])
        await on.cluster.held(on.seats[0], lambda node: node != "n1")
        on.say("the phones connect again, and are called")
        found = await side_by_side([_reach(on, phone) for phone in phones], AT_ONCE)
        took = sorted(seconds for seconds, reached in found if reached)
        checks = [
            exactly("phones that a call does not reach", sum(not reached for _, reached in found), 0),
            _soon(took),
            await on.cdrs(),
        ]
        setting = f"lease driver, {on.cluster.lease_s:g} s lease; {len(phones):,} phones, TCP, {AT_ONCE} at a time"
        return on.report(checks, setting)


async def _reach(on: Stage[LabCluster], phone: Softphone) -> tuple[float, bool]:
    """Seconds from connecting until a call has rung, and been given up again; and whether it has."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await phone.reconnect()
    await phone.register()
    lost = await on.checker.lost_registrations(0, [phone])
    return loop.time() - began, not lost


def _soon(took: list[float]) -> Check:
    what, promised = "from connecting until a call has rung", f"max at most {REACHABLE_S * 1000:,.0f} ms"
    if not took:
        return Check(what, promised, "no phone was reached", Verdict.UNKNOWN)
    p50, p99 = (took[int(len(took) * share)] * 1000 for share in (0.5, 0.99))
    verdict = Verdict.OK if took[-1] <= REACHABLE_S else Verdict.FAILED
    return Check(what, promised, f"p50 {p50:,.0f}, p99 {p99:,.0f}, max {took[-1] * 1000:,.0f} ms", verdict)
