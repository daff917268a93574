"""INVITE with Replaces (RFC 3891), sent: a phone that refuses the re-INVITE which tells it of our new address is asked
for another dialog in place of the one that it has.

Until the phone has answered, its leg has both: the dialog in place, and the one asked for (`SipLeg.instead`). Which of
them goes on is the phone's word alone, so a BYE in the first means nothing before the INVITE has its answer.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from msgspec.structs import replace

from warden.call.events import Event, Gone, HungUp, UpdateAnswered
from warden.call.model import Cause, LegPhase
from warden.core.errors import MalformedMessage
from warden.sdp.session import encode
from warden.sip.dialog import Dialog
from warden.sip.message import Response
from warden.sip.refer import Replaces
from warden.sip.session_timer import agreed, request_fields
from warden.switch.bodies import SDP_TYPE, sdp_of
from warden.switch.causes import cause, reason
from warden.switch.legs import ALLOW, SEAT_PATIENCE_S, Legs
from warden.switch.live import Instead, LiveCall, SipLeg
from warden.switch.session_timers import DEAD
from warden.switch.targets import next_hop

_LATER: Final = (401, 407, 422, 491, *DEAD)
"""Answers to a re-INVITE that do not mean that the phone will not have any."""


class Unmoved(NamedTuple):
    """A phone that believes us to be where we were, and what it said last."""

    call: str
    number: str
    why: str


class Replacing:
    """Asks for dialogs through `legs`. `unmoved` collects whoever gives none, for the owner to take."""

    def __init__(self, legs: Legs, new_token: Callable[[], str]) -> None:
        self.unmoved: list[Unmoved] = []
        self._legs = legs
        self._new_token = new_token

    def refused(self, now: float, live: LiveCall, leg: SipLeg, response: Response) -> SipLeg | None:
        """The leg after its peer has refused a re-INVITE in a way that leaves only this; None for all other refusals.
        Carriers are not asked: they would have to let us in and be paid once more.
        """
        exchange = live.call.exchange
        if leg.tell_at is None or leg.trunk is not None or leg.update_out_method != "INVITE":
            return None
        if exchange is not None and exchange.to == leg.id:
            # Somebody wanted something of it, and may have wanted too much.
            return None
        if response.status in _LATER or response.get("Retry-After") is not None:
            return None
        return replace(leg, instead=Instead(), tell_at=now)

    def ask(self, now: float, live: LiveCall, leg: SipLeg, sdp: str) -> None:
        """Send the INVITE. `Require` keeps a phone that does not know Replaces from ringing."""
        old, settings = leg.dialog, self._legs.settings
        assert old is not None, "its peer has refused something in it"
        dialog = replace(
            old, call_id=self._new_token(), local_tag=self._new_token(), remote_tag="", local_seq=0, remote_seq=-1
        )
        # RFC 3891 section 3: a tag that the peer never gave is 0. To it, its own tag is the local one.
        replaces = Replaces(old.call_id, old.remote_tag or "0", old.local_tag)
        body = encode(self._legs.secrecy.asks_anew(live, leg.id, sdp))
        dialog, request = dialog.request(
            "INVITE",
            ("User-Agent", settings.user_agent),
            ALLOW,
            ("Replaces", str(replaces)),
            ("Require", "replaces"),
            *request_fields(settings.session, leg.least_s, None),
            body=body,
            content_type=SDP_TYPE if body else "",
        )
        patience_s = SEAT_PATIENCE_S if leg.phone_host else 0.0
        key, outputs = self._legs.endpoint.request(now, request, dialog.flow, patience_s=patience_s)
        self._legs.outputs += outputs
        self._legs.index.own(live, leg.id, key, "update")
        live.legs[leg.id] = replace(
            leg,
            instead=Instead(dialog),
            update_out=key,
            update_out_method="INVITE",
            update_out_cseq=dialog.local_seq,
            update_out_answered=False,
        )

    def give_up(self, now: float, live: LiveCall, leg: SipLeg) -> None:
        """The phone has been ringing for too long: it does not know what it is asked."""
        live.legs[leg.id] = replace(leg, tell_at=None)
        self._legs.outputs += self._legs.endpoint.cancel(now, leg.update_out)

    def left(self, live: LiveCall, leg: SipLeg, why: Cause | None) -> list[Event]:
        """The peer has ended its dialog. While another is asked for, the answer to that tells whether it hung up."""
        if not leg.asks_instead:
            return [HungUp(leg.id, why)]
        assert leg.instead is not None, "it asks for one"
        live.legs[leg.id] = replace(leg, instead=replace(leg.instead, has_left=True))
        return []

    def gone(self, live: LiveCall, leg_id: str) -> list[Event]:
        """A BYE of ours has ended a leg's dialog. One that is asked for beside has to end, too."""
        leg = live.legs[leg_id]
        if not leg.asks_instead:
            return [Gone(leg_id)]
        live.legs[leg_id] = replace(leg, bye="")
        return []

    def replied(self, now: float, live: LiveCall, leg: SipLeg, key: str, response: Response) -> list[Event]:
        """The final answer to the INVITE."""
        if response.status >= 300:
            return self.failed(live, leg, cause(response.status, response.reason))
        dialog, is_told = self._made(leg, response)
        if live.call.leg(leg.id).phase is not LegPhase.UP:
            # The call ended meanwhile: what the phone has accepted ends by itself.
            ack = dialog.ack(leg.update_out_cseq)
            self._legs.outputs += self._legs.endpoint.send_ack(now, ack, dialog.flow, key)
            _, bye = dialog.request("BYE", reason(Cause(200, "Call ended")))
            self._legs.outputs += self._legs.endpoint.request(now, bye, dialog.flow)[1]
            return self._over(live, leg)
        assert leg.dialog is not None, "it was to be replaced"
        try:
            sdp = self._legs.secrecy.hears(live, leg.id, sdp_of(response))
        except MalformedMessage:
            sdp = ""
        new = live.legs[leg.id] = replace(
            leg,
            call_id=dialog.call_id,
            local_tag=dialog.local_tag,
            dialog=dialog,
            former=Replaces(leg.call_id, leg.local_tag, leg.dialog.remote_tag),
            instead=None,
            tell_at=None if is_told else now,
            update_out_answered=True,
            allows_update=leg.allows_update or "UPDATE" in response.tokens("Allow"),
            # Nobody listens any more to how a REFER in the other dialog goes on.
            refer=0,
            timer=agreed(now, response, self._legs.settings.session, leg.least_s),
        )
        self._legs.index.replace_dialog(live, leg, new)
        return [UpdateAnswered(leg.id, sdp)]

    def failed(self, live: LiveCall, leg: SipLeg, why: Cause) -> list[Event]:
        """The phone does not accept the INVITE either, or does not answer it: nothing is left to try."""
        assert leg.instead is not None, "it asked for one"
        its = live.call.leg(leg.id)
        if its.phase is not LegPhase.UP:
            return self._over(live, leg)
        self._end(live, leg)
        if leg.instead.has_left:
            return [HungUp(leg.id, None)]
        self.unmoved.append(Unmoved(live.call.id, its.number, f"{why.status} {why.text}"))
        return []

    def _over(self, live: LiveCall, leg: SipLeg) -> list[Event]:
        """The INVITE of a leg that ends has its answer, and its BYE perhaps."""
        self._end(live, leg)
        return [] if leg.bye else [Gone(leg.id)]

    def _end(self, live: LiveCall, leg: SipLeg) -> None:
        self._legs.index.disown(live, leg.update_out)
        live.legs[leg.id] = replace(leg, instead=None, tell_at=None, update_out="")

    def _made(self, leg: SipLeg, response: Response) -> tuple[Dialog, bool]:
        """The dialog that a 2xx makes, and whether the phone knows by it where we are: since the INVITE was sent, its
        own address and ours may have changed.
        """
        assert leg.instead is not None, "the leg asks for one"
        assert leg.instead.dialog is not None, "the leg asks for one"
        assert leg.dialog is not None, "it was to be replaced"
        dialog = leg.instead.dialog
        with suppress(MalformedMessage):
            # It has accepted all the same, and is where it was.
            dialog = dialog.confirmed(response)
        is_told = dialog.contact == leg.dialog.contact
        tag = response.to.tag or ""
        dialog = replace(dialog, remote_tag=tag, flow=leg.dialog.flow, contact=leg.dialog.contact)
        return replace(dialog, flow=next_hop(dialog, direct=leg.direct)), is_told
