"""SRTP in the media process: phones that protect their packets by libsrtp, on one side or both, and one process after
another in the middle of a stream.
"""

import os
from collections.abc import AsyncIterator, Iterable

import pytest
from msgspec.structs import replace
from pylibsrtp import Policy
from pylibsrtp import Session as Libsrtp

from warden.media.protocol import Event, Mode, Rolled, RolledOver, Session, Side, Stream, Way
from warden.rtp import rtcp
from warden.sdp.crypto import KEY_BYTES, Keys, key_text

from media_lab import HOST, Lab, Phone, running_lab

PROFILES = {
    "AES_CM_128_HMAC_SHA1_80": Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    "AES_CM_128_HMAC_SHA1_32": Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
    "AEAD_AES_128_GCM": Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
}
SUITE = "AEAD_AES_128_GCM"


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with running_lab() as lab:
        yield lab


class Secret:
    """What a phone that speaks SRTP has: the keys of both directions, and libsrtp's counting of either."""

    def __init__(self, suite: str = SUITE) -> None:
        self.suite = suite
        self.said, self.told = (os.urandom(KEY_BYTES[suite]) for _ in range(2))
        self.out = Libsrtp(Policy(self.said, Policy.SSRC_ANY_OUTBOUND, 0, PROFILES[suite]))
        self.into = Libsrtp(Policy(self.told, Policy.SSRC_ANY_INBOUND, 0, PROFILES[suite]))

    @property
    def keys(self) -> Keys:
        """As the relay is told of them."""
        return Keys(self.suite, key_text(self.said), key_text(self.told))

    def readable(self, packets: Iterable[bytes]) -> list[bytes]:
        return [self.into.unprotect(data) for data in packets]


def secured(phone: Phone, secret: Secret, port: int) -> Side:
    return Lab.side(port, phone, srtp=secret.keys)


async def talk_each_way(a: int, b: int, alice: Phone, secret: Secret, bob: Phone, packets: int = 1) -> None:
    """Alice speaks SRTP, and Bob does not."""
    for _ in range(packets):
        said = alice.packet()
        alice.send(a, secret.out.protect(said))
        assert await bob.hear() == [said]
        said = bob.packet()
        bob.send(b, said)
        (told,) = await alice.hear()
        assert told != said
        assert secret.readable([told]) == [said]


@pytest.mark.parametrize("suite", PROFILES)
async def test_a_secure_phone_and_a_plain_one_understand_each_other(lab: Lab, suite: str) -> None:
    alice, bob, secret = lab.phone(ssrc=1), lab.phone(ssrc=2), Secret(suite)
    a, b = lab.ports(2)
    await lab.put(Session("call", HOST, (Stream(secured(alice, secret, a), lab.side(b, bob)),)))
    await talk_each_way(a, b, alice, secret, bob, 20)
    alice.send(a, b"\x80\x00" + b"x" * 170)
    alice.send(a, secret.out.protect(alice.packet()))
    await bob.hear()
    stats = (await lab.drop("call")).stats
    assert (stats[0].packets, stats[0].dropped, stats[0].sent) == (21, 1, 20)


async def test_reports_go_along_as_protected_as_the_audio(lab: Lab) -> None:
    alice, bob, secret = lab.phone(ssrc=1), lab.phone(ssrc=2), Secret()
    a, b = lab.ports(2)
    one = Side(a, None, alice.address, hosts=(HOST,), srtp=secret.keys)
    other = Side(b, None, bob.address, hosts=(HOST,))
    await lab.put(Session("call", HOST, (Stream(one, other),)))
    for ssrc in range(1, 4):
        report = rtcp.build((rtcp.ReceiverReport(ssrc, ()),))
        alice.send(a + 1, report)  # In the clear it is nobody's.
        alice.send(a + 1, secret.out.protect_rtcp(report))
        assert await bob.hear() == [report]
        bob.send(b + 1, report)
        (told,) = await alice.hear()
        assert secret.into.unprotect_rtcp(told) == report


async def test_two_secure_phones_never_see_each_others_keys(lab: Lab) -> None:
    alice, bob = lab.phone(ssrc=1), lab.phone(ssrc=2)
    hers, his = Secret("AES_CM_128_HMAC_SHA1_32"), Secret()
    a, b = lab.ports(2)
    await lab.put(Session("call", HOST, (Stream(secured(alice, hers, a), secured(bob, his, b)),)))
    for _ in range(5):
        said = alice.packet()
        alice.send(a, hers.out.protect(said))
        assert his.readable(await bob.hear()) == [said]
        said = bob.packet()
        bob.send(b, his.out.protect(said))
        assert hers.readable(await alice.hear()) == [said]


async def test_what_is_repeated_forged_or_plain_is_not_passed_on(lab: Lab) -> None:
    alice, bob, secret = lab.phone(ssrc=1), lab.phone(ssrc=2), Secret()
    a, b = lab.ports(2)
    await lab.put(Session("call", HOST, (Stream(secured(alice, secret, a), lab.side(b, bob)),)))
    said = alice.packet()
    sent = secret.out.protect(said)
    plain, forged = alice.packet(), secret.out.protect(alice.packet())
    for data in (sent, sent, plain, forged[:-1] + bytes([forged[-1] ^ 1])):
        alice.send(a, data)
    last = alice.packet()
    alice.send(a, secret.out.protect(last))
    assert await bob.hear(2) == [said, last]
    assert (await lab.drop("call")).stats[0].dropped == 3


