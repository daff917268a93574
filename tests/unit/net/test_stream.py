"""TCP connections, in and out, through real sockets on loopback. TLS has its own file."""

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from tests.unit.net.conftest import TCP, Machine, Start, options, turns_until

from warden.core.address import Address, Flow
from warden.net.counters import Dropped
from warden.net.files import RESERVE_FILES
from warden.net.settings import Limits
from warden.sip.message import Request

UNREADABLE = b"OPTIONS sip:pbx SIP/2.0\r\nCall-ID: 1\r\nContent-Length: what\r\n\r\n"
BROKEN = b"OPTIONS sip:pbx SIP/1.0\r\nCall-ID: 1\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def dialled(
    pbx: Machine, host: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A raw connection to the machine, from an address of choice."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.bind((host, 0))
    try:
        await asyncio.get_running_loop().sock_connect(sock, pbx.address(TCP))
    except ConnectionResetError:
        sock.close()
        raise
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def is_refused(pbx: Machine, host: str = "127.0.0.1") -> None:
    """The machine lets no connection in; the kernel may say so before or after it says that there is one."""
    with suppress(ConnectionResetError):
        async with dialled(pbx, host) as (reader, _):
            assert await ended(reader) == b""


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What still comes until the other side closes."""
    out = b""
    async with asyncio.timeout(10):
        with suppress(ConnectionResetError):
            while piece := await reader.read(65_536):
                out += piece
    return out


async def kept_alive(*writers: asyncio.StreamWriter) -> None:
    """Ping on each for as long as it is open (RFC 5626 4.4.1)."""
    while True:
        for writer in writers:
            if not writer.is_closing():
                writer.write(b"\r\n\r\n")
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_messages_that_wait_for_the_connection_go_out_in_order_and_answers_come_back(
    start: Start, host: str
) -> None:
    phone, pbx = await start(TCP, host=host), await start(TCP, host=host)
    to_pbx = phone.flow_to(pbx, TCP)
    for number in range(20):
        phone.sockets.send(to_pbx, options(number))
    await pbx.ear.until_heard(20)
    assert pbx.ear.call_ids == [str(number) for number in range(20)]
    assert len({flow for flow, _ in pbx.ear.heard}) == 1

    flow, request = pbx.ear.heard[0]
    assert (flow.transport, flow.local) == (TCP, pbx.address(TCP))
    assert flow.connection
    assert isinstance(request, Request)
    pbx.sockets.send(flow, bytes(request.respond(200)))
    await phone.ear.until_heard(1)
    back, _ = phone.ear.heard[0]
    assert back.connection
    assert back._replace(connection=0) == to_pbx

    phone.sockets.send(back, options(100))
    phone.sockets.send(to_pbx, options(101))
    await pbx.ear.until_heard(22)
    assert pbx.ear.heard[21][0] == pbx.ear.heard[20][0] == flow
    assert phone.counters.traffic[TCP].connections_out == 1
    assert pbx.counters.traffic[TCP].connections_in == 1
    assert phone.counters.traffic[TCP].messages_out == pbx.counters.traffic[TCP].messages_in == 22


async def test_a_stream_that_comes_byte_by_byte_gives_the_same_messages(start: Start) -> None:
    pbx = await start(TCP)
    async with dialled(pbx) as (_, writer):
        for byte in options(1, b"a body") + options(2) + b"\r\n\r\n" + options(3):
            writer.write(bytes((byte,)))
            await writer.drain()
        await pbx.ear.until_heard(3)
    assert pbx.ear.call_ids == ["1", "2", "3"]
    assert pbx.ear.heard[0][1].body == b"a body"


async def test_a_ping_is_answered_with_a_pong(start: Start) -> None:
    pbx = await start(TCP)
    async with dialled(pbx) as (reader, writer), asyncio.timeout(10):
        writer.write(b"\r\n\r\n")
        assert await reader.readexactly(2) == b"\r\n"
    assert pbx.counters.traffic[TCP].keep_alives == 1
    assert not pbx.ear.heard


async def test_a_connection_leaves_from_the_address_of_its_seat(start: Start) -> None:
    seat, trunk = await start(TCP, host="127.0.0.5"), await start(TCP)
    seat.sockets.send(seat.flow_to(trunk, TCP), options())
    await trunk.ear.until_heard(1)
    assert trunk.ear.heard[0][0].remote.host == "127.0.0.5"


async def test_when_the_peer_closes_the_flow_is_lost_by_both_its_names(start: Start) -> None:
    phone, pbx = await start(TCP), await start(TCP)
    zero = phone.flow_to(pbx, TCP)
    phone.sockets.send(zero, options())
    await pbx.ear.until_heard(1)
    server_side = pbx.ear.heard[0][0]
    pbx.sockets.send(server_side, options(2))
    await phone.ear.until_heard(1)
    numbered = phone.ear.heard[0][0]

    pbx.sockets.close(server_side)
    await phone.ear.until_lost(2)
    await pbx.ear.until_lost()
    assert phone.ear.losses == [(numbered, "the peer closed the connection"), (zero, "the peer closed the connection")]
    assert pbx.ear.losses == [(server_side, "closed by this side")]

    never = numbered._replace(connection=4711)
    phone.sockets.send(numbered, options(3))
    phone.sockets.send(never, options(3))
    await phone.ear.until_lost(4)
    assert phone.ear.losses[2:] == [(numbered, "the connection is gone"), (never, "the connection is gone")]
    phone.sockets.send(zero, options(4))
    await pbx.ear.until(lambda: "4" in pbx.ear.call_ids)


async def test_a_flow_of_an_earlier_process_does_not_reach_the_connection_that_has_its_number_now(start: Start) -> None:
    pbx = await start(TCP)
    async with dialled(pbx) as (_, writer):
        writer.write(options())
        await pbx.ear.until_heard(1)
        now = pbx.ear.heard[0][0]
        earlier = now._replace(remote=Address("192.0.2.9", 5060))
        pbx.sockets.send(earlier, options(2))
        await pbx.ear.until_lost()
        assert pbx.ear.losses == [(earlier, "the connection is gone")]
        pbx.sockets.close(earlier)
        pbx.sockets.send(now, options(3))
    await pbx.ear.until_lost(2)
    assert pbx.ear.losses[1][0] == now


async def test_a_refused_connection_loses_the_flow_it_was_wanted_for(start: Start) -> None:
    pbx, gone = await start(TCP), await start(TCP)
    flow = pbx.flow_to(gone, TCP)
    await gone.sockets.stop()
    pbx.sockets.send(flow, options(1))
    pbx.sockets.send(flow, options(2))
    await pbx.ear.until_lost()
    assert pbx.ear.losses == [(flow, "connection refused")]
    assert pbx.counters.dropped[Dropped.CONNECT_FAILED] == 2


async def test_a_connection_that_nobody_accepts_is_given_up_and_only_so_many_messages_wait_for_it(start: Start) -> None:
    pbx = await start(TCP, limits=Limits(connect_s=0.3, waiting_messages_max=2))
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # The kernel lets one connection too many wait, then it drops SYNs.
        first.connect(listener.getsockname())
        second.setblocking(False)
        second.connect_ex(listener.getsockname())
        flow = Flow(TCP, pbx.address(TCP), Address(*listener.getsockname()))
        for number in range(3):
            pbx.sockets.send(flow, options(number))
        await pbx.ear.until_lost(2)
    assert pbx.ear.losses == [
        (flow, "too many messages wait for the connection"),
        (flow, "no connection within 0.3 s"),
    ]
    assert pbx.counters.dropped[Dropped.WAITING_MESSAGES] == 1


async def test_closing_a_flow_while_it_is_being_opened_sends_what_waits_and_closes_it(start: Start) -> None:
    phone, pbx = await start(TCP), await start(TCP)
    flow = phone.flow_to(pbx, TCP)
    phone.sockets.send(flow, options())
    phone.sockets.close(flow)
    await pbx.ear.until_lost()
    assert pbx.ear.call_ids == ["1"]
    await phone.ear.until(lambda: (flow, "closed by this side") in phone.ear.losses)


async def test_a_name_is_never_looked_up_here(start: Start) -> None:
    pbx = await start(TCP)
    flow = Flow(TCP, pbx.address(TCP), Address("trunk.example.com", 5060))
    pbx.sockets.send(flow, options())
    await pbx.ear.until_lost()
    assert pbx.ear.losses == [(flow, "trunk.example.com is not an ip address")]


async def test_a_malformed_message_whose_end_is_known_costs_that_message_alone(start: Start) -> None:
    pbx = await start(TCP)
    async with dialled(pbx) as (_, writer):
        writer.write(options(1) + BROKEN + options(2))
        await pbx.ear.until_heard(2)
    assert [data for _, data, _ in pbx.ear.broken] == [BROKEN]
    assert pbx.counters.traffic[TCP].malformed == 1


async def test_a_stream_that_cannot_be_read_on_is_closed_behind_the_messages_in_front_and_the_answer(
    start: Start,
) -> None:
    pbx = await start(TCP)
    pbx.ear.answer_to_broken = b"SIP/2.0 400 Bad Request\r\n\r\n"
    async with dialled(pbx) as (reader, writer):
        writer.write(options(1) + UNREADABLE + options(2))
        assert await ended(reader) == pbx.ear.answer_to_broken
    assert pbx.ear.call_ids == ["1"]
    assert len(pbx.ear.broken) == 1
    await pbx.ear.until_lost()
    assert pbx.ear.losses == [(pbx.ear.heard[0][0], "the peer sent what is no sip")]


async def test_a_peer_that_sends_nothing_but_broken_messages_is_closed(start: Start) -> None:
    pbx = await start(TCP)
    async with dialled(pbx) as (reader, writer):
        writer.write(BROKEN * 200)
        await ended(reader)
    assert len(pbx.ear.broken) > 100


async def test_a_peer_that_does_not_read_is_cut_off_at_the_bound(start: Start) -> None:
    pbx = await start(TCP, limits=Limits(unsent_bytes_max=100_000))
    async with dialled(pbx) as (_, writer):
        writer.write(options())
        await pbx.ear.until_heard(1)
        flow = pbx.ear.heard[0][0]
        # The reader at the other side is not asked, so its buffers and the kernel's fill up.
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            while not pbx.ear.losses:
                pbx.sockets.send(flow, options(1, bytes(50_000)))
                await asyncio.sleep(0)
    assert pbx.ear.losses[0] == (flow, "the peer does not read what it is sent")
    assert pbx.counters.dropped[Dropped.SLOW_READER] == 1


async def test_connections_that_bring_no_whole_message_are_closed_and_those_that_did_stay(start: Start) -> None:
    pbx = await start(TCP, limits=Limits(silence_s=0.2))
    async with dialled(pbx) as (_, talker), dialled(pbx) as (silent, _), dialled(pbx) as (dawdler, dawdle):
        talker.write(options(1))
        dawdle.write(options(2)[:-5])
        await ended(silent)
        await ended(dawdler)
        talker.write(options(3))
        await pbx.ear.until_heard(2)
    assert pbx.counters.dropped[Dropped.SILENT] == 2


async def test_a_connection_that_only_pings_is_closed_like_a_silent_one_and_one_that_has_spoken_lives_by_its_pings(
    start: Start,
) -> None:
    pbx = await start(TCP, limits=Limits(silence_s=0.3, idle_s=1.0))
    async with dialled(pbx) as (stranger, pings), dialled(pbx) as (_, phone):
        phone.write(options(1))
        keeping = asyncio.create_task(kept_alive(pings, phone))
        await ended(stranger)
        keeping.cancel()
        assert pbx.counters.dropped[Dropped.SILENT] == 1
        phone.write(options(2))
        await pbx.ear.until_heard(2)


async def test_a_connection_on_which_nothing_is_heard_for_long_is_closed_also_one_of_ours(start: Start) -> None:
    phone, pbx = await start(TCP), await start(TCP, limits=Limits(idle_s=0.2))
    async with dialled(pbx) as (reader, writer):
        writer.write(options())
        await ended(reader)
    pbx.sockets.send(pbx.flow_to(phone, TCP), options())
    await phone.ear.until_lost()
    assert pbx.counters.dropped[Dropped.IDLE] == 2


async def test_an_address_has_so_many_connections_and_gets_another_when_one_ends(start: Start) -> None:
    pbx = await start(TCP, limits=Limits(connections_per_address_max=2))
    async with dialled(pbx), dialled(pbx) as (_, second):
        await is_refused(pbx)
        assert pbx.counters.dropped[Dropped.CONNECTIONS_PER_ADDRESS] == 1
        async with dialled(pbx, "127.0.0.2") as (_, other):
            other.write(options(1))
            await pbx.ear.until_heard(1)
        second.write(options(2))
        await pbx.ear.until_heard(2)
        second.close()
        await pbx.ear.until_lost(2)
        async with dialled(pbx) as (_, third):
            third.write(options(3))
            await pbx.ear.until_heard(3)


async def test_there_are_so_many_connections_in_all_also_counting_ours(start: Start) -> None:
    pbx, phone = await start(TCP, limits=Limits(connections_max=1)), await start(TCP)
    async with dialled(pbx) as (_, writer):
        writer.write(options())
        await pbx.ear.until_heard(1)
        await is_refused(pbx, "127.0.0.2")
        flow = pbx.flow_to(phone, TCP)
        pbx.sockets.send(flow, options())
        await pbx.ear.until_lost()
        assert pbx.ear.losses == [(flow, "there are 1 connections already")]
    assert pbx.counters.dropped[Dropped.CONNECTIONS] == 2


async def test_new_connections_of_one_address_are_let_in_at_a_rate(start: Start) -> None:
    limits = Limits(new_connections_per_address_per_s=0.001, new_connections_per_address_burst=2)
    pbx = await start(TCP, limits=limits)
    for number in (1, 2):
        async with dialled(pbx) as (_, writer):
            writer.write(options())
            await pbx.ear.until_heard(number)
    await is_refused(pbx)
    async with dialled(pbx, "127.0.0.2") as (_, writer):
        writer.write(options())
        await pbx.ear.until_heard(3)
    assert pbx.counters.dropped[Dropped.CONNECTION_RATE] == 1


async def test_a_peer_above_its_message_rate_is_read_more_slowly_and_loses_nothing(start: Start) -> None:
    limits = Limits(messages_per_address_per_s=100, messages_per_address_burst=1)
    pbx = await start(TCP, limits=limits)
    async with dialled(pbx) as (_, writer):
        for number in range(3):
            writer.write(options(10 * number) + options(10 * number + 1))
            await writer.drain()
            await pbx.ear.until_heard(2 * (number + 1))
    assert pbx.counters.dropped[Dropped.MESSAGE_RATE] >= 2


async def test_starting_raises_the_limit_of_open_files_and_leaves_descriptors_to_everything_else(start: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1_024), hard))
    try:
        modest = await start(TCP, limits=Limits(connections_max=1))
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert modest.sockets.warnings == ()
        greedy = await start(TCP, limits=Limits(connections_max=hard))
        (warning,) = greedy.sockets.warnings
        assert f"{hard} open files" in warning
        assert f"room for {max(1, hard - RESERVE_FILES)} connections of {hard}" in warning
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_a_free_file_descriptor_connections_wait_until_there_is_one(start: Start) -> None:
    pbx = await start(TCP)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as phone:
        phone.setblocking(False)
        lowest_free = os.dup(phone.fileno())
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            await asyncio.get_running_loop().sock_connect(phone, pbx.address(TCP))
            await turns_until(lambda: pbx.counters.dropped[Dropped.NO_DESCRIPTORS])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await asyncio.get_running_loop().sock_sendall(phone, options())
        await pbx.ear.until_heard(1)
    # It paused between its attempts: spinning would have made thousands.
    assert pbx.counters.dropped[Dropped.NO_DESCRIPTORS] <= 3


async def test_stopping_closes_connections_in_every_state(start: Start) -> None:
    pbx, phone = await start(TCP), await start(TCP)
    pbx.sockets.send(pbx.flow_to(phone, TCP), options())
    await phone.ear.until_heard(1)
    async with dialled(pbx) as (reader, _):
        await turns_until(lambda: pbx.counters.traffic[TCP].connections_open == 2)
        pbx.sockets.send(pbx.flow_to(phone, TCP)._replace(remote=Address("127.0.0.3", 9)), options())
        await pbx.sockets.stop()
        await ended(reader)
    assert pbx.counters.traffic[TCP].connections_open == 0
