"""SIP becomes call events: what is heard on the legs of a seat's calls. What asks for no decision is answered here;
all else is the engine's to decide.
"""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from warden.call.events import (
    Answered,
    Confirmed,
    Event,
    Failed,
    HungUp,
    Lost,
    Ringing,
    Told,
    UpdateAnswered,
    UpdateCancelled,
    UpdateConfirmed,
    Updated,
    UpdateFailed,
)
from warden.call.model import Cause, LegPhase
from warden.core.address import Flow
from warden.core.errors import MalformedMessage
from warden.sip.check import Refused
from warden.sip.dialog import OutOfOrder, dialog_as_uac
from warden.sip.endpoint import Replied, followed
from warden.sip.message import Fields, Request, Response
from warden.sip.session_timer import agreed, check, least_of
from warden.switch.bodies import SDP_TYPE, audio_host, no_way, offer_of, sdp_of
from warden.switch.causes import cause_of, reason, said_cause, update_cause_of
from warden.switch.edge import behind_edge
from warden.switch.index import Role
from warden.switch.legs import ALLOW, PENDING_RETRY, Legs
from warden.switch.live import LiveCall, SipLeg
from warden.switch.replacing import Replacing
from warden.switch.secrecy import why
from warden.switch.session_timers import DEAD, after_refusal, why_lost
from warden.switch.targets import is_direct, next_hop

BODY_BYTES_MAX: Final = 4096
"""What an INFO may carry across: key presses and media control are below 1 KiB."""
FORKS_MAX: Final = 15
"""Phones behind a forking proxy that answered too late and are hung up; beyond that the proxy is not to be trusted."""


