"""Datagrams through real sockets on loopback."""

import asyncio
import select
import socket
from typing import Any

import pytest
from tests.unit.net.conftest import UDP, Ear, Start, options

from warden.core.address import Address, Flow
from warden.core.stun import answer
from warden.net.counters import Counters, Dropped
from warden.net.limits import RateLimit
from warden.net.settings import Limits, Listener, Settings
from warden.net.sockets import Sockets
from warden.net.udp import UdpSocket
from warden.sip.message import Request, Response

HOSTS = ["127.0.0.1", "::1"]


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize("host", HOSTS)
async def test_a_request_arrives_with_its_flow_and_the_answer_goes_back_by_it(start: Start, host: str) -> None:
    phone, pbx = await start(host=host), await start(host=host)
    phone.sockets.send(phone.flow_to(pbx), options())
    await pbx.ear.until_heard(1)
    flow, request = pbx.ear.heard[0]
    assert flow == Flow(UDP, pbx.address(), phone.address())
    assert isinstance(request, Request)

    pbx.sockets.send(flow, bytes(request.respond(200)))
    await phone.ear.until_heard(1)
    back, response = phone.ear.heard[0]
    assert back == phone.flow_to(pbx)
    assert isinstance(response, Response)
    assert response.status == 200
    sent, heard = phone.counters.traffic[UDP], pbx.counters.traffic[UDP]
    assert (sent.messages_out, sent.bytes_out) == (heard.messages_in, heard.bytes_in) == (1, len(options()))


@pytest.mark.parametrize(
    ("wildcard", "host", "advertised"), [("0.0.0.0", HOSTS[0], "192.0.2.1"), ("::", "::1", "2001:db8::1")]
)
async def test_a_socket_on_a_wildcard_gives_flows_the_advertised_host(
    start: Start, wildcard: str, host: str, advertised: str
) -> None:
    phone = await start(host=host)
    ear = Ear()
    pbx = Sockets(Settings((Listener(UDP, wildcard, 0, advertised),)), ear)
    await pbx.start()
    local = pbx.listening[0][1]
    assert local.host == advertised
    phone.sockets.send(Flow(UDP, phone.address(), Address(host, local.port)), options())
    await ear.until_heard(1)
    assert ear.heard[0][0] == Flow(UDP, local, phone.address())
    pbx.send(ear.heard[0][0], options(2))
    await phone.ear.until_heard(1)
    await pbx.stop()


async def test_what_is_no_message_is_told_with_its_bytes_and_the_next_one_is_heard(start: Start) -> None:
    phone, pbx = await start(), await start()
    phone.sockets.send(phone.flow_to(pbx), b"no sip at all\r\n\r\n")
    phone.sockets.send(phone.flow_to(pbx), options(7))
    await pbx.ear.until_heard(1)
    assert [(flow, data) for flow, data, _ in pbx.ear.broken] == [
        (Flow(UDP, pbx.address(), phone.address()), b"no sip at all\r\n\r\n")
    ]
    assert pbx.counters.traffic[UDP].malformed == 1


async def test_what_comes_while_more_is_waited_for_is_heard_in_its_order_and_so_is_what_comes_after_a_pause(
    start: Start,
) -> None:
    phone, pbx = await start(), await start()
    flow = phone.flow_to(pbx)
    heard = 0
    for burst in (1, 3, 200, 1):
        # 200 is more than is read in one turn of the loop.
        for _ in range(burst):
            heard += 1
            phone.sockets.send(flow, options(heard))
        await pbx.ear.until_heard(heard)
    assert [message.cseq.number for _, message in pbx.ear.heard] == list(range(1, heard + 1))


