"""SIP over TLS at a real node: certificates by name, and a new one without a restart."""

import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from warden.core.address import Address, Transport
from warden.ops.town import Town
from warden.ops.wires import TcpWire

from pbx import Pbx, free_ports

OPTIONS = (
    b"OPTIONS sip:pbx@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:5061;branch=z9hG4bKx%d\r\nMax-Forwards: 70\r\n"
    b"From: <sip:probe@127.0.0.1>;tag=a\r\nTo: <sip:pbx@127.0.0.1>\r\nCall-ID: probe%d\r\nCSeq: 1 OPTIONS\r\n"
    b"Content-Length: 0\r\n\r\n"
)


def write_certificate(folder: Path, file: str, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for `name` and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{file}.pem", folder / f"{file}.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


def connect(port: int, name: str) -> ssl.SSLSocket:
    """A TLS connection that asks for `name`."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=20), server_hostname=name)


def name_in(connection: ssl.SSLSocket) -> str:
    """Whose certificate the server has shown."""
    shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    (name,) = x509.load_der_x509_certificate(shown).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name.value)


def answer(connection: ssl.SSLSocket, number: int) -> bytes:
    """The status line that an OPTIONS gets."""
    connection.sendall(OPTIONS % (number, number))
    return connection.recv(65536).split(b"\r\n", 1)[0]


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Pbx, int]]:
    (port,) = free_ports(1)
    one, two = write_certificate(tmp_path, "one", "one.example"), write_certificate(tmp_path, "two", "two.example")
    pbx = Pbx(tmp_path)
    listed = ", ".join(f"{{certificate: {certificate}, key: {key}}}" for certificate, key in (one, two))
    text = pbx.file.read_text()
    pbx.file.write_text(
        text.replace("rtp:", f"  tls: {{enabled: true, bind_port: {port}, certificates: [{listed}]}}\nrtp:", 1)
    )
    try:
        pbx.start()
        yield pbx, port
    finally:
        pbx.close()


def test_tls_serves_each_name_its_certificate_and_takes_a_new_one_without_dropping_anybody(
    secure: tuple[Pbx, int], tmp_path: Path
) -> None:
    pbx, port = secure
    assert pbx.process is not None
    with closing(connect(port, "two.example")) as old, closing(connect(port, "unknown.example")) as other:
        assert name_in(old) == "two.example"
        assert name_in(other) == "one.example"
        assert answer(old, 1) == b"SIP/2.0 200 OK"

        write_certificate(tmp_path, "two", "two.example.net")
        pbx.process.send_signal(signal.SIGHUP)
        pbx.wait_for_log("certificates reloaded")
        with closing(connect(port, "two.example.net")) as new:
            assert name_in(new) == "two.example.net"
            assert answer(new, 2) == b"SIP/2.0 200 OK"
        assert answer(old, 3) == b"SIP/2.0 200 OK"

        (tmp_path / "two.pem").write_text("no certificate")
        pbx.process.send_signal(signal.SIGHUP)
        pbx.wait_for_log("certificates are not reloaded")
        assert "two.pem" in pbx.stderr.read_text()
        with closing(connect(port, "two.example.net")) as still:
            assert name_in(still) == "two.example.net"


def test_a_certificate_that_does_not_match_its_key_keeps_the_node_from_starting(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    certificate, _ = write_certificate(tmp_path, "one", "one.example")
    _, key = write_certificate(tmp_path, "two", "two.example")
    pbx = Pbx(tmp_path)
    text = pbx.file.read_text()
    wrong = f"  tls: {{enabled: true, bind_port: {port}, certificates: [{{certificate: {certificate}, key: {key}}}]}}\n"
    pbx.file.write_text(text.replace("rtp:", f"{wrong}rtp:", 1))
    done = pbx.run("serve")
    assert done.returncode == 1
    assert str(certificate) in done.stderr
    assert str(key) in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_town_is_left_when_nothing_of_its_phones_connections_is_left(secure: tuple[Pbx, int]) -> None:
    _, port = secure
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with Town([Address("127.0.0.1", port)], {"1001": "a password"}, local_host="127.0.0.1") as town:
        phone = town.phone("1001", 0, transport=Transport.TLS, tls=context)
        await phone.open()
    # TLS says goodbye to and fro: who does not wait for that leaves a socket behind.
    (wire,) = phone._wires
    assert isinstance(wire, TcpWire)
    assert wire._lost.is_set()
