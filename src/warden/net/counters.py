"""What the sockets count, as plain integers that only grow (`connections_open` apart)."""

from enum import StrEnum

from msgspec import Struct, field

from warden.core.address import Transport


class Dropped(StrEnum):
    """Why a datagram, a message to send, or a connection was dropped."""

    STUN = "stun"
    BANNED = "banned"
    MESSAGE_RATE = "message_rate"
    UNSENT_DATAGRAMS = "unsent_datagrams"
    SEND_FAILED = "send_failed"
    CONNECTION_GONE = "connection_gone"
    CONNECT_FAILED = "connect_failed"
    WAITING_MESSAGES = "waiting_messages"
    CONNECTIONS = "connections"
    CONNECTIONS_PER_ADDRESS = "connections_per_address"
    CONNECTION_RATE = "connection_rate"
    NO_DESCRIPTORS = "no_descriptors"
    HANDSHAKE = "handshake"
    PROXY_HEADER = "proxy_header"
    SILENT = "silent"
    IDLE = "idle"
    SLOW_READER = "slow_reader"


class Traffic(Struct):
    """The traffic of one transport. Bytes are those of SIP messages and keep-alives, without TLS; what comes over a
    WebSocket is counted with its frames.
    """

    messages_in: int = 0
    bytes_in: int = 0
    messages_out: int = 0
    bytes_out: int = 0
    malformed: int = 0
    keep_alives: int = 0
    icmp_errors: int = 0
    connections_open: int = 0
    connections_in: int = 0
    connections_out: int = 0


class Counters(Struct):
    """All of it, by transport and by reason."""

    traffic: dict[Transport, Traffic] = field(default_factory=lambda: {t: Traffic() for t in Transport})
    dropped: dict[Dropped, int] = field(default_factory=lambda: dict.fromkeys(Dropped, 0))
