"""The edge of a seat: a stateless proxy (RFC 3261 section 16.11) between another seat, which carries a call, and a
phone that is registered at this one.

The other seat's INVITE names us in its Route, with a flow token; we add Via and Record-Route and keep nothing, so there
is nothing to be lost with a node. Only such requests are forwarded: in to the token's phone, out to a seat of the
cluster.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from warden.core.address import Address, Flow, Transport
from warden.core.errors import MalformedMessage
from warden.sip.message import MAGIC_COOKIE, Request, Response, Via, parse_via, print_via
from warden.sip.outputs import Output, Send
from warden.sip.routing import SIP_PORT, as_heard
from warden.sip.uri import Uri, parse_name_addr
from warden.switch.flow_token import PREFIX, FlowTokens, Reach, binding_key, reach_of
from warden.switch.registrar import Binding
from warden.switch.roster import Roster
from warden.switch.settings import Settings
from warden.switch.targets import at_port_of, flow_to

BRANCH: Final = f"{MAGIC_COOKIE}-edge-"
"""How the branches of forwarded requests begin: the endpoint's own are of hexadecimal digits."""
DIALOG_FORMING: Final = frozenset({"INVITE", "SUBSCRIBE", "REFER"})
HOPS: Final = 70
"""For a request without Max-Forwards (RFC 3261 section 16.6 step 3)."""
BACK: Final = "back"
"""The parameter of our Via that vouches for the one below it."""
LOST_FLOWS_MAX: Final = 20_000
"""Connections remembered as lost: as many as there may be at a time. A forgotten one is found lost once more."""
LOST_S: Final = 5.0
"""How long an address where nobody was is held for empty: a phone that restarts is back after that, and says so."""

_ROUTE: Final = f"sip:{PREFIX}"
FindBindings = Callable[[float, str], Iterable[Binding]]


class Refused(Exception):
    """The request is not forwarded: answer with `status`, or not at all where it is 0."""

    def __init__(self, status: int) -> None:
        self.status = status


class Elsewhere(Struct, frozen=True, gc=False):
    """The way to a phone of another seat: `flow` to that seat, and the Route set of the INVITE."""

    flow: Flow
    route: tuple[str, ...]


