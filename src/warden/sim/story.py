"""What happened, in order: a line for each thing that somebody said or did. Nothing here decides anything."""

from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

LINES_MAX: Final = 4_000
"""Lines kept of a story: its last minutes, which is where it goes wrong."""


class Story:
    """`digest` is of the whole story, also of what is not kept."""

    def __init__(self, time: Callable[[], float]) -> None:
        self.lines: deque[str] = deque(maxlen=LINES_MAX)
        self.violations: list[str] = []
        self._time = time
        self._hash = blake2b(digest_size=16)

    @property
    def digest(self) -> str:
        """The same for the same story."""
        return self._hash.hexdigest()

    def tell(self, who: str, what: str) -> None:
        """Somebody said or did something."""
        line = f"{self._time():10.4f}  {who:10} {what}"
        self.lines.append(line)
        self._hash.update(line.encode())

    def accuse(self, what: str) -> None:
        """Something happened that must never happen."""
        if what not in self.violations:
            self.violations.append(what)
            self.tell("!!!", what)
