"""A running node as the API shows it. Reads public state, changes nothing."""

from collections.abc import Iterable
from typing import Any, Final

import warden
from warden.call.cdr import Cdr
from warden.call.model import Call, Phase
from warden.cluster.agent import Agent
from warden.cluster.decide import Holder, Seat
from warden.cluster.divergence import Difference
from warden.cluster.members import Record, Report, short
from warden.core.errors import MalformedMessage
from warden.sdp.answer import read_answer
from warden.store.ports import Extension
from warden.switch.aside import Aside
from warden.switch.live import LiveCall
from warden.switch.registrar import Binding
from warden.switch.switch import Switch
from warden.web import models
from warden.web.models import at, at_or_none
from warden.web.state import NodeState

SENTENCES_SHOWN: Final = 50
"""The last that the node did about its seats: more than a failover of a whole cluster takes."""


def active_calls(switch: Switch) -> int:
    """Calls in progress: those that only wait for their last answers are over."""
    return sum(live.call.phase is not Phase.OVER for live in switch.calls.values())


def registrations(switch: Switch) -> int:
    """Contacts of all numbers."""
    return sum(map(len, switch.bindings.values()))


def health(state: NodeState) -> models.Health:
    """Whether new calls may come here."""
    return models.Health.model_validate(_health(state))


def status(state: NodeState) -> models.Status:
    """The node at a glance."""
    seats = state.seats.values()
    return models.Status.model_validate(
        _health(state)
        | {
            "cluster": state.cluster,
            "started_at": at(state.started_at_utc),
            "uptime_s": round(state.now() - state.started_at_utc, 3),
            "extensions": len(state.directory.extensions),
            "unprotected_calls": sum(seat.runner.replicator.unprotected_calls for seat in seats),
            "unprotected_records": sum(len(seat.runner.replicator.unprotected) for seat in seats),
            "cdrs_waiting": sum(seat.outbox.waiting for seat in seats),
        }
    )


def report(state: NodeState) -> Report:
    """The node as the other nodes are to know it."""
    seats = state.seats.values()
    return Report(
        seat_calls={seat.name: active_calls(seat.switch) for seat in seats},
        unprotected=sum(seat.runner.replicator.unprotected_calls for seat in seats),
        registrations=sum(registrations(seat.switch) for seat in seats),
        refusals=short(state.refusals()),
        unstored=short(state.unstored()),
        warnings=short(state.warnings()),
        primary=None if state.region is None else state.region.regions.primary,
        follows=() if state.region is None else tuple(sorted(state.region.mirror.following)),
    )


def _health(state: NodeState) -> dict[str, object]:
    reasons, first = state.refusals(), next(iter(state.seats.values()), None)
    return {
        "status": "refusing" if reasons else "ok",
        "reasons": reasons,
        "not_stored": state.unstored(),
        "warnings": state.warnings(),
        "node": state.node,
        "seat": first and first.name,
        "epoch": first and first.epoch,
        "seats": list(state.seats),
        "version": warden.__version__,
        "calls": sum(active_calls(seat.switch) for seat in state.seats.values()),
        "registrations": sum(registrations(seat.switch) for seat in state.seats.values()),
    }


def aside(seat: str, found: Iterable[Aside]) -> list[models.AsideRecord]:
    """A seat's records that could not be read."""
    return [
        models.AsideRecord(
            seat=seat, kind=x.kind, key=x.key, at=at(x.at_utc), node=x.node, why=x.why, size_bytes=len(x.record)
        )
        for x in found
    ]


def member_names(state: NodeState) -> list[str]:
    """The members of the cluster that this node sees alive, in order; itself alone where it is in none."""
    return [state.node] if state.agent is None else sorted(state.agent.peers)


def sees_coordinator(state: NodeState) -> bool:
    """What this node knows of the cluster is fresh. True for one that is in none."""
    return state.agent is None or not state.agent.error


def is_leader(state: NodeState) -> bool:
    """The first by name of the members alive; none is while it does not see the coordinator."""
    return sees_coordinator(state) and member_names(state)[:1] == [state.node]


def cluster(state: NodeState) -> models.Cluster:
    """The cluster as this node sees it."""
    agent = state.agent
    if agent is None:
        alone = models.Member(
            node=state.node,
            version=warden.__version__,
            http="",
            draining=False,
            seats=list(state.seats),
            calls=sum(active_calls(seat.switch) for seat in state.seats.values()),
            sentence="",
            clock_behind_s=0.0,
            **_reported(report(state)),
        )
        return models.Cluster(
            name=state.cluster,
            node=state.node,
            clustered=False,
            drained=False,
            coordinator_error="",
            members=[alone],
            sentences=[],
        )
    return models.Cluster(
        name=state.cluster,
        node=state.node,
        clustered=True,
        drained=agent.drained,
        coordinator_error=agent.error,
        members=[_member(agent, name) for name in member_names(state)],
        sentences=[
            models.Sentence(at=at(said.at_utc), text=said.text) for said in list(agent.sentences)[-SENTENCES_SHOWN:]
        ],
    )


def _member(agent: Agent, name: str) -> models.Member:
    record = agent.peers[name]
    return models.Member(
        node=name,
        version=record.version,
        http=record.http,
        draining=record.draining,
        seats=list(record.seats),
        calls=record.calls,
        sentence=record.sentence,
        clock_behind_s=round(agent.clock_behind_s.get(name, 0.0), 2),
        **_reported(record),
    )


