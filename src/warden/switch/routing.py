"""Where a dialled number leads: the way that a call takes, and why.

What is asked first counts: emergency routes, the class of service of who dials, extensions, feature codes, routes by
the narrowest pattern. Nothing here knows where phones are.
"""

from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Final, assert_never

from msgspec import Struct

from warden.call.apps.clock import clock_at
from warden.call.apps.echo import Echo
from warden.call.model import Cause
from warden.call.way import HOPS_MAX, Diverted, Extension, Lead, Line, Reason, Ring, Step, Take, Why
from warden.switch.dialplan.codes import setting_of
from warden.switch.dialplan.hours import When, when
from warden.switch.dialplan.items import Class, Group, Member, Route, Strategy, User
from warden.switch.dialplan.patterns import best
from warden.switch.directory import Directory

ECHO_TEST: Final = "*43"
SPEAKING_CLOCK: Final = "*60"
NOT_FOUND: Final = Cause(404, "Not Found")
CHANGE: Final = "change:"
"""How the destination begins that changes a setting; nobody else can name it."""
DEFAULT_CLASS: Final = "default"
_NO_SETTINGS: Final = User()
_ON_BEHALF: Final = {Why.BUSY: "is busy", Why.NO_ANSWER: "does not answer", Why.UNREACHABLE: "has no phone registered"}


class Asked(Struct, frozen=True, gc=False):
    """What is to be routed: `to` is a number as dialled (decoded), or a destination of the dialplan. `by` is the
    extension in whose name it is asked, whose class of service counts; "" where it is nobody's. `visited` is where the
    call has been. `now` is in seconds since the epoch, `utc_offset_s` that of the place, `ring_s` how long a phone
    rings where nothing says so, and `chance` any text: what is drawn by weight is drawn from it.
    """

    now: float
    caller: str
    to: str
    by: str = ""
    visited: tuple[str, ...] = ()
    utc_offset_s: float = 0.0
    ring_s: float = 60.0
    chance: str = ""


class Way(Struct, frozen=True, gc=False):
    """The steps of a call, or why there are none."""

    steps: tuple[Step, ...] = ()
    visited: tuple[str, ...] = ()
    cause: Cause = NOT_FOUND
    diverted: tuple[Diverted, ...] = ()


def route(asked: Asked, directory: Directory, say: Callable[[str], None] | None = None) -> Way:
    """The way to whom `asked` asks for. `say` is told, sentence by sentence, why it is this one."""
    plan, to = directory.plan, asked.to
    is_plain = not (say or asked.visited or plan.emergency or plan.classes) and to not in plan.users
    if is_plain and to in directory.extensions:
        # What is asked most: nothing stands before extensions, and this one has no settings.
        return Way((Ring((Extension(to),), asked.ring_s),))
    walk = _Walk(asked, directory, say)
    steps = walk.go(asked.to, asked.by)
    # A call that goes nowhere else needs no memory of where it has been.
    goes_on = any(isinstance(step, Lead) for step in steps)
    return Way(steps, walk.visited if goes_on else (), walk.cause, walk.diverted)


def route_in(asked: Asked, trunk: str, directory: Directory, say: Callable[[str], None] | None = None) -> Way:
    """The way of a call that comes over a trunk to the number `asked.to`: only where the rules for inbound calls lead
    it, and never on to where that number would lead whom it is dialled by here.
    """
    walk = _Walk(asked, directory, say)
    steps = walk.come_in(asked.to, trunk)
    goes_on = any(isinstance(step, Lead) for step in steps)
    return Way(steps, walk.visited if goes_on else (), walk.cause, walk.diverted)


def is_emergency(number: str, directory: Directory) -> bool:
    """True for a number that has to get through."""
    return directory.plan.find_route(number, emergency=True) is not None


