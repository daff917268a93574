"""What must hold between the name servers' files and the others, so that phones that know only the domain find a seat.
Pure: texts in, findings out.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import dns.exception
import dns.name
import dns.rdatatype
import dns.zone
from dns.rdtypes.ANY.NS import NS
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.SRV import SRV
from msgspec import Struct

from warden.config.tree import Sip
from warden.ops.ha.findings import Finding
from warden.ops.ha.reading import IPV4, line_of, openings
from warden.ops.ha.rendered import AGAIN, CONFIG, NFTABLES, Nodes, Texts, line_in

NAMED: Final = "etc/bind/named.conf"
DNS_PORT: Final = 53
ANYWHERE: Final = "anywhere"
_ZONE: Final = re.compile(r'^zone "([^"]+)".*?\bfile "([^"]+)"', re.MULTILINE | re.DOTALL)

_SERVICES: Final[tuple[tuple[str, Callable[[Sip], int | None]], ...]] = (
    ("_sip._udp", lambda sip: sip.bind_port if "udp" in sip.transports else None),
    ("_sip._tcp", lambda sip: sip.bind_port if "tcp" in sip.transports else None),
    ("_sips._tcp", lambda sip: sip.tls.bind_port if sip.tls.enabled else None),
    ("_sips._wss", lambda sip: sip.websocket.tls_port),
)
"""What phones ask for (RFC 3263), and at which port a node speaks it."""


class Server(Struct, frozen=True):
    """What a name server's settings say: where it listens, and the zones that it has a file of."""

    listens: tuple[str, ...]
    zones: Mapping[str, str]
    """Domain to the path of its file, without the slash at its beginning."""
    looks_up: bool
    """For anybody, any name."""


def server_of(text: str) -> Server:
    """A name server's settings, as far as they are compared with others."""
    listens = re.search(r"\blisten-on \{([^}]*)\}", text)
    return Server(
        tuple(IPV4.findall(listens[1])) if listens else (),
        {domain: path.lstrip("/") for domain, path in _ZONE.findall(text)},
        re.search(r"^\s*recursion no;", text, re.MULTILINE) is None,
    )


def names(texts: Texts, nodes: Nodes) -> Iterator[Finding]:
    """What does not fit, by file and line; nothing where the domain is served elsewhere."""
    servers = {host: server_of(files[NAMED]) for host, files in texts.items() if NAMED in files}
    zones = {
        (host, domain, path): texts[host][path]
        for host, server in servers.items()
        for domain, path in server.zones.items()
        if path in texts[host]
    }
    for host, server in servers.items():
        if server.looks_up:
            what = "looks up any name for anybody, and is used for attacks on others"
            yield Finding(f"{host}/{NAMED}", line_of(texts[host][NAMED], "recursion"), what, "recursion no")
        yield from _door(host, texts[host], nodes)
        for domain, path in server.zones.items():
            if (host, domain, path) not in zones:
                line = line_of(texts[host][NAMED], "file ")
                yield Finding(f"{host}/{NAMED}", line, f"its file of {domain}, /{path}, is not there", AGAIN)
    yield from _domain(nodes, servers)
    common = Counter(zones.values()).most_common(1)
    for (host, domain, path), text in zones.items():
        if text != common[0][0]:
            what = "is not as on the other name servers: what a phone is told would depend on whom it asks"
            yield Finding(f"{host}/{path}", 0, what, AGAIN)
        yield from _zone(f"{host}/{path}", domain, text, servers, nodes)


def _domain(nodes: Nodes, servers: Mapping[str, Server]) -> Iterator[Finding]:
    """The phones' domain is one that is served."""
    for host, node in nodes.items():
        domain = node.config.sip.realm
        if servers and not any(domain in server.zones for server in servers.values()):
            what = f"sip.realm is {domain}, and no name server has a zone of it: phones would find no seat"
            yield Finding(f"{host}/{CONFIG}", line_in(node, "sip.realm"), what, AGAIN)


def _door(host: str, files: Mapping[str, str], nodes: Nodes) -> Iterator[Finding]:
    """Whoever may send SIP to a host may ask it for names, over UDP, and over TCP where the answer is too long."""
    if NFTABLES not in files:
        return
    wall = openings(files[NFTABLES])
    sip = nodes[host].config.sip.bind_port if host in nodes else None
    for protocol in ("udp", "tcp"):
        doors = [opening for opening in wall if opening.protocol == protocol and DNS_PORT in opening.ports]
        admitted = {source for door in doors for source in door.sources or (ANYWHERE,)}
        # A host that is a name server only has no such rule to compare with.
        callers = [one for one in wall if one.protocol == "udp" and sip in one.ports]
        wanted = {source for one in callers for source in one.sources or (ANYWHERE,)}
        if not doors or (ANYWHERE not in admitted and wanted - admitted):
            whom = ", ".join(sorted(wanted - admitted)) or "anybody"
            what = f"does not let {whom} in at port {DNS_PORT} ({protocol}), where phones ask for the seats"
            line = line_of(files[NFTABLES], f"{protocol} dport {DNS_PORT} ") or line_of(files[NFTABLES], "chain input")
            yield Finding(f"{host}/{NFTABLES}", line, what, "the same sources as for SIP")


