"""From the configuration to the values that the parts of a node take."""

import hashlib
import hmac
import os
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import closing
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final

from msgspec.structs import replace
from sqlalchemy import URL

from warden import __version__
from warden.cluster.decide import Rules, Seat
from warden.cluster.members import Record, fingerprint
from warden.config.tree import Config, Sip
from warden.core.address import Address, Transport
from warden.core.errors import WardenError
from warden.net import settings as net
from warden.sip.session_timer import Wish
from warden.store.durable import SqlDurable, open_durable
from warden.store.retry import Retry
from warden.switch.bans import Bans
from warden.switch.overload import Overload, OverloadRules
from warden.switch.settings import V6, BanRules, Settings
from warden.switch.trunks.sealed import NONCE_BYTES, Sealer, seal

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
SECRET_BYTES: Final = 32
OPERATOR_TOKEN: Final = "operator.token"  # noqa: S105 - the name of a file
"""File in the data folder with the bearer token of the command line."""


def database_url(config: Config) -> URL | str:
    """Where the durable truth is."""
    database = config.database
    if database.host is None:
        return f"sqlite:///{database.file or config.data_dir / 'warden.sqlite'}"
    password = database.password.get_secret_value() if database.password is not None else None
    more = database.host.count(",")
    if not more:
        return URL.create("postgresql", database.user, password, database.host, database.port, database.name)
    places = {"host": database.host, "port": ",".join([str(database.port)] * (1 + more))}
    return URL.create("postgresql", database.user, password, database=database.name, query=places)


def durable_of(config: Config) -> SqlDurable:
    """The durable store, not yet asked anything."""
    database = config.database
    return open_durable(
        database_url(config),
        pool_size=database.pool_size,
        max_overflow=database.max_overflow,
        pool_pre_ping=database.pool_pre_ping,
        pool_recycle_s=database.pool_recycle,
    )


def retry_of(config: Config) -> Retry:
    """How often the database is tried again."""
    retry = config.database.connect_retry
    return Retry(retry.max_attempts, retry.retry_delay, retry.exponential_backoff)


def secret_of(config: Config) -> bytes:
    """The cluster's secret: the configured one, or one that is made once and kept in the data folder."""
    if config.secret is not None:
        return config.secret.get_secret_value().encode()
    path = config.data_dir / "secret"
    try:
        kept = path.read_bytes()
    except FileNotFoundError:
        kept = b""
    except OSError as error:
        raise WardenError(f"{path}: cannot be read: {error.strerror}") from error
    if len(kept) >= SECRET_BYTES:
        return kept
    made = secrets.token_hex(SECRET_BYTES).encode()
    keep_private(path, made)
    return made


def sealer_of(config: Config) -> Sealer:
    """Seals passwords of trunks with the cluster's secret."""
    secret = secret_of(config)
    return lambda password: seal(secret, password, secrets.token_bytes(NONCE_BYTES))


def operator_token(config: Config) -> str:
    """Make a bearer token for the command line on this machine, keep it in the data folder, and give its digest."""
    token = secrets.token_urlsafe(SECRET_BYTES)
    keep_private(config.data_dir / OPERATOR_TOKEN, token.encode())
    return hashlib.sha256(token.encode()).hexdigest()


def node_key(config: Config) -> bytes:
    """What signs requests from node to node; b"" where the nodes have no secret in common."""
    if config.secret is None:
        return b""
    return hmac.new(config.secret.get_secret_value().encode(), b"warden api", hashlib.sha256).digest()


def keep_private(path: Path, secret: bytes) -> None:
    """Write a file that only its owner may read, wholly or not at all."""
    scratch = path.with_name(path.name + ".new")
    try:
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        raise WardenError(f"{path}: cannot be written: {error.strerror}") from error


def advertised_host(config: Config) -> str:
    """The address that phones are told: the configured one, the bound one, or that of the default route."""
    sip = config.sip
    if sip.advertise_address is not None:
        return sip.advertise_address
    bound = ip_address(sip.bind_address)
    return sip.bind_address if not bound.is_unspecified else _outward_address(bound.version)


def advertised_host_v6(sip: Sip, bound: str) -> str:
    """The same for phones that speak IPv6, where `bound` is the second address."""
    if sip.advertise_address_v6 is not None:
        return sip.advertise_address_v6
    return bound if not ip_address(bound).is_unspecified else _outward_address(6)


def media_host(config: Config) -> str:
    """The same for audio."""
    rtp = config.rtp
    if rtp.advertise_address is not None:
        return rtp.advertise_address
    return advertised_host(config) if ip_address(rtp.bind_address).is_unspecified else rtp.bind_address


def _outward_address(version: int) -> str:
    family, anywhere, ourselves = (
        (socket.AF_INET6, "2001:db8::1", "::1") if version == 6 else (socket.AF_INET, "192.0.2.1", "127.0.0.1")
    )
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as sock:
        try:
            # Nothing is sent: the kernel only looks up which of our addresses it would send from.
            sock.connect((anywhere, 9))
            return str(sock.getsockname()[0])
        except OSError:
            return ourselves


def rules(config: Config) -> Rules:
    """What the agent is to do by itself."""
    cluster = config.high_availability
    return Rules(
        takes_over=cluster.failover_enabled,
        home_after_s=cluster.auto_recovery_delay if cluster.auto_recovery else None,
        address_moves=cluster.failover_driver == "keepalived",
    )


