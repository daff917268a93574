"""How Redis is reached. Nothing here connects."""

import ssl
from enum import StrEnum

from msgspec import Struct

from warden.core.address import Address
from warden.core.errors import WardenError


class RedisMode(StrEnum):
    """What the servers named in the settings are."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


class RedisSettings(Struct, frozen=True, gc=False):
    """`nodes` are the servers of a single Redis (the first is used), some of a Cluster, or all Sentinels."""

    nodes: tuple[Address, ...]
    mode: RedisMode = RedisMode.SINGLE
    cluster_name: str = "pbx-cluster"
    """Begins every key, so that several clusters of Warden may share one Redis."""
    master_name: str = "mymaster"
    """What Sentinel calls the master."""
    username: str = ""
    """ACL user; empty is Redis's `default`."""
    password: str = ""
    sentinel_username: str = ""
    sentinel_password: str = ""
    """Sentinels have users of their own."""
    tls: bool = False
    tls_ca: str = ""
    """File with the authorities that may have signed the servers' certificates; empty: the system's."""
    tls_cert: str = ""
    tls_key: str = ""
    """Files of this client's own certificate and key, where the servers ask for one."""
    tls_check_host: bool = True
    """The certificate must name the host or address by which a server is reached, as Redis and Sentinel tell it."""
    wait_replicas: int = 0
    """Replicas that must have a write before it counts as stored (WAIT)."""
    wait_timeout_s: float = 0.1
    """How long they may take. In one site they take a millisecond."""
    connect_timeout_s: float = 1.0
    """For finding the server, connecting and logging in, together."""
    answer_timeout_s: float = 0.5
    """A server that has not answered by then is given up, with everything asked of it."""

    def __repr__(self) -> str:
        places = ",".join(map(str, self.nodes))
        return f"RedisSettings({self.mode} {places}, user {self.username or 'default'}, password ***)"


def tls_context(settings: RedisSettings) -> ssl.SSLContext | None:
    """What to connect with; raises `WardenError` where a file cannot be used."""
    if not settings.tls:
        return None
    return client_tls("redis", settings.tls_ca, settings.tls_cert, settings.tls_key, settings.tls_check_host)


def client_tls(where: str, ca: str, cert: str, key: str, check_host: bool) -> ssl.SSLContext:
    """A context that checks the server's certificate and, where `cert` is given, shows one of its own."""
    try:
        context = ssl.create_default_context(cafile=ca or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = check_host
        if cert:
            context.load_cert_chain(cert, key or None)
    except OSError as error:
        files = ", ".join(name for name in (ca, cert, key) if name)
        raise WardenError(f"{where}: tls files cannot be used ({files}): {error}") from None
    return context
