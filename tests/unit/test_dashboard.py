"""The Grafana page: made from its source, whole, and imported by the command that the guide gives."""

import json
import re
import runpy
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from typing import Any

import pytest
import yaml

from monitoring import PAGE, ROOT, panels

SOURCE = ROOT / "grafana" / "make_dashboard.py"
GRAFANA = "http://grafana:3000"


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(PAGE.read_text())
    return found


def test_the_page_is_what_its_source_makes() -> None:
    assert PAGE.read_text() == runpy.run_path(str(SOURCE))["text"](), "run `make dashboard`"


def test_every_panel_has_a_title_and_asks_the_chosen_data_source() -> None:
    for panel in panels():
        assert panel["title"]
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


def test_only_variables_that_there_are_stand_in_queries(page: dict[str, Any]) -> None:
    names = {variable["name"] for variable in page["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(page["panels"]) + json.dumps(page["templating"])))
    assert used - {"__rate_interval", "__all"} == names == {"datasource", "cluster", "node", "machine"}


def test_no_panel_lies_on_another_and_none_hangs_over(page: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in page["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells
    assert [panel["id"] for panel in page["panels"]] == list(range(1, len(page["panels"]) + 1))
    rows = [panel["gridPos"]["y"] for panel in page["panels"] if panel["type"] == "row"]
    assert all(one < other for one, other in pairwise(rows))


def test_the_page_shows_what_the_guide_asks_for() -> None:
    titles = " / ".join(panel["title"] for panel in panels())
    for wanted in (
        "Who holds which seat",
        "Calls per node",
        "Registrations per node",
        "Until it rings",
        "Failovers",
        "Failover duration",
        "Calls lost",
        "Registrations that failed",
        "replication lag",
        "Opinion score",
        "Jitter",
        "Packets lost",
        "Processors",
        "Memory",
        "Disks",
        "Network",
        "Overload",
        "HAProxy",
    ):
        assert wanted in titles


def test_files_for_grafana_name_each_other() -> None:
    provisioning = ROOT / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    scraped = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "warden.yml").read_text())["providers"]
    guide = (ROOT / "docs" / "monitoring.md").read_text()
    assert f"install -D -t {provider['options']['path']} grafana/dashboards/{PAGE.name}" in guide


def test_the_guides_command_sends_what_grafanas_api_wants(page: dict[str, Any]) -> None:
    """It refuses a body without `dashboard`, and one with an `id` that it does not know."""
    guide = (ROOT / "docs" / "monitoring.md").read_text()
    found = re.search(r"^    (jq .+\n(?:     .+\n)+)", guide, re.MULTILINE)
    assert found is not None
    heard: list[tuple[str, dict[str, str], bytes]] = []

    class Grafana(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append((self.path, dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    with HTTPServer(("127.0.0.1", 0), Grafana) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert GRAFANA in found[1]
        command = (
            found[1].replace(GRAFANA, f"http://127.0.0.1:{server.server_port}").replace("curl", "curl --noproxy '*'")
        )
        environ = {"GRAFANA_TOKEN": "glsa_token", "PATH": "/usr/bin:/bin"}
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=ROOT,
            check=True,
            timeout=20,
            env=environ,
            capture_output=True,
        )
        thread.join(10)
    ((path, headers, body),) = heard
    assert (path, headers["Authorization"]) == ("/api/dashboards/db", "Bearer glsa_token")
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == {"dashboard": page, "overwrite": True}
    assert page["id"] is None
    assert 0 < len(page["uid"]) <= 40
