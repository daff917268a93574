"""SDES keys in descriptions (RFC 4568): read, taken out of a text, and put into one. Who may have which is `sdes`'s.

Not supported are key identifiers (MKI, so one key per line), and session parameters that change what is protected; a
line that asks for these is passed over, as an unknown suite is.
"""

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from warden.sdp.session import parse_media_line, parse_origin, split_lines

KEY_BYTES: Final[dict[str, int]] = {
    "AEAD_AES_128_GCM": 28,
    "AES_CM_128_HMAC_SHA1_80": 30,
    "AES_CM_128_HMAC_SHA1_32": 30,
}
"""The suites, best first, with the length of master key and salt (RFC 4568 section 6.2, RFC 7714 section 14.2)."""
SUITES: Final = tuple(KEY_BYTES)
CRYPTOS_MAX: Final = 16
"""Lines of one stream that are looked at: phones offer up to eight."""

_PLAIN: Final = {"RTP/SAVP": "RTP/AVP", "RTP/SAVPF": "RTP/AVPF"}
_SECURE: Final = {plain: secure for secure, plain in _PLAIN.items()}


class Crypto(Struct, frozen=True, gc=False):
    """An a=crypto line. `key` is master key and salt in base64: text, since that is what it is stored and sent as."""

    tag: int
    suite: str
    key: str

    def __repr__(self) -> str:
        return f"Crypto({self.tag} {self.suite} ***)"

    def __str__(self) -> str:
        return f"a=crypto:{self.tag} {self.suite} inline:{self.key}"


class Keys(Struct, frozen=True, gc=False, omit_defaults=True):
    """What protects one stream between us and a peer: `inbound` is the key that the peer sends with, `outbound` ours
    (base64; "" while unknown: then nothing can be heard, or said).
    """

    suite: str
    inbound: str = ""
    outbound: str = ""

    def __repr__(self) -> str:
        return f"Keys({self.suite} ***)"


class Described(Struct, frozen=True, gc=False):
    """What a text said of one m= line: its transport as written, and the keys that we could use."""

    protocol: str
    cryptos: tuple[Crypto, ...] = ()

    @property
    def is_rtp(self) -> bool:
        """True where keys may protect it."""
        return self.protocol.upper().startswith("RTP/")

    @property
    def is_secure(self) -> bool:
        """True where its transport says that it must be protected."""
        return self.protocol.upper() in _PLAIN


def key_text(key: bytes) -> str:
    """A key as it stands in a line."""
    return b64encode(key).decode()


def key_octets(text: str) -> bytes:
    """The reverse, for what `key_text` or `read_crypto` gave."""
    return b64decode(text)


def is_usable(keys: Keys) -> bool:
    """True where each key is one of the suite, or not there."""
    known = [key for key in (keys.inbound, keys.outbound) if key]
    return all((crypto := read_crypto(f"1 {keys.suite} inline:{key}")) and crypto.key == key for key in known)


def read_crypto(value: str) -> Crypto | None:
    """The value of a crypto attribute (RFC 4568 section 9.1); None for one that Warden cannot use, or nobody can."""
    parts = value.split()
    if len(parts) < 3 or not (parts[0].isascii() and parts[0].isdigit()) or len(parts[0]) > 9:
        return None
    suite = parts[1].upper()
    size = KEY_BYTES.get(suite)
    method, _, info = parts[2].partition(":")
    # What follows the key are its lifetime, which is the longest for every phone, and an MKI, which has a colon.
    text, *more = info.split("|")
    if size is None or method.lower() != "inline" or any(":" in part for part in more):
        return None
    if not all(param.startswith("-") or param.upper().startswith("WSH=") for param in parts[3:]):
        return None
    try:
        key = b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (Base64Error, ValueError):
        return None
    return Crypto(int(parts[0]), suite, key_text(key)) if len(key) == size else None


def disclosed(sdp: str) -> tuple[str, tuple[Described, ...]]:
    """The description without its keys and secure transports, and what they were. Raises `MalformedMessage` as
    `split_lines`.
    """
    out: list[str] = []
    found: list[tuple[str, list[Crypto]]] = []
    for line in split_lines(sdp):
        if line.startswith("m="):
            kind, port, count, protocol, formats = parse_media_line(line)
            found.append((protocol, []))
            if protocol.upper() in _PLAIN:
                line = _media_line(kind, port, count, _PLAIN[protocol.upper()], formats)
        elif line.startswith("a=crypto:"):
            if found and len(found[-1][1]) < CRYPTOS_MAX and (crypto := read_crypto(line[9:])) is not None:
                found[-1][1].append(crypto)
            continue
        out.append(line)
    out.append("")
    return "\r\n".join(out), tuple(Described(protocol, tuple(cryptos)) for protocol, cryptos in found)


def enclosed(sdp: str, lines: Sequence[Described], later: int = 0) -> str:
    """The description with these transports ("" leaves one as it is) and, where the stream is in use, these keys; its
    version (o=) is higher by `later`.
    """
    out: list[str] = []
    keys: list[str] = []
    index = -1
    for line in split_lines(sdp):
        if line.startswith("m="):
            # Attributes come last in a section (RFC 8866 section 5).
            out += keys
            keys = []
            index += 1
            if index < len(lines) and lines[index].protocol:
                kind, port, count, _, formats = parse_media_line(line)
                line = _media_line(kind, port, count, lines[index].protocol, formats)
                keys = [str(crypto) for crypto in lines[index].cryptos] if port else []
        elif later and line.startswith("o="):
            origin = parse_origin(line[2:])
            line = f"o={replace(origin, version=str(int(origin.version) + later))}"
        out.append(line)
    return "\r\n".join((*out, *keys, ""))


def without_streams(sdp: str, refused: Sequence[bool]) -> str:
    """The description with port 0 for these m= lines."""
    out: list[str] = []
    index = -1
    for line in split_lines(sdp):
        if line.startswith("m="):
            index += 1
            if index < len(refused) and refused[index]:
                kind, _, _, protocol, formats = parse_media_line(line)
                line = _media_line(kind, 0, 1, protocol, formats)
        out.append(line)
    out.append("")
    return "\r\n".join(out)


def secure_protocol(protocol: str) -> str:
    """The transport that protects what this one carries in the clear."""
    return _SECURE.get(protocol.upper(), protocol)


def _media_line(kind: str, port: int, count: int, protocol: str, formats: str) -> str:
    ports = str(port) if count == 1 else f"{port}/{count}"
    return f"m={kind} {ports} {protocol} {formats}".rstrip()
