"""SIP over TLS: certificates by name, replaced while running, and whom outgoing connections trust."""

import asyncio
import socket
import ssl
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tests.unit.net.conftest import TCP, TLS, Authority, Machine, Start, options

from warden.core.address import Flow
from warden.core.errors import WardenError
from warden.net.counters import Dropped
from warden.net.settings import Certificate, Limits, Tls
from warden.net.tls import Identity, client_context
from warden.sip.message import Request


async def shown_to(pbx: Machine, authority: Authority, name: str | None) -> set[str]:
    """The DNS names of the certificate that a client gets when it asks for `name`."""
    context = ssl.create_default_context(cafile=str(authority.path))
    context.check_hostname = False
    host, port = pbx.address(TLS)
    _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name or "")
    certificate = writer.get_extra_info("peercert")
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return {value for kind, value in certificate["subjectAltName"] if kind == "DNS"}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_messages_go_both_ways_over_a_verified_connection(start: Start, authority: Authority, host: str) -> None:
    tls = Tls((authority.issue(host, file="server"),), authorities=authority.path)
    phone, pbx = await start(TLS, tls=tls, host=host), await start(TLS, tls=tls, host=host)
    to_pbx = phone.flow_to(pbx, TLS)
    for number in range(20):
        phone.sockets.send(to_pbx, options(number, bytes(10_000)))
    await pbx.ear.until_heard(20)
    assert pbx.ear.call_ids == [str(number) for number in range(20)]
    flow, request = pbx.ear.heard[0]
    assert (flow.transport, flow.local) == (TLS, pbx.address(TLS))
    assert isinstance(request, Request)
    pbx.sockets.send(flow, bytes(request.respond(200)))
    await phone.ear.until_heard(1)
    back, _ = phone.ear.heard[0]
    assert back._replace(connection=0) == to_pbx

    pbx.sockets.close(flow)
    await phone.ear.until_lost(2)
    assert {flow for flow, _ in phone.ear.losses} == {back, to_pbx}


async def test_the_certificate_is_chosen_by_name_then_by_wildcard_then_it_is_the_first(
    start: Start, authority: Authority
) -> None:
    certificates = (
        authority.issue("pbx.example.com"),
        authority.issue("sip.example.org", "voice.example.org"),
        authority.issue("*.example.org"),
    )
    pbx = await start(TLS, tls=Tls(certificates))
    assert await shown_to(pbx, authority, "pbx.example.com") == {"pbx.example.com"}
    assert await shown_to(pbx, authority, "VOICE.example.org") == {"sip.example.org", "voice.example.org"}
    assert await shown_to(pbx, authority, "other.example.org") == {"*.example.org"}
    assert await shown_to(pbx, authority, "a.b.example.org") == {"pbx.example.com"}
    assert await shown_to(pbx, authority, None) == {"pbx.example.com"}


async def test_a_renewed_certificate_is_shown_after_reload_and_open_connections_stay(
    start: Start, authority: Authority
) -> None:
    tls = Tls((authority.issue("127.0.0.1", "old.example.com", file="server"),), authorities=authority.path)
    pbx, phone = await start(TLS, tls=tls), await start(TLS, tls=tls)
    phone.sockets.send(phone.flow_to(pbx, TLS), options(1))
    await pbx.ear.until_heard(1)
    assert await shown_to(pbx, authority, "old.example.com") == {"old.example.com"}

    authority.issue("new.example.com", file="server")
    assert await shown_to(pbx, authority, "old.example.com") == {"old.example.com"}
    pbx.sockets.reload()
    assert await shown_to(pbx, authority, "old.example.com") == {"new.example.com"}
    phone.sockets.send(phone.flow_to(pbx, TLS), options(2))
    await pbx.ear.until_heard(2)
    assert pbx.ear.heard[0][0] == pbx.ear.heard[1][0]


