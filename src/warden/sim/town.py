"""The phones and the people at them: who calls whom, who answers when, who hangs up. What each of them saw and when is
kept; whether it was right is for others to say.
"""

import asyncio
from collections.abc import Callable, Iterable
from enum import StrEnum
from itertools import count
from typing import Final

from msgspec import Struct

from warden.core.address import Address, Flow, Transport
from warden.phone.events import (
    Answered,
    By,
    Ended,
    Incoming,
    Outcome,
    Output,
    Referred,
    Registered,
    RegisterFailed,
    Ringing,
    Talking,
    Violation,
)
from warden.phone.line import Account
from warden.phone.phone import Phone
from warden.phone.session import Media
from warden.sdp.crypto import Keys
from warden.sdp.sdes import Policy
from warden.sim.loop import WORLD, Process, SimLoop
from warden.sim.network import PHONES, Message, Network
from warden.sim.node import REALM, START_UTC
from warden.sim.story import Story
from warden.sip.endpoint import Send
from warden.store.ports import Item
from warden.switch.dialplan.items import Group, Member, Route, Strategy, body_of
from warden.switch.directory import Directory, directory_of, new_extension

EXPIRES_S: Final = 3600
PINGS_S: Final = 1.3
"""How often a phone asks whether its server is there, as phones behind a NAT do."""
PINGS_UNTIL_S: Final = 25.0
NOBODY: Final = "9000"
"""Whose phone rings, and nobody is there: the only member of every group."""
TARGET: Final = "9001"
"""To whom callers are transferred: whoever it is, it answers."""
GROUP_RING_S: Final = 2
"""How long a group rings before it goes on to the callee."""
KNOWN_S: Final = 2.0
"""How long somebody is registered before everybody else knows it for sure."""


class Ending(StrEnum):
    """What becomes of a call."""

    TALK = "talk"
    """It is answered, and somebody hangs up."""
    BUSY = "busy"
    """The callee refuses it."""
    CANCEL = "cancel"
    """The caller gives up while it rings."""
    ECHO = "echo"
    """The caller talks to the echo test."""


class CallPlan(Struct, frozen=True):
    """One call as the people want it; times in seconds. `decide_s` is from the ringing to the answer, the refusal or,
    from the INVITE, the cancelling. `talk_s` is from the answer to the end, `hold_s` from the answer to a hold (None:
    there is none), `digits_at_s` to the keys that the caller presses. With `through_group` the caller dials a group: in
    it `NOBODY` rings in vain, and then the callee. `transfer_s` is from the answer to where the callee has the caller
    put through to `TARGET`.
    """

    caller: str
    callee: str
    at_s: float
    ending: Ending
    ring_s: float = 0.1
    decide_s: float = 1.0
    talk_s: float = 10.0
    caller_ends: bool = True
    hold_s: float | None = None
    digits_at_s: tuple[float, ...] = ()
    through_group: bool = False
    transfer_s: float | None = None

    @property
    def dialled(self) -> str:
        """What the caller dials."""
        if self.ending is Ending.ECHO:
            return "*43"
        return f"7{self.callee}" if self.through_group else self.callee


class Seen(Struct):
    """What one side of a call saw: when, or None. `by` and `status` are of its `Ended`, `srtp` its phone's keys;
    `hung_up_on`: it was sent a BYE, whether that came or not.
    """

    tag: str = ""
    invited_at: float | None = None
    rang_at: float | None = None
    answered_at: float | None = None
    hung_up_at: float | None = None
    ended_at: float | None = None
    by: By | None = None
    status: int = 0
    bye_status: int = 200
    hung_up_on: bool = False
    srtp: Keys | None = None
    transferred_at: float | None = None


class CallStory(Struct):
    """A call and what came of it."""

    plan: CallPlan
    caller: Seen
    callee: Seen
    sip_call_id: str = ""


