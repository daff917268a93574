"""What must hold between the members of an etcd, each region's own and that of three sites, and who asks them. Pure:
texts in, findings out.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from warden.ops.ha.findings import Finding
from warden.ops.ha.reading import IPV4, assignments, line_of
from warden.ops.ha.rendered import AGAIN, ARBITER, CONFIG, ETCD, Nodes, Texts, line_in, own_addresses

BOOTSTRAP: Final = "usr/local/sbin/pbx-bootstrap"
_ACCOUNT: Final = re.compile(r'account warden "([^"]*)" "(/warden/[^"]*-regions/)"')


def quorum(texts: Texts, file: str) -> Iterator[Finding]:
    """What the members say of each other in a file of theirs."""
    members: dict[str, tuple[str, int]] = {}
    for host, files in texts.items():
        if file in files:
            members[host] = assignments(files[file]).get("ETCD_INITIAL_CLUSTER", ("", 0))
    if not members:
        return
    common = Counter(value for value, _ in members.values()).most_common(1)[0][0]
    named = [one.partition("=")[0] for one in common.split(",") if one]
    own = {host: assignments(texts[host][file]).get("ETCD_NAME", ("", 0))[0] for host in members}
    for host, (value, line) in members.items():
        if value != common:
            yield Finding(f"{host}/{file}", line, "ETCD_INITIAL_CLUSTER is not as on the other hosts", AGAIN)
        elif len(named) < 3 or len(named) % 2 == 0:
            what = f"{len(named)} members: must be an odd number of at least three"
            yield Finding(f"{host}/{file}", line, what, "one less bears the same loss; one more bears another")
        elif own[host] not in named:
            yield Finding(f"{host}/{file}", line, "ETCD_INITIAL_CLUSTER does not name this host", AGAIN)
        elif missing := [name for name in named if name not in own.values()]:
            what = f"ETCD_INITIAL_CLUSTER names {', '.join(missing)}, which no host here is"
            yield Finding(f"{host}/{file}", line, what, "its vote would be missing from the start")


def asked_members(texts: Texts, nodes: Nodes) -> Iterator[Finding]:
    """The nodes of a region ask those that are members of its etcd."""
    hosts = set(_members(texts, ETCD))
    for host, node in nodes.items():
        for i, member in enumerate(node.config.etcd.nodes if hosts else ()):
            if IPV4.fullmatch(member.host) and member.host not in hosts:
                line = node.lines.get(("etcd", "nodes", i), 0)
                yield Finding(f"{host}/{CONFIG}", line, f"etcd.nodes: {member.host} is no member of etcd", AGAIN)


def arbiter(texts: Texts, nodes: Nodes, regions: Mapping[str, str]) -> Iterator[Finding]:
    """The nodes of both regions ask every member of the arbiter, that of their own region first, by the name and with
    the password that it knows. Each site has one member.
    """
    members = _members(texts, ARBITER)
    for site, here in Counter(regions[host] for host in members.values() if host).items():
        if here > 1:
            for host in (host for host in members.values() if host and regions[host] == site):
                line = line_of(texts[host][ARBITER], "ETCD_NAME")
                what = f"{here} members of the arbiter are in one place: with it, the majority would be lost"
                yield Finding(f"{host}/{ARBITER}", line, what, "one in each region, and one at the third site")
    account = next(
        (found for files in texts.values() if (found := _ACCOUNT.search(files.get(BOOTSTRAP, ""))) is not None), None
    )
    for host, node in nodes.items():
        asked = node.config.high_availability.arbiter
        if asked is None:
            continue
        where, line = f"{host}/{CONFIG}", line_in(node, "high_availability.arbiter.nodes")
        addresses = [member.host for member in asked.nodes]
        for address in addresses:
            if address not in members:
                yield Finding(where, line, f"arbiter.nodes: {address} is no member of the arbiter", AGAIN)
        for address in members:
            if address not in addresses:
                what = f"arbiter.nodes does not name {address}: its vote would not be asked"
                yield Finding(where, line, what, AGAIN)
        if addresses and regions.get(members.get(addresses[0], ""), regions[host]) != regions[host]:
            what = f"arbiter.nodes begins with {addresses[0]}, which is not in region {regions[host]}"
            yield Finding(where, line, what, "the region's own member must be first: it is the nearest")
        if account is None:
            continue
        if asked.password is None or asked.password.get_secret_value() != account[1]:
            what = "arbiter.password is not the one that pbx-bootstrap gives the account"
            yield Finding(where, line_in(node, "high_availability.arbiter.password"), what, AGAIN)
        if account[2] != f"/warden/{node.config.high_availability.cluster_name}-regions/":
            what = f"cluster_name: pbx-bootstrap lets the account write below {account[2]} only"
            yield Finding(where, line_in(node, "high_availability.cluster_name"), what, AGAIN)


def _members(texts: Texts, file: str) -> dict[str, str]:
    """The members of an etcd by address: their hosts, or "" where those are not here."""
    here = {host: files for host, files in texts.items() if file in files}
    at = {address: host for host, files in here.items() for address in own_addresses(files)}
    named = Counter(assignments(files[file]).get("ETCD_INITIAL_CLUSTER", ("", 0))[0] for files in here.values())
    return {address: at.get(address, "") for common, _ in named.most_common(1) for address in IPV4.findall(common)}
