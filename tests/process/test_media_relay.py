"""What goes in at one side comes out at the other: where it goes, what is counted, what is told."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from warden.core.address import Address
from warden.media.protocol import (
    Digit,
    Latched,
    Mode,
    Session,
    Side,
    Stream,
)
from warden.rtp import dtmf, packet, rtcp
from warden.rtp.packet import Packet

from media_lab import HOST, PATIENCE_S, Lab, running_lab


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with running_lab() as lab:
        yield lab


async def test_what_one_phone_sends_reaches_the_other_byte_for_byte_both_ways(lab: Lab) -> None:
    alice, bob = lab.phone(ssrc=1), lab.phone(ssrc=2)
    a, b = lab.ports_of(await lab.call(alice, bob))
    for _ in range(50):
        said, answered = alice.talk(a), bob.talk(b)
        assert await bob.hear() == said
        assert await alice.hear() == answered
    odd = [
        packet.build(Packet(111, 7, 8, 9, b"opus", marker=True, csrcs=(1, 2), padding=3)),
        packet.build(Packet(0, 7, 8, 9, b"x" * 1400, extension=packet.Extension(0xBEDE, b"\x10\xff\x00\x00"))),
    ]
    for data in odd:
        alice.send(a, data)
        assert await bob.hear() == [data]
    assert lab.events.empty(), "the SDP was right: there is nothing to tell"


async def test_counters_tell_packets_bytes_loss_from_the_gaps_in_the_numbers_and_what_was_sent(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    a, b = lab.ports_of(await lab.call(alice, bob))
    for number in range(200):
        data = alice.packet()
        if number not in {20, 21, 90, 150}:
            alice.send(a, data)
            await bob.hear()
    bob.talk(b, 3)
    await alice.hear(3)
    dropped = await lab.drop("call")
    first, second = dropped.stats
    assert (first.port, first.packets, first.lost, first.bytes) == (a, 196, 4, 196 * 172)
    assert (first.sent, first.dropped, first.remote) == (3, 0, alice.address)
    assert (second.port, second.packets, second.lost, second.sent) == (b, 3, 0, 196)
    assert first.gap_ms_max >= 20.0
    assert first.jitter_ms > 0.0
    totals = await lab.totals()
    assert (totals.sessions, totals.packets, totals.lost, totals.bytes) == (0, 199, 4, 199 * 172)
    assert totals.cpu_s > 0.0


async def test_phone_behind_nat_is_answered_where_its_packets_come_from(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    a, b = lab.ports(2)
    wrong = Address("127.0.0.9", 4000)
    side = Side(a, wrong, hosts=("127.0.0.9", HOST))
    await lab.put(Session("call", HOST, (Stream(side, lab.side(b, bob)),)))
    said = alice.talk(a)
    assert await bob.hear() == said
    assert await lab.event() == Latched("call", a, alice.address)
    answered = bob.talk(b)
    assert await alice.hear() == answered


async def test_stranger_is_taken_for_the_peer_only_with_its_tenth_packet_in_a_row(lab: Lab) -> None:
    alice, bob, mallory = lab.phone(), lab.phone(ssrc=2), lab.phone("127.0.0.3", ssrc=3)
    a, b = lab.ports(2)
    silent = Side(a, Address("127.0.0.9", 4000), hosts=("127.0.0.9",))
    await lab.put(Session("call", HOST, (Stream(silent, lab.side(b, bob)),)))
    # Two strangers in turn: neither has ten in a row.
    for _ in range(12):
        mallory.talk(a)
        alice.talk(a)
    await lab.settle(24)
    assert bob.hears_nothing()
    assert lab.events.empty()
    said = mallory.talk(a, 10)
    assert await bob.hear() == said[-1:]
    assert await lab.event() == Latched("call", a, mallory.address)
    assert (await lab.drop("call")).stats[0].dropped == 33


async def test_stranger_is_never_heard_while_the_phone_itself_speaks(lab: Lab) -> None:
    alice, bob, mallory = lab.phone(), lab.phone(ssrc=2), lab.phone("127.0.0.3", ssrc=3)
    a, b = lab.ports_of(await lab.call(alice, bob))
    for _ in range(10):
        said = alice.talk(a)
        mallory.talk(a, 15)
        assert await bob.hear() == said
    await lab.settle(160)
    assert bob.hears_nothing()
    answered = bob.talk(b)
    assert await alice.hear() == answered
    assert mallory.hears_nothing()
    stats = (await lab.drop("call")).stats[0]
    assert (stats.packets, stats.dropped, stats.remote) == (10, 150, alice.address)


async def test_allowed_host_takes_the_place_of_a_stranger_at_once(lab: Lab) -> None:
    alice, bob, mallory = lab.phone(), lab.phone(ssrc=2), lab.phone("127.0.0.3", ssrc=3)
    a, _ = lab.ports_of(await lab.call(alice, bob))
    mallory.talk(a, 10)
    await bob.hear()
    assert await lab.event() == Latched("call", a, mallory.address)
    said = alice.talk(a)
    assert await bob.hear() == said
    assert await lab.event() == Latched("call", a, alice.address)


async def test_phone_that_moves_to_another_port_is_followed_but_two_phones_do_not_take_turns(lab: Lab) -> None:
    alice, twin, moved, bob = lab.phone(), lab.phone(ssrc=3), lab.phone(), lab.phone(ssrc=2)
    a, _ = lab.ports_of(await lab.call(alice, bob))
    alice.talk(a)
    await bob.hear()
    for _ in range(8):
        twin.talk(a, 3)
        said = alice.talk(a)
        assert await bob.hear() == said
    while bob.hears_nothing():
        moved.talk(a)
        await asyncio.sleep(0.02)  # The old port is silent for as long as it takes.
    assert await lab.event() == Latched("call", a, moved.address)


async def test_new_generation_forgets_the_old_place_and_takes_the_next_packet_from_an_allowed_host(lab: Lab) -> None:
    alice, bob, carol = lab.phone(), lab.phone(ssrc=2), lab.phone("127.0.0.3", ssrc=3)
    session = await lab.call(alice, bob)
    a, b = lab.ports_of(session)
    alice.talk(a)
    await bob.hear()
    transferred = Session("call", HOST, (Stream(lab.side(a, carol, generation=1), session.streams[0].b),))
    await lab.put(transferred)
    # Before she has said a word, she hears; the one before her does not.
    answered = bob.talk(b)
    assert await carol.hear() == answered
    alice.talk(a, 3)
    said = carol.talk(a)
    assert await bob.hear() == said
    assert alice.hears_nothing()
    assert (await lab.totals()).dropped == 3


async def test_put_of_the_same_generation_keeps_the_latched_place(lab: Lab) -> None:
    alice, bob, other = lab.phone(), lab.phone(ssrc=2), lab.phone("127.0.0.3", ssrc=3)
    session = await lab.call(alice, bob)
    a, b = lab.ports_of(session)
    alice.talk(a)
    await bob.hear()
    stream = session.streams[0]
    await lab.put(Session("call", HOST, (Stream(lab.side(a, other), stream.b),)))
    answered = bob.talk(b)
    assert await alice.hear() == answered
    assert other.hears_nothing()


async def test_learned_place_of_an_earlier_process_is_used_until_the_phone_speaks_from_elsewhere(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    a, b = lab.ports(2)
    behind_nat = Side(a, Address("127.0.0.9", 4000), hosts=("127.0.0.9",), learned=alice.address)
    await lab.put(Session("call", HOST, (Stream(behind_nat, lab.side(b, bob)),)))
    answered = bob.talk(b)
    assert await alice.hear() == answered
    said = alice.talk(a)
    assert await bob.hear() == said, "what was learned needs no ten packets"
    assert lab.events.empty()


async def test_nothing_is_sent_to_a_phone_on_hold_by_the_unspecified_address(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    a, b = lab.ports(2)
    held = Side(a, Address("0.0.0.0", alice.address.port), hosts=())
    await lab.put(Session("call", HOST, (Stream(held, lab.side(b, bob)),)))
    bob.talk(b, 3)
    await lab.settle(3)
    assert (await lab.drop("call")).stats[0].sent == 0
    assert alice.hears_nothing()


async def test_rtcp_is_relayed_on_the_next_port_and_tells_the_round_trip(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    a, b = lab.ports(2)
    sides = [
        Side(port, Address(HOST, 9), remote_rtcp=phone.address, hosts=(HOST,)) for port, phone in ((a, alice), (b, bob))
    ]
    await lab.put(Session("call", HOST, (Stream(sides[0], sides[1]),)))
    ntp = 0x1234_5678_9ABC_DEF0
    sent = alice.send(a + 1, rtcp.build((rtcp.SenderReport(1, ntp, 0, 10, 1600),)))
    assert await bob.hear() == [sent]
    block = rtcp.Block(ssrc=1, lsr=rtcp.middle(ntp), dlsr=0)
    answer = bob.send(b + 1, rtcp.build((rtcp.ReceiverReport(2, (block,)), rtcp.Bye((2,), b"bye"))))
    assert await alice.hear() == [answer]
    bob.send(b + 1, b"not rtcp at all")
    alice.send(a + 1, answer)
    assert await bob.hear() == [answer]
    first, second = (await lab.drop("call")).stats
    assert second.rtt_ms > 0.0
    assert (first.packets, second.packets, first.rtt_ms) == (0, 0, 0.0), "RTCP is not counted as audio"


async def test_rtcp_of_a_phone_behind_nat_is_answered_where_it_comes_from(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    a, b = lab.ports(2)
    caller = Side(a, Address("127.0.0.9", 4000), Address("127.0.0.9", 4001), hosts=(HOST,))
    callee = Side(b, bob.address, bob.address, hosts=(HOST,))
    await lab.put(Session("call", HOST, (Stream(caller, callee),)))
    report = rtcp.build((rtcp.ReceiverReport(1),))
    alice.send(a + 1, report)
    assert await bob.hear() == [report]
    assert await lab.event() == Latched("call", a, alice.address, rtcp=True)
    bob.send(b + 1, report)
    assert await alice.hear() == [report]


async def test_empty_datagrams_before_anything_else_are_only_dropped(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    a, _ = lab.ports_of(await lab.call(alice, bob))
    alice.send(a, b"")
    alice.send(a + 1, b"")
    said = alice.talk(a)
    assert await bob.hear() == said
    assert (await lab.drop("call")).stats[0].dropped == 1


async def test_what_is_no_rtp_passes_a_relay_untouched_and_what_is_cut_off_is_dropped(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    a, _ = lab.ports_of(await lab.call(alice, bob))
    fax = alice.send(a, b"\x00\x01\x06fax data ifp")
    assert await bob.hear() == [fax]
    alice.send(a, b"\x80\x00\x00\x01cut")
    alice.send(a, b"\r\n")
    alice.send(a, b"")
    alice.send(a + 1, b"")
    last = alice.talk(a)
    assert await bob.hear() == last
    stats = (await lab.drop("call")).stats[0]
    assert (stats.packets, stats.dropped, stats.lost) == (2, 3, 0)


async def test_echo_sends_every_packet_back_with_its_own_source_and_unbroken_numbers(lab: Lab) -> None:
    alice = lab.phone()
    (a,) = lab.ports()
    await lab.put(Session("echo", HOST, (Stream(lab.side(a, alice), mode=Mode.ECHO),)))
    said, heard = [], []
    for number in range(60):
        if number == 30:
            alice.number += 7
        said += [packet.parse(data) for data in alice.talk(a)]
        heard += [packet.parse(data) for data in await alice.hear()]
    assert [p.payload for p in heard] == [p.payload for p in said]
    assert {p.ssrc for p in heard} != {alice.ssrc}
    assert len({p.ssrc for p in heard}) == 1
    assert all((y.sequence - x.sequence) & 0xFFFF == 1 for x, y in pairwise(heard))
    assert len({(h.timestamp - s.timestamp) & 0xFFFFFFFF for h, s in zip(heard, said, strict=True)}) == 1
    assert [p.marker for p in heard] == [True] + [False] * 59


async def test_silent_stream_swallows_and_counts(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    a, b = lab.ports(2)
    await lab.put(Session("held", HOST, (Stream(lab.side(a, alice), lab.side(b, bob), mode=Mode.SILENT),)))
    alice.talk(a, 5)
    await lab.settle(5)
    assert bob.hears_nothing()
    assert alice.hears_nothing()
    assert [s.packets for s in (await lab.drop("held")).stats] == [5, 0]


async def test_keys_are_told_once_each_and_still_relayed(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    a, b = lab.ports(2)
    await lab.put(Session("call", HOST, (Stream(lab.side(a, alice, dtmf_payload_type=101), lab.side(b, bob)),)))
    alice.talk(a)
    await bob.hear()
    for digit in "1#":
        alice.number += 1
        timestamp = 160 * alice.number
        for payload in dtmf.encode(digit, duration=800):
            event = packet.build(Packet(101, alice.number & 0xFFFF, timestamp, alice.ssrc, payload))
            alice.send(a, event)
            assert await bob.hear() == [event]
            alice.number += 1
        alice.talk(a)
        await bob.hear()
        assert await lab.event() == Digit("call", a, digit, 100)
    await lab.totals()
    assert lab.events.empty()


async def test_flood_from_one_phone_is_not_passed_on_and_the_call_recovers(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    a, _ = lab.ports_of(await lab.call(alice, bob))
    async with asyncio.timeout(PATIENCE_S):
        while (await lab.totals()).dropped == 0:
            alice.talk(a, 500)
        while not bob.hears_nothing():
            pass
        # Once the flood is over, the phone is heard again.
        while bob.hears_nothing():
            alice.talk(a)
            await asyncio.sleep(0.02)  # As a phone does; without a pause this would be the next flood.


async def test_ipv6_call_is_relayed(lab: Lab) -> None:
    six = []
    for _ in range(2):
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.bind(("::1", 0))
        sock.setblocking(False)
        six.append(sock)
    a, b = lab.ports(2)
    sides = [
        Side(port, Address("::1", s.getsockname()[1]), hosts=("0:0::1",)) for port, s in zip((a, b), six, strict=True)
    ]
    await lab.put(Session("six", "::1", (Stream(sides[0], sides[1]),)))
    data = struct.pack(">HHII", 0x8000, 1, 2, 3) + b"six"
    six[0].sendto(data, ("::1", a))
    loop = asyncio.get_running_loop()
    assert await asyncio.wait_for(loop.sock_recv(six[1], 2048), PATIENCE_S) == data
    for sock in six:
        sock.close()
