"""`cluster.yml`: the hosts of a cluster, what each of them does, and the addresses that move between them.

One frozen tree, checked as a whole when it is loaded (`warden.config.load.read`). Nothing here does I/O; what follows
for a single host is for `plan` to say, and how a file looks for the templates.
"""

from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import PurePosixPath
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from warden.config.contradictions import Contradiction
from warden.config.tree import AdvertiseAddress, Name, Network, Port, Section, Text
from warden.ops.ha.labels import name_contradictions, repeated
from warden.ops.ha.sites import RegionName, ThirdSite, Wire, is_on, third_site_contradictions

Option = Literal["active-passive", "active-active", "geo"]
Role = Literal["pbx", "balancer", "database", "redis", "etcd", "dns", "witness", "monitor", "arbiter"]

ALL_IN_ONE: Final[tuple[Role, ...]] = ("pbx", "balancer", "database", "redis", "etcd", "dns")
"""What a host does that says nothing of its roles, as in the pictures of the deployment guide."""
SUCCESSORS_MAX: Final = 8
"""VRRP's priorities end at 255, and two that are close begin at once."""
MASTERS_MIN: Final = 3
"""A Redis Cluster of fewer masters is refused by Redis itself."""
REGIONS: Final = 2
"""The one that carries the calls, and the one that would: Patroni and Warden stream from one to one other."""
OF_A_REGION: Final = ("network", "cluster_network", "hosts", "seats", "balancer")
"""The keys that each region has of its own, and that stand at the top where there are none."""

PORTS_TAKEN: Final = {
    22: "SSH", 53: "DNS", 443: "HTTPS", 2379: "etcd", 2380: "etcd", 2381: "the arbiter", 2382: "the arbiter",
    3000: "Grafana", 5000: "PostgreSQL's leader", 5432: "PostgreSQL", 6379: "Redis", 6380: "Redis", 8008: "Patroni",
    8404: "HAProxy's statistics", 9000: "Warden's HTTP", 9090: "Prometheus", 9093: "Alertmanager",
    9100: "an exporter", 9121: "an exporter", 9187: "an exporter", 16379: "Redis", 16380: "Redis", 26379: "Sentinel",
}  # fmt: skip
"""What else listens on the hosts (`services` has who may ask it)."""


def _domain(text: str) -> str:
    labels = text.rstrip(".").split(".")
    if len(text) > 200 or not all(label.replace("-", "a").isalnum() and label.isascii() for label in labels):
        raise ValueError("must be a domain name, for example example.com")
    return text.rstrip(".").lower()


def _absolute(text: str) -> str:
    if not PurePosixPath(text).is_absolute() or not text.isprintable() or set(text) & set(" \t\"'\\"):
        raise ValueError("must be an absolute path without blanks, quotes and backslashes")
    return text


Domain = Annotated[str, AfterValidator(_domain)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]


class Host(Section):
    """A machine."""

    name: Name
    """Its name: also that of the node on it, and of its folder among the rendered files."""
    address: AdvertiseAddress
    """Its own address on `network`. It does not move."""
    cluster_address: AdvertiseAddress | None = None
    """Its own address on `cluster_network`. Not set: `address`."""
    roles: Annotated[tuple[Role, ...], Field(min_length=1, max_length=9)] = ALL_IN_ONE
    """What runs there. `witness`: a vote for etcd and for Sentinel, and nothing that phones need. `dns`: a name server
    of `domain`; no host has it where that is served elsewhere. `arbiter`: with `automatic`, the region's member of the
    arbiter, where it is not to be on the witness, else the first with etcd."""

    @property
    def inside(self) -> str:
        """Where the other hosts reach it."""
        return self.cluster_address or self.address


class Seat(Section):
    """An address that phones register at, with its calls; one node holds it at a time."""

    name: Name
    """Its name: in CDRs, logs and metrics, and that of keepalived's instance."""
    address: AdvertiseAddress
    """The address."""
    successors: Annotated[tuple[Name, ...], Field(min_length=1, max_length=16)]
    """The hosts that may hold it, the preferred first."""


