"""The switch with its doors: sockets, store, media process and resolver, on one event loop."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from warden.call.model import Cause
from warden.core.address import Flow
from warden.core.errors import MalformedMessage, Unavailable
from warden.media.ports import Media
from warden.media.protocol import Event as MediaEvent
from warden.net.ports import Net
from warden.net.resolve import Resolver, Target
from warden.sip.message import Request, Response
from warden.store.ports import Kind, SeatStore, Write
from warden.switch.directory import Directory
from warden.switch.outcome import Change, TrunkLookup
from warden.switch.replicate import Replicator
from warden.switch.switch import Lookup, Outcome, Switch

TICK_S: Final = 0.01
"""Deadlines within so long of each other are met together: each call has a dozen, of seconds, that nobody hears."""
ChangeSetting = Callable[[Change], Awaitable[Cause | None]]
"""Changes a setting; why not, where it cannot be."""
LOOKUPS_MAX: Final = 1_000
"""DNS questions under way at once; a leg beyond that fails as if its name did not exist."""


class Runner:
    """Feeds one switch and carries out what it says. It is the sockets' `Receiver`."""

    def __init__(
        self,
        switch: Switch,
        store: SeatStore,
        media: Media,
        net: Net,
        resolver: Resolver,
        *,
        epoch: int,
        now: Callable[[], float],
        on_cdrs: Callable[[Sequence[Write]], None],
        cdrs: Callable[[], Sequence[Write]],
        change: ChangeSetting,
    ) -> None:
        """`change` carries out what a phone wants changed of its extension's settings."""
        self.switch = switch
        self._log = structlog.get_logger().bind(seat=switch.settings.seat, epoch=epoch)
        self.now = now
        self.replicator = Replicator(
            store,
            media,
            net,
            seat=switch.settings.seat,
            epoch=epoch,
            on_refused=self.media_refused,
            on_stored=on_cdrs,
            everything=lambda: [*switch.everything(), *cdrs()],
        )
        self._net = net
        self._resolver = resolver
        self._change = change
        self._lookups: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._ticked_at = 0.0
        self._has_turn = False
        self._loop = asyncio.get_running_loop()
        self._emptied = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled. Raises `Fenced`."""
        try:
            await self.replicator.run()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for task in list(self._lookups):
                task.cancel()

    # What the doors say

    def received(self, flow: Flow, message: Request | Response) -> None:
        """As `Receiver.received`."""
        self.carry_out(self.switch.received(self.now(), flow, message))

    def malformed(self, flow: Flow, data: bytes, error: MalformedMessage) -> None:
        """As `Receiver.malformed`."""
        self.carry_out(self.switch.malformed(self.now(), flow, data, error))

    def lost(self, flow: Flow, why: str) -> None:
        """As `Receiver.lost`."""
        self.carry_out(self.switch.lost(self.now(), flow, why))

    def heard_from_media(self, event: MediaEvent) -> None:
        """The media process has something to tell."""
        self.carry_out(self.switch.heard_from_media(self.now(), event))

    def hang_up(self, call_id: str, why: str) -> bool:
        """End a call for the operator; False where there is none of that id."""
        if call_id not in self.switch.calls:
            return False
        self.carry_out(self.switch.stop_call(self.now(), call_id, Cause(480, why)))
        return True

    def ban(self, address: str, duration_s: float, why: str, by: str) -> None:
        """Shut an address out for the operator."""
        self.carry_out(self.switch.ban(self.now(), address, duration_s, why, by))

    def lift(self, key: str, by: str) -> None:
        """End a ban for the operator, wherever it was made."""
        self.carry_out(self.switch.lift(self.now(), key, by))

    def write(self, writes: Sequence[Write]) -> None:
        """Have records written as they stand: the store is to be made right again."""
        self.carry_out(Outcome(list(writes), [], [], []))

    def use_directory(self, directory: Directory) -> None:
        """Other extensions from now on."""
        self.carry_out(self.switch.replace_directory(self.now(), directory))

    def set_aside(self, kind: Kind, key: str, record: bytes, why: str) -> None:
        """A record that cannot be read is kept aside."""
        self.carry_out(self.switch.set_aside(self.now(), kind, key, record, why))

    def media_refused(self, call_id: str, why: str) -> None:
        """The media process cannot carry a call: it has no voice, and ends."""
        self._log.error("media refused", call=call_id, why=why)
        self.carry_out(self.switch.media_refused(self.now(), call_id, why))

    # What the switch says

    def carry_out(self, outcome: Outcome) -> None:
        """Hand an outcome of the switch on, and be there when it wants to be called next."""
        self.replicator.add(outcome)
        for lookup in outcome.lookups:
            self._look_up(lookup)
        if not self._has_turn:
            self._has_turn = True
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        """What can wait until all that came in together has been heard."""
        self._has_turn = False
        if self.switch.guard.news:
            self._tell_bans()
        for sentence in self.switch.trunks.take_news():
            say = self._log.warning if sentence in self.switch.trunks.errors else self._log.info
            say("trunk", what=sentence)
        for phone in self.switch.unmoved:
            what = "phone accepts no other address of ours, its call goes on as far as it still sends to us"
            self._log.warning(what, call=phone.call, number=phone.number, why=phone.why)
        self.switch.unmoved.clear()
        if not self.switch.calls:
            self._emptied.set()
        self._arm()

    def _tell_bans(self) -> None:
        self.switch.counters["bans"] += len(self.switch.guard.news)
        for ban in self.switch.guard.news:
            what, seconds = ("banned", round(ban.until - ban.made_at)) if ban.until > ban.made_at else ("ban lifted", 0)
            self._log.warning(what, address=ban.address, number=ban.number, why=ban.why, by=ban.by, seconds=seconds)
        self.switch.guard.news.clear()

    async def without_calls(self) -> None:
        """Return as soon as there is no call."""
        while self.switch.calls:
            self._emptied.clear()
            await self._emptied.wait()

    def _arm(self) -> None:
        if self._timer is not None and self._timer_at <= self._ticked_at + TICK_S:
            # It cannot be needed sooner.
            return
        at = self.switch.deadline
        if at is None:
            return
        at = max(at, self._ticked_at + TICK_S)
        if self._timer is not None:
            # Firing early costs a tick that does nothing, moving the timer at each message costs more.
            if at >= self._timer_at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(0.0, at - self.now()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._ticked_at = self.now()
        self.carry_out(self.switch.tick(now))

    def _look_up(self, lookup: Lookup | TrunkLookup | Change) -> None:
        if isinstance(lookup, TrunkLookup):
            task = self._loop.create_task(self._resolve_trunk(lookup))
        elif isinstance(lookup, Change):
            task = self._loop.create_task(self._carry_out_change(lookup))
        elif len(self._lookups) >= LOOKUPS_MAX:
            self.carry_out(self.switch.resolved(self.now(), lookup, None))
            return
        else:
            task = self._loop.create_task(self._resolve(lookup))
        self._lookups.add(task)
        task.add_done_callback(self._lookups.discard)

    async def _resolve(self, lookup: Lookup) -> None:
        advertised = self.switch.settings.advertised
        flow = None
        try:
            targets = await self._resolver.resolve(lookup.uri, supported=list(advertised))
        except Unavailable as error:
            self._log.warning("callee cannot be found", call=lookup.call, why=str(error))
        else:
            # What it is told of audio is of the version of IP that it registered by.
            live = self.switch.calls.get(lookup.call)
            six = live is not None and ":" in live.legs[lookup.leg].flow.remote.host
            target = next((t for t in targets if (":" in t.address.host) is six), targets[0])
            self._net.expect(target.address, target.name)
            flow = self._flow_to(target)
        self.carry_out(self.switch.resolved(self.now(), lookup, flow))

    async def _carry_out_change(self, change: Change) -> None:
        self.carry_out(self.switch.changed(self.now(), change, await self._change(change)))

    async def _resolve_trunk(self, lookup: TrunkLookup) -> None:
        why, flows = "", []
        try:
            targets = await self._resolver.resolve(lookup.uri, supported=list(self.switch.settings.advertised))
        except Unavailable as error:
            why = str(error)
        else:
            for target in targets:
                self._net.expect(target.address, target.name)
                flows.append(self._flow_to(target))
        self.carry_out(self.switch.trunk_resolved(self.now(), lookup, flows, why))

    def _flow_to(self, target: Target) -> Flow:
        address, transport = target.address, target.transport
        return Flow(transport, self.switch.settings.address_towards(transport, address.host), address)
