"""The first process of a lab's host: it makes the host's disk, and runs what systemd would run there.

It is started alone in namespaces of its own (network, mounts, processes, name) and imports nothing of Warden. On its
disk /etc, /var, /opt and /usr/local are the machine's own with the host's changes above them, and /run is empty.
`systemctl` there asks this process, over a socket; `sysctl` sets only what is the network's of this host.

    python init.py FOLDER NAME CHECKOUT
"""

import json
import os
import re
import resource
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

RESTART_S = 1.0
STOP_S = 60.0
CHANGED = ("etc", "var", "opt", "usr/local")
RUN_FOLDERS = {
    "haproxy": "haproxy", "postgresql": "postgres", "redis": "redis", "sentinel": "redis", "warden": "root",
    "prometheus": "prometheus", "lock": "root", "named": "bind",
}  # fmt: skip
ENVIRON = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
}
SYSTEMCTL = """\
#!{python} -IS
import json, socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect({control!r})
line.sendall(json.dumps(sys.argv[1:]).encode() + b"\\n")
said = json.loads(line.makefile().readline())
sys.stdout.write(said["said"])
sys.exit(said["status"])
"""
SYSCTL = """\
#!/bin/sh
# Only what the kernel keeps for each network apart; the rest is the whole machine's.
for file in /etc/sysctl.d/*.conf; do
    sed -n 's/^\\(net[a-z0-9_.]*\\) *= */\\1 /p' "$file" | while read -r key value; do
        path=/proc/sys/$(echo "$key" | tr . /)
        [ ! -w "$path" ] || echo "$value" >"$path"
    done
done
"""


class Unit:
    """Something that runs, and runs again when it ends, until it is stopped."""

    def __init__(self, name: str, argv: list[str], user: str, environ: dict[str, str], after: list[list[str]]) -> None:
        self.name = name
        self.argv = argv
        self.user = user
        self.environ = environ
        self.after = after
        self.wanted = False
        self.process: subprocess.Popen[bytes] | None = None
        self.again_at = 0.0
        self.started_at_utc = 0.0
        self.starts = 0


class Init:
    """The units of one host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.units: dict[str, Unit] = {}
        self._enabled = folder / "enabled"
        (folder / "log").mkdir(exist_ok=True)

    def boot(self) -> None:
        """Start all that was enabled before the power was gone."""
        if self._enabled.exists():
            for name in self._enabled.read_text().split():
                self._start(name, again=False)

    def say(self, words: list[str]) -> tuple[int, str]:
        """What systemctl is told: its exit status, and what it prints."""
        flags = [word for word in words if word.startswith("-")]
        verb, *names = [word for word in words if not word.startswith("-")]
        names = [name.removesuffix(".service") for name in names]
        if verb == "daemon-reload":
            return 0, ""
        if verb == "list-units":
            return 0, "".join(f"{unit.name} {self._state(unit)} {unit.starts}\n" for unit in self.units.values())
        status, said = 0, ""
        for name in names:
            if verb == "enable":
                self._enabled.touch()
                if name not in self._enabled.read_text().split():
                    self._enabled.write_text(self._enabled.read_text() + name + "\n")
            if verb in ("start", "restart") or (verb == "enable" and "--now" in flags):
                # Nobody waits for a unit here, with `--no-block` or without.
                problem = self._start(name, again=verb == "restart")
                status, said = (1, said + problem + "\n") if problem else (status, said)
            elif verb in ("stop", "disable") and name in self.units:
                self._stop(self.units[name], signal.SIGTERM)
            elif verb == "kill" and name in self.units:
                # As programs that die: the unit stays wanted, and starts again.
                named = next((flag.partition("=")[2] for flag in flags if flag.startswith("--signal=")), "SIGTERM")
                for pid in _all_of(self.units[name]):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.Signals[named])
            elif verb == "reload" and name in self.units:
                self._signal(self.units[name], signal.SIGHUP)
            elif verb == "is-active":
                state = self._state(self.units[name]) if name in self.units else "inactive"
                status, said = (status if state == "active" else 3), said + state + "\n"
            elif verb == "show" and name in self.units:
                # Of all that is known of a unit, since when it runs.
                said += f"@{self.units[name].started_at_utc:.6f}\n"
        return status, said

    def tick(self) -> None:
        """Reap what has ended, and start again what should run."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            for unit in self.units.values():
                if unit.process is not None and unit.process.pid == pid:
                    unit.process = None
                    self._ended(unit)
        now = time.monotonic()
        for unit in self.units.values():
            if unit.wanted and unit.process is None and now >= unit.again_at:
                self._run(unit)

    def _ended(self, unit: Unit) -> None:
        unit.again_at = time.monotonic() + RESTART_S
        for command in unit.after:
            subprocess.run(command, check=False, env=ENVIRON, capture_output=True)

    def _start(self, name: str, *, again: bool) -> str:
        try:
            made = unit_of(name)
        except (OSError, LookupError) as error:
            return f"{name}: {error}"
        if made is None:
            return ""
        if isinstance(made, list):
            done = subprocess.run(made, check=False, env=ENVIRON, capture_output=True, text=True)
            return done.stderr if done.returncode else ""
        unit = self.units.get(name)
        if unit is not None and unit.process is not None:
            if not again:
                return ""
            self._stop(unit, signal.SIGTERM)
        self.units[name] = made
        made.starts = unit.starts if unit is not None else 0
        made.wanted = True
        self._run(made)
        return ""

    def _run(self, unit: Unit) -> None:
        unit.starts += 1
        unit.started_at_utc = time.time()
        with (self.folder / "log" / unit.name).open("ab") as log:
            unit.process = subprocess.Popen(
                unit.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**ENVIRON, **unit.environ},
                user=unit.user, group=unit.user, extra_groups=[], start_new_session=True, cwd="/",
            )  # fmt: skip

    def _stop(self, unit: Unit, how: signal.Signals) -> None:
        unit.wanted = False
        self._signal(unit, how)
        until = time.monotonic() + STOP_S
        while unit.process is not None and time.monotonic() < until:
            # Its own children may end too, and nobody else waits for them.
            self.tick()
            time.sleep(0.01)
        self._signal(unit, signal.SIGKILL)

    def _signal(self, unit: Unit, how: signal.Signals) -> None:
        if unit.process is not None:
            os.kill(unit.process.pid, how)

    @staticmethod
    def _state(unit: Unit) -> str:
        return "active" if unit.process is not None else "activating" if unit.wanted else "inactive"


