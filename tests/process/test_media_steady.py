"""A stream that comes steadily: the kernel keeps the port to the peer, and lets go of it when the peer pauses."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from warden.media.protocol import Done, Latched, Put, Session, Share, Stream

from media_lab import HOST, PATIENCE_S, Lab, Phone, running_lab


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with running_lab() as lab:
        yield lab


def is_kept(port: int) -> bool:
    """Whether the kernel passes only one peer's packets to this port."""
    (host,) = struct.unpack("=I", socket.inet_aton(HOST))
    rows = (line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:])
    return [row[2] != "00000000:0000" for row in rows if row[1] == f"{host:08X}:{port:04X}"] == [True]


async def talk_until_kept(lab: Lab, alice: Phone, bob: Phone) -> tuple[int, int]:
    """Both phones talk, every packet is heard, and each of their ports is kept to its phone; the ports."""
    a, b = lab.ports_of(await lab.call(alice, bob))
    async with asyncio.timeout(PATIENCE_S):
        while not (is_kept(a) and is_kept(b)):
            await talk(alice, a, bob, b)
    # Some more, until what is read and written without addresses has begun as well.
    for _ in range(70):
        await talk(alice, a, bob, b)
    return a, b


async def talk(alice: Phone, a: int, bob: Phone, b: int) -> None:
    assert (alice.talk(a), bob.talk(b)) == (await bob.hear(), await alice.hear())
    await asyncio.sleep(0.02)  # The step of the packets.


async def test_a_steady_stream_is_heard_as_ever_and_nobody_else_on_its_port(lab: Lab) -> None:
    alice, bob, mallory = lab.phone(), lab.phone(ssrc=2), lab.phone("127.0.0.3", ssrc=3)
    a, b = await talk_until_kept(lab, alice, bob)
    for _ in range(20):
        mallory.talk(a, 3)
        await talk(alice, a, bob, b)
    stats = (await lab.drop("call")).stats
    assert [(side.lost, side.sent) for side in stats] == [(0, stats[1].packets), (0, stats[0].packets)]
    assert stats[0].remote == alice.address


async def test_a_phone_that_moves_in_the_middle_of_a_steady_stream_is_followed(lab: Lab) -> None:
    alice, moved, bob = lab.phone(), lab.phone(), lab.phone(ssrc=2)
    a, b = await talk_until_kept(lab, alice, bob)
    while bob.hears_nothing():
        moved.talk(a)
        bob.talk(b)
        await asyncio.sleep(0.02)  # The old port is silent for as long as it takes.
    assert await lab.event() == Latched("call", a, moved.address)
    (said,) = bob.talk(b)
    while await moved.hear() != [said]:
        pass  # What bob said meanwhile.


async def test_a_new_generation_lets_go_of_the_peer_at_once(lab: Lab) -> None:
    alice, bob, carol = lab.phone(), lab.phone(ssrc=2), lab.phone("127.0.0.3", ssrc=3)
    a, b = await talk_until_kept(lab, alice, bob)
    sides = lab.side(a, carol, generation=1), lab.side(b, bob)
    await lab.put(Session("call", HOST, (Stream(*sides),)))
    assert not is_kept(a)
    said = carol.talk(a)
    assert await bob.hear() == said
    answered = bob.talk(b)
    assert await carol.hear() == answered


async def test_another_process_may_have_the_port_of_a_steady_stream(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    a, b = await talk_until_kept(lab, alice, bob)
    assert await lab.order(Share(("call",))) == Done()
    assert not is_kept(a)
    async with running_lab() as heir:
        assert await heir.order(Put(Session("call", HOST, (Stream(lab.side(a, alice), lab.side(b, bob)),)))) == Done()
        said = alice.talk(a, 3)
        assert sorted(await bob.hear(3)) == sorted(said)
        await lab.drop("call")
        assert alice.talk(a, 3) == await bob.hear(3)


async def test_a_port_at_every_address_hears_its_peer_at_whichever_it_speaks_to(lab: Lab) -> None:
    # A socket that is connected gets one of our addresses as its own: not the one that the phones were told.
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    a, b = lab.ports(2)
    await lab.put(Session("call", "0.0.0.0", (Stream(lab.side(a, alice), lab.side(b, bob)),)))
    for _ in range(150):
        said = [alice.send(a, alice.packet(), "127.77.0.9"), bob.send(b, bob.packet(), "127.77.0.9")]
        assert said == await bob.hear() + await alice.hear()
        await asyncio.sleep(0.02)  # The step of the packets.
