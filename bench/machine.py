"""What the kernel says of processes: their processor time and memory, and on which core they run."""

import itertools
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
SERVER_CORE: Final = 0
GENERATOR_CORE: Final = 1
"""Server and generators have a core each: what is measured is the server's processor time, and its core is its own."""
PORTS: Final = (25_000, 31_999)
"""Below the kernel's ephemeral ports."""
_ports: Final = itertools.cycle(range(PORTS[0] + os.getpid() % 3000, PORTS[1]))


def cpu_s(pids: Iterable[int]) -> float:
    """What these processes have used so far, user and system, all threads and the children that they waited for."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15]))
    return total / TICKS_PER_S


def resident_kib(pids: Iterable[int]) -> int:
    """What these processes have in memory."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return total


def datagrams() -> int:
    """UDP datagrams that anybody on this machine has received: what a storm of retransmissions cannot hide from."""
    names, values = (
        line.split() for line in Path("/proc/self/net/snmp").read_text().splitlines() if line.startswith("Udp: ")
    )
    return int(values[names.index("InDatagrams")])


def family_of(pid: int) -> list[int]:
    """A process and all that it has started."""
    found, look = [], [pid]
    while look:
        at = look.pop()
        found.append(at)
        with suppress(OSError):
            for task in Path(f"/proc/{at}/task").iterdir():
                look += map(int, (task / "children").read_text().split())
    return found


def on_core(core: int, argv: Sequence[str | Path | int]) -> list[str]:
    """The command, on one core."""
    words = [str(word) for word in argv]
    return ["taskset", "-c", str(core), *words] if (os.cpu_count() or 1) > 1 else words


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports free for UDP and TCP at this moment, none given twice."""
    found: list[int] = []
    with ExitStack() as stack:
        for port in itertools.islice(_ports, PORTS[1] - PORTS[0]):
            udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            tcp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            with suppress(OSError):
                udp.bind((host, port))
                tcp.bind((host, port))
                found.append(port)
            if len(found) == count:
                return found
    raise OSError("no free ports")


def wait_for_udp(port: int, process: "subprocess.Popen[bytes]", within_s: float = 30.0) -> None:
    """Wait until somebody listens on the port."""
    until = time.monotonic() + within_s
    while f":{port:04X} " not in Path("/proc/self/net/udp").read_text():
        if process.poll() is not None or time.monotonic() > until:
            raise OSError(f"{process.args!r} does not listen on port {port}")
        time.sleep(0.02)


def end(process: "subprocess.Popen[bytes]", how: signal.Signals = signal.SIGTERM, within_s: float = 20.0) -> None:
    """End a process of ours, kindly if it lets us."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def open_files_max() -> int:
    """How many files a process may open here, taken as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
