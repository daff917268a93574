"""SIP messages as values: ordered headers, read on first use, printed exactly (RFC 3261 sections 7, 8, 20, 25).

Header names are canonical everywhere inside (`Call-ID`, never `i` or `CALL-ID`): the parser makes them so. A parsed
message keeps the bytes it came from, and prints as those.
"""

import re
from functools import lru_cache
from typing import Final, Self

from msgspec import Struct

from warden.core.address import Transport
from warden.core.errors import MalformedMessage
from warden.sip.uri import (
    CACHED_CHARS_MAX,
    NameAddr,
    Params,
    Uri,
    find_param,
    parse_host_port,
    parse_name_addr,
    parse_params,
    parse_uri,
    print_params,
    split_outside_quotes,
)

Fields = tuple[tuple[str, str], ...]
"""Header fields in order: (canonical name, value without surrounding white space, folds replaced by one space)."""

MAGIC_COOKIE: Final = "z9hG4bK"
VALUES_MAX: Final = 256
"""Values per header, over all its fields: each may cost a look-up later on, and Vias end at 70 hops."""
_USUAL_TYPES: Final = frozenset(("", "application/sdp"))
_NO_LINE_ENDS: Final = {10: " ", 13: " "}
_COPIED: Final = frozenset(("Via", "From", "Call-ID", "CSeq"))
"""What a response has of its request as it is (section 8.2.6.2)."""
_NEEDED: Final = frozenset(("Via", "From", "To", "Call-ID", "CSeq"))

REASONS: Final[dict[int, str]] = {
    100: "Trying",
    180: "Ringing",
    181: "Call Is Being Forwarded",
    182: "Queued",
    183: "Session Progress",
    200: "OK",
    202: "Accepted",
    204: "No Notification",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Moved Temporarily",
    305: "Use Proxy",
    380: "Alternative Service",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    410: "Gone",
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    420: "Bad Extension",
    421: "Extension Required",
    422: "Session Interval Too Small",
    423: "Interval Too Brief",
    430: "Flow Failed",
    439: "First Hop Lacks Outbound Support",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    483: "Too Many Hops",
    484: "Address Incomplete",
    485: "Ambiguous",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    489: "Bad Event",
    491: "Request Pending",
    493: "Undecipherable",
    500: "Server Internal Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    513: "Message Too Large",
    600: "Busy Everywhere",
    603: "Decline",
    604: "Does Not Exist Anywhere",
    606: "Not Acceptable",
}

COMPACT: Final[dict[str, str]] = {
    "a": "Accept-Contact",
    "b": "Referred-By",
    "c": "Content-Type",
    "d": "Request-Disposition",
    "e": "Content-Encoding",
    "f": "From",
    "i": "Call-ID",
    "j": "Reject-Contact",
    "k": "Supported",
    "l": "Content-Length",
    "m": "Contact",
    "o": "Event",
    "r": "Refer-To",
    "s": "Subject",
    "t": "To",
    "u": "Allow-Events",
    "v": "Via",
    "x": "Session-Expires",
}
_SPELLED: Final = (
    "Accept Accept-Contact Accept-Encoding Accept-Language Alert-Info Allow Allow-Events Authentication-Info "
    "Authorization Call-ID Call-Info Contact Content-Disposition Content-Encoding Content-Language Content-Length "
    "Content-Type CSeq Date Diversion Error-Info Event Expires Flow-Timer From History-Info In-Reply-To Max-Forwards "
    "MIME-Version Min-Expires Min-SE Organization P-Asserted-Identity P-Preferred-Identity Path Priority Privacy "
    "Proxy-Authenticate Proxy-Authorization Proxy-Require RAck Reason Record-Route Refer-To Referred-By "
    "Reject-Contact Remote-Party-ID Replaces Reply-To Request-Disposition Require Retry-After Route RSeq Server "
    "Service-Route Session-Expires SIP-ETag SIP-If-Match Subject Subscription-State Supported Timestamp To "
    "Unsupported User-Agent Via Warning WWW-Authenticate"
).split()
CANONICAL: Final[dict[str, str]] = {
    **{name: name for name in _SPELLED},
    **{name.lower(): name for name in _SPELLED},
    **COMPACT,
    **{short.upper(): name for short, name in COMPACT.items()},
}
"""The usual spellings of known names. A miss says nothing: ask `canonical_name`."""


