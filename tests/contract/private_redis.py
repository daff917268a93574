"""Private Redis servers of every kind, one of each for the test run: a name of its own keeps tests apart in it."""

import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hiredis
import pytest

from warden.core.address import Address
from warden.store.redis_servers import SLOTS, key_slot
from warden.store.redis_settings import RedisMode, RedisSettings

from private_server import PrivateServer
from private_tls import make_certificates

PASSWORD = "not-to-be-shown"  # so that tests can look for it where it must not be

_QUICK = ["save ''", "appendonly no", "repl-diskless-sync-delay 0", "repl-ping-replica-period 1", "bind 127.0.0.1"]

# What the store's and the coordinator's docstring say they need, and no more.
_ACL = (
    f"user warden on >{PASSWORD} ~* -@all +auth +ping +evalsha +script|load +hmget +hset +hdel +hlen +hscan"
    " +del +zadd +zcard +zrangebyscore +info +wait"
    " +hget +hgetall +hvals +get +incr +time"
)


class RedisProcess(PrivateServer):
    """A `redis-server`, its configuration the given lines."""

    def __init__(self, folder: Path, *lines: str, program: str = "redis-server") -> None:
        super().__init__(folder, 2, lambda _: [program, folder / "redis.conf"])
        own = [f"port {self.port}", f"dir {folder}"]
        (folder / "redis.conf").write_text(
            "\n".join([*own, *_QUICK, *lines] if program == "redis-server" else [*own, *lines])
        )

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    def say(self, *command: str | int | bytes) -> Any:
        """The server's answer to somebody without a password; raises what it refuses."""
        reader = hiredis.Reader()
        with socket.create_connection(self.address, timeout=5) as line:
            line.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]
            while (reply := reader.gets()) is False:
                data = line.recv(65536)
                assert data, "closed"
                reader.feed(data)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def info(self, section: str) -> dict[str, str]:
        return dict(line.split(":", 1) for line in self.say("INFO", section).decode().splitlines() if ":" in line)

    def is_up(self) -> bool:
        return bool(self.say("PING") == b"PONG")

    def takes_connections(self) -> bool:
        with socket.create_connection(self.address, timeout=5):
            return True

    def is_replica_of(self, port: int) -> bool:
        facts = self.info("replication")
        return facts["role"] == "slave" and facts["master_port"] == str(port) and facts["master_link_status"] == "up"


class PrivateRedis:
    """Some servers, and the settings by which they are reached."""

    def __init__(self, folder: Path, servers: list[RedisProcess], settings: RedisSettings) -> None:
        self.folder = folder
        self.servers = servers
        self._settings = settings

    def settings(self, **changes: Any) -> RedisSettings:
        """With a cluster name that nobody else uses."""
        facts = {name: getattr(self._settings, name) for name in RedisSettings.__struct_fields__}
        return RedisSettings(**{**facts, "cluster_name": f"test-{secrets.token_hex(6)}", **changes})

    def close(self) -> None:
        for server in self.servers:
            server.kill()
        shutil.rmtree(self.folder)


class PrivateSentinels(PrivateRedis):
    """A master, a replica and three Sentinels."""

    def __init__(self, folder: Path) -> None:
        self.master = RedisProcess(folder / "master")
        self.replica = RedisProcess(folder / "replica", f"replicaof 127.0.0.1 {self.master.port}")
        watched = (
            f"sentinel monitor mymaster 127.0.0.1 {self.master.port} 2",
            "sentinel down-after-milliseconds mymaster 500",
            "sentinel failover-timeout mymaster 3000",
        )
        self.sentinels = [
            RedisProcess(folder / f"sentinel{n}", "bind 127.0.0.1", *watched, program="redis-sentinel")
            for n in range(3)
        ]
        nodes = tuple(sentinel.address for sentinel in self.sentinels)
        servers = [self.master, self.replica, *self.sentinels]
        super().__init__(folder, servers, RedisSettings(nodes, mode=RedisMode.SENTINEL))

    def start(self) -> None:
        for server in self.servers[:2]:
            server.start()
            server.until(server.is_up)
        self.replica.until(lambda: self.replica.is_replica_of(self.master.port))
        for sentinel in self.sentinels:
            sentinel.start()
        for sentinel in self.sentinels:
            sentinel.until(lambda sentinel=sentinel: self._sees_all(sentinel))  # type: ignore[misc]

    def swap(self) -> None:
        """After a fail-over: the old master comes back as the new one's replica."""
        self.master, self.replica = self.replica, self.master
        # Sentinel would tell it so by itself, after some ten seconds.
        with (self.replica.folder / "redis.conf").open("a") as config:
            config.write(f"\nreplicaof 127.0.0.1 {self.master.port}\n")
        self.replica.start()
        self.replica.until(lambda: self.replica.is_replica_of(self.master.port))

    def _sees_all(self, sentinel: RedisProcess) -> bool:
        fields = sentinel.say("SENTINEL", "MASTER", "mymaster")
        told = dict(zip(fields[::2], fields[1::2], strict=True))
        [replica] = sentinel.say("SENTINEL", "REPLICAS", "mymaster")
        state = dict(zip(replica[::2], replica[1::2], strict=True))
        return bool(
            told[b"flags"] == b"master"
            and told[b"port"] == str(self.master.port).encode()
            and told[b"num-other-sentinels"] == b"2"
            and state[b"flags"] == b"slave"
            and state[b"master-link-status"] == b"ok"
        )