class Balancer(Section):
    """HAProxy's own address: the API over HTTPS, and SIP over streams for phones that know one address only."""

    address: AdvertiseAddress | None = None
    """An address that moves between the hosts with the role `balancer`. Not set: each of them at its own."""
    certificate: AbsolutePath = "/etc/ssl/private/pbx.pem"
    """PEM file on the balancers: certificate, intermediate ones and key."""


class SipTls(Section):
    """SIP over TLS, at the seats and at HAProxy's address. The TLS is Warden's own in both cases."""

    certificate: AbsolutePath | None = None
    """PEM file on the hosts with the role `pbx`: certificate, intermediate ones and key, in a folder that everybody may pass. `install.sh` makes it readable for Warden. Not set: no TLS."""  # noqa: E501
    port: Port = 5061
    """TLS' port, at each seat."""


class WebSocket(Section):
    """SIP over WebSocket, for phones in browsers: HAProxy ends the TLS with its own certificate."""

    port: Port | None = None
    """HAProxy's port; a usual one is 7443. Not set: no WebSocket."""
    seat_port: Port = 5066
    """The seats' port, at which only HAProxy is let in."""


class Region(Section):
    """A site of `option: geo`: a cluster by itself, which takes all seats when the other site is gone."""

    name: RegionName
    """Its name: in DNS, metrics, and what `warden dr` is told."""
    network: Wire = Wire()
    """As at the top."""
    cluster_network: Wire | None = None
    """As at the top. Both regions have one, or neither."""
    hosts: Annotated[tuple[Host, ...], Field(min_length=1, max_length=64)] = ()
    """Its machines."""
    seats: Annotated[tuple[Seat, ...], Field(min_length=1, max_length=64)] = ()
    """The same names in both regions, and here their addresses and successors in this one."""
    balancer: Balancer = Balancer()


class Timings(Section):
    """How soon what is noticed. The defaults are measured; smaller is sooner and errs more often."""

    advert_interval: Annotated[float, Field(ge=0.05, le=5, allow_inf_nan=False)] = 0.1
    """Seconds between keepalived's words; after three that are missed another host takes the address."""
    lease_ttl: Annotated[float, Field(ge=1, le=60, allow_inf_nan=False)] = 10.0
    """Seconds that a node goes on speaking for its seats without the coordinator."""
    region_lease_ttl: Annotated[float, Field(ge=10, le=60, allow_inf_nan=False)] = 20.0
    """With `automatic`: seconds that a region goes on speaking for its seats without the arbiter; after as many the
    other one takes them. More than `lease_ttl`: a host that is lost is the region's own affair."""
    health_interval: Annotated[float, Field(ge=0.2, le=30, allow_inf_nan=False)] = 1.0
    """Seconds between HAProxy's looks at a node; after two that fail it gets no more requests."""
    failover_timeout: Annotated[float, Field(ge=2, le=600, allow_inf_nan=False)] = 30.0
    """Seconds after which whoever watches may call a fail-over failed. More than all the others here."""
    redis_node_timeout: Annotated[float, Field(ge=0.5, le=30, allow_inf_nan=False)] = 1.0
    """Seconds until Redis takes one of its own for dead."""
    patroni_ttl: Annotated[int, Field(ge=15, le=120)] = 20
    """Seconds until the database's leader is replaced that is not heard of."""


class Paths(Section):
    """Where things are on the hosts."""

    warden: AbsolutePath = "/opt/PBX"
    """Where `make install-prod` puts Warden's versions."""
    program: AbsolutePath | None = None
    """The command. Not set: current/bin/warden below `warden`."""
    data: AbsolutePath = "/var/lib/warden"
    """Warden's files."""