class _Walk:
    """One question on its way through the dialplan. A method that leads nowhere gives no steps and sets `cause`."""

    def __init__(self, asked: Asked, directory: Directory, say: Callable[[str], None] | None) -> None:
        self.visited = asked.visited
        self.cause = NOT_FOUND
        self._asked = asked
        self._directory = directory
        self._plan = directory.plan
        self._say = say or (lambda _: None)
        self._dialled = ""
        self._is_emergency = False
        self.diverted: tuple[Diverted, ...] = ()

    def go(self, to: str, by: str) -> tuple[Step, ...]:
        kind, _, name = to.rpartition(":")
        if to in self.visited:
            self._say(f"{to}: this call has been there already")
            return self._refuse(482, "Forwarded in a circle")
        if len(self.visited) >= HOPS_MAX:
            self._say(f"{to}: this call has been forwarded {HOPS_MAX} times, which is enough")
            return self._refuse(482, "Forwarded too often")
        self.visited = (*self.visited, to)
        match kind:
            case "group":
                return self._group(name)
            case "hours":
                return self._hours(name)
            case "outbound":
                return self._outbound(name)
            case _:
                return self._number(to, by)

    def come_in(self, number: str, trunk: str) -> tuple[Step, ...]:
        name = self._plan.find_inbound(number, trunk)
        if name is None:
            self._say(f"{number}: no rule for inbound calls over trunk {trunk} fits it")
            return self._refuse(404, "Not Found")
        rule = self._plan.inbounds[name]
        self._dialled = number
        if rule.to:
            self._say(f"{number}: by inbound rule {name} leads to {rule.to}")
            return self.go(rule.to, "")
        extension = rule.prepend + number[rule.strip :]
        if self._directory.find(extension) is None:
            self._say(f"{number}: by inbound rule {name} is {extension}, which is no extension")
            return self._refuse(404, "Not Found")
        self._say(f"{number}: by inbound rule {name} is extension {extension}")
        return self.go(extension, "")

    def _number(self, number: str, by: str) -> tuple[Step, ...]:
        plan = self._plan
        emergency = plan.find_route(number, emergency=True) if plan.emergency else None
        if emergency is not None:
            self._is_emergency = True
            self._say(f"{number}: is an emergency number by route {emergency}, which comes before everything else")
            return self._route(plan.routes[emergency], number, "")
        if not self._may_dial(number, by):
            return ()
        if self._directory.find(number) is not None:
            self._say(f"{number} is an extension")
            return self._extension(number)
        if number == ECHO_TEST:
            self._say(f"{number} is the echo test")
            return (Take(Echo(), number),)
        if number == SPEAKING_CLOCK:
            self._say(f"{number} is the speaking clock")
            return (Take(clock_at(self._asked.now, self._asked.utc_offset_s), number),)
        if by and by == self._asked.caller and setting_of(number) is not None:
            self._say(f"{number} is a feature code for the settings of {by}")
            return (Lead(f"{CHANGE}{number}", by),)
        name = plan.find_route(number)
        if name is None:
            self._say(f"{number}: is no extension, and no route has a pattern that fits it")
            return self._refuse(404, "Not Found")
        self._say(f"{number}: takes route {name}, whose pattern {plan.routes[name].pattern} is the narrowest that fits")
        return self._route(plan.routes[name], number, by)

    def _may_dial(self, number: str, by: str) -> bool:
        if not by or not self._plan.classes:
            return True
        name = self._plan.users.get(by, _NO_SETTINGS).class_ or DEFAULT_CLASS
        service = self._plan.classes.get(name)
        if service is None:
            if name != DEFAULT_CLASS:
                self._say(f"{by}: its class of service {name} is not there, so that it may dial everything")
            return True
        if denied := denied_by(service, number):
            self._say(f"{by}: its class of service {name} does not allow {number}: {denied}")
            self._refuse(403, f"Not allowed by class {name}")
            return False
        self._say(f"{by}: its class of service {name} allows {number}")
        return True

    def _route(self, found: Route, number: str, by: str) -> tuple[Step, ...]:
        if found.to:
            self._dialled = number
            return self.go(found.to, "")
        dialled = found.prepend + number[found.strip :]
        self._say(f"{number}: is dialled as {dialled}")
        return self.go(dialled, by) if dialled else self._refuse(484, "Nothing left to dial")

    def _outbound(self, name: str) -> tuple[Step, ...]:
        outbound = self._plan.outbounds.get(name)
        if outbound is None:
            self._say(f"outbound {name}: is not there")
            return self._refuse(404, "Not Found")
        number = outbound.prepend + self._dialled[outbound.strip :]
        if not self._dialled or not number:
            self._say(f"outbound {name}: there is no number to call")
            return self._refuse(484, "Nothing left to dial")
        self._say(f"outbound {name}: {number} is called over trunk {', then '.join(outbound.trunks)}")
        lines = [Line(trunk, number, emergency=self._is_emergency) for trunk in outbound.trunks]
        # Another trunk helps where this one does not, and not where who is called is busy or does not answer.
        whens = [(), *([(Why.BROKEN, Why.UNREACHABLE)] * (len(lines) - 1))]
        return tuple(
            Ring((line,), self._asked.ring_s, when, early=True) for line, when in zip(lines, whens, strict=True)
        )

    def _hours(self, name: str) -> tuple[Step, ...]:
        hours = self._plan.hours.get(name)
        if hours is None:
            self._say(f"hours {name}: are not there")
            return self._refuse(404, "Not Found")
        now = when(self._asked.now, hours.zone, hours.open, hours.holidays)
        to = hours.then if now is When.OPEN else hours.closed
        if now is When.HOLIDAY and hours.holiday:
            to = hours.holiday
        self._say(f"hours {name}: it is {_HOURS[now]} ({hours.zone}), so {to or 'the call is refused'}")
        return self.go(to, "") if to else self._refuse(480, "Closed")

    def _group(self, name: str) -> tuple[Step, ...]:
        group = self._plan.groups.get(name)
        if group is None:
            self._say(f"group {name}: is not there")
            return self._refuse(404, "Not Found")
        members = [member for member in group.members if self._is_there(name, member)]
        self._say(f"group {name}: {_STRATEGIES[group.strategy]}: {', '.join(m.number for m in members) or 'nobody'}")
        steps = tuple(_rings(group, members, self._asked.chance))
        if group.then:
            self._say(f"group {name}: when none of them takes it the call goes to {group.then}")
            if not steps:
                return self.go(group.then, "")
            return (*steps, Lead(group.then))
        return steps or self._refuse(480, "Nobody in the group")

    def _is_there(self, group: str, member: Member) -> bool:
        number = member.number
        if self._directory.find(number) is None:
            self._say(f"group {group}: its member {number} is no extension")
        elif number == self._asked.caller:
            self._say(f"group {group}: its member {number} is who calls")
        elif self._plan.users.get(number, _NO_SETTINGS).do_not_disturb:
            self._say(f"group {group}: its member {number} does not want to be disturbed")
        else:
            return True
        return False

    def _extension(self, number: str) -> tuple[Step, ...]:
        user = self._plan.users.get(number, _NO_SETTINGS)
        if user.always:
            if user.always == self._asked.caller:
                self._say(f"{number}: its calls go to {user.always}, who is calling, so that it rings itself")
            else:
                self._say(f"{number}: all its calls go to {user.always}")
                self.diverted += (Diverted(number, Reason.ALWAYS),)
                return self.go(user.always, number)
        if user.do_not_disturb:
            self._say(f"{number}: does not want to be disturbed")
            if user.busy:
                self._say(f"{number}: as it is for being busy its calls go to {user.busy}")
                self.diverted += (Diverted(number, Reason.DO_NOT_DISTURB),)
                return self.go(user.busy, number)
            return self._refuse(480, "Do not disturb")
        return self._ring(number, user)

    def _ring(self, number: str, user: User) -> tuple[Step, ...]:
        ring = Ring((Extension(number),), float(user.no_answer_s) if user.no_answer else self._asked.ring_s)
        self._say(f"{number}: its phones ring for {ring.ring_s:g} s")
        leads = tuple(Lead(to, number, (why,)) for why, to in forwards(user) if to != self._asked.caller)
        for lead in leads:
            self._say(f"{number}: if it {_ON_BEHALF[lead.when[0]]} the call goes to {lead.to}")
        return (ring, *leads)

    def _refuse(self, status: int, text: str) -> tuple[Step, ...]:
        self.cause = Cause(status, text)
        return ()


