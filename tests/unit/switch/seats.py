"""Two seats of one cluster in one virtual time: each a world with its own switch and phones, one wire for both."""

from collections.abc import Sequence

from msgspec.structs import replace
from tests.unit.switch.world import SERVER, World, extensions, make_settings

from warden.call.cdr import Cdr
from warden.core.address import Address
from warden.phone.events import Incoming
from warden.store.ports import Kind
from warden.switch.directory import Directory
from warden.switch.settings import V6

OTHER = Address("10.0.1.254", 5060)
SEATS = {"seat-1": SERVER, "seat-2": OTHER}
NUMBERS = ("1001", "1002", "2001", "2002")


class Seats:
    """1001 and 1002 are registered at the first seat, 2001 and 2002 at the other. `v6` are the second addresses of the
    seats.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        loss: float = 0.0,
        directory: Directory | None = None,
        v6: tuple[V6 | None, V6 | None] = (None, None),
    ) -> None:
        directory = directory or extensions(*NUMBERS)
        ours = [
            replace(make_settings(at, seat), v6=second) for (seat, at), second in zip(SEATS.items(), v6, strict=True)
        ]
        self.one = World(*NUMBERS[:2], seed=seed, directory=directory, settings=ours[0])
        self.two = World(*NUMBERS[2:], seed=seed + 1, directory=directory, settings=ours[1], net=1)
        self.two.now = self.one.now
        self.worlds = [self.one, self.two]
        for world in self.worlds:
            world.worlds, world.loss, world.roster.addresses = self.worlds, loss, SEATS
            for other in self.worlds:
                other.roster.take(world.settings.seat, world.records[Kind.BINDING], whole=True)

    def up(self, callee: str = "2001") -> tuple[str, str]:
        """An answered call from 1001 at the first seat to a phone at the other: both handles."""
        self.two.rings_then_answers(callee)
        tag = self.one.call("1001", "2001", run_s=2.0)
        return tag, self.two.of(callee, Incoming)[-1].call

    def run(self, for_s: float) -> None:
        self.one.run(for_s)

    def is_clean(self, *, cdrs: int = 1, strict: bool = True) -> Sequence[Cdr]:
        """Nothing is left behind at either seat; the calls were the first seat's."""
        made = self.one.is_clean(cdrs=cdrs, strict=strict)
        self.two.is_clean(cdrs=0, strict=strict)
        return made
