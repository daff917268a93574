"""What each metric is and where its figure stands: one row each. Nothing here knows how they are told.

Every label takes its values from an enum, a fixed table, or what people have set up (seats, trunks, files).
"""

from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct

from warden.call.model import Phase
from warden.cluster.seat import HeldSeat
from warden.net.counters import Dropped, Traffic
from warden.sip.message import REASONS
from warden.web import views
from warden.web.state import NodeState

Labels = tuple[str, ...]
Samples = Iterable[tuple[Labels, float]]
"""Label values and the figure."""


class Row(Struct, frozen=True):
    """One metric. `read` gives its samples; a name that ends in `_total` is a counter, any other a gauge."""

    name: str
    meaning: str
    read: Callable[[NodeState], Samples]
    labels: Labels = ()


class SeatRow(Struct, frozen=True):
    """The same of what every seat has: a gauge with the label `seat` where `by_seat`, else the sum over the seats."""

    name: str
    meaning: str
    read: Callable[[HeldSeat], Samples]
    labels: Labels = ()
    by_seat: bool = False

    @property
    def is_counter(self) -> bool:
        """True where the figure must not go back when a seat goes."""
        return self.name.endswith("_total")


def _one(read: Callable[[NodeState], float]) -> Callable[[NodeState], Samples]:
    return lambda state: [((), read(state))]


def _seat(read: Callable[[HeldSeat], float]) -> Callable[[HeldSeat], Samples]:
    return lambda seat: [((), read(seat))]


def _counted(name: str) -> Callable[[HeldSeat], Samples]:
    return lambda seat: [((), seat.switch.counters[name])]


def _holders(state: NodeState) -> Samples:
    """A seat that is being given away is not held from the moment at which nothing more may be said for it."""
    names = [*state.seats, *(seat.name for seat in (state.agent.seats if state.agent is not None else ()))]
    now = state.now()
    return [((name,), name in state.seats and now < state.seats[name].gate.until) for name in dict.fromkeys(names)]


def _leader(state: NodeState) -> Samples:
    return [((state.cluster,), views.is_leader(state))]


def _adoption(state: NodeState) -> Samples:
    """Of the seats held only: how long one took that went elsewhere since says nothing about this node now."""
    agent = state.agent
    return [] if agent is None else [((name,), s) for name, s in agent.adoption_s.items() if name in state.seats]


def _clocks(state: NodeState) -> Samples:
    agent = state.agent
    return [((state.node,), 0.0)] if agent is None else [((name,), s) for name, s in agent.clock_behind_s.items()]


def _pool(state: NodeState) -> Samples:
    used, idle = (0, 0) if state.database is None else state.database.connections
    return [(("used",), used), (("idle",), idle)]


def _pool_max(state: NodeState) -> Samples:
    return [] if state.database is None else [((), state.database.connections_max)]


def _keepalived(state: NodeState) -> Samples:
    return [] if state.vrrp is None else [((), not state.vrrp.error)]


def _is_primary(state: NodeState) -> Samples:
    return [] if state.region is None else [((state.region.regions.own,), state.region.regions.is_primary)]


def _term(state: NodeState) -> Samples:
    return [] if state.region is None else [((), state.region.regions.primary.term)]


def _region_lease(state: NodeState) -> Samples:
    left_s = None if state.region is None else state.region.lease_s
    return [] if left_s is None else [((), left_s)]


def _present(state: NodeState) -> Samples:
    return [] if state.region is None else [((state.region.regions.other,), len(state.region.regions.present()))]


def _copy_age(state: NodeState) -> Samples:
    """Of the seats of which this node keeps the copy; one that was never heard of is as old as the node."""
    if state.region is None:
        return []
    up_s = state.now() - state.started_at_utc
    return [((seat,), min(age_s, up_s)) for seat, age_s in state.region.mirror.age_s().items()]


