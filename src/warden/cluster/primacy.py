"""Who may be the primary region, by an arbiter that is neither of the two: a seat of its own among three sites.

The primary region's nodes renew it. Who cannot do so any more falls silent by its own clock, before the arbiter gives
the seat to the other region. Its epoch is the term of `regions.Primary`.
"""

from enum import Enum, auto
from typing import Final

from msgspec import Struct

from warden.cluster.regions import Primary

SEAT: Final = "primary"
"""What the regions hold at the arbiter."""


class Seen(Struct, frozen=True):
    """What the arbiter says: `holder` is the region, "" for none whose lease lasts; `term` is the last one given."""

    holder: str = ""
    term: int = 0


class Step(Enum):
    """What a node does about the arbiter."""

    LEARN = auto()
    """Somebody has become the primary region of whom nothing was heard here."""
    RENEW = auto()
    TAKE = auto()
    """This region is the primary one, and the arbiter is to know it, with a new term."""
    SUCCEED = auto()
    """The primary region's lease is over: this one takes its place."""
    WAIT = auto()
    """The other region's turn, or whoever had the last term must speak first."""


def find_step(own: str, primary: Primary, seen: Seen) -> Step:
    """What a node of region `own` does that believes in `primary`. Only who knows of the last term may follow it."""
    if seen.term > primary.term:
        if seen.holder:
            return Step.LEARN
        # An operator has vouched for this region, whatever happened in the terms that nobody here has heard of.
        return Step.TAKE if primary.region == own and primary.alone else Step.WAIT
    if primary.region == own:
        is_known = seen == Seen(own, primary.term) and not primary.alone
        return Step.RENEW if is_known else Step.TAKE
    if not seen.holder and seen.term == primary.term > 0:
        return Step.SUCCEED
    return Step.WAIT
