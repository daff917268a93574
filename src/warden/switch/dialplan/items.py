"""What the items of a dialplan are, by kind, and how one is read.

A *destination* is a number, dialled as it stands, or `group:NAME`, `hours:NAME` or `outbound:NAME`.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct, field

from warden.core.errors import WardenError
from warden.store.ports import USER
from warden.switch.dialplan.hours import read_holiday, read_span, read_zone
from warden.switch.dialplan.patterns import PATTERN_CHARS_MAX, read_pattern
from warden.switch.trunks.trunk import Trunk, check_trunk

ITEMS_MAX: Final = 20_000
"""Items in all: every extension has settings, and an organisation has hundreds of the others."""
MEMBERS_MAX: Final = 50
"""Of a group: one after the other they ring for a quarter of an hour."""
TRUNKS_MAX: Final = 10
"""Trunks of one way out: a caller does not wait for more to fail."""
PATTERNS_MAX: Final = 200
"""Of a class, or holidays of hours."""
RING_S_MAX: Final = 600
BODY_CHARS_MAX: Final = 32_768
"""An item as JSON: a group of 50 members takes 4 KB."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}\Z")
_NUMBER: Final = re.compile(r"[A-Za-z0-9*#+][A-Za-z0-9*#+._-]{0,63}\Z")

Note = Annotated[str, Meta(max_length=200, description="For people.")]
Place = Annotated[str, Meta(max_length=80, description="A number, group:NAME, hours:NAME or outbound:NAME.")]
Number = Annotated[str, Meta(max_length=64)]
Patterns = Annotated[tuple[str, ...], Meta(max_length=PATTERNS_MAX)]
RingS = Annotated[int, Meta(ge=1, le=RING_S_MAX)]


class Route(Struct, frozen=True, gc=False, omit_defaults=True):
    """Numbers of `pattern` lead to `to`. Where that is empty the number, without its first `strip` characters and with
    `prepend` before it, is dialled again. An `emergency` route comes before extensions, classes and everything else.
    """

    pattern: Annotated[str, Meta(max_length=PATTERN_CHARS_MAX)]
    to: Place = ""
    strip: Annotated[int, Meta(ge=0, le=PATTERN_CHARS_MAX)] = 0
    prepend: Annotated[str, Meta(max_length=PATTERN_CHARS_MAX)] = ""
    emergency: bool = False
    note: Note = ""


class Class(Struct, frozen=True, gc=False, omit_defaults=True):
    """A class of service: what its extensions may dial. The narrowest pattern that fits decides; what none fits is
    allowed unless there is something in `allow`. The class of the name `default` is that of all who have no other.
    """

    allow: Patterns = ()
    deny: Patterns = ()
    note: Note = ""


class Hours(Struct, frozen=True, gc=False, omit_defaults=True):
    """Leads to `then` in the opening hours, on holidays to `holiday` and else to `closed`. Without a destination the
    call is refused; without one for holidays they are as when it is closed.
    """

    zone: Annotated[str, Meta(max_length=64)]
    open: Annotated[tuple[str, ...], Meta(max_length=50)]
    then: Place
    closed: Place = ""
    holiday: Place = ""
    holidays: Patterns = ()
    note: Note = ""


class Strategy(StrEnum):
    """In which order a group rings."""

    ALL = "all"
    IN_TURN = "in_turn"
    BY_WEIGHT = "by_weight"


class Member(Struct, frozen=True, gc=False, omit_defaults=True):
    """An extension in a group. `delay_s` is how much later it rings where all do, `weight` how much more often it is
    the first where that is drawn.
    """

    number: Number
    delay_s: Annotated[int, Meta(ge=0, le=RING_S_MAX)] = 0
    weight: Annotated[int, Meta(ge=1, le=100)] = 1


class Group(Struct, frozen=True, gc=False, omit_defaults=True):
    """Several extensions ring: all for `ring_s`, or one after the other, each so long. `then` is where the call goes
    when none of them takes it.
    """

    members: Annotated[tuple[Member, ...], Meta(min_length=1, max_length=MEMBERS_MAX)]
    strategy: Strategy = Strategy.ALL
    ring_s: RingS = 20
    then: Place = ""
    note: Note = ""


class Outbound(Struct, frozen=True, gc=False, omit_defaults=True):
    """Numbers go out over the first of `trunks` that can be used, without their first `strip` characters and with
    `prepend` before them. A route leads here.
    """

    trunks: Annotated[tuple[Number, ...], Meta(min_length=1, max_length=TRUNKS_MAX)]
    strip: Annotated[int, Meta(ge=0, le=PATTERN_CHARS_MAX)] = 0
    prepend: Annotated[str, Meta(max_length=PATTERN_CHARS_MAX)] = ""
    note: Note = ""


class Inbound(Struct, frozen=True, gc=False, omit_defaults=True):
    """Calls from outside to numbers of `pattern`, over `trunk` or over any, lead to `to`. Where that is empty they lead
    to the extension whose number is what is called without its first `strip` characters, with `prepend` before it.
    """

    pattern: Annotated[str, Meta(max_length=PATTERN_CHARS_MAX)]
    to: Place = ""
    strip: Annotated[int, Meta(ge=0, le=PATTERN_CHARS_MAX)] = 0
    prepend: Annotated[str, Meta(max_length=PATTERN_CHARS_MAX)] = ""
    trunk: Number = ""
    note: Note = ""


