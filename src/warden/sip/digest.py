"""Digest authentication (RFC 7616 and 8760, as RFC 3261 section 22 uses it): both sides, and nonces without a memory.

Nothing here knows users or keeps a password: the caller has HA1 hashes and brings them. No hash, password or response
is cached, stored in a value's repr or put into an error.
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from binascii import a2b_base64
from collections import OrderedDict
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from hashlib import blake2s
from typing import Any, Final

from msgspec import Struct

from warden.core.errors import MalformedMessage
from warden.sip.message import Message
from warden.sip.uri import parse_uri

CREDENTIALS_CHARS_MAX: Final = 2_048
"""Longest value read; with a long URI and SHA-512-256 real ones stay below 700."""
CREDENTIALS_MAX: Final = 8
"""Values read per message; more than one is seen only behind a chain of proxies."""
PARAMETERS_MAX: Final = 32
"""Parameters per value; RFC 7616 knows twelve."""
NONCE_LIFETIME_S: Final = 300.0
"""How long a nonce may be used: long enough that a phone's next request seldom needs a new one."""
CLOCK_SKEW_S: Final = 30.0
"""How far another node's clock may be ahead and its nonces still be taken."""


class Algorithm(StrEnum):
    """The hashes of RFC 8760. The `-sess` kinds are not offered and not accepted."""

    MD5 = "MD5"
    SHA_256 = "SHA-256"
    SHA_512_256 = "SHA-512-256"


# OpenSSL 1.1.1, the oldest that Python 3.11 builds on, has all three. MD5 here is the protocol's choice.
_HASHES: Final[dict[Algorithm, Callable[..., Any]]] = {
    Algorithm.MD5: hashlib.md5,
    Algorithm.SHA_256: hashlib.sha256,
    Algorithm.SHA_512_256: partial(hashlib.new, "sha512_256"),
}
_ALGORITHMS: Final = {a.value: a for a in Algorithm}
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
"""From the base64 of URLs to the usual one (RFC 4648 section 5)."""


class NonceState(StrEnum):
    """What a nonce is worth: FRESH may be used, STALE was ours and wants `stale=true`, FORGED never was ours."""

    FRESH = "fresh"
    STALE = "stale"
    FORGED = "forged"


class Credentials(Struct, frozen=True, gc=False):
    """An Authorization or Proxy-Authorization value of the Digest scheme.

    `algorithm` is in upper case ("MD5" where it is left out) and may be one that Warden does not know; `qop` is in
    lower case, None for clients that know only RFC 2069; `nc` is as written. `nonce`, `uri` and `cnonce` keep their
    backslashes, since they are hashed as they stand between the quotes (RFC 7616 section 1.1).
    """

    username: str
    realm: str
    nonce: str
    uri: str
    response: str
    algorithm: str = "MD5"
    qop: str | None = None
    nc: str = ""
    cnonce: str = ""
    opaque: str = ""

    def __repr__(self) -> str:
        return f"<Credentials of {self.username!r} at {self.realm!r}, {self.algorithm}>"

    @property
    def nonce_count(self) -> int:
        """`nc` as a number; 0 where there is none."""
        return int(self.nc, 16) if self.nc else 0


class Challenge(Struct, frozen=True, gc=False):
    """A WWW-Authenticate or Proxy-Authenticate value of the Digest scheme, as a client reads it."""

    realm: str
    nonce: str
    algorithm: str = "MD5"
    qop: tuple[str, ...] = ()
    opaque: str | None = None
    stale: bool = False


def ha1(username: str, realm: str, password: str, algorithm: str) -> str:
    """H(username:realm:password) in hex: what is stored in a password's place. `algorithm` is one of `Algorithm`;
    for any other ValueError is raised.
    """
    return _hash(Algorithm(algorithm), f"{username}:{realm}:{password}")


class Nonces:
    """Nonces that carry their own proof, so that every node with the same key knows them.

    A nonce is when it was issued (6 bytes, milliseconds), a serial number (4), the `salt` (5) and 15 bytes of
    keyed BLAKE2s over these. `salt` is the process's: random bytes that keep nonces of two processes apart.
    """

    __slots__ = ("_key", "_lifetime_s", "_salt", "_serial")

    def __init__(self, key: bytes, *, salt: bytes = b"", lifetime_s: float = NONCE_LIFETIME_S) -> None:
        self._key = hashlib.sha256(key).digest()
        self._salt = salt[:5].ljust(5, b"\0")
        self._lifetime_s = lifetime_s
        self._serial = 0

    def issue(self, now: float) -> str:
        """A new nonce of 40 characters, no two alike."""
        self._serial = (self._serial + 1) & 0xFFFFFFFF
        body = int(now * 1000).to_bytes(6, "big") + self._serial.to_bytes(4, "big") + self._salt
        return urlsafe_b64encode(body + self._proof(body)).decode("ascii")

    def check(self, now: float, nonce: str) -> NonceState:
        """What `nonce` is worth at `now`."""
        if len(nonce) != 40 or not nonce.isascii():
            return NonceState.FORGED
        given = nonce.encode("ascii")
        try:
            body = a2b_base64(given[:20].translate(_STANDARD))
        except ValueError:
            return NonceState.FORGED
        # Decoders skip what is no base64: one nonce shall have one spelling, or a replay would not be known as one.
        if not hmac.compare_digest(given, urlsafe_b64encode(body + self._proof(body))):
            return NonceState.FORGED
        age_s = now - int.from_bytes(body[:6], "big") / 1000
        return NonceState.FRESH if -CLOCK_SKEW_S <= age_s <= self._lifetime_s else NonceState.STALE

    def _proof(self, body: bytes) -> bytes:
        return blake2s(body, digest_size=15, key=self._key, person=b"nonce").digest()


