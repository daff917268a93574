"""The media processes: who forwards the audio of which call, and when. No audio moves."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from warden.core.errors import Unavailable
from warden.media.protocol import Answer, Done, Drop, Dropped, List, Listed, Order, Put, Refused, Session, TotalsAre
from warden.sim.story import Story

OPEN: Final = float("inf")


class Audio:
    """Who forwarded what: for each call the spans (node, from, to), the last one open."""

    def __init__(self, time: Callable[[], float], story: Story) -> None:
        self.spans: dict[str, list[tuple[str, float, float]]] = {}
        self._time = time
        self._story = story

    def begin(self, call: str, node: str) -> None:
        """A node forwards a call's audio from now on."""
        self.spans.setdefault(call, []).append((node, self._time(), OPEN))
        self._story.tell(node, f"audio of {call} begins")

    def end(self, call: str, node: str) -> None:
        """It does not any more."""
        now = self._time()
        self.spans[call] = [
            (n, at, now if n == node and until == OPEN else until) for n, at, until in self.spans.get(call, [])
        ]
        self._story.tell(node, f"audio of {call} ends")

    def overlap_s_max(self, call: str) -> float:
        """The longest time for which two nodes forwarded the call at once."""
        now, spans = self._time(), self.spans.get(call, [])
        return max(
            (
                min(to, other_to, now) - max(at, other_at)
                for i, (node, at, to) in enumerate(spans)
                for other, other_at, other_to in spans[:i]
                if other != node
            ),
            default=0.0,
        )


class SimMedia:
    """A node's `Media`: one process, which dies with its machine."""

    def __init__(self, node: str, audio: Audio, delay: Callable[[], float]) -> None:
        self.sessions: dict[str, Session] = {}
        self.works = True
        self._node = node
        self._audio = audio
        self._delay = delay

    async def apply(self, orders: Sequence[Order]) -> Sequence[Answer]:
        """As `Media.apply`."""
        await asyncio.sleep(self._delay() / 20)
        if not self.works:
            raise Unavailable("media: the process is gone")
        return [self._carry_out(order) for order in orders]

    def stop(self) -> None:
        """The machine is gone, and with it all audio."""
        self.works = False
        for call in list(self.sessions):
            self._drop(call)

    def _carry_out(self, order: Order) -> Answer:
        match order:
            case Put(session):
                return self._put(session)
            case Drop(session_id):
                self._drop(session_id)
                return Dropped()
            case List():
                return Listed(tuple(self.sessions))
            case _:
                return TotalsAre(len(self.sessions))

    def _put(self, session: Session) -> Answer:
        wanted = _ports(session)
        for other in self.sessions.values():
            if other.id != session.id and not wanted.isdisjoint(_ports(other)):
                return Refused(f"a port of {session.id} is taken by {other.id}")
        if session.id not in self.sessions:
            self._audio.begin(session.id, self._node)
        self.sessions[session.id] = session
        return Done()

    def _drop(self, session_id: str) -> None:
        if self.sessions.pop(session_id, None) is not None:
            self._audio.end(session_id, self._node)


def _ports(session: Session) -> set[tuple[str, int]]:
    sides = [side for stream in session.streams for side in (stream.a, stream.b) if side is not None]
    return {(session.host, side.port) for side in sides}