async def test_nothing_is_said_or_heard_in_the_clear_before_the_keys_are_known(lab: Lab) -> None:
    alice, bob, secret = lab.phone(ssrc=1), lab.phone(ssrc=2), Secret()
    a, b = lab.ports(2)
    plain = lab.side(b, bob)
    await lab.put(Session("call", HOST, (Stream(Lab.side(a, alice, srtp=Keys("")), plain),)))
    alice.talk(a, 3)
    bob.talk(b, 3)
    await lab.settle(6)
    assert alice.hears_nothing()
    assert bob.hears_nothing()
    await lab.put(Session("call", HOST, (Stream(secured(alice, secret, a), plain),)))
    await talk_each_way(a, b, alice, secret, bob)


async def test_an_application_gives_back_what_is_said_under_our_own_key(lab: Lab) -> None:
    alice, secret = lab.phone(ssrc=1), Secret()
    (a,) = lab.ports()
    await lab.put(Session("call", HOST, (Stream(secured(alice, secret, a), mode=Mode.ECHO),)))
    said = alice.packet()
    alice.send(a, secret.out.protect(said))
    assert secret.readable(await alice.hear())[0][12:] == said[12:]


async def test_counting_goes_on_when_the_peer_moves_and_begins_anew_with_new_keys(lab: Lab) -> None:
    alice, bob, secret = lab.phone(ssrc=1), lab.phone(ssrc=2), Secret()
    a, b = lab.ports(2)
    side, other = secured(alice, secret, a), lab.side(b, bob)
    await lab.put(Session("call", HOST, (Stream(side, other),)))
    await talk_each_way(a, b, alice, secret, bob, 10)  # Past the wrap: the roll-over counters are 1.
    await lab.put(Session("call", HOST, (Stream(replace(side, generation=1), other),)))
    await talk_each_way(a, b, alice, secret, bob)
    secret = Secret()
    await lab.put(Session("call", HOST, (Stream(replace(side, srtp=secret.keys), other),)))
    await talk_each_way(a, b, alice, secret, bob)


def rolled(events: Iterable[Event], port: int) -> tuple[Rolled, ...]:
    """The last report of each way and source, as the signalling keeps them."""
    last = {(e.rolled.way, e.rolled.ssrc): e.rolled for e in events if isinstance(e, RolledOver) and e.port == port}
    return tuple(last.values())


@pytest.mark.parametrize("suite", ["AES_CM_128_HMAC_SHA1_32", SUITE])
async def test_another_process_goes_on_with_roll_over_counters_above_zero(suite: str) -> None:
    """Warden dies in the middle of a stream whose sequence numbers have come round: the phones notice nothing."""
    secret = Secret(suite)
    report = rtcp.build((rtcp.ReceiverReport(2, ()),))
    async with running_lab() as first:
        alice, bob, bobs_rtcp = first.phone(ssrc=1), first.phone(ssrc=2), first.phone()
        a, b = first.ports(2)
        side = Side(a, alice.address, bobs_rtcp.address, hosts=(HOST,), srtp=secret.keys)
        other = first.side(b, bob)
        await first.put(Session("call", HOST, (Stream(side, other),)))
        await talk_each_way(a, b, alice, secret, bob, 10)
        alices_rtcp = bobs_rtcp  # Where the relay sends what Bob reports.
        bob.send(b + 1, report)
        (control,) = await alices_rtcp.hear()
        assert secret.into.unprotect_rtcp(control) == report
        events: list[Event] = []
        while len(known := rolled(events, a)) < 3:
            events.append(await first.event())
        assert {(r.way, r.ssrc, r.index >> 16) for r in known} == {(Way.IN, 1, 1), (Way.OUT, 2, 1), (Way.RTCP, 2, 0)}
        # These nobody reports any more.
        await talk_each_way(a, b, alice, secret, bob, 5)
        phones, first.phones = first.phones, []
    async with running_lab() as second:
        second.phones = phones
        await second.put(Session("call", HOST, (Stream(replace(side, rolled=known), other),)))
        await talk_each_way(a, b, alice, secret, bob, 5)
        bob.send(b + 1, report)
        (control,) = await alices_rtcp.hear()
        assert secret.into.unprotect_rtcp(control) == report


async def test_without_that_knowledge_nothing_would_be_understood() -> None:
    """The test above is none unless this holds."""
    secret = Secret()
    async with running_lab() as lab:
        alice, bob = lab.phone(ssrc=1), lab.phone(ssrc=2)
        a, b = lab.ports(2)
        for _ in range(10):
            secret.out.protect(alice.packet())
        await lab.put(Session("call", HOST, (Stream(secured(alice, secret, a), lab.side(b, bob)),)))
        alice.send(a, secret.out.protect(alice.packet()))
        await lab.settle(1)
        assert bob.hears_nothing()
