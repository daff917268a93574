"""What it costs to write before one speaks: calls per processor second of a node that keeps its calls in Redis, in the
embedded SQLite file, and in its own memory (which protects nothing).

Three single nodes run side by side; each in turn carries calls from INVITE to BYE, with digest authentication, SDP and
RTP ports, again and again. What counts is the processor time of the node's own process; that of the media process and
of Redis is shown beside it. Times are processor seconds, so that a busy machine changes them little.
"""

import argparse
import asyncio
import os
import secrets
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop
from adoption import cpu_s, say

from warden.core.address import Address
from warden.core.errors import WardenError
from warden.ops.checker import Checker
from warden.ops.drills.traffic import Traffic
from warden.ops.lab_cluster import REALM, LabNode, LabRedis, free_ports
from warden.ops.town import Talk, Town
from warden.store.durable import open_durable
from warden.store.migrate import migrate
from warden.switch.directory import new_extension

GOAL = 0.8
TALK_S = 1.0
SETTLE_S = 1.0
PAIRS = 200
KINDS = ("memory", "sqlite", "redis")
HOST = "127.0.0.{}"


class Figures:
    """What was measured of one node: calls per processor second in each round, and the milliseconds of a call."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.signalling_ms: list[float] = []
        self.media_ms: list[float] = []
        self.redis_ms: list[float] = []


def settings(kind: str, folder: Path, host: str, ports: tuple[int, int], redis_port: int) -> str:
    """A single node's configuration."""
    redis = f"{{enabled: {'true' if kind == 'redis' else 'false'}, nodes: [{{host: 127.0.0.1, port: {redis_port}}}]}}"
    return f"""\
data_dir: {folder / "data"}
secret: {secrets.token_hex(16)}
http: {{bind_address: 127.0.0.1, port: {ports[0]}}}
sip: {{bind_address: {host}, bind_port: {ports[1]}, realm: {REALM}}}
rtp: {{bind_address: {host}, port_range: [24000, 32000], orphan_timeout: 5}}
log: {{format: json}}
redis: {redis}
high_availability: {{node_id: {kind}}}
"""


async def add_extensions(node: LabNode, passwords: dict[str, str]) -> None:
    """The same extensions for each node, in its own file."""
    node.data.mkdir(parents=True)
    url = f"sqlite:///{node.data / 'warden.sqlite'}"
    await migrate(url)
    durable = open_durable(url)
    for number, password in passwords.items():
        await durable.add_extension(new_extension(number, password, realm=REALM, now=time.time()))
    await durable.close()


def pair(town: Town, i: int, seat: int) -> Talk:
    """Two phones that send no audio, of which one answers."""
    caller = town.phone(f"1{i:05}", seat, every=0)
    return Talk(caller, town.phone(f"2{i:05}", seat, every=0, answers_after_s=0.05), seat)


async def measure(
    town: Town, seats: list[str], pairs: list[Talk], pids: list[int | None], rate_per_s: float, seconds: float
) -> tuple[int, list[float]]:
    """Have a node carry calls: how many, and what that cost each process."""
    before = [cpu_s(pid) for pid in pids]
    checker = Checker(town, seats)
    async with Traffic(town, checker, pairs, rate_per_s=rate_per_s, talk_s=TALK_S) as traffic:
        await asyncio.sleep(seconds)
    await asyncio.sleep(SETTLE_S)
    if traffic.failed or traffic.dropped:
        raise WardenError(f"calls went wrong: {[*traffic.failed, *traffic.dropped][0]}")
    return traffic.made, [cpu_s(pid) - already for pid, already in zip(pids, before, strict=True)]


async def run(rate_per_s: float, seconds: float, repetitions: int) -> int:
    """Print the figures; 1 where the goal is missed."""
    passwords = {f"{kind}{i:05}": secrets.token_urlsafe(18) for i in range(PAIRS) for kind in (1, 2)}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="warden-bench-")))
        redis = LabRedis.found(folder / "server", *free_ports(("127.0.0.1",), 1))
        if redis is None:
            raise WardenError("this needs redis-server; on Debian: apt-get install redis-server")
        stack.push_async_callback(redis.kill)
        await redis.start()
        nodes: list[LabNode] = []
        seats: list[Address] = []
        for i, kind in enumerate(KINDS):
            host = HOST.format(200 + i)
            http_port, sip_port = free_ports(("127.0.0.1", host), 2)
            text = settings(kind, folder / kind, host, (http_port, sip_port), redis.port)
            memory = (sys.executable, str(Path(__file__).with_name("memory_node.py")))
            node = LabNode(kind, folder / kind, text, http_port, program=memory if kind == "memory" else None)
            stack.push_async_callback(node.close)
            await add_extensions(node, passwords)
            await node.start()
            nodes.append(node)
            seats.append(Address(host, sip_port))
        town = await stack.enter_async_context(Town(seats, passwords))
        pairs = [
            [
                Talk(
                    town.phone(f"1{i:05}", seat, every=0),
                    town.phone(f"2{i:05}", seat, every=0, answers_after_s=0.05),
                    seat,
                )
                for i in range(PAIRS)
            ]
            for seat in range(len(nodes))
        ]
        await town.settle(at_once=50)
        say(f"{rate_per_s:g} calls/s of {TALK_S:g} s for {seconds:g} s each, {repetitions} times; no audio is sent")
        figures = {kind: Figures() for kind in KINDS}
        for turn in range(repetitions):
            for i, node in enumerate(nodes):
                pids = [node.pid, node.media_pid, redis.pid]
                made, cost = await measure(town, list(KINDS), pairs[i], pids, rate_per_s, seconds)
                if not turn:
                    # What is compiled, connected and cached at the first calls is no cost of a call.
                    continue
                found = figures[node.name]
                found.rates.append(made / cost[0])
                for times, used in zip((found.signalling_ms, found.media_ms, found.redis_ms), cost, strict=True):
                    times.append(used / made * 1000)
        return told(figures)


def told(figures: dict[str, Figures]) -> int:
    """Print a line for each store, and the verdict."""
    base = statistics.median(figures["memory"].rates)
    for kind, found in figures.items():
        rate = statistics.median(found.rates)
        spread = f"{min(found.rates):,.0f} to {max(found.rates):,.0f}"
        say(
            f"{kind:>7}: {rate:7,.0f} calls per processor second ({spread}), {rate / base:4.0%} of memory; per call "
            f"{statistics.median(found.signalling_ms):.2f} ms, media process {statistics.median(found.media_ms):.2f} ms"
            + (f", redis-server {statistics.median(found.redis_ms):.2f} ms" if kind == "redis" else "")
        )
    share = statistics.median(figures["redis"].rates) / base
    say(f"with Redis: {share:.0%} of the calls per processor second without protection (goal: at least {GOAL:.0%})")
    return 0 if share >= GOAL else 1


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    os.umask(0o077)
    return uvloop.run(run(options.rate, options.seconds, options.repetitions + 1))


if __name__ == "__main__":
    sys.exit(main())