class NonceCounts:
    """The highest nc seen with each nonce, so that a captured request cannot be sent again.

    Only the newest `size` nonces are kept: 65,536 are those of 10,000 phones within a nonce's lifetime several times
    over. What one node has seen another has not: there a replay is held off by the nonce's lifetime and the URI alone.
    """

    __slots__ = ("_highest", "_size")

    def __init__(self, size: int = 65_536) -> None:
        self._highest: OrderedDict[str, int] = OrderedDict()
        self._size = size

    def __len__(self) -> int:
        return len(self._highest)

    def accept(self, nonce: str, nonce_count: int) -> bool:
        """True for a count above all seen with `nonce`; False for a replay, which is answered as a stale nonce.

        Ask only once the credentials are verified, or a stranger could use up the counts of somebody's nonce.
        """
        highest = self._highest
        if nonce_count <= highest.get(nonce, 0):
            return False
        highest[nonce] = nonce_count
        highest.move_to_end(nonce)
        if len(highest) > self._size:
            highest.popitem(last=False)
        return True


def challenge(realm: str, nonce: str, algorithms: Sequence[str], *, stale: bool = False) -> list[str]:
    """Values for one WWW-Authenticate (Proxy-Authenticate) field each, in the order given: the first is preferred
    (RFC 8760 section 2.3).
    """
    head = f'Digest realm="{_quote(realm)}", nonce="{nonce}", qop="auth", algorithm='
    tail = ", stale=true" if stale else ""
    return [f"{head}{algorithm}{tail}" for algorithm in algorithms]


def read_credentials(message: Message, name: str = "Authorization") -> tuple[Credentials, ...]:
    """The Digest credentials in the fields `name`; other schemes are passed over, as if they were not there (the
    request is challenged then). Raises `MalformedMessage` (400).
    """
    values = message.get_all(name)
    if len(values) > CREDENTIALS_MAX:
        raise MalformedMessage(f"{name}: more than {CREDENTIALS_MAX} values", 400)
    return tuple(parse_authorization(v) for v in values if v[:7].lower() == "digest ")


def parse_authorization(value: str) -> Credentials:
    """Read one value of the Digest scheme. Empty strings are allowed, as in the first REGISTER of IMS phones.
    Raises `MalformedMessage` (400).
    """
    found = _parse_parameters(value)
    try:
        username, realm, nonce = found["username"], found["realm"], found["nonce"]
        uri, response = found["uri"], found["response"]
    except KeyError as missing:
        raise MalformedMessage(f"Authorization: no {missing.args[0]}", 400) from None
    nc, cnonce, qop = found.get("nc", ""), found.get("cnonce", ""), found.get("qop")
    if qop is not None and (not nc or not cnonce):
        raise MalformedMessage("Authorization: qop without nc and cnonce", 400)
    if nc and not _NC.match(nc):
        raise MalformedMessage(f"Authorization: bad nc {nc[:20]!r}", 400)
    return Credentials(
        _unescape(username),
        _unescape(realm),
        nonce,
        uri,
        response,
        found.get("algorithm", "MD5").upper(),
        qop.lower() if qop is not None else None,
        nc,
        cnonce,
        found.get("opaque", ""),
    )


def parse_challenge(value: str) -> Challenge:
    """Read one value of the Digest scheme. Raises `MalformedMessage` (400)."""
    found = _parse_parameters(value)
    if "realm" not in found or "nonce" not in found:
        raise MalformedMessage("WWW-Authenticate: no realm or nonce", 400)
    return Challenge(
        _unescape(found["realm"]),
        found["nonce"],
        found.get("algorithm", "MD5").upper(),
        tuple(q for part in found.get("qop", "").lower().split(",") if (q := part.strip())),
        found.get("opaque"),
        found.get("stale", "").lower() == "true",
    )


def verify(credentials: Credentials, method: str, ha1: str, *, require_qop: bool = True) -> bool:
    """True where the response proves that the sender knows the password behind `ha1`, which is for the username, realm
    and algorithm of `credentials`. Compared in constant time.

    Without qop (RFC 2069) it is accepted only where `require_qop` is False: such a response can be replayed as long as
    the nonce lives. `auth-int` is not offered and not accepted. Nonce, nc and URI are the caller's to check.
    """
    algorithm = _ALGORITHMS.get(credentials.algorithm)
    if algorithm is None or credentials.qop not in (None, "auth") or (credentials.qop is None and require_qop):
        return False
    expected = _response(algorithm, credentials, method, ha1)
    given = credentials.response.lower().encode("utf-8", "surrogateescape")
    return hmac.compare_digest(given, expected.encode("ascii"))


