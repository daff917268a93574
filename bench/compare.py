"""What calls and registrations cost in processor time and memory, beside what they cost others in the same run.

Writes `bench/out/latest.json`. The processor time is the kernel's account of all processes of a server; the load is the
share of a core that the server would need for it, found by a first short look, so that each server is measured about
equally busy. `--short` is for trying things out: what it finds is no figure.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, NamedTuple

import relay
from generator import CALLEES, CALLERS, Generators, Seen, Sipp, generators
from machine import cpu_s, datagrams, free_ports, open_files_max, resident_kib
from results import OUT, keep
from servers import Server, kamailio, sippy, versions, warden

HOLD_S: Final = 1.0
RETRANSMITTED_MAX: Final = 0.01
"""Repeated messages per call at most: above that the server does not keep up, and the figure is not one."""
LOOKS: Final = 4
FILES_PER_CALL: Final = 4
MEMORY_GOAL_KIB: Final = 40


class Pace(NamedTuple):
    """How long things take. `look_s` finds the load, `settle_s` lets it become steady, `window_s` is measured."""

    look_s: float
    settle_s: float
    window_s: float
    share: float


FULL: Final = Pace(5.0, 35.0, 25.0, 0.75)
"""Transactions stay for 32 s after a call, so a load is steady only then; shorter windows hide a coming collapse."""
SHORT: Final = Pace(3.0, 4.0, 8.0, 0.5)


class Measured(NamedTuple):
    """A load as it was carried."""

    per_cpu_s: float
    ms: float
    rate: float
    busy: float
    datagrams: float
    seen: Seen

    @property
    def told(self) -> dict[str, Any]:
        """For the file."""
        return {
            "per_cpu_s": round(self.per_cpu_s, 1),
            "ms": round(self.ms, 4),
            "rate_per_s": round(self.rate, 1),
            "busy": round(self.busy, 3),
            "datagrams_each": round(self.datagrams, 1),
            "failed": self.seen.failed,
            "retransmissions": self.seen.retransmissions,
        }


def say(line: str) -> None:
    """A line for who waits."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def watch(server: Server, sipp: Sipp, seconds: float) -> Measured:
    """What the server uses for what SIPp sees done in the next seconds."""
    pids = server.pids
    before, used, heard, at = sipp.seen, cpu_s(pids), datagrams(), time.monotonic()
    time.sleep(seconds)
    seen, cost = sipp.seen.since(before), cpu_s(pids) - used
    took = time.monotonic() - at
    done = max(1, seen.successful)
    return Measured(
        done / max(cost, 0.01), cost / done * 1000, done / took, cost / took, (datagrams() - heard) / done, seen
    )


def carry(server: Server, load: Callable[[float], Sipp], pace: Pace, first: float, most: float) -> Measured:
    """Find the load that keeps the server as busy as wanted, and measure it. What is done together costs less, so one
    look at a small load is not enough.
    """
    rate = first
    for _ in range(LOOKS):
        sipp = load(rate)
        time.sleep(2.0)
        looked = watch(server, sipp, pace.look_s)
        sipp.process.kill()
        sipp.process.wait()
        time.sleep(1.0)
        if looked.seen.failed or looked.busy > 0.9 * pace.share:
            break
        rate = min(most, max(rate, pace.share * looked.per_cpu_s))
    sipp = load(rate)
    time.sleep(pace.settle_s)
    found = watch(server, sipp, pace.window_s)
    if sipp.process.poll() is not None or found.seen.failed:
        say(f"  {server.name}: {found.seen.failed} failed, the figure is void")
    elif found.seen.retransmissions > RETRANSMITTED_MAX * found.seen.successful:
        say(f"  {server.name}: {found.seen.retransmissions} messages repeated: it does not keep up, the figure is void")
    say(
        f"  {server.name}: {found.ms:.3f} ms, {found.per_cpu_s:,.0f} per processor second at {found.rate:,.0f}/s "
        f"({found.busy:.0%} of a core, {found.datagrams:.1f} datagrams each)"
    )
    return found


def compared(found: dict[str, Measured], peer: str, unit: str) -> dict[str, Any]:
    """A part of the file: how many times the peer's Warden does."""
    figures = {name: round(its.per_cpu_s, 1) for name, its in found.items()}
    ratio = round(figures["warden"] / figures[peer], 3)
    return {**figures, "ratio": ratio, "unit": unit, "details": {name: its.told for name, its in found.items()}}


def measure_calls(folder: Path, pace: Pace) -> dict[str, Any]:
    """Calls from INVITE to BYE: with digest, RTP ports, records and CDR by Warden, and from a trunk without the digest;
    bare by Sippy.
    """
    say("b2bua: calls from INVITE to BYE, held for 1 s")
    found: dict[str, Measured] = {}
    for name, over_trunk in (("warden", False), ("warden_from_trunk", True)):
        with generators(folder) as load, warden(trunk=over_trunk) as server:
            found[name] = carry(server, prepared(load, server, trusted=over_trunk), pace, 50, 1_200)
    (callee,) = free_ports(1)
    with generators(folder) as load, sippy(OUT, callee) as server:
        load.called(callee)
        found["sippy"] = carry(
            server, lambda rate: load.calls(server.port, rate=rate, hold_s=HOLD_S, trusted=True), pace, 50, 900
        )
    return compared(found, "sippy", "calls per processor second")


