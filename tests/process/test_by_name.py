"""A phone that knows only a domain comes to a real node, by the name server as it is rendered, past what is dead."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from warden.core.address import Address
from warden.core.errors import WardenError
from warden.ops.by_name import Visitor
from warden.ops.ha.render import render
from warden.ops.ha.starter import starter
from warden.ops.softphone import Softphone
from warden.sip.transaction import Timers

from ha_clusters import SECRETS, cluster_of
from pbx import REALM, Pbx, free_ports, password_of

NOBODY = Address("127.0.0.1", 9)
QUICK = Timers(t1=0.02)
"""Given up after 1.3 s."""


@contextmanager
def silent() -> Iterator[Address]:
    """Something that was there once: it takes what is sent to it, and says nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.bind(("127.0.0.1", 0))
        yield Address(*end.getsockname())


@contextmanager
def named(folder: Path, *, east: int, west: int) -> Iterator[Address]:
    """The name server of a region's first host as it is rendered, on a port of its own; the seats of both regions are
    at these ports of this machine.
    """
    files = render(cluster_of(starter("geo").replace("example.com", REALM)), SECRETS)["east1"]
    zone = files[f"etc/bind/{REALM}.zone"].text
    for before, after in (
        ("SRV 10 100 5060", f"SRV 10 100 {east}"),
        ("SRV 20 100 5060", f"SRV 20 100 {west}"),
        ("192.168.1.100", "127.0.0.1"),
        ("192.168.2.100", "127.0.0.1"),
    ):
        assert before in zone
        zone = zone.replace(before, after)
    (folder / "zone").write_text(zone)
    [port] = free_ports(1)
    text = files["etc/bind/named.conf"].text
    for before, after in (
        ("listen-on { 127.0.0.1; 192.168.1.10; };", f"listen-on port {port} {{ 127.0.0.1; }};"),
        (f"/etc/bind/{REALM}.zone", str(folder / "zone")),
        ("/var/cache/bind", str(folder)),
        # What only the host has: its folder for running programs, and a control channel.
        ("options {", "controls { };\noptions { pid-file none; session-keyfile none;"),
    ):
        assert before in text
        text = text.replace(before, after)
    (folder / "named.conf").write_text(text)
    program = shutil.which("named", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert program is not None, "the Debian package bind9 is missing"
    log = folder / "named.log"
    with log.open("w") as said, subprocess.Popen(
        [program, "-g", "-n", "1", "-c", str(folder / "named.conf")], stdout=said, stderr=said
    ) as process:  # fmt: skip
        server = Address("127.0.0.1", port)
        try:
            until = time.monotonic() + 30
            while not _answers(server):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
            yield server
        finally:
            process.terminate()


def _answers(server: Address) -> bool:
    with suppress(OSError, dns.exception.Timeout):
        return dns.query.udp(dns.message.make_query(REALM, "SOA"), server.host, 0.2, server.port).rcode() == 0
    return False


@asynccontextmanager
async def visitor(servers: Sequence[Address]) -> AsyncIterator[Visitor]:
    phone = Softphone("1001", password_of("1001"), NOBODY, domain=REALM, timers=QUICK)
    try:
        yield Visitor(phone, REALM, servers)
    finally:
        if phone.registered is not None:
            await phone.unregister()
        phone.abort()


@pytest.fixture
def pbx(tmp_path: Path) -> Iterator[Pbx]:
    pbx = Pbx(tmp_path)
    pbx.add_extensions("1001")
    with pbx.up():
        yield pbx


async def test_a_phone_comes_to_the_second_region_when_the_first_and_its_name_server_are_silent(
    tmp_path: Path, pbx: Pbx
) -> None:
    with silent() as dead, silent() as gone, named(tmp_path, east=dead.port, west=pbx.sip_port) as server:
        async with visitor([gone, server]) as phone:
            came = await phone.come(20)
        assert came.tried == (dead, pbx.sip_address)
        assert came.told({dead: "main.east"}) == f"main.east, {pbx.sip_address}"


async def test_a_phone_comes_to_the_first_region_where_that_is_well(tmp_path: Path, pbx: Pbx) -> None:
    with silent() as dead, named(tmp_path, east=pbx.sip_port, west=dead.port) as server:
        async with visitor([server]) as phone:
            # The second time it comes with another connection.
            assert [(await phone.come(20)).tried for _ in range(2)] == [(pbx.sip_address,)] * 2


async def test_a_phone_that_nobody_tells_a_seat_says_whom_it_asked_in_vain() -> None:
    with silent() as gone:
        async with visitor([gone]) as phone:
            with pytest.raises(WardenError, match=r"1001 is not registered after 1 s, tried nobody: dns: .*warden"):
                await phone.come(1)


def test_the_name_server_tells_nothing_but_the_zone(tmp_path: Path) -> None:
    with named(tmp_path, east=1, west=2) as server:

        def ask(name: str, kind: str, klass: str = "IN") -> dns.message.Message:
            return dns.query.tcp(dns.message.make_query(name, kind, klass), server.host, 5, server.port)

        good = ask(f"_sip._udp.{REALM}", "SRV")
        assert [sorted(str(record) for record in rrset) for rrset in good.answer] == [
            [f"10 100 1 main.east.{REALM}.", f"20 100 2 main.west.{REALM}."]
        ]
        assert good.flags & dns.flags.AA
        assert not good.flags & dns.flags.RA
        assert ask("example.org", "A").rcode() == dns.rcode.REFUSED
        assert not ask("version.bind", "TXT", "CH").answer
        assert ask(REALM, "AXFR").rcode() == dns.rcode.REFUSED
