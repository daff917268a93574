"""A whole cluster on this machine, as an operator has it: up, looked at, a host lost under calls, and down again."""

import asyncio
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.zone
import pytest

from warden import __version__ as warden_version
from warden.core.address import Address, Transport
from warden.core.errors import WardenError
from warden.ops.lab.hosted import HostedNode
from warden.ops.lab.lab import Lab
from warden.ops.netns import entered
from warden.ops.town import Talk, Town

pytestmark = [pytest.mark.timeout(400), pytest.mark.alone]


def warden(*words: str, status: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "warden", *words], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines() if line.startswith("wlab")}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "lab"
    yield folder
    if folder.exists():
        warden("lab", "down", "--folder", str(folder))


def test_an_active_passive_cluster_comes_up_from_its_files_is_looked_at_and_leaves_nothing(folder: Path) -> None:
    before = namespaces()
    where = ("--folder", str(folder))
    said = warden("lab", "up", "--option", "active-passive", *where)
    assert "every seat is at home" in said

    told = json.loads(warden("lab", "status", "--json", *where))
    assert told["ok"]
    hosts = {host["host"]: host for host in told["hosts"]}
    assert {unit["unit"] for unit in hosts["pbx1"]["units"]} >= {
        "pbx",
        "keepalived",
        "haproxy",
        "patroni",
        "etcd",
        "named",
    }
    assert "192.168.1.100" in hosts["pbx1"]["addresses"]
    watched = {"prometheus", "prometheus-node-exporter"}
    assert {unit["unit"] for unit in hosts["witness"]["units"]} == {"etcd", "redis-sentinel", *watched}

    # The operator's own commands, on the host: settings and passwords are found by themselves.
    status = json.loads(warden("lab", "exec", "pbx2", *where, "--", "warden", "status", "--json"))
    assert [(seat["name"], seat["holder"]) for seat in status["all_seats"]] == [("main", "pbx1")]
    # The API by the balancer's address, over TLS, from another host.
    url = "https://192.168.1.99/health"
    health = json.loads(warden("lab", "exec", "pbx2", *where, "--", "curl", "--silent", "--insecure", url))
    assert (health["node"], health["seats"]) == ("pbx1", ["main"])
    # The firewall lets the operators' network in there, and nobody from outside at the stores.
    port = warden("lab", "exec", "witness", *where, "--", "curl", "--silent", "http://192.168.1.10:2379/health")
    assert json.loads(port)["health"] == "true"
    assert "there is a lab already" in _fails("lab", "up", *where)
    assert "there is no such host, but pbx1, pbx2, witness" in _fails("lab", "exec", "pbx9", *where, "--", "true")

    _names_are_served(Lab.find(folder), ["192.168.1.10", "192.168.1.11"])
    _calls_over_the_balancer(folder)
    _upgrades(folder)
    _everything_is_watched(where)

    warden("lab", "down", *where)
    assert not folder.exists()
    assert namespaces() == before
    assert "there is no lab" in _fails("lab", "status", *where)


def _names_are_served(lab: Lab, servers: list[str]) -> None:
    """Phones ask either name server, over UDP and TCP, and are told what the zone says; of others' names nothing."""
    assert [server.host for server in lab.name_servers] == servers
    file = lab.folder / "files/dns/example.com.zone"
    zone = dns.zone.from_text(file.read_text(), "example.com.", relativize=False)
    records = list(zone.iterate_rdatasets())
    assert {dns.rdatatype.to_text(record.rdtype) for _, record in records} == {"SOA", "NS", "NAPTR", "SRV", "A"}
    with entered(lab.phones):
        for host, port in lab.name_servers:
            for ask in (dns.query.udp, dns.query.tcp):
                for name, record in records:
                    told = ask(dns.message.make_query(name, record.rdtype), host, 5, port)
                    assert told.answer == [dns.rrset.from_rdata_list(name, record.ttl, list(record))], (host, told)
                foreign = ask(dns.message.make_query("example.org", "A"), host, 5, port)
                assert foreign.rcode() == dns.rcode.REFUSED


