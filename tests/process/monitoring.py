"""What stands in prometheus/ and grafana/, for the tests that hold it against promtool, the docs and real servers."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "prometheus"
PAGE = ROOT / "grafana" / "dashboards" / "pbx-ha-overview.json"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
METRIC = re.compile(r"(?<![:\w])(?:up|(?:pbx|node|pg|redis|etcd|haproxy)_\w+)(?![:\w])")
"""Names of metrics in an expression, those of recorded rules left out."""


class Alert(NamedTuple):
    """An alert as its rule has it."""

    name: str
    severity: str
    expr: str
    annotations: dict[str, str]


def rules() -> Iterator[dict[str, Any]]:
    """All of them, recorded ones too."""
    for file in RULES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from group["rules"]


def alerts() -> list[Alert]:
    return [
        Alert(rule["alert"], rule["labels"]["severity"], rule["expr"], rule["annotations"])
        for rule in rules()
        if "alert" in rule
    ]


def panels() -> list[dict[str, Any]]:
    """The panels of the committed page that ask something."""
    return [panel for panel in json.loads(PAGE.read_text())["panels"] if panel.get("targets")]


def metrics(*expressions: str) -> set[str]:
    """The metrics of which these speak."""
    return {name for expr in expressions for name in METRIC.findall(re.sub(r'"[^"]*"', '""', expr))}


def asked_by_rules() -> set[str]:
    return metrics(*(rule["expr"] for rule in rules()))


def asked_by_panels() -> set[str]:
    return metrics(*(target["expr"] for panel in panels() for target in panel["targets"]))
