"""The switch of one seat as a machine: what comes in becomes records to write, media orders and messages to send.

No I/O, no clock: every input takes `now` (seconds since the epoch, steady) and gives an `Outcome`. The order in which
an outcome is carried out is the promise of the house: first the records, then the media, then the messages.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, assert_never

from msgspec.structs import replace

from warden.call.apps.beeps import DONE
from warden.call.events import (
    Failed,
    Led,
    Silent,
    SoundsEnded,
    Stopped,
)
from warden.call.model import CALLER, Call, Cause, Leg, LegPhase, Ports
from warden.call.setup import start_call, start_nowhere
from warden.call.way import Take
from warden.core.address import Flow
from warden.core.errors import MalformedMessage
from warden.media.protocol import Drop, FellSilent, Latched, Order, Played, Put, RolledOver
from warden.media.protocol import Event as MediaEvent
from warden.sdp.sdes import Policy
from warden.sip.check import Refused, check_request
from warden.sip.endpoint import (
    AckArrived,
    AckMissing,
    Arrived,
    Cancelled,
    Endpoint,
    Output,
    Replied,
    Send,
    TimedOut,
    Unreachable,
)
from warden.sip.message import Request, Response
from warden.sip.parser import salvage_request
from warden.sip.routing import stateless_tag
from warden.store.ports import Extension, Kind, Write
from warden.switch.admission import RETRY_AFTER, Admission, Caller, Refusal
from warden.switch.aside import AsideRecords, Unread
from warden.switch.bans import Bans
from warden.switch.bodies import SDP_TYPE, audio_host
from warden.switch.calls import Calls
from warden.switch.causes import cause
from warden.switch.directory import Directory
from warden.switch.edge import Edge
from warden.switch.guard import IGNORED, Guard, Offence, is_scanner
from warden.switch.hearing import Hearing
from warden.switch.hunting import Hunting
from warden.switch.legs import ALLOW, METHODS, Legs
from warden.switch.live import (
    LiveCall,
    ports_of,
    with_latched,
    with_rolled,
)
from warden.switch.outcome import Change, Lookup, Outcome, TrunkLookup
from warden.switch.overload import Overload
from warden.switch.ports import PortPool, PortsExhausted
from warden.switch.records import Records
from warden.switch.refresh import Refreshes
from warden.switch.registrar import Binding, contact_fields
from warden.switch.registrations import Registrations
from warden.switch.replacing import Replacing
from warden.switch.restore import Restore
from warden.switch.roster import Roster
from warden.switch.routing import Way, is_emergency
from warden.switch.settings import Settings
from warden.switch.shedding import Shedding
from warden.switch.text import readable
from warden.switch.transfers import Transfers
from warden.switch.trunks.leg import TrunkLeg
from warden.switch.trunks.state import TrunkStatus
from warden.switch.trunks.trunks import Trunks

__all__ = ["EXTENSIONS", "Lookup", "Outcome", "Switch"]

EXTENSIONS: Final = frozenset({"path", "timer", "outbound", "replaces", "norefersub"})
"""Option tags that a peer may require of us."""


class Switch:
    """All calls and registrations of one seat.

    While `accepts_calls` or `media_works` is False (the owner sets them: the node is to be emptied, or nobody would
    hear anybody) new calls are answered 503; those that are up go on.
    """

    def __init__(
        self,
        settings: Settings,
        endpoint: Endpoint,
        secret: bytes,
        new_token: Callable[[], str],
        roster: Roster | None = None,
        bans: Bans | None = None,
        overload: Overload | None = None,
    ) -> None:
        """`secret` is the cluster's; `roster` tells who is registered at its other seats, `bans` who is shut out,
        `overload` what the node bears.
        """
        self.settings = settings
        self.endpoint = endpoint
        self.directory = Directory()
        self.ports = PortPool(*settings.rtp_ports)
        self.counters: Counter[str] = Counter()
        self.accepts_calls = True
        self.media_works = True
        self._broken = 0
        self._new_token = new_token
        self._roster = Roster() if roster is None else roster
        self.trunks = Trunks(settings, endpoint, secret, self._roster)
        self._legs = Legs(endpoint, settings, new_token, self.trunks)
        replacing = Replacing(self._legs, new_token)
        self.unmoved = replacing.unmoved
        self._hearing = Hearing(self._legs, replacing)
        self._index = self._legs.index
        self._admission = Admission(settings, secret, new_token().encode())
        self._registrations = Registrations(settings)
        self._edge = Edge(settings, self._roster, secret, self._registrations.find, endpoint.refuse, self.counters)
        self._records = Records(settings, endpoint)
        self._hunting = Hunting(
            lambda: self.settings,
            lambda: self.directory,
            self._legs,
            self._edge,
            self._roster,
            self._registrations.find_flows,
        )
        self._calls = Calls(
            settings,
            self._legs,
            self._records,
            self.ports,
            self.counters,
            self._hunting.hunt,
            Refreshes(self._legs, replacing),
        )
        self._transfers = Transfers(
            self._legs,
            self._calls,
            self._hunting,
            self._admission,
            self._edge,
            lambda: self.directory,
            new_token,
            self.counters,
        )
        self._hearing.on_refer = self._transfers.refer
        self.calls = self._calls.live
        self.results = self._calls.results
        self.setup_seconds = self._calls.setup_seconds
        self.post_dial_seconds = self._calls.post_dial_seconds
        self.aside = AsideRecords(settings.node)
        bans = Bans(self.known_hosts) if bans is None else bans
        self.overload = Overload() if overload is None else overload
        self._shedding = Shedding(
            self.overload,
            endpoint.knows,
            lambda number: self.bindings.get(number, ()),
            lambda number: is_emergency(number, self.directory),
        )
        self.guard = Guard(settings.bans, bans, settings.seat, settings.node)
        self._written = (self._records.writes, self._registrations.writes, self.aside.writes, self.guard.writes)

    @property
    def bindings(self) -> Mapping[str, tuple[Binding, ...]]:
        """The registered contacts by number."""
        return self._registrations.bindings

    def tell_changes(self, on_change: Callable[[LiveCall], None]) -> None:
        """Let somebody know of every change of a call."""
        self._calls.on_change = on_change

    def __len__(self) -> int:
        """Calls, what is indexed of them, ports and transactions: 0 when no call has left anything behind."""
        return len(self.calls) + len(self._index) + len(self.ports) + len(self.endpoint)

    # Inputs

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called."""
        times = (
            self._calls.deadline,
            self.endpoint.deadline,
            self._registrations.deadline,
            self._records.deadline,
            self.aside.deadline,
            self.trunks.deadline,
            self.guard.deadline,
            self._legs.over_trunks.deadline,
        )
        return min((at for at in times if at is not None), default=None)

    def received(self, now: float, flow: Flow, message: Request | Response) -> Outcome:
        """A message came in."""
        forwarded = self._edge.take(now, flow, message)
        if forwarded is not None:
            return Outcome([], [], forwarded, [])
        if self.overload.is_limiting and isinstance(message, Request):
            retry_after = self._shedding.retry_after(now, message)
            if retry_after:
                return self._shed(message, flow, retry_after)
        outputs = self.endpoint.receive(now, readable(message), flow)
        if self.endpoint.counters.malformed != self._broken:
            self._broken = self.endpoint.counters.malformed
            if self.guard.offended(now, flow.remote.host, Offence.MALFORMED):
                outputs = []
        self._take(now, outputs)
        return self._outcome(now)

    def _shed(self, request: Request, flow: Flow, retry_after_s: int) -> Outcome:
        """Refuse a request without keeping anything of it."""
        self.counters["calls_shed" if request.method == "INVITE" else "registrations_shed"] += 1
        refusal = self.endpoint.refuse(request, flow, 503, ("Retry-After", str(retry_after_s)))
        return Outcome([], [], [output for output in refusal if isinstance(output, Send)], [])

    def malformed(self, now: float, flow: Flow, data: bytes, error: MalformedMessage) -> Outcome:
        """Something came in that is no message: answered as far as it says who sent it (RFC 3261 section 8.2.7)."""
        self.counters["malformed"] += 1
        request = salvage_request(data) if error.status is not None else None
        if not self.guard.offended(now, flow.remote.host, Offence.MALFORMED) and request is not None:
            self._take(now, self.endpoint.refuse(request, flow, error.status or 400))
        return self._outcome(now)

    def lost(self, now: float, flow: Flow, why: str) -> Outcome:
        """A flow is gone."""
        self._edge.lost(now, flow)
        self._registrations.lost(flow)
        self.trunks.lost(now, flow)
        self._take(now, self.endpoint.lost(now, flow, why))
        return self._outcome(now)

    def tick(self, now: float) -> Outcome:
        """Time has passed."""
        self._take(now, self.endpoint.tick(now))
        self._calls.tick(now)
        self._records.tick(now)
        self._registrations.tick(now)
        self.trunks.tick(now)
        self.guard.tick(now)
        for live_call, leg_id in self._legs.over_trunks.silent(now, self.calls):
            self._calls.feed(now, live_call, Silent(leg_id, Cause(408, "No response")))
        for kind, key, left in self.aside.tick(now):
            if kind is Kind.CALL:
                self._calls.orders.append(Drop(key))
            if left.session is not None:
                self.ports.give_back(now, tuple(ports_of(left.session)))
        return self._outcome(now)

    def heard_from_media(self, now: float, event: MediaEvent) -> Outcome:
        """The media process has something to tell."""
        live_call = self.calls.get(event.session)
        if live_call is not None and live_call.session is not None:
            match event:
                case Latched():
                    live_call.session = with_latched(live_call.session, event.port, event.address, rtcp=event.rtcp)
                    self._calls.touch(live_call)
                case FellSilent():
                    self._calls.fell_silent(now, live_call, event.port)
                case RolledOver():
                    live_call.session = with_rolled(live_call.session, event.port, event.rolled)
                    self._calls.touch(live_call)
                case Played():
                    self._calls.feed(now, live_call, SoundsEnded())
                case _:
                    # Key presses (RFC 4733) go from phone to phone as they are; menus will want them here.
                    pass
        return self._outcome(now)

    def media_refused(self, now: float, call_id: str, why: str) -> Outcome:
        """The media process could not do as ordered: the call has no voice, and ends."""
        self.counters["media_refused"] += 1
        return self.stop_call(now, call_id, cause(500, why))

    def resolved(self, now: float, lookup: Lookup, flow: Flow | None) -> Outcome:
        """A look-up has ended: where the callee is, or None where its name leads nowhere."""
        live_call = self.calls.get(lookup.call)
        if live_call is not None and live_call.call.leg(lookup.leg).phase is LegPhase.DIALLING:
            if flow is None:
                self._calls.feed(now, live_call, Failed(lookup.leg, Cause(480, "Name not resolved")))
            else:
                self._legs.dial(now, live_call, lookup.leg, flow)
                self._calls.touch(live_call)
        elif live_call is not None:
            self._calls.feed(now, live_call, Failed(lookup.leg, Cause(487, "Cancelled")))
        return self._outcome(now)

    def trunk_resolved(self, now: float, lookup: TrunkLookup, flows: Sequence[Flow], why: str) -> Outcome:
        """A trunk's look-up has ended: its addresses, best first, or why there are none."""
        self.trunks.resolved(now, lookup, flows, why)
        return self._outcome(now)

    def trunk_status(self, now: float) -> list[TrunkStatus]:
        """How every trunk is doing, by name."""
        return self.trunks.status(now, self._legs.over_trunks.all_channels())

    def changed(self, now: float, change: Change, cause: Cause | None) -> Outcome:
        """The setting was changed that a call waits for, or cannot be."""
        live_call = self.calls.get(change.call)
        if live_call is not None:
            done = (Take(DONE, live_call.call.dialled),) if cause is None else ()
            self._calls.feed(now, live_call, Led(done, cause=cause))
        return self._outcome(now)

    def stop_call(self, now: float, call_id: str, cause: Cause) -> Outcome:
        """End a call from our side. Nothing happens where there is none of that id."""
        live_call = self.calls.get(call_id)
        if live_call is not None:
            self._calls.feed(now, live_call, Stopped(cause))
        return self._outcome(now)

    def replace_directory(self, now: float, directory: Directory) -> Outcome:
        """Other extensions from now on. Bindings of extensions that are no more go; calls in progress stay."""
        self.directory = self._legs.secrecy.directory = directory
        self._registrations.keep_known(directory)
        self.trunks.use(now, directory.plan.trunks)
        return self._outcome(now)

    def restore(
        self,
        now: float,
        bindings: Mapping[str, bytes],
        calls: Mapping[str, bytes],
        aside: Mapping[str, bytes] | None = None,
        trunks: Mapping[str, bytes] | None = None,
        bans: Mapping[str, bytes] | None = None,
    ) -> tuple[Outcome, list[Unread]]:
        """Go on where an earlier process ended: its records as the store has them; `aside` are those that were kept
        aside before. The second value names the records that could not be read. None of them keeps another from being
        so.
        """
        self.aside.restore(now, aside or {})
        unread = [
            self.aside.take(now, Kind.BINDING, number, bindings[number], error)
            for number, error in self._registrations.restore(now, bindings).items()
        ]
        unread += [
            self.aside.take(now, Kind.TRUNK, name, (trunks or {})[name], error)
            for name, error in self.trunks.restore(now, trunks or {}).items()
        ]
        if self.directory.revision >= 0:
            self._registrations.keep_known(self.directory)
        restore = Restore(self.settings, self.endpoint, self._calls, self._legs, self._records, self.aside)
        unread += restore.take(now, calls)
        for live_call in self.calls.values():
            self._hunting.resume(live_call.call)
        self.ports.claim(restore.ports)
        restore.end_left_behind(now)
        unread += [
            self.aside.take(now, Kind.BAN, key, (bans or {})[key], error)
            for key, error in self.guard.restore(now, bans or {}).items()
        ]
        return self._outcome(now), unread

    def set_aside(self, now: float, kind: Kind, key: str, record: bytes, why: str) -> Outcome:
        """A record that somebody else could not read is kept aside."""
        self.aside.put(now, kind, key, record, why)
        return self._outcome(now)

    def ban(self, now: float, address: str, duration_s: float, why: str, by: str) -> Outcome:
        """Shut an address (as `limit_key` spells it) out of the whole cluster."""
        self.guard.ban(now, address, duration_s, why, by, forced=True)
        return self._outcome(now)

    def lift(self, now: float, key: str, by: str) -> Outcome:
        """End the ban of that key, wherever it was made. Nothing happens where there is none."""
        self.guard.lift(now, key, by)
        return self._outcome(now)

    @property
    def session_ids(self) -> set[str]:
        """The media sessions of the seat: those of its calls, and those of a newer version's calls."""
        return self.calls.keys() | {key for kind, key in self.aside.left if kind is Kind.CALL}

    def sessions(self) -> list[Order]:
        """The whole media as it shall be: for a media process that knows nothing of it."""
        theirs = [left.session for left in self.aside.left.values()]
        sessions = [*(live_call.session for live_call in self.calls.values()), *theirs]
        return [Put(session) for session in sessions if session is not None]

    def everything(self) -> list[Write]:
        """All records of the seat as they should be now, for a store that may have lost them."""
        calls = [self._records.record_of(live_call) for live_call in self.calls.values()]
        left = [Write(kind, key, left.record) for (kind, key), left in self.aside.left.items()]
        bindings = map(self._registrations.record_of, self.bindings)
        return [*calls, *bindings, *self.trunks.everything(), *self.guard.records(), *left]

    def known_hosts(self, now: float) -> Iterator[str]:
        """The hosts from which phones are registered, or in calls."""
        for bindings in self.bindings.values():
            yield from (binding.flow.remote.host for binding in bindings if binding.expires_at > now)
        for live_call in self.calls.values():
            yield from (leg.flow.remote.host for leg in live_call.legs.values())

    # What the endpoint says

    def _take(self, now: float, outputs: Sequence[Output]) -> None:
        for output in outputs:
            match output:
                case Send():
                    self._legs.outputs.append(output)
                case Arrived():
                    self._arrived(now, output)
                case Replied():
                    self._replied(now, output)
                case AckArrived():
                    request = output.request
                    dialog = self._index.find_dialog(request.call_id, request.to.tag or "")
                    if dialog is not None:
                        self._calls.feed_all(
                            now, dialog[0], self._hearing.acknowledged(now, *dialog, request, output.flow)
                        )
                case Cancelled():
                    found = self._index.find_transaction(output.key)
                    if found is not None:
                        live_call, leg_id, role = found
                        self._calls.feed_all(now, live_call, self._hearing.cancelled(leg_id, role, output.request))
                case TimedOut():
                    self._failed(now, output.key, Cause(408, "No response"))
                case Unreachable():
                    self._failed(now, output.key, cause(480, output.why))
                case AckMissing():
                    found = self._index.find_transaction(output.key)
                    if found is not None:
                        live_call, leg_id, role = found
                        self._calls.feed_all(now, live_call, self._hearing.unacknowledged(live_call, leg_id, role))
                case _:
                    assert_never(output)

    def _replied(self, now: float, replied: Replied) -> None:
        found = self._index.find_transaction(replied.key)
        if found is None:
            self.trunks.replied(now, replied)
            return
        live_call, leg_id, role = found
        try:
            events = self._hearing.replied(now, live_call, leg_id, role, replied)
        except MalformedMessage as error:
            # A response that cannot be understood is no answer: its transaction has failed (RFC 3261 section 8.1.3.3).
            self.counters["rejected_responses"] += 1
            events = self._hearing.failed(live_call, leg_id, role, replied.key, cause(500, str(error)))
        self._calls.feed_all(now, live_call, events)

    def _failed(self, now: float, key: str, cause: Cause) -> None:
        found = self._index.find_transaction(key)
        if found is not None:
            live_call, leg_id, role = found
            if role == "invite":
                self._legs.over_trunks.unreached(now, live_call.legs[leg_id])
            self._calls.feed_all(now, live_call, self._hearing.failed(live_call, leg_id, role, key, cause))
        else:
            self.trunks.failed(now, key, cause.text)

    def _arrived(self, now: float, arrived: Arrived) -> None:
        request = arrived.request
        proven = False
        try:
            to_tag = request.to.tag
            if to_tag:
                found = self._find_dialog(request, to_tag)
                if found is None:
                    self._respond_once(arrived, 481)
                    return
                # Our tag cannot be guessed: this is the peer, or somebody who could as well send in its name.
                proven = True
                check_request(request, methods=METHODS, extensions=EXTENSIONS)
                events = self._hearing.in_dialog(now, *found, arrived.key, request, arrived.flow)
                self._calls.feed_all(now, found[0], events)
                return
            check_request(request, methods=METHODS, extensions=EXTENSIONS)
            match request.method:
                case "REGISTER" | "INVITE":
                    sender = self._sender_of(now, arrived)
                    if isinstance(sender, Refusal):
                        self._refuse(now, arrived, sender)
                        return
                    proven = True
                    if isinstance(sender, Caller):
                        self._invite(now, arrived, sender)
                    else:
                        self._register(now, arrived, sender)
                case "OPTIONS":
                    self._options(now, arrived)
                case "REFER":
                    # It would have us call anybody for nobody.
                    self._respond_once(arrived, 403)
                case _:
                    # BYE, INFO and UPDATE are nothing outside a dialog.
                    self._respond_once(arrived, 481)
        except MalformedMessage as error:
            self.counters["rejected_requests"] += 1
            self._refuse(now, arrived, Refusal(error.status or 400, _explanation(error), proven=proven))

    def _find_dialog(self, request: Request, to_tag: str) -> tuple[LiveCall, str] | None:
        found = self._index.find_dialog(request.call_id, to_tag)
        if found is None:
            return None
        return found if found[0].legs[found[1]].is_peer(request) else None

    def _respond(self, now: float, arrived: Arrived, status: int, *fields: tuple[str, str], reason: str = "") -> None:
        response = arrived.request.respond(
            status, *fields, ("Server", self.settings.user_agent), to_tag=self._new_token(), reason=reason
        )
        self._legs.outputs += self.endpoint.respond(now, arrived.key, response)

    def _respond_once(self, arrived: Arrived, status: int, *fields: tuple[str, str]) -> None:
        """Answer somebody who may be anybody: no state is kept, and no answer repeated to an address that may be forged
        (RFC 3261 section 26.3.2.4).
        """
        request = arrived.request
        response = request.respond(status, *fields, ("Server", self.settings.user_agent), to_tag=stateless_tag(request))
        self._legs.outputs += self.endpoint.respond_once(arrived.key, response)

    # Requests outside dialogs

    def _options(self, now: float, arrived: Arrived) -> None:
        if is_scanner(arrived.request):
            self.guard.offended(now, arrived.flow.remote.host, Offence.SCANNER)
            self.endpoint.drop(arrived.key)
            return
        about = (ALLOW, ("Accept", SDP_TYPE), ("Supported", ", ".join(sorted(EXTENSIONS))))
        if self.accepts_calls and self.media_works:
            self._respond_once(arrived, 200, *about)
        else:
            self._respond_once(arrived, 503, RETRY_AFTER, *about)

    def _sender_of(self, now: float, arrived: Arrived) -> Extension | Caller | Refusal:
        """Whose REGISTER or INVITE this is, if it may be asked at all."""
        request = arrived.request
        trunk = None
        if request.method == "INVITE" and self.trunks:
            trunk = self.trunks.find_caller(arrived.flow, request)
        if trunk is None and self.guard.bars(arrived.flow.remote.host, request):
            return IGNORED
        if request.method == "REGISTER":
            return self._admission.judge_registration(now, request, self.directory)
        if self._index.is_ours(request.call_id):
            return Refusal(482)
        if (seat := self._transfers.find_seat(request)) is not None:
            return seat
        is_full = not self.accepts_calls or len(self.calls) >= self.settings.calls_max
        if not self.media_works or (is_full and not is_emergency(request.uri.username, self.directory)):
            return Refusal(503, (RETRY_AFTER,), "calls_shed")
        if trunk is not None:
            return self._admission.judge_outsider(request, trunk, self.trunks.contact_user(trunk.name))
        return self._admission.judge_caller(now, request, self.directory)

    def _refuse(self, now: float, arrived: Arrived, refusal: Refusal) -> None:
        if refusal.counter:
            self.counters[refusal.counter] += 1
        if refusal.proven:
            self._respond(now, arrived, refusal.status, *refusal.fields)
        elif self.guard.ignores(now, arrived, refusal, self.directory):
            self.endpoint.drop(arrived.key)
        else:
            self._respond_once(arrived, refusal.status, *refusal.fields)

    def _register(self, now: float, arrived: Arrived, extension: Extension) -> None:
        request = arrived.request
        refusal = self._admission.judge_transport(extension.srtp, arrived.flow.transport)
        if refusal is not None:
            self._refuse(now, arrived, refusal)
            return
        done = self._registrations.register(now, extension.number, request, arrived.flow)
        if done.status != 200:
            self._respond(now, arrived, done.status, *done.fields, reason=done.reason)
            return
        self.counters["registrations"] += 1
        self.aside.forget(Kind.BINDING, extension.number)
        for old in done.moved:
            self._legs.outputs += self.endpoint.move_all(old, arrived.flow)
        if done.moved:
            for live_call in self._index.calls_of(extension.number):
                for old in done.moved:
                    self._legs.move(live_call, old, arrived.flow)
                self._calls.touch(live_call)
        paths = [("Path", value) for value in request.get_all("Path")]
        self._respond(now, arrived, 200, *contact_fields(done.bindings, now), *done.fields, *paths)

    def _invite(self, now: float, arrived: Arrived, caller: Caller) -> None:
        request = arrived.request
        policy = Policy.OFF if caller.trunk or caller.is_seat else self._legs.secrecy.policy_of(caller.number)
        wanted = self._admission.judge_call(request, caller, policy, arrived.flow.transport)
        if isinstance(wanted, Refusal):
            self._refuse(now, arrived, wanted)
            return
        if request.get("Replaces") is not None and not caller.trunk:
            refusal = self._transfers.pick_up(now, arrived.key, request, arrived.flow, wanted)
            if refusal is not None:
                self._refuse(now, arrived, refusal)
            return
        leg = self._legs.inbound_leg(arrived.key, request, arrived.flow)
        call_id = self._new_token()
        if caller.trunk:
            leg = replace(leg, trunk=TrunkLeg(caller.trunk))
            way = self._hunting.way_in(now, caller, call_id)
        else:
            way = self._hunting.dialled(now, caller.number, caller.dialled, call_id)
        try:
            ports = self._take_ports(now, wanted.streams, way)
        except PortsExhausted:
            self._refuse(now, arrived, Refusal(503, (RETRY_AFTER,), "ports_exhausted", proven=True))
            return
        call = Call(
            id=call_id,
            caller=Leg(
                CALLER,
                wanted.caller.number,
                LegPhase.OFFERED,
                host=self.settings.media_host_for(audio_host(wanted.sdp) or arrived.flow.remote.host),
            ),
            caller_name=wanted.caller.name,
            dialled=wanted.dialled,
            ports=ports,
            sdp_id=int(now),
            started_at=now,
            no_answer_at=now + self.settings.no_answer_s,
            max_duration_s=self.settings.max_duration_s,
            sip_call_id=request.call_id[:255],
            visited=way.visited,
            diverted=way.diverted,
        )
        self._legs.outputs += self.endpoint.respond(now, arrived.key, request.respond(100))
        live_call = self.calls[call.id] = LiveCall(call, wanted.hops)
        self._legs.open_inbound(live_call, leg, request, wanted.srtp)
        if leg.trunk is not None:
            self._legs.over_trunks.take_channel(live_call, leg)
        self.counters["calls"] += 1
        if way.steps:
            call, effects = start_call(call, now, way.steps, wanted.sdp)
        else:
            call, effects = start_nowhere(call, now, way.cause)
        self._calls.advance(now, live_call, call, effects)

    def _take_ports(self, now: float, slots: int, way: Way) -> Ports:
        """The ports of a new call: a side's worth for an application, both sides' to ring somebody."""
        host = self.settings.media_host
        if not way.steps:
            return Ports(host, ())
        if isinstance(way.steps[0], Take):
            return Ports(host, self.ports.take(now, slots))
        taken = self.ports.take(now, 2 * slots)
        return Ports(host, taken[:slots], taken[slots:])

    # The outcome

    def _outcome(self, now: float) -> Outcome:
        calls, trunks, changes = self._calls, self.trunks, self._hunting.changes
        calls.settle_touched(now)
        said = self._legs.outputs
        sends = [x for x in said if type(x) is Send]
        said.clear()
        writes: list[Write] = []
        for made in self._written:
            if made:
                writes += made
                made.clear()
        lookups: list[Lookup | TrunkLookup | Change] = []
        if calls.lookups or changes:
            lookups = [*calls.lookups, *changes]
            calls.lookups = []
            changes.clear()
        if trunks.has_something_to_do:
            sends += [x for x in trunks.outputs if isinstance(x, Send)]
            writes += trunks.writes
            lookups += trunks.lookups
            trunks.clear()
        outcome = Outcome(writes, calls.orders, sends, lookups)
        calls.orders = []
        return outcome


def _explanation(error: MalformedMessage) -> tuple[tuple[str, str], ...]:
    return error.fields if isinstance(error, Refused) else ()
