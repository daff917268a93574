"""What `/etc/patroni/start` waits for, in a world whose other region says one thing after the other."""

import os
import subprocess
from pathlib import Path

import pytest

from ha_clusters import rendered

PRIMARY = 'pbx_region_primary{region="west"} 1\n'
STANDBY = 'pbx_region_primary{region="west"} 0\n'
LEADS, FOLLOWS, NONE = "{}", '{"standby_cluster": {"host": "192.168.2.10"}}', ""


def started(tmp_path: Path, *, metrics: str, kept: str, leads_after: int, host: str = "east1") -> list[str]:
    """What was asked and done, in order, until Patroni was started. The other region's database begins to lead after it
    was asked so often.
    """
    world = tmp_path / "bin"
    world.mkdir()
    log, asked = tmp_path / "log", tmp_path / "asked"
    (tmp_path / "metrics").write_text(metrics)
    (tmp_path / "kept").write_text(kept)
    programs = {
        "psql": f'echo x >>{asked}; echo psql >>{log}; [ "$(wc -l <{asked})" -gt {leads_after} ]',
        "curl": f'echo "$*" | grep -q ":9000/metrics" && cat {tmp_path}/metrics',
        "etcdctl": f"cat {tmp_path}/kept",
        "patronictl": f"echo 'is to follow' >>{log}; echo '{FOLLOWS}' >{tmp_path}/kept",
        "patroni": f"echo started >>{log}",
        # Nothing here takes time.
        "sleep": f"echo waits >>{log}",
    }
    for name, does in programs.items():
        (world / name).write_text(f"#!/bin/sh\n{does}\n")
        (world / name).chmod(0o755)
    script = rendered("geo")[host]["etc/patroni/start"].text.replace("/usr/bin/patroni ", f"{world}/patroni ")
    environ = {"PATH": f"{world}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", script], env=environ, capture_output=True, text=True, check=False, timeout=30)
    said = log.read_text().splitlines() if log.exists() else []
    return [line for line in said if line != "psql"] + done.stderr.splitlines()


def test_a_region_whose_place_was_taken_a_moment_ago_waits_until_it_can_follow(tmp_path: Path) -> None:
    did = started(tmp_path, metrics=PRIMARY, kept=LEADS, leads_after=4)
    assert did.count("waits") >= 2
    # Once, however long it takes.
    assert did[-3:] == [
        "is to follow", "started",
        "region west has the seats and its database does not lead yet; if it is lost: warden dr promote",
    ]  # fmt: skip


def test_where_the_other_region_leads_it_is_followed_at_once(tmp_path: Path) -> None:
    assert started(tmp_path, metrics=PRIMARY, kept=LEADS, leads_after=0) == ["is to follow", "started"]


@pytest.mark.parametrize("metrics", [STANDBY, "", 'pbx_region_primary{region="north"} 1\n'])
def test_a_region_that_is_primary_or_hears_nobody_waits_for_nothing(tmp_path: Path, metrics: str) -> None:
    assert started(tmp_path, metrics=metrics, kept=LEADS, leads_after=99) == ["started"]


def test_one_that_follows_already_waits_for_nothing(tmp_path: Path) -> None:
    assert started(tmp_path, metrics=PRIMARY, kept=FOLLOWS, leads_after=99) == ["started"]


def test_a_new_and_empty_first_region_begins_no_database_beside_the_other_ones(tmp_path: Path) -> None:
    [why] = started(tmp_path, metrics=PRIMARY, kept=NONE, leads_after=0)
    assert "a new and empty one would begin here" in why
