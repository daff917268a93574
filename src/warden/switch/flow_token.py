"""Flow tokens (RFC 5626 section 5.2): a phone's registration and the flow to it, as the user part of a Route URI.

A token says which number, which of its bindings and over which flow, never which node: it means the same before and
after another node has adopted the seat. Whoever holds one may send requests to that registration and nowhere else.
"""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from hashlib import blake2s
from typing import Final

import msgspec
from msgspec import Struct

from warden.core.address import Address, Transport
from warden.switch.registrar import Binding

PREFIX: Final = "edge-"
"""What a token begins with, so that a Route which is none of ours in that way costs no look at it."""
_MAC_BYTES: Final = 10
"""A forger has one try per message: 2**79 of them for an even chance."""


class Reach(Struct, frozen=True, gc=False, array_like=True):
    """How a phone is reached: `key` tells its binding from others of the number, and stays when the phone registers
    anew; `transport` and `remote` are the flow that was in force when the token was made.
    """

    number: str
    key: bytes
    transport: Transport
    remote: Address


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Reach)


def binding_key(binding: Binding) -> bytes:
    """What stays of a binding while its flow changes: the instance (RFC 5626 section 4.1), else the contact."""
    name = f"{binding.instance}\n{binding.reg_id}" if binding.instance else binding.contact
    return blake2s(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()


def reach_of(number: str, binding: Binding) -> Reach:
    """How the phone behind a binding is reached now."""
    return Reach(number, binding_key(binding), binding.flow.transport, binding.flow.remote)


class FlowTokens:
    """Makes and reads the tokens of a cluster. A token is good at the seat that it was made for only."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"warden flow token 1", "sha256")

    def issue(self, seat: Address, reach: Reach) -> str:
        """A token for the seat whose SIP address (UDP) is `seat`."""
        payload = _encoder.encode(reach)
        return PREFIX + urlsafe_b64encode(self._mac(seat, payload) + payload).rstrip(b"=").decode()

    def read(self, seat: Address, token: str) -> Reach | None:
        """The inverse; None for what is no token of ours for this seat."""
        text = token.removeprefix(PREFIX)
        try:
            data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (Error, ValueError):
            return None
        mac, payload = data[:_MAC_BYTES], data[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(seat, payload)):
            return None
        try:
            return _decoder.decode(payload)
        except msgspec.MsgspecError:
            # Of another version of Warden: as good as none.
            return None

    def _mac(self, seat: Address, payload: bytes) -> bytes:
        return blake2s(f"{seat}\n".encode() + payload, key=self._key, digest_size=_MAC_BYTES).digest()

    def mac(self, text: str) -> str:
        """20 characters that are the same for the same text, and that nobody else can tell."""
        data = text.encode("utf-8", "surrogateescape")
        return blake2s(data, key=self._key, digest_size=_MAC_BYTES, person=b"text").hexdigest()
