"""`install.sh`, run in a folder that stands for a host's disk, with a `systemctl` that remembers what it was told."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from warden.ops.ha.folder import write
from warden.ops.ha.render import File, render
from warden.ops.ha.starter import starter

from ha_clusters import SECRETS, cluster_of

HOUR_S = 3600
NEAR = "192.168.1.77 50000 192.168.1.10 22"
SYSTEMCTL = """\
#!/bin/sh
for word in "$@"; do unit=$word; done
case $1 in
is-active) if [ -e {active}/$unit ]; then echo active; else echo inactive; exit 3; fi ;;
show) date -u -r {active}/$unit '+%F %T.%N UTC' ;;
enable) ;;
*)
    echo "$*" >>{log}
    case $1 in
    start | restart) >{active}/$unit ;;
    stop | disable) rm -f {active}/$unit ;;
    esac
    ;;
esac
"""
# Files have no other owners here.
INSTALL = """\
#!/bin/bash
words=()
while [ $# -gt 0 ]; do
    case $1 in -o | -g) shift ;; *) words+=("$1") ;; esac
    shift
done
exec /usr/bin/install "${words[@]}"
"""


class Machine:
    """A host with Debian's packages; `root` is its disk."""

    def __init__(self, folder: Path, name: str, *, runs: tuple[str, ...] = ()) -> None:
        self.name = name
        self.root = folder / "root"
        self._files = folder / "files"
        self._active, self._log, self._bin = folder / "active", folder / "log", folder / "bin"
        for made in (self.root, self._active, self._bin):
            made.mkdir(parents=True)
        programs = {
            "systemctl": SYSTEMCTL.format(active=self._active, log=self._log),
            "install": INSTALL,
            "id": "#!/bin/sh\necho 0\n",
            **dict.fromkeys(("useradd", "sysctl", "systemd-tmpfiles", "chgrp"), "#!/bin/sh\n"),
        }
        for program, text in programs.items():
            (self._bin / program).write_text(text)
            (self._bin / program).chmod(0o755)
        for unit in runs:
            (self._active / unit).touch()
        self.an_hour_passes()

    def an_hour_passes(self) -> None:
        for folder in (self.root, self._active):
            for path in (path for path in folder.rglob("*") if path.is_file()):
                os.utime(path, times=(path.stat().st_atime - HOUR_S, path.stat().st_mtime - HOUR_S))

    def has(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def install(self, text: str = "", *, ssh: str = NEAR, sudo: bool = False, status: int = 0) -> tuple[list[str], str]:
        """Render for the machine, and run its `install.sh`: what `systemctl` was told, and what was said."""
        alertmanager = File("rendered\n", put="put_once")
        made = render(
            cluster_of(text or starter("active-passive")),
            SECRETS,
            {"monitor": {"etc/prometheus/alertmanager.yml": alertmanager}},
        )
        write(made, self._files)
        script = self._files / self.name / "install.sh"
        here = re.sub(r"(?<=[ =])/(etc|var)/", rf"{self.root}/\1/", script.read_text()).replace(
            '"/$3', f'"{self.root}/$3'
        )
        self._log.write_text("")
        environ = {"PATH": f"{self._bin}:{os.environ['PATH']}", "SSH_CONNECTION": ssh}
        command = ["sh", "-c", here, str(script)]
        if sudo:
            command = ["sh", "-c", 'env -u SSH_CONNECTION "$@"; exit $?', "sudo", *command]
        done = subprocess.run(
            command, cwd=script.parent, env=environ, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == status, done.stderr
        told = [line for line in self._log.read_text().splitlines() if not line.startswith(("daemon-", "disable"))]
        return told, done.stdout + done.stderr


def replaced(change: Mapping[str, str]) -> str:
    text = starter("active-passive")
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    return text


DEBIANS = ("etcd", "haproxy", "redis-server", "redis-sentinel", "chrony", "named", "prometheus-redis-exporter")


def test_what_debian_has_started_gets_our_settings_and_nothing_is_waited_for_that_comes_later(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "pbx1", runs=DEBIANS)
    machine.has("etc/redis/sentinel.conf", "sentinel monitor mymaster 127.0.0.1 6379 2\n")
    told, _ = machine.install()
    assert told == [
        # Before its file was put, which it would have written over.
        "stop redis-sentinel",
        "start nftables",
        "restart chrony",
        "restart --no-block etcd",
        "start redis-server@6379",
        "start redis-sentinel",
        "start --no-block patroni",
        "reload haproxy",
        "reload named",
        "start prometheus-node-exporter",
        "restart prometheus-redis-exporter",
        "start prometheus-postgres-exporter",
        "start --no-block pbx",
        "start keepalived",
    ]
    sentinel = (machine.root / "etc/redis/sentinel.conf").read_text()
    assert "sentinel monitor pbx 192.168.1.11 6379 2\n" in sentinel


def test_a_second_time_nothing_is_told_to_anything(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "pbx1", runs=DEBIANS)
    machine.has("etc/warden/sip.pem", "a certificate\n")
    machine.install()
    machine.an_hour_passes()
    assert machine.install() == ([], "when install.sh has run on all hosts, once, here: pbx-bootstrap\n")


def test_a_change_is_taken_in_by_what_bears_it_and_told_of_what_runs_on_all_hosts(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "pbx1", runs=DEBIANS)
    machine.install()
    machine.an_hour_passes()
    changed = replaced({"pbx-production": "pbx-other", "users: 100": "users: 100\nredis_memory_mb: 64"})
    told, said = machine.install(changed.replace("users: 100", "users: 900"))
    assert told == ["reload --no-block patroni", "reload haproxy"]
    for unit in ("etcd", "redis-server@6379", "pbx"):
        assert f"{unit} runs with its former settings: systemctl restart {unit}, one host after" in said

    # The operator does so for one of them: the others are told of again.
    (tmp_path / "active/etcd").touch()
    os.utime(tmp_path / "active/etcd")
    _, said = machine.install(changed.replace("users: 100", "users: 900"))
    assert "etcd runs with" not in said
    assert "pbx runs with" in said


def test_what_ran_with_our_settings_before_is_not_restarted_for_want_of_a_mark(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "pbx1")
    machine.install()
    machine.an_hour_passes()
    for path in (machine.root / "var/lib/pbx-install").iterdir():
        if path.is_file():
            path.unlink()
    # It was started after its file was put, by whoever did it.
    for path in (tmp_path / "active").iterdir():
        os.utime(path)
    assert machine.install()[0] == []


def test_what_sentinel_has_decided_outlives_another_rendering(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "pbx2")
    machine.install()
    redis, sentinel = (machine.root / f"etc/redis/{name}.conf" for name in ("redis-6379", "sentinel"))
    assert "replicaof" not in redis.read_text()
    # The other host is the master now.
    redis.write_text(redis.read_text() + "replicaof 192.168.1.10 6379\n")
    found = sentinel.read_text().replace("monitor pbx 192.168.1.11", "monitor pbx 192.168.1.10") + "sentinel myid a\n"
    sentinel.write_text(found)
    machine.an_hour_passes()
    assert machine.install()[0] == []
    assert sentinel.read_text() == found

    told, _ = machine.install(
        replaced({"users: 100": "users: 100\nredis_memory_mb: 64\ntimings: {redis_node_timeout: 2}"})
    )
    assert told == ["stop redis-sentinel", "start redis-sentinel"]
    assert "maxmemory 64mb\n" in redis.read_text()
    assert redis.read_text().endswith("replicaof 192.168.1.10 6379\n")
    assert "sentinel down-after-milliseconds pbx 2000\n" in sentinel.read_text()
    assert "sentinel monitor pbx 192.168.1.10 6379 2\n" in sentinel.read_text()


def test_a_replica_that_became_the_master_does_not_follow_again(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "pbx1")
    machine.install()
    redis = machine.root / "etc/redis/redis-6379.conf"
    assert "replicaof 192.168.1.11 6379\n" in redis.read_text()
    redis.write_text(redis.read_text().replace("replicaof 192.168.1.11 6379\n", ""))
    machine.install(replaced({"users: 100": "users: 100\nredis_memory_mb: 64"}))
    assert "maxmemory 64mb\n" in redis.read_text()
    assert "replicaof" not in redis.read_text()


def test_whom_an_alert_wakes_is_the_operators_to_say(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "witness", runs=("prometheus-alertmanager",))
    machine.has("etc/prometheus/alertmanager.yml", "of Debian\n")
    told, _ = machine.install()
    assert "reload prometheus-alertmanager" in told
    place = machine.root / "etc/prometheus/alertmanager.yml"
    assert place.read_text() == "rendered\n"
    assert place.with_name("alertmanager.yml.before-install").read_text() == "of Debian\n"

    machine.an_hour_passes()
    place.write_text("somebody else\n")
    assert machine.install()[0] == ["reload prometheus-alertmanager"]
    assert place.read_text() == "somebody else\n"


@pytest.mark.parametrize("sudo", [False, True])
@pytest.mark.parametrize(
    ("ssh", "says"),
    [
        (NEAR, ""),
        ("10.1.2.3 50000 192.168.1.10 22", ""),
        ("10.1.3.3 50000 192.168.1.10 22", "from 10.1.3.3: put it into `operators` in"),
        ("192.168.2.77 50000 192.168.1.10 22", "from 192.168.2.77: put it"),
        ("2001:db8::7 50000 2001:db8::1 22", "from 2001:db8::7: put it"),
        ("192.168.1.77 50000 192.168.1.10 2222", "you came to SSH's port 2222"),
    ],
)
def test_nobody_is_locked_out(tmp_path: Path, ssh: str, says: str, sudo: bool) -> None:
    machine = Machine(tmp_path, "witness")
    told, said = machine.install(
        replaced({"operators: []": "operators: [10.1.2.0/24]"}), ssh=ssh, sudo=sudo, status=1 if says else 0
    )
    assert says in said
    assert bool(told) is not bool(says)
    assert (machine.root / "etc").exists() is not bool(says)


def test_anybody_may_come_where_operators_are_everywhere(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "witness")
    everywhere = replaced({"operators: []": "operators: [0.0.0.0/0]"})
    assert machine.install(everywhere, ssh="203.0.113.9 50000 192.168.1.12 22")[0] != []
