"""What a relayed packet costs: `warden-media` beside rtpengine in user space, at 250 and 1,000 calls of G.711.

Both get the same streams in turn, from the same generator, on a core of their own: packets of 20 ms, each stream at a
moment of its own, in both directions. Processor time is the kernel's, of the whole process; delay and loss are what the
generator sees. By itself (`bench/relay.py --calls 250 --only`) it prints what it finds.
"""

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from machine import GENERATOR_CORE, SERVER_CORE, cpu_s, end, free_ports, on_core, resident_kib, wait_for_udp

from warden.core.address import Address
from warden.media.client import MediaClient
from warden.media.protocol import Done, Put, Session, Side, Stream

HOST: Final = "127.0.44.1"
"""Of our own: on the usual one, somebody else may have one of some thousand ports."""
CALLS: Final = (250, 1000)
SOCKETS: Final = 4
WARM_S: Final = 5.0
"""rtpengine takes three seconds to learn where its peers are."""
MEDIA_PORTS: Final = 10_000
"""Below those of anybody else in a bench: four for each call."""
SDP: Final = """\
v=0
o=- 1 1 IN IP4 {host}
s=-
c=IN IP4 {host}
t=0 0
m=audio {port} RTP/AVP 0
a=rtpmap:0 PCMU/8000
a=sendrecv
"""


class Generator:
    """A running generator: `ports` are where it hears, and what it sends comes from."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.ports: list[int] = json.loads(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise OSError("the generator has ended")
        return line.strip()

    def measure(self, targets: Sequence[tuple[str, int]], seconds: float, pid: int) -> dict[str, float]:
        """Send to these for so long, the first call's two sides first, and so on; what the relay `pid` used and did."""
        assert self.process.stdin is not None
        plan = {"targets": targets, "warm_s": WARM_S, "seconds": seconds}
        self.process.stdin.write(json.dumps(plan) + "\n")
        self.process.stdin.flush()
        while self._line() != "begin":
            pass
        before = cpu_s([pid])
        while self._line() != "end":
            pass
        used = cpu_s([pid]) - before
        seen: dict[str, float] = json.loads(self._line())
        return {
            "us_per_packet": round(used * 1e6 / max(1, seen["received"]), 2),
            "packets_per_s": round(seen["received"] / seconds),
            "lost": seen["sent"] - seen["received"] - seen["lost_by_generator"],
            "delay_us_p50": round(seen["delay_us_p50"]),
            "delay_us_p99": round(seen["delay_us_p99"]),
            "generator_late_ms_max": round(seen["late_ms_max"], 1),
            "resident_kib": resident_kib([pid]),
        }


@contextmanager
def generator() -> Iterator[Generator]:
    """A generator on its core."""
    argv = on_core(GENERATOR_CORE, [sys.executable, Path(__file__).with_name("streams.py"), HOST, SOCKETS])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            yield Generator(process)
        finally:
            process.kill()


# Warden


@contextmanager
def warden(folder: Path) -> Iterator[tuple[int, MediaClient, asyncio.AbstractEventLoop]]:
    """A media process of Warden's, and its controller."""
    path = folder / "media.sock"
    argv = on_core(SERVER_CORE, [sys.executable, "-m", "warden.media.process", "--socket", path])
    loop = asyncio.new_event_loop()
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)  # noqa: S603 - ours
    try:
        while not path.exists():
            if process.poll() is not None:
                raise OSError("the media process has ended")
            loop.run_until_complete(asyncio.sleep(0.05))
        client = MediaClient(path, lambda _event: None, lambda: None)
        loop.run_until_complete(client.connect())
        yield process.pid, client, loop
        loop.run_until_complete(client.close())
    finally:
        end(process)
        loop.close()


