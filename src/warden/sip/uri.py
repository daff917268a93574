"""SIP, SIPS and tel URIs, and the name-addr form that headers carry (RFC 3261 sections 19.1, 20.10, 25.1)."""

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import Final, Self

from msgspec import Struct
from msgspec.structs import replace

from warden.core.address import Transport
from warden.core.errors import MalformedMessage

Params = tuple[tuple[str, str | None], ...]
"""Parameters in order: (name, value); the value is None where there is no `=`. Names keep their spelling."""

CACHED_CHARS_MAX: Final = 256
"""Parsed values are remembered by their text; longer texts are parsed each time, so that a peer who sends long ones
cannot make the caches eat the memory (8,192 texts of 32 KiB would be 256 MiB).
"""

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9.])?\Z")
_IPV6 = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::([0-9]{1,5}))?\Z")
_USER = re.compile(r"(?:[A-Za-z0-9\-_.!~*'()&=+$,;?/#]++|%[0-9A-Fa-f]{2})++\Z")
_PASSWORD = re.compile(r"(?:[A-Za-z0-9\-_.!~*'()&=+$,]++|%[0-9A-Fa-f]{2})*+\Z")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*\Z")
_HNV = re.compile(r"(?:[A-Za-z0-9\-_.!~*'()\[\]/?:+$]++|%[0-9A-Fa-f]{2})*+\Z")
_PCHARS = r"(?:[A-Za-z0-9\-_.!~*'()\[\]/:&+$]++|%[0-9A-Fa-f]{2})++"
_URI_PARAM = re.compile(rf"({_PCHARS})(?:=({_PCHARS}))?\Z")
# The value may be more than a token or a host: what phones put there, as long as it ends where it seems to end.
_PARAM = re.compile(
    r"(?s)\s*([A-Za-z0-9\-.!%*_+`'~]++)\s*+"
    r"""(?:=\s*([^\x00-\x20\x7f<>",;]++|"(?:[^"\\]++|\\.)*+")\s*+)?\Z"""
)
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_QUOTED = re.compile(r'(?s)"((?:[^"\\]++|\\.)*+)"')
_QUOTED_PAIR = re.compile(r"(?s)\\(.)")
_TEL = re.compile(r"[+]?[0-9A-Za-z*#().\-_~]+\Z")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.!~*'()")


def unescape(text: str) -> str:
    """`text` with its %HH escapes decoded as UTF-8; bytes that are not UTF-8 come out as surrogates."""
    if "%" not in text:
        return text
    raw = _ESCAPE.sub(lambda m: chr(int(m[1], 16)), text.encode("utf-8", "surrogateescape").decode("latin-1"))
    return raw.encode("latin-1").decode("utf-8", "surrogateescape")


def escape_user(text: str) -> str:
    """`text` as the user part of a SIP URI."""
    if text.isalnum() and text.isascii():
        return text
    return "".join(
        chr(b) if b in _UNRESERVED or b in b"&=+$,;?/" else f"%{b:02X}" for b in text.encode("utf-8", "surrogateescape")
    )


