"""Files of the repository that monitoring hosts get as they are: alert rules, and the dashboard."""

from pathlib import Path
from typing import Final

import warden
from warden.ops.ha.render import File, Files

ROOT: Final = Path(warden.__file__).parents[2]
_PLACES: Final = {
    "prometheus/rules": "etc/prometheus/rules",
    "grafana/dashboards": "var/lib/grafana/dashboards",
    "grafana/provisioning": "etc/grafana/provisioning",
}


def monitoring_files(root: Path = ROOT) -> Files:
    """By their paths on the host; empty where Warden was installed without its repository."""
    found = {}
    for here, there in _PLACES.items():
        for path in sorted((root / here).rglob("*")):
            if path.is_file() and path.suffix in {".yml", ".json"}:
                found[f"{there}/{path.relative_to(root / here)}"] = File(path.read_text(encoding="utf-8"))
    return found