class Hearing:
    """Hears for all calls of a seat, on its `legs`."""

    def __init__(self, legs: Legs, replacing: Replacing) -> None:
        self._legs = legs
        self._replacing = replacing
        self._endpoint = legs.endpoint
        self._outputs = legs.outputs
        self._index = legs.index
        self._secrecy = legs.secrecy
        self._over_trunks = legs.over_trunks
        self.on_refer: Callable[[float, LiveCall, str, str, Request], None] | None = None
        """Serves a REFER: (now, call, leg, transaction, request)."""

    def in_dialog(self, now: float, live: LiveCall, leg_id: str, key: str, request: Request, flow: Flow) -> list[Event]:
        """A request inside a leg's dialog. It is answered here unless the engine has to decide. Raises
        `MalformedMessage`, having done nothing.
        """
        leg = live.legs[leg_id]
        dialog = leg.dialog
        if request.call_id != leg.call_id:
            # The peer ends the dialog that it has replaced (RFC 3891 section 3).
            self._legs.respond(now, key, request, 200 if request.method == "BYE" else 481, "", leg.local_tag)
            return []
        if dialog is None:
            if leg.early_tag == request.from_.tag:
                self._legs.reached(live, leg, flow)
            self._in_early_dialog(now, leg, key, request)
            return []
        try:
            dialog = dialog.received(request)
        except OutOfOrder:
            self._legs.respond(now, key, request, 500, "", leg.local_tag, PENDING_RETRY)
            return []
        if flow.transport.reliable:
            leg = self._legs.reached(live, leg, flow)
            assert leg.dialog is not None, "it has one"
            dialog = replace(dialog, flow=leg.dialog.flow)
        elif flow != dialog.flow and request.method in ("INVITE", "UPDATE"):
            # It has moved and says so.
            direct = is_direct(request, flow)
            dialog = replace(dialog, flow=flow)
            leg = replace(leg, flow=flow, direct=direct)
            dialog = replace(dialog, flow=next_hop(dialog, direct=direct))
        if leg.phone_host and request.method in ("INVITE", "UPDATE"):
            leg = replace(leg, phone_host=behind_edge(request) or leg.phone_host)
        last_in = leg.last_in if request.method == "INVITE" else key
        live.legs[leg_id] = leg = replace(leg, dialog=dialog, last_in=last_in)
        match request.method:
            case "BYE":
                self._legs.end_update_in(now, live, leg)
                # Who hangs up has heard our answer, or wants none any more.
                self._outputs += self._endpoint.acked(now, leg.invite)
                self._legs.respond(now, key, request, 200, "", leg.local_tag)
                return self._replacing.left(live, leg, said_cause(request))
            case "INVITE" | "UPDATE":
                return self._changed(now, live, leg, key, request)
            case "INFO" if len(request.body) > BODY_BYTES_MAX:
                self._legs.respond(now, key, request, 413, "", leg.local_tag)
            case "INFO":
                self._legs.respond(now, key, request, 200, "", leg.local_tag)
                return [Told(leg_id, request.get("Content-Type") or "", request.body)]
            case "OPTIONS":
                self._legs.respond(now, key, request, 200, "", leg.local_tag, ALLOW, ("Accept", SDP_TYPE))
            case "REFER" if self.on_refer is not None:
                self.on_refer(now, live, leg_id, key, request)
            case _:
                self._legs.respond(now, key, request, 405, "", leg.local_tag, ALLOW)
        return []

    def _in_early_dialog(self, now: float, leg: SipLeg, key: str, request: Request) -> None:
        """A callee speaks before it answers. It must not send BYE then (RFC 3261 section 15), and has our offer to
        answer before it makes one of its own (RFC 3311 section 5.2).
        """
        fields: Fields = (ALLOW,)
        if leg.early_tag != (request.from_.tag or "") or request.method == "BYE":
            status = 481
        elif request.method in ("INVITE", "UPDATE") and request.body:
            status, fields = 491, ()
        elif request.method in ("UPDATE", "INFO", "OPTIONS"):
            status = 200
        else:
            status = 500 if request.method == "INVITE" else 405
        self._legs.respond(now, key, request, status, "", leg.local_tag, *fields)

    def _changed(self, now: float, live: LiveCall, leg: SipLeg, key: str, request: Request) -> list[Event]:
        assert leg.dialog is not None, "the request came in it"
        try:
            check(request, self._legs.settings.session)
        except Refused as refused:
            self._legs.respond(now, key, request, refused.refusal, "", leg.local_tag, *refused.fields)
            return []
        if request.method == "UPDATE" and not request.body:
            contact = ("Contact", leg.dialog.contact)
            agreement = self._legs.refreshed(now, live, leg, request)
            self._legs.respond(now, key, request, 200, "", leg.local_tag, contact, ALLOW, *agreement)
            return []
        if leg.update_in in live.requests or live.call.leg(leg.id).phase is LegPhase.OFFERED:
            # RFC 3261 section 14.2, RFC 3311 section 5.2: one at a time.
            self._legs.respond(now, key, request, 500, "", leg.local_tag, PENDING_RETRY)
            return []
        # The other leg may be asked something, too: a refresh.
        asks = any(x.update_out and not x.update_out_answered for x in live.legs.values())
        if asks or (leg.update_in and live.call.exchange is not None):
            self._legs.respond(now, key, request, 491, "", leg.local_tag)
            return []
        try:
            sdp = self._secrecy.asked(live, leg.id, offer_of(request))
        except MalformedMessage as error:
            fields = why(error, self._legs.settings.media_host)
            self._legs.respond(now, key, request, error.status or 488, "", leg.local_tag, *fields)
            return []
        if not self._legs.settings.reaches(audio_host(sdp)):
            self._legs.respond(now, key, request, 488, "", leg.local_tag, no_way(self._legs.settings.media_host))
            return []
        if leg.update_in:
            # The ACK for our last 2xx was lost: who goes on to the next change has heard it.
            self._legs.end_update_in(now, live, leg)
            leg = live.legs[leg.id]
        live.legs[leg.id] = replace(
            leg, update_in=key, update_in_method=request.method, update_in_cseq=request.cseq.number
        )
        live.requests[key] = request
        self._index.own(live, leg.id, key, "update")
        if request.method == "INVITE":
            self._outputs += self._endpoint.respond(now, key, request.respond(100))
        return [Updated(leg.id, sdp)]

    def cancelled(self, leg_id: str, role: Role, cancel: Request) -> list[Event]:
        """A CANCEL for an INVITE or re-INVITE that has no answer yet."""
        return [UpdateCancelled(leg_id)] if role == "update" else [HungUp(leg_id, said_cause(cancel))]

    def acknowledged(self, now: float, live: LiveCall, leg_id: str, request: Request, flow: Flow) -> list[Event]:
        """An ACK for a 2xx of ours."""
        if request.call_id != live.legs[leg_id].call_id:
            return []
        leg = self._legs.reached(live, live.legs[leg_id], flow)
        cseq = request.cseq.number
        try:
            sdp = self._secrecy.hears(live, leg_id, sdp_of(request))
        except MalformedMessage:
            sdp = ""
        if leg.update_in and cseq == leg.update_in_cseq:
            self._outputs += self._endpoint.acked(now, leg.update_in)
            self._legs.drop_update_in(live, leg)
            return [UpdateConfirmed(leg_id, sdp)]
        if cseq == leg.invite_cseq and live.call.leg(leg_id).is_inbound:
            self._outputs += self._endpoint.acked(now, leg.invite)
            return [Confirmed(leg_id, sdp)]
        return []

    def replied(self, now: float, live: LiveCall, leg_id: str, role: Role, replied: Replied) -> list[Event]:
        """A response to a request of ours. Raises `MalformedMessage`."""
        key, response = replied.key, replied.response
        leg = self._follow(live, live.legs[leg_id], replied.flow)
        if leg.trunk is not None and response.status >= 200 and self._over_trunk(now, live, leg, role, key, response):
            return []
        if role == "invite":
            return self._invite_replied(now, live, leg, key, response)
        if response.status < 200:
            return []
        if role == "update":
            return self._update_replied(now, live, leg, key, response)
        self._index.disown(live, key)
        if role == "notify" and response.status in DEAD:
            live.legs[leg_id] = replace(live.legs[leg_id], refer=0)
        return self._replacing.gone(live, leg_id) if role == "bye" else []

    def _over_trunk(self, now: float, live: LiveCall, leg: SipLeg, role: Role, key: str, response: Response) -> bool:
        """A carrier has answered. True where it wants a proof, and the request is on its way again with one."""
        request = live.requests.get(key)
        if role == "invite" and leg.dialog is None:
            is_wanted = live.call.leg(leg.id).phase in (LegPhase.DIALLING, LegPhase.RINGING)
            proven = self._over_trunks.prove(leg, response, leg.target) if is_wanted else None
            if proven is not None:
                self._index.disown(live, key)
                live.legs[leg.id] = proven
                self._legs.dial(now, live, leg.id, proven.flow)
            elif response.status < 300:
                self._over_trunks.taken(now, leg)
            else:
                self._over_trunks.refused(now, leg, response)
            return proven is not None
        again = self._over_trunks.proven(leg, response, request) if request is not None else None
        if again is None or leg.dialog is None:
            return False
        seq = leg.dialog.local_seq + 1
        dialog = replace(leg.dialog, local_seq=seq)
        again = again.without("CSeq").with_fields(("CSeq", f"{seq} {again.method}"))
        new, outputs = self._endpoint.request(now, again, dialog.flow)
        self._outputs += outputs
        self._index.disown(live, key)
        self._index.own(live, leg.id, new, role)
        live.requests[new] = again
        leg = replace(leg, dialog=dialog)
        if role == "update":
            leg = replace(leg, update_out=new, update_out_cseq=seq)
        elif role == "bye":
            leg = replace(leg, bye=new)
        live.legs[leg.id] = leg
        return True

    def _follow(self, live: LiveCall, leg: SipLeg, flow: Flow) -> SipLeg:
        """A phone that answers over another connection than it was asked on has no other any more."""
        new, dialog = followed(leg.flow, flow), leg.dialog
        if dialog is not None and (its := followed(dialog.flow, flow)) is not dialog.flow:
            dialog = replace(dialog, flow=its)
        if new is not leg.flow or dialog is not leg.dialog:
            leg = live.legs[leg.id] = replace(leg, flow=new, dialog=dialog)
        return leg

    def _invite_replied(self, now: float, live: LiveCall, leg: SipLeg, key: str, response: Response) -> list[Event]:
        status = response.status
        if status >= 300:
            self._index.disown(live, key)
            if self._is_asked_again(now, live, leg, response):
                return []
            return [Failed(leg.id, cause_of(response, from_carrier=leg.trunk is not None))]
        tag = response.to.tag or ""
        if status < 200 and (status == 100 or not tag):
            return []
        if leg.dialog is not None:
            if status >= 200 and tag != leg.dialog.remote_tag:
                self._end_fork(now, live, leg, response)
            return []
        try:
            sdp = self._secrecy.hears(live, leg.id, sdp_of(response))
        except MalformedMessage:
            sdp = ""
        allows_update = leg.allows_update or "UPDATE" in response.tokens("Allow")
        if status < 200:
            if tag != leg.early_tag or allows_update != leg.allows_update:
                live.legs[leg.id] = replace(leg, early_tag=tag, allows_update=allows_update)
            return [Ringing(leg.id, 180 if status != 183 else 183, sdp)]
        dialog = dialog_as_uac(live.requests[key], response, leg.flow)
        dialog = replace(dialog, flow=next_hop(dialog, direct=leg.direct))
        live.requests.pop(key, None)
        timer = agreed(now, response, self._legs.settings.session, leg.least_s)
        live.legs[leg.id] = replace(leg, dialog=dialog, allows_update=allows_update, timer=timer)
        return [Answered(leg.id, sdp)]

    def _is_asked_again(self, now: float, live: LiveCall, leg: SipLeg, response: Response) -> bool:
        """A callee who refused what we asked may take something else."""
        if live.call.leg(leg.id).phase not in (LegPhase.DIALLING, LegPhase.RINGING):
            return False
        if response.status == 422:
            return self._asks_for_longer(now, live, leg, response)
        if response.status == 488 and self._secrecy.insists(live, leg.id):
            live.legs[leg.id] = replace(leg, invite_cseq=leg.invite_cseq + 1, early_tag="")
            self._legs.dial(now, live, leg.id, leg.flow)
            return True
        return False

    def _asks_for_longer(self, now: float, live: LiveCall, leg: SipLeg, response: Response) -> bool:
        """A callee finds the session interval too short (422): it is called once more (RFC 4028 section 6)."""
        least = least_of(response)
        if leg.least_s or least <= self._legs.settings.session.expires_s:
            return False
        live.legs[leg.id] = replace(leg, least_s=least, invite_cseq=leg.invite_cseq + 1, early_tag="")
        self._legs.dial(now, live, leg.id, leg.flow)
        return True

    def _end_fork(self, now: float, live: LiveCall, leg: SipLeg, response: Response) -> None:
        """A proxy behind the callee forked, and a second phone answered the same INVITE: acknowledge and hang up
        (RFC 3261 section 13.2.2.4). Its 2xx comes again only where it came first and was not ours.
        """
        assert leg.dialog is not None, "the first answer made it"
        tag = response.to.tag or ""
        if tag in leg.forks or len(leg.forks) >= FORKS_MAX:
            return
        fork = replace(leg.dialog.confirmed(response), remote_tag=tag, local_seq=leg.invite_cseq, remote_seq=-1)
        fork = replace(fork, flow=next_hop(replace(fork, flow=leg.flow), direct=leg.direct))
        self._outputs += self._endpoint.send_ack(now, fork.ack(leg.invite_cseq), fork.flow, leg.invite)
        _, bye = fork.request("BYE", reason(Cause(200, "Call completed elsewhere")))
        self._outputs += self._endpoint.request(now, bye, fork.flow)[1]
        live.legs[leg.id] = replace(leg, forks=(*leg.forks, tag))

    def _update_replied(self, now: float, live: LiveCall, leg: SipLeg, key: str, response: Response) -> list[Event]:
        self._index.disown(live, key)
        if leg.asks_instead:
            return self._replacing.replied(now, live, leg, key, response)
        if response.status >= 300:
            after = self._replacing.refused(now, live, leg, response) or after_refusal(now, leg, response)
            live.legs[leg.id] = replace(after, update_out="")
            return [UpdateFailed(leg.id, why_lost(live, leg.id, update_cause_of(response)))]
        assert leg.dialog is not None, "it was asked in it"
        dialog = leg.dialog
        try:
            sdp = self._secrecy.hears(live, leg.id, sdp_of(response))
            dialog = dialog.refreshed(response)
            dialog = replace(dialog, flow=next_hop(dialog, direct=leg.direct))
        except MalformedMessage:
            sdp = ""
        timer = agreed(now, response, self._legs.settings.session, leg.least_s)
        # What it has agreed to had our Contact in it.
        live.legs[leg.id] = replace(leg, update_out_answered=True, dialog=dialog, timer=timer, tell_at=None)
        return [UpdateAnswered(leg.id, sdp)]

    def failed(self, live: LiveCall, leg_id: str, role: Role, key: str, cause: Cause) -> list[Event]:
        """A request of ours was never answered, or could not be sent."""
        leg = live.legs[leg_id]
        self._index.disown(live, key)
        match role:
            case "invite":
                return [Failed(leg_id, cause)]
            case "update" if leg.asks_instead:
                return self._replacing.failed(live, leg, cause)
            case "update":
                live.legs[leg_id] = replace(leg, update_out="")
                return [UpdateFailed(leg_id, why_lost(live, leg_id, cause))]
            case "bye":
                return self._replacing.gone(live, leg_id)
            case _:
                return []

    def unacknowledged(self, live: LiveCall, leg_id: str, role: Role) -> list[Event]:
        """A 2xx of ours was never acknowledged."""
        if role == "update":
            self._legs.drop_update_in(live, live.legs[leg_id])
        return [Lost(leg_id, Cause(408, "No ACK"))]
