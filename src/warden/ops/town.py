"""Test phones at the seats of a cluster, and their calls: the generator. It judges nothing."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Final, Self, TypeVar

from warden.core.address import Address, Transport
from warden.ops.softphone import Line, Refused, Softphone
from warden.ops.sound import Sound
from warden.ops.wires import SharedSocket
from warden.phone.events import Event, Outcome, Ringing
from warden.sip.transaction import Timers

AT_ONCE: Final = 12
"""Things that phones do side by side: a busy morning, not an attack."""
SETUP_S: Final = 10.0
REGISTER_TRIES: Final = 4

Done = TypeVar("Done")


class Talk:
    """A call between two phones at one seat. `seat` is the seat's index, `event` that of the event it counts for."""

    def __init__(self, caller: Softphone, callee: Softphone, seat: int = 0, event: int = 0) -> None:
        self.caller = caller
        self.callee = callee
        self.seat = seat
        self.event = event
        self.held_by: Line | None = None
        self.lines: tuple[Line, Line]
        """Caller's and callee's, from when it rings."""

    @property
    def is_measured(self) -> bool:
        """True where both speak in every 20 ms, so that a silence is known to the packet."""
        return self.held_by is None and all(line.port.every == 1 for line in self.lines)

    @property
    def ended(self) -> str:
        """How it ended without anybody's wish; "" while it lasts."""
        for line in self.lines:
            if line.end is not None:
                return f"ended by {line.end.by} with {line.end.status} {line.end.reason}".rstrip()
        return ""

    def __str__(self) -> str:
        return f"call of {self.caller.number} to {self.callee.number}"


class Town:
    """The phones. Open it when the cluster stands; `passwords` has those of all numbers."""

    def __init__(
        self,
        seats: Sequence[Address],
        passwords: Mapping[str, str],
        *,
        local_host: str = "127.0.0.1",
        prefix: str = "",
    ) -> None:
        self.prefix = prefix
        """What the numbers of a drill's phones begin with, where there are others beside them."""
        self.talks: list[Talk] = []
        self.ringing: list[Talk] = []
        self.phones: list[Softphone] = []
        """Every phone of a call."""
        self.probers: list[Softphone] = []
        """A further one per seat, to try whether others can be reached."""
        self.refused_byes: dict[str, int] = {}
        """Tag of a call to the status that its BYE got, where that was not 200."""
        self.provisionals: dict[str, set[str]] = {}
        """Tag of a call to the dialogs that have rung for it: more than one is heard by the caller as a new ringing."""
        self._seats = seats
        self._passwords = passwords
        self._local_host = local_host
        self._stack = AsyncExitStack()
        self._sound: Sound

    async def __aenter__(self) -> Self:
        self._sound = Sound()
        self._stack.callback(self._sound.close)
        return self

    async def __aexit__(self, *_: object) -> None:
        everybody = (*self.phones, *self.probers)
        for phone in everybody:
            phone.abort()
        await asyncio.gather(*(phone.closed() for phone in everybody))
        await self._stack.aclose()

    def phone(
        self,
        number: str,
        seat: int,
        *,
        every: int = 1,
        answers_after_s: float | None = None,
        socket: SharedSocket | None = None,
        transport: Transport = Transport.UDP,
        domain: str = "",
        timers: Timers | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> Softphone:
        """A further phone, which `join` takes to its seat."""
        made = Softphone(
            number,
            self._passwords[number],
            self._seats[seat],
            local_host=self._local_host,
            sound=self._sound,
            every=every,
            answers_after_s=answers_after_s,
            socket=socket,
            transport=transport,
            domain=domain,
            timers=timers,
            tls=tls,
            on_event=self._heard,
        )
        self.phones.append(made)
        return made

    def prober(self, number: str, seat: int) -> None:
        """The seat's phone that tries whether others can be reached."""
        self.probers.append(self.phone(number, seat))
        self.phones.pop()

    def visitor(self, number: str, domain: str, timers: Timers) -> Softphone:
        """A further phone of that domain, which is at no seat yet: it comes to one by itself."""
        made = self.phone(number, 0, domain=domain, timers=timers)
        self.probers.append(self.phones.pop())
        return made

    def shared_socket(self) -> SharedSocket:
        """A SIP socket for many phones, open as long as the town is."""
        socket = SharedSocket()
        self._stack.callback(socket.close)
        return socket

    async def settle(self, *, at_once: int = AT_ONCE) -> None:
        """Register all, make the calls, and let the others ring. Raises `WardenError`, `TimeoutError`."""
        await side_by_side([join(phone) for phone in (*self.phones, *self.probers)], at_once)
        await side_by_side([ring(talk) for talk in (*self.talks, *self.ringing)], at_once)
        await side_by_side([answer(talk) for talk in self.talks], at_once)

    def _heard(self, event: Event) -> None:
        if isinstance(event, Outcome) and event.method == "BYE" and event.status >= 300:
            self.refused_byes[event.call] = event.status
        elif isinstance(event, Ringing):
            self.provisionals.setdefault(event.call, set()).add(event.dialog)

    @property
    def packets(self) -> int:
        """RTP packets heard so far."""
        return sum(line.listener.packets for talk in (*self.talks, *self.ringing) for line in talk.lines)

    @property
    def violations(self) -> list[str]:
        """What a phone saw a node do wrong."""
        return [f"{phone.number} saw: {what}" for phone in (*self.phones, *self.probers) for what in phone.violations]


async def side_by_side(work: Sequence[Awaitable[Done]], at_once: int = AT_ONCE) -> list[Done]:
    """Do it all, so many at a time; the results in the order of `work`."""
    room = asyncio.Semaphore(at_once)

    async def one(awaitable: Awaitable[Done]) -> Done:
        async with room:
            return await awaitable

    return await asyncio.gather(*(one(awaitable) for awaitable in work))


async def join(phone: Softphone, answered: Callable[[], None] = lambda: None) -> None:
    """Register; `answered` is called when that is done."""
    await phone.open()
    for left in reversed(range(REGISTER_TRIES)):
        try:
            await phone.register()
        except Refused:
            if not left:
                raise
            # A node looks at the directory twice a second; what it does not know yet it refuses.
            await asyncio.sleep(0.5)
        else:
            answered()
            return


async def ring(talk: Talk) -> None:
    """Call, until it rings."""
    outgoing = talk.caller.call(talk.callee.number)
    async with asyncio.timeout(SETUP_S):
        incoming = await talk.callee.next_call()
        await outgoing.ringing()
    talk.lines = outgoing, incoming


async def answer(talk: Talk) -> None:
    """Answer the call that rings."""
    outgoing, incoming = talk.lines
    async with asyncio.timeout(SETUP_S):
        await incoming.answer()
        await outgoing.answered()
