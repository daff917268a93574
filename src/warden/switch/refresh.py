"""Session timers at work (RFC 4028 section 10): sessions are refreshed half way, and end where nobody does."""

from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from warden.call.events import Event, Lost
from warden.call.model import LegPhase, Phase
from warden.sip.session_timer import SessionTimer
from warden.switch.legs import Legs
from warden.switch.live import LiveCall
from warden.switch.session_timers import not_refreshed

AGAIN_S: Final = 40.0
"""When a refresh is tried again that was not answered or was refused: above the 32 s of its transaction, unless the
interval is so short that there is no time for it."""


class Refreshes:
    """Refreshes the sessions of a seat's calls through `legs`."""

    def __init__(self, legs: Legs) -> None:
        self._legs = legs

    def deadline(self, live: LiveCall) -> float | None:
        """When the call wants `tick`."""
        earliest: float | None = None
        if live.call.phase is Phase.UP:
            legs = live.legs
            for leg in live.call.legs:
                timer = legs[leg.id].timer if leg.phase is LegPhase.UP else None
                if timer is not None and (earliest is None or timer.due_at < earliest):
                    earliest = timer.due_at
        return earliest

    def tick(self, now: float, live: LiveCall) -> list[Event]:
        """Refresh what is due; the sessions that are over for want of a refresh are lost."""
        lost: list[Event] = []
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
            if not leg.update_in and (not leg.update_out or leg.update_out_answered) and live.call.exchange is None:
                method = "UPDATE" if leg.allows_update else "INVITE"
                self._legs.ask_for_change(
                    now, live, leg, method, "" if leg.allows_update else live.call.leg(leg_id).told
                )
        return lost


def _running(live: LiveCall) -> Iterator[tuple[str, SessionTimer]]:
    if live.call.phase is Phase.UP:
        for leg in live.call.legs:
            if leg.phase is LegPhase.UP and (timer := live.legs[leg.id].timer) is not None:
                yield leg.id, timer
