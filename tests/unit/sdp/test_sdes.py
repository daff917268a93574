"""SRTP keys in descriptions (RFC 4568): what is read, what is said, and what never leaks."""

from itertools import count

import pytest

from warden.sdp.crypto import KEY_BYTES, SUITES, Crypto, Keys, disclosed, key_text, read_crypto
from warden.sdp.sdes import DEAF, NewKey, NotSecure, Policy, Sdes, heard_answer, heard_offer, say_answer, say_offer
from warden.sdp.session import parse

HEAD = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
PLAIN = HEAD + "m=audio 4000 RTP/AVP 0 101\r\na=rtpmap:0 PCMU/8000\r\na=sendrecv\r\n"
THEIRS = {suite: key_text(bytes([i]) * KEY_BYTES[suite]) for i, suite in enumerate(SUITES, 1)}
CM80, GCM = "AES_CM_128_HMAC_SHA1_80", "AEAD_AES_128_GCM"


def keys_from(first: int = 100) -> NewKey:
    serial = count(first)
    return lambda size: bytes([next(serial)]) * size


def with_crypto(sdp: str, *values: str, protocol: str = "RTP/SAVP") -> str:
    return sdp.replace("RTP/AVP", protocol) + "".join(f"a=crypto:{value}\r\n" for value in values)


def line(suite: str, tag: int = 1) -> str:
    return f"{tag} {suite} inline:{THEIRS[suite]}"


def cryptos(sdp: str) -> tuple[Crypto, ...]:
    return disclosed(sdp)[1][0].cryptos


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        (f"1 {CM80} inline:{THEIRS[CM80]}", 1),
        (f"2 {CM80.lower()} INLINE:{THEIRS[CM80]}|2^31", 2),
        (f"3 {CM80} inline:{THEIRS[CM80]}|1048576 WSH=64", 3),
        (f"4 {GCM} inline:{THEIRS[GCM].rstrip('=')}", 4),
        (f"5 {CM80} inline:{THEIRS[CM80]} -SOMETHING=1", 5),
        (f"6 {CM80} inline:{THEIRS[CM80]}|2^31|1:4", None),
        (f"7 {CM80} inline:{THEIRS[CM80]}|1:1", None),
        (f"8 {CM80} inline:{THEIRS[CM80]} UNENCRYPTED_SRTP", None),
        (f"9 {CM80} inline:{THEIRS[CM80]} KDR=1", None),
        (f"10 {CM80} inline:{THEIRS[GCM]}", None),
        (f"11 {CM80} inline:?", None),
        (f"12 F8_128_HMAC_SHA1_80 inline:{THEIRS[CM80]}", None),
        (f"x {CM80} inline:{THEIRS[CM80]}", None),
        (f"1 {CM80} uri:{THEIRS[CM80]}", None),
        (f"1 {CM80}", None),
        ("", None),
    ],
)
def test_a_line_is_used_where_it_asks_for_nothing_that_warden_does_not_do(value: str, tag: int | None) -> None:
    crypto = read_crypto(value)
    assert (None if crypto is None else crypto.tag) == tag
    if crypto is not None:
        assert read_crypto(str(crypto).removeprefix("a=crypto:")) == crypto


def test_keys_are_not_shown_where_values_are_printed() -> None:
    crypto = read_crypto(line(CM80))
    assert THEIRS[CM80] not in repr((crypto, Keys(CM80, THEIRS[CM80], THEIRS[CM80])))


def test_an_offer_is_answered_with_our_key_for_the_first_suite_it_names() -> None:
    offer = with_crypto(PLAIN, line(CM80, 7), line(GCM, 8))
    sdes, text = heard_offer(Sdes(Policy.OPTIONAL), offer)
    assert text == PLAIN
    assert sdes.keys(0) == Keys(CM80, THEIRS[CM80], ""), "heard, and nothing said before we have answered"
    sdes, answer = say_answer(sdes, PLAIN, keys_from())
    (ours,) = cryptos(answer)
    assert (ours.tag, ours.suite) == (7, CM80)
    assert ours.key != THEIRS[CM80]
    assert "RTP/SAVP" in answer
    assert sdes.keys(0) == Keys(CM80, THEIRS[CM80], ours.key)
    assert say_answer(sdes, PLAIN, keys_from()) == (sdes, answer), "said again it is the same"


def test_best_effort_is_answered_in_the_transport_it_was_offered_in() -> None:
    sdes, text = heard_offer(Sdes(Policy.OPTIONAL), with_crypto(PLAIN, line(GCM), protocol="RTP/AVP"))
    assert text == PLAIN
    _, answer = say_answer(sdes, PLAIN, keys_from())
    assert "RTP/AVP" in answer
    assert len(cryptos(answer)) == 1


def test_a_plain_offer_is_answered_plainly_unless_keys_are_required() -> None:
    sdes, text = heard_offer(Sdes(Policy.OPTIONAL), PLAIN)
    sdes, answer = say_answer(sdes, text, keys_from())
    assert (answer, sdes.keys(0)) == (PLAIN, None)
    with pytest.raises(NotSecure) as refusal:
        heard_offer(Sdes(Policy.REQUIRED), PLAIN)
    assert refusal.value.status == 488


@pytest.mark.parametrize(("policy", "value"), [(Policy.OFF, line(CM80)), (Policy.OPTIONAL, f"{line(CM80)}|1:4")])
def test_a_secure_offer_without_keys_that_may_be_used_is_refused(policy: Policy, value: str) -> None:
    with pytest.raises(NotSecure):
        heard_offer(Sdes(policy), with_crypto(PLAIN, value))


