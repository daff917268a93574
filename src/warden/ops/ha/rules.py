"""What must hold between the files of a cluster, whoever wrote them. Pure: texts in, findings out."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from warden.config.tree import Config
from warden.ops.ha.between import between, region_by_host
from warden.ops.ha.etcd_rules import arbiter, asked_members, quorum
from warden.ops.ha.findings import Finding
from warden.ops.ha.names import names
from warden.ops.ha.passage import passage
from warden.ops.ha.reading import Vrrp, assignments, database_of, directives, line_of, openings, vrrp_instances
from warden.ops.ha.rendered import (
    ACL,
    AGAIN,
    ARBITER,
    CONFIG,
    ETCD,
    HAPROXY,
    KEEPALIVED,
    NFTABLES,
    PATRONI,
    Nodes,
    Texts,
    config_of,
    line_in,
    own_addresses,
)


def _arbiter(config: Config) -> object:
    """All of it but the order of its members, which begins with the region's own."""
    asked = config.high_availability.arbiter
    if asked is None:
        return None
    password = asked.password and asked.password.get_secret_value()
    return sorted((node.host, node.port) for node in asked.nodes), asked.user, password, asked.lease_ttl


Key = tuple[str, Callable[[Config], object]]
EVERYWHERE: Final[tuple[Key, ...]] = (
    ("high_availability.cluster_name", lambda config: config.high_availability.cluster_name),
    ("high_availability.regions", lambda config: config.high_availability.regions),
    ("high_availability.failover_driver", lambda config: config.high_availability.failover_driver),
    ("high_availability.lease_ttl", lambda config: config.high_availability.lease_ttl),
    ("high_availability.arbiter", _arbiter),
    ("secret", lambda config: config.secret and config.secret.get_secret_value()),
    ("sip.realm", lambda config: config.sip.realm),
    ("sip.tls", lambda config: config.sip.tls),
    ("sip.websocket", lambda config: config.sip.websocket),
    ("rtp.port_range", lambda config: config.rtp.port_range),
)
"""What must be the same on all nodes."""
IN_A_REGION: Final[tuple[Key, ...]] = (
    ("high_availability.seats", lambda config: config.high_availability.seats),
    ("database.host", lambda config: config.database.host),
)
"""And what on those of one region, or on all where there is one place only."""


def check(texts: Texts) -> list[Finding]:
    """Everything that does not fit together, by file and line."""
    nodes = {host: config_of(host, files) for host, files in texts.items() if CONFIG in files}
    vrrp = {host: vrrp_instances(files[KEEPALIVED]) for host, files in texts.items() if KEEPALIVED in files}
    regions = region_by_host(texts, nodes)
    rules: list[Iterator[Finding]] = [
        _same(nodes, EVERYWHERE),
        _names(nodes),
        _seats(nodes, vrrp),
        _times(texts, nodes, vrrp),
        _doors(texts, nodes),
        _open_doors(texts),
        passage(texts, nodes),
        between(texts, nodes, regions),
        quorum(texts, ARBITER),
        arbiter(texts, nodes, regions),
        names(texts, nodes),
    ]
    for region in dict.fromkeys(regions.values()):
        here = {host: files for host, files in texts.items() if regions[host] == region}
        nodes_here = {host: node for host, node in nodes.items() if host in here}
        rules += [
            _same(nodes_here, IN_A_REGION),
            _vrrp({host: found for host, found in vrrp.items() if host in here}),
            quorum(here, ETCD),
            asked_members(here, nodes_here),
            _redis(here),
        ]
    return sorted({finding for rule in rules for finding in rule})


def _same(nodes: Nodes, keys: tuple[Key, ...]) -> Iterator[Finding]:
    for key, value in keys:
        common = Counter(repr(value(node.config)) for node in nodes.values()).most_common(1)
        for host, node in nodes.items():
            if repr(value(node.config)) != common[0][0]:
                yield Finding(f"{host}/{CONFIG}", line_in(node, key), f"{key} is not as on the other nodes", AGAIN)


