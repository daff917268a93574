"""What the Via header decides: to which transaction a message belongs and where a response goes.

RFC 3261 sections 17.1.3, 17.2.3, 18.2.1 and 18.2.2, RFC 3581. Values in, values out.
"""

import re
from hashlib import blake2s
from typing import Final

from msgspec.structs import replace

from warden.core.address import Address, Flow, Transport
from warden.sip.message import MAGIC_COOKIE, CSeq, Fields, Request, Via
from warden.sip.uri import Params, split_outside_quotes

SIP_PORT: Final = 5060
"""Where a Via without a port means (section 18.2.2)."""

_BRANCH = re.compile(r";[ \t]*branch[ \t]*=[ \t]*([^\s;,]+)", re.IGNORECASE)


def find_branch(value: str) -> str:
    """The branch in a Via value, "" where there is none: all that a response needs to find its transaction. What a
    strange value gives can only miss, since our branches cannot be guessed.
    """
    found = _BRANCH.search(value)
    return found[1] if found else ""


def has_rfc3261_branch(via: Via) -> bool:
    """True where the branch identifies the transaction. The cookie alone (RFC 4475 section 3.2.1) does not."""
    branch = via.branch
    return branch.startswith(MAGIC_COOKIE) and len(branch) > len(MAGIC_COOKIE)


def server_key(request: Request, via: Via, method: str) -> str:
    """The name of the server transaction that `request` belongs to, were its method `method` (section 17.2.3).

    An ACK and a CANCEL find an INVITE by `method` INVITE. Keys of server transactions hold spaces, which tells them
    from those of client transactions. Without an RFC 3261 branch the name is made of what RFC 2543 compares, header
    values as written: retransmissions are copies.
    """
    branch = via.branch
    if branch.startswith(MAGIC_COOKIE) and len(branch) > len(MAGIC_COOKIE):
        return f"{branch} {via.host.lower()}:{via.port or SIP_PORT} {method}"
    return rfc2543_key(request, method, request.to.tag or "")


def rfc2543_key(request: Request, method: str, to_tag: str) -> str:
    """`server_key` by the rules for RFC 2543 peers, for the given To tag."""
    top = split_outside_quotes(request.get("Via") or "", ",")[0].strip()
    parts = (top, request.target, request.from_.tag or "", request.call_id, str(request.cseq.number), to_tag)
    return f"rfc2543 {_digest(*parts)} {method}"


def merge_key(request: Request, from_tag: str, cseq: CSeq) -> str:
    """What two copies of one request that came by different ways have in common (section 8.2.2.2)."""
    return f"{cseq.number} {cseq.method} {from_tag} {request.call_id}"


def stateless_tag(request: Request) -> str:
    """A To tag that is the same for each copy of a request, for answers that leave no state (section 8.2.7)."""
    return _digest(*request.get_all("Via"), request.get("Call-ID") or "", request.get("CSeq") or "")


def _digest(*parts: str) -> str:
    return blake2s("\0".join(parts).encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()


def as_heard(request: Request, via: Via, flow: Flow) -> tuple[Request, Flow]:
    """The request with `received` and `rport` in its topmost Via where they belong (section 18.2.1, RFC 3581
    section 4), and the flow for its responses (section 18.2.2; `maddr` is not followed, since it would let anyone
    aim our responses at others).
    """
    host, port = flow.remote
    asks_rport = False
    params: Params = via.params
    for name, _ in params:
        if (lower := name.lower()) in ("rport", "received"):
            asks_rport = asks_rport or lower == "rport"
            params = tuple(p for p in params if p[0].lower() != lower)
    if asks_rport:
        params = (*params, ("received", host), ("rport", str(port)))
    elif via.host != host:
        params = (*params, ("received", host))
    if flow.transport is Transport.UDP and not asks_rport and (via.port or SIP_PORT) != port:
        flow = Flow(flow.transport, flow.local, Address(host, via.port or SIP_PORT))
    if params == via.params:
        return request, flow
    return request.with_top_via(replace(via, params=params)), flow


def build_ack(invite: Request, to: str) -> Request:
    """The ACK for a final response from 300 on (section 17.1.1.3); `to` is that response's To."""
    return Request("ACK", invite.target, _hop_fields(invite, "ACK", to))


def build_cancel(invite: Request, fields: Fields) -> Request:
    """The CANCEL for an INVITE of ours, `fields` added (section 9.1)."""
    return Request("CANCEL", invite.target, (*_hop_fields(invite, "CANCEL", invite.get("To") or ""), *fields))


def _hop_fields(invite: Request, method: str, to: str) -> Fields:
    via = split_outside_quotes(invite.get("Via") or "", ",")[0].strip()
    routes = tuple(("Route", value) for value in invite.get_all("Route"))
    return (
        ("Via", via),
        *routes,
        ("Max-Forwards", "70"),
        ("From", invite.get("From") or ""),
        ("To", to),
        ("Call-ID", invite.call_id),
        ("CSeq", f"{invite.cseq.number} {method}"),
    )
