"""Which seats' addresses are here, where something else (keepalived) moves them, and what has been made of that."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

DUE_S: Final = 3.0
"""How long a node that was given a seat waits for the address: keepalived is told at once, or asks once a second."""
RIVAL_S: Final = 0.2
"""Two advertisements of 0.1 s: by then VRRP knows which of two nodes that both got the address keeps it."""


class Arrivals:
    """`here` numbers each arrival of an address; `used` has the one upon which a seat was taken. `awaited` are seats
    that were given to this node ahead of their address, and until when it waits for that; `beaten` those that another
    node took just when this one wanted to, and until when that one is left alone. Times are of the node's steady clock.
    """

    def __init__(self) -> None:
        self.used: dict[str, int] = {}
        self.awaited: dict[str, float] = {}
        self.beaten: dict[str, float] = {}
        self._here: dict[str, int] = {}
        self._count = 0
        self._moved = asyncio.Event()

    @property
    def here(self) -> Mapping[str, int]:
        """Seat to the number of its address's arrival."""
        return self._here

    def move(self, seat: str, here: bool) -> bool:
        """The address has come or gone; False where that was known."""
        if here == (seat in self._here):
            return False
        if here:
            self._count += 1
            self._here[seat] = self._count
            self.awaited.pop(seat, None)
        else:
            del self._here[seat]
        self._moved.set()
        return True

    def use(self, seat: str) -> None:
        """The seat is held here: should another node take it, this arrival is no reason to take it back."""
        if seat in self._here:
            self.used[seat] = self._here[seat]

    async def departed(self, seat: str, within_s: float) -> None:
        """Wait until the address is not here, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while seat in self._here:
                    self._moved.clear()
                    await self._moved.wait()
