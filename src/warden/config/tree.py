"""Every setting of a node as one frozen tree, with its default and the reason for it.

Nothing here reads a file, a variable or a clock: `load` fills the tree. The keys are those of the deployment guide,
with Warden's additions beside them. The text below each key is what the operator reads in `docs/configuration.md`.

All times are seconds unless the key says otherwise. Every number has bounds, so that a slip of the finger is an error
at the start and not a surprise in operation.
"""

import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Secret, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from warden.config.contradictions import contradictions

# A key nobody sets by hand is longer than this, and a longer one would only fill logs and headers.
TEXT_MAX = 255


class SecretText(Secret[str]):
    """A text that prints as `***`; `get_secret_value()` gives it away."""

    def _display(self) -> str:
        return "***"


def _ip(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError("must be an IP address, for example 192.0.2.10 or 2001:db8::10") from None


def _reachable_ip(text: str) -> str:
    if ip_address(text := _ip(text)).is_unspecified:
        raise ValueError(f"must be an address that phones can reach; {text} means every address of this machine")
    return text


def _network(text: str) -> str:
    try:
        return str(ip_network(text, strict=False))
    except ValueError:
        raise ValueError("must be an IP address or a network, for example 192.0.2.0/24 or 2001:db8::/48") from None


def _spelled(pattern: str, how: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {how}")
        return text

    return AfterValidator(check)


def _long_enough(secret: SecretText) -> SecretText:
    if not 16 <= len(secret.get_secret_value()) <= TEXT_MAX:
        raise ValueError(f"must be 16 to {TEXT_MAX} characters long")
    return secret


Text = Annotated[str, StringConstraints(min_length=1, max_length=TEXT_MAX)]
Host = Annotated[str, _spelled(r"[A-Za-z0-9.:_/-]{1,255}", "a host name or an address, without port or brackets")]
Hosts = Annotated[
    str,
    _spelled(
        r"[A-Za-z0-9.:_/-]{1,255}(,[A-Za-z0-9.:_/-]{1,255}){0,8}",
        "a host name or an address, without port or brackets, or up to 9 with commas between",
    ),
]
# Names end up in metric labels, file names and SIP headers, so they are plain words.
Name = Annotated[
    str, _spelled(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", "1 to 63 letters, digits, dots, hyphens or underscores")
]
# The realm stands in a quoted string of a header and in H(number:realm:password), so no quote, colon or backslash.
Realm = Annotated[
    str, _spelled(r"[A-Za-z0-9][A-Za-z0-9._@ -]{0,126}", "1 to 127 letters, digits, spaces or any of . _ @ -")
]
BindAddress = Annotated[str, AfterValidator(_ip)]
Network = Annotated[str, AfterValidator(_network)]
AdvertiseAddress = Annotated[str, AfterValidator(_reachable_ip)]
Port = Annotated[int, Field(ge=1, le=65535)]
# Ports below 1024 need privileges and belong to other services.
MediaPort = Annotated[int, Field(ge=1024, le=65535)]
# A day: longer than any failover, retry or interval that makes sense.
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]


class Section(BaseModel):
    """What all sections have in common: nothing changes after the start, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)


class ConnectRetry(Section):
    """How the database is tried again when it does not answer. Calls go on without it meanwhile."""

    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 5
    """Attempts before a node gives up to start. Call detail records are tried until they are stored."""
    retry_delay: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = 2
    """Seconds before the second attempt."""
    exponential_backoff: bool = True
    """Double the delay after each attempt, up to a minute, so that a returning database is not run over."""


class PatroniNode(Section):
    """Patroni on one host."""

    host: Host
    """Host name or address."""
    port: Port = 8008
    """Port of its REST API."""


class Patroni(Section):
    """Patroni of this region, which Warden asks to lead or to follow when another region becomes the primary one."""

    nodes: Annotated[tuple[PatroniNode, ...], Field(max_length=32)] = ()
    """A list of `host` and `port`. Not set: the operator does it."""
    user: Text | None = None
    """User of its REST API."""
    password: SecretText | None = None
    """That user's password; take it from the environment. Never printed."""


class Database(Section):
    """The durable truth: extensions, CDRs, users. Without `host`, SQLite files in `data_dir`."""

    host: Hosts | None = None
    """Host name, address or socket folder of PostgreSQL 15 or later; several with commas between, of which the one that
    takes changes is found. Not set: embedded SQLite, which needs no setup."""
    file: Path | None = None
    """File of the embedded SQLite. Not set: `warden.sqlite` in `data_dir`. Nodes of one machine may share it."""
    port: Port = 5432
    """PostgreSQL's port, on each host."""
    name: Text = "pbx_system"
    """Name of the database."""
    user: Text = "pbx_user"
    """Role that owns it."""
    password: SecretText | None = None
    """Password of that role; take it from the environment: `${DB_PASSWORD}`. Never printed."""
    pool_size: Annotated[int, Field(ge=1, le=1000)] = 50
    """Connections kept open."""
    max_overflow: Annotated[int, Field(ge=0, le=1000)] = 100
    """Connections opened beyond `pool_size` for a short time."""
    pool_pre_ping: bool = True
    """Test a connection before use, so that one the server lost in a failover is replaced unnoticed."""
    pool_recycle: Annotated[int, Field(ge=10, le=604800)] = 3600
    """Replace a connection after this many seconds; firewalls forget idle ones."""
    connect_retry: ConnectRetry = ConnectRetry()
    patroni: Patroni = Patroni()


class ClientTls(Section):
    """TLS towards a store."""

    enabled: bool = False
    """Connect with TLS and check the server's certificate."""
    ca: Path | None = None
    """PEM file with the authorities that may have signed it. Not set: those of the system."""
    certificate: Path | None = None
    """PEM file with this node's own certificate, where the server asks for one."""
    key: Path | None = None
    """PEM file with its private key. Not set: it is in the file of `certificate`."""
    check_host: bool = True
    """The certificate must name the host or address by which the server is reached."""


class RedisNode(Section):
    """One Redis server."""

    host: Host
    """Host name or address."""
    port: Port = 6379
    """Its port."""


class Sentinel(Section):
    """Redis Sentinel, where it looks after the Redis of `redis.nodes`."""

    enabled: bool = False
    """The nodes are Sentinels; ask them for the present master."""
    master_name: Text = "mymaster"
    """What they call it."""
    user: Text | None = None
    """ACL user of the Sentinels; not set: their `default`. They have users of their own."""
    password: SecretText | None = None
    """Its password; take it from the environment. Never printed."""


class Redis(Section):
    """The fast truth of a cluster: registrations and call snapshots. A single node keeps them in a file instead."""

    enabled: bool = False
    """Keep registrations and call snapshots in Redis."""
    cluster: bool = False
    """The nodes are a Redis Cluster."""
    sentinel: Sentinel = Sentinel()
    tls: ClientTls = ClientTls()
    user: Text | None = None
    """ACL user; not set: Redis's `default`."""
    password: SecretText | None = None
    """Its password; take it from the environment: `${REDIS_PASSWORD}`. Never printed."""
    wait_replicas: Annotated[int, Field(ge=0, le=8)] = 0
    """Replicas that must have a record before it counts as stored (WAIT)."""
    nodes: Annotated[tuple[RedisNode, ...], Field(max_length=64)] = ()
    """Where Redis is: a list of `host` and `port`. A few of a cluster are enough to find the others."""


class EtcdNode(Section):
    """One etcd member."""

    host: Host
    """Host name or address."""
    port: Port = 2379
    """Its client port."""


class Etcd(Section):
    """etcd, where it grants the leases of seats (`high_availability.coordinator: etcd`)."""

    nodes: Annotated[tuple[EtcdNode, ...], Field(max_length=9)] = ()
    """The members: a list of `host` and `port`."""
    tls: ClientTls = ClientTls()
    user: Text | None = None
    """User, where etcd asks for one."""
    password: SecretText | None = None
    """Its password; take it from the environment: `${ETCD_PASSWORD}`. Never printed."""


class Arbiter(Etcd):
    """An etcd of its own, with a member in each region and one at a third site, that decides between the regions."""

    lease_ttl: Annotated[float, Field(ge=2, le=60, allow_inf_nan=False)] = 20.0
    """Seconds that the primary region's lease lasts: so long after its death the other one takes its place, and when it reaches neither of the other sites it falls silent before."""  # noqa: E501


class StateSync(Section):
    """How call state reaches the other nodes."""

    enabled: bool = True
    """Write call state where a successor finds it."""
    sync_interval: Seconds = 5
    """Seconds between sweeps that write what could not be written at once. State itself is written as it changes."""
    redis_cluster: bool = False
    """The state goes to a Redis Cluster."""


class CallPreservation(Section):
    """What happens to calls in progress."""

    enabled: bool = True
    """Keep calls through the loss of a node."""
    grace_period: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] = 30
    """Seconds that a node that is told to stop waits for its calls."""


class RegistrationSync(Section):
    """How registrations reach the other nodes."""

    enabled: bool = True
    """Let every node know where each phone is."""
    sync_method: Literal["redis", "database"] = "redis"
    """Where they are kept."""


class SeatSetting(Section):
    """A service address with everything that lives on it; one node holds it at a time."""

    name: Name
    """Name of the seat: it stands in CDRs, logs and metrics."""
    address: AdvertiseAddress
    """Its IP address, on `sip.bind_port`, which phones register at. It moves with the seat."""
    successors: Annotated[tuple[Name, ...], Field(min_length=1, max_length=64)]
    """The nodes that may hold it, the preferred first. Of a seat that names only one, no call outlives that node."""
    instance: Name | None = None
    """Name of keepalived's VRRP instance or group that moves the address. Not set: the seat's name."""


class Keepalived(Section):
    """How Warden hears of addresses that keepalived moves (`high_availability.failover_driver: keepalived`)."""

    notify_fifo: Path = Path("/run/warden/vrrp.fifo")
    """Keepalived's `vrrp_notify_fifo`. Warden makes it where it is not there yet, so that its user may read it. Beside it lies SEAT.claim for each seat, which keepalived is to track."""  # noqa: E501


class RegionNode(Section):
    """A node of a region."""

    host: Host
    """Host name or address."""
    port: Port = 9000
    """Its HTTP port."""


class Region(Section):
    """A site with a cluster by itself: nodes, coordinator, Redis and database of its own."""

    name: Name
    """Its name."""
    nodes: Annotated[tuple[RegionNode, ...], Field(min_length=1, max_length=256)]
    """Its nodes: a list of `host` and `port`."""
    databases: Annotated[tuple[Host, ...], Field(max_length=32)] = ()
    """Hosts of its PostgreSQL, which the other region's follows while this one is the primary."""


class HighAvailability(Section):
    """The cluster."""

    enabled: bool = False
    """Be a member of a cluster. A single node survives its own restart without this."""
    node_id: Name = "node1"
    """Name of this node, another on each: it stands in CDRs, logs and metrics."""
    cluster_name: Name = "pbx-cluster"
    """Name of the cluster, the same on all its nodes."""
    health_check_interval: Seconds = 10
    """Of the guide; has no effect. Nodes look at each other at every quarter of `lease_ttl`."""
    health_check_timeout: Seconds = 5
    """Of the guide; has no effect. A look that takes half of `lease_ttl` counts as failed."""
    failover_enabled: bool = True
    """Take over the seats of a node that is gone. `false`: they wait for it, or for `warden handover`."""
    failover_timeout: Seconds = 30
    """Of the guide; has no effect. A node counts as gone when its lease ends (`lease_ttl`), or when keepalived says so."""  # noqa: E501
    auto_recovery: bool = True
    """A node that comes back, or was late at the first start, gets the seats of which it is the first successor, with their calls. `false`: only by `warden handover`."""  # noqa: E501
    auto_recovery_delay: Seconds = 30
    """Seconds that it must have been steady before."""
    seats: Annotated[tuple[SeatSetting, ...], Field(max_length=256)] = ()
    """A list of `name`, `address` and `successors`, the same on all nodes (of a region). Not set: a seat of its own for each node."""  # noqa: E501
    region: Name | None = None
    """The region that this node is in, where there are two."""
    regions: Annotated[tuple[Region, ...], Field(max_length=2)] = ()
    """Two regions, the same list on all nodes. One of them, the first to begin with, has the seats; the other one keeps a copy of what lives on them, and takes them over by `warden dr promote`."""  # noqa: E501
    arbiter: Arbiter | None = None
    """With two regions: who decides between them without an operator. Not set: only operators do."""
    failover_driver: Literal["lease", "keepalived"] = "lease"
    """Who moves addresses: `lease` (the node that holds the seat's lease binds it) or `keepalived`."""
    keepalived: Keepalived = Keepalived()
    manage_address: Literal["none", "netlink", "hook"] = "none"
    """With `lease`: how the holder gets a seat's address. `none`: it is there already. `netlink`: Warden adds it and tells the neighbours (CAP_NET_ADMIN and CAP_NET_RAW). `hook`: a program does."""  # noqa: E501
    address_interface: Text | None = None
    """With `netlink`: the network interface for the addresses."""
    address_prefix: Annotated[int, Field(ge=1, le=128)] | None = None
    """With `netlink`: their prefix length. Not set: 32 for IPv4, 128 for IPv6."""
    address_hook: Path | None = None
    """With `hook`: a program that is run as `PROGRAM add|remove SEAT ADDRESS`, for example to move a floating address of a cloud. It must end with status 0, and may be run again for what is done already."""  # noqa: E501
    address_hook_timeout: Seconds = 5
    """Seconds until the hook is killed and counts as failed."""
    lease_ttl: Annotated[float, Field(ge=0.5, le=60, allow_inf_nan=False)] = 1.0
    """Seconds that a seat's lease lasts; a node that is gone is replaced that much later."""
    coordinator: Literal["embedded", "redis", "etcd"] = "redis"
    """Who grants leases. With `redis`, a node that dies while Redis is away is not replaced until it is back; better is
    `etcd`. `embedded` is a file that all nodes see (one machine, for tests and demonstrations)."""
    coordinator_file: Path | None = None
    """The file of the `embedded` coordinator."""
    state_file: Path | None = None
    """File where the nodes of one machine keep calls and registrations in place of Redis (tests and demonstrations)."""
    state_sync: StateSync = StateSync()
    call_preservation: CallPreservation = CallPreservation()
    registration_sync: RegistrationSync = RegistrationSync()


class Certificate(Section):
    """A certificate and its key, chosen by the server name that the client asks for."""

    certificate: Path
    """PEM file: the certificate, followed by the intermediate ones."""
    key: Path
    """PEM file: the private key, without a pass phrase."""


class Tls(Section):
    """SIP over TLS."""

    enabled: bool = False
    """Listen for TLS; needs at least one certificate."""
    bind_port: Port = 5061
    """Port for TLS (RFC 3261 section 18.2.1)."""
    certificates: Annotated[tuple[Certificate, ...], Field(max_length=100)] = ()
    """A list of `certificate` and `key`. The first serves clients that name no server or an unknown one."""


class WebSocket(Section):
    """SIP over WebSocket (RFC 7118), for phones in browsers."""

    bind_port: Port | None = None
    """Port for WebSocket without TLS, for a load balancer that ends TLS; a usual one is 5066. Browsers take nothing else than TLS from a page that came over it. Not set: none."""  # noqa: E501
    tls_port: Port | None = None
    """Port for WebSocket over TLS, with the certificates of `sip.tls`; a usual one is 7443. Not set: none."""


class Registration(Section):
    """Bounds on what a phone may ask for when it registers (RFC 3261 section 10.3)."""

    min_expires: Annotated[int, Field(ge=1, le=3600)] = 60
    """Shortest registration in seconds; a phone that asks for less gets 423 and this value."""
    default_expires: Annotated[int, Field(ge=1, le=604800)] = 3600
    """Seconds for a phone that asks for none."""
    max_expires: Annotated[int, Field(ge=1, le=604800)] = 7200
    """Longest registration in seconds; a phone that asks for more gets this."""
    contacts_max: Annotated[int, Field(ge=1, le=100)] = 10
    """Contacts per extension. All of them ring, so this also bounds what one call can cause."""


class CallLimits(Section):
    """Bounds on a call."""

    no_answer_timeout: Annotated[int, Field(ge=1, le=600)] = 60
    """Seconds of ringing until the caller gets 480. Proxies on the way give up after 180 (RFC 3261 timer C)."""
    max_duration: Annotated[int, Field(ge=10, le=604800)] = 14400
    """Seconds until an answered call is ended; bounds what a forgotten or hijacked call costs."""


class Sip(Section):
    """Signalling."""

    bind_address: BindAddress = "0.0.0.0"  # noqa: S104 - phones are on other machines.
    """Address to listen on; `0.0.0.0` is every IPv4 address of the machine, `::` every IPv6 one."""
    bind_port: Port = 5060
    """Port for UDP and TCP."""
    advertise_address: AdvertiseAddress | None = None
    """Address that phones are told to send to. Not set: `bind_address`, or where that is `0.0.0.0` the address of the interface with the default route."""  # noqa: E501
    bind_address_v6: BindAddress | None = None
    """IPv6 address to listen on as well, for SIP and for audio: phones of both kinds then call each other. `::` is every IPv6 address of the machine."""  # noqa: E501
    advertise_address_v6: AdvertiseAddress | None = None
    """IPv6 address that phones are told. Not set: `bind_address_v6`, or where that is `::` the address of the interface with the default route."""  # noqa: E501
    realm: Realm = "warden"
    """Realm of digest authentication. Stored passwords are hashes that contain it: after a change, every password must be set anew."""  # noqa: E501
    transports: Annotated[tuple[Literal["udp", "tcp"], ...], Field(max_length=2)] = ("udp", "tcp")
    """Transports on `bind_port`."""
    tls: Tls = Tls()
    websocket: WebSocket = WebSocket()
    balancers: Annotated[tuple[BindAddress, ...], Field(max_length=64)] = ()
    """Addresses of load balancers that pass phones on over TCP, TLS and WebSocket. Their connections must begin with a header of the PROXY protocol, version 2 (HAProxy: `send-proxy-v2`), which says who the phone is; others must not. With `send-proxy-v2-ssl` it also says that TLS ended there: a WebSocket then counts as one over TLS."""  # noqa: E501
    registration: Registration = Registration()
    digest_algorithms: Annotated[
        tuple[Literal["SHA-512-256", "SHA-256", "MD5"], ...], Field(min_length=1, max_length=3)
    ] = ("MD5",)
    """Digest algorithms offered, one challenge each, the preferred first (RFC 8760). Only MD5 by default: baresip 1.0 and others give up when any challenge is one they do not know. Every password is kept for all three, so this can be changed at any time."""  # noqa: E501
    nonce_lifetime: Annotated[int, Field(ge=10, le=86400)] = 300
    """Seconds until a phone must authenticate with a new nonce; it does so by itself."""
    session_expires: Annotated[int, Field(ge=4, le=86400)] = 1800
    """Seconds after which an answered call whose phone is gone is ended at the latest: each phone is asked half way whether it is still there (session timers, RFC 4028)."""  # noqa: E501
    min_se: Annotated[int, Field(ge=4, le=86400)] = 90
    """Shortest such interval in seconds; a phone that asks for less gets 422 and this value. Phones may refuse less than 90, which is for tests."""  # noqa: E501
    call: CallLimits = CallLimits()


class Rtp(Section):
    """Media."""

    port_range: tuple[MediaPort, MediaPort] = (10000, 20000)
    """First and last UDP port for audio. A call takes two pairs, an even port for RTP and the next for RTCP in each."""
    bind_address: BindAddress = "0.0.0.0"  # noqa: S104 - phones are on other machines.
    """Address to send and receive audio on."""
    advertise_address: AdvertiseAddress | None = None
    """Address that phones are told to send audio to. Not set: as `sip.advertise_address`."""
    timeout: Annotated[int, Field(ge=0, le=86400)] = 300
    """Seconds after which a call is ended whose phone has sent audio and then neither audio nor RTCP; 0: never. Phones that suppress silence send little and not nothing; one that never sent anything is left to `sip.session_expires`."""  # noqa: E501
    hold_timeout: Annotated[int, Field(ge=0, le=86400)] = 1800
    """The same for a call on hold, where most phones send nothing; 0: never."""
    orphan_timeout: Annotated[int, Field(ge=1, le=86400)] = 300
    """Seconds that the media process goes on forwarding audio while the signalling process is gone."""


class Http(Section):
    """Health, metrics and API."""

    bind_address: BindAddress = "0.0.0.0"  # noqa: S104 - load balancers and Prometheus are on other machines.
    """Address to listen on. Load balancers and the other nodes ask for `/health`; the API wants a token."""
    port: Port = 9000
    """Port for HTTP."""


class BanSettings(Section):
    """Who tries passwords, searches for extensions or scans is first answered seldom, then shut out, on all nodes."""

    enabled: bool = True
    """Make bans. `false`: only those that an operator makes hold."""
    failures: Annotated[int, Field(ge=3, le=10_000)] = 20
    """Wrong passwords, and requests in the name of extensions that there are not, that one address may make within `window`; from half of them on it is answered once a second. Scanners are known by their name at once."""  # noqa: E501
    window: Annotated[int, Field(ge=1, le=86400)] = 600
    """Seconds. What was counted fades evenly: a phone that tries a wrong password every 30 s is never banned by the defaults."""  # noqa: E501
    durations: Annotated[tuple[Seconds, ...], Field(min_length=1, max_length=10)] = (600, 3600, 86400)
    """Seconds of an address's first ban, its second and so on, if each begins within a day after the one before."""


class Security(Section):
    """Who is kept out."""

    never_ban: Annotated[tuple[Network, ...], Field(max_length=1000)] = ()
    """Addresses and networks that are never banned. Seats, nodes, carriers and addresses at which phones are registered need not be named."""  # noqa: E501
    bans: BanSettings = BanSettings()


class OverloadSettings(Section):
    """What a node does when it is asked for more than it can do: it refuses new calls and registrations with 503 and a time to come back, before calls in progress suffer. Emergency calls are let in always."""  # noqa: E501

    enabled: bool = True
    """Let in what the node bears, by how long messages wait and how busy the processor is."""
    calls_per_second: Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)] | None = None
    """New calls a second at most, whatever the load. Not set: as many as the node bears."""
    registrations_per_second: Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)] | None = None
    """The same for phones that register anew; those that refresh a registration are not counted."""
    emergency_numbers: Annotated[tuple[Text, ...], Field(max_length=100)] = ("112", "911")
    """Numbers that are let in always, beside those of the dialplan's emergency routes."""