class Person:
    """A phone and who sits at it."""

    def __init__(self, number: str, address: Address, server: Address, town: "Town") -> None:
        self.number = number
        self.registered_at: float | None = None
        self.known_at: float | None = None
        self.node = PHONES
        self.process: Process | None = None
        self.violations: list[str] = []
        self._town = town
        self.address = address
        self.server = server
        tokens = count()
        self.phone = Phone(
            Account(number, password_of(number), server.host, instance_id=f"urn:{number}"),
            Flow(Transport.UDP, address, server),
            lambda: f"{number}p{next(tokens)}",
        )
        self.calls: dict[str, tuple[CallStory, Seen]] = {}
        self.expected: list[CallStory] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        town.network.bind(address, self)

    @property
    def now(self) -> float:
        """Seconds since the epoch; phones have right clocks."""
        return START_UTC + self._town.loop.time()

    def hear(self, source: Address, message: Message) -> None:
        """As `Hears.hear`."""
        self._do(self.phone.receive(self.now, message, Flow(Transport.UDP, self.address, source)))

    def register(self) -> None:
        """Register, and stay so."""
        self._do(self.phone.register(self.now, EXPIRES_S))
        self.later(self._town.network.random.uniform(0, PINGS_S), self._ping)

    def _ping(self) -> None:
        self._do(self.phone.options(self.now))
        if self._town.loop.time() < PINGS_UNTIL_S:
            self.later(PINGS_S, self._ping)

    def call(self, story: CallStory) -> None:
        """Begin the call."""
        story.caller.invited_at = self.now
        tag, out = self.phone.call(self.now, f"sip:{story.plan.dialled}@{self.server.host}", self._media())
        story.caller.tag = tag
        self.calls[tag] = (story, story.caller)
        self._do(out)
        if story.plan.ending is Ending.CANCEL:
            self.later(story.plan.decide_s, lambda: self.hang_up(tag))

    def hang_up(self, tag: str) -> None:
        """End a call."""
        _, seen = self.calls[tag]
        if seen.hung_up_at is None and seen.ended_at is None:
            seen.hung_up_at = self.now
            self._do(self.phone.hang_up(self.now, tag))

    def hurry(self) -> None:
        """The server has moved, and this person does not wait: answer, press a key or hang up just now."""
        random = self._town.network.random
        for tag, (story, seen) in list(self.calls.items()):
            if seen.ended_at is not None or seen.hung_up_at is not None:
                continue
            is_caller = seen is story.caller
            ends = is_caller == story.plan.caller_ends or story.plan.ending is Ending.ECHO
            if story.plan.ending is Ending.TALK and not is_caller and seen.answered_at is None:
                self._answer(tag)
            elif seen.answered_at is not None and ends and random.random() < 0.5:
                self.hang_up(tag)
            elif seen.answered_at is not None:
                self._do(self.phone.info(self.now, tag, "7"))

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Let the person do something later."""
        self._town.loop.call_later(seconds, what, context=WORLD)

    def _media(self) -> Media:
        # Every other person's phone speaks SRTP, with whoever does.
        srtp = Policy.OPTIONAL if self.number[-1] in "13579" else Policy.OFF
        return Media(self.address.host, 4000, srtp=srtp)

    def _do(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            if isinstance(output, Send):
                self._town.network.send(PHONES, self.address, output.flow.remote, output.data)
            else:
                self._told(output)
        due = self.phone.deadline
        if due is not None and (self._timer is None or due < self._timer_at):
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = due
            self._timer = self._town.loop.call_later(max(0.0, due - self.now), self._tick, context=WORLD)

    def _tick(self) -> None:
        self._timer = None
        self._do(self.phone.tick(self.now))

    def _told(self, event: Output) -> None:
        now = self.now
        match event:
            case Registered(expires_s):
                self.registered_at = now if expires_s else None
                self.known_at = self.known_at or now
            case RegisterFailed(status):
                self._town.story.tell(self.number, f"is not registered: {status}")
            case Incoming():
                self._town.story.tell(self.number, f"is called by {event.number}")
                self._ring(event)
            case Ringing(call):
                seen = self.calls[call][1]
                seen.rang_at = seen.rang_at or now
            case Answered(call):
                self._town.story.tell(self.number, "hears the answer")
                self._talk(call)
            case Referred(call, status, final) if final:
                self._town.story.tell(self.number, f"is told that its transfer came to {status}")
                if status == 200:
                    self.calls[call][1].transferred_at = now
            case Outcome(call, "BYE", status) if call in self.calls:
                self.calls[call][1].bye_status = status
            case Ended(call) if call in self.calls:
                self._town.story.tell(self.number, f"call ended by {event.by}: {event.status} {event.reason}")
                seen = self.calls[call][1]
                seen.ended_at, seen.by, seen.status = now, event.by, event.status
            case Talking(call, srtp=srtp) if call in self.calls:
                seen = self.calls[call][1]
                if seen.srtp not in (None, srtp):
                    self.violations.append("spoken to under other SRTP keys than before")
                seen.srtp = srtp
            case Violation():
                self._town.story.tell(self.number, f"complains: {event.what}")
                self.violations.append(event.what)
            case _:
                pass

    def _ring(self, incoming: Incoming) -> None:
        """The call that comes is the one that was planned; the people agreed on it."""
        if self.number == NOBODY:
            self._do(self.phone.ring(self.now, incoming.call))
            return
        if self.number == TARGET:
            self.later(0.3, lambda: self._do(self.phone.answer(self.now, incoming.call, self._media())))
            return
        story = next(
            (s for s in self.expected if s.plan.caller == incoming.number and not s.callee.tag),
            None,
        )
        tag = incoming.call
        if story is None:
            self.violations.append(f"called by {incoming.number}, who did not call, or called once")
            self._do(self.phone.refuse(self.now, tag, 486))
            return
        plan, seen = story.plan, story.callee
        seen.tag, seen.invited_at = tag, self.now
        self.calls[tag] = (story, seen)
        self.later(plan.ring_s, lambda: self._do(self.phone.ring(self.now, tag)))
        match plan.ending:
            case Ending.BUSY:
                self.later(plan.ring_s + plan.decide_s, lambda: self._do(self.phone.refuse(self.now, tag, 486)))
            case Ending.TALK:
                self.later(plan.ring_s + plan.decide_s, lambda: self._answer(tag))
            case Ending.CANCEL | Ending.ECHO:
                pass

    def _answer(self, tag: str) -> None:
        story, seen = self.calls[tag]
        if seen.ended_at is not None or seen.answered_at is not None:
            return
        seen.answered_at = self.now
        self._do(self.phone.answer(self.now, tag, self._media()))
        if story.plan.transfer_s is not None:
            self.later(story.plan.transfer_s, lambda: self._do(self.phone.transfer(self.now, tag, TARGET)))
        if not story.plan.caller_ends:
            self.later(story.plan.talk_s, lambda: self.hang_up(tag))

    def _talk(self, tag: str) -> None:
        """The caller hears the answer."""
        story, seen = self.calls[tag]
        seen.answered_at, plan = self.now, story.plan
        if plan.hold_s is not None:
            self.later(plan.hold_s, lambda: self._do(self.phone.hold(self.now, tag)))
        for at_s in plan.digits_at_s:
            self.later(at_s, lambda: self._do(self.phone.info(self.now, tag, "5")))
        if plan.caller_ends or plan.ending is Ending.ECHO:
            self.later(plan.talk_s, lambda: self.hang_up(tag))


class Town:
    """Everybody."""

    def __init__(self, loop: SimLoop, network: Network, story: Story) -> None:
        self.loop = loop
        self.network = network
        self.story = story
        self.people: dict[str, Person] = {}
        self.calls: list[CallStory] = []

    def settle(self, number: str, seat: Address) -> None:
        """Somebody moves in, whose phone is registered at a seat."""
        n = len(self.people) + 1
        self.people[number] = Person(number, Address(f"10.0.0.{n}", 5060), seat, self)

    def hurry(self, server: Address) -> None:
        """All whose server this is do something at once."""
        for person in self.people.values():
            if person.server == server:
                person.hurry()

    def plan(self, plan: CallPlan) -> None:
        """Let a call happen."""
        story = CallStory(plan, Seen(), Seen())
        self.calls.append(story)
        if plan.ending is not Ending.ECHO:
            self.people[plan.callee].expected.append(story)
        caller = self.people[plan.caller]
        callee = self.people.get(plan.callee, caller)

        def begin() -> None:
            if callee.known_at is not None and callee.now >= callee.known_at + KNOWN_S:
                caller.call(story)
            else:
                # The weather has kept the callee from registering in time: nobody calls who is not there yet.
                self.loop.call_later(KNOWN_S, begin, context=WORLD)

        self.loop.call_later(plan.at_s, begin, context=WORLD)

    def everybody_registers(self) -> None:
        """At once, as after a power cut."""
        for person in self.people.values():
            person.register()


def password_of(number: str) -> str:
    """The password of an extension."""
    return f"secret of {number}"


def directory_for(numbers: Iterable[str], calls: Iterable[CallPlan] = (), more: Iterable[Item] = ()) -> Directory:
    """The directory of everybody, the groups that are called, and `more`."""
    items = [*more] + [item for call in calls if call.through_group for item in _group(call)]
    return directory_of((new_extension(n, password_of(n), realm=REALM, now=0.0, name=n) for n in numbers), 1, items)


def _group(call: CallPlan) -> list[Item]:
    group = Group((Member(NOBODY),), strategy=Strategy.IN_TURN, ring_s=GROUP_RING_S, then=call.callee)
    route = Route(call.dialled, to=f"group:{call.callee}")
    return [Item("group", call.callee, body_of(group)), Item("route", call.callee, body_of(route))]
