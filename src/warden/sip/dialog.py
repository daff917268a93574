"""Dialogs as values (RFC 3261 section 12): what two peers remember of each other between transactions.

Transactions, Via headers and sockets are `warden.sip.endpoint`'s matter; which dialog a message belongs to is its
keeper's, who looks it up by Call-ID and tags.
"""

from functools import lru_cache
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from warden.core.address import Flow
from warden.core.errors import MalformedMessage, WardenError
from warden.sip.message import Fields, Message, Request, Response
from warden.sip.uri import CACHED_CHARS_MAX, parse_name_addr, parse_uri

TARGET_REFRESH: Final = frozenset(("INVITE", "UPDATE", "SUBSCRIBE", "NOTIFY", "REFER"))
"""Methods that carry Contact and move the remote target (RFC 3261 section 12.2, RFC 3311, RFC 6665, RFC 3515)."""

ROUTES_MAX: Final = 32
"""Proxies in a route set. Real chains have fewer than ten; every request of the dialog carries them all."""

MAX_FORWARDS: Final = ("Max-Forwards", "70")


class OutOfOrder(WardenError):
    """A request of the dialog has a lower CSeq than one before it: answer 500 (section 12.2.2)."""


class Dialog(Struct, frozen=True, gc=False):
    """One peer's side of a dialog.

    `local_uri` and `remote_uri` are From and To values without their tags, display names kept; tags are "" where a
    peer gave none (RFC 2543). `local_seq` is the CSeq of our last request, 0 before the first; `remote_seq` the
    peer's, -1 before its first. `route_set` holds name-addr texts in the order of our requests' Route headers.
    `remote_target` is a URI text, `contact` the value of our Contact header. `flow` is where our requests go when
    route set and target say nothing better.
    """

    call_id: str
    local_tag: str
    remote_tag: str
    local_uri: str
    remote_uri: str
    local_seq: int
    remote_seq: int
    route_set: tuple[str, ...]
    remote_target: str
    flow: Flow
    contact: str

    def request(
        self,
        method: str,
        *fields: tuple[str, str],
        body: bytes = b"",
        content_type: str = "",
        cseq: int | None = None,
    ) -> "tuple[Dialog, Request]":
        """The dialog after, and a request within it (section 12.2.1.1), without Via.

        The next CSeq is used unless `cseq` gives one. Contact is there in target refresh requests, unless `fields`
        bring their own.
        """
        number = self.local_seq + 1 if cseq is None else cseq
        has_contact = any(name == "Contact" for name, _ in fields)
        contact = (("Contact", self.contact),) if method in TARGET_REFRESH and not has_contact else ()
        dialog = self if number <= self.local_seq else replace(self, local_seq=number)
        return dialog, self._build(method, number, (*contact, *fields), body, content_type)

    def ack(self, cseq: int, *fields: tuple[str, str], body: bytes = b"", content_type: str = "") -> Request:
        """The ACK for a 2xx to our INVITE number `cseq` (section 13.2.2.4), without Via. Credentials that the INVITE
        carried belong into `fields`.
        """
        return self._build("ACK", cseq, fields, body, content_type)

    def _build(self, method: str, number: int, fields: Fields, body: bytes, content_type: str) -> Request:
        target, routes = self.remote_target, self.route_set
        if routes and not is_loose(routes[0]):
            # A strict router wants its own URI as the Request-URI, and the target as the last Route.
            target, routes = request_uri(str(parse_name_addr(routes[0]).uri)), (*routes[1:], f"<{target}>")
        remote_tag = f";tag={self.remote_tag}" if self.remote_tag else ""
        all_fields = (
            *[("Route", route) for route in routes],
            MAX_FORWARDS,
            ("From", f"{self.local_uri};tag={self.local_tag}"),
            ("To", f"{self.remote_uri}{remote_tag}"),
            ("Call-ID", self.call_id),
            ("CSeq", f"{number} {method}"),
            *fields,
        )
        if content_type:
            all_fields = (*all_fields, ("Content-Type", content_type))
        return Request(method, target, all_fields, body)

    def received(self, request: Request) -> "Dialog":
        """The dialog after a request from the peer (section 12.2.2). ACK and CANCEL change nothing.

        Raises `OutOfOrder` for a CSeq lower than the last, `MalformedMessage` for a Contact that cannot be read.
        """
        if request.method in ("ACK", "CANCEL"):
            return self
        number = request.cseq.number
        if number < self.remote_seq:
            raise OutOfOrder(f"dialog: CSeq {number} after {self.remote_seq}")
        target = _find_target(request) if request.method in TARGET_REFRESH else None
        return replace(self, remote_seq=number, remote_target=target or self.remote_target)

    def refreshed(self, response: Response) -> "Dialog":
        """The dialog after a 2xx to a target refresh request of ours (section 12.2.1.2).

        Raises `MalformedMessage` for a Contact that cannot be read.
        """
        target = _find_target(response)
        return self if target is None or target == self.remote_target else replace(self, remote_target=target)

    def confirmed(self, response: Response) -> "Dialog":
        """The early dialog after the 2xx to its INVITE: target and route set are taken anew (section 13.2.2.4)."""
        return replace(self.refreshed(response), route_set=_read_routes(response)[::-1])


