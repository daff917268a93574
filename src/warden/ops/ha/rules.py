"""What must hold between the files of a cluster, whoever wrote them. Pure: texts in, findings out."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from warden.config.load import Document, parse
from warden.config.tree import Config
from warden.ops.ha.findings import Finding
from warden.ops.ha.reading import IPV4, Vrrp, assignments, directives, line_of, openings, vrrp_instances

Texts = Mapping[str, Mapping[str, str]]
"""Host to path to text."""

CONFIG: Final = "etc/warden/config.yml"
ENVIRONMENT: Final = "etc/warden/environment"
KEEPALIVED: Final = "etc/keepalived/keepalived.conf"
HAPROXY: Final = "etc/haproxy/haproxy.cfg"
ETCD: Final = "etc/default/etcd"
NFTABLES: Final = "etc/nftables.conf"
ACL: Final = "etc/redis/users.acl"
PATRONI: Final = "etc/patroni/config.yml"
AGAIN: Final = "run `warden ha render` again, or mend the one that differs"


def check(texts: Texts) -> list[Finding]:
    """Everything that does not fit together, by file and line."""
    nodes = {host: config_of(host, files) for host, files in texts.items() if CONFIG in files}
    vrrp = {host: vrrp_instances(files[KEEPALIVED]) for host, files in texts.items() if KEEPALIVED in files}
    rules: tuple[Iterator[Finding], ...] = (
        _settings(nodes),
        _seats(nodes, vrrp),
        _vrrp(vrrp),
        _etcd(texts, nodes),
        _redis(texts),
        _times(texts, nodes, vrrp),
        _doors(texts, nodes),
        _open_doors(texts),
    )
    return sorted({finding for rule in rules for finding in rule})


def config_of(host: str, files: Mapping[str, str]) -> Document[Config]:
    """A node's settings, with the passwords that its environment file gives them."""
    environ = {name: value for name, (value, _) in assignments(files.get(ENVIRONMENT, "")).items()}
    return parse(files[CONFIG].encode(), environ, Config, name=f"{host}/{CONFIG}")


def _settings(nodes: Mapping[str, Document[Config]]) -> Iterator[Finding]:
    """What must be the same on all nodes, and what must not."""
    same: tuple[tuple[str, Callable[[Config], object]], ...] = (
        ("high_availability.cluster_name", lambda config: config.high_availability.cluster_name),
        ("high_availability.seats", lambda config: config.high_availability.seats),
        ("high_availability.failover_driver", lambda config: config.high_availability.failover_driver),
        ("high_availability.lease_ttl", lambda config: config.high_availability.lease_ttl),
        ("secret", lambda config: config.secret and config.secret.get_secret_value()),
        ("sip.realm", lambda config: config.sip.realm),
        ("rtp.port_range", lambda config: config.rtp.port_range),
        ("database.host", lambda config: config.database.host),
    )
    for key, value in same:
        common = Counter(repr(value(node.config)) for node in nodes.values()).most_common(1)
        for host, node in nodes.items():
            if repr(value(node.config)) != common[0][0]:
                yield Finding(f"{host}/{CONFIG}", _line(node, key), f"{key} is not as on the other nodes", AGAIN)
    names = Counter(node.config.high_availability.node_id for node in nodes.values())
    for host, node in nodes.items():
        if names[node.config.high_availability.node_id] > 1:
            name = node.config.high_availability.node_id
            line = _line(node, "high_availability.node_id")
            yield Finding(f"{host}/{CONFIG}", line, f"another node is {name} as well", "give each a name of its own")


def _seats(nodes: Mapping[str, Document[Config]], vrrp: Mapping[str, list[Vrrp]]) -> Iterator[Finding]:
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


def _etcd(texts: Texts, nodes: Mapping[str, Document[Config]]) -> Iterator[Finding]:
    members: dict[str, tuple[str, int]] = {}
    for host, files in texts.items():
        if ETCD in files:
            members[host] = assignments(files[ETCD]).get("ETCD_INITIAL_CLUSTER", ("", 0))
    if not members:
        return
    common = Counter(value for value, _ in members.values()).most_common(1)[0][0]
    size = len([one for one in common.split(",") if one])
    for host, (value, line) in members.items():
        if value != common:
            yield Finding(f"{host}/{ETCD}", line, "ETCD_INITIAL_CLUSTER is not as on the other hosts", AGAIN)
        elif size < 3 or size % 2 == 0:
            what = f"{size} members: must be an odd number of at least three"
            yield Finding(f"{host}/{ETCD}", line, what, "one less bears the same loss; one more bears another")
        elif f"{assignments(texts[host][ETCD]).get('ETCD_NAME', ('', 0))[0]}=" not in value:
            yield Finding(f"{host}/{ETCD}", line, "ETCD_INITIAL_CLUSTER does not name this host", AGAIN)
    hosts = set(IPV4.findall(common))
    for host, node in nodes.items():
        for i, member in enumerate(node.config.etcd.nodes):
            if IPV4.fullmatch(member.host) and member.host not in hosts:
                line = node.lines.get(("etcd", "nodes", i), 0)
                yield Finding(f"{host}/{CONFIG}", line, f"etcd.nodes: {member.host} is no member of etcd", AGAIN)


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


