"""A town for tests: phones with sound at the seats of a real cluster, and what is asked of all of them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx

from warden.core.address import Transport
from warden.ops.softphone import Line, Softphone
from warden.ops.sound import Sound
from warden.sdp.sdes import Policy

from cluster_lab import Cluster, password_of
from wire import Wire


class Town:
    """Phones at the seats of a cluster."""

    def __init__(self, cluster: Cluster, stack: AsyncExitStack) -> None:
        self.cluster = cluster
        self.sound = Sound()
        self.phones: dict[str, Softphone] = {}
        self._stack = stack

    async def phone(
        self,
        number: str,
        seat: int,
        *,
        tone_hz: int = 440,
        answers: bool = False,
        tcp: bool = False,
        tls: bool = False,
        wss: bool = False,
        srtp: bool = False,
    ) -> Softphone:
        """A phone that is registered at a seat. One with a connection keeps its calls when that is gone."""
        server = self.cluster.seat(seat)
        port, transport = server.port, Transport.TCP if tcp else Transport.UDP
        if tls:
            port, transport = self.cluster.tls_port, Transport.TLS
        elif wss:
            port, transport = self.cluster.wss_port, Transport.WSS
        phone = Softphone(
            number,
            password_of(number),
            server._replace(port=port),
            sound=self.sound,
            tone_hz=tone_hz,
            answers_after_s=0.05 if answers else None,
            transport=transport,
            tls=self.cluster.tls if tls or wss else None,
            srtp=Policy.REQUIRED if srtp else Policy.OFF,
            patient=True,
        )
        await self._stack.enter_async_context(phone)
        await phone.register()
        self.phones[number] = phone
        return phone

    async def knows(self, node: int, seat: int, count: int) -> None:
        """Wait until a node has heard that so many numbers are registered at a seat."""
        url = f"http://127.0.0.1:{self.cluster.nodes[f'n{node}'].http_port}/metrics"
        known = f'pbx_known_numbers{{seat="{self.cluster.seats[seat - 1]}"}} {float(count)}'
        async with httpx.AsyncClient() as http, asyncio.timeout(20):
            while known not in (await http.get(url)).text:
                await asyncio.sleep(0.02)  # A node tells nobody what it has heard.

    async def talk(self, caller: str, callee: str) -> tuple[Line, Line]:
        """Both ends of an answered call in which each hears the other."""
        outgoing = self.phones[caller].call(callee)
        await outgoing.answered()
        incoming = await self.phones[callee].next_call()
        await incoming.answered()
        assert await outgoing.hears(880)
        assert await incoming.hears(440)
        return outgoing, incoming

    def violations(self) -> list[str]:
        """What the nodes did wrong in any phone's eyes."""
        return [v for phone in self.phones.values() for v in phone.violations]


@asynccontextmanager
async def town_of(
    folder: Path,
    *numbers: str,
    coordinator: str = "embedded",
    lease_s: float = 1.0,
    own_seats: bool = False,
    wires: Mapping[str, Wire] | None = None,
) -> AsyncIterator[Town]:
    """A cluster of three nodes with these extensions, and no phones yet; nothing of it is left behind the block. Nodes
    named in `wires` reach Redis by those.
    """
    ports = {node: wire.port for node, wire in (wires or {}).items()}
    cluster = await asyncio.to_thread(
        Cluster, folder, coordinator=coordinator, lease_s=lease_s, own_seats=own_seats, redis_ports=ports
    )
    for wire in (wires or {}).values():
        wire.target = cluster.redis.address
    try:
        await asyncio.to_thread(cluster.add_extensions, *numbers)
        await asyncio.to_thread(cluster.start)
        async with AsyncExitStack() as stack:
            town = Town(cluster, stack)
            stack.callback(town.sound.close)
            yield town
        assert "Traceback" not in cluster.logs()
    finally:
        await asyncio.to_thread(cluster.close)


async def heard_again(lines: list[Line], packets: int = 25) -> None:
    """Wait until each line has heard so many packets more."""
    wanted = {line: line.listener.packets + packets for line in lines}
    async with asyncio.timeout(30):
        while any(line.listener.packets < count for line, count in wanted.items()):
            await asyncio.sleep(0.02)  # Packets come by the clock, and nothing tells of each.


async def end_all(calls: list[tuple[Line, Line]]) -> None:
    """Hang up from one side and the other in turn; both must come to know."""
    for i, (outgoing, incoming) in enumerate(calls):
        first, second = (outgoing, incoming) if i % 2 else (incoming, outgoing)
        ended = await first.hang_up()
        assert ended.status in (0, 200), ended
        await second.ended()
