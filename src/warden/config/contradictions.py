"""Values of the tree that are right each by itself and cannot both be meant, and why."""

from collections.abc import Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from warden.config.tree import Config, HighAvailability


class Contradiction(NamedTuple):
    """Values that do not go together: `keys` are the paths of those involved, the one to blame first."""

    keys: tuple[str, ...]
    what: str


def contradictions(config: "Config") -> Iterator[Contradiction]:
    """Every pair of values that cannot both be meant."""
    yield from _times(config)
    yield from _listeners(config)
    yield from _media(config)
    for section, part in (("sip", config.sip), ("rtp", config.rtp)):
        if part.advertise_address is None or part.bind_address == "::":
            continue
        if ip_address(part.advertise_address).version != ip_address(part.bind_address).version:
            yield Contradiction(
                (f"{section}.advertise_address", f"{section}.bind_address"),
                f"must be of the same IP version as bind_address ({part.bind_address})",
            )
    yield from _two_addresses(config)
    cluster = config.high_availability
    if cluster.enabled and cluster.seats and not config.has_shared_store:
        yield Contradiction(
            ("redis.enabled", "high_availability.seats"), "must be true where there are seats: calls live there"
        )
    if config.redis.enabled and cluster.state_file is not None:
        yield Contradiction(
            ("high_availability.state_file", "redis.enabled"), "must not be set while calls are kept in Redis"
        )
    if cluster.enabled and cluster.coordinator == "etcd" and not config.etcd.nodes:
        yield Contradiction(
            ("etcd.nodes", "high_availability.coordinator"), "must name a member while etcd is the coordinator"
        )
    if cluster.enabled and cluster.coordinator == "embedded" and cluster.coordinator_file is None:
        yield Contradiction(
            ("high_availability.coordinator_file", "high_availability.coordinator"),
            "must be set while the coordinator is embedded",
        )
    yield from _addresses(cluster)
    names = [seat.name for seat in cluster.seats]
    if len(set(names)) < len(names) or len({seat.address for seat in cluster.seats}) < len(names):
        yield Contradiction(("high_availability.seats",), "names a seat or an address twice")
    if cluster.enabled and cluster.seats and not any(cluster.node_id in seat.successors for seat in cluster.seats):
        yield Contradiction(
            ("high_availability.node_id", "high_availability.seats"),
            f"{cluster.node_id} is among the successors of no seat: this node would never do anything",
        )
    for seat in cluster.seats:
        if len(set(seat.successors)) < len(seat.successors):
            yield Contradiction(("high_availability.seats",), f"seat {seat.name} names a successor twice")
    if cluster.enabled and config.secret is None and cluster.seats:
        yield Contradiction(("secret", "high_availability.enabled"), "must be set in a cluster, the same on all nodes")
    yield from _regions(config)
    if config.redis.enabled and not config.redis.nodes:
        yield Contradiction(("redis.nodes", "redis.enabled"), "must name at least one server while redis is enabled")
    if config.redis.cluster and config.redis.sentinel.enabled:
        yield Contradiction(
            ("redis.sentinel.enabled", "redis.cluster"), "a Redis Cluster fails over by itself and has no Sentinels"
        )
    places = [("redis.tls", config.redis.tls), ("etcd.tls", config.etcd.tls)]
    if cluster.arbiter is not None:
        places.append(("high_availability.arbiter.tls", cluster.arbiter.tls))
    for where, tls in places:
        if tls.key is not None and tls.certificate is None:
            yield Contradiction((f"{where}.certificate", f"{where}.key"), "must be set too where key is")


def _regions(config: "Config") -> Iterator[Contradiction]:
    cluster = config.high_availability
    if not cluster.regions:
        if cluster.region is not None:
            yield Contradiction(
                ("high_availability.region", "high_availability.regions"),
                "must be one of two regions, of which none is named",
            )
        if cluster.arbiter is not None:
            yield Contradiction(
                ("high_availability.arbiter", "high_availability.regions"), "is for two regions, of which none is named"
            )
        return
    names = [region.name for region in cluster.regions]
    if cluster.arbiter is not None and not cluster.arbiter.nodes:
        yield Contradiction(("high_availability.arbiter.nodes",), "must name its members")
    if len(set(names)) != 2:
        yield Contradiction(("high_availability.regions",), "must be two, with a name each")
    elif cluster.region not in names:
        yield Contradiction(
            ("high_availability.region", "high_availability.regions"), f"must be {names[0]} or {names[1]}"
        )
    if not cluster.enabled or not cluster.seats:
        yield Contradiction(
            ("high_availability.seats", "high_availability.regions"), "must be there: regions give them to each other"
        )


def _addresses(cluster: "HighAvailability") -> Iterator[Contradiction]:
    if not cluster.enabled:
        return
    where = "high_availability."
    if cluster.failover_driver == "keepalived":
        if not cluster.seats:
            yield Contradiction((where + "seats", where + "failover_driver"), "must name the addresses of keepalived")
        if cluster.manage_address != "none":
            yield Contradiction(
                (where + "manage_address", where + "failover_driver"), "must be none: keepalived moves the addresses"
            )
        if not cluster.failover_enabled:
            yield Contradiction(
                (where + "failover_enabled", where + "failover_driver"), "must be true: keepalived moves the addresses"
            )
    if cluster.manage_address != "none" and not cluster.seats:
        yield Contradiction((where + "seats", where + "manage_address"), "must name the addresses that are to move")
    for way, key in (("netlink", "address_interface"), ("hook", "address_hook")):
        if cluster.manage_address == way and getattr(cluster, key) is None:
            yield Contradiction((where + key, where + "manage_address"), f"must be set where manage_address is {way}")


