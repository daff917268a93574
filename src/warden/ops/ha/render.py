"""The files of every host, as values: from the inventory and its secrets, the same bytes each time. No I/O."""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_network
from itertools import permutations
from typing import Any, Final, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from msgspec import Struct

from warden.ops.ha.inventory import Cluster, Host, Role, Seat
from warden.ops.ha.labels import BALANCER
from warden.ops.ha.regions import Geo, places, third_place
from warden.ops.ha.secret_values import Secrets, hash_of
from warden.ops.ha.services import SSH, services_of, sources
from warden.ops.ha.sites import with_prefix
from warden.ops.ha.units import STATE, units_of
from warden.store.redis_servers import SLOTS, key_slot

PRIORITIES: Final = (250, 190, 130, 90, 65, 45, 30, 20)
"""Of a seat's successors in turn. High, since a backup waits (256 - priority) / 256 of an interval longer, and far
enough apart that two do not begin at once.
"""
POOL: Final = (50, 100)
"""The deployment guide's `pool_size` and `max_overflow`."""
CONNECTIONS_SPARE: Final = 50
"""For replication, Patroni, exporters and people, beside the pools of the nodes."""
REDIS_PORTS: Final = (6379, 6380)
SRV_PRIORITIES: Final = (10, 20)
"""Of the first region and of the second: phones ask there when nobody answers in the first."""
SECRET: Final = 0o600


class File(Struct, frozen=True):
    """A file on a host's disk; `owner` is `user:group`."""

    text: str
    mode: int = 0o644
    owner: str = "root:root"
    put: Literal["put", "put_anew", "put_once"] = "put"
    """What `install.sh` does with it: put it where the disk differs; where it differs from what was put the last time,
    since its program writes in it as well; the first time only, since it is the operator's from then on."""


class Instance(Struct, frozen=True):
    """A VRRP instance as one host sees it."""

    name: str
    address: str
    """With prefix length."""
    bare: str
    router_id: int
    priority: int
    peers: tuple[str, ...]
    seat: bool
    """Moves with a seat, and not with the balancer."""


class Way(Struct, frozen=True):
    """SIP by HAProxy over one transport: its port there and at the seats."""

    name: str
    port: int
    seat_port: int
    about: tuple[str, ...] = ()
    ends_tls: bool = False


class Rule(Struct, frozen=True):
    """A service in the firewall of a host."""

    name: str
    rule: str
    first: bool


Files = Mapping[str, File]
"""By path, without the slash at its beginning."""


def render(cluster: Cluster, secrets: Secrets, shared: Mapping[Role, Files] | None = None) -> dict[str, Files]:
    """The files of each host by its name, and under `dns` the zone. `shared` are files that hosts get by role."""
    made: dict[str, Files] = {}
    templates = _templates()
    # One for all hosts, of both regions: whichever a phone asks, it is told the same.
    zone = _made(templates, "zone", _zone_values(cluster))
    by_role = {**(shared or {}), "dns": {f"etc/bind/{cluster.domain}.zone": zone}}
    for region, geo in places(cluster):
        for host in region.hosts:
            values = _values(region, geo, secrets, host)
            made[host.name] = _host_files(templates, region, geo, values, host, by_role)
    if (third := third_place(cluster)) is not None:
        site, geo = third
        for host in site.hosts:
            made[host.name] = _host_files(templates, site, geo, _base_values(site, geo, secrets, host), host, {})
    made["dns"] = {f"{cluster.domain}.zone": zone}
    return made


def _host_files(
    templates: Environment,
    cluster: Cluster,
    geo: Geo | None,
    values: Mapping[str, Any],
    host: Host,
    shared: Mapping[Role, Files],
) -> Files:
    files = {path: _made(templates, template, values, *rest) for path, template, *rest in _files_of(cluster, geo, host)}
    if "redis" in host.roles:
        for port in REDIS_PORTS if cluster.has_cluster_redis else REDIS_PORTS[:1]:
            more = {**values, "port": port}
            files[f"etc/redis/redis-{port}.conf"] = _made(
                templates, "redis.conf", more, 0o640, "redis:redis", "put_anew"
            )
    for role in host.roles:
        files |= shared.get(role, {})
    rewritten = {path for path, file in files.items() if file.put == "put_anew"}
    files["install.sh"] = _made(
        templates,
        "install.sh",
        {
            **values,
            "files": [
                {"path": path, "mode": file.mode, "owner": file.owner, "put": file.put}
                for path, file in sorted(files.items())
            ],
            "units": list(units_of(files, rewritten)),
            "state": STATE,
            "ssh_from": _ssh_from(cluster, geo, host),
        },
        0o755,
    )
    return dict(sorted(files.items()))


