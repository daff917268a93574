"""URIs and name-addrs: read, printed, compared (RFC 3261 sections 19.1 and 20.10)."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warden.core.address import Transport
from warden.core.errors import MalformedMessage
from warden.sip.uri import (
    CACHED_CHARS_MAX,
    NameAddr,
    Uri,
    escape_user,
    parse_host_port,
    parse_name_addr,
    parse_params,
    parse_uri,
    print_params,
    split_outside_quotes,
    unescape,
)

UNRESERVED = "abcXYZ019-_.!~*'()"
escapes = st.integers(0, 255).map(lambda b: f"%{b:02X}")
tokens = st.text("abcXYZ019-.!%*_+`'~", min_size=1, max_size=8)


def escaped(alphabet: str, *, minimum: int = 1) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(alphabet) | escapes, min_size=minimum, max_size=8).map("".join)


pvalues = escaped(UNRESERVED + "[]/:&+$")
labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True)
hosts = (
    st.lists(labels, min_size=1, max_size=3).map(".".join)
    | st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).map(str)
)
uri_params = st.lists(
    st.tuples(pvalues, st.none() | pvalues), max_size=3, unique_by=lambda param: param[0].lower()
).map(tuple)
header_values = escaped(UNRESERVED + "[]/?:+$", minimum=0)
uri_headers = st.lists(st.tuples(escaped(UNRESERVED + "[]/?:+$"), header_values), max_size=2).map(
    lambda items: "&".join(f"{name}={value}" for name, value in items)
)


@st.composite
def sip_uris(draw: st.DrawFn) -> Uri:
    user = draw(st.none() | escaped(UNRESERVED + "&=+$,;?/"))
    return Uri(
        draw(st.sampled_from(["sip", "sips"])),
        draw(hosts),
        user,
        None if user is None else draw(st.none() | escaped(UNRESERVED + "&=+$,", minimum=0)),
        draw(st.none() | st.integers(0, 65535)),
        draw(uri_params),
        draw(uri_headers),
    )


@st.composite
def other_uris(draw: st.DrawFn) -> Uri:
    if draw(st.booleans()):
        return Uri("tel", draw(st.from_regex(r"\+?[0-9*#().-]{1,12}", fullmatch=True)), params=draw(uri_params))
    return Uri(draw(st.sampled_from(["http", "urn", "soap.beep"])), draw(escaped(UNRESERVED + ":/?#[]@;=&")))


header_params = st.lists(
    st.tuples(
        tokens,
        st.none()
        | tokens
        | st.just("[2001:db8::1]")
        | st.text(max_size=8).map(lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'),
    ),
    max_size=3,
    unique_by=lambda param: param[0].lower(),
).map(tuple)


@given(sip_uris() | other_uris())
def test_printed_uri_parses_to_itself(uri: Uri) -> None:
    assert parse_uri(str(uri)) == uri
    assert str(parse_uri(str(uri))) == str(uri)


@given(sip_uris())
def test_uri_is_equivalent_to_itself_and_to_itself_in_other_letters(uri: Uri) -> None:
    assert uri.equivalent(uri)
    shouted = Uri(uri.scheme, uri.host.upper(), uri.user, uri.password, uri.port, uri.params[::-1], uri.headers)
    assert uri.equivalent(shouted)
    assert shouted.equivalent(uri)


@given(sip_uris() | other_uris(), st.text(max_size=12), header_params)
def test_printed_name_addr_parses_to_itself(uri: Uri, display: str, params: tuple[tuple[str, str | None], ...]) -> None:
    name_addr = NameAddr(uri, display, params)
    assert parse_name_addr(str(name_addr)) == name_addr


@given(header_params)
def test_printed_parameters_parse_to_themselves(params: tuple[tuple[str, str | None], ...]) -> None:
    assert parse_params(print_params(params)) == params


@given(st.text(max_size=20))
def test_any_name_survives_as_a_user_part(name: str) -> None:
    user = escape_user(name)
    assert unescape(user) == name
    if name:
        assert parse_uri(f"sip:{user}@example.com").username == name


@given(st.text('sip:@;=?&<>"\\,[]%a1. \t\x00é', max_size=30))
def test_any_text_gives_a_value_or_a_malformed_message(text: str) -> None:
    for parse in (parse_uri, parse_name_addr, parse_params, parse_host_port):
        with suppress(MalformedMessage):
            parse(text)


EQUIVALENT = [
    ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"),
    ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
    ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
    ("sip:carol@chicago.com;newparam=5", "sip:carol@chicago.com;security=on"),
    (
        "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
        "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
    ),
    (
        "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
        "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
    ),
    ("tel:+15550100", "TEL:+15550100"),
    ("sip:a%3bb@example.com", "sip:a%3Bb@example.com"),
]
DIFFERENT = [
    ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
    ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
    ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
    ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
    ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
    ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
    ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
    # A reserved character is another one when it is escaped.
    ("sip:a;b@example.com", "sip:a%3Bb@example.com"),
    # A decoded escape does not become part of another one.
    ("sip:%2541@example.com", "sip:%41@example.com"),
    ("sip:bob@biloxi.com", "sips:bob@biloxi.com"),
    ("sip:bob@biloxi.com", "sip:biloxi.com"),
    ("sip:bob:secret@biloxi.com", "sip:bob@biloxi.com"),
    ("sip:bob@biloxi.com;user=phone", "sip:bob@biloxi.com"),
    ("sip:bob@biloxi.com;ttl=1", "sip:bob@biloxi.com"),
    ("sip:bob@biloxi.com;method=INVITE", "sip:bob@biloxi.com"),
    ("sip:bob@biloxi.com;maddr=192.0.2.1", "sip:bob@biloxi.com"),
]


@pytest.mark.parametrize(("one", "other"), EQUIVALENT)
def test_uris_are_equivalent(one: str, other: str) -> None:
    assert parse_uri(one).equivalent(parse_uri(other))
    assert parse_uri(other).equivalent(parse_uri(one))


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_uris_are_not_equivalent(one: str, other: str) -> None:
    assert not parse_uri(one).equivalent(parse_uri(other))
    assert not parse_uri(other).equivalent(parse_uri(one))


def test_equivalence_is_not_transitive_so_an_address_of_record_compares_bare() -> None:
    on, plain, off = (parse_uri(f"sip:carol@chicago.com{tail}") for tail in (";security=on", "", ";security=off"))
    assert on.equivalent(plain)
    assert plain.equivalent(off)
    assert not on.equivalent(off)
    assert on.bare() == plain.bare() == off.bare() == plain


def test_parts_of_a_uri_are_read() -> None:
    uri = parse_uri("sips:al%69ce:s3cret@[2001:db8::1]:5061;transport=TLS;lr;x=%20?Subject=a&b=")
    assert (uri.scheme, uri.user, uri.username, uri.password) == ("sips", "al%69ce", "alice", "s3cret")
    assert (uri.host, uri.port, uri.headers) == ("2001:db8::1", 5061, "Subject=a&b=")
    assert uri.params == (("transport", "TLS"), ("lr", None), ("x", "%20"))
    assert (uri.param("lr"), uri.param("maddr"), uri.transport) == ("", None, Transport.TLS)
    assert parse_uri("sip:h;transport=sctp").transport is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sip:",
        "sip",
        ":a@b",
        "sip:@b",
        "sip:a@",
        "sip:a b@c",
        "sip:a@b c",
        "sip:a%4@b",
        "sip:a@b:",
        "sip:a@b:99999",
        "sip:a@b:٣",
        "sip:a@b:" + "9" * 5000,
        "sip:a@b;",
        "sip:a@b;=x",
        "sip:a@b;x=",
        "sip:a@b;x=1;X=2",
        "sip:a@b?",
        "sip:a@b?x",
        "sip:a@b?x=1&",
        "sip:a@-b",
        "sip:a@b_-",
        "sip:a@[::1",
        "sip:a@[::1]x",
        "sip:a@[1.2.3.4]",
        "sip:a@[::g]",
        "<sip:a@b>",
        "tel:",
        "tel:;x",
        "tel:1 2",
        "http:",
        "http://a b",
        "1x:a",
    ],
)
def test_bad_uri_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        parse_uri(text)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("text", "display", "uri", "tag"),
    [
        ("<sip:a@b>", "", "sip:a@b", None),
        ("sip:a@b;tag=x", "", "sip:a@b", "x"),
        ("Alice <sip:a@b;lr>;tag=x", "Alice", "sip:a@b;lr", "x"),
        ('"A \\"B\\" \\\\" <sip:a@b> ; TAG = x', 'A "B" \\', "sip:a@b", "x"),
        ("Alice  von\tB<sip:a@b>", "Alice von B", "sip:a@b", None),
        ("Zoë (sales), 3rd <sip:a@b>;tag=1", "Zoë (sales), 3rd", "sip:a@b", "1"),
        ('"<sip:c@d>" <sip:a@b>', "<sip:c@d>", "sip:a@b", None),
        ('sip:a@b;x="<";tag=1', "", "sip:a@b", "1"),
        ("<tel:+1555;phone-context=x>", "", "tel:+1555;phone-context=x", None),
    ],
)
def test_name_addr_is_read(text: str, display: str, uri: str, tag: str | None) -> None:
    value = parse_name_addr(text)
    assert (value.display, str(value.uri), value.tag) == (display, uri, tag)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<",
        "<>",
        "<sip:a@b",
        "sip:a@b>",
        '"A <sip:a@b>',
        '"A\\" <sip:a@b>',
        '"A" sip:a@b',
        "<sip:a@b> x",
        "<sip:a@b>;",
        "<sip:a@b>;;tag=1",
        "<sip:a@b>;tag=1;tag=2",
        '<sip:a@b>;x="a"b"c"',
        "<sip:a@b>, <sip:c@d>",
        "sip:a@b, sip:c@d",
        "sip:a@b;tag=1, sip:c@d",
        "sip:a@b?x=y",
        "< sip:a@b>",
        "A\x00 <sip:a@b>",
    ],
)
def test_bad_name_addr_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage):
        parse_name_addr(text)


def test_tag_replaces_another_and_other_parameters_stay() -> None:
    value = parse_name_addr("<sip:a@b>;TAG=1;x")
    assert str(value.with_tag("2")) == "<sip:a@b>;x;tag=2"


def test_separator_within_quotes_and_brackets_does_not_split() -> None:
    assert split_outside_quotes('a,"b,\\",c",<d,e>,', ",") == ["a", '"b,\\",c"', "<d,e>", ""]
    assert split_outside_quotes('a;b="1;2";c', ";") == ["a", 'b="1;2"', "c"]
    for text in ('a,"b', "a,<b", 'a"b\\"'):
        with pytest.raises(MalformedMessage):
            split_outside_quotes(text, ",")


def test_host_port_forms() -> None:
    assert parse_host_port("example.com.") == ("example.com.", None)
    assert parse_host_port("[2001:db8::1]:5060") == ("2001:db8::1", 5060)
    assert parse_host_port("192.0.2.1:0") == ("192.0.2.1", 0)


def test_long_text_is_read_like_any_other_but_not_remembered() -> None:
    """What is remembered is bounded in bytes: a peer who sends long texts cannot fill the memory with them."""
    user = "a" * CACHED_CHARS_MAX
    remembered = [parse_uri("sip:bob@example.com"), parse_uri("sip:bob@example.com")]
    assert remembered[0] is remembered[1]
    long = [parse_uri(f"sip:{user}@example.com"), parse_uri(f"sip:{user}@example.com")]
    assert long[0] == long[1]
    assert long[0] is not long[1]
    assert long[0].user == user
    addresses = [parse_name_addr(f"<sip:{user}@example.com>;tag=1") for _ in range(2)]
    assert addresses[0] == addresses[1]
    assert addresses[0] is not addresses[1]