def _certificates(state: NodeState) -> Samples:
    """All seats show the same files; one that was adopted before they were read again may still have the old ones."""
    ends: dict[str, float] = {}
    for seat in state.seats.values():
        for file, ends_at in seat.driver.certificates.items():
            ends[file] = min(ends_at, ends.get(file, ends_at))
    return [((file,), ends_at) for file, ends_at in ends.items()]


def _calls(seat: HeldSeat) -> Samples:
    counts = dict.fromkeys(Phase, 0)
    for live in seat.switch.calls.values():
        counts[live.call.phase] += 1
    return [((phase.value,), count) for phase, count in counts.items()]


def _ended(seat: HeldSeat) -> Samples:
    for (result, status), count in seat.switch.results.items():
        # A callee may answer with any number: what no standard knows is told by its hundred, so that labels stay few.
        yield (result, str(status) if status in REASONS else f"{status // 100}xx"), count


def _traffic(read: Callable[[Traffic], float]) -> Callable[[HeldSeat], Samples]:
    return lambda seat: [((t.value,), read(traffic)) for t, traffic in seat.driver.counters.traffic.items()]


def _messages(seat: HeldSeat) -> Samples:
    for transport, traffic in seat.driver.counters.traffic.items():
        yield (transport.value, "in"), traffic.messages_in
        yield (transport.value, "out"), traffic.messages_out


def _bytes(seat: HeldSeat) -> Samples:
    for transport, traffic in seat.driver.counters.traffic.items():
        yield (transport.value, "in"), traffic.bytes_in
        yield (transport.value, "out"), traffic.bytes_out


def _connections(seat: HeldSeat) -> Samples:
    for transport, traffic in seat.driver.counters.traffic.items():
        if transport.reliable:
            yield (transport.value, "in"), traffic.connections_in
            yield (transport.value, "out"), traffic.connections_out


def _connections_open(seat: HeldSeat) -> Samples:
    traffic = seat.driver.counters.traffic
    return [((t.value,), of_it.connections_open) for t, of_it in traffic.items() if t.reliable]


def _rejected(seat: HeldSeat) -> Samples:
    switch, endpoint = seat.switch, seat.switch.endpoint.counters
    return [
        (("request",), switch.counters["rejected_requests"]),
        (("response",), switch.counters["rejected_responses"]),
        (("transaction",), endpoint.malformed),
        (("stray_response",), endpoint.stray_responses),
        (("merged",), endpoint.merged),
        (("overload",), endpoint.refused),
    ]


def _edge(seat: HeldSeat) -> Samples:
    counters = seat.switch.counters
    return [((kind,), counters[f"edge_{kind}s"]) for kind in ("request", "response", "refusal")]


def _trunks_up(seat: HeldSeat) -> Samples:
    return [((x.name,), x.up) for x in seat.switch.trunk_status(seat.runner.now())]


def _trunks_registered(seat: HeldSeat) -> Samples:
    found = seat.switch.trunk_status(seat.runner.now())
    return [((x.name,), x.registered) for x in found if x.registered is not None]


def _trunk_errors(seat: HeldSeat) -> Samples:
    return [((x.name,), bool(x.error)) for x in seat.switch.trunk_status(seat.runner.now())]


def _trunk_channels(seat: HeldSeat) -> Samples:
    return [((x.name,), x.channels) for x in seat.switch.trunk_status(seat.runner.now())]


def _retransmissions(seat: HeldSeat) -> Samples:
    counters = seat.switch.endpoint.counters
    return [(("in",), counters.retransmitted), (("out",), counters.resent)]


def _media(name: str) -> Callable[[NodeState], Samples]:
    """A figure of the media process; none before it was first asked."""
    return lambda state: [] if state.media.totals is None else [((), getattr(state.media.totals, name))]


def _database_answers(state: NodeState) -> bool:
    return not (state.directory_error or any(seat.outbox.error for seat in state.seats.values()))


def _writes_through_peer(state: NodeState) -> bool:
    return state.through is not None and state.through.is_used