class PrivateCluster(PrivateRedis):
    """Three masters, each with a replica."""

    def __init__(self, folder: Path) -> None:
        lines = ("cluster-enabled yes", "cluster-node-timeout 1000", "cluster-require-full-coverage no")
        servers = [RedisProcess(folder / f"node{n}", *lines) for n in range(6)]
        for server in servers:
            with (server.folder / "redis.conf").open("a") as config:
                config.write(f"\ncluster-port {server.ports[1]}\n")
        seeds = (servers[0].address, servers[1].address)
        super().__init__(folder, servers, RedisSettings(seeds, mode=RedisMode.CLUSTER))

    def start(self) -> None:
        first = self.servers[0]
        for server in self.servers:
            server.start()
        for number, server in enumerate(self.servers):
            server.until(server.is_up)
            server.say("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            first.say("CLUSTER", "MEET", "127.0.0.1", server.port, server.ports[1])
        masters = self.servers[:3]
        bounds = [SLOTS * n // 3 for n in range(4)]
        for number, master in enumerate(masters):
            master.say("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        for master, replica in zip(masters, self.servers[3:], strict=True):
            name = master.say("CLUSTER", "MYID")
            replica.until(lambda replica=replica, name=name: replica.say("CLUSTER", "REPLICATE", name) == b"OK")  # type: ignore[misc]
        self.heal()

    def heal(self) -> None:
        """Wait until every slot is served and every master has its replica, and all agree on it."""
        for server in self.servers:
            server.until(lambda server=server: self._sees_all(server))  # type: ignore[misc]

    def master_of(self, tag: str) -> RedisProcess:
        [port] = {
            servers[0][1]
            for first, last, *servers in self.servers[-1].say("CLUSTER", "SLOTS")
            if first <= key_slot(tag) <= last
        }
        [master] = [server for server in self.servers if server.port == port]
        return master

    def _sees_all(self, server: RedisProcess) -> bool:
        facts = dict(line.split(":", 1) for line in server.say("CLUSTER", "INFO").decode().split())
        nodes = server.say("CLUSTER", "NODES").decode().splitlines()
        links = {one.info("replication").get("master_link_status", "up") for one in self.servers}
        return (
            facts["cluster_state"] == "ok"
            and facts["cluster_slots_ok"] == str(SLOTS)
            and len(nodes) == 6
            and sum(" slave " in f" {node.replace(',', ' ')} " for node in nodes) == 3
            and not any("fail" in node or "handshake" in node or "disconnected" in node for node in nodes)
            and links == {"up"}
        )


def _folder(kind: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"warden-{kind}-"))


@pytest.fixture(scope="session")
def redis_single() -> Iterator[PrivateRedis]:
    folder = _folder("redis")
    server = RedisProcess(folder / "redis", "enable-debug-command yes")
    redis = PrivateRedis(folder, [server], RedisSettings((server.address,)))
    try:
        server.start()
        server.until(server.is_up)
        yield redis
    finally:
        redis.close()


@pytest.fixture(scope="session")
def redis_tls() -> Iterator[PrivateRedis]:
    """TLS only, and only for one ACL user."""
    folder = _folder("redis-tls")
    ca, cert, key = make_certificates(folder / "tls")
    server = RedisProcess(
        folder / "redis", f"tls-cert-file {cert}", f"tls-key-file {key}", f"tls-ca-cert-file {ca}",
        "tls-auth-clients no", "user default off", _ACL,
    )  # fmt: skip
    config = server.folder / "redis.conf"
    config.write_text(config.read_text().replace("port ", "port 0\ntls-port ", 1))
    settings = RedisSettings((server.address,), username="warden", password=PASSWORD, tls=True, tls_ca=str(ca))
    redis = PrivateRedis(folder, [server], settings)
    try:
        server.start()
        server.until(server.takes_connections)
        yield redis
    finally:
        redis.close()


@pytest.fixture(scope="session")
def redis_sentinel() -> Iterator[PrivateSentinels]:
    redis = PrivateSentinels(_folder("redis-sentinel"))
    try:
        redis.start()
        yield redis
    finally:
        redis.close()


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[PrivateCluster]:
    redis = PrivateCluster(_folder("redis-cluster"))
    try:
        redis.start()
        yield redis
    finally:
        redis.close()
