"""What the sockets are told: where to listen, with which certificates, how much to bear. Nothing is opened here."""

from pathlib import Path

from msgspec import Struct

from warden.core.address import Transport


class Listener(Struct, frozen=True):
    """One address to listen on. Port 0 takes a free one.

    `advertised` is the host that flows (and so Via and Contact) carry when `host` is a wildcard such as 0.0.0.0. With
    `ahead` the machine need not have the address yet.
    """

    transport: Transport
    host: str
    port: int
    advertised: str = ""
    ahead: bool = False


class Certificate(Struct, frozen=True):
    """PEM files: the certificate with its chain, and its key without a pass phrase."""

    certificate: Path
    key: Path


class Tls(Struct, frozen=True):
    """`certificates` are offered by the name the client asks for, the first one where no name fits.

    Servers that Warden connects to are verified against `authorities` (a PEM file; None: the system's), unless
    `verify_servers` is False, which leaves the connection open to anybody in the middle.
    """

    certificates: tuple[Certificate, ...] = ()
    authorities: Path | None = None
    verify_servers: bool = True


class Limits(Struct, frozen=True):
    """How much the sockets bear. An address is an IPv4 address or an IPv6 /64, the least a site is given."""

    connections_max: int = 20_000
    """Twice the phones of the largest organisation, and a file descriptor each."""
    connections_per_address_max: int = 1_000
    """The phones of a large office behind one NAT address, a connection or two each."""
    new_connections_per_address_per_s: float = 200.0
    """A TLS handshake costs about 1 ms of CPU, so that one address can take a fifth of a core."""
    new_connections_per_address_burst: int = 1_000
    """After an adoption all phones of that office come back at once, and must be let in."""
    messages_per_address_per_s: float = 20_000.0
    """More than a node can serve in all, so that an SBC that brings all calls from one address is never hurt. What
    is above is dropped before it is parsed, at a tenth of the cost.
    """
    messages_per_address_burst: int = 20_000
    """One second of the above."""
    silence_s: float = 30.0
    """A connection that has not brought one whole message by then is a port scan or an attack."""
    idle_s: float = 7_500.0
    """Above the longest registration interval (2 h), since a phone without keep-alives is silent that long."""
    handshake_s: float = 10.0
    """A handshake of TLS or WebSocket takes two or three round trips; 10 s bears the worst mobile network."""
    ping_s: float = 30.0
    """A WebSocket that is silent for so long is pinged, since no page can ping: NATs forget a connection soonest after
    some minutes, and a page that is gone is known after four times as long.
    """
    proxy_header_s: float = 3.0
    """A balancer says who is behind it at once, before anything else."""
    connect_s: float = 5.0
    """An outgoing connection must leave time for the next target before the caller gives up."""
    waiting_messages_max: int = 1_000
    """Messages that wait for an outgoing connection: `connect_s` of 200 messages a second to one trunk."""
    unsent_bytes_max: int = 1_048_576
    """What a peer may leave unread before it is cut off: a thousand messages."""
    unsent_datagrams_max: int = 1_000
    """Datagrams that wait for room in the kernel's buffer; later ones are dropped, as any router would do."""


class Settings(Struct, frozen=True):
    """Everything `Sockets` needs to know."""

    listeners: tuple[Listener, ...]
    tls: Tls = Tls()
    limits: Limits = Limits()
    balancers: frozenset[str] = frozenset()
    """Hosts whose connections begin with a header of the PROXY protocol that says who is behind them."""
