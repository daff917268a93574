"""Addresses in a network namespace of the test's own."""

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from warden.core.errors import WardenError
from warden.net import netlink
from warden.ops.netns import entered

LINK = "warden0"


@pytest.fixture
def link() -> Iterator[str]:
    """An interface in a namespace that this thread is in; needs root, as the addresses do."""
    name = f"warden-test-{os.getpid()}"
    for command in (
        f"netns add {name}",
        f"-n {name} link add {LINK} type veth peer name other",
        f"-n {name} link set {LINK} up",
        f"-n {name} link set other up",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    try:
        with entered(name):
            yield LINK
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.parametrize(("address", "prefix"), [("198.18.5.1", 24), ("198.18.5.1", 32), ("2001:db8::5", 128)])
def test_an_address_is_here_from_when_it_is_put_until_it_is_removed(link: str, address: str, prefix: int) -> None:
    assert netlink.may_change()
    assert address not in netlink.local_addresses()
    netlink.put_address(link, address, prefix)
    netlink.put_address(link, address, prefix, lifetime_s=30)
    assert address in netlink.local_addresses()
    netlink.announce(link, address)
    netlink.remove_address(link, address, prefix)
    assert address not in netlink.local_addresses()
    netlink.remove_address(link, address, prefix)


def test_the_kernel_takes_an_address_away_whose_time_is_over(link: str) -> None:
    netlink.put_address(link, "198.18.5.1", 24, lifetime_s=1)
    watch = subprocess.Popen(["ip", "-o", "monitor", "address"], stdout=subprocess.PIPE, text=True)
    try:
        assert watch.stdout is not None
        while "198.18.5.1" in netlink.local_addresses():
            assert watch.stdout.readline(), "the kernel tells of the change"
    finally:
        watch.kill()
        watch.communicate()


def test_neighbours_hear_of_an_address_by_a_gratuitous_arp(link: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as other:
        other.bind(("other", 0x0806))
        other.settimeout(10)
        netlink.put_address(link, "198.18.5.1", 24)
        netlink.announce(link, "198.18.5.1")
        heard = [other.recv(100)[14:42] for _ in range(2)]
    ours = bytes((198, 18, 5, 1))
    assert [(arp[7], arp[14:18], arp[24:28]) for arp in heard] == [(1, ours, ours), (2, ours, ours)]


def test_what_is_wrong_is_said(link: str) -> None:
    with pytest.raises(WardenError, match="there is no network interface nowhere"):
        netlink.put_address("nowhere", "198.18.5.1", 24)
    with pytest.raises(WardenError, match=r"198\.18\.5\.1/64: invalid argument"):
        netlink.put_address(link, "198.18.5.1", 64)
