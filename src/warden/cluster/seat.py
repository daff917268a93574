"""One seat that this node holds: its switch, its sockets and its outbox, from adoption to the last message.

Adoption goes in an order of which every prefix may be repeated, by this node or another: fence and read, bind, media,
dialogs and transactions, outbox.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence, Set
from contextlib import suppress
from math import inf
from typing import Any, Final, Protocol

import structlog

from warden.call.cdr import Cdr, decode_cdr
from warden.call.model import Cause
from warden.cluster.tenure import InTime
from warden.core.address import Address, Flow
from warden.core.errors import Fenced, MalformedMessage, Unavailable
from warden.core.versions import Unreadable
from warden.media.ports import Media
from warden.media.protocol import Answer, Drop, Event, Order, Put, Refused, Share
from warden.net.counters import Counters
from warden.net.ports import Receiver
from warden.net.resolve import Resolver
from warden.sip.message import Request, Response
from warden.store.ports import CdrStore, Kind, SeatStore
from warden.store.retry import Retry
from warden.switch.aside import ASIDES, Aside, Unread
from warden.switch.directory import Directory
from warden.switch.outbox import Outbox
from warden.switch.outcome import Change, Outcome
from warden.switch.runner import ChangeSetting, Runner
from warden.switch.switch import Switch

WAITING_MAX: Final = 10_000
"""Messages kept while a seat's calls are being read: two seconds of a full node."""
AHEAD_MAX: Final = 10_000
"""Messages that wait for the seat's address. Of more the oldest are dropped, and said again."""
PORTS_FREE_S: Final = 2.0
"""How long an adoption waits for RTP ports that another process on the same machine is about to give up."""
PORTS_RETRY_S: Final = 0.003

RunTask = Callable[[Coroutine[Any, Any, None], str, str], "asyncio.Task[None]"]

_log = structlog.get_logger()


class Driver(Protocol):
    """The sockets of a seat: `Net`, and what opens and closes it."""

    counters: Counters

    async def start(self) -> None:
        """Open every listener, or none and raise `WardenError`."""

    async def stop(self) -> None:
        """Close everything."""

    def send(self, flow: Flow, data: bytes) -> None:
        """As `Net.send`."""

    def expect(self, remote: Address, server_name: str) -> None:
        """As `Net.expect`."""

    def close(self, flow: Flow) -> None:
        """As `Net.close`."""

    def reload(self) -> None:
        """Read the certificates again. Raises `WardenError` and keeps the old ones."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the log and the health page."""

    @property
    def certificates(self) -> Mapping[str, float]:
        """When each certificate ends (seconds since the epoch), by its file."""


