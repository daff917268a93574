"""The other region as this node meets it: by HTTP, every second. What follows from it `cluster.regions` knows."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Final

import httpx
import msgspec
import structlog

from warden.cluster.agent import Agent
from warden.cluster.decide import Seat
from warden.cluster.members import Record
from warden.cluster.mirror import Mirror
from warden.cluster.regions import SCHEMA, WORDS, YIELD_S, Primary, Regions, Word, WordRecord
from warden.cluster.stream import Frame, Frames, Told
from warden.config.tree import Config
from warden.core.errors import MalformedMessage, Unavailable, WardenError
from warden.core.versions import Unreadable
from warden.node.arbiter import Arbiter
from warden.node.build import keep_private
from warden.node.patroni import PatroniOf, Seen
from warden.store.ports import Coordinator
from warden.web.auth import make_node_token
from warden.web.regions import GOES_ON, LETS_GO, REGION_URL, STREAM_URL

FILE: Final = "region"
POLL_S: Final = 1.0
ANSWER_S: Final = 2.0
LETS_GO_S: Final = 10.0
"""How long a promotion waits for the nodes of the other region to let go of their seats."""
FOLLOWED_S: Final = 5.0
"""How long it then waits for the last of their records."""
SILENCE_S: Final = 3.0
"""A stream that says nothing for so long, where it says something every half second, is broken."""
DATABASE_S: Final = 3.0
"""How often it is seen to that the database leads, or follows."""

_log = structlog.get_logger()


class PrimaryFile:
    """What this node knew last of which region is the primary one, in its data folder."""

    def __init__(self, folder: Path, first: str) -> None:
        self._path = folder / FILE
        self._first = first

    def read(self) -> Primary:
        """What was kept; the first region where nothing was. Raises `WardenError` for a file that cannot be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Primary)
        except FileNotFoundError:
            return Primary(self._first)
        except (OSError, msgspec.MsgspecError) as error:
            raise WardenError(f"{self._path}: cannot be read, remove it: {error}") from error

    def keep(self, primary: Primary) -> None:
        """Raises `WardenError`."""
        keep_private(self._path, msgspec.json.encode(primary))


