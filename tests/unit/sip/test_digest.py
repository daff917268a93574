"""Digest authentication: the vectors of the RFCs, nonces that prove themselves, replays refused."""

from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warden.core.errors import MalformedMessage
from warden.sip.digest import (
    CLOCK_SKEW_S,
    CREDENTIALS_CHARS_MAX,
    CREDENTIALS_MAX,
    NONCE_LIFETIME_S,
    Algorithm,
    NonceCounts,
    Nonces,
    NonceState,
    authorize,
    challenge,
    ha1,
    parse_authorization,
    parse_challenge,
    read_credentials,
    uri_matches,
    verify,
)
from warden.sip.message import Request

NOW = 1_700_000_000.0
KEY = bytes(range(32))


def request(*fields: tuple[str, str]) -> Request:
    return Request("REGISTER", "sip:pbx.example.com", fields)


# realm, username, password, method, uri, nonce, cnonce, algorithm, response
RFC_7616_NONCE = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
RFC_7616_CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
VECTORS = [
    pytest.param(
        ("http-auth@example.org", "Mufasa", "Circle of Life", "GET", "/dir/index.html"),
        (RFC_7616_NONCE, RFC_7616_CNONCE, "MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        id="RFC 7616 section 3.9.1, MD5",
    ),
    pytest.param(
        ("http-auth@example.org", "Mufasa", "Circle of Life", "GET", "/dir/index.html"),
        (
            RFC_7616_NONCE,
            RFC_7616_CNONCE,
            "SHA-256",
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
        ),
        id="RFC 7616 section 3.9.1, SHA-256",
    ),
    pytest.param(
        ("api@example.org", "J\u00e4s\u00f8n Doe", "Secret, or not?", "GET", "/doe.json"),
        (
            "5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK",
            "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v",
            "SHA-512-256",
            "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5",
        ),
        id="RFC 7616 section 3.9.2 as erratum 4897 corrects it, SHA-512-256",
    ),
    pytest.param(
        ("testrealm@host.com", "Mufasa", "Circle Of Life", "GET", "/dir/index.html"),
        ("dcd98b7102dd2f0e8b11d0f600bfb0c093", "0a4f113b", "MD5", "6629fae49393a05397450978507c4ef1"),
        id="RFC 2617 section 3.5",
    ),
    pytest.param(
        ("biloxi.com", "bob", "zanzibar", "INVITE", "sip:bob@biloxi.com"),
        ("dcd98b7102dd2f0e8b11d0f600bfb0c093", "0a4f113b", "MD5", "89eb0059246c02b2f6ee02c7961d5ea3"),
        id="SIP authentication examples, with qop",
    ),
    pytest.param(
        ("biloxi.com", "bob", "zanzibar", "INVITE", "sip:bob@biloxi.com"),
        ("dcd98b7102dd2f0e8b11d0f600bfb0c093", "", "MD5", "bf57e4e0d0bffc0fbaedce64d59add5e"),
        id="SIP authentication examples, without qop (RFC 2069)",
    ),
]


@pytest.mark.parametrize(("who", "what"), VECTORS)
def test_both_sides_agree_with_the_published_examples(who: tuple[str, ...], what: tuple[str, ...]) -> None:
    realm, username, password, method, uri = who
    nonce, cnonce, algorithm, response = what
    qop = ', qop="auth, auth-int"' if cnonce else ""
    asked = f'Digest realm="{realm}", nonce="{nonce}"{qop}, algorithm={algorithm}, opaque="xyz"'
    value = authorize([asked], username=username, password=password, method=method, uri=uri, cnonce=cnonce)
    credentials = parse_authorization(value)
    assert credentials.response == response
    assert credentials.opaque == "xyz"
    stored = ha1(username, realm, password, algorithm)
    assert verify(credentials, method, stored, require_qop=bool(cnonce))
    assert not verify(credentials, "BYE", stored, require_qop=False)
    assert not verify(credentials, method, ha1(username, realm, password + "x", algorithm), require_qop=False)


def test_a_response_without_qop_is_accepted_only_where_that_is_allowed() -> None:
    value = authorize(
        ['Digest realm="r", nonce="n"'], username="u", password="p", method="BYE", uri="sip:r", cnonce="c"
    )
    credentials = parse_authorization(value)
    assert (credentials.qop, credentials.nonce_count) == (None, 0)
    assert verify(credentials, "BYE", ha1("u", "r", "p", "MD5"), require_qop=False)
    assert not verify(credentials, "BYE", ha1("u", "r", "p", "MD5"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("qop=auth", "qop=auth-int"),
        ("algorithm=MD5", "algorithm=MD5-sess"),
        ("algorithm=MD5", "algorithm=SHA-1"),
        ('response="', 'response="\u00e9\udcff'),
    ],
)
def test_unknown_algorithms_auth_int_and_odd_responses_are_refused(before: str, after: str) -> None:
    asked = challenge("r", "n", ["MD5"])
    value = authorize(asked, username="u", password="p", method="BYE", uri="sip:r", cnonce="c")
    stored = ha1("u", "r", "p", "MD5")
    assert verify(parse_authorization(value), "BYE", stored)
    assert not verify(parse_authorization(value.replace(before, after)), "BYE", stored)


def test_phones_that_quote_everything_or_shout_are_understood() -> None:
    asked = challenge("pbx", "n", ["MD5"])
    value = authorize(asked, username="1001", password="p", method="BYE", uri="sip:pbx", cnonce="c", nc=10)
    loud = (
        value.replace("Digest ", "DIGEST  ")
        .replace("algorithm=MD5", 'algorithm="md5"')
        .replace("qop=auth", 'QOP = "auth"')
        .replace("nc=0000000a", 'nc="0000000a"')
        .replace(", ", ",")
    )
    credentials = parse_authorization(loud)
    assert credentials.nonce_count == 10
    assert verify(credentials, "BYE", ha1("1001", "pbx", "p", "MD5"))


def test_quotes_and_backslashes_in_names_survive_the_way() -> None:
    name, realm = 'a"b\\c', 'the "realm"'
    asked = challenge(realm, "n", ["SHA-256"])
    assert parse_challenge(asked[0]).realm == realm
    value = authorize(asked, username=name, password="p", method="BYE", uri="sip:r", cnonce="c")
    credentials = parse_authorization(value)
    assert (credentials.username, credentials.realm) == (name, realm)
    assert verify(credentials, "BYE", ha1(name, realm, "p", "SHA-256"))


def test_a_challenge_is_offered_per_algorithm_in_order_of_preference() -> None:
    nonce = Nonces(KEY).issue(NOW)
    values = challenge("pbx.example.com", nonce, ["SHA-256", "MD5"], stale=True)
    read = [parse_challenge(value) for value in values]
    assert [(c.algorithm, c.qop, c.stale, c.nonce, c.opaque) for c in read] == [
        ("SHA-256", ("auth",), True, nonce, None),
        ("MD5", ("auth",), True, nonce, None),
    ]
    assert "stale" not in challenge("pbx.example.com", nonce, ["MD5"])[0]


def test_a_client_answers_the_first_challenge_that_it_understands() -> None:
    asked = [
        'Basic realm="r"',
        'Digest realm="r", nonce="a", algorithm=SHA-3, qop="auth"',
        'Digest realm="r", nonce="b", algorithm=SHA-512-256, qop="auth-int"',
        'Digest realm="r", nonce="c", algorithm=SHA-256, qop="auth"',
        'Digest realm="r", nonce="d", algorithm=MD5, qop="auth"',
    ]
    value = authorize(asked, username="u", password="p", method="BYE", uri="sip:r", cnonce="c")
    assert (parse_authorization(value).nonce, parse_authorization(value).algorithm) == ("c", "SHA-256")
    with pytest.raises(MalformedMessage):
        authorize(asked[:3], username="u", password="p", method="BYE", uri="sip:r", cnonce="c")


def test_a_nonce_is_fresh_for_its_lifetime_on_every_node_with_the_key() -> None:
    nonce = Nonces(KEY, salt=b"one").issue(NOW)
    other = Nonces(KEY, salt=b"two")
    assert other.check(NOW, nonce) is NonceState.FRESH
    assert other.check(NOW + NONCE_LIFETIME_S - 0.01, nonce) is NonceState.FRESH
    assert other.check(NOW + NONCE_LIFETIME_S + 0.01, nonce) is NonceState.STALE
    assert other.check(NOW - CLOCK_SKEW_S + 0.01, nonce) is NonceState.FRESH
    assert other.check(NOW - CLOCK_SKEW_S - 0.01, nonce) is NonceState.STALE
    assert Nonces(KEY, lifetime_s=10).check(NOW + 11, nonce) is NonceState.STALE


def test_no_two_nonces_are_alike_even_at_the_same_moment() -> None:
    one, two = Nonces(KEY, salt=b"one"), Nonces(KEY, salt=b"two")
    issued = [nonces.issue(NOW) for nonces in (one, two) for _ in range(1000)]
    assert len(set(issued)) == len(issued)


def test_a_nonce_changed_in_any_place_or_signed_by_another_key_is_forged() -> None:
    nonces = Nonces(KEY)
    nonce = nonces.issue(NOW)
    for i, c in enumerate(nonce):
        for other in "A_\u00e9\udc80 \n":
            if other != c:
                assert nonces.check(NOW, nonce[:i] + other + nonce[i + 1 :]) is NonceState.FORGED
    for wrong in ("", nonce[:-1], nonce + "A", nonce + "=", "=" * 40, "A" * 40, Nonces(b"other").issue(NOW)):
        assert nonces.check(NOW, wrong) is NonceState.FORGED


def test_a_nonce_has_one_spelling_so_that_its_counts_cannot_be_started_anew() -> None:
    nonces = Nonces(KEY)
    respelled = [(n, n.replace("-", "+").replace("_", "/")) for n in (nonces.issue(NOW) for _ in range(200))]
    different = [(n, other) for n, other in respelled if n != other]
    assert different
    for nonce, other in different:
        assert nonces.check(NOW, nonce) is NonceState.FRESH
        assert nonces.check(NOW, other) is NonceState.FORGED


def test_a_count_is_accepted_once_and_only_upwards() -> None:
    counts = NonceCounts()
    assert [counts.accept("a", nc) for nc in (1, 2, 2, 1, 5, 4, 6)] == [True, True, False, False, True, False, True]
    assert counts.accept("b", 1)
    assert not counts.accept("c", 0)


def test_counts_are_bounded_and_the_longest_unused_nonce_is_forgotten_first() -> None:
    counts = NonceCounts(size=2)
    assert counts.accept("a", 1)
    assert counts.accept("b", 1)
    assert counts.accept("a", 2)
    assert counts.accept("c", 1)
    assert len(counts) == 2
    assert not counts.accept("a", 2)
    assert counts.accept("b", 1)


@pytest.mark.parametrize(
    ("uri", "target", "matches"),
    [
        ("sip:pbx.example.com", "sip:pbx.example.com", True),
        ("sip:pbx.example.com", "sip:PBX.example.com:5060;transport=tcp", True),
        ("sip:1002@pbx.example.com", "sips:1002@pbx.example.com;user=phone", True),
        ("sip:%31002@pbx.example.com", "sip:1002@pbx.example.com", True),
        ("sip:pbx.example.com", "sip:1002@pbx.example.com", True),
        ("sip:1002@pbx.example.com", "sip:1003@pbx.example.com", False),
        ("sip:1002@other.example.com", "sip:1002@pbx.example.com", False),
        ("tel:1002", "sip:1002@pbx.example.com", False),
        ("tel:1002", "sip:1002", False),
        ("tel:1002", "tel:1002", True),
        ("", "sip:pbx.example.com", False),
        ("/index.html", "sip:pbx.example.com", False),
    ],
)
def test_the_uri_of_credentials_names_the_same_resource_as_the_request(uri: str, target: str, matches: bool) -> None:
    assert uri_matches(uri, target) is matches


def test_schemes_other_than_digest_are_passed_over_as_in_regaut01_of_rfc_4475() -> None:
    value = authorize(challenge("r", "n", ["MD5"]), username="u", password="p", method="BYE", uri="sip:r", cnonce="c")
    seen = read_credentials(
        request(("Authorization", "NoOneKnowsThisScheme opaque-data=here"), ("Authorization", value))
    )
    assert [c.username for c in seen] == ["u"]
    assert read_credentials(request()) == ()
    assert read_credentials(request(("Proxy-Authorization", value)), "Proxy-Authorization")[0].nonce == "n"


def test_the_empty_credentials_of_a_first_ims_registration_can_be_read_and_are_forged() -> None:
    empty = 'Digest username="1001@pbx", realm="pbx", nonce="", uri="sip:pbx", response=""'
    credentials = parse_authorization(empty)
    assert Nonces(KEY).check(NOW, credentials.nonce) is NonceState.FORGED
    assert not verify(credentials, "REGISTER", ha1("1001@pbx", "pbx", "p", "MD5"), require_qop=False)


GOOD = 'Digest username="u", realm="r", nonce="n", uri="sip:r", response="0", qop=auth, nc=00000001, cnonce="c"'


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Digest",
        "Basic dTpw",
        "Digest ,",
        GOOD.replace('username="u", ', ""),
        GOOD.replace('response="0", ', ""),
        GOOD.replace(', cnonce="c"', ""),
        GOOD.replace("nc=00000001, ", ""),
        GOOD.replace("nc=00000001", "nc=xyz"),
        GOOD.replace("nc=00000001", "nc=123456789"),
        GOOD.replace('realm="r"', 'realm="r'),
        GOOD.replace('realm="r"', "realm"),
        GOOD.replace('realm="r"', 'realm="r" x'),
        GOOD + ', username="v"',
        GOOD + "".join(f", x{i}=y" for i in range(40)),
        GOOD + ', x="' + "y" * CREDENTIALS_CHARS_MAX + '"',
    ],
)
def test_damaged_credentials_are_refused_with_400(value: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        parse_authorization(value)
    assert caught.value.status == 400


def test_a_message_with_very_many_credentials_is_refused() -> None:
    assert len(read_credentials(request(*[("Authorization", GOOD)] * CREDENTIALS_MAX))) == CREDENTIALS_MAX
    with pytest.raises(MalformedMessage):
        read_credentials(request(*[("Authorization", GOOD)] * (CREDENTIALS_MAX + 1)))


def test_a_damaged_challenge_is_refused() -> None:
    for value in ('Digest realm="r"', 'Digest nonce="n"', 'Basic realm="r"'):
        with pytest.raises(MalformedMessage):
            parse_challenge(value)


def mutations(value: str) -> Iterator[str]:
    for i in range(len(value)):
        yield value[:i]
        yield value[i:]
        for nasty in ("", '"', "\\", ",", "=", " ", "\t", "\n", "\0", "\u00e9", "\udcff", "9" * 30):
            yield value[:i] + nasty + value[i + 1 :]


def test_credentials_damaged_anywhere_are_read_or_refused_and_never_proven_by_a_damaged_proof() -> None:
    nonces = Nonces(KEY)
    value = authorize(
        challenge("pbx", nonces.issue(NOW), ["SHA-256", "MD5"]),
        username="1001",
        password="p",
        method="INVITE",
        uri="sip:1002@pbx",
        cnonce="0a4f113b",
    )
    sound = parse_authorization(value)
    stored = ha1("1001", "pbx", "p", "SHA-256")
    hashed = ("nonce", "uri", "response", "algorithm", "qop", "nc", "cnonce")
    proven = 0
    for damaged in mutations(value):
        with suppress(MalformedMessage):
            parse_challenge(damaged)
        with suppress(MalformedMessage):
            credentials = parse_authorization(damaged)
            nonces.check(NOW, credentials.nonce)
            uri_matches(credentials.uri, "sip:1002@pbx")
            assert 0 <= credentials.nonce_count <= 0xFFFFFFFF
            unharmed = all(getattr(credentials, name) == getattr(sound, name) for name in hashed)
            assert verify(credentials, "INVITE", stored) is unharmed
            proven += unharmed
    assert proven > 0


def test_no_secret_shows_in_what_may_be_logged() -> None:
    value = authorize(challenge("r", "n", ["MD5"]), username="u", password="p", method="BYE", uri="sip:r", cnonce="c")
    credentials = parse_authorization(value)
    for shown in (repr(credentials), str(credentials), repr([credentials]), repr(Nonces(KEY))):
        assert credentials.response not in shown
        assert repr(KEY)[2:-1] not in shown
    with pytest.raises(MalformedMessage) as caught:
        parse_authorization(value.replace('cnonce="c"', 'cnonce="c'))
    assert credentials.response not in str(caught.value)


def test_an_unknown_algorithm_has_no_ha1() -> None:
    with pytest.raises(ValueError, match="SHA-1"):
        ha1("u", "r", "p", "SHA-1")


NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20)
TOKENS = st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=20)