async def test_a_reload_of_broken_files_says_so_and_keeps_what_was(start: Start, authority: Authority) -> None:
    files = authority.issue("pbx.example.com")
    other = authority.issue("other.example.com")
    pbx = await start(TLS, tls=Tls((files,)))
    files.key.write_bytes(other.key.read_bytes())
    with pytest.raises(WardenError, match=f"the key {files.key} does not belong to {files.certificate}"):
        pbx.sockets.reload()
    assert await shown_to(pbx, authority, "pbx.example.com") == {"pbx.example.com"}


def test_certificate_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    good, other = authority.issue("pbx.example.com"), authority.issue("other.example.com")
    locked = authority.issue("locked.example.com", passphrase=b"secret")
    text = tmp_path / "text.crt"
    text.write_text("no certificate\n")
    missing = tmp_path / "missing"
    for files, message in (
        (Certificate(missing, good.key), f"tls: {missing}: no such file or directory"),
        (Certificate(good.certificate, missing), f"tls: {missing}: no such file or directory"),
        (Certificate(text, good.key), f"tls: {text} is not a certificate in PEM form"),
        (
            Certificate(good.certificate, other.key),
            f"tls: the key {other.key} does not belong to {good.certificate}",
        ),
        (locked, f"tls: {locked.certificate} with {locked.key} cannot be used: "),
        (Certificate(good.certificate, text), f"tls: {good.certificate} with {text} cannot be used: "),
    ):
        with pytest.raises(WardenError) as caught:
            Identity([files])
        assert str(caught.value).startswith(message)
    with pytest.raises(WardenError, match="no certificate is configured"):
        Identity([])


async def test_an_expired_certificate_is_served_with_a_warning(start: Start, authority: Authority) -> None:
    expired = authority.issue("pbx.example.com", days=-3)
    pbx = await start(TLS, tls=Tls((authority.issue("fine.example.com"), expired)))
    (warning,) = (text for text in pbx.sockets.warnings if text.startswith("tls:"))
    assert warning.startswith(f"tls: {expired.certificate} has expired on 20")


async def test_when_each_certificate_ends_is_told_and_told_anew_when_it_is_replaced(
    start: Start, authority: Authority
) -> None:
    soon = authority.issue("pbx.example.com", days=10)
    pbx = await start(TLS, tls=Tls((soon, authority.issue("other.example.com", days=90))))
    ends = pbx.sockets.certificates
    assert [round((at - time.time()) / 86400) for at in ends.values()] == [10, 90]
    renewed = authority.issue("pbx.example.com", days=60)
    for old, new in ((soon.certificate, renewed.certificate), (soon.key, renewed.key)):
        old.write_bytes(new.read_bytes())
    pbx.sockets.reload()
    assert pbx.sockets.certificates.keys() == ends.keys()
    assert round((pbx.sockets.certificates[str(soon.certificate)] - time.time()) / 86400) == 60


async def test_a_server_is_verified_by_the_name_that_was_resolved(start: Start, authority: Authority) -> None:
    trunk = await start(TLS, tls=Tls((authority.issue("trunk.example.com"),)))
    pbx = await start(TLS, tls=Tls((authority.issue("pbx.example.com"),), authorities=authority.path))
    flow = pbx.flow_to(trunk, TLS)

    pbx.sockets.send(flow, options(1))
    await pbx.ear.until_lost()
    lost, why = pbx.ear.losses[0]
    assert lost == flow
    assert why.startswith("tls: IP address mismatch")

    pbx.sockets.expect(flow.remote, "other.example.com")
    pbx.sockets.send(flow, options(2))
    await pbx.ear.until_lost(2)
    assert pbx.ear.losses[1][1].startswith("tls: Hostname mismatch")

    pbx.sockets.expect(flow.remote, "trunk.example.com")
    pbx.sockets.send(flow, options(3))
    await trunk.ear.until_heard(1)
    assert trunk.ear.call_ids == ["3"]


