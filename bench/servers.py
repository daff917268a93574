"""The servers that are measured, each on the server's core, in a folder of its own that goes with it."""

import asyncio
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from generator import CALLEES, CALLERS, HOST, PASSWORD
from machine import SERVER_CORE, end, family_of, free_ports, on_core, wait_for_udp

from warden import __version__
from warden.store.durable import open_durable
from warden.store.migrate import migrate
from warden.switch.directory import new_extension

HERE: Final = Path(__file__).parent
REALM: Final = "bench"
MEDIA_HOST: Final = f"127.66.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}"
"""An address that nobody else's sockets have, so that its ports may reach into the kernel's ephemeral ones."""


class Server:
    """A running server: its port and its processes."""

    def __init__(self, name: str, version: str, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.name = name
        self.version = version
        self.port = port
        self.process = process

    @property
    def pids(self) -> list[int]:
        """All its processes."""
        return family_of(self.process.pid)


class Warden(Server):
    """A node of this tree with its records in the embedded file, and its media process."""

    def __init__(self, port: int, process: "subprocess.Popen[bytes]", data: Path, http: int) -> None:
        super().__init__("warden", __version__, port, process)
        self.http = http
        self._data = data

    @property
    def media_pid(self) -> int:
        """Its media process."""
        return int((self._data / "media.sock.pid").read_text())

    @property
    def pids(self) -> list[int]:
        """Signalling and media."""
        return [self.process.pid, self.media_pid]


TRUNK: Final = (
    ("trunk", "generators", f"targets={HOST}", f"accept_from={HOST}/32", "probe_s=0"),
    ("inbound", "callees", "pattern=2XXXX"),
)
"""Dialplan items by which the generators are a carrier."""
SETTINGS: Final = """\
data_dir: {folder}/data
http: {{bind_address: 127.0.0.1, port: {http}}}
sip: {{bind_address: 127.0.0.1, bind_port: {sip}, realm: {realm}}}
rtp: {{bind_address: {media}, port_range: [10000, 65535], orphan_timeout: 5}}
log: {{format: json}}
"""


@contextmanager
def warden(more: str = "", *, trunk: bool = False) -> Iterator[Warden]:
    """Warden as `make run` has it: everything written before it is said, into the embedded file. `more` are further
    settings; with `trunk` the generators are a carrier, which is not asked who it is.
    """
    with tempfile.TemporaryDirectory(prefix="warden-bench-") as name:
        folder = Path(name)
        sip, http = free_ports(2)
        config = folder / "config.yml"
        config.write_text(SETTINGS.format(folder=folder, http=http, sip=sip, realm=REALM, media=MEDIA_HOST) + more)
        (folder / "data").mkdir()
        asyncio.run(_add_extensions(folder / "data"))
        command = [sys.executable, "-m", "warden", "--config", config]
        for item in TRUNK if trunk else ():
            subprocess.run([*command, "dialplan", "put", *item], check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        argv = [*command, "serve"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own words
                on_core(SERVER_CORE, argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
            )
        try:
            assert process.stdout is not None, "piped"
            if process.stdout.readline() != b"warden: ready\n":
                raise OSError((folder / "log").read_text())
            yield Warden(sip, process, folder / "data", http)
        finally:
            with suppress(OSError):
                media = int((folder / "data" / "media.sock.pid").read_text())
                _end_together(process, media)
            end(process, signal.SIGINT)
            if "Traceback" in (said := (folder / "log").read_text()):
                sys.stderr.write(said)


async def _add_extensions(data: Path) -> None:
    url = f"sqlite:///{data / 'warden.sqlite'}"
    await migrate(url)
    durable = open_durable(url)
    for number in (*CALLERS, *CALLEES):
        await durable.add_extension(new_extension(number, PASSWORD, realm=REALM, now=time.time()))
    await durable.close()


def _end_together(process: "subprocess.Popen[bytes]", media: int) -> None:
    end(process, signal.SIGINT)
    until = time.monotonic() + 10
    while Path(f"/proc/{media}").exists() and time.monotonic() < until:
        time.sleep(0.05)


@contextmanager
def sippy(folder: Path, next_hop: int) -> Iterator[Server]:
    """Sippy's simple B2BUA, which sends every call to one address. It asks nobody who he is and carries no media."""
    python = folder / "sippy" / "bin" / "python"
    pins = HERE.parent / "requirements" / "bench.txt"
    if not python.exists():
        venv.create(folder / "sippy", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", pins], check=True)  # noqa: S603 - our own words
    version = re.search(r"^sippy==(\S+)", pins.read_text(), re.MULTILINE)
    (port,) = free_ports(1)
    argv = [python, "-m", "sippy.b2bua_simple", "-f", "-l", HOST, "-p", port, "-n", f"{HOST}:{next_hop}"]
    process = subprocess.Popen(  # noqa: S603 - our own words
        on_core(SERVER_CORE, argv),
        env={"SIPLOG_BEND": "none", "PATH": "/usr/bin:/bin"},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_udp(port, process)
        yield Server("sippy", version[1] if version else "?", port, process)
    finally:
        end(process)


@contextmanager
def kamailio() -> Iterator[Server]:
    """Kamailio as a registrar with digest and everything in memory, one worker on UDP."""
    with tempfile.TemporaryDirectory(prefix="warden-bench-") as folder:
        (port,) = free_ports(1)
        config = Path(folder) / "kamailio.cfg"
        text = (HERE / "kamailio.cfg").read_text()
        for name, value in {"PORT": str(port), "PASSWORD": PASSWORD, "REALM": REALM, "FOLDER": folder}.items():
            text = text.replace(f"@{name}@", value)
        config.write_text(text)
        argv = ["kamailio", "-f", config, "-m", 2048, "-M", 16, "-DD", "-E", "-Y", folder]
        process = subprocess.Popen(  # noqa: S603 - our own words
            on_core(SERVER_CORE, argv), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        version = re.search(r"kamailio (\S+)", _said_by("kamailio"))
        try:
            wait_for_udp(port, process)
            yield Server("kamailio", version[1] if version else "?", port, process)
        finally:
            end(process)


def versions() -> dict[str, str]:
    """What else the figures depend on."""
    found = re.search(r"SIPp v([0-9.]+)", _said_by("sipp"))
    return {
        "warden": __version__,
        "python": sys.version.split()[0],
        "uvloop": importlib.metadata.version("uvloop"),
        "msgspec": importlib.metadata.version("msgspec"),
        "sipp": found[1] if found else "?",
    }


def _said_by(program: str) -> str:
    return subprocess.run([shutil.which(program) or program, "-v"], capture_output=True, text=True, check=False).stdout  # noqa: S603
