"""`warden drill run kill-warden --target production` and its like: a host of a cluster that serves people is struck,
and put right however the drill ends.
"""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from machines import Machines, interrupt

from warden.ops.selftest import PREFIX

from cluster_lab import Cluster, Member, pair

pytestmark = [pytest.mark.timeout(240), pytest.mark.alone]

FILE = """\
option: active-active
cluster_name: pbx-cluster
network: {{network: {net}.0/24}}
hosts:
  - {{name: n1, address: {net}.10}}
  - {{name: n2, address: {net}.11}}
  - {{name: witness, address: {net}.12, roles: [redis, etcd]}}
seats:
  - {{name: s1, address: {net}.1, successors: [n1, n2]}}
  - {{name: s2, address: {net}.2, successors: [n2, n1]}}
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    # A lease that a busy machine can renew as well: the host that is struck is to lose its seat, and no other.
    with pair(tmp_path, lease_s=3.0) as cluster:
        yield cluster


@pytest.fixture
def machines(tmp_path: Path, cluster: Cluster) -> Iterator[Machines]:
    (tmp_path / "cluster.yml").write_text(FILE.format(net=cluster.net))
    with Machines(tmp_path / "machines", cluster.nodes) as machines:
        yield machines


def drill(
    machines: Machines, name: str, *more: str, host: str = "n2", yes: str = "pbx-cluster", of: str = "cluster.yml"
) -> tuple[str, ...]:
    """A test's Redis keeps nothing, which its nodes warn of."""
    file = str(machines.folder.parent / of)
    where = ("--target", "production", "--despite-warnings", "--cluster", file, "--host", host)
    return ("drill", "run", name, *where, "--over", machines.over, "--yes", yes, "--short", *more)


def holders(node: Member) -> dict[str, str]:
    seats = msgspec.json.decode(node.run("status", "--json").stdout)["all_seats"]
    return {seat["name"]: seat["holder"] for seat in seats}


def refused(node: Member, argv: tuple[str, ...], code: int = 1) -> str:
    done = node.run(*argv)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr


def test_a_host_is_struck_and_put_right_and_what_is_not_asked_for_is_left_alone(
    cluster: Cluster, machines: Machines
) -> None:
    first = cluster.nodes["n1"]

    bare = ("drill", "run", "kill-warden", "--target", "production", "--yes", "pbx-cluster")
    assert "--host names the host, and --cluster its file" in refused(first, bare, 2)
    assert "a cluster that serves people bears only handover, rolling-restart, kill-warden" in refused(
        first, drill(machines, "power-off"), 2
    )
    assert "name what is to happen" in refused(first, ("drill", "run", "--target", "production"), 2)
    assert "the cluster file has no such host" in refused(first, drill(machines, "kill-warden", host="n9"), 2)
    assert "witness: has no pbx; those are n1, n2" in refused(first, drill(machines, "kill-warden", host="witness"), 2)
    (machines.folder.parent / "another.yml").write_text(FILE.format(net="192.168.1"))
    assert "describes the seats s1 at 192.168.1.1, s2 at 192.168.1.2, and this cluster has s1 at 127." in refused(
        first, drill(machines, "kill-warden", of="another.yml"), 2
    )
    assert "n1 is where this drill runs" in refused(first, drill(machines, "kill-warden", host="n1"))
    # What is lost on one host must be there on all others.
    told = refused(first, drill(machines, "kill-haproxy"))
    assert "haproxy is not well everywhere" in told
    assert "n1: systemctl is-active haproxy: Unit haproxy.service could not be found." in told
    assert "'test' is not the name of this cluster; nothing was done" in refused(
        first, drill(machines, "kill-warden", yes="test")
    )
    assert {words.split()[0] for name in cluster.nodes for words in machines.typed(name)} == {"is-active"}

    done = first.run(*drill(machines, "kill-warden", "--json"))
    assert done.stdout, done.stderr
    assert "kill -9 of Warden's processes, by `systemctl kill --signal=SIGKILL pbx` there" in done.stderr
    [report] = msgspec.json.decode(done.stdout)["drills"]
    checks = {check["what"]: (check["measured"], check["verdict"]) for check in report["checks"]}
    # How long the silence was, and how many calls there were, is a matter of how busy this machine is.
    assert checks.pop("audio gap")[0].startswith("p50 ")
    checks.pop("calls offered")
    assert {verdict for _, verdict in checks.values()} == {"ok"}, done.stderr
    assert checks["calls dropped"] == ("0", "ok")
    assert machines.typed("n2")[-2:] == ["kill --signal=SIGKILL pbx", "start pbx"]
    first.wait_for_log(" calls and 18 registered numbers of seat s2")
    assert holders(first) == {"s1": "n1", "s2": "n2"}, cluster.logs()
    assert PREFIX not in first.run("extension", "list").stdout


def test_a_drill_that_is_interrupted_leaves_no_host_frozen_no_seat_elsewhere_and_no_extension(
    cluster: Cluster, machines: Machines
) -> None:
    first = cluster.nodes["n1"]
    with subprocess.Popen(
        first.command(*drill(machines, "freeze", "--json")),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stderr is not None
        while "SIGSTOP of Warden's processes for 6 s on n2 at" not in (line := running.stderr.readline()):
            assert line, "it ended before it struck"
        until = time.monotonic() + 20
        while machines.state("n2") != "T":
            assert time.monotonic() < until
            time.sleep(0.02)  # A process tells nobody that it was stopped.
        _, said, code = interrupt(running)
    assert code == 1, said
    assert "is stopped, and undone" in said
    assert machines.state("n2") != "T"
    assert "kill --signal=SIGCONT pbx" in machines.typed("n2")
    assert holders(first) == {"s1": "n1", "s2": "n2"}, cluster.logs()
    assert PREFIX not in first.run("extension", "list").stdout

    # A cluster that lacks something already is left alone.
    machines.stop()
    cluster.nodes["n2"].kill()
    cluster.nodes["n2"].wait()
    while "is not well" not in (told := refused(first, drill(machines, "kill-warden"))):
        pass
    assert "n2 is missing" in told
