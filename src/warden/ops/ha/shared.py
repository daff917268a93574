"""Files of the repository that hosts get as they are: alert rules, the dashboard, and what an exporter asks for."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import warden
from warden.ops.ha.inventory import Role
from warden.ops.ha.render import File, Files

ROOTS: Final = (Path(warden.__file__).parents[2], Path(sys.prefix) / "share" / "warden")
"""The repository, or where `make install-prod` puts them."""
_PLACES: Final[tuple[tuple[Role, str, str], ...]] = (
    ("monitor", "prometheus/rules", "etc/prometheus/rules"),
    ("monitor", "prometheus/alertmanager.yml", "etc/prometheus/alertmanager.yml"),
    ("monitor", "grafana/dashboards", "var/lib/grafana/dashboards"),
    ("monitor", "grafana/provisioning", "etc/grafana/provisioning"),
    ("database", "prometheus/postgres-queries.yml", "etc/prometheus/postgres-queries.yml"),
)


_EXAMPLES: Final = ("etc/prometheus/alertmanager.yml",)
"""Whom an alert wakes, the operator writes."""


def shared_files() -> Mapping[Role, Files]:
    """By the role that has them, and their paths on the host; none where Warden was installed without them."""
    found: dict[Role, dict[str, File]] = {}
    root = next((root for root in ROOTS if (root / "prometheus").is_dir()), ROOTS[0])
    for role, here, there in _PLACES:
        place = root / here
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.is_file() and path.suffix in {".yml", ".json"}:
                target = there if path == place else f"{there}/{path.relative_to(place)}"
                found.setdefault(role, {})[target] = File(
                    path.read_text(encoding="utf-8"), put="put_once" if target in _EXAMPLES else "put"
                )
    return found
