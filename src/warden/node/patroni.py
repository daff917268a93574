"""Has PostgreSQL of this region lead, or follow that of the other region, by Patroni's REST API.

Patroni does the work: a cluster whose configuration has `standby_cluster` follows, one without leads.
"""

from collections.abc import Sequence
from typing import Any, Final

import httpx

from warden.config.tree import Database
from warden.core.errors import Unavailable

ANSWER_S: Final = 3.0
_KEY: Final = "standby_cluster"


class PatroniOf:
    """Patroni of this region."""

    def __init__(self, database: Database) -> None:
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

    async def role(self) -> str:
        """What PostgreSQL of this region is now: "primary" where one takes changes, "standby" where it follows,
        "unknown" where it is neither at the moment, or nobody answers.
        """
        roles = set()
        for place in self._places:
            try:
                said = await self._ask("GET", f"{place}/patroni")
            except Unavailable:
                continue
            if said.get("state") in ("running", "streaming"):
                roles.add(str(said.get("role")))
        if roles & {"primary", "master"}:
            return "primary"
        return "standby" if "standby_leader" in roles else "unknown"

    async def lead(self) -> bool:
        """Follow nobody from now on. True where that was news. Raises `Unavailable`."""
        return await self._configure(None)

    async def follow(self, hosts: Sequence[str]) -> bool:
        """Follow the database on these hosts. True where that was news. Raises `Unavailable`."""
        return await self._configure({"host": ",".join(hosts), "port": self._port})

    async def _configure(self, wanted: dict[str, Any] | None) -> bool:
        why: Unavailable | None = None
        for place in self._places:
            try:
                found = (await self._ask("GET", f"{place}/config")).get(_KEY)
                if _same(found, wanted):
                    return False
                await self._ask("PATCH", f"{place}/config", {_KEY: wanted})
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


def _same(found: Any, wanted: dict[str, Any] | None) -> bool:
    if wanted is None or not isinstance(found, dict):
        return found is wanted
    return all(found.get(key) == value for key, value in wanted.items())