def _calls_over_the_balancer(folder: Path) -> None:
    """Phones over TCP, TLS and WebSocket at HAProxy's address: they are known by their own, called, and heard."""
    lab = Lab.find(folder)
    ways = {"1001": Transport.TCP, "1002": Transport.TLS, "1003": Transport.WSS, "1004": Transport.WSS}
    ports = {Transport.TCP: 5060, Transport.TLS: 5061, Transport.WSS: 7443}
    passwords = {number: f"password-of-{number}" for number in ways}
    for number, password in passwords.items():
        words = ("lab", "exec", "pbx1", "--folder", str(folder), "--", "warden", "extension", "add", number)
        command = [sys.executable, "-m", "warden", *words, "--password-stdin"]
        subprocess.run(command, input=password, text=True, check=True, capture_output=True)

    async def call() -> bytes:
        # HAProxy shows no certificate at the port of TLS, but the seat; in the lab they have the same.
        trust = ssl.create_default_context(cafile=str(folder / "certificate.pem"))
        doors = [Address("192.168.1.99", port) for port in ports.values()]
        async with Town(doors, passwords, local_host=lab.phones_address) as town:
            phones = [
                town.phone(number, list(ports).index(way), transport=way, tls=None if way is Transport.TCP else trust)
                for number, way in ways.items()
            ]
            town.talks += (Talk(phones[0], phones[1]), Talk(phones[2], phones[3]))
            await town.settle()
            registered = await HostedNode(lab.hosts["pbx1"]).ask("GET", "registrations")
            await asyncio.sleep(1)
            assert all(line.listener.packets > 25 for talk in town.talks for line in talk.lines)
            return registered

    with entered(lab.phones):
        registered = json.loads(asyncio.run(call()))
    assert {item["number"]: item["transport"] for item in registered["items"]} == dict(ways)
    assert lab.phones_address in json.dumps(registered)
    assert "192.168.1.10" not in json.dumps(registered)


def _everything_is_watched(where: tuple[str, ...]) -> None:
    """Prometheus, on the witness, reaches every exporter of every host through the firewalls."""
    ask = ("lab", "exec", "witness", *where, "--", "curl", "--silent", "http://127.0.0.1:9090/api/v1/targets")
    until = time.monotonic() + 60
    while True:
        targets = json.loads(warden(*ask))["data"]["activeTargets"]
        away = [
            f"{t['labels']['job']} {t['labels']['instance']}: {t['lastError']}" for t in targets if t["health"] != "up"
        ]
        if not away or time.monotonic() > until:
            break
        time.sleep(1)
    assert away == []
    assert {target["labels"]["job"] for target in targets} >= {"pbx", "node", "haproxy", "redis", "postgresql", "etcd"}


def _upgrades(folder: Path) -> None:
    lab = Lab.find(folder)
    to = ("upgrade", "--lab", str(folder), "--pause", "0.2", "--ready", "25", "--to")

    def versions() -> set[str]:
        status = warden("lab", "exec", "pbx1", "--folder", str(folder), "--", "warden", "status", "--json")
        return {node["version"] for node in json.loads(status)["members"]}

    assert "that is more than one step" in _fails(*to, "0.4.0", status=2)
    assert "run `make install-prod` of that version" in _fails(*to, "0.2.5", status=2)
    asyncio.run(lab.add_version("0.2.0"))
    asyncio.run(lab.add_version("0.2.1", works=False))
    assert versions() == {warden_version}
    assert "2 hosts changed to 0.2.0" in warden(*to, "0.2.0")
    assert versions() == {"0.2.0"}
    # One that does not start: the host on which it was tried first goes back by itself.
    assert "All hosts run what they ran before" in _fails(*to, "0.2.1")
    assert versions() == {"0.2.0"}
    assert "2 hosts changed" in warden(*to, warden_version)


