"""A private PostgreSQL server for a lab, on a free port, with nothing to lose: it does not wait for disks."""

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL

from warden.core.errors import WardenError

START_S: Final = 30.0
POLL_S: Final = 0.05
PORTS: Final = (25_000, 32_000)
"""Below those that the kernel gives to connections, which could take the port while the server is down."""
DATABASE: Final = "postgres"
USER: Final = "warden"


class LabPostgres:
    """One server. Its data outlives a kill, as on any machine whose disk does."""

    def __init__(self, folder: Path) -> None:
        self._bin = binaries()
        self._folder = folder
        self._password = secrets.token_urlsafe(16)
        self._process: subprocess.Popen[bytes] | None = None
        # The server refuses to run as root; whoever else runs the lab runs the server.
        self._user: dict[str, Any] = {}
        folder.mkdir()
        if os.geteuid() == 0:
            account = _unprivileged()
            self._user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(folder, account.pw_uid, account.pw_gid)
            # The way to the folder must be open to that account; what lies beside it stays closed.
            folder.parent.chmod(0o711)
        self.port = _free_port()
        self._initialise()

    @property
    def url(self) -> URL:
        """For those who store."""
        return URL.create("postgresql", USER, self._password, "127.0.0.1", self.port, DATABASE)

    @property
    def settings(self) -> str:
        """The same as the keys of a node's `database` section."""
        return f"host: 127.0.0.1, port: {self.port}, name: {DATABASE}, user: {USER}, password: {self._password}"

    @property
    def runs(self) -> bool:
        """Whether its process does."""
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Start it on its port, and wait until it takes connections. Raises `WardenError`."""
        with (self._folder / "log").open("ab") as log:
            # Not by asyncio: uvloop starts nothing as another user.
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - our own words
                [
                    self._bin / "postgres", "-D", self._folder / "data", "-p", str(self.port), "-k", self._folder,
                    "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=400",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder, **self._user,
            )  # fmt: skip
        until = time.monotonic() + START_S
        while self.runs and time.monotonic() < until:
            asked = await asyncio.create_subprocess_exec(
                self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), stdout=PIPE, stderr=STDOUT
            )
            await asked.communicate()
            if asked.returncode == 0:
                return
            await asyncio.sleep(POLL_S)
        raise WardenError(f"postgres did not start: {(self._folder / 'log').read_text()[-1000:]}")

    async def kill(self) -> None:
        """Have it die as in a crash: connections break, nothing is said."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            await asyncio.to_thread(self._process.wait)

    def _initialise(self) -> None:
        password_file = self._folder / "password"
        password_file.write_text(self._password)
        password_file.chmod(0o644)
        done = subprocess.run(  # noqa: S603 - our own words
            [
                self._bin / "initdb", "--no-sync", "--no-locale", "--encoding=UTF8", f"--username={USER}",
                "--auth=scram-sha-256", f"--pwfile={password_file}", "--pgdata", self._folder / "data",
            ],
            check=False, capture_output=True, text=True, cwd=self._folder, timeout=START_S * 2,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"}, **self._user,
        )  # fmt: skip
        if done.returncode:
            raise WardenError(f"initdb: {done.stdout}{done.stderr}")


def binaries() -> Path:
    """Where this machine's PostgreSQL is, the newest where it has several. Raises `WardenError` where it has none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    if on_path is None:
        raise WardenError("there is no PostgreSQL server on this machine; on Debian: apt-get install postgresql")
    return Path(on_path).resolve().parent


def _unprivileged() -> pwd.struct_passwd:
    accounts = {account.pw_name: account for account in pwd.getpwall()}
    return accounts.get("postgres") or accounts["nobody"]


def _free_port() -> int:
    for _ in range(100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", PORTS[0] + secrets.randbelow(PORTS[1] - PORTS[0])))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise WardenError(f"no port from {PORTS[0]} to {PORTS[1]} is free on 127.0.0.1")
