"""The whole dialplan as one frozen value, ready to be asked."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from warden.core.errors import WardenError
from warden.store.ports import USER, Item
from warden.switch.dialplan.items import (
    KINDS,
    Body,
    Class,
    Group,
    Hours,
    Inbound,
    Outbound,
    Route,
    User,
    decode_item,
)
from warden.switch.dialplan.patterns import Matcher, matcher_of, read_pattern
from warden.switch.trunks.trunk import Trunk

B = TypeVar("B", bound=Body)


class Dialplan(Struct, frozen=True, gc=False):
    """Items by name. `routes`, `emergency` (the emergency ones among them) and `inbounds` stand in the order in which
    they count. `unread` says of each item that could not be read why; calls are carried as if it were not there.
    """

    routes: Mapping[str, Route] = {}
    emergency: Mapping[str, Route] = {}
    classes: Mapping[str, Class] = {}
    hours: Mapping[str, Hours] = {}
    groups: Mapping[str, Group] = {}
    users: Mapping[str, User] = {}
    trunks: Mapping[str, Trunk] = {}
    outbounds: Mapping[str, Outbound] = {}
    inbounds: Mapping[str, Inbound] = {}
    unread: tuple[str, ...] = ()
    route_matcher: Matcher = Matcher()
    emergency_matcher: Matcher = Matcher()

    def find_route(self, number: str, *, emergency: bool = False) -> str | None:
        """The name of the route that a number takes."""
        return (self.emergency_matcher if emergency else self.route_matcher).find(number)

    def find_inbound(self, number: str, trunk: str) -> str | None:
        """The name of the rule for a call from outside to a number."""
        return next((n for n, x in self.inbounds.items() if x.trunk in ("", trunk) and _fits(x, number)), None)


def _fits(item: Inbound, number: str) -> bool:
    return read_pattern(item.pattern).matches(number)


def plan_of(items: Iterable[Item]) -> Dialplan:
    """Build the dialplan. What a newer version has put there and this one does not know is left out, item by item."""
    made: dict[str, dict[str, Body]] = {kind: {} for kind in KINDS}
    unread = []
    for item in items:
        try:
            made[item.kind][item.name] = decode_item(item.kind, item.body)
        except KeyError:
            unread.append(f"{item.kind} {item.name}: this version of warden knows no such kind")
        except (msgspec.MsgspecError, WardenError) as error:
            unread.append(f"{item.kind} {item.name}: {error}")
    routes = sorted(_of(Route, made["route"]).items(), key=lambda x: (read_pattern(x[1].pattern).order, x[0]))
    return Dialplan(
        routes=dict(routes),
        emergency={name: route for name, route in routes if route.emergency},
        classes=_of(Class, made["class"]),
        hours=_of(Hours, made["hours"]),
        groups=_of(Group, made["group"]),
        users=_of(User, made[USER]),
        trunks={name: replace(trunk, name=name) for name, trunk in _of(Trunk, made["trunk"]).items()},
        outbounds=_of(Outbound, made["outbound"]),
        inbounds=dict(sorted(_of(Inbound, made["inbound"]).items(), key=_by_pattern)),
        unread=tuple(unread),
        route_matcher=matcher_of((name, route.pattern) for name, route in routes),
        emergency_matcher=matcher_of((name, route.pattern) for name, route in routes if route.emergency),
    )


def _by_pattern(named: tuple[str, Inbound]) -> tuple[tuple[int, ...], bool, str]:
    """The narrower pattern first; of two alike the one for a trunk."""
    name, item = named
    return read_pattern(item.pattern).order, not item.trunk, name


def _of(kind: type[B], items: Mapping[str, Body]) -> dict[str, B]:
    return {name: body for name, body in items.items() if isinstance(body, kind)}
