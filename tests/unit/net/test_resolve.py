"""RFC 3263 against a real DNS server (dnsmasq), one that is dead, and one that never answers."""

import os
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import dns.asyncresolver
import dns.message
import dns.query
import pytest
from tests.unit.net.conftest import TCP, TLS, UDP

from warden.core.address import Address, Transport
from warden.core.errors import Unavailable
from warden.net.resolve import TARGETS_MAX, Resolver, Target, name_servers
from warden.sip.uri import parse_uri

from port_numbers import port_number

ALL = (TLS, TCP, UDP)

ZONE = """
local=/test/
local-ttl=60
host-record=a.test,192.0.2.1
host-record=b.test,192.0.2.2
host-record=dual.test,192.0.2.3,2001:db8::3
host-record=v6.test,2001:db8::6
cname=alias.test,a.test

# A domain with everything, its operator preferring TLS, then TCP, then UDP.
naptr-record=full.test,50,50,s,SIPS+D2T,,_sips._tcp.full.test
naptr-record=full.test,90,50,s,SIP+D2T,,_sip._tcp.full.test
naptr-record=full.test,100,50,S,sip+d2u,,_sip._udp.full.test
srv-host=_sips._tcp.full.test,a.test,5071,1,1
srv-host=_sip._tcp.full.test,b.test,5070,1,1
srv-host=_sip._udp.full.test,b.test,5062,2,1
srv-host=_sip._udp.full.test,a.test,5061,1,1

# Two transports of one order: the preference decides, and the other one is the second choice.
naptr-record=equal.test,10,20,s,SIP+D2U,,_sip._udp.full.test
naptr-record=equal.test,10,10,s,SIP+D2T,,_sip._tcp.full.test

# NAPTR that says nothing of use, SRV, no SRV, an SRV that refuses.
naptr-record=useless.test,10,10,u,E2U+sip,!^.*$!sip:x@y.test!,.
host-record=useless.test,192.0.2.8
srv-host=_sip._tcp.tcponly.test,b.test,5066,1,1
srv-host=_sip._udp.closed.test,.,0,0,0
host-record=closed.test,192.0.2.9
srv-host=_sip._udp.empty.test,nothing.test,5060,1,1
srv-host=_sip._udp.half.test,nothing.test,5060,1,1
srv-host=_sip._udp.half.test,a.test,5060,2,1
srv-host=_sip._udp.maddr.test,b.test,5088,1,1

srv-host=_sip._udp.shared.test,a.test,5060,10,30
srv-host=_sip._udp.shared.test,b.test,5060,10,10
srv-host=_sip._udp.shared.test,dual.test,5060,20,0
"""


def free_port() -> int:
    """For UDP and TCP."""
    while True:
        port = port_number()
        with (
            suppress(OSError),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
        ):
            udp.bind(("127.0.0.1", port))
            tcp.bind(("127.0.0.1", port))
            return port


