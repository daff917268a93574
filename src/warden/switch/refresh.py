"""Re-INVITEs that nobody asked for: sessions are refreshed half way (RFC 4028 section 10), and end where nobody does; a
peer is told where we are when that has changed (`relocation`), in its dialog or by another one (`replacing`).
"""

from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from warden.call.events import Event, Lost
from warden.call.model import LegPhase, Phase
from warden.sip.session_timer import SessionTimer
from warden.switch.legs import Legs
from warden.switch.live import LiveCall, SipLeg
from warden.switch.replacing import Replacing
from warden.switch.session_timers import not_refreshed

AGAIN_S: Final = 40.0
"""When a refresh is tried again that was not answered or was refused: above the 32 s of its transaction, unless the
interval is so short that there is no time for it."""


class Refreshes:
    """Refreshes the sessions of a seat's calls through `legs`."""

    def __init__(self, legs: Legs, replacing: Replacing) -> None:
        self._legs = legs
        self._replacing = replacing

    def deadline(self, live: LiveCall) -> float | None:
        """When the call wants `tick`."""
        earliest: float | None = None
        if live.call.phase is Phase.UP:
            legs = live.legs
            for leg in live.call.legs:
                if leg.phase is not LegPhase.UP:
                    continue
                sip = legs[leg.id]
                if sip.timer is not None and (earliest is None or sip.timer.due_at < earliest):
                    earliest = sip.timer.due_at
                if sip.tell_at is not None and _can_be_told(sip) and (earliest is None or sip.tell_at < earliest):
                    earliest = sip.tell_at
        return earliest

    def tick(self, now: float, live: LiveCall) -> list[Event]:
        """Refresh what is due; the sessions that are over for want of a refresh are lost."""
        lost: list[Event] = []
        self._tell(now, live)
        for leg_id, timer in list(_running(live)):
            if timer.due_at > now:
                continue
            leg = live.legs[leg_id]
            if timer.is_over(now):
                live.legs[leg_id] = replace(leg, timer=None)
                lost.append(Lost(leg_id, not_refreshed(live, leg_id)))
                continue
            again_at = now + min(AGAIN_S, timer.interval_s / 12)
            leg = live.legs[leg_id] = replace(leg, timer=replace(timer, again_at=again_at))
            # A change that is on its way, in either direction, is a refresh too.
            if _is_idle(live, leg):
                method = "UPDATE" if leg.allows_update else "INVITE"
                self._legs.ask_for_change(
                    now, live, leg, method, "" if leg.allows_update else live.call.leg(leg_id).told
                )
        return lost

    def _tell(self, now: float, live: LiveCall) -> None:
        """Tell the peers where we are that are to be told now."""
        if live.call.phase is not Phase.UP:
            return
        for its in live.call.legs:
            leg = live.legs[its.id]
            if its.phase is not LegPhase.UP or leg.tell_at is None or leg.tell_at > now or not _can_be_told(leg):
                continue
            if leg.asks_instead:
                self._replacing.give_up(now, live, leg)
                continue
            leg = live.legs[its.id] = replace(leg, tell_at=now + AGAIN_S)
            if _is_idle(live, leg) and leg.instead is not None:
                self._replacing.ask(now, live, leg, its.told)
            elif _is_idle(live, leg):
                self._legs.ask_for_change(now, live, leg, "INVITE", its.told)


def _running(live: LiveCall) -> Iterator[tuple[str, SessionTimer]]:
    if live.call.phase is Phase.UP:
        for leg in live.call.legs:
            if leg.phase is LegPhase.UP and (timer := live.legs[leg.id].timer) is not None:
                yield leg.id, timer


def _is_idle(live: LiveCall, leg: SipLeg) -> bool:
    return not leg.update_in and (not leg.update_out or leg.update_out_answered) and live.call.exchange is None


def _can_be_told(leg: SipLeg) -> bool:
    """Nobody can go to a phone on a stream: it comes to us, and then has a connection here."""
    flow = leg.flow if leg.dialog is None else leg.dialog.flow
    return not flow.transport.reliable or bool(flow.connection)