def _reported(of: Report | Record) -> dict[str, Any]:
    return {
        "unprotected_calls": of.unprotected,
        "registrations": of.registrations,
        "refusals": list(of.refusals),
        "not_stored": list(of.unstored),
        "warnings": list(of.warnings),
    }


def seats(state: NodeState) -> list[models.Seat]:
    """Every seat of the cluster as this node sees it; those it holds where it is in none."""
    if state.agent is None:
        return [
            _seat(
                state, Seat(held.name, held.switch.settings.media_host, (state.node,)), Holder(state.node, held.epoch)
            )
            for held in state.seats.values()
        ]
    holders = state.agent.holders
    return [_seat(state, seat, holders.get(seat.name, Holder("", 0))) for seat in state.agent.seats]


def _seat(state: NodeState, seat: Seat, holder: Holder) -> models.Seat:
    held = state.seats.get(seat.name)
    return models.Seat(
        name=seat.name,
        address=seat.address,
        holder=holder.node or None,
        epoch=holder.epoch,
        successors=list(seat.successors),
        held_here=held is not None,
        calls_here=0 if held is None else active_calls(held.switch),
        calls=_calls_of(state, seat.name, holder.node),
    )


def _calls_of(state: NodeState, seat: str, holder: str) -> int:
    """As the holder says, which for one elsewhere is some tenths of a second old."""
    held = state.seats.get(seat)
    if held is not None:
        return active_calls(held.switch)
    record = None if state.agent is None else state.agent.peers.get(holder)
    return 0 if record is None else record.seat_calls.get(seat, 0)


def disagreements(state: NodeState) -> list[models.Difference]:
    """What the coordinator says of the seats against what this node does."""
    if state.agent is None or state.agent.error:
        return []
    found = []
    for seat in state.agent.seats:
        holder, held = state.agent.holders.get(seat.name, Holder("", 0)), state.seats.get(seat.name)
        ours = holder.node == state.node
        if held is None and ours and not state.agent.is_busy(seat.name):
            what = f"the coordinator says that {state.node} holds it, but it does not"
        elif held is not None and not ours and not state.agent.is_busy(seat.name):
            what = f"{state.node} holds it, but the coordinator says {holder.node or 'nobody'}"
        elif held is not None and ours and held.epoch != holder.epoch:
            what = f"{state.node} holds it at epoch {held.epoch}, but the coordinator says {holder.epoch}"
        else:
            continue
        found.append(models.Difference(seat=seat.name, kind="holder", key="", what=what))
    return found


def difference(found: Difference) -> models.Difference:
    """What a node and its store do not agree on."""
    return models.Difference(seat=found.seat, kind=found.kind, key=found.key, what=found.what)


def extension(found: Extension) -> models.Extension:
    """An extension without its hashes."""
    return models.Extension(number=found.number, name=found.name, created_at=at(found.created_at_utc), srtp=found.srtp)


def registrations_of(number: str, bindings: Iterable[Binding], now: float, seat: str) -> list[models.Registration]:
    """The live contacts of one number at a seat."""
    return [
        models.Registration(
            number=number,
            seat=seat,
            contact=binding.contact,
            transport=binding.flow.transport,
            source=str(binding.flow.remote),
            expires_in_s=round(binding.expires_at - now),
            user_agent=binding.user_agent,
            instance=binding.instance.strip("<>"),
        )
        for binding in bindings
        if binding.expires_at > now
    ]


def call(live: LiveCall, now: float, seat: str) -> models.Call:
    """A call of a seat and its legs."""
    it = live.call
    until = now if it.over_at is None else it.over_at
    return models.Call(
        id=it.id,
        seat=seat,
        caller=it.caller.number,
        caller_name=it.caller_name,
        callee=it.dialled,
        answered_by=_answered_by(it),
        phase=it.phase,
        legs=[
            models.Leg(
                id=leg.id,
                number=leg.number,
                phase=leg.phase,
                transport=live.legs[leg.id].flow.transport,
                address=str(live.legs[leg.id].flow.remote),
            )
            for leg in it.legs
            if leg.id in live.legs
        ],
        started_at=at(it.started_at),
        ringing_at=at_or_none(it.ringing_at),
        answered_at=at_or_none(it.answered_at),
        duration_s=round(until - it.started_at, 3),
        talk_s=0.0 if it.answered_at is None else round(until - it.answered_at, 3),
        codec=_codec(it),
    )


def cdr(record: Cdr) -> models.Cdr:
    """A CDR."""
    return models.Cdr(
        id=record.id,
        caller=record.caller,
        caller_name=record.caller_name,
        callee=record.callee,
        answered_by=record.answered_by,
        transferred_by=record.transferred_by,
        transferred_to=record.transferred_to,
        started_at=at(record.started_at_utc),
        ringing_at=at_or_none(record.ringing_at_utc),
        answered_at=at_or_none(record.answered_at_utc),
        ended_at=at(record.ended_at_utc),
        duration_s=round(record.duration_s, 3),
        talk_s=round(record.talk_s, 3),
        result=record.result,
        status=record.status,
        ended_by=record.ended_by,
        reason=record.reason,
        sip_call_id=record.sip_call_id,
        seat=record.seat,
        node=record.node,
    )


def _answered_by(it: Call) -> str:
    return "" if it.answered_at is None else it.taken_by


def _codec(it: Call) -> str | None:
    """What the caller's audio is in: what its description and ours have in common, whichever was the offer."""
    caller = it.caller
    if it.answered_at is None or not caller.heard or not caller.told:
        return None
    try:
        return read_answer(caller.heard, caller.told).codec
    except MalformedMessage:
        # Video or encrypted audio alone is relayed unread.
        return None
