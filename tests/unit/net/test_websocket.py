"""SIP over WebSocket (RFC 7118): a page's connection, whole and broken, over TLS and behind a balancer."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.net.conftest import TLS, Authority, Machine, Start, options, turns_until
from tests.unit.net.test_proxied import BALANCER, closed, dial, header
from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from warden.core.address import Address, Flow, Transport
from warden.net.counters import Dropped
from warden.net.settings import Limits, Tls
from warden.net.websocket import FRAGMENTS_MAX, HANDSHAKE_BYTES_MAX, MESSAGE_BYTES_MAX, WebSocket
from warden.sip.message import Request
from warden.sip.stream import Broken, Item, KeepAlive

WS, WSS = Transport.WS, Transport.WSS
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: pbx.example.com\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Origin: https://phone.example.com\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OTAxMjM0NQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: %s\r\n\r\n"
)
HANDSHAKE = UPGRADE % b"sip"
"""What a browser sends first."""


def frame(data: bytes, opcode: Opcode = Opcode.TEXT, *, fin: bool = True) -> bytes:
    """A frame as a browser masks it."""
    return Frame(opcode, data, fin).serialize(mask=True)


CLOSE = frame(Close(1000, "").serialize(), Opcode.CLOSE)


def opened() -> WebSocket:
    """One whose handshake is done."""
    framing = WebSocket()
    assert framing.receive(HANDSHAKE) == []
    assert framing.owed().startswith(b"HTTP/1.1 101 ")
    assert framing.is_open
    return framing


def shown(items: list[Item]) -> list[object]:
    """Items as they can be compared."""
    return [
        item.call_id if isinstance(item, Request) else item if isinstance(item, KeepAlive) else Broken for item in items
    ]


def without_length(number: int) -> bytes:
    return options(number).replace(b"Content-Length: 0\r\n", b"")


# The framing by itself


def test_a_handshake_in_pieces_is_answered_when_it_is_whole_with_the_subprotocol_that_was_agreed() -> None:
    framing = WebSocket()
    for i in range(len(HANDSHAKE)):
        assert not framing.is_open
        assert framing.owed() == b""
        framing.receive(HANDSHAKE[i : i + 1])
    answer = framing.owed()
    assert b"Sec-WebSocket-Protocol: sip\r\n" in answer
    assert b"Sec-WebSocket-Extensions" not in answer
    assert framing.is_open


@pytest.mark.parametrize(
    ("first", "answer"),
    [
        (UPGRADE % b"mqtt", b"HTTP/1.1 400 "),
        (HANDSHAKE.replace(b"Sec-WebSocket-Protocol: sip\r\n", b""), b"HTTP/1.1 400 "),
        (HANDSHAKE.replace(b"GET", b"POST"), b"HTTP/1.1 405 "),
        (HANDSHAKE.replace(b"Version: 13", b"Version: 8"), b"HTTP/1.1 400 "),
        (b"GET / HTTP/1.1\r\nHost: pbx.example.com\r\n\r\n", b"HTTP/1.1 426 "),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"HTTP/1.1 431 "),
        (options(1), b""),
        (b"\x16\x03\x01\x02\x00\x01\x00", b""),
        (b"GET /" + b"a" * HANDSHAKE_BYTES_MAX, b""),
        (b"GET / HTTP/1.1\r\n" + (b"A: " + b"b" * 7_000 + b"\r\n") * 3, b""),
    ],
)
def test_what_is_no_handshake_for_sip_is_refused_and_closed(first: bytes, answer: bytes) -> None:
    framing = WebSocket()
    assert framing.receive(first + b"\r\n" * (answer == b"")) == []
    assert framing.owed().startswith(answer)
    assert framing.over.startswith("websocket: ")
    assert not framing.is_open
    assert (framing.receive(HANDSHAKE), framing.owed(), framing.goodbye()) == ([], b"", b"")


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_each_message_is_one_request_with_or_without_a_length(opcode: Opcode) -> None:
    framing = opened()
    body = options(2, b"v=0\r\n").replace(b"Content-Length: 5\r\n", b"")
    items = framing.receive(frame(without_length(1), opcode) + frame(body, opcode) + frame(options(3, b"x"), opcode))
    assert [(m.call_id, m.body) for m in items if isinstance(m, Request)] == [
        ("1", b""),
        ("2", b"v=0\r\n"),
        ("3", b"x"),
    ]
    assert framing.owed() == b""


def test_a_message_in_several_frames_is_one_with_a_ping_between_them() -> None:
    framing = opened()
    message = options(1)
    data = frame(message[:9], fin=False) + frame(b"are you there", Opcode.PING)
    data += frame(message[9:50], Opcode.CONT, fin=False) + frame(message[50:], Opcode.CONT)
    items = [item for i in range(len(data)) for item in framing.receive(data[i : i + 1])]
    assert shown(items) == [KeepAlive.PIECE, KeepAlive.PING, KeepAlive.PIECE, "1"]
    assert framing.owed() == Frame(Opcode.PONG, b"are you there").serialize(mask=False)


def test_keep_alives_of_sip_are_answered_as_such() -> None:
    framing = opened()
    assert framing.receive(frame(b"\r\n\r\n")) == [KeepAlive.PING]
    assert framing.owed() == Frame(Opcode.TEXT, b"\r\n").serialize(mask=False)
    assert framing.receive(frame(b"\r\n") + frame(b"")) == [KeepAlive.PING] * 2
    assert framing.owed() == b""


def test_what_is_no_sip_is_broken_and_the_connection_goes_on() -> None:
    framing = opened()
    items = framing.receive(frame(b"hello") + frame(options(1).replace(b"Length: 0", b"Length: 9")) + frame(options(2)))
    assert [type(item) for item in items] == [Broken, Broken, Request]
    assert framing.is_open


BROKEN = {
    "longer than any message": (frame(b"a" * (MESSAGE_BYTES_MAX + 1)), 1009),
    "longer in pieces": (frame(b"a" * MESSAGE_BYTES_MAX, fin=False) + frame(b"aa", Opcode.CONT), 1009),
    "announced to be endless": (b"\x81\xff" + struct.pack("!Q", 2**62), 1009),
    "text that is none": (frame(b"\xff\xfe"), 1007),
    "not masked": (Frame(Opcode.TEXT, options(1)).serialize(mask=False), 1002),
    "a continuation of nothing": (frame(b"a", Opcode.CONT), 1002),
    "a second beginning": (frame(b"a", fin=False) + frame(b"a"), 1002),
    "compressed": (b"\xc1" + frame(options(1))[1:], 1002),
}
"""What is sent, under a mask that is another each time, and the code that it ends with."""


@pytest.mark.parametrize("what", BROKEN)
def test_broken_frames_end_the_connection_with_the_code_that_says_why(what: str) -> None:
    data, code = BROKEN[what]
    framing = opened()
    assert set(framing.receive(data)) <= {KeepAlive.PIECE}
    assert framing.over.startswith("websocket: ")
    assert struct.pack("!H", code) in framing.owed()[:4]


def in_frames(message: bytes, count: int) -> bytes:
    """A message whose frames but the first and the last are empty."""
    return (
        frame(message[:9], fin=False)
        + frame(b"", Opcode.CONT, fin=False) * (count - 2)
        + frame(message[9:], Opcode.CONT)
    )


def test_a_message_has_so_many_frames_and_each_counts_against_the_rate() -> None:
    framing = opened()
    items = framing.receive(in_frames(options(1), FRAGMENTS_MAX))
    assert shown(items) == [*[KeepAlive.PIECE] * (FRAGMENTS_MAX - 1), "1"]
    assert shown(framing.receive(in_frames(options(2), FRAGMENTS_MAX + 1))) == [KeepAlive.PIECE] * (FRAGMENTS_MAX - 1)
    assert framing.over == "websocket: a message in more than 64 frames"
    assert struct.pack("!H", 1008) in framing.owed()[:4]


def test_a_goodbye_is_returned_and_nothing_is_sent_behind_it() -> None:
    framing = opened()
    assert framing.receive(frame(Close(1000, "").serialize(), Opcode.CLOSE)) == []
    assert framing.owed() == Frame(Opcode.CLOSE, Close(1000, "").serialize()).serialize(mask=False)
    assert (framing.over, framing.is_open, framing.goodbye()) == ("the peer closed the connection", False, b"")


def test_what_is_no_text_goes_out_as_a_binary_frame() -> None:
    framing = opened()
    for message, opcode in ((options(1), 0x81), ("Grüße".encode(), 0x81), (b"\xff\x00", 0x82)):
        assert framing.wrap(message)[0] == opcode


@given(st.lists(st.binary(max_size=60) | st.sampled_from([frame(options(1)), frame(b"", Opcode.PING)]), max_size=8))
def test_whatever_comes_is_an_item_or_the_end_and_nothing_worse(pieces: list[bytes]) -> None:
    for framing in (WebSocket(), opened()):
        for piece in pieces:
            framing.receive(piece)
            framing.owed()
        assert framing.goodbye() == b"" or not framing.over


# Real sockets


class Page:
    """A page in a browser: a WebSocket of its own. Its messages wait in `heard`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, subprotocol: str = "sip") -> None:
        self.heard: list[bytes] = []
        self.pings = 0
        self.writer = writer
        self.protocol = ClientProtocol(parse_uri("ws://pbx.example.com/"), subprotocols=[Subprotocol(subprotocol)])
        self._reader = reader

    async def opens(self) -> None:
        self.protocol.send_request(self.protocol.connect())
        self._flush()
        async with asyncio.timeout(10):
            while self.protocol.state is State.CONNECTING:
                assert await self.hears()

    def says(self, message: bytes) -> None:
        self.protocol.send_text(message)
        self._flush()

    async def hears(self) -> bool:
        """Something more from the other side, False at its end."""
        data = await self._reader.read(65_536)
        if not data:
            return False
        self.protocol.receive_data(data)
        for event in self.protocol.events_received():
            if isinstance(event, Response):
                assert event.status_code == 101
                assert event.headers["Sec-WebSocket-Protocol"] == "sip"
            elif isinstance(event, Frame):
                if event.opcode is Opcode.TEXT:
                    self.heard.append(bytes(event.data))
                self.pings += event.opcode is Opcode.PING
        self._flush()
        return True

    def _flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.writer.write(data)


