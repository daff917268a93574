"""How a seat stays where it is while the coordinator is away for everybody: all others that may have it agree.

A seat can only be taken by one of its successors. When each of them says that it cannot reach the coordinator either,
and promises to leave the seat alone for one lease, its holder may speak on for that long, counted from before it asked.
One that does not answer, or that reaches the coordinator, is no agreement: then the holder stops by its own clock.

A promise outlives the process that gave it: it is kept (`Promises.keep`) before it is told.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping, Set
from contextlib import suppress
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

AGE_MAX_S: Final = 5.0
"""A question older than that, clocks that differ a little included, is one that somebody has kept and says again."""
ANSWER_SHARE: Final = 1 / 4
"""Share of the lease for the others' answers."""
MAC_BYTES: Final = 32

Ask = Callable[[str, bytes], Awaitable[bytes | None]]
"""(address of a node's HTTP, question): its answer; None where there is none in time."""


class Question(Struct, frozen=True):
    """May `node` keep these seats for `ttl_s` more? `nonce` comes back in the answer."""

    node: str
    seats: tuple[str, ...]
    ttl_s: float
    nonce: str
    now: float


class Answer(Struct, frozen=True):
    """The seats that the one who was asked leaves alone."""

    node: str
    nonce: str
    seats: tuple[str, ...]


_Said = TypeVar("_Said", Question, Answer)


class Seal:
    """Signs and checks what nodes say to each other, by the cluster's secret."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"warden consent", "sha256")

    def sealed(self, said: Question | Answer) -> bytes:
        """The message with its proof in front."""
        body = msgspec.msgpack.encode(said)
        return self._proof(type(said), body) + body

    def question(self, data: bytes, now: float) -> Question | None:
        """The question in a message; None where it is none of this cluster's, or an old one."""
        found = self._opened(data, Question)
        return found if found is not None and abs(now - found.now) <= AGE_MAX_S else None

    def answer(self, data: bytes, nonce: str) -> Answer | None:
        """The answer in a message; None where it is not to that question."""
        found = self._opened(data, Answer)
        return found if found is not None and found.nonce == nonce else None

    def _opened(self, data: bytes, kind: type[_Said]) -> _Said | None:
        proof, body = data[:MAC_BYTES], data[MAC_BYTES:]
        if not hmac.compare_digest(proof, self._proof(kind, body)):
            return None
        try:
            return msgspec.msgpack.decode(body, type=kind)
        except msgspec.MsgspecError:
            return None

    def _proof(self, kind: type, body: bytes) -> bytes:
        return hmac.new(self._key, kind.__name__.encode() + b"\0" + body, hashlib.sha256).digest()


class Promises:
    """Until when this node leaves which seat alone (seconds, its steady clock)."""

    def __init__(self, keep: Callable[[Mapping[str, float]], None], kept: Mapping[str, float] | None = None) -> None:
        """`keep` writes them where the next process finds them as `kept`. It raises `WardenError`; then nothing is
        promised.
        """
        self._keep = keep
        self.until: dict[str, float] = dict(kept or {})

    def give(self, seats: tuple[str, ...], until: float) -> None:
        """Promise these seats, which are some of the configured ones. What was promised for longer stays."""
        made = self.until | {seat: max(until, self.until.get(seat, until)) for seat in seats}
        self._keep(made)
        self.until = made


class Consent:
    """How a node asks the others, and answers them."""

    def __init__(self, seal: Seal, promises: Promises, ask: Ask, new_nonce: Callable[[], str]) -> None:
        self.promises = promises
        self._seal = seal
        self._ask = ask
        self._new_nonce = new_nonce

    async def ask(
        self, node: str, seats: Mapping[str, Set[str]], addresses: Mapping[str, str], ttl_s: float, now: float
    ) -> frozenset[str]:
        """Which of its `seats` (each with the other nodes that may have it) `node` may keep for `ttl_s` from `now` on.
        `addresses` are those of the nodes' HTTP.
        """
        question = Question(node, tuple(seats), ttl_s, self._new_nonce(), now)
        others = sorted(set().union(*seats.values()))
        told = await asyncio.gather(*(self._ask_one(other, addresses.get(other, ""), question) for other in others))
        left_alone = dict(zip(others, told, strict=True))
        return frozenset(seat for seat, nodes in seats.items() if all(seat in left_alone[other] for other in nodes))

    async def _ask_one(self, node: str, address: str, question: Question) -> tuple[str, ...]:
        said = None
        with suppress(TimeoutError):
            async with asyncio.timeout(question.ttl_s * ANSWER_SHARE):
                said = await self._ask(address, self._seal.sealed(question)) if address else None
        answer = None if said is None else self._seal.answer(said, question.nonce)
        return answer.seats if answer is not None and answer.node == node else ()

    def answer(self, node: str, question: bytes, free: Set[str], now: float) -> bytes | None:
        """What `node` says to a question; `free` are the seats that it can leave alone. None for no question.

        Raises `WardenError` where the promise cannot be kept.
        """
        asked = self._seal.question(question, now)
        if asked is None:
            return None
        seats = tuple(seat for seat in asked.seats if seat in free)
        if seats:
            self.promises.give(seats, now + asked.ttl_s)
        return self._seal.sealed(Answer(node, asked.nonce, seats))
