"""A seat's calls at another address than before: another region has adopted them, or the operator moved the seat.

The records are read as if they had been written here. What only the phones can still believe, that we are where we
were, they are told by a re-INVITE each, with our new Contact and our new address for the audio (`Refreshes`), or where
they refuse that, by an INVITE for another dialog in place of the one that they have (`Replacing`).
"""

from msgspec.structs import replace

from warden.call.model import Call, LegPhase, Phase, with_leg
from warden.core.address import Flow
from warden.sdp.relay import readdressed
from warden.sip.dialog import Dialog
from warden.sip.endpoint import Transaction
from warden.sip.uri import parse_name_addr
from warden.switch.live import SipLeg, Snapshot
from warden.switch.registrar import Binding
from warden.switch.settings import Settings


def is_elsewhere(snapshot: Snapshot, settings: Settings) -> bool:
    """True where the call was carried at another address."""
    return snapshot.call.ports.host != settings.media_host


def relocated(now: float, snapshot: Snapshot, settings: Settings) -> Snapshot:
    """The call as it is here; the peers of its answered legs are to be told at once. One that is not answered yet ends:
    the answer of a phone that rings goes where nobody is any more.
    """
    call = _call(snapshot.call, settings)
    up = {leg.id for leg in call.legs if leg.phase is LegPhase.UP and call.phase is Phase.UP}
    return replace(
        snapshot,
        call=call,
        legs=tuple(_leg(leg, settings, now if leg.id in up else None) for leg in snapshot.legs),
        transactions=tuple(_transaction(one, settings) for one in snapshot.transactions),
    )


def bindings_here(bindings: tuple[Binding, ...], settings: Settings) -> tuple[Binding, ...]:
    """Phones that registered at another address are reached from this one."""
    return tuple(replace(one, flow=_here(one.flow, settings)) for one in bindings)


def _call(call: Call, settings: Settings) -> Call:
    v6 = settings.v6
    for leg in call.legs:
        host = leg.host and (leg.host if v6 is None else v6.media_host)
        told, version = leg.told, leg.version
        if told:
            version += 1
            told = readdressed(told, host=host or settings.media_host, version=version)
        call = with_leg(call, replace(leg, told=told, version=version, host=host))
    return replace(call, ports=replace(call.ports, host=settings.media_host))


def _leg(leg: SipLeg, settings: Settings, tell_at: float | None) -> SipLeg:
    dialog = None if leg.dialog is None else _dialog(leg.dialog, settings)
    leg = replace(leg, flow=_here(leg.flow, settings), dialog=dialog)
    if leg.asks_instead:
        # It has been told of yet another address: first its answer, then this one.
        return leg
    return replace(leg, tell_at=tell_at, instead=None)


def _dialog(dialog: Dialog, settings: Settings) -> Dialog:
    ours = settings.address_for(dialog.flow)
    contact = parse_name_addr(dialog.contact)
    contact = replace(contact, uri=replace(contact.uri, host=ours.host, port=ours.port))
    return replace(dialog, flow=_here(dialog.flow, settings), contact=str(contact))


def _transaction(transaction: Transaction, settings: Settings) -> Transaction:
    cancellation = transaction.cancellation
    return replace(
        transaction,
        flow=_here(transaction.flow, settings),
        acks={tag: (_here(flow, settings), ack) for tag, (flow, ack) in transaction.acks.items()},
        cancellation=None if cancellation is None else _transaction(cancellation, settings),
    )


def _here(flow: Flow, settings: Settings) -> Flow:
    """The same way from our own address, where the seat has one to itself."""
    host = settings.media_host
    if flow.local.host == host or settings.media_bind != host or (":" in flow.local.host) != (":" in host):
        return flow
    return flow._replace(local=settings.address_for(flow))