class Uri(Struct, frozen=True, gc=False, omit_defaults=True):
    """A parsed URI. `user` and `password` are as written (escaped); schemes other than sip, sips and tel keep
    everything behind the colon in `host`, `user` being None.
    """

    scheme: str
    host: str
    user: str | None = None
    password: str | None = None
    port: int | None = None
    params: Params = ()
    headers: str = ""

    def __str__(self) -> str:
        parts = [self.scheme, ":"]
        if self.user is not None:
            parts.append(self.user)
            if self.password is not None:
                parts += (":", self.password)
            parts.append("@")
        parts.append(f"[{self.host}]" if ":" in self.host and self.scheme in ("sip", "sips") else self.host)
        if self.port is not None:
            parts.append(f":{self.port}")
        if self.params:
            parts.append(print_params(self.params))
        if self.headers:
            parts += ("?", self.headers)
        return "".join(parts)

    @property
    def username(self) -> str:
        """The user part decoded, "" where there is none."""
        user = self.user
        return "" if user is None else unescape(user) if "%" in user else user

    def param(self, name: str) -> str | None:
        """The value of parameter `name` (lower case), "" where it stands without a value, None where it is absent."""
        return find_param(self.params, name)

    @property
    def transport(self) -> Transport | None:
        """The `transport` parameter as one of ours; None where absent or unknown."""
        value = self.param("transport")
        try:
            return Transport(value.lower()) if value else None
        except ValueError:
            return None

    def bare(self) -> Self:
        """The URI without parameters, headers, password: what an address of record compares by (section 10.3)."""
        return replace(self, password=None, params=(), headers="")

    def equivalent(self, other: "Uri") -> bool:
        """Equality by the rules of RFC 3261 section 19.1.4.

        It is not transitive: `;security=on` and `;security=off` both equal the URI without either, yet differ. So it
        cannot make a dictionary key; `bare()` in lower case can.
        """
        if self == other:
            return True
        if self.scheme != other.scheme or self.scheme not in ("sip", "sips"):
            return str(self).lower() == str(other).lower()
        if _comparable(self.user) != _comparable(other.user) or _comparable(self.password) != _comparable(
            other.password
        ):
            return False
        if self.host.lower().rstrip(".") != other.host.lower().rstrip(".") or self.port != other.port:
            return False
        mine = {_folded(k): _folded(v or "") for k, v in self.params}
        theirs = {_folded(k): _folded(v or "") for k, v in other.params}
        if any(mine.get(k) != theirs.get(k) for k in ("user", "ttl", "method", "maddr", "transport")):
            return False
        if any(v != theirs[k] for k, v in mine.items() if k in theirs):
            return False
        return _header_set(self.headers) == _header_set(other.headers)


def _comparable(text: str | None) -> str | None:
    """`text` with those escapes decoded that mean the same as the character: a %3B is not a ";" (section 19.1.4)."""
    if text is None or "%" not in text:
        return text
    return _ESCAPE.sub(lambda m: chr(b) if (b := int(m[1], 16)) in _UNRESERVED else m[0].upper(), text)


def _folded(text: str) -> str:
    return (_comparable(text) or "").lower()


def _header_set(text: str) -> list[tuple[str, str | None]]:
    pairs = (item.partition("=") for item in text.split("&") if item)
    return sorted(((_folded(k), _comparable(v)) for k, _, v in pairs), key=str)


def parse_uri(text: str) -> Uri:
    """Parse an absolute URI.

    Raises `MalformedMessage` (status 400, or 416 is the caller's matter for a scheme it does not serve).
    """
    return _parse_uri(text) if len(text) <= CACHED_CHARS_MAX else _parse_uri.__wrapped__(text)


@lru_cache(maxsize=8192)
def _parse_uri(text: str) -> Uri:
    scheme, colon, rest = text.partition(":")
    if not colon or not _SCHEME.match(scheme):
        raise MalformedMessage(f"uri: no scheme in {text[:80]!r}", 400)
    scheme = scheme.lower()
    if scheme not in ("sip", "sips"):
        if not rest or any(c <= " " or c in '<>"\x7f' for c in rest):
            raise MalformedMessage(f"uri: bad {scheme} uri {text[:80]!r}", 400)
        if scheme == "tel":
            number, _, tail = rest.partition(";")
            if not _TEL.match(number):
                raise MalformedMessage(f"uri: bad number {number[:80]!r}", 400)
            return Uri(scheme, number, params=parse_params(";" + tail, uri=True) if tail else ())
        return Uri(scheme, rest)
    # "@" stands unescaped neither in a user part nor in headers, so the first one ends the user part; "?" and ";"
    # may well stand in front of it.
    at = rest.find("@")
    user = password = None
    hostport = rest
    if at >= 0:
        userinfo, hostport = rest[:at], rest[at + 1 :]
        user, sep, secret = userinfo.partition(":")
        if not _USER.match(user):
            raise MalformedMessage(f"uri: bad user part {user[:80]!r}", 400)
        if sep:
            if not _PASSWORD.match(secret):
                raise MalformedMessage("uri: bad password part", 400)
            password = secret
    hostport, question, headers = hostport.partition("?")
    hostport, semicolon, tail = hostport.partition(";")
    host, port = parse_host_port(hostport)
    if question:
        for item in headers.split("&"):
            name, equals, value = item.partition("=")
            if not name or not equals or not _HNV.match(name) or not _HNV.match(value):
                raise MalformedMessage(f"uri: bad header {item[:80]!r}", 400)
    params = parse_params(";" + tail, uri=True) if semicolon else ()
    return Uri(scheme, host, user, password, port, params, headers)


