"""Two regions on one machine: each with nodes, leases, a fast store and an address of its own for the seat `main`."""

import os
from pathlib import Path

import msgspec

from warden.call.cdr import Cdr
from warden.core.address import Address

from cluster_lab import Member
from pbx import close_all, free_ports

REGIONS = ("east", "west")


class RegionNode(Member):
    """A node of a region."""

    def region(self) -> dict[str, object]:
        """What `warden dr status --json` says."""
        return msgspec.json.decode(self.run("dr", "status", "--json").stdout, type=dict[str, object])


class TwoRegions:
    """Nodes east1, east2, west1 and west2. Where there is an `arbiter`, an operator need not say anything."""

    def __init__(self, folder: Path, lease_s: float = 1.0, arbiter: Address | None = None) -> None:
        [self.sip_port] = free_ports(1)
        self._net = f"127.{os.getpid() // 250 % 200 + 2}.{os.getpid() % 250 + 1}"
        self.addresses = {"east": f"{self._net}.11", "west": f"{self._net}.22"}
        names = {region: [f"{region}{i}" for i in (1, 2)] for region in REGIONS}
        database = folder / "warden.sqlite"
        self.nodes: dict[str, RegionNode] = {}
        texts = {}
        voter = None if arbiter is None else f"{{host: {arbiter.host}, port: {arbiter.port}}}"
        asked = "" if voter is None else f"  arbiter: {{nodes: [{voter}], lease_ttl: 3}}"
        for region, hosts in names.items():
            for name in hosts:
                (folder / name).mkdir()
                texts[name] = f"""\
data_dir: @DATA@
secret: the-secret-of-these-two-regions
http: {{bind_address: 127.0.0.1, port: @HTTP@}}
sip: {{bind_address: 127.0.0.1, bind_port: {self.sip_port}}}
rtp: {{bind_address: 127.0.0.1, port_range: [20000, 24000], orphan_timeout: 60}}
database: {{file: {database}}}
high_availability:
  enabled: true
  node_id: {name}
  lease_ttl: {lease_s}
  coordinator: embedded
  coordinator_file: {folder / region}.leases
  state_file: {folder / region}.state
  region: {region}
  regions: @REGIONS@
{asked}
  seats:
    - {{name: main, address: {self.addresses[region]}, successors: [{", ".join(hosts)}]}}
"""
                self.nodes[name] = RegionNode(folder / name, name, texts[name], database)
        listed = [
            {
                "name": region,
                "nodes": [{"host": "127.0.0.1", "port": self.nodes[name].http_port} for name in names[region]],
            }
            for region in REGIONS
        ]
        for name, node in self.nodes.items():
            text = texts[name].replace("@REGIONS@", msgspec.json.encode(listed).decode())
            node.file.write_text(text.replace("@DATA@", str(node.data)).replace("@HTTP@", str(node.http_port)))

    def start(self, *names: str) -> None:
        """Start these nodes, or all, and wait until they are ready."""
        for name in names or self.nodes:
            self.nodes[name].start(ready=False)
        for name in names or self.nodes:
            node = self.nodes[name]
            assert node.process is not None
            assert node.process.stdout is not None
            line = node.process.stdout.readline()
            assert line == "warden: ready\n", f"{line!r}\n{node.stderr.read_text()}"

    def seat(self, region: str) -> Address:
        """Where phones find it while it lives in that region."""
        return Address(self.addresses[region], self.sip_port)

    def cdrs(self, count: int) -> list[Cdr]:
        """As `Pbx.cdrs`."""
        return self.nodes["west1"].cdrs(count)

    def logs(self) -> str:
        """What all nodes have logged."""
        return "\n".join(f"--- {name}\n{node.stderr.read_text()}" for name, node in self.nodes.items())

    def close(self) -> None:
        """End everything."""
        close_all(self.nodes.values())
