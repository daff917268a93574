"""A real Prometheus with the example configuration watches a real cluster: the page has data, the rules are silent
while all is well and speak when a node dies. And the exporters of Debian serve what rules and page ask them for.
"""

import asyncio
import json
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from warden.store.ports import Item

from monitoring import PAGE, PROMETHEUS, RULES, asked_by_panels, asked_by_rules, metrics, panels
from port_numbers import port_number
from private_etcd import EtcdMember
from private_postgres import Postgres
from private_redis import RedisProcess
from private_server import PrivateServer
from town import Town, end_all, town_of

WINDOW = "60s"
"""What graphs look back on here: the whole test."""
TALK_PACKETS = 130
"""Of each side; of fewer than 100 nothing is told."""
ABSENT = {
    "pg_": "needs PostgreSQL",
    "etcd_": "needs etcd",
    "haproxy_": "needs HAProxy",
    "pbx_rtp_round_trip_seconds": "the test phones send no RTCP",
}
"""What this cluster has not, so that the panels on it stay empty. The exporters have a test of their own."""
OF_THIS_MACHINE = re.compile(
    r"Machine\w+|PBXWarnings|PBX(Node|CallSetup|StateStore|Database)Slow|PBXOverloaded|PBX\w+Shed"
)
"""Alerts that tell about the machine that runs the tests: how busy it is, and how few files may be open."""
DESERVED = {"PBXCertificateExpires"}
"""The certificate of the tests ends in two days."""


class Exporter(PrivateServer):
    """A server with a page of metrics; `command` gets the port."""

    def __init__(self, folder: Path, command: Callable[[int], list[str | Path]]) -> None:
        super().__init__(folder, 1, lambda ports: command(ports[0]))

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def names(self) -> set[str]:
        """The metrics that it serves now, by name."""
        text = httpx.get(f"http://{self.target}/metrics", trust_env=False, timeout=20).text
        return set(re.findall(r"^([a-z]\w*)[{ ]", text, re.MULTILINE))


def node_exporter(folder: Path) -> Exporter:
    return Exporter(folder, lambda port: ["prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{port}"])


def redis_exporter(folder: Path, redis: int) -> Exporter:
    address = f"redis://127.0.0.1:{redis}"
    return Exporter(
        folder,
        lambda port: ["prometheus-redis-exporter", "-redis.addr", address, "-web.listen-address", f"127.0.0.1:{port}"],
    )


@contextmanager
def running(*servers: PrivateServer) -> Iterator[None]:
    """Started within the block, and gone after it."""
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.kill)
            server.start()
        yield


# ---- exporters


def asked(prefix: str) -> set[str]:
    return {name for name in asked_by_rules() | asked_by_panels() if name.startswith(prefix)}


def test_the_exporter_of_machines_serves_what_is_asked_for(tmp_path: Path) -> None:
    exporter = node_exporter(tmp_path)
    with running(exporter):
        exporter.until(lambda: asked("node_") <= exporter.names())


def test_the_exporter_of_redis_serves_what_is_asked_for(tmp_path: Path) -> None:
    master = RedisProcess(tmp_path / "master")
    replica = RedisProcess(tmp_path / "replica", f"replicaof 127.0.0.1 {master.port}")
    # Its own choice for the other servers' port, 10,000 above, may be that of somebody's connection.
    clustered = RedisProcess(tmp_path / "clustered", "cluster-enabled yes", f"cluster-port {port_number()}")
    servers = (master, replica, clustered)
    exporters = [redis_exporter(tmp_path / f"of-{server.folder.name}", server.port) for server in servers]
    with running(*servers, *exporters):
        for server in servers:
            server.until(server.is_up)
        exporters[0].until(lambda: asked("redis_") <= set().union(*(exporter.names() for exporter in exporters)))
        exporters[1].until(lambda: {"redis_master_link_up", "redis_connected_slaves"} <= exporters[1].names())


def test_the_exporter_of_postgresql_serves_what_is_asked_for(tmp_path: Path) -> None:
    with ExitStack() as stack:
        primary = Postgres()
        stack.callback(primary.close)
        primary.start()
        url = primary.new_database()
        primary.sql(url, "SELECT pg_create_physical_replication_slot('standby', true)")
        standby = Postgres(of=primary)
        stack.callback(standby.close)
        standby.start()
        exporters = [postgres_exporter(tmp_path / name, of.port, url) for name, of in (("a", primary), ("b", standby))]
        stack.enter_context(running(*exporters))
        exporters[0].until(lambda: asked("pg_") <= exporters[0].names())
        exporters[1].until(lambda: "pg_replication_lag_seconds" in exporters[1].names())
        said = [httpx.get(f"http://{exporter.target}/metrics", trust_env=False).text for exporter in exporters]
        assert [re.findall(r"^pg_replication_is_replica(?:{.*})? (\d)", text, re.MULTILINE) for text in said] == [
            ["0"],
            ["1"],
        ]


