"""Telling one story: builds the cluster and the town, lets the plan happen, and says what was wrong."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Final, assert_never

import structlog
from msgspec import Struct
from msgspec.structs import replace

from warden.cluster.decide import Seat
from warden.core.address import Address
from warden.sim.carrier import OUTSIDE, Carrier, items
from warden.sim.checks import Witness, check_call, check_cdrs_once, check_person
from warden.sim.loop import WORLD, SimLoop, Stuck
from warden.sim.network import COORDINATOR, DATABASE, STORE, Network
from warden.sim.node import SIP_PORT, Parts, SimNode, Site
from warden.sim.plan import (
    NODES,
    REGISTER_AT_S,
    SEATS,
    ClockStep,
    Cut,
    Down,
    FailOver,
    Fault,
    Freeze,
    Kill,
    Mode,
    Moment,
    Move,
    Plan,
    Restart,
    Slow,
    make_plan,
)
from warden.sim.servers import Server
from warden.sim.story import Story
from warden.sim.town import Town, directory_for
from warden.store.memory import Stored
from warden.store.ports import Kind

HEALED_AT_S: Final = 36.0
"""When the last fault and the last planned move are over."""
TALKED_S: Final = 90.0
"""How long the people may then need to end their calls: a BYE is repeated for 32 s, an unanswered INVITE as long."""
QUIET_S: Final = 120.0
"""How long it may take until nothing is left: transactions linger for 32 s, refused calls' records as long."""
TASKS_MAX: Final = 12
"""Tasks of a node beside those of its seats: its agent's, with what it asks at the moment."""
OVERLAP_S: Final = 0.5
"""For how much longer than lease and pauses two nodes may forward one call's audio."""


class Told(Struct, frozen=True):
    """A story that was told. `violations` is empty where all held; `lines` is how it went."""

    seed: int
    mode: Mode
    violations: tuple[str, ...]
    lines: tuple[str, ...]
    digest: str
    steps: int


def tell(plan: Plan, parts: Parts | None = None) -> Told:
    """Let a plan happen."""
    loop = SimLoop()
    story = Story(loop.time)
    with _log_into(story):
        try:
            loop.run(_World(plan, loop, story, parts or Parts()).live())
        except Stuck as stuck:
            story.accuse(str(stuck))
    return Told(plan.seed, plan.mode, tuple(story.violations), tuple(story.lines), story.digest, loop.steps)


def tell_briefly(seed: int) -> Told:
    """The story of a seed without its lines."""
    return replace(tell(make_plan(seed)), lines=())


@contextmanager
def _log_into(story: Story) -> Iterator[None]:
    """What the parts log is part of the story."""
    before = structlog.get_config()

    def note(_: object, method: str, event: Any) -> Any:
        what = event.pop("event")
        who = event.pop("node", "log")
        if not (event.get("exc_info") or (who == "log" and method == "info")):
            story.tell(who, f"{what} {' '.join(f'{k}={v}' for k, v in event.items())}")
        raise structlog.DropEvent

    structlog.configure(processors=[note], cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)