def _files_of(cluster: Cluster, geo: Geo | None, host: Host) -> Iterator[tuple[Any, ...]]:
    """Path, template, mode, owner and `File.put` of each file of a host."""
    roles = set(host.roles)
    if "pbx" in roles:
        yield "etc/warden/config.yml", "config.yml", 0o644
        yield "etc/warden/environment", "environment", SECRET
        yield "etc/systemd/system/pbx.service", "pbx.service", 0o644
        yield "etc/systemd/system/pbx.service.d/keepalived.conf", "pbx-dropin.conf", 0o644
        yield "usr/local/bin/warden", "warden.sh", 0o755
    if instances_of(cluster, host) and "pbx" in roles:
        yield "etc/tmpfiles.d/pbx.conf", "tmpfiles.conf", 0o644
    if instances_of(cluster, host):
        yield "etc/keepalived/keepalived.conf", "keepalived.conf", 0o644
        yield "etc/systemd/system/keepalived.service.d/pbx.conf", "keepalived-dropin.conf", 0o644
    if "balancer" in roles:
        yield "etc/haproxy/haproxy.cfg", "haproxy.cfg", 0o644
    if "dns" in roles:
        yield "etc/bind/named.conf", "named.conf", 0o644
    if "database" in roles:
        yield "etc/patroni/config.yml", "patroni.yml", SECRET, "postgres:postgres"
        yield "etc/default/prometheus-postgres-exporter", "postgres-exporter", SECRET
        if geo is not None:
            yield "etc/patroni/start", "patroni-start", 0o700, "postgres:postgres"
        yield "etc/systemd/system/patroni.service.d/pbx.conf", "patroni-dropin.conf", 0o644
        if geo is None or geo.is_first:
            # The other region's database is a copy, with the roles in it.
            yield "etc/patroni/post-init", "patroni-post-init", 0o700, "postgres:postgres"
    if roles & {"etcd", "witness"}:
        yield "etc/default/etcd", "etcd", 0o644
        yield "etc/systemd/system/etcd.service.d/pbx.conf", "etcd-dropin.conf", 0o644
    if "arbiter" in roles:
        yield "etc/default/etcd-arbiter", "etcd-arbiter", 0o644
        yield "etc/systemd/system/etcd-arbiter.service", "etcd-arbiter.service", 0o644
    if "redis" in roles:
        yield "etc/redis/users.acl", "users.acl", 0o640, "redis:redis"
        yield "etc/default/prometheus-redis-exporter", "redis-exporter", SECRET
    if not cluster.has_cluster_redis and roles & {"redis", "witness"}:
        yield "etc/redis/sentinel.conf", "sentinel.conf", 0o640, "redis:redis", "put_anew"
    if host == cluster.maker:
        yield "usr/local/sbin/pbx-bootstrap", "bootstrap.sh", 0o700
    yield "etc/nftables.conf", "nftables.conf", 0o755
    yield "etc/chrony/conf.d/pbx.conf", "chrony.conf", 0o644
    yield "etc/sysctl.d/90-pbx.conf", "sysctl.conf", 0o644
    if "monitor" in roles:
        yield "etc/prometheus/prometheus.yml", "prometheus.yml", 0o644


def instances_of(cluster: Cluster, host: Host) -> tuple[Instance, ...]:
    """The VRRP instances of which a host is a part."""
    found = []
    number = cluster.virtual_router_id
    ways = [(seat.name, seat.address, seat.successors, True) for seat in cluster.seats]
    if cluster.balancer.address is not None:
        balancers = tuple(balancer.name for balancer in cluster.hosts_with("balancer"))
        ways.append(("balancer", cluster.balancer.address, balancers, False))
    own = {one.name: one.address for one in cluster.hosts}
    for i, (name, address, order, is_seat) in enumerate(ways):
        if host.name in order:
            found.append(
                Instance(
                    name,
                    with_prefix(cluster.network, address),
                    address,
                    number + i,
                    PRIORITIES[order.index(host.name)],
                    tuple(own[peer] for peer in order if peer != host.name),
                    is_seat,
                )
            )
    return tuple(found)


def ways_of(cluster: Cluster) -> tuple[Way, ...]:
    """How HAProxy passes phones on, where it has an address."""
    ways = [Way("tcp", cluster.sip_port, cluster.sip_port)]
    about: tuple[str, ...]
    if cluster.sip_tls.certificate is not None:
        about = ("TLS is the seat's: nothing is deciphered here, and the phone sees the seat's certificate.",)
        ways.append(Way("tls", cluster.sip_tls.port, cluster.sip_tls.port, about))
    if cluster.websocket.port is not None:
        about = (
            "Phones in browsers: wss://this address/. TLS ends here, which the seat is told too (-ssl); what WebSocket",
            "and SIP are is the seat's to know, so that this is no HTTP here. The API's port is not for phones.",
        )
        ways.append(Way("wss", cluster.websocket.port, cluster.websocket.seat_port, about, ends_tls=True))
    return tuple(ways)