class RegionLink:
    """A node's dealings with the other region. It is `RegionView` for the HTTP side, and `Source` and `Turns` for the
    mirror of the other region's seats.
    """

    def __init__(
        self,
        config: Config,
        seats: tuple[Seat, ...],
        told: Told,
        key: bytes,
        now: Callable[[], float],
        arbiter: Coordinator | None = None,
    ) -> None:
        """`told` is the store of this region, `key` signs what nodes ask each other, `arbiter` is where the primary
        region has its lease. Raises `WardenError`.
        """
        cluster = config.high_availability
        own = cluster.region or ""
        names = [region.name for region in cluster.regions]
        kept = PrimaryFile(config.data_dir, names[0])
        self.regions = Regions(own, names, kept.read(), kept.keep, now, inf if arbiter is None else -inf)
        self.arbiter: Arbiter | None = None
        if arbiter is not None:
            assert cluster.arbiter is not None, "whoever has one was configured so"
            self.arbiter = Arbiter(cluster.arbiter, arbiter, self.regions, now, self._succeed)
        self._ttl_s = 0.0 if cluster.arbiter is None else cluster.arbiter.lease_ttl
        self.told = told
        self.mirror = Mirror(seats, told, self, self, now, self._tell_region)
        self.database = ""
        """What the database of this region was seen to be; "" where nobody sees to it, "behind" where it should follow
        and is sent nothing.
        """
        self.database_error = ""
        other = next(region for region in cluster.regions if region.name != own)
        self._node = cluster.node_id
        self._places = [f"http://{node.host}:{node.port}" for node in other.nodes]
        self._databases = other.databases
        self._patroni = PatroniOf(config.database, own, other.name)
        self._seen = Seen()
        self._own_databases = next(region.databases for region in cluster.regions if region.name == own)
        self._key = key
        self._now = now
        self._promoting = asyncio.Lock()
        self._looked = asyncio.Event()
        self._where: dict[str, str] = {}
        self._http = httpx.AsyncClient(trust_env=False, timeout=ANSWER_S)
        self._agent: Agent | None = None
        self._told_primary: Primary | None = None

    @property
    def lease_s(self) -> float | None:
        """As in `models.Region`."""
        if self.arbiter is None:
            return None
        regions = self.regions
        return round(max(0.0, regions.leased_until - self._now()), 1) if regions.is_primary else 0.0

    @property
    def arbiter_error(self) -> str:
        """Why the arbiter does not answer; "" where it does, or there is none."""
        return "" if self.arbiter is None else self.arbiter.error

    @property
    def agent(self) -> Agent:
        """The node's."""
        assert self._agent is not None, "it is there before anything is asked"
        return self._agent

    def use(self, agent: Agent) -> None:
        """The agent is there: it holds seats only where they are."""
        self._agent = agent
        self.regions.on_change = self._follow_primary
        self._follow_primary()

    def look(self, peers: Mapping[str, Record]) -> None:
        """The members of this region were looked at: what they know, this node knows."""
        for record in peers.values():
            self.regions.learn(record.primary)
        self._looked.set()

    async def look_round(self) -> None:
        """Ask, once, whoever may know that this region is not what it was when the node was here last."""
        await self.ask_all()
        if self.arbiter is not None:
            await self.arbiter.look()

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.mirror.run(), name="mirror")
                if self._patroni.is_known:
                    tasks.create_task(self._keep_database(), name="region database")
                if self.arbiter is not None:
                    tasks.create_task(self.arbiter.run(), name="arbiter")
                while True:
                    await self.ask_all()
                    await asyncio.sleep(POLL_S)
        finally:
            await self._http.aclose()

    async def ask_all(self) -> dict[str, Word]:
        """Tell every node of the other region how it is here, and hear how it is there: who answers, by place."""
        words = await asyncio.gather(*(self._ask(place, self.word()) for place in self._places))
        return {place: word for place, word in zip(self._places, words, strict=True) if word is not None}

    def word(self) -> Word:
        """What this node has to tell."""
        agent = self._agent
        holders = {} if agent is None else {seat: holder.node for seat, holder in agent.holders.items()}
        holds = () if agent is None else agent.held
        return Word(
            self._node,
            self.regions.own,
            self.regions.primary,
            holds,
            holders,
            () if agent is None else tuple(sorted(agent.peers)),
            self.database,
            self._seen.timeline,
            self._seen.copies,
        )

    async def answer(self, said: bytes, *, lets_go: bool = False, goes_on: bool = False) -> bytes:
        """What a node of the other region is told that says this; where this one is to let go (`lets_go`), only when no
        seat is here any more. It `goes_on` where nothing came of that. Raises `MalformedMessage`.
        """
        try:
            word = WORDS.decode(said)[0].word
        except Unreadable as error:
            raise MalformedMessage(str(error), 400) from error
        if word.region != self.regions.other:
            raise MalformedMessage(f"a node of region {word.region}, here is {self.regions.own}", 400)
        self.regions.hear(word)
        if goes_on:
            self.regions.go_on(word.node)
            self._ask_arbiter()
        if lets_go and self._agent is not None:
            if self.regions.is_primary:
                self.regions.make_way(word.node)
                asyncio.get_running_loop().call_later(YIELD_S + 0.1, self._go_on)
            # Who asked waits no longer either.
            with suppress(TimeoutError):
                async with asyncio.timeout(LETS_GO_S):
                    await self._agent.without_seats()
        return WORDS.encode(WordRecord(SCHEMA, self.word()))

    async def promote(self, *, lost: bool) -> Primary:
        """Make this region the primary one. The other one lets go of its seats first; where it is `lost`, as whoever
        asks vouches for, it need not answer. Raises `WardenError` with the reason where it cannot be.
        """
        async with self._promoting:
            until = max(self.regions.permitted_until, self.regions.yields_until)
            if lost and self.regions.is_primary and (self._now() >= until or self.regions.waits_for_word):
                alone = self.arbiter is not None
                self.regions.decide(Primary(self.regions.own, self.regions.primary.term + 1, alone=alone))
                return self.regions.primary
            # What they said a second ago is no proof that they are there.
            answered = await self.ask_all()
            why = self.regions.why_not({word.node: word for word in answered.values()})
            if why and (self.regions.is_primary or not lost):
                raise WardenError(why)
            if why and self.arbiter is not None and await self._is_renewed():
                raise WardenError(
                    f"region {self.regions.other} is not lost: its nodes renewed its lease at the arbiter less than "
                    f"{self._ttl_s:g} s ago. Where they have died since, this region takes their place by itself"
                )
            if not lost and (left := self._not_followed(answered)):
                raise WardenError(
                    f"{', '.join(left)} of region {self.regions.other}: nobody follows here, so that its calls and "
                    "registrations would be lost; `warden dr status` says why"
                )
            return await self._move_here(answered, lost=lost, vouched=lost)

    def _not_followed(self, answered: Mapping[str, Word]) -> list[str]:
        """The seats that the other region's nodes hold and no node of this one has a copy of."""
        others = (record.follows for node, record in self.agent.peers.items() if node != self._node)
        return sorted(
            {seat for word in answered.values() for seat in word.holds}.difference(self.mirror.following, *others)
        )

    async def _succeed(self, over_s: float) -> None:
        """The other region's lease at the arbiter has been over for so long: this region takes its place. The nodes try
        one after the other, since the first may not reach the arbiter; it gives the place once.
        """
        agent = self._agent
        if agent is None or agent.error or self._promoting.locked():
            return
        if over_s < sorted({*agent.peers, self._node}).index(self._node) * self._ttl_s / 2:
            return
        async with self._promoting:
            last = self.regions.primary
            answered = await self.ask_all()
            if self.regions.primary == last:
                await self._move_here(answered, lost=True)

    async def _move_here(self, answered: Mapping[str, Word], *, lost: bool, vouched: bool = False) -> Primary:
        """The nodes of the other region fall silent, what they said last comes here, and only then is anybody told who
        is the primary one: from there on seats are taken here. Raises `WardenError` where one does not fall silent that
        is not `lost`, or somebody else was faster, and all goes on there. Only where an operator `vouched` for it is it
        done without the arbiter.
        """
        regions = self.regions
        _log.info(f"region {regions.own} is to be the primary one", lost=lost)
        try:
            if answered:
                await self._take_leave(answered, lost=lost)
            regions.decide(await self._next_primary(vouched=vouched))
        except WardenError:
            await asyncio.gather(*(self._ask(place, self.word(), how=GOES_ON) for place in answered))
            raise
        if not regions.is_primary:
            # Somebody has done the same.
            raise WardenError(f"region {regions.primary.region} has become the primary one meanwhile")
        await asyncio.gather(*(self._ask(place, self.word()) for place in answered))
        return regions.primary

    async def _next_primary(self, *, vouched: bool) -> Primary:
        last = self.regions.primary
        if self.arbiter is not None:
            try:
                seen = await self.arbiter.seen()
                # Whatever happened in terms that nobody here has heard of: who had the last one is not there any more.
                free = seen.term if vouched and not seen.holder else 0
                return await self.arbiter.take(max(last.term, free))
            except Unavailable as error:
                if not vouched:
                    raise
                _log.warning("region goes on without the arbiter", why=str(error))
        return Primary(self.regions.own, last.term + 1, alone=self.arbiter is not None)

    async def _is_renewed(self) -> bool:
        """Whether the other region lives, as the arbiter says; it does not where the arbiter is away."""
        assert self.arbiter is not None, "who asks has looked"
        try:
            return (await self.arbiter.seen()).holder == self.regions.other
        except Unavailable:
            return False

    async def _take_leave(self, answered: Mapping[str, Word], *, lost: bool) -> None:
        word = self.word()
        words = await asyncio.gather(*(self._ask(place, word, how=LETS_GO) for place in answered))
        loud = [
            before.node for before, after in zip(answered.values(), words, strict=True) if after is None or after.holds
        ]
        if loud and not (lost and (self.arbiter is None or not await self._is_renewed())):
            raise WardenError(f"{', '.join(loud)} of region {self.regions.other} did not let go of its seats")
        try:
            await self._everything_is_here()
        except TimeoutError:
            if not lost:
                raise WardenError(
                    f"what region {self.regions.other} said last did not come within {FOLLOWED_S:g} s"
                ) from None

    async def _everything_is_here(self) -> None:
        """The nodes of this region follow nothing any more: what the other one said last is in the store. Raises
        `TimeoutError`.
        """
        async with asyncio.timeout(FOLLOWED_S):
            while self.mirror.following or any(
                record.follows for node, record in self.agent.peers.items() if node != self._node
            ):
                self._looked.clear()
                await self._looked.wait()

    async def _ask(self, place: str, word: Word, *, how: str = "") -> Word | None:
        headers = {"Authorization": f"Bearer {make_node_token(self._key, time.time())}"}
        content = WORDS.encode(WordRecord(SCHEMA, word))
        url = f"{place}{REGION_URL}{how}"
        try:
            response = await self._http.post(
                url, content=content, headers=headers, timeout=LETS_GO_S if how == LETS_GO else ANSWER_S
            )
            if response.status_code != httpx.codes.OK:
                return None
            answered = WORDS.decode(response.content)[0].word
        except (httpx.HTTPError, Unreadable):
            return None
        if answered.region != self.regions.other:
            return None
        self._where[place] = answered.node
        self.regions.hear(answered)
        return answered

    def _tell_region(self) -> None:
        """Who promotes waits until the region's nodes follow nothing any more."""
        self.agent.look_again()

    def _go_on(self) -> None:
        self._ask_arbiter()
        self._follow_primary()

    def _ask_arbiter(self) -> None:
        if self.arbiter is not None:
            self.arbiter.hurry()

    def _follow_primary(self) -> None:
        primary = self.regions.primary
        if primary != self._told_primary:
            self._told_primary = primary
            alone = ", without the arbiter" if primary.alone else ""
            _log.info(f"region {primary.region} is the primary one, term {primary.term}{alone}")
            # Another node knew first: from there on the arbiter is to let this one have seats, too.
            self._ask_arbiter()
        self.agent.permit(self.regions.permitted_until)
        self.agent.keep_away(self.regions.refusal, self.regions.waits)

    # The database

    async def _keep_database(self) -> None:
        while True:
            try:
                await self._see_to_database()
                self.database_error = ""
            except Unavailable as error:
                if not self.database_error:
                    _log.warning("the region's database is not seen to", why=str(error))
                self.database_error = str(error)
            await asyncio.sleep(DATABASE_S)

    async def _see_to_database(self) -> None:
        """One node of the region does: the first that lives. It makes no database a follower, which loses what the
        other one does not have, unless that other region itself says that it is the primary one; and none a leader
        while the other region's still leads.
        """
        regions, agent = self.regions, self.agent
        there = regions.present().values()
        self._seen = await self._patroni.look()
        leading = [word for word in there if word.database == "primary"]
        sent = {address for word in leading for address in word.copies}
        is_sent = not self._own_databases or sent & set(self._own_databases)
        self.database = "behind" if self._seen.role == "standby" and not is_sent else self._seen.role
        if agent.error or min(agent.peers, default=self._node) != self._node:
            return
        if regions.is_primary:
            may_lead = regions.primary.term and not leading
            if may_lead and await self._patroni.lead():
                _log.info("the database of this region is to lead")
        elif self._databases and any(word.primary == regions.primary for word in there):
            if self._seen.role == "primary" and any(0 < word.timeline <= self._seen.timeline for word in leading):
                # It was started by itself while the other one led. Both count their timelines alike, so that Patroni
                # finds nothing to rewind, and PostgreSQL would be sent what does not go with what it has.
                raise Unavailable(
                    f"it went on by itself while that of region {regions.other} led: it must be copied anew "
                    "(docs/ha-guide.md, two regions)"
                )
            if not await self._patroni.follow(self._databases):
                return
            _log.info("the database of this region is to follow the other region's")

    # As `Turns` and `Source` of the mirror

    def epoch(self, seat: str) -> int | None:
        """As `Turns.epoch`."""
        return self.agent.epoch_of(seat)

    def is_ours(self, seat: Seat) -> bool:
        """As `Turns.is_ours`."""
        if self.regions.is_primary or self._agent is None or self._agent.error:
            return False
        peers = self._agent.peers
        return self._node == next((n for n in seat.successors if n in peers and not peers[n].draining), "")

    async def frames(self, seat: str) -> AsyncIterator[Frame]:
        """As `Source.frames`."""
        present = self.regions.present()
        place = next((p for p, node in self._where.items() if node in present and seat in present[node].holds), None)
        if place is None:
            raise Unavailable(f"no node of region {self.regions.other} has it")
        headers = {"Authorization": f"Bearer {make_node_token(self._key, time.time())}"}
        reader = Frames()
        try:
            async with self._http.stream(
                "GET", f"{place}{STREAM_URL.format(seat=seat)}", headers=headers, timeout=SILENCE_S
            ) as response:
                if response.status_code != httpx.codes.OK:
                    raise Unavailable(f"{place}: answered with {response.status_code}")
                async for data in response.aiter_raw():
                    for frame in reader.feed(data):
                        yield frame
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise Unavailable(f"{place}: {str(error) or type(error).__name__}") from error
