"""The switch alone, fed from a list of messages: what a call or a registration costs before any socket, file or media.

For finding out what a change of the code is worth on a machine that other things run on: the time is that of this
thread alone, in microseconds of a machine whose pace is told by a reference in the same round; the best round counts.
`--profile` shows where it goes, `--counts` tells function calls and bytecodes, which are the same on every machine.
What it finds is no figure: `make bench` is.
"""

import argparse
import cProfile
import gc
import pstats
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

from generator import PASSWORD

from warden.core.address import Address, Flow, Transport
from warden.media.protocol import Order
from warden.node.build import token_source
from warden.sip.digest import authorize
from warden.sip.endpoint import Endpoint
from warden.sip.message import Message, Request, Response
from warden.sip.parser import parse_message
from warden.store.ports import Write
from warden.store.seatfile import Batch, SeatFile
from warden.switch.directory import directory_of, new_extension
from warden.switch.outcome import Outcome
from warden.switch.settings import Settings
from warden.switch.switch import Switch

SERVER: Final = Address("127.0.0.1", 5060)
CALLER: Final = Address("127.0.0.1", 6001)
CALLEE: Final = Address("127.0.0.1", 6002)
REALM: Final = "bench"
TOGETHER: Final = 8
"""Messages that are read, written and spoken together under load."""
NUMBERS: Final = 100
SETTLED_S: Final = 40.0
"""Nothing of a call is left so long after it, not even its transactions."""
REFERENCE_TURNS: Final = 600
REFERENCE_S: Final = 0.01
"""What the reference takes on the machine that the figures are told for."""
SDP: Final = (
    "v=0\r\no=sipp {origin} 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio {port} RTP/AVP 0 8 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n"
    "a=rtpmap:101 telephone-event/8000\r\n"
)


class Heard(NamedTuple):
    """A datagram for the switch: who says it, what it says, and under which name its cost is told."""

    flow: Flow
    data: bytes
    name: str


class Profile:
    """Where the time goes with the messages of one name."""

    def __init__(self, name: str) -> None:
        self.made = cProfile.Profile()
        self._name = name

    def of(self, name: str) -> AbstractContextManager[object]:
        """What is done in the block is done about messages of that name."""
        return self.made if name == self._name else nullcontext()


class Counts:
    """Function calls and bytecodes, by the name of what they are done for."""

    def __init__(self) -> None:
        self.made: dict[str, list[int]] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """What is done in the block is counted for that name."""
        counted = self.made.setdefault(name, [0, 0])

        def called(_frame: FrameType, event: str, _about: object) -> None:
            counted[0] += event in ("call", "c_call")

        def stepped(frame: FrameType, event: str, _about: object) -> Callable[..., Any]:
            frame.f_trace_opcodes = True
            counted[1] += event == "opcode"
            return stepped

        sys.setprofile(called)
        sys.settrace(stepped)
        try:
            yield
        finally:
            sys.settrace(None)
            sys.setprofile(None)


class Stand:
    """A switch on its stand, with the file that it writes to and a media process that is only told."""

    def __init__(self, file: SeatFile | None) -> None:
        settings = Settings("seat", "node", REALM, {Transport.UDP: SERVER}, SERVER.host, SERVER.host, (10_000, 60_000))
        self.now = 1_700_000_000.0
        self.spent_s: dict[str, float] = {}
        self.profile: Profile | Counts | None = None
        self._file = file
        self._written: list[Write] = []
        self._ordered: list[Order] = []
        self._new_token = token_source()
        self.switch = Switch(
            settings, Endpoint(self._new_token, settings.advertised), b"secret of the bench", self._new_token
        )
        people = [new_extension(str(1000 + n), PASSWORD, realm=REALM, now=0.0) for n in range(2 * NUMBERS)]
        self.switch.replace_directory(self.now, directory_of(people, 1))
        if file is not None:
            file.claim("seat", "bench")

    def hear(self, heard: list[Heard]) -> list[list[Message]]:
        """What the switch answers to each of these, which are of one name and come together."""
        outcomes = []
        before = time.thread_time()
        with self._watched(heard[0].name):
            for flow, data, _ in heard:
                outcomes.append(self.switch.received(self.now, flow, parse_message(data)))
        self._spend(heard[0].name, before)
        said = [self._carry_out(outcome) for outcome in outcomes]
        before = time.thread_time()
        if self._written and self._file is not None:
            with self._watched("store"):
                self._file.write([Batch("seat", 1, self._written)])
            self._spend("store", before)
        self._written.clear()
        self._ordered.clear()
        return said

    def _carry_out(self, outcome: Outcome) -> list[Message]:
        self._written += outcome.writes
        self._ordered += outcome.orders
        return [parse_message(send.data) for send in outcome.sends]

    def pass_time(self, seconds: float) -> None:
        """Nobody speaks for so long."""
        until = self.now + seconds
        while (at := self.switch.deadline) is not None and at <= until:
            self.now = max(self.now, at)
            before = time.thread_time()
            with self._watched("timers"):
                outcome = self.switch.tick(self.now)
            self._spend("timers", before)
            self._carry_out(outcome)
        self.now = until

    def _watched(self, name: str) -> AbstractContextManager[object]:
        return nullcontext() if self.profile is None else self.profile.of(name)

    def _spend(self, name: str, since: float) -> None:
        self.spent_s[name] = self.spent_s.get(name, 0.0) + time.thread_time() - since


