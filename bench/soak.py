"""Half an hour of calls at 70 % of what a core carries: nothing may fail, grow or be left behind.

A node as `make run` has it carries calls with digest from INVITE to BYE, held for a second, beside phones that register
again and again. Every ten seconds its memory and open files are read. At the end every call must have its one record,
no call, transaction or media session may be left, and the memory of the second half may not have grown by more than
stated. Prints a line a minute and JSON at the end; exit status 1 where something was not as it should be.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Final, NamedTuple

from compare import prepared, say, watch
from generator import CALLERS, Sipp, generators
from machine import cpu_s, resident_kib
from servers import Warden, warden

SHARE: Final = 0.7
SETTLE_S: Final = 40.0
"""Transactions stay for 32 s after a call, so memory is steady only then."""
LOOK_S: Final = 10.0
REGISTRATIONS_PER_S: Final = 10
GROWTH_MAX: Final = 0.03
"""Of the memory, from the middle of the measured time to its end: less than the noise of the allocator, and a leak of
40 bytes a call in half an hour is more."""


class Look(NamedTuple):
    """What is seen of the node at a moment."""

    at_s: float
    resident_kib: int
    files: int


def look(server: Warden, began: float) -> Look:
    """See how large it is."""
    files = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in server.pids)
    return Look(time.monotonic() - began, resident_kib(server.pids), files)


def figures(server: Warden) -> dict[str, float]:
    """The sums of its metrics by name."""
    url = f"http://127.0.0.1:{server.http}/metrics"
    found: dict[str, float] = {}
    with urllib.request.urlopen(url, timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
    return found


def finish(sipp: Sipp) -> None:
    """Begin no more calls; those that stand end by themselves, and have their records a second later."""
    sipp.process.send_signal(signal.SIGUSR1)
    sipp.process.wait(60)
    time.sleep(3.0)


def soak(minutes: float, rate: float) -> dict[str, object]:
    """Carry calls for so long, at `rate` a second or (0) at 70 % of what the processor time of a call promises."""
    with tempfile.TemporaryDirectory(prefix="warden-soak-") as name, generators(Path(name)) as load, warden() as server:
        calls = prepared(load, server, trusted=False)
        if not rate:
            sipp = calls(100)
            time.sleep(3.0)
            rate = SHARE * watch(server, sipp, 8.0).per_cpu_s
            finish(sipp)
        stored = figures(server).get("pbx_cdrs_stored_total", 0.0)
        say(f"{rate:.0f} calls/s for {minutes:g} minutes")
        load.registrations(server.port, 5060, CALLERS, rate=REGISTRATIONS_PER_S)
        sipp = calls(rate)
        time.sleep(SETTLE_S)
        began, used, looks = time.monotonic(), cpu_s(server.pids), []
        before = sipp.seen
        while time.monotonic() - began < minutes * 60:
            time.sleep(LOOK_S)
            looks.append(look(server, began))
            if len(looks) % 6 == 0:
                now = sipp.seen.since(before)
                at_s, kib, _ = looks[-1]
                say(f"  {at_s:5.0f} s: {now.successful} calls, {now.failed} failed, {kib} KiB")
        seen = sipp.seen.since(before)
        took, cost = time.monotonic() - began, cpu_s(server.pids) - used
        finish(sipp)
        total = sipp.seen
        # What stays of a call stays for 32 s.
        time.sleep(SETTLE_S)
        left = figures(server)
    half = [x.resident_kib for x in looks[len(looks) // 2 :]]
    growth = sum(half[-3:]) / sum(half[:3]) - 1 if len(half) >= 6 else 0.0
    records = left["pbx_cdrs_stored_total"] - stored
    standing = left.get("pbx_calls", 0.0) + left.get("pbx_media_sessions", 0.0) + left.get("pbx_cdrs_waiting", 0.0)
    return {
        "rate_per_s": round(seen.successful / took, 1),
        "calls": total.successful,
        "failed": total.failed,
        "records": int(records),
        "left_behind": int(standing),
        "retransmissions": seen.retransmissions,
        "busy": round(cost / took, 3),
        "ms_per_call": round(cost / max(1, seen.successful) * 1000, 3),
        "resident_kib": [x.resident_kib for x in looks],
        "files": [min(x.files for x in looks), max(x.files for x in looks)],
        "growth_of_the_second_half": round(growth, 4),
        "ok": total.failed == 0 and records == total.successful and standing == 0 and growth <= GROWTH_MAX,
    }


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=0.0, help="calls a second, instead of 70 %% of the capacity")
    options = parser.parse_args()
    found = soak(options.minutes, options.rate)
    say(json.dumps(found, indent=2))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
