"""The drills of a lab name only what is there: rules, programs, hosts."""

import re
from pathlib import Path

from warden.ops.drills.catalog import CATALOG
from warden.ops.drills.hosted import KINDS, OPTIONS
from warden.ops.drills.region_cut import CUT, unheard_by
from warden.ops.drills.region_loss import AUTOMATIC, LOSS
from warden.ops.drills.region_switch import SWITCH
from warden.ops.lab.hosted import small
from warden.ops.lab.lab import PROGRAMS, Kept, Lab

ROOT = Path(__file__).parents[3]


def test_every_kind_is_in_the_catalogue_once_for_each_of_its_options() -> None:
    named = [f"{option}/{kind.name}" for option in OPTIONS for kind in KINDS if option in kind.options]
    assert len(set(named)) == len(named)
    assert set(named) <= set(CATALOG)
    storms = {f"{option}/registration-storm" for option in OPTIONS}
    assert {name for name in CATALOG if "/" in name} == set(named) | storms | {
        LOSS.name,
        SWITCH.name,
        AUTOMATIC.name,
        CUT.name,
    }


def test_a_region_that_is_cut_off_hears_no_other_site_and_is_heard_by_none(tmp_path: Path) -> None:
    lab = Lab(tmp_path, Kept("t", small("geo")))
    unheard = unheard_by(lab, "east")
    assert set(unheard) == set(lab.hosts)
    east = ["192.168.1.10", "192.168.1.100", "192.168.1.11", "192.168.1.12", "192.168.1.99"]
    beyond = [*(address.replace(".1.", ".2.", 1) for address in east), "192.168.3.10"]
    assert unheard["east1"] == unheard["east-witness"] == beyond
    assert unheard["west1"] == unheard["west-witness"] == unheard["arbiter"] == east
    # Phones are none of them.
    assert lab.phones_address not in {*east, *beyond}


def test_two_regions_have_the_drills_in_which_the_other_one_takes_part() -> None:
    geo = {name.removeprefix("geo/") for name in CATALOG if name.startswith("geo/")}
    assert geo == {
        "power-off", "hand-over", "rolling-restart", "kill-warden", "kill-keepalived", "kill-haproxy",
        "kill-etcd-member", "kill-database", "kill-redis-master", "cut-cable", "freeze", "registration-storm",
        "line-cut", "region-loss", "region-switch", "region-loss-automatic", "region-cut",
    }  # fmt: skip
    # There is one line only where there are two regions.
    assert [name for name in CATALOG if name.endswith("/line-cut")] == ["geo/line-cut"]


def test_every_alert_that_is_expected_is_one_of_the_rules() -> None:
    rules = "".join(path.read_text() for path in sorted((ROOT / "prometheus/rules").glob("*.yml")))
    there = set(re.findall(r"- alert: (\w+)", rules))
    assert {name for kind in KINDS for name in kind.alerts} <= there


def test_every_program_of_a_lab_is_in_a_package_that_is_installed_for_the_tests() -> None:
    listed = (ROOT / "requirements/debian.txt").read_text().split()
    # On every Debian.
    always = {"util-linux"}
    assert set(PROGRAMS.values()) - always <= set(listed)
