"""Where a peer is, and over what it is reached."""

from enum import StrEnum
from typing import NamedTuple


class Transport(StrEnum):
    """SIP transports (RFC 3261 section 18, RFC 7118); `param` is how a URI spells them."""

    UDP = "udp"
    TCP = "tcp"
    TLS = "tls"
    WS = "ws"
    WSS = "wss"

    @property
    def reliable(self) -> bool:
        """True where the transport retransmits by itself, so that SIP must not."""
        return self is not Transport.UDP

    @property
    def param(self) -> str:
        """As spelled in a URI's `transport` parameter, which has one word for both kinds of WebSocket (RFC 7118)."""
        return "ws" if self is Transport.WSS else self.value

    @property
    def via(self) -> str:
        """As spelled in a Via header: `SIP/2.0/` and this."""
        return self.value.upper()


class Address(NamedTuple):
    """An IP address (text, IPv6 without brackets) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Flow(NamedTuple):
    """The way to a peer: a connection, or for UDP the pair of addresses (RFC 5626 section 3).

    `connection` numbers a stream connection within its process (0 for UDP), so that a new connection from the
    same address is another flow.
    """

    transport: Transport
    local: Address
    remote: Address
    connection: int = 0