class Log(Section):
    """What is logged, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important level that is logged."""
    format: Literal["console", "json"] = "console"
    """`console` for people, `json` for programs."""


class Config(Section):
    """The whole of `config.yml`. A missing section means its defaults."""

    data_dir: Path = Path("data")
    """Folder for all files that Warden writes; relative to the folder that it is started in."""
    secret: Annotated[SecretText, AfterValidator(_long_enough)] | None = None
    """Secret of the cluster, the same on all its nodes: signs nonces and tokens. Not set: made once and kept in `data_dir`. Never printed."""  # noqa: E501
    database: Database = Database()
    redis: Redis = Redis()
    etcd: Etcd = Etcd()
    high_availability: HighAvailability = HighAvailability()
    sip: Sip = Sip()
    rtp: Rtp = Rtp()
    http: Http = Http()
    security: Security = Security()
    overload: OverloadSettings = OverloadSettings()
    log: Log = Log()

    @property
    def has_shared_store(self) -> bool:
        """True where other nodes find the calls of this one."""
        return self.redis.enabled or self.high_availability.state_file is not None

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> "Config":
        if found := tuple(contradictions(self)):
            raise PydanticCustomError(
                "contradiction", "{what}", {"what": "; ".join(f"{c.keys[0]}: {c.what}" for c in found), "found": found}
            )
        return self
