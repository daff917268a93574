"""A call between IPv6 and IPv4: each side's port is bound on an address of its own kind."""

import select
import socket
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from warden.core.address import Address
from warden.media.clips import PROMPTS
from warden.media.protocol import Done, Put, Refused, Session, Side, Stream
from warden.media.sessions import Sessions
from warden.rtp import packet
from warden.rtp.packet import Packet

V4, V6 = "127.0.0.1", "::1"


@pytest.fixture
def sessions() -> Iterator[Sessions]:
    with select.epoll() as epoll:
        made = Sessions(epoll, PROMPTS)
        yield made
        made.close()


@pytest.fixture
def phones() -> Iterator[dict[str, socket.socket]]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
    ):
        for phone, host in ((four, V4), (six, V6)):
            phone.bind((host, 0))
            phone.settimeout(10)
        yield {V4: four, V6: six}


def side(host: str, peer: socket.socket, ours: str = "") -> Side:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((host, 0))
        number = free.getsockname()[1] & ~1
    at = Address(*peer.getsockname()[:2])
    return Side(number, at, hosts=(at.host,), host=ours)


def pump(sessions: Sessions, port: int) -> None:
    """What has come to a port of ours goes where it should."""
    mine = next(p for p in sessions.by_fd.values() if p.number == port)
    data, source = mine.recvfrom(2000)
    assert mine.admits(0.0, data, source)
    mine.handle(0.0, data, mine.update(0.0, data))


def test_what_comes_by_one_version_of_ip_goes_on_by_the_other(
    sessions: Sessions, phones: dict[str, socket.socket]
) -> None:
    a, b = side(V4, phones[V4]), side(V6, phones[V6], V6)
    assert sessions.carry_out(Put(Session("call", V4, (Stream(a, b),))), 0.0, 1) == Done()
    for here, there, ours, host in ((phones[V4], phones[V6], a, V4), (phones[V6], phones[V4], b, V6)):
        said = packet.build(Packet(0, 1, 160, 7, host.encode()))
        here.sendto(said, (host, ours.port))
        pump(sessions, ours.port)
        assert there.recv(2000) == said


def test_a_side_that_turns_out_to_speak_the_other_version_gets_the_same_port_there(
    sessions: Sessions, phones: dict[str, socket.socket]
) -> None:
    a, b = side(V4, phones[V4]), side(V6, phones[V6], V6)
    before = replace(b, host="", remote=None, hosts=())
    assert sessions.carry_out(Put(Session("call", V4, (Stream(a, before),))), 0.0, 1) == Done()
    assert sessions.carry_out(Put(Session("call", V4, (Stream(a, b),))), 0.0, 1) == Done()
    assert len(sessions.by_fd) == 4
    bound = {p.number: p.sock.family for p in sessions.by_fd.values()}
    assert bound == {n + rtcp: f for n, f in ((a.port, socket.AF_INET), (b.port, socket.AF_INET6)) for rtcp in (0, 1)}


def test_a_peer_of_the_other_version_is_refused_where_no_address_of_its_kind_is_given(
    sessions: Sessions, phones: dict[str, socket.socket]
) -> None:
    a = side(V4, phones[V6])
    answer = sessions.carry_out(Put(Session("call", V4, (Stream(a),))), 0.0, 1)
    assert isinstance(answer, Refused)
    assert "IPv6" in answer.why
