"""A cluster for tests: nodes on one machine, each with a seat on a loopback address of its own, and a private Redis."""

import os
import signal
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from warden.call.cdr import Cdr
from warden.core.address import Address

from pbx import Pbx, close_all, free_ports, password_of
from private_redis import RedisProcess
from private_tls import make_certificates

__all__ = ["Cluster", "pair", "password_of"]


class Member(Pbx):
    """A node of the cluster."""

    def __init__(self, folder: Path, name: str, text: str, database: Path) -> None:
        super().__init__(folder)
        self.name = name
        self.file.write_text(text.replace("@DATA@", str(self.data)).replace("@HTTP@", str(self.http_port)))
        self._database = database

    @property
    def url(self) -> str:
        """The durable database, which all nodes share."""
        return f"sqlite:///{self._database}"

    def power_off(self) -> None:
        """Kill everything that runs on the node."""
        pid = self.media_pid
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        self.wait()


class Cluster:
    """Nodes n1, n2 ... with seats s1, s2 ... on loopback addresses, each at home on the node of its number. With
    `own_seats` nothing is configured about seats, so that each node has one of its own, of its name. Nodes named in
    `redis_ports` find Redis at that port of this machine.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 3,
        lease_s: float = 1.0,
        coordinator: str = "embedded",
        *,
        own_seats: bool = False,
        redis_ports: Mapping[str, int] | None = None,
    ) -> None:
        self.sip_port, self.tls_port, self.wss_port = free_ports(3)
        self.authority, certificate, key = make_certificates(folder / "tls")
        # Addresses of its own for each test process, since all seats use the same ports.
        self.net = f"127.{os.getpid() // 250 % 200 + 2}.{os.getpid() % 250 + 1}"
        names = [f"n{i + 1}" for i in range(nodes)]
        (folder / "redis").mkdir()
        self.redis = RedisProcess(folder / "redis")
        self.redis.start()
        self.redis.until(self.redis.is_up)
        database = folder / "warden.sqlite"
        self.seats = names if own_seats else [f"s{i + 1}" for i in range(nodes)]
        hosts = [f"{self.net}.{i + 1}" if own_seats else "127.0.0.1" for i in range(nodes)]
        lines = [
            f"    - {{name: s{i + 1}, address: {self.net}.{i + 1}, successors: [{', '.join(names[i:] + names[:i])}]}}"
            for i in range(nodes)
        ]
        seats = "" if own_seats else "\n".join(["  seats:", *lines])
        self.nodes: dict[str, Member] = {}
        for name, host in zip(names, hosts, strict=True):
            (folder / name).mkdir()
            self.nodes[name] = Member(
                folder / name,
                name,
                f"""\
data_dir: @DATA@
secret: the-secret-of-this-test-cluster
http: {{bind_address: 127.0.0.1, port: @HTTP@}}
sip:
  bind_address: {host}
  bind_port: {self.sip_port}
  tls: {{enabled: true, bind_port: {self.tls_port}, certificates: [{{certificate: {certificate}, key: {key}}}]}}
  websocket: {{tls_port: {self.wss_port}}}
rtp: {{bind_address: {host}, port_range: [20000, 24000], orphan_timeout: 60}}
database: {{file: {database}}}
redis: {{enabled: true, nodes: [{{host: 127.0.0.1, port: {(redis_ports or {}).get(name, self.redis.port)}}}]}}
high_availability:
  enabled: true
  node_id: {name}
  lease_ttl: {lease_s}
  coordinator: {coordinator}
  coordinator_file: {folder / "leases.sqlite"}
{seats}
""",
                database,
            )

    def add_extensions(self, *numbers: str) -> None:
        """Make extensions with the passwords of `password_of`."""
        next(iter(self.nodes.values())).add_extensions(*numbers)

    def start(self) -> None:
        """Start all nodes and wait until they are ready."""
        for node in self.nodes.values():
            node.start(ready=False)
        for node in self.nodes.values():
            assert node.process is not None
            assert node.process.stdout is not None
            line = node.process.stdout.readline()
            assert line == "warden: ready\n", f"{line!r}\n{node.stderr.read_text()}"
        for seat, node in zip(self.seats, self.nodes.values(), strict=True):
            node.wait_for_log(f"registered numbers of seat {seat}")

    def seat(self, number: int) -> Address:
        """Where a seat's phones register."""
        return Address(f"{self.net}.{number}", self.sip_port)

    @property
    def tls(self) -> ssl.SSLContext:
        """How phones speak TLS with it. The certificate names no seat."""
        context = ssl.create_default_context(cafile=self.authority)
        context.check_hostname = False
        return context

    def logs(self) -> str:
        """What all nodes have logged."""
        return "\n".join(f"--- {name}\n{node.stderr.read_text()}" for name, node in self.nodes.items())

    def cdrs(self, count: int) -> list[Cdr]:
        """As `Pbx.cdrs`."""
        return next(iter(self.nodes.values())).cdrs(count)

    def close(self) -> None:
        """End everything."""
        close_all(self.nodes.values())
        self.redis.kill()


@contextmanager
def pair(folder: Path, lease_s: float = 1.0) -> Iterator[Cluster]:
    """Two nodes that run, with extension 1001; nothing of them is left behind the block, and no traceback in it."""
    cluster = Cluster(folder, 2, lease_s)
    try:
        cluster.add_extensions("1001")
        cluster.start()
        yield cluster
        assert "Traceback" not in cluster.logs()
    finally:
        cluster.close()
