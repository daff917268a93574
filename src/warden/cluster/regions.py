"""Two regions, each a cluster by itself: which of them has the seats, and what a node tells the nodes of the other one.

One region is the primary. Which one is a value with a term: whoever knows a higher term is right, and a node never goes
back to a lower one, also not by being started again. So a region that was lost and comes back learns that it has lost
its seats as soon as it hears one word from outside, and lets go of them without saying anything to a phone. Where there
is an arbiter (`primacy`), the primary region's nodes may hold seats only as long as that lets them.
"""

from collections.abc import Callable, Collection, Mapping
from math import inf
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
    """The region that has the seats, since it was given them for the `term`-th time. It is `alone` where an operator
    vouched for it without the arbiter's word.
    """

    region: str
    term: int = 0
    alone: bool = False

    def is_newer(self, other: "Primary") -> bool:
        """Whether this is what is true now, if somebody believes the other. In one term the arbiter's word is more than
        an operator's who did without it; and of two that were made at the same time, by operators who did not know of
        each other, the first by name holds everywhere.
        """
        mine, its = (self.term, not self.alone), (other.term, not other.alone)
        return mine > its or (mine == its and self.region < other.region)


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
        leased_until: float = inf,
    ) -> None:
        """`primary` is what was known last; `keep` stores what is learned, before anybody acts on it. `leased_until` is
        until when the arbiter lets this node hold seats; always where there is none.
        """
        self.own = own
        self.other = next(name for name in names if name != own)
        self.primary = primary
        self.heard: dict[str, Heard] = {}
        self.keep_error = ""
        self.yields_until = 0.0
        self.yields_to = ""
        self.why_not_permitted = ""
        self.on_change: Callable[[], None] = lambda: None
        self.leased_until = leased_until
        self._asked_at = 0.0
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
        if self._now() < self.yields_until:
            return f"region {self.other} is taking the seats"
        if self.waits_for_word:
            return (
                f"region {self.other} was taking the seats and {self.yields_to} has not been heard of since; if it is "
                "lost, and none of its nodes can reach a phone any more, say so (--lost)"
            )
        if self._now() >= self.permitted_until:
            return f"the arbiter does not let region {self.own} have the seats: {self.why_not_permitted or 'not asked'}"
        return ""

    @property
    def waits_for_word(self) -> bool:
        """Whether the other region may have the seats without this one's knowing: it was about to, nothing was heard
        since, and no arbiter knows either.
        """
        return self.leased_until == inf and self.yields_to != "" and self._now() >= self.yields_until

    @property
    def permitted_until(self) -> float:
        """When this node falls silent at the latest if the arbiter says nothing more (steady clock). What that said
        before this region had made way holds for letting go, and not behind it: the other one may have the seats since.
        """
        if self.primary.alone or self.leased_until == inf:
            return inf
        return -inf if self._asked_at < self.yields_until <= self._now() else self.leased_until

    @property
    def waits(self) -> str:
        """Why no seat may come here just now, while those that are here stay: it would have to go soon."""
        return "" if self.primary.alone or not self.why_not_permitted else f"the arbiter: {self.why_not_permitted}"

    def permit(self, until: float, asked_at: float) -> None:
        """The arbiter lets this node hold seats until then: it was asked at `asked_at` (steady clock)."""
        self.leased_until, self._asked_at = until, asked_at
        self.why_not_permitted = ""
        self.on_change()

    def refuse(self, why: str) -> None:
        """The arbiter does not, or does not answer: what was permitted before lasts to its end."""
        self.why_not_permitted = why
        self.on_change()

    def go_on(self, node: str) -> None:
        """Nothing came of what this node of the other region was about to do; another one may be at it too."""
        if self.yields_to in ("", node):
            self.yields_until, self.yields_to = min(self.yields_until, self._now()), ""
            self.on_change()

    def make_way(self, node: str) -> None:
        """The other region is about to become the primary one, by this node of it: no seat may be here for a while. It
        says so when it is. Where it says something else once that while is over, or is not alive, everything is as
        before; where there is an arbiter, as soon as that lets this node have seats again.
        """
        self.yields_until, self.yields_to = self._now() + YIELD_S, node
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
        self.yields_until, self.yields_to = 0.0, ""
        self.on_change()

    def hear(self, word: Word) -> None:
        """A node of the other region has spoken."""
        self.heard[word.node] = Heard(word, self._now())
        # A promotion takes less time: who was about it would tell, and who has died knows nothing any more.
        knows = word.node == self.yields_to or self.yields_to not in word.members
        if not self.learn(word.primary) and self.waits_for_word and knows:
            self.go_on(self.yields_to)

    def present(self) -> dict[str, Word]:
        """The nodes of the other region that are there, by name."""
        now = self._now()
        return {node: heard.word for node, heard in self.heard.items() if now - heard.at < HEARD_S}

    def why_not(self, present: Mapping[str, Word]) -> str:
        """Why this region cannot become the primary one by agreement with the nodes of the other one that are there;
        "" where it can.
        """
        if self.is_primary:
            return f"region {self.own} is the primary one already" if not self.refusal else self.refusal
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