def parse_host_port(text: str) -> tuple[str, int | None]:
    """`host[:port]`, an IPv6 reference in brackets (returned without them). Raises `MalformedMessage` (400)."""
    digits: str | None
    if text[:1] == "[":
        host, digits = _split_ipv6(text)
    else:
        host, colon, digits = text.partition(":")
        if not _HOST.match(host):
            raise MalformedMessage(f"host: bad {text[:80]!r}", 400)
        if not colon:
            return host, None
    if digits is None:
        return host, None
    if not (digits.isdigit() and digits.isascii()) or len(digits) > 5 or int(digits) > 65535:
        raise MalformedMessage(f"host: bad port in {text[:80]!r}", 400)
    return host, int(digits)


def _split_ipv6(text: str) -> tuple[str, str | None]:
    match = _IPV6.match(text)
    if match is not None:
        try:
            IPv6Address(match[1])
        except AddressValueError:
            pass
        else:
            return match[1], match[2]
    raise MalformedMessage(f"host: bad {text[:80]!r}", 400)


def find_param(params: Params, name: str) -> str | None:
    """The value of parameter `name` (lower case; "" without a value), None where it is absent."""
    for key, value in params:
        if key == name or key.lower() == name:
            return "" if value is None else value
    return None


def print_params(params: Params) -> str:
    """`;name=value;name`, in order."""
    return "".join(f";{k}" if v is None else f";{k}={v}" for k, v in params)


def parse_params(text: str, *, uri: bool = False) -> Params:
    """Parse `;name=value;name` (white space around `;` and `=` allowed outside URIs; values may be quoted strings,
    which keep their quotes). "" gives (). Raises `MalformedMessage` (400).
    """
    if not text:
        return ()
    items = split_outside_quotes(text, ";") if '"' in text else text.split(";")
    if items[0] and not items[0].isspace():
        raise MalformedMessage(f"parameter: unexpected {text[:80]!r}", 400)
    del items[0]
    out = []
    match = (_URI_PARAM if uri else _PARAM).match
    for item in items:
        found = match(item)
        if found is None:
            raise MalformedMessage(f"parameter: bad {item[:80]!r}", 400)
        out.append((found[1], found[2]))
    if len(out) > 1 and len({name.lower() for name, _ in out}) != len(out):
        raise MalformedMessage(f"parameter: given twice in {text[:80]!r}", 400)
    return tuple(out)


def split_outside_quotes(text: str, separator: str) -> list[str]:
    """Split `text` at `separator` where it stands outside "quoted strings" and <brackets>.

    Raises `MalformedMessage` (400) for a quote or bracket that is not closed.
    """
    if '"' not in text and "<" not in text:
        return text.split(separator)
    parts, start = [], 0
    for match in _MARKS.finditer(text):
        mark = match[0]
        if mark == separator:
            parts.append(text[start : match.start()])
            start = match.end()
        elif mark in ('"', "<"):
            raise MalformedMessage(f"header: unbalanced quotes or brackets in {text[:80]!r}", 400)
    parts.append(text[start:])
    return parts


# A whole quoted string, a whole bracket, or a single mark: then a lone quote or "<" is one that is never closed.
_MARKS = re.compile(r'(?s)"(?:[^"\\]++|\\.)*+"|<[^>]*+>|[",;<]')


