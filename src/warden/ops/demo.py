"""The demonstration: a cluster on this machine, phones that talk, and what may happen to it, with the accounts at the
end. What happens is in `nemesis`, who it happens to in `town`, and what to think of it in `checker`.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Self

from msgspec import Struct
from msgspec.structs import replace

from warden.ops.checker import Checker, Gap
from warden.ops.lab_cluster import LabCluster, LogLine, lab_cluster
from warden.ops.nemesis import Fault, Handover, PowerLoss, StoreLoss
from warden.ops.town import Talk, Town

NODES: Final = 3
CALLS_MAX: Final = 200
"""What the phones, which are one process, can speak in every 20 ms on a small machine."""
LEASE_S: Final = 1.0
SEATS: Final = (0, 1, 2, 2)
"""The seat that each event is about: calls ring there, and are answered afterwards. Without Redis the third is not."""
TALK_S: Final = 2.0
"""How long all is well before the first event and after each."""
REDIS_AWAY_S: Final = 8.0
OUTAGE_TALK_S: Final = 3.0
"""How long the audio is listened to after an event; those of a dead node are waited for as long as it takes."""
LOOK_S: Final = 0.1
STALL_LOOK_S: Final = 0.005
STALL_NOTED_MS: Final = 20.0
"""The phones and what watches them are one process: when it is held up by as much as a packet, that is in the gaps."""
STORY_MAX: Final = 200


class Outcome(Struct, frozen=True):
    """What an event did. `cdrs_wrong` are those missing, doubled or untrue, each counted at the first event that is
    about the seat of its call.
    """

    name: str
    calls_kept: int
    calls_dropped: int
    ringing_kept: int
    ringing_dropped: int
    gap_ms: Gap | None
    registrations_lost: int
    cdrs_wrong: int = 0


class Plan(Struct, frozen=True):
    """Who there shall be: numbers and passwords. `events` has the seat that each event is about."""

    calls: int
    ringing: int
    seats: int
    events: tuple[int, ...]
    passwords: dict[str, str]

    @classmethod
    def of(cls, calls: int, ringing: int, seats: int, events: tuple[int, ...]) -> Self:
        """So many calls, spread over so many seats, and so many that ring, spread over the events."""
        numbers = [f"{kind}{i:03}" for i in range(calls + ringing) for kind in (1, 2)]
        numbers += [f"9{i:03}" for i in range(seats)]
        return cls(calls, ringing, seats, events, {number: secrets.token_urlsafe(18) for number in numbers})

    def people(self, town: Town) -> None:
        """Have the phones and their calls in the town."""
        for i in range(self.calls + self.ringing):
            talks = i < self.calls
            # Both phones of a call are at one seat, and each event has some that ring at the seat that it is about.
            event = (i - self.calls) % len(self.events)
            seat = i % self.seats if talks else self.events[event]
            if talks:
                event = self.events.index(seat)
            talk = Talk(town.phone(f"1{i:03}", seat), town.phone(f"2{i:03}", seat), seat, event)
            (town.talks if talks else town.ringing).append(talk)
        for i in range(self.seats):
            town.prober(f"9{i:03}", i)


class Said(Struct, frozen=True):
    """A sentence of the story. `who` is a node or "demo"; `bad` stands out."""

    at_utc: float
    who: str
    text: str
    bad: bool = False


class Report(Struct, frozen=True):
    """The accounts. `problems` says in words what was not as it should be; `broken` which promises were not kept."""

    events: tuple[Outcome, ...]
    broken: tuple[str, ...]
    problems: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """True where every promise was kept."""
        return not self.broken


class Scene:
    """What there is to see while it runs."""

    def __init__(self) -> None:
        self.began_at = time.time()
        self.doing = "starting three nodes"
        self.cluster: LabCluster | None = None
        self.town: Town | None = None
        self.checker: Checker | None = None
        self.packets_per_s = 0.0
        self.stall_ms = 0.0
        """The longest time by which this process was held up since the last event."""
        self.outcomes: list[Outcome] = []
        self.story: deque[Said] = deque(maxlen=STORY_MAX)
        self.on_said: Callable[[Said], None] = lambda _: None

    def say(self, text: str, who: str = "demo", *, bad: bool = False) -> None:
        """Add a sentence."""
        said = Said(time.time(), who, text, bad)
        self.story.append(said)
        self.on_said(said)

    def hear(self, node: str, line: LogLine) -> None:
        """A node has logged something."""
        self.say(line.event, node, bad=line.level not in ("info", "debug"))


async def run(scene: Scene, *, calls: int, ringing: int) -> Report:
    """Carry it out; takes a minute. Raises `WardenError` where it cannot be carried out."""
    began = time.monotonic()
    async with lab_cluster(nodes=NODES, lease_s=LEASE_S) as cluster:
        scene.cluster = cluster
        cluster.on_line = scene.hear
        plan = Plan.of(calls, ringing, NODES, SEATS[: len(_faults(cluster))])
        if cluster.redis is None:
            scene.say("there is no redis-server on this machine: a file keeps the calls, and no Redis is killed")
        watching = asyncio.gather(_watch(scene), _feel(scene))
        try:
            await cluster.start(plan.passwords)
            async with Town(list(cluster.seats.values()), plan.passwords) as town:
                outcomes, checker = await _play(scene, cluster, town, plan)
                problems = (*checker.problems, *dict.fromkeys(town.violations))
        finally:
            scene.doing = "clearing up"
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
    return Report(tuple(outcomes), tuple(_broken(outcomes, cluster)), problems, round(time.monotonic() - began, 1))


async def _play(scene: Scene, cluster: LabCluster, town: Town, plan: Plan) -> tuple[list[Outcome], Checker]:
    scene.doing = f"{len(plan.passwords)} phones register and call"
    plan.people(town)
    await town.settle()
    scene.town = town
    scene.checker = checker = Checker(town, list(cluster.seats))
    scene.say(f"{plan.calls} calls talk, {plan.ringing} ring, on {NODES} seats")
    await asyncio.sleep(TALK_S)
    for event, fault in enumerate(_faults(cluster)):
        scene.outcomes.append(await _event(scene, cluster, checker, event, fault))
    scene.doing = "hanging up everywhere"
    last = scene.outcomes[-1]
    unended = await checker.hang_up_all()
    scene.outcomes[-1] = replace(last, calls_kept=last.calls_kept - unended, calls_dropped=last.calls_dropped + unended)
    scene.doing = "comparing the call detail records with what the phones saw"
    async with cluster.database() as durable:
        wrong = await checker.wrong_cdrs(durable, len(scene.outcomes))
    scene.outcomes[:] = [replace(o, cdrs_wrong=count) for o, count in zip(scene.outcomes, wrong, strict=True)]
    return scene.outcomes, checker


def _faults(cluster: LabCluster) -> list[Fault]:
    first: list[Fault] = [PowerLoss(cluster, "n1"), Handover(cluster, "n2")]
    if cluster.redis is not None:
        first.append(StoreLoss(cluster, cluster.redis, REDIS_AWAY_S))
    # Whatever Redis forgot has to be in it again, or this one's calls are lost.
    return [*first, PowerLoss(cluster, "n3")]


async def _event(scene: Scene, cluster: LabCluster, checker: Checker, event: int, fault: Fault) -> Outcome:
    struck = fault.struck
    seats = list(cluster.seats)
    touched = sum(seats[talk.seat] in struck for talk in checker.alive)
    name = f"{fault.name} ({touched} of {len(checker.alive)} calls)"
    scene.doing = name
    scene.say(name, bad=True)
    checker.open_window()
    scene.stall_ms = 0.0
    await fault.strike()
    await asyncio.gather(checker.hear(), asyncio.sleep(OUTAGE_TALK_S))
    gap = checker.gaps_ms(struck)
    if scene.stall_ms > STALL_NOTED_MS:
        checker.problems.append(
            f"{fault.name}: this machine is busy and held the phones themselves up for {scene.stall_ms:.0f} ms"
        )
    scene.doing = f"{fault.name}: hold, resume, answer, call every phone"
    dropped = await checker.prove_calls()
    ringing_kept, ringing_dropped = await checker.prove_ringing(event)
    lost = await checker.lost_registrations(event)
    scene.doing = f"{fault.name}: putting it right"
    await fault.mend()
    await asyncio.sleep(TALK_S)
    dropped += await checker.still_heard()
    kept = len(checker.alive)
    scene.say(f"{fault.name}: {kept} calls kept, {dropped} dropped", bad=dropped > 0)
    return Outcome(name, kept, dropped, ringing_kept, ringing_dropped, gap, lost)


def _broken(outcomes: list[Outcome], cluster: LabCluster) -> list[str]:
    """The promises that were not kept, in words."""
    broken = []
    for outcome, fault in zip(outcomes, _faults(cluster), strict=True):
        counts = {
            "calls dropped": outcome.calls_dropped,
            "ringing calls dropped": outcome.ringing_dropped,
            "registrations lost": outcome.registrations_lost,
            "CDRs wrong": outcome.cdrs_wrong,
        }
        broken += [f"{fault.name}: {count} {what}" for what, count in counts.items() if count]
        if fault.gap_ms_max is None:
            continue
        if outcome.gap_ms is None:
            broken.append(f"{fault.name}: touched no call")
        elif outcome.gap_ms.p99 > fault.gap_ms_max:
            broken.append(f"{fault.name}: audio gap p99 {outcome.gap_ms.p99:.0f} ms, promised {fault.gap_ms_max:.0f}")
    return broken


async def _watch(scene: Scene) -> None:
    """Read the nodes' logs, and count packets, until cancelled."""
    before, at = 0, time.monotonic()
    while True:
        await asyncio.sleep(LOOK_S)
        cluster, town, now = scene.cluster, scene.town, time.monotonic()
        if cluster is not None:
            cluster.look()
        if town is not None and now - at >= 1.0:
            heard = town.packets
            scene.packets_per_s = (heard - before) / (now - at) if before else 0.0
            before, at = heard, now


async def _feel(scene: Scene) -> None:
    """Measure how late this process is woken up, until cancelled."""
    while True:
        asleep_at = time.monotonic()
        await asyncio.sleep(STALL_LOOK_S)
        scene.stall_ms = max(scene.stall_ms, (time.monotonic() - asleep_at - STALL_LOOK_S) * 1000)
