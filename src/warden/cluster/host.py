"""What an agent wants of the place where seats live: to take them up, to speak for them, to let go of them."""

from typing import Protocol

from warden.cluster.decide import Seat


class Host(Protocol):
    """Where seats live: the node."""

    async def adopt(self, seat: Seat, epoch: int) -> str:
        """Take up a seat with its calls; the sentence that tells of it. Raises `WardenError`, then nothing is open."""

    def extend(self, seat: str, until: float, *, ahead: bool = False) -> None:
        """The seat may be heard until then (this node's steady clock): its media, and its messages, which wait while
        its address is still to come (`ahead`).
        """

    async def drop(self, seat: str) -> None:
        """Send nothing more for a seat, and let go of it: it is, or soon may be, another node's."""

    async def hand_over(self, seat: str) -> str:
        """Have everything of the seat written and say nothing more; its media go on until `drop`. The sentence that
        tells of it.
        """

    def calls_of(self, seats: tuple[str, ...]) -> int:
        """How many calls these seats carry here."""