def _times(config: "Config") -> Iterator[Contradiction]:
    expires = config.sip.registration
    where = "sip.registration."
    if expires.min_expires > expires.max_expires:
        yield Contradiction(
            (where + "min_expires", where + "max_expires"), f"must be at most max_expires ({expires.max_expires})"
        )
    elif not expires.min_expires <= expires.default_expires <= expires.max_expires:
        yield Contradiction(
            (where + "default_expires", where + "min_expires", where + "max_expires"),
            f"must lie between min_expires ({expires.min_expires}) and max_expires ({expires.max_expires})",
        )
    if config.sip.min_se > config.sip.session_expires:
        yield Contradiction(
            ("sip.min_se", "sip.session_expires"), f"must be at most session_expires ({config.sip.session_expires})"
        )
    cluster = config.high_availability
    where = "high_availability."
    if cluster.health_check_timeout >= cluster.health_check_interval:
        yield Contradiction(
            (where + "health_check_timeout", where + "health_check_interval"),
            f"must be less than health_check_interval ({cluster.health_check_interval:g}), or checks pile up",
        )
    if cluster.failover_timeout <= cluster.health_check_interval:
        yield Contradiction(
            (where + "failover_timeout", where + "health_check_interval"),
            f"must be more than health_check_interval ({cluster.health_check_interval:g}), "
            "or a single missed check would move the service",
        )


def _listeners(config: "Config") -> Iterator[Contradiction]:
    sip = config.sip
    if len(set(sip.transports)) < len(sip.transports):
        yield Contradiction(("sip.transports",), "names a transport twice")
    if len(set(sip.digest_algorithms)) < len(sip.digest_algorithms):
        yield Contradiction(("sip.digest_algorithms",), "names an algorithm twice")
    if not sip.transports and not sip.tls.enabled:
        yield Contradiction(("sip.transports", "sip.tls.enabled"), "must name a transport while sip.tls is not enabled")
    if sip.tls.enabled and not sip.tls.certificates:
        yield Contradiction(
            ("sip.tls.certificates", "sip.tls.enabled"), "must name at least one certificate while sip.tls is enabled"
        )
    if sip.websocket.tls_port is not None and not sip.tls.certificates:
        yield Contradiction(
            ("sip.tls.certificates", "sip.websocket.tls_port"),
            "must name at least one certificate while sip.websocket.tls_port is set",
        )
    streams = [("http.port", config.http.bind_address, config.http.port)]
    if "tcp" in sip.transports:
        streams.append(("sip.bind_port", sip.bind_address, sip.bind_port))
    if sip.tls.enabled:
        streams.append(("sip.tls.bind_port", sip.bind_address, sip.tls.bind_port))
    for key, port in (
        ("sip.websocket.bind_port", sip.websocket.bind_port),
        ("sip.websocket.tls_port", sip.websocket.tls_port),
    ):
        if port is not None:
            streams.append((key, sip.bind_address, port))
    for i, (key, host, port) in enumerate(streams):
        for other, other_host, other_port in streams[:i]:
            if port == other_port and _overlap(host, other_host):
                yield Contradiction((key, other), f"must not be the port of {other} ({port})")


def _two_addresses(config: "Config") -> Iterator[Contradiction]:
    sip = config.sip
    second, told = sip.bind_address_v6, sip.advertise_address_v6
    key = "sip.bind_address_v6"
    for name, address in ((key, second), ("sip.advertise_address_v6", told)):
        if address is not None and ip_address(address).version != 6:
            yield Contradiction((name,), f"must be an IPv6 address, not {address}")
    if second is None:
        if told is not None:
            yield Contradiction(("sip.advertise_address_v6", key), "must not be set without bind_address_v6")
        return
    if ip_address(sip.bind_address).version == 6 or ip_address(config.rtp.bind_address).version == 6:
        yield Contradiction(
            (key, "sip.bind_address", "rtp.bind_address"), "must not be set beside other IPv6 addresses"
        )
    if config.high_availability.seats:
        yield Contradiction(
            (key, "high_availability.seats"), "must not be set where there are seats: each has one address"
        )


def _overlap(host: str, other: str) -> bool:
    return host == other or ip_address(host).is_unspecified or ip_address(other).is_unspecified


def _media(config: "Config") -> Iterator[Contradiction]:
    first, last = config.rtp.port_range
    if first >= last:
        yield Contradiction(("rtp.port_range",), f"must be [first, last] with first below last, not [{first}, {last}]")
        return
    # RTP takes an even port and RTCP the next (RFC 3550 section 11), so an odd first or an even last port is not used.
    pairs = (last + 1) // 2 - (first + 1) // 2
    if pairs < 2:
        yield Contradiction(
            ("rtp.port_range",), f"must hold two pairs of an even port and the next, or no call fits; it holds {pairs}"
        )
    if (
        "udp" in config.sip.transports
        and first <= config.sip.bind_port <= last
        and _overlap(config.sip.bind_address, config.rtp.bind_address)
    ):
        yield Contradiction(
            ("rtp.port_range", "sip.bind_port"),
            f"must not contain sip.bind_port ({config.sip.bind_port}): both are UDP",
        )
