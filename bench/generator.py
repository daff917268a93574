"""Load by SIPp on the generators' core: calls, registrations, and the phones that are called."""

import csv
import itertools
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from machine import GENERATOR_CORE, end, free_ports, on_core, wait_for_udp

SCENARIOS: Final = Path(__file__).with_name("sipp")
HOST: Final = "127.0.0.1"
NUMBERS: Final = 1_000
"""Extensions of each kind."""
CALLERS: Final = [f"1{i:04}" for i in range(NUMBERS)]
CALLEES: Final = [f"2{i:04}" for i in range(NUMBERS)]
CALLED: Final = 100
"""Callees that are registered: calls go round among them."""
PASSWORD: Final = "bench-opens-sesame"  # noqa: S105 - of extensions that live for minutes


class Seen(NamedTuple):
    """What SIPp has counted so far."""

    successful: int = 0
    failed: int = 0
    retransmissions: int = 0

    def since(self, before: "Seen") -> "Seen":
        """What was counted since then."""
        return Seen(*(a - b for a, b in zip(self, before, strict=True)))


class Sipp:
    """A running SIPp."""

    def __init__(self, process: "subprocess.Popen[bytes]", statistics: Path) -> None:
        self.process = process
        self._statistics = statistics

    @property
    def seen(self) -> Seen:
        """What it has counted up to its last full second."""
        try:
            with self._statistics.open(newline="") as lines:
                rows = [row for row in csv.DictReader(lines, delimiter=";", restval="") if row["Retransmissions(C)"]]
        except (OSError, KeyError):
            return Seen()
        if not rows:
            return Seen()
        last = rows[-1]
        return Seen(*(int(last[name]) for name in ("SuccessfulCall(C)", "FailedCall(C)", "Retransmissions(C)")))


class Generators:
    """The SIPp processes of one measurement; ended with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Sipp] = []
        self._names = itertools.count()

    def close(self) -> None:
        """End them all."""
        for sipp in self._started:
            end(sipp.process, within_s=3.0)
        self._started.clear()

    def end(self, sipp: Sipp) -> None:
        """End one of them, with its calls."""
        end(sipp.process, within_s=3.0)

    def called(self, port: int) -> Sipp:
        """The phones of all callees, at one port."""
        sipp = self._start("callee.xml", ["-p", port])
        wait_for_udp(port, sipp.process)
        return sipp

    def register(self, server: int, contact: int) -> None:
        """Register the callees that are called at the contact port."""
        sipp = self.registrations(server, contact, CALLEES[:CALLED], rate=100, count=CALLED)
        if sipp.process.wait(60):
            raise OSError(f"registrations failed: {sipp.seen}")

    def registrations(
        self,
        server: int,
        contact: int,
        numbers: Sequence[str],
        *,
        rate: int,
        count: int = 0,
        scenario: str = "register.xml",
    ) -> Sipp:
        """Register these numbers again and again, in turn."""
        rows = [f"{number};{_proof(number)};{contact}" for number in numbers]
        options: list[str | int] = ["-m", count] if count else []
        if scenario != "register.xml":
            # An answer that comes twice, since the phone had asked twice, is no reason to give up.
            options += ["-default_behaviors", "all,-abortunexp"]
        return self._call(scenario, server, rows, rate, options)

    def calls(self, server: int, *, rate: float, hold_s: float, count: int = 0, trusted: bool = False) -> Sipp:
        """Calls from all callers in turn to the callees that are registered."""
        rows = [f"{a};{_proof(a)};{CALLEES[i % CALLED]}" for i, a in enumerate(CALLERS)]
        scenario = "trusted.xml" if trusted else "caller.xml"
        options: list[str | int] = ["-d", round(hold_s * 1000), *(["-m", count] if count else [])]
        return self._call(scenario, server, rows, round(rate), options)

    def _call(self, scenario: str, server: int, rows: Sequence[str], rate: int, options: Sequence[str | int]) -> Sipp:
        file = self._folder / f"numbers-{next(self._names)}.csv"
        file.write_text("SEQUENTIAL\n" + "\n".join(rows) + "\n")
        return self._start(scenario, ["-inf", file, "-r", rate, "-l", 1_000_000, *options, f"{HOST}:{server}"])

    def _start(self, scenario: str, options: Sequence[str | int | Path]) -> Sipp:
        statistics = self._folder / f"statistics-{next(self._names)}.csv"
        argv = ["sipp", "-sf", SCENARIOS / scenario, "-i", HOST, "-mi", HOST, "-nostdin", "-skip_rlimit"]
        argv += ["-trace_stat", "-fd", 1, "-stf", statistics, "-buff_size", 4_000_000, *options]
        if "-p" not in argv:
            argv += ["-p", free_ports(1)[0]]
        process = subprocess.Popen(  # noqa: S603 - our own words
            on_core(GENERATOR_CORE, argv),
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        sipp = Sipp(process, statistics)
        self._started.append(sipp)
        return sipp


@contextmanager
def generators(folder: Path) -> Iterator[Generators]:
    """Generators that end with the block."""
    made = Generators(folder)
    try:
        yield made
    finally:
        made.close()


def _proof(number: str) -> str:
    return f"[authentication username={number} password={PASSWORD}]"
