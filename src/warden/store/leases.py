"""Who may have a seat next: the rules that every coordinator keeps, and the limits of what it is asked.

Nothing here stores anything. Times are seconds by the coordinator's clock. (The Redis coordinator says the same in
Lua; the contract suite holds them together.)
"""

from collections.abc import Mapping

from msgspec import Struct

from warden.store.ports import Member

NAME_LENGTH_MAX = 128
"""Names of seats, nodes and clusters stand in keys, logs and metric labels."""

TTL_MAX_S = 3600.0
"""A lease is seconds long; an hour is a wrong unit somewhere."""

SEATS_MAX = 1000
"""Seats in one renewal. A node has a handful, and all of a large cluster's at worst."""

MEMBER_SIZE_MAX = 64 << 10
"""A member's record is read by every node several times a second."""

_FORBIDDEN = frozenset('{}/\\"\n\r\t\0 ')
"""What means something in a key of Redis or etcd, or breaks a line."""


class Lease(Struct, frozen=True, gc=False):
    """A seat as its coordinator keeps it: who has it at which epoch, and until when. `holder` is empty if free."""

    holder: str
    epoch: int
    ends_at: float


UNHELD = Lease("", 0, 0.0)
"""A seat nobody has ever held."""


def is_held(lease: Lease, now: float) -> bool:
    """True while nobody may acquire the seat but its holder."""
    return lease.holder != "" and now < lease.ends_at


def acquired(now: float, lease: Lease, node: str, ttl_s: float, at_least: int) -> Lease | None:
    """The seat once `node` has acquired it, or None while another holds it."""
    if not is_held(lease, now):
        return Lease(node, max(lease.epoch + 1, at_least), now + ttl_s)
    if lease.holder != node:
        return None
    return Lease(node, max(lease.epoch, at_least), now + ttl_s)


def taken(now: float, lease: Lease, node: str, ttl_s: float, from_epoch: int, at_least: int) -> Lease | None:
    """The seat once `node` has taken it, or None where it is past `from_epoch`."""
    epoch = max(from_epoch + 1, at_least)
    repeated = lease.holder == node and lease.epoch == epoch and is_held(lease, now)
    # A lower epoch than the caller's means that the coordinator has forgotten one.
    return Lease(node, epoch, now + ttl_s) if repeated or lease.epoch <= from_epoch else None


def renewed(now: float, lease: Lease, node: str, epoch: int, ttl_s: float) -> Lease | None:
    """The seat once `node` has renewed it, or None where it is not the node's any more."""
    # An epoch that the coordinator never heard of was given by it before it forgot: nobody else can have a higher one.
    ours = lease.epoch < epoch or (lease.epoch == epoch and lease.holder == node and is_held(lease, now))
    return Lease(node, epoch, now + ttl_s) if ours else None


def released(now: float, lease: Lease, node: str, epoch: int) -> Lease | None:
    """The seat once `node` has let it go, or None where it is not the node's any more."""
    return Lease("", epoch, 0.0) if (lease.holder, lease.epoch) == (node, epoch) and is_held(lease, now) else None


def check_name(what: str, name: str) -> None:
    """Raise `ValueError` (the caller's fault) for a name that cannot stand in a key."""
    if not 0 < len(name) <= NAME_LENGTH_MAX or not _FORBIDDEN.isdisjoint(name) or not name.isprintable():
        raise ValueError(
            f"{what} {name[:80]!r}: a name has 1 to {NAME_LENGTH_MAX} characters, no blanks, no / \\ {{ }}"
        )


def check_lease(seat: str, node: str, ttl_s: float) -> None:
    """Raise `ValueError` for what no coordinator can grant."""
    check_name("seat", seat)
    check_node(node, ttl_s)


def check_node(node: str, ttl_s: float) -> None:
    """Raise `ValueError` for a node or time that no coordinator can keep."""
    check_name("node", node)
    if not 0 < ttl_s <= TTL_MAX_S:
        raise ValueError(f"lease of {ttl_s} s: must be above 0 and at most {TTL_MAX_S:g} s")


def check_held(node: str, held: Mapping[str, int], ttl_s: float) -> None:
    """Raise `ValueError` for what cannot be renewed."""
    if len(held) > SEATS_MAX:
        raise ValueError(f"node {node}: {len(held)} seats in one renewal, at most {SEATS_MAX}")
    for seat in held:
        check_name("seat", seat)
    check_node(node, ttl_s)


def check_member(member: Member, ttl_s: float) -> None:
    """Raise `ValueError` for what cannot be announced."""
    check_node(member.node, ttl_s)
    if len(member.data) > MEMBER_SIZE_MAX:
        raise ValueError(f"node {member.node}: record of {len(member.data)} bytes, at most {MEMBER_SIZE_MAX}")
