"""What a node does about the seats, from what it knows: one pure function, run several times a second.

Safety does not rest here. A seat is held by whoever the coordinator says, for the time it says; the store refuses the
writes of anybody else; and a holder stops by its own clock. What is decided here is only who should try, and when.
"""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

RANK_DELAY_S: Final = 0.15
"""How much later each further successor tries, so that the first one that lives has the seat before."""
START_DELAY_S: Final = 3.0
"""How long each successor of a seat that nobody ever held waits for the one before it."""
MARGIN_SHARE: Final = 0.1
"""Share of the lease by which a holder stops before the coordinator may give the seat away."""
FOLLOWS_S: Final = 1.0
"""How long all others leave an address alone that follows its seat to another node: it takes some hundredths of it."""
HOME_AGAIN_S: Final = 600.0
"""A node that comes back only to die again gets its seats this seldom, so that calls are not moved in a loop."""


class Seat(Struct, frozen=True):
    """A seat as configured: its address, and the nodes that may hold it, the preferred first."""

    name: str
    address: str
    successors: tuple[str, ...]


class Held(Struct, frozen=True):
    """A seat that this node holds. `until` is when it must stop unless the lease was renewed: on this node's steady
    clock, counted from before the renewal was sent, less a margin. `since` is when it was taken, or, where it was
    `given`, handed over by another node.
    """

    epoch: int
    until: float
    adopted: bool
    since: float = 0.0
    given: bool = False


class Peer(Struct, frozen=True):
    """A node as the coordinator knows it. `wishes` are hand-overs that its operator asked for: seat to node.
    `steady_since` is when we first saw it able to hold seats, without a break since, on our steady clock.
    """

    node: str
    draining: bool = False
    seats: int = 0
    wishes: Mapping[str, str] = {}
    steady_since: float = 0.0


class Holder(Struct, frozen=True):
    """A seat as the coordinator knows it: `node` is "" where it is free. `since` is when this node first saw it so, on
    its steady clock, `last` who held it before.
    """

    node: str
    epoch: int
    since: float = 0.0
    last: str = ""


class Rules(Struct, frozen=True):
    """What the operator wants. `takes_over` is whether a seat that is free is taken by itself. `home_after_s` is how
    long a node that came back must have been steady until it gets the seats again of which it is the first successor;
    None: never. With `address_moves` something else (keepalived) moves the addresses, and the seats follow.
    `elsewhere` says why no seat may be here at all: another region has them; `waits` why none may come just now.
    """

    takes_over: bool = True
    home_after_s: float | None = None
    address_moves: bool = False
    elsewhere: str = ""
    waits: str = ""


class View(Struct, frozen=True):
    """All that a node knows at one moment. `arrivals` are the seats whose address has moved here, with a number that is
    another each time; `used` has for each seat the number of the arrival upon which it was taken. `awaited` and
    `beaten` are those of `arrivals.Arrivals`. `sent_home` has when a seat was last given back.
    """

    node: str
    now: float
    seats: tuple[Seat, ...]
    held: Mapping[str, Held]
    holders: Mapping[str, Holder]
    peers: Mapping[str, Peer]
    draining: bool = False
    promised: Mapping[str, float] = {}
    """Until when this node leaves a seat alone, whatever the coordinator says (`cluster.consent`)."""
    rules: Rules = Rules()
    arrivals: Mapping[str, int] = {}
    used: Mapping[str, int] = {}
    awaited: Mapping[str, float] = {}
    beaten: Mapping[str, float] = {}
    sent_home: Mapping[str, float] = {}


class Stop(Struct, frozen=True):
    """Send nothing more for the seat: its lease could not be renewed in time."""

    seat: str


class Adopt(Struct, frozen=True):
    """The coordinator says that the seat is ours at this epoch: take up its calls."""

    seat: str
    epoch: int


class Acquire(Struct, frozen=True):
    """The seat is free and it is our turn: ask for it."""

    seat: str


class HandOver(Struct, frozen=True):
    """Give the seat, with its calls, to another node."""

    seat: str
    epoch: int
    to: str


class Take(Struct, frozen=True):
    """The seat's address has moved here by itself: take the seat from whoever has it at this epoch."""

    seat: str
    epoch: int
    arrival: int


class Leave(Struct, frozen=True):
    """The seat's address has moved away by itself, or the seat to another region: let whoever has it now take it."""

    seat: str
    epoch: int


Action = Stop | Adopt | Acquire | HandOver | Take | Leave


def decide(view: View) -> list[Action]:
    """What to do now, the urgent first."""
    actions: list[Action] = [Stop(seat) for seat, held in view.held.items() if view.now >= held.until]
    stopped = {action.seat for action in actions if isinstance(action, Stop)}
    if view.rules.elsewhere:
        adopted = [(seat, held.epoch) for seat, held in view.held.items() if held.adopted and seat not in stopped]
        return actions + [Leave(seat, epoch) for seat, epoch in adopted]
    for seat in view.seats:
        if seat.name in stopped:
            continue
        holder = view.holders.get(seat.name)
        held = view.held.get(seat.name)
        if view.rules.address_moves:
            actions += _follow(view, seat, held, holder)
        elif held is not None:
            to = find_heir(view, seat) if held.adopted else None
            if to is not None:
                actions.append(HandOver(seat.name, held.epoch, to))
        elif view.now < view.promised.get(seat.name, 0.0):
            # Even where the coordinator says that it is ours: a request of ours may have reached it late.
            continue
        elif holder is not None and holder.node == view.node:
            actions.append(Adopt(seat.name, holder.epoch))
        elif _is_our_turn(view, seat, holder):
            actions.append(Acquire(seat.name))
    if view.rules.waits:
        return [action for action in actions if not isinstance(action, Adopt | Acquire | Take)]
    return actions


