"""What Patroni is asked and told about two regions, by servers that answer as Patroni 3 does."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from warden.config.tree import Database, Patroni, PatroniNode
from warden.core.errors import Unavailable
from warden.node.patroni import PatroniOf, Seen

WEST = ("192.0.2.20", "192.0.2.21")
LEADER = {
    "state": "running", "role": "master", "timeline": 3,
    "replication": [
        {"client_addr": "192.0.2.11", "state": "streaming"},
        {"client_addr": "192.0.2.20", "state": "streaming"},
        {"client_addr": "192.0.2.21", "state": "startup"},
    ],
}  # fmt: skip
REPLICA = {"state": "running", "role": "replica", "timeline": 3}
STANDBY = {"state": "running", "role": "standby_leader", "timeline": 2}


class Region:
    """What the members of a region's Patroni share, as by etcd."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {"ttl": 20, "slots": {"west": {"type": "physical"}}}
        self.changes = 0

    def patch(self, told: dict[str, Any]) -> None:
        self.changes += 1
        for key, value in told.items():
            if value is None:
                self.config.pop(key, None)
            else:
                self.config[key] = self.config.get(key, {}) | value


def handler(region: Region, member: dict[str, Any]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(region.config if self.path == "/config" else member)

        def do_PATCH(self) -> None:
            region.patch(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._say(region.config)

        def _say(self, what: dict[str, Any]) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(what).encode())

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Nothing is logged."""

    return Handler


@contextmanager
def patroni(region: Region, *members: dict[str, Any]) -> Iterator[PatroniOf]:
    with ExitStack() as stack:
        ports = []
        for member in members:
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler(region, member)))
            thread = Thread(target=server.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            ports.append(server.server_address[1])
        nodes = tuple(PatroniNode(host="127.0.0.1", port=port) for port in ports)
        yield PatroniOf(Database(patroni=Patroni(nodes=nodes)), "east", "west")


@pytest.mark.parametrize(
    ("members", "seen"),
    [
        ((REPLICA, LEADER), Seen("primary", 3, ("192.0.2.11", "192.0.2.20"))),
        ((REPLICA, STANDBY), Seen("standby", 2)),
        ((REPLICA,), Seen()),
        ((LEADER | {"state": "starting"},), Seen()),
        ((LEADER | {"replication": None},), Seen("primary", 3)),
    ],
)
async def test_a_regions_database_is_what_its_leader_is(members: tuple[dict[str, Any], ...], seen: Seen) -> None:
    with patroni(Region(), *members) as there:
        assert await there.look() == seen


async def test_a_region_that_leads_keeps_a_slot_for_the_other_and_one_that_follows_uses_its_own() -> None:
    region = Region()
    with patroni(region, LEADER) as there:
        # As it was rendered.
        assert not await there.lead()
        assert await there.follow(WEST)
        following = {"host": "192.0.2.20,192.0.2.21", "port": 5432, "primary_slot_name": "east"}
        assert region.config == {"ttl": 20, "standby_cluster": following}
        assert not await there.follow(WEST)
        assert await there.lead()
        assert region.config == {"ttl": 20, "slots": {"west": {"type": "physical"}}}
        assert region.changes == 2


async def test_a_region_whose_patroni_is_away_says_so() -> None:
    with patroni(Region(), LEADER) as there:
        pass
    assert await there.look() == Seen()
    with pytest.raises(Unavailable, match=r"patroni http://127\.0\.0\.1"):
        await there.follow(WEST)
