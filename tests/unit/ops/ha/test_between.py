"""Two regions (`option: geo`): what their file may say, what each is told of the other, and what does not fit."""

import re
from pathlib import Path

import pytest

from warden.ops.ha.findings import Finding
from warden.ops.ha.folder import write
from warden.ops.ha.inventory import regions_of
from warden.ops.ha.reading import openings
from warden.ops.ha.regions import third_of
from warden.ops.ha.render import render
from warden.ops.ha.rules import check
from warden.ops.ha.starter import starter
from warden.ops.ha.verify import verify

from ha_clusters import SECRETS, cluster_of, problems_of, rendered

GEO = starter("geo")
WEST = "west1/etc/warden/config.yml"
WEST_PATRONI = "west1/etc/patroni/config.yml"


def with_three_hosts_each() -> str:
    """The starter's regions, each with a seat for each of three hosts that do everything."""
    text = GEO
    for net, region in enumerate(("east", "west"), 1):
        text = text.replace(f"{region}-witness", f"{region}3")
        one = f"{{name: main, address: 192.168.{net}.100, successors: [{region}1, {region}2]}}"
        seats = [
            f"{{name: seat{i}, address: 192.168.{net}.10{i}, successors: [{region}{i}, {region}{i % 3 + 1}]}}"
            for i in (1, 2, 3)
        ]
        assert one in text
        text = text.replace(one, "\n      - ".join(seats))
    return text.replace(", roles: [witness, monitor]", "")


def texts(changes: dict[str, tuple[str, str]] | None = None) -> dict[str, dict[str, str]]:
    made = {host: {p: f.text for p, f in files.items()} for host, files in rendered("geo").items() if host != "dns"}
    for file, change in (changes or {}).items():
        host, _, path = file.partition("/")
        assert change[0] in made[host][path], file
        made[host][path] = made[host][path].replace(*change)
    return made


def found(changes: dict[str, tuple[str, str]]) -> list[Finding]:
    return check(texts(changes))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((GEO[GEO.index("third_site:"):], ""), "automatic: must be false without a third_site: of two"),
        (("automatic: true", ""), "third_site: must not be set where automatic is false"),
        (("option: geo", "option: active-active"), "third_site: must not be set where the option is active-active"),
        (("option: geo", "option: active-active"), "automatic: is for the option geo"),
        (("name: south", "name: west"), "third_site.name: west is the name of a region"),
        (("name: south", "name: South"), "must be 1 to 30 lower-case letters and digits"),
        (("192.168.3.0/24", "192.168.2.0/23"), "third_site.network: 192.168.2.0/23 overlaps with 192.1"),
        (("name: arbiter,", "name: west2,"), "third_site.host: a host west2 is in region west as well"),
        (("name: arbiter,", "name: a.b,"), "third_site.host: host a.b: must be letters, digits and hyphens"),
        (("address: 192.168.3.10", "address: 192.168.4.10"), "host arbiter: 192.168.4.10 is no address of network"),
        (("address: 192.168.3.10", "address: 192.168.3.10, roles: [pbx]"), "third_site.host.roles: unknown key"),
        (("automatic: true\n", "automatic: true\ntimings: {region_lease_ttl: 10}\n"),
         "timings.region_lease_ttl: must be more than lease_ttl (10), for a region must be able to replace a host"),
        (("automatic: true\n", "automatic: true\ntimings: {region_lease_ttl: 30}\n"), "less than failover_ti"),
        (("users: 1000", "users: 1000\nhosts: [{name: a, address: 192.168.1.1}]"), "hosts: must not be set where the"),
        (("users: 1000", "users: 1000\nnetwork: {network: 192.168.9.0/24}"), "network: must not be set where the"),
        (("users: 1000", "users: 1000\nbalancer: {address: 192.168.9.1}"), "balancer: must not be set where the"),
        (("option: geo", "option: active-passive"), "regions: must not be set where the option is active-passive"),
        (("name: west\n", "name: east\n"), "the name east is there twice"),
        (("name: west\n", "name: West\n"), "must be 1 to 30 lower-case letters and digits"),
        (("network: 192.168.2.0/24", "network: 192.168.0.0/16"), "192.168.0.0/16 of region west overlaps with"),
        (("{name: main, address: 192.168.2", "{name: other, address: 192.168.2"),
         "region west has the seats other, and east main: a seat moves to its namesake"),
        (("{name: west2, address: 192.168.2.11}", "{name: east2, address: 192.168.2.11}"), "a host east2 is in region"),
        (("[west1, west2]", "[west1, east2]"), "region west: seat main: east2 is no host with the role pbx"),
        (("2.11}", "1.11}"), "region west: host west2: 192.168.1.11 is no address of network 192.168.2.0/24"),
        (("west-witness, address: 192.168.2.12, roles: [witness,", "west3, address: 192.168.2.12, roles: ["),
         "region west: 2 hosts vote in etcd"),
        (("    network: {interface: eth0, network: 192.168.2.0/24}",
          "    network: {network: 192.168.2.0/24}\n    cluster_network: {network: 10.2.0.0/24}"),
         "must be in both regions, east and west, or in neither"),
        ((GEO[GEO.index("  - name: west"):], ""), "must be 2, a primary and a standby, and there are 1"),
        (("users: 1000", "users: 1000\ntimings: {failover_timeout: 15}"), "must be more than 20"),
    ],
)  # fmt: skip
def test_what_two_regions_cannot_mean_is_refused_with_its_reason(change: tuple[str, str], says: str) -> None:
    assert change[0] in GEO
    problems = problems_of(GEO.replace(*change, 1))
    assert any(says in problem for problem in problems), problems


