"""The guide to clusters knows what there is to be set."""

import re
from pathlib import Path

import pytest

from warden.ops.ha.inventory import Balancer, Cluster, Host, Paths, Seat, SipTls, Timings, WebSocket

GUIDE = (Path(__file__).parents[4] / "docs" / "ha-guide.md").read_text()
SECTIONS = (Cluster, Host, Seat, Balancer, SipTls, WebSocket, Timings, Paths)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_the_guide_names_every_key_of_the_cluster_file(section: type[Cluster]) -> None:
    rows = "\n".join(line for line in GUIDE.splitlines() if line.startswith("| `"))
    missing = [key for key in section.model_fields if re.search(rf"[`.]{key}[`.]", rows) is None]
    assert missing == [], f"{section.__name__} has keys that the tables of docs/ha-guide.md do not name"