class Cluster(Section):
    """The whole of `cluster.yml`."""

    option: Option = "active-active"
    """`active-passive`: one address for all phones, on one of two hosts. `active-active`: an address for each host,
    each with the others as successors. `geo`: two regions, each of which is one of these."""
    cluster_name: Name = "pbx-cluster"
    """Name of the cluster, in metrics and in the names of what it keeps in Redis and etcd."""
    domain: Domain = "example.com"
    """The domain of the phones' addresses: DNS tells them the seats under this name."""
    users: Annotated[int, Field(ge=1, le=10_000)] = 500
    """Extensions that it is made for."""
    network: Wire = Wire()
    """The network of phones, seats and VRRP."""
    cluster_network: Wire | None = None
    """A network for what the hosts tell each other: database, Redis, etcd. Not set: `network`."""
    phones: Annotated[tuple[Network, ...], Field(min_length=1, max_length=100)] = ("0.0.0.0/0",)
    """From where SIP and audio are let in."""
    operators: Annotated[tuple[Network, ...], Field(max_length=100)] = ()
    """From where SSH, HTTPS, statistics and dashboards are let in, beside `network`."""
    hosts: Annotated[tuple[Host, ...], Field(min_length=1, max_length=64)] = ()
    """The machines."""
    seats: Annotated[tuple[Seat, ...], Field(min_length=1, max_length=64)] = ()
    """The addresses that move."""
    balancer: Balancer = Balancer()
    regions: Annotated[tuple[Region, ...], Field(max_length=16)] = ()
    """With `geo`: the two sites, each with its own hosts, seats and networks. The first is primary when the cluster is
    made."""
    third_site: ThirdSite | None = None
    """With `geo` and `automatic`: the site that has a vote, and nothing else."""
    automatic: bool = False
    """With `geo`: the other region becomes primary by itself. Refused without a third site that has a vote."""
    timings: Timings = Timings()
    paths: Paths = Paths()
    virtual_router_id: Annotated[int, Field(ge=1, le=190)] = 51
    """VRRP's number of the first seat; the following ones are for the other seats and the balancer. No other VRRP on the network may have them."""  # noqa: E501
    sip_port: Port = 5060
    """SIP's port, over UDP and TCP, at each seat."""
    sip_tls: SipTls = SipTls()
    websocket: WebSocket = WebSocket()
    rtp_ports: tuple[int, int] = (10000, 20000)
    """First and last port for audio."""
    postgresql_version: Annotated[int, Field(ge=15, le=18)] = 15
    """As packaged: 15 on Debian 12, 16 on Ubuntu 24.04, 17 where PostgreSQL's own packages are used."""
    database_memory_mb: Annotated[int, Field(ge=32, le=1_000_000)] = 1024
    """PostgreSQL's shared_buffers: about a quarter of a host's memory."""
    redis_memory_mb: Annotated[int, Field(ge=64, le=1_000_000)] = 512
    """Redis' maxmemory, of each of its servers on a host. A call takes some kilobytes; what does not fit is refused."""
    time_servers: Annotated[tuple[Text, ...], Field(min_length=1, max_length=8)] = ("0.pool.ntp.org", "1.pool.ntp.org")
    """Servers that all clocks follow."""

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> "Cluster":
        if found := tuple(contradictions(self)):
            raise PydanticCustomError(
                "contradiction", "{what}", {"what": "; ".join(f"{c.keys[0]}: {c.what}" for c in found), "found": found}
            )
        return self

    def hosts_with(self, *roles: Role) -> tuple[Host, ...]:
        """The hosts that have one of the roles, in the order of the file, those of all regions."""
        everywhere = (*self.hosts, *(host for region in self.regions for host in region.hosts))
        return tuple(host for host in everywhere if set(roles) & set(host.roles))

    @property
    def maker(self) -> Host | None:
        """The host on which is done what is done once for the whole cluster: the first that has etcd. None at a third
        site, which is not made by itself.
        """
        return next(iter(self.hosts_with("etcd", "witness")), None)

    @property
    def has_cluster_redis(self) -> bool:
        """Redis Cluster, else one master with Sentinels."""
        return self.option == "active-active"

    @property
    def moving(self) -> dict[str, str]:
        """Every address that moves, by the name of its VRRP instance."""
        found = {seat.name: seat.address for seat in self.seats}
        if self.balancer.address is not None:
            found["balancer"] = self.balancer.address
        return found


def regions_of(cluster: Cluster) -> tuple[Cluster, ...]:
    """Each region as the cluster that it is by itself; without regions, the cluster. With a third site, one host of
    each has the role `arbiter`.
    """
    if cluster.option != "geo":
        return (cluster,)
    return tuple(
        cluster.model_copy(
            update={
                **{key: getattr(region, key) for key in OF_A_REGION},
                "hosts": region.hosts if cluster.third_site is None else _with_arbiter(region.hosts),
                "option": "active-passive" if len(region.seats) == 1 else "active-active",
                "regions": (),
            }
        )
        for region in cluster.regions
    )


