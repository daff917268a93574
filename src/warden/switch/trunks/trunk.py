"""A trunk as its administrator describes it. Nothing here is done with it."""

import re
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from msgspec import Struct

from warden.core.errors import MalformedMessage, WardenError
from warden.sip.uri import Uri, parse_uri

TARGETS_MAX: Final = 8
"""Targets of one trunk: carriers name two or three, or one name with several SRV records."""
ACCEPT_MAX: Final = 64
"""Networks from which a trunk's calls may come: the longest lists of carriers have some forty."""
MIN_EXPIRES_S: Final = 60
MAX_EXPIRES_S: Final = 86_400

_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253})\Z|\[[0-9A-Fa-f:.]{2,45}\]\Z")
_NUMBER: Final = re.compile(r"[A-Za-z0-9*#+._-]{0,64}\Z")


class Identity(StrEnum):
    """The header field that tells a carrier who calls, beside From."""

    NONE = "none"
    PAI = "pai"
    PPI = "ppi"
    RPID = "rpid"


class Trunk(Struct, frozen=True, gc=False, omit_defaults=True):
    """One trunk. Its `name` is that of its item, and not in it.

    `targets` are hosts with an optional port and transport ("sip.example.net", "192.0.2.1:5080;transport=tcp"), tried
    in this order, each resolved by RFC 3263. `password` is sealed (`switch.trunks.sealed`). With `register` one seat
    of the cluster keeps it registered: `seat`, or the first by name. `domain` is the host of its addresses, the first
    target's unless given.

    `caller_id` is what callees see: "{extension}" in it stands for the caller's own number, and "" is the same as
    that. `from_user` takes its place in From, for carriers that want the account's name there; `identity` says in which
    field the caller is named then. `trusts_identity` takes a caller's name from P-Asserted-Identity.

    `channels_max` (0: no limit) counts calls of a seat. `probe_s` is how often each target is asked by OPTIONS (0:
    never), `answer_within_s` how long a target may be silent before the next one is tried. `accept_from` names further
    networks whence the carrier calls.
    """

    targets: tuple[str, ...]
    username: str = ""
    password: str = ""
    register: bool = False
    expires_s: int = 600
    seat: str = ""
    domain: str = ""
    caller_id: str = ""
    from_user: str = ""
    identity: Identity = Identity.PAI
    trusts_identity: bool = False
    channels_max: int = 0
    probe_s: float = 30.0
    answer_within_s: float = 4.0
    accept_from: tuple[str, ...] = ()
    note: str = ""
    name: str = ""

    @property
    def host(self) -> str:
        """The host of its addresses."""
        return self.domain or target_uri(self.targets[0]).host

    @property
    def networks(self) -> "tuple[IPv4Network | IPv6Network, ...]":
        """`accept_from`, read."""
        return tuple(_network(text) for text in self.accept_from)


@lru_cache(maxsize=1024)
def _network(text: str) -> IPv4Network | IPv6Network:
    return ip_network(text, strict=False)


@lru_cache(maxsize=1024)
def target_uri(target: str) -> Uri:
    """A target as a URI. Raises `MalformedMessage`."""
    uri = parse_uri(f"sip:{target}")
    if uri.user is not None or uri.headers or any(name.lower() != "transport" for name, _ in uri.params):
        raise MalformedMessage(f"{target}: a target is HOST[:PORT][;transport=udp|tcp|tls]", 400)
    if uri.param("transport") is not None and uri.param("transport") not in ("udp", "tcp", "tls"):
        raise MalformedMessage(f"{target}: transport is udp, tcp or tls", 400)
    return uri


def check_trunk(trunk: Trunk) -> None:
    """Raise `WardenError` that says what is wrong with a trunk."""
    if trunk.name:
        raise WardenError("its name is not part of it")
    for why, is_wrong in _faults(trunk):
        if is_wrong:
            raise WardenError(why)
    for target in trunk.targets:
        try:
            target_uri(target)
        except MalformedMessage as error:
            raise WardenError(str(error)) from None
    for text in trunk.accept_from:
        try:
            _network(text)
        except ValueError:
            raise WardenError(f"accept_from: {text[:50]!r} is no address or network") from None


def _faults(trunk: Trunk) -> tuple[tuple[str, bool], ...]:
    caller_id = trunk.caller_id.replace("{extension}", "0")
    return (
        (f"1 to {TARGETS_MAX} targets are needed", not 1 <= len(trunk.targets) <= TARGETS_MAX),
        ("to register takes a username and a password", trunk.register and not (trunk.username and trunk.password)),
        ("username: at most 128 printable characters", not _fits(trunk.username, 128)),
        ("password: at most 512 characters", not _fits(trunk.password, 512)),
        (
            f"expires_s is {MIN_EXPIRES_S} to {MAX_EXPIRES_S}",
            not MIN_EXPIRES_S <= trunk.expires_s <= MAX_EXPIRES_S,
        ),
        ("domain is a host name or an address", bool(trunk.domain) and not _HOST.match(trunk.domain)),
        ("caller_id is a number, with {extension} for the caller's own", not _NUMBER.match(caller_id)),
        ("from_user: at most 128 printable characters", not _fits(trunk.from_user, 128)),
        ("note: at most 200 characters", len(trunk.note) > 200),
        ("channels_max is 0 (no limit) to 100000", not 0 <= trunk.channels_max <= 100_000),
        ("probe_s is 0 (never) or 1 to 3600", trunk.probe_s != 0 and not 1 <= trunk.probe_s <= 3_600),
        ("answer_within_s is 1 to 32", not 1 <= trunk.answer_within_s <= 32),
        (f"accept_from: at most {ACCEPT_MAX} networks", len(trunk.accept_from) > ACCEPT_MAX),
    )


def _fits(text: str, longest: int) -> bool:
    return len(text) <= longest and text.isprintable()
