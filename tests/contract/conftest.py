"""Private servers for the contract suites: started on free ports, in folders of their own, and gone afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from private_postgres import Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/warden.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()
