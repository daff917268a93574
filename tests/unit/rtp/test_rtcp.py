"""RTCP: reports as values, and the round trip that they tell."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warden.core.errors import MalformedMessage
from warden.rtp import rtcp
from warden.rtp.rtcp import Block, Bye, Chunk, Description, Other, ReceiverReport, Report, SenderReport

words = st.integers(0, 0xFFFFFFFF)
whole_words = st.binary(max_size=16).map(lambda data: data[: len(data) // 4 * 4])
blocks = st.lists(
    st.builds(Block, words, st.integers(0, 255), st.integers(-0x800000, 0x7FFFFF), words, words, words, words),
    max_size=5,
).map(tuple)
items = st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=20)), max_size=3).map(tuple)
reports = st.one_of(
    st.builds(SenderReport, words, st.integers(0, 2**64 - 1), words, words, words, blocks, whole_words),
    st.builds(ReceiverReport, words, blocks, whole_words),
    st.builds(Description, st.lists(st.builds(Chunk, words, items), max_size=3).map(tuple)),
    st.builds(Bye, st.lists(words, max_size=5).map(tuple), st.none() | st.binary(max_size=30)),
    st.builds(Other, st.integers(204, 210), st.integers(0, 31), whole_words),
)


@given(st.lists(reports, min_size=1, max_size=5).map(tuple))
def test_printed_compound_reads_as_it_was(compound: tuple[Report, ...]) -> None:
    assert rtcp.parse(rtcp.build(compound)) == compound


def test_sender_report_and_name_of_a_known_phone_are_read() -> None:
    data = bytes.fromhex(
        "81c8000c 00000001 e1234567 89abcdef 00000140 00000002 00000140"
        "00000002 80fffffe 00010005 00000010 456789ab 00010000"
        "81ca0003 00000001 0104 61406263 0000"
    )
    report, name = rtcp.parse(data)
    block = Block(2, 128, -2, 0x10005, 16, 0x456789AB, 0x10000)
    assert report == SenderReport(1, 0xE123456789ABCDEF, 320, 2, 320, (block,))
    assert name == Description((Chunk(1, ((rtcp.CNAME, b"a@bc"),)),))
    assert rtcp.build((report, name)) == data


def test_padding_is_taken_off_the_last_packet_only() -> None:
    padded = bytes.fromhex("a0c90002 00000001 00000004")
    assert rtcp.parse(padded) == (ReceiverReport(1),)
    with pytest.raises(MalformedMessage, match="before the last"):
        rtcp.parse(padded + rtcp.build((Bye((1,)),)))


@pytest.mark.parametrize(
    "hexadecimal",
    [
        "",
        "80",
        "40c90001 00000001",
        "80c90002 00000001",
        "80c90000",
        "81c90001 00000001",
        "80c80001 00000001",
        "81ca0001 00000001",
        "81ca0002 00000001 01ff0000",
        "82cb0001 00000001",
        "81cb0002 00000001 09616263",
        "a0c90001 00000001",
        "a0c90001 00000005",
        "80c90001 00000001 80",
    ],
)
def test_what_does_not_add_up_is_malformed(hexadecimal: str) -> None:
    with pytest.raises(MalformedMessage):
        rtcp.parse(bytes.fromhex(hexadecimal))


def test_only_malformed_message_comes_out_of_mutated_and_cut_compounds() -> None:
    chance = random.Random(3551)
    whole = rtcp.build(
        (
            SenderReport(1, 2**63, 5, 6, 7, (Block(2), Block(3))),
            Description((Chunk(1, ((1, b"me@here"), (2, b"Me"))), Chunk(9))),
            Bye((1,), b"gone"),
            Other(204, 3, b"nameDATA"),
        )
    )
    read = 0
    for _ in range(5000):
        data = bytearray(whole[: chance.randint(0, len(whole))])
        for _ in range(chance.randint(0, 4)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            again = rtcp.parse(bytes(data))
        except MalformedMessage:
            continue
        assert rtcp.parse(rtcp.build(again)) == again
        read += 1
    assert read > 50


def test_round_trip_is_arrival_minus_report_minus_delay_as_in_the_example_of_the_rfc() -> None:
    # RFC 3550 figure 2: A = b710:8000, LSR = b705:2000, DLSR = 5:4000 give 6.125 s.
    block = Block(1, lsr=0xB7052000, dlsr=0x00054000)
    assert rtcp.round_trip_s(block, 0xB7108000) == 6.125
    assert rtcp.middle(0xB44DB705_20000000) == 0xB7052000


def test_round_trip_is_not_told_without_a_report_or_when_it_cannot_be() -> None:
    assert rtcp.round_trip_s(Block(1), 5) is None
    assert rtcp.round_trip_s(Block(1, lsr=0x20000, dlsr=0x20000), 0x30000) is None
    assert rtcp.round_trip_s(Block(1, lsr=0xFFFF0000), 0x10000) == 2.0, "the clock may wrap in between"


def test_too_many_blocks_are_not_printed() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        rtcp.build((ReceiverReport(1, (Block(1),) * 32),))
