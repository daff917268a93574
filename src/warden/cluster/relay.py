"""What a node asks of another one that reaches the store when it does not itself (`through`): the messages, and how the
other one does it.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from warden.cluster.stream import Frame, Frames, Step, encode, parts, writes_of
from warden.core.errors import Fenced, MalformedMessage, Unavailable
from warden.core.versions import Codec, Unreadable
from warden.store.ports import Kind, SeatStore, Write

SCHEMA: Final = 1
ORDER_BYTES_MAX: Final = 64 * 1024 * 1024
"""As many records as are in one write at most take half of it. What is larger is written when the own store is back."""
ANSWER_BYTES_MAX: Final = 16 * 1024
"""Of an answer: a number or a sentence."""


class Order(Struct, frozen=True):
    """Write these (kind, key, value), for this seat at this epoch."""

    schema: int
    seat: str
    epoch: int
    writes: list[tuple[Kind, str, bytes | None]]


class Answer(Struct, frozen=True, omit_defaults=True):
    """What came of it: how often the store has lost something, as this node sees it; or why nothing was written, the
    seat being another holder's (`fenced`, since `epoch`), or the store being away from here as well.
    """

    schema: int
    losses: int = 0
    fenced: str = ""
    unavailable: str = ""
    epoch: int = 0


_ORDERS: Final = Codec(Order, SCHEMA)
_ANSWERS: Final = Codec(Answer, SCHEMA)


def order_of(seat: str, epoch: int, writes: Sequence[Write]) -> bytes:
    """The message that asks for these writes. Raises `Unavailable` where they are too many for one."""
    order = _ORDERS.encode(Order(SCHEMA, seat, epoch, [(w.kind, w.key, w.value) for w in writes]))
    if len(order) > ORDER_BYTES_MAX:
        raise Unavailable(f"seat {seat}: {len(order)} bytes at once, at most {ORDER_BYTES_MAX} through another node")
    return order


async def carry_out(store: SeatStore, order: bytes) -> bytes:
    """Do what another node asks, by this node's own store, and answer. Raises `MalformedMessage`."""
    try:
        asked = _ORDERS.decode(order)[0]
    except Unreadable as error:
        raise MalformedMessage(f"order: {error}", 400) from error
    try:
        losses = await store.write(asked.seat, asked.epoch, [Write(*write) for write in asked.writes])
    except Fenced as fenced:
        answer = Answer(SCHEMA, fenced=str(fenced), epoch=fenced.epoch)
    except Unavailable as error:
        answer = Answer(SCHEMA, unavailable=str(error))
    except ValueError as error:
        raise MalformedMessage(str(error), 400) from error
    else:
        answer = Answer(SCHEMA, losses)
    return _ANSWERS.encode(answer)


def losses_of(node: str, answer: bytes) -> int:
    """What `SeatStore.write` gives, from a node's answer. Raises `Fenced` and `Unavailable` as that, and `Unavailable`
    for what is no answer.
    """
    try:
        said = _ANSWERS.decode(answer)[0]
    except Unreadable as error:
        raise Unavailable(f"{node}: {error}") from error
    if said.fenced:
        raise Fenced(said.fenced, said.epoch)
    if said.unavailable:
        raise Unavailable(f"{node}: {said.unavailable}")
    return said.losses


async def frames_of(kind: Kind, records: Mapping[str, bytes]) -> AsyncIterator[bytes]:
    """Records on their way to the node that asked for them."""
    for part in parts([(kind.value, key, value) for key, value in records.items()]):
        yield encode(Frame(Step.RECORDS, part))
    yield encode(Frame(Step.WHOLE))


async def records_of(node: str, chunks: AsyncIterator[bytes]) -> dict[str, bytes]:
    """The records again. Raises `Unavailable` where they are not whole, or are none."""
    reader = Frames()
    records: dict[str, bytes] = {}
    is_whole = False
    try:
        async for data in chunks:
            for frame in reader.feed(data):
                is_whole = is_whole or frame.step is Step.WHOLE
                records.update((write.key, write.value) for write in writes_of(frame) if write.value is not None)
    except MalformedMessage as error:
        raise Unavailable(f"{node}: {error}") from error
    if not is_whole:
        raise Unavailable(f"{node}: broke off in the middle of the records")
    return records