@contextmanager
def serving(folder: Path, zone: str, port: int) -> Iterator[None]:
    """A dnsmasq that knows this zone and nothing else."""
    program = shutil.which("dnsmasq", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert program is not None, "the Debian package dnsmasq-base is missing"
    file = folder / "dnsmasq.conf"
    file.write_text(f"port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\npid-file=\n{zone}")
    command = [program, "--no-daemon", f"--conf-file={file}", "--user="]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            question = dns.message.make_query("a.test", "A")
            for _ in range(100):
                assert server.poll() is None, "dnsmasq does not start"
                try:
                    dns.query.udp(question, "127.0.0.1", timeout=0.1, port=port)
                    break
                except (OSError, dns.exception.Timeout):
                    continue
            yield
        finally:
            server.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    port = free_port()
    with serving(tmp_path_factory.mktemp("dns"), ZONE, port):
        yield Address("127.0.0.1", port)


@pytest.fixture
def resolver(server: Address) -> Resolver:
    return Resolver(name_servers([server]), ipv6=True, random=Random(1))


def udp(host: str, port: int = 5060) -> tuple[Transport, Address]:
    return UDP, Address(host, port)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        # Numeric: nothing is asked. The transport is UDP, TLS for sips, or what the URI says.
        ("sip:192.0.2.9", [udp("192.0.2.9")]),
        ("sip:192.0.2.9:5080", [udp("192.0.2.9", 5080)]),
        ("sip:[2001:db8::9]", [udp("2001:db8::9")]),
        ("sip:192.0.2.9;transport=tcp", [(TCP, Address("192.0.2.9", 5060))]),
        ("sip:192.0.2.9;transport=TLS", [(TLS, Address("192.0.2.9", 5061))]),
        ("sips:192.0.2.9", [(TLS, Address("192.0.2.9", 5061))]),
        ("sips:192.0.2.9:5099;transport=tcp", [(TLS, Address("192.0.2.9", 5099))]),
        ("sip:localhost:5080", [udp("127.0.0.1", 5080), udp("::1", 5080)]),
        # A port: addresses alone, although there are NAPTR and SRV.
        ("sip:dual.test:5080", [udp("192.0.2.3", 5080), udp("2001:db8::3", 5080)]),
        ("sip:alias.test.:5080", [udp("192.0.2.1", 5080)]),
        # NAPTR: the lowest order that is of use, and there the lowest preference first.
        ("sip:full.test", [(TLS, Address("192.0.2.1", 5071))]),
        ("sip:FULL.test", [(TLS, Address("192.0.2.1", 5071))]),
        ("sips:full.test", [(TLS, Address("192.0.2.1", 5071))]),
        (
            "sip:equal.test",
            [(TCP, Address("192.0.2.2", 5070)), udp("192.0.2.1", 5061), udp("192.0.2.2", 5062)],
        ),
        # A transport parameter: SRV of that transport.
        ("sip:full.test;transport=udp", [udp("192.0.2.1", 5061), udp("192.0.2.2", 5062)]),
        ("sip:full.test;transport=tcp", [(TCP, Address("192.0.2.2", 5070))]),
        # No NAPTR: SRV of every transport; no SRV: addresses.
        ("sip:tcponly.test", [(TCP, Address("192.0.2.2", 5066))]),
        ("sip:useless.test", [udp("192.0.2.8")]),
        ("sip:a.test", [udp("192.0.2.1")]),
        ("sips:a.test", [(TLS, Address("192.0.2.1", 5061))]),
        ("sip:a.test;transport=tcp", [(TCP, Address("192.0.2.1", 5060))]),
        ("sip:v6.test", [udp("2001:db8::6")]),
        ("sip:alias.test", [udp("192.0.2.1")]),
        # A server of a list that has no address does not cost the others.
        ("sip:half.test", [udp("192.0.2.1")]),
        # maddr replaces the host.
        ("sip:full.test;maddr=maddr.test", [udp("192.0.2.2", 5088)]),
        ("sip:full.test;maddr=192.0.2.44", [udp("192.0.2.44")]),
    ],
)
async def test_a_uri_leads_to_these_targets(
    resolver: Resolver, uri: str, expected: list[tuple[Transport, Address]]
) -> None:
    targets = await resolver.resolve(parse_uri(uri), supported=ALL)
    assert [(target.transport, target.address) for target in targets] == expected
    assert {target.name for target in targets} == {parse_uri(uri).host}


async def test_only_supported_transports_are_chosen(resolver: Resolver) -> None:
    targets = await resolver.resolve(parse_uri("sip:full.test"), supported={UDP})
    assert [target.address.port for target in targets] == [5061, 5062]
    targets = await resolver.resolve(parse_uri("sip:full.test"), supported={UDP, TCP})
    assert targets == [Target(TCP, Address("192.0.2.2", 5070), "full.test")]
    assert await resolver.resolve(parse_uri("sip:192.0.2.9"), supported={TLS}) == [
        Target(TLS, Address("192.0.2.9", 5061), "192.0.2.9")
    ]


async def test_without_ipv6_no_ipv6_address_is_given(server: Address) -> None:
    resolver = Resolver(name_servers([server]), ipv6=False)
    targets = await resolver.resolve(parse_uri("sip:dual.test"), supported=ALL)
    assert [target.address.host for target in targets] == ["192.0.2.3"]
    with pytest.raises(Unavailable, match=r"dns: v6\.test has no address"):
        await resolver.resolve(parse_uri("sip:v6.test"), supported=ALL)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("sip:nobody.test", "dns: nobody.test has no address"),
        ("sip:nobody.test:5060", "dns: nobody.test has no address"),
        ("sip:closed.test;transport=udp", "dns: closed.test has no address"),
        ("sip:empty.test", "dns: nothing.test has no address"),
        ("sip:a.test;transport=sctp", "dns: sip:a.test;transport=sctp: unknown transport"),
        ("sip:a.test;transport=ws", "dns: sip:a.test;transport=ws: ws is not served here"),
        ("sips:a.test;transport=udp", "dns: sips:a.test;transport=udp: sips cannot go over udp"),
        (f"sip:{'x' * 64}.test", f"dns: _sip._udp.{'x' * 64}.test SRV: a dns label is > 63 octets long."),
    ],
)
async def test_what_leads_nowhere_is_unavailable_and_named(resolver: Resolver, uri: str, message: str) -> None:
    with pytest.raises(Unavailable) as caught:
        await resolver.resolve(parse_uri(uri), supported=ALL)
    assert str(caught.value) == message


async def test_a_server_that_refuses_to_answer_is_unavailable(resolver: Resolver) -> None:
    with pytest.raises(
        Unavailable, match=r"dns: _sip._udp\.example\.com SRV: no name server, or each one refuses or fails"
    ):
        await resolver.resolve(parse_uri("sip:example.com"), supported=ALL)


