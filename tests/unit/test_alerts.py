"""The alert rules: promtool likes them, each one has its test and its runbook, and a healthy cluster fires none."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring import PROMETHEUS, ROOT, RULES, alerts, asked_by_panels, asked_by_rules, metrics, rules

TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
FIRING = re.compile(r'ALERTS\{alertname="(\w+)", alertstate="firing", severity="(\w+)"')


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def sections() -> dict[str, str]:
    """The runbook's sections on alerts, by the anchor that its readers' programs make of the heading."""
    found = re.findall(r"^### (.+)\n((?:(?!^##).*\n)*)", RUNBOOK, re.MULTILINE)
    return {title.lower().replace(" ", "-"): body for title, body in found}


def expectations() -> dict[tuple[str, str], list[list[dict[str, Any]]]]:
    """By alert and severity: what is expected to fire, at each moment that a test looks at."""
    found: dict[tuple[str, str], list[list[dict[str, Any]]]] = {}
    for file in TESTS:
        for test in yaml.safe_load(file.read_text())["tests"]:
            for one in test["promql_expr_test"]:
                if (asked := FIRING.match(one["expr"])) is not None:
                    assert test["name"] == f"{asked[1]} ({asked[2]})", "a test is named after its alert"
                    found.setdefault((asked[1], asked[2]), []).append(one["exp_samples"])
    return found


def test_promtool_finds_nothing_wrong_with_the_rules_and_the_example_configuration() -> None:
    run("promtool", "check", "rules", *RULES)
    run("promtool", "check", "config", PROMETHEUS / "prometheus.yml")


def test_the_rendered_configuration_has_the_jobs_of_the_example() -> None:
    """Rules know the jobs by their names."""
    example = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    template = ROOT / "src" / "warden" / "ops" / "ha" / "templates" / "prometheus.yml.j2"
    jobs = {job["job_name"] for job in example}
    assert set(re.findall(r"job_name: (\w+)", template.read_text())) == jobs
    named = {
        job for rule in rules() for found in re.findall(r'job!?=~?"([\w|]+)"', rule["expr"]) for job in found.split("|")
    }
    assert named <= jobs


def test_alertmanager_takes_its_example() -> None:
    run("amtool", "check-config", PROMETHEUS / "alertmanager.yml")


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_not_before(file: Path) -> None:
    run("promtool", "test", "rules", file)


def test_each_alert_is_shown_to_fire_and_to_be_silent() -> None:
    expected = expectations()
    assert expected.keys() == {(alert.name, alert.severity) for alert in alerts()}
    for alert, moments in expected.items():
        assert any(moments), f"{alert} never fires in its test"
        assert not all(moments), f"{alert} is never silent in its test"


def test_each_alert_says_how_bad_it_is_and_where_to_read_on() -> None:
    anchors = sections()
    for alert in alerts():
        assert alert.severity in ("critical", "warning"), alert.name
        assert alert.annotations.keys() == {"summary", "description", "runbook"}, alert.name
        page, _, anchor = alert.annotations["runbook"].partition("#")
        assert (page, anchor) == ("docs/runbook.md", alert.name.lower())
        assert anchor in anchors, f"the runbook has nothing on {alert.name}"
    assert anchors.keys() == {alert.name.lower() for alert in alerts()}, "a section is about an alert"


@pytest.mark.parametrize(("anchor", "body"), sections().items(), ids=sections().keys())
def test_the_runbook_says_what_phones_notice_what_to_look_at_and_what_to_do(anchor: str, body: str) -> None:
    assert "*Phones:*" in body
    assert "*Do:*" in body
    assert re.search(r"^    \S", body, re.MULTILINE), "a command to look with"
    assert set(re.findall(r"\]\(#([\w-]+)\)", body)) <= sections().keys() - {anchor}


def test_what_an_alert_says_is_made_of_labels_that_it_has() -> None:
    expected = expectations()
    for alert in alerts():
        spoken = set(re.findall(r"\$labels\.(\w+)", " ".join(alert.annotations.values())))
        for moment in expected[alert.name, alert.severity]:
            for sample in moment:
                given = set(re.findall(r'(\w+)="', sample["labels"]))
                assert spoken <= given, f"{alert.name} speaks of {spoken - given}"


def test_a_healthy_cluster_shows_everything_that_rules_look_at() -> None:
    """Nothing is proved by silence about what is not there."""
    (test,) = yaml.safe_load((PROMETHEUS / "tests" / "healthy.yml").read_text())["tests"]
    shown = {series["series"].partition("{")[0] for series in test["input_series"]}
    assert asked_by_rules() <= shown


def test_rules_and_panels_ask_for_documented_metrics_of_warden_only() -> None:
    rows = re.findall(r"^\| `(pbx_\w+)` \| (\w+) \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    served = {name for name, kind in rows if kind != "histogram"}
    served |= {f"{name}_{part}" for name, kind in rows if kind == "histogram" for part in ("bucket", "sum", "count")}
    asked = {name for name in asked_by_rules() | asked_by_panels() if name.startswith("pbx_")}
    assert asked <= served
    assert len(asked) > 60


def test_metrics_are_found_in_expressions() -> None:
    expr = 'sum by (node) (rate(pbx_a_total{x="pg_b"}[5m])) / on (job) up{job="pbx"} > seat:pbx_c:sum offset 1m'
    assert metrics(expr) == {"pbx_a_total", "up"}


def test_recorded_rules_are_used() -> None:
    for rule in rules():
        if "record" in rule:
            assert sum(rule["record"] in other["expr"] for other in rules()), rule["record"]
