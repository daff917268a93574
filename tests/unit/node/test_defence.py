"""Another machine says that it has the address of a seat: who answers, when, and what the operator is told."""

import struct

from warden.net.arp import Heard, read_arp
from warden.node.defence import SURE_S, TOLD_S, Rivals

ADDRESSES = {"s1": "192.0.2.101", "s2": "192.0.2.102"}
RIVAL = Heard("192.0.2.101", "02:00:00:00:00:09", "eth0")


def holds_s1(seat: str) -> bool:
    return seat == "s1"


def arp(operation: int, sender: bytes, address: str, *, hardware: int = 1) -> bytes:
    packed = bytes(map(int, address.split(".")))
    return struct.pack("!HHBBH", hardware, 0x0800, 6, 4, operation) + sender + packed + bytes(6) + packed


def test_who_asks_announces_or_answers_says_that_it_has_the_address_and_a_probe_does_not() -> None:
    mac = bytes.fromhex("020000000009")
    assert read_arp(arp(1, mac, "192.0.2.101"), "eth0") == RIVAL
    assert read_arp(arp(2, mac, "192.0.2.101") + bytes(18), "eth0") == RIVAL
    assert read_arp(arp(1, mac, "0.0.0.0"), "eth0") is None
    assert read_arp(arp(1, mac, "192.0.2.101", hardware=6), "eth0") is None
    assert read_arp(arp(1, mac, "192.0.2.101")[:17], "eth0") is None
    assert read_arp(b"", "eth0") is None


def test_a_rival_of_a_seat_that_is_held_here_is_told_once_and_answered_after_a_second() -> None:
    rivals = Rivals(ADDRESSES)
    assert rivals.hear(10.0, RIVAL, holds_s1) == "s1"
    assert rivals.hear(10.5, RIVAL, holds_s1) == ""
    assert rivals.deadline == 10.0 + SURE_S
    assert rivals.tick(10.9) == []
    assert rivals.tick(11.0) == [("s1", RIVAL)]
    assert rivals.tick(99.0) == []
    # One that goes on is answered again, a second later each time.
    assert rivals.hear(11.2, RIVAL, holds_s1) == ""
    assert rivals.tick(12.2) == [("s1", RIVAL)]
    assert rivals.tick(13.0) == []


def test_who_has_another_address_or_that_of_a_seat_held_elsewhere_is_no_rival() -> None:
    rivals = Rivals(ADDRESSES)
    for address in ("192.0.2.102", "192.0.2.7"):
        assert rivals.hear(1.0, RIVAL._replace(address=address), holds_s1) == ""
    assert rivals.deadline is None
    assert rivals.warnings(1.0) == []


def test_the_operator_is_told_of_the_machine_until_nothing_was_heard_of_it_for_a_while() -> None:
    rivals = Rivals(ADDRESSES)
    rivals.hear(1.0, RIVAL, holds_s1)
    [told] = rivals.warnings(1.0 + TOLD_S)
    assert told.startswith("seat s1: another machine (02:00:00:00:00:09 on eth0) says that it has 192.0.2.101 too")
    assert rivals.warnings(1.1 + TOLD_S) == []
    assert rivals.hear(2.0 + TOLD_S, RIVAL, holds_s1) == "s1"
    # A third machine is news, whenever it comes.
    assert rivals.hear(3.0 + TOLD_S, RIVAL._replace(mac="02:00:00:00:00:0a"), holds_s1) == "s1"