async def test_keep_alives_and_stun_are_counted_and_told_to_nobody(start: Start) -> None:
    phone, pbx = await start(), await start()
    stun_indication = b"\x00\x11\x00\x00\x21\x12\xa4\x42" + bytes(12)
    for data in (b"\r\n\r\n", b"\r\n", b"\0", b"", b"jaK", b"\0\0\0\0", b"\r\n\0\0\r\n", stun_indication):
        phone.sockets.send(phone.flow_to(pbx), data)
    phone.sockets.send(phone.flow_to(pbx), b"\r\n\r\n" + options(1))
    await pbx.ear.until_heard(1)
    assert pbx.ear.call_ids == ["1"]
    assert not pbx.ear.broken
    assert pbx.counters.traffic[UDP].keep_alives == 7
    assert pbx.counters.dropped[Dropped.STUN] == 1


@pytest.mark.parametrize("host", HOSTS)
async def test_a_phone_that_asks_by_stun_is_told_where_it_is_seen(start: Start, host: str) -> None:
    pbx = await start(host=host)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as phone:
        phone.setblocking(False)
        phone.bind((host, 0))
        request = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(range(12))
        phone.sendto(request, pbx.address())
        async with asyncio.timeout(10):
            said = await asyncio.get_running_loop().sock_recv(phone, 1500)
        assert said == answer(request, Address(*phone.getsockname()[:2]))
    assert pbx.counters.traffic[UDP].keep_alives == 1
    assert not pbx.ear.heard
    assert not pbx.ear.broken


async def test_of_a_burst_of_a_thousand_datagrams_none_is_lost_that_the_kernel_delivered(start: Start) -> None:
    pbx = await start()
    last = b"no message, but the last one"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
        phone.bind(("127.0.0.1", 0))
        # The loop does not turn meanwhile: all of them wait in the kernel.
        for number in range(1_000):
            phone.sendto(options(number), pbx.address())
        dropped = pbx.sockets.kernel_drops
        await pbx.ear.until_heard(1_000 - dropped)
        phone.sendto(last, pbx.address())
        await pbx.ear.until(lambda: pbx.ear.broken)
    assert pbx.ear.call_ids == [str(number) for number in range(1_000 - dropped)]


async def test_datagrams_beyond_the_kernel_buffer_are_counted_as_the_kernel_counts_them(start: Start) -> None:
    pbx = await start()
    big = options(1, b"x" * 60_000)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
        for _ in range(1_000):
            phone.sendto(big, pbx.address())
    dropped = pbx.sockets.kernel_drops
    assert dropped > 0
    await pbx.ear.until_heard(1_000 - dropped)


async def test_an_icmp_error_loses_that_flow_alone_and_the_socket_hears_on(start: Start) -> None:
    """libuv leaves a socket alone for ever at its first POLLERR: one dead phone made the PBX deaf."""
    phone, pbx = await start(), await start()
    dead = Flow(UDP, pbx.address(), Address("127.0.0.1", free_port()))
    for round_ in range(3):
        pbx.sockets.send(dead, options(1))
        await pbx.ear.until_lost(round_ + 1)
        phone.sockets.send(phone.flow_to(pbx), options(round_))
        await pbx.ear.until_heard(round_ + 1)
    assert pbx.ear.losses == [(dead, "icmp: connection refused")] * 3
    assert pbx.counters.traffic[UDP].icmp_errors == 3


async def test_the_error_of_a_dead_phone_does_not_hit_the_message_to_the_next_phone(start: Start) -> None:
    phone, pbx = await start(), await start()
    dead = Flow(UDP, pbx.address(), Address("127.0.0.1", free_port()))
    # In one turn of the loop: the second send finds the error of the first one pending in the kernel.
    pbx.sockets.send(dead, options(1))
    pbx.sockets.send(pbx.flow_to(phone), options(2))
    await phone.ear.until_heard(1)
    await pbx.ear.until_lost()
    assert [flow for flow, _ in pbx.ear.losses] == [dead]


async def test_an_icmp_error_over_ipv6_loses_its_flow(start: Start) -> None:
    pbx, phone = await start(host="::1"), await start(host="::1")
    dead = pbx.flow_to(phone)
    await phone.sockets.stop()
    pbx.sockets.send(dead, options(1))
    await pbx.ear.until_lost()
    assert pbx.ear.losses == [(dead, "icmp: connection refused")]