class Edge:
    """`find_bindings(now, number)` gives this seat's live bindings; `refuse` is `Endpoint.refuse`. `counters` counts
    what was forwarded and refused.
    """

    def __init__(
        self,
        settings: Settings,
        roster: Roster,
        secret: bytes,
        find_bindings: FindBindings,
        refuse: Callable[..., Sequence[Output]],
        counters: Counter[str],
    ) -> None:
        self._advertised = settings.advertised
        self._roster = roster
        self._address = settings.advertised.get(Transport.UDP)
        self._settings = settings
        self._ours = frozenset(
            (*settings.advertised.values(), *(settings.v6.advertised.values() if settings.v6 else ()))
        )
        self._tokens = FlowTokens(secret)
        self._find_bindings = find_bindings
        self._refuse = refuse
        self._counters = counters
        self._lost: dict[Flow, float] = {}

    def way_to(self, seat: str, number: str, binding: Binding) -> Elsewhere:
        """How to call a phone of another seat."""
        address = self._roster.addresses[seat]
        token = self._tokens.issue(address, reach_of(number, binding))
        flow = Flow(Transport.UDP, self._advertised[Transport.UDP], address)
        return Elsewhere(flow, (_route(address, token), *binding.path))

    def ways_elsewhere(self, but: str) -> list[Flow]:
        """The flows to the other seats of the cluster."""
        ours = self._advertised[Transport.UDP]
        return [Flow(Transport.UDP, ours, at) for seat, at in self._roster.addresses.items() if seat != but]

    def vouch(self, text: str) -> str:
        """What only a seat of the cluster can say about a text."""
        return self._tokens.mac(f"seat {text}")

    def lost(self, now: float, flow: Flow) -> None:
        """A flow is gone."""
        if not self._roster.addresses:
            return
        self._lost.pop(flow, None)
        while len(self._lost) >= LOST_FLOWS_MAX:
            del self._lost[next(iter(self._lost))]
        self._lost[flow] = now

    def take(self, now: float, flow: Flow, message: Request | Response) -> list[Send] | None:
        """What to send on for a message that was heard on `flow`; None where the message is not for the edge."""
        if not self._roster.addresses:
            return None
        if self._lost:
            # Whoever speaks is there. A connection that is lost never speaks again.
            self._lost.pop(flow._replace(connection=0), None)
        if isinstance(message, Response):
            return self._take_response(message)
        route = message.get("Route")
        if route is None or _ROUTE not in route:
            return None
        try:
            return self._take_request(now, flow, message)
        except MalformedMessage as error:
            self._counters["edge_refusals"] += 1
            return self._answer(message, flow, error.status or 400)

    # Requests

    def _take_request(self, now: float, flow: Flow, request: Request) -> list[Send] | None:
        routes = request.values("Route")
        top = parse_name_addr(routes[0]).uri
        if not self._is_ours(top):
            return None
        branch = self._branch(request.via, request)
        # The To tag of our refusals, by which their ACKs are known.
        tag = branch[len(BRANCH) :]
        if request.method == "ACK" and request.to.tag == tag:
            return []
        while routes and self._is_ours(parse_name_addr(routes[0]).uri):
            # Two of them where the phone's transport is not that of the seats (`_record_routes`).
            del routes[0]
        try:
            hops = _hops(request)
            reach = self._read_token(top)
            target = self._target(now, flow, request, reach, is_last_hop=not routes)
        except Refused as refused:
            self._counters["edge_refusals"] += 1
            return self._answer(request, flow, refused.status, tag) if refused.status else []
        self._counters["edge_requests"] += 1
        heard = _as_heard(request, flow)
        ours = self._settings.address_for(target) if target.transport in self._advertised else target.local
        via = print_via(target.transport, *ours, branch)
        fields = [("Via", f"{via};{BACK}={self._way_back(branch, self._target_of(heard.via))}")]
        if request.method in DIALOG_FORMING and request.to.tag is None:
            fields += self._record_routes(reach, target)
        fields += (("Route", value) for value in routes)
        fields.append(("Max-Forwards", str(hops - 1)))
        fields += (f for f in heard.fields if f[0] not in ("Route", "Max-Forwards"))
        return [Send(target, bytes(Request(request.method, request.target, tuple(fields), request.body)))]

    def _answer(self, request: Request, flow: Flow, status: int, tag: str = "") -> list[Send]:
        return [said for said in self._refuse(request, flow, status, to_tag=tag) if isinstance(said, Send)]

    def _read_token(self, route: Uri) -> Reach:
        assert self._address is not None, "asked before"
        reach = self._tokens.read(self._address, route.user or "")
        if reach is None:
            raise Refused(403)
        return reach

    def _target(self, now: float, flow: Flow, request: Request, reach: Reach, *, is_last_hop: bool) -> Flow:
        """Where a request goes that was heard on `flow`: out to the seat that its Request-URI names, else in to the
        token's phone.
        """
        uri, in_dialog = request.uri, request.to.tag is not None
        seat = Address(uri.host, uri.port or SIP_PORT)
        if seat != self._address and seat in self._roster.addresses.values():
            if not in_dialog:
                # Who wants something of another seat goes there, and is asked there who it is.
                raise Refused(403)
            return Flow(Transport.UDP, self._advertised[Transport.UDP], seat)
        binding = self._find_binding(now, reach)
        if binding is not None:
            # A contact that is a name is not looked up: the phone is where it registered from.
            target = flow_to(binding)[0]
            if binding.direct and is_last_hop:
                target = at_port_of(target, uri)
        else:
            if not in_dialog and request.method != "CANCEL":
                raise Refused(480)
            # Its registration has ended, and its call has not.
            if reach.transport not in self._advertised:
                raise Refused(430)
            local = self._settings.address_towards(reach.transport, reach.remote.host)
            target = Flow(reach.transport, local, reach.remote)
        if target == flow:
            # The phone itself asks, and it is for a seat that we do not know of just now: it says it again.
            raise Refused(0)
        if self._is_lost(now, target):
            # Who is called can be told from who hangs up: the first is waited for by somebody, the second may come back
            # before the BYE is repeated for the last time.
            raise Refused(430 if request.method == "INVITE" else 0)
        return target

    def _find_binding(self, now: float, reach: Reach) -> Binding | None:
        return next((b for b in self._find_bindings(now, reach.number) if binding_key(b) == reach.key), None)

    def _is_lost(self, now: float, target: Flow) -> bool:
        at = self._lost.get(target)
        return at is not None and (target.connection != 0 or now - at < LOST_S)

    def _record_routes(self, reach: Reach, target: Flow) -> Iterable[tuple[str, str]]:
        """Ours, for the seat and for the phone: two where they speak different transports, or versions of IP (RFC
        5658).
        """
        assert self._address is not None, "asked before"
        now_at = Reach(reach.number, reach.key, target.transport, target.remote)
        token = self._tokens.issue(self._address, now_at)
        towards = self._settings.address_for(target)
        if target.transport is not Transport.UDP or towards != self._address:
            yield "Record-Route", _route(towards, token, target.transport)
        yield "Record-Route", _route(self._address, token)

    def _is_ours(self, route: Uri) -> bool:
        return (route.user or "").startswith(PREFIX) and Address(route.host, route.port or SIP_PORT) in self._ours

    def _branch(self, via: Via, message: Request | Response) -> str:
        """The branch of what came with this Via: the same for each copy, and for the ACK and CANCEL of an INVITE, also
        of peers whose own branches do not tell (RFC 3261 section 16.11).
        """
        name = f"{via.branch} {via.host.lower()}:{via.port} {message.cseq.number} {message.call_id}"
        return BRANCH + self._tokens.mac(name)

    # Responses

    def _take_response(self, response: Response) -> list[Send] | None:
        if BRANCH not in (response.get("Via") or ""):
            return None
        try:
            vias = response.values("Via")
            top = parse_via(vias[0])
        except MalformedMessage:
            return None
        if not top.branch.startswith(BRANCH) or Address(top.host, top.port or SIP_PORT) not in self._ours:
            return None
        try:
            target = self._target_of(parse_via(vias[1])) if len(vias) > 1 else None
        except MalformedMessage:
            target = None
        if target is None or top.param(BACK) != self._way_back(top.branch, target):
            # What we never sent is answered nowhere: nobody may aim at others through us.
            self._counters["edge_refusals"] += 1
            return []
        self._counters["edge_responses"] += 1
        fields = (*(("Via", via) for via in vias[1:]), *(f for f in response.fields if f[0] != "Via"))
        return [Send(target, bytes(Response(response.status, response.reason, fields, response.body)))]

    def _way_back(self, branch: str, target: Flow | None) -> str:
        """Vouches for where the answer to a forwarded request goes."""
        return self._tokens.mac(f"{branch} {target and (target.transport, target.remote)}")

    def _target_of(self, via: Via) -> Flow | None:
        """Where the request came from, as was noted in its Via (RFC 3261 section 18.2.2, RFC 3581)."""
        try:
            transport = Transport(via.transport.lower())
        except ValueError:
            return None
        host = via.param("received") or via.host
        local = self._settings.address_towards(transport, host) if transport in self._advertised else None
        rport = via.param("rport")
        is_port = rport is not None and rport.isascii() and rport.isdigit() and len(rport) <= 5
        port = int(rport) if rport and is_port else via.port or SIP_PORT
        return local and Flow(transport, local, Address(host, port))


def _hops(request: Request) -> int:
    """How many hops it may still make, this one included."""
    hops = request.number("Max-Forwards")
    if hops == 0:
        raise Refused(483)
    return HOPS if hops is None else min(hops, HOPS)


def behind_edge(request: Request) -> str:
    """Where the sender of a request is that came through another seat's edge, "" where it does not say."""
    vias = request.values("Via")
    if len(vias) < 2:
        return ""
    via = parse_via(vias[1])
    return via.param("received") or via.host


def _as_heard(request: Request, flow: Flow) -> Request:
    """The request with its topmost Via saying where it came from, on a stream also by which port: a connection is
    found by it.
    """
    via = request.via
    if flow.transport.reliable and via.param("rport") is None:
        via = replace(via, params=(*via.params, ("rport", None)))
    return as_heard(request, via, flow)[0]


def _route(address: Address, token: str, transport: Transport = Transport.UDP) -> str:
    params: tuple[tuple[str, str | None], ...] = (("lr", None),)
    if transport is not Transport.UDP:
        params = (("transport", transport.param), *params)
    return f"<{Uri('sip', address.host, user=token, port=address.port, params=params)}>"
