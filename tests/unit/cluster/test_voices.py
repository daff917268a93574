"""What a seat leaves behind when it is lost in the middle of something."""

from collections.abc import Sequence

import pytest

from warden.cluster.seat import Voices
from warden.core.errors import Unavailable
from warden.media.protocol import Answer, Done, Drop, Dropped, Order, Put, Session


class Process:
    def __init__(self) -> None:
        self.works = True

    async def apply(self, orders: Sequence[Order]) -> Sequence[Answer]:
        if not self.works:
            raise Unavailable("media: gone")
        return [Done() if isinstance(order, Put) else Dropped() for order in orders]


async def test_a_session_whose_end_was_not_carried_out_is_known_although_its_call_is_over() -> None:
    process = Process()
    voices = Voices(process)
    await voices.apply([Put(Session(name, "10.0.0.1", ())) for name in ("one", "two", "three")])
    await voices.apply([Drop("two")])
    process.works = False
    with pytest.raises(Unavailable):
        await voices.apply([Drop("three"), Put(Session("four", "10.0.0.1", ()))])
    assert list(voices.sessions) == ["one", "three", "four"]