def canonical_name(name: str) -> str:
    """The one spelling of a header name that fields carry: `call-id`, `i` and `CALL-ID` give `Call-ID`."""
    return CANONICAL.get(name) or (_spell(name) if len(name) <= CACHED_CHARS_MAX else _spell.__wrapped__(name))


@lru_cache(maxsize=1024)
def _spell(name: str) -> str:
    return CANONICAL.get(name.lower()) or name.title()


class Via(Struct, frozen=True, gc=False):
    """One Via value. `transport` is as written, upper case (it may be one that Warden does not speak)."""

    transport: str
    host: str
    port: int | None
    params: Params

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"SIP/2.0/{self.transport} {host}{port}{print_params(self.params)}"

    @property
    def branch(self) -> str:
        """The branch parameter, "" where there is none (RFC 2543 peers)."""
        params = self.params
        if params and params[0][0] == "branch":
            return params[0][1] or ""
        return find_param(params, "branch") or ""

    def param(self, name: str) -> str | None:
        """The value of parameter `name` (lower case), as `find_param`."""
        return find_param(self.params, name)


def print_via(transport: Transport, host: str, port: int, branch: str) -> str:
    """A Via value for a request of ours, asking for `rport` (RFC 3581)."""
    shown = f"[{host}]" if ":" in host else host
    return f"SIP/2.0/{transport.via} {shown}:{port};branch={branch};rport"


class CSeq(Struct, frozen=True, gc=False):
    """A sequence number (0 to 2**31 - 1) and a method."""

    number: int
    method: str

    def __str__(self) -> str:
        return f"{self.number} {self.method}"


