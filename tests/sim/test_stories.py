"""The real cluster in virtual time, under faults drawn from seeds."""

import os
import subprocess
import sys

import pytest
from msgspec.structs import replace

from warden.sim.plan import Mode, make_plan
from warden.sim.run import tell

SEEDS = 200
AT_A_TIME = 20


@pytest.mark.parametrize("first", range(0, SEEDS, AT_A_TIME))
def test_no_call_is_lost_and_no_two_nodes_speak_for_one(first: int) -> None:
    wrong = {}
    for seed in range(first, first + AT_A_TIME):
        told = tell(make_plan(seed))
        if told.violations:
            wrong[f"python -m warden.sim --seed {seed}"] = told.violations
    assert wrong == {}


def test_the_same_seed_tells_the_same_story_whatever_python_hashes_to() -> None:
    def story(seed: int, hashes: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "warden.sim", "--seed", str(seed)],
            env={**os.environ, "PYTHONHASHSEED": hashes},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    for seed in (1, 2, 8):
        once = story(seed, "1")
        assert once.count("\n") > 50
        assert once == story(seed, "2")


def test_another_seed_is_another_story() -> None:
    assert tell(make_plan(1)).digest != tell(make_plan(2)).digest


def test_a_cluster_without_work_is_quiet() -> None:
    """Each node's word wakes the others; that must not make them say one of their own, and so on."""
    nothing = replace(make_plan(1, Mode.PLANNED), people=(), calls=(), faults=(), ttl_s=1.0)
    told = tell(nothing)
    assert told.violations == ()
    assert told.steps < 20_000