def test_a_region_by_itself_is_refused_in_the_line_that_is_wrong() -> None:
    text = GEO.replace("2.11}", "1.11}")
    [problem] = [problem for problem in problems_of(text) if "west2" in problem]
    assert problem.startswith(f"cluster.yml:{text[: text.rindex('hosts:')].count(chr(10)) + 1}: regions[1].hosts: ")


def test_each_region_is_like_the_option_that_its_seats_make_it() -> None:
    assert [region.option for region in regions_of(cluster_of(GEO))] == ["active-passive"] * 2
    cluster = cluster_of(with_three_hosts_each())
    assert [region.option for region in regions_of(cluster)] == ["active-active"] * 2
    assert len(cluster.hosts_with("pbx")) == 6
    made = render(cluster, SECRETS)
    assert check({host: {p: f.text for p, f in files.items()} for host, files in made.items() if host != "dns"}) == []
    assert "etc/redis/redis-6380.conf" in made["west3"]
    zone = made["dns"]["example.com.zone"].text
    assert "_sip._udp IN SRV 10 33 5060 seat3.east.example.com." in zone
    assert "_sip._udp IN SRV 20 33 5060 seat3.west.example.com." in zone


def members(text: str) -> list[str]:
    """The hosts of the arbiter."""
    cluster = cluster_of(text)
    third = third_of(cluster)
    assert third is not None
    return [host.name for site in (*regions_of(cluster), third) for host in site.hosts_with("arbiter")]


def test_the_arbiter_is_where_a_regions_death_costs_least_or_where_the_file_says() -> None:
    assert members(GEO) == ["east-witness", "west-witness", "arbiter"]
    assert members(with_three_hosts_each()) == ["east1", "west1", "arbiter"]
    chosen = "west2, address: 192.168.2.11, roles: [pbx, balancer, database, redis, etcd, arbiter]"
    text = with_three_hosts_each().replace("west2, address: 192.168.2.11", chosen)
    assert members(text) == ["east1", "west2", "arbiter"]
    two = text.replace("west3, address: 192.168.2.12", chosen.replace("west2", "west3").replace("2.11", "2.12"))
    assert any("region west: 2 hosts have the role arbiter: must be one at most" in said for said in problems_of(two))
    by_hand = text[: text.index("# When the first site is lost")]
    assert any("host west2 has the role arbiter: it is for `automatic`" in said for said in problems_of(by_hand))


def test_a_host_that_is_the_arbiters_only_is_known_to_be_in_its_region() -> None:
    witness = "address: 192.168.2.12, roles: [witness, monitor]}"
    assert witness in GEO
    more = "{name: west-arbiter, address: 192.168.2.13, roles: [arbiter]}"
    text = GEO.replace(witness, f"{witness}\n      - {more}")
    assert members(text) == ["east-witness", "west-arbiter", "arbiter"]
    made = render(cluster_of(text), SECRETS)
    assert check({host: {p: f.text for p, f in files.items()} for host, files in made.items() if host != "dns"}) == []


def test_two_sites_alone_are_as_they_were_and_nothing_asks_an_arbiter() -> None:
    cluster = cluster_of(starter("geo", automatic=False))
    made = render(cluster, SECRETS)
    assert third_of(cluster) is None
    assert "arbiter" not in made
    said = {(path, line) for files in made.values() for path, file in files.items() for line in file.text.splitlines()}
    assert {
        path for path, line in said if {"2381", "2382", "ARBITER_PASSWORD"} & set(re.findall(r"\w+", line))
    } == set()