def in_groups(stand: Stand, heard: list[Heard]) -> list[list[Message]]:
    """As `Stand.hear`, some at a time."""
    said: list[list[Message]] = []
    for at in range(0, len(heard), TOGETHER):
        stand.now += 0.003
        said += stand.hear(heard[at : at + TOGETHER])
    return said


def flow_of(peer: Address) -> Flow:
    """How a peer is reached."""
    return Flow(Transport.UDP, SERVER, peer)


def request(method: str, user: str, to: str, call_id: str, seq: int, peer: Address, *more: tuple[str, str]) -> Request:
    """A request as SIPp writes it."""
    target = f"sip:{to}@{SERVER}" if to else f"sip:{SERVER}"
    fields = (
        ("Via", f"SIP/2.0/UDP {peer};branch=z9hG4bK-{call_id}-{seq}-{method}"),
        ("Max-Forwards", "70"),
        ("From", f"<sip:{user}@{SERVER.host}>;tag=c{call_id}"),
        ("To", f"<sip:{to or user}@{SERVER.host}>"),
        ("Call-ID", call_id),
        ("CSeq", f"{seq} {method}"),
        ("Contact", f"<sip:{user}@{peer}>"),
    )
    names = {name for name, _ in more}
    return Request(method, target, (*(f for f in fields if f[0] not in names), *more))


def proof(asked: Request, challenges: list[str], user: str) -> tuple[str, str]:
    """Credentials, by MD5 as SIPp has them."""
    wanted = [c for c in challenges if "algorithm=MD5" in c]
    value = authorize(
        wanted, username=user, password=PASSWORD, method=asked.method, uri=asked.target, cnonce="6b8b4567"
    )
    return "Authorization", value


def register(stand: Stand, users: list[str], peer: Address, tag: str) -> None:
    """Each user registers, challenged first."""
    first = [request("REGISTER", u, "", f"r{tag}{u}", 1, peer, ("Expires", "3600")) for u in users]
    asked = in_groups(stand, [Heard(flow_of(peer), bytes(r), "REGISTER 1") for r in first])
    second = [
        request(
            "REGISTER", u, "", f"r{tag}{u}", 2, peer,
            ("Expires", "3600"), proof(r, answers[0].get_all("WWW-Authenticate"), u),
        )
        for u, r, answers in zip(users, first, asked, strict=True)
    ]  # fmt: skip
    said = in_groups(stand, [Heard(flow_of(peer), bytes(r), "REGISTER 2") for r in second])
    assert all(_status(answers) == 200 for answers in said), "the bench knows its own passwords"


def call(stand: Stand, count: int, tag: str) -> Iterator[None]:
    """So many calls, in step with each other; they stand at the one yield."""
    pairs = [(str(1000 + n % NUMBERS), str(1000 + NUMBERS + n % NUMBERS), f"k{tag}-{n}") for n in range(count)]
    caller, callee = flow_of(CALLER), flow_of(CALLEE)

    def body(n: int) -> bytes:
        return SDP.format(origin=f"{stand.now:.0f}{n}", port=7000).encode()

    sdp = ("Content-Type", "application/sdp")

    def invite(user: str, to: str, call_id: str, seq: int, *more: tuple[str, str]) -> Request:
        made = request("INVITE", user, to, call_id, seq, CALLER, *more, sdp)
        return Request(made.method, made.target, made.fields, body(int(call_id.rpartition("-")[2])))

    first = [invite(*pair, 1) for pair in pairs]
    asked = in_groups(stand, [Heard(caller, bytes(r), "INVITE 1") for r in first])
    acks = [
        request("ACK", user, to, call_id, 1, CALLER, ("To", answers[0].get("To") or ""), ("Via", r.get("Via") or ""))
        for (user, to, call_id), r, answers in zip(pairs, first, asked, strict=True)
    ]
    in_groups(stand, [Heard(caller, bytes(ack), "ACK 1") for ack in acks])
    second = [
        invite(*pair, 2, proof(r, answers[0].get_all("WWW-Authenticate"), pair[0]))
        for pair, r, answers in zip(pairs, first, asked, strict=True)
    ]
    said = in_groups(stand, [Heard(caller, bytes(r), "INVITE 2") for r in second])
    rung = [next(m for m in answers if isinstance(m, Request)) for answers in said]

    def reply(asked: Request, status: int, name: str, n: int) -> Heard:
        fields = (("Contact", f"<sip:callee@{CALLEE}>"), *((sdp,) if status == 200 and name == "200" else ()))
        answer = asked.respond(status, *fields, to_tag=f"u{tag}{n}", body=body(n) if name == "200" else b"")
        return Heard(callee, bytes(answer), name)

    in_groups(stand, [reply(r, 180, "180", n) for n, r in enumerate(rung)])
    stand.now += 0.02
    said = in_groups(stand, [reply(r, 200, "200", n) for n, r in enumerate(rung)])
    up = [next(m for m in answers if isinstance(m, Response)) for answers in said]

    def in_dialog(method: str, seq: int, pair: tuple[str, str, str], answer: Response) -> Heard:
        made = request(method, *pair, seq, CALLER, ("To", answer.get("To") or ""))
        return Heard(caller, bytes(Request(method, str(answer.contacts[0].uri), made.fields)), method)

    acked = [in_dialog("ACK", 2, pair, answer) for pair, answer in zip(pairs, up, strict=True)]
    in_groups(stand, acked)
    yield
    byes = [in_dialog("BYE", 3, pair, answer) for pair, answer in zip(pairs, up, strict=True)]
    said = in_groups(stand, byes)
    hung_up = [next(m for m in answers if isinstance(m, Request)) for answers in said]
    in_groups(stand, [reply(r, 200, "200 of BYE", n) for n, r in enumerate(hung_up)])


