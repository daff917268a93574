"""What a seat knows about one trunk: its targets and whether they answer, its registration; and that as a record."""

from typing import Final

from msgspec import Struct

from warden.core.address import Address, Flow, Transport
from warden.core.versions import Codec
from warden.sip.uri import Uri
from warden.switch.trunks.registration import Registration
from warden.switch.trunks.trunk import Trunk

SCHEMA: Final = 1


class TrunkRecord(Struct, frozen=True, gc=False, omit_defaults=True):
    """A trunk as a record of its seat. `flows` are its targets as they were resolved last, so that it works at once
    where DNS is away; `registration` is there at the one seat that registers it.
    """

    schema: int
    flows: tuple[Flow, ...] = ()
    registration: Registration | None = None


TRUNKS: Final = Codec(TrunkRecord, SCHEMA)
"""Trunks as records."""


class Target:
    """One address of a trunk. `is_up` is None until it has been asked; `due` when it is to be asked next, or how long
    its answer to the probe `key` is waited for; nothing is sent to it before `avoid_until` if there is another.
    """

    __slots__ = ("avoid_until", "due", "flow", "is_up", "key", "why")

    def __init__(self, flow: Flow, due: float) -> None:
        self.flow = flow
        self.is_up: bool | None = None
        self.due = due
        self.key = ""
        self.avoid_until = 0.0
        self.why = ""

    @property
    def address(self) -> Address:
        """Where it is."""
        return self.flow.remote

    def is_likely(self, now: float) -> bool:
        """True where an answer is to be expected."""
        return self.is_up is not False and now >= self.avoid_until


class TargetStatus(Struct, frozen=True, gc=False):
    """A target as people see it. `up` is None while nobody knows."""

    address: str
    transport: str
    up: bool | None
    why: str


class TrunkStatus(Struct, frozen=True, gc=False):
    """A trunk as people see it, at one seat. `registered` is None where this seat does not register it; `up` where a
    call would be tried. `error` is the last sentence about what is wrong, "" where nothing is.
    """

    name: str
    seat: str
    up: bool
    registered: bool | None
    registered_until_utc: float
    channels: int
    channels_max: int
    targets: tuple[TargetStatus, ...]
    error: str


class LiveTrunk:
    """What is current about a trunk. `asked` is the key of the REGISTER under way and `asked_at` its target; `tries`
    how often it was sent since it was due. `challenges` are the last that were answered well, `nonce_count` how often.
    """

    __slots__ = (
        "asked", "asked_at", "call_error", "challenges", "contact_user", "found", "looking", "lookup_due",
        "lookup_error", "nonce_count", "password", "password_error", "registration", "said", "seat_error", "targets",
        "tries", "trunk", "written",
    )  # fmt: skip

    def __init__(self, trunk: Trunk, contact_user: str, now: float) -> None:
        self.trunk = trunk
        self.contact_user = contact_user
        self.password = ""
        self.password_error = ""
        self.seat_error = ""
        self.targets: list[Target] = []
        self.found: dict[Uri, tuple[Flow, ...]] = {}
        self.looking: set[Uri] = set()
        self.lookup_due = now
        self.lookup_error = ""
        self.registration: Registration | None = None
        self.challenges: list[str] = []
        self.nonce_count = 0
        self.asked = ""
        self.call_error = ""
        self.asked_at: Target | None = None
        self.tries = 0
        self.written: TrunkRecord | None = None
        self.said: tuple[object, ...] = ()

    @property
    def error(self) -> str:
        """What is wrong, in one sentence that begins with the trunk's name; "" for nothing."""
        why = self.password_error or self.seat_error or self.lookup_error
        if not why and self.registration is not None:
            why = self.registration.error
        why = why or self.call_error
        if not why and self.targets and all(target.is_up is False for target in self.targets):
            why = "; ".join(target.why for target in self.targets)
        return f"trunk {self.trunk.name}: {why}" if why else ""

    def is_registered(self, now: float) -> bool:
        """True while the carrier's word holds."""
        return self.registration is not None and now < self.registration.until

    @property
    def deadline(self) -> float:
        """When something is to be done."""
        times = [self.lookup_due, *(target.due for target in self.targets)]
        if self.registration is not None and self.targets:
            times.append(self.registration.due)
        return min(times)


def transport_params(transport: Transport) -> tuple[tuple[str, str | None], ...]:
    """The parameters of a URI that is reached over this transport."""
    return (("transport", transport.param),) if transport.reliable else ()
