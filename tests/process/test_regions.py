"""Two regions: what lives on the seats of one is kept by the other, and goes on there when it is lost, or lets go."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from warden.call.cdr import Result
from warden.ops.softphone import Line, Softphone

from pbx import password_of
from private_etcd import EtcdMember
from region_lab import TwoRegions

pytestmark = pytest.mark.timeout(240)


class People:
    """Phones, and calls among them."""

    def __init__(self, regions: TwoRegions, stack: AsyncExitStack) -> None:
        self.regions = regions
        self.phones: dict[str, Softphone] = {}
        self._stack = stack

    async def phone(self, number: str, region: str = "east", *, tone_hz: int = 440, answers: bool = False) -> Softphone:
        phone = Softphone(
            number,
            password_of(number),
            self.regions.seat(region),
            tone_hz=tone_hz,
            answers_after_s=0.05 if answers else None,
        )
        await self._stack.enter_async_context(phone)
        await phone.register()
        self.phones[number] = phone
        return phone

    async def talk(self, caller: str, callee: str) -> tuple[Line, Line]:
        outgoing = self.phones[caller].call(callee)
        await outgoing.answered()
        incoming = await self.phones[callee].next_call()
        assert await outgoing.hears(880)
        assert await incoming.hears(440)
        return outgoing, incoming

    def violations(self) -> list[str]:
        return [v for phone in self.phones.values() for v in phone.violations]


@pytest.fixture
async def people(tmp_path: Path) -> AsyncIterator[People]:
    async with living_in(TwoRegions(tmp_path)) as people:
        yield people


@pytest.fixture
def arbiter(tmp_path: Path) -> Iterator[EtcdMember]:
    etcd = EtcdMember(tmp_path / "arbiter")
    try:
        etcd.start()
        etcd.until(etcd.is_up)
        yield etcd
    finally:
        etcd.kill()


@pytest.fixture
async def watched(tmp_path: Path, arbiter: EtcdMember) -> AsyncIterator[People]:
    """As `people`, with an arbiter."""
    async with living_in(TwoRegions(tmp_path, arbiter=arbiter.address)) as people:
        yield people


@asynccontextmanager
async def living_in(regions: TwoRegions) -> AsyncIterator[People]:
    try:
        await asyncio.to_thread(regions.nodes["east1"].add_extensions, "1001", "1002", "1003", "1004")
        await asyncio.to_thread(regions.start)
        async with AsyncExitStack() as stack:
            people = People(regions, stack)
            await followed(regions, "west1")
            yield people
        assert "Traceback" not in regions.logs()
    finally:
        await asyncio.to_thread(regions.close)


async def followed(regions: TwoRegions, by: str) -> None:
    await asyncio.to_thread(regions.nodes[by].wait_for_log, "seat main of the other region is followed")


async def hears_from(line: Line, host: str, hz: int) -> None:
    """Wait until the phone has been told of the other address, and hears the other phone over it."""
    async with asyncio.timeout(20):
        while line.talking is None or line.talking.remote is None or line.talking.remote.host != host:
            await asyncio.sleep(0.02)  # A phone's line tells nobody what it was told.
    packets = line.listener.packets
    async with asyncio.timeout(20):
        while line.listener.packets < packets + 25:
            await asyncio.sleep(0.02)  # Packets come by the clock, and nothing tells of each.
    assert await line.hears(hz)


async def test_the_calls_of_a_region_that_is_lost_go_on_from_the_other_one(people: People) -> None:
    regions = people.regions
    await people.phone("1001")
    await people.phone("1002", tone_hz=880, answers=True)
    calls = await people.talk("1001", "1002")
    west = regions.nodes["west2"]
    refused = await asyncio.to_thread(west.run, "dr", "promote", "--lost")
    assert refused.returncode == 0, "with --lost it is done, also while the other one answers"
    # The other region was asked first, so nothing is lost.
    # The node that it was typed at knows first, and may be the one that has the seat to begin with.
    await hears_from(calls[0], regions.addresses["west"], 880)
    await hears_from(calls[1], regions.addresses["west"], 440)
    await calls[0].hang_up()
    await calls[1].ended()
    [cdr] = await asyncio.to_thread(regions.cdrs, 1)
    assert cdr.result is Result.ANSWERED
    assert cdr.node in ("west1", "west2")
    assert "adopted 1 calls and 2 registered numbers" in regions.nodes[cdr.node].stderr.read_text()
    assert people.violations() == []


async def test_a_region_that_dies_is_replaced_when_the_operator_says_that_it_is_lost(people: People) -> None:
    regions = people.regions
    await people.phone("1001")
    await people.phone("1002", tone_hz=880, answers=True)
    calls = await people.talk("1001", "1002")
    for name in ("east1", "east2"):
        regions.nodes[name].power_off()
    await asyncio.to_thread(regions.nodes["west1"].wait_for_log, "seat main of the other region is not followed")
    west = regions.nodes["west1"]
    async with asyncio.timeout(30):
        refused = await asyncio.to_thread(west.run, "dr", "promote")
        assert refused.returncode != 0, refused.stdout
        assert "no node of region east answers: if it is lost" in refused.stderr
    done = await asyncio.to_thread(west.run, "dr", "promote", "--lost")
    assert (done.returncode, done.stdout) == (0, "region west is the primary one, term 1\n"), done.stderr
    await hears_from(calls[0], regions.addresses["west"], 880)
    await hears_from(calls[1], regions.addresses["west"], 440)
    # Phones find the other address by DNS, and can be called at once, those that have not come yet included.
    await people.phone("1003", "west")
    another = people.phones["1003"].call("1002")
    await another.answered()
    await another.hang_up()
    await calls[1].hang_up()
    await calls[0].ended()
    assert len(await asyncio.to_thread(regions.cdrs, 2)) == 2
    # What comes back has lost its seats, and says so.
    await asyncio.to_thread(regions.start, "east1", "east2")
    back = await asyncio.to_thread(regions.nodes["east1"].region)
    assert (back["primary"], back["term"], back["is_primary"]) == ("west", 1, False)
    assert "adopted" not in regions.nodes["east1"].stderr.read_text().split("region west is the primary one, term 1")[1]
    assert people.violations() == []


async def test_a_seat_goes_to_the_other_region_and_back_with_its_calls(people: People) -> None:
    regions = people.regions
    await people.phone("1001")
    await people.phone("1002", tone_hz=880, answers=True)
    calls = await people.talk("1001", "1002")
    east, west = regions.nodes["east1"], regions.nodes["west1"]
    early = await asyncio.to_thread(east.run, "dr", "failback")
    assert early.returncode != 0
    assert "region east is the primary one already" in early.stderr
    done = await asyncio.to_thread(west.run, "dr", "promote")
    assert done.returncode == 0, done.stderr
    log = west.stderr.read_text()
    assert log.index("everything is here") < log.index("region west is the primary one, term 1")
    await hears_from(calls[0], regions.addresses["west"], 880)
    await followed(regions, "east1")
    while (done := await asyncio.to_thread(east.run, "dr", "failback")).returncode:
        assert "not yet" in done.stderr
    await hears_from(calls[0], regions.addresses["east"], 880)
    await hears_from(calls[1], regions.addresses["east"], 440)
    shown = await asyncio.to_thread(west.run, "dr", "status")
    assert "region east is the primary one (term 2); this node is in west, which follows" in shown.stdout
    await calls[0].hang_up()
    await calls[1].ended()
    assert len(await asyncio.to_thread(regions.cdrs, 1)) == 1
    assert people.violations() == []


async def test_with_an_arbiter_a_region_that_dies_is_replaced_and_nobody_says_so(watched: People) -> None:
    regions = watched.regions
    await watched.phone("1001")
    await watched.phone("1002", tone_hz=880, answers=True)
    calls = await watched.talk("1001", "1002")
    west = regions.nodes["west1"]
    alive = await asyncio.to_thread(west.run, "dr", "status")
    assert "the arbiter answers" in alive.stdout
    for name in ("east1", "east2"):
        regions.nodes[name].power_off()
    await hears_from(calls[0], regions.addresses["west"], 880)
    await hears_from(calls[1], regions.addresses["west"], 440)
    shown = await asyncio.to_thread(west.run, "dr", "status")
    assert "region west is the primary one (term 2)" in shown.stdout
    assert "the arbiter lets this node hold seats for" in shown.stdout
    await calls[0].hang_up()
    await calls[1].ended()
    # What comes back follows, and takes nothing by itself.
    await asyncio.to_thread(regions.start, "east1", "east2")
    back = await asyncio.to_thread(regions.nodes["east1"].region)
    assert (back["primary"], back["term"], back["is_primary"]) == ("west", 2, False)
    await followed(regions, "east1")
    while (done := await asyncio.to_thread(regions.nodes["east1"].run, "dr", "failback")).returncode:
        assert "not yet" in done.stderr
    await asyncio.to_thread(regions.nodes["east1"].wait_for_log, "region east is the primary one, term 3")
    assert len(await asyncio.to_thread(regions.cdrs, 1)) == 1
    assert watched.violations() == []


async def test_a_region_that_does_not_reach_the_arbiter_falls_silent_and_an_operator_may_vouch_for_it(
    watched: People, arbiter: EtcdMember
) -> None:
    regions = watched.regions
    await watched.phone("1001")
    await watched.phone("1002", tone_hz=880, answers=True)
    calls = await watched.talk("1001", "1002")
    arbiter.kill()
    east = regions.nodes["east1"]
    await asyncio.to_thread(east.wait_for_log, "handed over seat main")
    assert regions.nodes["west1"].region()["is_primary"] is False
    refused = await asyncio.to_thread(regions.nodes["west1"].run, "dr", "promote")
    assert refused.returncode != 0
    assert "etcd" in refused.stderr, "without its word only --lost is heard"
    done = await asyncio.to_thread(east.run, "dr", "promote", "--lost")
    assert done.returncode == 0, done.stderr
    await asyncio.to_thread(east.wait_for_log, "term 2, without the arbiter")
    heard = calls[0].listener.packets
    async with asyncio.timeout(20):
        while calls[0].listener.packets < heard + 25:
            await asyncio.sleep(0.02)  # Packets come by the clock, and nothing tells of each.
    assert await calls[0].hears(880)
    arbiter.start()
    # It is told of the term, and from then on it decides again.
    await asyncio.to_thread(east.wait_for_log, "region east is the primary one, term 3")
    await calls[0].hang_up()
    await calls[1].ended()
    assert len(await asyncio.to_thread(regions.cdrs, 1)) == 1
    assert watched.violations() == []


async def test_a_region_whose_lease_lasts_is_not_lost_whatever_an_operator_says(watched: People) -> None:
    regions = watched.regions
    for name in ("east1", "east2"):
        regions.nodes[name].power_off()
    refused = await asyncio.to_thread(regions.nodes["west1"].run, "dr", "promote", "--lost")
    assert refused.returncode != 0
    assert "region east is not lost: its nodes renewed its lease at the arbiter less than 3 s ago" in refused.stderr
    await asyncio.to_thread(regions.nodes["west1"].wait_for_log, "region west is the primary one, term 2")
