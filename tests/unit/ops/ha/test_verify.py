"""`warden ha verify`: clean files are left in peace, and each thing that is wrong is found by file and line."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from warden.core.errors import ConfigError
from warden.ops.ha.findings import Finding
from warden.ops.ha.folder import write
from warden.ops.ha.inventory import Option
from warden.ops.ha.programs import PACKAGES
from warden.ops.ha.rules import check
from warden.ops.ha.verify import verify
from warden.ops.lab.hosted import small

from ha_clusters import OPTIONS, rendered

Changes = Mapping[str, tuple[str, str]]

CONFIG = "pbx2/etc/warden/config.yml"
KEEPALIVED = "pbx2/etc/keepalived/keepalived.conf"
HAPROXY = "pbx2/etc/haproxy/haproxy.cfg"
ETCD = "pbx2/etc/default/etcd"
NFT = "pbx2/etc/nftables.conf"
REDIS = "pbx2/etc/redis/redis-6379.conf"
PATRONI = "pbx2/etc/patroni/config.yml"


def texts(option: Option = "active-active", changes: Changes | None = None) -> dict[str, dict[str, str]]:
    made = {host: {p: f.text for p, f in files.items()} for host, files in rendered(option).items() if host != "dns"}
    for file, change in (changes or {}).items():
        host, _, path = file.partition("/")
        assert change[0] in made[host][path], file
        made[host][path] = made[host][path].replace(*change)
    return made


def found(changes: Changes) -> list[Finding]:
    return check(texts(changes=changes))


@pytest.mark.parametrize("option", OPTIONS)
def test_the_rules_have_nothing_to_say_of_what_is_rendered(option: Option) -> None:
    assert check(texts(option)) == []


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (CONFIG, ("node_id: pbx2", "node_id: pbx1"), "another node is pbx1 as well"),
        (CONFIG, ("cluster_name: pbx-production", "cluster_name: other"), "cluster_name is not as on the other nodes"),
        (CONFIG, ("address: 192.168.1.102", "address: 192.168.1.105"), "does not move 192.168.1.105, the address of"),
        (CONFIG, ("lease_ttl: 10", "lease_ttl: 31"), "lease_ttl (31 s) must be less than failover_timeout (30)"),
        (CONFIG, ("192.168.1.12, port: 2379", "192.168.1.13, port: 2379"), "1.13 is no member of etcd"),
        ("pbx2/etc/warden/environment", ("warden-secret", "wrong-secret"), "secret is not as on the other nodes"),
        (KEEPALIVED, ("192.168.1.101/24", "192.168.1.111/24"), "seat1: moves 192.168.1.111, on pbx1 192.168.1.101"),
        (KEEPALIVED, ("virtual_router_id 51", "virtual_router_id 61"), "seat1: virtual_router_id is 61, on pbx1 51"),
        (KEEPALIVED, ("virtual_router_id 52", "virtual_router_id 51"), "virtual_router_id is 51, on pbx1 52"),
        (KEEPALIVED, ("advert_int 0.1", "advert_int 1"), "advert_int is 1, on pbx1 0.1"),
        (KEEPALIVED, ("priority 190", "priority 250"), "priority 250 is that of pbx1 as well"),
        (KEEPALIVED, ("    nopreempt\n", ""), "must begin as BACKUP with nopreempt"),
        (KEEPALIVED, ("state BACKUP", "state MASTER"), "must begin as BACKUP with nopreempt"),
        (KEEPALIVED, ("        192.168.1.12\n", ""), "pbx3 (192.168.1.12) is not among the unicast_peer"),
        (KEEPALIVED, ("vrrp_instance seat3", "vrrp_instance seat9"), "there is no vrrp_instance seat3"),
        (HAPROXY, ("inter 1000ms", "inter 5s"), "2 checks every 5 s are not less than lease_ttl (10 s)"),
        (HAPROXY, ("stats enable", "stats enable\n    stats admin if TRUE"), "anyone may take servers out"),
        (HAPROXY, ("192.168.1.103:5061", "192.168.1.103:5062"), "to 192.168.1.103 at port 5062, where no node listens"),
        (HAPROXY, ("send-proxy-v2-ssl", "send-proxy-v2"), "does not say that their TLS ends here"),
        (HAPROXY, ("rise 2 send-proxy-v2", "rise 2"), "does not say whose connection it is"),
        (CONFIG, ("balancers: [192.168.1.10, ", "balancers: ["), "does not name 192.168.1.10, from where pbx1"),
        (CONFIG, ("bind_port: 5061", "bind_port: 5063"), "sip.tls is not as on the other nodes"),
        (CONFIG, ("bind_port: 5066", "bind_port: 5067"), "sip.websocket is not as on the other nodes"),
        (NFT, ("tcp dport 7443 accept", "tcp dport 6 accept"), "at port 7443, where etc/haproxy/haproxy.cfg listens"),
        (NFT, ("tcp dport 5060 accept", "tcp dport 6 accept"), "nobody in at port 5060, where etc/warden/config.yml"),
        (NFT, ("tcp dport 443 accept", "tcp dport 444 accept"), "at port 443, where etc/haproxy/haproxy.cfg listens"),
        (ETCD, ("pbx3=http://192.168.1.12:2380", "pbx4=http://192.168.1.12:2380"), "CLUSTER is not as on the other"),
        (NFT, ("tcp dport 6379 accept", "tcp dport 6378 accept"), "does not let pbx1 (192.168.1.10) in at port 6379"),
        (NFT, ("tcp dport 9000 accept", "tcp dport 9001 accept"), "in at port 9000, which its etc/haproxy/haproxy.cfg"),
        (NFT, ("tcp dport 16379-16380 accept", "tcp dport 6 accept"), "in at port 16379"),
        (NFT, ("tcp dport 2379-2380 accept", "tcp dport 2379 accept"), "in at port 2380"),
        (REDIS, ("protected-mode yes", "protected-mode no"), "protected-mode no"),
        (REDIS, ("aclfile /etc/redis/users.acl\n", ""), "has no password"),
        ("pbx2/etc/redis/users.acl", ("+ping", "+pong"), "users are not as on the other hosts"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_found_where_it_is(file: str, change: tuple[str, str], says: str) -> None:
    findings = found({file: change})
    assert any(says in finding.what for finding in findings), findings
    assert all(finding.cure for finding in findings)


def test_a_finding_names_the_line() -> None:
    finding = next(f for f in found({KEEPALIVED: ("priority 190", "priority 250")}) if f.file == KEEPALIVED)
    lines = texts(changes={KEEPALIVED: ("priority 190", "priority 250")})["pbx2"][
        "etc/keepalived/keepalived.conf"
    ].splitlines()
    assert lines[finding.line - 1].split() == ["priority", "250"]


def test_four_members_of_etcd_are_said_to_be_even() -> None:
    changes = {
        f"pbx{n}/etc/default/etcd": (
            '2380"\nETCD_INITIAL_CLUSTER_TOKEN',
            '2380,d=http://192.168.1.13:2380"\nETCD_INITIAL_CLUSTER_TOKEN',
        )
        for n in (1, 2, 3)
    }
    assert any("4 members: must be an odd number" in finding.what for finding in found(changes))


@pytest.mark.parametrize("option", OPTIONS)
def test_the_programs_that_will_read_the_files_have_nothing_to_say(option: Option, tmp_path: Path) -> None:
    write(rendered(option, small(option)), tmp_path)
    verdict = verify(tmp_path)
    assert verdict.findings == []
    # `make test` installs them all: nothing was left out.
    assert verdict.missing == {}
    assert verdict.files > 30


def test_each_program_says_what_is_wrong_with_its_file(tmp_path: Path) -> None:
    made = rendered("active-active", small("active-active"))
    write(made, tmp_path)
    broken = {
        CONFIG: ("bind_port: 5060", "bind_port: fifty"),
        HAPROXY: ("mode http", "mode udp"),
        KEEPALIVED: ("virtual_router_id 51", "virtual_router_id 999"),
        NFT: ("policy drop", "policy perhaps"),
        PATRONI: ("loop_wait: 5", "loop_wait: five"),
        REDIS: ("appendonly yes", "appendonly perhaps"),
        ETCD: ("ETCD_HEARTBEAT_INTERVAL=\"50\"", "ETCD_HEARTBEAT_INTERVAL=\"often\""),
        "pbx2/etc/chrony/conf.d/pbx.conf": ("iburst", "iburst sometimes"),
        "pbx2/etc/systemd/system/pbx.service": ("[Service]", "[Service"),
        "pbx2/etc/systemd/system/keepalived.service.d/pbx.conf": ("Restart=always", "Restart=perhaps"),
        "pbx3/etc/systemd/system/etcd.service.d/pbx.conf": ("StartLimitIntervalSec", "StartLimitInterval_s"),
        "pbx1/etc/prometheus/prometheus.yml": ("scrape_interval: 15s", "scrape_interval: often"),
        "pbx1/etc/prometheus/rules/pbx.yml": ("groups: []", "groups: 1"),
        "pbx1/usr/local/sbin/pbx-bootstrap": ("fi\n", "\n"),
        "dns/example.com.zone": ("IN SRV 10", "IN SRV ten"),
    }  # fmt: skip
    for file, change in broken.items():
        text = (tmp_path / file).read_text()
        assert change[0] in text, file
        (tmp_path / file).write_text(text.replace(*change))
    (tmp_path / "pbx3/etc/warden/environment").chmod(0o644)
    verdict = verify(tmp_path)
    unnamed = {*broken, "pbx3/etc/warden/environment"} - {finding.file for finding in verdict.findings}
    assert unnamed == set(), verdict.findings


def test_a_folder_without_hosts_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there are no hosts' files here"):
        verify(tmp_path)


def test_every_program_has_its_package() -> None:
    listed = (Path(__file__).parents[4] / "requirements/debian.txt").read_text().split()
    assert set(PACKAGES.values()) <= set(listed)
