"""What a load test is to do: how many phones, how many calls, how long, and when each of them begins. Pure."""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from warden.core.errors import ConfigError

CONCURRENT_CALLS: Final = 10
TOTAL_CALLS: Final = 100
CALL_S: Final = 10.0
REGISTERING_USERS: Final = 100
CALLS_BEGUN_PER_S: Final = 10.0
"""How fast the calls come up unless somebody wants it otherwise: a busy office, not an attack."""
REGISTERED_PER_S: Final = 50.0
REFRESH_S: Final = 30.0
MEASURED: Final = 100
"""Calls at a time that are listened to packet by packet: 10,000 packets a second each way take the phones a third of a
core, and what is measured of a hundred calls is true of the others."""
CONCURRENT_CALLS_MAX: Final = 5_000
"""Two RTP ports each, on even numbers: what one address has of them."""
USERS_MAX: Final = 20_000
"""A UDP port each."""
FILES_BESIDE: Final = 64
"""Descriptors that a process has open without any phone."""


class Kind(StrEnum):
    """What the phones do."""

    CALLS = "calls"
    REGISTRATIONS = "registrations"
    MIXED = "mixed"
    """Calls, while all phones refresh their registrations."""


class Plan(Struct, frozen=True):
    """`total_calls` None: as many as there is time for; `duration_s` None: as long as it takes. `measured` of the calls
    at a time send and hear a packet in every 20 ms, the others one of ten.
    """

    kind: Kind
    users: int
    concurrent_calls: int
    total_calls: int | None
    duration_s: float | None
    call_duration_s: float
    ramp_up_s: float
    refresh_s: float
    measured: int

    @property
    def has_calls(self) -> bool:
        """True where the phones call each other."""
        return self.kind is not Kind.REGISTRATIONS

    @property
    def refreshes(self) -> bool:
        """True where the phones register again and again."""
        return self.kind is Kind.MIXED or (self.kind is Kind.REGISTRATIONS and self.duration_s is not None)

    @property
    def files(self) -> int:
        """How many descriptors the phones need: one each for SIP, and two for the audio of a call."""
        return self.users + (2 * self.concurrent_calls if self.has_calls else 0) + FILES_BESIDE

    def call_begins_s(self, place: int) -> float:
        """When the first call of this place among the concurrent ones begins."""
        return place * self.ramp_up_s / self.concurrent_calls

    def registers_s(self, phone: int) -> float:
        """When the phone registers in a test of registrations, or refreshes first in a mixed one."""
        over_s = self.refresh_s if self.kind is Kind.MIXED else self.ramp_up_s
        return phone * over_s / self.users

    def pairs_of(self, place: int) -> range:
        """The pairs of phones that take turns in this place; pair n are the phones 2n and 2n + 1."""
        return range(place, self.users // 2, self.concurrent_calls)


def plan_of(
    kind: Kind = Kind.CALLS,
    *,
    users: int | None = None,
    concurrent_calls: int | None = None,
    total_calls: int | None = None,
    duration_s: float | None = None,
    call_duration_s: float | None = None,
    ramp_up_s: float | None = None,
    refresh_s: float | None = None,
    measured: int | None = None,
    accounts: int | None = None,
) -> Plan:
    """The plan that these options ask for; None is the default. `accounts` are those at hand, None for as many as
    wanted. Raises `ConfigError` with every reason why there is none.
    """
    calls = kind is not Kind.REGISTRATIONS
    concurrent = concurrent_calls or CONCURRENT_CALLS
    wanted = users or (2 * concurrent if calls else accounts or REGISTERING_USERS)
    problems = []
    if calls and wanted < 2 * concurrent:
        problems.append(f"--users {wanted}: {concurrent} concurrent calls need {2 * concurrent}, two for each")
    if accounts is not None and wanted > accounts:
        why = "" if users else f", which {concurrent} concurrent calls need" if calls else ""
        problems.append(f"--accounts: has {accounts}, fewer than the {wanted} users{why}")
    if wanted > USERS_MAX:
        problems.append(f"--users {wanted}: at most {USERS_MAX}, for each has a UDP port")
    if calls and concurrent > CONCURRENT_CALLS_MAX:
        problems.append(f"--concurrent-calls {concurrent}: at most {CONCURRENT_CALLS_MAX}, for each has two RTP ports")
    if problems:
        raise ConfigError(tuple(f"loadtest: {problem}" for problem in problems))
    default_ramp_s = concurrent / CALLS_BEGUN_PER_S if calls else wanted / REGISTERED_PER_S
    return Plan(
        kind,
        wanted,
        concurrent,
        TOTAL_CALLS if total_calls is None and duration_s is None else total_calls,
        duration_s,
        CALL_S if call_duration_s is None else call_duration_s,
        default_ramp_s if ramp_up_s is None else ramp_up_s,
        REFRESH_S if refresh_s is None else refresh_s,
        min(concurrent, MEASURED if measured is None else measured) if calls else 0,
    )