def test_two_regions_come_up_the_second_with_a_copy_of_the_first_and_the_first_may_be_lost(folder: Path) -> None:
    before = namespaces()
    where = ("--folder", str(folder))
    assert "a database of west follows" in warden("lab", "up", "--option", "geo", *where)
    told = json.loads(warden("lab", "status", "--json", *where))
    assert told["ok"]
    voting = [host["host"] for host in told["hosts"] if "etcd-arbiter" in {unit["unit"] for unit in host["units"]}]
    assert voting == ["east-witness", "west-witness", "arbiter"]

    # An operator in the standby region writes where the database leads, and reads it again at home.
    _add_extension(where, "1001")
    _is_copied(where, "1001")
    lab = Lab.find(folder)
    _names_are_served(lab, ["192.168.1.10", "192.168.2.10"])
    asyncio.run(_lost(lab))
    assert seats(lab) == ["192.168.2.100"]
    _add_extension(where, "1002")
    # What comes back follows where it led before.
    asyncio.run(_back(lab))
    _is_copied(where, "1002")
    assert seats(lab) == ["192.168.2.100"]

    # Here, since hosts were switched on here.
    lab.down()
    assert namespaces() == before


def _is_copied(where: tuple[str, ...], number: str) -> None:
    """Every database of both regions has the extension, as soon as it has heard of it."""
    query = f"SELECT count(*) FROM extensions WHERE number = '{number}'"
    asked = ("runuser", "-u", "postgres", "--", "psql", "-At", "-h", "/var/run/postgresql", "pbx_system", "-c", query)
    until = time.monotonic() + 60
    for host in ("east1", "east2", "west1", "west2"):
        while (said := warden("lab", "exec", host, *where, "--", *asked).strip()) != "1":
            assert time.monotonic() < until, f"{host}: {said}"
            time.sleep(0.2)


def _add_extension(where: tuple[str, ...], number: str) -> None:
    words = ("lab", "exec", "west1", *where, "--", "warden", "extension", "add", number, "--password-stdin")
    command = [sys.executable, "-m", "warden", *words]
    subprocess.run(command, input="first-password-1", text=True, check=True, capture_output=True)


def seats(lab: Lab) -> list[str]:
    return [address for host in lab.hosts.values() for address in host.addresses() if address.endswith(".100")]


async def _lost(lab: Lab) -> None:
    """The primary region goes dark, and the other one, with the third site's vote, takes its place by itself."""
    await lab.lose("east")
    with pytest.raises(WardenError, match="no node of region east answers"):
        await lab.run("west1", "/usr/local/bin/warden", "dr", "promote")
    lab.primary = "west"
    await lab.settled()
    leads = (
        "curl --silent --fail http://192.168.2.10:8008/primary || curl --silent --fail http://192.168.2.11:8008/primary"
    )
    await lab.until(lambda: lab.run("west1", "sh", "-c", leads), "the database of west leads")


async def _back(lab: Lab) -> None:
    await lab.restore("east")
    await lab.settled()


def test_a_host_that_loses_its_power_costs_no_call_where_all_its_neighbours_are_real() -> None:
    before = namespaces()
    told = json.loads(_anyhow("drill", "run", "active-active/power-off", "--short", "--json"))
    [report] = told["drills"]
    checks = {check["what"]: (check["measured"], check["verdict"]) for check in report["checks"]}
    # How long the silence was is the drill's to say, on a machine that has time for it.
    assert checks.pop("audio gap")[0].startswith("p50 ")
    assert {verdict for _, verdict in checks.values()} == {"ok"}, report
    assert checks["calls dropped"] == ("0", "ok")
    assert namespaces() == before


def _fails(*words: str, status: int = 1) -> str:
    done = subprocess.run([sys.executable, "-m", "warden", *words], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr


def _anyhow(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "warden", *words], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.stdout
