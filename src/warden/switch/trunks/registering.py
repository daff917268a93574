"""Keeps the trunks of a seat registered with their carriers: asks when it is time, and takes the answers."""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from warden.core.errors import MalformedMessage
from warden.sip.endpoint import Endpoint, Output
from warden.sip.message import Response
from warden.sip.uri import NameAddr, Uri
from warden.switch.causes import cause
from warden.switch.settings import Settings
from warden.switch.trunks import registration as registering
from warden.switch.trunks.proof import challenges_of, proof, says_stale
from warden.switch.trunks.registration import ANSWER_S, BUSY, Registration
from warden.switch.trunks.state import LiveTrunk, transport_params

AVOID_S: Final = 30.0
"""How long a target that failed a request is the last to be tried, unless it says otherwise."""
TRIES_MAX: Final = 4
"""One request, one with credentials, one for a longer time, one more for a nonce that went stale in between: a fifth
would be a loop."""


class Registering:
    """What is to be sent is left in `outputs`. `is_home(trunk)` tells whether this seat is the one that registers."""

    def __init__(
        self, settings: Settings, endpoint: Endpoint, outputs: list[Output], is_home: Callable[[LiveTrunk], bool]
    ) -> None:
        self._settings = settings
        self._endpoint = endpoint
        self._outputs = outputs
        self._is_home = is_home
        self._asked: dict[str, LiveTrunk] = {}

    def find(self, key: str) -> LiveTrunk | None:
        """The trunk whose REGISTER this transaction is."""
        return self._asked.get(key)

    def keep(self, now: float, live: LiveTrunk) -> None:
        """See that the trunk is registered, if it is to be, and asked for again in time."""
        if not live.trunk.register or live.password_error:
            return
        if not self._is_home(live):
            self.unregister(now, live)
            seats = self._settings.seats
            live.seat_error = (
                f"seat {live.trunk.seat}, which is to register it, is not there; there are {', '.join(seats)}"
                if seats and live.trunk.seat and live.trunk.seat not in seats
                else ""
            )
            return
        token = live.contact_user
        if live.registration is None:
            live.registration = Registration(f"{token}-{now:.0f}", token[-8:], now, live.trunk.expires_s)
        if live.registration.due > now:
            return
        if live.asked:
            self._endpoint.drop(live.asked)
            self.not_answered(now, live, "no answer")
            if live.registration.due > now:
                return
        if not live.targets:
            return
        live.tries = 0
        self._register(now, live)

    def _register(self, now: float, live: LiveTrunk) -> None:
        assert live.registration is not None, "it is to be kept"
        live.registration = replace(live.registration, seq=live.registration.seq + 1, due=now + ANSWER_S)
        live.tries += 1
        live.asked = self._ask(now, live, live.registration)
        self._asked[live.asked] = live

    def unregister(self, now: float, live: LiveTrunk) -> None:
        """The carrier is told once that we are not here any more."""
        if live.is_registered(now) and live.registration is not None and live.targets:
            self._ask(now, live, replace(live.registration, seq=live.registration.seq + 1, expires_s=0))
        self._asked.pop(live.asked, None)
        live.asked, live.registration = "", None

    def _ask(self, now: float, live: LiveTrunk, registration: Registration) -> str:
        """Send a REGISTER to the target that is most likely to answer; its key."""
        if live.asked_at is None or live.tries <= 1:
            live.asked_at = next((t for t in live.targets if t.is_likely(now)), live.targets[0])
        flow = live.asked_at.flow
        ours = self._settings.address_for(flow)
        contact = NameAddr(
            Uri("sip", ours.host, user=live.contact_user, port=ours.port, params=transport_params(flow.transport))
        )
        request = registering.ask(registration, live.trunk, contact, ("User-Agent", self._settings.user_agent))
        if live.challenges:
            live.nonce_count += 1
            cnonce = f"{registration.seq:x}{live.contact_user[-8:]}"
            field = proof(
                live.challenges[1:],
                int(live.challenges[0]),
                request,
                username=live.trunk.username,
                password=live.password,
                cnonce=cnonce,
                count=live.nonce_count,
            )
            if field is not None:
                request = request.with_fields(field)
        key, outputs = self._endpoint.request(now, request, flow)
        self._outputs += outputs
        return key

    def answered(self, now: float, live: LiveTrunk, response: Response) -> None:
        """The carrier has answered a REGISTER finally."""
        registration, target = live.registration, live.asked_at
        self._asked.pop(live.asked, None)
        live.asked = ""
        if registration is None or target is None:
            return
        status = response.status
        if status < 300:
            live.registration = registering.granted(now, registration, response, live.contact_user)
            target.avoid_until = 0.0
            return
        if status in (401, 407) and self._may_prove(live, response):
            live.challenges = [str(status), *challenges_of(response)]
            live.nonce_count = 0
            self._register(now, live)
            return
        if status == 423 and live.tries < TRIES_MAX and (shortest := _min_expires(response)) > registration.expires_s:
            live.registration = replace(registration, expires_s=shortest)
            self._register(now, live)
            return
        live.challenges = []
        why = f"{status} {cause(status, response.reason).text} for user {live.trunk.username} at {target.address}"
        if status in BUSY:
            self._try_next(now, live, why, registering.retry_after(response))
            return
        hint = ": check username and password" if status in (401, 403, 404, 407) else ""
        live.registration = registering.refused(now, registration, why + hint)

    def _may_prove(self, live: LiveTrunk, response: Response) -> bool:
        """True where credentials were not sent yet, or were right and only their nonce too old."""
        had_proof = bool(live.challenges)
        # A proof that was sent unasked may have been refused for its nonce by a carrier that does not say so.
        return live.tries < TRIES_MAX and (not had_proof or says_stale(response) or live.tries == 1)

    def not_answered(self, now: float, live: LiveTrunk, why: str) -> None:
        """Nobody has answered a REGISTER, or it could not be sent."""
        target = live.asked_at
        self._asked.pop(live.asked, None)
        live.asked = ""
        if target is not None:
            self._try_next(now, live, f"{why} from {target.address}", 0.0)

    def _try_next(self, now: float, live: LiveTrunk, why: str, wait_s: float) -> None:
        """Another target at once where there is one that may do, else all of them later."""
        assert live.registration is not None, "it was asked for"
        assert live.asked_at is not None, "it has failed"
        live.asked_at.avoid_until = now + max(AVOID_S, wait_s)
        has_other = any(target.is_likely(now) for target in live.targets)
        live.registration = registering.failed(now, live.registration, why, again_at_once=has_other)
        if not has_other:
            live.registration = replace(live.registration, due=max(live.registration.due, now + wait_s))


def _min_expires(response: Response) -> int:
    try:
        return min(response.number("Min-Expires") or 0, 86_400)
    except MalformedMessage:
        return 0
