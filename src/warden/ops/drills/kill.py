"""Power loss of a node that carries many calls (P1), and of one at which many ring (P2)."""

import asyncio
from collections.abc import Sequence
from typing import Final

from warden.core.errors import WardenError
from warden.ops.drills.report import Check, Report, exactly, silence
from warden.ops.drills.stage import (
    SETTLED_S,
    SLOWLY,
    ClusterType,
    Drill,
    Say,
    Size,
    Stage,
    numbers_of,
    stage,
    stage_in_namespaces,
    talk_at,
)
from warden.ops.namespaces import ADVERT_S
from warden.ops.nemesis import VRRP_GAP_MS, PowerLoss
from warden.ops.softphone import Line
from warden.ops.town import Talk

BUSY: Final = 3
"""One call of so many is held or in the middle of a re-INVITE when the node dies."""
BETWEEN_S: Final = 0.003
AT_DEATH: Final = 12
"""Re-INVITEs are sent so far apart, and the last of them at once at the moment of death: some have been answered then,
some have been passed on, and some have not been read yet.
"""
REPAIRED_S: Final = 40.0
"""By then SIP itself has given up (64*T1)."""

KILL: Final = Drill(
    "kill",
    "P1: no answered call ends with its node, and its audio is back within the lease and half a second",
    "kill -9 of the node that carries all calls, a third of them held or in the middle of a re-INVITE; then hold, "
    "resume and BYE from both sides",
    full=Size(500),
    short=Size(24, measured=24),
)
KEEPALIVED: Final = Drill(
    "keepalived",
    "P1: where keepalived moves the addresses, the audio is back within 0.6 s",
    "power loss of the node that carries all calls, in network namespaces (needs root, keepalived and etcd); then as "
    "`kill`",
    full=Size(500),
    short=Size(12, measured=12),
)
RINGING: Final = Drill(
    "ringing",
    "P2: a call that rings when its node dies goes on ringing, and can be answered",
    "kill -9 of the node at which all calls ring; then they are answered",
    full=Size(100),
    short=Size(12),
)


async def kill(size: Size, say: Say) -> Report:
    """Carry out `KILL`. Raises `WardenError` where it cannot be."""
    async with stage(KILL, size, say, numbers_of(size.calls)) as on:
        driver = f"lease driver, {on.cluster.lease_s:g} s lease"
        return await _kill(on, size, PowerLoss(on.cluster, "n1"), driver)


async def keepalived(size: Size, say: Say) -> Report:
    """Carry out `KEEPALIVED`. Raises `WardenError` where it cannot be."""
    async with stage_in_namespaces(KEEPALIVED, size, say, numbers_of(size.calls), "keepalived") as on:
        driver = f"keepalived, advert_int {ADVERT_S:g} s, in network namespaces"
        return await _kill(on, size, PowerLoss(on.cluster, "n1", gap_ms_max=VRRP_GAP_MS), driver)


async def _kill(on: Stage[ClusterType], size: Size, fault: PowerLoss, driver: str) -> Report:
    busy = _people(on, size)
    await on.open()
    checker = on.checker
    for talk, line in [(talk, talk.lines[i % 2]) for i, talk in enumerate(busy[::2])]:
        await line.hold()
        talk.held_by = line
    await asyncio.sleep(SETTLED_S)
    checker.open_window()
    on.say(f"{fault.name}: {len(checker.alive)} calls on it", bad=True)
    changes = await _begin(busy[1::2])
    under_way = sum(not task.done() for task in changes.values())
    await on.strike(fault, on.seats[0])
    # What kept the phones busy until then does not shorten the silence behind it, nor lengthen it by as much.
    on.lateness.forget()
    await checker.hear()
    gap, late = on.gaps_ms(on.seats[:1]), on.lateness.since()
    on.cluster.look()
    on.say("re-INVITEs that were under way come to their end; hold and resume from both sides")
    async with asyncio.timeout(REPAIRED_S * 2):
        whys = {talk: await task for talk, task in changes.items()}
    dropped = checker.lose([(talk, why) for talk, why in whys.items() if why])
    dropped += await checker.prove_calls(both=True)
    on.say("hanging up everywhere, from one side and the other")
    dropped += await checker.hang_up_all()
    checks = [
        exactly("calls dropped", dropped, 0),
        exactly("calls kept", len(checker.alive), size.calls),
        silence(gap, late, p99_ms=fault.gap_ms_max),
        await on.cdrs(),
    ]
    on.notes.append(f"{under_way} of {len(changes)} re-INVITEs were under way when the node died")
    on.notes.append(f"the phones were late by {late}")
    measured = sum(talk.is_measured for talk in on.town.talks)
    setting = (
        f"{driver}; {size.calls} calls on the dead node, {len(busy[::2])} held "
        f"and {len(changes)} with a re-INVITE; {measured} send 50 packets/s each way, the others {50 // SLOWLY}"
    )
    return on.report(checks, setting)


def _people(on: Stage[ClusterType], size: Size) -> list[Talk]:
    """All calls at the first seat; gives those that shall be held or changed."""
    busy = []
    quick = 0
    for i in range(size.calls):
        is_busy = i % BUSY == BUSY - 1
        every = 1 if not is_busy and quick < size.measured else SLOWLY
        quick += every == 1
        talk = talk_at(on.town, i, 0, every=every)
        on.town.talks.append(talk)
        if is_busy:
            busy.append(talk)
    return busy


async def _begin(talks: Sequence[Talk]) -> dict[Talk, asyncio.Task[str]]:
    """Have these calls changed; what becomes of it."""
    changes = {}
    for i, talk in enumerate(talks):
        changes[talk] = asyncio.create_task(_change(talk.lines[i % 2]))
        await asyncio.sleep(BETWEEN_S if i < len(talks) - AT_DEATH else 0)
    return changes


async def _change(line: Line) -> str:
    """Offer again; why that came to nothing, or ""."""
    try:
        await line.reinvite()
    except (WardenError, TimeoutError) as error:
        return f"re-INVITE: {error or 'no answer'}"
    return ""


async def ringing(size: Size, say: Say) -> Report:
    """Carry out `RINGING`. Raises `WardenError` where it cannot be."""
    async with stage(RINGING, size, say, numbers_of(size.calls)) as on:
        on.town.ringing += [talk_at(on.town, i, 0, every=SLOWLY) for i in range(size.calls)]
        await on.open()
        await asyncio.sleep(SETTLED_S)
        fault = PowerLoss(on.cluster, "n1")
        on.say(f"{fault.name}: {size.calls} calls ring on it", bad=True)
        await on.strike(fault, on.seats[0])
        await on.cluster.held(on.seats[0], lambda node: node != "n1")
        await asyncio.sleep(SETTLED_S)
        on.say("the phones that ring are answered, talk and hang up")
        kept, lost = await on.checker.prove_ringing(0)
        checks: Sequence[Check] = (
            exactly("calls that could not be answered any more", lost, 0),
            exactly("calls answered after their node had died", kept, size.calls),
            await on.cdrs(),
        )
        return on.report(checks, f"lease driver, {on.cluster.lease_s:g} s lease; {size.calls} ringing calls, UDP")
