"""What drills of two regions have in common: steps under way, and what is measured of them."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Final

from warden.core.errors import WardenError
from warden.ops.by_name import Came
from warden.ops.drills.report import Check, Verdict
from warden.ops.drills.stage import Size, Stage
from warden.ops.drills.visits import names_of
from warden.ops.lab.hosted import HostedCluster, small
from warden.ops.town import Talk, answer, ring

RTO_S: Final = 60.0
RPO_S: Final = 5.0
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


def by_hand() -> str:
    """The file of a cluster of two sites only: a region changes when an operator says so."""
    return small("geo", automatic=False)


def silence_within(what: str, silence_s: float | None, promised_s: float) -> Check:
    """A silence that was measured at the phones."""
    if silence_s is None:
        return Check(what, f"at most {promised_s:g} s", "no call was measured", Verdict.UNKNOWN)
    return within(what, silence_s, promised_s)


def within(what: str, measured_s: float, promised_s: float) -> Check:
    """A time that was measured."""
    verdict = Verdict.OK if measured_s <= promised_s else Verdict.FAILED
    return Check(what, f"at most {promised_s:g} s", f"{measured_s:.2f} s", verdict)


def setting(size: Size) -> str:
    """On what it was measured."""
    return (
        f"{size.calls} standing calls that send 50 packets/s each way, two regions of three hosts each on one machine"
    )


async def call_until_the_loss(on: Stage[HostedCluster], talks: list[Talk]) -> dict[Talk, float]:
    """Calls one after the other, and when each was answered: the last of them just now."""
    answered = {}
    for talk in talks:
        await ring(talk)
        await answer(talk)
        answered[talk] = time.time()
        on.town.talks.append(talk)
        on.checker.alive.append(talk)
    return answered


async def is_followed(on: Stage[HostedCluster], region: str) -> None:
    """Wait until a region has a copy of all that lives on the seats of the other one. Raises `WardenError`."""
    node = on.cluster.nodes[first_of(on, region)]
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


async def is_copied(on: Stage[HostedCluster], region: str) -> Check:
    """Whether a region has, soon, a copy of all that lives on the seats of the other one, no older than is promised,
    and of every record of a call.
    """
    what, promised = f"after the calls, until {region} has a copy of all", f"at most {COPY_S:g} s"
    began = time.monotonic()

    async def ask() -> None:
        said = json.loads(await on.cluster.nodes[first_of(on, region)].ask("GET", "region"))
        for keeper in set(said["followed_by"].values()):
            its = json.loads(await on.cluster.nodes[keeper].ask("GET", "region"))["seats"]
            if old := [seat for seat in its if seat["followed"] and seat["age_s"] > RPO_S]:
                raise WardenError(f"{keeper}: {old}")
        copy = on.cluster.lab.regions[region].hosts_with("database")[0].name
        here, there = [await _records(on, host) for host in (await on.cluster.leader(), copy)]
        if here != there:
            raise WardenError(f"the database of {region} has {there} of {here} records of calls")

    try:
        await is_followed(on, region)
        await on.cluster.lab.until(ask, f"{region} has a copy", COPY_S)
    except WardenError as error:
        return Check(what, promised, str(error).partition("\n")[0], Verdict.FAILED)
    return Check(what, promised, f"{time.monotonic() - began:.1f} s", Verdict.OK)


async def _records(on: Stage[HostedCluster], host: str) -> int:
    words = ("runuser", "-u", "postgres", "--", "psql", "-At", "-h", "/var/run/postgresql", "pbx_system", "-c")
    return int(await on.cluster.lab.run(host, *words, "SELECT count(*) FROM cdrs"))


async def leads(on: Stage[HostedCluster], region: str) -> None:
    """Wait until the database of a region takes changes: the records of calls wait for it. Raises `WardenError`."""
    node = on.cluster.nodes[first_of(on, region)]

    async def ask() -> None:
        said = json.loads(await node.ask("GET", "region"))
        if said["database"] != "primary":
            raise WardenError(f"it is {said['database']}: {said['database_error']}")

    await on.cluster.lab.until(ask, f"the database of {region} leads", COPY_S)


async def takes_over(on: Stage[HostedCluster], region: str) -> None:
    """Wait until a region has become the primary one by itself. Raises `WardenError`."""
    node = on.cluster.nodes[first_of(on, region)]

    async def ask() -> None:
        said = json.loads(await node.ask("GET", "region"))
        if not said["is_primary"]:
            raise WardenError(f"{said['primary']} is, says {node.name}")

    await on.cluster.lab.until(ask, f"{region} is the primary region", RTO_S)
    on.cluster.lab.primary = region


async def have(on: Stage[HostedCluster], region: str, *words: str) -> None:
    """An operator types `warden dr ...` on the first host of a region. Raises `WardenError`."""
    on.say((await on.cluster.lab.run(first_of(on, region), WARDEN, "dr", *words)).strip())
    on.cluster.lab.primary = region


def first_of(on: Stage[HostedCluster], region: str) -> str:
    """The first host of a region that runs Warden."""
    return on.cluster.lab.regions[region].hosts_with("pbx")[0].name


async def until_heard(on: Stage[HostedCluster]) -> float | None:
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


def tried(on: Stage[HostedCluster], came: Sequence[Came], *regions: Sequence[str]) -> Check:
    """Whether a phone that knows only the domain tried the seats of these regions, each time that it came."""
    seat = on.seats[0]
    promised = "; ".join(", ".join(f"{seat}.{region}" for region in each) for each in regions)
    measured = "; ".join(one.told(names_of(on)) for one in came)
    verdict = Verdict.OK if measured == promised else Verdict.FAILED
    return Check("seats that a phone tried which knows only the domain", promised, measured, verdict)
