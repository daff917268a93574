"""What a number of users needs: the guide's table, made whole for the option that is asked for."""

import json
import subprocess
import sys

import pytest

from warden.ops.ha.inventory import Option
from warden.ops.ha.sizing import cost_of, option_for, size_for


def test_the_guides_cost_of_five_hundred_users_is_found_again() -> None:
    size = size_for(500)
    assert (size.nodes, option_for(size), cost_of(size, option_for(size))) == (3, "active-active", (12_000, 2_100))


@pytest.mark.parametrize(
    ("users", "option", "nodes", "database"),
    [
        (100, None, 2, "1 primary + 1 replica"),
        (100, "active-active", 3, "1 primary + 2 replicas, Patroni"),
        (1000, "active-passive", 2, "1 primary + 1 replica"),
        (1000, "geo", 5, "Patroni cluster (3 nodes)"),
        (5000, None, 5, "Patroni cluster (3 nodes)"),
    ],
)
def test_each_option_has_the_nodes_that_it_works_with(
    users: int, option: Option | None, nodes: int, database: str
) -> None:
    size = size_for(users, option)
    assert (size.nodes, size.database) == (nodes, database)


def test_two_regions_cost_twice_as_much_and_a_third_site_besides_and_have_the_guides_words() -> None:
    command = [sys.executable, "-m", "warden", "ha", "plan", "--users", "1000", "--option", "geo", "--json"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert (told["option"], told["regions"], told["size"]["nodes"]) == ("geo", 2, 5)
    assert told["guide"] == {
        "uptime": "99.999%", "complexity": "high", "users": "enterprise (> 500 users, multi-site)"
    }  # fmt: skip
    assert (told["usd_once"], told["usd_per_year"]) == (39_000, 7_300)
    once, yearly = cost_of(size_for(1000), "active-active")
    # And one server of the third site, with its power and its line.
    assert (told["usd_once"], told["usd_per_year"]) == (2 * once + 3000, 2 * yearly + 1100)
