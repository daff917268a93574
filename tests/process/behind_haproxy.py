"""A real HAProxy in front of a real node, with the SIP part of the file that is rendered for a cluster."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from warden.config.load import parse
from warden.core.address import Address
from warden.ops.ha.inventory import Cluster
from warden.ops.ha.programs import certificate
from warden.ops.ha.render import render
from warden.ops.ha.secret_values import Secrets

from pbx import Pbx, free_ports
from private_server import PrivateServer

NAME = "pbx.example"
BALANCER = "127.0.0.99"
"""Where phones find HAProxy."""
HOST = "127.0.0.11"
"""From where it passes them on: the only address that may say whose connection it is."""
GLOBAL = """\
global
    maxconn 1200
defaults
    timeout connect 3s
    timeout client 60s
    timeout server 60s
    timeout check 2s
"""


class Front:
    """A node and the HAProxy in front of it."""

    def __init__(self, folder: Path) -> None:
        self.tls_port, self.wss_port, self._ws_port = free_ports(3)
        self.certificate = folder / "sip.pem"
        self.certificate.write_bytes(certificate(NAME, BALANCER))
        both = f"{{certificate: {self.certificate}, key: {self.certificate}}}"
        self.pbx = Pbx(
            folder,
            sip=f"  balancers: [{HOST}]\n"
            f"  tls: {{enabled: true, bind_port: {self.tls_port}, certificates: [{both}]}}\n"
            f"  websocket: {{bind_port: {self._ws_port}}}\n",
        )
        self._server = PrivateServer(folder / "haproxy", 0, lambda _: ["haproxy", "-db", "-f", folder / "haproxy.cfg"])
        (folder / "haproxy.cfg").write_text(GLOBAL + self._sip_part())

    @property
    def tls(self) -> Address:
        """SIP over TLS at HAProxy."""
        return Address(BALANCER, self.tls_port)

    @property
    def wss(self) -> Address:
        """SIP over WebSocket and TLS at HAProxy."""
        return Address(BALANCER, self.wss_port)

    def _sip_part(self) -> str:
        document = parse(self._cluster_file().encode(), {}, Cluster, name="cluster.yml")
        assert document.problems == ()
        secrets = Secrets(*(f"{name}-of-the-tests" for name in Secrets.__struct_fields__))
        text = render(document.config, secrets)["pbx1"]["etc/haproxy/haproxy.cfg"].text
        _, found, rest = text.partition("# SIP for phones")
        assert found
        # All but the port at which this node tells how it is.
        return found + rest.partition("# To be looked at only.")[0].replace(
            "port 9000", f"port {self.pbx.http_port}", 9
        )

    def _cluster_file(self) -> str:
        return f"""\
option: active-passive
domain: {NAME}
network: {{interface: lo, network: 127.0.0.0/24}}
hosts:
  - {{name: pbx1, address: {HOST}}}
  - {{name: pbx2, address: 127.0.0.12}}
  - {{name: witness, address: 127.0.0.13, roles: [witness]}}
seats:
  - {{name: main, address: 127.0.0.1, successors: [pbx1, pbx2]}}
balancer: {{address: {BALANCER}, certificate: {self.certificate}}}
sip_port: {self.pbx.sip_port}
sip_tls: {{certificate: {self.certificate}, port: {self.tls_port}}}
websocket: {{port: {self.wss_port}, seat_port: {self._ws_port}}}
rtp_ports: [1024, 1030]
timings: {{health_interval: 0.2}}
"""

    def registered(self) -> list[dict[str, str]]:
        """The registrations, as the API tells them."""
        headers = {"Authorization": f"Bearer {(self.pbx.data / 'operator.token').read_text()}"}
        url = f"http://127.0.0.1:{self.pbx.http_port}/api/v1/registrations"
        items: list[dict[str, str]] = httpx.get(url, headers=headers, timeout=20).raise_for_status().json()["items"]
        return items

    def start(self) -> None:
        """Have both run."""
        self.pbx.start()
        self._server.start()
        self._server.until(self._is_there)

    def _is_there(self) -> bool:
        socket.create_connection(self.tls, 5).close()
        return True

    def restart_haproxy(self) -> None:
        """Every connection through it ends, and it is there again."""
        self._server.kill()
        self._server.start()
        self._server.until(self._is_there)

    def close(self) -> None:
        """End both."""
        self._server.kill()
        self.pbx.close()


@asynccontextmanager
async def behind_haproxy(folder: Path, *numbers: str) -> AsyncIterator[Front]:
    """A node with these extensions behind HAProxy; nothing must have gone wrong unseen."""
    front = await asyncio.to_thread(Front, folder)
    try:
        await asyncio.to_thread(front.pbx.add_extensions, *numbers)
        await asyncio.to_thread(front.start)
        yield front
        assert "Traceback" not in front.pbx.stderr.read_text()
    finally:
        await asyncio.to_thread(front.close)
