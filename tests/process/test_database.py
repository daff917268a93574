"""A node and the PostgreSQL that it starts before."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pbx import Pbx
from private_postgres import Postgres

pytestmark = [pytest.mark.timeout(120)]


@pytest.fixture
def away() -> Iterator[Postgres]:
    """A server with an empty database that is not running."""
    server = Postgres()
    try:
        server.start()
        server.new_database()
        server.kill()
        yield server
    finally:
        server.close()


def node_of(folder: Path, server: Postgres, retry: str, user: str = "warden") -> Pbx:
    return Pbx(
        folder,
        config=f"""\
database:
  host: 127.0.0.1
  port: {server.port}
  name: test
  user: {user}
  password: not-to-be-shown
  connect_retry: {retry}
""",
    )


def test_a_node_that_starts_before_its_database_waits_for_it_and_never_again(tmp_path: Path, away: Postgres) -> None:
    node = node_of(tmp_path, away, "{max_attempts: 1000, retry_delay: 0.1, exponential_backoff: false}")
    try:
        node.start(ready=False)
        node.wait_for_log("database is away and tried again")
        away.start()
        assert node.process is not None
        assert node.process.stdout is not None
        assert node.process.stdout.readline() == "warden: ready\n"
        node.kill()
        # It knows its extensions by now: calls of the process before need it at once.
        away.kill()
        node.start()
        assert "the directory of the last run is used" in node.stderr.read_text()
    finally:
        node.close()


def test_a_node_gives_up_after_as_many_attempts_as_it_is_told(tmp_path: Path, away: Postgres) -> None:
    node = node_of(tmp_path, away, "{max_attempts: 3, retry_delay: 0.05}")
    try:
        node.start(ready=False)
        assert node.wait() == 1
        log = node.stderr.read_text()
        assert log.count("database is away and tried again") == 2
        assert "delay_s=0.05" in log
        assert "delay_s=0.1" in log
        assert log.splitlines()[-1].startswith("warden: database postgresql://warden:***@127.0.0.1:")
    finally:
        node.close()


def test_a_node_whose_database_does_not_know_it_says_so_at_once(tmp_path: Path, away: Postgres) -> None:
    away.start()
    node = node_of(tmp_path, away, "{max_attempts: 1000, retry_delay: 60}", user="stranger")
    try:
        node.start(ready=False)
        assert node.wait() == 1
        log = node.stderr.read_text()
        assert "tried again" not in log
        assert log.splitlines()[-1].endswith('password authentication failed for user "stranger"')
    finally:
        node.close()