class Message:
    """What requests and responses share. Treat it as frozen: `with_fields` and its kind give another one.

    Every property that reads a header raises `MalformedMessage` when the header is missing or not well-formed.
    """

    __slots__ = ("_cseq", "_first", "_from", "_to", "_via", "body", "fields", "raw")

    # What is read of one message again and again on its way is kept beside it.
    _first: dict[str, str] | None
    _cseq: "CSeq | None"
    _from: NameAddr | None
    _to: NameAddr | None
    _via: "Via | None"

    def __init__(self, fields: Fields, body: bytes = b"", raw: bytes | None = None) -> None:
        self.fields = fields
        self.body = body
        self.raw = raw
        self._first = self._cseq = self._from = self._to = self._via = None

    @property
    def start_line(self) -> str:
        """The first line, without its line end."""
        raise NotImplementedError

    def __bytes__(self) -> bytes:
        """The message on the wire: as it was received, or else built.

        In a built one, Content-Length is always there and right, and a line end within a value (a decoded %0D%0A,
        say) comes out as spaces: a value never becomes two headers.
        """
        if self.raw is not None:
            return self.raw
        # Nothing is looked at field by field where nothing has to be.
        lines = [self.start_line, *map(": ".join, self.fields)]
        text = "\r\n".join(lines)
        ends = len(lines) - 1
        if text.count("\n") != ends or text.count("\r") != ends or "\nContent-Length:" in text:
            kept = [line for line in lines if not line.startswith("Content-Length:")]
            text = "\r\n".join([line.translate(_NO_LINE_ENDS) for line in kept])
        return f"{text}\r\nContent-Length: {len(self.body)}\r\n\r\n".encode("utf-8", "surrogateescape") + self.body

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Message)
            and self.start_line == other.start_line
            and [f for f in self.fields if f[0] != "Content-Length"]
            == [f for f in other.fields if f[0] != "Content-Length"]
            and self.body == other.body
        )

    def __hash__(self) -> int:
        return hash((self.start_line, self.body))

    def __repr__(self) -> str:
        return f"<{self.start_line}>"

    @property
    def first(self) -> dict[str, str]:
        """The first value of each header, by its canonical name. Not to be changed."""
        first = self._first
        if first is None:
            first = self._first = dict(reversed(self.fields))
        return first

    def get(self, name: str) -> str | None:
        """The first value of header `name` (canonical spelling), None where it is absent."""
        first = self._first
        if first is None:
            first = self._first = dict(reversed(self.fields))
        return first.get(name)

    def get_all(self, name: str) -> list[str]:
        """Every field of header `name`, in order, not split at commas."""
        # Most of what is asked for is not there, and most of what is there stands there once.
        first = self._first
        if first is None:
            first = self.first
        if name not in first:
            return []
        if len(first) == len(self.fields):
            return [first[name]]
        return [value for key, value in self.fields if key == name]

    def values(self, name: str) -> list[str]:
        """Every value of header `name`, in order, split at the commas that separate values.

        Raises `MalformedMessage` (400) for open quotes and brackets, and for more than VALUES_MAX values.
        """
        found = self.get_all(name)
        if not found or (len(found) == 1 and found[0] and "," not in found[0]):
            return found
        out: list[str] = []
        for value in found:
            if "," in value:
                out += [v for part in split_outside_quotes(value, ",") if (v := part.strip())]
            elif value:
                out.append(value)
        if len(out) > VALUES_MAX:
            raise MalformedMessage(f"{name}: more than {VALUES_MAX} values", 400)
        return out

    def tokens(self, name: str) -> frozenset[str]:
        """The values of a list header of tokens (Supported, Require, Allow), as written."""
        return frozenset(v for field in self.get_all(name) for part in field.split(",") if (v := part.strip()))

    def _need(self, name: str) -> str:
        first = self._first
        try:
            return (self.first if first is None else first)[name]
        except KeyError:
            raise MalformedMessage(f"{name}: missing", 400) from None

    @property
    def call_id(self) -> str:
        """The Call-ID."""
        first = self._first
        return first["Call-ID"] if first is not None and "Call-ID" in first else self._need("Call-ID")

    @property
    def cseq(self) -> CSeq:
        """CSeq as number and method."""
        known = self._cseq
        if known is None:
            known = self._cseq = parse_cseq(self._need("CSeq"))
        return known

    @property
    def from_(self) -> NameAddr:
        """From."""
        known = self._from
        if known is None:
            known = self._from = parse_name_addr(self._need("From"))
        return known

    @property
    def to(self) -> NameAddr:
        """To."""
        known = self._to
        if known is None:
            known = self._to = parse_name_addr(self._need("To"))
        return known

    @property
    def via(self) -> Via:
        """The topmost Via."""
        known = self._via
        if known is None:
            value = self._need("Via")
            known = self._via = parse_via(split_outside_quotes(value, ",")[0] if "," in value else value)
        return known

    @property
    def contacts(self) -> tuple[NameAddr, ...]:
        """Every Contact; () where there is none or where it is `*` (see `contact_is_star`)."""
        return () if self.contact_is_star else tuple(parse_name_addr(v) for v in self.values("Contact"))

    @property
    def contact_is_star(self) -> bool:
        """True for the `Contact: *` of a REGISTER that removes everything (section 10.2.2)."""
        return self.get("Contact") == "*"

    @property
    def routes(self) -> tuple[NameAddr, ...]:
        """The Route set, topmost first."""
        return tuple(parse_name_addr(v) for v in self.values("Route"))

    @property
    def record_routes(self) -> tuple[NameAddr, ...]:
        """The Record-Route set, topmost first."""
        return tuple(parse_name_addr(v) for v in self.values("Record-Route"))

    def number(self, name: str) -> int | None:
        """A header that is one decimal number of at most 2**32 - 1 (Expires, Max-Forwards, Content-Length ...),
        its parameters or comment ignored; None where absent.
        """
        value = self.get(name)
        if value is None:
            return None
        digits = value
        if digits.isdigit():
            if len(digits) < 10 and digits.isascii():
                return int(digits)
        else:
            digits = value.partition(";")[0].partition("(")[0].strip(" \t")
        if not (digits.isdigit() and digits.isascii()) or len(digits) > 10 or int(digits) > 0xFFFFFFFF:
            raise MalformedMessage(f"{name}: {value[:40]!r} is not a number below 2^32", 400)
        return int(digits)

    @property
    def content_type(self) -> str:
        """The media type in lower case without parameters, "" where there is no Content-Type."""
        value = self.first.get("Content-Type", "")
        return value if value in _USUAL_TYPES else value.partition(";")[0].strip().lower()

    def _derived(self, fields: Fields, body: bytes) -> Self:
        raise NotImplementedError

    def with_fields(self, *fields: tuple[str, str]) -> Self:
        """Another message with these fields in place of all fields of their names, behind the others."""
        names = {name for name, _ in fields}
        return self._derived((*(f for f in self.fields if f[0] not in names), *fields), self.body)

    def with_first(self, name: str, value: str) -> Self:
        """Another message with this field in front (Via, Route, Record-Route are pushed so)."""
        return self._derived(((name, value), *self.fields), self.body)

    def without(self, *names: str) -> Self:
        """Another message with no field of these names."""
        return self._derived(tuple(f for f in self.fields if f[0] not in names), self.body)

    def with_body(self, content_type: str, body: bytes) -> Self:
        """Another message with this body and type."""
        kept = tuple(f for f in self.fields if f[0] not in ("Content-Type", "Content-Length"))
        return self._derived((*kept, ("Content-Type", content_type)), body)


