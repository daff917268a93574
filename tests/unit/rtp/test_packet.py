"""RTP packets: read, printed, and refused when they are not what they say."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warden.core.errors import MalformedMessage
from warden.rtp import packet
from warden.rtp.packet import Extension, Packet

words = st.integers(0, 0xFFFFFFFF)
packets = st.builds(
    Packet,
    payload_type=st.integers(0, 127),
    sequence=st.integers(0, 0xFFFF),
    timestamp=words,
    ssrc=words,
    payload=st.binary(max_size=400),
    marker=st.booleans(),
    csrcs=st.lists(words, max_size=15).map(tuple),
    extension=st.none()
    | st.builds(Extension, st.integers(0, 0xFFFF), st.binary(max_size=40).map(lambda data: data[: len(data) // 4 * 4])),
    padding=st.integers(0, 255),
)


@given(packets)
def test_printed_packet_reads_as_it_was(given_packet: Packet) -> None:
    data = packet.build(given_packet)
    assert packet.parse(data) == given_packet
    assert packet.sequence_of(data) == given_packet.sequence
    assert packet.timestamp_of(data) == given_packet.timestamp
    assert packet.ssrc_of(data) == given_packet.ssrc
    assert packet.payload_type_of(data) == given_packet.payload_type
    assert packet.payload_of(data) == given_packet.payload


def test_packet_of_a_known_phone_is_read_field_by_field() -> None:
    data = bytes.fromhex("80e5 1f90 0001e240 deadbeef 0a8a0320")
    assert packet.parse(data) == Packet(101, 8080, 123456, 0xDEADBEEF, bytes.fromhex("0a8a0320"), marker=True)
    assert packet.build(packet.parse(data)) == data


@pytest.mark.parametrize(
    ("hexadecimal", "why"),
    [
        ("", "fewer than a header"),
        ("80" * 11, "fewer than a header"),
        ("00" * 12, "version 0"),
        ("c0" + "00" * 20, "version 3"),
        ("81" + "00" * 14, "list of sources is cut off"),
        ("90" + "00" * 12, "header extension is cut off"),
        ("90" + "00" * 11 + "bede0002" + "00000000", "longer than the packet"),
        ("a0" + "00" * 12, "0 octets of padding"),
        ("a0" + "00" * 11 + "0003", "3 octets of padding"),
        ("80" + "00" * 2048, "more than"),
    ],
)
def test_what_does_not_add_up_is_malformed(hexadecimal: str, why: str) -> None:
    with pytest.raises(MalformedMessage, match=why):
        packet.parse(bytes.fromhex(hexadecimal))


def test_only_malformed_message_comes_out_of_mutated_and_cut_packets() -> None:
    chance = random.Random(3550)
    whole = packet.build(Packet(96, 1, 2, 3, b"p" * 40, True, (7, 8), Extension(0xBEDE, b"abcd" * 3), padding=5))
    refused = 0
    for _ in range(5000):
        data = bytearray(whole[: chance.randint(0, len(whole))])
        for _ in range(chance.randint(0, 6)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            again = packet.parse(bytes(data))
        except MalformedMessage:
            refused += 1
        else:
            assert packet.parse(packet.build(again)) == again
    assert refused > 100


@pytest.mark.parametrize(
    "wrong",
    [
        Packet(128, 0, 0, 0),
        Packet(0, 1 << 16, 0, 0),
        Packet(0, 0, -1, 0),
        Packet(0, 0, 0, 1 << 32),
        Packet(0, 0, 0, 0, csrcs=(0,) * 16),
        Packet(0, 0, 0, 0, padding=256),
        Packet(0, 0, 0, 0, extension=Extension(0, b"abc")),
    ],
)
def test_field_that_does_not_fit_is_not_printed(wrong: Packet) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        packet.build(wrong)


def test_rtp_and_rtcp_are_told_apart_by_the_second_octet() -> None:
    rtp, rtcp = b"\x80\x00" + bytes(10), b"\x80\xc9\x00\x01" + bytes(4)
    assert (packet.is_rtp(rtp), packet.is_rtcp(rtp)) == (True, False)
    assert (packet.is_rtp(rtcp), packet.is_rtcp(rtcp)) == (False, True)
    assert not packet.is_rtp(b"\x00" * 12)
    assert not packet.is_rtcp(b"\x80\xc9")