async def test_a_server_of_an_unknown_authority_is_not_trusted_unless_that_is_wanted(
    start: Start, authority: Authority
) -> None:
    own = (authority.issue("127.0.0.1", file="server"),)
    trunk, careful = await start(TLS, tls=Tls(own)), await start(TLS, tls=Tls(own))
    careless = await start(TLS, tls=Tls(own, verify_servers=False))
    careful.sockets.send(careful.flow_to(trunk, TLS), options(1))
    await careful.ear.until_lost()
    assert careful.ear.losses[0][1] == "tls: unable to get local issuer certificate"
    careless.sockets.send(careless.flow_to(trunk, TLS), options(2))
    await trunk.ear.until_heard(1)
    assert trunk.ear.call_ids == ["2"]


async def test_a_flow_to_a_server_that_speaks_no_tls_is_lost(start: Start, authority: Authority) -> None:
    tls = Tls((authority.issue("pbx.example.com"),), authorities=authority.path)
    pbx, plain = await start(TLS, tls=tls, limits=Limits(connect_s=1.0)), await start(TCP)
    flow = Flow(TLS, pbx.address(TLS), plain.address(TCP))
    pbx.sockets.send(flow, options())
    await pbx.ear.until_lost()
    assert [lost for lost, _ in pbx.ear.losses] == [flow]


async def test_a_client_that_speaks_no_tls_or_says_nothing_is_closed(start: Start, authority: Authority) -> None:
    tls = Tls((authority.issue("pbx.example.com"),))
    pbx = await start(TLS, tls=tls, limits=Limits(handshake_s=0.3))
    loop = asyncio.get_running_loop()
    for first in (options(), b""):
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, pbx.address(TLS))
            await loop.sock_sendall(sock, first)
            async with asyncio.timeout(10):
                with suppress(ConnectionResetError):
                    while await loop.sock_recv(sock, 1000):
                        pass
    assert pbx.counters.dropped[Dropped.HANDSHAKE] == 2
    assert pbx.counters.traffic[TLS].connections_open == 0
    assert not pbx.ear.losses


async def test_connections_in_the_handshake_count_for_the_limit_of_their_address(
    start: Start, authority: Authority
) -> None:
    tls = Tls((authority.issue("pbx.example.com"),))
    pbx = await start(TLS, tls=tls, limits=Limits(connections_per_address_max=1))
    loop = asyncio.get_running_loop()
    with socket.socket() as waiting, socket.socket() as refused:
        waiting.setblocking(False)
        refused.setblocking(False)
        await loop.sock_connect(waiting, pbx.address(TLS))
        async with asyncio.timeout(10):
            with suppress(ConnectionResetError):
                await loop.sock_connect(refused, pbx.address(TLS))
                assert await loop.sock_recv(refused, 1000) == b""
        # Stopping in the midst of the handshake leaves nothing behind either.
        await pbx.sockets.stop()
    assert pbx.counters.dropped[Dropped.CONNECTIONS_PER_ADDRESS] == 1


async def test_a_peer_that_does_not_read_is_cut_off_at_the_bound_also_over_tls(
    start: Start, authority: Authority
) -> None:
    tls = Tls((authority.issue("pbx.example.com"),))
    pbx = await start(TLS, tls=tls, limits=Limits(unsent_bytes_max=100_000))
    context = ssl.create_default_context(cafile=str(authority.path))
    host, port = pbx.address(TLS)
    _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname="pbx.example.com")
    writer.write(options())
    await pbx.ear.until_heard(1)
    flow = pbx.ear.heard[0][0]
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        while not pbx.ear.losses:
            pbx.sockets.send(flow, options(1, bytes(50_000)))
            await asyncio.sleep(0)
    await pbx.ear.until(lambda: (flow, "the peer does not read what it is sent") in pbx.ear.losses)
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


def test_versions_before_tls_1_2_are_spoken_to_nobody(authority: Authority) -> None:
    server = Identity([authority.issue("pbx.example.com")]).context
    client = client_context(Tls(authorities=authority.path))
    assert server.minimum_version == client.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_file_of_authorities_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "authorities.pem"
    with pytest.raises(WardenError, match=f"tls: authorities {missing}: no such file or directory"):
        client_context(Tls(authorities=missing))
