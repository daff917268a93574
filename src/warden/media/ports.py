"""The media door: what the switch may ask of whoever moves the packets."""

from collections.abc import Sequence
from typing import Protocol

from warden.media.protocol import Answer, Order


class Media(Protocol):
    """A media process, or something that behaves like one."""

    async def apply(self, orders: Sequence[Order]) -> Sequence[Answer]:
        """Carry out the orders in turn; one answer each. Raises `Unavailable` when the process does not answer."""