def _names(nodes: Nodes) -> Iterator[Finding]:
    names = Counter(node.config.high_availability.node_id for node in nodes.values())
    for host, node in nodes.items():
        if names[node.config.high_availability.node_id] > 1:
            name = node.config.high_availability.node_id
            line = line_in(node, "high_availability.node_id")
            yield Finding(f"{host}/{CONFIG}", line, f"another node is {name} as well", "give each a name of its own")


def _seats(nodes: Nodes, vrrp: Mapping[str, list[Vrrp]]) -> Iterator[Finding]:
    """What Warden calls a seat, keepalived must move, and to the same hosts."""
    for host, node in nodes.items():
        cluster = node.config.high_availability
        if cluster.failover_driver != "keepalived":
            continue
        instances = {instance.name: instance for instance in vrrp.get(host, [])}
        for seat in cluster.seats:
            instance = instances.get(seat.instance or seat.name)
            holds = cluster.node_id in seat.successors
            if instance is None and holds:
                what = f"there is no vrrp_instance {seat.instance or seat.name}, and {host} may hold that seat"
                yield Finding(f"{host}/{KEEPALIVED}", 0, what, "add it")
            elif instance is not None and seat.address not in instance.addresses:
                what = f"does not move {seat.address}, the address of seat {seat.name} in {CONFIG}"
                yield Finding(f"{host}/{KEEPALIVED}", instance.line, what, "the address must be the same in both")
            elif instance is not None and not holds:
                what = f"moves seat {seat.name}, and {host} is not among its successors in {CONFIG}"
                yield Finding(f"{host}/{KEEPALIVED}", instance.line, what, "remove it, or name the host there")


def _vrrp(vrrp: Mapping[str, list[Vrrp]]) -> Iterator[Finding]:
    by_name: dict[str, list[tuple[str, Vrrp]]] = {}
    for host, instances in vrrp.items():
        for instance in instances:
            by_name.setdefault(instance.name, []).append((host, instance))
    for name, group in by_name.items():
        first_host, first = group[0]
        for host, instance in group[1:]:
            where = f"{host}/{KEEPALIVED}"
            for keyword in ("virtual_router_id", "advert_int"):
                if instance.get(keyword) != first.get(keyword):
                    what = f"{name}: {keyword} is {instance.get(keyword)}, on {first_host} {first.get(keyword)}"
                    yield Finding(where, instance.line_of(keyword), what, "must be the same on all hosts")
            if instance.addresses.keys() != first.addresses.keys():
                what = f"{name}: moves {', '.join(instance.addresses)}, on {first_host} {', '.join(first.addresses)}"
                line = min(instance.addresses.values(), default=instance.line)
                yield Finding(where, line, what, "must be the same on all hosts")
        by_priority: dict[str, str] = {}
        for host, instance in group:
            where = f"{host}/{KEEPALIVED}"
            if (other := by_priority.setdefault(instance.get("priority"), host)) != host:
                what = f"{name}: priority {instance.get('priority')} is that of {other} as well"
                yield Finding(where, instance.line_of("priority"), what, "give each host another one")
            if instance.get("state") != "BACKUP" or "nopreempt" not in instance.values:
                what = f"{name}: must begin as BACKUP with nopreempt, or a host that comes back takes the calls back"
                yield Finding(where, instance.line_of("state"), what, "state BACKUP, and nopreempt below it")
            yield from _peers(name, host, instance, group)
    numbers: dict[str, str] = {}
    for name, group in by_name.items():
        host, instance = group[0]
        number = instance.get("virtual_router_id")
        if (other := numbers.setdefault(number, name)) != name:
            what = f"{name}: virtual_router_id {number} is that of {other} as well"
            line = instance.line_of("virtual_router_id")
            yield Finding(f"{host}/{KEEPALIVED}", line, what, "give each instance another one")


