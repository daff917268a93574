"""The registrar (RFC 3261 section 10.3): what a REGISTER does to the bindings of one address of record.

Pure: bindings in, bindings and response out. That the sender may do it has been checked.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from warden.core.address import Flow
from warden.core.errors import MalformedMessage
from warden.core.versions import Codec
from warden.sip.message import Request
from warden.sip.uri import NameAddr, parse_name_addr, parse_uri

SCHEMA: Final = 1
OUTBOUND: Final = "outbound"
FLOW_TIMER_S: Final = {False: 30, True: 120}
"""How often a phone is to keep its flow open, by whether it is a stream (RFC 5626 section 4.4): a NAT forgets a UDP
port sooner than a connection."""
PATHS_MAX: Final = 8
"""Path values kept per binding: more proxies than any network has between phone and registrar."""


class Binding(Struct, frozen=True, gc=False, omit_defaults=True):
    """One contact of an address of record.

    `flow` is where the REGISTER came from. `direct` is True where the contact's own address can be trusted to reach
    the phone: no NAT was seen on the way, and the transport is UDP. `q` is in thousandths.
    """

    contact: str
    expires_at: float
    call_id: str
    cseq: int
    flow: Flow
    direct: bool = False
    q: int = 1000
    instance: str = ""
    reg_id: int = 0
    path: tuple[str, ...] = ()
    user_agent: str = ""


class Limits(Struct, frozen=True, gc=False):
    """Bounds of the registrar, seconds and contacts per address of record."""

    min_expires_s: int
    default_expires_s: int
    max_expires_s: int
    contacts_max: int


class Registration(Struct, frozen=True, gc=False):
    """What came of a REGISTER: the bindings as they shall be (unchanged where `status` is no 200), and the response.
    `moved` names the flows over which a phone was reached before, where it came over another one now.
    """

    bindings: tuple[Binding, ...]
    status: int
    fields: tuple[tuple[str, str], ...] = ()
    reason: str = ""
    moved: tuple[Flow, ...] = ()


class Bound(Struct, frozen=True, gc=False):
    """The bindings of one address of record, as its store record."""

    schema: int
    bindings: tuple[Binding, ...]


BINDINGS: Final = Codec(Bound, SCHEMA)
"""Registrations as records."""


def decode_bindings(record: bytes) -> tuple[Binding, ...]:
    """The bindings of a record, for who only reads it. Raises `Unreadable`."""
    return BINDINGS.decode(record)[0].bindings


def live(bindings: tuple[Binding, ...], now: float) -> tuple[Binding, ...]:
    """The bindings that have not expired."""
    return tuple(b for b in bindings if b.expires_at > now)


def register(
    now: float,
    bindings: tuple[Binding, ...],
    request: Request,
    flow: Flow,
    limits: Limits,
    *,
    direct: bool,
    is_gone: Callable[[Flow], bool] = lambda _: False,
) -> Registration:
    """Carry out one REGISTER on the live bindings of its address of record, wholly or not at all. `direct` as in
    `Binding`; `is_gone` tells a connection that does not exist any more.
    """
    bindings = live(bindings, now)
    call_id, cseq = request.call_id, request.cseq.number
    header_expires = _expires(request.get("Expires"))
    if request.contact_is_star:
        if len(request.values("Contact")) != 1 or header_expires != 0:
            return Registration(bindings, 400, reason="Contact: * needs Expires: 0 and stands alone")
        if any(b.call_id == call_id and cseq < b.cseq for b in bindings):
            return Registration(bindings, 500, reason="CSeq Out Of Order")
        return Registration((), 200)
    kept = list(bindings)
    moved: list[Flow] = []
    path = tuple(request.values("Path"))
    if len(path) > PATHS_MAX:
        return Registration(bindings, 400, reason="Too Many Path Values")
    fields: tuple[tuple[str, str], ...] = ()
    for contact in request.contacts:
        if contact.uri.scheme not in ("sip", "sips"):
            return Registration(bindings, 400, reason="Contact Is No SIP URI")
        asked, instance, reg_id = _said_of(contact)
        expires = header_expires if asked is None else asked
        if expires is None:
            expires = limits.default_expires_s
        if 0 < expires < limits.min_expires_s:
            return Registration(bindings, 423, (("Min-Expires", str(limits.min_expires_s)),))
        keeps_flow = reg_id > 0 and instance != "" and OUTBOUND in request.tokens("Supported")
        if keeps_flow and len(request.values("Via")) > 1 and not any(map(_keeps_flow, path)):
            return Registration(bindings, 439)
        old = _find(kept, contact) or _find_returned(kept, contact, call_id, flow, is_gone)
        if old is not None:
            # An equal CSeq is the same request once more, whose answer died with the process that gave it; whoever
            # captured it has no nonce count for it.
            if old.call_id == call_id and cseq < old.cseq:
                return Registration(bindings, 500, reason="CSeq Out Of Order")
            kept.remove(old)
            if old.flow != flow:
                moved.append(old.flow)
        if expires == 0:
            continue
        new = Binding(
            contact=str(contact.uri),
            expires_at=now + min(expires, limits.max_expires_s),
            call_id=call_id,
            cseq=cseq,
            flow=flow,
            direct=direct and not keeps_flow,
            q=_q(contact) if contact.params else 1000,
            instance=instance,
            reg_id=reg_id,
            path=path,
            user_agent=(request.get("User-Agent") or "")[:128],
        )
        kept.append(new)
        if keeps_flow:
            flow_timer_s = FLOW_TIMER_S[flow.transport.reliable]
            fields = (("Require", OUTBOUND), ("Flow-Timer", str(flow_timer_s)))
    # A phone that comes back from another port each time it boots must not lock its user out: the oldest goes.
    kept = kept[-limits.contacts_max :]
    return Registration(tuple(kept), 200, fields, moved=tuple(moved))


def flows_of(bindings: tuple[Binding, ...], is_gone: Callable[[Flow], bool]) -> list[Binding]:
    """Over which of its flows each phone is to be called: never over two at a time (RFC 5626 section 7), but over the
    newest one whose connection is not known to be gone.
    """
    chosen: dict[str, Binding] = {}
    for binding in bindings:
        name = binding.instance or binding.contact
        before = chosen.get(name)
        if before is None or is_gone(before.flow) or not is_gone(binding.flow):
            chosen[name] = binding
    return list(chosen.values())


def _keeps_flow(path: str) -> bool:
    """True where the proxy of a Path value keeps the phone's flow (RFC 5626 section 5.1)."""
    return parse_name_addr(path).uri.param("ob") is not None