def test_each_site_lets_in_those_who_ask_the_arbiter_and_the_third_site_nobody_else() -> None:
    wall = openings(texts()["arbiter"]["etc/nftables.conf"])
    assert {opening.ports.start for opening in wall} == {22, 2381, 2382, 9100}
    doors = {opening.ports.start: opening for opening in wall}
    for address in ("192.168.1.10", "192.168.2.11", "192.168.1.12", "192.168.2.12"):
        assert doors[2381].lets_in(address, "tcp", 2381)
    assert not doors[2382].lets_in("192.168.1.10", "tcp", 2382)
    assert doors[2382].lets_in("192.168.2.12", "tcp", 2382)
    assert doors[9100].lets_in("192.168.2.12", "tcp", 9100)


def test_both_regions_databases_bear_the_same_number_of_connections() -> None:
    # PostgreSQL refuses to follow one that bears more.
    lines = {
        line
        for host, files in texts().items()
        for line in files.get("etc/patroni/config.yml", "").splitlines()
        if "max_connections" in line
    }
    assert lines == {"        max_connections: 650"}


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (WEST, ("region: west", "region: east"), "regions does not have west1 among the nodes of east"),
        (WEST, ("- {host: 192.168.2.11, port: 9000}", "- {host: 192.168.2.12, port: 9000}"),
         "high_availability.regions is not as on the other nodes"),
        (WEST, ("name: main", "name: mane"), "has the seats mane, and others main"),
        (WEST, ("2.11,192.168.1.10,192.168.1.11", "2.11,192.168.1.11"), "does not name 192.168.1.10, a database of"),
        (WEST, ('"192.168.2.10,192.168.2.11,192.168.1.10,', '"192.168.1.10,192.168.2.10,192.168.2.11,'),
         "database.host begins with 192.168.1.10, which is not in region west"),
        (WEST, ("{host: 192.168.2.10, port: 8008}", "{host: 192.168.1.10, port: 8008}"),
         "database.patroni: 192.168.1.10 is no database of region west"),
        (WEST, ("databases: [192.168.1.10, 192.168.1.11]", "databases: [192.168.1.10]"), "the databases of east are"),
        ("west1/etc/warden/environment", ("warden-secret", "other-secret"), "secret is not as on the other nodes"),
        (WEST_PATRONI, ("host: 192.168.1.10,192.168.1.11", "host: 192.168.1.10"), "follows 192.168.1.10"),
        (WEST_PATRONI, ("host: 192.168.1.10,192.168.1.11", 'host: ""'), "standby_cluster follows nobody"),
        (WEST_PATRONI, ("primary_slot_name: west", "primary_slot_name: north"), "north is none of the slots"),
        (WEST_PATRONI, ("host replication replicator 192.168.1.11", "host replication replicator 192.168.1.12"),
         "does not let replicator in from 192.168.1.11"),
        (WEST_PATRONI, ("pbx_system pbx_user 192.168.1.11", "pbx_system pbx_user 192.168.1.12"),
         "does not let pbx_user in from 192.168.1.11"),
        ("west1/etc/nftables.conf", ("dport 9000", "dport 9001"), "let east1 (192.168.1.10) in at port 9000"),
        ("east1/etc/nftables.conf", ("dport 9000", "dport 9001"), "let west1 (192.168.2.10) in at port 9000"),
        ("east1/etc/nftables.conf", ("dport 5432", "dport 5431"), "let west1 (192.168.2.10) in at port 5432"),
        ("west1/etc/nftables.conf", ("dport 5432", "dport 5431"), "does not let 192.168.1.10 in at port 5432"),
        ("west2/etc/default/etcd", ('2380"\nETCD_INITIAL_CLUSTER_TOKEN', '2381"\nETCD_INITIAL_CLUSTER_TOKEN'),
         "ETCD_INITIAL_CLUSTER is not as on the other hosts"),
        (WEST, ("user: warden\n    password: ${ARBITER", "user: other\n    password: ${ARBITER"),
         "high_availability.arbiter is not as on the other nodes"),
        ("west1/etc/warden/environment", ("arbiter_warden-secret", "other-secret"),
         "arbiter.password is not the one that pbx-bootstrap gives"),
        (WEST, ("lease_ttl: 20", "lease_ttl: 8"), "arbiter.lease_ttl (8 s) must be more than lease_ttl (10) and less"),
        (WEST, ("lease_ttl: 20", "lease_ttl: 30"), "and less than failover_timeout (30)"),
        (WEST, ("      - {host: 192.168.3.10, port: 2381}\n", ""), "arbiter.nodes does not name 192.168.3.10"),
        (WEST, ("{host: 192.168.3.10, port: 2381}", "{host: 192.168.3.11, port: 2381}"),
         "arbiter.nodes: 192.168.3.11 is no member of the arbiter"),
        (WEST, ("      - {host: 192.168.2.12, port: 2381}\n      - {host: 192.168.1.12, port: 2381}\n",
                "      - {host: 192.168.1.12, port: 2381}\n      - {host: 192.168.2.12, port: 2381}\n"),
         "arbiter.nodes begins with 192.168.1.12, which is not in region west"),
        (WEST, ("cluster_name: pbx-production", "cluster_name: other"), "lets the account write below /warden/pbx-pro"),
        ("west-witness/etc/default/etcd-arbiter", (",arbiter=http://192.168.3.10:2382", ""),
         "ETCD_INITIAL_CLUSTER is not as on the other hosts"),
        ("arbiter/etc/default/etcd-arbiter", ('ETCD_NAME="arbiter"', 'ETCD_NAME="south"'),
         "ETCD_INITIAL_CLUSTER does not name this host"),
        ("arbiter/etc/nftables.conf", ("dport 2381", "dport 2383"), "let west1 (192.168.2.10) in at port 2381"),
        ("arbiter/etc/nftables.conf", ("dport 2382", "dport 2383"), "let east-witness (192.168.1.12) in at port 2382"),
        ("east-witness/etc/nftables.conf", ("dport 2381", "dport 2383"), "let west1 (192.168.2.10) in at port 2381"),
        ("west-witness/etc/nftables.conf", ("dport 2382", "dport 2383"), "let arbiter (192.168.3.10) in at port 2382"),
        ("west2/etc/keepalived/keepalived.conf", ("advert_int 0.1", "advert_int 1"), "advert_int is 1, on west1 0.1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_between_two_regions_is_found_where_it_is(
    file: str, change: tuple[str, str], says: str
) -> None:
    findings = [finding for finding in found({file: change}) if says in finding.what]
    # A password is named where it is used.
    assert {finding.file for finding in findings} == {file.replace("environment", "config.yml")}, found({file: change})
    assert all(finding.line for finding in findings)
    assert all(finding.cure for finding in findings)