@asynccontextmanager
async def page_at(
    pbx: Machine, transport: Transport = WS, *, tls: ssl.SSLContext | None = None, first: bytes = b""
) -> AsyncIterator[Page]:
    """A page that has opened its WebSocket; with `first`, through the balancer which says that first."""
    sock = await dial(pbx, transport, source=BALANCER if first else "127.0.0.1")
    await asyncio.get_running_loop().sock_sendall(sock, first)
    reader, writer = await asyncio.open_connection(
        sock=sock, ssl=tls, server_hostname="pbx.example.com" if tls else None
    )
    page = Page(reader, writer)
    try:
        await page.opens()
        yield page
    finally:
        writer.transport.abort()


async def test_a_page_is_heard_and_answered_over_its_connection_and_no_other(start: Start) -> None:
    pbx = await start(WS)
    async with page_at(pbx) as page, page_at(pbx) as other:
        page.says(without_length(1))
        await pbx.ear.until_heard(1)
        [(flow, _)] = pbx.ear.heard
        assert (flow.transport, flow.local) == (WS, pbx.address(WS))
        pbx.sockets.send(flow, options(2))
        assert await page.hears()
        assert page.heard == [options(2)]
        # Of which a successor has kept no more than the addresses.
        pbx.sockets.send(flow._replace(connection=0), options(3))
        assert await page.hears()
        assert (page.heard[1:], other.heard) == ([options(3)], [])
        assert pbx.counters.traffic[WS].messages_out == 2
    await pbx.ear.until_lost(3)
    # Nobody can be connected to in a browser.
    pbx.sockets.send(flow._replace(connection=0), options(4))
    await pbx.ear.until(lambda: pbx.ear.losses[-1] == (flow._replace(connection=0), "the phone's websocket is gone"))