def test_of_a_secure_and_a_plain_stream_the_one_is_taken_that_may_be() -> None:
    both = with_crypto(PLAIN, line(CM80)) + PLAIN.removeprefix(HEAD).replace("4000", "4002")
    _, text = heard_offer(Sdes(Policy.REQUIRED), both)
    assert "m=audio 4000 RTP/AVP 0 101" in text
    assert "m=audio 0 RTP/AVP 0 101" in text
    sdes, text = heard_offer(Sdes(Policy.OFF), both)
    assert "m=audio 0 RTP/AVP 0 101" in text
    _, answer = say_answer(sdes, text, keys_from())
    assert "m=audio 0 RTP/SAVP 0 101" in answer, "a refused stream keeps its transport"
    assert "crypto" not in answer


def test_required_offers_a_secure_transport_and_optional_best_effort() -> None:
    for policy, protocol in ((Policy.REQUIRED, "RTP/SAVP"), (Policy.OPTIONAL, "RTP/AVP")):
        sdes, offer = say_offer(Sdes(policy, offers=True), PLAIN, keys_from())
        assert f" {protocol} " in offer
        assert [c.suite for c in cryptos(offer)] == list(SUITES)
        assert len({c.key for c in cryptos(offer)}) == len(SUITES)
        assert sdes.keys(0) == DEAF, "before the answer nothing can be understood"
        sdes, text = heard_answer(sdes, with_crypto(PLAIN, line(CM80, 2), protocol=protocol))
        assert text == PLAIN
        assert sdes.keys(0) == Keys(CM80, THEIRS[CM80], cryptos(offer)[1].key)


def test_a_phone_that_takes_no_keys_is_spoken_to_plainly_where_it_may_be() -> None:
    sdes, _ = say_offer(Sdes(Policy.OPTIONAL, offers=True), PLAIN, keys_from())
    sdes, text = heard_answer(sdes, PLAIN)
    assert (text, sdes.keys(0)) == (PLAIN, None)
    again = say_offer(sdes, PLAIN, keys_from())[1]
    assert again == PLAIN.replace("o=- 1 1", "o=- 1 2"), "and is not asked again"
    sdes, _ = say_offer(Sdes(Policy.REQUIRED, offers=True), PLAIN, keys_from())
    with pytest.raises(NotSecure):
        heard_answer(sdes, PLAIN)
    with pytest.raises(NotSecure):
        heard_answer(sdes, with_crypto(PLAIN, line(CM80) + "|1:4"))


def agreed() -> tuple[Sdes, str]:
    """A leg that stands, and its key of ours."""
    sdes, text = heard_offer(Sdes(Policy.OPTIONAL, offers=True), with_crypto(PLAIN, line(CM80)))
    sdes, answer = say_answer(sdes, text, keys_from())
    return sdes, cryptos(answer)[0].key


def test_hold_and_resume_keep_the_keys() -> None:
    sdes, ours = agreed()
    again, text = heard_offer(sdes, with_crypto(PLAIN, line(GCM, 1), line(CM80, 2)))
    assert again.keys(0) == sdes.keys(0), "in force until the answer"
    again, answer = say_answer(again, text, keys_from(200))
    assert cryptos(answer) == (Crypto(2, CM80, ours),)
    assert again.keys(0) == sdes.keys(0)
    again, offer = say_offer(again, PLAIN, keys_from(200))
    assert "RTP/SAVP" in offer
    assert cryptos(offer) == (Crypto(1, CM80, ours),)
    again, _ = heard_answer(again, with_crypto(PLAIN, line(CM80)))
    assert again.keys(0) == sdes.keys(0)


def test_the_version_grows_with_the_keys_and_only_with_them() -> None:
    def version(sdp: str) -> str:
        return parse(sdp).origin.version

    sdes, first = say_offer(Sdes(Policy.OPTIONAL, offers=True), PLAIN, keys_from())
    sdes, _ = heard_answer(sdes, with_crypto(PLAIN, line(CM80, 2)))
    # What had three keys has one now.
    sdes, again = say_offer(sdes, PLAIN, keys_from())
    sdes, third = say_offer(sdes, PLAIN, keys_from())
    assert (version(first), version(again), version(third)) == ("1", "2", "2")
    assert again == third
    assert version(say_offer(sdes, PLAIN.replace("o=- 1 1", "o=- 1 2"), keys_from())[1]) == "3"


def test_a_peer_with_another_key_gets_another_key_of_ours() -> None:
    sdes, ours = agreed()
    other = key_text(b"o" * 30)
    changed, text = heard_offer(sdes, with_crypto(PLAIN, f"1 {CM80} inline:{other}"))
    changed, _ = say_answer(changed, text, keys_from(200))
    keys = changed.keys(0)
    assert keys is not None
    assert keys.inbound == other
    assert keys.outbound not in ("", ours)


def test_an_offer_that_we_refused_changes_nothing() -> None:
    sdes, _ = agreed()
    pending, _ = heard_offer(sdes, with_crypto(PLAIN, line(GCM)))
    assert pending.keys(0) == sdes.keys(0)
    offered, _ = say_offer(pending, PLAIN, keys_from(200))
    assert offered.keys(0) == sdes.keys(0)


def test_fax_beside_audio_is_left_alone() -> None:
    fax = "m=image 4004 udptl t38\r\na=T38FaxVersion:0\r\n"
    sdes, text = heard_offer(Sdes(Policy.REQUIRED), with_crypto(PLAIN, line(CM80)) + fax)
    assert text == PLAIN + fax
    _, answer = say_answer(sdes, text, keys_from())
    assert answer.endswith(fax)
    assert [len(stream.cryptos) for stream in disclosed(answer)[1]] == [1, 0]