def contact_fields(bindings: tuple[Binding, ...], now: float) -> tuple[tuple[str, str], ...]:
    """The Contact header fields of a 200: every binding with the seconds it has left."""
    fields = []
    for b in bindings:
        value = f"<{b.contact}>;expires={max(0, round(b.expires_at - now))}"
        if b.q != 1000:
            value += f";q={b.q / 1000:g}"
        if b.instance:
            value += f';+sip.instance="{b.instance}"'
        if b.reg_id:
            value += f";reg-id={b.reg_id}"
        fields.append(("Contact", value))
    return tuple(fields)


def _said_of(contact: NameAddr) -> tuple[int | None, str, int]:
    """What a Contact says of itself: expiry (None where it does not), instance ("" for none) and reg-id (0)."""
    if not contact.params:
        return None, "", 0
    instance = (contact.param("+sip.instance") or "").strip('"')
    digits = contact.param("reg-id") or ""
    reg_id = int(digits) if digits.isdecimal() and len(digits) < 6 else 0
    return _expires(contact.param("expires")), instance, reg_id


def _find(bindings: list[Binding], contact: NameAddr) -> Binding | None:
    """The binding that a Contact speaks of: the same instance (RFC 5626 section 6), else the same URI."""
    instance = (contact.param("+sip.instance") or "").strip('"')
    reg_id = contact.param("reg-id") or "0"
    for b in bindings:
        if instance and b.instance:
            if b.instance == instance and str(b.reg_id) == reg_id:
                return b
        elif parse_uri(b.contact).equivalent(contact.uri):
            return b
    return None


def _find_returned(
    bindings: list[Binding], contact: NameAddr, call_id: str, flow: Flow, is_gone: Callable[[Flow], bool]
) -> Binding | None:
    """The binding of a phone that gives no instance and is back on another connection, hence with another port in its
    contact: the one of the same registration (section 10.2.4: one Call-ID until it boots again), else the only one of
    the same user on the same machine. Its connection must be gone: two phones of one user are not to be mixed up.
    """
    if contact.param("+sip.instance") is not None or not flow.transport.reliable:
        return None
    lost = [b for b in bindings if not b.instance and is_gone(b.flow) and parse_uri(b.contact).user == contact.uri.user]
    same = [b for b in lost if b.call_id == call_id] or [
        b for b in lost if b.flow.remote.host == flow.remote.host and parse_uri(b.contact).host == contact.uri.host
    ]
    return same[0] if len(same) == 1 else None


def _expires(text: str | None) -> int | None:
    """Delta-seconds; malformed values count as absent (RFC 3261 section 10.3 step 6: treated as 3600, our default)."""
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 10:
        return None
    return int(text)


def _q(contact: NameAddr) -> int:
    text = contact.param("q")
    if text is None:
        return 1000
    try:
        value = float(text)
    except ValueError:
        raise MalformedMessage(f"Contact: bad q {text[:20]!r}", 400) from None
    if not 0 <= value <= 1:
        raise MalformedMessage(f"Contact: bad q {text[:20]!r}", 400)
    return round(value * 1000)