class NameAddr(Struct, frozen=True, gc=False, omit_defaults=True):
    """`"Display" <uri>;params`: From, To, Contact, Route and their kind. `display` is unquoted."""

    uri: Uri
    display: str = ""
    params: Params = ()

    def __str__(self) -> str:
        if self.display:
            quoted = self.display.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{quoted}" <{self.uri}>{print_params(self.params)}'
        return f"<{self.uri}>{print_params(self.params)}"

    @property
    def tag(self) -> str | None:
        """The `tag` parameter (None where absent)."""
        params = self.params
        if not params:
            return None
        name, value = params[0]
        return value if name == "tag" and value is not None else find_param(params, "tag")

    def param(self, name: str) -> str | None:
        """The value of header parameter `name` (lower case), as `find_param`."""
        return find_param(self.params, name)

    def with_tag(self, tag: str) -> Self:
        """The same with this tag in place of any other."""
        kept = tuple(p for p in self.params if p[0].lower() != "tag")
        return replace(self, params=(*kept, ("tag", tag)))


# More than the tokens of the grammar: a comma, a bracket or an "@" in a name without quotes means one thing only, and
# phones send them; RFC 4475 section 3.1.2.15 (baddn) lets quotes be inferred.
_DISPLAY = re.compile(r'[^"<>\x00-\x08\x0a-\x1f\x7f]*\Z')


_USUAL_NAME_ADDR = re.compile(r"<(sip:[^<>\"\s]+)>;tag=([A-Za-z0-9\-.!%*_+`'~]+)\Z")


def parse_name_addr(text: str) -> NameAddr:
    """Parse a name-addr or addr-spec with parameters. Raises `MalformedMessage` (400).

    Without brackets, everything behind the first ";" belongs to the header, not the URI (section 20), and a "?"
    or "," in the URI is an error.
    """
    # A tag is new in each call, but stands in all its messages.
    return _parse_name_addr(text) if len(text) <= CACHED_CHARS_MAX else _parse_name_addr.__wrapped__(text)


@lru_cache(maxsize=8192)
def _parse_name_addr(text: str) -> NameAddr:
    usual = _USUAL_NAME_ADDR.match(text)
    if usual is not None:
        uri, tag = usual.groups()
        return NameAddr(parse_uri(uri), "", (("tag", tag),))
    text = text.strip(" \t")
    display = ""
    if text[:1] == '"':
        quoted = _QUOTED.match(text)
        if quoted is None:
            raise MalformedMessage(f"name-addr: quote not closed in {text[:80]!r}", 400)
        display = quoted[1]
        if "\\" in display:
            display = _QUOTED_PAIR.sub(r"\1", display)
        text = text[quoted.end() :].lstrip(" \t")
        if text[:1] != "<":
            raise MalformedMessage(f"name-addr: no <uri> behind the display name in {text[:80]!r}", 400)
        open_at = 0
    else:
        open_at = text.find("<")
        if open_at > 0:
            display = " ".join(text[:open_at].split())
            if '"' in display:
                open_at = -1  # `sip:a@b;x="<"`: the bracket stands in a quoted parameter.
                display = ""
            elif not _DISPLAY.match(display):
                raise MalformedMessage(f"name-addr: display name needs quotes in {text[:80]!r}", 400)
    if open_at >= 0:
        close_at = text.find(">", open_at)
        if close_at < 0:
            raise MalformedMessage(f"name-addr: bracket not closed in {text[:80]!r}", 400)
        spec, tail = text[open_at + 1 : close_at], text[close_at + 1 :].lstrip()
        if tail and tail[0] != ";":
            raise MalformedMessage(f"name-addr: unexpected text behind the bracket in {text[:80]!r}", 400)
    else:
        spec, semicolon, tail = text.partition(";")
        spec, tail = spec.strip(), semicolon + tail
        if "?" in spec or "," in spec:
            raise MalformedMessage(f"name-addr: a uri with {'?' if '?' in spec else ','} needs brackets", 400)
    return NameAddr(parse_uri(spec), display, parse_params(tail))
