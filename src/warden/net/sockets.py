"""All SIP sockets of a seat behind the `Net` door: listeners opened together, messages routed by their flow."""

import ssl
from collections.abc import Mapping, Set
from typing import Final

from msgspec.structs import replace

from warden.core.address import Address, Flow, Transport
from warden.core.errors import WardenError
from warden.net.bind import bind, kernel_drops, local_address, queued_bytes
from warden.net.counters import Counters, Dropped
from warden.net.files import RESERVE_FILES, raise_file_limit
from warden.net.limits import RateLimit
from warden.net.ports import Receiver
from warden.net.settings import Limits, Settings
from warden.net.stream import Streams
from warden.net.tls import Identity, client_context
from warden.net.udp import UdpSocket

_TLS: Final = frozenset((Transport.TLS, Transport.WSS))
_SERVER_NAMES_MAX: Final = 4_096
"""Remembered names of TLS servers: every trunk's addresses, many times over."""


class Sockets:
    """The `Net` of a node. Between `start` and `stop` it may be sent through; `receiver` hears what arrives.

    Flows: `local` is the listener's address (its `advertised` host where it listens on a wildcard), also for
    connections opened from here, so that a flow stays the same over restarts. A stream flow with connection 0 reaches
    the connection between that local and that remote address, opened if there is none; what arrives on it is reported
    with the connection's number, which is otherwise the same flow. When a connection ends, `lost` is told for the
    flow with its number, and for the flow with connection 0 if anything was sent by that. A connection that cannot be
    opened has no number yet, so `lost` is told for connection 0 alone.
    """

    def __init__(
        self,
        settings: Settings,
        receiver: Receiver,
        counters: Counters | None = None,
        barred: Set[str] = frozenset(),
    ) -> None:
        """Nothing is read from the addresses that are in `barred` at the time, in the spelling of `limit_key`."""
        self.counters = counters if counters is not None else Counters()
        self.listening: tuple[tuple[Transport, Address], ...] = ()
        self._settings = settings
        self._receiver = receiver
        self._barred = barred
        self._udp: dict[Address, UdpSocket] = {}
        self._streams: Streams | None = None
        self._identity: Identity | None = None
        self._client_tls: ssl.SSLContext | None = None
        self._server_names: dict[Address, str] = {}
        self._few_files = ""

    async def start(self) -> None:
        """Open every listener, or none and raise `WardenError` (a taken port, a bad certificate ...)."""
        settings, limits = self._settings, self._within_file_limit(self._settings.limits)
        wanted = {listener.transport for listener in settings.listeners}
        if wanted & _TLS:
            self._identity = Identity(settings.tls.certificates)
        if wanted & _TLS or settings.tls.authorities is not None:
            # Reading the system's authorities takes some 20 ms: better now than during calls.
            self._client_context()
        rate = RateLimit(limits.messages_per_address_per_s, limits.messages_per_address_burst)
        self._streams = Streams(
            self._receiver,
            self.counters,
            limits,
            rate,
            server_tls=self._identity.context if self._identity is not None else None,
            client_tls=self._client_context,
            server_name=lambda remote: self._server_names.get(remote, remote.host),
            barred=self._barred,
            balancers=self._settings.balancers,
        )
        listening = []
        try:
            for listener in settings.listeners:
                match listener.transport:
                    case Transport.UDP:
                        sock = bind(listener)
                        local = local_address(sock, listener)
                        udp = UdpSocket(
                            sock,
                            local,
                            receiver=self._receiver,
                            counters=self.counters,
                            limits=limits,
                            rate=rate,
                            barred=self._barred,
                        )
                        udp.start()
                        self._udp[local] = udp
                    case _:
                        local = self._streams.listen(listener)
                listening.append((listener.transport, local))
        except WardenError:
            await self.stop()
            raise
        self.listening = tuple(listening)

    async def stop(self) -> None:
        """Close everything, within about two seconds; safe to call twice. `lost` is not told."""
        udp, self._udp = self._udp, {}
        for opened in udp.values():
            opened.close()
        streams, self._streams = self._streams, None
        if streams is not None:
            await streams.stop()
        self.listening = ()

    def send(self, flow: Flow, data: bytes) -> None:
        """As `Net.send`. Outside `start` and `stop` it drops. A UDP flow whose local address is not ours (that of
        a seat before it moved) goes out by any socket of its family.
        """
        if flow.transport is Transport.UDP:
            udp = self._udp.get(flow.local) or self._udp_towards(flow)
            if udp is not None:
                udp.send(flow.remote, data)
                return
        elif self._streams is not None:
            self._streams.send(flow, data)
            return
        self.counters.dropped[Dropped.SEND_FAILED] += 1
        if self._streams is not None:
            self._streams.loop.call_soon(self._receiver.lost, flow, f"no {flow.transport} socket leads there")

    def close(self, flow: Flow) -> None:
        """As `Net.close`. `lost` follows when the connection has ended."""
        if self._streams is not None and flow.transport is not Transport.UDP:
            self._streams.close(flow)

    def expect(self, remote: Address, server_name: str) -> None:
        """Let TLS connections opened to `remote` from now on be verified by this name: the one that was resolved
        (RFC 5922 section 7). Without, the certificate must carry the address itself.
        """
        if len(self._server_names) >= _SERVER_NAMES_MAX:
            self._server_names.clear()
        self._server_names[remote] = server_name

    def reload(self) -> None:
        """Read the certificates again, for new connections. Raises `WardenError` and keeps the old ones."""
        if self._identity is not None:
            self._identity.reload()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the log and the health page: certificates that have expired, a low limit of open files."""
        about_files = (self._few_files,) if self._few_files else ()
        return about_files if self._identity is None else (*about_files, *self._identity.warnings)

    @property
    def certificates(self) -> Mapping[str, float]:
        """When each certificate ends (seconds since the epoch), by its file."""
        return {} if self._identity is None else self._identity.ends_at_utc

    @property
    def kernel_drops(self) -> int:
        """Datagrams that the kernel dropped since `start`, because the loop was too slow to read them."""
        return sum(kernel_drops(udp.sock) for udp in self._udp.values())

    @property
    def queued_bytes(self) -> int:
        """What waits to be read from the UDP sockets, as the kernel counts it."""
        return sum(queued_bytes(udp.sock) for udp in self._udp.values())

    def _within_file_limit(self, limits: Limits) -> Limits:
        """No more connections than leave everything else its descriptors."""
        files = raise_file_limit()
        connections_max = max(1, min(limits.connections_max, files - RESERVE_FILES))
        self._few_files = ""
        if connections_max < limits.connections_max:
            self._few_files = (
                f"sockets: the limit of {files} open files leaves room for {connections_max} connections"
                f" of {limits.connections_max}; let it be {limits.connections_max + RESERVE_FILES} or more"
            )
        return replace(limits, connections_max=connections_max)

    def _client_context(self) -> ssl.SSLContext:
        if self._client_tls is None:
            self._client_tls = client_context(self._settings.tls)
        return self._client_tls

    def _udp_towards(self, flow: Flow) -> UdpSocket | None:
        is_ipv6 = ":" in flow.remote.host
        return next((udp for local, udp in self._udp.items() if (":" in local.host) == is_ipv6), None)
