"""Planned work under load (P4): seats that are handed over, and every node restarted in turn."""

import asyncio
import json
from collections.abc import Sequence
from typing import Final

from warden import __version__
from warden.ops.checker import Gap
from warden.ops.drills.lateness import Late
from warden.ops.drills.report import Check, Report, at_pace, exactly, longest_set_up, silence, taken
from warden.ops.drills.stage import (
    SETTLED_S,
    SLOWLY,
    Drill,
    Say,
    Size,
    Stage,
    numbers_of,
    stage,
    stage_in_namespaces,
    talk_at,
)
from warden.ops.drills.traffic import Traffic
from warden.ops.lab.hosted import HostedCluster
from warden.ops.lab_cluster import LabCluster, next_version
from warden.ops.ledger import CDR_S
from warden.ops.live import LiveCluster
from warden.ops.namespaces import NamespaceCluster
from warden.ops.nemesis import PLANNED_GAP_MS, Fault, Handover, SeatMove
from warden.ops.town import Talk

TALK_S: Final = 3.0
SPARE_S: Final = 4.0
"""A pair of phones is busy for so much longer than it talks, at worst: it rings, and BYE may be sent again."""
ACROSS: Final = 3
HEARD_S: Final = 2.0
"""How long the audio is listened to after each event."""

AnyStage = Stage[LabCluster] | Stage[NamespaceCluster] | Stage[HostedCluster] | Stage[LiveCluster]

HANDOVER: Final = Drill(
    "handover",
    "P4: a seat that is handed over takes its calls along; nobody hears it, and no call set-up fails",
    "each seat handed to another node, one after the other, under calls at a steady rate",
    full=Size(30, measured=30, rate_per_s=20.0),
    short=Size(6, measured=6, rate_per_s=5.0),
)
BLUE_GREEN: Final = Drill(
    "blue-green",
    "P4: a new version on the same machine takes the seat over from the old one, and gives it back, unnoticed",
    "a seat handed to a node of the next version and back again, under calls at a steady rate",
    full=Size(30, measured=30, rate_per_s=20.0),
    short=Size(6, measured=6, rate_per_s=5.0),
)
RESTART: Final = Drill(
    "restart",
    "P4: restarting all nodes one by one, as for an upgrade, is not noticed",
    "SIGTERM and start of each node in turn, under calls at a steady rate",
    full=Size(30, measured=30, rate_per_s=20.0),
    short=Size(6, measured=6, rate_per_s=5.0),
)
RESTART_KEEPALIVED: Final = Drill(
    "restart-keepalived",
    "P4: restarting all nodes one by one is not noticed either where keepalived moves the addresses",
    "as `restart`, in network namespaces (needs root, keepalived and etcd)",
    full=Size(30, measured=30, rate_per_s=20.0),
    short=Size(6, measured=6, rate_per_s=5.0),
)


async def handover(size: Size, say: Say) -> Report:
    """Carry out `HANDOVER`. Raises `WardenError` where it cannot be."""
    async with stage(HANDOVER, size, say, numbers(size)) as on:
        nodes = list(on.cluster.nodes)
        faults = [SeatMove(on.cluster, seat, nodes[(i + 1) % len(nodes)]) for i, seat in enumerate(on.seats)]
        return await under_load(on, size, faults)


async def blue_green(size: Size, say: Say) -> Report:
    """Carry out `BLUE_GREEN`. Raises `WardenError` where it cannot be."""
    async with stage(BLUE_GREEN, size, say, numbers(size), newer=("n2",)) as on:
        versions = {
            name: json.loads(await node.ask("GET", "status"))["version"] for name, node in on.cluster.nodes.items()
        }
        on.notes.append(f"n1 runs {versions['n1']}, n2 {versions['n2']}")
        assert versions == {"n1": __version__, "n2": next_version(), "n3": __version__}, "the lab started them so"
        seat = on.seats[0]
        faults = [SeatMove(on.cluster, seat, "n2"), SeatMove(on.cluster, seat, "n1")]
        return await under_load(on, size, faults)


async def restart(size: Size, say: Say) -> Report:
    """Carry out `RESTART`. Raises `WardenError` where it cannot be."""
    async with stage(RESTART, size, say, numbers(size)) as on:
        return await under_load(on, size, [Handover(on.cluster, node) for node in on.cluster.nodes])


async def restart_keepalived(size: Size, say: Say) -> Report:
    """Carry out `RESTART_KEEPALIVED`. Raises `WardenError` where it cannot be."""
    async with stage_in_namespaces(RESTART_KEEPALIVED, size, say, numbers(size), "keepalived") as on:
        return await under_load(on, size, [Handover(on.cluster, node) for node in on.cluster.nodes])


