"""Warden's test phone on real sockets: the shell around `warden.phone`, for the self test, drills and load tests.

`Softphone` is a line, `Line` one of its calls. Many phones share one `Sound`.
"""

import asyncio
import secrets
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Self, TypeGuard
from uuid import uuid4

from warden.core.address import Address, Flow, Transport
from warden.core.errors import WardenError
from warden.ops.sound import Port, Sound
from warden.ops.wires import SharedSocket, SharedWire, TcpWire, UdpWire, WebSocketWire
from warden.phone.events import (
    Answered,
    Confirmed,
    Ended,
    Event,
    Incoming,
    Info,
    Outcome,
    Output,
    Referred,
    Registered,
    RegisterFailed,
    Ringing,
    Talking,
    Updated,
    UpdateFailed,
    Violation,
)
from warden.phone.line import Account, Habits
from warden.phone.phone import Phone
from warden.phone.session import Media
from warden.phone.talk import Listener, Talker
from warden.sdp.sdes import Policy
from warden.sip.endpoint import Send, Timers
from warden.sip.message import Request, Response

ANSWER_S: Final = 35.0
"""How long a command waits: SIP itself gives up after 32 s (64*T1), and tells."""
CLOSE_S: Final = 2.0
"""How long `close` waits for answers: several round trips, and no far side that is gone is waited for."""
KEPT_MAX: Final = 16
"""Incoming calls kept for an owner who does not fetch them: as many as one phone can have at a time."""
VIOLATIONS_MAX: Final = 100


_CHANGE: Final = (Updated, UpdateFailed)
_OUTCOME: Final = (Outcome,)


class Refused(WardenError):
    """The far side said no, or nothing: `status` is the final SIP status (408 for no answer, 503 for no way)."""

    def __init__(self, what: str, status: int, reason: str = "") -> None:
        super().__init__(f"{what}: {status}" + (f" {reason}" if reason else ""))
        self.status = status
        self.reason = reason


def _is_last_word(event: Event) -> TypeGuard[Outcome | Referred]:
    """True for what tells how a transfer ended: it was refused, or was carried out, for better or worse."""
    match event:
        case Referred(final=True):
            return True
        case Outcome(method="REFER", status=status):
            return status >= 300
        case _:
            return False


