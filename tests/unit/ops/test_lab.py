"""What a lab makes of a cluster file, before anything is wired."""

import getpass
import re
import signal
import subprocess
from pathlib import Path

import pytest

from warden.core.address import Address
from warden.ops.ha.starter import starter
from warden.ops.lab.hosted import small
from warden.ops.lab.init import Init, Unit
from warden.ops.lab.lab import Health, Kept, Lab


def test_each_hosts_card_has_a_way_to_the_other_region_and_phones_are_in_the_first(tmp_path: Path) -> None:
    lab = Lab(tmp_path, Kept("t", small("geo")))
    assert lab.primary == "east"
    assert {name: [host.name for host in region.hosts] for name, region in lab.regions.items()} == {
        "east": ["east1", "east2", "east-witness"],
        "west": ["west1", "west2", "west-witness"],
    }
    assert lab.names == ["east1", "east2", "west1", "west2"]
    assert [host.name for host in lab.machines] == list(lab.hosts)
    ways = {name: [(card.address, card.wire, card.routes) for card in host.cards] for name, host in lab.hosts.items()}
    assert ways["east1"] == [("192.168.1.10/24", "lan", ("192.168.2.0/24", "192.168.3.0/24"))]
    assert ways["west-witness"] == [("192.168.2.12/24", "lan", ("192.168.1.0/24", "192.168.3.0/24"))]
    assert ways["arbiter"] == [("192.168.3.10/24", "lan", ("192.168.1.0/24", "192.168.2.0/24"))]
    assert lab.phones_address == "192.168.1.254"
    # One of each: the loss of a region leaves phones one to ask.
    assert lab.name_servers == [Address("192.168.1.10", 53), Address("192.168.2.10", 53)]


def test_the_regions_own_networks_are_on_a_wire_of_their_own(tmp_path: Path) -> None:
    text = small("geo")
    for net in (1, 2):
        wire = f"    network: {{interface: eth0, network: 192.168.{net}.0/24}}\n"
        assert wire in text
        text = text.replace(wire, f"{wire}    cluster_network: {{interface: eth1, network: 10.0.{net}.0/24}}\n")
        text = re.sub(rf"(address: 192\.168\.{net}\.(1[012]))\b", rf"\1, cluster_address: 10.0.{net}.\2", text)
    lab = Lab(tmp_path, Kept("t", text))
    assert [(card.interface, card.address, card.wire, card.routes) for card in lab.hosts["west1"].cards] == [
        ("eth0", "192.168.2.10/24", "lan", ("192.168.1.0/24",)),
        ("eth1", "10.0.2.10/24", "back", ("10.0.1.0/24", "192.168.3.0/24")),
    ]
    assert [(card.interface, card.address, card.wire, card.routes) for card in lab.hosts["arbiter"].cards] == [
        ("eth0", "192.168.3.10/24", "back", ("10.0.1.0/24", "10.0.2.0/24")),
    ]


def test_without_a_third_site_there_is_no_host_of_it(tmp_path: Path) -> None:
    lab = Lab(tmp_path, Kept("t", small("geo", automatic=False)))
    assert list(lab.hosts) == ["east1", "east2", "east-witness", "west1", "west2", "west-witness"]


def test_a_cluster_in_one_place_is_a_region_without_a_name_and_needs_no_way(tmp_path: Path) -> None:
    lab = Lab(tmp_path, Kept("t", starter("active-passive")))
    assert (list(lab.regions), lab.primary) == ([""], "")
    assert {card.routes for host in lab.hosts.values() for card in host.cards} == {()}
    assert lab.name_servers == [Address("192.168.1.10", 53), Address("192.168.1.11", 53)]


@pytest.mark.parametrize(
    ("reasons", "is_well", "sleeps"),
    [
        ([], True, False),
        (["holds no seat"], True, False),
        (["region west is not primary", "holds no seat"], True, True),
        (["database", "holds no seat"], False, False),
        (["region west is not primary", "coordinator"], False, True),
    ],
)
def test_a_node_is_well_that_waits_for_its_region_to_be_primary(
    reasons: list[str], is_well: bool, sleeps: bool
) -> None:
    health = Health(reasons)
    assert (health.is_well, health.sleeps) == (is_well, sleeps)


def test_a_signal_for_a_unit_is_for_all_that_it_has_started(tmp_path: Path) -> None:
    init = Init(tmp_path)
    unit = Unit("pbx", ["sh", "-c", "sleep 60 & echo $! >&2; wait"], getpass.getuser(), {}, [])
    with subprocess.Popen(unit.argv, stderr=subprocess.PIPE, text=True) as process:
        unit.process = process  # type: ignore[assignment]
        init.units["pbx"] = unit
        assert process.stderr is not None
        # The child is there, and holds the line open as well.
        assert int(process.stderr.readline()) != process.pid
        assert init.say(["kill", "--signal=SIGKILL", "pbx"]) == (0, "")
        assert process.stderr.read() == ""
        assert process.wait() == -signal.SIGKILL
