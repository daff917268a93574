"""What the rendered files say, as values with the lines where they say it. Pure, and forgiving: what a program itself
would refuse is for that program to name; here only what is to be compared is read.
"""

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import Final

import msgspec
import yaml
from msgspec import Struct

IPV4: Final = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])")


class Vrrp(Struct, frozen=True):
    """A `vrrp_instance` of keepalived.conf."""

    name: str
    line: int
    values: Mapping[str, tuple[str, int]]
    """Keyword to the rest of its line, and the line."""
    addresses: Mapping[str, int]
    """The addresses that move, without prefix length, and their lines."""
    peers: tuple[str, ...]

    def get(self, keyword: str) -> str:
        """The rest of the keyword's line; empty where it is not there."""
        return self.values.get(keyword, ("", 0))[0]

    def line_of(self, keyword: str) -> int:
        """Where it stands; else where the instance begins."""
        return self.values.get(keyword, ("", self.line))[1]


def vrrp_instances(text: str) -> list[Vrrp]:
    """The instances of a keepalived.conf."""
    found: list[Vrrp] = []
    lines = list(_bare_lines(text))
    at = 0
    while at < len(lines):
        number, words = lines[at]
        at += 1
        if words[0] != "vrrp_instance" or len(words) < 2:
            continue
        values: dict[str, tuple[str, int]] = {}
        blocks: dict[str, list[tuple[int, list[str]]]] = {}
        depth, block = 1, ""
        while at < len(lines) and depth:
            line, inner = lines[at]
            at += 1
            if inner[-1] == "{":
                depth += 1
                block = inner[0]
            elif inner[0] == "}":
                depth -= 1
                block = ""
            elif block:
                blocks.setdefault(block, []).append((line, inner))
            else:
                values[inner[0]] = (" ".join(inner[1:]), line)
        addresses = {words[0].partition("/")[0]: line for line, words in blocks.get("virtual_ipaddress", [])}
        peers = tuple(words[0] for _, words in blocks.get("unicast_peer", []))
        found.append(Vrrp(words[1], number, values, addresses, peers))
    return found


class Opening(Struct, frozen=True):
    """A rule of nftables that lets something in: from `sources` (none: from anywhere) to ports."""

    protocol: str
    ports: range
    sources: tuple[str, ...]

    def lets_in(self, source: str, protocol: str, port: int) -> bool:
        """Whether it does."""
        return (
            protocol == self.protocol
            and port in self.ports
            and (not self.sources or any(ip_address(source) in ip_network(one) for one in self.sources))
        )


_RULE: Final = re.compile(r"(?:ip saddr \{([^}]*)\} )?(tcp|udp) dport (\d+)(?:-(\d+))? accept")


def openings(text: str) -> list[Opening]:
    """What a firewall as Warden renders it lets in."""
    found = []
    for _, words in _bare_lines(text):
        if (rule := _RULE.match(" ".join(words))) is not None:
            sources = tuple(source.strip() for source in (rule[1] or "").split(",") if source.strip())
            found.append(Opening(rule[2], range(int(rule[3]), int(rule[4] or rule[3]) + 1), sources))
    return found


class Database(Struct, frozen=True):
    """What a Patroni's settings say of who reaches its PostgreSQL, and whom that follows."""

    address: str
    """Its own, without port."""
    follows: tuple[str, ...]
    """The hosts of another cluster's database; none where this one leads."""
    port: int
    """Theirs."""
    slot: str
    """By which it follows."""
    slots: frozenset[str]
    """Which it keeps for others."""
    hba: tuple[tuple[str, ...], ...]
    """The words of pg_hba's lines."""

    def admits(self, database: str, user: str, address: str) -> bool:
        """Whether a line lets the user in from there."""
        return any(
            len(words) >= 5
            and words[:3] == ("host", database, user)
            and ip_address(address) in ip_network(words[3], strict=False)
            for words in self.hba
        )


def database_of(text: str) -> Database | None:
    """A Patroni's settings; None where they are not in order, which is for Patroni itself to say."""
    try:
        read = msgspec.convert(yaml.safe_load(text), _Patroni)
    except (yaml.YAMLError, msgspec.ValidationError):
        return None
    standby = read.bootstrap.dcs.standby_cluster or _Standby()
    return Database(
        read.postgresql.connect_address.rpartition(":")[0],
        tuple(host for host in standby.host.split(",") if host),
        standby.port,
        standby.primary_slot_name,
        frozenset(read.bootstrap.dcs.slots),
        tuple(tuple(line.split()) for line in read.postgresql.pg_hba),
    )


class _Standby(Struct, frozen=True):
    host: str = ""
    port: int = 5432
    primary_slot_name: str = ""


class _Dynamic(Struct, frozen=True):
    standby_cluster: _Standby | None = None
    slots: dict[str, object] = {}


class _Bootstrap(Struct, frozen=True):
    dcs: _Dynamic = _Dynamic()


class _PostgreSql(Struct, frozen=True):
    connect_address: str = ""
    pg_hba: tuple[str, ...] = ()


class _Patroni(Struct, frozen=True):
    bootstrap: _Bootstrap = _Bootstrap()
    postgresql: _PostgreSql = _PostgreSql()


Assignments = Mapping[str, tuple[str, int]]
"""Variable to value and line."""


def assignments(text: str) -> dict[str, tuple[str, int]]:
    """The variables of a file for systemd or the shell (NAME="value"), with their lines."""
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name.strip()] = (value.strip().strip('"'), number)
    return found


def directives(text: str) -> Iterator[tuple[int, list[str]]]:
    """The lines of a file of words, as Redis, HAProxy and chrony have them: number and words, comments left out."""
    return _bare_lines(text)


def line_of(text: str, wanted: str) -> int:
    """The first line in which a text stands; 0 where it does not."""
    return next((number for number, line in enumerate(text.splitlines(), 1) if wanted in line), 0)


def _bare_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            yield number, words