@given(NAMES, NAMES, NAMES, TOKENS, st.sampled_from(list(Algorithm)), st.integers(1, 0xFFFFFFFF))
def test_what_a_client_writes_a_server_reads_and_believes(
    username: str, realm: str, password: str, cnonce: str, algorithm: Algorithm, nc: int
) -> None:
    nonces = Nonces(KEY)
    asked = challenge(realm, nonces.issue(NOW), [algorithm])
    value = authorize(
        asked, username=username, password=password, method="INVITE", uri="sip:1002@pbx", cnonce=cnonce, nc=nc
    )
    credentials = parse_authorization(value)
    assert (credentials.username, credentials.realm, credentials.nonce_count) == (username, realm, nc)
    assert nonces.check(NOW + 1, credentials.nonce) is NonceState.FRESH
    assert verify(credentials, "INVITE", ha1(username, realm, password, algorithm))
    assert not verify(credentials, "INVITE", ha1(username, realm, password + "!", algorithm))


@given(st.text(max_size=200))
def test_text_of_chance_never_breaks_a_reader(text: str) -> None:
    for value in (text, f"Digest {text}"):
        with suppress(MalformedMessage):
            parse_challenge(value)
        with suppress(MalformedMessage):
            verify(parse_authorization(value), "INVITE", "0" * 32)
    assert Nonces(KEY).check(NOW, text) is NonceState.FORGED