def _peers(name: str, host: str, instance: Vrrp, group: list[tuple[str, Vrrp]]) -> Iterator[Finding]:
    """Who hears whom: of two that do not, both would have the address."""
    if not instance.peers:
        return
    for other, there in group:
        source = there.get("unicast_src_ip")
        if other != host and source not in instance.peers:
            what = f"{name}: {other} ({source}) is not among the unicast_peer: both would hold the address"
            yield Finding(f"{host}/{KEEPALIVED}", instance.line, what, f"add {source}")


def _redis(texts: Texts) -> Iterator[Finding]:
    lists = {host: files[ACL] for host, files in texts.items() if ACL in files}
    common = Counter(lists.values()).most_common(1)
    for host, text in lists.items():
        if text != common[0][0]:
            yield Finding(f"{host}/{ACL}", 0, "users are not as on the other hosts", AGAIN)
    masters = 0
    for host, files in texts.items():
        for path, text in files.items():
            if not (path.startswith("etc/redis/redis") and path.endswith(".conf")):
                continue
            said = {words[0]: (words[1:], number) for number, words in directives(text)}
            masters += said.get("cluster-enabled", ([], 0))[0] == ["yes"]
            for keyword, bad, cure in (
                ("protected-mode", ["no"], "protected-mode yes"),
                ("maxmemory-policy", ["allkeys-lru"], "maxmemory-policy noeviction"),
                ("appendonly", ["no"], "appendonly yes"),
            ):
                if said.get(keyword, ([], 0))[0] == bad:
                    what = f"{keyword} {bad[0]}: calls could be read, forgotten or lost"
                    yield Finding(f"{host}/{path}", said[keyword][1], what, cure)
            if "aclfile" not in said and "requirepass" not in said:
                yield Finding(f"{host}/{path}", 0, "has no password: anyone on the network owns every call", "aclfile")
    if 0 < masters < 6:
        what = f"a Redis Cluster of {masters} servers: one that dies takes its calls with it"
        yield Finding("", 0, what, "three masters, and a replica for each")


def _times(texts: Texts, nodes: Nodes, vrrp: Mapping[str, list[Vrrp]]) -> Iterator[Finding]:
    """Health before lease before failover_timeout, or who decides later undoes what was decided."""
    for host, node in nodes.items():
        cluster = node.config.high_availability
        line = line_in(node, "high_availability.lease_ttl")
        if cluster.lease_ttl >= cluster.failover_timeout:
            what = (
                f"lease_ttl ({cluster.lease_ttl:g} s) must be less than failover_timeout ({cluster.failover_timeout:g})"
            )
            yield Finding(f"{host}/{CONFIG}", line, what, "a fail-over would be called failed while it is under way")
        asked = cluster.arbiter
        if asked is not None and not cluster.lease_ttl < asked.lease_ttl < cluster.failover_timeout:
            what = (
                f"arbiter.lease_ttl ({asked.lease_ttl:g} s) must be more than lease_ttl ({cluster.lease_ttl:g}) and "
                f"less than failover_timeout ({cluster.failover_timeout:g})"
            )
            line = line_in(node, "high_availability.arbiter.lease_ttl")
            yield Finding(f"{host}/{CONFIG}", line, what, "timings.region_lease_ttl in cluster.yml")
        for instance in vrrp.get(host, []):
            advert = float(instance.get("advert_int") or 1)
            if 3 * advert >= cluster.lease_ttl:
                what = f"{instance.name}: advert_int ({advert:g}) must be less than a third of lease_ttl"
                yield Finding(f"{host}/{KEEPALIVED}", instance.line_of("advert_int"), what, "make it smaller")
        for number, words in directives(texts[host].get(HAPROXY, "")):
            if words[0] == "default-server" and "inter" in words:
                seconds = _seconds(words[words.index("inter") + 1])
                fall = int(words[words.index("fall") + 1]) if "fall" in words else 3
                if seconds * fall >= cluster.lease_ttl:
                    what = f"{fall} checks every {seconds:g} s are not less than lease_ttl ({cluster.lease_ttl:g} s)"
                    yield Finding(f"{host}/{HAPROXY}", number, what, "make inter smaller")


