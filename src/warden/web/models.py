"""What goes in and out of the API, and nothing else: its names, types and bounds. Times are ISO 8601 in UTC."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, SecretStr, StringConstraints, WithJsonSchema

from warden.call.cdr import Party, Result
from warden.call.model import LegPhase, Phase
from warden.core.address import Transport
from warden.sdp.sdes import Policy

PAGE_MAX: Final = 500
"""Entries in one answer: about 200 KB, and some milliseconds during which no message is handled."""
PAGE: Final = 100
NUMBER_PATTERN: Final = r"^[A-Za-z0-9*#+][A-Za-z0-9*#+._-]{0,63}$"
TEXT_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"
"""No control characters: names go into header fields and onto screens."""


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


Time = Annotated[
    datetime,
    PlainSerializer(_iso, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]
Name = Annotated[str, StringConstraints(max_length=128, pattern=TEXT_PATTERN)]
Password = Annotated[SecretStr, Field(min_length=8, max_length=128)]


def at(seconds: float) -> datetime:
    """Seconds since the epoch as a time of the API."""
    return datetime.fromtimestamp(seconds, UTC)


def at_or_none(seconds: float | None) -> datetime | None:
    """The same for what may not have happened yet."""
    return None if seconds is None else at(seconds)


class _Out(BaseModel):
    model_config = ConfigDict(frozen=True)


class _In(BaseModel):
    # A misspelled field is told, not ignored.
    model_config = ConfigDict(extra="forbid", frozen=True)


class Health(_Out):
    """May the node take new calls? `reasons` says why not; what is `not_stored` does not keep it from taking calls.
    `seats` are those that it holds; `seat` and `epoch` are of the first, null where it holds none.
    """

    status: Literal["ok", "refusing"]
    reasons: list[str]
    not_stored: list[str]
    warnings: list[str]
    node: str
    seat: str | None
    epoch: int | None
    seats: list[str]
    version: str
    calls: int
    registrations: int


class Status(Health):
    """The node at a glance. `unprotected_calls` and `unprotected_records` are not in the store yet."""

    cluster: str
    started_at: Time
    uptime_s: float
    extensions: int
    unprotected_calls: int
    unprotected_records: int
    cdrs_waiting: int


class AsideRecord(_Out):
    """A record that could not be read, kept aside for 30 days. `node` is who found it so, at `at`."""

    seat: str
    kind: str
    key: str
    at: Time
    node: str
    why: str
    size_bytes: int


class AsideRecords(_Out):
    """The newest of them first, at most `PAGE_MAX`."""

    items: list[AsideRecord]


class TrunkTarget(_Out):
    """One address of a trunk. `up` is null while it has not been asked; `why` says why it is down."""

    address: str
    transport: str
    up: bool | None
    why: str


class Trunk(_Out):
    """A trunk at one seat. `registered` is null at the seats that do not register it. `channels` are its calls at the
    seat, `channels_max` how many there may be (0: any number); `error` is what is wrong, "" for nothing.
    """

    name: str
    seat: str
    up: bool
    registered: bool | None
    registered_until: Time | None
    channels: int
    channels_max: int
    targets: list[TrunkTarget]
    error: str


class Trunks(_Out):
    """By name and seat."""

    items: list[Trunk]


class Member(_Out):
    """A node that the coordinator has as alive, by its own last word. `http` is where its API is. `clock_behind_s` is
    by how much its clock seemed to be behind that of the node asked; how long its word took, up to half a lease, is in
    it.
    """

    node: str
    version: str
    http: str
    draining: bool
    seats: list[str]
    calls: int
    sentence: str
    clock_behind_s: float
    unprotected_calls: int
    registrations: int
    refusals: list[str]
    not_stored: list[str]
    warnings: list[str]


class Sentence(_Out):
    """What a node did about its seats."""

    at: Time
    text: str


class Cluster(_Out):
    """The cluster as the node `node` sees it; where `coordinator_error` is not empty, as it last saw it. A node that is
    in none is its only member, and not `clustered`. `drained` says that this node takes no more seats and has none.
    """

    name: str
    node: str
    clustered: bool
    drained: bool
    coordinator_error: str
    members: list[Member]
    sentences: list[Sentence]


class Seat(_Out):
    """An address that phones use, with the node that holds it (null where nobody does) and those that may, in order."""

    name: str
    address: str
    holder: str | None
    epoch: int
    successors: list[str]
    held_here: bool
    calls_here: int
    calls: int


class Seats(_Out):
    """All seats, in the order of the settings."""

    items: list[Seat]


class Difference(_Out):
    """What of a seat a node has in memory is not what the store has, or the coordinator: `kind` is `holder`, `epoch`,
    `call` or `binding`, `key` the id or number, `what` is wrong with it.
    """

    seat: str
    kind: str
    key: str
    what: str


class Divergence(_Out):
    """What a node and its stores do not agree on, about the seats that it holds. `repaired` records were written
    again, where that was asked for.
    """

    node: str
    items: list[Difference]
    repaired: int = 0


class Handover(_In):
    """Which node shall have the seat."""

    to: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=TEXT_PATTERN)]


class Promotion(_In):
    """That the region becomes the primary one; `lost`: the other one is gone, and none of its nodes reaches a phone."""

    lost: bool = False


class RegionNode(_Out):
    """A node of the other region as it was heard of last."""

    node: str
    present: bool
    silent_s: float
    seats: list[str]
    database: str


class FollowedSeat(_Out):
    """A seat of the other region of which this node keeps a copy; `age_s` is how old that is at most."""

    seat: str
    followed: bool
    age_s: float
    why: str


class Region(_Out):
    """The two regions. `followed_by` says which node of this region keeps the copy of a seat. `lease_s` is for how long
    the arbiter lets this node hold seats, null where there is none, and `arbiter_error` why it does not answer.
    """

    region: str
    other: str
    primary: str
    term: int
    is_primary: bool
    database: str
    database_error: str
    lease_s: float | None
    arbiter_error: str
    nodes: list[RegionNode]
    seats: list[FollowedSeat]
    followed_by: dict[str, str]


class NewExtension(_In):
    """An extension to be made."""

    number: Annotated[str, StringConstraints(pattern=NUMBER_PATTERN, max_length=64)]
    password: Password
    name: Name = ""
    srtp: Policy = Policy.OPTIONAL


class ExtensionChange(_In):
    """What is to be different; what is not given stays as it is."""

    password: Password | None = None
    name: Name | None = None
    srtp: Policy | None = None


class Extension(_Out):
    """A user that phones register as. Its password is kept nowhere, and its hashes are told to nobody."""

    number: str
    name: str
    created_at: Time
    srtp: Policy


class Extensions(_Out):
    """Extensions by number; `next` is the `after` of the next page, null on the last."""

    items: list[Extension]
    next: str | None


class DialplanItem(_Out):
    """An item of the dialplan; `body` has the fields that are not as they are by default. `warnings` are what is to be
    known of a change.
    """

    kind: str
    name: str
    body: dict[str, Any]
    created_at: Time
    changed_at: Time
    warnings: list[str] = []


class DialplanItems(_Out):
    """Items by name; `next` is the `after` of the next page, null on the last."""

    items: list[DialplanItem]
    next: str | None


class DialplanFault(_Out):
    """What is wrong with the dialplan, and whether calls go nowhere or in circles for it."""

    text: str
    grave: bool


class DialplanFaults(_Out):
    """The grave ones first, at most `PAGE_MAX`."""

    items: list[DialplanFault]


class ExplanationLine(_Out):
    """A sentence; `depth` counts the forwards before it."""

    depth: int
    text: str


class Explanation(_Out):
    """Which way a call would take and why."""

    lines: list[ExplanationLine]


class Registration(_Out):
    """A contact of an extension, and where its phone's messages come from."""

    number: str
    seat: str
    contact: str
    transport: Transport
    source: str
    expires_in_s: int
    user_agent: str
    instance: str


