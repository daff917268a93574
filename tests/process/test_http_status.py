"""`warden status`, `drain` and `handover`: of a node that runs, one that does not, and something else in its place."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pbx import Pbx


@pytest.fixture
def pbx(tmp_path: Path) -> Iterator[Pbx]:
    pbx = Pbx(tmp_path, pairs=20)
    yield pbx
    pbx.close()


def said_by_failed(pbx: Pbx, *argv: str) -> str:
    """The one line that a failing `warden status` prints."""
    done = pbx.run("status", *argv)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr.count("\n") == 1
    return done.stderr.strip()


def test_a_running_node_is_shown_to_people_and_to_programs(pbx: Pbx) -> None:
    pbx.add_extensions("1001", "1002")
    pbx.start()
    table = pbx.run("status")
    assert table.returncode == 0
    words = " ".join(table.stdout.split())
    for text in ("node1 of pbx-cluster, Warden", "takes new calls", "node1, epoch 1", "0 of 2 extensions"):
        assert text in words
    status = pbx.status()
    assert (status["status"], status["seat"], status["epoch"], status["extensions"]) == ("ok", "node1", 1, 2)
    # Tokens are of one life of the node: the next one makes another.
    old = (pbx.data / "operator.token").read_text()
    assert (pbx.data / "operator.token").stat().st_mode & 0o077 == 0
    pbx.kill()
    pbx.start()
    assert (pbx.data / "operator.token").read_text() != old
    assert pbx.status()["epoch"] == 2


def test_a_node_that_does_not_run_is_told_in_one_line(pbx: Pbx) -> None:
    assert said_by_failed(pbx).startswith("warden: node is not running: no node has made ")
    pbx.start()
    pbx.kill()
    where = f"127.0.0.1:{pbx.http_port}"
    for argv in ((), ("--json",)):
        assert said_by_failed(pbx, *argv) == f"warden: node is not running, or not on {where}: connection refused"


def test_a_node_by_itself_cannot_be_drained_and_says_so_in_one_line(pbx: Pbx) -> None:
    pbx.start()
    for argv in (("drain",), ("drain", "--json"), ("handover", "node1", "node2")):
        done = pbx.run(*argv)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "warden: node node1 is no member of a cluster\n"
    done = pbx.run("handover", "other", "node2")
    assert (done.returncode, done.stderr) == (1, "warden: seat other: there is none\n")
    # In a cluster there would be more of it.
    assert "members" not in pbx.status()


def test_another_nodes_token_is_told_as_what_it_is(pbx: Pbx) -> None:
    pbx.start()
    (pbx.data / "operator.token").write_text("another")
    assert "does not know the token in" in said_by_failed(pbx)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        (
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
            "no Warden that can be understood: it answered with 404",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "no Warden that can be understood: it answered with 200"),
        (b"", "does not speak HTTP"),
    ],
)
def test_something_else_on_the_port_is_no_node(pbx: Pbx, answer: bytes, told: str) -> None:
    pbx.data.mkdir()
    (pbx.data / "operator.token").write_text("token")
    with closing(socket.create_server(("127.0.0.1", pbx.http_port))) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with closing(connection):
                connection.recv(65536)
                connection.sendall(answer)

        stranger = threading.Thread(target=serve)
        stranger.start()
        assert told in said_by_failed(pbx)
        stranger.join()
