"""Legs over trunks: where the next one goes, what its INVITE says, and how the carrier is shown who we are.

Nothing here sends anything: `switch.legs` does.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from warden.call.model import CALLER, Cause, LegPhase
from warden.call.way import Line
from warden.core.address import Flow
from warden.core.deadlines import Deadlines
from warden.sip.endpoint import Endpoint
from warden.sip.message import Fields, Request, Response
from warden.sip.transaction import State
from warden.sip.uri import NameAddr, Uri, escape_user
from warden.switch.live import LiveCall, SipLeg
from warden.switch.trunks.identity import caller_fields, wants_privacy
from warden.switch.trunks.leg import TrunkLeg
from warden.switch.trunks.proof import says_stale
from warden.switch.trunks.registration import retry_after, target_host
from warden.switch.trunks.trunks import Trunks

TRIES_MAX: Final = 2
"""Proofs for one INVITE: one, and one more where its nonce went stale in between."""


class Over(Struct, frozen=True, gc=False):
    """A call over a trunk is to go here. `has_more`: the trunk has other addresses."""

    line: Line
    flow: Flow
    has_more: bool


class TrunkLegs:
    """`trunks` are the seat's."""

    def __init__(self, trunks: Trunks, endpoint: Endpoint, new_token: Callable[[], str]) -> None:
        self._trunks = trunks
        self._endpoint = endpoint
        self._new_token = new_token
        self._silences: Deadlines[tuple[str, str]] = Deadlines()
        self._channels: dict[str, dict[tuple[str, str], LiveCall]] = {}
        self._roomy = 64

    @property
    def deadline(self) -> float | None:
        """When `silent` has something to tell."""
        return self._silences.earliest

    def find(self, now: float, line: Line) -> Over | Cause:
        """Where the call is to go next, or why it cannot. An emergency call has every channel, and tries also targets
        that do not answer.
        """
        trunk = self._trunks.find(line.trunk)
        if trunk is None:
            return Cause(480, self._trunks.error(line.trunk))
        flows = self._trunks.flows(now, line.trunk, even_down=line.emergency)
        flows = [flow for flow in flows if place_of(flow) not in line.tried]
        if not flows:
            return Cause(480, self._trunks.error(line.trunk) or f"trunk {line.trunk}: no address is left to try")
        most = trunk.channels_max
        if most and not line.emergency and self.channels(line.trunk) >= most:
            return Cause(480, f"trunk {line.trunk}: all {most} channels are in use")
        return Over(line, flows[0], len(flows) > 1)

    def leg(self, over: Over, leg_id: str) -> SipLeg:
        """The leg, before it is dialled."""
        trunk = self._trunks.find(over.line.trunk)
        assert trunk is not None, "it was just found"
        return SipLeg(
            leg_id,
            self._new_token(),
            self._new_token(),
            over.flow,
            target=f"sip:{escape_user(over.line.number)}@{target_host(trunk)}",
            direct=not over.flow.transport.reliable,
            trunk=TrunkLeg(trunk.name, over.line.emergency),
        )

    # Channels

    def take_channel(self, live: LiveCall, leg: SipLeg) -> None:
        """The leg is one of its trunk's calls, until it is gone."""
        assert leg.trunk is not None, "it goes over one"
        known = self._channels.setdefault(leg.trunk.trunk, {})
        known[live.call.id, leg.id] = live
        if len(known) > self._roomy:
            self._roomy = max(64, 2 * self.channels(leg.trunk.trunk))

    def channels(self, name: str) -> int:
        """How many calls go over the trunk at this seat."""
        known = self._channels.get(name, {})
        for key in [key for key, live in known.items() if not _is_on(live, key[1])]:
            del known[key]
        return len(known)

    def all_channels(self) -> Mapping[str, int]:
        """The same for all trunks."""
        return {name: self.channels(name) for name in self._channels}

    # The INVITE

    def names(self, live: LiveCall, leg: SipLeg) -> tuple[NameAddr, NameAddr, str, Fields]:
        """From and To of a leg over a trunk, the user of its Contact, and the fields that only a carrier is sent."""
        assert leg.trunk is not None, "it goes over one"
        call, trunk = live.call, self._trunks.find(leg.trunk.trunk)
        callee_number = call.leg(leg.id).number
        if trunk is None:
            # It was taken away in this moment: the call goes to where it was going.
            nobody = NameAddr(Uri("sip", "anonymous.invalid", user="anonymous"))
            return nobody, nobody, "", ()
        calling = call.calling
        caller = live.legs[calling.id]
        is_private = wants_privacy(live.requests.get(caller.invite)) and not leg.trunk.emergency
        name = call.caller_name if calling.id == CALLER else ""
        from_, fields = caller_fields(
            trunk, calling.number, name, is_outside=caller.trunk is not None, is_private=is_private
        )
        to = NameAddr(Uri("sip", trunk.host, user=escape_user(callee_number)))
        if leg.trunk.proof is not None:
            fields = (*fields, leg.trunk.proof)
        # Not the name by which its registrar calls us: whoever is called may see this, and could call in with that.
        return from_, to, from_.uri.user or "", fields

    def prove(self, leg: SipLeg, response: Response, target: str) -> SipLeg | None:
        """The leg with the proof that its INVITE was asked for by a 401 or 407; None where we have none to give."""
        trunk = leg.trunk
        if trunk is None or response.status not in (401, 407):
            return None
        if trunk.tries >= TRIES_MAX or (trunk.tries and not says_stale(response)):
            return None
        field = self._trunks.proof(trunk.trunk, response, Request("INVITE", target, ()), self._new_token())
        if field is None:
            return None
        return replace(leg, invite_cseq=leg.invite_cseq + 1, trunk=replace(trunk, tries=trunk.tries + 1, proof=field))

    def proof_of(self, leg: SipLeg) -> Fields:
        """What the ACK of its INVITE shows again."""
        return () if leg.trunk is None or leg.trunk.proof is None else (leg.trunk.proof,)

    def proven(self, leg: SipLeg, response: Response, request: Request) -> Request | None:
        """A request in the dialog with the proof that it was asked for; None where it had one, or we have none."""
        if leg.trunk is None or response.status not in (401, 407):
            return None
        had_one = any(request.get(name) is not None for name in ("Authorization", "Proxy-Authorization"))
        if had_one:
            return None
        field = self._trunks.proof(leg.trunk.trunk, response, request, self._new_token())
        return None if field is None else request.with_fields(field)

    # What became of it

    def dialled(self, now: float, live: LiveCall, leg: SipLeg) -> None:
        """The INVITE is on its way: somebody has to say something soon."""
        trunk = self._trunks.find(leg.trunk.trunk) if leg.trunk is not None else None
        if trunk is not None:
            self._silences.set((live.call.id, leg.id), now + trunk.answer_within_s)

    def adopt(self, now: float, live: LiveCall) -> None:
        """A restored call."""
        for leg in live.legs.values():
            if leg.trunk is not None:
                self.take_channel(live, leg)
                if live.call.leg(leg.id).phase is LegPhase.DIALLING:
                    self.dialled(now, live, leg)

    def silent(self, now: float, live_calls: Mapping[str, LiveCall]) -> Iterator[tuple[LiveCall, str]]:
        """The legs whose carrier has not said a word in time."""
        while (due := self._silences.pop_due(now)) is not None:
            live = live_calls.get(due[0])
            leg = None if live is None else live.legs.get(due[1])
            if live is None or leg is None or live.call.leg(leg.id).phase is not LegPhase.DIALLING:
                continue
            transaction = self._endpoint.export(leg.invite)
            if transaction is not None and transaction.state is State.CALLING:
                self.unreached(now, leg)
                yield live, leg.id

    def unreached(self, now: float, leg: SipLeg) -> None:
        """Nobody has answered the leg's INVITE."""
        if leg.trunk is not None:
            self._trunks.suspect(now, leg.trunk.trunk, leg.flow)

    def refused(self, now: float, leg: SipLeg, response: Response) -> None:
        """The carrier has refused the leg's INVITE."""
        if leg.trunk is None:
            return
        if response.status == 503:
            self._trunks.suspect(now, leg.trunk.trunk, leg.flow, retry_after(response))
        self._trunks.refused(now, leg.trunk.trunk, leg.flow, response)

    def taken(self, now: float, leg: SipLeg) -> None:
        """The carrier has taken the leg's INVITE."""
        if leg.trunk is not None:
            self._trunks.refused(now, leg.trunk.trunk, leg.flow, None)


def place_of(flow: Flow) -> str:
    """A target, as a call remembers that it has tried it."""
    return f"{flow.transport.value}:{flow.remote}"


def _is_on(live: LiveCall, leg_id: str) -> bool:
    return leg_id in live.legs and live.call.leg(leg_id).phase is not LegPhase.GONE
