"""Certificates for listening (several, chosen by name, replaced while running) and trust for connecting."""

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from warden.core.errors import WardenError
from warden.net.settings import Certificate, Tls


class Identity:
    """The certificates this node shows. `reload` replaces them for connections made from then on.

    `warnings` has a sentence for each certificate that has run out, `ends_at_utc` when each will (seconds since the
    epoch), by its file. Raises `WardenError` that names the files.
    """

    def __init__(self, certificates: Sequence[Certificate]) -> None:
        self._certificates = certificates
        self.context = _server_context()
        self.context.sni_callback = self._choose
        self._load()

    def reload(self) -> None:
        """Read all files again. Where one is bad, `WardenError` tells why and everything stays as it was."""
        self._load()

    def _load(self) -> None:
        if not self._certificates:
            raise WardenError("tls: no certificate is configured")
        loaded = [_read(certificate) for certificate in self._certificates]
        by_name: dict[str, ssl.SSLContext] = {}
        for context, names, _, _ in loaded:
            for name in names:
                by_name.setdefault(name, context)
        self._by_name = by_name
        self._default = loaded[0][0]
        self.warnings = tuple(warning for _, _, _, warning in loaded if warning)
        files = [str(certificate.certificate) for certificate in self._certificates]
        self.ends_at_utc = {file: ends_at for file, (_, _, ends_at, _) in zip(files, loaded, strict=True)}

    def _choose(self, connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        wanted = (name or "").lower().rstrip(".")
        _, _, parent = wanted.partition(".")
        connection.context = self._by_name.get(wanted) or self._by_name.get(f"*.{parent}") or self._default


def client_context(tls: Tls) -> ssl.SSLContext:
    """What outgoing connections trust. Raises `WardenError` for a file of authorities that cannot be read."""
    try:
        context = ssl.create_default_context(cafile=None if tls.authorities is None else str(tls.authorities))
    except (OSError, ssl.SSLError) as error:
        raise WardenError(f"tls: authorities {tls.authorities}: {_reason(error)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not tls.verify_servers:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _read(files: Certificate) -> tuple[ssl.SSLContext, list[str], float, str]:
    """A context, the names it serves (lower case), when it ends, and a warning or ""."""
    try:
        leaf = x509.load_pem_x509_certificates(_bytes(files.certificate))[0]
    except ValueError:
        raise WardenError(f"tls: {files.certificate} is not a certificate in PEM form") from None
    _bytes(files.key)
    context = _server_context()
    try:
        # Without a password argument OpenSSL would ask for one at the terminal.
        context.load_cert_chain(files.certificate, files.key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise WardenError(f"tls: the key {files.key} does not belong to {files.certificate}") from None
        raise WardenError(
            f"tls: {files.certificate} with {files.key} cannot be used: {_reason(error)} "
            "(the key must be in PEM form and without a pass phrase)"
        ) from None
    ends_at = leaf.not_valid_after_utc
    warning = f"tls: {files.certificate} has expired on {ends_at:%Y-%m-%d}" if ends_at < datetime.now(UTC) else ""
    return context, _names(leaf), ends_at.timestamp(), warning


def _names(leaf: x509.Certificate) -> list[str]:
    """The DNS names of a certificate; its common name only where it has none (RFC 5922 section 7.1)."""
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = [str(name.value) for name in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    else:
        names = alternative.get_values_for_type(x509.DNSName)
    return [name.lower().rstrip(".") for name in names]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WardenError(f"tls: {path}: {(error.strerror or str(error)).lower()}") from None


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return (error.strerror or str(error)).lower()
