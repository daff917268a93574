"""A seat's address by the operator's program, which notes what it was asked for."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from warden.cluster.decide import Seat
from warden.cluster.seats import Seats
from warden.config.tree import HighAvailability
from warden.core.errors import WardenError
from warden.node.addresses import Hook, Netlink, PlacedSeats, addresses_of

SEAT = Seat("s1", "192.0.2.10", ("n1", "n2"))


def program(folder: Path, text: str) -> Path:
    path = folder / "hook"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


async def test_the_hook_is_told_what_to_do_with_which_seat_and_address(tmp_path: Path) -> None:
    hook = Hook(program(tmp_path, f'echo "$@" >>{tmp_path}/said'), 10.0)
    await hook.add(SEAT)
    hook.keep(SEAT, 1.0)
    hook.announce(SEAT)
    await hook.remove(SEAT)
    assert (tmp_path / "said").read_text() == "add s1 192.0.2.10\nremove s1 192.0.2.10\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo quota exceeded >&2; exit 3", "add s1 192.0.2.10: ended with status 3: quota exceeded"),
        ("exec sleep 1000", "add s1 192.0.2.10: did not end within 0.2 s and was killed"),
    ],
)
async def test_a_hook_that_fails_is_told_in_one_sentence(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(WardenError, match=f"^address_hook: {tmp_path}/hook {why}$"):
        await Hook(program(tmp_path, text), 0.2).add(SEAT)
    with pytest.raises(WardenError, match=r"address_hook: .*nothing add s1 192\.0\.2\.10: no such file"):
        await Hook(tmp_path / "nothing", 0.2).add(SEAT)


async def test_a_hook_does_not_outlive_who_waits_for_it(tmp_path: Path) -> None:
    hook = Hook(program(tmp_path, f"echo $$ >{tmp_path}/pid; exec sleep 1000"), 60.0)
    adding = asyncio.create_task(hook.add(SEAT))
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        await asyncio.sleep(0.01)  # A file tells nobody that it is there.
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_the_configuration_says_how_addresses_move(tmp_path: Path) -> None:
    assert addresses_of(HighAvailability()) is None
    assert isinstance(addresses_of(HighAvailability(manage_address="hook", address_hook=tmp_path)), Hook)
    assert isinstance(addresses_of(HighAvailability(manage_address="netlink", address_interface="lo")), Netlink)
    with pytest.raises(WardenError, match="there is no network interface nowhere"):
        addresses_of(HighAvailability(manage_address="netlink", address_interface="nowhere"))


def test_only_audio_that_another_node_could_carry_on_ends_with_the_lease() -> None:
    def never(*_: object) -> Any:
        raise AssertionError("no seat is taken up here")

    leases: list[tuple[str, float]] = []
    own = Seat("own", "192.0.2.11", ("n1",))
    seats = PlacedSeats(
        Seats(never, never, never), (SEAT, own), None, lambda seat, until: leases.append((seat, until)), lambda: 0.0
    )
    seats.extend("s1", 5.0)
    seats.extend("own", 5.0)
    assert leases == [("s1", 5.0)]