class Line:
    """One call of a softphone. Times are `time.time()` seconds, None where it did not come to that."""

    def __init__(self, phone: "Softphone", port: Port, *, number: str, display: str = "", outgoing: bool) -> None:
        self.tag = ""
        self.number = number
        self.display = display
        self.outgoing = outgoing
        self.port = port
        self.started_at = time.time()
        self.ringing_at: float | None = None
        self.answered_at: float | None = None
        self.released_at: float | None = None
        """When we hung up, where it was us."""
        self.ended_at: float | None = None
        self.end: Ended | None = None
        self.talking: Talking | None = None
        self.digits = ""
        """Digits that came by INFO; those of RFC 4733 are in `listener.digits`."""
        self._phone = phone
        self._changed = asyncio.Event()
        self._outcomes: deque[Updated | UpdateFailed | Outcome | Referred] = deque(maxlen=KEPT_MAX)

    @property
    def talker(self) -> Talker:
        """What we say."""
        return self.port.talker

    @property
    def listener(self) -> Listener:
        """What we hear; stays readable when the call is over."""
        return self.port.listener

    @property
    def setup_s(self) -> float | None:
        """From the INVITE to its 200."""
        return None if self.answered_at is None else self.answered_at - self.started_at

    async def ringing(self, timeout_s: float = ANSWER_S) -> None:
        """Wait until it rings there (or is answered). Raises `Refused` where it ended instead, or `TimeoutError`."""
        await self._until(lambda: self.ringing_at is not None or self.answered_at is not None, timeout_s)

    async def answered(self, timeout_s: float = ANSWER_S) -> None:
        """Wait until the call stands (for one to us: until our 200 is acknowledged). Raises as `ringing`."""
        await self._until(lambda: self.answered_at is not None, timeout_s)

    async def ended(self, timeout_s: float = ANSWER_S) -> Ended:
        """Wait until the call is over. Raises `TimeoutError`."""
        async with asyncio.timeout(timeout_s):
            while self.end is None:
                await self._change()
        return self.end

    async def hears(self, hz: int, timeout_s: float = 5.0) -> bool:
        """Wait until the tone is heard; False where it is not within the time."""
        until = time.monotonic() + timeout_s
        while not self.listener.hears(hz):
            if time.monotonic() > until:
                return False
            await asyncio.sleep(0.05)
        return True

    def ring(self, status: int = 180) -> None:
        """Tell the caller that we ring."""
        self._phone.do(lambda phone, now: phone.ring(now, self.tag, status))

    def early(self, status: int = 183) -> None:
        """Speak to the caller before the answer."""
        self._phone.do(lambda phone, now: phone.early(now, self.tag, self._media, status))

    async def answer(self, after_s: float = 0.0) -> None:
        """Answer, and wait for the ACK. Raises `Refused` where the call ended instead."""
        self._phone.do(lambda phone, now: phone.answer(now, self.tag, self._media, after_s=after_s))
        await self.answered(ANSWER_S + after_s)

    def refuse(self, status: int = 486) -> None:
        """Refuse the call."""
        self._phone.do(lambda phone, now: phone.refuse(now, self.tag, status))

    async def hang_up(self) -> Ended:
        """End the call, and wait until the far side has taken note (or SIP gives up)."""
        self.release()
        return await self.ended()

    def release(self) -> None:
        """End the call without waiting."""
        self.released_at = self.released_at or time.time()
        self._phone.do(lambda phone, now: phone.hang_up(now, self.tag))

    async def hold(self) -> None:
        """Hear nothing more. Raises `Refused`, also where the call ends meanwhile."""
        await self._outcome("hold", _CHANGE, lambda phone, now: phone.hold(now, self.tag))

    async def resume(self) -> None:
        """Take the call off hold. Raises as `hold`."""
        await self._outcome("resume", _CHANGE, lambda phone, now: phone.resume(now, self.tag))

    async def reinvite(self, *, late: bool = False) -> None:
        """Offer again what there is (with `late`: have the far side offer). Raises as `hold`."""
        await self._outcome("re-INVITE", _CHANGE, lambda phone, now: phone.reinvite(now, self.tag, late=late))

    async def update(self) -> None:
        """The same by UPDATE. Raises as `hold`."""
        await self._outcome("UPDATE", _CHANGE, lambda phone, now: phone.update(now, self.tag))

    async def info(self, digit: str) -> None:
        """Send a digit by INFO. Raises as `hold`."""
        await self._outcome("INFO", _OUTCOME, lambda phone, now: phone.info(now, self.tag, digit))

    async def transfer(self, to: str, *, instead_of: "Line | None" = None) -> None:
        """Have the other party put through to a number, or to the party of another call of ours, and wait until that is
        done. Raises `Refused` where it is not: the two of us talk on.
        """
        tag = "" if instead_of is None else instead_of.tag
        self._outcomes.clear()
        self._phone.do(lambda phone, now: phone.transfer(now, self.tag, to, instead_of=tag))
        async with asyncio.timeout(ANSWER_S):
            while (last := next((x for x in self._outcomes if _is_last_word(x)), None)) is None:
                if self.end is not None:
                    raise Refused("transfer", self.end.status, self.end.reason)
                await self._change()
        if last.status >= 300:
            raise Refused("transfer", last.status)

    def press(self, digit: str) -> None:
        """Press a key (RFC 4733)."""
        self.port.press(digit)

    # ---- for Softphone

    def tell(self, event: Event) -> None:
        """Something happened in this call."""
        now = time.time()
        match event:
            case Ringing():
                self.ringing_at = self.ringing_at or now
            case Answered() | Confirmed():
                self.answered_at = self.answered_at or now
            case Talking():
                self.talking = event
                self.port.talk(event)
            case Info():
                self.digits += event.digit
            case Updated(ours=True) | UpdateFailed() | Outcome() | Referred():
                self._outcomes.append(event)
            case Ended():
                self.end = event
                self.ended_at = now
                self.port.close()
            case _:
                return
        self._changed.set()

    # ---- inside

    @property
    def _media(self) -> Media:
        return Media(self.port.address.host, self.port.address.port, self._phone.codecs, self._phone.srtp)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _until(self, reached: Callable[[], bool], timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            while not reached():
                if self.end is not None:
                    raise Refused(f"call with {self.number}", self.end.status, self.end.reason)
                await self._change()

    async def _outcome(
        self, what: str, kinds: tuple[type[Event], ...], command: Callable[[Phone, float], list[Output]]
    ) -> None:
        self._outcomes.clear()
        self._phone.do(command)
        async with asyncio.timeout(ANSWER_S):
            while (outcome := next((one for one in self._outcomes if isinstance(one, kinds)), None)) is None:
                if self.end is not None:
                    raise Refused(what, self.end.status, self.end.reason)
                await self._change()
        if not isinstance(outcome, Updated) and outcome.status >= 300:
            raise Refused(what, outcome.status)


class Softphone:
    """A phone at `server`. Open it, then register and call; incoming calls ring and wait in `incoming`, or are
    answered after `answers_after_s` seconds. It speaks a tone of `tone_hz` in every call.

    `domain` is the host of its address of record (default: the server's). Without a `sound` it has its own. With a
    `socket` it shares that with other phones of the same server. It sends one packet of `every` (`sound.Port`). A
    connection over TLS needs `tls`; `srtp` says whether it speaks SRTP. One that is `patient` gives up nothing because
    its connection is gone: what it waits for may come when it has `reconnect`ed. Made and used within a running event
    loop.
    """

    def __init__(
        self,
        number: str,
        password: str,
        server: Address,
        *,
        transport: Transport = Transport.UDP,
        local_host: str = "127.0.0.1",
        domain: str = "",
        tone_hz: int = 440,
        answers_after_s: float | None = None,
        codecs: tuple[str, ...] = ("PCMU", "PCMA"),
        srtp: Policy = Policy.OFF,
        habits: Habits | None = None,
        timers: Timers | None = None,
        sound: Sound | None = None,
        socket: SharedSocket | None = None,
        every: int = 1,
        tls: ssl.SSLContext | None = None,
        patient: bool = False,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.number = number
        self.codecs = codecs
        self.srtp = srtp
        self.tone_hz = tone_hz
        self.answers_after_s = answers_after_s
        self.server = server
        self.lines: dict[str, Line] = {}
        """Calls that are not over, by tag."""
        self.incoming: asyncio.Queue[Line] = asyncio.Queue()
        self.violations: deque[str] = deque(maxlen=VIOLATIONS_MAX)
        """What the far side did wrong."""
        self.registered: Registered | None = None
        self._loop = asyncio.get_running_loop()
        self._offset = time.time() - time.monotonic()
        host = f"[{server.host}]" if ":" in server.host else server.host
        self._account = Account(number, password, domain or host, instance_id=f"urn:uuid:{uuid4()}")
        self._transport = transport
        self._local_host = local_host
        self._habits = habits
        self._timers = timers
        self._tls = tls
        self._patient = patient
        self._sound = sound or Sound()
        self._owns_sound = sound is None
        self._socket = socket
        self._every = every
        self._on_event = on_event
        self._wire: UdpWire | SharedWire | TcpWire | None = None
        self._wires: list[UdpWire | SharedWire | TcpWire] = []
        """All that were opened, or tried to be."""
        self._phone: Phone | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._registering: asyncio.Future[Registered | RegisterFailed] | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def address(self) -> Address:
        """Where our SIP socket is."""
        assert self._wire is not None, "open comes first"
        assert self._wire.flow is not None, "open comes first"
        return self._wire.flow.local

    @property
    def phone(self) -> Phone:
        """The machine inside."""
        assert self._phone is not None, "open comes first"
        return self._phone

    async def open(self) -> None:
        """Open the sockets. Raises `Unavailable` where no connection is to be had."""
        flow = await self._connect()
        self._phone = Phone(self._account, flow, lambda: secrets.token_hex(8), habits=self._habits, timers=self._timers)

    async def reconnect(self) -> None:
        """Open a new connection (a new port with UDP) and go on over it; the registration is renewed over it. Raises
        `Unavailable`.
        """
        if self._wire is not None:
            old = self._wire.flow
            self._wire.close()
            if old is not None:
                self.lost(old, "replaced by another connection")
        flow = await self._connect()
        self.do(lambda phone, now: phone.use(now, flow))

    async def register(self, expires_s: int = 3600) -> Registered:
        """Register, and stay so until `close` or `unregister`. Raises `Refused`."""
        return await self._register(lambda phone, now: phone.register(now, expires_s))

    async def unregister(self) -> None:
        """Remove our contact. Raises `Refused`."""
        await self._register(lambda phone, now: phone.unregister(now))

    def call(self, target: str, *, late: bool = False, sdp: str = "", flow: Flow | None = None) -> Line:
        """Call a number or a SIP URI; what becomes of it the line tells. `late` makes no offer in the INVITE."""
        port = self._sound.open(self._local_host, self.tone_hz, self._every)
        line = Line(self, port, number=target, outgoing=True)
        media = Media(port.address.host, port.address.port, self.codecs, self.srtp)
        line.tag, outputs = self.phone.call(self._now(), target, media, late=late, sdp=sdp, flow=flow)
        self.lines[line.tag] = line
        self._take(outputs)
        return line

    async def next_call(self, timeout_s: float = ANSWER_S) -> Line:
        """The next incoming call. Raises `TimeoutError`."""
        async with asyncio.timeout(timeout_s):
            return await self.incoming.get()

    async def close(self) -> None:
        """Hang up, unregister and let go of everything; waits for the far side's answers, but not long."""
        try:
            async with asyncio.timeout(CLOSE_S):
                lines = tuple(self.lines.values())
                for line in lines:
                    line.release()
                for line in lines:
                    await line.ended()
                if self.registered is not None:
                    await self.unregister()
        except (TimeoutError, WardenError):
            # Who closes wants to be gone; that the far side is gone already is no news then.
            pass
        finally:
            self.abort()
            await self.closed()

    async def closed(self) -> None:
        """Wait until nothing is left of the connections: TLS says goodbye, and waits for the far side's."""
        for wire in self._wires:
            await wire.closed()

    def abort(self) -> None:
        """Let go of everything at once and say nothing: what the far side sees when a phone loses its power."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for line in self.lines.values():
            line.port.close()
        self.lines.clear()
        if self._wire is not None:
            self._wire.close()
        if self._owns_sound:
            self._sound.close()

    # ---- for Line and the wires

    def do(self, command: Callable[[Phone, float], list[Output]]) -> None:
        """Give the machine a command and carry out what it says."""
        self._take(command(self.phone, self._now()))

    def heard(self, message: Request | Response, flow: Flow) -> None:
        """A message arrived."""
        self.do(lambda phone, now: phone.receive(now, message, flow))

    def malformed(self, what: str) -> None:
        """Something arrived that is no SIP message."""
        self.violations.append(what)

    def lost(self, flow: Flow, why: str) -> None:
        """The connection ended."""
        if self._phone is not None and not self._patient:
            self.do(lambda phone, now: phone.lost(now, flow, why))

    # ---- inside

    def _now(self) -> float:
        return time.monotonic() + self._offset

    async def _connect(self) -> Flow:
        wire: UdpWire | SharedWire | TcpWire
        if self._socket is not None:
            wire = SharedWire(self, self._socket, self.number)
        else:
            match self._transport:
                case Transport.UDP:
                    wire = UdpWire(self)
                case Transport.WS | Transport.WSS:
                    wire = WebSocketWire(self, self._tls)
                case _:
                    wire = TcpWire(self, self._tls)
        self._wires.append(wire)
        flow = await wire.open(self._local_host, self.server)
        self._wire = wire
        return flow

    async def _register(self, command: Callable[[Phone, float], list[Output]]) -> Registered:
        self._registering = self._loop.create_future()
        self.do(command)
        async with asyncio.timeout(ANSWER_S * 2):
            outcome = await self._registering
        if isinstance(outcome, RegisterFailed):
            raise Refused(f"register {self.number}", outcome.status)
        return outcome

    def _take(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            if isinstance(output, Send):
                if self._wire is not None:
                    # To the same server an answer may go over any connection (RFC 3261 section 18.2.2).
                    here = self._wire.flow if self._patient and output.flow.transport.reliable else None
                    self._wire.send(here or output.flow, output.data)
            else:
                self._tell(output)
        self._arm()

    def _tell(self, event: Event) -> None:
        match event:
            case Registered() | RegisterFailed():
                self.registered = event if isinstance(event, Registered) and event.expires_s else None
                if self._registering is not None and not self._registering.done():
                    self._registering.set_result(event)
            case Violation():
                self.violations.append(event.what)
            case Incoming():
                self._ring(event)
            case _ if (line := self.lines.get(event.call)) is not None:
                line.tell(event)
                if isinstance(event, Ended):
                    del self.lines[event.call]
            case _:
                pass
        if self._on_event is not None:
            self._on_event(event)

    def _ring(self, event: Incoming) -> None:
        try:
            port = self._sound.open(self._local_host, self.tone_hz, self._every)
        except WardenError:
            self.do(lambda phone, now: phone.refuse(now, event.call, 500))
            return
        line = Line(self, port, number=event.number, display=event.display, outgoing=False)
        line.tag = event.call
        self.lines[line.tag] = line
        line.ring()
        while self.incoming.qsize() >= KEPT_MAX:
            self.incoming.get_nowait()
        self.incoming.put_nowait(line)
        after_s = self.answers_after_s
        if after_s is not None:
            media = Media(port.address.host, port.address.port, self.codecs, self.srtp)
            self.do(lambda phone, now: phone.answer(now, line.tag, media, after_s=after_s))

    def _arm(self) -> None:
        at = self.phone.deadline
        if at == self._timer_at and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = None if at is None else self._loop.call_later(max(0.0, at - self._now()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.do(lambda phone, now: phone.tick(now))