def _times(texts: Texts, nodes: Mapping[str, Document[Config]], vrrp: Mapping[str, list[Vrrp]]) -> Iterator[Finding]:
    """Health before lease before failover_timeout, or who decides later undoes what was decided."""
    for host, node in nodes.items():
        cluster = node.config.high_availability
        line = _line(node, "high_availability.lease_ttl")
        if cluster.lease_ttl >= cluster.failover_timeout:
            what = (
                f"lease_ttl ({cluster.lease_ttl:g} s) must be less than failover_timeout ({cluster.failover_timeout:g})"
            )
            yield Finding(f"{host}/{CONFIG}", line, what, "a fail-over would be called failed while it is under way")
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


def _doors(texts: Texts, nodes: Mapping[str, Document[Config]]) -> Iterator[Finding]:
    """Whoever one host is to reach must let it in."""
    at = {address: host for host in nodes for address in _own(texts[host])}
    for host, files in texts.items():
        for address in _own(files):
            at.setdefault(address, host)
    walls = {host: openings(files[NFTABLES]) for host, files in texts.items() if NFTABLES in files}
    for host, files in texts.items():
        for source_file, target, port in _asked(host, files, nodes):
            there = at.get(target)
            if there is None or there == host or there not in walls:
                continue
            for source in _own(files):
                if not any(opening.lets_in(source, "tcp", port) for opening in walls[there]):
                    what = f"does not let {host} ({source}) in at port {port}, which its {source_file} asks"
                    cure = "add a rule, or the service to the host's roles in cluster.yml"
                    yield Finding(f"{there}/{NFTABLES}", line_of(texts[there][NFTABLES], "chain input"), what, cure)


def _asked(
    host: str, files: Mapping[str, str], nodes: Mapping[str, Document[Config]]
) -> Iterator[tuple[str, str, int]]:
    """Whom a host is to reach: the file that says so, address and port (TCP)."""
    node = nodes.get(host)
    if node is not None:
        config = node.config
        for address in (config.database.host or "").split(","):
            yield CONFIG, address, config.database.port
        yield from ((CONFIG, server.host, server.port) for server in config.redis.nodes)
        yield from ((CONFIG, member.host, member.port) for member in config.etcd.nodes)
    for _, words in directives(files.get(HAPROXY, "")):
        if words[0] == "server" and len(words) > 2:
            address, _, port = words[2].rpartition(":")
            yield HAPROXY, address, int(port) if port.isdigit() else 0
    for url in assignments(files.get(ETCD, "")).get("ETCD_INITIAL_CLUSTER", ("", 0))[0].split(","):
        address, _, port = url.rpartition("//")[2].rpartition(":")
        if port.isdigit():
            yield ETCD, address, int(port)
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
        inner = {5432, 6379, 6380, 2379, 2380, 8008}
        for opening in openings(files.get(NFTABLES, "")):
            if not opening.sources and (open_ports := inner & set(opening.ports)):
                line = line_of(files[NFTABLES], f"dport {opening.ports.start}")
                what = f"port {min(open_ports)} is open to everybody"
                yield Finding(f"{host}/{NFTABLES}", line, what, "only for the hosts of the cluster")


def _own(files: Mapping[str, str]) -> list[str]:
    """A host's own addresses, as its files tell them."""
    found = [instance.get("unicast_src_ip") for instance in vrrp_instances(files.get(KEEPALIVED, ""))]
    told = assignments(files.get(ETCD, ""))
    found += IPV4.findall(told.get("ETCD_ADVERTISE_CLIENT_URLS", ("", 0))[0])
    for path, text in files.items():
        if path.startswith("etc/redis/redis"):
            found += [word for _, words in directives(text) if words[0] == "bind" for word in words[1:]]
    return sorted({address for address in found if address and not address.startswith("127.")})


def _seconds(text: str) -> float:
    for unit, scale in (("ms", 0.001), ("s", 1.0), ("m", 60.0)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * scale
    return float(text) / 1000


def _line(node: Document[Config], key: str) -> int:
    path = tuple(key.split("."))
    while path and path not in node.lines:
        path = path[:-1]
    return node.lines.get(path, 0)
