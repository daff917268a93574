"""Drills of a region that is lost (P8): an operator says so, or a third site does and nobody types anything."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import Struct

from warden.ops.drills.region_steps import (
    LATE,
    RECORDS_S,
    RPO_S,
    RTO_S,
    by_hand,
    call_until_the_loss,
    have,
    is_followed,
    leads,
    setting,
    silence_within,
    takes_over,
    tried,
    until_heard,
    within,
)
from warden.ops.drills.report import Report, exactly
from warden.ops.drills.stage import SETTLED_S, SLOWLY, Drill, Say, Size, Stage, numbers_of, stage_in_lab, talk_at
from warden.ops.drills.visits import visitor_of
from warden.ops.lab.hosted import HostedCluster

OPERATOR_S: Final = 2.0
"""How long the operator takes to say that the region is lost. Theirs is the time in any real loss; what is measured
is from their word on.
"""

LOSS: Final = Drill(
    "geo/region-loss",
    "P8: the answered calls of a region that is lost go on from the other one",
    "all hosts of the primary region lose their power, the other region is promoted, and later the seats are brought "
    "back (a lab: needs root)",
    full=Size(30, measured=30),
    short=Size(6, measured=6),
)
AUTOMATIC: Final = Drill(
    "geo/region-loss-automatic",
    "P8: where a third site has a vote, the calls of a lost region go on from the other one, and nobody types anything",
    "all hosts of the primary region lose their power; later they come back, and an operator brings the seats back (a "
    "lab: needs root)",
    full=Size(30, measured=30),
    short=Size(6, measured=6),
)


class Way(Struct, frozen=True):
    """In which another region takes the place of a lost one, in a lab of the cluster file `text` (as `stage_in_lab`).

    `take_over(on, first, second, lost_at)` returns since when phones are to find the second one, in Unix seconds:
    `since` names that moment. `silence` says what the silence of calls has in it.
    """

    take_over: Callable[[Stage[HostedCluster], str, str, float], Awaitable[float]]
    silence: str
    since: str
    text: str = ""


async def _by_an_operator(on: Stage[HostedCluster], first: str, second: str, _lost_at: float) -> float:
    await asyncio.sleep(OPERATOR_S)
    on.say(f"the operator says that {first} is lost")
    promoted_at = time.time()
    await have(on, second, "promote", "--lost")
    return promoted_at


async def _by_itself(on: Stage[HostedCluster], _first: str, second: str, lost_at: float) -> float:
    await takes_over(on, second)
    on.say(f"region {second} has taken its place by itself")
    return lost_at


async def region_loss(size: Size, say: Say) -> Report:
    """Carry out `LOSS`. Raises `WardenError` where it cannot be."""
    way = Way(_by_an_operator, "silence of calls, the operator's 2 s in it", "operator's word", by_hand())
    return await _lose(LOSS, way, size, say)


async def region_loss_automatic(size: Size, say: Say) -> Report:
    """Carry out `AUTOMATIC`. Raises `WardenError` where it cannot be."""
    return await _lose(AUTOMATIC, Way(_by_itself, "silence of calls since the power was cut", "power cut"), size, say)


async def _lose(drill: Drill, way: Way, size: Size, say: Say) -> Report:
    numbers = numbers_of(size.calls + LATE + 1)
    async with stage_in_lab(drill, size, say, numbers, "geo", way.text) as on:
        first, second = on.cluster.lab.regions
        on.town.talks += [talk_at(on.town, i, 0) for i in range(size.calls)]
        late = [talk_at(on.town, size.calls + i, 0, every=SLOWLY) for i in range(LATE)]
        await on.open()
        visitor = visitor_of(on, numbers[-1])
        came = [await visitor.come(RTO_S)]
        await is_followed(on, second)
        await asyncio.sleep(SETTLED_S)
        answered = await call_until_the_loss(on, late)
        on.checker.open_window()
        lost_at = time.time()
        on.say(f"region {first} loses its power")
        await on.cluster.lab.lose(first)
        since = await way.take_over(on, first, second, lost_at)
        # A phone that comes by DNS, and those that still believe to be registered where nobody is.
        came.append(await visitor.come(RTO_S))
        registered_s = came[-1].at_utc - since
        for phone in on.town.phones:
            phone.server = visitor.phone.server
        silence = await until_heard(on)
        unreachable = await on.checker.lost_registrations(0, [talk.callee for talk in late])
        alive = set(on.checker.alive)
        await on.checker.prove_calls()
        lost = alive - set(on.checker.alive)
        rpo_s = max((lost_at - answered[talk] for talk in lost if talk in answered), default=0.0)
        broken = len([talk for talk in lost if talk not in answered])
        on.say(f"region {first} comes back")
        await on.cluster.lab.restore(first)
        await is_followed(on, first)
        on.checker.open_window()
        await have(on, first, "failback")
        back = await until_heard(on)
        came.append(await visitor.come(RTO_S))
        broken += await on.checker.still_heard() + await on.checker.hang_up_all()
        await leads(on, first)
        checks = [
            exactly("calls that ended with the region, or did not work in the other", broken, 0),
            silence_within(way.silence, silence, RTO_S),
            within("calls were lost that began before the loss by at most", rpo_s, RPO_S),
            within(f"from the {way.since} until a phone could register", registered_s, RTO_S),
            tried(on, came, [first], [first, second], [first]),
            exactly("registered phones that could not be called", unreachable, 0),
            silence_within("silence while the seats were brought back", back, RTO_S),
            await on.cdrs(RECORDS_S),
        ]
        return on.report(checks, setting(size))
