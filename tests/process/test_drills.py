"""Each promise, proved at a small size by the drill that proves it at full size in `make drill`."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from left_behind import left_behind

pytestmark = [pytest.mark.timeout(300), pytest.mark.alone]


@pytest.fixture
def folder() -> Iterator[Path]:
    """For what a drill needs for a while; empty again when it is over."""
    # A short path: that of a Unix socket has at most 107 bytes.
    path = Path(tempfile.mkdtemp(prefix="drill"))
    # PostgreSQL runs as another user than root, and must find the way to its own folder.
    path.chmod(0o711)
    yield path
    assert left_behind(path) == []
    path.rmdir()


def drill(folder: Path, *argv: str) -> dict[str, dict[str, Any]]:
    """Run one and give its checks by name, all of which must be kept but those that the clock decides."""
    done = subprocess.run(
        [sys.executable, "-m", "warden", "drill", "run", "--json", "--short", *argv],
        capture_output=True, text=True, check=False, timeout=240, env=os.environ | {"TMPDIR": str(folder)},
    )  # fmt: skip
    assert done.stdout, done.stderr
    answer = json.loads(done.stdout)
    (report,) = answer["drills"]
    checks = {check["what"]: check for check in report["checks"]}
    # How long a silence was, and how many calls the phones could make, is a matter of how busy this machine is.
    timed = {checks[name]["verdict"] for name in ("audio gap", "calls offered") if name in checks}
    broken = [c for c in checks.values() if c["verdict"] != "ok" and c["what"] not in ("audio gap", "calls offered")]
    assert broken == [], done.stderr
    assert answer["ok"] is (timed <= {"ok"})
    assert done.returncode == (0 if answer["ok"] else 1)
    return checks


def test_the_calls_of_a_node_that_loses_its_power_go_on_at_another_and_can_be_held_and_hung_up(folder: Path) -> None:
    checks = drill(folder, "kill", "--calls", "20")
    assert checks["calls kept"]["measured"] == "20"
    assert checks["CDRs wrong, missing or doubled"]["measured"] == "0 of 20"


def test_calls_that_ring_when_their_node_dies_can_be_answered(folder: Path) -> None:
    assert drill(folder, "ringing")["calls answered after their node had died"]["measured"] == "12"


def test_a_newer_version_on_the_same_machine_takes_a_seat_over_and_gives_it_back(folder: Path) -> None:
    checks = drill(folder, "blue-green")
    assert checks["call set-ups failed"]["measured"] == checks["calls dropped"]["measured"] == "0"


def test_no_call_fails_or_ends_while_every_node_is_restarted_in_turn(folder: Path) -> None:
    assert drill(folder, "restart")["call set-ups failed"]["measured"] == "0"


def test_phones_that_were_told_that_they_are_registered_still_are_when_the_node_has_died(folder: Path) -> None:
    drill(folder, "registrations")


def test_no_call_and_no_cdr_is_lost_with_redis_and_postgresql(folder: Path) -> None:
    drill(folder, "stores", "--seconds", "3")


def test_a_node_that_was_frozen_says_nothing_for_its_seat_when_it_wakes_up(folder: Path) -> None:
    checks = drill(folder, "freeze")
    assert checks["packets of the old holder behind the new one's first"]["measured"] == "0"


def test_a_drill_that_does_not_exist_is_told_with_those_that_do() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "warden", "drill", "run", "kil"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith("drill kil: there is none of that name, but kill, ringing, ")
