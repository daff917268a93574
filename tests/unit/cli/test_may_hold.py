"""Keepalived's track script against a server that says yes, no or nothing."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from warden.cli import may_hold


@contextmanager
def node(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """One that answers one question; where, and what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(4096))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}", asked
        thread.join()


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nyes\n", 0, "yes\n"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\nit goes to n2\n", 1, "no: it goes to n2\n"),
        (b"", 1, "no: \n"),
    ],
)
def test_what_the_node_says_is_the_exit_status(
    capsys: pytest.CaptureFixture[str], answer: bytes, status: int, said: str
) -> None:
    with node(answer) as (where, asked):
        assert may_hold.main(["s1", "--http", where]) == status
    assert asked[0].startswith(b"GET /may-hold?seat=s1 HTTP/1.1\r\n")
    assert capsys.readouterr().out == said


def test_a_node_that_does_not_run_may_hold_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert may_hold.main(["s1", "--http", f"127.0.0.1:{port}"]) == 1
    assert capsys.readouterr().out.startswith(f"no: warden at 127.0.0.1 port {port}: ")
    assert may_hold.main([]) == 2
    assert may_hold.main(["s1", "--http", "nonsense"]) == 1


def test_the_command_loads_next_to_nothing() -> None:
    program = (
        "import sys; sys.argv = ['warden', 'ha', 'may-hold', 's1', '--http', '127.0.0.1:1'];"
        "from warden.cli.start import main; main();"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('warden', 'cyclopts', 'asyncio', 'pydantic')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = ["warden", "warden.cli", "warden.cli.may_hold", "warden.cli.start"]
    assert done.stdout.splitlines()[-1] == str(loaded)
