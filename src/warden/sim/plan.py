"""What is to happen in a story: calls, weather and faults, all drawn from the seed. Pure.

A story has one of three modes. *Planned*: only what an operator does on purpose. *Single*: one fault, perhaps while a
planned move is under way. *Chaos*: several at once. The weather (up to 5 % of the datagrams lost, doubled or late) is
no fault, and neither is the return of a node that died.
"""

from collections.abc import Callable
from enum import StrEnum
from random import Random
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from warden.sim.carrier import OUTSIDE
from warden.sim.network import COORDINATOR, DATABASE, PHONES, STORE, Weather
from warden.sim.town import NOBODY, TARGET, CallPlan, Ending

NODES: Final = ("node1", "node2", "node3")
SEATS: Final = ("seat1", "seat2", "seat3")
REGISTER_AT_S: Final = 1.0
CALLS_FROM_S: Final = 3.0
CALLS_TO_S: Final = 9.0
TRANSFERS: Final = 0.5
"""How many of the callees who may do so transfer their caller."""
THROUGH_GROUP: Final = 0.2
"""The part of the calls that ring elsewhere in vain before they come to the callee."""
GOES_OUTSIDE: Final = 0.3
"""The part of the stories in which there is a trunk, and a call over it."""
FAULTS_FROM_S: Final = 2.0
FAULTS_TO_S: Final = 12.0
FAULT_S_MAX: Final = 6.0
"""How long a fault lasts at most: phones repeat a request for 32 s, and an outage within that must cost no call."""


class Mode(StrEnum):
    """How much goes wrong."""

    PLANNED = "planned"
    SINGLE = "single"
    CHAOS = "chaos"


class Moment(StrEnum):
    """What is counted until a node dies."""

    STEP = "step"
    """Everything that its process does."""
    SEND = "send"
    """The messages that it sends, but answers to OPTIONS: it dies behind the n-th."""
    MOVING = "moving"
    """What its process does while a seat of its is between two nodes."""


class Kill(Struct, frozen=True, tag=True):
    """The power of a node goes at the `n`th `moment` behind `at_s`, and comes back after `back_s`."""

    node: str
    at_s: float
    moment: Moment
    n: int
    back_s: float


class Freeze(Struct, frozen=True, tag=True):
    """A node's process does not run."""

    node: str
    at_s: float
    for_s: float


class ClockStep(Struct, frozen=True, tag=True):
    """A node's wall clock is set."""

    node: str
    at_s: float
    by_s: float


class Cut(Struct, frozen=True, tag=True):
    """Nothing passes between machines, this way or both."""

    pairs: tuple[tuple[str, str], ...]
    at_s: float
    for_s: float


class Slow(Struct, frozen=True, tag=True):
    """A server takes longer to answer."""

    server: str
    at_s: float
    for_s: float
    by_s: float


class Down(Struct, frozen=True, tag=True):
    """A server is away; with `unknown` it does as asked and does not say so."""

    server: str
    at_s: float
    for_s: float
    unknown: bool = False


class FailOver(Struct, frozen=True, tag=True):
    """The seat store is away, and comes back without its last writes."""

    at_s: float
    for_s: float
    lost_s: float


class Move(Struct, frozen=True, tag=True):
    """An operator asks a node to see to it that a seat moves to another."""

    seat: str
    to: str
    asked: str
    at_s: float


class Restart(Struct, frozen=True, tag=True):
    """An operator restarts a node: it hands over its seats, stops, and is started again."""

    node: str
    at_s: float
    back_s: float


Fault = Kill | Freeze | ClockStep | Cut | Slow | Down | FailOver | Move | Restart


class Plan(Struct, frozen=True):
    """A whole story before it is told. With `hurry` people do something in the very moment in which
    their server has moved. `server_delay_s` is how long a server's answer may take on a good
    day; `drifts` and `offsets_s` are of the nodes' clocks.
    """

    seed: int
    mode: Mode
    ttl_s: float
    weather: Weather
    server_delay_s: float
    people: tuple[tuple[str, int], ...]
    calls: tuple[CallPlan, ...]
    hurry: bool
    faults: tuple[Fault, ...]
    drifts: tuple[float, ...]
    offsets_s: tuple[float, ...]


