"""Over which flow a peer is reached (RFC 3261 sections 8.1.2, 12.2.1.1; RFC 3327; RFC 5626 section 5.3).

What a phone says about its own address is believed only over UDP and where no NAT stands between: then it is found
where its Contact says, else where it was last heard.
"""

from functools import lru_cache
from ipaddress import ip_address

from warden.core.address import Address, Flow, Transport
from warden.core.errors import MalformedMessage
from warden.sip.dialog import Dialog
from warden.sip.message import Request
from warden.sip.uri import Uri, parse_name_addr, parse_uri
from warden.switch.registrar import Binding


def is_direct(request: Request, flow: Flow) -> bool:
    """True where the sender's idea of its own address (its Via) is the one that its packets come from."""
    if flow.transport is not Transport.UDP:
        return False
    via = request.via
    return via.host == flow.remote.host and (via.port or 5060) == flow.remote.port


def flow_to(binding: Binding) -> tuple[Flow, bool]:
    """The flow to a phone, and whether its contact has to be resolved before (RFC 3263), since it is a name.

    Behind a proxy (Path) it is the way that the REGISTER came.
    """
    if not binding.direct or binding.path:
        return binding.flow, False
    uri = parse_uri(binding.contact)
    if not _speaks_udp(uri):
        return binding.flow, False
    address = _address_of(uri.host, uri.port or 5060)
    if address is None:
        return binding.flow, True
    return _moved(binding.flow, address), False


def at_port_of(flow: Flow, uri: Uri) -> Flow:
    """The flow to another port of the same machine, where a phone's Contact (`uri`) names one that it can be asked at:
    its dialogs may have another than its registration.
    """
    if flow.transport is not Transport.UDP or uri.host != flow.remote.host or not _speaks_udp(uri):
        return flow
    return flow._replace(remote=Address(flow.remote.host, uri.port or 5060))


def next_hop(dialog: Dialog, *, direct: bool) -> Flow:
    """The flow for requests in a dialog. A phone whose Contact says `ob` wants them over its own flow (RFC 5626
    section 4.3).
    """
    if not direct or dialog.flow.transport is not Transport.UDP:
        return dialog.flow
    if not dialog.route_set and ";ob" in dialog.remote_target and _wants_its_flow(dialog.remote_target):
        return dialog.flow
    address = _hop_address(dialog.route_set[0] if dialog.route_set else f"<{dialog.remote_target}>")
    return dialog.flow if address is None else _moved(dialog.flow, address)


@lru_cache(maxsize=4096)
def _wants_its_flow(target: str) -> bool:
    return parse_uri(target).param("ob") is not None


@lru_cache(maxsize=4096)
def _hop_address(name_addr: str) -> Address | None:
    try:
        uri = parse_name_addr(name_addr).uri
    except MalformedMessage:
        return None
    return _address_of(uri.host, uri.port or 5060) if _speaks_udp(uri) else None


def _speaks_udp(uri: Uri) -> bool:
    return uri.scheme == "sip" and (uri.param("transport") or "udp").lower() == "udp"


@lru_cache(maxsize=4096)
def _address_of(host: str, port: int) -> Address | None:
    try:
        return Address(str(ip_address(host)), port)
    except ValueError:
        return None


def _moved(flow: Flow, address: Address) -> Flow:
    """The same way to another address, where it leads there: an IPv4 socket reaches no IPv6 address."""
    if address == flow.remote or (":" in address.host) != (":" in flow.remote.host):
        return flow
    return flow._replace(remote=address)