def _with_arbiter(hosts: tuple[Host, ...]) -> tuple[Host, ...]:
    """The hosts of a region, one of them with the role: who has it in the file, else a witness, since its death costs
    phones nothing, else the first with etcd.
    """
    if any("arbiter" in host.roles for host in hosts):
        return hosts
    role: Role
    for role in ("witness", "etcd"):
        if (chosen := next((host for host in hosts if role in host.roles), None)) is not None:
            more = {"roles": (*chosen.roles, "arbiter")}
            return tuple(host.model_copy(update=more) if host is chosen else host for host in hosts)
    return hosts


def contradictions(cluster: Cluster) -> Iterator[Contradiction]:
    """Everything that cannot be meant, or that would not outlive what the option promises to outlive."""
    if cluster.option == "geo":
        yield from _regions(cluster)
    else:
        if cluster.regions:
            yield Contradiction(("regions", "option"), f"must not be set where the option is {cluster.option}")
        if cluster.automatic:
            yield Contradiction(("automatic", "option"), "is for the option geo; here seats move by themselves always")
        if cluster.third_site is not None:
            yield Contradiction(("third_site", "option"), f"must not be set where the option is {cluster.option}")
        yield from _of_one(cluster)
    if not cluster.automatic:
        for host in cluster.hosts_with("arbiter"):
            yield Contradiction(("hosts", "automatic"), f"host {host.name} has the role arbiter: it is for `automatic`")
    timings = cluster.timings
    noticed = max(timings.lease_ttl, 2 * timings.health_interval, timings.patroni_ttl)
    if timings.failover_timeout <= noticed:
        yield Contradiction(
            ("timings.failover_timeout",),
            f"must be more than {noticed:g}, the time after which a loss is noticed at the latest",
        )
    if cluster.automatic and not timings.lease_ttl < timings.region_lease_ttl < timings.failover_timeout:
        yield Contradiction(
            ("timings.region_lease_ttl", "timings"),
            f"must be more than lease_ttl ({timings.lease_ttl:g}), for a region must be able to replace a host before "
            f"it is replaced itself, and less than failover_timeout ({timings.failover_timeout:g})",
        )
    if timings.health_interval * 2 >= timings.lease_ttl:
        yield Contradiction(
            ("timings.health_interval", "timings.lease_ttl"),
            f"must be less than half of lease_ttl ({timings.lease_ttl:g}): a node would lose its seats before the "
            "balancer notices",
        )
    first, last = cluster.rtp_ports
    if not 1024 <= first < last <= 65535:
        yield Contradiction(("rtp_ports",), "must be [first, last] within 1024 and 65535, first below last")
    elif first <= cluster.sip_port <= last:
        yield Contradiction(("sip_port", "rtp_ports"), "must not be among rtp_ports")
    yield from _ports(cluster)


def _ports(cluster: Cluster) -> Iterator[Contradiction]:
    """Everything that a seat's host and HAProxy's listen at must be told apart by its port."""
    taken = dict(PORTS_TAKEN)
    for key, port in (
        ("sip_port", cluster.sip_port),
        *([("sip_tls.port", cluster.sip_tls.port)] if cluster.sip_tls.certificate is not None else []),
        *([("websocket.port", cluster.websocket.port)] if cluster.websocket.port is not None else []),
        *([("websocket.seat_port", cluster.websocket.seat_port)] if cluster.websocket.port is not None else []),
    ):
        if port in taken:
            yield Contradiction((key,), f"{port} is the port of {taken[port]}")
        taken.setdefault(port, key)


def _of_one(cluster: Cluster) -> Iterator[Contradiction]:
    """Of a cluster in one place, or of one region."""
    yield from name_contradictions(cluster)
    yield from _addresses(cluster)
    yield from _seats(cluster)
    yield from _quorums(cluster)


