"""Passwords of trunks as they are stored: sealed with a key that is made from the cluster's secret.

A carrier has to be shown the proof of the password itself, so a hash does not do. Nobody who reads the database alone
learns it.
"""

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from warden.core.errors import WardenError

NONCE_BYTES: Final = 12
_MARK: Final = "sealed1:"


KEPT: Final = "***"
"""What is shown in a password's place; given back it means that the password stays as it is."""
Sealer = Callable[[str], str]
"""Seals a password."""


def shown(kind: str, body: str) -> str:
    """The body of an item as people may see it: of a trunk without its password."""
    if kind != "trunk" or '"password"' not in body:
        return body
    return msgspec.json.encode(msgspec.json.decode(body) | {"password": KEPT}).decode()


def is_sealed(text: str) -> bool:
    """True for what `seal` made."""
    return text.startswith(_MARK)


def seal(secret: bytes, password: str, nonce: bytes) -> str:
    """The password, sealed. `nonce` is `NONCE_BYTES` random bytes that were never used before."""
    assert len(nonce) == NONCE_BYTES, "AES-GCM's nonce (RFC 5116)"
    sealed = AESGCM(_key(secret)).encrypt(nonce, password.encode(), None)
    return _MARK + urlsafe_b64encode(nonce + sealed).decode("ascii")


def unseal(secret: bytes, sealed: str) -> str:
    """The password. Raises `WardenError` where the secret is not the one that it was sealed with."""
    try:
        raw = urlsafe_b64decode(sealed.removeprefix(_MARK))
        return AESGCM(_key(secret)).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], None).decode()
    except (InvalidTag, ValueError):
        raise WardenError("its password was stored under another cluster secret: set it again") from None


def _key(secret: bytes) -> bytes:
    return hmac.new(secret, b"warden trunk passwords", hashlib.sha256).digest()
