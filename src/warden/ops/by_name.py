"""A phone that knows a domain and its name servers, and no address: it asks DNS and tries the seats that it is told
until one registers it (RFC 3263 section 4.3).
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from warden.core.address import Address, Transport
from warden.core.errors import Unavailable, WardenError
from warden.net.resolve import Resolver, name_servers
from warden.ops.softphone import Softphone
from warden.sip.transaction import Timers
from warden.sip.uri import parse_uri

TIMERS: Final = Timers(t1=0.125)
"""A phone of a private network waits 8 s for a seat that is silent, and not 32 s (RFC 3261 section 17.1.1.1)."""
AGAIN_S: Final = 0.2


class Came(Struct, frozen=True):
    """How a phone came to a seat: the addresses that it tried, the last of which registered it, and when."""

    tried: tuple[Address, ...]
    at_utc: float

    def told(self, names: Mapping[Address, str]) -> str:
        """The seats that it tried, by their names."""
        return ", ".join(names.get(address, str(address)) for address in self.tried)


class Visitor:
    """A phone that comes by name, each time as if it had just been switched on: nothing that DNS said before is known
    to it any more. `phone` is one that was not opened, and keeps `TIMERS`.
    """

    def __init__(self, phone: Softphone, domain: str, servers: Sequence[Address]) -> None:
        self.phone = phone
        self._uri = parse_uri(f"sip:{phone.number}@{domain}")
        self._servers = servers
        self._is_open = False

    async def come(self, within_s: float) -> Came:
        """Register where DNS leads to. Raises `WardenError` where that was not possible in that time."""
        until = time.monotonic() + within_s
        resolver = Resolver(name_servers(self._servers), ipv6=False)
        tried: list[Address] = []
        while True:
            why = ""
            try:
                for target in await resolver.resolve(self._uri, supported=(Transport.UDP,)):
                    tried.append(target.address)
                    if not (why := await self._register_at(target.address)):
                        return Came(tuple(tried), time.time())
            except Unavailable as error:
                why = str(error)
            if time.monotonic() > until:
                at = ", ".join(map(str, tried)) or "nobody"
                raise WardenError(f"{self.phone.number} is not registered after {within_s:g} s, tried {at}: {why}")
            await asyncio.sleep(AGAIN_S)

    async def _register_at(self, seat: Address) -> str:
        """Why that did not succeed, or nothing."""
        self.phone.server = seat
        try:
            await (self.phone.reconnect() if self._is_open else self.phone.open())
            self._is_open = True
            await self.phone.register()
        except (WardenError, TimeoutError) as error:
            return str(error) or type(error).__name__
        return ""
