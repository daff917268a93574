"""The way of a call as a value: whom it rings, for how long, and where it goes on when that fails. Nothing here knows
where phones are or what numbers mean; whoever carries the engine out does.
"""

from enum import StrEnum

from msgspec import Struct

from warden.call.apps.beeps import Beeps
from warden.call.apps.clock import Clock
from warden.call.apps.echo import Echo

App = Echo | Clock | Beeps
SPEAKERS = (Clock, Beeps)
"""What hangs up when it has said all."""

STEPS_MAX = 100
"""Steps of a way: the members of the largest group one after the other, and what stands behind them."""
HOPS_MAX = 10
"""Forwards and other turns that one call follows: a longer chain is a mistake, and rings for minutes."""


class Why(StrEnum):
    """How a step failed, as far as it matters for where the call goes on."""

    BUSY = "busy"
    """Somebody is on the phone, or does not want the call (486, 600, 603)."""
    NO_ANSWER = "no-answer"
    """It rang in vain."""
    UNREACHABLE = "unreachable"
    """No phone is registered, or none can be reached (408 and 480 without ringing)."""
    BROKEN = "broken"
    """The other side is in trouble (5xx)."""
    REFUSED = "refused"
    """Anything else: no such number, no common codec, not allowed."""


class Reason(StrEnum):
    """Why a call was forwarded, in the words of RFC 5806."""

    ALWAYS = "unconditional"
    BUSY = "user-busy"
    NO_ANSWER = "no-answer"
    UNREACHABLE = "unavailable"
    DO_NOT_DISTURB = "do-not-disturb"


class Diverted(Struct, frozen=True, gc=False):
    """An extension has forwarded the call."""

    number: str
    reason: Reason


REASONS = {Why.BUSY: Reason.BUSY, Why.NO_ANSWER: Reason.NO_ANSWER, Why.UNREACHABLE: Reason.UNREACHABLE}
"""Why a forward for this failure was taken."""


class Extension(Struct, frozen=True, gc=False, tag="extension"):
    """All phones of an extension."""

    number: str


class Line(Struct, frozen=True, gc=False, omit_defaults=True, tag="line"):
    """A number outside, over a trunk. `tried` are the trunk's addresses that have failed; an `emergency` call is tried
    whatever speaks against it.
    """

    trunk: str
    number: str
    tried: tuple[str, ...] = ()
    emergency: bool = False


Target = Extension | Line
"""What can be rung."""


class Ring(Struct, frozen=True, gc=False, omit_defaults=True, tag="ring"):
    """Ring all `targets` for `ring_s`. `also`: what rang in the step before goes on ringing when its time is over.
    `early`: early media of its only leg is passed on although there are steps behind; then they are not taken.

    `when` says after which failures of the step before this one is taken; empty: after any.
    """

    targets: tuple[Target, ...]
    ring_s: float
    when: tuple[Why, ...] = ()
    also: bool = False
    early: bool = False


class Lead(Struct, frozen=True, gc=False, omit_defaults=True, tag="lead"):
    """Go where `to` leads at that moment, in place of what is left of the way. `by` is the extension that says so: it
    goes there in its name.
    """

    to: str
    by: str = ""
    when: tuple[Why, ...] = ()


class Take(Struct, frozen=True, gc=False, omit_defaults=True, tag="take"):
    """An application takes the call; `number` is what it is called by."""

    app: App
    number: str
    when: tuple[Why, ...] = ()


Step = Ring | Lead | Take