def prepared(load: Generators, server: Server, *, trusted: bool) -> Callable[[float], Sipp]:
    """The callees are registered and wait; what gives calls."""
    (callee,) = free_ports(1)
    load.called(callee)
    load.register(server.port, callee)
    return lambda rate: load.calls(server.port, rate=rate, hold_s=HOLD_S, trusted=trusted)


def measure_registrations(folder: Path, pace: Pace) -> dict[str, Any]:
    """A registration is a REGISTER that is challenged and one that proves."""
    say("register: registrations with digest")
    found: dict[str, Measured] = {}
    servers: Sequence[Callable[[], AbstractContextManager[Server]]] = (warden, kamailio)
    for serve in servers:
        with generators(folder) as load, serve() as server:

            def register(rate: float, load: Generators = load, server: Server = server) -> Sipp:
                return load.registrations(server.port, 5060, [*CALLERS, *CALLEES], rate=round(rate))

            pace = pace._replace(settle_s=min(10.0, pace.settle_s))
            found[server.name] = carry(server, register, pace, 300, 4_000)
    return compared(found, "kamailio", "registrations per processor second")


def measure_growth(folder: Path, pace: Pace, wanted: Sequence[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The cost of a call while so many others stand, and what those take of memory."""
    room = (open_files_max() - 2_500) // FILES_PER_CALL
    held = sorted({min(calls, room) for calls in wanted})
    say(f"growth: the cost of a call while {', '.join(map(str, held))} others stand; memory of those")
    rates: dict[int, Measured] = {}
    with generators(folder) as load, warden() as server:
        calls = prepared(load, server, trusted=False)
        sipp = calls(100)
        time.sleep(5.0)
        rate = 0.5 * watch(server, sipp, pace.look_s).per_cpu_s
        sipp.process.kill()
        sipp.process.wait()
        time.sleep(3.0)
        stand, before, signalling = 0, resident_kib(server.pids), resident_kib([server.process.pid])
        for level in held:
            if level > stand:
                load.calls(server.port, rate=150, hold_s=100_000, count=level - stand)
                time.sleep((level - stand) / 150 + 2.0)
                stand = level
            if level == held[-1]:
                # What set-up leaves behind for 32 s is no cost of a call that stands.
                time.sleep(pace.settle_s)
                total = (resident_kib(server.pids) - before) / level
                ours = (resident_kib([server.process.pid]) - signalling) / level
            sipp = calls(rate)
            time.sleep(min(pace.settle_s, 8.0))
            rates[level] = watch(server, sipp, pace.window_s)
            say(f"  {level} stand: {rates[level].ms:.3f} ms, {rates[level].seen.failed} failed")
            sipp.process.kill()
            sipp.process.wait()
            time.sleep(2.0)
    say(f"  memory: {total:.1f} KiB a call, {ours:.1f} of them signalling")
    figures = {str(level): round(found.per_cpu_s, 1) for level, found in rates.items()}
    growth = {
        "warden": figures,
        "ratio": round(min(figures.values()) / figures[str(held[0])], 3),
        "unit": "calls per processor second while so many stand; the ratio is the worst to the first",
        "details": {str(level): found.told for level, found in rates.items()},
    }
    memory = {
        "warden": round(total, 1),
        "ratio": round(total / MEMORY_GOAL_KIB, 3),
        "unit": f"KiB resident per established call with media, both processes; the ratio is to {MEMORY_GOAL_KIB}",
        "details": {"signalling_kib": round(ours, 1), "calls": held[-1]},
    }
    return growth, memory


def measure_relay(calls: int, pace: Pace) -> dict[str, Any]:
    """The cost of a packet."""
    say(f"relay_{calls}: G.711 in both directions of {calls} calls")
    found = relay.measure(calls, pace.window_s)
    for name, (its,) in found["details"].items():
        say(
            f"  {name}: {its['us_per_packet']:.2f} us a packet at {its['packets_per_s']:,.0f}/s, "
            f"{its['lost']:.0f} lost, delay p99 {its['delay_us_p99'] / 1000:.2f} ms"
        )
    return found


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="b2bua, register, relay, growth; all without any")
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes; no figures")
    options = parser.parse_args()
    pace = SHORT if options.short else FULL
    parts = set(options.parts or ("b2bua", "register", "relay", "growth"))
    os.umask(0o077)
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="warden-bench-") as name:
        folder = Path(name)
        if "b2bua" in parts:
            keep({"b2bua": measure_calls(folder, pace)}, versions(), short=options.short)
        if "register" in parts:
            keep({"register": measure_registrations(folder, pace)}, versions(), short=options.short)
        if "relay" in parts:
            for calls in relay.CALLS:
                found = measure_relay(calls, pace)
                keep({f"relay_{calls}": found}, relay.versions(), short=options.short)
        if "growth" in parts:
            levels = (0, 300, 600) if options.short else (0, 1_000, 5_000)
            growth, memory = measure_growth(folder, pace, levels)
            keep({"growth": growth, "memory": memory}, versions(), short=options.short)
    return 0


if __name__ == "__main__":
    sys.exit(main())
