"""Effects become SIP: the legs of a seat's calls, and what is said on them. `hearing` is the way back. Nothing here
decides about calls: that is the engine's.
"""

from collections.abc import Callable
from functools import lru_cache
from math import inf
from typing import Final, assert_never

from msgspec.structs import replace

from warden.call.events import (
    Accept,
    AcceptUpdate,
    Bye,
    Cancel,
    CancelUpdate,
    Confirm,
    ConfirmUpdate,
    Dial,
    Effect,
    Finished,
    Hunt,
    Notify,
    Progress,
    Refuse,
    RefuseUpdate,
    Tell,
    Update,
    UpdateFailed,
)
from warden.call.model import CALLER, Cause, Leg
from warden.core.address import Address, Flow, Transport
from warden.sdp.sdes import Policy, Sdes
from warden.sdp.session import encode
from warden.sip.dialog import dialog_as_uas, request_uri
from warden.sip.endpoint import Endpoint, Output
from warden.sip.message import Fields, Request
from warden.sip.refer import SIPFRAG, progress
from warden.sip.session_timer import accept, check, request_fields
from warden.sip.uri import NameAddr, Uri, escape_user
from warden.switch.bodies import SDP_TYPE
from warden.switch.causes import reason
from warden.switch.diverted import diverted_fields
from warden.switch.edge import Elsewhere
from warden.switch.index import Index, Role
from warden.switch.live import LiveCall, SipLeg
from warden.switch.registrar import Binding
from warden.switch.secrecy import Secrecy
from warden.switch.settings import Settings
from warden.switch.targets import flow_to, is_direct, next_hop
from warden.switch.trunks.legs import Over, TrunkLegs
from warden.switch.trunks.trunks import Trunks

