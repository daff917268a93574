"""STUN on the SIP port (RFC 8489); the addresses are those of RFC 5769's examples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warden.core.address import Address
from warden.core.stun import COOKIE, answer, is_stun

TRANSACTION = COOKIE + bytes.fromhex("b7e7a701bc34d686fa87dfae")
HERE = Address("192.0.2.1", 32853)


def binding(attributes: bytes = b"", *, kind: int = 1) -> bytes:
    return kind.to_bytes(2, "big") + len(attributes).to_bytes(2, "big") + TRANSACTION + attributes


@pytest.mark.parametrize(
    ("source", "mapped"),
    [
        (HERE, "002000080001a147e112a643"),
        (Address("2001:db8:1234:5678:11:2233:4455:6677", 32853), "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"),
    ],
)
def test_a_binding_request_is_told_where_it_came_from(source: Address, mapped: str) -> None:
    wanted = bytes.fromhex(mapped)
    assert answer(binding(), source) == b"\x01\x01" + len(wanted).to_bytes(2, "big") + TRANSACTION + wanted


def test_what_need_not_be_understood_is_passed_over() -> None:
    software, username = b"\x80\x22\0\x05phone\0\0\0", b"\0\x06\0\x02me\0\0"
    assert answer(binding(software + username), HERE) == answer(binding(), HERE)


def test_what_must_be_understood_and_is_not_is_named() -> None:
    change_request = b"\0\x03\0\x04\0\0\0\x06"
    said = answer(binding(change_request), HERE)
    assert said is not None
    assert said[:2] == b"\x01\x11"
    assert b"\0\0\x04\x14Unknown Attribute" in said
    assert said.endswith(b"\0\x0a\0\x02\0\x03\0\0")


@pytest.mark.parametrize(
    "data",
    [
        binding(kind=0x11),
        binding(kind=0x101),
        binding(kind=3),
        binding() + b"\0\0\0\0",
        binding(b"\0\x06"),
        binding(b"\0\x06\0\x09me\0\0"),
        binding(b"\x80\x22\x02\x80" + bytes(640)),
        binding()[:19],
        b"OPTIONS sip:a SIP/2.0\r\n\r\n",
        b"",
    ],
)
def test_indications_answers_and_what_is_broken_get_no_answer(data: bytes) -> None:
    assert answer(data, HERE) is None


def test_sip_is_not_taken_for_stun() -> None:
    assert is_stun(binding())
    assert not is_stun(b"SIP/2.0 200 OK\r\nVia: x\r\n\r\n")


@given(st.sampled_from((1, 0x11, 0x101)), st.binary(max_size=600))
def test_whatever_comes_the_answer_is_hardly_larger(kind: int, attributes: bytes) -> None:
    data = binding(attributes, kind=kind)
    said = answer(data, HERE) or answer(attributes, HERE) or b""
    assert len(said) <= len(data) + 32