def _all_of(unit: Unit) -> list[int]:
    """The processes of a unit: what it runs, and what that has started."""
    if unit.process is None:
        return []
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            # It has ended meanwhile.
            continue
    found = [unit.process.pid]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def unit_of(name: str) -> Unit | list[str] | None:
    """What a unit runs, as Debian's own files and those of the host have it: a program, a command that is done at once,
    or nothing. Raises `LookupError` for one that a lab's host does not know.
    """
    after = _after(Path(f"/etc/systemd/system/{name}.service.d"))
    kind, _, instance = name.partition("@")
    if kind == "nftables":
        return ["/usr/sbin/nft", "-f", "/etc/nftables.conf"]
    if kind in ("chrony", "postgresql", "grafana-server", "prometheus-alertmanager"):
        # There is one clock for all hosts, and nobody to be called at night.
        return None
    if kind in ("pbx", "etcd-arbiter"):
        # The host's own, with the user that the machine has.
        words = _settings(Path(f"/etc/systemd/system/{kind}.service"))
        user = "root" if kind == "pbx" else words["User"]
        folder = Path("/var/lib") / words["StateDirectory"]
        folder.mkdir(mode=int(words["StateDirectoryMode"], 8), exist_ok=True)
        shutil.chown(folder, user, user)
        return Unit(name, words["ExecStart"].split(), user, _variables(words["EnvironmentFile"].lstrip("-")), after)
    commands: dict[str, tuple[str, list[str], str]] = {
        "etcd": ("etcd", ["/usr/bin/etcd"], "/etc/default/etcd"),
        "redis-server": ("redis", ["/usr/bin/redis-server", f"/etc/redis/redis-{instance}.conf"], ""),
        "redis-sentinel": ("redis", ["/usr/bin/redis-sentinel", "/etc/redis/sentinel.conf", "--daemonize", "no"], ""),
        "patroni": ("postgres", ["/usr/bin/patroni", "/etc/patroni/config.yml"], ""),
        "haproxy": ("root", ["/usr/sbin/haproxy", "-db", "-f", "/etc/haproxy/haproxy.cfg"], ""),
        "keepalived": ("root", ["/usr/sbin/keepalived", "--dont-fork", "--vrrp", "--log-console", "--log-detail"], ""),
        # One thread does: a host of the lab has no processor of its own. What it says goes where the others' words go.
        "named": ("root", ["/usr/sbin/named", "-g", "-n", "1", "-u", "bind"], ""),
        "prometheus": ("prometheus", ["/usr/bin/prometheus", "--config.file=/etc/prometheus/prometheus.yml",
                                      "--storage.tsdb.path=/var/lib/prometheus/metrics2"], ""),
    }  # fmt: skip
    if kind.endswith("-exporter"):
        variables = _variables(f"/etc/default/{kind}")
        return Unit(name, [f"/usr/bin/{kind}", *variables.pop("ARGS", "").split()], "prometheus", variables, after)
    user, argv, file = commands[kind]
    if started := _started_by(Path(f"/etc/systemd/system/{name}.service.d")):
        argv = started
    return Unit(name, argv, user, _variables(file), after)


