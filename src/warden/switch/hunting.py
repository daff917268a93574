"""Carries a call along its way: finds the phones of a step when its turn comes, and opens their legs."""

from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from warden.call.engine import step
from warden.call.events import Effect, Found, Hunt, Led
from warden.call.model import LEGS_MAX, Call, Cause, LegPhase, Phase
from warden.call.way import Extension, Lead, Line, Ring, Target, Why
from warden.core.address import Flow
from warden.switch.admission import Caller
from warden.switch.dialplan.codes import setting_of
from warden.switch.directory import Directory
from warden.switch.edge import Edge
from warden.switch.legs import Legs
from warden.switch.live import LiveCall
from warden.switch.outcome import Change
from warden.switch.registrar import Binding
from warden.switch.roster import Roster, newest
from warden.switch.routing import CHANGE, Asked, Way, route, route_in
from warden.switch.settings import Settings
from warden.switch.trunks.legs import Over, place_of

Phone = tuple[str, str, Binding]
"""A number, the seat of its phone ("": this one), and the phone."""


class Hunting:
    """`settings` and `directory` give those in force, `find_bindings(now, number)` this seat's live bindings. What is
    to be changed of settings, while calls wait for it, is left in `changes`, for the owner to take.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        directory: Callable[[], Directory],
        legs: Legs,
        edge: Edge,
        roster: Roster,
        find_bindings: Callable[[float, str], Iterable[Binding]],
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._legs = legs
        self._edge = edge
        self._roster = roster
        self._find_bindings = find_bindings
        self.changes: list[Change] = []

    def dialled(self, now: float, caller: str, number: str, call_id: str) -> Way:
        """The way of a call of extension `caller`, which has dialled `number`."""
        if ":" in number:
            # Written like a destination of the dialplan, where nobody dials what its routes do not lead to.
            return Way()
        return self.way_to(now, caller, number, by=caller, chance=call_id)

    def way_to(
        self, now: float, caller: str, to: str, *, by: str = "", visited: tuple[str, ...] = (), chance: str = ""
    ) -> Way:
        """The way of `caller`'s call to a number or destination (see `Asked`)."""
        settings = self._settings()
        asked = Asked(now, caller, to, by, visited, settings.utc_offset_s, settings.no_answer_s, chance)
        return route(asked, self._directory())

    def way_in(self, now: float, caller: Caller, call_id: str) -> Way:
        """The way of a call from outside."""
        settings = self._settings()
        asked = Asked(
            now, caller.number, caller.dialled, "", (), settings.utc_offset_s, settings.no_answer_s, chance=call_id
        )
        return route_in(asked, caller.trunk, self._directory())

    def resume(self, call: Call) -> None:
        """Have the setting changed that this call waits for, if it waits for one. It may be changed again."""
        if call.phase is Phase.SETUP and call.visited and not (call.callees or call.way):
            setting = setting_of(call.visited[-1])
            if setting is not None:
                self.changes.append(Change(call.id, call.caller.number, *setting))

    def hunt(self, now: float, live: LiveCall, effect: Hunt) -> tuple[Call, list[Effect]]:
        """What becomes of a call whose next step is asked for. Legs that the engine has let go are closed."""
        match effect.step:
            case Ring() as ring:
                return self._ring(now, live, ring)
            case Lead(to=to) if to.startswith(CHANGE):
                self.resume(live.call)
                return live.call, []
            case Lead() as lead:
                call = live.call
                way = self.way_to(now, call.asking, lead.to, by=lead.by, visited=call.visited, chance=call.id)
                return step(call, now, Led(way.steps, way.visited, way.cause, way.diverted))

    def _ring(self, now: float, live: LiveCall, ring: Ring) -> tuple[Call, list[Effect]]:
        before = live.call.callees
        found = [phone for target in ring.targets for phone in self._find(now, target)]
        causes = [phone for phone in found if isinstance(phone, Cause)]
        phones = [phone for phone in found if not isinstance(phone, Cause)]
        del phones[LEGS_MAX - 1 - sum(leg.phase is not LegPhase.GONE for leg in before) :]
        if len(phones) == len(ring.targets) == 1 and isinstance(over := phones[0], Over) and over.has_more:
            live.call = replace(live.call, way=(_next_address(ring, over), *live.call.way))
        names = tuple(phone.line.number if isinstance(phone, Over) else phone[0] for phone in phones)
        hosts = tuple(
            self._media_host_for(phone.flow if isinstance(phone, Over) else phone[2].flow) for phone in phones
        )
        call, effects = step(live.call, now, Found(names, causes[0] if causes else None, hosts))
        for leg in before:
            if leg not in call.callees:
                self._legs.close(live, leg)
        live.call = call
        known = {leg.id for leg in before}
        for leg, phone in zip((leg for leg in call.callees if leg.id not in known), phones, strict=False):
            if isinstance(phone, Over):
                self._legs.open_over_trunk(live, leg.id, phone)
                continue
            number, seat, binding = phone
            if seat:
                self._legs.open_callee_elsewhere(live, leg.id, binding, self._edge.way_to(seat, number, binding))
            else:
                self._legs.open_callee(live, leg.id, binding)
        return call, effects

    def _media_host_for(self, flow: Flow) -> str:
        return self._settings().media_host_for(flow.remote.host)

    def _find(self, now: float, target: Target) -> Sequence[Phone | Over | Cause]:
        """The phones of a target, the most wanted first; why there is none where that is known."""
        match target:
            case Line():
                return [self._legs.over_trunks.find(now, target)]
            case Extension(number=number):
                may = self._legs.secrecy.may_ring
                here = [(number, "", binding) for binding in self._find_bindings(now, number) if may(number, binding)]
                elsewhere = self._roster.find(now, number, but=self._settings().seat)
                if not elsewhere:
                    return here
                there = [(number, seat, binding) for seat, binding in elsewhere if may(number, binding)]
                return sorted(newest([*here, *there]), key=lambda phone: -phone[2].q)


def _next_address(ring: Ring, over: Over) -> Ring:
    """The step that tries the trunk's next address where this one is of no help."""
    line = replace(over.line, tried=(*over.line.tried, place_of(over.flow)))
    return replace(ring, targets=(line,), when=(Why.BROKEN, Why.UNREACHABLE))
