"""Who controls the media process, what it keeps when nobody does, and how it begins and ends."""

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from warden.core.address import Address
from warden.core.errors import Unavailable
from warden.media.client import MediaClient, OtherVersion
from warden.media.control import frame
from warden.media.launch import ensure
from warden.media.protocol import (
    EXIT_TAKEN,
    Answers,
    Clip,
    Digit,
    Done,
    Drop,
    Dropped,
    Event,
    Hello,
    Latched,
    List,
    Listed,
    Mode,
    Orders,
    Played,
    Playing,
    Put,
    Quit,
    Refused,
    Session,
    Side,
    Stream,
)
from warden.rtp import dtmf, packet
from warden.rtp.packet import Packet

from media_lab import HOST, PATIENCE_S, Lab, running_lab


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with running_lab() as lab:
        yield lab


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="wm"))
    yield made
    shutil.rmtree(made)


def start(folder: Path, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "warden.media.process", "--socket", str(folder / "m"), *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


async def attached(path: Path) -> MediaClient:
    """A client of a process that is being started."""
    client = MediaClient(path, lambda _: None, lambda: None)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await client.connect()
            except Unavailable:
                await asyncio.sleep(0.01)
            else:
                return client


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    log = process.communicate(timeout=PATIENCE_S)[1]
    return process.returncode, log


async def reaped(pid: int) -> None:
    """Wait for the end of a process that this one started."""
    await asyncio.to_thread(os.waitpid, pid, 0)


def left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Raw:
    """A controller without asyncio, so that it can die like a killed process: its socket is just closed."""

    def __init__(self, path: Path, hello: Hello | None = None) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(str(path))
        self.sock.sendall(frame(hello or Hello()))

    def ends(self) -> bool:
        """True once the process has closed the connection."""
        while self.sock.recv(4096):
            pass
        return True


async def test_audio_goes_on_without_a_missing_packet_when_the_controller_dies_and_another_takes_over(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    session = await lab.call(alice, bob)
    a, b = lab.ports_of(session)
    heard = 0
    for turn in range(120):
        if turn == 40:
            await lab.client.close()
        if turn == 80:
            lab.client = MediaClient(lab.folder / "m", lab.events.put_nowait, lab.lost.set)
            await lab.client.connect()
            assert await lab.order(List()) == Listed(("call",))
            await lab.put(session)
        said, answered = alice.talk(a), bob.talk(b)
        assert await bob.hear() == said
        assert await alice.hear() == answered
        heard += 1
    dropped = await lab.drop("call")
    assert [(s.packets, s.lost, s.sent) for s in dropped.stats] == [(heard, 0, heard)] * 2


async def test_newer_controller_replaces_the_older(lab: Lab) -> None:
    newer: asyncio.Queue[Event] = asyncio.Queue()
    client = MediaClient(lab.folder / "m", newer.put_nowait, lambda: None)
    await client.connect()
    await asyncio.wait_for(lab.lost.wait(), PATIENCE_S)
    with pytest.raises(Unavailable):
        await lab.client.apply([List()])
    assert await client.apply([List()]) == [Listed(())]
    await lab.client.close()
    lab.client = client
    lab.lost.set()


async def test_what_happened_without_a_controller_is_told_to_the_next(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    a, b = lab.ports(2)
    unknown = Side(a, hosts=(HOST,), dtmf_payload_type=101)
    playing = Playing("p", (Clip(ms=40),), "PCMU", 0)
    session = Session("call", HOST, (Stream(unknown, lab.side(b, bob)),), playing)
    await lab.put(session)
    await lab.client.close()
    alice.talk(a)
    await bob.hear()
    for payload in dtmf.encode("5", duration=480):
        alice.number += 1
        alice.send(a, packet.build(Packet(101, alice.number & 0xFFFF, 77, alice.ssrc, payload)))
        await bob.hear()
    await alice.hear(2)
    lab.client = MediaClient(lab.folder / "m", lab.events.put_nowait, lab.lost.set)
    await lab.client.connect()
    assert await lab.event() == Digit("call", a, "5", 60)
    await lab.put(session)
    told = {await lab.event()}
    # The clip ends a frame's time after its last packet, which may be before or after the order.
    told.add(await lab.event())
    assert told == {Latched("call", a, alice.address), Played("call", "p")}
    await lab.put(session)
    await lab.totals()
    assert lab.events.empty(), "once is enough"


async def test_same_put_again_changes_nothing_and_opens_nothing(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    session = await lab.call(alice, bob)
    a, _ = lab.ports_of(session)
    alice.talk(a, 5)
    await bob.hear(5)
    before = descriptors(lab.client.pid)
    assert await lab.client.apply([Put(session)] * 20) == [Done()] * 20
    assert descriptors(lab.client.pid) == before
    alice.talk(a, 5)
    await bob.hear(5)
    stats = (await lab.drop("call")).stats[0]
    assert (stats.packets, stats.lost) == (10, 0)
    assert await lab.drop("call") == Dropped(), "nor is it an error to drop it twice"


async def test_put_opens_what_is_new_and_closes_what_is_gone(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    a, b, c, d = lab.ports(4)
    audio = Stream(lab.side(a, alice), lab.side(b, bob))
    video = Stream(lab.side(c, alice), lab.side(d, bob))
    await lab.put(Session("call", HOST, (audio,)))
    one = descriptors(lab.client.pid)
    await lab.put(Session("call", HOST, (audio, video)))
    assert descriptors(lab.client.pid) == one + 4
    for port in (a, c):
        said = alice.talk(port)
        assert await bob.hear() == said
    await lab.put(Session("call", HOST, (audio,)))
    assert descriptors(lab.client.pid) == one
    said = alice.talk(a)
    assert await bob.hear() == said
    assert (await lab.totals()).packets == 3, "what a closed port has counted is not forgotten"


async def test_taken_port_is_refused_with_its_number_and_nothing_is_changed(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    session = await lab.call(alice, bob)
    a, b = lab.ports_of(session)
    c, taken = lab.ports(2)
    before = descriptors(lab.client.pid)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((HOST, taken + 1))
        more = Stream(lab.side(c, alice), lab.side(taken, bob))
        answer = await lab.order(Put(Session("call", HOST, (session.streams[0], more))))
        assert isinstance(answer, Refused)
        assert str(taken + 1) in answer.why
    assert descriptors(lab.client.pid) == before
    said = alice.talk(a)
    assert await bob.hear() == said
    thief = await lab.order(Put(Session("thief", HOST, (Stream(lab.side(b, alice)),))))
    assert isinstance(thief, Refused)
    assert await lab.order(List()) == Listed(("call",))


NONSENSE: list[tuple[Stream, ...]] = [
    (),
    (Stream(Side(12001)),),
    (Stream(Side(80)),),
    (Stream(Side(12000), Side(12000)),),
    (Stream(Side(12000, Address("phone.example.com", 4000))),),
    (Stream(Side(12000, Address("224.0.0.1", 4000))),),
    (Stream(Side(12000, Address("::1", 4000))),),
    (Stream(Side(12000, Address(HOST, 12002)), Side(12002)),),
    (Stream(Side(12000, hosts=("example.com",))),),
    (Stream(Side(12000, Address(HOST, 70000))),),
    (Stream(Side(12000, dtmf_payload_type=200)),),
    tuple(Stream(Side(port)) for port in range(12000, 12020, 2)),
]


async def test_order_that_makes_no_sense_is_refused(lab: Lab) -> None:
    for streams in NONSENSE:
        answer = await lab.order(Put(Session("call", HOST, streams)))
        assert isinstance(answer, Refused), streams
    assert await lab.order(List()) == Listed(())


async def test_two_hundred_sessions_leave_no_descriptor_behind_and_their_ports_are_free(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    before = descriptors(lab.client.pid)
    ports = lab.ports(400)
    sessions = [
        Session(f"call-{i}", HOST, (Stream(lab.side(ports[2 * i], alice), lab.side(ports[2 * i + 1], bob)),))
        for i in range(200)
    ]
    answers = await lab.client.apply([Put(session) for session in sessions])
    assert answers == [Done()] * 200
    assert descriptors(lab.client.pid) == before + 800
    for session in sessions:
        alice.talk(session.streams[0].a.port)
    await bob.hear(200)
    answers = await lab.client.apply([Drop(session.id) for session in sessions])
    assert all(isinstance(answer, Dropped) and answer.stats[0].packets == 1 for answer in answers)
    assert descriptors(lab.client.pid) == before
    for port in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind((HOST, port))


async def test_new_call_on_a_used_port_does_not_hear_the_old_one(lab: Lab) -> None:
    alice, bob, carol = lab.phone(), lab.phone(ssrc=2), lab.phone("127.0.0.3", ssrc=3)
    a, b = lab.ports_of(await lab.call(alice, bob))
    alice.talk(a)
    await bob.hear()
    await lab.drop("call")
    await lab.put(Session("next", HOST, (Stream(lab.side(a, carol), lab.side(b, bob)),)))
    alice.talk(a, 9)
    said = carol.talk(a)
    assert await bob.hear() == said


async def test_process_left_alone_ends_by_itself_and_removes_its_files(folder: Path) -> None:
    process = start(folder, "--orphan-s", "0.3")
    client = await attached(folder / "m")
    assert stat.S_IMODE((folder / "m").stat().st_mode) == 0o600
    assert int((folder / "m.pid").read_text()) == process.pid == client.pid
    await client.close()
    status, log = ended(process)
    assert status == 0
    assert "left alone" in log
    assert left_in(folder) == []


async def test_quit_ends_the_process_after_its_answer(folder: Path) -> None:
    process = start(folder)
    client = await attached(folder / "m")
    assert await client.apply([List(), Quit()]) == [Listed(()), Done()]
    status, log = ended(process)
    await client.close()
    assert (status, "told to quit" in log) == (0, True)
    assert left_in(folder) == []


async def test_terminal_signals_do_not_end_the_audio_but_sigterm_does(folder: Path) -> None:
    process = start(folder)
    client = await attached(folder / "m")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGHUP)
    assert await client.apply([List()]) == [Listed(())]
    process.terminate()
    status, log = ended(process)
    await client.close()
    assert (status, "terminated" in log) == (0, True)
    assert left_in(folder) == []


async def test_second_process_on_the_same_socket_refuses_to_start_and_the_first_is_not_disturbed(folder: Path) -> None:
    process = start(folder)
    client = await attached(folder / "m")
    status, log = ended(start(folder))
    assert status == EXIT_TAKEN
    assert "another process serves this socket" in log
    assert await client.apply([List(), Quit()]) == [Listed(()), Done()]
    await client.close()
    ended(process)


async def test_killed_process_is_replaced_on_its_stale_socket(folder: Path) -> None:
    lost = asyncio.Event()
    first = await ensure(folder / "m", lambda _: None, lost.set, log=folder / "log")
    again = await ensure(folder / "m", lambda _: None, lambda: None, log=folder / "log")
    assert again.pid == first.pid, "a process that is there is used"
    os.kill(first.pid, signal.SIGKILL)
    await asyncio.wait_for(lost.wait(), PATIENCE_S)
    next_one = await ensure(folder / "m", lambda _: None, lambda: None, log=folder / "log")
    assert next_one.pid != first.pid
    with pytest.raises(ChildProcessError):
        await reaped(first.pid)  # It is no zombie either.
    assert await next_one.apply([List(), Quit()]) == [Listed(()), Done()]
    for client in (first, again, next_one):
        await client.close()
    await reaped(next_one.pid)


async def test_started_process_is_in_a_session_of_its_own_and_writes_to_its_log(folder: Path) -> None:
    client = await ensure(folder / "m", lambda _: None, lambda: None, log=folder / "log")
    assert os.getsid(client.pid) == client.pid
    await client.apply([Quit()])
    await client.close()
    await reaped(client.pid)
    assert "told to quit" in (folder / "log").read_text()


async def test_started_process_has_what_python_needs_of_the_environment_and_no_secret(folder: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from warden.media.launch import ensure\n"
        "async def main():\n"
        "    client = await ensure(Path(sys.argv[1]), print, print, log=Path(sys.argv[2]))\n"
        "    print(client.pid)\n"
        "    await client.close()\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, "DB_PASSWORD": "hunter2", "TMPDIR": str(folder), "LC_TIME": "C"}
    command = [sys.executable, "-c", program, str(folder / "m"), str(folder / "log")]
    starter = await asyncio.to_thread(
        subprocess.run, command, env=environment, check=True, stdout=subprocess.PIPE, timeout=PATIENCE_S
    )
    pid = int(starter.stdout)
    try:
        has = dict(item.split("=", 1) for item in Path(f"/proc/{pid}/environ").read_text().split("\0") if item)
    finally:
        client = await attached(folder / "m")
        await client.apply([Quit()])
        await client.close()
    assert "DB_PASSWORD" not in has
    assert (has["PATH"], has["TMPDIR"], has["LC_TIME"]) == (os.environ["PATH"], str(folder), "C")
    async with asyncio.timeout(PATIENCE_S):
        while (folder / "m.pid").exists():
            await asyncio.sleep(0.01)


async def test_process_of_another_version_is_named_at_once_and_left_alone(folder: Path) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(Hello(version=99, pid=4711)))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_unix_server(answer, folder / "m"):
        with pytest.raises(OtherVersion, match=r"99.*end it when no calls are up \(kill 4711\)"):
            await ensure(folder / "m", lambda _: None, lambda: None, log=folder / "log")
    assert not (folder / "log").exists(), "no other one was started"


async def test_socket_that_cannot_be_made_is_told_with_the_log_that_says_why(folder: Path) -> None:
    with pytest.raises(Unavailable, match="ended with status 1"):
        await ensure(folder / "absent" / "m", lambda _: None, lambda: None, log=folder / "log")
    assert "No such file" in (folder / "log").read_text()


async def test_socket_whose_path_is_too_long_is_told_before_anything_is_started(folder: Path) -> None:
    with pytest.raises(Unavailable, match="too long for a Unix socket"):
        await ensure(folder / ("long" * 40), lambda _: None, lambda: None, log=folder / "log")
    assert not (folder / "log").exists()


async def test_process_that_does_not_answer_is_unavailable_within_the_time_given(lab: Lab) -> None:
    client = MediaClient(lab.folder / "m", lambda _: None, lambda: None, answer_s=0.2)
    await client.connect()
    os.kill(client.pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match="did not answer"):
            await client.apply([List()])
        with pytest.raises(Unavailable, match="does not answer"):
            await MediaClient(lab.folder / "m", lambda _: None, lambda: None, answer_s=0.2).connect()
        for _ in range(4):
            Raw(lab.folder / "m").sock.close()
    finally:
        os.kill(client.pid, signal.SIGCONT)
    assert await client.apply([List()]) == [Listed(())], "the late answer is not taken for this one"
    # Nor do those who gave up waiting replace one who did not.
    assert await client.apply([List()]) == [Listed(())]
    waiting = asyncio.create_task(client.apply([List()]))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(Unavailable):
        await waiting
    lab.client = await attached(lab.folder / "m")
    lab.lost.set()


async def test_controller_that_speaks_nonsense_is_shown_the_door_and_the_calls_go_on(lab: Lab) -> None:
    alice, bob = lab.phone(), lab.phone(ssrc=2)
    a, _ = lab.ports_of(await lab.call(alice, bob))
    for nonsense in (
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x02{}",
        b"\x00\x00\x00\x01\xc1",
        frame(Hello()) + b"\x00\x00\x00\x01\x80",
    ):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(str(lab.folder / "m"))
            connection.sendall(nonsense)
            while connection.recv(4096):
                pass
    other = Raw(lab.folder / "m", Hello(version=99))
    assert other.ends()
    other.sock.close()
    said = alice.talk(a)
    assert await bob.hear() == said
    await lab.client.close()
    lab.client = await attached(lab.folder / "m")
    lab.lost.set()
    assert await lab.order(List()) == Listed(("call",))


async def test_thousands_of_orders_at_once_do_not_stop_the_audio(lab: Lab) -> None:
    alice = lab.phone()
    (a,) = lab.ports()
    await lab.put(Session("echo", HOST, (Stream(lab.side(a, alice), mode=Mode.ECHO),)))
    ports = lab.ports(500)
    orders = [Put(Session(f"s{port}", HOST, (Stream(Side(port)),))) for port in ports]
    applying = asyncio.create_task(lab.client.apply(orders))
    echoed = 0
    while not applying.done():
        alice.talk(a)
        await alice.hear()
        echoed += 1
    assert await applying == [Done()] * 500
    assert echoed > 10, "packets have their turn between the orders"


async def test_frames_are_read_however_they_are_cut(lab: Lab) -> None:
    raw = Raw(lab.folder / "m")
    for octet in frame(Orders(1, (List(),))) + frame(Orders(2, (List(),)))[:5]:
        raw.sock.sendall(bytes([octet]))
    expected = frame(Hello(pid=lab.client.pid)) + frame(Answers(1, (Listed(()),)))
    heard = b""
    while len(heard) < len(expected):
        heard += raw.sock.recv(4096)
    assert heard == expected
    raw.sock.close()
    await lab.client.close()
    lab.client = await attached(lab.folder / "m")
    lab.lost.set()
