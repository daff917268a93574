"""Who is taken for the peer when nobody has spoken for a while. The sockets are real, the time is not."""

import socket
from collections.abc import Iterator

import pytest

from warden.core.address import Address
from warden.media.port import Port, Source
from warden.media.protocol import Event, Latched, Side
from warden.rtp import packet
from warden.rtp.packet import Packet

HOST = "127.78.0.1"
PHONE: Source = ("127.78.0.2", 4000)
MALLORY: Source = ("127.78.0.66", 6666)


class Ear:
    """A port, and what it told."""

    def __init__(self, hosts: tuple[str, ...], learned: Address | None = None) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind((HOST, 0))
            number = free.getsockname()[1]
        self.side = Side(number, Address(*PHONE), hosts=hosts, learned=learned)
        self.events: list[Event] = []
        self.port = Port("call", HOST, self.side, self.events, rtcp=False)
        self.number = 0

    def hears(self, now: float, source: Source, ssrc: int = 1) -> bool:
        """True where the packet was taken."""
        self.number += 1
        data = packet.build(Packet(0, self.number, 160 * self.number, ssrc, b"x" * 160))
        if source != self.port.source and not self.port.admits(now, data, source):
            return False
        self.port.handle(now, data, self.port.update(now, data))
        return True


@pytest.fixture
def ear() -> Iterator[Ear]:
    made = Ear((PHONE[0],))
    yield made
    made.port.close()


def test_a_stranger_does_not_take_the_place_of_a_phone_that_is_on_hold(ear: Ear) -> None:
    assert ear.hears(0.0, PHONE)
    assert not any(ear.hears(60.0 + 0.02 * n, MALLORY) for n in range(100))
    assert ear.port.to == PHONE
    assert ear.hears(120.0, PHONE)
    assert ear.events == []


def test_a_new_generation_forgets_also_that_the_phone_was_trusted(ear: Ear) -> None:
    assert ear.hears(0.0, PHONE)
    ear.port.describe(Side(ear.side.port, ear.side.remote, hosts=ear.side.hosts, generation=1))
    assert [ear.hears(10.0, MALLORY) for _ in range(10)] == [False] * 9 + [True]
    assert ear.events == [Latched("call", ear.side.port, Address(*MALLORY))]


def test_a_stranger_that_has_fallen_silent_may_be_followed_by_another_and_by_the_phone_at_once(ear: Ear) -> None:
    first: Source = ("127.78.0.67", 7777)
    assert [ear.hears(0.0, first) for _ in range(10)] == [False] * 9 + [True]
    assert not any(ear.hears(0.5, MALLORY) for _ in range(20))
    assert any(ear.hears(3.0, MALLORY) for _ in range(10))
    assert ear.hears(3.0, PHONE)
    assert not any(ear.hears(60.0, MALLORY) for _ in range(20))


def test_a_phone_whose_nat_gives_it_another_port_is_followed_when_the_old_one_has_fallen_silent(ear: Ear) -> None:
    moved: Source = (PHONE[0], 5555)
    assert ear.hears(0.0, PHONE)
    assert [ear.hears(0.02 * n, moved) for n in range(1, 8)] == [False] * 4 + [True] * 3
    assert ear.port.to == moved
    assert ear.events == [Latched("call", ear.side.port, Address(*moved))]


def test_a_burst_from_another_port_takes_nothing_from_a_phone_that_speaks(ear: Ear) -> None:
    other: Source = (PHONE[0], 5555)
    for n in range(20):
        assert ear.hears(0.02 * n, PHONE)
        assert not any(ear.hears(0.02 * n + 0.01, other) for _ in range(20))


def test_another_source_at_the_host_of_a_phone_waits_until_that_has_been_silent_for_a_second(ear: Ear) -> None:
    other: Source = (PHONE[0], 5555)
    assert ear.hears(0.0, PHONE)
    assert not any(ear.hears(0.02 * n, other, ssrc=2) for n in range(1, 50))
    assert ear.hears(1.0, other, ssrc=2)


@pytest.mark.parametrize("learned", [False, True])
def test_a_phone_whose_audio_comes_from_an_address_that_nobody_named_is_followed_to_another_port(learned: bool) -> None:
    there, moved = MALLORY, (MALLORY[0], 5555)
    ear = Ear((PHONE[0],), learned=Address(*there) if learned else None)
    try:
        assert any(ear.hears(0.0, there) for _ in range(10))
        assert not any(ear.hears(0.05, moved) for _ in range(20))
        assert ear.hears(0.1, moved)
        assert not any(ear.hears(0.15, there) for _ in range(20))
        assert not any(ear.hears(0.5, (MALLORY[0], 7777), ssrc=2) for _ in range(20))
    finally:
        ear.port.close()
