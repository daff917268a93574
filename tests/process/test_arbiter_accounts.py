"""The arbiter's etcd as it is rendered, on loopback addresses: `pbx-bootstrap` makes its accounts, once."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from warden.ops.ha.reading import assignments
from warden.ops.ha.render import Files

from ha_clusters import SECRETS, rendered

REGION, ARBITER = "etc/default/etcd", "etc/default/etcd-arbiter"
WITHIN_S = 60


def near(text: str) -> str:
    """The hosts' addresses as this machine's own, others in each run."""
    return re.sub(r"192\.168\.(\d+)\.(\d+)", rf"127.{os.getpid() % 250 + 2}.\1.\2", text)


class Members:
    """The etcds of the first region, and those of the arbiter, each started by its rendered file."""

    def __init__(self, made: dict[str, Files], folder: Path) -> None:
        self.running: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        self._made = made
        self._folder = folder

    def start(self, host: str, file: str) -> None:
        values = {name: near(value) for name, (value, _) in assignments(self._made[host][file].text).items()}
        values["ETCD_LISTEN_CLIENT_URLS"] = values["ETCD_LISTEN_CLIENT_URLS"].partition(",")[0]
        values["ETCD_DATA_DIR"] = str(self._folder / f"{host}-{Path(file).name}")
        with (self._folder / f"{host}-{Path(file).name}.log").open("wb") as log:
            self.running[host, file] = subprocess.Popen(
                ["etcd"], env={"PATH": os.environ["PATH"], **values}, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def stop(self) -> None:
        for process in self.running.values():
            process.send_signal(signal.SIGKILL)
            process.wait()


@pytest.fixture
def made() -> dict[str, Files]:
    return rendered("geo")


@pytest.fixture
def members(made: dict[str, Files], tmp_path: Path) -> Iterator[Members]:
    members = Members(made, tmp_path)
    try:
        yield members
    finally:
        members.stop()


def ask(*words: str, user: str = "") -> tuple[int, str]:
    environ = {"PATH": os.environ["PATH"], "ETCDCTL_API": "3", **({"ETCDCTL_USER": user} if user else {})}
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False, timeout=WITHIN_S)
    return done.returncode, done.stdout + done.stderr


def run(*words: str, user: str = "") -> str:
    status, said = ask(*words, user=user)
    assert status == 0, said
    return said


def refused(*words: str, user: str = "") -> str:
    status, said = ask(*words, user=user)
    assert status != 0, said
    return said


def until_done(*words: str, user: str = "") -> None:
    until = time.monotonic() + WITHIN_S
    while (told := ask(*words, user=user))[0] != 0:
        assert time.monotonic() < until, told
        time.sleep(0.1)  # Only asking again tells.


def test_the_arbiter_gets_its_accounts_once_and_shows_nothing_to_anybody_else(
    made: dict[str, Files], members: Members, tmp_path: Path
) -> None:
    bootstrap = tmp_path / "pbx-bootstrap"
    bootstrap.write_text(near(made["east1"]["usr/local/sbin/pbx-bootstrap"].text))
    for host in ("east1", "east2", "east-witness"):
        members.start(host, REGION)
    own = near("--endpoints=http://192.168.1.10:2379")
    until_done("etcdctl", own, "endpoint", "health")
    # Before the third site is there, the first region's member has nobody to agree with.
    members.start("east-witness", ARBITER)
    assert "Install the third site's" in refused("sh", str(bootstrap))

    members.start("arbiter", ARBITER)
    arbiter = near("--endpoints=http://192.168.1.12:2381")
    until_done("etcdctl", arbiter, "endpoint", "health")
    said = run("sh", str(bootstrap))
    assert "arbiter: led by arbiter" in said
    assert "it stays where it is" not in said
    assert "secret-of-the-tests" not in said
    again = run("sh", str(bootstrap))
    assert again.count("  are there") == 2

    # The second region's member comes later, and knows the accounts.
    members.start("west-witness", ARBITER)
    west = near("--endpoints=http://192.168.2.12:2381")
    warden = f"warden:{SECRETS.arbiter_warden}"
    key = "/warden/pbx-production-regions/primary"
    until_done("etcdctl", west, "put", key, "east", user=warden)
    assert run("etcdctl", arbiter, "get", key, "--print-value-only", user=warden) == "east\n"
    assert "permission denied" in refused("etcdctl", arbiter, "put", "/warden/other", "x", user=warden)
    assert "permission denied" in refused("etcdctl", arbiter, "user", "list", user=warden)
    assert "user name is empty" in refused("etcdctl", arbiter, "get", key)
    region = f"warden:{SECRETS.etcd_warden}"
    assert "authentication failed" in refused("etcdctl", arbiter, "get", key, user=region)