def uri_matches(uri: str, target: str) -> bool:
    """True where the `uri` of credentials names the resource that the Request-URI `target` names.

    Scheme (sip or sips), port, parameters and headers may differ: phones write them differently in the two places,
    and proxies in between change the Request-URI (RFC 3261 section 22.4 item 5). Some user agents (SIPp) write the
    server alone, without a user part: the nonce count keeps such a response from being used for another number.
    """
    if uri == target:
        return True
    try:
        ours, theirs = parse_uri(target), parse_uri(uri)
    except MalformedMessage:
        return False
    if ours.scheme not in ("sip", "sips") or theirs.scheme not in ("sip", "sips"):
        return False
    return theirs.username in (ours.username, "") and ours.host.lower().rstrip(".") == theirs.host.lower().rstrip(".")


def authorize(
    challenges: Sequence[str], *, username: str, password: str, method: str, uri: str, cnonce: str, nc: int = 1
) -> str:
    """The Authorization (Proxy-Authorization) value that answers the first challenge whose algorithm and qop we know.

    `cnonce` is a random token; `nc` counts the requests sent with the challenge's nonce, from 1. Raises
    `MalformedMessage` where none of the challenges can be answered.
    """
    for value in challenges:
        if value[:7].lower() != "digest ":
            continue
        asked = parse_challenge(value)
        algorithm = _ALGORITHMS.get(asked.algorithm)
        if algorithm is None or (asked.qop and "auth" not in asked.qop):
            continue
        qop, count = ("auth", f"{nc:08x}") if asked.qop else (None, "")
        given = Credentials(username, asked.realm, asked.nonce, uri, "", algorithm, qop, count, cnonce if qop else "")
        response = _response(algorithm, given, method, ha1(username, asked.realm, password, algorithm))
        out = f'Digest username="{_quote(username)}", realm="{_quote(asked.realm)}", nonce="{asked.nonce}"'
        out += f', uri="{uri}", response="{response}", algorithm={algorithm}'
        if qop:
            out += f', qop=auth, nc={count}, cnonce="{cnonce}"'
        return out if asked.opaque is None else f'{out}, opaque="{asked.opaque}"'
    raise MalformedMessage("WWW-Authenticate: no challenge that can be answered", 400)


def _response(algorithm: Algorithm, given: Credentials, method: str, ha1: str) -> str:
    ha2 = _hash(algorithm, f"{method}:{given.uri}")
    if given.qop is None:
        return _hash(algorithm, f"{ha1}:{given.nonce}:{ha2}")
    return _hash(algorithm, f"{ha1}:{given.nonce}:{given.nc}:{given.cnonce}:auth:{ha2}")


def _hash(algorithm: Algorithm, text: str) -> str:
    digest: str = _HASHES[algorithm](text.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()
    return digest


_NC: Final = re.compile(r"[0-9A-Fa-f]{1,8}\Z")
_SCHEME: Final = re.compile(r"[Dd][Ii][Gg][Ee][Ss][Tt][ \t]+")
_ONE_PARAMETER: Final = (
    r'[ \t]*([A-Za-z0-9*_.\-]+)[ \t]*=[ \t]*(?:"([^"\\]*(?:\\.[^"\\]*)*)"|([^\s",\\]+))[ \t]*(?:,|\Z)'
)
_PARAMETER: Final = re.compile(_ONE_PARAMETER)
_PARAMETERS: Final = re.compile(f"({_ONE_PARAMETER})")


def _parse_parameters(value: str) -> dict[str, str]:
    """The parameters of a Digest value by lower-case name, without their quotes but with their backslashes."""
    if len(value) > CREDENTIALS_CHARS_MAX:
        raise MalformedMessage(f"digest: longer than {CREDENTIALS_CHARS_MAX} characters", 400)
    scheme = _SCHEME.match(value)
    if scheme is None:
        raise MalformedMessage(f"digest: another scheme, {value.partition(' ')[0][:40]!r}", 400)
    at, end, match = scheme.end(), len(value), _PARAMETER.match
    items = _PARAMETERS.findall(value, at)
    if sum([len(item[0]) for item in items]) == end - at and len(items) <= PARAMETERS_MAX:
        # Nothing stands between them.
        found = {name: quoted or plain for _, name, quoted, plain in items}
        if not "".join(found).islower():
            found = {name.lower(): quoted or plain for _, name, quoted, plain in items}
        if len(found) == len(items):
            return found
    found = {}
    while at < end:
        item = match(value, at)
        # What stands there may be a secret, so only its place is told.
        if item is None:
            raise MalformedMessage(f"digest: bad parameter at character {at}", 400)
        name, quoted, plain = item.groups()
        name = name.lower()
        if name in found or len(found) == PARAMETERS_MAX:
            raise MalformedMessage(f"digest: {name[:40]!r} given twice, or too many parameters", 400)
        found[name] = plain if quoted is None else quoted
        at = item.end()
    return found


def _quote(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text) if "\\" in text else text
