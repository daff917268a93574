"""Drills of two regions (P8): one is lost, or gives its seats away and gets them back."""

import asyncio
import json
import time
from typing import Final

from warden.core.address import Address
from warden.core.errors import WardenError
from warden.ops.drills.report import Check, Report, Verdict, exactly
from warden.ops.drills.stage import SETTLED_S, SLOWLY, Drill, Say, Size, Stage, numbers_of, stage_in_lab, talk_at
from warden.ops.lab.hosted import HostedCluster
from warden.ops.softphone import Softphone
from warden.ops.town import Talk, answer, ring

RTO_S: Final = 60.0
RPO_S: Final = 5.0
OPERATOR_S: Final = 2.0
"""How long the operator takes to say that the region is lost. Theirs is the time in any real loss; what is measured
is from their word on.
"""
LATE: Final = 8
"""Calls that are made one after the other until the region is lost: those that are lost with it tell how far back."""
COPY_S: Final = 60.0
"""How long a region may take to have a copy of all that lives on the seats of the other one."""
RECORDS_S: Final = 90.0
"""How long records may wait for a database that has just begun to lead: a node that failed with it tries again later
each time.
"""
POLL_S: Final = 0.2
WARDEN: Final = "/usr/local/bin/warden"

LOSS: Final = Drill(
    "geo/region-loss",
    "P8: the answered calls of a region that is lost go on from the other one",
    "all hosts of the primary region lose their power, the other region is promoted, and later the seats are brought "
    "back (a lab: needs root)",
    full=Size(30, measured=30),
    short=Size(6, measured=6),
)
SWITCH: Final = Drill(
    "geo/region-switch",
    "P8: a region gives its seats to the other one, and gets them back, and no call ends",
    "`warden dr promote` in the standby region while both are well, then `warden dr failback` (a lab: needs root)",
    full=Size(30, measured=30),
    short=Size(6, measured=6),
)


async def region_loss(size: Size, say: Say) -> Report:
    """Carry out `LOSS`. Raises `WardenError` where it cannot be."""
    numbers = numbers_of(size.calls + LATE + 1)
    async with stage_in_lab(LOSS, size, say, numbers, "geo") as on:
        first, second = on.cluster.lab.regions
        on.town.talks += [talk_at(on.town, i, 0) for i in range(size.calls)]
        late = [talk_at(on.town, size.calls + i, 0, every=SLOWLY) for i in range(LATE)]
        on.town.prober(numbers[-1], 0)
        await on.open()
        await _is_followed(on, second)
        await asyncio.sleep(SETTLED_S)
        answered = await _call_until_the_loss(on, late)
        on.checker.open_window()
        lost_at = time.time()
        on.say(f"region {first} loses its power")
        await on.cluster.lab.lose(first)
        await asyncio.sleep(OPERATOR_S)
        on.say(f"the operator says that {first} is lost")
        promoted_at = time.time()
        await _have(on, second, "promote", "--lost")
        # Phones that come by DNS, and those that still believe to be registered where nobody is.
        [prober] = on.town.probers
        registered_s = await _come_to(on, second, prober) - promoted_at
        silence = await _silence(on)
        unreachable = await on.checker.lost_registrations(0, [talk.callee for talk in late])
        alive = set(on.checker.alive)
        await on.checker.prove_calls()
        lost = alive - set(on.checker.alive)
        rpo_s = max((lost_at - answered[talk] for talk in lost if talk in answered), default=0.0)
        broken = len([talk for talk in lost if talk not in answered])
        on.say(f"region {first} comes back")
        await on.cluster.lab.restore(first)
        await _is_followed(on, first)
        on.checker.open_window()
        await _have(on, first, "failback")
        back = await _silence(on)
        broken += await on.checker.still_heard() + await on.checker.hang_up_all()
        await _leads(on, first)
        checks = [
            exactly("calls that ended with the region, or did not work in the other", broken, 0),
            silence_within("silence of calls, the operator's 2 s in it", silence, RTO_S),
            _within("calls were lost that began before the loss by at most", rpo_s, RPO_S),
            _within("from the operator's word until a phone could register", registered_s, RTO_S),
            exactly("registered phones that could not be called", unreachable, 0),
            silence_within("silence while the seats were brought back", back, RTO_S),
            await on.cdrs(RECORDS_S),
        ]
        return on.report(checks, _setting(size))