def _state_store_answers(state: NodeState) -> bool:
    is_away = any(seat.runner.replicator.store_error for seat in state.seats.values())
    return not (is_away or _writes_through_peer(state))


ROWS: Final[tuple[Row | SeatRow, ...]] = (
    Row(
        "pbx_accepting_calls", "1 where the node may take new calls, as /health says.", _one(lambda s: not s.refusals())
    ),
    Row(
        "pbx_draining",
        "1 where the node is drained: it hands its seats over and takes none.",
        _one(lambda s: s.agent is not None and s.agent.draining),
    ),
    # Cluster
    Row("pbx_seat_holder", "1 on the node that holds the seat, 0 on the others.", _holders, ("seat",)),
    SeatRow("pbx_seat_epoch", "How often the seat has changed hands.", _seat(lambda s: s.epoch), by_seat=True),
    Row(
        "pbx_cluster_leader",
        "1 on the member whose name sorts first among those that this node sees alive; nothing is decided by it.",
        _leader,
        ("cluster_name",),
    ),
    Row("pbx_cluster_members", "Members that this node sees alive.", _one(lambda s: len(views.member_names(s)))),
    Row("pbx_keepalived_up", "1 while keepalived is heard, where it moves the addresses.", _keepalived),
    Row("pbx_region_primary", "1 where the region of this node has the seats.", _is_primary, ("region",)),
    Row("pbx_region_term", "How often the primary region has changed.", _term),
    Row(
        "pbx_region_lease_seconds",
        "For how long the arbiter lets this node hold seats; 0 where its region is not the primary one.",
        _region_lease,
    ),
    Row("pbx_region_nodes", "Nodes of the other region that this one hears.", _present, ("region",)),
    Row(
        "pbx_region_copy_age_seconds",
        "How old the copy of a seat of the other region is at most that this node keeps.",
        _copy_age,
        ("seat",),
    ),
    Row("pbx_coordinator_up", "1 while the coordinator answers, if there is one.", _one(views.sees_coordinator)),
    Row(
        "pbx_failovers_total",
        "Seats taken up because another node no longer held them.",
        _one(lambda s: s.agent.failovers if s.agent is not None else 0),
    ),
    Row(
        "pbx_handovers_total",
        "Seats handed over to another node.",
        _one(lambda s: s.agent.handovers if s.agent is not None else 0),
    ),
    SeatRow("pbx_calls_kept_total", "Calls taken up with a seat.", _seat(lambda s: s.kept)),
    SeatRow("pbx_calls_lost_total", "Calls whose record could not be read then.", _seat(lambda s: s.lost)),
    Row(
        "pbx_clock_behind_seconds",
        "By how much the member's clock seems to be behind that of this node.",
        _clocks,
        ("node",),
    ),
    Row("pbx_warnings", "Warnings that `warden status` shows.", _one(lambda s: len(s.warnings()))),
    Row("pbx_adoption_seconds", "How long it took to take up the seat.", _adoption, ("seat",)),
    # Calls
    SeatRow(
        "pbx_calls", "Calls now, by phase; those that are over wait for the last answer.", _calls, ("phase",), True
    ),
    SeatRow("pbx_calls_started_total", "INVITEs that became a call.", _counted("calls")),
    SeatRow("pbx_calls_ended_total", "Calls ended, by CDR result and final SIP status.", _ended, ("result", "status")),
    SeatRow(
        "pbx_calls_shed_total",
        "INVITEs refused because the node was overloaded, full or stopping.",
        _counted("calls_shed"),
    ),
    Row(
        "pbx_overload_level",
        "The part of new calls, and of new registrations, that is refused now.",
        lambda s: [(("call",), s.overload.calls.level), (("registration",), s.overload.registrations.level)],
        ("kind",),
    ),
    Row(
        "pbx_loop_delay_seconds",
        "How long messages wait at least, until the node gets round to them.",
        _one(lambda s: s.overload.delay_s),
    ),
    SeatRow(
        "pbx_unprotected_calls",
        "Calls whose state the store lacks.",
        _seat(lambda s: s.runner.replicator.unprotected_calls),
        by_seat=True,
    ),
    # Trunks
    SeatRow("pbx_trunk_up", "1 where a call over the trunk would be tried.", _trunks_up, ("trunk",), True),
    SeatRow(
        "pbx_trunk_registered",
        "1 at the seat that registers the trunk while the carrier's word holds; none at the other seats.",
        _trunks_registered,
        ("trunk",),
        True,
    ),
    SeatRow("pbx_trunk_error", "1 while `warden trunk status` says what is wrong.", _trunk_errors, ("trunk",), True),
    SeatRow("pbx_trunk_channels", "Calls over the trunk now.", _trunk_channels, ("trunk",), True),
    # Registrations and proof
    SeatRow(
        "pbx_registrations", "Contacts registered now.", _seat(lambda s: views.registrations(s.switch)), by_seat=True
    ),
    Row(
        "pbx_known_numbers",
        "Extensions with a contact at each seat of the cluster, as this node last heard.",
        lambda state: [((seat,), count) for seat, count in state.roster.sizes.items()],
        ("seat",),
    ),
    SeatRow(
        "pbx_registered_numbers", "Extensions with a contact.", _seat(lambda s: len(s.switch.bindings)), by_seat=True
    ),
    SeatRow(
        "pbx_registrations_shed_total",
        "REGISTERs refused because the node was overloaded.",
        _counted("registrations_shed"),
    ),
    SeatRow("pbx_registers_total", "REGISTERs answered 200.", _counted("registrations")),
    Row("pbx_extensions", "Extensions in the directory.", _one(lambda s: len(s.directory.extensions))),
    SeatRow(
        "pbx_auth_challenges_total", "Requests answered 401 because they came without proof.", _counted("challenges")
    ),
    SeatRow("pbx_auth_failures_total", "Requests whose proof was wrong.", _counted("auth_failures")),
    SeatRow("pbx_auth_forbidden_total", "Requests of one user in the name of another.", _counted("forbidden")),
    # SIP
    Row("pbx_banned_addresses", "Addresses from which nothing is taken.", _one(lambda s: len(s.bans.barred))),
    SeatRow(
        "pbx_ban_drops_total",
        "Datagrams not looked at, and connections closed, since their address is banned.",
        _seat(lambda s: s.driver.counters.dropped[Dropped.BANNED]),
    ),
    SeatRow("pbx_bans_total", "Bans made, by hand or not, and lifted.", _counted("bans")),
    SeatRow(
        "pbx_unanswered_offences_total",
        "Requests with wrong proof, of scanners and the like, that got no answer.",
        _seat(lambda s: s.switch.guard.silenced),
    ),
    SeatRow("pbx_sip_messages_total", "SIP messages.", _messages, ("transport", "direction")),
    SeatRow("pbx_sip_bytes_total", "Bytes of SIP, without TLS.", _bytes, ("transport", "direction")),
    SeatRow(
        "pbx_sip_malformed_total",
        "What came in and is no SIP message.",
        _traffic(lambda traffic: traffic.malformed),
        ("transport",),
    ),
    SeatRow(
        "pbx_sip_keep_alives_total",
        "Empty messages and STUN requests that keep a NAT open.",
        _traffic(lambda traffic: traffic.keep_alives),
        ("transport",),
    ),
    SeatRow(
        "pbx_sip_rejected_total", "SIP messages that were refused or ignored for what they say.", _rejected, ("reason",)
    ),
    SeatRow("pbx_sip_forwarded_total", "SIP messages between phones of the seat and other seats.", _edge, ("kind",)),
    SeatRow(
        "pbx_sip_retransmissions_total",
        "Requests heard again, and messages sent again.",
        _retransmissions,
        ("direction",),
    ),
    SeatRow(
        "pbx_sip_unsaid_total", "Messages not sent since the seat was ours no more.", _seat(lambda s: s.gate.unsaid)
    ),
    Row(
        "pbx_certificate_expires_timestamp_seconds",
        "When a certificate of the SIP port ends (seconds since the epoch).",
        _certificates,
        ("certificate",),
    ),
    SeatRow("pbx_sip_transactions", "SIP transactions now.", _seat(lambda s: len(s.switch.endpoint))),
    SeatRow("pbx_sip_connections", "Connections open now.", _connections_open, ("transport",)),
    SeatRow("pbx_sip_connections_opened_total", "Connections opened.", _connections, ("transport", "direction")),
    SeatRow(
        "pbx_sip_dropped_total",
        "Messages and connections dropped by the sockets.",
        lambda s: [((reason.value,), count) for reason, count in s.driver.counters.dropped.items()],
        ("reason",),
    ),
    SeatRow(
        "pbx_sip_icmp_errors_total",
        "Datagrams that the network gave back.",
        _seat(lambda s: sum(traffic.icmp_errors for traffic in s.driver.counters.traffic.values())),
    ),
    # Media
    SeatRow("pbx_rtp_ports", "Pairs of RTP and RTCP ports.", _seat(lambda s: s.switch.ports.size), by_seat=True),
    SeatRow("pbx_rtp_ports_taken", "Pairs that calls have.", _seat(lambda s: len(s.switch.ports)), by_seat=True),
    SeatRow("pbx_rtp_ports_exhausted_total", "Calls refused since no pair was free.", _counted("ports_exhausted")),
    SeatRow(
        "pbx_srtp_refused_total",
        "Calls and registrations refused by the SRTP policy of their extension.",
        _counted("srtp_refused"),
    ),
    Row("pbx_media_up", "1 while the media process does as told.", _one(lambda s: not s.media.error)),
    SeatRow(
        "pbx_media_refused_total",
        "Calls ended because the media process could not carry them.",
        _counted("media_refused"),
    ),
    Row("pbx_media_sessions", "Sessions in the media process.", _media("sessions")),
    Row("pbx_media_packets_total", "Packets taken in by the media process.", _media("packets")),
    Row("pbx_media_bytes_total", "Bytes of them.", _media("bytes")),
    Row("pbx_media_dropped_packets_total", "Packets that it threw away.", _media("dropped")),
    Row("pbx_media_cpu_seconds_total", "CPU time that it has used.", _media("cpu_s")),
    # Stores
    Row("pbx_state_store_up", "1 while the store of calls and registrations answers.", _one(_state_store_answers)),
    Row(
        "pbx_store_through_peer",
        "1 while calls and registrations are written through another node, since the store does not answer this one.",
        _one(_writes_through_peer),
    ),
    SeatRow(
        "pbx_unprotected_records",
        "Records that the store lacks.",
        _seat(lambda s: len(s.runner.replicator.unprotected)),
        by_seat=True,
    ),
    SeatRow(
        "pbx_records_unreadable_total",
        "Records of calls, registrations and CDRs that could not be read.",
        _seat(lambda s: s.switch.aside.unreadable),
    ),
    SeatRow(
        "pbx_late_writes_total",
        "Writes that calls did not wait for.",
        _seat(lambda s: s.runner.replicator.stored_late),
    ),
    Row("pbx_database_connections", "Connections to the database, by whether they are in use.", _pool, ("state",)),
    Row("pbx_database_connections_max", "How many connections there may be.", _pool_max),
    Row("pbx_database_up", "1 while the database answers.", _one(_database_answers)),
    SeatRow(
        "pbx_cdrs_waiting", "CDRs on their way into the database.", _seat(lambda s: s.outbox.waiting), by_seat=True
    ),
    SeatRow("pbx_cdrs_stored_total", "CDRs that the database took.", _seat(lambda s: s.outbox.moved)),
)
"""Every metric but the few that `metrics` makes itself."""