METHODS: Final = ("INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "REGISTER", "INFO", "UPDATE", "REFER")
ALLOW: Final = ("Allow", ", ".join(METHODS))
SEAT_PATIENCE_S: Final = 5.0
"""How long nobody may be at another seat's address before its phone counts as unreachable: a node that died or froze
has a successor by then, or is back, and the request is repeated meanwhile."""
PROOF: Final = "X-Warden-Seat"
"""By this field one seat knows another."""
PENDING_RETRY: Final = ("Retry-After", "1")


class Legs:
    """Speaks for all calls of a seat. `outputs` collects what the endpoint wants sent, `index` knows whose a
    message is.
    """

    def __init__(self, endpoint: Endpoint, settings: Settings, new_token: Callable[[], str], trunks: Trunks) -> None:
        self.over_trunks = TrunkLegs(trunks, endpoint, new_token)
        self.endpoint = endpoint
        self.settings = settings
        self.outputs: list[Output] = []
        self._new_token = new_token
        self.index = Index()
        self.unasked: list[tuple[LiveCall, UpdateFailed]] = []
        """Changes that could not be asked for, since another one is on its way: for the owner to tell the engine."""
        self.secrecy = Secrecy(new_token)

    # A leg's beginning and end

    def inbound_leg(self, key: str, request: Request, flow: Flow, leg_id: str = CALLER) -> SipLeg:
        """The leg of whoever sent this INVITE. Raises `MalformedMessage` (400, 422)."""
        check(request, self.settings.session)
        tag = self._new_token()
        contact = self._contact(request.uri.user or "", flow)
        direct = is_direct(request, flow)
        dialog = dialog_as_uas(request, tag, contact, flow)
        return SipLeg(
            leg_id,
            tag,
            request.call_id,
            flow,
            direct=direct,
            dialog=replace(dialog, flow=next_hop(dialog, direct=direct)),
            invite=key,
            invite_cseq=request.cseq.number,
            allows_update="UPDATE" in request.tokens("Allow"),
        )

    def open_inbound(self, live: LiveCall, leg: SipLeg, request: Request, srtp: Sdes | None) -> None:
        """The leg becomes one of the call's; `srtp` is what its request began."""
        live.legs[leg.id] = leg
        live.requests[leg.invite] = request
        if srtp is not None:
            live.srtp[leg.id] = srtp
        self.index.add_leg(live, leg)
        self.index.own(live, leg.id, leg.invite, "invite")

    def open_callee(self, live: LiveCall, leg_id: str, binding: Binding) -> None:
        """A callee's leg, before it is dialled."""
        flow, lookup = flow_to(binding)
        leg = SipLeg(
            leg_id, self._new_token(), self._new_token(), flow, binding.contact, binding.path, lookup, binding.direct
        )
        live.legs[leg_id] = leg
        self.secrecy.opened(live, leg_id, binding.flow.transport)
        self.index.add_leg(live, leg)

    def open_callee_elsewhere(self, live: LiveCall, leg_id: str, binding: Binding, way: Elsewhere) -> None:
        """The leg of a callee whose phone is registered at another seat."""
        leg = SipLeg(
            leg_id,
            self._new_token(),
            self._new_token(),
            way.flow,
            binding.contact,
            way.route,
            phone_host=binding.flow.remote.host,
        )
        live.legs[leg_id] = leg
        self.secrecy.opened(live, leg_id, binding.flow.transport)
        self.index.add_leg(live, leg)

    def open_over_trunk(self, live: LiveCall, leg_id: str, over: Over) -> None:
        """The leg of somebody outside."""
        leg = live.legs[leg_id] = self.over_trunks.leg(over, leg_id)
        self.over_trunks.take_channel(live, leg)
        self.index.add_leg(live, leg)

    def open_to_seat(self, live: LiveCall, leg_id: str, user: str, flow: Flow, replaces: str, proof: str) -> None:
        """A leg to another seat, where it is to take the place of the party in dialog `replaces`. What the seats say to
        each other is plain RTP, whatever the phones speak.
        """
        target = str(Uri("sip", flow.remote.host, user=escape_user(user), port=flow.remote.port))
        leg = SipLeg(leg_id, self._new_token(), self._new_token(), flow, target, phone_host=flow.remote.host)
        leg = live.legs[leg_id] = replace(leg, fields=(("Replaces", replaces), ("Require", "replaces"), (PROOF, proof)))
        live.srtp[leg_id] = Sdes(Policy.OFF)
        self.index.add_leg(live, leg)

    def close(self, live: LiveCall, leg: Leg) -> None:
        """Forget a callee's leg that is gone, while the call goes on."""
        self.index.drop_leg(live, live.legs.pop(leg.id), leg.number)
        live.srtp.pop(leg.id, None)

    def move(self, live: LiveCall, old: Flow, new: Flow) -> None:
        """A phone that was reached over one flow is reached over another now: its legs go along (`Endpoint.move_all`
        has its transactions do so).
        """
        for leg in live.legs.values():
            dialog = leg.dialog
            if dialog is not None and dialog.flow == old:
                dialog = replace(dialog, flow=new)
            if dialog is not leg.dialog or leg.flow == old:
                live.legs[leg.id] = replace(leg, flow=new, dialog=dialog)

    def reached(self, live: LiveCall, leg: SipLeg, flow: Flow) -> SipLeg:
        """The peer of a leg speaks over this flow: one that has another connection than before has no other any more,
        and hears over it what it may have missed.
        """
        dialog = leg.dialog
        olds = {leg.flow, leg.flow if dialog is None else dialog.flow} - {flow}
        if not flow.transport.reliable or not olds:
            return leg
        leg = live.legs[leg.id] = replace(
            leg, flow=flow, direct=False, dialog=None if dialog is None else replace(dialog, flow=flow)
        )
        for key in (leg.invite, leg.update_in, leg.update_out, leg.bye, leg.notify):
            for old in olds:
                self.outputs += self.endpoint.move(key, old, flow)
        return leg

    # Effects become SIP

    def carry_out(self, now: float, live: LiveCall, effect: Effect) -> None:
        """Turn one effect into messages."""
        match effect:
            case Dial():
                self.dial(now, live, effect.leg, live.legs[effect.leg].flow)
            case Progress():
                self._answer_invite(now, live, effect.leg, effect.status, effect.sdp)
            case Accept():
                self._answer_invite(now, live, effect.leg, 200, effect.sdp)
            case Refuse():
                self._answer_invite(now, live, effect.leg, effect.cause.status, "", reason(effect.cause))
            case Confirm() | ConfirmUpdate():
                self._ack(now, live, effect)
            case Cancel():
                leg = live.legs[effect.leg]
                if leg.invite:
                    self.outputs += self.endpoint.cancel(now, leg.invite, reason(effect.cause))
            case Bye():
                self._bye(now, live, effect)
            case Update():
                self._update(now, live, effect)
            case AcceptUpdate():
                self._answer_update(now, live, effect.leg, 200, effect.sdp)
            case RefuseUpdate():
                self._answer_update(now, live, effect.leg, effect.cause.status, "")
            case CancelUpdate():
                self.outputs += self.endpoint.cancel(now, live.legs[effect.leg].update_out)
            case Tell():
                leg = live.legs[effect.leg]
                self._send_in_dialog(now, live, leg, "INFO", "info", effect.content_type, effect.body)
            case Notify():
                self._notify(now, live, effect)
            case Finished() | Hunt():
                pass
            case _:
                assert_never(effect)

    def dial(self, now: float, live: LiveCall, leg_id: str, flow: Flow) -> None:
        """Send the INVITE of a callee's leg over `flow`."""
        leg, call = live.legs[leg_id], live.call
        ours = self._advertised(flow)
        more: Fields = ()
        if leg.trunk is not None:
            from_, to, user, more = self.over_trunks.names(live, leg)
            caller, callee = str(from_), str(to)
        else:
            calling = call.calling
            user = escape_user(calling.number)
            caller = _party(ours.host, calling.number, call.caller_name if calling.id == CALLER else "")
            number = call.leg(leg_id).number
            callee = _party(ours.host, number)
            # Not over trunks: a carrier knows nothing of extensions.
            more = diverted_fields(call, number, ours.host)
        contact = self._contact(user, flow)
        fields: list[tuple[str, str]] = [("Route", route) for route in leg.route]
        fields += (
            ("Max-Forwards", str(live.max_forwards)),
            ("From", f"{caller};tag={leg.local_tag}"),
            ("To", callee),
            ("Call-ID", leg.call_id),
            ("CSeq", f"{leg.invite_cseq} INVITE"),
            ("Contact", contact),
            ALLOW,
            ("User-Agent", self.settings.user_agent),
            *request_fields(self.settings.session, leg.least_s, None),
            *more,
        )
        if call.transfer is not None and not call.transfer.returns:
            # RFC 3892, without the referrer's signature.
            fields.append(("Referred-By", f"<{Uri('sip', ours.host, user=escape_user(call.asking))}>"))
        fields += leg.fields
        told = self.secrecy.asks(live, leg_id, call.leg(leg_id).told)
        if told:
            fields.append(("Content-Type", SDP_TYPE))
        request = Request("INVITE", request_uri(leg.target), tuple(fields), encode(told))
        key, outputs = self.endpoint.request(now, request, flow, patience_s=SEAT_PATIENCE_S if leg.phone_host else 0.0)
        self.outputs += outputs
        live.legs[leg_id] = leg = replace(leg, invite=key, flow=flow, lookup=False)
        live.requests[key] = request
        self.index.own(live, leg_id, key, "invite")
        if leg.trunk is not None:
            self.over_trunks.dialled(now, live, leg)

    def _answer_invite(
        self, now: float, live: LiveCall, leg_id: str, status: int, sdp: str, *fields: tuple[str, str]
    ) -> None:
        leg = live.legs[leg_id]
        request = live.requests.get(leg.invite)
        if request is None:
            return
        if status < 300:
            assert leg.dialog is not None, "the caller's dialog is made with its leg"
            extra: Fields = (("Contact", leg.dialog.contact), ALLOW)
            if status >= 200:
                agreement, timer = accept(now, request, self.settings.session)
                live.legs[leg_id] = replace(leg, timer=timer)
                extra += agreement
            extra += tuple([("Record-Route", value) for value in request.get_all("Record-Route")])
        else:
            extra = (*fields, *self._warning(status))
        sdp = self.secrecy.says(live, leg_id, sdp)
        self.respond(now, leg.invite, request, status, sdp, leg.local_tag, *extra)
        if status >= 200:
            del live.requests[leg.invite]

    def respond(
        self, now: float, key: str, request: Request, status: int, sdp: str, tag: str, *fields: tuple[str, str]
    ) -> None:
        """Answer a request with our tag, and with a description where there is one."""
        if sdp:
            fields = (*fields, ("Content-Type", SDP_TYPE))
        fields = (*fields, ("Server", self.settings.user_agent))
        response = request.respond(status, *fields, to_tag=tag, body=encode(sdp))
        self.outputs += self.endpoint.respond(now, key, response)

    def _ack(self, now: float, live: LiveCall, effect: Confirm | ConfirmUpdate) -> None:
        leg = live.legs[effect.leg]
        if isinstance(effect, Confirm):
            key, cseq = leg.invite, leg.invite_cseq
        elif leg.update_out_method == "INVITE":
            key, cseq = leg.update_out, leg.update_out_cseq
        else:
            return
        assert leg.dialog is not None, "what is acknowledged has made a dialog"
        proof = self.over_trunks.proof_of(leg) if key == leg.invite else ()
        sdp = self.secrecy.says(live, leg.id, effect.sdp)
        ack = leg.dialog.ack(cseq, *proof, body=encode(sdp), content_type=SDP_TYPE if sdp else "")
        self.outputs += self.endpoint.send_ack(now, ack, leg.dialog.flow, key)

    def _bye(self, now: float, live: LiveCall, effect: Bye) -> None:
        leg = live.legs[effect.leg]
        self.end_update_in(now, live, leg)
        leg = live.legs[effect.leg]
        if leg.asks_instead:
            self.outputs += self.endpoint.cancel(now, leg.update_out)
        key = self._send_in_dialog(now, live, leg, "BYE", "bye", "", b"", reason(effect.cause))
        live.legs[leg.id] = replace(live.legs[leg.id], bye=key)

    def _update(self, now: float, live: LiveCall, effect: Update) -> None:
        leg = live.legs[effect.leg]
        if leg.update_out and not leg.update_out_answered:
            # Its session is being refreshed: one at a time (RFC 3261 section 14.1).
            self.unasked.append((live, UpdateFailed(leg.id, Cause(491, "Request Pending"))))
            return
        asked_by = next((x for x in live.legs.values() if x.id != leg.id and x.update_in), None)
        as_update = bool(
            effect.sdp and leg.allows_update and asked_by is not None and asked_by.update_in_method == "UPDATE"
        )
        method = "UPDATE" if as_update else "INVITE"
        self.ask_for_change(now, live, leg, method, effect.sdp)

    def ask_for_change(self, now: float, live: LiveCall, leg: SipLeg, method: str, sdp: str) -> None:
        """Send a re-INVITE or UPDATE; what comes of it is an `UpdateAnswered` or `UpdateFailed`."""
        if sdp or method == "INVITE":
            sdp = self.secrecy.asks(live, leg.id, sdp)
        body = encode(sdp)
        timer = request_fields(self.settings.session, leg.least_s, leg.timer)
        key = self._send_in_dialog(now, live, leg, method, "update", SDP_TYPE if body else "", body, ALLOW, *timer)
        leg = live.legs[leg.id]
        assert leg.dialog is not None, "it was asked something in it"
        live.legs[leg.id] = replace(
            leg,
            update_out=key,
            update_out_method=method,
            update_out_cseq=leg.dialog.local_seq,
            update_out_answered=False,
        )

    def _send_in_dialog(
        self,
        now: float,
        live: LiveCall,
        leg: SipLeg,
        method: str,
        role: Role,
        content_type: str,
        body: bytes,
        *fields: tuple[str, str],
    ) -> str:
        assert leg.dialog is not None, "only a leg that was answered is sent requests in its dialog"
        dialog, request = leg.dialog.request(
            method, ("User-Agent", self.settings.user_agent), *fields, body=body, content_type=content_type
        )
        patience_s = SEAT_PATIENCE_S if leg.phone_host else 0.0
        if role == "bye" and dialog.flow.transport.reliable:
            # Who is hung up on and cannot be reached is told when it comes back; nobody waits for that.
            patience_s = inf
        key, outputs = self.endpoint.request(now, request, dialog.flow, patience_s=patience_s)
        self.outputs += outputs
        live.legs[leg.id] = replace(leg, dialog=dialog)
        self.index.own(live, leg.id, key, role)
        if leg.trunk is not None:
            # Its carrier may ask for a proof of it.
            live.requests[key] = request
        return key

    def _notify(self, now: float, live: LiveCall, effect: Notify) -> None:
        leg = live.legs.get(effect.leg)
        if leg is None or not leg.refer or leg.dialog is None:
            return
        fields, body = progress(leg.refer, effect.cause.status, final=effect.final)
        key = self._send_in_dialog(now, live, leg, "NOTIFY", "notify", SIPFRAG, body, *fields)
        live.legs[leg.id] = replace(live.legs[leg.id], notify=key, refer=0 if effect.final else leg.refer)

    def reply(self, now: float, leg: SipLeg, key: str, request: Request, status: int, *fields: tuple[str, str]) -> None:
        """Answer a request in a leg's dialog."""
        self.respond(now, key, request, status, "", leg.local_tag, *fields)

    def _answer_update(self, now: float, live: LiveCall, leg_id: str, status: int, sdp: str) -> None:
        leg = live.legs[leg_id]
        key = leg.update_in
        request = live.requests.pop(key, None)
        if request is None:
            return
        fields: Fields = ()
        if status < 300:
            assert leg.dialog is not None, "the request came in it"
            agreement = self.refreshed(now, live, leg, request)
            fields = (("Contact", leg.dialog.contact), ALLOW, *agreement)
            leg = live.legs[leg_id]
            sdp = self.secrecy.says(live, leg_id, sdp)
        elif status == 500:
            fields = (PENDING_RETRY,)
        else:
            fields = self._warning(status)
        self.respond(now, key, request, status, sdp, leg.local_tag, *fields)
        if status >= 300 or leg.update_in_method == "UPDATE":
            self.drop_update_in(live, leg)

    def _warning(self, status: int) -> Fields:
        """With a refusal that is about the session."""
        return (
            (("Warning", f'305 {self.settings.media_host} "Incompatible media format"'),)
            if status in (488, 606)
            else ()
        )

    def refreshed(self, now: float, live: LiveCall, leg: SipLeg, request: Request) -> Fields:
        """The peer's change is agreed to, which refreshes the session; what our 2xx says of that."""
        fields, timer = accept(now, request, self.settings.session)
        live.legs[leg.id] = replace(leg, timer=timer)
        return fields

    def drop_update_in(self, live: LiveCall, leg: SipLeg) -> None:
        """The change that the peer asked for is dealt with."""
        self.index.disown(live, leg.update_in)
        live.legs[leg.id] = replace(leg, update_in="", update_in_method="", update_in_cseq=0)

    def end_update_in(self, now: float, live: LiveCall, leg: SipLeg) -> None:
        """A change that is still unanswered when the dialog ends is answered 487 (RFC 3261 section 15.1.2); a 2xx that
        waits for its ACK is not repeated any more.
        """
        if not leg.update_in:
            return
        request = live.requests.get(leg.update_in)
        if request is not None:
            self.respond(now, leg.update_in, request, 487, "", leg.local_tag)
        else:
            self.outputs += self.endpoint.acked(now, leg.update_in)
        self.drop_update_in(live, leg)

    # Addresses

    def _advertised(self, flow: Flow) -> Address:
        return self.settings.address_for(flow)

    def _contact(self, user: str, flow: Flow) -> str:
        return _contact(*self._advertised(flow), user, flow.transport)


@lru_cache(maxsize=4096)
def _contact(host: str, port: int, user: str, transport: Transport) -> str:
    params = (("transport", transport.param),) if transport.reliable else ()
    return f"<{Uri('sip', host, user=user or None, port=port, params=params)}>"


@lru_cache(maxsize=4096)
def _party(host: str, number: str, name: str = "") -> str:
    """A From or To value without a tag."""
    return str(NameAddr(Uri("sip", host, user=escape_user(number)), name))