async def region_switch(size: Size, say: Say) -> Report:
    """Carry out `SWITCH`. Raises `WardenError` where it cannot be."""
    async with stage_in_lab(SWITCH, size, say, numbers_of(size.calls), "geo") as on:
        first, second = on.cluster.lab.regions
        on.town.talks += [talk_at(on.town, i, 0) for i in range(size.calls)]
        await on.open()
        silences: list[Check] = []
        broken = 0
        for region, command in ((second, "promote"), (first, "failback")):
            await _is_followed(on, region)
            await asyncio.sleep(SETTLED_S)
            on.checker.open_window()
            on.say(f"warden dr {command} in {region}")
            await _have(on, region, command)
            silences.append(silence_within(f"silence while the seats went to {region}", await _silence(on), RTO_S))
            broken += await on.checker.prove_calls()
        broken += await on.checker.hang_up_all()
        await _leads(on, first)
        checks = [exactly("calls that ended, or did not work", broken, 0), *silences, await on.cdrs(RECORDS_S)]
        return on.report(checks, _setting(size))


def silence_within(what: str, silence_s: float | None, promised_s: float) -> Check:
    """A silence that was measured at the phones."""
    if silence_s is None:
        return Check(what, f"at most {promised_s:g} s", "no call was measured", Verdict.UNKNOWN)
    return _within(what, silence_s, promised_s)


def _within(what: str, measured_s: float, promised_s: float) -> Check:
    verdict = Verdict.OK if measured_s <= promised_s else Verdict.FAILED
    return Check(what, f"at most {promised_s:g} s", f"{measured_s:.2f} s", verdict)


def _setting(size: Size) -> str:
    return (
        f"{size.calls} standing calls that send 50 packets/s each way, two regions of three hosts each on one machine"
    )


async def _call_until_the_loss(on: Stage[HostedCluster], talks: list[Talk]) -> dict[Talk, float]:
    """Calls one after the other, and when each was answered: the last of them just now."""
    answered = {}
    for talk in talks:
        await ring(talk)
        await answer(talk)
        answered[talk] = time.time()
        on.town.talks.append(talk)
        on.checker.alive.append(talk)
    return answered


async def _is_followed(on: Stage[HostedCluster], region: str) -> None:
    """Wait until a region has a copy of all that lives on the seats of the other one. Raises `WardenError`."""
    node = on.cluster.nodes[_first_of(on, region)]
    until = time.monotonic() + COPY_S
    said: dict[str, object] = {}
    while time.monotonic() < until:
        try:
            said = json.loads(await node.ask("GET", "region"))
        except WardenError as error:
            said = {"error": str(error)}
        followed = said.get("followed_by")
        # The database has to follow too before anything can be brought back to it.
        if isinstance(followed, dict) and set(followed) >= set(on.seats) and said.get("database") == "standby":
            on.say(f"region {region} follows")
            return
        await asyncio.sleep(POLL_S)
    raise WardenError(f"region {region} does not follow the other one: {said}")


async def _leads(on: Stage[HostedCluster], region: str) -> None:
    """Wait until the database of a region takes changes: the records of calls wait for it. Raises `WardenError`."""
    node = on.cluster.nodes[_first_of(on, region)]

    async def ask() -> None:
        said = json.loads(await node.ask("GET", "region"))
        if said["database"] != "primary":
            raise WardenError(f"it is {said['database']}: {said['database_error']}")

    await on.cluster.lab.until(ask, f"the database of {region} leads", COPY_S)


async def _have(on: Stage[HostedCluster], region: str, *words: str) -> None:
    """An operator types `warden dr ...` on the first host of a region. Raises `WardenError`."""
    on.say((await on.cluster.lab.run(_first_of(on, region), WARDEN, "dr", *words)).strip())
    on.cluster.lab.primary = region


def _first_of(on: Stage[HostedCluster], region: str) -> str:
    return on.cluster.lab.regions[region].hosts_with("pbx")[0].name


async def _silence(on: Stage[HostedCluster]) -> float | None:
    """Wait until every call is heard again; the longest silence since the window was opened, in seconds."""
    until = time.monotonic() + RTO_S
    while True:
        await on.checker.hear()
        gap = on.gaps_ms(on.seats)
        silent = [
            line for talk in on.checker.alive for line in talk.lines if line.listener.silence_ms(time.time()) > 1e3
        ]
        if not silent or time.monotonic() > until:
            return None if gap is None else gap.max / 1000


async def _come_to(on: Stage[HostedCluster], region: str, prober: Softphone) -> float:
    """Have a phone register in a region, as DNS tells it; when it was."""
    there = Address(on.cluster.lab.regions[region].seats[0].address, on.cluster.lab.cluster.sip_port)
    for phone in (prober, *on.town.phones):
        phone.server = there
    until = time.monotonic() + RTO_S
    while True:
        try:
            await prober.reconnect()
            await prober.register()
        except (WardenError, TimeoutError):
            if time.monotonic() > until:
                raise
            await asyncio.sleep(POLL_S)
        else:
            return time.time()
