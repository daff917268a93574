"""Ten thousand registrations on a node that loses its power (P5)."""

import asyncio
from collections.abc import Callable
from typing import Final

from warden.core.errors import WardenError
from warden.ops.drills.report import Check, Report, Verdict, exactly
from warden.ops.drills.stage import SETTLED_S, Drill, Say, Size, stage
from warden.ops.nemesis import PowerLoss
from warden.ops.softphone import Softphone
from warden.ops.town import join, side_by_side
from warden.store.ports import Kind

PER_SOCKET: Final = 500
"""As many phones share one SIP socket: what is proved here is memory, and the kernel needs none of it."""
BEFORE: Final = 0.95
"""The node dies when so many are registered: those that are answered in the last moment count as well."""
SAMPLE: Final = 200
"""So many are called afterwards; of the others it is known that the store and the new holder have them."""
TOGETHER: Final = 100

REGISTRATIONS: Final = Drill(
    "registrations",
    "P5: a REGISTER that was answered with 200 is not forgotten when its node dies",
    "kill -9 of the node at which all phones register, while the last of them do; then all are looked for, and some "
    "are called",
    full=Size(0, registrations=10_000),
    short=Size(0, registrations=300),
)


async def registrations(size: Size, say: Say) -> Report:
    """Carry out `REGISTRATIONS`. Raises `WardenError` where it cannot be."""
    numbers = [f"1{i:05}" for i in range(size.registrations)]
    async with stage(REGISTRATIONS, size, say, [*numbers, "90000"]) as on:
        sockets = [on.town.shared_socket() for _ in range(-(-size.registrations // PER_SOCKET))]
        phones = [on.town.phone(number, 0, socket=sockets[i // PER_SOCKET]) for i, number in enumerate(numbers)]
        on.town.prober("90000", 0)
        await join(on.town.probers[0])
        on.say(f"{len(phones):,} phones register at {on.seats[0]}")
        enough, answered = asyncio.Event(), 0

        def count() -> None:
            nonlocal answered
            answered += 1
            if answered >= BEFORE * len(phones):
                enough.set()

        joining = asyncio.create_task(side_by_side([_joined(phone, count) for phone in phones], TOGETHER))
        await asyncio.wait((joining, waiting := asyncio.create_task(enough.wait())), return_when="FIRST_COMPLETED")
        waiting.cancel()
        before = {phone.number for phone in phones if phone.registered is not None}
        fault = PowerLoss(on.cluster, "n1")
        on.say(f"{fault.name}: {len(before):,} are registered there, {len(phones) - len(before):,} are at it", bad=True)
        await on.strike(fault, on.seats[0])
        holder = await on.cluster.held(on.seats[0], lambda node: node != "n1")
        refused = [why for why in await joining if why]
        await asyncio.sleep(SETTLED_S)
        said_yes = {phone.number for phone in phones if phone.registered is not None}
        stored = await on.cluster.records(on.seats[0], Kind.BINDING)
        listed = await on.cluster.nodes[holder].registered()
        sample = [phone for phone in phones if phone.number in said_yes][:: max(1, len(phones) // SAMPLE)]
        on.say(f"calling {len(sample)} of them")
        unreached = await on.checker.lost_registrations(0, sample)
        on.notes += refused
        checks = [
            Check(
                "registered before the node died", "most", f"{len(before):,}", Verdict.OK if before else Verdict.UNKNOWN
            ),
            exactly("of those, lost from the store", len(before - stored), 0),
            exactly("of those, unknown to the node that has the seat now", len(before - listed), 0),
            exactly("answered with 200 then or since, and lost", len(said_yes - stored - listed), 0),
            exactly("phones that could not register in the end", len(refused), 0),
            exactly(f"not reached by a call, of {len(sample)} tried", unreached, 0),
            await on.cdrs(),
        ]
        return on.report(checks, f"lease driver, {on.cluster.lease_s:g} s lease; {len(phones):,} phones, UDP")


async def _joined(phone: Softphone, count: Callable[[], None]) -> str:
    try:
        await join(phone, count)
    except (WardenError, TimeoutError) as error:
        return f"{phone.number}: {error or 'no answer to REGISTER'}"
    return ""
