"""Bytes to messages: one datagram, or the head of a message on a stream, with limits (RFC 3261 sections 7, 18.3).

Raises `MalformedMessage` and nothing else, whatever the bytes are. Its status is None where nothing may be answered:
for responses, and for what is no SIP at all.
"""

import re
from typing import Final

from warden.core.errors import MalformedMessage
from warden.sip.message import CANONICAL, Fields, Request, Response, canonical_name, is_token

HEAD_BYTES_MAX: Final = 32_768
"""Longer headers are an attack: the longest in the wild (History-Info chains) stay below 16 KiB."""
BODY_BYTES_MAX: Final = 65_536
"""A body longer than a datagram can be; SDP stays below 8 KiB."""
FIELDS_MAX: Final = 256
"""Header fields per message: RFC 4475's longreq has 43."""

_CONTENT_LENGTH: Final = "Content-Length"
_REQUEST_LINE: Final = re.compile(r"([A-Za-z0-9\-.!%*_+`'~]+) ([^\x00-\x20\x7f]+) [Ss][Ii][Pp]/2\.0\Z")
_STATUS_LINE: Final = re.compile(r"[Ss][Ii][Pp]/2\.0 ([1-6][0-9]{2})(?: (.*))?\Z")
# What a response copies (section 8.2.6.2), with the number of fields worth copying.
_ECHOED: Final = {"Via": FIELDS_MAX, "From": 1, "To": 1, "Call-ID": 1, "CSeq": 1}


def parse_message(data: bytes) -> Request | Response:
    """Parse one datagram. What follows a body of Content-Length bytes is dropped; a body that is too short is an error.

    Only the frame is read here: start line, fields, body. Headers are read when they are asked for.
    """
    if data[:1] in b"\r\n":  # Also when there is no data at all.
        data = data.lstrip(b"\r\n")
    end = data.find(b"\r\n\r\n")
    if end < 0:
        raise MalformedMessage("message: headers are not ended by an empty line", _status_of(data))
    message, length = read_head(data[:end])
    start = end + 4
    if length is not None:
        size = start + length
        if size > len(data):
            have = len(data) - start
            raise MalformedMessage(f"Content-Length: {length} but {have} bytes of body", _status_of(data))
        if size < len(data):
            data = data[:size]
    message.body = data[start:]
    message.raw = data
    return message


def parse_head(head: bytes) -> Request | Response:
    """Parse a start line and header lines (without the empty line). The message has no body and no `raw` yet."""
    return read_head(head)[0]


def read_head(head: bytes) -> tuple[Request | Response, int | None]:
    """As `parse_head`, with the Content-Length; None where there is none."""
    if len(head) > HEAD_BYTES_MAX:
        raise MalformedMessage(f"message: headers longer than {HEAD_BYTES_MAX} bytes", _status_of(head, 513))
    text = head.decode("utf-8", "surrogateescape")
    lines = text.split("\r\n")
    count = len(lines) - 1
    if text.count("\n") == count == text.count("\r") and count <= FIELDS_MAX and not ("\r\n " in text or "\t" in text):
        # What nearly every head is: nothing is folded, and each line has a space behind its colon.
        start = lines[0]
        del lines[0]
        try:
            pairs = [line.split(": ", 1) for line in lines]
            if ":  " in text or " \r" in text or text[-1:] == " ":
                pairs = [[name, value.strip(" ")] for name, value in pairs]
            fields = tuple([(CANONICAL[name], value) for name, value in pairs])
        except (KeyError, ValueError):
            return _read_unusual_head(text, head)
        first = dict(reversed(fields))
        if len(first) == count or sum(name == _CONTENT_LENGTH for name, _ in fields) < 2:
            message = _parse_start(start, fields, first)
            length = first.get(_CONTENT_LENGTH)
            return message, None if length is None else _parse_length(length, head)
    return _read_unusual_head(text, head)