def postgres_exporter(folder: Path, port: int, url: str) -> Exporter:
    source = re.sub(r":\d+/\w+$", f":{port}/postgres?sslmode=disable", url)
    queries = PROMETHEUS / "postgres-queries.yml"
    return Exporter(
        folder,
        lambda own: [
            *("env", f"DATA_SOURCE_NAME={source}", "prometheus-postgres-exporter"),
            *(f"--web.listen-address=127.0.0.1:{own}", f"--extend.query-path={queries}"),
        ],
    )


def test_etcd_serves_what_is_asked_for(tmp_path: Path) -> None:
    etcd = EtcdMember(tmp_path / "etcd")
    with running(etcd):
        etcd.until(etcd.is_up)
        text = httpx.get(f"http://127.0.0.1:{etcd.port}/metrics", trust_env=False).text
    assert asked("etcd_") <= set(re.findall(r"^([a-z]\w*)[{ ]", text, re.MULTILINE))


def test_haproxy_serves_what_is_asked_for_in_the_way_that_the_guide_says(tmp_path: Path) -> None:
    guide = (PROMETHEUS.parent / "docs" / "monitoring.md").read_text()
    found = re.search(r"^    frontend metrics\n(?:        .+\n)+", guide, re.MULTILINE)
    assert found is not None

    def command(port: int) -> list[str | Path]:
        file = tmp_path / "haproxy" / "haproxy.cfg"
        frontend = re.sub(r"(?m)^    ", "", found[0]).replace("192.0.2.100:8404", f"127.0.0.1:{port}")
        limits = "defaults\n    timeout connect 1s\n    timeout client 5s\n    timeout server 5s\n"
        backend = "backend sip_tls\n    server node1 127.0.0.1:9 check inter 100ms fall 1\n"
        file.write_text(f"{limits}{frontend}{backend}")
        return ["haproxy", "-db", "-f", file]

    haproxy = Exporter(tmp_path / "haproxy", command)
    with running(haproxy):
        haproxy.until(lambda: asked("haproxy_") <= haproxy.names())
        down = 'haproxy_backend_status{proxy="sip_tls",state="UP"} 0'
        haproxy.until(lambda: down in httpx.get(f"http://{haproxy.target}/metrics", trust_env=False).text)


# ---- Prometheus


