"""Name servers of the phones' domain: who is one, and what does not fit between their files and the others."""

from pathlib import Path

import dns.rdatatype
import dns.zone
import pytest

from warden.ops.ha.findings import Finding
from warden.ops.ha.folder import write
from warden.ops.ha.render import render
from warden.ops.ha.rules import check
from warden.ops.ha.starter import starter
from warden.ops.ha.verify import verify

from ha_clusters import SECRETS, cluster_of, problems_of, rendered

NAMED = "west1/etc/bind/named.conf"
ZONE = "west1/etc/bind/example.com.zone"
NFT = "west1/etc/nftables.conf"
GEO = starter("geo")
PASSIVE = starter("active-passive")
ROLES = ", roles: [pbx, balancer, database, redis, etcd]}"


def found(*changes: tuple[str, str, str], everywhere: bool = False) -> list[Finding]:
    """The findings where a file of a host reads otherwise; with `everywhere` that file of all hosts."""
    made = {host: {p: f.text for p, f in files.items()} for host, files in rendered("geo").items() if host != "dns"}
    for file, before, after in changes:
        host, _, path = file.partition("/")
        for one in made if everywhere else [host]:
            if path in made[one]:
                assert before in made[one][path], file
                made[one][path] = made[one][path].replace(before, after)
    return check(made)


@pytest.mark.parametrize(
    ("file", "before", "after", "says"),
    [
        (NAMED, "recursion no;", "recursion yes;", "looks up any name for anybody"),
        (NAMED, "    recursion no;\n", "", "looks up any name for anybody"),
        (NAMED, 'file "/etc/bind/example.com', 'file "/etc/bind/example.org', "its file of example.com, /etc/bind/ex"),
        (NAMED, "192.168.2.10;", "192.168.2.19;", "west1.example.com (192.168.2.10) is named as a name server, and no"),
        (ZONE, "IN A 192.168.1.100", "IN A 192.168.1.104", "is not as on the other name servers"),
        (NFT, "udp dport 53 accept", "udp dport 54 accept", "in at port 53 (udp), where phones ask for the seats"),
        (NFT, "tcp dport 53 accept", "tcp dport 54 accept", "in at port 53 (tcp), where phones ask for the seats"),
        (NFT, "ip saddr { 192.168.0.0/16 } udp dport 53", "ip saddr { 192.168.2.0/24 } udp dport 53",
         "does not let 192.168.0.0/16 in at port 53 (udp)"),
        (NFT, "ip saddr { 192.168.0.0/16 } udp dport 5060", "udp dport 5060", "does not let anywhere in at port 53 ("),
    ],
)  # fmt: skip
def test_what_does_not_fit_on_one_name_server_is_found_there(file: str, before: str, after: str, says: str) -> None:
    findings = [finding for finding in found((file, before, after)) if says in finding.what]
    assert any(finding.file.startswith("west1/") for finding in findings), findings
    assert all(finding.cure for finding in findings)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("IN NS  west1.", "IN NS  west-witness.",
         "west-witness.example.com (192.168.2.12) is named as a name server, and none listens there"),
        ("IN NS  west1.", "IN NS  west9.", "west9.example.com (no address) is named as a name server"),
        ("@       IN NS  west1.example.com.\n", "", "west1 serves the domain, and no NS record names it"),
        ("main.west IN A 192.168.2.100", "main.west IN A 192.168.2.99",
         "phones would be sent to main.west.example.com (192.168.2.99), which is no seat"),
        ("main.west IN A 192.168.2.100\n", "", "phones would be sent to main.west.example.com (no address)"),
        ("_sip._udp IN SRV 20 100 5060 main.west.example.com.\n", "",
         "no SRV record of _sip._udp leads to seat main (192.168.2.100)"),
        ("_sips._tcp IN SRV 20 100 5061", "_sips._tcp IN SRV 20 100 5060",
         "_sips._tcp sends phones to main.west.example.com at port 5060, where the seat does not speak that"),
        ("_sips._wss IN SRV 20 100 7443 pbx.west", "_sips._wss IN SRV 20 100 7443 main.west",
         "_sips._wss sends phones to main.west.example.com at port 7443"),
    ],
)  # fmt: skip
def test_a_zone_that_leads_to_nobody_is_found_on_each_server_that_has_it(before: str, after: str, says: str) -> None:
    findings = [finding for finding in found((ZONE, before, after), everywhere=True) if says in finding.what]
    assert {finding.file.partition("/")[0] for finding in findings} == {"east1", "east2", "west1", "west2"}
    assert all(finding.line > 0 and finding.cure for finding in findings)