class User(Struct, frozen=True, gc=False, omit_defaults=True):
    """An extension's settings: where its calls go always, when it is busy, does not answer within `no_answer_s` or has
    no phone registered; and whether it does not want to be disturbed.
    """

    class_: str = field(default="", name="class")
    always: Place = ""
    busy: Place = ""
    no_answer: Place = ""
    no_answer_s: RingS = 20
    unregistered: Place = ""
    do_not_disturb: bool = False


Body = Route | Class | Hours | Group | User | Trunk | Outbound | Inbound

KINDS: Final[Mapping[str, type[Body]]] = {
    "route": Route,
    "class": Class,
    "hours": Hours,
    "group": Group,
    USER: User,
    "trunk": Trunk,
    "outbound": Outbound,
    "inbound": Inbound,
}
"""Every kind of item."""
DESTINATION_KINDS: Final = ("group", "hours", "outbound")
"""The kinds that a destination may name."""


def read_item(kind: str, name: str, body: str) -> Body:
    """Read an item that somebody gives (strictly). Raises `WardenError` with a sentence that begins with what it is."""
    where = f"{kind[:64]} {name[:64]}"
    if kind not in KINDS:
        raise WardenError(f"{kind[:64]!r}: there is no such kind of item; there are {', '.join(KINDS)}")
    if not (_NUMBER if kind == USER else _NAME).match(name):
        raise WardenError(f"{where}: a name is 1 to 64 of a to z, 0 to 9, _ . and -")
    if len(body) > BODY_CHARS_MAX:
        raise WardenError(f"{where}: has {len(body)} characters, at most {BODY_CHARS_MAX} are taken")
    try:
        item = msgspec.json.decode(body, type=KINDS[kind])
        _refuse_unknown(msgspec.json.decode(body), KINDS[kind])
        _check(item)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, WardenError) as error:
        raise WardenError(f"{where}: {' '.join(str(error).split())}") from None
    return item


def decode_item(kind: str, body: str) -> Body:
    """Read an item as it is stored: fields of a newer version are passed over. `kind` is one of `KINDS`. Raises
    `WardenError` or `msgspec.MsgspecError`.
    """
    item = msgspec.json.decode(body, type=KINDS[kind])
    _check(item)
    return item


def body_of(item: Body) -> str:
    """The item as JSON, without what is as it is by default."""
    return msgspec.json.encode(item).decode()


def destination(to: str) -> tuple[str, str]:
    """The kind and name of a destination; the kind of a number is "". Raises `WardenError`."""
    kind, colon, name = to.partition(":")
    if colon:
        if kind not in DESTINATION_KINDS or not _NAME.match(name):
            raise WardenError(f"destination {to!r}: is a number, or one of " + _examples())
        return kind, name
    if not _NUMBER.match(to):
        raise WardenError(f"destination {to!r}: is no number that can be dialled")
    return "", to


def _examples() -> str:
    return ", ".join(f"{kind}:NAME" for kind in DESTINATION_KINDS)


def _refuse_unknown(given: Any, kind: type[Struct]) -> None:
    """A misspelled field is told, not ignored."""
    known = [known.encode_name for known in msgspec.structs.fields(kind)]
    for name in given:
        if name not in known:
            raise WardenError(f"{name[:64]!r} is not known here; {', '.join(known)} are")
    for member in given.get("members", ()):
        _refuse_unknown(member, Member)


def _check(item: Body) -> None:
    match item:
        case Route():
            read_pattern(item.pattern)
            _check_places(item.to)
            if not item.to and not item.strip and not item.prepend:
                raise WardenError("leads nowhere: it needs `to`, or `strip` or `prepend` to dial another number")
            if item.to and (item.strip or item.prepend):
                raise WardenError("`strip` and `prepend` are for a number that is dialled again, so without `to`")
            _check_digits(item.prepend)
        case Class():
            for text in (*item.allow, *item.deny):
                read_pattern(text)
        case Hours():
            read_zone(item.zone)
            for text in item.open:
                read_span(text)
            for text in item.holidays:
                read_holiday(text)
            _check_places(item.then, item.closed, item.holiday)
            if not item.then:
                raise WardenError("`then` must say where calls go in the opening hours")
        case Group():
            numbers = [member.number for member in item.members]
            if twice := next((n for n in numbers if numbers.count(n) > 1), ""):
                raise WardenError(f"extension {twice} is a member twice")
            _check_places(item.then, with_number=False)
        case User():
            _check_places(item.always, item.busy, item.no_answer, item.unregistered, with_number=False)
        case Trunk():
            check_trunk(item)
        case Outbound():
            _check_digits(item.prepend)
        case Inbound():
            read_pattern(item.pattern)
            _check_digits(item.prepend)
            _check_places(item.to)
            if item.to and (item.strip or item.prepend):
                raise WardenError("`strip` and `prepend` make the number of an extension, so they are without `to`")


def _check_digits(prepend: str) -> None:
    if prepend and not _NUMBER.match(prepend):
        raise WardenError(f"`prepend` {prepend!r} is no number that can be dialled")


def _check_places(*places: str, with_number: bool = True) -> None:
    for place in filter(None, places):
        kind, _ = destination(place)
        if kind == "outbound" and not with_number:
            raise WardenError(
                f"destination {place!r}: nobody has dialled the number to be called there; name the number"
            )