def make_plan(seed: int, mode: Mode | None = None) -> Plan:
    """The plan of a seed."""
    random = Random(seed)  # noqa: S311 - a story must be the same twice
    drawn = random.choices((Mode.SINGLE, Mode.PLANNED, Mode.CHAOS), (6, 2, 2))[0]
    mode = mode or drawn
    people = tuple((f"{seat + 1}00{i}", seat) for seat in range(3) for i in range(2 if seat else 3))
    grouped = Random(f"groups of {seed}")  # noqa: S311 - by itself, so that it changes no other draw
    nobody = (NOBODY, grouped.randrange(3))
    transferring = Random(f"transfers of {seed}")  # noqa: S311 - likewise
    target = (TARGET, transferring.randrange(3))
    return Plan(
        seed,
        mode,
        random.choice((1.0, 2.0, 3.0)),
        _weather(random),
        random.choice((0.001, 0.003, 0.01)),
        (*people, nobody, target),
        (*_transferred(transferring, _through_groups(grouped, _calls(random, people))), *_outside(seed, people)),
        random.random() < 0.6,
        tuple(_faults(random, mode)),
        tuple(random.uniform(-1e-4, 1e-4) for _ in NODES),
        tuple(random.uniform(-0.2, 0.2) for _ in NODES),
    )


def _weather(random: Random) -> Weather:
    if random.random() < 0.5:
        return Weather()
    return Weather(random.uniform(0, 0.05), random.uniform(0, 0.05), 0.001, random.uniform(0.01, 0.08))


def _calls(random: Random, people: tuple[tuple[str, int], ...]) -> list[CallPlan]:
    """A call at each seat and sometimes one more, perhaps between seats: each between another pair of people."""
    everybody = [(a, b) for a, _ in people for b, _ in people if a != b]
    seats = dict(people)
    pairs = [(a, b) for a, b in everybody if seats[a] == seats[b]]
    chosen = [random.choice([pair for pair in pairs if pair[0].startswith(first)]) for first in ("1", "2", "3")]
    chosen += random.sample([pair for pair in everybody if pair not in chosen], random.randrange(2))
    return [_call(random, caller, callee) for caller, callee in chosen]


def _through_groups(random: Random, calls: list[CallPlan]) -> list[CallPlan]:
    chosen = [random.random() < THROUGH_GROUP and call.ending is not Ending.ECHO for call in calls]
    return [replace(call, through_group=is_so) for call, is_so in zip(calls, chosen, strict=True)]


def _transferred(random: Random, calls: list[CallPlan]) -> list[CallPlan]:
    """Some callees have their caller put through to somebody else, who then talks until the caller hangs up."""
    chosen = [random.uniform(0.2, call.talk_s) if random.random() < TRANSFERS else None for call in calls]
    may = [call.ending is Ending.TALK and call.caller_ends for call in calls]
    return [
        replace(call, transfer_s=at_s) if at_s is not None and is_so else call
        for call, at_s, is_so in zip(calls, chosen, may, strict=True)
    ]


def _outside(seed: int, people: tuple[tuple[str, int], ...]) -> list[CallPlan]:
    """Sometimes somebody calls outside, over the trunk."""
    random = Random(f"trunk of {seed}")  # noqa: S311 - by itself, so that it changes no other draw
    if random.random() >= GOES_OUTSIDE:
        return []
    call = _call(random, random.choice(people)[0], OUTSIDE)
    return [replace(call, ending=Ending.TALK) if call.ending is Ending.ECHO else call]


def _call(random: Random, caller: str, callee: str) -> CallPlan:
    ending = random.choices(list(Ending), (7, 1, 1, 1))[0]
    talk_s = random.uniform(3, 16)
    return CallPlan(
        caller,
        callee,
        random.uniform(CALLS_FROM_S, CALLS_TO_S),
        ending,
        random.uniform(0.01, 0.3),
        random.choice((random.uniform(0.05, 0.5), random.uniform(0.5, 8.0))),
        talk_s,
        caller_ends=random.random() < 0.5,
        hold_s=random.uniform(0.1, talk_s - 1) if random.random() < 0.3 else None,
        digits_at_s=tuple(random.uniform(0.1, talk_s - 0.5) for _ in range(random.randrange(4))),
    )


