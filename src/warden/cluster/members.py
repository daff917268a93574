"""What the nodes of a cluster say of themselves, and what is wrong when they do not agree. Pure: nothing is asked here.

A node writes its record to the coordinator several times per lease; every other node reads it. So any node can tell how
the whole cluster is, also while the others cannot be reached.
"""

import hashlib
import hmac
from collections.abc import Container, Iterable, Mapping
from typing import Final

import msgspec
from msgspec import Struct

from warden.cluster.decide import Seat
from warden.cluster.regions import Primary
from warden.core.address import Address
from warden.core.versions import Codec, Unreadable
from warden.store.ports import Member

SCHEMA: Final = 1
CLOCK_OFF_S: Final = 1.0
"""Clocks further apart give CDRs and logs of one call in the wrong order, and nonces that are not good elsewhere."""
TEXTS_MAX: Final = 12
"""Sentences of one kind in a record: the first ones tell what is wrong, and the record is read by all, all the time."""
TEXT_CHARS_MAX: Final = 240


class Record(Struct, frozen=True, omit_defaults=True):
    """What a node tells the others of itself; `wishes` are hand-overs that its operator asked for, seat to node.

    `instance` is another at each start; `place` names the data folder on its machine, of this boot: a process that has
    the folder's lock knows that the one before it in the same place is gone. `secret` and `layout` are fingerprints of
    the cluster's secret and of the seats as configured ("" where unknown), so that nodes that differ notice. `sip` is
    where it hears SIP over UDP for a seat of its own name, where no seats are configured.
    `primary` is the region that has the seats, as far as it knows; `follows` are the seats of the other region of which
    it keeps a copy here. One that is `barred` may take no seat just now. `seen` has each seat's epoch as the node saw
    it last, where something else moves the addresses: from then on that seat's address comes to its holder only.
    `refusals` say why it takes no new calls, `unstored` what it cannot store, `warnings` what its operator should see.
    """

    version: str
    http: str = ""
    draining: bool = False
    seats: tuple[str, ...] = ()
    calls: int = 0
    wishes: Mapping[str, str] = {}
    sentence: str = ""
    now: float = 0.0
    instance: str = ""
    place: str = ""
    started: float = 0.0
    secret: str = ""
    layout: str = ""
    seat_calls: Mapping[str, int] = {}
    unprotected: int = 0
    registrations: int = 0
    refusals: tuple[str, ...] = ()
    unstored: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    sip: Address | None = None
    primary: Primary | None = None
    follows: tuple[str, ...] = ()
    barred: bool = False
    seen: Mapping[str, int] = {}


class Report(Struct, frozen=True):
    """What of a record changes while the node runs, beside what its agent knows."""

    seat_calls: Mapping[str, int] = {}
    unprotected: int = 0
    registrations: int = 0
    refusals: tuple[str, ...] = ()
    unstored: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    primary: Primary | None = None
    follows: tuple[str, ...] = ()


class MemberRecord(Struct, frozen=True):
    """A record as the coordinator keeps it."""

    schema: int
    record: Record


MEMBERS: Final = Codec(MemberRecord, SCHEMA)
"""Members as records."""


def encode_record(record: Record) -> bytes:
    """A record as bytes."""
    return MEMBERS.encode(MemberRecord(SCHEMA, record))


def read_record(member: Member) -> Record | None:
    """What a member says of itself; None where it speaks a language of the future."""
    try:
        return MEMBERS.decode(member.data)[0].record
    except Unreadable:
        return None


def strangers(members: Iterable[str], understood: Container[str]) -> dict[str, str]:
    """A sentence for each member that is not understood, by what it is about."""
    return {
        f"stranger {node}": f"member {node} speaks as another version does, is not understood, and is given no seats"
        for node in members
        if node not in understood
    }


def short(texts: Iterable[str]) -> tuple[str, ...]:
    """Sentences as they go into a record: few, and not long."""
    return tuple(text[:TEXT_CHARS_MAX] for text in list(texts)[:TEXTS_MAX])


def fingerprint(secret: bytes, cluster: str) -> str:
    """Tells whether two nodes have the same secret, and nothing about it."""
    return hmac.new(secret, b"warden member of " + cluster.encode(), hashlib.sha256).hexdigest()[:16]


def layout_of(seats: tuple[Seat, ...]) -> str:
    """Tells whether two nodes have the same list of seats, whatever its order."""
    return hashlib.sha256(msgspec.msgpack.encode(sorted(msgspec.to_builtins(seats), key=str))).hexdigest()[:16]


def is_gone(before: Record, ours: Record) -> bool:
    """True where the process that wrote `before` under our name cannot live any more, since we have its lock."""
    return before.instance == ours.instance or (before.place != "" and before.place == ours.place)


def yields_to(ours: Record, other: Record) -> bool:
    """Of two live nodes with one name, whether ours is the one that has to go: the later one."""
    return (other.started, other.instance) < (ours.started, ours.instance)


def has_wrong_secret(node: str, ours: Record, peers: Mapping[str, Record]) -> list[str]:
    """The nodes whose secret is another one, where they are in the right: those who hold more seats are, else the
    more, else the first by name. Empty where ours is right.
    """
    groups: dict[str, list[str]] = {}
    records = {**peers, node: ours}
    for name, record in records.items():
        if record.secret:
            groups.setdefault(record.secret, []).append(name)
    if not ours.secret or len(groups) < 2:
        return []

    def weight(names: list[str]) -> tuple[int, int]:
        return sum(len(records[name].seats) for name in names), len(names)

    right = min(groups.values(), key=lambda names: (*(-n for n in weight(names)), min(names)))
    return [] if node in right else sorted(right)


def disagreements(
    node: str, ours: Record, peers: Mapping[str, Record], behind_s: Mapping[str, float]
) -> dict[str, str]:
    """A sentence for each thing in which the nodes differ and must not, naming the setting; its key stays the same
    while the thing does. `behind_s` is by how much the clock of each other node is behind ours, where that is known.
    """
    others = {name: peers[name] for name in sorted(peers) if name != node}
    found = {}
    if right := has_wrong_secret(node, ours, peers):
        found["secret"] = (
            f"secret: differs from that of {', '.join(right)}: this node takes no seat until it is the same"
        )
    elif wrong := [n for n, r in others.items() if r.secret and ours.secret and r.secret != ours.secret]:
        found["secret"] = f"secret: differs from that of {', '.join(wrong)}: no seat goes there until it is the same"
    if different := [n for n, r in others.items() if r.layout and ours.layout and r.layout != ours.layout]:
        found["seats"] = (
            f"high_availability.seats: differs from that of {', '.join(different)}: "
            "seats, addresses and successors must be the same on all nodes"
        )
    for name in others:
        off = behind_s.get(name, 0.0)
        if abs(off) > CLOCK_OFF_S:
            way = "behind" if off > 0 else "ahead of"
            found[f"clock of {name}"] = (
                f"clock: that of {name} is {abs(off):.1f} s {way} ours: keep both by NTP, for example chrony"
            )
    return found


def lonely(seats: tuple[Seat, ...]) -> dict[str, str]:
    """The same for each seat that nobody could take over."""
    return {
        f"seat {seat.name}": f"high_availability.seats: seat {seat.name} has no successor but {seat.successors[0]}: "
        "its calls end with that node"
        for seat in seats
        if len(set(seat.successors)) == 1
    }