def _regions(cluster: Cluster) -> Iterator[Contradiction]:
    for key in OF_A_REGION:
        if key in cluster.model_fields_set:
            yield Contradiction((key,), "must not be set where the option is geo: each region has its own")
    if cluster.automatic and cluster.third_site is None:
        yield Contradiction(
            ("automatic",),
            "must be false without a third_site: of two sites, each takes a cut line for the other's death, and both "
            "would speak for the same phones. With two only, `warden dr promote` moves the calls when you say so",
        )
    if cluster.third_site is not None and not cluster.automatic:
        yield Contradiction(
            ("third_site", "automatic"), "must not be set where automatic is false: its vote would be asked by nobody"
        )
    if len(cluster.regions) != REGIONS:
        yield Contradiction(
            ("regions", "option"), f"must be {REGIONS}, a primary and a standby, and there are {len(cluster.regions)}"
        )
    for place, (region, alone) in enumerate(zip(cluster.regions, regions_of(cluster), strict=True)):
        for found in _of_one(alone):
            keys = (*(f"regions.{place}.{key}" for key in found.keys), *found.keys)
            yield Contradiction(keys, f"region {region.name}: {found.what}")
    for name in repeated([region.name for region in cluster.regions]):
        yield Contradiction(("regions",), f"the name {name} is there twice")
    for place, region in enumerate(cluster.regions[1:], 1):
        yield from _between(cluster.regions[0], region, f"regions.{place}")
    if cluster.third_site is not None:
        yield from third_site_contradictions(cluster.third_site, cluster.regions)


def _between(first: Region, other: Region, at: str) -> Iterator[Contradiction]:
    """What two regions must have in common, and what not."""
    there = sorted(seat.name for seat in first.seats)
    if (here := sorted(seat.name for seat in other.seats)) != there:
        yield Contradiction(
            (f"{at}.seats",),
            f"region {other.name} has the seats {', '.join(here)}, and {first.name} {', '.join(there)}: a seat moves "
            "to its namesake",
        )
    if (first.cluster_network is None) != (other.cluster_network is None):
        yield Contradiction(
            (f"{at}.cluster_network", f"{at}"), f"must be in both regions, {first.name} and {other.name}, or in neither"
        )
    with_dns = [any("dns" in host.roles for host in region.hosts) for region in (first, other)]
    if with_dns[0] != with_dns[1]:
        lost, lacks = (first, other) if with_dns[0] else (other, first)
        yield Contradiction(
            (f"{at}.hosts",),
            f"no host of region {lacks.name} has the role dns: when {lost.name} is lost, phones could ask nobody for "
            "the seats. It must be in both regions, or in neither",
        )
    for mine in (first.network, first.cluster_network):
        for its in (other.network, other.cluster_network):
            if mine is not None and its is not None and ip_network(mine.network).overlaps(ip_network(its.network)):
                what = f"{its.network} of region {other.name} overlaps with {mine.network} of {first.name}"
                yield Contradiction((f"{at}.network", f"{at}.cluster_network", at), what)
    for name in repeated([host.name for region in (first, other) for host in region.hosts]):
        if name not in repeated([host.name for host in other.hosts]):
            yield Contradiction((f"{at}.hosts",), f"a host {name} is in region {first.name} and in {other.name}")


def _addresses(cluster: Cluster) -> Iterator[Contradiction]:
    own = [(f"host {host.name}", host.address) for host in cluster.hosts]
    moving = [(f"seat {seat.name}", seat.address) for seat in cluster.seats]
    if cluster.balancer.address is not None:
        moving.append(("the balancer", cluster.balancer.address))
    taken: dict[str, str] = {}
    for who, address in (*own, *moving):
        key = "hosts" if who.startswith("host ") else "seats" if who.startswith("seat ") else "balancer.address"
        if address in taken:
            yield Contradiction((key,), f"{who} has the address of {taken[address]} ({address})")
        taken[address] = who
        if not is_on(cluster.network, address):
            yield Contradiction((key,), f"{who}: {address} is no address of network {cluster.network.network}")
    if cluster.cluster_network is None:
        for host in cluster.hosts:
            if host.cluster_address is not None:
                yield Contradiction(
                    ("hosts",), f"host {host.name} has a cluster_address, and there is no cluster_network"
                )
        return
    inner, outer = ip_network(cluster.cluster_network.network), ip_network(cluster.network.network)
    if inner.overlaps(outer):
        yield Contradiction(("cluster_network", "network"), f"{inner} overlaps with network {outer}")
    for host in cluster.hosts:
        if host.cluster_address is None:
            yield Contradiction(("hosts",), f"host {host.name} has no cluster_address on cluster_network")
        elif not is_on(cluster.cluster_network, host.cluster_address):
            yield Contradiction(("hosts",), f"host {host.name}: {host.cluster_address} is no address of {inner}")
    for address in repeated([host.cluster_address for host in cluster.hosts if host.cluster_address]):
        yield Contradiction(("hosts",), f"the cluster_address {address} is there twice")


