"""Who sent this? Digest authentication of requests (RFC 3261 section 22, RFC 8760) against the directory."""

from collections.abc import Sequence

from msgspec import Struct

from warden.sip.digest import (
    Credentials,
    NonceCounts,
    Nonces,
    NonceState,
    challenge,
    read_credentials,
    uri_matches,
    verify,
)
from warden.sip.message import Request
from warden.store.ports import Extension
from warden.switch.directory import Directory


class Known(Struct, frozen=True, gc=False):
    """The sender proved to be this extension."""

    extension: Extension


class Challenged(Struct, frozen=True, gc=False):
    """The sender has to prove who it is: 401 with these fields. `failed` is the name that it tried, and got
    its proof wrong; "" where it only did not prove anything yet.
    """

    fields: tuple[tuple[str, str], ...]
    failed: str = ""


Verdict = Known | Challenged


class Authenticator:
    """Checks credentials; remembers nothing but the nonce counts it has seen."""

    def __init__(self, realm: str, algorithms: Sequence[str], nonces: Nonces) -> None:
        self._realm = realm
        self._algorithms = algorithms
        self._nonces = nonces
        self._counts = NonceCounts()

    def check(self, now: float, request: Request, directory: Directory) -> Verdict:
        """Judge a request by its Authorization. Raises `MalformedMessage` (400) for one that cannot be read."""
        given = next((c for c in read_credentials(request) if c.realm == self._realm), None)
        if given is None:
            return self._challenge(now)
        nonce = self._nonces.check(now, given.nonce)
        if nonce is NonceState.FORGED:
            return self._challenge(now)
        extension = directory.find(given.username)
        if extension is None or not self._is_proof(given, request, extension):
            return self._challenge(now, failed=given.username or "?")
        # The proof is right, so a phone must not ask its user again: only the nonce has to be new (stale=true).
        if nonce is NonceState.STALE or not self._counts.accept(given.nonce, given.nonce_count):
            return self._challenge(now, stale=True)
        return Known(extension)

    def _is_proof(self, given: Credentials, request: Request, extension: Extension) -> bool:
        ha1 = extension.ha1.get(given.algorithm)
        return (
            ha1 is not None
            and extension.realm == self._realm
            and given.algorithm in self._algorithms
            and uri_matches(given.uri, request.target)
            and verify(given, request.method, ha1)
        )

    def _challenge(self, now: float, *, stale: bool = False, failed: str = "") -> Challenged:
        values = challenge(self._realm, self._nonces.issue(now), self._algorithms, stale=stale)
        return Challenged(tuple(("WWW-Authenticate", value) for value in values), failed)