def arbiters(change: tuple[str, str]) -> list[str]:
    """What is found where the same is changed on all members of the arbiter."""
    changes = {
        f"{host}/etc/default/etcd-arbiter": change for host in ("east-witness", "west-witness", "arbiter")
    }  # fmt: skip
    return [finding.what for finding in found(changes)]


def test_an_arbiter_of_two_members_is_found_and_one_of_which_a_member_is_nowhere() -> None:
    assert "2 members: must be an odd number of at least three" in arbiters((",arbiter=http://192.168.3.10:2382", ""))
    whats = arbiters(("arbiter=http://192.168.3.10", "south=http://192.168.3.10"))
    assert "ETCD_INITIAL_CLUSTER names south, which no host here is" in whats


def test_two_members_of_the_arbiter_in_one_region_are_found() -> None:
    changed = texts()
    changed["west2"]["etc/default/etcd-arbiter"] = changed.pop("arbiter")["etc/default/etcd-arbiter"].replace(
        "192.168.3.10", "192.168.2.11"
    )
    for host in ("east-witness", "west-witness", "west2"):
        text = changed[host]["etc/default/etcd-arbiter"]
        changed[host]["etc/default/etcd-arbiter"] = text.replace("192.168.3.10", "192.168.2.11")
    findings = [finding for finding in check(changed) if "2 members of the arbiter are in one place" in finding.what]
    assert [finding.file.partition("/")[0] for finding in findings] == ["west-witness", "west2"]


def test_two_databases_that_lead_are_found_and_two_that_follow() -> None:
    both_lead = {
        f"west{n}/etc/patroni/config.yml": ("host: 192.168.1.10,192.168.1.11", 'host: ""') for n in (1, 2)
    }  # fmt: skip
    assert [finding.file for finding in found(both_lead)] == list(both_lead)
    assert all("would both lead" in finding.what for finding in found(both_lead))
    both_follow = {
        f"east{n}/etc/patroni/config.yml": ("    slots:\n", "    standby_cluster: {host: 192.168.2.10}\n    slots:\n")
        for n in (1, 2)
    }
    whats = {finding.what for finding in found(both_follow)}
    assert whats == {"has a standby_cluster, as in every region: no database would take changes"}


def test_the_programs_have_nothing_to_say_of_two_regions_with_three_hosts_each(tmp_path: Path) -> None:
    write(render(cluster_of(with_three_hosts_each()), SECRETS), tmp_path)
    assert verify(tmp_path).findings == []
