"""SIP by HAProxy to the seats: what one end says must be what the other expects. Pure: texts in, findings out."""

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from warden.config.load import Document
from warden.config.tree import Config, SeatSetting, Sip
from warden.ops.ha.findings import Finding
from warden.ops.ha.reading import directives, line_of, openings
from warden.ops.ha.rendered import CONFIG, HAPROXY, NFTABLES, Nodes, Texts, line_in

_SAYS_TLS: Final = "send-proxy-v2-ssl"
_SAYS_WHO: Final = frozenset({"send-proxy-v2", _SAYS_TLS})
_SECTIONS: Final = frozenset({"global", "defaults", "frontend", "backend", "listen"})


class _Section(Struct):
    """A section of haproxy.cfg."""

    line: int
    says_who: bool = False
    says_tls: bool = False
    source: str = ""
    binds: list[int] = []
    """The ports that it listens at."""
    servers: list[tuple[int, str, int]] = []
    """Line, address and port of whom it passes on to."""


def passage(texts: Texts, nodes: Nodes) -> Iterator[Finding]:
    """Phones that come by HAProxy get to where somebody listens, and are known there by their own address."""
    ports = {seat.address: _ports(node.config.sip) for node in nodes.values() for seat in _seats(node)}
    for host, files in texts.items():
        where = f"{host}/{HAPROXY}"
        for section in _sections(files.get(HAPROXY, "")):
            for line, address, port in section.servers:
                if address not in ports:
                    continue
                if port not in ports[address]:
                    what = f"passes phones on to {address} at port {port}, where no node listens for connections"
                    yield Finding(where, line, what, f"the port of a transport of sip in {CONFIG}")
                if not section.says_who:
                    what = f"passes phones on to {address} and does not say whose connection it is"
                    yield Finding(where, section.line, what, "add send-proxy-v2 to its default-server")
                here = {o: n for o, n in nodes.items() if any(seat.address == address for seat in _seats(n))}
                if section.says_who and not section.says_tls and port in map(_in_the_clear, here.values()):
                    what = f"passes browsers on to {address} and does not say that their TLS ends here"
                    yield Finding(where, section.line, what, "send-proxy-v2-ssl in its default-server")
                for other, node in here.items():
                    if section.source not in node.config.sip.balancers:
                        what = f"sip.balancers does not name {section.source}, from where {host} passes phones on"
                        yield Finding(f"{other}/{CONFIG}", line_in(node, "sip.balancers"), what, "add it")
    yield from _closed(texts, nodes)


def _closed(texts: Texts, nodes: Nodes) -> Iterator[Finding]:
    """Where somebody listens for phones, or HAProxy for anybody, the firewall must have a door."""
    for host, files in texts.items():
        if NFTABLES not in files:
            continue
        wanted = {port: HAPROXY for section in _sections(files.get(HAPROXY, "")) for port in section.binds}
        if host in nodes:
            wanted |= dict.fromkeys(_ports(nodes[host].config.sip), CONFIG)
        doors = [opening for opening in openings(files[NFTABLES]) if opening.protocol == "tcp"]
        for port, file in sorted(wanted.items()):
            if not any(port in door.ports for door in doors):
                what = f"lets nobody in at port {port}, where {file} listens"
                line = line_of(files[NFTABLES], "chain input")
                yield Finding(f"{host}/{NFTABLES}", line, what, "add a rule, or render it again")


def _ports(sip: Sip) -> set[int]:
    """The ports at which a seat takes connections."""
    found = {sip.bind_port} if "tcp" in sip.transports else set()
    if sip.tls.enabled:
        found.add(sip.tls.bind_port)
    return found | {port for port in (sip.websocket.bind_port, sip.websocket.tls_port) if port is not None}


def _in_the_clear(node: Document[Config]) -> int | None:
    return node.config.sip.websocket.bind_port


def _seats(node: Document[Config]) -> tuple[SeatSetting, ...]:
    return node.config.high_availability.seats


def _sections(text: str) -> list[_Section]:
    found: list[_Section] = []
    for line, words in directives(text):
        if words[0] in _SECTIONS:
            found.append(_Section(line))
            continue
        if not found or len(words) < 2:
            continue
        section = found[-1]
        match words[0]:
            case "default-server":
                section.says_who = section.says_who or not _SAYS_WHO.isdisjoint(words)
                section.says_tls = section.says_tls or _SAYS_TLS in words
            case "source":
                section.source = words[1]
            case "bind" if (port := words[1].rpartition(":")[2]).isdigit():
                section.binds.append(int(port))
            case "server" if len(words) > 2 and (port := words[2].rpartition(":")[2]).isdigit():
                section.servers.append((line, words[2].rpartition(":")[0], int(port)))
    return found