class Registrations(_Out):
    """Registrations by number; `next` is the `after` of the next page, null on the last."""

    items: list[Registration]
    next: str | None


class Leg(_Out):
    """One side of a call. `a` is the caller."""

    id: str
    number: str
    phase: LegPhase
    transport: Transport
    address: str


class Call(_Out):
    """A call. `callee` is what was dialled, `answered_by` who took it; `codec` is what the caller's audio is in, null
    before the answer.
    """

    id: str
    seat: str
    caller: str
    caller_name: str
    callee: str
    answered_by: str
    phase: Phase
    legs: list[Leg]
    started_at: Time
    ringing_at: Time | None
    answered_at: Time | None
    duration_s: float
    talk_s: float
    codec: str | None


class Ban(_Out):
    """An address from which nothing is taken until then: an IPv4 address or an IPv6 /64. With a `number`, only what
    comes from there in the name of that extension is not taken. `active` is false while phones that are registered from
    the address keep it from being shut out. `by` is the node or the user that made it.
    """

    address: str
    number: str
    why: str
    by: str
    made_at: Time
    until: Time
    active: bool


class Bans(_Out):
    """The bans that hold, the newest first, at most 10,000."""

    items: list[Ban]


class NewBan(_In):
    """A ban made by hand: of an IPv4 address, or of the /64 of an IPv6 address. It holds also where phones are
    registered from there.
    """

    address: Annotated[str, StringConstraints(max_length=64, pattern=TEXT_PATTERN)]
    duration_s: Annotated[float, Field(gt=0, le=31_536_000)] = 86_400.0
    why: Annotated[str, StringConstraints(max_length=100, pattern=TEXT_PATTERN)] = ""


class Calls(_Out):
    """Calls, the newest first; `next` is the `before` of the next page, null on the last."""

    items: list[Call]
    next: str | None


class Cdr(_Out):
    """The record of a call that is over. `status` is the final SIP status that the caller saw; `transferred_by` is who
    transferred it last, `transferred_to` who took it then, both "" where nobody did.
    """

    id: str
    caller: str
    caller_name: str
    callee: str
    answered_by: str
    transferred_by: str
    transferred_to: str
    started_at: Time
    ringing_at: Time | None
    answered_at: Time | None
    ended_at: Time
    duration_s: float
    talk_s: float
    result: Result
    status: int
    ended_by: Party
    reason: str
    sip_call_id: str
    seat: str
    node: str


class Cdrs(_Out):
    """CDRs, the newest first (by `ended_at`); `next` is the `before` of the next page, null on the last."""

    items: list[Cdr]
    next: str | None
