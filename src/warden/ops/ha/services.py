"""Which host listens for whom: the one table that the firewall is made from, and that is checked against the files."""

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, Literal, get_args

from msgspec import Struct

from warden.ops.ha.inventory import Cluster, Host, Role
from warden.ops.ha.regions import Geo

Whom = Literal["phones", "inside", "operators", "monitor", "region", "arbiters", "asks arbiter"]
"""`phones`: anywhere that phones may be; `inside`: the other hosts; `operators`: people; `monitor`: Prometheus;
`region`: the hosts of the other region, where there is one; `arbiters`: the members of the arbiter, at three sites;
`asks arbiter`: the nodes and Prometheus of both regions, and the host that makes the arbiter's accounts.
"""

SSH: Final = "SSH"


class Service(Struct, frozen=True):
    """Something that listens: `ports` as nftables writes them."""

    name: str
    roles: tuple[Role, ...]
    protocol: Literal["udp", "tcp"]
    ports: str
    whom: tuple[Whom, ...]
    is_frequent: bool = False
    """Most packets are for it, so its rule comes first."""


def services(cluster: Cluster) -> tuple[Service, ...]:
    """Everything that listens in the cluster."""
    first, last = cluster.rtp_ports
    sip = str(cluster.sip_port)
    everywhere: tuple[Role, ...] = get_args(Role)
    found = [
        Service("audio", ("pbx",), "udp", f"{first}-{last}", ("phones", "inside"), is_frequent=True),
        Service("SIP", ("pbx",), "udp", sip, ("phones", "inside")),
        Service("SIP over TCP", ("pbx",), "tcp", sip, ("phones", "inside")),
        *_sip_over_tls(cluster),
        *_sip_over_websocket(cluster),
        Service("Warden's HTTP", ("pbx",), "tcp", "9000", ("inside", "monitor", "region")),
        Service("SIP over TCP by HAProxy", ("balancer",), "tcp", sip, ("phones", "inside")),
        Service("DNS", ("dns",), "udp", "53", ("phones", "inside")),
        Service("DNS over TCP", ("dns",), "tcp", "53", ("phones", "inside")),
        Service("HTTPS", ("balancer",), "tcp", "443", ("operators", "inside")),
        Service("HAProxy's statistics", ("balancer",), "tcp", "8404", ("operators", "inside", "monitor")),
        Service("PostgreSQL", ("database",), "tcp", "5432", ("inside", "region")),
        Service("Patroni", ("database",), "tcp", "8008", ("inside", "monitor")),
        Service("PostgreSQL's leader", ("balancer",), "tcp", "5000", ("inside",)),
        Service("Redis", ("redis",), "tcp", "6379", ("inside",)),
        Service("etcd", ("etcd", "witness"), "tcp", "2379-2380", ("inside",)),
        Service("etcd of the arbiter", ("arbiter",), "tcp", "2381", ("arbiters", "asks arbiter")),
        Service("the arbiter's members", ("arbiter",), "tcp", "2382", ("arbiters",)),
        Service(SSH, everywhere, "tcp", "22", ("operators",)),
        Service("Prometheus", ("monitor",), "tcp", "9090", ("operators",)),
        Service("Alertmanager", ("monitor",), "tcp", "9093", ("operators",)),
        Service("Grafana", ("monitor",), "tcp", "3000", ("operators",)),
        Service("node exporter", everywhere, "tcp", "9100", ("monitor",)),
        Service("Redis exporter", ("redis",), "tcp", "9121", ("monitor",)),
        Service("PostgreSQL exporter", ("database",), "tcp", "9187", ("monitor",)),
    ]  # fmt: skip
    if cluster.has_cluster_redis:
        found += [
            Service("Redis replica", ("redis",), "tcp", "6380", ("inside",)),
            Service("Redis' own words", ("redis",), "tcp", "16379-16380", ("inside",)),
        ]
    else:
        found.append(Service("Sentinel", ("redis", "witness"), "tcp", "26379", ("inside",)))
    return tuple(found)


def _sip_over_tls(cluster: Cluster) -> Iterator[Service]:
    if cluster.sip_tls.certificate is not None:
        port = str(cluster.sip_tls.port)
        yield Service("SIP over TLS", ("pbx",), "tcp", port, ("phones", "inside"))
        yield Service("SIP over TLS by HAProxy", ("balancer",), "tcp", port, ("phones", "inside"))


def _sip_over_websocket(cluster: Cluster) -> Iterator[Service]:
    if cluster.websocket.port is not None:
        yield Service("SIP over WebSocket", ("pbx",), "tcp", str(cluster.websocket.seat_port), ("inside",))
        port = str(cluster.websocket.port)
        yield Service("SIP over WebSocket by HAProxy", ("balancer",), "tcp", port, ("phones", "inside"))


def services_of(cluster: Cluster, host: Host) -> Iterator[Service]:
    """What listens on a host."""
    return (service for service in services(cluster) if set(service.roles) & set(host.roles))


def sources(cluster: Cluster, service: Service, geo: Geo | None = None) -> tuple[str, ...]:
    """The addresses and networks from which a service is reached; none of them within another."""
    found: list[str] = []
    if "phones" in service.whom:
        found += cluster.phones
    if "inside" in service.whom:
        found += (address for host in cluster.hosts for address in (host.address, host.inside))
        # A seat's calls to another seat come from its own address.
        found += cluster.moving.values()
    elif "monitor" in service.whom:
        watchers = geo.monitors if geo is not None and geo.is_third else cluster.hosts_with("monitor")
        found += (address for host in watchers for address in (host.address, host.inside))
    if geo is not None and "arbiters" in service.whom:
        found += (host.inside for host in geo.arbiters)
    if geo is not None and "asks arbiter" in service.whom:
        makers = [maker for maker in (geo.clusters[0].maker,) if maker is not None]
        asks = (*makers, *geo.nodes, *geo.monitors)
        found += (address for host in asks for address in (host.address, host.inside))
    if "region" in service.whom and geo is not None:
        found += (address for host in geo.other.hosts for address in (host.address, host.inside))
    if "operators" in service.whom:
        found += (cluster.network.network, *cluster.operators)
    networks = {ip_network(one): one for one in dict.fromkeys(found)}
    return tuple(
        text
        for network, text in networks.items()
        if not any(
            network != other and network.version == other.version and _is_within(network, other) for other in networks
        )
    )


def _is_within(network: IPv4Network | IPv6Network, other: IPv4Network | IPv6Network) -> bool:
    return network.subnet_of(other)  # type: ignore[arg-type]