def test_a_domain_that_nobody_serves_is_found_where_the_phones_are_told_it() -> None:
    config = "west1/etc/warden/config.yml"
    findings = found((config, "realm: example.com", "realm: example.org"), everywhere=True)
    assert {f.file for f in findings if "sip.realm is example.org, and no name server" in f.what} >= {config}


def test_a_line_that_only_the_name_server_reads_is_for_it_to_refuse(tmp_path: Path) -> None:
    write(rendered("geo"), tmp_path)
    for file, before, after in (
        (NAMED, "recursion no;", "recursion no"),
        ("east1/etc/bind/named.conf", "notify no;", "notfy no;"),
        ("east2/etc/bind/example.com.zone", "IN SRV 10", "IN SRV ten"),
    ):
        text = (tmp_path / file).read_text()
        assert before in text
        (tmp_path / file).write_text(text.replace(before, after))
    said = {finding.file: finding.what for finding in verify(tmp_path).findings if finding.file.endswith("named.conf")}
    assert said.keys() == {NAMED, "east1/etc/bind/named.conf", "east2/etc/bind/named.conf"}
    assert "unknown option 'notfy'" in said["east1/etc/bind/named.conf"]


@pytest.mark.parametrize(
    ("text", "change", "says"),
    [
        (PASSIVE, ("pbx2, address: 192.168.1.11}", f"pbx2, address: 192.168.1.11{ROLES}"),
         "hosts: only pbx1 has the role dns: without it"),
        (GEO, ("west2, address: 192.168.2.11}", f"west2, address: 192.168.2.11{ROLES}"),
         "region west: only west1 has the role dns"),
    ],
)  # fmt: skip
def test_a_single_name_server_is_refused(text: str, change: tuple[str, str], says: str) -> None:
    assert change[0] in text
    assert any(says in problem for problem in problems_of(text.replace(*change)))


@pytest.mark.parametrize("region", ["east", "west"])
def test_a_region_without_name_servers_is_refused_where_the_other_has_them(region: str) -> None:
    text = GEO
    for number, net in ((1, "1" if region == "east" else "2"), (2, "1" if region == "east" else "2")):
        one = f"{region}{number}, address: 192.168.{net}.1{number - 1}"
        assert one in text
        text = text.replace(f"{one}}}", f"{one}{ROLES}")
    assert any(f"no host of region {region} has the role dns: when" in problem for problem in problems_of(text))


def test_where_no_host_has_the_role_the_zone_is_for_others_to_serve() -> None:
    text = PASSIVE
    for number in (1, 2):
        text = text.replace(f"192.168.1.1{number - 1}}}", f"192.168.1.1{number - 1}{ROLES}")
    made = render(cluster_of(text), SECRETS)
    assert not any("bind" in path for files in made.values() for path in files)
    assert not any("dport 53 " in files["etc/nftables.conf"].text for host, files in made.items() if host != "dns")
    assert "named" not in made["pbx1"]["install.sh"].text
    zone = made["dns"]["example.com.zone"].text
    assert "with each change the serial must grow" in zone
    assert "ns.example.com." in str(dns.zone.from_text(zone, "example.com.", relativize=False).find_rdataset(
        "example.com.", dns.rdatatype.NS
    ))  # fmt: skip
    assert check({host: {p: f.text for p, f in files.items()} for host, files in made.items() if host != "dns"}) == []


def test_every_name_server_has_the_zone_that_is_rendered_for_all() -> None:
    made = rendered("active-active")
    zone = made["dns"]["example.com.zone"]
    assert [host for host, files in made.items() if files.get("etc/bind/example.com.zone") == zone] == [
        "pbx1", "pbx2", "pbx3"
    ]  # fmt: skip
