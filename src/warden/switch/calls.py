"""The calls of a seat: what happens to each goes through the engine, and becomes media orders, deadlines and records.

Nothing here reads a message: events come in, and `Legs` says what is to be said.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from warden.call.engine import step
from warden.call.events import Answered, Dial, Due, Effect, Event, Finished, Hunt, Lost, UpdateAnswered, Updated
from warden.call.model import Call, Cause, LegPhase, with_leg
from warden.core.deadlines import Deadlines
from warden.media.protocol import Drop, Order, Put
from warden.sdp.relay import STREAMS_MAX, streams
from warden.sip.uri import parse_uri
from warden.switch.bodies import audio_host
from warden.switch.legs import Legs
from warden.switch.live import LiveCall, session_of
from warden.switch.outcome import Lookup
from warden.switch.ports import PortPool, PortsExhausted
from warden.switch.records import Records
from warden.switch.refresh import Refreshes
from warden.switch.settings import Settings

SETUP_SECONDS_MAX = 10_000
"""Call set-up times kept until somebody takes them."""


class Calls:
    """A machine: media orders and look-ups are left in `orders` and `lookups`, messages in `legs.outputs` and records
    in `records.writes`, for the owner to take. `live` has the calls by id.
    """

    def __init__(
        self,
        settings: Settings,
        legs: Legs,
        records: Records,
        ports: PortPool,
        counters: Counter[str],
        hunt: Callable[[float, LiveCall, Hunt], tuple[Call, list[Effect]]],
        refreshes: Refreshes,
    ) -> None:
        """`hunt` says what becomes of a call whose next step is asked for. Whoever wants to know of every change of a
        call is `on_change`.
        """
        self.on_change: Callable[[LiveCall], None] | None = None
        self.live: dict[str, LiveCall] = {}
        self.orders: list[Order] = []
        self.lookups: list[Lookup] = []
        self.results: Counter[tuple[str, int]] = Counter()
        self.setup_seconds: list[float] = []
        self.post_dial_seconds: list[float] = []
        self._settings = settings
        self._legs = legs
        self._records = records
        self._ports = ports
        self._counters = counters
        self._hunt = hunt
        self._refreshes = refreshes
        self._deadlines: Deadlines[str] = Deadlines()
        self._touched: dict[str, LiveCall] = {}

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called."""
        return self._deadlines.earliest

    def tick(self, now: float) -> None:
        """Time has passed."""
        while (call_id := self._deadlines.pop_due(now)) is not None:
            live_call = self.live[call_id]
            self.feed(now, live_call, Due())
            self.feed_all(now, live_call, self._refreshes.tick(now, live_call))

    def touch(self, live_call: LiveCall) -> None:
        """Something about the call has changed, for `settle` to see."""
        self._touched[live_call.call.id] = live_call

    def feed_all(self, now: float, live_call: LiveCall, events: Sequence[Event]) -> None:
        """What a message of a peer meant for its call, if anything."""
        self.touch(live_call)
        for event in events:
            if isinstance(event, Updated | Answered | UpdateAnswered) and event.sdp:
                self._make_room(now, live_call, event.sdp)
            if self._settings.v6 is not None:
                self._follow_ip_version(live_call, event)
            self.feed(now, live_call, event)

    def feed(self, now: float, live_call: LiveCall, event: Event) -> None:
        """Something has happened to the call."""
        call, effects = step(live_call.call, now, event)
        self.advance(now, live_call, call, effects)

    def advance(self, now: float, live_call: LiveCall, call: Call, effects: Sequence[Effect]) -> None:
        """The engine has said what the call is now, and what is to be done."""
        answered = call.answered_at is not None and live_call.call.answered_at is None
        if answered and len(self.setup_seconds) < SETUP_SECONDS_MAX:
            self.setup_seconds.append(now - call.started_at)
        if not _is_heard_of(live_call.call) and _is_heard_of(call) and len(self.post_dial_seconds) < SETUP_SECONDS_MAX:
            self.post_dial_seconds.append(now - call.started_at)
        live_call.call = call
        self.touch(live_call)
        for effect in effects:
            if isinstance(effect, Finished):
                self.results[effect.cdr.result.value, effect.cdr.status] += 1
                self._records.add_cdr(effect.cdr)
            elif isinstance(effect, Hunt):
                self.advance(now, live_call, *self._hunt(now, live_call, effect))
            elif isinstance(effect, Dial) and live_call.legs[effect.leg].lookup:
                self.lookups.append(Lookup(call.id, effect.leg, parse_uri(live_call.legs[effect.leg].target)))
            else:
                self._legs.carry_out(now, live_call, effect)
        while self._legs.unasked:
            self.feed(now, *self._legs.unasked.pop())

    def fell_silent(self, now: float, live_call: LiveCall, port: int) -> None:
        """No audio comes to this port of ours from a phone that sent some before."""
        call = live_call.call
        leg_id, who = (call.near, "caller") if port in call.ports.a else (call.joined, "callee")
        session = live_call.session
        if leg_id and session is not None and session.silence_s and call.leg(leg_id).phase is LegPhase.UP:
            self.feed(now, live_call, Lost(leg_id, Cause(408, f"No audio from the {who}")))

    def settle_touched(self, now: float) -> None:
        """Settle what has changed since this was last called."""
        for live_call in self._touched.values():
            self.settle(now, live_call)
        self._touched.clear()

    def settle(self, now: float, live_call: LiveCall) -> None:
        """What changed about a call becomes a media order, a deadline and a record."""
        call = live_call.call
        if self.on_change is not None:
            self.on_change(live_call)
        session = session_of(live_call, self._settings)
        if session is not live_call.session:
            self.orders.append(Drop(call.id) if session is None else Put(session))
            live_call.session = session
        if call.is_finished:
            del self.live[call.id]
            self._deadlines.clear(call.id)
            self._ports.give_back(now, (*call.ports.a, *call.ports.b))
            self._legs.index.forget(live_call)
            self._records.end(now, live_call)
            return
        deadline, refresh = call.deadline, self._refreshes.deadline(live_call)
        if refresh is not None and (deadline is None or refresh < deadline):
            deadline = refresh
        if deadline is not None and deadline != self._deadlines.get(call.id):
            self._deadlines.set(call.id, deadline)
        self._records.keep(live_call)

    def forget(self, call_id: str) -> LiveCall | None:
        """Let go of a call without a word: the one of that id, if there was one."""
        self._deadlines.clear(call_id)
        live_call = self.live.pop(call_id, None)
        if live_call is not None:
            self._legs.index.forget(live_call)
        return live_call

    def _follow_ip_version(self, live_call: LiveCall, event: Event) -> None:
        """A phone whose change is agreed to may speak another version of IP from then on."""
        call = live_call.call
        match event:
            case Updated() if call.app is not None:
                leg_id, sdp = event.leg, event.sdp
            case UpdateAnswered() if call.exchange is not None and call.exchange.to == event.leg:
                leg_id, sdp = call.exchange.by, call.exchange.offer
            case _:
                return
        at, leg = audio_host(sdp), call.leg(leg_id)
        host = self._settings.media_host_for(at)
        if at and leg.host != host:
            live_call.call = with_leg(call, replace(leg, host=host))

    def _make_room(self, now: float, live_call: LiveCall, sdp: str) -> None:
        """A description with more streams than the call has ports for gets some; if there are none, the streams that
        are too many are refused.
        """
        call = live_call.call
        more = min(len(streams(sdp)), STREAMS_MAX) - len(call.ports.a)
        if more <= 0 or call.app is not None:
            return
        try:
            taken = self._ports.take(now, 2 * more)
        except PortsExhausted:
            self._counters["ports_exhausted"] += 1
            return
        a, b = (*call.ports.a, *taken[:more]), (*call.ports.b, *taken[more:])
        live_call.call = replace(call, ports=replace(call.ports, a=a, b=b))


def _is_heard_of(call: Call) -> bool:
    """True once the caller knows that something comes of it."""
    return call.ringing_at is not None or call.answered_at is not None