def _follow(view: View, seat: Seat, held: Held | None, holder: Holder | None) -> list[Action]:
    """Where addresses move by themselves, whoever has the address holds the seat. In a hand-over the seat goes ahead:
    its heir has the calls when the address comes. A node that lost the seat to another one while the address is still
    here does not take it back: it would go to and fro while two believe to have it.
    """
    name = seat.name
    arrival = view.arrivals.get(name, 0)
    if held is not None:
        if not held.adopted:
            return []
        if not arrival:
            return [Leave(name, held.epoch)] if view.now >= view.awaited.get(name, 0.0) else []
        to = find_heir(view, seat)
        return [HandOver(name, held.epoch, to)] if to is not None else []
    if holder is None or view.now < view.promised.get(name, 0.0):
        return []
    if holder.node == view.node:
        return [Adopt(name, holder.epoch)]
    if not arrival:
        return []
    if not holder.node:
        return [Take(name, holder.epoch, arrival)]
    if view.used.get(name) == arrival:
        return []
    yields = view.now < view.beaten.get(name, 0.0) and _precedes(seat, holder.node, view.node)
    return [] if yields else [Take(name, holder.epoch, arrival)]


def _precedes(seat: Seat, one: str, other: str) -> bool:
    """VRRP prefers the nodes in the order of the successors."""
    order = seat.successors
    return other not in order or (one in order and order.index(one) < order.index(other))


def find_refusal(view: View, seat: Seat) -> str:
    """Why the address of a seat must not be here, where something else moves it; "" where it may be. A holder keeps it
    until the seat has been handed over.
    """
    holder, held = view.holders.get(seat.name), view.held.get(seat.name)
    if held is None and holder is None:
        return "the coordinator does not answer"
    if view.node not in seat.successors:
        return "this node is none of its successors"
    if held is not None:
        return ""
    if view.rules.elsewhere or view.rules.waits:
        return view.rules.elsewhere or view.rules.waits
    heir = find_heir(view, seat)
    if heir is not None:
        return f"it goes to {heir}"
    if view.draining:
        return "draining"
    arrival = view.arrivals.get(seat.name, 0)
    if arrival and view.used.get(seat.name) == arrival and holder is not None and holder.node:
        return "" if holder.node == view.node else f"{holder.node} has taken it at epoch {holder.epoch}"
    return f"it goes to {holder.node}" if holder is not None and not arrival and _goes_ahead(view, seat, holder) else ""


def _goes_ahead(view: View, seat: Seat, holder: Holder) -> bool:
    """Whether the seat has just got another holder, whom its address may not have reached yet. VRRP's backups wait for
    little more than one of them takes to say that it is master, and none gives the address back.
    """
    return holder.node != view.node and _may_hold(view, seat, holder.node) and view.now - holder.since < FOLLOWS_S


def find_heir(view: View, seat: Seat) -> str | None:
    """The node that should have a seat of ours instead of us; None where it should stay, or nobody can take it."""
    if view.rules.elsewhere:
        return None
    for peer in view.peers.values():
        to = peer.wishes.get(seat.name)
        if to is not None and to != view.node and _may_hold(view, seat, to):
            return to
    if not view.draining:
        return _find_home(view, seat)
    return next((node for node in _in_order(view, seat) if node != view.node), None)


def _find_home(view: View, seat: Seat) -> str | None:
    """The first successor, where it has been steady for a while: since it came back, or since we took a seat that
    nobody had. One that was given to us while it was there stays where the operator wanted it.
    """
    home, held, after_s = seat.successors[0], view.held.get(seat.name), view.rules.home_after_s
    if after_s is None or held is None or home == view.node:
        return None
    peer = view.peers.get(home)
    if peer is None or not _may_hold(view, seat, home) or (held.given and peer.steady_since <= held.since):
        return None
    if view.now - view.sent_home.get(seat.name, -HOME_AGAIN_S) < HOME_AGAIN_S:
        return None
    return home if view.now - max(peer.steady_since, held.since) >= after_s else None


def _may_hold(view: View, seat: Seat, node: str) -> bool:
    peer = view.peers.get(node)
    return node in seat.successors and peer is not None and not peer.draining


def _in_order(view: View, seat: Seat) -> list[str]:
    """The nodes that may hold the seat now, who should try first in front: the configured order, except that a node
    which carries more seats than another comes behind it, so that a dead node's seats spread; not where something else
    moves the addresses, which knows the configured order only. Last comes who had the seat and did not renew its lease:
    it is a member for a while yet, but most likely dead.
    """
    holder = view.holders.get(seat.name)
    lost = holder.last if holder is not None and not holder.node else ""
    able = [node for node in seat.successors if _may_hold(view, seat, node)]
    if view.rules.address_moves:
        return sorted(able, key=lambda node: node == lost)
    return sorted(able, key=lambda node: (node == lost, view.peers[node].seats))


def _is_our_turn(view: View, seat: Seat, holder: Holder | None) -> bool:
    if view.draining or view.node not in seat.successors or holder is None or holder.node:
        return False
    if not view.rules.takes_over and holder.epoch and view.node != seat.successors[0]:
        return False
    if holder.epoch == 0:
        # A cluster that is just being started: the node whose seat it is may still be on its way.
        wait_s = START_DELAY_S * seat.successors.index(view.node)
    else:
        order = _in_order(view, seat)
        wait_s = RANK_DELAY_S * (order.index(view.node) if view.node in order else len(order))
    return view.now - holder.since >= wait_s


def stop_at(sent_at: float, ttl_s: float) -> float:
    """When a holder whose renewal was sent at `sent_at` (and granted) must stop, if no later one is granted."""
    return sent_at + ttl_s * (1 - MARGIN_SHARE)
