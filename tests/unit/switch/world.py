"""A little world in virtual time: one real switch, real phones, a wire that may lose, a store, and a media process that
only takes notes. Everything that happens follows from the seed.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import TypeVar

import msgspec

from warden.call.cdr import Cdr, decode_cdr
from warden.call.model import Cause
from warden.core.address import Address, Flow, Transport
from warden.core.errors import MalformedMessage
from warden.media.protocol import Drop, Put, Session
from warden.media.protocol import Event as MediaEvent
from warden.net.limits import limit_key
from warden.phone.events import Ended, Event, Incoming, Output, Violation
from warden.phone.line import Account, Habits
from warden.phone.phone import Phone
from warden.phone.session import Media
from warden.sdp.sdes import Policy
from warden.sip.digest import authorize
from warden.sip.endpoint import Endpoint, Send
from warden.sip.message import Request, Response
from warden.sip.parser import parse_message
from warden.store.ports import Kind
from warden.switch.bans import Bans
from warden.switch.directory import Directory, directory_of, new_extension
from warden.switch.live import SNAPSHOTS
from warden.switch.outcome import Change, TrunkLookup
from warden.switch.overload import Overload
from warden.switch.roster import Roster
from warden.switch.settings import Settings
from warden.switch.switch import Lookup, Outcome, Switch

T = TypeVar("T")
Message = Request | Response
SERVER = Address("10.0.0.254", 5060)
REALM = "warden.test"
LATENCY_S = 0.01
QUIET_S = 110.0
"""Longer than any transaction: a BYE of 32 s behind an INVITE of 32 s and the rest of the switch's own linger."""
DOWN_S = 0.2
START = 1_700_000_000.0


def extensions(*numbers: str) -> Directory:
    made = (new_extension(n, password(n), realm=REALM, now=0.0, name=f"Number {n}") for n in numbers)
    return directory_of(made, 1)


def password(number: str) -> str:
    return f"secret of {number}"


class Crash(msgspec.Struct, frozen=True):
    """The process dies at outcome number `at`: its records are written, and its messages sent or not."""

    at: int
    speaks: bool


class Peer:
    """Somebody at an address who has no phone: the test writes what is said, and reads what is heard."""

    def __init__(self, world: "World", address: Address) -> None:
        self.world = world
        self.address = address
        self.heard: list[Message] = []
        self.challenges: list[str] = []
        self._serial = count(1)
        self._nonce_count = 0

    def hear(self, message: Message) -> None:
        """Somebody has something to say to us."""
        self.heard.append(message)

    def requests(self, method: str) -> list[Request]:
        return [m for m in self.heard if isinstance(m, Request) and m.method == method]

    def statuses(self, method: str) -> list[int]:
        return [m.status for m in self.heard if isinstance(m, Response) and m.cseq.method == method]

    def last(self) -> Response:
        return next(m for m in reversed(self.heard) if isinstance(m, Response))

    def say(self, message: Message | bytes) -> None:
        self.world.send(self.address, self.world.server, bytes(message))
        self.world.run(0.05)

    def request(self, method: str, user: str = "", *fields: tuple[str, str], body: str = "", to: str = "") -> Request:
        """A request as a careful peer writes it; `fields` take the place of its own."""
        n, server = next(self._serial), self.world.server.host
        me = f"sip:{user or 'nobody'}@{server}"
        via = f"SIP/2.0/UDP {self.address};branch=z9hG4bK{self.address.host}-{n};rport"
        target = f"sip:{to}@{server}" if to else f"sip:{server}"
        request = Request(
            method,
            target,
            (
                ("Via", via),
                ("Max-Forwards", "70"),
                ("From", f"<{me}>;tag={self.address.host}"),
                ("To", f"<{target if to else me}>"),
                ("Call-ID", f"c{n}@{self.address.host}"),
                ("CSeq", f"{n} {method}"),
                ("Contact", f"<sip:{self.address}>"),
            ),
        )
        for name in dict.fromkeys(name for name, _ in fields):
            request = request.without(name)
        request = Request(method, target, (*request.fields, *(f for f in fields if f[1])))
        return request.with_body("application/sdp", body.encode()) if body else request

    def with_credentials(self, request: Request, user: str, *, word: str = "") -> Request:
        """The request with an answer to the last challenge, under the next nonce count."""
        self._nonce_count += 1
        value = authorize(
            self.challenges,
            username=user,
            password=word or password(user),
            method=request.method,
            uri=request.target,
            cnonce="c",
            nc=self._nonce_count,
        )
        return request.with_fields(("Authorization", value))

    def ask(
        self, method: str, user: str = "", *fields: tuple[str, str], body: str = "", to: str = "", word: str = ""
    ) -> int:
        """Send a request, again with credentials where they are asked for; the final status."""
        request = self.request(method, user, *fields, body=body, to=to)
        if self.challenges:
            request = self.with_credentials(request, user, word=word)
        self.say(request)
        answer = self.last()
        if answer.status != 401 or not ("stale=true" in str(answer.fields) or request.get("Authorization") is None):
            return answer.status
        self.learn()
        again = self.request(method, user, *(f for f in fields if f[0] != "Via"), body=body, to=to)
        again = again.with_fields(("Call-ID", request.call_id))
        self.say(self.with_credentials(again, user, word=word))
        return self.last().status

    def learn(self) -> None:
        """Take the challenge of the last response for the next credentials."""
        self.challenges = self.last().get_all("WWW-Authenticate")
        self._nonce_count = 0


