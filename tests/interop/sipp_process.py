"""SIPp as a process: started with a scenario, asked what it saw."""

import csv
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

from sipp_scenario import Script

DONE_S: Final = 80.0
"""A scenario takes some seconds; one that waits for SIP's 32 s timers takes the longest."""
_REPORT_CHARS: Final = 6000


class Seen(Struct, frozen=True):
    """What a SIPp process saw until its end. `unexpected` counts messages that its scenario has no place for."""

    status: int
    successful: int
    failed: int
    unexpected: int
    retransmissions: int
    report: str

    @property
    def is_flawless(self) -> bool:
        """True where every call went as written."""
        return self.status == 0 and self.failed == 0 and self.unexpected == 0 and self.successful > 0


class Sipp:
    """A running SIPp. Make it with `start`; `seen` waits for its end, `close` ends it whatever it does."""

    def __init__(self, process: "subprocess.Popen[bytes]", folder: Path) -> None:
        self.process = process
        self._folder = folder

    @classmethod
    def start(
        cls,
        folder: Path,
        scenario: Script | Path,
        port: int,
        *options: str | Path,
        to_port: int = 0,
        to_host: str = "127.0.0.1",
        calls: int = 1,
        transport: str = "u1",
        trace: bool = True,
    ) -> "Sipp":
        """Start one on 127.0.0.1:`port` in a folder of its own. With `to_port` it calls, without it it is called."""
        folder.mkdir(parents=True)
        if isinstance(scenario, Script):
            file = folder / f"{scenario.name}.xml"
            file.write_text(scenario.xml)
        else:
            file = scenario
        argv = ["sipp", "-sf", file, "-i", "127.0.0.1", "-mi", "127.0.0.1", "-p", port, "-t", transport, "-m", calls]
        argv += [
            "-nostdin",
            "-skip_rlimit",
            "-trace_err",
            "-error_file",
            "errors.log",
            "-trace_stat",
            "-stf",
            "stat.csv",
        ]
        argv += ["-trace_counts", *options]
        if trace:
            argv += ["-trace_msg", "-message_file", "messages.log"]
        if to_port:
            argv.append(f"{to_host}:{to_port}")
        with (folder / "screen").open("wb") as screen:
            process = subprocess.Popen(
                [str(x) for x in argv], cwd=folder, stdin=subprocess.DEVNULL, stdout=screen, stderr=subprocess.STDOUT
            )
        sipp = cls(process, folder)
        if not to_port:
            sipp._wait_until_listening(port, "udp" if transport.startswith("u") else "tcp")
        return sipp

    def seen(self, within_s: float = DONE_S) -> Seen:
        """Wait for the end."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(within_s)
        status = self.process.poll()
        self.close()
        rows = self._last_row("stat.csv")
        counts = self._last_row("*_counts.csv")
        return Seen(
            status=-1 if status is None else status,
            successful=int(rows.get("SuccessfulCall(C)", 0)),
            failed=int(rows.get("FailedCall(C)", 0)),
            unexpected=sum(int(count) for name, count in counts.items() if name.endswith("_Unexp")),
            retransmissions=int(rows.get("Retransmissions(C)", 0)),
            report=self._report(status),
        )

    def close(self) -> None:
        """End it at once."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def messages(self) -> str:
        """Every message it sent and received so far."""
        file = self._folder / "messages.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def _last_row(self, pattern: str) -> dict[str, str]:
        for file in self._folder.glob(pattern):
            with file.open(newline="") as lines:
                *_, last = csv.DictReader(lines, delimiter=";", restval="0")
            return {name: count for name, count in last.items() if name and count}
        return {}

    def _report(self, status: int | None) -> str:
        errors = self._folder / "errors.log"
        parts = [f"{self._folder.name}: exit status {status}" if status is not None else f"{self._folder.name}: no end"]
        if errors.exists():
            parts.append(errors.read_text(errors="replace")[:_REPORT_CHARS])
        elif status != 0:
            parts.append((self._folder / "screen").read_text(errors="replace")[-_REPORT_CHARS:])
        return "\n".join(parts)

    def _wait_until_listening(self, port: int, protocol: str) -> None:
        until = time.monotonic() + 20
        needle = f":{port:04X} "
        while time.monotonic() < until and self.process.poll() is None:
            rows = Path(f"/proc/self/net/{protocol}").read_text().splitlines()[1:]
            if any(needle in row[:30] for row in rows):
                return
            time.sleep(0.01)  # Nobody tells when a stranger's socket is bound.
        raise AssertionError(self._report(self.process.poll()))
