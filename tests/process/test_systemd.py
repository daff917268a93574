"""What a node tells the systemd that supervises it, and the unit that it is run by."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from warden.ops.ha.render import unit

from pbx import Pbx

UNIT = unit("/bin/true", "/var/lib/warden")


class Systemd:
    """The socket that a supervisor listens on."""

    def __init__(self, address: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(address)
        self._sock.settimeout(10)

    def hear(self, wanted: str) -> list[str]:
        """All lines up to the first that begins so."""
        lines: list[str] = []
        for _ in range(100):
            lines += self._sock.recv(4096).decode().splitlines()
            if any(line.startswith(wanted) for line in lines):
                return lines
        raise AssertionError(f"{wanted} is not in {lines}")

    def close(self) -> None:
        """Hear nothing more."""
        self._sock.close()


@pytest.fixture
def pbx(tmp_path: Path) -> Iterator[Pbx]:
    pbx = Pbx(tmp_path, pairs=20)
    yield pbx
    pbx.close()


@pytest.mark.parametrize("named", ["file", "abstract"])
def test_systemd_is_told_when_the_node_is_ready_reloads_and_stops_and_that_it_lives(
    pbx: Pbx, tmp_path: Path, named: str
) -> None:
    address = str(tmp_path / "notify") if named == "file" else f"\0warden-test-{os.getpid()}"
    systemd = Systemd(address)
    try:
        pbx.environ = {"NOTIFY_SOCKET": address.replace("\0", "@"), "WATCHDOG_USEC": "400000"}
        pbx.start()
        assert pbx.process is not None
        said = systemd.hear("READY=1")
        assert any("takes no new calls: starting" in line for line in said)
        assert said[-1].startswith("STATUS=takes calls; 0 calls on node1")
        for _ in range(3):
            systemd.hear("WATCHDOG=1")
        pbx.process.send_signal(signal.SIGHUP)
        assert "RELOADING=1" in systemd.hear("MONOTONIC_USEC=")
        systemd.hear("READY=1")
        assert pbx.kill(signal.SIGTERM) == 0
        systemd.hear("STOPPING=1")
    finally:
        systemd.close()


def test_a_supervisor_that_is_gone_or_watches_another_process_costs_nothing(pbx: Pbx, tmp_path: Path) -> None:
    pbx.environ = {"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "400000", "WATCHDOG_PID": "1"}
    pbx.start()
    assert pbx.status()["status"] == "ok"


def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    unit = tmp_path / "warden.service"
    # The program and its user are there once Warden is installed.
    text = UNIT
    assert "User=warden" in text
    unit.write_text(text.replace("User=warden", "User=root").replace("Group=warden", "Group=root"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