def _status(answers: list[Message]) -> int:
    return next((m.status for m in answers if isinstance(m, Response)), 0)


def reference_s() -> float:
    """A piece of work that is always the same, in seconds: the machine's pace at the moment."""
    text = SDP * 8
    before = time.thread_time()
    for _ in range(REFERENCE_TURNS):
        found = {}
        for line in text.split("\r\n"):
            name, _, value = line.partition("=")
            found[name] = found.get(name, 0) + len(value.strip())
    return (time.thread_time() - before) / REFERENCE_S


def measure(stand: Stand, rounds: int, count: int, work: Callable[[str], None]) -> None:
    """The best round of some, by name of message, in microseconds each."""
    best: dict[str, float] = {}
    for n in range(rounds):
        gc.collect()
        stand.spent_s = {}
        before = reference_s()
        work(str(n))
        stand.pass_time(SETTLED_S)
        pace = (before + reference_s()) / 2
        spent = {name: spent_s / pace for name, spent_s in stand.spent_s.items()}
        if not best or sum(spent.values()) < sum(best.values()):
            best = spent
    for name, spent in (*best.items(), ("all", sum(best.values()))):
        sys.stdout.write(f"  {name:12} {spent / count * 1e6:7.1f}\n")


def count(stand: Stand, each: int, work: Callable[[str], None]) -> None:
    """Function calls and bytecodes of the second round, by name of message."""
    work("warm")
    stand.pass_time(SETTLED_S)
    counts = stand.profile = Counts()
    work("counted")
    stand.pass_time(SETTLED_S)
    all_calls, all_steps = (sum(made[i] for made in counts.made.values()) for i in (0, 1))
    for name, (calls, steps) in (*counts.made.items(), ("all", (all_calls, all_steps))):
        sys.stdout.write(f"  {name:12} {calls / each:9.1f} {steps / each:9.0f}\n")


@contextmanager
def a_stand(*, stores: bool) -> Iterator[Stand]:
    """A stand, with a file where asked for."""
    with tempfile.TemporaryDirectory(prefix="warden-bench-") as folder:
        file = SeatFile(Path(folder) / "state.sqlite") if stores else None
        yield Stand(file)
        if file is not None:
            file.close()


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=400, help="calls or registrations of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--profile", metavar="NAME", help="of a message, as it is listed")
    parser.add_argument("--counts", action="store_true", help="function calls and bytecodes in place of time")
    parser.add_argument("--only", choices=("calls", "registrations"))
    options = parser.parse_args()
    profile = None if options.profile is None else Profile(options.profile)
    users = [str(1000 + NUMBERS + n) for n in range(NUMBERS)]

    def calls(stand: Stand, tag: str) -> None:
        for _ in call(stand, options.count, tag):
            stand.pass_time(1.0)

    def registrations(stand: Stand, tag: str) -> None:
        for n in range(max(1, options.count // NUMBERS)):
            register(stand, users, CALLEE, f"{tag}x{n}x")

    for name, work in (("calls", calls), ("registrations", registrations)):
        if name == (options.only or name):
            with a_stand(stores=True) as stand:
                register(stand, users, CALLEE, "before")
                sys.stdout.write(f"{name}:\n")
                if options.counts:
                    each = options.count if name == "calls" else max(1, options.count // NUMBERS) * NUMBERS
                    count(stand, each, partial(work, stand))
                    continue
                stand.profile = profile
                measure(stand, options.rounds, options.count, partial(work, stand))
    if profile is not None:
        pstats.Stats(profile.made).sort_stats("tottime").print_stats(70)
    return 0


if __name__ == "__main__":
    sys.exit(main())