class Request(Message):
    """A request: `method`, the Request-URI as written in `target`, header fields, body."""

    __slots__ = ("method", "target")

    def __init__(
        self,
        method: str,
        target: str,
        fields: Fields,
        body: bytes = b"",
        raw: bytes | None = None,
        first: dict[str, str] | None = None,
    ) -> None:
        self.fields = fields
        self.body = body
        self.raw = raw
        self._first = first
        self._cseq = self._from = self._to = self._via = None
        self.method = method
        self.target = target

    @property
    def start_line(self) -> str:
        """`INVITE sip:... SIP/2.0`."""
        return f"{self.method} {self.target} SIP/2.0"

    @property
    def uri(self) -> Uri:
        """The Request-URI."""
        return parse_uri(self.target)

    def _derived(self, fields: Fields, body: bytes) -> Self:
        return type(self)(self.method, self.target, fields, body)

    def with_top_via(self, via: Via) -> "Request":
        """Another request with this in place of its topmost Via, which it must have."""
        fields = list(self.fields)
        for i, (name, value) in enumerate(fields):
            if name == "Via":
                below = split_outside_quotes(value, ",")[1:] if "," in value else []
                fields[i] = (name, ",".join((str(via), *below)))
                break
        made = Request(self.method, self.target, tuple(fields), self.body)
        made._via, made._cseq, made._from, made._to = via, self._cseq, self._from, self._to
        return made

    def respond(
        self, status: int, *fields: tuple[str, str], to_tag: str = "", reason: str = "", body: bytes = b""
    ) -> "Response":
        """A response to this request (section 8.2.6): Via, From, To, Call-ID, CSeq copied, `to_tag` added to To
        where it has none, then `fields`. A 100 copies Timestamp. Record-Route is the caller's matter.

        Never raises, so that a malformed request can be refused.
        """
        copied: list[tuple[str, str]] | Fields
        first = self.first
        if len(first) == len(self.fields) and first.keys() >= _NEEDED and "Timestamp" not in first:
            to = first["To"]
            copied = (
                ("Via", first["Via"]),
                ("From", first["From"]),
                ("To", f"{to};tag={to_tag}" if to_tag and not _has_tag(to) else to),
                ("Call-ID", first["Call-ID"]),
                ("CSeq", first["CSeq"]),
            )
        else:
            copied = []
            for field in self.fields:
                name = field[0]
                if name in _COPIED or (name == "Timestamp" and status == 100):
                    copied.append(field)
                elif name == "To":
                    value = field[1]
                    copied.append((name, f"{value};tag={to_tag}") if to_tag and not _has_tag(value) else field)
        return Response(status, reason or REASONS.get(status) or "Unknown", (*copied, *fields), body)


