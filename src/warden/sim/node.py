"""A simulated node: the real agent, seats and switches of a machine that can die, freeze and have a wrong clock."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Final

from dns.asyncresolver import Resolver as Dns
from msgspec import Struct

from warden.cluster.agent import Agent
from warden.cluster.clock import SteadyClock
from warden.cluster.consent import Consent, Promises, Seal
from warden.cluster.decide import Seat
from warden.cluster.following import Following
from warden.cluster.members import Record
from warden.cluster.seat import HeldSeat
from warden.cluster.seats import Seats
from warden.core.address import Address, Transport
from warden.net.ports import Receiver
from warden.net.resolve import Resolver
from warden.sim.loop import WORLD, Process, SimLoop
from warden.sim.media import Audio, SimMedia
from warden.sim.network import COORDINATOR, DATABASE, STORE, Network, SeatSocket
from warden.sim.servers import CoordinatorClient, DatabaseClient, DatabaseServer, Server, StoreClient
from warden.sim.story import Story
from warden.sip.endpoint import Endpoint
from warden.sip.session_timer import Wish
from warden.store.memory import MemoryStore, Shelf
from warden.store.memory_coordinator import Desk, MemoryCoordinator
from warden.store.ports import CdrStore
from warden.switch.bans import Bans
from warden.switch.directory import Directory
from warden.switch.roster import Roster
from warden.switch.settings import Settings
from warden.switch.switch import Switch

START_UTC: Final = 1_700_000_000.0
REALM: Final = "warden.test"
SECRET: Final = b"the secret of a simulated cluster"
SIP_PORT: Final = 5060
SESSION: Final = Wish(24, 4)
"""Sessions are refreshed after 12 s, so that faults meet refreshes in calls of 3 to 16 s; and whoever does not answer
for 4 s is gone."""
GOODBYE_S: Final = 3.0
"""How long a stop waits for the database to take the last CDRs."""
FOLLOW_S: Final = 1.0
"""How often a node asks who is registered at the other seats."""
GRACE_S: Final = 10.0
"""How long a planned stop waits for its seats to be handed over."""


class Parts(Struct, frozen=True):
    """What a node is made of. A test that plants a bug brings its own."""

    held_seat: type[HeldSeat] = HeldSeat
    store: Callable[[Shelf], MemoryStore] = MemoryStore


class Site:
    """What all nodes share."""

    def __init__(
        self, loop: SimLoop, story: Story, network: Network, directory: Directory, seats: tuple[Seat, ...], ttl_s: float
    ) -> None:
        self.loop = loop
        self.story = story
        self.network = network
        self.directory = directory
        self.seats = seats
        self.ttl_s = ttl_s
        self.parts = Parts()
        self.desk = Desk()
        self.coordinator = Server(COORDINATOR, network)
        self.audio = Audio(loop.time, story)
        self.shelf = Shelf()
        self.store = Server(STORE, network)
        self.database = DatabaseServer(DATABASE, network)
        self.on_epoch: Callable[[str, str, int], None]
        self.nodes: Mapping[str, SimNode]


class SimNode:
    """A machine. `drift` is by how much its clocks run fast, `offset_s` by how much its wall clock is ahead.

    `on_step` and `on_send` are told before each step of its process and each message that it sends.
    """

    def __init__(self, name: str, site: Site, *, drift: float, offset_s: float) -> None:
        self.name = name
        self.site = site
        self.offset_s = offset_s
        self.process: Process | None = None
        self.seats: Seats | None = None
        self.agent: Agent | None = None
        self.media: SimMedia | None = None
        self.on_send: Callable[[bytes], None] | None = None
        self.promises: dict[str, float] = {}
        self._sockets: list[SeatSocket] = []
        self._drift = drift
        self._stopping: asyncio.Event
        self._starts = count(1)
        self._boots = 1

    @property
    def up(self) -> bool:
        """True while its process is there."""
        return self.process is not None

    @property
    def moving(self) -> bool:
        """True while a seat is on its way here or from here."""
        if self.seats is None or self.agent is None:
            return False
        return set(self.seats.held) != set(self.agent.held)

    # What happens to it

    def start(self) -> None:
        """A new process, on a machine that has just come up."""
        if self.process is not None:
            return
        serial = next(self._starts)
        self.process = process = Process(self.name)
        self.site.story.tell(self.name, "starts")
        task = self.site.loop.spawn(process, self._live(process, serial))
        process_ended = partial(self._ended, process)
        task.add_done_callback(process_ended, context=WORLD)

    def kill(self) -> None:
        """The power goes."""
        if self.process is None:
            return
        self.site.story.tell(self.name, "dies")
        self.process.kill()
        self._boots += 1
        self._forget()

    def freeze(self, for_s: float) -> None:
        """The process does not run for a while; its media process goes on."""
        if self.process is not None:
            self.site.story.tell(self.name, f"freezes for {for_s:.3f} s")
            self.site.loop.freeze(self.process, for_s)

    def stop(self) -> None:
        """SIGTERM: hand over everything, then end."""
        if self.process is not None:
            self.site.story.tell(self.name, "is told to stop")
            self._stopping.set()

    def wish(self, seat: str, node: str) -> None:
        """Its operator wants a seat to be elsewhere."""
        if self.agent is not None:
            self.site.story.tell(self.name, f"wishes {seat} at {node}")
            self.process.context.run(self.agent.wish, seat, node)  # type: ignore[union-attr]

    def step_clock(self, by_s: float) -> None:
        """Its wall clock is set."""
        self.site.story.tell(self.name, f"has its clock set by {by_s:+.3f} s")
        self.offset_s += by_s

    # Its life

    async def _live(self, process: Process, serial: int) -> None:
        site, clock = self.site, SteadyClock(self._monotonic, self._wall)
        self._stopping = asyncio.Event()
        self.media = SimMedia(self.name, site.audio, site.network.delay)
        store = StoreClient(self.name, site.store, site.parts.store(site.shelf))
        database = DatabaseClient(self.name, site.database)
        tokens, roster, bans = count(), Roster(), Bans()
        promises = Promises(self._keep_promises, self.promises)

        def make(seat: Seat, epoch: int, until: float) -> HeldSeat:
            assert self.media is not None, "made at the start"
            return self._make_seat(
                process,
                seat,
                epoch,
                until,
                clock,
                store,
                database,
                lambda: f"{self.name}.{serial}.{next(tokens)}",
                roster,
                bans,
            )

        async with asyncio.TaskGroup() as tasks:
            self.seats = seats = Seats(
                make, lambda: site.directory, lambda work, name: tasks.create_task(work, name=name)
            )
            seats.alone = False
            self.agent = agent = Agent(
                self.name,
                site.seats,
                CoordinatorClient(
                    self.name, site.coordinator, MemoryCoordinator(site.loop.time, site.desk), site.network
                ),
                seats,
                Record("sim", http=self.name, instance=f"{self.name}.{serial}", place=f"{self.name}.{self._boots}"),
                ttl_s=site.ttl_s,
                now=clock.now,
                consent=Consent(Seal(SECRET), promises, self._ask, lambda: f"{self.name}.{serial}.{next(tokens)}"),
            )
            roster.addresses = {seat.name: Address(seat.address, SIP_PORT) for seat in site.seats}
            following = Following(store, roster, bans, clock.now)
            knowing = tasks.create_task(self._follow(following), name="roster")
            running = tasks.create_task(agent.run(), name="agent")
            await self._stopping.wait()
            await self._leave(agent, seats)
            seats.give_up()
            running.cancel()
            knowing.cancel()

    @staticmethod
    async def _follow(following: Following) -> None:
        """Less often than a real node does, which would be most of what happens."""
        while True:
            await following.catch_up()
            await asyncio.sleep(FOLLOW_S)

    async def _ask(self, peer: str, question: bytes) -> bytes | None:
        """Ask another node, by the network between them."""
        site = self.site
        heard: asyncio.Future[bytes | None] = site.loop.create_future()

        async def answer(agent: Agent) -> None:
            said = await agent.answer(question)
            site.loop.call_later(site.network.delay(), reply, said, context=WORLD)

        def reply(said: bytes | None) -> None:
            if not heard.done() and site.network.reaches(peer, self.name):
                heard.set_result(said)

        def arrive() -> None:
            node = site.nodes[peer]
            if node.process is not None and node.agent is not None and site.network.reaches(self.name, peer):
                site.loop.spawn(node.process, answer(node.agent))

        site.loop.call_later(site.network.delay(), arrive, context=WORLD)
        return await heard

    async def _leave(self, agent: Agent, seats: Seats) -> None:
        """As `Node` does on SIGTERM."""
        loop = self.site.loop
        agent.drain()
        soon, until = loop.time() + self.site.ttl_s, loop.time() + GRACE_S
        while not agent.drained and loop.time() < until:
            for seat in seats.held.values():
                seat.switch.accepts_calls = agent.has_heir or loop.time() < soon
            idle = not agent.has_heir and not any(seat.switch.calls for seat in seats.held.values())
            if loop.time() > soon and idle:
                break
            await asyncio.sleep(0.02)
        for seat in list(seats.held.values()):
            seat.switch.accepts_calls = False
            await seat.settle(GOODBYE_S)
        await seats.close()

    def _make_seat(
        self,
        process: Process,
        seat: Seat,
        epoch: int,
        until: float,
        clock: SteadyClock,
        store: StoreClient,
        database: CdrStore,
        new_token: Callable[[], str],
        roster: Roster,
        bans: Bans,
    ) -> HeldSeat:
        site, address = self.site, Address(seat.address, SIP_PORT)
        assert self.media is not None, "made at the start"
        settings = Settings(
            seat.name,
            self.name,
            REALM,
            {Transport.UDP: address},
            seat.address,
            seat.address,
            (20_000, 20_200),
            session=SESSION,
        )

        def sends(data: bytes) -> None:
            if self.on_send is not None:
                self.on_send(data)
            if process.alive:
                site.on_epoch(self.name, seat.name, epoch)

        def make_driver(receiver: Receiver) -> SeatSocket:
            socket = SeatSocket(site.network, process, self.name, address, receiver, sends)
            self._sockets.append(socket)
            return socket

        return site.parts.held_seat(
            Switch(settings, Endpoint(new_token, settings.advertised), SECRET, new_token, roster, bans),
            store,
            database,
            self.media,
            make_driver,
            Resolver(Dns(configure=False), ipv6=False),
            epoch=epoch,
            now=clock.now,
            until=until,
        )

    def _keep_promises(self, made: Mapping[str, float]) -> None:
        self.promises = dict(made)

    def _ended(self, process: Process, task: "asyncio.Task[None]") -> None:
        if process is not self.process or self.site.loop.ending:
            return
        with suppress(asyncio.CancelledError):
            error = task.exception()
            if error is not None:
                self.site.story.accuse(f"{self.name} ended by an exception: {_flat(error)}")
        self.site.story.tell(self.name, "has ended")
        process.kill()
        self._forget()

    def _forget(self) -> None:
        if self.media is not None:
            self.media.stop()
        for socket in self._sockets:
            socket.unbind()
        self._sockets.clear()
        self.process = self.agent = self.seats = self.media = None

    def _monotonic(self) -> float:
        return self.site.loop.time() * (1 + self._drift)

    def _wall(self) -> float:
        return START_UTC + self.offset_s + self.site.loop.time()


def _flat(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_flat(one) for one in error.exceptions)
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    where = "" if traceback is None else f" in {traceback.tb_frame.f_code.co_qualname}:{traceback.tb_lineno}"
    return f"{type(error).__name__}: {error}{where}"