class World:
    """`loss` is the part of the datagrams that is lost; as many come twice, and later than others. `net` is the last
    number but one of its addresses. Several worlds that know each other (`worlds`) share time and the wire.
    """

    def __init__(
        self,
        *numbers: str,
        seed: int = 0,
        loss: float = 0.0,
        crash: Crash | None = None,
        directory: Directory | None = None,
        settings: Settings | None = None,
        net: int = 0,
        tls: bool = False,
    ) -> None:
        self.now = START
        self.net = net
        self.worlds = [self]
        self.roster = Roster()
        self.random = Random(seed)
        self.loss = loss
        self.crash = crash
        self.outcomes = 0
        self.records: dict[Kind, dict[str, bytes]] = {kind: {} for kind in Kind}
        self.call_ids: set[str] = set()
        self.media: dict[str, Session] = {}
        self.phones: dict[str, Phone] = {}
        self.told: dict[str, list[Event]] = {}
        self.addresses: dict[str, Address] = {}
        self.nat: dict[Address, Address] = {}
        self.names: dict[str, Address] = {}
        self.services: dict[str, list[Address]] = {}
        self.news: list[str] = []
        self.lookup_s = 0.02
        self.changes: list[Change] = []
        self.no_change: Cause | None = None
        self.srtp: dict[str, Policy] = {}
        self.peers: dict[Address, Peer] = {}
        self.connections: dict[Address, int] = {}
        self.connection_serial = count(1)
        self.on_incoming: dict[str, Callable[[Incoming], None]] = {}
        self.log: list[tuple[float, Address, Address, Message]] = []
        self.settings = settings or make_settings()
        self.server = self.settings.advertised[Transport.UDP]
        self.directory = directory or extensions(*(numbers or ("1001", "1002")))
        self._serial = count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self.token_serial = count()
        self.down_until = 0.0
        self.overload = Overload()
        self.switch = self.make_switch()
        for number in numbers or ("1001", "1002"):
            self.add(number, tls=tls)
            self.register(number)

    # The switch

    def make_switch(self) -> Switch:
        """Another process, before it has read any records."""
        self.bans = Bans()
        switch = Switch(
            self.settings,
            Endpoint(self.new_token, self.settings.advertised),
            b"a key for nonces",
            self.new_token,
            self.roster,
            self.bans,
            self.overload,
        )
        self.bans.known_hosts = switch.known_hosts
        self.carry_out(switch.replace_directory(self.now, self.directory))
        return switch

    def new_token(self) -> str:
        return f"w{next(self.token_serial)}" + (f"n{self.net}" if self.net else "")

    def restart(self) -> None:
        """Another process takes over from the store; media that belongs to no call is dropped, as the node does."""
        self.crash = None
        self.connections.clear()
        self.down_until = self.now + DOWN_S
        self.after(DOWN_S, self._come_back)

    def _come_back(self) -> None:
        self.switch = self.make_switch()
        outcome, unreadable = self.switch.restore(
            self.now,
            self.records[Kind.BINDING],
            self.records[Kind.CALL],
            self.records[Kind.ASIDE],
            self.records[Kind.TRUNK],
            self.records[Kind.BAN],
        )
        assert unreadable == []
        self.media = {key: session for key, session in self.media.items() if key in self.switch.calls}
        self.carry_out(outcome)

    def carry_out(self, outcome: Outcome) -> None:
        """As the replicator does: records, media, messages."""
        crash, self.outcomes = self.crash, self.outcomes + 1
        dies = crash is not None and crash.at == self.outcomes
        for write in outcome.writes:
            if write.kind is Kind.BINDING:
                for other in self.worlds:
                    other.roster.take(self.settings.seat, {write.key: write.value}, whole=False)
            if write.value is None:
                self.records[write.kind].pop(write.key, None)
                continue
            if write.kind is Kind.CALL:
                self.call_ids.add(write.key)
                assert SNAPSHOTS.encode(*SNAPSHOTS.decode(write.value)) == write.value
            if write.kind is Kind.OUTBOX:
                assert write.key not in self.records[write.kind], "one record per call"
            self.records[write.kind][write.key] = write.value
        if not dies or (crash is not None and crash.speaks):
            for order in outcome.orders:
                match order:
                    case Put(session):
                        self._put(session)
                    case Drop(session_id):
                        self.media.pop(session_id, None)
                    case _:
                        raise AssertionError(order)
            for message in outcome.sends:
                self.send(message.flow.local, message.flow.remote, message.data, message.flow)
        if dies:
            self.restart()
            return
        for lookup in outcome.lookups:
            if isinstance(lookup, Change):
                self.changes.append(lookup)
                self.after(self.lookup_s, partial(self._changed, lookup))
                continue
            if isinstance(lookup, TrunkLookup):
                self.after(self.lookup_s, partial(self._trunk_resolved, lookup))
                continue
            address = self.names.get(lookup.uri.host)
            flow = Flow(Transport.UDP, self.server, address) if address else None
            self.after(self.lookup_s, partial(self._resolved, lookup, flow))

    def received(self, flow: Flow, message: Message, switch: Switch) -> Outcome:
        """The switch hears a message."""
        return switch.received(self.now, flow, message)

    def _changed(self, change: Change) -> None:
        self.tell(lambda s: s.changed(self.now, change, self.no_change))

    def _resolved(self, lookup: Lookup, flow: Flow | None) -> None:
        self.tell(lambda s: s.resolved(self.now, lookup, flow))

    def tell(self, what: Callable[[Switch], Outcome]) -> None:
        """Something happens to the switch, unless there is none at the moment."""
        if self.now >= self.down_until:
            self.carry_out(what(self.switch))
            self.news += self.switch.trunks.take_news()
            self.news += [f"{phone.number} is not moved: {phone.why}" for phone in self.switch.unmoved]
            self.switch.unmoved.clear()

    def _trunk_resolved(self, lookup: TrunkLookup) -> None:
        """A name in `services`, or an address that stands for itself."""
        host, port = lookup.uri.host, lookup.uri.port or 5060
        transport = lookup.uri.transport or Transport.UDP
        known = self.services.get(host, [Address(host, port)] if host[0].isdigit() else [])
        flows = [Flow(transport, self.server, address) for address in known]
        self.tell(lambda s: s.trunk_resolved(self.now, lookup, flows, "" if flows else f"dns: {host} has no address"))

    def hear(self, event: MediaEvent) -> None:
        """The media process tells something."""
        self.tell(lambda s: s.heard_from_media(self.now, event))

    def _put(self, session: Session) -> None:
        sides = [side for stream in session.streams for side in (stream.a, stream.b) if side is not None]
        ports = [side.port for side in sides]
        taken = {s.a.port for o in self.media.values() if o.id != session.id for s in o.streams}
        assert len(set(ports)) == len(ports)
        assert not taken & set(ports)
        assert all(port % 2 == 0 for port in ports)
        self.media[session.id] = session

    # Phones

    def add(
        self,
        number: str,
        *,
        name: str = "",
        habits: Habits | None = None,
        nat: bool = False,
        tcp: bool = False,
        tls: bool = False,
        instance: bool = True,
    ) -> Phone:
        """A phone; `name` tells several phones of one number apart, `nat` puts it behind one, and one without
        `instance` says nothing of itself by which it could be known again.
        """
        name = name or number
        n = len(self.addresses) + 1
        here = Address(f"192.168.{self.net + 1}.{n}" if nat else f"10.0.{self.net}.{n}", 5060)
        if nat:
            self.nat[here] = Address(f"10.1.{self.net}.{n}", 40_000 + n)
        tokens = count()
        account = Account(number, password(number), self.server.host, instance_id=f"urn:{name}" if instance else "")
        flow = Flow(Transport.UDP, here, self.server)
        if tcp or tls:
            flow = Flow(Transport.TLS if tls else Transport.TCP, here, self.server, self.connect(here))
        phone = Phone(account, flow, lambda: f"{name}p{next(tokens)}", habits=habits)
        self.phones[name], self.told[name], self.addresses[name] = phone, [], here
        return phone

    def connect(self, address: Address) -> int:
        """A new connection from there; an older one is gone."""
        self.connections[address] = next(self.connection_serial)
        return self.connections[address]

    def reconnect(self, name: str) -> None:
        """A phone comes back from another port of its machine."""
        self.do(name, self.phones[name].use(self.now, self.another_connection(name)))
        self.run(0.3)

    def another_connection(self, name: str) -> Flow:
        """The phone has one, from another port, and has said nothing over it yet."""
        self.disconnect(name)
        old = self.addresses[name]
        here = self.addresses[name] = old._replace(port=old.port + 10_000)
        line = self.phones[name]._line
        flow = line.flow = line.flow._replace(local=here, connection=self.connect(here))
        for call in self.phones[name]._calls.values():
            if call.dialog is not None:
                call.move(flow)
        return flow

    def disconnect(self, name: str) -> None:
        """A phone's connection ends, and the switch hears of it."""
        address = self.addresses[name]
        number = self.connections.pop(address, 0)
        if number:
            flow = Flow(self.phones[name]._line.flow.transport, self.server, address, number)
            self.tell(lambda s: s.lost(self.now, flow, "closed by the peer"))

    def peer(self, host: str, port: int = 5060) -> Peer:
        """Somebody without a phone."""
        address = Address(host, port)
        return self.peers.setdefault(address, Peer(self, address))

    def media_of(self, name: str) -> Media:
        return Media(self.addresses[name].host, 4000, srtp=self.srtp.get(name, Policy.OFF))

    def do(self, name: str, outputs: Iterable[Output]) -> None:
        """What a phone says goes out, what it tells is noted."""
        for output in outputs:
            if isinstance(output, Send):
                # A phone on a stream has one connection, over which it says everything.
                flow = self.phones[name]._line.flow if output.flow.transport.reliable else output.flow
                self.send(self.nat.get(flow.local, flow.local), flow.remote, output.data, flow)
                continue
            self.told[name].append(output)
            if isinstance(output, Incoming) and name in self.on_incoming:
                self.on_incoming[name](output)

    def register(self, name: str, expires_s: int = 7200) -> None:
        self.do(name, self.phones[name].register(self.now, expires_s))
        self.run(0.2)

    def call(self, caller: str, dialled: str, *, late: bool = False, sdp: str = "", run_s: float = 0.0) -> str:
        """One phone calls; its handle of the call."""
        target = f"sip:{dialled}@{self.server.host}"
        tag, out = self.phones[caller].call(self.now, target, self.media_of(caller), late=late, sdp=sdp)
        self.do(caller, out)
        self.run(run_s)
        return tag

    def incoming(self, name: str) -> str:
        """A phone's handle of the latest call to it."""
        return self.of(name, Incoming)[-1].call

    def rings_then_answers(self, name: str, *, ring_s: float = 0.1, answer_s: float = 1.0) -> None:
        """From now on the phone takes its calls by itself."""

        def take(incoming: Incoming) -> None:
            phone = self.phones[name]
            self.after(ring_s, lambda: self.do(name, phone.ring(self.now, incoming.call)))
            self.after(answer_s, lambda: self.do(name, phone.answer(self.now, incoming.call, self.media_of(name))))

        self.on_incoming[name] = take

    def refuses(self, name: str, status: int, *, after_s: float = 0.2, ring: bool = False) -> None:
        """From now on the phone refuses its calls."""

        def take(incoming: Incoming) -> None:
            phone = self.phones[name]
            if ring:
                self.do(name, phone.ring(self.now, incoming.call))
            self.after(after_s, lambda: self.do(name, phone.refuse(self.now, incoming.call, status)))

        self.on_incoming[name] = take

    def up(self, caller: str = "1001", callee: str = "1002", *, late: bool = False) -> tuple[str, str]:
        """An answered call: both handles."""
        self.rings_then_answers(callee)
        tag = self.call(caller, callee, late=late, run_s=2.0)
        return tag, self.incoming(callee)

    def hang_up(self, name: str, tag: str, *, run_s: float = 0.0) -> None:
        self.do(name, self.phones[name].hang_up(self.now, tag))
        self.run(run_s)

    def of(self, name: str, kind: type[T]) -> list[T]:
        return [event for event in self.told[name] if isinstance(event, kind)]

    def ended(self, name: str) -> list[int]:
        """The final statuses of a phone's calls."""
        return [event.status for event in self.of(name, Ended)]

    # The wire

    def send(self, source: Address, target: Address, data: bytes, flow: Flow | None = None) -> None:
        """Somebody sends a message."""
        stream = flow is not None and flow.transport.reliable
        self._note(source, target, data)
        for _ in range(2 if not stream and self.random.random() < self.loss else 1):
            if stream or self.random.random() >= self.loss:
                late = 0.0 if stream else self.random.random() * self.loss
                there = self._world_of(target)
                there.at(self.now + LATENCY_S + late, partial(there._deliver, source, target, data, flow))

    def _world_of(self, target: Address) -> "World":
        """The one in which somebody is at an address."""
        for world in self.worlds:
            if target in (world.server, *world.peers, *world.addresses.values(), *world.nat.values()):
                return world
        return self

    def _note(self, source: Address, target: Address, data: bytes) -> None:
        try:
            self.log.append((self.now, source, target, parse_message(data)))
        except MalformedMessage:
            assert source != self.server, "the switch says what can be read"

    def _deliver(self, source: Address, target: Address, data: bytes, flow: Flow | None) -> None:
        if target == self.server:
            transport = Transport.UDP if flow is None else flow.transport
            if transport.reliable and source not in self.connections:
                return  # Its connection is gone, and it does not know yet.
            if self.now < self.down_until:
                # The machine is there, and nobody listens: it says so.
                gone = Flow(Transport.UDP, source, target)
                for world in (w for w in self.worlds if w.server == source):
                    world.tell(lambda s: s.lost(self.now, gone, "icmp: connection refused"))
                return
            if limit_key(source.host) in self.bans.barred:
                return
            here = Flow(transport, self.server, source, self.connections.get(source, 0))
            try:
                message = parse_message(data)
            except MalformedMessage as error:
                wrong = error
                self.tell(lambda s: s.malformed(self.now, here, data, wrong))
                return
            self.tell(partial(self.received, here, message))
            return
        connection = self.connections.get(target)
        if (
            flow is not None
            and flow.transport.reliable
            and (connection is None or flow.connection not in (0, connection))
        ):
            self.tell(lambda s: s.lost(self.now, flow, "no such connection"))
            return
        if target in self.peers:
            self.peers[target].hear(parse_message(data))
            return
        inside = next((inner for inner, outer in self.nat.items() if outer == target), target)
        if inside in self.nat and inside == target:
            return  # A private address is nowhere from outside.
        name = next((name for name, address in self.addresses.items() if address == inside), None)
        if name is not None:
            transport = Transport.UDP if flow is None else flow.transport
            back = Flow(transport, inside, source, self.connections.get(inside, 0))
            self.do(name, self.phones[name].receive(self.now, parse_message(data), back))

    # Time

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        """Let something happen later."""
        self.at(self.now + seconds, what)

    def at(self, time: float, what: Callable[[], None]) -> None:
        """Let something happen at a time."""
        heappush(self._due, (time, next(self._serial), what))

    def run(self, for_s: float = 0.0, *, until: Callable[[], bool] | None = None) -> None:
        """Let everything happen that is due within `for_s` seconds, or until something is so."""
        end = self.now + for_s
        for _ in range(100_000):
            if until is not None and until():
                return
            at = min(world._next() for world in self.worlds)
            if at > end:
                break
            for world in self.worlds:
                world._reach(at)
        else:
            raise AssertionError("the world never becomes quiet")
        assert until is None, "it has not come to that"
        for world in self.worlds:
            world.now = end

    def _reach(self, at: float) -> None:
        self.now = max(self.now, at)
        while self._due and self._due[0][0] <= self.now:
            heappop(self._due)[2]()
        for name, phone in self.phones.items():
            if (due := phone.deadline) is not None and due <= self.now:
                self.do(name, phone.tick(self.now))
        if (due := self.switch.deadline) is not None and due <= self.now >= self.down_until:
            self.tell(lambda s: s.tick(self.now))

    def _next(self) -> float:
        times = [self._due[0][0]] if self._due else []
        times += [at for phone in self.phones.values() if (at := phone.deadline) is not None]
        if (due := self.switch.deadline) is not None:
            times.append(max(due, self.down_until))
        return min(times, default=float("inf"))

    # What came of it

    def requests(self, method: str, *, to: str = "") -> list[Request]:
        """The requests on the wire, those to a phone or all."""
        return [
            m
            for _, _, target, m in self.log
            if isinstance(m, Request) and m.method == method and (not to or self._is(target, to))
        ]

    def responses(self, method: str, *, to: str = "") -> list[Response]:
        """The responses on the wire."""
        return [
            m
            for _, _, target, m in self.log
            if isinstance(m, Response) and m.cseq.method == method and (not to or self._is(target, to))
        ]

    def _is(self, address: Address, name: str) -> bool:
        here = self.addresses[name]
        return address in (here, self.nat.get(here))

    @property
    def cdrs(self) -> list[Cdr]:
        return [decode_cdr(record) for record in self.records[Kind.OUTBOX].values()]

    def complaints(self) -> list[Violation]:
        return [event for told in self.told.values() for event in told if isinstance(event, Violation)]

    def is_clean(self, *, cdrs: int = 1, strict: bool = True) -> Sequence[Cdr]:
        """Nothing is left behind anywhere, and every call has its one record."""
        self.run(QUIET_S)
        assert self.switch.calls == {}
        assert len(self.switch) == 0, "calls, index, ports or transactions are left"
        assert self.media == {}
        assert self.records[Kind.CALL] == {}
        assert {name: dict(phone.calls) for name, phone in self.phones.items() if phone.calls} == {}
        assert len(self.cdrs) == cdrs
        if strict:
            assert (said := self.complaints()) == [], said
        return self.cdrs


def make_settings(server: Address = SERVER, seat: str = "seat-1") -> Settings:
    advertised = dict.fromkeys((Transport.UDP, Transport.TCP, Transport.TLS), server)
    return Settings(seat, "node1", REALM, advertised, server.host, server.host, (20_000, 20_400))