class Response(Message):
    """A response: `status` (100 to 699), `reason`, header fields, body."""

    __slots__ = ("reason", "status")

    def __init__(
        self,
        status: int,
        reason: str,
        fields: Fields,
        body: bytes = b"",
        raw: bytes | None = None,
        first: dict[str, str] | None = None,
    ) -> None:
        self.fields = fields
        self.body = body
        self.raw = raw
        self._first = first
        self._cseq = self._from = self._to = self._via = None
        self.status = status
        self.reason = reason

    @property
    def start_line(self) -> str:
        """`SIP/2.0 200 OK`."""
        return f"SIP/2.0 {self.status} {self.reason}"

    def _derived(self, fields: Fields, body: bytes) -> Self:
        return type(self)(self.status, self.reason, fields, body)


def _has_tag(to: str) -> bool:
    if "tag" not in to.lower():
        return False
    try:
        return parse_name_addr(to).tag is not None
    except MalformedMessage:
        return True  # A second tag would not make it better.


def parse_cseq(value: str) -> CSeq:
    """Parse a CSeq value. Raises `MalformedMessage` (400)."""
    return _parse_cseq(value) if len(value) <= CACHED_CHARS_MAX else _parse_cseq.__wrapped__(value)


@lru_cache(maxsize=1024)
def _parse_cseq(value: str) -> CSeq:
    number, _, method = value.replace("\t", " ").partition(" ")
    method = method.strip(" ")
    # The digits are counted first, since int() takes any number of them, slowly.
    if not (number.isdigit() and number.isascii()) or len(number) > 10 or int(number) >= 2**31 or not is_token(method):
        raise MalformedMessage(f"CSeq: bad {value[:60]!r}", 400)
    return CSeq(int(number), method)


def parse_via(value: str) -> Via:
    """Parse one Via value. Raises `MalformedMessage` (400)."""
    usual = _USUAL_VIA.match(value)
    if usual is not None:
        transport, host, digits, before, branch, behind = usual.groups()
        port = int(digits) if digits else None
        if port is None or port < 65536:
            asked, told = (_RPORT if before else ()), (_RPORT if behind else ())
            return Via(transport, host, port, (*asked, ("branch", branch), *told))
    match = _VIA.match(value)
    if match is None:
        raise MalformedMessage(f"Via: bad {value[:80]!r}", 400)
    sent_by = match[2]
    if " " in sent_by or "\t" in sent_by:  # White space may stand around the colon.
        sent_by = ":".join(part.strip(" \t") for part in sent_by.split(":"))
    host, port = parse_host_port(sent_by)
    return Via(match[1].upper(), host, port, parse_params(value[match.end() :]))


# What nearly every peer writes; all else goes the long way, to the same result.
_USUAL_VIA: Final = re.compile(
    r"SIP/2\.0/(UDP|TCP|TLS) ([0-9]{1,3}(?:\.[0-9]{1,3}){3})(?::([0-9]{1,5}))?"
    r"(;rport)?;branch=([A-Za-z0-9\-.!%*_+`'~]+)((?!\4);rport)?\Z"
)
_RPORT: Final[Params] = (("rport", None),)
_VIA: Final = re.compile(
    r"\s*SIP\s*/\s*2\.0\s*/\s*([A-Z0-9\-.!%*_+`'~]+)\s+([^\s;,](?:[^;,]*[^\s;,])?)\s*(?=;|\Z)", re.ASCII | re.IGNORECASE
)
_TOKEN: Final = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+\Z")


def is_token(text: str) -> bool:
    """True for a non-empty token of RFC 3261 section 25.1."""
    return _TOKEN.match(text) is not None