def _faults(random: Random, mode: Mode) -> list[Fault]:
    match mode:
        case Mode.PLANNED:
            return _planned(random)
        case Mode.SINGLE if random.random() < 0.2:
            return _killed_while_moving(random)
        case Mode.SINGLE:
            return [random.choice(_SINGLE)(random)]
        case Mode.CHAOS:
            return [random.choice((*_SINGLE, _move, _restart))(random) for _ in range(random.randint(2, 4))]


def _planned(random: Random) -> list[Fault]:
    if random.random() < 0.3:
        at, gap = _when(random), random.uniform(2.0, 5.0)
        return [Restart(node, at + i * (gap + 2), gap) for i, node in enumerate(random.sample(NODES, 3))]
    return [random.choice((_move, _restart))(random) for _ in range(random.randint(1, 2))]


def _killed_while_moving(random: Random) -> list[Fault]:
    move = _move(random)
    node = random.choice(NODES)
    return [move, Kill(node, move.at_s, Moment.MOVING, random.randrange(1, 120), random.uniform(2, FAULT_S_MAX))]


def _when(random: Random) -> float:
    return random.uniform(FAULTS_FROM_S, FAULTS_TO_S)


def _how_long(random: Random) -> float:
    return random.uniform(0.05, 1.0) if random.random() < 0.3 else random.uniform(1.0, FAULT_S_MAX)


def _kill_at_step(random: Random) -> Kill:
    return Kill(random.choice(NODES), _when(random), Moment.STEP, random.randrange(1, 40), random.uniform(2, 6))


def _kill_at_send(random: Random) -> Kill:
    return Kill(random.choice(NODES), _when(random), Moment.SEND, random.randrange(1, 6), random.uniform(2, 6))


def _freeze(random: Random) -> Freeze:
    return Freeze(random.choice(NODES), _when(random), _how_long(random))


def _clock_step(random: Random) -> ClockStep:
    return ClockStep(random.choice(NODES), _when(random), random.uniform(-0.5, 0.5))


def _cut(random: Random) -> Cut:
    node = random.choice(NODES)
    peers = tuple(other for other in NODES if other != node)
    everything = (STORE, COORDINATOR, DATABASE, PHONES, *peers)
    others = random.choice(((STORE,), (COORDINATOR,), (DATABASE,), (PHONES,), peers, everything))
    way = random.choice(("there", "back", "both"))
    there = () if way == "back" else tuple((node, other) for other in others)
    back = () if way == "there" else tuple((other, node) for other in others)
    return Cut(there + back, _when(random), _how_long(random))


def _slow(random: Random) -> Slow:
    return Slow(random.choice((STORE, DATABASE)), _when(random), _how_long(random), random.uniform(0.01, 0.3))


def _down(random: Random) -> Down:
    server = random.choice((STORE, COORDINATOR, DATABASE))
    return Down(server, _when(random), _how_long(random), unknown=random.random() < 0.3)


def _fail_over(random: Random) -> FailOver:
    return FailOver(_when(random), random.uniform(0.05, 3.0), random.uniform(0.0, 0.5))


def _move(random: Random) -> Move:
    return Move(random.choice(SEATS), random.choice(NODES), random.choice(NODES), _when(random))


def _restart(random: Random) -> Restart:
    return Restart(random.choice(NODES), _when(random), random.uniform(1.0, 4.0))


_SINGLE: Final[tuple[Callable[[Random], Fault], ...]] = (
    _kill_at_step,
    _kill_at_send,
    _kill_at_send,
    _kill_at_send,
    _freeze,
    _freeze,
    _clock_step,
    _cut,
    _cut,
    _cut,
    _slow,
    _down,
    _down,
    _fail_over,
)
