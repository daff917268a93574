"""The trunks of a seat as a machine: looked up (RFC 3263), probed, registered, and known by their addresses.

What is to be said, stored, looked up and told people is left in `outputs`, `writes`, `lookups` and `news`, for the
owner to take. Nothing here knows calls.
"""

import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from math import inf
from typing import Final

from msgspec.structs import replace

from warden.core.address import Flow, Transport
from warden.core.deadlines import Deadlines
from warden.core.errors import WardenError
from warden.core.versions import Extras, Unreadable
from warden.sip.endpoint import Endpoint, Output, Replied
from warden.sip.message import Request, Response
from warden.sip.uri import NameAddr, Uri
from warden.store.ports import Kind, Write
from warden.switch.causes import cause
from warden.switch.outcome import TrunkLookup
from warden.switch.restart import CSEQ_STEP
from warden.switch.roster import Roster
from warden.switch.settings import Settings
from warden.switch.trunks.proof import challenges_of, proof
from warden.switch.trunks.registering import AVOID_S, Registering
from warden.switch.trunks.sealed import unseal
from warden.switch.trunks.state import (
    SCHEMA,
    TRUNKS,
    LiveTrunk,
    Target,
    TargetStatus,
    TrunkRecord,
    TrunkStatus,
    transport_params,
)
from warden.switch.trunks.trunk import Identity, Trunk, target_uri

TARGETS_MAX: Final = 16
"""Addresses of one trunk: as many as a caller has the patience to have tried."""
LOOKUP_S: Final = 60.0
"""How often a trunk's names are looked up; the resolver answers from its memory while an answer's TTL lasts."""
LOOKUP_AGAIN_S: Final = 5.0
RECONNECT_S: Final = 1.0
"""How soon a carrier whose connection is gone is registered with over another; one that closes each at once is not
asked more often."""
PROBE_DOWN_S: Final = 5.0
"""How often a target is asked that does not answer: it is in service again this soon."""


