"""Who is shut out of a node, as far as all seats have told: bans as records, and the one view of them.

Each seat keeps the bans that were made at it (`switch.guard`); of several about one address the newest holds, so a ban
can be lifted at any seat. Nothing here knows SIP, sockets or stores.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import chain
from typing import Final

from msgspec import Struct

from warden.core.deadlines import Deadlines
from warden.core.errors import WardenError
from warden.core.versions import Codec, Unreadable
from warden.net.limits import limit_key

SCHEMA: Final = 1
LOOK_S: Final = 1.0
"""How often it is looked whether a phone has come to a banned address, or gone: each look walks all registrations."""

FRESH_S: Final = 5.0
"""How long a new ban may take to get into the store and out again."""
ADDRESSES_MAX: Final = 65_536
"""Addresses of which it is remembered whether they are spared."""

Network = IPv4Network | IPv6Network


class Ban(Struct, frozen=True, gc=False, omit_defaults=True):
    """A ban, as its record. `address` is an IPv4 address or an IPv6 /64; with a `number`, only what comes from there in
    the name of that extension is shut out. It holds until `until`, and is remembered until `forget_at`, so that the
    next one is longer (`level`). One that was lifted has ended when it was `made_at`. `by` names who made it: a node,
    or the user of the API, whose bans are `forced`: they hold also where phones are registered.
    """

    schema: int
    address: str
    made_at: float
    until: float
    forget_at: float
    level: int = 0
    number: str = ""
    why: str = ""
    by: str = ""
    forced: bool = False

    @property
    def key(self) -> str:
        """What its record is found by."""
        return key_of(self.address, self.number)


BANS: Final = Codec(Ban, SCHEMA)
"""Bans as records."""


def key_of(address: str, number: str = "") -> str:
    """The key of a ban's record."""
    return f"{address} {number}" if number else address


class Bans:
    """The bans of all seats; one serves all switches of a node. `barred` has the addresses from which nothing is read,
    in the spelling of `limit_key`: the sockets look there for each datagram.

    Nobody is barred who is spared (`never`, `spare`), or from whose address a phone is registered, or in a call:
    `known_hosts(now)` gives those hosts. A ban of such an address bars it when the last phone there is gone.
    """

    def __init__(
        self, known_hosts: Callable[[float], Iterable[str]] = lambda _: (), never: Sequence[Network] = ()
    ) -> None:
        self.barred: set[str] = set()
        self.known_hosts = known_hosts
        self._never = tuple(never)
        self._spared: dict[str, frozenset[Network]] = {}
        self._is_spared: dict[str, bool] = {}
        self._seats: dict[str, dict[str, Ban]] = {}
        self._newest: dict[str, Ban] = {}
        self._ends: Deadlines[str] = Deadlines()
        self._numbers: dict[str, set[str]] = {}
        self._known: Set[str] = frozenset()
        self._known_at = self._looked_at = float("-inf")

    def spare(self, whose: str, sources: Iterable[str]) -> None:
        """These addresses and networks of the cluster or of carriers are never barred, instead of those that `whose`
        had before.
        """
        spared = frozenset(ip_network(source if "/" in source else limit_key(source)) for source in sources)
        if self._spared.get(whose) != spared:
            self._spared[whose] = spared
            self._is_spared.clear()
            self._looked_at = float("-inf")

    def put(self, now: float, seat: str, ban: Ban) -> None:
        """A ban of a seat is new, or another one."""
        self._seats.setdefault(seat, {})[ban.key] = ban
        self._elect(now, ban.key)

    def drop(self, now: float, seat: str, key: str) -> None:
        """A ban of a seat is forgotten."""
        self._seats[seat].pop(key, None)
        self._elect(now, key)

    def take(self, now: float, seat: str, bans: Mapping[str, Ban]) -> None:
        """These are all bans of a seat; one that was just made here may not be among them yet."""
        old = self._seats.get(seat, {})
        fresh = {key: ban for key, ban in old.items() if ban.made_at > now - FRESH_S}
        new = {**bans, **{key: ban for key, ban in fresh.items() if key not in bans or ban.made_at > bans[key].made_at}}
        changed = [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
        self._seats[seat] = new
        for key in changed:
            self._elect(now, key)

    def tick(self, now: float) -> None:
        """Time has passed: bans end, phones come and go."""
        while (key := self._ends.pop_due(now)) is not None:
            self._judge(now, self._newest[key])
        if self._newest and not 0.0 <= now - self._looked_at < LOOK_S:
            self._looked_at = now
            for ban in self._newest.values():
                self._judge(now, ban)

    @property
    def deadline(self) -> float | None:
        """When the next ban ends."""
        return self._ends.earliest

    def find(self, key: str) -> Ban | None:
        """The newest of that key, also one that has ended and is not forgotten yet."""
        return self._newest.get(key)

    def barred_numbers(self, address: str) -> Set[str]:
        """The extensions in whose names nothing is taken from an address."""
        return self._numbers.get(address, frozenset())

    def listed(self, now: float) -> list[Ban]:
        """Those that hold, the newest first."""
        return sorted((b for b in self._newest.values() if b.until > now), key=lambda b: -b.made_at)

    def is_spared(self, address: str) -> bool:
        """True for an address, in the spelling of `limit_key`, that is never barred."""
        known = self._is_spared.get(address)
        if known is None:
            network = ip_network(address)
            spared = chain(self._never, *self._spared.values())
            known = any(n.version == network.version and n.overlaps(network) for n in spared)
            if len(self._is_spared) >= ADDRESSES_MAX:
                self._is_spared.clear()
            self._is_spared[address] = known
        return known

    def is_known(self, now: float, address: str) -> bool:
        """True for one from which a phone is registered, or in a call."""
        if not 0.0 <= now - self._known_at < LOOK_S:
            self._known = {limit_key(host) for host in self.known_hosts(now)}
            self._known_at = now
        return address in self._known

    def _elect(self, now: float, key: str) -> None:
        """Of what the seats say of a key, the newest holds."""
        found = [bans[key] for bans in self._seats.values() if key in bans]
        if found:
            ban = self._newest[key] = max(found, key=lambda ban: ban.made_at)
            self._ends.set(key, ban.until)
            self._judge(now, ban)
        elif (gone := self._newest.pop(key, None)) is not None:
            self._ends.clear(key)
            self._judge(gone.until, gone)

    def _judge(self, now: float, ban: Ban) -> None:
        holds = ban.until > now and not self.is_spared(ban.address)
        if ban.number:
            names = self._numbers.setdefault(ban.address, set())
            (names.add if holds else names.discard)(ban.number)
            if not names:
                del self._numbers[ban.address]
        elif holds and (ban.forced or not self.is_known(now, ban.address)):
            self.barred.add(ban.address)
        else:
            self.barred.discard(ban.address)


def address_of(text: str) -> str:
    """What an operator names as an address, in the spelling of `limit_key`. Raises `WardenError`."""
    host, _, length = text.strip().partition("/")
    try:
        version = ip_address(host).version
    except ValueError:
        raise WardenError(f"ban: {text[:64]!r} is no IP address") from None
    if length not in ("", "32" if version == 4 else "64"):
        raise WardenError(f"ban: {text[:64]!r}: an IPv4 address or an IPv6 /64 is banned, no larger network")
    return limit_key(host)


def read_ban(record: bytes) -> Ban:
    """A ban from its record. Raises `Unreadable`."""
    ban = BANS.decode(record)[0]
    try:
        ip_network(ban.address)
    except ValueError as error:
        raise Unreadable(str(error), newer=False) from None
    return ban
