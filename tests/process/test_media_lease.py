"""The audio of a seat ends with the seat's lease, whatever became of the process that ordered it."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from warden.media.protocol import Done, Lease, List, Listed, Put, Refused, Session, Stream

from media_lab import HOST, PATIENCE_S, Lab, running_lab


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with running_lab() as lab:
        yield lab


async def lease_ended(lab: Lab) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while "lease ended" not in (lab.folder / "log").read_text():
            await asyncio.sleep(0.01)  # A file tells nobody that it has grown.


async def test_audio_of_a_seat_whose_holder_says_nothing_more_ends_and_its_ports_are_free(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone()
    call = await lab.call(alice, bob)
    a, b = lab.ports_of(call)
    assert await lab.order(Lease("s1", time.monotonic() + 0.3)) == Done()
    assert await lab.order(Put(call, group="s1")) == Done()
    carol, dave = lab.phone(), lab.phone()
    c, d = lab.ports(2)
    other = replace(call, id="other", streams=(replace(call.streams[0], a=lab.side(c, carol), b=lab.side(d, dave)),))
    assert await lab.order(Put(other, group="s2")) == Done()

    await lease_ended(lab)

    assert await lab.order(List()) == Listed(("other",))
    for port in (a, a + 1, b, b + 1):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heir:
            heir.bind((HOST, port))
    assert carol.talk(c) == await dave.hear()
    # What was on its way from a holder that slept must not bring the audio back; a lease does.
    assert await lab.order(Put(call, group="s1")) == Refused("the lease of s1 has ended")
    assert await lab.order(Lease("s1", time.monotonic() + 60)) == Done()
    assert await lab.order(Put(call, group="s1")) == Done()
    assert alice.talk(a) == await bob.hear()


async def test_a_lease_that_is_renewed_goes_on_and_one_that_is_taken_back_ends_at_once(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone()
    call = await lab.call(alice, bob)
    a, _ = lab.ports_of(call)
    await lab.order(Put(call, group="s1"))
    await lab.order(Lease("s1", time.monotonic() + 0.2))
    await lab.order(Lease("s1", time.monotonic() + 60))
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        assert alice.talk(a) == await bob.hear()
    assert await lab.order(List()) == Listed(("call",))
    await lab.order(Lease("s1", time.monotonic()))
    assert await lab.order(List()) == Listed(())


async def test_ports_may_be_opened_ahead_of_the_seat_s_address_where_that_moves_by_itself(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone()
    c, d = lab.ports(2)
    elsewhere = Session("elsewhere", "192.0.2.77", (Stream(lab.side(c, alice), lab.side(d, bob)),))
    answer = await lab.order(Put(elsewhere))
    assert isinstance(answer, Refused)
    assert "192.0.2.77" in answer.why
    assert await lab.order(Put(elsewhere, ahead=True)) == Done()
