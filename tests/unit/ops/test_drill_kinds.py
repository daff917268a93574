"""The drills of a lab name only what is there: rules, programs, hosts."""

import re
from pathlib import Path

from warden.ops.drills.catalog import CATALOG
from warden.ops.drills.hosted import KINDS, OPTIONS
from warden.ops.drills.regions import LOSS, SWITCH
from warden.ops.lab.lab import PROGRAMS

ROOT = Path(__file__).parents[3]


def test_every_kind_is_in_the_catalogue_once_for_each_of_its_options() -> None:
    named = [f"{option}/{kind.name}" for option in OPTIONS for kind in KINDS if option in kind.options]
    assert len(set(named)) == len(named)
    assert set(named) <= set(CATALOG)
    storms = {f"{option}/registration-storm" for option in OPTIONS}
    assert {name for name in CATALOG if "/" in name} == set(named) | storms | {LOSS.name, SWITCH.name}


def test_every_alert_that_is_expected_is_one_of_the_rules() -> None:
    rules = "".join(path.read_text() for path in sorted((ROOT / "prometheus/rules").glob("*.yml")))
    there = set(re.findall(r"- alert: (\w+)", rules))
    assert {name for kind in KINDS for name in kind.alerts} <= there


def test_every_program_of_a_lab_is_in_a_package_that_is_installed_for_the_tests() -> None:
    listed = (ROOT / "requirements/debian.txt").read_text().split()
    # On every Debian.
    always = {"util-linux"}
    assert set(PROGRAMS.values()) - always <= set(listed)
