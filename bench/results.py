"""`bench/out/latest.json`: what was measured last, part by part, and with what."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

OUT: Final = Path(__file__).with_name("out")
LATEST: Final = OUT / "latest.json"
SHORT: Final = OUT / "short.json"
"""What short runs find, which is no figure."""


def keep(parts: Mapping[str, Any], versions: Mapping[str, str], *, short: bool = False) -> None:
    """Put these parts in place of what was measured of them before."""
    OUT.mkdir(exist_ok=True)
    file = SHORT if short else LATEST
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    found |= parts
    found["versions"] = {**found.get("versions", {}), **versions}
    found["measured_at"] = datetime.now(UTC).isoformat(timespec="seconds")
    file.write_text(json.dumps(found, indent=2) + "\n")
