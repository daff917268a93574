"""What peers write, as text that can be stored and shown: no bytes that are not UTF-8, no control characters.

The parser keeps every byte of a message as it was. A store, a database and a JSON document cannot, and a display name
in Latin-1 is no reason to refuse a call.
"""

import re
from typing import Final

from warden.sip.message import Request, Response

_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` with U+FFFD for whatever nobody could read."""
    return text if text.isascii() and text.isprintable() else _UNPRINTABLE.sub("\ufffd", text)


def readable(message: Request | Response) -> Request | Response:
    """The message with U+FFFD for the bytes of its header that are not UTF-8; the body stays as it is."""
    raw = message.raw
    if raw is None or raw.isascii() or not _SURROGATE.search("\n".join([v for _, v in message.fields])):
        return message
    fields = tuple((name, _SURROGATE.sub("\ufffd", value)) for name, value in message.fields)
    if isinstance(message, Request):
        return Request(message.method, message.target, fields, message.body)
    return Response(message.status, message.reason, fields, message.body)
