"""Private PostgreSQL servers: started on free ports, in folders of their own, and gone afterwards."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from private_server import free_ports

_START_S = 30.0
_PASSWORD = "not-to-be-shown"  # so that tests can look for it where it must not be


class Postgres:
    """A PostgreSQL server for tests: as child processes of this one, never as root, with nothing to sync to disk."""

    def __init__(self, of: "Postgres | None" = None) -> None:
        """A server of its own, or a standby of another one that is running."""
        self._bin = _find_binaries()
        # The server refuses to run as root; whoever else runs the tests runs the server.
        self._user: dict[str, Any] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="warden-pg-"))
        if os.geteuid() == 0:
            account = _unprivileged()
            self._user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        self._server: subprocess.Popen[bytes] | None = None
        self.port = 0
        if of is not None:
            source = f"host=127.0.0.1 port={of.port} user=warden password={_PASSWORD}"
            self._run(
                "pg_basebackup", "--no-sync", "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf",
                "--pgdata", str(self._folder / "data"), "--dbname", source,
            )  # fmt: skip
            return
        password_file = self._folder / "password"
        password_file.write_text(_PASSWORD)
        password_file.chmod(0o644)
        self._run(
            "initdb", "--no-sync", "--no-locale", "--encoding=UTF8", "--username=warden", "--auth=scram-sha-256",
            f"--pwfile={password_file}", "--pgdata", str(self._folder / "data"),
        )  # fmt: skip

    def start(self) -> None:
        """Start the server, on the same port as before if it ran before; returns when it takes connections."""
        for attempt in range(3):
            port = self.port or free_ports(1)[0]
            log = (self._folder / "log").open("ab")
            with log:
                self._server = subprocess.Popen(
                    [
                        self._bin / "postgres", "-D", self._folder / "data", "-p", str(port), "-k", self._folder,
                        "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=50",
                    ],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder, **self._user,
                )  # fmt: skip
            if self._is_ready(port):
                self.port = port
                return
            # Somebody may have taken the port in between.
            assert attempt < 2, f"postgres does not start:\n{(self._folder / 'log').read_text()}"

    def kill(self) -> None:
        """Let the server die at once, as a crash would: connections break, nothing is said."""
        server, self._server = self._server, None
        if server is not None:
            server.send_signal(signal.SIGQUIT)
            server.wait(_START_S)

    def promote(self) -> None:
        """Let the standby be the primary from now on; returns when it takes changes."""
        self._run("pg_ctl", "promote", "--wait", "--pgdata", str(self._folder / "data"))

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder)

    def new_database(self) -> str:
        """The URL of an empty database, password included. It takes the place of the one asked for before."""
        server = f"postgresql://warden:{_PASSWORD}@127.0.0.1:{self.port}"
        self.sql(f"{server}/postgres", "DROP DATABASE IF EXISTS test WITH (FORCE)", "CREATE DATABASE test")
        return f"{server}/test"

    def sql(self, url: str, *statements: str) -> None:
        """Each in a transaction of its own."""
        commands = [argument for statement in statements for argument in ("-c", statement)]
        self._run("psql", "--quiet", "--no-psqlrc", "-v", "ON_ERROR_STOP=1", *commands, url)

    def _is_ready(self, port: int) -> bool:
        assert self._server is not None
        give_up = time.monotonic() + _START_S
        while time.monotonic() < give_up and self._server.poll() is None:
            ask = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
            if subprocess.run(ask, check=False).returncode == 0:
                return True
            time.sleep(0.05)
        self.kill()
        return False

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._bin / program), *arguments],
            check=False, capture_output=True, text=True, cwd=self._folder, timeout=60,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"}, **self._user,
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"


def _find_binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    assert on_path, "PostgreSQL's server is needed for these tests (Debian: apt-get install postgresql)"
    return Path(on_path).resolve().parent


def _unprivileged() -> pwd.struct_passwd:
    accounts = {account.pw_name: account for account in pwd.getpwall()}
    return accounts.get("postgres") or accounts["nobody"]
