"""A phone in a drill that knows only the domain and the lab's name servers, and finds its seat by DNS."""

import time
from collections.abc import Mapping, Sequence
from typing import Final

from warden.core.address import Address
from warden.core.errors import WardenError
from warden.ops.by_name import TIMERS, Came, Visitor
from warden.ops.drills.report import Check, Verdict
from warden.ops.drills.stage import Stage
from warden.ops.lab.hosted import HostedCluster
from warden.ops.nemesis import Fault

VISITOR: Final = "90000"
"""Its number."""
COME_S: Final = 10.0
"""From the loss of a host until such a phone is registered: a second for the name server that died with it, and the
time in which a store of its is replaced.
"""


def visitor_of(on: Stage[HostedCluster], number: str) -> Visitor:
    """The phone. It is not registered yet, and none of those that are when the drill begins."""
    lab = on.cluster.lab
    return Visitor(on.town.visitor(number, lab.cluster.domain, TIMERS), lab.cluster.domain, lab.name_servers)


def names_of(on: Stage[HostedCluster]) -> Mapping[Address, str]:
    """The seats of all regions by their addresses, named as in DNS."""
    lab = on.cluster.lab
    return {
        Address(seat.address, lab.cluster.sip_port): seat.name + (f".{region}" if region else "")
        for region, cluster in lab.regions.items()
        for seat in cluster.seats
    }


class Visit:
    """A fault, and a phone that comes when it has happened: the name server that it asks first may be gone with it."""

    def __init__(self, on: Stage[HostedCluster], fault: Fault) -> None:
        self.name = fault.name
        self.gap_ms_max = fault.gap_ms_max
        self._on = on
        self._fault = fault
        self._came: Came | None = None
        self._took_s = 0.0
        self._why = "it did not come to that"

    @property
    def struck(self) -> list[str]:
        """As the fault."""
        return self._fault.struck

    async def strike(self) -> None:
        """As `Fault.strike`; returns when the phone has come, or has given up."""
        visitor = visitor_of(self._on, VISITOR)
        await self._fault.strike()
        began = time.time()
        try:
            self._came = await visitor.come(COME_S)
        except WardenError as error:
            self._why = str(error)
            self._on.say(self._why, bad=True)
            return
        self._took_s = self._came.at_utc - began
        seats = self._came.told(names_of(self._on))
        self._on.say(f"a phone that knows only the domain is registered after {self._took_s:.2f} s, tried {seats}")

    async def mend(self) -> None:
        """As `Fault.mend`."""
        await self._fault.mend()

    def checks(self) -> Sequence[Check]:
        """Whether it came in time, and at the first seat that DNS named: another host has it by then."""
        what = "from the loss until a phone was registered that knows only the domain"
        promised = f"at most {COME_S:g} s, at the first seat that DNS names"
        if self._came is None:
            return (Check(what, promised, self._why, Verdict.FAILED),)
        good = self._took_s <= COME_S and len(self._came.tried) == 1
        told = f"{self._took_s:.2f} s, tried {self._came.told(names_of(self._on))}"
        return (Check(what, promised, told, Verdict.OK if good else Verdict.FAILED),)
