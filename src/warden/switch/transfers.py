"""REFER (RFC 3515): who may have whom transferred to where. Nothing here is told to the party that is transferred: it
is sent a re-INVITE, and its phone never sees a REFER.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from hmac import compare_digest

from msgspec.structs import replace

from warden.call.events import Dial, Notify
from warden.call.model import LEGS_MAX, Cause, Leg, LegPhase
from warden.call.pickup import pick_up
from warden.call.pickup import why_not as why_not_picked_up
from warden.call.transfer import give_up, start_transfer, take_over, what_to_give, why_not
from warden.core.address import Flow, Transport
from warden.core.errors import MalformedMessage
from warden.sdp.sdes import Policy, Sdes
from warden.sip.message import Request
from warden.sip.refer import Referral, Replaces, read_referral, read_replaces
from warden.sip.uri import parse_uri
from warden.switch.admission import NUMBER_CHARS_MAX, Admission, Caller, Refusal, Wanted
from warden.switch.bodies import audio_host
from warden.switch.calls import Calls
from warden.switch.directory import Directory
from warden.switch.edge import Edge
from warden.switch.hunting import Hunting
from warden.switch.legs import PROOF, Legs
from warden.switch.live import LiveCall, SipLeg, counted_on
from warden.switch.outcome import Lookup
from warden.switch.text import printable


class Transfers:
    """Serves the REFERs of a seat. `directory` gives the one in force, `new_token` unguessable text."""

    def __init__(
        self,
        legs: Legs,
        calls: Calls,
        hunting: Hunting,
        admission: Admission,
        edge: Edge,
        directory: Callable[[], Directory],
        new_token: Callable[[], str],
        counters: Counter[str],
    ) -> None:
        self._legs = legs
        self._calls = calls
        self._hunting = hunting
        self._admission = admission
        self._edge = edge
        self._directory = directory
        self._new_token = new_token
        self._counters = counters

    def refer(self, now: float, live: LiveCall, leg_id: str, key: str, request: Request) -> None:
        """A party has sent a REFER in its dialog."""
        leg = live.legs[leg_id]
        try:
            verdict = self._judge(now, live, leg_id, request)
            if isinstance(verdict, Refusal):
                if verdict.counter:
                    self._counters[verdict.counter] += 1
                self._legs.reply(now, leg, key, request, verdict.status, *verdict.fields)
                return
            referral = read_referral(request)
        except MalformedMessage as error:
            self._refuse(now, leg, key, request, Cause(error.status or 400, str(error)))
            return
        cause = verdict or why_not(live.call, leg_id)
        if cause is not None:
            self._refuse(now, leg, key, request, cause)
            return
        assert leg.dialog is not None, "it came in it"
        fields = () if referral.is_followed else (("Refer-Sub", "false"),)
        self._legs.reply(now, leg, key, request, 202, ("Contact", leg.dialog.contact), *fields)
        live.legs[leg_id] = replace(leg, refer=request.cseq.number if referral.is_followed else 0)
        self._begin(now, live, leg_id, referral)

    def _judge(self, now: float, live: LiveCall, leg_id: str, request: Request) -> Refusal | Cause | None:
        """Who is the referrer? A dialog proves who can hear; a transfer costs money, so it asks for more."""
        number, directory = live.call.leg(leg_id).number, self._directory()
        if directory.find(number) is None:
            return Cause(403, "Only an extension can transfer")
        sender = self._admission.judge_caller(now, request, directory)
        if isinstance(sender, Refusal):
            return sender
        return None if sender.number == number else Cause(403, "Another extension's call")

    def _refuse(self, now: float, leg: SipLeg, key: str, request: Request, cause: Cause) -> None:
        self._legs.reply(now, leg, key, request, cause.status, self._warning(cause))

    def _warning(self, cause: Cause) -> tuple[str, str]:
        text = printable(cause.text).replace("\\", "").replace('"', "'")
        return ("Warning", f'399 {self._legs.settings.media_host} "{text}"')

    def _begin(self, now: float, live: LiveCall, leg_id: str, referral: Referral) -> None:
        if referral.replaces is not None:
            self._attend(now, live, leg_id, referral.to.username, referral.replaces)
            return
        to = referral.to.username
        if not to or len(to) > NUMBER_CHARS_MAX:
            self._fail(now, live, leg_id, Cause(484, "Address Incomplete"))
            return
        way = self._hunting.dialled(now, live.call.leg(leg_id).number, to, live.call.id)
        if not way.steps:
            self._fail(now, live, leg_id, way.cause)
            return
        self._calls.advance(now, live, *start_transfer(live.call, now, leg_id, way.steps, way.visited))

    def _fail(self, now: float, live: LiveCall, leg_id: str, cause: Cause) -> None:
        self._calls.advance(now, live, live.call, [Notify(leg_id, cause, final=True)])

    def pick_up(self, now: float, key: str, request: Request, flow: Flow, wanted: Wanted) -> Refusal | None:
        """An INVITE with Replaces wants to take the place of a party (RFC 3891). What is said where it cannot. Raises
        `MalformedMessage` (400).
        """
        replaces = read_replaces(request.get("Replaces") or "")
        found = self._legs.index.find_replaced(replaces)
        if found is None:
            return Refusal(481, proven=True)
        live, leg_id = found
        cause = why_not_picked_up(live.call, leg_id, early_only=replaces.early_only, has_offer=bool(wanted.sdp))
        if cause is not None:
            return Refusal(cause.status, (self._warning(cause),), proven=True)
        host = self._legs.settings.media_host_for(audio_host(wanted.sdp) or flow.remote.host)
        call, effects = pick_up(live.call, leg_id, wanted.caller.number, wanted.sdp, host)
        leg = self._legs.inbound_leg(key, request, flow, call.callees[-1].id)
        self._legs.outputs += self._legs.endpoint.respond(now, key, request.respond(100))
        live.call = call
        self._legs.open_inbound(live, leg, request, wanted.srtp)
        if wanted.caller.is_seat:
            live.srtp[leg.id] = Sdes(Policy.OFF)
        self._calls.advance(now, live, call, effects)
        return None

    # Replaces: the target is the other party of another call of the referrer's

    def _attend(self, now: float, live: LiveCall, leg_id: str, to: str, replaces: Replaces) -> None:
        number = live.call.leg(leg_id).number
        found = self._legs.index.find_replaced(replaces)
        if found is None and (ways := self._edge.ways_elsewhere(self._legs.settings.seat)):
            self._attend_elsewhere(now, live, leg_id, to, replaces, ways)
            return
        if found is None or found[0] is live or found[0].call.leg(found[1]).number != number:
            self._fail(now, live, leg_id, Cause(481, "Call Leg Does Not Exist"))
            return
        there, by = found
        given = what_to_give(there.call, by)
        room = LEGS_MAX - len(live.call.legs)
        if not given or len(given) > room:
            self._fail(now, live, leg_id, Cause(480, "Nobody there"))
            return
        ring_until, other = there.call.no_answer_at, live.call.other(leg_id)
        assert other is not None, "`why_not` has asked"
        made = live.call.legs_made
        moved = []
        for i, leg in enumerate(given):
            new = replace(leg, id=f"b{made + i}", inbound=leg.is_inbound, sdp_id=leg.sdp_id or there.call.sdp_id)
            self._move(there, leg.id, live, new.id, leg.phase)
            moved.append(new)
        here = take_over(live.call, now, leg_id, moved, ring_until)
        # The new legs are indexed by their numbers, so the call has to have them first.
        live.call = here[0]
        for new in moved:
            self._legs.index.add_leg(live, live.legs[new.id])
            if live.legs[new.id].trunk is not None:
                self._legs.over_trunks.take_channel(live, live.legs[new.id])
        self._calls.advance(now, there, *give_up(there.call, now, by, other.number, given))
        self._calls.advance(now, live, *here)

    def _attend_elsewhere(
        self, now: float, live: LiveCall, leg_id: str, to: str, replaces: Replaces, ways: Sequence[Flow]
    ) -> None:
        """The referrer's other call may be another seat's. Each is asked, since phones do not tell reliably where it
        is: the one that has it answers, and all others say 481.
        """
        made = live.call.legs_made
        number = printable(to)[:NUMBER_CHARS_MAX]
        asked = ways[: LEGS_MAX - len(live.call.legs)]
        legs = [Leg(f"b{made + i}", number, LegPhase.DIALLING) for i in range(len(asked))]
        ring_until = now + self._legs.settings.no_answer_s
        call, effects = take_over(live.call, now, leg_id, legs, ring_until)
        live.call = call
        for leg, flow in zip(legs, asked, strict=True):
            value = str(replaces)
            self._legs.open_to_seat(live, leg.id, to, flow, value, self._edge.vouch(f"{flow.remote} {value}"))
        self._calls.advance(now, live, call, [*effects, *(Dial(leg.id, "") for leg in legs)])

    def find_seat(self, request: Request) -> Caller | None:
        """In whose name another seat asks for the place of a party here, if it is one. Raises `MalformedMessage`."""
        proof = request.get(PROOF)
        value = None if proof is None else request.get("Replaces")
        if proof is None or value is None:
            return None
        ours = self._legs.settings.advertised[Transport.UDP]
        if not compare_digest(proof.encode(), self._edge.vouch(f"{ours} {value}").encode()):
            return None
        sender = request.from_
        return Caller(sender.uri.username, sender.display, request.uri.username, is_seat=True)

    def _move(self, old: LiveCall, old_id: str, new: LiveCall, new_id: str, phase: LegPhase) -> None:
        """A leg goes from one call to another; what stays of it is nobody's dialog."""
        leg = old.legs[old_id]
        old.legs[old_id] = SipLeg(old_id, self._new_token(), f"{self._new_token()}.gone", leg.flow)
        moved = new.legs[new_id] = replace(leg, id=new_id)
        if (keys := old.srtp.pop(old_id, None)) is not None:
            new.srtp[new_id] = keys
            if old.session is not None and new.session is not None:
                new.session = counted_on(new.session, old.session)
        if moved.trunk is not None:
            self._legs.over_trunks.take_channel(new, moved)
        for key, role in self._legs.index.give(old, old_id):
            request = old.requests.pop(key, None)
            self._legs.index.own(new, new_id, key, role)
            if request is not None:
                new.requests[key] = request
        if moved.lookup and phase is LegPhase.DIALLING:
            self._calls.lookups.append(Lookup(new.call.id, new_id, parse_uri(moved.target)))
