"""The network: who reaches whom, how long it takes, and what is lost on the way; and the SIP that it carries.

An address may be bound on two nodes at once: what is sent to it arrives at whoever bound it last, as with a virtual IP.
"""

from collections.abc import Callable, Mapping
from random import Random
from typing import Final, Protocol

from msgspec import Struct

from warden.core.address import Address, Flow, Transport
from warden.net.counters import Counters
from warden.net.ports import Receiver
from warden.sim.loop import WORLD, Process, SimLoop
from warden.sim.story import Story
from warden.sip.message import Request, Response
from warden.sip.parser import parse_message

PHONES: Final = "phones"
STORE: Final = "store"
COORDINATOR: Final = "coord"
DATABASE: Final = "database"

Message = Request | Response


class Weather(Struct, frozen=True):
    """What a network does to datagrams on a good day: parts of 1 that are lost or come twice, seconds of delay."""

    loss: float = 0.0
    twice: float = 0.0
    delay_min_s: float = 0.001
    delay_max_s: float = 0.02


class Hears(Protocol):
    """Somebody who has bound an address."""

    @property
    def node(self) -> str:
        """Where: the name of the machine, for partitions."""

    @property
    def process(self) -> Process | None:
        """Which process hears it; None for what never dies."""

    def hear(self, source: Address, message: Message) -> None:
        """A message came."""


class Network:
    """Carries everything. `cuts` are the ordered pairs of machines between which nothing passes, and how often each
    was cut.
    """

    def __init__(self, loop: SimLoop, story: Story, random: Random, weather: Weather) -> None:
        self.loop = loop
        self.weather = weather
        self.on_sent: Callable[[str, Message], None] = _nothing
        self.on_heard: Callable[[Address, Message], None] = _unheard
        self.on_moved: Callable[[Address], None] = _nowhere
        self._story = story
        self.random = random
        self._cuts: dict[tuple[str, str], int] = {}
        self._bound: dict[Address, list[Hears]] = {}

    def delay(self) -> float:
        """How long something takes to the other end."""
        weather = self.weather
        return self.random.uniform(weather.delay_min_s, weather.delay_max_s)

    def cut(self, source: str, target: str) -> None:
        """Nothing passes this way."""
        self._cuts[source, target] = self._cuts.get((source, target), 0) + 1

    def mend(self, source: str, target: str) -> None:
        """As before."""
        self._cuts[source, target] = max(0, self._cuts.get((source, target), 0) - 1)

    def reaches(self, source: str, target: str) -> bool:
        """True where something sent now would arrive."""
        return not self._cuts.get((source, target))

    # SIP

    def bind(self, address: Address, who: Hears) -> None:
        """Hear what is sent to an address, from now on before all others."""
        self._bound.setdefault(address, []).append(who)
        self.on_moved(address)

    def unbind(self, address: Address, who: Hears) -> None:
        """Hear it no more."""
        bound = self._bound.get(address, [])
        if who in bound:
            bound.remove(who)

    def send(self, machine: str, source: Address, target: Address, data: bytes) -> None:
        """A datagram leaves a machine."""
        message = parse_message(data)
        self.on_sent(machine, message)
        self._story.tell(machine, f"{source} -> {target} {line_of(message)}")
        random, weather = self.random, self.weather
        for _ in range(2 if random.random() < weather.twice else 1):
            if random.random() >= weather.loss:
                self.loop.call_later(self.delay(), self._arrive, machine, source, target, message, context=WORLD)

    def _arrive(self, machine: str, source: Address, target: Address, message: Message) -> None:
        bound = self._bound.get(target)
        if not bound:
            return
        who = bound[-1]
        if not self.reaches(machine, who.node):
            return
        self.on_heard(target, message)
        context = WORLD if who.process is None else who.process.context
        self.loop.call_soon(who.hear, source, message, context=context)


def _nothing(_machine: str, _message: Message) -> None:
    """Nobody listens."""


def _unheard(_target: Address, _message: Message) -> None:
    """Nobody listens."""


def _nowhere(_address: Address) -> None:
    """Nobody cares."""


def line_of(message: Message) -> str:
    """A message in a line of the story."""
    cseq = message.cseq
    if isinstance(message, Request):
        return f"{message.method} {message.target} {message.call_id} {cseq.number}"
    return f"{message.status} {cseq.method} {message.call_id} {cseq.number}"


class SeatSocket:
    """The SIP socket of a seat on a node: its `Driver`. `on_send` is told before a message leaves, and may kill."""

    def __init__(
        self,
        network: Network,
        process: Process,
        node: str,
        address: Address,
        receiver: Receiver,
        on_send: Callable[[bytes], None],
    ) -> None:
        self.counters = Counters()
        self.process = process
        self.node = node
        self._network = network
        self._address = address
        self._receiver = receiver
        self._on_send = on_send

    async def start(self) -> None:
        """As `Driver.start`."""
        self._network.bind(self._address, self)

    async def stop(self) -> None:
        """As `Driver.stop`."""
        self.unbind()

    def unbind(self) -> None:
        """Hear nothing more."""
        self._network.unbind(self._address, self)

    def send(self, flow: Flow, data: bytes) -> None:
        """As `Net.send`."""
        self._on_send(data)
        if self.process.alive:
            self._network.send(self.node, self._address, flow.remote, data)

    def expect(self, remote: Address, server_name: str) -> None:
        """As `Net.expect`."""

    def close(self, flow: Flow) -> None:
        """As `Net.close`."""

    def reload(self) -> None:
        """As `Driver.reload`."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """As `Driver.warnings`."""
        return ()

    @property
    def certificates(self) -> Mapping[str, float]:
        """As `Driver.certificates`."""
        return {}

    def hear(self, source: Address, message: Message) -> None:
        """As `Hears.hear`."""
        self._receiver.received(Flow(Transport.UDP, self._address, source), message)
