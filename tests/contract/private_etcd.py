"""Private etcd servers: one with users and TLS, and three that are a cluster."""

import json
import secrets
import shutil
import ssl
import tempfile
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from warden.core.address import Address
from warden.store.etcd_client import EtcdSettings

from private_server import PrivateServer
from private_tls import make_certificates

PASSWORD = "not-to-be-shown"  # so that tests can look for it where it must not be

_PEERS = "http://127.0.0.1"


class EtcdMember(PrivateServer):
    """An `etcd` process. `tls` are the files of authority, certificate and key."""

    def __init__(self, folder: Path, tls: Sequence[Path] = ()) -> None:
        super().__init__(folder, 2, self._command_line)
        self.name = folder.name
        self.initial_cluster = f"{self.name}={_PEERS}:{self.ports[1]}"
        self._tls = tls
        self._context = ssl.create_default_context(cafile=str(tls[0])) if tls else None
        self._url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    def say(self, path: str, token: str = "", **body: Any) -> Any:
        """The gateway's answer to whom the token was given, or to a stranger; raises what it refuses."""
        headers = {"Authorization": token} if token else {}
        request = urllib.request.Request(f"{self._url}/{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=5, context=self._context) as answer:
            return json.loads(answer.read())

    def is_up(self) -> bool:
        with urllib.request.urlopen(f"{self._url}/health", timeout=5, context=self._context) as answer:
            return bool(json.loads(answer.read())["health"] == "true")

    def is_leader(self) -> bool:
        status = self.say("v3/maintenance/status")
        return bool(status["leader"] == status["header"]["member_id"])

    def _command_line(self, ports: list[int]) -> list[str | Path]:
        # The shortest election that a busy machine keeps: the shortest lease is 1.5 times that, in whole seconds.
        timing = ["--heartbeat-interval", "50", "--election-timeout", "500"]
        # Ten nodes log in at once here, and share two processors with the server.
        tls: list[str | Path] = []
        if self._tls:
            tls = ["--bcrypt-cost", "4", "--cert-file", self._tls[1], "--key-file", self._tls[2]]
        peers = f"{_PEERS}:{ports[1]}"
        return [
            "etcd", "--name", self.name, "--data-dir", self.folder / "data", *timing, *tls,
            "--listen-client-urls", self._url, "--advertise-client-urls", self._url,
            "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
            "--initial-cluster", self.initial_cluster, "--logger", "zap", "--log-level", "error",
        ]  # fmt: skip


class PrivateEtcd:
    """Some members, and the settings by which they are reached."""

    def __init__(self, folder: Path, members: list[EtcdMember], **settings: Any) -> None:
        self.folder = folder
        self.members = members
        self._settings = {"nodes": tuple(member.address for member in members), **settings}

    def settings(self, **changes: Any) -> EtcdSettings:
        """With a cluster name that nobody else uses."""
        return EtcdSettings(**{**self._settings, "cluster_name": f"test-{secrets.token_hex(6)}", **changes})

    def start(self) -> None:
        for member in self.members:
            member.initial_cluster = ",".join(f"{one.name}={_PEERS}:{one.ports[1]}" for one in self.members)
            member.start()
        for member in self.members:
            member.until(member.is_up)

    def leader(self) -> EtcdMember:
        [leader] = [member for member in self.members if member.is_leader()]
        return leader

    def close(self) -> None:
        for member in self.members:
            member.kill()
        shutil.rmtree(self.folder)


def _text(value: str) -> str:
    return b64encode(value.encode()).decode()


@pytest.fixture(scope="session")
def etcd_secured() -> Iterator[PrivateEtcd]:
    """TLS, and a user that may do what the coordinator's docstring says, and no more."""
    folder = Path(tempfile.mkdtemp(prefix="warden-etcd-tls-"))
    tls = make_certificates(folder / "tls")
    member = EtcdMember(folder / "etcd", tls)
    users = {"username": "warden", "password": PASSWORD}
    etcd = PrivateEtcd(folder, [member], **users, tls=True, tls_ca=str(tls[0]))
    try:
        etcd.start()
        for user in ("root", "warden"):
            member.say("v3/auth/user/add", name=user, password=PASSWORD)
            member.say("v3/auth/role/add", name=user)
            member.say("v3/auth/user/grant", user=user, role=user)
        # The end of the range that begins with `/warden/`.
        allowed = {"permType": "READWRITE", "key": _text("/warden/"), "range_end": _text("/warden0")}
        member.say("v3/auth/role/grant", name="warden", perm=allowed)
        member.say("v3/auth/enable")
        yield etcd
    finally:
        etcd.close()


@pytest.fixture(scope="session")
def etcd_three() -> Iterator[PrivateEtcd]:
    folder = Path(tempfile.mkdtemp(prefix="warden-etcd-"))
    etcd = PrivateEtcd(folder, [EtcdMember(folder / f"member{n}") for n in range(3)])
    try:
        etcd.start()
        yield etcd
    finally:
        etcd.close()