def _after(folder: Path) -> list[list[str]]:
    """ExecStopPost of the drop-ins."""
    lines = [line for path in sorted(folder.glob("*.conf")) for line in path.read_text().splitlines()]
    return [shlex.split(line.partition("=")[2].lstrip("-")) for line in lines if line.startswith("ExecStopPost=")]


def _started_by(folder: Path) -> list[str]:
    """ExecStart of the drop-ins."""
    lines = [line for path in sorted(folder.glob("*.conf")) for line in path.read_text().splitlines()]
    return [word for line in lines if line.startswith("ExecStart=") for word in line.partition("=")[2].split()]


def _settings(file: Path) -> dict[str, str]:
    pairs = (line.partition("=") for line in file.read_text().splitlines() if not line.startswith("#"))
    return {key: value for key, equals, value in pairs if equals}


def _variables(file: str) -> dict[str, str]:
    if not file:
        return {}
    return {key: value.strip('"') for key, value in _settings(Path(file)).items()}


def make_disk(folder: Path, checkout: Path) -> None:
    """What the host has of its own, above what the machine has."""
    _mount("--make-rprivate", "/")
    for place in CHANGED:
        upper, work = folder / "disk" / place, folder / "work" / place
        upper.mkdir(parents=True, exist_ok=True)
        # What is above gives the folder its mode.
        shutil.copystat(f"/{place}", upper)
        work.mkdir(parents=True, exist_ok=True)
        _mount("-t", "overlay", "overlay", "-o", f"lowerdir=/{place},upperdir={upper},workdir={work}", f"/{place}")
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    # What a host that loses its power has left there is gone with it.
    _mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/dev/shm")  # noqa: S108 - where it is
    for name, user in RUN_FOLDERS.items():
        made = Path("/run") / name
        made.mkdir()
        subprocess.run(["chown", f"{user}:", str(made)], check=False, capture_output=True)
    # What `make install-prod` would have put there.
    version = re.search(r'__version__ = "(.*)"', (checkout / "src/warden/__init__.py").read_text())
    assert version is not None, "it is written there"
    program = Path(f"/opt/PBX/versions/{version[1]}/bin/warden")
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec env PYTHONPATH={checkout / "src"} {sys.executable} -m warden "$@"\n')
    program.chmod(0o755)
    current = Path("/opt/PBX/current")
    if not current.is_symlink():
        current.symlink_to(f"versions/{version[1]}")
    for name, text in (
        ("bin/systemctl", SYSTEMCTL.format(python=sys.executable, control=str(folder / "control"))),
        ("sbin/sysctl", SYSCTL),
    ):
        path = Path("/usr/local") / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def serve(init: Init) -> None:
    """Hear what is asked, until the end."""
    control = init.folder / "control"
    control.unlink(missing_ok=True)
    door = socket.socket(socket.AF_UNIX)
    door.bind(str(control))
    door.listen(8)
    door.setblocking(False)
    chooser = selectors.DefaultSelector()
    chooser.register(door, selectors.EVENT_READ)
    while True:
        for _ in chooser.select(0.05):
            line, _ = door.accept()
            line.settimeout(5)
            with line, line.makefile("rb") as words:
                status, said = init.say(json.loads(words.readline()))
                answer: dict[str, Any] = {"status": status, "said": said}
                line.sendall(json.dumps(answer).encode() + b"\n")
        init.tick()


def main(argv: list[str]) -> None:
    """Be the first process of a host."""
    folder, name, checkout = Path(argv[0]), argv[1], Path(argv[2])
    # Whatever the shell has that started the lab.
    os.umask(0o022)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    socket.sethostname(name)
    make_disk(folder, checkout)
    init = Init(folder)
    init.boot()
    serve(init)


if __name__ == "__main__":
    main(sys.argv[1:])
