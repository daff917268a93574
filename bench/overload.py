"""What is left of a node that is asked for three times what it can do, and of the calls of one whose phones all come
back at once.

First the capacity of this machine is found with protection switched off: the highest rate at which every call succeeds.
Then three times as many are offered to a protected node that carries calls already, and at last 10,000 phones register
at once beside a moderate load of calls. What SIPp counts is what callers see: a refusal is a failed call.
"""

import argparse
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Final

from generator import CALLERS, Generators, Seen, Sipp, generators
from machine import cpu_s, free_ports
from servers import Warden, warden

GOAL: Final = 0.9
HOLD_S: Final = 1.0
STEP_S: Final = 5.0
OFFER_S: Final = 12.0
STEPS: Final = (0.5, 0.65, 0.8, 0.9, 1.0)
"""Of what the processor time of a call promises."""
HELD: Final = 50
"""Calls in progress while the others are offered."""
PHONES: Final = 10_000
STORM_PER_S: Final = 2_000
BESIDE_PER_S: Final = 0.2
"""Calls beside the storm, in parts of the capacity."""


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def metric(node: Warden, name: str) -> float:
    """One of the node's figures, summed over its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{node.http}/metrics", timeout=20) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def offered(sipp: Sipp, seconds: float) -> Seen:
    """What came of the calls in the last `seconds`, after a run-up of a third of that."""
    time.sleep(seconds / 3 + HOLD_S)
    before = sipp.seen
    time.sleep(seconds)
    return sipp.seen.since(before)


def begin(load: Generators, node: Warden) -> None:
    """Register the callees."""
    (port,) = free_ports(1)
    load.called(port)
    load.register(node.port, port)


def capacity(load: Generators) -> float:
    """The calls a second that an unprotected node serves without a failure."""
    with warden("overload: {enabled: false}\n") as node:
        begin(load, node)
        before = cpu_s([node.process.pid])
        sipp = load.calls(node.port, rate=100, hold_s=HOLD_S, count=500)
        sipp.process.wait(60)
        each_s = (cpu_s([node.process.pid]) - before) / 500
        say(f"{each_s * 1000:.2f} ms of processor time a call, so at most {1 / each_s:,.0f} calls a second")
        best = 0.0
        for step in STEPS:
            rate = round(step / each_s)
            sipp = load.calls(node.port, rate=rate, hold_s=HOLD_S)
            seen = offered(sipp, STEP_S)
            load.end(sipp)
            say(f"{rate:5} a second: {seen.successful / STEP_S:,.0f} good, {seen.failed / STEP_S:,.0f} failed")
            if seen.failed or seen.successful < 0.95 * rate * STEP_S:
                break
            best = seen.successful / STEP_S
        load.close()
        return best


def three_times(load: Generators, most: float) -> bool:
    """Offer three times the capacity; whether what is left is enough, and calls in progress lived on."""
    with warden() as node:
        begin(load, node)
        held = load.calls(node.port, rate=HELD, hold_s=OFFER_S * 4 / 3 + 6, count=HELD)
        time.sleep(2)
        sipp = load.calls(node.port, rate=3 * most, hold_s=HOLD_S)
        seen = offered(sipp, OFFER_S)
        load.end(sipp)
        ended = held.process.wait(60)
        good = seen.successful / OFFER_S
        say(
            f"{3 * most:,.0f} a second offered: {good:,.0f} good ({good / most:.0%} of the capacity), "
            f"{seen.failed / OFFER_S:,.0f} refused or failed, {metric(node, 'pbx_calls_shed_total'):,.0f} answered 503"
        )
        say(f"of {HELD} calls in progress {held.seen.successful} ended as they should (SIPp: {ended})")
        load.close()
        return good >= GOAL * most and ended == 0


def storm(load: Generators, most: float) -> bool:
    """Let 10,000 phones register at once beside calls; whether all got in and no call failed."""
    with warden() as node:
        begin(load, node)
        calls = load.calls(node.port, rate=BESIDE_PER_S * most, hold_s=HOLD_S)
        time.sleep(3)
        before, began = calls.seen, time.monotonic()
        (port,) = free_ports(1)
        phones = load.registrations(node.port, port, CALLERS, rate=STORM_PER_S, count=PHONES, scenario="storm.xml")
        ended = phones.process.wait(240)
        took_s = time.monotonic() - began
        time.sleep(HOLD_S + 2)
        seen = calls.seen.since(before)
        load.end(calls)
        refused = metric(node, "pbx_registrations_shed_total")
        say(
            f"{PHONES:,} phones registered in {took_s:.1f} s, {refused:,.0f} times one was told to come later "
            f"({phones.seen.failed} failed); {seen.successful:,} calls meanwhile, {seen.failed} failed "
            f"({metric(node, 'pbx_calls_shed_total'):,.0f} answered 503)"
        )
        load.close()
        return ended == 0 and seen.failed == 0 and seen.successful > 0


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capacity", type=float, default=0.0, help="calls a second, where it is known")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="warden-bench-") as folder, generators(Path(folder)) as load:
        most = options.capacity or capacity(load)
        if not most:
            say("this machine is too busy with other things to tell")
            return 1
        say(f"capacity: {most:,.0f} calls a second")
        results = [three_times(load, most), storm(load, most)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
