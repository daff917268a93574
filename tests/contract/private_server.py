"""Private servers as child processes: on free ports, in folders of their own, and gone afterwards."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from port_numbers import port_number

PATIENCE_S = 30.0
"""For a machine that is busy with other tests."""


class PrivateServer:
    """One server process. `command` makes its command line from as many free ports as `ports` says."""

    def __init__(self, folder: Path, ports: int, command: Callable[[list[int]], list[str | Path]]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.ports = free_ports(ports)
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return self.ports[0]

    def start(self) -> None:
        """Start it on the same ports as before; it may take a moment until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(self.ports), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )

    def kill(self) -> None:
        """Without warning."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(PATIENCE_S)

    def pause(self) -> None:
        """Half-open from now on: the system takes connections and data, and nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what the server is about to be; whatever it raises meanwhile counts as not yet."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                if condition():
                    return
            except Exception as error:
                reason: object = error
            else:
                reason = "not yet"
            log = (self.folder / "log").read_text(errors="replace")[-2000:]
            assert self.is_running, f"server ended:\n{log}"
            assert time.monotonic() < give_up, f"{reason}\n{log}"
            time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Ports for TCP that are free at this moment."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            while True:
                with suppress(OSError):
                    probe.bind(("127.0.0.1", port_number()))
                    break
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
