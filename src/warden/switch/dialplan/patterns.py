"""Patterns of numbers, as in docs/dialplan.md.

Each character stands for itself but `X` (0 to 9), `Z` (1 to 9), `N` (2 to 9), `[2-57]` (one of these), and at the end
`.` (one character or more) or `!` (none or more). Of several patterns that fit a number the one counts that is narrower
at the first place where they differ.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import product
from typing import Final

from msgspec import Struct

from warden.core.errors import WardenError

PATTERN_CHARS_MAX: Final = 64
"""No number is longer."""
_CLASSES: Final = {"X": "0123456789", "Z": "123456789", "N": "23456789"}
_LITERAL: Final = re.compile(r"[0-9a-z*#+_-]\Z")
_SET: Final = re.compile(r"\[([0-9]|[0-9]-[0-9])+\]")
_WILD: Final = {".": 100, "!": 101}
"""How wide the two ends are: wider than any set, and `!` wider than `.`."""


class Pattern(Struct, frozen=True, gc=False):
    """A pattern that has been read. `places` are the characters that each place may have; `end` is `.`, `!` or ""."""

    text: str
    places: tuple[str, ...]
    end: str
    regex: re.Pattern[str]

    def matches(self, number: str) -> bool:
        """True where the whole number fits."""
        return self.regex.match(number) is not None

    @property
    def order(self) -> tuple[int, ...]:
        """Of two patterns that fit a number the one with the lower order counts."""
        return (*map(len, self.places), _WILD.get(self.end, 0))

    @property
    def language(self) -> tuple[object, ...]:
        """The same for two patterns that fit the same numbers."""
        return (*map(frozenset, self.places), self.end)

    def numbers(self, most: int) -> Iterator[str] | None:
        """Every number that fits; None where there are more than `most`."""
        count = 1
        for place in self.places:
            count *= len(place)
        return map("".join, product(*self.places)) if not self.end and count <= most else None


@lru_cache(maxsize=4096)
def read_pattern(text: str) -> Pattern:
    """Read a pattern. A `_` at its beginning, as others write it, is left out. Raises `WardenError`."""
    rest = text.removeprefix("_")
    if not rest or len(rest) > PATTERN_CHARS_MAX:
        raise WardenError(f"pattern {text[:70]!r}: must be of 1 to {PATTERN_CHARS_MAX} characters")
    end = rest[-1] if rest[-1] in _WILD else ""
    rest = rest.removesuffix(end)
    places = []
    while rest:
        if rest[0] in _CLASSES:
            places.append(_CLASSES[rest[0]])
            rest = rest[1:]
        elif found := _SET.match(rest):
            places.append(_digits(text, found.group()[1:-1]))
            rest = rest[found.end() :]
        elif _LITERAL.match(rest[0]):
            places.append(rest[0])
            rest = rest[1:]
        else:
            raise WardenError(
                f"pattern {text!r}: {rest[0]!r} has no place in it: digits, a to z and * # + - stand for themselves, "
                "X Z N and [2-5] for a digit, . or ! at the end for the rest"
            )
    regex = "".join(f"[{re.escape(place)}]" for place in places) + {".": r"\S+", "!": r"\S*", "": ""}[end] + r"\Z"
    return Pattern(text, tuple(places), end, re.compile(regex))


def _digits(text: str, inside: str) -> str:
    found = set[str]()
    for first, last in re.findall(r"([0-9])(?:-([0-9]))?", inside):
        if last and last < first:
            raise WardenError(f"pattern {text!r}: {first}-{last} goes backwards")
        found |= {str(digit) for digit in range(int(first), int(last or first) + 1)}
    return "".join(sorted(found))


class Matcher(Struct, frozen=True, gc=False):
    """Finds the first of many patterns that fits, in one go: a dialplan may have hundreds of routes."""

    names: tuple[str, ...] = ()
    regex: re.Pattern[str] | None = None

    def find(self, number: str) -> str | None:
        """The name of the first pattern that fits."""
        found = None if self.regex is None else self.regex.match(number)
        return None if found is None or found.lastindex is None else self.names[found.lastindex - 1]


def matcher_of(named: Iterable[tuple[str, str]]) -> Matcher:
    """For names and patterns, in the order in which they count. Raises `WardenError`."""
    pairs = tuple(named)
    if not pairs:
        return Matcher()
    regex = re.compile("|".join(f"({read_pattern(text).regex.pattern})" for _, text in pairs))
    return Matcher(tuple(name for name, _ in pairs), regex)


def best(number: str, patterns: Iterator[tuple[str, str]]) -> str | None:
    """The name of the narrowest pattern (of names and patterns) that fits, the first by name of two that fit alike."""
    fitting = [(read_pattern(text).order, name) for name, text in patterns if read_pattern(text).matches(number)]
    return min(fitting)[1] if fitting else None