def _zone(where: str, domain: str, text: str, servers: Mapping[str, Server], nodes: Nodes) -> Iterator[Finding]:
    try:
        zone = dns.zone.from_text(text, origin=f"{domain}.", relativize=False)
    except (dns.exception.DNSException, ValueError):
        # For the program that reads it to say.
        return
    yield from _name_servers(where, text, zone, servers)
    yield from _seats(where, text, zone, nodes)
    yield from _ports(where, text, zone, nodes)


def _name_servers(where: str, text: str, zone: dns.zone.Zone, servers: Mapping[str, Server]) -> Iterator[Finding]:
    """Who is named as a name server is one, and each that is one is named."""
    listening = {address: host for host, server in servers.items() for address in server.listens}
    named: set[str] = set()
    for target in _targets(zone, zone.origin):
        addresses = _addresses(zone, target)
        named |= {listening[address] for address in addresses if address in listening}
        if not (addresses & listening.keys()):
            at = ", ".join(sorted(addresses)) or "no address"
            what = f"{target.to_text(omit_final_dot=True)} ({at}) is named as a name server, and none listens there"
            yield Finding(where, line_of(text, f"IN NS  {target}"), what, "name the hosts that have the role dns")
    for host in sorted(servers.keys() - named):
        what = f"{host} serves the domain, and no NS record names it: nobody would ask it when the others are gone"
        yield Finding(where, line_of(text, "IN NS "), what, f"add an NS record for {host}")


def _seats(where: str, text: str, zone: dns.zone.Zone, nodes: Nodes) -> Iterator[Finding]:
    """Over UDP phones are sent to the seats, all of them, and nowhere else; over TCP perhaps to balancers."""
    seats = {
        seat.address: f"seat {seat.name}" for node in nodes.values() for seat in node.config.high_availability.seats
    }
    told: set[str] = set()
    for target in _targets(zone, dns.name.from_text("_sip._udp", zone.origin)):
        addresses = _addresses(zone, target)
        told |= addresses
        name = target.to_text(omit_final_dot=True)
        if wrong := sorted(addresses - seats.keys()) or ([] if addresses else ["no address"]):
            what = f"phones would be sent to {name} ({', '.join(wrong)}), which is no seat"
            yield Finding(where, line_of(text, f" {name}."), what, AGAIN)
    for address in sorted(seats.keys() - told):
        what = f"no SRV record of _sip._udp leads to {seats[address]} ({address}): no phone would come there"
        yield Finding(where, line_of(text, "_sip._udp IN SRV"), what, AGAIN)


def _ports(where: str, text: str, zone: dns.zone.Zone, nodes: Nodes) -> Iterator[Finding]:
    """Where a seat is named, the port is that at which it speaks the transport. HAProxy's ports are its own."""
    speaks = {seat.address: node.config.sip for node in nodes.values() for seat in node.config.high_availability.seats}
    for prefix, port_of in _SERVICES:
        for record in _services(zone, dns.name.from_text(prefix, zone.origin)):
            for sip in (speaks[address] for address in _addresses(zone, record.target) if address in speaks):
                if record.port != port_of(sip):
                    name = record.target.to_text(omit_final_dot=True)
                    what = f"{prefix} sends phones to {name} at port {record.port}, where the seat does not speak that"
                    yield Finding(where, line_of(text, f"{prefix} IN SRV"), what, AGAIN)


def _services(zone: dns.zone.Zone, name: dns.name.Name) -> list[SRV]:
    found = zone.get_rdataset(name, dns.rdatatype.SRV)
    return sorted(record for record in found or () if isinstance(record, SRV))


def _targets(zone: dns.zone.Zone, name: dns.name.Name | None) -> list[dns.name.Name]:
    """The hosts that the NS or SRV records of a name lead to."""
    assert name is not None, "a zone that was read has an origin"
    kind = dns.rdatatype.NS if name == zone.origin else dns.rdatatype.SRV
    found = zone.get_rdataset(name, kind)
    return sorted({record.target for record in found or () if isinstance(record, NS | SRV)})


def _addresses(zone: dns.zone.Zone, name: dns.name.Name) -> set[str]:
    found = zone.get_rdataset(name, dns.rdatatype.A) if name.is_subdomain(zone.origin or name) else None
    return {record.address for record in found or () if isinstance(record, A)}
