"""What the switch must know of the configuration, as one frozen value."""

from collections.abc import Mapping

from msgspec import Struct

from warden.core.address import Address, Flow, Transport
from warden.sip.session_timer import Wish


class BanRules(Struct, frozen=True, gc=False):
    """From the configuration: `failures` within `window_s` lead to a ban of the first of `durations_s`, and each within
    a day after its end to the next of them.
    """

    enabled: bool = True
    failures: int = 20
    window_s: float = 600.0
    durations_s: tuple[float, ...] = (600.0, 3_600.0, 86_400.0)


class V6(Struct, frozen=True, gc=False):
    """Our addresses for peers that speak IPv6, beside IPv4 ones: as in `Settings`."""

    advertised: Mapping[Transport, Address]
    media_host: str
    media_bind: str


class Settings(Struct, frozen=True, gc=False):
    """Built by the node from the configuration. Times in seconds. `advertised` is what peers are told as our address,
    by transport; `media_host` the address in the SDP, `media_bind` the one that ports are bound on; `v6` the same for
    peers that speak IPv6, where that is another. `seats` are the cluster's by name, where it has a list of them.
    """

    seat: str
    node: str
    realm: str
    advertised: Mapping[Transport, Address]
    media_host: str
    media_bind: str
    rtp_ports: tuple[int, int]
    digest_algorithms: tuple[str, ...] = ("MD5",)
    nonce_lifetime_s: float = 300.0
    min_expires_s: int = 60
    default_expires_s: int = 3600
    max_expires_s: int = 7200
    contacts_max: int = 10
    no_answer_s: float = 60.0
    max_duration_s: float = 14_400.0
    calls_max: int = 10_000
    session: Wish = Wish()
    rtp_timeout_s: float = 300.0
    rtp_hold_timeout_s: float = 1800.0
    utc_offset_s: float = 0.0
    user_agent: str = "Warden"
    seats: tuple[str, ...] = ()
    bans: BanRules = BanRules()
    v6: V6 | None = None

    def address_for(self, flow: Flow) -> Address:
        """Our address as a peer is told it who is reached over this flow."""
        return self.address_towards(flow.transport, flow.remote.host)

    def address_towards(self, transport: Transport, host: str) -> Address:
        """Our address as a peer at `host` is told it."""
        if self.v6 is not None and ":" in host:
            return self.v6.advertised[transport]
        return self.advertised[transport]

    def reaches(self, host: str) -> bool:
        """True where audio can be sent to this address, "" for none."""
        return not host or (":" in host) == (":" in self.media_host) or (":" in host and self.v6 is not None)

    def media_host_for(self, host: str) -> str:
        """Our address for the audio of a peer at `host`, "" where it is `media_host`."""
        return self.v6.media_host if self.v6 is not None and ":" in host else ""

    def media_bind_for(self, host: str) -> str:
        """Where a port is bound whose peer was told `host`, "" where that is `media_bind`."""
        return self.v6.media_bind if self.v6 is not None and host == self.v6.media_host else ""
