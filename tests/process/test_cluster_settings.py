"""Nodes whose settings do not go together: each is refused or warned about in one sentence that names the setting."""

import http.client
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from cluster_lab import Cluster, Member

pytestmark = [pytest.mark.timeout(120)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, nodes=2)
    try:
        cluster.add_extensions("1001")
        yield cluster
        logs = [node.stderr.read_text() for node in cluster.nodes.values() if node.process is not None]
        assert "Traceback" not in "".join(logs)
    finally:
        cluster.close()


def change(node: Member, old: str, new: str) -> None:
    """Change the settings of a node that does not run."""
    text = node.file.read_text()
    assert old in text
    node.file.write_text(text.replace(old, new))


def status_with(node: Member, has: Callable[[list[str]], bool]) -> list[str]:
    """The warnings of a node's status as soon as they are as wanted; nodes tell each other at their next look."""
    until = time.monotonic() + 20
    while True:
        warnings = msgspec.convert(node.status()["warnings"], list[str])
        if has(warnings) or time.monotonic() > until:
            return warnings


def ask(node: Member, path: str) -> tuple[int, dict[str, object]]:
    """What the node's HTTP says, as soon as it speaks."""
    until = time.monotonic() + 30
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, msgspec.json.decode(response.read(), type=dict[str, object])
        except ConnectionRefusedError:
            assert time.monotonic() < until, node.stderr.read_text()
            time.sleep(0.05)  # A port that is about to be opened tells nobody.
        finally:
            connection.close()


def test_a_second_node_of_one_name_is_refused_and_a_restart_of_the_first_is_none(cluster: Cluster) -> None:
    first, second = cluster.nodes.values()
    change(second, "node_id: n2", "node_id: n1")
    first.start()
    second.start(ready=False)
    assert second.wait() == 1
    (*_, said) = second.stderr.read_text().splitlines()
    assert said.startswith("warden: high_availability.node_id: n1 is the name of another live node (http://127.0.0.1:")
    until = time.monotonic() + 10
    while second.media_pid is not None:
        assert time.monotonic() < until
        time.sleep(0.02)  # It has been told to end, and nobody is there to be told that it has.
    # The word of the process before is still there; its folder's lock tells that it is gone.
    first.kill()
    first.start()
    assert "was here just now" not in first.stderr.read_text()


def test_a_node_with_another_secret_and_other_seats_takes_none_and_all_say_why(cluster: Cluster) -> None:
    first, second = cluster.nodes.values()
    change(second, "the-secret-of-this-test-cluster", "the-secret-of-somebody-else")
    change(second, "successors: [n2, n1]", "successors: [n2]")
    first.start()
    first.wait_for_log("registered numbers of seat s2")
    second.start(ready=False)
    ask(second, "/live")
    for node, other, what in ((first, "n2", "no seat goes there"), (second, "n1", "this node takes no seat")):
        warnings = status_with(node, lambda found: sum(" differs from that of " in w for w in found) >= 2)
        assert any(w.startswith(f"secret: differs from that of {other}: {what}") for w in warnings), warnings
        assert any(w.startswith(f"high_availability.seats: differs from that of {other}:") for w in warnings)
    alone = "seat s2 has no successor but n2"
    assert any(alone in w for w in status_with(second, lambda found: any(alone in w for w in found)))
    first.kill()
    # It knows better than to take the seats of a node that it is no fellow of, as long as that node may come back.
    assert second.status()["seats"] == []


def test_a_coordinator_that_cannot_be_reached_at_the_start_is_told_and_a_stop_is_still_one(cluster: Cluster) -> None:
    node = cluster.nodes["n1"]
    change(node, "coordinator: embedded", "coordinator: redis")
    cluster.redis.kill()
    node.start(ready=False)
    node.wait_for_log("coordinator is away: redis")
    code, said = ask(node, "/health")
    assert (code, said["status"]) == (503, "refusing")
    assert str(said["reasons"]).startswith("['starting', 'coordinator: redis")
    assert ask(node, "/live")[0] == 200
    cluster.redis.start()
    assert node.process is not None
    assert node.process.stdout is not None
    assert node.process.stdout.readline() == "warden: ready\n"
    assert node.kill(signal.SIGTERM) == 0
    cluster.redis.kill()
    node.start(ready=False)
    ask(node, "/live")
    assert node.kill(signal.SIGTERM) == 0


def test_settings_by_which_redis_would_lose_calls_are_told_by_their_names(cluster: Cluster) -> None:
    node = cluster.nodes["n1"]
    change(node, "coordinator: embedded", "coordinator: redis")
    node.start()
    wanted = ("set appendonly yes", "add one (replicaof)", "(requirepass)", "high_availability.coordinator redis: ")
    warnings = status_with(node, lambda found: all(any(what in w for w in found) for what in wanted))
    for what in wanted:
        assert sum(what in w for w in warnings) == 1, warnings
        assert node.stderr.read_text().count(what) == 1
    assert ask(node, "/health")[0] == 200