class Trunks:
    """`roster` tells which seats there are: the first by name registers a trunk that names none."""

    def __init__(self, settings: Settings, endpoint: Endpoint, secret: bytes, roster: Roster) -> None:
        self.writes: list[Write] = []
        self.outputs: list[Output] = []
        self.lookups: list[TrunkLookup] = []
        self.news: list[str] = []
        self._settings = settings
        self._endpoint = endpoint
        self._secret = secret
        self._roster = roster
        self._live: dict[str, LiveTrunk] = {}
        self._deadlines: Deadlines[str] = Deadlines()
        self._probes: dict[str, tuple[LiveTrunk, Target]] = {}
        self._extras: dict[str, Extras] = {}
        self._registering = Registering(settings, endpoint, self.outputs, self._is_home)
        self._by_contact: dict[str, LiveTrunk] = {}
        self._networks: list[tuple[IPv4Network | IPv6Network, LiveTrunk]] = []
        self._by_flow: dict[tuple[object, ...], LiveTrunk] = {}

    def __len__(self) -> int:
        return len(self._live)

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called."""
        return self._deadlines.earliest

    @property
    def has_something_to_do(self) -> bool:
        """True where the owner has something to take."""
        return bool(self.outputs or self.writes or self.lookups)

    def clear(self) -> None:
        """The owner has taken everything but the news."""
        self.outputs.clear()
        self.writes.clear()
        self.lookups.clear()

    def take_news(self) -> list[str]:
        """Sentences for the log: each change once."""
        if not self.news:
            return []
        news, self.news = self.news, []
        return news

    # What the owner says

    def use(self, now: float, trunks: Mapping[str, Trunk]) -> None:
        """These are the trunks from now on. One that has changed begins anew, calls that it carries go on."""
        for name in [n for n in self._live if n not in trunks]:
            self._end(now, self._live.pop(name))
        self._use_all(now, trunks)
        self._networks = [(network, live) for live in self._live.values() for network in live.trunk.networks]

    def _use_all(self, now: float, trunks: Mapping[str, Trunk]) -> None:
        for name, trunk in trunks.items():
            old = self._live.get(name)
            if old is not None and _way(old.trunk) == _way(trunk):
                old.trunk = trunk
                continue
            if old is not None:
                self._end(now, old)
            live = self._live[name] = self._begin(now, trunk)
            self._by_contact[live.contact_user] = live
            self._arm(live)

    def restore(self, now: float, records: Mapping[str, bytes]) -> dict[str, Unreadable]:
        """Go on where an earlier process ended; gives the names whose record could not be read, and why. Records of
        trunks that are no more are deleted.
        """
        unreadable = {}
        for name, record in records.items():
            live = self._live.get(name)
            if live is None:
                self.writes.append(Write(Kind.TRUNK, name, None))
                continue
            try:
                known, extras = TRUNKS.decode(record)
            except Unreadable as error:
                unreadable[name] = error
                continue
            if extras is not None:
                self._extras[name] = extras
            live.written = known
            self._set_targets(now, live, [flow._replace(connection=0) for flow in known.flows])
            if known.registration is not None and live.trunk.register:
                old = known.registration
                # Connections do not outlive their process, and calls may come over them alone.
                is_cut_off = any(flow.transport.reliable for flow in known.flows)
                due = min(old.due, now) if is_cut_off else old.due
                live.registration = replace(old, seq=old.seq + CSEQ_STEP, due=due)
            self._arm(live)
        return unreadable

    def tick(self, now: float) -> None:
        """Do what is due."""
        while (name := self._deadlines.pop_due(now)) is not None:
            live = self._live[name]
            self._work(now, live)
            self._settle(now, live)

    def resolved(self, now: float, lookup: TrunkLookup, flows: Sequence[Flow], why: str) -> None:
        """A look-up has ended: the addresses, best first, or why there are none. What was known before stays then."""
        live = self._live.get(lookup.trunk)
        if live is None or lookup.uri not in live.looking:
            return
        live.looking.discard(lookup.uri)
        if flows:
            live.found[lookup.uri] = tuple(flows)
        else:
            live.lookup_due = min(live.lookup_due, now + LOOKUP_AGAIN_S)
        if not live.looking:
            found = [flow for target in live.trunk.targets for flow in live.found.get(target_uri(target), ())]
            if found:
                self._set_targets(now, live, list(dict.fromkeys(found))[:TARGETS_MAX])
            live.lookup_error = "" if found or live.targets else why
        self._settle(now, live)

    def replied(self, now: float, replied: Replied) -> bool:
        """A response came; False where it is to no request of ours."""
        status = replied.response.status
        if (probe := self._probes.get(replied.key)) is not None:
            if status >= 200:
                # Nothing hangs on what may come again.
                self._endpoint.drop(replied.key)
                self._probed(now, *probe, "" if status != 503 else f"503 from {probe[1].address}")
            return True
        live = self._registering.find(replied.key)
        if live is None:
            return False
        if status >= 200:
            self._registering.answered(now, live, replied.response)
            self._settle(now, live)
        return True

    def failed(self, now: float, key: str, why: str) -> bool:
        """A request had no answer, or could not be sent; False where it was none of ours."""
        if (probe := self._probes.get(key)) is not None:
            self._probed(now, *probe, f"{why} from {probe[1].address}")
            return True
        live = self._registering.find(key)
        if live is None:
            return False
        self._registering.not_answered(now, live, why)
        self._settle(now, live)
        return True

    def lost(self, now: float, flow: Flow) -> None:
        """A connection is gone: a carrier that calls us over it has to be given another."""
        for live in self._live.values() if flow.transport.reliable else ():
            asked_at, registration = live.asked_at, live.registration
            if registration is None or asked_at is None or live.asked or not live.is_registered(now):
                continue
            if (asked_at.flow.transport, asked_at.address) == (flow.transport, flow.remote):
                live.registration = replace(registration, due=min(registration.due, now + RECONNECT_S))
                self._arm(live)

    def suspect(self, now: float, name: str, flow: Flow, seconds: float = 0.0) -> None:
        """A call found no help at this address: others are tried first for a while."""
        live = self._live.get(name)
        for target in live.targets if live is not None else ():
            if target.flow == flow:
                target.avoid_until = now + (seconds or AVOID_S)
                if live is not None and live.trunk.probe_s and not target.key:
                    target.due = now
                    self._arm(live)

    def refused(self, now: float, name: str, flow: Flow, response: Response | None) -> None:
        """A carrier has refused a call at this address, or taken one (None). Of refusals only those of ourselves
        matter here.
        """
        live = self._live.get(name)
        if live is None:
            return
        error = ""
        if response is not None:
            if response.status not in (401, 407):
                return
            said = cause(response.status, response.reason)
            user = live.trunk.username or "nobody"
            error = f"{said.status} {said.text} to a call of user {user} at {flow.remote}: check username and password"
        if error != live.call_error:
            live.call_error = error
            self._settle(now, live)

    # What the owner asks

    def find(self, name: str) -> Trunk | None:
        """The trunk of that name."""
        live = self._live.get(name)
        return None if live is None else live.trunk

    def flows(self, now: float, name: str, *, even_down: bool = False) -> list[Flow]:
        """Where a call through the trunk is to be tried, in order; `even_down` also where nobody answers probes."""
        live = self._live.get(name)
        if live is None:
            return []
        likely = [t for t in live.targets if t.is_likely(now)]
        others = [t for t in live.targets if t not in likely and (even_down or t.is_up is not False)]
        return [target.flow for target in (*likely, *others)]

    def error(self, name: str) -> str:
        """What is wrong with the trunk, in one sentence, "" for nothing."""
        live = self._live.get(name)
        return f"trunk {name}: there is none of that name" if live is None else live.error

    @property
    def errors(self) -> list[str]:
        """What is wrong with any of them."""
        return [live.error for _, live in sorted(self._live.items()) if live.error]

    def contact_user(self, name: str) -> str:
        """The user part of our Contact towards the trunk, by which its calls are known."""
        return self._live[name].contact_user if name in self._live else ""

    def proof(self, name: str, response: Response, request: Request, cnonce: str) -> tuple[str, str] | None:
        """The field that answers the carrier's challenge; None where we have none."""
        live = self._live.get(name)
        if live is None or not live.password:
            return None
        user, password = live.trunk.username, live.password
        return proof(challenges_of(response), response.status, request, username=user, password=password, cnonce=cnonce)

    def find_caller(self, flow: Flow, request: Request) -> Trunk | None:
        """The trunk that a request comes from: by the token in our Contact, which only its registrar knows, or by the
        address that it comes from. None over a WebSocket, which no carrier has: any page opens one from its reader's
        address.
        """
        if flow.transport in (Transport.WS, Transport.WSS):
            return None
        live = self._by_contact.get(request.uri.user or "") or self._by_flow.get(_source(flow))
        if live is None and self._networks:
            host = ip_address(flow.remote.host)
            live = next((live for network, live in self._networks if host in network), None)
        return live.trunk if live is not None else None

    def sources(self) -> Iterator[str]:
        """The addresses and networks of carriers."""
        yield from (str(network) for network, _ in self._networks)
        yield from (target.flow.remote.host for live in self._live.values() for target in live.targets)

    def status(self, now: float, channels: Mapping[str, int]) -> list[TrunkStatus]:
        """Every trunk, by name. `channels` are the calls of each."""
        return [
            TrunkStatus(
                name,
                self._settings.seat,
                self._is_up(live),
                live.is_registered(now) if live.registration is not None else None,
                live.registration.until if live.registration is not None else 0.0,
                channels.get(name, 0),
                live.trunk.channels_max,
                tuple(TargetStatus(str(t.address), t.flow.transport.value, t.is_up, t.why) for t in live.targets),
                live.error,
            )
            for name, live in sorted(self._live.items())
        ]

    def everything(self) -> Iterator[Write]:
        """All records as they should be now."""
        for name, live in self._live.items():
            if live.written is not None:
                yield Write(Kind.TRUNK, name, TRUNKS.encode(live.written, self._extras.get(name)))

    # Life of a trunk

    def _begin(self, now: float, trunk: Trunk) -> LiveTrunk:
        # The same at every node and after every restart: the carrier goes on using what it has been told.
        mac = hmac.new(self._secret, b"warden trunk contact " + trunk.name.encode(), hashlib.sha256)
        live = LiveTrunk(trunk, f"t{mac.hexdigest()[:24]}", now)
        if trunk.password:
            try:
                live.password = unseal(self._secret, trunk.password)
            except WardenError as error:
                live.password_error = str(error)
        return live

    def _end(self, now: float, live: LiveTrunk) -> None:
        """Nothing more is asked in its name; a registrar is told so once."""
        name = live.trunk.name
        self._registering.unregister(now, live)
        for key, (owner, target) in list(self._probes.items()):
            if owner is live:
                self._drop_probe(key, target)
        self._by_contact.pop(live.contact_user, None)
        self._by_flow = {source: owner for source, owner in self._by_flow.items() if owner is not live}
        self._deadlines.clear(name)
        self._extras.pop(name, None)
        if live.written is not None:
            self.writes.append(Write(Kind.TRUNK, name, None))

    def _set_targets(self, now: float, live: LiveTrunk, flows: Sequence[Flow]) -> None:
        old = {target.flow: target for target in live.targets}
        if list(old) == list(flows):
            return
        for flow, target in old.items():
            if flow not in flows:
                self._drop_probe(target.key, target)
        probes = live.trunk.probe_s > 0
        live.targets = [old.get(flow) or Target(flow, now if probes else inf) for flow in flows]
        self._by_flow = {source: owner for source, owner in self._by_flow.items() if owner is not live}
        self._by_flow.update((_source(flow), live) for flow in flows)

    def _arm(self, live: LiveTrunk) -> None:
        self._deadlines.set(live.trunk.name, live.deadline)

    def _settle(self, now: float, live: LiveTrunk) -> None:
        """What has changed is stored and told."""
        record = TrunkRecord(SCHEMA, tuple(target.flow for target in live.targets), live.registration)
        if record != live.written and (record.flows or record.registration is not None):
            live.written = record
            self.writes.append(
                Write(Kind.TRUNK, live.trunk.name, TRUNKS.encode(record, self._extras.get(live.trunk.name)))
            )
        known = any(target.is_up is not None for target in live.targets)
        said = (live.error, live.is_registered(now), self._is_up(live) if known else None)
        if said != live.said:
            if sentence := self._sentence(live, *said, before=live.said):
                self.news.append(sentence)
            live.said = said
        self._arm(live)

    def _sentence(
        self, live: LiveTrunk, error: str, is_registered: object, is_up: object, *, before: tuple[object, ...]
    ) -> str:
        was_wrong, was_registered, was_up = before or ("", False, None)
        if error:
            return error if error != was_wrong else ""
        if is_registered and not was_registered:
            return f"trunk {live.trunk.name}: registered"
        if is_up and (was_up is False or was_wrong):
            return f"trunk {live.trunk.name}: answers"
        return ""

    def _is_up(self, live: LiveTrunk) -> bool:
        is_reachable = any(target.is_up is not False for target in live.targets)
        return is_reachable and not live.password_error

    # Work

    def _work(self, now: float, live: LiveTrunk) -> None:
        if live.lookup_due <= now:
            live.lookup_due = now + (LOOKUP_S if live.targets else LOOKUP_AGAIN_S)
            for named in live.trunk.targets:
                uri = target_uri(named)
                if uri not in live.looking:
                    live.looking.add(uri)
                    self.lookups.append(TrunkLookup(live.trunk.name, uri))
        for target in live.targets:
            if target.due <= now:
                if target.key:
                    self._endpoint.drop(target.key)
                    self._probed(now, live, target, f"no answer from {target.address}")
                else:
                    self._probe(now, live, target)
        self._registering.keep(now, live)

    def _is_home(self, live: LiveTrunk) -> bool:
        """True at the seat that keeps the trunk registered."""
        seat = self._settings.seat
        return (live.trunk.seat or min((seat, *self._settings.seats, *self._roster.addresses))) == seat

    def _probe(self, now: float, live: LiveTrunk, target: Target) -> None:
        flow = target.flow
        ours = self._settings.address_for(flow)
        from_ = NameAddr(Uri("sip", ours.host, user="warden")).with_tag(f"p{target.address.port}")
        uri = Uri("sip", target.address.host, port=target.address.port, params=transport_params(flow.transport))
        request = Request(
            "OPTIONS",
            str(uri),
            (
                ("Max-Forwards", "70"),
                ("From", str(from_)),
                ("To", f"<sip:{live.trunk.host}>"),
                ("Call-ID", f"probe-{live.contact_user[-6:]}-{now:.3f}@{ours.host}"),
                ("CSeq", "1 OPTIONS"),
                ("Contact", f"<sip:warden@{ours}>"),
                ("Accept", "application/sdp"),
                ("User-Agent", self._settings.user_agent),
            ),
        )
        target.key, outputs = self._endpoint.request(now, request, flow)
        target.due = now + live.trunk.answer_within_s
        self._probes[target.key] = live, target
        self.outputs += outputs

    def _probed(self, now: float, live: LiveTrunk, target: Target, why: str) -> None:
        self._probes.pop(target.key, None)
        target.key, target.is_up, target.why = "", not why, why
        every = live.trunk.probe_s
        target.due = now + (min(every, PROBE_DOWN_S) if why else every)
        if not why:
            target.avoid_until = 0.0
        self._settle(now, live)

    def _drop_probe(self, key: str, target: Target) -> None:
        if key:
            self._endpoint.drop(key)
            self._probes.pop(key, None)
            target.key = ""


def _way(trunk: Trunk) -> Trunk:
    """The trunk as far as its registration and its targets go."""
    return replace(
        trunk, caller_id="", from_user="", identity=Identity.NONE, trusts_identity=False, channels_max=0, accept_from=()
    )


def _source(flow: Flow) -> tuple[object, ...]:
    """By what a caller's address is known: over a stream its port is any."""
    return (flow.transport, flow.remote.host) if flow.transport.reliable else tuple(flow.remote)
