"""Who forwarded a call, as its next phone is told: Diversion (RFC 5806), which most phones show, and
History-Info (RFC 7044).
"""

from typing import Final

from warden.call.model import Call
from warden.call.way import Reason
from warden.sip.message import Fields
from warden.sip.uri import NameAddr, Uri, escape_user

_CAUSES: Final = {
    Reason.ALWAYS: 302,
    Reason.BUSY: 486,
    Reason.NO_ANSWER: 408,
    Reason.UNREACHABLE: 404,
    Reason.DO_NOT_DISTURB: 480,
}
"""Of a forward as a SIP status (RFC 4458 section 3.3)."""


def diverted_fields(call: Call, number: str, host: str) -> Fields:
    """For an INVITE to `number`; nothing where nobody has forwarded the call. `host` is our address."""
    if not call.diverted:
        return ()
    fields = [
        ("Diversion", f"{_name_addr(by.number, host)};reason={by.reason};counter=1") for by in reversed(call.diverted)
    ]
    index, history = "1", []
    before: Reason | None = None
    for by in call.diverted:
        headers = f"?Reason=SIP%3Bcause%3D{_CAUSES[by.reason]}"
        history.append(f"{_name_addr(by.number, host, before, headers)};index={index}")
        index, before = f"{index}.1", by.reason
    history.append(f"{_name_addr(number, host, before)};index={index}")
    return (*fields, ("History-Info", ", ".join(history)))


def _name_addr(number: str, host: str, cause: Reason | None = None, headers: str = "") -> str:
    params = () if cause is None else (("cause", str(_CAUSES[cause])),)
    uri = Uri("sip", host, user=escape_user(number), params=params)
    return f"<{uri}{headers}>" if headers else str(NameAddr(uri))