@pytest.mark.parametrize(
    ("remote", "data", "why"),
    [
        (Address("phone.example.com", 5060), options(), "phone.example.com is not an ip address"),
        (Address("127.0.0.1", 9), options(1, bytes(70_000)), "Message too long"),
        (Address("::1", 5060), options(), "Address family for hostname not supported"),
    ],
)
async def test_what_cannot_be_sent_is_lost_after_send_has_returned(
    start: Start, remote: Address, data: bytes, why: str
) -> None:
    pbx = await start()
    flow = Flow(UDP, pbx.address(), remote)
    pbx.sockets.send(flow, data)
    assert not pbx.ear.losses
    await pbx.ear.until_lost()
    assert pbx.ear.losses == [(flow, why)]


async def test_a_flow_of_a_seat_that_moved_goes_out_by_another_socket_of_its_family(start: Start) -> None:
    phone, pbx = await start(), await start()
    pbx.sockets.send(Flow(UDP, Address("192.0.2.77", 5060), phone.address()), options())
    await phone.ear.until_heard(1)


async def test_a_flood_from_one_address_is_dropped_and_another_address_is_served(start: Start) -> None:
    limits = Limits(messages_per_address_per_s=0.001, messages_per_address_burst=10)
    pbx, flooder, phone = await start(limits=limits), await start(), await start(host="127.0.0.2")
    for number in range(15):
        flooder.sockets.send(flooder.flow_to(pbx), options(number))
    phone.sockets.send(phone.flow_to(pbx), options(99))
    await pbx.ear.until(lambda: "99" in pbx.ear.call_ids)
    assert pbx.ear.call_ids == [*(str(n) for n in range(10)), "99"]
    assert pbx.counters.dropped[Dropped.MESSAGE_RATE] == 5


class FullSocket(socket.socket):
    """A socket whose kernel has no room until it is told otherwise; loopback never runs full by itself."""

    full = True

    def sendto(self, *args: Any) -> int:
        if self.full:
            raise BlockingIOError
        return super().sendto(*args)


async def test_datagrams_wait_in_order_for_room_in_the_kernel_up_to_a_bound(start: Start) -> None:
    phone = await start()
    sock = FullSocket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    ear, counters, limits = Ear(), Counters(), Limits(unsent_datagrams_max=3)
    udp = UdpSocket(
        sock,
        Address(*sock.getsockname()),
        receiver=ear,
        counters=counters,
        limits=limits,
        rate=RateLimit(1_000, 1_000),
    )
    udp.start()
    for number in range(5):
        udp.send(phone.address(), options(number))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    sock.full = False
    await phone.ear.until_heard(3)
    udp.send(phone.address(), options(5))
    await phone.ear.until_heard(4)
    assert phone.ear.call_ids == ["0", "1", "2", "5"]
    assert counters.dropped[Dropped.UNSENT_DATAGRAMS] == 2
    assert counters.traffic[UDP].messages_out == 4
    udp.close()


async def test_an_idle_socket_is_not_woken_again_after_it_had_to_wait_for_room() -> None:
    sock = FullSocket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    udp = UdpSocket(
        sock,
        Address(*sock.getsockname()),
        receiver=Ear(),
        counters=Counters(),
        limits=Limits(),
        rate=RateLimit(1_000, 1_000),
    )
    udp.start()
    sock.full = False
    with select.epoll() as watch, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
        phone.bind(("127.0.0.1", 0))
        sock.full = True
        udp.send(Address(*phone.getsockname()), options())
        watch.register(udp.descriptor, select.EPOLLIN)
        assert watch.poll(0)
        sock.full = False
        phone.setblocking(False)
        async with asyncio.timeout(10):
            while watch.poll(0):
                await asyncio.sleep(0)
        assert phone.recv(65_535) == options()
    udp.close()