def _doors(texts: Texts, nodes: Nodes) -> Iterator[Finding]:
    """Whoever one host is to reach must let it in."""
    at = {address: host for host in nodes for address in own_addresses(texts[host])}
    for host, files in texts.items():
        for address in own_addresses(files):
            at.setdefault(address, host)
    walls = {host: openings(files[NFTABLES]) for host, files in texts.items() if NFTABLES in files}
    for host, files in texts.items():
        for source_file, target, port in _asked(host, files, nodes):
            there = at.get(target)
            if there is None or there == host or there not in walls:
                continue
            for source in own_addresses(files):
                if not any(opening.lets_in(source, "tcp", port) for opening in walls[there]):
                    what = f"does not let {host} ({source}) in at port {port}, which its {source_file} asks"
                    cure = "add a rule, or the service to the host's roles in cluster.yml"
                    yield Finding(f"{there}/{NFTABLES}", line_of(texts[there][NFTABLES], "chain input"), what, cure)


def _asked(host: str, files: Mapping[str, str], nodes: Nodes) -> Iterator[tuple[str, str, int]]:
    """Whom a host is to reach: the file that says so, address and port (TCP)."""
    node = nodes.get(host)
    if node is not None:
        config = node.config
        for address in (config.database.host or "").split(","):
            yield CONFIG, address, config.database.port
        yield from ((CONFIG, server.host, server.port) for server in config.redis.nodes)
        yield from ((CONFIG, member.host, member.port) for member in config.etcd.nodes)
        yield from ((CONFIG, server.host, server.port) for server in config.database.patroni.nodes)
        if config.high_availability.arbiter is not None:
            yield from ((CONFIG, member.host, member.port) for member in config.high_availability.arbiter.nodes)
        for region in config.high_availability.regions:
            yield from ((CONFIG, other.host, other.port) for other in region.nodes)
    if (database := database_of(files.get(PATRONI, ""))) is not None:
        yield from ((PATRONI, address, database.port) for address in database.follows)
    for _, words in directives(files.get(HAPROXY, "")):
        if words[0] == "server" and len(words) > 2:
            address, _, port = words[2].rpartition(":")
            yield HAPROXY, address, int(port) if port.isdigit() else 0
    for file in (ETCD, ARBITER):
        for url in assignments(files.get(file, "")).get("ETCD_INITIAL_CLUSTER", ("", 0))[0].split(","):
            address, _, port = url.rpartition("//")[2].rpartition(":")
            if port.isdigit():
                yield file, address, int(port)
    for path, text in files.items():
        if path.startswith("etc/redis/redis-"):
            # What the servers of a cluster tell each other goes to the port and 10,000.
            own = next((int(words[1]) for _, words in directives(text) if words[0] == "port"), 0)
            if any(words == ["cluster-enabled", "yes"] for _, words in directives(text)):
                for server in node.config.redis.nodes if node is not None else ():
                    if server.port == own:
                        yield path, server.host, own + 10_000


def _open_doors(texts: Texts) -> Iterator[Finding]:
    """What must not be open to everybody."""
    for host, files in texts.items():
        for number, words in directives(files.get(HAPROXY, "")):
            if words[:2] == ["stats", "admin"]:
                yield Finding(f"{host}/{HAPROXY}", number, "anyone may take servers out", "remove `stats admin`")
            if words[:2] == ["mode", "udp"]:
                yield Finding(
                    f"{host}/{HAPROXY}", number, "HAProxy has no mode udp", "audio goes to the seat's address"
                )
        inner = {5432, 6379, 6380, 2379, 2380, 2381, 2382, 8008}
        for opening in openings(files.get(NFTABLES, "")):
            if not opening.sources and (open_ports := inner & set(opening.ports)):
                line = line_of(files[NFTABLES], f"dport {opening.ports.start}")
                what = f"port {min(open_ports)} is open to everybody"
                yield Finding(f"{host}/{NFTABLES}", line, what, "only for the hosts of the cluster")


def _seconds(text: str) -> float:
    for unit, scale in (("ms", 0.001), ("s", 1.0), ("m", 60.0)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * scale
    return float(text) / 1000
