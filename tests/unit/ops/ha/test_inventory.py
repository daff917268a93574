"""`cluster.yml`: what it may say, and what is refused with its reason before anything is written."""

import re

import pytest

from warden.ops.ha.render import render
from warden.ops.ha.starter import starter

from ha_clusters import SECRETS, cluster_of, problems_of

ACTIVE = starter("active-active")
PASSIVE = starter("active-passive")
GEO = starter("geo")


@pytest.mark.parametrize("users", [10, 100, 500, 1000, 10_000])
def test_what_init_prints_is_a_cluster_of_enough_nodes(users: int) -> None:
    cluster = cluster_of(starter("active-active", users))
    assert cluster.users == users
    assert len(cluster.hosts_with("pbx")) >= 3
    assert len(cluster.seats) == len(cluster.hosts_with("pbx"))
    assert cluster_of(starter("active-passive", users)).option == "active-passive"


@pytest.mark.parametrize(
    ("text", "change", "says"),
    [
        (ACTIVE, ("pbx2, address: 192.168.1.11", "pbx2, address: 192.168.1.10"), "pbx2 has the address of host pbx1"),
        (ACTIVE, ("address: 192.168.1.101,", "address: 192.168.1.12,"), "seat seat1 has the address of host pbx3"),
        (ACTIVE, ("address: 192.168.1.100,", "address: 192.168.1.101,"), "the balancer has the address of seat seat1"),
        (ACTIVE, ("address: 192.168.1.101,", "address: 10.0.0.1,"), "10.0.0.1 is no address of network 192.168.1.0/24"),
        (ACTIVE, ("address: 192.168.1.101,", "address: 192.168.1.255,"), "192.168.1.255 is no address of network"),
        (ACTIVE, ("[pbx1, pbx2, pbx3]}", "[pbx1]}"), "seat seat1 has no successor: its calls would end with its host"),
        (ACTIVE, ("[pbx1, pbx2, pbx3]}", "[pbx1, pbx9]}"), "seat seat1: pbx9 is no host with the role pbx"),
        (ACTIVE, ("[pbx1, pbx2, pbx3]}", "[pbx1, pbx1]}"), "seat seat1 names pbx1 twice"),
        (ACTIVE, ("name: seat2", "name: seat1"), "the name seat1 is there twice"),
        (ACTIVE, ("name: pbx2", "name: pbx1"), "the name pbx1 is there twice"),
        (ACTIVE, ("name: pbx2", "name: pbx_2"), "host pbx_2: must be letters, digits and hyphens, none at its ends"),
        (ACTIVE, ("name: pbx2", "name: pbx2.site"), "host pbx2.site: must be letters, digits and hyphens"),
        (ACTIVE, ("name: seat2", "name: seat-"), "seat seat-: must be letters, digits and hyphens"),
        (ACTIVE, ("name: seat2", "name: PBX2"), "seat PBX2 has the name of a host: in DNS it would have both"),
        (ACTIVE, ("name: seat2", "name: SEAT1"), "the name seat1 is there twice"),
        (ACTIVE, ("name: seat2", "name: pbx"), "seat pbx: pbx is the balancer's name in DNS"),
        (GEO, ("name: west1", "name: west_1"), "region west: host west_1: must be letters, digits and hyphens"),
        (ACTIVE, ("pbx3, address: 192.168.1.12}", "pbx3, address: 192.168.1.12, roles: [pbx, redis]}"),
         "2 hosts vote in etcd (roles etcd and witness): must be an odd number"),
        (ACTIVE, ("pbx3, address: 192.168.1.12}", "pbx3, address: 192.168.1.12, roles: [pbx, etcd]}"),
         "2 hosts have the role redis: a Redis Cluster has three"),
        (PASSIVE, ("witness, monitor", "monitor"), "2 hosts vote in etcd"),
        (PASSIVE, ("seats:", "seats:\n  - {name: b, address: 192.168.1.9, successors: [pbx1, pbx2]}"),
         "must be one where the option is active-passive"),
        (ACTIVE, ("users: 500", "users: 500\ntimings: {failover_timeout: 15}"), "must be more than 20"),
        (ACTIVE, ("users: 500", "users: 500\ntimings: {lease_ttl: 2}"), "must be less than half of lease_ttl (2)"),
        (ACTIVE, ("users: 500", "users: 500\nrtp_ports: [5000, 6000]"), "must not be among rtp_ports"),
        (ACTIVE, ("sip.pem}", "sip.pem, port: 5060}"), "sip_tls.port: 5060 is the port of sip_port"),
        (ACTIVE, ("users: 500", "users: 500\nsip_port: 5000"), "sip_port: 5000 is the port of PostgreSQL's leader"),
        (ACTIVE, ("port: 7443", "port: 2381"), "websocket.port: 2381 is the port of the arbiter"),
        (ACTIVE, ("users: 500", "users: 500\nsip_port: 2382"), "sip_port: 2382 is the port of the arbiter"),
        (ACTIVE, ("port: 7443", "port: 443"), "websocket.port: 443 is the port of HTTPS"),
        (ACTIVE, ("port: 7443", "port: 7443, seat_port: 5061"), "seat_port: 5061 is the port of sip_tls.port"),
        (ACTIVE, ("address: 192.168.1.100, cert", "cert"), "balancer.address: must be set where there is WebSocket"),
        (ACTIVE, ("users: 500", "usrs: 500"), "unknown key; did you mean users?"),
        (ACTIVE, ("option: active-active", "option: active-maybe"), "must be active-passive, active-active or geo"),
        (ACTIVE, ("# cluster_network: {interface: eth1, network: 10.20.30.0/24}",
                  "cluster_network: {interface: eth1, network: 192.168.0.0/16}"), "overlaps with network"),
        (ACTIVE, ("# cluster_network: {interface: eth1, network: 10.20.30.0/24}",
                  "cluster_network: {interface: eth1, network: 10.20.30.0/24}"), "host pbx1 has no cluster_address"),
        (ACTIVE, ("users: 500", "users: 500\nredis_memory_mb: 63"), "must be at least 64"),
        (ACTIVE, ("users: 500", "users: 500\nvirtual_router_id: 0"), "must be at least 1"),
        (ACTIVE, ("domain: example.com", "domain: exam ple"), "must be a domain name"),
        (ACTIVE, ("/etc/ssl/private/pbx.pem", "/etc/a b"), "must be an absolute path without blanks"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_its_reason(text: str, change: tuple[str, str], says: str) -> None:
    assert change[0] in text
    problems = problems_of(text.replace(*change, 1))
    assert any(says in problem and problem.startswith("cluster.yml:") for problem in problems), problems


def test_the_balancers_address_has_as_many_hosts_as_vrrp_has_priorities() -> None:
    text = starter("active-active", 1000)
    more = "".join(f"  - {{name: lb{i}, address: 192.168.1.{30 + i}, roles: [balancer]}}\n" for i in range(4))
    with_more = text.replace("\n# An address for each host", f"{more}\n# An address for each host", 1)
    assert "lb3" in with_more
    problems = problems_of(with_more)
    assert len(problems) == 1
    assert "9 hosts have the role balancer: its address moves between 8 at most" in problems[0]
    lines = [line for line in with_more.splitlines() if "lb3" not in line]
    assert len(render(cluster_of("\n".join(lines)), SECRETS)) == 9


def test_a_cluster_network_takes_the_hosts_words_to_each_other() -> None:
    text = ACTIVE.replace("# cluster_network", "cluster_network")
    text = re.sub(r"(name: pbx(\d), address: 192\.168\.1\.1\d)", r"\1, cluster_address: 10.20.30.\2", text)
    cluster = cluster_of(text)
    assert [host.inside for host in cluster.hosts] == ["10.20.30.1", "10.20.30.2", "10.20.30.3"]