def _seats(cluster: Cluster) -> Iterator[Contradiction]:
    nodes = [host.name for host in cluster.hosts_with("pbx")]
    if cluster.option == "active-passive" and len(cluster.seats) > 1:
        yield Contradiction(("seats", "option"), "must be one where the option is active-passive: all phones use it")
    if len(nodes) < 2:
        yield Contradiction(("hosts",), "must name at least two with the role pbx: nothing would outlive the only one")
    for seat in cluster.seats:
        for name in seat.successors:
            if name not in nodes:
                yield Contradiction(("seats",), f"seat {seat.name}: {name} is no host with the role pbx")
        for name in repeated(seat.successors):
            yield Contradiction(("seats",), f"seat {seat.name} names {name} twice")
        if len(seat.successors) > SUCCESSORS_MAX:
            yield Contradiction(("seats",), f"seat {seat.name} has more than {SUCCESSORS_MAX} successors")
        if len(set(seat.successors)) < 2:
            yield Contradiction(("seats",), f"seat {seat.name} has no successor: its calls would end with its host")
    for name in nodes:
        if not any(name in seat.successors for seat in cluster.seats):
            yield Contradiction(
                ("seats",), f"host {name} is among the successors of no seat, and would never do anything"
            )


def _quorums(cluster: Cluster) -> Iterator[Contradiction]:
    voters = cluster.hosts_with("etcd", "witness")
    if len(voters) < 3 or len(voters) % 2 == 0:
        yield Contradiction(
            ("hosts",),
            f"{len(voters)} hosts vote in etcd (roles etcd and witness): must be an odd number of at least three, or "
            "the loss of one stops everything, and one more would bear no more",
        )
    databases = cluster.hosts_with("database")
    if len(databases) < 2:
        yield Contradiction(("hosts",), "must name at least two with the role database")
    masters = cluster.hosts_with("redis")
    if cluster.has_cluster_redis and len(masters) != MASTERS_MIN:
        yield Contradiction(
            ("hosts",), f"{len(masters)} hosts have the role redis: a Redis Cluster has three, each with a master and "
            "the replica of another"
        )  # fmt: skip
    elif not cluster.has_cluster_redis and len(masters) < 2:
        yield Contradiction(("hosts",), "must name at least two with the role redis: a master and its replica")
    if len(names := cluster.hosts_with("dns")) == 1:
        yield Contradiction(
            ("hosts",),
            f"only {names[0].name} has the role dns: without it, phones could ask nobody for the seats. Two must have "
            "it, or none where other name servers have the zone",
        )
    if not cluster.hosts_with("balancer") and cluster.balancer.address is not None:
        yield Contradiction(("balancer.address", "hosts"), "no host has the role balancer")
    if cluster.balancer.address is not None and len(cluster.hosts_with("balancer")) > SUCCESSORS_MAX:
        yield Contradiction(
            ("balancer.address", "hosts"),
            f"{len(cluster.hosts_with('balancer'))} hosts have the role balancer: its address moves between "
            f"{SUCCESSORS_MAX} at most",
        )
    if cluster.websocket.port is not None and cluster.balancer.address is None:
        yield Contradiction(
            ("balancer.address", "websocket.port"), "must be set where there is WebSocket: HAProxy ends its TLS"
        )
    last = cluster.virtual_router_id + len(cluster.moving) - 1
    if last > 255:
        yield Contradiction(("virtual_router_id",), f"leaves no room: the last address would have number {last} of 255")