async def under_load(
    on: AnyStage,
    size: Size,
    faults: Sequence[Fault],
    *,
    gap_ms_max: float | None = PLANNED_GAP_MS,
    lasts_s: float = HEARD_S,
    protects: bool = True,
    taken_from: str = "",
    calls_wait: bool | None = None,
    records_s: float = CDR_S,
) -> Report:
    """Let the faults happen in turn, under standing calls and new ones at a steady rate, each for `lasts_s` before it
    is mended; the audio may be away for `gap_ms_max`, None where nothing is promised of it. Where a fault leaves a node
    that `protects` nothing, what begins there meanwhile is promised nothing, and its losses are told beside.

    `taken_from` is a node whose seats others must have before it is mended. `calls_wait` says whether those that begin
    meanwhile may, and keep their phones busy: by default where the audio may be away for longer than in planned work.
    All records have to be there `records_s` after the database answers.
    """
    if calls_wait is None:
        calls_wait = gap_ms_max is None or gap_ms_max > PLANNED_GAP_MS
    pairs = people(on, size)
    await on.open()
    gaps: list[Gap] = []
    lates: list[Late] = []
    went: list[Check] = []
    rate_per_s = size.rate_per_s
    async with Traffic(on.town, on.checker, pairs, rate_per_s=rate_per_s, talk_s=TALK_S, went_on=on.went_on) as traffic:
        await asyncio.sleep(SETTLED_S)
        for fault in faults:
            on.say(f"{fault.name} at {size.rate_per_s:g} calls/s")
            struck = fault.struck
            on.checker.open_window()
            on.lateness.forget()
            traffic.is_protected = protects
            homes = []
            if taken_from:
                homes = [seat for seat, node in (await on.cluster.now_held()).items() if node == taken_from]
            await fault.strike()
            await asyncio.sleep(lasts_s)
            if taken_from:
                went.append(taken(taken_from, homes, await on.cluster.now_held()))
            # A node that comes back is part of the work, and must not be heard either.
            await fault.mend()
            traffic.is_protected = True
            await asyncio.sleep(SETTLED_S)
            gap, late = on.gaps_ms(struck), on.lateness.since()
            if gap is not None:
                gaps.append(gap)
                on.notes.append(f"{fault.name}: audio gap p50 {gap.p50:.0f}, max {gap.max:.0f} ms; phones late: {late}")
            lates.append(late)
        offered, planned = traffic.offered, traffic.planned - (traffic.passed if calls_wait else 0)
    dropped = await on.checker.still_heard() + await on.checker.hang_up_all()
    on.notes += [*(f"set-up failed: {why}" for why in traffic.failed), *(f"dropped: {why}" for why in traffic.dropped)]
    on.notes += [f"lost, and had begun where nothing could be written: {why}" for why in traffic.unprotected]
    if traffic.setup_s:
        on.notes.append(f"longest set-up of a call: {max(traffic.setup_s):.2f} s; {traffic.passed} turns had no phones")
    worst = Gap(*(max(values) for values in zip(*((g.p50, g.p99, g.max) for g in gaps), strict=True))) if gaps else None
    late = Late(max(late.p99_ms for late in lates), max(late.max_ms for late in lates))
    checks = [
        at_pace(offered, planned),
        exactly("call set-ups failed", len(traffic.failed), 0),
        exactly(f"calls dropped{'' if protects else ' that were there before'}", dropped + len(traffic.dropped), 0),
        *([] if calls_wait else [longest_set_up(traffic.setup_s, len(traffic.failed))]),
        *([] if gap_ms_max is None else [silence(worst, late, max_ms=gap_ms_max)]),
        *went,
        await on.cdrs(records_s),
    ]
    where = "at one seat" if len(on.seats) == 1 else f"on and between {len(on.seats)} seats"
    setting = (
        f"{size.rate_per_s:g} new calls/s of {TALK_S:g} s {where}, and {size.calls} standing "
        f"calls that send 50 packets/s each way; {len(faults)} times"
    )
    return on.report(checks, setting)


def people(on: AnyStage, size: Size) -> list[Talk]:
    """Standing calls, and pairs of phones for the traffic, over all seats; gives the pairs."""
    seats = len(on.seats)
    on.town.talks += [talk_at(on.town, i, i % seats) for i in range(size.calls)]
    pairs = []
    for i in range(_pairs(size)):
        seat = i % seats
        # Every third pair is at two seats, so that a call goes through both.
        to = (seat + 1) % seats if i // seats % ACROSS == 0 else seat
        pairs.append(talk_at(on.town, size.calls + i, seat, to=to, every=SLOWLY, answers_after_s=0.1))
    return pairs


def _pairs(size: Size) -> int:
    return max(3, int(size.rate_per_s * (TALK_S + SPARE_S)))


def numbers(size: Size) -> list[str]:
    """All numbers that `people` needs."""
    return numbers_of(size.calls + _pairs(size))