def redis_order(cluster: Cluster) -> tuple[Host, ...]:
    """The hosts with Redis, the first master in front: such that the calls of a seat are, at first, not kept on the
    host that carries them. That host's death would otherwise take both, and the calls would wait for Redis' fail-over.
    """
    hosts = cluster.hosts_with("redis")
    if not cluster.has_cluster_redis:
        home = cluster.seats[0].successors[0]
        return tuple(sorted(hosts, key=lambda host: host.name == home))

    def together(order: Sequence[Host]) -> int:
        shares = (key_slot(seat.name) * len(order) // SLOTS for seat in cluster.seats)
        return sum(order[share].name == seat.successors[0] for seat, share in zip(cluster.seats, shares, strict=True))

    return min(permutations(hosts), key=together)


def program(cluster: Cluster) -> str:
    """The `warden` command on the hosts."""
    return cluster.paths.program or f"{cluster.paths.warden}/current/bin/warden"


def _values(cluster: Cluster, geo: Geo | None, secrets: Secrets, host: Host) -> dict[str, Any]:
    timings = cluster.timings
    nodes, databases, redis = cluster.hosts_with("pbx"), cluster.hosts_with("database"), redis_order(cluster)
    # All of which may ask one database: PostgreSQL follows none that bears more connections than it does itself.
    clients = [node for one in (geo.clusters if geo is not None else (cluster,)) for node in one.hosts_with("pbx")]
    first_redis = redis[0]
    arbiters = geo.arbiters if geo is not None else ()
    return {
        **_base_values(cluster, geo, secrets, host),
        "hosts": cluster.hosts,
        "hashes": {
            name: hash_of(getattr(secrets, name))
            for name in ("redis", "redis_replica", "redis_operator", "redis_monitor")
        },
        "nodes": nodes,
        "databases": databases,
        "database_hosts": (*databases, *(geo.other.hosts_with("database") if geo is not None else ())),
        "voters": cluster.hosts_with("etcd", "witness"),
        "monitors": cluster.hosts_with("monitor"),
        "redis_hosts": redis,
        # Warden asks the first place first, and waits half a second for it: that of its own host lives as long as it.
        "redis_nodes": sorted(_redis_nodes(cluster), key=lambda place: place[0] != host),
        "asked_arbiters": sorted(arbiters, key=lambda arbiter: arbiter not in cluster.hosts),
        "makes_arbiter": bool(arbiters) and geo is not None and geo.is_first,
        "asked_voters": sorted(cluster.hosts_with("etcd", "witness"), key=lambda voter: voter != host),
        "first_redis": first_redis,
        "is_first_redis": host == first_redis,
        "ways": ways_of(cluster),
        "pool_size": POOL[0],
        "max_overflow": POOL[1],
        "max_connections": sum(POOL) * len(clients) + CONNECTIONS_SPARE,
        "patroni_loop": timings.patroni_ttl // 4,
        "redis_timeout_ms": round(timings.redis_node_timeout * 1000),
        "health_ms": round(timings.health_interval * 1000),
        "sentinel_quorum": len(cluster.hosts_with("redis", "witness")) // 2 + 1,
        "timing": {
            key: f"{getattr(timings, key):g}"
            for key in ("lease_ttl", "advert_interval", "failover_timeout", "region_lease_ttl")
        },
        "etcd_prefix": f"/warden/{cluster.cluster_name}/",
        "etcd_token": cluster.cluster_name if geo is None else f"{cluster.cluster_name}-{geo.name}",
    }


def _base_values(cluster: Cluster, geo: Geo | None, secrets: Secrets, host: Host) -> dict[str, Any]:
    """Of any host, also that of a third site, which is for none of the cluster's programs."""
    instances = instances_of(cluster, host)
    return {
        "cluster": cluster,
        "geo": geo,
        "host": host,
        "secrets": secrets,
        "instances": instances,
        "vrrp_peers": sorted({peer for instance in instances for peer in instance.peers}),
        "services": _rules(cluster, geo, host),
        "is_pbx": "pbx" in host.roles,
        "is_balancer": "balancer" in host.roles,
        "is_database": "database" in host.roles,
        "has_redis": "redis" in host.roles,
        "is_arbiter": "arbiter" in host.roles,
        "arbiters": geo.arbiters if geo is not None else (),
        "arbiter_prefix": f"/warden/{cluster.cluster_name}-regions/",
        "third_hosts": geo.third.hosts if geo is not None and geo.third is not None else (),
        "program": program(cluster),
        "data": cluster.paths.data,
        "is_maker": host == cluster.maker,
    }


def _redis_nodes(cluster: Cluster) -> list[tuple[Host, int]]:
    if not cluster.has_cluster_redis:
        # Of Sentinel, since it knows which of them is the master.
        return [(host, 26379) for host in cluster.hosts_with("redis", "witness")]
    return [(host, port) for port in REDIS_PORTS for host in cluster.hosts_with("redis")]


def _rules(cluster: Cluster, geo: Geo | None, host: Host) -> list[Rule]:
    rules = []
    for service in services_of(cluster, host):
        allowed = sources(cluster, service, geo)
        if allowed:
            ports = f"{service.protocol} dport {service.ports} accept"
            whole = "0.0.0.0/0" in allowed
            four = [source for source in allowed if ":" not in source]
            rule = ports if whole else f"ip saddr {{ {', '.join(four)} }} {ports}"
            rules.append(Rule(service.name, rule, service.is_frequent))
    return rules


def _ssh_from(cluster: Cluster, geo: Geo | None, host: Host) -> list[str]:
    """The networks from which the firewall lets SSH in, with prefix lengths. Of IPv6 it is none (`_rules`)."""
    allowed = (sources(cluster, service, geo) for service in services_of(cluster, host) if service.name == SSH)
    return [str(ip_network(source)) for some in allowed for source in some if ":" not in source]


class Offer(Struct, frozen=True):
    """A transport in DNS (RFC 3263 section 4.1): its NAPTR service, and SRV records: priority, weight, port, name."""

    service: str
    prefix: str
    records: tuple[tuple[int, int, int, str], ...]


def _zone_values(cluster: Cluster) -> dict[str, Any]:
    """Of the zone, one for all regions: whose seat is under which name, and how soon it is asked."""
    seats: list[tuple[str, Seat, int, int]] = []
    balancers: list[tuple[str, str, int]] = []
    told = []
    for region, geo in places(cluster):
        within = "" if geo is None else f".{geo.name}"
        priority = SRV_PRIORITIES[0 if geo is None else geo.place]
        weight = 100 // len(region.seats)
        seats += ((seat.name.lower() + within, seat, priority, weight) for seat in region.seats)
        if region.balancer.address is not None:
            balancers.append((f"{BALANCER}{within}", region.balancer.address, priority))
        ports = (cluster.sip_port, cluster.sip_tls.certificate and cluster.sip_tls.port, cluster.websocket.port)
        told.append((region.seats, region.hosts, region.balancer.address, *ports))
    servers = [host.name.lower() for region, _ in places(cluster) for host in region.hosts_with("dns")]
    return {
        "cluster": cluster,
        "seats": seats,
        "offers": tuple(_offers(cluster, seats, balancers)),
        "balancers": balancers,
        "hosts": [host for region, _ in places(cluster) for host in region.hosts],
        # Another number for other contents, since there is no clock here.
        "serial": int(hash_of(repr(told[0] if len(told) == 1 else told))[:7], 16),
        "is_served": bool(servers),
        "name_servers": servers or ["ns"],
    }


def _offers(
    cluster: Cluster, seats: Sequence[tuple[str, Seat, int, int]], balancers: Sequence[tuple[str, str, int]]
) -> Iterator[Offer]:
    """What phones may choose from, the preferred first."""

    def at_seats(port: int) -> tuple[tuple[int, int, int, str], ...]:
        return tuple((priority, weight, port, name) for name, _, priority, weight in seats)

    yield Offer("SIP+D2U", "_sip._udp", at_seats(cluster.sip_port))
    yield Offer("SIP+D2T", "_sip._tcp", at_seats(cluster.sip_port))
    if cluster.sip_tls.certificate is not None:
        yield Offer("SIPS+D2T", "_sips._tcp", at_seats(cluster.sip_tls.port))
    if cluster.websocket.port is not None:
        # RFC 7118 has the service, and leaves the name of the SRV records to the NAPTR record.
        records = tuple((priority, 100, cluster.websocket.port, name) for name, _, priority in balancers)
        yield Offer("SIPS+D2W", "_sips._wss", records)


def _made(
    templates: Environment,
    template: str,
    values: Mapping[str, Any],
    mode: int = 0o644,
    owner: str = "root:root",
    put: Literal["put", "put_anew", "put_once"] = "put",
) -> File:
    return File(templates.get_template(f"{template}.j2").render(values), mode, owner, put)


def unit(program: str, data: str) -> str:
    """The systemd unit of a node, for whoever has one node and no cluster file."""
    return _made(_templates(), "pbx.service", {"program": program, "data": data}).text


def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("warden.ops.ha"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - no HTML
    )


def hosts_in(made: Mapping[str, Files]) -> Sequence[str]:
    """The hosts among the folders of what was rendered."""
    return [name for name in made if name != "dns"]
