"""The drill of a region that is cut off from both other sites (P6): nobody types anything, one region only speaks."""

import asyncio
from typing import Final

from warden.ops.drills.region_steps import (
    RECORDS_S,
    RTO_S,
    is_followed,
    leads,
    setting,
    silence_within,
    takes_over,
    until_heard,
)
from warden.ops.drills.report import Check, Report, Verdict, exactly
from warden.ops.drills.speakers import Speakers, out_of_turn
from warden.ops.drills.stage import SETTLED_S, Drill, Say, Size, Stage, numbers_of, stage_in_lab, talk_at
from warden.ops.lab.hosted import HostedCluster
from warden.ops.lab.lab import Lab

BACK_S: Final = 5.0
"""How long a region is watched that has found its lines again: it hears of the other one within a second."""
AWAY: Final = "away"
"""The table of the firewall that cuts a line."""

CUT: Final = Drill(
    "geo/region-cut",
    "P6: a region that is cut from both other sites, and not from the phones, falls silent before the other one speaks",
    "the primary region loses its lines to the other region and to the third site, and gets them back (a lab: needs "
    "root); every packet of a seat that reaches the phones is looked at",
    full=Size(30, measured=30),
    short=Size(6, measured=6),
)


async def region_cut(size: Size, say: Say) -> Report:
    """Carry out `CUT`. Raises `WardenError` where it cannot be."""
    async with stage_in_lab(CUT, size, say, numbers_of(size.calls), "geo") as on:
        first, second = on.cluster.lab.regions
        on.town.talks += [talk_at(on.town, i, 0) for i in range(size.calls)]
        await on.open()
        await is_followed(on, second)
        with Speakers("lan", *_seat_addresses(on)) as speakers:
            await asyncio.sleep(SETTLED_S)
            on.checker.open_window()
            on.say(f"region {first} loses its lines to {second} and to the third site; phones reach all of them")
            await cut_off(on.cluster.lab, first)
            await takes_over(on, second)
            on.say(f"region {second} has taken its place by itself")
            await on.cluster.held(on.seats[0], lambda node: node in _nodes(on, second))
            silence = await until_heard(on)
            broken = await on.checker.prove_calls()
            on.say(f"the lines of region {first} are there again")
            await mend(on.cluster.lab)
            await is_followed(on, first)
            await on.cluster.lab.settled()
            await asyncio.sleep(BACK_S)
            broken += await on.checker.still_heard() + await on.checker.hang_up_all()
        await leads(on, second)
        heard = [turn.packets for turn in speakers.turns]
        on.notes.append(f"packets of the seats' addresses, by machine in order: {', '.join(map(str, heard))}")
        on.notes.append(f"nobody spoke for the seat for {speakers.silence_ms:.0f} ms")
        enough = Verdict.OK if len(heard) > 1 else Verdict.UNKNOWN
        checks = [
            Check("machines that spoke for the seat", "one, then another", f"{len(heard)} in turn", enough),
            speakers.check(
                "packets of the region that was cut off behind the other one's first", out_of_turn(speakers.turns)
            ),
            exactly("calls that ended, or did not work in the other region", broken, 0),
            silence_within("silence of calls", silence, RTO_S),
            await on.cdrs(RECORDS_S),
        ]
        return on.report(checks, setting(size))


def _seat_addresses(on: Stage[HostedCluster]) -> list[str]:
    """Those of all seats, in both regions."""
    return [seat.address for region in on.cluster.lab.regions.values() for seat in region.seats]


def _nodes(on: Stage[HostedCluster], region: str) -> list[str]:
    return [host.name for host in on.cluster.lab.regions[region].hosts_with("pbx")]


async def cut_off(lab: Lab, region: str) -> None:
    """From here on nothing comes from a region to any other site, nor from there to it. Who sends hears nothing of it,
    as of a line that is cut somewhere. Phones reach all of them.
    """
    rules = (
        f"add table inet {AWAY}; "
        f"add chain inet {AWAY} input {{{{ type filter hook input priority -200; policy accept; }}}}; "
        f"add rule inet {AWAY} input ip saddr {{{{ {{}} }}}} drop"
    )
    unheard = unheard_by(lab, region)
    await asyncio.gather(*(lab.run(host, "nft", rules.format(", ".join(unheard[host]))) for host in unheard))


def unheard_by(lab: Lab, region: str) -> dict[str, list[str]]:
    """By host: the addresses that it hears no more where a region is cut off."""
    addresses = {host.name: (host.address, host.inside) for host in lab.machines}
    here = [host.name for host in lab.regions[region].hosts]
    moving = {name: list(site.moving.values()) for name, site in lab.regions.items()}
    inside = sorted({*(one for host in here for one in addresses[host]), *moving.pop(region)})
    outside = sorted(
        {one for host, own in addresses.items() if host not in here for one in own}
        | {one for each in moving.values() for one in each}
    )
    return {host: outside if host in here else inside for host in addresses}


async def mend(lab: Lab) -> None:
    """All lines are as they were."""
    await asyncio.gather(*(lab.run(host.name, "nft", "delete", "table", "inet", AWAY) for host in lab.machines))
