"""A real node and the SIPp phones of one test that call each other through it."""

import itertools
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from warden.call.cdr import Cdr
from warden.store.ports import Item

from pbx import Pbx, free_ports
from sipp_process import Seen, Sipp
from sipp_scenario import Script

CALLERS = tuple(str(n) for n in range(1001, 1061))
CALLEES = tuple(str(n) for n in range(2001, 2061))


class Node:
    """A node that several tests share; each takes numbers of its own."""

    def __init__(self, folder: Path, pairs: int, sip: str = "", config: str = "", items: Sequence[Item] = ()) -> None:
        self.pbx = Pbx(folder, pairs=pairs, sip=sip, config=config)
        self.pbx.add_extensions(*CALLERS, *CALLEES)
        self.pbx.add_items(*items)
        self.numbers = itertools.cycle(zip(CALLERS, CALLEES, strict=True))

    def metrics(self) -> dict[str, float]:
        """What /metrics says, by name and labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.pbx.http_port}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def until(self, says: Callable[[dict[str, float]], bool], within_s: float = 15.0) -> None:
        """Wait until the metrics say so."""
        until = time.monotonic() + within_s
        while not says(metrics := self.metrics()):
            assert time.monotonic() < until, {k: v for k, v in metrics.items() if v and k.startswith("pbx_")}
            time.sleep(0.05)  # A scrape is all that an outsider has.


def is_quiet(metrics: dict[str, float]) -> bool:
    """True where no call is left in the node."""
    return total(metrics, "pbx_calls") == 0 and total(metrics, "pbx_rtp_ports_taken") == 0


def total(metrics: dict[str, float], name: str, labels: str = "") -> float:
    """The sum over all series of a metric that carry the labels."""
    return sum(count for series, count in metrics.items() if series.split("{")[0] == name and labels in series)


class Stage:
    """One test's phones."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node = node
        self.caller, self.callee = next(node.numbers)
        self._folder = folder
        self._phones: list[Sipp] = []

    def phone(
        self,
        script: Script | Path,
        *options: str | Path,
        port: int = 0,
        calls: int = 1,
        is_called: bool = False,
        transport: str = "u1",
        trace: bool = True,
    ) -> Sipp:
        """Start a phone: one that calls, or one that is called."""
        name = script.name if isinstance(script, Script) else script.stem
        phone = Sipp.start(
            self._folder / f"{len(self._phones)}-{name}",
            script,
            port or free_ports(1)[0],
            *options,
            to_port=0 if is_called else self.node.pbx.sip_port,
            calls=calls,
            transport=transport,
            trace=trace,
        )
        self._phones.append(phone)
        return phone

    def register(self, number: str, port: int) -> None:
        """Register a contact of the number."""
        script = Script("register", number).registers(str(port)).expects(200)
        seen = self.phone(script).seen()
        assert seen.is_flawless, seen.report

    def called(self, script: Script | Path, *options: str | Path, calls: int = 1, trace: bool = True) -> Sipp:
        """A phone that has registered for the callee's number and waits for calls."""
        (port,) = free_ports(1)
        phone = self.phone(script, *options, port=port, calls=calls, is_called=True, trace=trace)
        self.register(self.callee, port)
        return phone

    def calls(self, name: str = "caller") -> Script:
        """A caller's script, still empty."""
        return Script(name, self.caller, rings=self.callee)

    def answers(self, name: str = "callee") -> Script:
        """A callee's script, still empty."""
        return Script(name, self.callee)

    def play(self, callee: Script, caller: Script) -> None:
        """Let the caller call the callee once, exactly as written."""
        phone = self.called(callee)
        self.flawless(self.phone(caller), phone)

    def flawless(self, *phones: Sipp) -> list[Seen]:
        """See that every phone saw exactly what its script says."""
        seen: list[Seen] = []
        for phone in phones:
            # Once one has failed, the others may wait for it for ever.
            seen.append(phone.seen() if all(x.is_flawless for x in seen) else phone.seen(within_s=1.0))
        if not all(x.is_flawless for x in seen):
            said = "\n".join(f"{x.report}\n{phone.messages()[-8000:]}" for x, phone in zip(seen, phones, strict=True))
            pytest.fail(f"{said}\n{self.node.pbx.stderr.read_text()[-3000:]}")
        return seen

    def cdr(self) -> Cdr:
        """The one record of the stage's one call."""
        self.node.until(lambda m: total(m, "pbx_cdrs_waiting") == 0 and is_quiet(m))
        (cdr,) = (x for x in self.node.pbx.cdrs(1, within_s=0) if x.caller == self.caller)
        return cdr

    def file(self, script: Script) -> Path:
        """The script as a file."""
        file = self._folder / f"{script.name}.xml"
        file.write_text(script.xml)
        return file

    def close(self) -> None:
        """End what still runs."""
        for phone in self._phones:
            phone.close()


def run_node(
    folder: Path, pairs: int = 600, sip: str = "", config: str = "", items: Sequence[Item] = ()
) -> Iterator[Node]:
    node = Node(folder, pairs, sip, config, items)
    node.pbx.start()
    media = node.pbx.media_pid
    try:
        yield node
    finally:
        node.pbx.close()
    log = node.pbx.stderr.read_text()
    assert "Traceback" not in log, log
    assert "[error" not in log, log
    assert media is not None
    assert not Path(f"/proc/{media}").exists()