class Door:
    """What the sockets hear, kept until the switch is ready to hear it."""

    def __init__(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """While the seat `is_over`, nothing is heard: peers say it again, and the next holder knows better."""
        self._is_shut = False
        self._is_over = is_over
        self._receiver: Receiver | None = None
        self._waiting: deque[tuple[str, tuple[Any, ...]]] = deque(maxlen=WAITING_MAX)

    def open(self, receiver: Receiver) -> None:
        """Let `receiver` hear what has waited, and everything from now on."""
        self._is_shut = False
        self._receiver = receiver
        while self._waiting:
            what, heard = self._waiting.popleft()
            getattr(receiver, what)(*heard)

    def shut(self) -> None:
        """Hear nothing from now on: peers say it again, to whoever has the seat then."""
        self._is_shut = True

    def received(self, flow: Flow, message: Request | Response) -> None:
        """As `Receiver.received`."""
        if self._is_shut or self._is_over():
            return
        if self._receiver is None:
            self._waiting.append(("received", (flow, message)))
        else:
            self._receiver.received(flow, message)

    def malformed(self, flow: Flow, data: bytes, error: MalformedMessage) -> None:
        """As `Receiver.malformed`."""
        if self._is_shut or self._is_over():
            return
        if self._receiver is None:
            self._waiting.append(("malformed", (flow, data, error)))
        else:
            self._receiver.malformed(flow, data, error)

    def lost(self, flow: Flow, why: str) -> None:
        """As `Receiver.lost`."""
        if self._is_shut:
            return
        if self._receiver is None:
            self._waiting.append(("lost", (flow, why)))
        else:
            self._receiver.lost(flow, why)


class Gate:
    """The way out of a seat: its `Net`. What would leave after `until` (the steady clock of `now`), when another node
    may speak for the seat, stays here, however late a stalled process wakes up; `unsaid` counts it. What would leave
    before the seat's address is here (`ahead`) waits for it.
    """

    def __init__(self, driver: Driver, now: Callable[[], float], until: float) -> None:
        self.until = until
        self.unsaid = 0
        self._driver = driver
        self._now = now
        self._ahead = False
        self._waiting: deque[tuple[Flow, bytes]] = deque(maxlen=AHEAD_MAX)

    def extend(self, until: float, *, ahead: bool) -> None:
        """Messages may leave until then; those that wait for the address leave when it is no longer to come."""
        self.until, self._ahead = until, ahead
        while self._waiting and not ahead:
            self.send(*self._waiting.popleft())

    def send(self, flow: Flow, data: bytes) -> None:
        """As `Net.send`, while the seat is ours."""
        if self._now() >= self.until:
            self.unsaid += 1
        elif self._ahead:
            self._waiting.append((flow, data))
        else:
            self._driver.send(flow, data)

    def expect(self, remote: Address, server_name: str) -> None:
        """As `Net.expect`."""
        self._driver.expect(remote, server_name)

    def close(self, flow: Flow) -> None:
        """As `Net.close`."""
        self._driver.close(flow)


class Voices:
    """The media of a seat: its `Media`. `sessions` are those that it may have made and did not see ended, also of calls
    that are over, whose end was not carried out because the seat was lost before.
    """

    def __init__(self, media: Media) -> None:
        self.sessions: dict[str, None] = {}
        self._media = media

    async def apply(self, orders: Sequence[Order]) -> Sequence[Answer]:
        """As `Media.apply`."""
        for order in orders:
            if isinstance(order, Put):
                self.sessions[order.session.id] = None
        answers = await self._media.apply(orders)
        for order in orders:
            if isinstance(order, Drop):
                self.sessions.pop(order.id, None)
            elif isinstance(order, Put):
                self.sessions[order.session.id] = None
        return answers


async def _refuse_change(_: Change) -> Cause | None:
    return Cause(503, "Settings cannot be stored here")


class HeldSeat:
    """A seat from adoption to release. `switch` has been built for it and knows nothing yet; `gate` lets its messages
    out.
    """

    def __init__(
        self,
        switch: Switch,
        store: SeatStore,
        durable: CdrStore,
        media: Media,
        make_driver: Callable[[Receiver], Driver],
        resolver: Resolver,
        *,
        epoch: int,
        now: Callable[[], float],
        until: float = inf,
        retry: Retry | None = None,
        change: ChangeSetting | None = None,
    ) -> None:
        """`retry` says how often a database that is away is tried again, `change` as for `Runner`."""
        self.kept = 0
        self.lost = 0
        self.name = switch.settings.seat
        self.epoch = epoch
        self.switch = switch
        self.store = store

        def is_over() -> bool:
            return now() >= self.gate.until

        self._door = Door(is_over)
        self.driver = make_driver(self._door)
        self.gate = Gate(self.driver, now, until)
        self._media = Voices(media)
        self.outbox = Outbox(store, durable, seat=self.name, epoch=epoch, set_aside=self._set_cdr_aside, retry=retry)
        self.runner = Runner(
            switch, InTime(store, is_over), self._media, self.gate, resolver,
            epoch=epoch, now=now, on_cdrs=self.outbox.keep, cdrs=self.outbox.records,
            change=change or _refuse_change,
        )  # fmt: skip
        self._tasks: list[asyncio.Task[None]] = []

    # Life

    async def adopt(self, directory: Directory, run: RunTask) -> str:
        """Take up everything that lives on the seat; `run(work, seat, what)` starts its tasks. Gives the sentence that
        tells of it.

        Raises `Fenced` where somebody has adopted it since, `Unavailable`, or `WardenError` for a taken port; then
        nothing is left open.
        """
        began = asyncio.get_running_loop().time()
        # An empty write is the fence: from here on nobody with a lower epoch can write.
        losses = await self.store.write(self.name, self.epoch, [])
        calls = await self.store.read(self.name, Kind.CALL)
        bindings = await self.store.read(self.name, Kind.BINDING)
        aside = await self.store.read(self.name, Kind.ASIDE)
        trunks = await self.store.read(self.name, Kind.TRUNK)
        bans = await self.store.read(self.name, Kind.BAN)
        await self.driver.start()
        self.runner.use_directory(directory)
        outcome, unreadable = self.switch.restore(self.runner.now(), bindings, calls, aside, trunks, bans)
        # Those that could not be read, and those of calls that are over and are still to be kept for a while.
        others = {(Kind.CALL, key) for key in calls.keys() - self.switch.calls.keys()}
        others |= {(Kind.BINDING, key) for key in bindings.keys() - self.switch.bindings.keys()}
        others |= {(Kind.TRUNK, unread.key) for unread in unreadable if unread.kind is Kind.TRUNK}
        self.runner.replicator.begin(losses, frozenset(others))
        for unread in unreadable:
            self._tell(unread)
        self._tasks = [
            run(self.runner.run(), self.name, "replicator"),
            run(self.outbox.run(), self.name, "outbox"),
        ]
        # Records first, then the media, which may have news at once, then the messages.
        self.runner.carry_out(Outcome(outcome.writes, [], [], []))
        await self.put(outcome.orders)
        self.runner.carry_out(Outcome([], [], outcome.sends, outcome.lookups))
        await self.runner.replicator.drained()
        self._door.open(self.runner)
        took = asyncio.get_running_loop().time() - began
        self.kept, self.lost = len(self.switch.calls), sum(unread.kind is Kind.CALL for unread in unreadable)
        lost = f"; {len(unreadable)} records could not be read" if unreadable else ""
        return (
            f"adopted {len(self.switch.calls)} calls and {len(self.switch.bindings)} registered numbers of seat "
            f"{self.name} at epoch {self.epoch} in {took:.2f} s{lost}"
        )

    async def kept_aside(self) -> list[Aside]:
        """The records that could not be read. Raises `Unavailable`."""
        records = await self.store.read(self.name, Kind.ASIDE)
        found = []
        for record in records.values():
            with suppress(Unreadable):
                found.append(ASIDES.decode(record)[0])
        return found

    def _tell(self, unread: Unread) -> None:
        what = "is left for a newer version" if unread.left else "is kept aside"
        facts = {"seat": self.name, "epoch": self.epoch, "kind": unread.kind.value, "key": unread.key}
        _log.error(f"record cannot be read and {what}", **facts, why=unread.why)

    def _set_cdr_aside(self, key: str, record: bytes, why: str) -> None:
        self._tell(Unread(Kind.OUTBOX, key, why, left=False))
        self.runner.set_aside(Kind.OUTBOX, key, record, why)

    async def put_media(self) -> None:
        """Tell a media process that knows nothing of it all that the seat's calls need. Raises `Unavailable`."""
        await self.put(self.switch.sessions())

    async def put(self, orders: Sequence[Order]) -> None:
        """Have the media as they shall be. Where a process of this machine still has the ports and does not share them,
        one in turn is asked for: asking for all of them again and again would only make the silence longer.
        """
        until = asyncio.get_running_loop().time() + PORTS_FREE_S
        refused = await self._apply(orders)
        while refused and asyncio.get_running_loop().time() < until:
            first = refused.popleft()
            still = await self._apply([first[0]])
            if still:
                refused += still
                await asyncio.sleep(PORTS_RETRY_S)
            elif refused:
                refused = await self._apply([order for order, _ in refused])
        for order, why in refused:
            if isinstance(order, Put):
                self.runner.media_refused(order.session.id, why)

    async def _apply(self, orders: Sequence[Order]) -> deque[tuple[Order, str]]:
        """Those that could not be carried out, and why."""
        if not orders:
            return deque()
        answers = await self._media.apply(orders)
        return deque((o, a.why) for o, a in zip(orders, answers, strict=True) if isinstance(a, Refused))

    def heard_from_media(self, event: Event) -> bool:
        """Let the seat know what its media have to tell; False where the event is of another seat's call."""
        if event.session not in self.switch.calls:
            return False
        self.runner.heard_from_media(event)
        return True

    async def settle(self, within_s: float) -> None:
        """Have everything that was decided written and said, and the CDRs moved as far as the database lets us."""
        with suppress(Fenced):
            await self.runner.replicator.drained()
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(within_s):
                while await self.outbox.move():
                    pass

    async def fall_silent(self) -> None:
        """Have everything written and let go of the SIP sockets. Audio goes on.

        What comes in meanwhile gets no answer, least of all a refusal: it is said again, and the next holder answers.
        Raises `Unavailable` where the store lacks something; then nothing has changed. Raises `Fenced` where another
        node has the seat: there is nothing to be handed over any more.
        """
        replicator = self.runner.replicator
        if not replicator.store_error:
            self._door.shut()
            await replicator.proven()
        if replicator.store_error or replicator.unprotected:
            self._door.open(self.runner)
            why = replicator.store_error or "records wait to be written"
            raise Unavailable(f"it stays here while the next node could not read its calls: {why}")
        await self.close()

    async def share_media(self) -> None:
        """Let the next holder have the ports beside this one, if it is on this machine: no packet is lost between."""
        with suppress(Unavailable):
            await self._media.apply([Share(tuple(self._media.sessions))])

    async def drop_media(self, but: Set[str] = frozenset()) -> None:
        """End the audio of the seat's calls here, `but` of those: another node has it, or will."""
        sessions = self._media.sessions | dict.fromkeys(sorted(self.switch.session_ids))
        with suppress(Unavailable):
            await self._media.apply([Drop(session) for session in sessions if session not in but])

    def left_over(self) -> list[Cdr]:
        """The records of calls that ended here while the seat was ours, and that nobody else may know of: where the
        stores were out of reach, the next holder has the calls as they were before, if at all. What was decided after
        the lease was over is nobody's truth. Asked before `close`.
        """
        found = {}
        for write in (*self.outbox.records(), *self.runner.replicator.unstored(Kind.OUTBOX)):
            with suppress(Unreadable):
                cdr = decode_cdr(write.value or b"")
                if cdr.ended_at_utc < self.gate.until:
                    found[cdr.id] = cdr
        return list(found.values())

    async def bring_out(self, cdrs: Sequence[Cdr]) -> None:
        """Have the database take them, however long it is away. It takes one id once, so that who has it already, or
        brings it later, does no harm.
        """
        failures = 0
        while True:
            try:
                brought = await self.outbox.bring(cdrs)
            except Unavailable:
                failures += 1
                await asyncio.sleep(self.outbox.retry.delay_after(failures))
            else:
                break
        said = f"brought {len(brought)} call detail records of seat {self.name} that were left behind"
        _log.info(said, seat=self.name)

    async def close(self) -> None:
        """Let go of the sockets and stop. Nothing more is sent."""
        self.gate.until = -inf
        for task in self._tasks:
            task.cancel()
        await self.driver.stop()
