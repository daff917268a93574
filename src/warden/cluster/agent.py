"""The agent of a node: keeps its leases, looks at the cluster, and does what `decide` says.

Each thing that it does ends in a sentence, which is logged, kept, and told to the other nodes.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import Final, assert_never

import msgspec
import structlog
from msgspec import Struct
from structlog.contextvars import bind_contextvars

from warden.cluster.arrivals import DUE_S, RIVAL_S, Arrivals
from warden.cluster.company import CYCLES_PER_LEASE, Company
from warden.cluster.consent import Consent
from warden.cluster.decide import (
    Acquire,
    Action,
    Adopt,
    HandOver,
    Held,
    Holder,
    Leave,
    Rules,
    Seat,
    Stop,
    Take,
    View,
    decide,
    find_heir,
    find_refusal,
    stop_at,
)
from warden.cluster.heir import wait_for_heir, wait_for_others
from warden.cluster.host import Host
from warden.cluster.members import Record, Report, layout_of
from warden.core.errors import Fenced, Unavailable, WardenError
from warden.core.histogram import Histogram
from warden.store.ports import Coordinator

SENTENCES_MAX: Final = 200
ANSWER_SHARE: Final = 1 / 3
"""Share of the lease in which the coordinator must answer a cycle: what is left is for asking the other nodes."""
PROBE_SHARE: Final = 1 / 8
"""Share of the lease for a look whether the coordinator is really away, when another node says so."""

_AS_USUAL: Final = Rules()
_log = structlog.get_logger()


class Sentence(Struct, frozen=True):
    """What was done, and when (seconds since the epoch, UTC)."""

    at_utc: float
    text: str


class Agent:
    """Runs until it is cancelled. `seats` and `holders` are what it saw last.

    `failovers` counts the seats taken up because another node no longer held them, `failover_seconds` how long that
    took from when this one saw them free; `handovers` those given to another node; `adoption_s` is how long each seat's
    last took.
    """

    def __init__(
        self,
        node: str,
        seats: tuple[Seat, ...],
        coordinator: Coordinator,
        host: Host,
        record: Record,
        *,
        ttl_s: float,
        now: Callable[[], float],
        report: Callable[[], Report] = Report,
        consent: Consent | None = None,
        rules: Rules = _AS_USUAL,
        on_change: Callable[[], None] = lambda: None,
        on_look: Callable[[Mapping[str, Record]], None] = lambda _peers: None,
    ) -> None:
        """`ttl_s` is the lease; `now` the node's steady clock in seconds; `report` tells how the node is. With
        `consent` the seats of this node stay while the coordinator is away, if all their other successors agree.
        `on_change` is called when `refusal` or `wants_address` may have changed, `on_look` with the members whenever
        they have been looked at, before anything is decided.
        """
        self.rules = rules
        self.node = node
        self.seats = seats
        self.holders: dict[str, Holder] = {}
        self.failovers = 0
        self.failover_seconds = Histogram()
        self.coordinator_seconds = Histogram()
        self.handovers = 0
        self.adoption_s: dict[str, float] = {}
        self.sentences: deque[Sentence] = deque(maxlen=SENTENCES_MAX)
        self.error = "not asked yet"
        self.draining = False
        self.has_heir = False
        self.by_consent: frozenset[str] = frozenset()
        """The seats that the other nodes let this one keep while the coordinator is away."""
        self._coordinator = coordinator
        self._host = host
        self._record = msgspec.structs.replace(record, layout=layout_of(seats), started=record.started or now())
        self._was_away = False
        self._company = Company(
            node,
            seats,
            coordinator,
            self._record,
            ttl_s=ttl_s,
            now=now,
            word=self._own_record,
            warn=partial(self._say, bad=True),
        )
        self._ttl_s = ttl_s
        self._now = now
        self._report = report
        self._consent = consent
        self._on_change = on_change
        self._on_look = on_look
        self._wishes: dict[str, str] = {}
        self._held: dict[str, Held] = {}
        self._last_holders: dict[str, str] = {}
        self._busy: set[str] = set()
        self._troubles: dict[str, str] = {}
        self._sent_home: dict[str, float] = {}
        self._fences: dict[str, int] = {}
        self._permitted_until = inf
        self._arrivals = Arrivals()
        self._handing: set[str] = set()
        self._tasks: asyncio.TaskGroup | None = None
        self._wake = asyncio.Event()
        self._emptied = asyncio.Event()
        self._first = asyncio.Event()

    @property
    def peers(self) -> dict[str, Record]:
        """The members with their last words, this node among them."""
        return self._company.peers

    @property
    def clock_behind_s(self) -> dict[str, float]:
        """By how much each member's clock seemed to be behind ours when we first saw its last word; the age of that
        word, up to a cycle of each side, is in it.
        """
        return self._company.clock_behind_s

    @property
    def warnings(self) -> list[str]:
        """In what the nodes differ."""
        return self._company.warnings

    @property
    def held(self) -> tuple[str, ...]:
        """The seats that this node holds and has adopted."""
        return tuple(name for name, held in self._held.items() if held.adopted)

    @property
    def drained(self) -> bool:
        """True where the node takes no seats any more, and has let go of all that it had."""
        return self.draining and not self._held and not self._busy

    def drain(self) -> None:
        """Hand every seat to a successor and take no more."""
        self.draining = True
        self._wake.set()

    def is_busy(self, seat: str) -> bool:
        """Whether the seat is just being taken up or let go of."""
        return seat in self._busy

    def keep_away(self, elsewhere: str, waits: str = "") -> None:
        """Hold no seat from now on, or take no further one (`waits`), for this reason; "": take them as usual."""
        self.rules = msgspec.structs.replace(self.rules, elsewhere=elsewhere, waits=waits)
        if self._tasks is not None:
            self._decide(self._tasks)
        self._wake.set()

    def permit(self, until: float) -> None:
        """Nothing is said for any seat after that, whatever its lease says (steady clock)."""
        if until != self._permitted_until:
            self._permitted_until = until
            for seat, held in list(self._held.items()):
                self._extend(seat, held)

    def look_again(self) -> None:
        """Something about this node has changed that the others are to know at once."""
        self._wake.set()

    def epoch_of(self, seat: str) -> int | None:
        """The highest epoch that the seat had; None where it is not known, or somebody holds it."""
        holder = None if self.error else self.holders.get(seat)
        return None if holder is None or holder.node else holder.epoch

    def rests_here(self, seat: str) -> bool:
        """Whether this node holds the seat and neither takes it up nor lets it go just now, nor is told to."""
        return seat in self.held and seat not in self._busy and seat not in self._wishes and not self.draining

    def undrain(self) -> None:
        """Take seats again. What was handed over stays where it is."""
        self.draining = False
        self._wake.set()

    def wish(self, seat: str, node: str) -> None:
        """Let whoever holds the seat hand it to that node."""
        self._wishes[seat] = node
        self._wake.set()

    def address_is_here(self, seat: str, here: bool) -> None:
        """The seat's address has moved here, or away, by itself. What has moved away falls silent at once."""
        if not self._arrivals.move(seat, here):
            return
        if (held := self._held.get(seat)) is not None:
            self._arrivals.use(seat)
            self._extend(seat, held)
        if self._tasks is not None:
            # What was seen last will do to begin with: the phones of an address that moves hear nothing.
            self._decide(self._tasks)
        self._wake.set()

    def wants_address(self, seat: str) -> bool:
        """Whether the seat is held here, so that its address must be nowhere else."""
        return seat in self._held or seat in self._handing

    def refusal(self, seat: str) -> str:
        """Why the address of a seat must not be here, where something else moves it; "" where it may be."""
        if seat in self._handing:
            # It stays until the heir has everything.
            return ""
        found = next((one for one in self.seats if one.name == seat), None)
        return find_refusal(self._view(), found) if found is not None else f"there is no seat {seat}"

    async def settled(self) -> None:
        """Return when the cluster was looked at and what fell to this node at the start has been adopted."""
        await self._first.wait()

    async def without_seats(self) -> None:
        """Return as soon as this node holds no seat."""
        while self._held or self._busy:
            self._emptied.clear()
            await self._emptied.wait()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                while True:
                    await self._cycle(tasks)
                    if not self._busy and not self.error:
                        self._first.set()
                    self._wake.clear()
                    await self._wait(self._ttl_s / CYCLES_PER_LEASE)
            finally:
                self._tasks = None

    async def _wait(self, at_most_s: float) -> None:
        waits = [
            asyncio.ensure_future(self._coordinator.changed(at_most_s)),
            asyncio.ensure_future(self._wake.wait()),
        ]
        # A holder that cannot renew stops when its time is up, not when it next looks.
        resting = (held.until for seat, held in self._held.items() if seat not in self._busy)
        until = min(resting, default=self._now() + at_most_s)
        try:
            await asyncio.wait(
                waits, return_when=asyncio.FIRST_COMPLETED, timeout=max(0.0, min(at_most_s, until - self._now()))
            )
        finally:
            for wait in waits:
                wait.cancel()

    async def _cycle(self, tasks: asyncio.TaskGroup) -> None:
        began = self._now()
        try:
            async with asyncio.timeout(self._ttl_s * ANSWER_SHARE):
                await self._renew()
                # Looked at before it is overwritten: another node of our name would have left its record there.
                if not await self._look():
                    return
                await self._company.announce()
            self.coordinator_seconds.observe(max(0.0, self._now() - began))
            if self.error:
                self._say("coordinator answers again" if self._was_away else "coordinator answers")
            self.error = ""
        except (Unavailable, TimeoutError) as error:
            why = str(error) or "did not answer in time"
            if not self.error or not self._was_away:
                self._say(f"coordinator is away: {why}", bad=True)
            self.error = why
            self._was_away = True
            await self._keep_by_consent()
        self._company.compare()
        self._decide(tasks)

    def _view(self) -> View:
        return View(
            self.node,
            self._now(),
            self.seats,
            self._held,
            {} if self.error else self.holders,
            self._company.standing(),
            self.draining,
            {} if self._consent is None else self._consent.promises.until,
            self.rules,
            self._arrivals.here,
            self._arrivals.used,
            self._arrivals.awaited,
            self._arrivals.beaten,
            self._sent_home,
        )

    def _decide(self, tasks: asyncio.TaskGroup) -> None:
        view = self._view()
        refused = self._company.is_refused
        self.has_heir = any(find_heir(view, seat) for seat in self.seats if seat.name in self._held)
        for action in decide(view):
            # Phones would be told by this node that their nonces and tokens are no good.
            if action.seat not in self._busy and not (refused and isinstance(action, Acquire | Adopt | Take)):
                self._busy.add(action.seat)
                tasks.create_task(self._act(action), name=f"{type(action).__name__} {action.seat}")
        self._on_change()

    async def _renew(self) -> None:
        sent_at = self._now()
        mine = {seat: held.epoch for seat, held in self._held.items()}
        if mine:
            kept = await self._coordinator.renew(self.node, mine, self._ttl_s)
            until = stop_at(sent_at, self._ttl_s)
            for seat, asked in mine.items():
                held, epoch = self._held.get(seat), asked
                if held is not None and seat not in kept and seat in self.by_consent and self._now() < held.until:
                    # The lease has run out, but the others have promised to leave the seat alone: it goes on anew.
                    epoch = await self._coordinator.take(seat, self.node, self._ttl_s, asked, asked + 1) or 0
                    held = self._held.get(seat)
                elif seat not in kept:
                    epoch = 0
                if held is None or held.epoch != asked:
                    # It has gone, or came here again: it was not this one that was asked for.
                    continue
                # Where another node has it, this one falls silent at once, whatever its lease says.
                until_now = until if epoch else sent_at
                self._extend(seat, msgspec.structs.replace(held, epoch=epoch or asked, until=until_now))
        self.by_consent = frozenset()

    async def _keep_by_consent(self) -> None:
        """Go on with the seats that all their other successors let us keep."""
        sent_at = self._now()
        mine = {s.name: set(s.successors) - {self.node} for s in self.seats if self._is_kept(s.name)}
        if self._consent is None or not mine:
            return
        addresses = {node: record.http for node, record in self.peers.items()}
        kept = await self._consent.ask(self.node, mine, addresses, self._ttl_s, sent_at)
        for seat in kept:
            # While we asked, its time may have run out, or it was handed over.
            if self._is_kept(seat):
                self._extend(seat, msgspec.structs.replace(self._held[seat], until=stop_at(sent_at, self._ttl_s)))
        if kept - self.by_consent:
            self._say(f"keeps {', '.join(sorted(kept))} while the coordinator is away: all others agree")
        self.by_consent = kept

    def _is_kept(self, seat: str) -> bool:
        held = self._held.get(seat)
        return held is not None and held.adopted and seat not in self._busy and self._now() < held.until

    async def answer(self, question: bytes) -> bytes | None:
        """What another node is told that asks whether it may keep its seats; None for who is not of the cluster.

        Raises `WardenError` where a promise cannot be kept on the disk.
        """
        if self._consent is None:
            return None
        reached = await self._reaches_coordinator()
        # What is being done about a seat may have asked the coordinator already, before it went away.
        ours = [s.name for s in self.seats if self.node in s.successors] if not reached else []
        free = {seat for seat in ours if seat not in self._held and seat not in self._busy}
        return self._consent.answer(self.node, question, free, self._now())

    async def _reaches_coordinator(self) -> bool:
        try:
            async with asyncio.timeout(self._ttl_s * PROBE_SHARE):
                await self._coordinator.holdings()
        except (Unavailable, TimeoutError):
            return False
        return True

    def _own_record(self) -> Record:
        return msgspec.structs.replace(
            self._record,
            draining=self.draining,
            barred=bool(self.rules.waits),
            seats=self.held,
            calls=self._host.calls_of(self.held),
            wishes=dict(self._wishes),
            sentence=self.sentences[-1].text if self.sentences else "",
            now=self._now(),
            seen={seat: holder.epoch for seat, holder in self.holders.items()} if self.rules.address_moves else {},
            **msgspec.structs.asdict(self._report()),
        )

    async def _look(self) -> bool:
        """Know how the cluster is; as `Company.hear`."""
        holdings, members = await self._coordinator.holdings(), await self._coordinator.members()
        now, seen = self._now(), {}
        for seat in self.seats:
            holding = holdings.get(seat.name)
            node, epoch = (holding.holder, holding.epoch) if holding is not None else ("", 0)
            before = self.holders.get(seat.name)
            if node:
                self._last_holders[seat.name] = node
            if before is None:
                # Whoever holds it may have had it for long.
                since = -inf if node else now
            elif not node and epoch < before.epoch:
                # The coordinator has forgotten it, and who held it may live: a lease later that one has renewed it.
                since = now + self._ttl_s if before.node else before.since
                epoch = before.epoch
            else:
                since = before.since if (before.node, before.epoch) == (node, epoch) else now
            seen[seat.name] = Holder(node, epoch, since, self._last_holders.get(seat.name, ""))
            if self._wishes.get(seat.name) == node:
                del self._wishes[seat.name]
        self.holders = seen
        if not self._company.hear(members):
            return False
        self._on_look(self.peers)
        # Who says what it has seen has already told those who move the addresses.
        self._on_change()
        return True

    async def _act(self, action: Action) -> None:
        with self._doing(action.seat):
            match action:
                case Stop():
                    held = self._held.pop(action.seat)
                    await self._host.drop(action.seat)
                    self._say(f"stopped seat {action.seat}: its lease of epoch {held.epoch} was not renewed", bad=True)
                case Acquire():
                    sent_at = self._now()
                    known = self.holders.get(action.seat)
                    from_other = self._last_holders.get(action.seat, self.node) != self.node
                    floor = max(0 if known is None else known.epoch, self._fences.get(action.seat, -1)) + 1
                    epoch = await self._coordinator.acquire(action.seat, self.node, self._ttl_s, floor)
                    if epoch is not None and await self._adopt(action.seat, epoch, sent_at) and from_other:
                        self.failovers += 1
                        if known is not None:
                            self.failover_seconds.observe(max(0.0, self._now() - known.since))
                case Adopt():
                    sent_at = self._now()
                    kept = await self._coordinator.renew(self.node, {action.seat: action.epoch}, self._ttl_s)
                    if action.seat in kept:
                        if self.rules.address_moves and action.seat not in self._arrivals.here:
                            self._arrivals.awaited[action.seat] = self._now() + DUE_S
                        await self._adopt(action.seat, action.epoch, sent_at, given=True)
                case HandOver():
                    await self._hand_over(action)
                case Take():
                    await self._take(action)
                case Leave():
                    await self._leave(action)
                case _:
                    assert_never(action)

    async def _take(self, action: Take) -> None:
        sent_at = self._now()
        from_other = self._last_holders.get(action.seat, self.node) != self.node
        floor = max(action.epoch, self._fences.get(action.seat, 0)) + 1
        epoch = await self._coordinator.take(action.seat, self.node, self._ttl_s, action.epoch, floor)
        if epoch is None:
            # It is past that epoch, which the next look tells.
            self._arrivals.beaten[action.seat] = self._now() + RIVAL_S
        elif await self._adopt(action.seat, epoch, sent_at) and from_other:
            self.failovers += 1

    async def _leave(self, action: Leave) -> None:
        elsewhere = self.rules.elsewhere
        try:
            sentence = await self._host.hand_over(action.seat)
        except Unavailable as error:
            if not elsewhere:
                raise
            # Whatever is not written here: another region speaks for its calls.
            sentence = f"let go of seat {action.seat} ({error})"
        self._held.pop(action.seat, None)
        try:
            await self._coordinator.release(action.seat, self.node, action.epoch)
        finally:
            await self._host.drop(action.seat)
        self.handovers += 1
        came = self._arrivals.awaited.pop(action.seat, None) is None
        why = elsewhere or f"its address {'has moved away' if came else 'did not come'}"
        self._say(f"{sentence}: {why}")

    async def _adopt(self, name: str, epoch: int, sent_at: float, *, given: bool = False) -> bool:
        seat = next(seat for seat in self.seats if seat.name == name)
        self._arrivals.use(name)
        self._extend(name, Held(epoch, stop_at(sent_at, self._ttl_s), adopted=False, since=sent_at, given=given))
        bind_contextvars(epoch=epoch)
        began = self._now()
        try:
            sentence = await self._host.adopt(seat, epoch)
        except WardenError as error:
            if isinstance(error, Fenced):
                # A coordinator that has forgotten more than the store gives epochs that are long over.
                self._fences[name] = error.epoch
            self._held.pop(name, None)
            await self._host.drop(name)
            self._say(f"could not adopt seat {name} at epoch {epoch}: {error}", bad=True)
            await self._coordinator.release(name, self.node, epoch)
            return False
        self.adoption_s[name] = self._now() - began
        held = self._held.get(name)
        if held is not None:
            self._held[name] = msgspec.structs.replace(held, adopted=True)
        self._say(sentence)
        return True

    async def _hand_over(self, action: HandOver) -> None:
        sentence = await self._host.hand_over(action.seat)
        self._handing.add(action.seat)
        self._held.pop(action.seat, None)
        try:
            epoch = await self._coordinator.take(action.seat, action.to, self._ttl_s, action.epoch)
            if epoch is not None:
                # Audio goes on here meanwhile: phones miss nothing in between.
                await wait_for_heir(self._coordinator, action.to, action.seat, self._ttl_s)
                await self._let_address_go(action, epoch)
        finally:
            self._handing.discard(action.seat)
            await self._host.drop(action.seat)
        self.handovers += epoch is not None
        if action.to == next(seat.successors[0] for seat in self.seats if seat.name == action.seat):
            self._sent_home[action.seat] = self._now()
        outcome = f"to {action.to} at epoch {epoch}" if epoch is not None else "but it had been taken"
        self._say(f"{sentence} {outcome}")

    async def _let_address_go(self, action: HandOver, epoch: int) -> None:
        """Where something else moves it, audio goes on here until it has gone: to the heir and to no other node."""
        if self.rules.address_moves:
            successors = next(seat.successors for seat in self.seats if seat.name == action.seat)
            others = set(successors) - {self.node, action.to}
            await wait_for_others(self._coordinator, others, action.seat, epoch)
            self.holders[action.seat] = Holder(action.to, epoch, self._now(), last=self.node)
            self._handing.discard(action.seat)
            self._on_change()
            await self._arrivals.departed(action.seat, DUE_S)

    def _extend(self, seat: str, held: Held) -> None:
        self._held[seat] = held
        until = min(held.until, self._permitted_until)
        if not self.rules.address_moves or seat in self._arrivals.here:
            self._host.extend(seat, until)
        elif seat in self._arrivals.awaited:
            self._host.extend(seat, until, ahead=True)
        else:
            self._host.extend(seat, self._now())

    @contextmanager
    def _doing(self, seat: str) -> Iterator[None]:
        # Every line that is logged for the sake of the seat names it, also by the tasks and sockets that come of this.
        held = self._held.get(seat)
        bind_contextvars(seat=seat, **({} if held is None else {"epoch": held.epoch}))
        try:
            yield
        except Unavailable as error:
            # Tried at every cycle, told once.
            if self._troubles.get(seat) != str(error):
                self._troubles[seat] = str(error)
                self._say(f"seat {seat}: {error}", bad=True)
        else:
            self._troubles.pop(seat, None)
        finally:
            self._busy.discard(seat)
            self._emptied.set()
            self._wake.set()

    def _say(self, text: str, *, bad: bool = False) -> None:
        self.sentences.append(Sentence(self._now(), text))
        (_log.warning if bad else _log.info)(text, node=self.node)
