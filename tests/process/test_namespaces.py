"""Addresses that move, on real network stacks: nodes in namespaces lose their power, their network or their time."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing

import pytest

from warden.call.cdr import Party, Result
from warden.ops.namespaces import CLIENT, Driver, NamespaceCluster, Tap, namespace_cluster
from warden.ops.softphone import Line, Softphone
from warden.ops.sound import Sound

pytestmark = [pytest.mark.timeout(240), pytest.mark.alone]

CALLS = 8
PASSWORDS = {f"{kind}{i:03}": f"{kind}{i:03}-opens-sesame" for kind in (1, 2) for i in range(CALLS)}


class Town:
    """Phones at seat s1 that talk in pairs."""

    def __init__(self, cluster: NamespaceCluster, stack: AsyncExitStack) -> None:
        self.cluster = cluster
        self.phones: list[Softphone] = []
        self.calls: list[tuple[Line, Line]] = []
        self.adopted_before = 0
        self._sound = Sound()
        self._stack = stack
        stack.callback(self._sound.close)

    @property
    def lines(self) -> list[Line]:
        return [line for call in self.calls for line in call]

    async def talk(self, calls: int = CALLS) -> None:
        """Have so many calls, each of which is heard at both ends."""
        for i in range(calls):
            caller, callee = await self._phone(f"1{i:03}", 440), await self._phone(f"2{i:03}", 880)
            outgoing = caller.call(callee.number)
            incoming = await callee.next_call()
            await outgoing.answered()
            await incoming.answered()
            self.calls.append((outgoing, incoming))
        for outgoing, incoming in self.calls:
            assert await outgoing.hears(880)
            assert await incoming.hears(440)
        self.adopted_before = len(self.cluster.adopters("s1")) - 1

    async def _phone(self, number: str, tone_hz: int) -> Softphone:
        phone = Softphone(
            number,
            PASSWORDS[number],
            self.cluster.seats["s1"],
            local_host=CLIENT,
            sound=self._sound,
            tone_hz=tone_hz,
            answers_after_s=0.02,
        )
        await self._stack.enter_async_context(phone)
        await phone.register()
        self.phones.append(phone)
        return phone

    async def heard_again(self, packets: int = 25) -> None:
        """Wait until each line has heard so many packets more."""
        wanted = {line: line.listener.packets + packets for line in self.lines}
        async with asyncio.timeout(30):
            while any(line.listener.packets < count for line, count in wanted.items()):
                await asyncio.sleep(0.02)  # Packets come by the clock, and nothing tells of each.

    def gaps(self) -> str:
        """The longest silences."""
        gaps = sorted(line.listener.gap_ms_max for line in self.lines)
        return f"audio gap p50 {gaps[len(gaps) // 2]:.0f} ms, max {gaps[-1]:.0f} ms"

    def gap_s_max(self) -> float:
        return max(line.listener.gap_s_max for line in self.lines)

    async def end_all(self) -> None:
        """Hang up from one side and the other in turn; both must come to know, and there is one right CDR each."""
        for i, (outgoing, incoming) in enumerate(self.calls):
            first, second = (outgoing, incoming) if i % 2 else (incoming, outgoing)
            ended = await first.hang_up()
            assert ended.status in (0, 200), ended
            await second.ended()
        assert [v for phone in self.phones for v in phone.violations] == []
        async with self.cluster.database() as durable, asyncio.timeout(20):
            while len(cdrs := await durable.cdrs()) < len(self.calls):
                await asyncio.sleep(0.05)  # The database tells nobody when a row comes.
        assert {(cdr.result, cdr.status, cdr.seat) for cdr in cdrs} == {(Result.ANSWERED, 200, "s1")}
        assert len(cdrs) == len(self.calls)
        assert Party.SYSTEM not in {cdr.ended_by for cdr in cdrs}

    async def another_has_it(self, than: str) -> str:
        """Wait until another node has the seat, and phones hear each other there; its name."""
        await self.cluster.until(lambda: self.cluster.holders["s1"] != than, "another node has the seat")
        await self.heard_again()
        return self.cluster.holders["s1"]

    def assert_never_two_spoke(self, tap: Tap) -> None:
        """The nodes that had adopted the seat spoke from its address, one after the other."""
        said = tap.speakers(self.cluster.seats["s1"].host)
        heard, since = self.cluster.adopters("s1"), self.adopted_before
        assert said == [self.cluster.nodes[node].card for node in heard[since:]]


@asynccontextmanager
async def town(driver: Driver) -> AsyncIterator[Town]:
    async with namespace_cluster(driver=driver) as cluster:
        await cluster.start(PASSWORDS)
        async with AsyncExitStack() as stack:
            yield Town(cluster, stack)


@pytest.mark.parametrize("driver", ["keepalived", "lease"])
async def test_the_calls_of_a_node_that_loses_its_power_go_on_where_its_address_has_gone(driver: Driver) -> None:
    async with town(driver) as t:
        await t.talk()
        home = t.cluster.nodes["n1"]
        assert t.cluster.seats["s1"].host in home.addresses()
        home.power_off()
        heir = await t.another_has_it("n1")
        assert t.cluster.seats["s1"].host in t.cluster.nodes[heir].addresses()
        print(f"{driver}: {t.gaps()}")
        assert t.gap_s_max() < 2.0 + (t.cluster.lease_s if driver == "lease" else 0.0)
        await t.end_all()


@pytest.mark.parametrize("driver", ["keepalived", "lease"])
async def test_a_node_that_is_stopped_gives_its_calls_and_its_address_to_another(driver: Driver) -> None:
    async with town(driver) as t:
        await t.talk()
        with closing(Tap()) as tap:
            home, epoch = t.cluster.nodes["n1"], t.cluster.epoch("s1")
            home.terminate()
            await t.another_has_it("n1")
            assert await home.gone() == 0
            print(f"{driver}: {t.gaps()}")
            assert t.gap_s_max() < 2.0
            assert t.cluster.seats["s1"].host not in home.addresses()
            t.assert_never_two_spoke(tap)
            assert t.cluster.epoch("s1") == epoch + 1
        await t.end_all()


async def test_a_holder_that_only_phones_can_reach_falls_silent_before_another_speaks() -> None:
    async with town("lease") as t:
        await t.talk()
        with closing(Tap()) as tap:
            home = t.cluster.nodes["n1"]
            home.cut("back")
            await t.another_has_it("n1")
            t.assert_never_two_spoke(tap)
            await t.cluster.until(lambda: t.cluster.seats["s1"].host not in home.addresses(), "the address is gone")
            home.mend("back")
            await t.heard_again(100)
            t.assert_never_two_spoke(tap)
        await t.end_all()


@pytest.mark.parametrize("driver", ["keepalived", "lease"])
async def test_a_holder_that_was_frozen_says_nothing_when_it_wakes_up(driver: Driver) -> None:
    async with town(driver) as t:
        await t.talk()
        with closing(Tap()) as tap:
            home = t.cluster.nodes["n1"]
            assert home.pid is not None
            os.kill(home.pid, signal.SIGSTOP)
            await t.another_has_it("n1")
            # Warden cannot take the address away: keepalived does, or the kernel when its lifetime is over.
            await t.cluster.until(lambda: t.cluster.seats["s1"].host not in home.addresses(), "the address is gone")
            os.kill(home.pid, signal.SIGCONT)
            # In this time it may get its seat back, which is another thing than waking up with it.
            await t.heard_again(100)
            t.assert_never_two_spoke(tap)
        await t.end_all()


async def test_keepalived_s_death_makes_its_node_stop_though_it_still_has_the_address() -> None:
    async with town("keepalived") as t:
        await t.talk()
        home = t.cluster.nodes["n1"]
        # Its child clears up when its parent is gone, unless it stands still until it is killed itself.
        for how in (signal.SIGSTOP, signal.SIGKILL):
            for pid in home.keepalived_pids():
                os.kill(pid, how)
        await t.another_has_it("n1")
        assert t.cluster.seats["s1"].host in home.addresses()
        await t.end_all()