class _World:
    def __init__(self, plan: Plan, loop: SimLoop, story: Story, parts: Parts) -> None:
        self.plan = plan
        self.loop = loop
        self.story = story
        self.random = Random(plan.seed)  # noqa: S311 - a story must be the same twice
        self.network = Network(loop, story, self.random, plan.weather)
        seats = tuple(
            Seat(name, f"10.9.0.{i + 1}", tuple(NODES[(i + j) % len(NODES)] for j in range(len(NODES))))
            for i, name in enumerate(SEATS)
        )
        goes_outside = any(call.callee == OUTSIDE for call in plan.calls)
        directory = directory_for((number for number, _ in plan.people), plan.calls, items() if goes_outside else ())
        self.site = site = Site(loop, story, self.network, directory, seats, plan.ttl_s)
        site.parts = parts
        for server in (site.store, site.coordinator, site.database):
            server.delay_s = plan.server_delay_s
        self.town = Town(loop, self.network, story)
        for number, seat in plan.people:
            self.town.settle(number, Address(seats[seat].address, SIP_PORT))
        if goes_outside:
            self.town.people[OUTSIDE] = Carrier(self.town)
        if plan.hurry:
            self.network.on_moved = self.town.hurry
        witness = Witness(story, self.town)
        self.network.on_sent, self.network.on_heard = witness.sent, witness.heard
        site.on_epoch = witness.speaks
        self.nodes = {
            name: SimNode(name, site, drift=drift, offset_s=offset)
            for name, drift, offset in zip(NODES, plan.drifts, plan.offsets_s, strict=True)
        }
        site.nodes = self.nodes
        loop.set_exception_handler(self._bug)
        self._older: dict[str, Stored] = {}

    async def live(self) -> None:
        """The whole story."""
        for node in self.nodes.values():
            node.start()
        await asyncio.sleep(REGISTER_AT_S)
        self.town.everybody_registers()
        for call in self.plan.calls:
            self.town.plan(call)
        for fault in self.plan.faults:
            self._at(fault.at_s, self._happen, fault)
            if isinstance(fault, FailOver):
                self._at(fault.at_s - fault.lost_s, self._copy_store)
        await asyncio.sleep(HEALED_AT_S - self.loop.time())
        self.story.tell("world", "all faults are over")
        for node in self.nodes.values():
            node.start()
        await self._wait(TALKED_S, self._talked)
        check_cdrs_once(self.story, list(self.site.database.cdrs.values()))
        if self.plan.mode is not Mode.CHAOS:
            await self._wait(QUIET_S, lambda: not self._left())
            self._check_all()
        self._check_audio()

    async def _wait(self, at_most_s: float, done: Any) -> None:
        until = self.loop.time() + at_most_s
        while not done() and self.loop.time() < until:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(2.0)

    # What goes wrong

    def _at(self, at_s: float, what: Any, *args: Any) -> None:
        self.loop.call_later(max(0.0, at_s - self.loop.time()), what, *args, context=WORLD)

    def _later(self, for_s: float, what: Any, *args: Any) -> None:
        self.loop.call_later(for_s, what, *args, context=WORLD)

    def _happen(self, fault: Fault) -> None:
        if not isinstance(fault, Kill):
            self.story.tell("nemesis", str(fault))
        match fault:
            case Kill():
                self._arm(fault)
            case Freeze(node, _, for_s):
                self.nodes[node].freeze(for_s)
            case ClockStep(node, _, by_s):
                self.nodes[node].step_clock(by_s)
            case Cut(pairs, _, for_s):
                for source, target in pairs:
                    self.network.cut(source, target)
                    self._later(for_s, self.network.mend, source, target)
            case Slow(server, _, for_s, by_s):
                self._server(server).slow_s += by_s
                self._later(for_s, self._speed_up, server, by_s)
            case Down(server, _, for_s, unknown):
                self._server(server).forgets_answers = unknown
                self._server(server).up = unknown
                self._later(for_s, self._come_back, server)
            case FailOver(_, for_s, lost_s):
                self.site.store.up = False
                self.site.shelf.restore(self._older)
                self.story.tell(STORE, f"fails over and loses its last {lost_s:.3f} s")
                self._later(for_s, self._come_back, STORE)
            case Move(seat, to, asked, _):
                self.nodes[asked].wish(seat, to)
            case Restart(node, _, back_s):
                self._restart(node, back_s)
            case _:
                assert_never(fault)

    def _copy_store(self) -> None:
        self._older = self.site.shelf.copy()

    def _server(self, name: str) -> Server:
        return {STORE: self.site.store, COORDINATOR: self.site.coordinator, DATABASE: self.site.database}[name]

    def _speed_up(self, server: str, by_s: float) -> None:
        self._server(server).slow_s -= by_s
        self.story.tell(server, "is fast again")

    def _come_back(self, server: str) -> None:
        self._server(server).up, self._server(server).forgets_answers = True, False
        self.story.tell(server, "is back")

    def _restart(self, name: str, back_s: float) -> None:
        node = self.nodes[name]
        process = node.process
        node.stop()

        async def start_again() -> None:
            while node.process is process is not None:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.05)
            await asyncio.sleep(back_s)
            node.start()

        self.loop.create_task(start_again(), context=WORLD.copy())

    def _arm(self, kill: Kill) -> None:
        """Let the node die at its n-th step, message, or step of a move from now on."""
        node = self.nodes[kill.node]
        process, left = node.process, kill.n
        if process is None:
            return

        def die() -> None:
            self.story.tell("nemesis", str(kill))
            process.on_step = node.on_send = None
            node.kill()
            self._later(kill.back_s, node.start)

        def step() -> None:
            nonlocal left
            if kill.moment is Moment.MOVING and not node.moving:
                return
            left -= 1
            if left <= 0:
                die()

        def sent(data: bytes) -> None:
            nonlocal left
            left -= b" OPTIONS\r\n" not in data
            if left < 0 and node.process is process:
                die()

        if kill.moment is Moment.SEND:
            node.on_send = sent
        else:
            process.on_step = step

    def _bug(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.story.accuse(f"bug: {context.get('message')} {error!r}")

    # What came of it

    def _talked(self) -> bool:
        return not any(person.phone.calls for person in self.town.people.values())

    def _left(self) -> list[str]:
        """What is there that should not be, after the last call."""
        left = [f"calls of phone {p.number}" for p in self.town.people.values() if p.phone.calls]
        for stored in self.site.shelf.seats.values():
            left += [
                f"{kind} record {key}" for kind in (Kind.CALL, Kind.OUTBOX) for key in stored.records.get(kind, ())
            ]
        for node in self.nodes.values():
            seats = {} if node.seats is None else node.seats.held
            left += [f"{len(h.switch)} things at {h.name} of {node.name}" for h in seats.values() if len(h.switch)]
            # Whatever is lost or comes twice on the way, nobody of these people does wrong.
            left += [f"{len(h.switch.guard)} bans at {h.name}" for h in seats.values() if len(h.switch.guard)]
            left += [f"audio of {call} at {node.name}" for call in (node.media.sessions if node.media else ())]
        return left

    def _check_all(self) -> None:
        for what in self._left():
            self.story.accuse(f"left behind: {what}")
        cdrs = list(self.site.database.cdrs.values())
        for call in self.town.calls:
            check_call(self.story, call, cdrs)
        for cdr in cdrs:
            if cdr.sip_call_id not in {call.sip_call_id for call in self.town.calls}:
                self.story.accuse(f"CDR {cdr.id} is of no call")
        held: dict[str, str] = {}
        bindings: set[str] = set()
        for node in self.nodes.values():
            if node.process is None or node.seats is None or node.agent is None:
                self.story.accuse(f"{node.name} is not there")
                continue
            for name, seat in node.seats.held.items():
                if name in held:
                    self.story.accuse(f"{name} is held by {held[name]} and {node.name}")
                held[name] = node.name
                bindings.update(seat.switch.bindings)
            tasks = self.loop.tasks_of(node.process)
            if len(tasks) > TASKS_MAX + 2 * len(node.seats.held):
                self.story.accuse(f"{node.name} has tasks left: {sorted(tasks)}")
        if sorted(held) != sorted(SEATS):
            self.story.accuse(f"only these seats are held: {sorted(held)}")
        for person in self.town.people.values():
            if isinstance(person, Carrier):
                person.check(self.story)
            else:
                check_person(self.story, person, bindings)

    def _check_audio(self) -> None:
        frozen = sum(fault.for_s for fault in self.plan.faults if isinstance(fault, Freeze))
        for call in self.site.audio.spans:
            overlap = self.site.audio.overlap_s_max(call)
            if overlap > self.plan.ttl_s + frozen + OVERLAP_S:
                self.story.accuse(f"two nodes forward the audio of {call} for {overlap:.2f} s")
