"""Nodes that believe that they hold what they have lost (P6): one that was frozen, and one that is cut off."""

import asyncio
from typing import Final

from warden.ops.drills.report import Check, Report, Verdict, exactly, silence
from warden.ops.drills.speakers import Speakers, out_of_turn
from warden.ops.drills.stage import SETTLED_S, Drill, Say, Size, Stage, numbers_of, stage_in_namespaces, talk_at
from warden.ops.namespaces import NamespaceCluster
from warden.ops.nemesis import Cut, Freeze

AWAKE_S: Final = 3.0
"""How long the old holder is watched after it is back: three leases."""

FREEZE: Final = Drill(
    "freeze",
    "P6: a node that was frozen says nothing for its seat when it wakes up",
    "SIGSTOP of the holder until another node has its seat, then SIGCONT, in network namespaces (needs root and etcd); "
    "every packet that reaches the phones is looked at",
    full=Size(50),
    short=Size(6),
)
PARTITION: Final = Drill(
    "partition",
    "P6: a node that is cut from the others, but not from the phones, falls silent before another speaks",
    "the holder loses the network to the stores and the other nodes, and gets it back, in network namespaces (needs "
    "root and etcd); every packet that reaches the phones is looked at",
    full=Size(50),
    short=Size(6),
)


async def freeze(size: Size, say: Say) -> Report:
    """Carry out `FREEZE`. Raises `WardenError` where it cannot be."""
    async with stage_in_namespaces(FREEZE, size, say, numbers_of(size.calls), "lease") as on:
        return await _split(on, size, Freeze(on.cluster, "n1"))


async def partition(size: Size, say: Say) -> Report:
    """Carry out `PARTITION`. Raises `WardenError` where it cannot be."""
    async with stage_in_namespaces(PARTITION, size, say, numbers_of(size.calls), "lease") as on:
        return await _split(on, size, Cut(on.cluster, "n1"))


async def _split(on: Stage[NamespaceCluster], size: Size, fault: Freeze | Cut) -> Report:
    on.town.talks += [talk_at(on.town, i, 0) for i in range(size.calls)]
    await on.open()
    checker = on.checker
    with Speakers("lan", on.cluster.seats[on.seats[0]].host) as speakers:
        await asyncio.sleep(SETTLED_S)
        checker.open_window()
        on.lateness.forget()
        on.say(f"{fault.name}: {size.calls} calls on it", bad=True)
        await fault.strike()
        await on.cluster.held(on.seats[0], lambda node: node != "n1")
        await checker.hear()
        gap, late = on.gaps_ms(on.seats[:1]), on.lateness.since()
        await asyncio.sleep(SETTLED_S)
        on.say(f"{fault.name}: it is over, and the old holder is back")
        await fault.mend()
        await asyncio.sleep(AWAKE_S)
        dropped = await checker.prove_calls() + await checker.hang_up_all()
    heard = [turn.packets for turn in speakers.turns]
    on.notes.append(f"packets of the seat's address, by machine in order: {', '.join(map(str, heard))}")
    on.notes.append(f"nobody spoke for the seat for {speakers.silence_ms:.0f} ms; phones late: {late}")
    enough = Verdict.OK if len(heard) > 1 else Verdict.UNKNOWN
    checks = [
        Check("machines that spoke for the seat", "one, then another", f"{len(heard)} in turn", enough),
        speakers.check("packets of the old holder behind the new one's first", out_of_turn(speakers.turns)),
        exactly("calls dropped", dropped, 0),
        silence(gap, late, p99_ms=fault.gap_ms_max),
        await on.cdrs(),
    ]
    return on.report(checks, f"lease driver with netlink, {on.cluster.lease_s:g} s lease, etcd; {size.calls} calls")
