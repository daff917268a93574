"""Files of the repository that monitoring hosts get as they are: alert rules, and the dashboard."""

import sys
from pathlib import Path
from typing import Final

import warden
from warden.ops.ha.render import File, Files

ROOTS: Final = (Path(warden.__file__).parents[2], Path(sys.prefix) / "share" / "warden")
"""The repository, or where `make install-prod` puts them."""
_PLACES: Final = {
    "prometheus/rules": "etc/prometheus/rules",
    "grafana/dashboards": "var/lib/grafana/dashboards",
    "grafana/provisioning": "etc/grafana/provisioning",
}


def monitoring_files() -> Files:
    """By their paths on the host; empty where Warden was installed without its repository."""
    found = {}
    root = next((root for root in ROOTS if (root / "prometheus").is_dir()), ROOTS[0])
    for here, there in _PLACES.items():
        for path in sorted((root / here).rglob("*")):
            if path.is_file() and path.suffix in {".yml", ".json"}:
                found[f"{there}/{path.relative_to(root / here)}"] = File(path.read_text(encoding="utf-8"))
    return found
