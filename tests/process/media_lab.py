"""A real media process with real sockets, and phones that send numbered RTP. Everything is asked for through `lab`."""

import asyncio
import os
import random
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from warden.core.address import Address
from warden.media.client import MediaClient
from warden.media.launch import ensure
from warden.media.protocol import (
    Answer,
    Done,
    Drop,
    Dropped,
    Event,
    Order,
    Put,
    Quit,
    Session,
    Side,
    Stream,
    Totals,
    TotalsAre,
)
from warden.rtp import packet
from warden.rtp.packet import Packet

HOST = "127.77.0.1"
PATIENCE_S = 10.0


class Phone:
    """A UDP socket that sends numbered RTP and hears what comes."""

    def __init__(self, host: str = HOST, ssrc: int = 1, payload_type: int = 0) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.sock.bind((host, 0))
        self.sock.setblocking(False)
        self.address = Address(*self.sock.getsockname())
        self.ssrc = ssrc
        self.type = payload_type
        self.number = 65530  # Every stream passes the wrap.

    def packet(self, payload: bytes = b"") -> bytes:
        self.number += 1
        return packet.build(
            Packet(
                self.type,
                self.number & 0xFFFF,
                160 * self.number,
                self.ssrc,
                payload or bytes([self.number % 251]) * 160,
            )
        )

    def send(self, port: int, data: bytes, host: str = HOST) -> bytes:
        self.sock.sendto(data, (host, port))
        return data

    def talk(self, port: int, packets: int = 1) -> list[bytes]:
        return [self.send(port, self.packet()) for _ in range(packets)]

    async def hear(self, packets: int = 1) -> list[bytes]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_S):
            return [await loop.sock_recv(self.sock, 4096) for _ in range(packets)]

    def hears_nothing(self) -> bool:
        """Nothing has come. Only meaningful after an answer of the media process, which takes packets before orders."""
        try:
            self.sock.recv(4096)
        except BlockingIOError:
            return True
        return False


@dataclass
class Lab:
    """A media process, its controller, and what it told."""

    folder: Path
    client: MediaClient
    events: "asyncio.Queue[Event]"
    lost: asyncio.Event
    phones: list[Phone] = field(default_factory=list)

    def phone(self, host: str = HOST, **kind: int) -> Phone:
        self.phones.append(Phone(host, **kind))
        return self.phones[-1]

    def ports(self, count: int = 1) -> list[int]:
        """Even ports that are free now, with the next one; below those that the kernel hands out."""
        found: list[int] = []
        while len(found) < count:
            port = random.randrange(12_000, 32_000, 2)
            if port in found:
                continue
            with (
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as even,
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as odd,
            ):
                try:
                    even.bind((HOST, port))
                    odd.bind((HOST, port + 1))
                except OSError:
                    continue
            found.append(port)
        return found

    async def order(self, order: Order) -> Answer:
        return (await self.client.apply([order]))[0]

    async def put(self, session: Session) -> None:
        answer = await self.order(Put(session))
        assert answer == Done(), answer

    async def event(self) -> Event:
        async with asyncio.timeout(PATIENCE_S):
            return await self.events.get()

    async def totals(self) -> TotalsAre:
        answer = await self.order(Totals())
        assert isinstance(answer, TotalsAre)
        return answer

    async def drop(self, session: str) -> Dropped:
        answer = await self.order(Drop(session))
        assert isinstance(answer, Dropped)
        return answer

    async def settle(self, packets: int) -> None:
        """Wait until the process has taken or thrown away this many packets in all."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                totals = await self.totals()
                if totals.packets + totals.dropped >= packets:
                    return

    async def call(self, caller: Phone, callee: Phone, **more: object) -> Session:
        """A relayed call between two phones whose SDP is right."""
        a, b = self.ports(2)
        session = Session(
            id="call",
            host=HOST,
            streams=(Stream(self.side(a, caller), self.side(b, callee)),),
            **more,  # type: ignore[arg-type]
        )
        await self.put(session)
        return session

    @staticmethod
    def side(port: int, phone: Phone, **more: object) -> Side:
        return Side(port, phone.address, hosts=(phone.address.host,), **more)  # type: ignore[arg-type]

    @staticmethod
    def ports_of(session: Session) -> tuple[int, int]:
        stream = session.streams[0]
        assert stream.b is not None
        return stream.a.port, stream.b.port


@asynccontextmanager
async def running_lab() -> AsyncIterator[Lab]:
    """A process of its own, and nothing of it left behind."""
    # Not pytest's folder: the path of a Unix socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="wm"))
    events: asyncio.Queue[Event] = asyncio.Queue()
    lost = asyncio.Event()
    client = await ensure(folder / "m", events.put_nowait, lost.set, log=folder / "log", orphan_s=30.0)
    lab = Lab(folder, client, events, lost)
    try:
        yield lab
        assert await lab.order(Quit()) == Done()
        ending = asyncio.to_thread(os.waitpid, client.pid, 0)
        assert await asyncio.wait_for(ending, PATIENCE_S) == (client.pid, 0)
        assert "Traceback" not in (folder / "log").read_text()
        assert sorted(path.name for path in folder.glob("m*")) == []
    except BaseException:
        os.kill(client.pid, signal.SIGKILL)
        raise
    finally:
        for phone in lab.phones:
            phone.sock.close()
        await lab.client.close()
        await client.close()
        shutil.rmtree(folder)