async def test_without_any_name_server_addresses_work_and_names_are_unavailable() -> None:
    resolver = Resolver(dns.asyncresolver.Resolver(configure=False))
    assert len(await resolver.resolve(parse_uri("sip:192.0.2.9"), supported=ALL)) == 1
    with pytest.raises(Unavailable, match=r"dns: trunk\.test A: no name server"):
        await resolver.resolve(parse_uri("sip:trunk.test:5060"), supported=ALL)


async def test_servers_of_one_priority_share_the_load_by_weight_and_others_come_behind(resolver: Resolver) -> None:
    first: Counter[str] = Counter()
    for _ in range(2_000):
        targets = await resolver.resolve(parse_uri("sip:shared.test"), supported=ALL)
        hosts = [target.address.host for target in targets]
        assert sorted(hosts[:2]) == ["192.0.2.1", "192.0.2.2"]
        assert hosts[2:] == ["192.0.2.3", "2001:db8::3"]
        first[hosts[0]] += 1
    assert 1_400 < first["192.0.2.1"] < 1_600


async def test_answers_are_kept_for_their_ttl_then_asked_for_again_and_kept_on_while_dns_is_down(
    tmp_path: Path,
) -> None:
    port, now = free_port(), 1_000.0
    resolver = Resolver(name_servers([Address("127.0.0.1", port)]), now=lambda: now, timeout_s=1.0)
    uri = parse_uri("sip:trunk.test")

    async def address() -> str:
        return (await resolver.resolve(uri, supported={UDP}))[0].address.host

    def zone(host: str) -> str:
        return f"local=/test/\nhost-record=trunk.test,{host},60\nhost-record=a.test,192.0.2.1\n"

    with serving(tmp_path, zone("192.0.2.10"), port):
        assert await address() == "192.0.2.10"
    with serving(tmp_path, zone("192.0.2.11"), port):
        now += 59
        assert await address() == "192.0.2.10"
        now += 2
        assert await address() == "192.0.2.11"
    now += 3_600
    assert await address() == "192.0.2.11"
    with serving(tmp_path, zone("192.0.2.12"), port):
        now += 29
        assert await address() == "192.0.2.11"
        now += 2
        assert await address() == "192.0.2.12"
    now += 86_461
    with pytest.raises(Unavailable, match=r"dns: trunk\.test"):
        await address()


async def test_that_a_name_is_missing_is_believed_for_half_a_minute(tmp_path: Path) -> None:
    port, now = free_port(), 1_000.0
    resolver = Resolver(name_servers([Address("127.0.0.1", port)]), now=lambda: now)
    uri = parse_uri("sip:new.test:5060")
    with serving(tmp_path, "local=/test/\nhost-record=a.test,192.0.2.1\n", port), pytest.raises(Unavailable):
        await resolver.resolve(uri, supported={UDP})
    with serving(tmp_path, "local=/test/\nhost-record=new.test,192.0.2.5\nlocal-ttl=5\n", port):
        now += 29
        with pytest.raises(Unavailable):
            await resolver.resolve(uri, supported={UDP})
        now += 2
        targets = await resolver.resolve(uri, supported={UDP})
    assert targets == [Target(UDP, Address("192.0.2.5", 5060), "new.test")]


async def test_a_name_server_that_never_answers_costs_the_time_out_and_no_more() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        resolver = Resolver(name_servers([Address(*silent.getsockname())]), timeout_s=0.3)
        with pytest.raises(Unavailable) as caught:
            await resolver.resolve(parse_uri("sip:trunk.test"), supported=ALL)
        assert str(caught.value) == "dns: trunk.test was not resolved within 0.3 s"
        assert silent.recv(1_000)


async def test_the_second_name_server_is_asked_when_the_first_is_silent(server: Address) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        client = name_servers([Address(*silent.getsockname()), server])
        client.timeout = 0.1
        targets = await Resolver(client).resolve(parse_uri("sip:a.test:5060"), supported=ALL)
    assert targets == [Target(UDP, Address("192.0.2.1", 5060), "a.test")]


async def test_a_silent_name_server_costs_its_share_once_and_not_for_each_record_on_the_way(server: Address) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        client = name_servers([Address(*silent.getsockname()), server])
        client.timeout = 0.5
        # NAPTR, SRV and A, one after the other.
        targets = await Resolver(client, timeout_s=1.4).resolve(parse_uri("sip:full.test"), supported=ALL)
    assert targets[0] == Target(TLS, Address("192.0.2.1", 5071), "full.test")


async def test_only_so_many_targets_are_given(tmp_path: Path) -> None:
    port = free_port()
    hosts = "".join(f"host-record=many.test,192.0.2.{number}\n" for number in range(1, 25))
    with serving(tmp_path, f"local=/test/\nhost-record=a.test,192.0.2.1\n{hosts}", port):
        resolver = Resolver(name_servers([Address("127.0.0.1", port)]))
        targets = await resolver.resolve(parse_uri("sip:many.test"), supported=ALL)
    assert len(targets) == TARGETS_MAX