def peers_of(i: int, calls: int, ports: Sequence[int]) -> tuple[int, int]:
    """Where the generator hears the two streams of a call."""
    a, b = (ports[(2 * i + side) * len(ports) // (2 * calls)] for side in (0, 1))
    return a, b


def put(
    client: MediaClient, loop: asyncio.AbstractEventLoop, calls: int, peers: Sequence[int]
) -> list[tuple[str, int]]:
    """Open the calls; where their streams are to be sent."""
    targets: list[tuple[str, int]] = []
    orders = []
    for i in range(calls):
        ports = MEDIA_PORTS + 4 * i, MEDIA_PORTS + 4 * i + 2
        sides = [
            Side(
                port,
                Address(HOST, peers[(2 * i + side) * len(peers) // (2 * calls)]),
                hosts=(HOST,),
                dtmf_payload_type=101,
            )
            for side, port in enumerate(ports)
        ]
        orders.append(Put(Session(f"call-{i}", HOST, (Stream(*sides),))))
        targets += [(HOST, port) for port in ports]
    answers = loop.run_until_complete(client.apply(orders))
    refused = [answer for answer in answers if not isinstance(answer, Done)]
    if refused:
        raise OSError(str(refused[0]))
    return targets


def measure_warden(calls: int, seconds: float) -> dict[str, float]:
    """The figures of `warden-media` with so many calls."""
    with tempfile.TemporaryDirectory() as folder, generator() as streams, warden(Path(folder)) as (pid, client, loop):
        empty = resident_kib([pid])
        targets = put(client, loop, calls, streams.ports)
        figures = streams.measure(targets, seconds, pid)
        figures["resident_kib_per_call"] = round((figures["resident_kib"] - empty) / calls, 1)
        return figures


# rtpengine, by its ng protocol: bencoded dictionaries over UDP


def bencode(value: Mapping[str, object] | Sequence[object] | str) -> bytes:
    """Encode strings, lists and dictionaries."""
    match value:
        case str():
            data = value.encode()
            return b"%d:%s" % (len(data), data)
        case Mapping():
            return b"d" + b"".join(bencode(k) + bencode(v) for k, v in sorted(value.items())) + b"e"  # type: ignore[arg-type]
        case _:
            return b"l" + b"".join(bencode(item) for item in value) + b"e"  # type: ignore[arg-type]


def bdecode(data: bytes, at: int = 0) -> tuple[Any, int]:
    """Decode the value at `at`; and where the next one is."""
    kind = data[at : at + 1]
    if kind == b"i":
        stop = data.index(b"e", at)
        return int(data[at + 1 : stop]), stop + 1
    if kind in b"ld":
        items, at = [], at + 1
        while data[at : at + 1] != b"e":
            item, at = bdecode(data, at)
            items.append(item)
        return (items if kind == b"l" else dict(zip(items[::2], items[1::2], strict=True))), at + 1
    colon = data.index(b":", at)
    stop = colon + 1 + int(data[at:colon])
    return data[colon + 1 : stop].decode(), stop


class Ng:
    """A controller of rtpengine."""

    def __init__(self, port: int) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.settimeout(5)
        self._sock.connect((HOST, port))
        self._count = 0

    def ask(self, **about: object) -> dict[str, Any]:
        """The answer to a command."""
        self._count += 1
        cookie = b"%d " % self._count
        words = {name.replace("_", "-"): value for name, value in about.items()}
        self._sock.send(cookie + bencode(words))
        answer: dict[str, Any] = bdecode(self._sock.recv(65536).removeprefix(cookie))[0]
        if answer.get("result") not in ("ok", "pong"):
            raise OSError(f"rtpengine: {answer}")
        return answer

    def close(self) -> None:
        """Let go."""
        self._sock.close()


def port_of(sdp: str) -> int:
    """The audio port that an SDP names."""
    return next(int(line.split()[1]) for line in sdp.splitlines() if line.startswith("m=audio"))


def measure_rtpengine(calls: int, seconds: float) -> dict[str, float]:
    """The figures of rtpengine with so many calls."""
    (ng_port,) = free_ports(1)
    argv = [
        "rtpengine", "--config-file=none", "--table=-1", "--foreground", "--log-level=2", "--timeout=600",
        f"--interface={HOST}", f"--listen-ng={HOST}:{ng_port}",
        f"--port-min={MEDIA_PORTS}", f"--port-max={MEDIA_PORTS + 8000}",
    ]  # fmt: skip
    with ExitStack() as stack:
        streams = stack.enter_context(generator())
        process = subprocess.Popen(on_core(SERVER_CORE, argv), stderr=subprocess.DEVNULL)  # noqa: S603 - the peer
        stack.callback(end, process)
        wait_for_udp(ng_port, process)
        ng = Ng(ng_port)
        stack.callback(ng.close)
        empty = resident_kib([process.pid])
        targets: list[tuple[str, int]] = []
        for i in range(calls):
            said = [
                SDP.format(host=HOST, port=port).replace("\n", "\r\n") for port in peers_of(i, calls, streams.ports)
            ]
            about = {"call_id": f"call-{i}", "from_tag": f"a{i}", "replace": ["origin"], "ICE": "remove"}
            for_b = ng.ask(command="offer", sdp=said[0], **about)
            for_a = ng.ask(command="answer", sdp=said[1], to_tag=f"b{i}", **about)
            targets += [(HOST, port_of(for_a["sdp"])), (HOST, port_of(for_b["sdp"]))]
        figures = streams.measure(targets, seconds, process.pid)
        figures["resident_kib_per_call"] = round((figures["resident_kib"] - empty) / calls, 1)
        return figures


def versions() -> dict[str, str]:
    """Of the peer."""
    said = subprocess.run(["rtpengine", "--version"], capture_output=True, text=True, check=False)  # noqa: S607
    return {"rtpengine": (said.stdout + said.stderr).strip().removeprefix("Version: ")}


def measure(calls: int, seconds: float, rounds: int = 1, *, alone: bool = False) -> dict[str, Any]:
    """Both in turn, so many times: the medians, and how many packets we move while rtpengine moves one."""
    servers = {"warden": measure_warden} if alone else {"warden": measure_warden, "rtpengine": measure_rtpengine}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name, of in servers.items():
            taken[name].append(of(calls, seconds))
    cost = {name: statistics.median(found["us_per_packet"] for found in its) for name, its in taken.items()}
    ratio = round(cost["rtpengine"] / cost["warden"], 2) if not alone else None
    return {**cost, "ratio": ratio, "unit": "us of processor time per packet", "details": taken}


def main() -> int:
    """As the module says."""
    parser = argparse.ArgumentParser(description="What a relayed packet costs.")
    parser.add_argument("--calls", type=int, nargs="*", default=CALLS)
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", action="store_true", help="without rtpengine")
    options = parser.parse_args()
    made = {f"relay_{n}": measure(n, options.seconds, options.rounds, alone=options.only) for n in options.calls}
    sys.stdout.write(json.dumps(made, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