_HOURS: Final = {When.OPEN: "open", When.CLOSED: "closed", When.HOLIDAY: "a holiday"}
_STRATEGIES: Final = {
    Strategy.ALL: "rings all its members",
    Strategy.IN_TURN: "rings its members one after the other",
    Strategy.BY_WEIGHT: "rings its members one after the other, in an order drawn by weight for each call",
}


def forwards(user: User) -> list[tuple[Why, str]]:
    """Where the calls of an extension go that its phones did not take, and after what."""
    given = ((Why.BUSY, user.busy), (Why.NO_ANSWER, user.no_answer), (Why.UNREACHABLE, user.unregistered))
    return [(why, to) for why, to in given if to]


def denied_by(service: Class, number: str) -> str:
    """Why a class of service does not let a number be dialled; "" where it does. Of two patterns alike the one that
    denies counts.
    """
    named = [(f"0 {text}", text) for text in service.deny] + [(f"1 {text}", text) for text in service.allow]
    found = best(number, iter(named))
    if found is None:
        return "nothing that it allows fits" if service.allow else ""
    return f"{found[2:]} is denied" if found[0] == "0" else ""


def _rings(group: Group, members: list[Member], chance: str) -> Iterator[Step]:
    match group.strategy:
        case Strategy.ALL:
            delays = sorted({member.delay_s for member in members if member.delay_s < group.ring_s})
            for i, delay in enumerate(delays):
                until = delays[i + 1] if i + 1 < len(delays) else group.ring_s
                targets = tuple(Extension(m.number) for m in members if m.delay_s == delay)
                yield Ring(targets, float(until - delay if i else until), also=i > 0)
        case Strategy.IN_TURN | Strategy.BY_WEIGHT:
            if group.strategy is Strategy.BY_WEIGHT:
                members = sorted(members, key=lambda member: _draw(member, chance), reverse=True)
            for member in members:
                yield Ring((Extension(member.number),), float(group.ring_s))
        case _:
            assert_never(group.strategy)


def _draw(member: Member, chance: str) -> float:
    """A number between 0 and 1, so drawn that the member with the highest is as often each as its weight says
    (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006).
    """
    drawn = blake2b(f"{chance} {member.number}".encode(), digest_size=8).digest()
    return float(((int.from_bytes(drawn, "big") + 1) / (2**64 + 1)) ** (1 / member.weight))
