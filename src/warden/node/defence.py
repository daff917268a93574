"""Seats' addresses that another machine on the network says it has as well: told to the operator, and taken back.

Who gave a machine a wrong address has phones talk to it until somebody says otherwise. The node that holds the seat
does, but only once it has made sure: a node that is cut off believes that it holds what another has taken over, and
must not call its phones back.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from warden.core.errors import WardenError
from warden.net import netlink
from warden.net.arp import Ear, Heard

SURE_S: Final = 1.0
"""From hearing of it until it is answered. An address that moves is announced before its new holder has claimed the
seat, and is not to be called back; and a machine that announces for ever is answered no more often.
"""
ASK_S: Final = 2.0
TOLD_S: Final = 600.0
"""How long a warning stays after the other was heard last: it speaks when it wants, and an alert needs some minutes."""
PACKETS_PER_WAKE_MAX: Final = 64

_log = structlog.get_logger()


class Rivals:
    """Who else says that it has which seat's address, and when that is to be answered. Pure."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        """`addresses` are those of all seats, by name."""
        self._seats = {address: seat for seat, address in addresses.items()}
        self._heard: dict[str, tuple[Heard, float]] = {}
        self._due: dict[str, float] = {}

    def hear(self, now: float, heard: Heard, held: Callable[[str], bool]) -> str:
        """Somebody says so. Gives the seat where it is held here and this rival is new; "" otherwise."""
        seat = self._seats.get(heard.address)
        if seat is None or not held(seat):
            return ""
        last, at = self._heard.get(seat, (None, 0.0))
        self._heard[seat] = heard, now
        self._due.setdefault(seat, now + SURE_S)
        return seat if last is None or last.mac != heard.mac or now - at > TOLD_S else ""

    @property
    def deadline(self) -> float | None:
        """When `tick` is due; None where nothing waits."""
        return min(self._due.values(), default=None)

    def tick(self, now: float) -> list[tuple[str, Heard]]:
        """The seats whose addresses are to be announced now, where they are held for sure, and what was heard."""
        due = [seat for seat, at in self._due.items() if at <= now]
        for seat in due:
            del self._due[seat]
        return [(seat, self._heard[seat][0]) for seat in due]

    def warnings(self, now: float) -> list[str]:
        """For the operator."""
        return [
            f"seat {seat}: another machine ({heard.mac} on {heard.interface}) says that it has {heard.address} too: "
            "take the address away from it"
            for seat, (heard, at) in self._heard.items()
            if now - at <= TOLD_S
        ]


class Defence:
    """Hears of rivals and answers them. `held` says whether this node believes that it holds a seat and neither takes
    nor gives it just now, `sure` asks the coordinator the same.
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        held: Callable[[str], bool],
        sure: Callable[[str], Awaitable[bool]],
        now: Callable[[], float],
    ) -> None:
        self._rivals = Rivals(addresses)
        self._held = held
        self._sure = sure
        self._now = now
        self._new = asyncio.Event()

    @property
    def warnings(self) -> list[str]:
        """For the operator."""
        return self._rivals.warnings(self._now())

    async def run(self) -> None:
        """Go on until cancelled. Where ARP cannot be heard, that is logged, and nothing is defended."""
        try:
            ear = Ear()
        except WardenError as error:
            _log.warning("nobody will tell of an address that another machine has too", why=str(error))
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(ear.fileno(), self._hear, ear)
        try:
            while True:
                await self._wait()
                for seat, heard in self._rivals.tick(self._now()):
                    await self._answer(seat, heard)
        finally:
            loop.remove_reader(ear.fileno())
            ear.close()

    def _hear(self, ear: Ear) -> None:
        for _ in range(PACKETS_PER_WAKE_MAX):
            if (heard := ear.hear()) is None:
                return
            if seat := self._rivals.hear(self._now(), heard, self._held):
                _log.warning("another machine says that it has the address of a seat", seat=seat, **heard._asdict())
            self._new.set()

    async def _wait(self) -> None:
        self._new.clear()
        deadline = self._rivals.deadline
        if deadline is None:
            await self._new.wait()
            # What came wakes up the next wait with a deadline.
            return
        await asyncio.sleep(max(0.0, deadline - self._now()))

    async def _answer(self, seat: str, heard: Heard) -> None:
        try:
            async with asyncio.timeout(ASK_S):
                # In this order: while the coordinator is asked, the seat may have begun to move.
                if not await self._sure(seat) or not self._held(seat):
                    return
            if heard.address in netlink.local_addresses():
                netlink.announce(heard.interface, heard.address)
        except (TimeoutError, WardenError) as error:
            _log.warning("an address is not called back", seat=seat, why=str(error) or "the coordinator is silent")
