"""How long a node takes to adopt the calls of one that died, from a real Redis to the last RTP port.

Makes the calls once, with phones that send a few packets a second, and kills the node that carries them again and
again; the seat goes to and fro between two nodes. Wall-clock seconds are those of the node's own sentence (from the
fence to the audio), processor seconds those of both its processes from the kill until a second after the adoption.
"""

import argparse
import asyncio
import os
import re
import resource
import secrets
import statistics
import sys
from pathlib import Path

import uvloop

from warden.core.errors import WardenError
from warden.ops.checker import Checker
from warden.ops.lab_cluster import LabCluster, LabNode, LogLine, lab_cluster
from warden.ops.nemesis import PowerLoss
from warden.ops.town import Talk, Town

AFTER_S = 1.0
GOAL_S = 0.5
EVERY = 10
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
TOOK = re.compile(r"adopted (\d+) calls .* of seat s1 .* in ([0-9.]+) s")


def say(line: str) -> None:
    """A line for who waits."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def cpu_s(pid: int | None) -> float:
    """What a process has used so far."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


async def adopt_once(
    cluster: LabCluster, lines: list[str], old: LabNode, new: LabNode
) -> tuple[int, float, list[float]]:
    """Kill `old`; how many calls `new` adopted, in how many seconds, and what that cost its two processes."""
    pids = (new.pid, new.media_pid)
    before = [cpu_s(pid) for pid in pids]
    cluster.look()
    lines.clear()
    await PowerLoss(cluster, old.name).strike()
    await cluster.held("s1", lambda node: node == new.name)
    await asyncio.sleep(AFTER_S)
    cost = [cpu_s(pid) - already for pid, already in zip(pids, before, strict=True)]
    told = next(match for line in lines if (match := TOOK.search(line)))
    return int(told[1]), float(told[2]), cost


async def run(calls: int, repetitions: int) -> int:
    """Print the figures; 1 where the goal is missed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    passwords = {f"{kind}{i:05}": secrets.token_urlsafe(18) for i in range(calls) for kind in (1, 2)}
    async with lab_cluster(nodes=2) as cluster:
        if cluster.redis is None:
            raise WardenError("this needs redis-server; on Debian: apt-get install redis-server")
        lines: list[str] = []

        def hear(_node: str, line: LogLine) -> None:
            lines.append(line.event)

        cluster.on_line = hear
        await cluster.start(passwords)
        async with Town(list(cluster.seats.values()), passwords) as town:
            for i in range(calls):
                caller, callee = (town.phone(f"{kind}{i:05}", 0, every=EVERY) for kind in (1, 2))
                town.talks.append(Talk(caller, callee))
            await town.settle(at_once=50)
            checker = Checker(town, list(cluster.seats), at_once=50)
            say(f"{calls} calls stand")
            seconds = []
            for turn in range(repetitions):
                old, new = (cluster.nodes[name] for name in (("n1", "n2"), ("n2", "n1"))[turn % 2])
                adopted, took, (signalling, media) = await adopt_once(cluster, lines, old, new)
                seconds.append(took)
                say(
                    f"adoption {turn + 1}: {adopted} calls in {took:.2f} s; processor: signalling {signalling:.2f} s, "
                    f"media {media:.2f} s (with {AFTER_S:g} s of audio)"
                )
                await old.start()
            lost = await checker.still_heard()
    median = statistics.median(seconds)
    say(f"median {median:.2f} s for {calls} calls (goal: under {GOAL_S:g} s for 1,000); {lost} calls lost")
    return 0 if median < GOAL_S and not lost else 1


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    return uvloop.run(run(options.calls, options.repetitions))


if __name__ == "__main__":
    sys.exit(main())
