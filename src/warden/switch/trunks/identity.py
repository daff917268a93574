"""Who calls, as a carrier is told and as a carrier tells (RFC 3323, RFC 3325, draft-ietf-sip-privacy-04 for RPID)."""

from typing import Final

from warden.core.errors import MalformedMessage
from warden.sip.message import Fields, Request
from warden.sip.uri import NameAddr, Uri, escape_user, parse_name_addr, unescape
from warden.switch.text import printable
from warden.switch.trunks.trunk import Identity, Trunk

NUMBER_CHARS_MAX: Final = 64
NAME_CHARS_MAX: Final = 128
ANONYMOUS: Final = "anonymous"
"""The number of a caller who does not tell it (RFC 3323 section 4.1.1.3)."""

_ANONYMOUS: Final = NameAddr(Uri("sip", "anonymous.invalid", user=ANONYMOUS), "Anonymous")


def wants_privacy(invite: Request | None) -> bool:
    """True where the caller's phone asks that nobody learns who it is (RFC 3323 section 4.2)."""
    if invite is None:
        return False
    kinds = {kind.strip().lower() for value in invite.get_all("Privacy") for kind in value.split(";")}
    return not kinds.isdisjoint(("id", "user", "header"))


def caller_fields(
    trunk: Trunk, number: str, name: str, *, is_outside: bool, is_private: bool
) -> tuple[NameAddr, Fields]:
    """From, and the other fields that tell a carrier who calls. `is_outside`: the caller came over a trunk itself, and
    its number is not one of ours.
    """
    shown = number if is_outside else (trunk.caller_id or "{extension}").replace("{extension}", number)
    ours = shown
    if is_outside:
        # A carrier vouches only for numbers of its own: these it is told beside the one that is shown.
        ours = trunk.caller_id if trunk.caller_id and "{" not in trunk.caller_id else trunk.from_user or trunk.username
        ours = ours or shown
    from_ = NameAddr(Uri("sip", trunk.host, user=escape_user(trunk.from_user or shown)), name)
    identity = NameAddr(Uri("sip", trunk.host, user=escape_user(ours)), name)
    if is_private:
        from_ = replace_name(from_, "Anonymous") if trunk.from_user else _ANONYMOUS
    fields: list[tuple[str, str]] = []
    match trunk.identity:
        case Identity.PAI:
            fields.append(("P-Asserted-Identity", str(identity)))
        case Identity.PPI:
            fields.append(("P-Preferred-Identity", str(identity)))
        case Identity.RPID:
            privacy = "full" if is_private else "off"
            fields.append(("Remote-Party-ID", f"{identity};party=calling;screen=yes;privacy={privacy}"))
        case Identity.NONE:
            pass
    if is_private:
        fields.append(("Privacy", "id"))
    return from_, tuple(fields)


def replace_name(address: NameAddr, name: str) -> NameAddr:
    """The address under another name."""
    return NameAddr(address.uri, name, address.params)


def caller_of(trunk: Trunk, request: Request) -> tuple[str, str]:
    """Number and name of who calls over a trunk. Raises `MalformedMessage`."""
    address = request.from_
    if trunk.trusts_identity:
        address = _asserted(request) or address
    if wants_privacy(request) and not trunk.trusts_identity:
        return ANONYMOUS, "Anonymous"
    number = printable(unescape(address.uri.user or ""))[:NUMBER_CHARS_MAX]
    if address.uri.scheme == "tel":
        number = printable(address.uri.host)[:NUMBER_CHARS_MAX]
    return number or ANONYMOUS, printable(address.display)[:NAME_CHARS_MAX]


def _asserted(request: Request) -> NameAddr | None:
    """The first identity that can be read."""
    for value in (*request.values("P-Asserted-Identity"), *request.values("Remote-Party-ID")):
        try:
            return parse_name_addr(value)
        except MalformedMessage:
            continue
    return None


def called_of(request: Request, contact_user: str) -> str:
    """The number that is called: the user of the Request-URI, or of To where that is our registration's contact."""
    user = request.uri.username
    if not user or user == contact_user:
        user = request.to.uri.username
    return printable(user)