async def test_a_node_that_stops_says_goodbye_to_its_pages(start: Start) -> None:
    pbx = await start(WS)
    async with page_at(pbx) as page:
        page.says(options(1))
        await pbx.ear.until_heard(1)
        await pbx.sockets.stop()
        while await page.hears():
            pass
        assert page.protocol.close_rcvd is not None
        assert page.protocol.close_rcvd.code == 1001


async def test_websocket_over_tls_has_the_certificate_of_sip(start: Start, authority: Authority) -> None:
    pbx = await start(TLS, WSS, tls=Tls((authority.issue("pbx.example.com"),)))
    async with page_at(pbx, WSS, tls=ssl.create_default_context(cafile=str(authority.path))) as page:
        page.says(options(1))
        await pbx.ear.until_heard(1)
        assert pbx.ear.heard[0][0].transport is WSS
    await pbx.ear.until_lost()


@pytest.mark.parametrize(
    ("told", "transport"),
    [
        (b"\x20\x00\x05\x01\x00\x00\x00\x00", WSS),
        (b"\x04\x00\x03abc\x20\x00\x0f\x01\x00\x00\x00\x00\x21\x00\x07TLSv1.3", WSS),
        (b"\x20\x00\x05\x00\x00\x00\x00\x00", WS),
        (b"\x04\x00\x03abc", WS),
        (b"", WS),
    ],
)
async def test_a_balancer_that_has_ended_the_tls_says_so(start: Start, told: bytes, transport: Transport) -> None:
    pbx = await start(WS, balancers=frozenset({BALANCER}))
    async with page_at(pbx, first=header(more=told)) as page:
        page.says(options(1))
        await pbx.ear.until_heard(1)
        flow = pbx.ear.heard[0][0]
        assert flow[:3] == (transport, pbx.address(WS), Address("192.0.2.7", 40_000))
        pbx.sockets.send(flow._replace(connection=0), options(2))
        assert await page.hears()
        assert page.heard == [options(2)]
    await pbx.ear.until_lost()