def dialog_as_uac(request: Request, response: Response, flow: Flow) -> Dialog:
    """The dialog that a 101-199 with To tag or a 2xx to our `request` makes (section 12.1.2).

    A response without Contact leaves the Request-URI as the target. Raises `MalformedMessage`.
    """
    from_ = request.from_
    return Dialog(
        call_id=request.call_id,
        local_tag=from_.tag or "",
        remote_tag=response.to.tag or "",
        local_uri=untagged(request.get("From") or ""),
        remote_uri=untagged(request.get("To") or ""),
        local_seq=request.cseq.number,
        remote_seq=-1,
        route_set=_read_routes(response)[::-1],
        remote_target=_find_target(response) or request.target,
        flow=flow,
        contact=request.get("Contact") or "",
    )


def dialog_as_uas(request: Request, local_tag: str, contact: str, flow: Flow) -> Dialog:
    """The dialog that our answer to `request` makes (section 12.1.1). Raises `MalformedMessage` (400) where the
    request has no Contact or another header cannot be read.
    """
    target = _find_target(request)
    if target is None:
        raise MalformedMessage("Contact: missing", 400)
    return Dialog(
        call_id=request.call_id,
        local_tag=local_tag,
        remote_tag=request.from_.tag or "",
        local_uri=untagged(request.get("To") or ""),
        remote_uri=untagged(request.get("From") or ""),
        local_seq=0,
        remote_seq=request.cseq.number,
        route_set=_read_routes(request),
        remote_target=target,
        flow=flow,
        contact=contact,
    )


@lru_cache(maxsize=4096)
def untagged(value: str) -> str:
    """A From or To value without its tag. Raises `MalformedMessage`."""
    address = parse_name_addr(value)
    return str(replace(address, params=tuple(p for p in address.params if p[0].lower() != "tag")))


@lru_cache(maxsize=4096)
def is_loose(route: str) -> bool:
    """True where a Route value names a loose router (`lr`, section 16.12.1.1)."""
    return parse_name_addr(route).uri.param("lr") is not None


@lru_cache(maxsize=4096)
def request_uri(text: str) -> str:
    """A URI as it may stand in a request line: without headers and `method` (section 19.1.1)."""
    uri = parse_uri(text)
    if not uri.headers and uri.param("method") is None:
        return text
    return str(replace(uri, headers="", params=tuple(p for p in uri.params if p[0].lower() != "method")))


def _find_target(message: Message) -> str | None:
    contacts = message.values("Contact")
    if not contacts or contacts[0] == "*":
        return None
    return (_target_of if len(contacts[0]) <= CACHED_CHARS_MAX else _target_of.__wrapped__)(contacts[0])


@lru_cache(maxsize=4096)
def _target_of(contact: str) -> str:
    return request_uri(str(parse_name_addr(contact).uri))


def _read_routes(message: Message) -> tuple[str, ...]:
    values = message.values("Record-Route")
    if len(values) > ROUTES_MAX:
        raise MalformedMessage(f"Record-Route: more than {ROUTES_MAX} values", 400)
    for value in values:
        parse_name_addr(value)
    return tuple(values)
