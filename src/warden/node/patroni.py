"""Has PostgreSQL of this region lead, or follow that of the other region, by Patroni's REST API.

Patroni does the work: a cluster whose configuration has `standby_cluster` follows, one without leads. The one that
leads keeps what the other has not heard in a slot of that region's name.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx
from msgspec import Struct

from warden.config.tree import Database
from warden.core.errors import Unavailable

ANSWER_S: Final = 3.0
Wanted = Mapping[str, dict[str, Any] | None]
"""Keys of Patroni's configuration; None takes one out."""


class Seen(Struct, frozen=True):
    """What PostgreSQL of a region is: `role` "primary" where one takes changes, "standby" where it follows, "unknown"
    where it is neither at the moment, or nobody answers. `timeline` is that of the one that leads, and `copies` who is
    sent its changes right now, by address.
    """

    role: str = "unknown"
    timeline: int = 0
    copies: tuple[str, ...] = ()


class PatroniOf:
    """Patroni of this region."""

    def __init__(self, database: Database, own: str, other: str) -> None:
        """`own` and `other` are the regions' names."""
        self._slot, self._slot_there = _slot(own), _slot(other)
        patroni = database.patroni
        self._places = [f"http://{node.host}:{node.port}" for node in patroni.nodes]
        self._port = database.port
        self._auth = None
        if patroni.user is not None and patroni.password is not None:
            self._auth = httpx.BasicAuth(patroni.user, patroni.password.get_secret_value())

    @property
    def is_known(self) -> bool:
        """Whether there is any."""
        return bool(self._places)

    async def look(self) -> Seen:
        """What its PostgreSQL is now."""
        standby = Seen()
        for place in self._places:
            try:
                said = await self._ask("GET", f"{place}/patroni")
            except Unavailable:
                continue
            if said.get("state") not in ("running", "streaming"):
                continue
            if said.get("role") in ("primary", "master"):
                sent = [one for one in said.get("replication") or () if one.get("state") == "streaming"]
                return Seen("primary", said.get("timeline") or 0, tuple(str(one.get("client_addr")) for one in sent))
            if said.get("role") == "standby_leader":
                standby = Seen("standby", said.get("timeline") or 0)
        return standby

    async def lead(self) -> bool:
        """Follow nobody from now on. True where that was news. Raises `Unavailable`."""
        return await self._configure({"standby_cluster": None, "slots": {self._slot_there: {"type": "physical"}}})

    async def follow(self, hosts: Sequence[str]) -> bool:
        """Follow the database on these hosts. True where that was news. Raises `Unavailable`."""
        # With a slot, Patroni asks for the host that leads; without one it would follow the first that answers.
        there = {"host": ",".join(hosts), "port": self._port, "primary_slot_name": self._slot}
        return await self._configure({"standby_cluster": there, "slots": None})

    async def _configure(self, wanted: Wanted) -> bool:
        why: Unavailable | None = None
        for place in self._places:
            try:
                found = await self._ask("GET", f"{place}/config")
                if all(_same(found.get(key), value) for key, value in wanted.items()):
                    return False
                await self._ask("PATCH", f"{place}/config", dict(wanted))
            except Unavailable as error:
                why = error
            else:
                return True
        raise why or Unavailable("patroni: no host is configured (database.patroni)")

    async def _ask(self, method: str, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=ANSWER_S) as http:
                response = await http.request(method, url, json=body, auth=self._auth if body else None)
            # A Patroni that is not what was asked for says so by 503, and still tells what it is.
            if response.status_code not in (httpx.codes.OK, httpx.codes.SERVICE_UNAVAILABLE):
                raise Unavailable(f"patroni {url}: {response.status_code} {response.text[:200]}")
            said = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(f"patroni {url}: {error or type(error).__name__}") from error
        if not isinstance(said, dict):
            raise Unavailable(f"patroni {url}: {said!r:.200}")
        return said


def _slot(region: str) -> str:
    """The name of a slot: what PostgreSQL allows in one."""
    return re.sub(r"[^a-z0-9_]", "_", region.lower())


def _same(found: Any, wanted: dict[str, Any] | None) -> bool:
    if wanted is None or not isinstance(found, dict):
        return found is wanted
    return all(found.get(key) == value for key, value in wanted.items())