async def test_a_page_behind_the_balancer_has_the_address_of_our_own_listener_for_tls(
    start: Start, authority: Authority
) -> None:
    # What a seat's successor keeps is how the phone was reached: one address for one transport.
    pbx = await start(WS, WSS, tls=Tls((authority.issue("pbx.example.com"),)), balancers=frozenset({BALANCER}))
    async with page_at(pbx, first=header(more=b"\x20\x00\x05\x01\x00\x00\x00\x00")) as page:
        page.says(options(1))
        await pbx.ear.until_heard(1)
        assert pbx.ear.heard[0][0].local == pbx.address(WSS)
    await pbx.ear.until_lost()


async def test_a_header_whose_additions_are_cut_short_is_refused(start: Start) -> None:
    pbx = await start(WS, balancers=frozenset({BALANCER}))
    sock = await dial(pbx, WS)
    await asyncio.get_running_loop().sock_sendall(sock, header(more=b"\x20\x00\x05\x01"))
    assert await closed(sock)
    assert pbx.counters.dropped[Dropped.PROXY_HEADER] == 1


async def test_half_a_handshake_is_not_waited_for(start: Start) -> None:
    pbx = await start(WS, limits=Limits(handshake_s=0.1))
    sock = await dial(pbx, WS, source="127.0.0.1")
    await asyncio.get_running_loop().sock_sendall(sock, HANDSHAKE[:40])
    assert await closed(sock)
    assert pbx.counters.dropped[Dropped.HANDSHAKE] == 1


