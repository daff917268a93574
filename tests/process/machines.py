"""The nodes of a test's cluster as hosts with a systemd each, reached by a command in the place of ssh."""

import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from cluster_lab import Member

RESTART_S = 5.0
"""Longer than a lease: the seat goes to the other node first, and then comes back."""
SYSTEMCTL = """\
#!{python} -IS
import os, signal, sys
from contextlib import suppress
from pathlib import Path

def pids():
    for file in (Path({main!r}), Path({media!r})):
        with suppress(OSError, ValueError):
            yield int(file.read_text())

verb, *words = sys.argv[1:]
with open({typed!r}, "a") as typed:
    typed.write(" ".join(sys.argv[1:]) + "\\n")
if words[-1] != "pbx":
    sys.exit(f"Unit {{words[-1]}}.service could not be found.")
if verb == "kill":
    number = signal.Signals[words[0].removeprefix("--signal=")]
    for pid in pids():
        with suppress(ProcessLookupError):
            os.kill(pid, number)
"""


class Machines:
    """Within the block a node that ends is started again, as by `Restart=always`. `over` is for `--over`."""

    def __init__(self, folder: Path, nodes: Mapping[str, Member]) -> None:
        self.over = f"sh {folder / 'over.sh'} {{host}}"
        self.folder = folder
        folder.mkdir()
        (folder / "over.sh").write_text(f'host=$1\nshift\nPATH={folder}/$host:$PATH exec sh -c "$1"\n')
        self._nodes = dict(nodes)
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._keep, args=(node,)) for node in nodes.values()]
        for name, node in nodes.items():
            (folder / name).mkdir()
            values = {
                "python": sys.executable,
                "main": str(folder / name / "main.pid"),
                "media": str(node.data / "media.sock.pid"),
                "typed": str(folder / name / "typed"),
            }
            program = folder / name / "systemctl"
            program.write_text(SYSTEMCTL.format(**values))
            program.chmod(0o755)

    def __enter__(self) -> Self:
        for node in self._nodes.values():
            self._tell(node)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From now on what has ended stays so."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def typed(self, name: str) -> list[str]:
        """What systemctl was told on a host."""
        with suppress(FileNotFoundError):
            return (self.folder / name / "typed").read_text().splitlines()
        return []

    def state(self, name: str) -> str:
        """Of the node's process, one letter as in ps."""
        process = self._nodes[name].process
        assert process is not None
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def _tell(self, node: Member) -> None:
        assert node.process is not None
        (self.folder / node.name / "main.pid").write_text(f"{node.process.pid}")

    def _keep(self, node: Member) -> None:
        while not self._ended.is_set():
            assert node.process is not None
            try:
                node.process.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                continue
            if not self._ended.wait(RESTART_S):
                node.wait()
                node.start()
                self._tell(node)


def interrupt(process: "subprocess.Popen[str]") -> tuple[str, str, int]:
    """As Ctrl-C, and what it says until its end."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    return out, err, process.returncode
