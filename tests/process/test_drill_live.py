"""`warden drill run --target production`: on a cluster that serves people, which it leaves as it was."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from warden.ops.selftest import PREFIX
from warden.store.durable import open_durable

from cluster_lab import Cluster, Member, pair

pytestmark = [pytest.mark.timeout(180), pytest.mark.alone]

STRICT = ("drill", "run", "handover", "--target", "production")
DRILL = (*STRICT, "--despite-warnings")
"""A test's Redis keeps nothing, which its nodes warn of."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with pair(tmp_path) as cluster:
        yield cluster


def numbers(node: Member) -> set[str]:
    async def read() -> set[str]:
        durable = open_durable(node.url)
        try:
            return {extension.number for extension in await durable.extensions()}
        finally:
            await durable.close()

    return asyncio.run(read())


def holders(node: Member) -> dict[str, str]:
    seats = msgspec.json.decode(node.run("status", "--json").stdout)["all_seats"]
    return {seat["name"]: seat["holder"] for seat in seats}


def refused(node: Member, *argv: str, code: int) -> str:
    done = node.run(*argv)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr


def test_a_seat_of_a_running_cluster_goes_to_another_node_and_back_and_nothing_is_left(cluster: Cluster) -> None:
    first, second = cluster.nodes.values()

    assert "n1: warns: redis" in refused(first, *STRICT, "--yes", "pbx-cluster", code=1)
    # Nobody agrees, or to something else, or it is no drill for a cluster that serves people: nothing is touched.
    assert "nobody is here to agree; `--yes pbx-cluster` agrees" in refused(first, *DRILL, code=1)
    assert "'test' is not the name of this cluster" in refused(first, *DRILL, "--yes", "test", code=1)
    kill = ("drill", "run", "kill", "--target", "production", "--yes", "pbx-cluster")
    assert "a cluster that serves people bears only handover" in refused(first, *kill, code=2)
    flags = "--seat, --yes, --despite-warnings, --cluster, --host, --calls-at-risk, --over"
    assert f"{flags} are for --target production" in refused(first, "drill", "run", "kill", "--yes", "x", code=2)
    assert "there is no seat s9; --seat names one of s1, s2" in refused(first, *DRILL, "--seat", "s9", code=1)
    epochs = {seat["epoch"] for seat in msgspec.json.decode(first.run("status", "--json").stdout)["all_seats"]}
    assert epochs == {1}

    done = first.run(*DRILL, "--yes", "pbx-cluster", "--short", "--json")
    assert done.stdout, done.stderr
    [report] = msgspec.json.decode(done.stdout)["drills"]
    checks = {check["what"]: (check["measured"], check["verdict"]) for check in report["checks"]}
    # How long the silence was, and how many calls there were, is a matter of how busy this machine is.
    assert checks.pop("audio gap")[0].startswith("p50 ")
    checks.pop("calls offered")
    assert {verdict for _, verdict in checks.values()} == {"ok"}, done.stderr
    assert checks["calls dropped"] == checks["call set-ups failed"] == ("0", "ok")
    second.wait_for_log(" calls and 18 registered numbers of seat s1")
    assert holders(first) == {"s1": "n1", "s2": "n2"}
    assert numbers(first) == {"1001"}
    assert PREFIX not in first.run("extension", "list").stdout

    # A cluster that lacks something already is left alone.
    second.kill()
    second.wait()
    assert "n2 is missing" in _until_refused(first)


def _until_refused(node: Member) -> str:
    """A node is missing once its lease is over."""
    while True:
        done = node.run(*DRILL, "--yes", "nobody")
        assert done.returncode == 1
        if "is not well" in done.stderr:
            return done.stderr