async def test_a_page_that_still_shakes_hands_is_sent_nothing(start: Start, authority: Authority) -> None:
    pbx = await start(WSS, tls=Tls((authority.issue("pbx.example.com"),)))
    sock = await dial(pbx, WSS, source="127.0.0.1")
    flow = Flow(WSS, pbx.address(WSS), Address(*sock.getsockname()))
    await turns_until(lambda: pbx.counters.traffic[WSS].connections_open == 1)
    pbx.sockets.send(flow, options(1))
    await pbx.ear.until(lambda: pbx.ear.losses == [(flow, "the phone's websocket is gone")])
    tls = ssl.create_default_context(cafile=str(authority.path))
    reader, writer = await asyncio.open_connection(sock=sock, ssl=tls, server_hostname="pbx.example.com")
    page = Page(reader, writer)
    await page.opens()
    pbx.sockets.send(flow, options(2))
    assert await page.hears()
    assert page.heard == [options(2)]
    writer.transport.abort()
    await pbx.ear.until_lost(2)


@pytest.mark.parametrize(
    "said",
    [frame(b"") * 2, frame(b"\r\n") * 2, frame(b"a", fin=False) + frame(b"", Opcode.CONT, fin=False)],
    ids=["empty", "line ends", "pieces"],
)
async def test_frames_that_are_no_message_count_against_the_rate(start: Start, said: bytes) -> None:
    limits = Limits(messages_per_address_per_s=0.001, messages_per_address_burst=1)
    pbx = await start(WS, limits=limits)
    sock = await dial(pbx, WS, source="127.0.0.1")
    await asyncio.get_running_loop().sock_sendall(sock, HANDSHAKE + said)
    await turns_until(lambda: pbx.counters.dropped[Dropped.MESSAGE_RATE] == 1)
    sock.close()


async def test_a_browser_that_asks_for_a_page_is_told_that_there_is_none(start: Start) -> None:
    pbx = await start(WS)
    sock = await dial(pbx, WS, source="127.0.0.1")
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\nHost: pbx.example.com\r\n\r\n")
    assert (await loop.sock_recv(sock, 4096)).startswith(b"HTTP/1.1 426 ")
    assert await closed(sock)
    assert pbx.counters.dropped[Dropped.HANDSHAKE] == 1


async def test_a_page_that_opens_and_says_nothing_is_closed_and_keep_alives_do_not_help(start: Start) -> None:
    pbx = await start(WS, limits=Limits(silence_s=0.2))
    async with page_at(pbx) as page:
        page.says(b"\r\n\r\n")
        while await page.hears():
            pass
        assert pbx.counters.dropped[Dropped.SILENT] == 1


async def test_a_silent_page_is_pinged_and_stays_while_it_answers(start: Start) -> None:
    pbx = await start(WS, limits=Limits(ping_s=0.05))
    async with page_at(pbx) as page:
        page.says(options(1))
        while page.pings < 6:
            assert await page.hears()
        assert pbx.ear.losses == []
        # From here on it is asleep: what it is asked stays unread.
        await pbx.ear.until_lost()
        assert pbx.counters.dropped[Dropped.IDLE] == 1
        assert pbx.ear.losses[0][1] == "no ping was answered for 0.2 s"


async def test_limits_of_an_address_hold_for_its_pages(start: Start) -> None:
    pbx = await start(WS, limits=Limits(connections_per_address_max=1))
    async with page_at(pbx):
        with socket.socket() as second:
            second.setblocking(False)
            # It is refused while it connects, or as soon as it has.
            with suppress(OSError):
                await asyncio.get_running_loop().sock_connect(second, pbx.address(WS))
            await turns_until(lambda: pbx.counters.dropped[Dropped.CONNECTIONS_PER_ADDRESS] == 1)
