"""Who scans one seat of a real cluster is shut out of all of it, until somebody lifts the ban at whichever node."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from warden.core.address import Address
from warden.ops.softphone import Softphone

from cluster_lab import Cluster, Member, password_of

pytestmark = [pytest.mark.timeout(120)]

OPTIONS = (
    "OPTIONS sip:100@{to} SIP/2.0\r\nVia: SIP/2.0/{transport} {me};branch=z9hG4bK{n};rport\r\nMax-Forwards: 70\r\n"
    "From: <sip:100@{me}>;tag={n}\r\nTo: <sip:100@{to}>\r\nCall-ID: {n}@{me}\r\nCSeq: 1 OPTIONS\r\n"
    "User-Agent: {agent}\r\nContent-Length: 0\r\n\r\n"
)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = await asyncio.to_thread(Cluster, tmp_path, 2)
    try:
        await asyncio.to_thread(cluster.add_extensions, "1001")
        await asyncio.to_thread(cluster.start)
        yield cluster
        assert "Traceback" not in cluster.logs()
    finally:
        await asyncio.to_thread(cluster.close)


class Stranger:
    """Somebody at an address of his own."""

    def __init__(self, host: str) -> None:
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind((host, 0))
        self.udp.setblocking(False)
        self._n = 0

    def text(self, to: Address, agent: str, transport: str) -> bytes:
        self._n += 1
        me = Address(*self.udp.getsockname())
        return OPTIONS.format(to=to, transport=transport, me=me, n=self._n, agent=agent).encode()

    async def is_answered(self, to: Address, agent: str = "phone", within_s: float = 5.0) -> bool:
        loop = asyncio.get_running_loop()
        self.udp.sendto(self.text(to, agent, "UDP"), to)
        try:
            async with asyncio.timeout(within_s):
                return b" 200 " in await loop.sock_recv(self.udp, 4096)
        except TimeoutError:
            return False

    async def is_let_in(self, to: Address) -> bool:
        """By TCP."""
        try:
            reader, writer = await asyncio.open_connection(*to, local_addr=(self.udp.getsockname()[0], 0))
            writer.write(self.text(to, "phone", "TCP"))
            said = await reader.read(4096)
            writer.close()
        except ConnectionError:
            return False
        return b" 200 " in said


async def said(node: Member, *argv: str) -> Any:
    done = await asyncio.to_thread(node.run, *argv, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return msgspec.json.decode(done.stdout)


async def until(node: Member, holds: Callable[[list[dict[str, str]]], bool]) -> Any:
    async with asyncio.timeout(30):
        while not holds(found := await said(node, "bans", "list")):
            await asyncio.sleep(0.1)  # What a command prints is all that an operator has.
    return found


async def test_a_scanner_of_one_seat_is_shut_out_of_all_and_let_in_again_at_any_node(cluster: Cluster) -> None:
    first, second = cluster.nodes.values()
    scanner, guest = Stranger("127.66.0.1"), Stranger("127.66.0.2")
    phone = Softphone("1001", password_of("1001"), cluster.seat(1))
    async with phone:
        assert await scanner.is_answered(cluster.seat(2))
        assert await scanner.is_let_in(cluster.seat(2))
        assert not await scanner.is_answered(cluster.seat(1), "friendly-scanner", within_s=0.2)
        (ban,) = await until(second, bool)
        assert (ban["address"], ban["why"], ban["by"], ban["active"]) == ("127.66.0.1", "scanner", "n1", "yes")
        assert not await scanner.is_answered(cluster.seat(2), within_s=0.2)
        assert not await scanner.is_let_in(cluster.seat(2))
        # Everybody else is served.
        assert await guest.is_answered(cluster.seat(1))
        await phone.register()
        # The node that made it dies; who takes its seat knows the ban, and lifts it for all.
        await asyncio.to_thread(first.power_off)
        await asyncio.to_thread(second.wait_for_log, "of seat s1")
        assert not await scanner.is_answered(cluster.seat(1), within_s=0.2)
        done = await asyncio.to_thread(second.run, "bans", "lift", "127.66.0.1")
        assert done.stdout == "the ban of 127.66.0.1 (scanner) is lifted\n", done.stderr
        assert await scanner.is_answered(cluster.seat(1))
        assert await scanner.is_let_in(cluster.seat(2))
        await asyncio.to_thread(first.start)
        assert await said(first, "bans", "list") == []
    for stranger in (scanner, guest):
        stranger.udp.close()


async def test_an_operator_bans_by_hand_at_a_node_that_holds_no_seat_and_is_told_what_is_wrong(
    cluster: Cluster,
) -> None:
    first, second = cluster.nodes.values()
    stranger = Stranger("127.66.0.3")
    assert (await asyncio.to_thread(first.run, "drain")).returncode == 0
    await asyncio.to_thread(second.wait_for_log, "of seat s1")
    done = await asyncio.to_thread(first.run, "bans", "add", "127.66.0.3", "--hours", "1", "--why", "a test")
    assert done.stdout.startswith("127.66.0.3 is banned until "), done.stderr
    assert not await stranger.is_answered(cluster.seat(1), within_s=0.2)
    await until(first, lambda bans: [ban["why"] for ban in bans] == ["a test"])
    for address, why in {
        "127.0.0.1": "127.0.0.1 is never banned",
        cluster.seat(2).host: f"{cluster.seat(2).host} is never banned",
        "192.0.2.0/24": "no larger network",
        "office": "is no IP address",
    }.items():
        done = await asyncio.to_thread(first.run, "bans", "add", address)
        assert (done.returncode, why in done.stderr) == (1, True), done.stderr
    done = await asyncio.to_thread(first.run, "bans", "lift", "192.0.2.1")
    assert (done.returncode, done.stderr) == (1, "warden: ban: there is none of 192.0.2.1\n")
    stranger.udp.close()
