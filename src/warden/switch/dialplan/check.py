"""Whether a dialplan makes sense as a whole: every fault is named in a sentence.

A fault is *grave* where calls would go nowhere or round and round: who makes one by a change is refused. The others are
told and live with.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from msgspec import Struct

from warden.store.ports import USER
from warden.switch.dialplan.items import destination
from warden.switch.dialplan.patterns import Pattern, read_pattern
from warden.switch.dialplan.plan import Dialplan

NUMBERS_MAX: Final = 1_000
"""Numbers of a pattern that are tried one by one, to see whether any of them takes its route."""
_SAMPLE_END: Final = "0000"
_CONDITIONS: Final = (("busy", "when busy"), ("no_answer", "without an answer"), ("unregistered", "without a phone"))

Node = tuple[str, str]
"""An item by kind and name."""


class Fault(Struct, frozen=True, gc=False, order=True):
    """What is wrong, beginning with the item that it is wrong with."""

    text: str
    grave: bool = False


class Edge(Struct, frozen=True, gc=False):
    """One item leads to another. `how` says by what; `always`: whatever becomes of the call."""

    to: Node
    how: str
    always: bool = True


def check(plan: Dialplan, extensions: Collection[str], feature_codes: Collection[str]) -> list[Fault]:
    """Every fault of the dialplan, the grave ones first."""
    graph = _Graph(plan, extensions, feature_codes)
    faults = [*graph.dangling(), *graph.loops(), *graph.hidden(), *graph.unused()]
    faults += [Fault(f"{text}; calls are carried as if it were not there") for text in plan.unread]
    return sorted(set(faults), key=lambda fault: (not fault.grave, fault.text))


class _Graph:
    """Who leads where."""

    def __init__(self, plan: Dialplan, extensions: Collection[str], feature_codes: Collection[str]) -> None:
        self._plan = plan
        self._extensions = extensions
        self._codes = feature_codes
        self._edges = {node: tuple(self._edges_of(node)) for node in self._nodes()}

    def _nodes(self) -> Iterator[Node]:
        plan = self._plan
        items: Mapping[str, Collection[str]] = {
            "route": plan.routes,
            "hours": plan.hours,
            "group": plan.groups,
            "outbound": plan.outbounds,
            "inbound": plan.inbounds,
            USER: plan.users,
        }
        return ((kind, name) for kind, names in items.items() for name in names)

    def _edges_of(self, node: Node) -> Iterator[Edge]:
        kind, name = node
        for to, how, always in self._places(node):
            if (at := self._node_of(to)) is not None:
                yield Edge(at, how, always)
        if kind == "route" and not self._plan.routes[name].to:
            for number in self._dialled_again(name):
                if (at := self._node_of(number)) is not None:
                    yield Edge(at, f"dials {number}")

    def _places(self, node: Node) -> Iterator[tuple[str, str, bool]]:
        """The destinations that an item names, by what it leads there, and whether always."""
        plan, (kind, name) = self._plan, node
        match kind:
            case "route":
                found = [(plan.routes[name].to, "leads there", True)]
            case "hours":
                hours = plan.hours[name]
                found = [(hours.then, "when open", True), (hours.closed, "when closed", True)]
                found.append((hours.holiday, "on holidays", True))
            case "group":
                found = [(plan.groups[name].then, "when nobody takes it", True)]
            case "inbound":
                found = [(plan.inbounds[name].to, "leads there", True)]
            case "outbound":
                found = []
            case _:
                user = plan.users[name]
                found = [(user.always, "always", True)]
                found += [(getattr(user, field), how, False) for field, how in _CONDITIONS]
        return (place for place in found if place[0])

    def _node_of(self, to: str) -> Node | None:
        """The item that a destination comes to; None for what ends there: a phone, an application, or nowhere."""
        kind, name = destination(to)
        if kind:
            return (kind, name) if (kind, name) in self._named() else None
        if (emergency := self._plan.find_route(name, emergency=True)) is not None:
            return "route", emergency
        if name in self._extensions:
            return (USER, name) if name in self._plan.users else None
        if name in self._codes or (route := self._plan.find_route(name)) is None:
            return None
        return "route", route

    def _named(self) -> set[Node]:
        plan = self._plan
        places = {"group": plan.groups, "hours": plan.hours, "outbound": plan.outbounds}
        return {(kind, name) for kind, names in places.items() for name in names}

    def _is_somewhere(self, to: str) -> bool:
        kind, name = destination(to)
        return self._node_of(to) is not None or (not kind and (name in self._extensions or name in self._codes))

    def _dialled_again(self, name: str) -> list[str]:
        """What a route dials for the numbers of its pattern: for all, or for some where there are too many."""
        route = self._plan.routes[name]
        return [d for n in _samples(read_pattern(route.pattern)) if (d := route.prepend + n[route.strip :])]

    # Faults

    def dangling(self) -> Iterator[Fault]:
        """What leads to something that is not there."""
        plan = self._plan
        for node in self._nodes():
            for to, how, _ in self._places(node):
                if not self._is_somewhere(to):
                    why = "which is not there" if ":" in to else "which is no extension, and no route fits it"
                    yield Fault(f"{_said(node)}: leads to {to} ({how}), {why}", grave=True)
        for name, group in plan.groups.items():
            for member in group.members:
                if member.number not in self._extensions:
                    yield Fault(f"group {name}: its member {member.number} is no extension", grave=True)
        for name, outbound in plan.outbounds.items():
            for trunk in outbound.trunks:
                if trunk not in plan.trunks:
                    yield Fault(f"outbound {name}: its trunk {trunk} is not there", grave=True)
        for name, inbound in plan.inbounds.items():
            if inbound.trunk and inbound.trunk not in plan.trunks:
                yield Fault(f"inbound {name}: its trunk {inbound.trunk} is not there", grave=True)
        for number, user in plan.users.items():
            if number not in self._extensions:
                yield Fault(f"user {number}: there is no such extension", grave=True)
            if user.class_ and user.class_ not in plan.classes:
                yield Fault(f"user {number}: its class {user.class_} is not there", grave=True)

    def loops(self) -> Iterator[Fault]:
        """What leads back to itself. A circle that a busy or absent phone closes is none for most calls, and ends when
        each has been rung once; any other swallows its calls.
        """
        for always in (True, False):
            for circle in _circles(self._edges, only_always=always):
                way = ", ".join(f"{_said(node)} {edge.how} to {_said(edge.to)}" for node, edge in circle)
                if always:
                    yield Fault(f"{_said(circle[0][0])}: leads in a circle: {way}", grave=True)
                elif not all(edge.always for _, edge in circle):
                    yield Fault(f"{_said(circle[0][0])}: forwards in a circle, in which each is rung once: {way}")

    def hidden(self) -> Iterator[Fault]:
        """Routes that no number takes, and what an emergency route keeps from being called."""
        plan = self._plan
        for name, route in plan.routes.items():
            pattern = read_pattern(route.pattern)
            if route.emergency:
                found = next((number for number in (*self._codes, *self._extensions) if pattern.matches(number)), "")
                if found:
                    yield Fault(f"route {name}: keeps {found} from being called, since emergency comes first")
            elif by := self._hider(name, pattern):
                yield Fault(f"route {name}: no number takes it, since {by}")

    def _hider(self, name: str, pattern: Pattern) -> str:
        numbers = pattern.numbers(NUMBERS_MAX)
        if numbers is None:
            for other, route in self._plan.routes.items():
                if other == name:
                    return ""
                if read_pattern(route.pattern).language == pattern.language:
                    return f"route {other} has the same numbers and comes before it by its name"
            return ""
        hiders = list[str]()
        for number in numbers:
            if number in self._extensions:
                hiders.append(f"{number} is an extension")
            elif number in self._codes:
                hiders.append(f"{number} is a feature code")
            elif (taken := self._plan.find_route(number)) != name:
                hiders.append(f"{number} takes route {taken}")
            else:
                return ""
        return hiders[0] + (f" (and so on for all of its {len(hiders)} numbers)" if len(hiders) > 1 else "")

    def unused(self) -> Iterator[Fault]:
        """What nothing leads to."""
        used = {edge.to for edges in self._edges.values() for edge in edges}
        for node in sorted(self._named() - used):
            yield Fault(f"{_said(node)}: nothing leads to it")
        classes = {user.class_ for user in self._plan.users.values()} | {"default"}
        for name in self._plan.classes.keys() - classes:
            yield Fault(f"class {name}: no extension has it")


def _said(node: Node) -> str:
    return f"{node[0]} {node[1]}"


def _samples(pattern: Pattern) -> list[str]:
    numbers = pattern.numbers(NUMBERS_MAX)
    if numbers is not None:
        return list(numbers)
    ends = {"": ("",), ".": (_SAMPLE_END,), "!": ("", _SAMPLE_END)}[pattern.end]
    heads = {"".join(place[0] for place in pattern.places), "".join(place[-1] for place in pattern.places)}
    return sorted(head + end for head in heads for end in ends)


Circle = list[tuple[Node, Edge]]


def _circles(edges: Mapping[Node, tuple[Edge, ...]], *, only_always: bool) -> list[Circle]:
    """A circle for every edge that closes one: at least one of each knot of items."""
    found: dict[frozenset[Node], Circle] = {}
    done = set[Node]()
    for start in edges:
        if start in done:
            continue
        path: Circle = []
        places = {start: 0}
        stack = [(start, iter(edges[start]))]
        while stack:
            node, left = stack[-1]
            edge = next((edge for edge in left if edge.always or not only_always), None)
            if edge is None:
                stack.pop()
                done.add(node)
                del places[node]
                if path:
                    path.pop()
            elif edge.to in places:
                circle = [*path[places[edge.to] :], (node, edge)]
                found.setdefault(frozenset(node for node, _ in circle), circle)
            elif edge.to not in done:
                path.append((node, edge))
                places[edge.to] = len(path)
                stack.append((edge.to, iter(edges[edge.to])))
    return list(found.values())
