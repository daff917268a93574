"""Which silence is told of. The sockets are real, the time is not."""

import select
import socket
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from warden.core.address import Address
from warden.media.clips import PROMPTS
from warden.media.protocol import Done, FellSilent, Put, Session, Side, Stream
from warden.media.sessions import Sessions
from warden.rtp import packet, rtcp
from warden.rtp.packet import Packet

HOST = "127.78.0.1"
ANN, BOB = ("127.78.0.2", 4000), ("127.78.0.3", 4000)
LIMIT_S = 60.0


class Talk:
    """One session, and what it told."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.sessions = Sessions(self.epoll, PROMPTS)
        self.a, self.b = _free_pairs()
        a, b = (Side(number, Address(*at), None, (at[0],)) for number, at in ((self.a, ANN), (self.b, BOB)))
        self.session = Session("call", HOST, (Stream(a, b),), silence_s=LIMIT_S)
        self.put(0.0, self.session)

    def put(self, now: float, session: Session) -> None:
        assert self.sessions.carry_out(Put(session), now, 1) == Done()

    def hears(self, now: float, number: int, source: tuple[str, int], data: bytes) -> None:
        port = next(port for port in self.sessions.by_fd.values() if port.number == number)
        if source == port.source or port.admits(now, data, source):
            port.handle(now, data, port.update(now, data))

    def both(self, now: float) -> None:
        self.hears(now, self.a, ANN, rtp(int(now)))
        self.hears(now, self.b, BOB, rtp(int(now)))

    def silent(self, now: float) -> list[int]:
        """The ports that are told of."""
        self.sessions.look_at_silence(now)
        told = [event.port for event in self.sessions.events if isinstance(event, FellSilent)]
        self.sessions.events.clear()
        return told

    def close(self) -> None:
        self.sessions.close()
        self.epoll.close()


def _free_pairs() -> tuple[int, int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((HOST, 0))
        first = free.getsockname()[1] & ~1
    return first - 4, first


def rtp(number: int) -> bytes:
    return packet.build(Packet(0, number, 160 * number, 1, b"x" * 160))


@pytest.fixture
def talk() -> Iterator[Talk]:
    made = Talk()
    yield made
    made.close()


def test_a_side_that_has_spoken_and_falls_silent_is_told_of_and_again_for_as_long_as_it_is(talk: Talk) -> None:
    for second in range(50):
        talk.both(second)
        assert talk.silent(second) == []
    for second in range(50, 300):
        talk.hears(second, talk.a, ANN, rtp(second))
        assert talk.silent(second) == ([talk.b] if second in (109, 169, 229, 289) else [])


def test_both_sides_are_told_of_where_both_are_silent(talk: Talk) -> None:
    talk.both(1.0)
    assert [sorted(talk.silent(second)) for second in (60.0, 61.0)] == [[], [talk.a, talk.b]]


def test_a_side_that_has_never_said_anything_is_not_missed(talk: Talk) -> None:
    for second in range(300):
        talk.hears(second, talk.a, ANN, rtp(second))
        assert talk.silent(second) == []


def test_rtcp_is_a_sign_of_life(talk: Talk) -> None:
    talk.both(0.0)
    report = rtcp.build((rtcp.ReceiverReport(1, ()),))
    for second in range(5, 300, 5):
        talk.hears(second, talk.a, ANN, rtp(second))
        talk.hears(second, talk.b + 1, (BOB[0], BOB[1] + 1), report)
        assert talk.silent(second) == []


def test_silence_is_counted_anew_when_it_begins_to_mean_something(talk: Talk) -> None:
    talk.both(0.0)
    talk.put(10.0, replace(talk.session, silence_s=0.0))
    assert talk.silent(1000.0) == []
    talk.put(1000.0, talk.session)
    assert talk.silent(1059.0) == []
    assert sorted(talk.silent(1060.0)) == [talk.a, talk.b]
