"""Two regions, each a cluster by itself: which of them has the seats, and what a node tells the nodes of the other one.

One region is the primary. Which one is a value with a term: whoever knows a higher term is right, and a node never goes
back to a lower one, also not by being started again. So a region that was lost and comes back learns that it has lost
its seats as soon as it hears one word from outside, and lets go of them without saying anything to a phone.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Final

from msgspec import Struct

from warden.core.errors import WardenError
from warden.core.versions import Codec

SCHEMA: Final = 1
YIELD_S: Final = 30.0
"""How long a region makes way for the other one: longer than the waits of a promotion together."""
HEARD_S: Final = 5.0
"""A node that has said nothing for so long is away, where it says something every second."""


class Primary(Struct, frozen=True):
    """The region that has the seats, since it was given them for the `term`-th time."""

    region: str
    term: int = 0

    def is_newer(self, other: "Primary") -> bool:
        """Whether this is what is true now, if somebody believes the other. Of two that were made at the same time, by
        operators who did not know of each other, the first by name holds everywhere.
        """
        return self.term > other.term or (self.term == other.term and self.region < other.region)


class Word(Struct, frozen=True):
    """What a node tells the other region: `holds` are its seats, `holders` who has which seat in its region as far as
    it knows, `members` those that it sees alive there. `database` is "primary" or "standby" as it saw that of its
    region last, `timeline` that of its leader, and `copies` are the addresses of those that are sent what it writes.
    """

    node: str
    region: str
    primary: Primary
    holds: tuple[str, ...] = ()
    holders: Mapping[str, str] = {}
    members: tuple[str, ...] = ()
    database: str = ""
    timeline: int = 0
    copies: tuple[str, ...] = ()


class WordRecord(Struct, frozen=True):
    """A word on the wire."""

    schema: int
    word: Word


WORDS: Final = Codec(WordRecord, SCHEMA)
"""Words as bytes."""


class Heard(Struct, frozen=True):
    """The last word of a node, and when it came (steady clock)."""

    word: Word
    at: float


class Regions:
    """What a node knows of the regions. `own` is its region, `heard` the last words of the other region's nodes."""

    def __init__(
        self,
        own: str,
        names: Collection[str],
        primary: Primary,
        keep: Callable[[Primary], None],
        now: Callable[[], float],
    ) -> None:
        """`primary` is what was known last; `keep` stores what is learned, before anybody acts on it."""
        self.own = own
        self.other = next(name for name in names if name != own)
        self.primary = primary
        self.heard: dict[str, Heard] = {}
        self.keep_error = ""
        self.yields_until = 0.0
        self.on_change: Callable[[], None] = lambda: None
        self._keep = keep
        self._now = now

    @property
    def is_primary(self) -> bool:
        """Whether the seats are in this region."""
        return self.primary.region == self.own

    @property
    def refusal(self) -> str:
        """Why no seat may be here; "" where they may."""
        if not self.is_primary:
            return f"region {self.primary.region} is the primary one"
        return f"region {self.other} is taking the seats" if self._now() < self.yields_until else ""

    def go_on(self) -> None:
        """Nothing came of it."""
        self.yields_until = 0.0
        self.on_change()

    def make_way(self) -> None:
        """The other region is about to become the primary one: no seat may be here for a while. It says so when it is;
        where it does not, everything is as before once that while is over.
        """
        self.yields_until = self._now() + YIELD_S
        self.on_change()

    def learn(self, primary: Primary | None) -> bool:
        """Somebody knows this. True where it is news. What cannot be kept holds all the same, for as long as this
        process lives; `keep_error` says so.
        """
        if primary is None or not primary.is_newer(self.primary):
            return False
        try:
            self._keep(primary)
            self.keep_error = ""
        except WardenError as error:
            self.keep_error = str(error)
        self._become(primary)
        return True

    def decide(self, primary: Primary) -> None:
        """An operator says so: nothing else than `learn`, except that it must be kept. Raises `WardenError`."""
        if primary.is_newer(self.primary):
            self._keep(primary)
            self._become(primary)

    def _become(self, primary: Primary) -> None:
        self.primary = primary
        self.yields_until = 0.0
        self.on_change()

    def hear(self, word: Word) -> None:
        """A node of the other region has spoken."""
        self.heard[word.node] = Heard(word, self._now())
        self.learn(word.primary)

    def present(self) -> dict[str, Word]:
        """The nodes of the other region that are there, by name."""
        now = self._now()
        return {node: heard.word for node, heard in self.heard.items() if now - heard.at < HEARD_S}

    def why_not(self, present: Mapping[str, Word]) -> str:
        """Why this region cannot become the primary one by agreement with the nodes of the other one that are there;
        "" where it can.
        """
        if self.is_primary:
            return f"region {self.own} is the primary one already"
        if not present:
            return (
                f"no node of region {self.other} answers: if it is lost, and none of its nodes can reach a phone any "
                "more, say so (--lost)"
            )
        # Also one that holds nothing: it would take what the others let go of.
        alive = {node for word in present.values() for node in (*word.holders.values(), *word.members) if node}
        silent = sorted(alive - present.keys())
        if silent:
            return f"{', '.join(silent)} lives in region {self.other} and does not answer here"
        return ""