class Prometheus(PrivateServer):
    """One with the example configuration, other targets, and no patience: it looks every second."""

    def __init__(self, folder: Path, targets: dict[str, list[str]]) -> None:
        super().__init__(folder, 1, self._command_line)
        config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config["alerting"] = {}
        config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] in targets]
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": targets[job["job_name"]]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (folder / "rules").mkdir()
        for file in RULES:
            # What waits for minutes would never speak in a test: here each rule speaks at once.
            text = re.sub(r"^ +for: .+\n", "", file.read_text(), flags=re.MULTILINE)
            (folder / "rules" / file.name).write_text(text.replace("interval: 15s", "interval: 1s"))
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=20)

    def _command_line(self, ports: list[int]) -> list[str | Path]:
        return [
            "prometheus",
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{ports[0]}",
        ]

    async def ask(self, path: str, **params: str) -> Any:
        answer = (await self.http.get(f"/api/v1/{path}", params=params)).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def values(self, expr: str) -> list[float]:
        """What the expression is now; what is no number is left out."""
        found = (await self.ask("query", query=expr))["result"]
        return [value for one in found if not math.isnan(value := float(one["value"][1]))]

    async def alerts(self) -> dict[str, list[dict[str, Any]]]:
        """Those that fire, by name."""
        found: dict[str, list[dict[str, Any]]] = {}
        for alert in (await self.ask("alerts"))["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert)
        return found

    async def shows(self, expr: str, within_s: float = 30.0) -> None:
        """Wait until the expression has a result."""
        give_up = time.monotonic() + within_s
        while not await self.values(expr):
            assert time.monotonic() < give_up, f"there is still no {expr}"
            await asyncio.sleep(0.1)  # Only asking again tells.


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    (tmp_path / "cluster").mkdir()
    async with town_of(tmp_path / "cluster", "1001", "1002", "1003", "1004") as town:
        # A carrier that answers: another seat.
        carrier = json.dumps({"targets": [str(town.cluster.seat(2))]})
        await asyncio.to_thread(town.cluster.nodes["n1"].add_items, Item("trunk", "carrier", carrier))
        yield town


@pytest.fixture
async def prometheus(town: Town, tmp_path: Path) -> AsyncIterator[Prometheus]:
    exporters = node_exporter(tmp_path / "of-node"), redis_exporter(tmp_path / "of-redis", town.cluster.redis.port)
    targets = {"node": [exporters[0].target], "redis": [exporters[1].target]}
    targets["pbx"] = [f"127.0.0.1:{node.http_port}" for node in town.cluster.nodes.values()]
    (tmp_path / "prometheus").mkdir()
    prometheus = Prometheus(tmp_path / "prometheus", targets)
    with running(*exporters, prometheus):
        await asyncio.to_thread(prometheus.until, lambda: _is_ready(prometheus))
        yield prometheus
    await prometheus.http.aclose()


def _is_ready(prometheus: Prometheus) -> bool:
    return httpx.get(f"http://127.0.0.1:{prometheus.port}/-/ready", trust_env=False).status_code == 200


async def variables(prometheus: Prometheus) -> dict[str, str]:
    """What the page would fill in if everything were chosen."""
    chosen = {"__rate_interval": WINDOW}
    for variable in json.loads(PAGE.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
            assert found is not None
            series = await prometheus.ask("series", **{"match[]": filled_in(found[1], chosen)})
            chosen[variable["name"]] = "|".join(sorted({one[found[2]] for one in series}))
    return chosen


def filled_in(expr: str, chosen: dict[str, str]) -> str:
    for name, value in chosen.items():
        expr = expr.replace(f"${name}", value)
    return expr


def absent(expr: str) -> bool:
    return any(name.startswith(beginning) for name in metrics(expr) for beginning in ABSENT)


async def empty_panels(prometheus: Prometheus) -> list[str]:
    """Queries of the page that give no number now."""
    chosen = await variables(prometheus)
    return [
        f"{panel['title']}: {target['expr']}"
        for panel in panels()
        for target in panel["targets"]
        if not absent(target["expr"]) and not await prometheus.values(filled_in(target["expr"], chosen))
    ]


async def told_of_the_cluster(prometheus: Prometheus) -> set[str]:
    return {name for name in await prometheus.alerts() if not OF_THIS_MACHINE.fullmatch(name)}


async def make_calls(town: Town) -> None:
    """Two at once, as long as it takes to say something about their sound."""
    calls = [await town.talk("1001", "1002"), await town.talk("1003", "1004")]
    async with asyncio.timeout(30):
        while any(line.listener.packets < TALK_PACKETS for call in calls for line in call):
            await asyncio.sleep(0.05)  # Packets come by the clock, and nothing tells of each.
    await end_all(calls)


async def test_the_page_has_data_and_only_a_dead_node_makes_the_rules_speak(town: Town, prometheus: Prometheus) -> None:
    for number, seat in (("1001", 1), ("1002", 2), ("1003", 3), ("1004", 1)):
        await town.phone(number, seat, tone_hz=440 if number in ("1001", "1003") else 880, answers=True)
    for node in (1, 2, 3):
        await town.knows(node, 1, 2)
    # What counts from its first event on is known to have grown at the second.
    for ended in (2, 4):
        await make_calls(town)
        await prometheus.shows(f"sum(pbx_calls_ended_total) >= {ended}")
    chosen = await variables(prometheus)
    assert chosen["cluster"] == "pbx-cluster"
    assert chosen["node"].count("|") == 2

    # A panel on what happens when a node dies has nothing to show yet.
    assert [panel for panel in await empty_panels(prometheus) if "failover_seconds" not in panel] == []
    give_up = time.monotonic() + 20
    while (found := await told_of_the_cluster(prometheus)) != DESERVED:
        assert time.monotonic() < give_up, found
        await asyncio.sleep(0.2)  # Only asking again tells.
    (soon, *_) = (await prometheus.alerts())["PBXCertificateExpires"]
    assert re.search(r"server\.pem of 127\.0\.0\.1:\d+ ends in 2 days", soon["annotations"]["summary"])

    lost = town.cluster.nodes["n3"]
    await asyncio.to_thread(lost.power_off)
    await prometheus.shows('ALERTS{alertname="PBXNodeDown"}')
    await prometheus.shows('ALERTS{alertname="PBXFailover"}')
    await prometheus.shows("sum(seat:pbx_seat_holder:sum) == 3")
    alerts = await prometheus.alerts()
    (down,) = alerts["PBXNodeDown"]
    assert down["annotations"]["summary"] == f"PBX node 127.0.0.1:{lost.http_port} is down"
    (taken,) = alerts["PBXFailover"]
    assert taken["labels"]["instance"] == f"127.0.0.1:{town.cluster.nodes['n1'].http_port}"
    for never in ("ClusterSplitBrain", "PBXSeatHeldByTwo", "PBXSeatEpochsDiverge", "PBXCallsLost"):
        assert never not in alerts
    await prometheus.shows("sum(rate(pbx_failover_seconds_count[30s])) > 0")
    assert await empty_panels(prometheus) == []
    (moved,) = json.loads(PAGE.read_text())["annotations"]["list"]
    await prometheus.shows(filled_in(moved["expr"], chosen))
