"""A machine that has a seat's address as well, on a real wire: the node that holds the seat calls its address back."""

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from warden.net import netlink
from warden.net.arp import Ear
from warden.node.defence import SURE_S, Defence
from warden.ops.netns import entered

pytestmark = pytest.mark.timeout(60)

SEAT = "10.77.0.101"
LONGER_S = 3 * SURE_S


@pytest.fixture
def wire() -> Iterator[tuple[str, str]]:
    """Two machines on one wire, of which the first and the second have the address."""
    here, there = (f"wdef{os.getpid()}{which}" for which in "ab")
    try:
        for line in (
            f"netns add {here}",
            f"netns add {there}",
            f"-n {here} link add eth0 type veth peer name eth0 netns {there}",
            f"-n {here} addr add {SEAT}/24 dev eth0",
            f"-n {there} addr add {SEAT}/24 dev eth0",
            f"-n {here} link set eth0 up",
            f"-n {there} link set eth0 up",
        ):
            subprocess.run(["ip", *line.split()], check=True)
        yield here, there
    finally:
        for name in (here, there):
            subprocess.run(["ip", "netns", "del", name], check=True)


def heard_back(wire: tuple[str, str], *, sure: bool) -> float | None:
    """Seconds until the second machine, which announces the address, hears that the first has it; None where not."""
    here, there = wire

    async def is_sure(seat: str) -> bool:
        assert seat == "s1"
        return sure

    async def work() -> float | None:
        defence = Defence({"s1": SEAT}, lambda seat: seat == "s1", is_sure, time.monotonic)
        running = asyncio.create_task(defence.run())
        try:
            # Its ear is open once the task has begun.
            await asyncio.sleep(0)
            with entered(there):
                ear = Ear()
                netlink.announce("eth0", SEAT)
            began = time.monotonic()
            came = asyncio.Event()
            asyncio.get_running_loop().add_reader(ear.fileno(), came.set)
            try:
                async with asyncio.timeout(LONGER_S):
                    await came.wait()
            except TimeoutError:
                return None
            else:
                heard = ear.hear()
                assert heard is not None
                assert heard.address == SEAT
                return time.monotonic() - began
            finally:
                asyncio.get_running_loop().remove_reader(ear.fileno())
                ear.close()
                assert f"says that it has {SEAT} too" in defence.warnings[0]
        finally:
            running.cancel()
            await asyncio.wait((running,))

    with entered(here):
        return asyncio.run(work())


def test_the_holder_calls_its_address_back_when_it_has_made_sure(wire: tuple[str, str]) -> None:
    took_s = heard_back(wire, sure=True)
    assert took_s is not None
    assert took_s >= SURE_S


def test_a_node_that_cannot_be_sure_leaves_the_address_where_phones_believe_it_is(wire: tuple[str, str]) -> None:
    assert heard_back(wire, sure=False) is None
