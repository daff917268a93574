"""What every story about sockets needs: both event loops, an ear, certificates, and a look at what is left behind."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from warden.core.address import Address, Flow, Transport
from warden.core.errors import MalformedMessage
from warden.net.settings import Certificate, Limits, Listener, Settings, Tls
from warden.net.sockets import Sockets
from warden.sip.message import Request, Response

UDP, TCP, TLS = Transport.UDP, Transport.TCP, Transport.TLS


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every story runs on uvloop, which serves, and on asyncio's own loop, which must do as well."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


def options(number: int = 1, body: bytes = b"") -> bytes:
    """A request, told apart by its Call-ID."""
    return (
        f"OPTIONS sip:pbx.example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bK{number};rport\r\n"
        f"From: <sip:1001@example.com>;tag=a\r\nTo: <sip:pbx.example.com>\r\nCall-ID: {number}\r\n"
        f"CSeq: {number} OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


class Ear:
    """A receiver that remembers what it heard, and can be waited for."""

    def __init__(self) -> None:
        self.heard: list[tuple[Flow, Request | Response]] = []
        self.broken: list[tuple[Flow, bytes, MalformedMessage]] = []
        self.losses: list[tuple[Flow, str]] = []
        self.answer_to_broken = b""
        self.net: Sockets | None = None
        self._changed = asyncio.Event()

    def received(self, flow: Flow, message: Request | Response) -> None:
        self.heard.append((flow, message))
        self._changed.set()

    def malformed(self, flow: Flow, data: bytes, error: MalformedMessage) -> None:
        self.broken.append((flow, data, error))
        if self.answer_to_broken and self.net is not None:
            self.net.send(flow, self.answer_to_broken)
        self._changed.set()

    def lost(self, flow: Flow, why: str) -> None:
        self.losses.append((flow, why))
        self._changed.set()

    @property
    def call_ids(self) -> list[str]:
        return [message.call_id for _, message in self.heard]

    async def until_heard(self, count: int) -> None:
        """Wait until so many messages were heard in all."""
        await self.until(lambda: len(self.heard) >= count)

    async def until_lost(self, count: int = 1) -> None:
        """Wait until so many losses were told in all."""
        await self.until(lambda: len(self.losses) >= count)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something heard makes the condition true."""
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


async def turns_until(condition: Callable[[], object]) -> None:
    """Let the loop turn until the condition holds, where nothing tells that it does."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


class Machine:
    """Sockets and the ear behind them."""

    def __init__(self, settings: Settings) -> None:
        self.ear = Ear()
        self.sockets = Sockets(settings, self.ear)
        self.ear.net = self.sockets
        self.counters = self.sockets.counters

    def address(self, transport: Transport = UDP) -> Address:
        return next(address for served, address in self.sockets.listening if served is transport)

    def flow_to(self, other: "Machine", transport: Transport = UDP) -> Flow:
        return Flow(transport, self.address(transport), other.address(transport))


def settings(
    *transports: Transport,
    host: str = "127.0.0.1",
    limits: Limits | None = None,
    tls: Tls | None = None,
    balancers: frozenset[str] = frozenset(),
) -> Settings:
    """Listeners on free ports of one address."""
    return Settings(tuple(Listener(t, host, 0) for t in transports), tls or Tls(), limits or Limits(), balancers)


Start = Callable[..., Awaitable[Machine]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts machines, stops them at the end of the story, and then looks for what is left behind."""
    await asyncio.sleep(0)
    before = _descriptors()
    machines: list[Machine] = []

    async def start(*transports: Transport, **more: Any) -> Machine:
        machine = Machine(settings(*(transports or (UDP,)), **more))
        machines.append(machine)
        await machine.sockets.start()
        return machine

    yield start
    for machine in machines:
        await machine.sockets.stop()
        assert not any(traffic.connections_open for traffic in machine.counters.traffic.values())
    await turns_until(lambda: _descriptors() <= before)  # uvloop makes some of its own anew at each run
    await turns_until(lambda: asyncio.all_tasks() == {asyncio.current_task()})


def _descriptors() -> Counter[str]:
    found: Counter[str] = Counter()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            name = str(descriptor.readlink())
            if name.startswith(("socket:", "anon_inode:[eventpoll]")):
                found[name.partition(":")[0]] += 1
    return found


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self._root = self._build(self._name, self._key, [], days=365, is_authority=True)
        self.path = folder / "authority.pem"
        self.path.write_bytes(self._root.public_bytes(serialization.Encoding.PEM))

    def issue(self, *names: str, file: str = "", days: int = 30, passphrase: bytes = b"") -> Certificate:
        """Files `<file>.crt` and `<file>.key` (default: the first name) for these DNS names or addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        leaf = self._build(subject, key, list(names), days=days, is_authority=False)
        stem = file or names[0].replace("*", "any")
        files = Certificate(self._folder / f"{stem}.crt", self._folder / f"{stem}.key")
        files.certificate.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        files.key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        return files

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, names: list[str], *, days: int, is_authority: bool
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=60))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if is_authority:
            usage = x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=True)
        else:
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
            builder = builder.add_extension(issuer, critical=False)
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(n) for n in names]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)
