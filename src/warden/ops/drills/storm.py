"""All phones at once, as when the power of a building is back: many register while calls go on."""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final

from warden.core.errors import WardenError
from warden.ops.checker import nearest_rank
from warden.ops.drills.report import Check, Verdict, exactly
from warden.ops.drills.stage import Stage
from warden.ops.lab.hosted import HostedCluster
from warden.ops.nemesis import PLANNED_GAP_MS
from warden.ops.softphone import Refused, Softphone
from warden.ops.town import side_by_side

PER_SOCKET: Final = 100
BETWEEN_S: Final = 0.001
"""As fast as the phones of this process can without being late with the audio of the calls beside them."""
AGAIN_S: Final = (1.0, 4.0)
"""A phone that is refused, or hears nothing, tries again after so long, each after another time."""
GIVE_UP_S: Final = 60.0
FIRST: Final = 90_000


def storm_numbers(phones: int) -> list[str]:
    """Of the phones of the storm."""
    return [f"{FIRST + i}" for i in range(phones)]


class Storm:
    """Phones that none of the calls are of register at the same moment, over all seats."""

    gap_ms_max = PLANNED_GAP_MS

    def __init__(self, on: Stage[HostedCluster], phones: int) -> None:
        self.name = f"{phones:,} phones register at once"
        self.struck = list(on.seats)
        self.took_s: list[float] = []
        self.refusals = 0
        self._town = on.town
        self._say = on.say
        self._phones = phones

    async def strike(self) -> None:
        """As `Fault.strike`; returns when all are registered, or have given up."""
        sockets = [self._town.shared_socket() for _ in range(-(-self._phones // PER_SOCKET))]
        seats = len(self.struck)
        # A socket is at one seat, and so are the phones of it.
        phones = [
            self._town.phone(number, i // PER_SOCKET % seats, socket=sockets[i // PER_SOCKET])
            for i, number in enumerate(storm_numbers(self._phones))
        ]
        for phone in phones:
            await phone.open()
        began = asyncio.get_running_loop().time()
        tries = [self._registered(phone, began + i * BETWEEN_S) for i, phone in enumerate(phones)]
        took = await side_by_side(tries, len(phones))
        self.took_s = sorted(seconds for seconds in took if seconds is not None)
        self._say(f"{len(self.took_s):,} are registered; {self.refusals:,} tries were refused or not answered")

    async def mend(self) -> None:
        """As `Fault.mend`: they stay registered."""

    async def _registered(self, phone: Softphone, at: float) -> float | None:
        """Seconds that it took, None where it did not come to that."""
        await asyncio.sleep(at - asyncio.get_running_loop().time())
        began = time.monotonic()
        while time.monotonic() < began + GIVE_UP_S:
            try:
                await phone.register()
            except (Refused, TimeoutError):
                self.refusals += 1
                await asyncio.sleep(random.uniform(*AGAIN_S))  # noqa: S311 - phones of a building, no secret
            except WardenError:
                return None
            else:
                return time.monotonic() - began
        return None

    def checks(self) -> Sequence[Check]:
        """What became of them."""
        what, promised = "until a phone was registered", "measured, not promised"
        if not self.took_s:
            soon = Check(what, promised, "no phone was", Verdict.FAILED)
        else:
            p50, p95 = (nearest_rank(self.took_s, share) for share in (0.5, 0.95))
            told = f"p50 {p50 * 1000:,.0f}, p95 {p95 * 1000:,.0f}, max {self.took_s[-1] * 1000:,.0f} ms"
            soon = Check(what, promised, told, Verdict.OK)
        return exactly("phones of the storm that could not register", self._phones - len(self.took_s), 0), soon
