"""Phones behind a load balancer: who they are is said in front of their connection (PROXY protocol, version 2)."""

import asyncio
import socket
import ssl
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.net.conftest import TCP, TLS, Authority, Machine, Start, options, turns_until

from warden.core.address import Address, Transport
from warden.core.errors import MalformedMessage
from warden.net.counters import Dropped
from warden.net.proxied import FIXED, SIGNATURE, is_over_tls, length_of_rest, source_of
from warden.net.settings import Limits, Tls

BALANCER = "127.0.0.9"


def header(host: str = "192.0.2.7", port: int = 40_000, *, command: int = 1, more: bytes = b"") -> bytes:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    to = "2001:db8::1" if ":" in host else "192.0.2.1"
    rest = socket.inet_pton(family, host) + socket.inet_pton(family, to) + struct.pack("!HH", port, 5060) + more
    kind = 0x21 if ":" in host else 0x11
    return SIGNATURE + bytes((0x20 | command, kind)) + struct.pack("!H", len(rest)) + rest


async def dial(pbx: Machine, transport: Transport = TCP, *, source: str = BALANCER) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind((source, 0))
    await asyncio.get_running_loop().sock_connect(sock, pbx.address(transport))
    return sock


async def closed(sock: socket.socket) -> bool:
    async with asyncio.timeout(10):
        try:
            return await asyncio.get_running_loop().sock_recv(sock, 100) == b""
        except ConnectionResetError:
            return True
        finally:
            sock.close()


@pytest.mark.parametrize("peer", [Address("192.0.2.7", 40_000), Address("2001:db8::7", 1)])
def test_a_header_says_who_is_behind_the_balancer(peer: Address) -> None:
    data = header(*peer, more=b"\x04\x00\x03abc")
    assert length_of_rest(data[:FIXED]) == len(data) - FIXED
    assert source_of(data[:FIXED], data[FIXED:]) == peer
    checked = header(*peer, command=0)
    assert source_of(checked[:FIXED], checked[FIXED:]) is None


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda tail: SIGNATURE + tail))
def test_whatever_comes_instead_is_malformed_and_nothing_worse(data: bytes) -> None:
    with suppress(MalformedMessage):
        assert 0 <= length_of_rest(data[:FIXED]) <= 536
        found = source_of(data[:FIXED], data[FIXED:])
        assert found is None or found.port
        assert found is None or is_over_tls(data[:FIXED], data[FIXED:]) in (True, False)


@given(st.binary(max_size=60))
def test_whatever_stands_behind_the_addresses_says_of_tls_yes_or_no_or_is_malformed(more: bytes) -> None:
    data = header(more=more)
    with suppress(MalformedMessage):
        assert is_over_tls(data[:FIXED], data[FIXED:]) in (True, False)


async def test_a_phone_behind_a_balancer_is_known_by_its_own_address_and_answered_over_its_connection(
    start: Start,
) -> None:
    pbx = await start(TCP, balancers=frozenset({BALANCER}))
    sock = await dial(pbx)
    loop = asyncio.get_running_loop()
    # In pieces, and with the first request in the last of them.
    whole = header() + options(1)
    for piece in (whole[:3], whole[3:20], whole[20:]):
        await loop.sock_sendall(sock, piece)
        await asyncio.sleep(0.01)
    await pbx.ear.until_heard(1)
    [(flow, _)] = pbx.ear.heard
    assert (flow.local, flow.remote) == (pbx.address(TCP), Address("192.0.2.7", 40_000))
    pbx.sockets.send(flow, options(2))
    assert (await loop.sock_recv(sock, 4096)).startswith(b"OPTIONS")
    sock.close()
    await pbx.ear.until_lost()


async def test_phones_that_come_by_themselves_say_nothing_of_the_kind(start: Start) -> None:
    pbx = await start(TCP, balancers=frozenset({BALANCER}))
    sock = await dial(pbx, source="127.0.0.1")
    await asyncio.get_running_loop().sock_sendall(sock, options(1))
    await pbx.ear.until_heard(1)
    assert pbx.ear.heard[0][0].remote.host == "127.0.0.1"
    sock.close()
    # Whoever is no balancer cannot pretend to be somebody else.
    liar = await dial(pbx, source="127.0.0.1")
    await asyncio.get_running_loop().sock_sendall(liar, header() + options(2))
    await turns_until(lambda: pbx.ear.broken)
    assert {
        flow.remote.host for flow in [broken[0] for broken in pbx.ear.broken] + [heard[0] for heard in pbx.ear.heard]
    } == {"127.0.0.1"}
    liar.close()


@pytest.mark.parametrize(
    ("what", "data", "counted"),
    [
        ("a health check, which speaks for the balancer itself", header(command=0), 0),
        ("a phone's request without a header", options(1), 1),
        ("a header of another version", header().replace(b"\x21\x11", b"\x31\x11"), 1),
        ("UDP over TCP", header().replace(b"\x21\x11", b"\x21\x12"), 1),
        ("a header that is too long", SIGNATURE + b"\x21\x11\xff\xff", 1),
    ],
)
async def test_what_is_no_phone_of_a_balancer_is_closed(start: Start, what: str, data: bytes, counted: int) -> None:
    pbx = await start(TCP, balancers=frozenset({BALANCER}))
    sock = await dial(pbx)
    await asyncio.get_running_loop().sock_sendall(sock, data)
    assert await closed(sock), what
    assert (pbx.counters.dropped[Dropped.PROXY_HEADER], pbx.ear.heard) == (counted, [])


async def test_a_balancer_that_does_not_say_who_it_is_for_is_not_waited_for(start: Start) -> None:
    pbx = await start(TCP, limits=Limits(proxy_header_s=0.1), balancers=frozenset({BALANCER}))
    sock = await dial(pbx)
    await asyncio.get_running_loop().sock_sendall(sock, header()[:20])
    assert await closed(sock)
    assert pbx.counters.dropped[Dropped.PROXY_HEADER] == 1
    # One that is still at it when everything ends keeps nobody.
    late = await dial(pbx)
    late.close()


async def test_limits_hold_for_the_phone_and_not_for_the_balancer(start: Start) -> None:
    pbx = await start(TCP, limits=Limits(connections_per_address_max=1), balancers=frozenset({BALANCER}))
    loop = asyncio.get_running_loop()
    first, same, other = [await dial(pbx) for _ in range(3)]
    await loop.sock_sendall(first, header("192.0.2.7") + options(1))
    await pbx.ear.until_heard(1)
    await loop.sock_sendall(same, header("192.0.2.7", 40_001) + options(2))
    assert await closed(same)
    await loop.sock_sendall(other, header("192.0.2.8") + options(3))
    await pbx.ear.until_heard(2)
    assert pbx.ear.call_ids == ["1", "3"]
    first.close()
    other.close()


async def test_tls_begins_behind_the_header(start: Start, authority: Authority) -> None:
    pbx = await start(TLS, tls=Tls((authority.issue("pbx.example.com"),)), balancers=frozenset({BALANCER}))
    sock = await dial(pbx, TLS)
    await asyncio.get_running_loop().sock_sendall(sock, header())
    context = ssl.create_default_context(cafile=str(authority.path))
    _, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname="pbx.example.com")
    writer.write(options(1))
    await pbx.ear.until_heard(1)
    assert pbx.ear.heard[0][0].remote == Address("192.0.2.7", 40_000)
    writer.close()
    await pbx.ear.until_lost()