def net_settings(config: Config, seat: Seat) -> net.Settings:
    """Where the sockets of a seat listen: on the seat's address where the configuration names seats."""
    sip, advertised = config.sip, seat.address
    bound = seat.address if config.high_availability.seats else sip.bind_address
    ahead = rules(config).address_moves
    listeners = [net.Listener(Transport(t), bound, sip.bind_port, advertised, ahead) for t in sip.transports]
    if sip.tls.enabled:
        listeners.append(net.Listener(Transport.TLS, bound, sip.tls.bind_port, advertised, ahead))
    for transport, port in ((Transport.WS, sip.websocket.bind_port), (Transport.WSS, sip.websocket.tls_port)):
        if port is not None:
            listeners.append(net.Listener(transport, bound, port, advertised, ahead))
    certificates = tuple(net.Certificate(Path(c.certificate), Path(c.key)) for c in sip.tls.certificates)
    second = sip.bind_address_v6
    if second is not None:
        listeners += [replace(x, host=second, advertised=advertised_host_v6(sip, second)) for x in listeners]
    return net.Settings(tuple(listeners), net.Tls(certificates), balancers=frozenset(sip.balancers))


def member_record(config: Config) -> Record:
    """What the node says of itself to the other nodes, as far as it stays the same while it runs."""
    bound, cluster = ip_address(config.http.bind_address), config.high_availability.cluster_name
    host = advertised_host(config) if bound.is_unspecified else str(bound)
    return Record(
        __version__,
        http=f"http://{Address(host, config.http.port)}",
        instance=secrets.token_hex(8),
        place=_place(config.data_dir),
        sip=_own_seat(config),
        secret="" if config.secret is None else fingerprint(secret_of(config), cluster),
    )


def _own_seat(config: Config) -> Address | None:
    if config.high_availability.seats or "udp" not in config.sip.transports:
        return None
    return Address(advertised_host(config), config.sip.bind_port)


def _place(folder: Path) -> str:
    """The data folder on this machine, until it is started again: whoever has its lock knows that the process before
    is gone. "" where the kernel does not tell.
    """
    try:
        boot, found = BOOT_ID.read_text().strip(), folder.stat()
    except OSError:
        return ""
    return f"{boot}:{found.st_dev}:{found.st_ino}"


def seat_addresses(config: Config) -> dict[str, Address]:
    """Where each of the configured seats hears SIP over UDP, by name."""
    sip = config.sip
    if "udp" not in sip.transports:
        return {}
    return {seat.name: Address(str(seat.address), sip.bind_port) for seat in config.high_availability.seats}


def switch_settings(config: Config, seat: Seat) -> Settings:
    """What the switch of a seat must know."""
    sip, has_own_address = config.sip, bool(config.high_availability.seats)
    ports = {Transport(t): sip.bind_port for t in sip.transports}
    if sip.tls.enabled:
        ports[Transport.TLS] = sip.tls.bind_port
    if sip.websocket.bind_port is not None:
        # Behind a balancer that ends TLS, WSS comes to the same port.
        ports |= {Transport.WS: sip.websocket.bind_port, Transport.WSS: sip.websocket.bind_port}
    if sip.websocket.tls_port is not None:
        ports[Transport.WSS] = sip.websocket.tls_port
    limits, bans = sip.registration, config.security.bans
    v6 = None
    if sip.bind_address_v6 is not None:
        host = advertised_host_v6(sip, sip.bind_address_v6)
        v6 = V6({transport: Address(host, port) for transport, port in ports.items()}, host, sip.bind_address_v6)
    return Settings(
        seat=seat.name,
        node=config.high_availability.node_id,
        realm=sip.realm,
        advertised={transport: Address(seat.address, port) for transport, port in ports.items()},
        media_host=seat.address if has_own_address else media_host(config),
        media_bind=seat.address if has_own_address else config.rtp.bind_address,
        rtp_ports=config.rtp.port_range,
        digest_algorithms=tuple(sip.digest_algorithms),
        nonce_lifetime_s=sip.nonce_lifetime,
        min_expires_s=limits.min_expires,
        default_expires_s=limits.default_expires,
        max_expires_s=limits.max_expires,
        contacts_max=limits.contacts_max,
        no_answer_s=sip.call.no_answer_timeout,
        max_duration_s=sip.call.max_duration,
        rtp_timeout_s=config.rtp.timeout,
        rtp_hold_timeout_s=config.rtp.hold_timeout,
        v6=v6,
        session=Wish(sip.session_expires, sip.min_se),
        utc_offset_s=time.localtime().tm_gmtoff,
        user_agent=f"Warden/{__version__}",
        seats=tuple(sorted(seat.name for seat in config.high_availability.seats)),
        bans=BanRules(bans.enabled, bans.failures, bans.window, bans.durations),
    )


def overload_of(config: Config) -> Overload:
    """What the node lets in, before anything was measured."""
    it = config.overload
    return Overload(
        OverloadRules(it.enabled, it.calls_per_second or 0, it.registrations_per_second or 0, it.emergency_numbers)
    )


def bans_of(config: Config) -> Bans:
    """The bans as the node knows them: none yet."""
    return Bans(never=[ip_network(network) for network in config.security.never_ban])


def token_source() -> Callable[[], str]:
    """Unguessable tokens of 24 characters for tags, branches, Call-IDs and call ids: 96 random bits each."""
    pool = b""
    at = 0

    def new_token() -> str:
        # One system call serves many tokens.
        nonlocal pool, at
        if at + 12 > len(pool):
            pool, at = os.urandom(12 * 256), 0
        token = pool[at : at + 12].hex()
        at += 12
        return token

    return new_token