def _read_unusual_head(text: str, head: bytes) -> tuple[Request | Response, int | None]:
    """The same for whatever may stand in a head."""
    if "\r\n " in text or "\r\n\t" in text:
        text = _unfold(text)
    lines = text.split("\r\n")
    count = len(lines) - 1
    if count > FIELDS_MAX:
        raise MalformedMessage(f"message: more than {FIELDS_MAX} header fields", _status_of(head))
    if text.count("\n") != count or text.count("\r") != count:
        # Somebody behind us may take a lone CR or LF for the end of a line, and see other headers than we do.
        raise MalformedMessage("message: a line end that is not CRLF", _status_of(head))
    fields: list[tuple[str, str]] = []
    length: str | None = None
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        name = name.rstrip(" \t")
        if not colon or not is_token(name):
            raise MalformedMessage(f"message: bad header line {line[:60]!r}", _status_of(head))
        known = canonical_name(name)
        value = value.strip(" \t")
        if known == _CONTENT_LENGTH:
            if length is not None:
                raise MalformedMessage("Content-Length: given twice", _status_of(head))
            length = value
        fields.append((known, value))
    return _parse_start(lines[0], tuple(fields)), None if length is None else _parse_length(length, head)


def _parse_length(value: str, head: bytes) -> int:
    if not (value.isascii() and value.isdigit()) or len(value) > 10:
        raise MalformedMessage(f"Content-Length: bad {value[:40]!r}", _status_of(head))
    return int(value)


def _status_of(data: bytes, status: int = 400) -> int | None:
    """The status to refuse this with, None for a response: that is never answered."""
    return None if not data or data[:4].upper() == b"SIP/" else status


def _unfold(text: str) -> str:
    lines: list[str] = []
    folds: list[str] = []
    for line in text.split("\r\n"):
        if line[:1] in (" ", "\t") and lines:
            folds.append(line.strip(" \t"))
            continue
        if folds:
            lines[-1] = " ".join((lines[-1].rstrip(" \t"), *folds))
            folds = []
        lines.append(line)
    if folds:
        lines[-1] = " ".join((lines[-1].rstrip(" \t"), *folds))
    return "\r\n".join(lines)


def _parse_start(line: str, fields: Fields, first: dict[str, str] | None = None) -> Request | Response:
    match = _REQUEST_LINE.match(line)
    if match is not None:
        return Request(match[1], match[2], fields, first=first)
    match = _STATUS_LINE.match(line)
    if match is not None:
        return Response(int(match[1]), match[2] or "", fields, first=first)
    word, _, rest = line.partition(" ")
    if word[:4].upper() == "SIP/":
        raise MalformedMessage(f"status line: bad {line[:60]!r}")
    # White space behind the version harms nobody, and RFC 4475 section 3.1.2.10 (trws) lets it pass.
    target, _, version = rest.rstrip(" \t").rpartition(" ")
    if not is_token(word) or version[:4].upper() != "SIP/":
        raise MalformedMessage(f"request line: bad {line[:60]!r}", 400)
    if version.upper() != "SIP/2.0":
        raise MalformedMessage(f"request line: version {version[:20]!r}", 505)
    if not target or any(c <= " " or c == "\x7f" for c in target):
        raise MalformedMessage(f"request line: bad request-uri {target[:60]!r}", 400)
    return Request(word, target, fields, first=first)


def salvage_request(data: bytes) -> Request | None:
    """What a refusal of this malformed request has to copy: a request with Via, From, To, Call-ID, CSeq as far as they
    could be found, so that `salvage_request(data).respond(error.status)` is the answer.

    None where nothing may be answered: it is no request, an ACK, or has no Via. Meant for one stateless response
    behind a `MalformedMessage` with a status; nothing else in the request is to be trusted.
    """
    text = data.lstrip(b"\r\n")[:HEAD_BYTES_MAX].partition(b"\r\n\r\n")[0].decode("utf-8", "surrogateescape")
    start, *lines = _unfold(text).split("\r\n")
    method, _, rest = start.partition(" ")
    target, _, version = rest.rstrip(" \t").rpartition(" ")
    if not is_token(method) or method == "ACK" or version[:4].upper() != "SIP/":
        return None
    fields: list[tuple[str, str]] = []
    room = dict(_ECHOED)
    for line in lines:
        name, colon, value = line.partition(":")
        name = canonical_name(name.rstrip(" \t"))
        if colon and room.get(name, 0):
            room[name] -= 1
            fields.append((name, value.strip(" \t")))
    return Request(method, target, tuple(fields)) if room["Via"] < FIELDS_MAX else None
