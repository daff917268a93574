"""What Redis' crashes, pauses, refusals and fail-overs look like from the seat store and the coordinator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from warden.core.address import Address
from warden.core.errors import Fenced, Unavailable, WardenError
from warden.node.through import keep_to_master
from warden.store.ports import Kind, Write
from warden.store.redis_coordinator import RedisCoordinator
from warden.store.redis_servers import key_slot
from warden.store.redis_settings import RedisMode, RedisSettings
from warden.store.redis_store import RedisSeatStore

from outages import PATIENCE_S, fails, until_it_says, until_it_works

if TYPE_CHECKING:
    from private_redis import PrivateCluster, PrivateRedis, PrivateSentinels, RedisProcess

pytest_plugins = ["private_redis"]
pytestmark = pytest.mark.xdist_group("redis")


def call(key: str, value: bytes | None = b"v") -> Write:
    return Write(Kind.CALL, key, value)


@asynccontextmanager
async def opened(settings: RedisSettings) -> AsyncIterator[RedisSeatStore]:
    store = RedisSeatStore(settings)
    try:
        yield store
    finally:
        await store.close()


def facts(settings: RedisSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in RedisSettings.__struct_fields__}


async def test_a_crashed_server_is_unavailable_at_once_and_used_again_when_it_is_back(
    redis_single: PrivateRedis,
) -> None:
    [server] = redis_single.servers
    async with opened(redis_single.settings()) as store:
        assert await store.claim("s", "a") == 1
        await store.write("s", 1, [call("k")])
        server.kill()
        try:
            for _ in range(3):
                await fails(store.write("s", 1, [call("k")]), rf"^redis {server.address}: ", 0)
            await fails(store.read("s", Kind.CALL), rf"^redis {server.address}: ", 0)
        finally:
            server.start()
        # It has forgotten everything: the holder's next write tells it the epoch.
        await until_it_works(lambda: store.write("s", 7, [call("again")]))
        assert await store.read("s", Kind.CALL) == {"again": b"v"}
        with pytest.raises(Fenced):
            await store.write("s", 6, [])


async def test_a_server_that_hangs_fails_calls_within_their_bound_and_works_again_afterwards(
    redis_single: PrivateRedis,
) -> None:
    [server] = redis_single.servers
    settings = redis_single.settings(answer_timeout_s=0.2, connect_timeout_s=0.4)
    coordinator = RedisCoordinator(settings)
    async with opened(settings) as store:
        assert await store.claim("s", "a") == 1
        assert await coordinator.acquire("s", "a", 60) == 1
        server.pause()
        try:
            await fails(store.write("s", 1, [call("k")]), "does not answer within 0.2 s", 0.2)
            await fails(store.read("s", Kind.CALL), f"{server.address}", 0.4)
            await fails(coordinator.renew("a", {"s": 1}, 60), "does not answer", 0.2)
            await coordinator.changed(0.1)
            await fails(asyncio.wait_for(store.claim("s", "b"), 5), f"{server.address}", 0.8)
        finally:
            server.resume()
        await until_it_works(lambda: store.write("s", 9, [call("k", b"later")]))
        assert await store.read("s", Kind.CALL) == {"k": b"later"}
        assert await until_it_works(lambda: coordinator.renew("a", {"s": 1}, 60)) == {"s"}
    await coordinator.close()


async def test_a_server_that_is_slow_but_within_the_bound_is_waited_for(redis_single: PrivateRedis) -> None:
    [server] = redis_single.servers
    async with opened(redis_single.settings(answer_timeout_s=20.0)) as store:
        await store.claim("s", "a")
        server.say("CLIENT", "PAUSE", 300, "ALL")
        before = time.monotonic()
        await asyncio.gather(*(store.write("s", 1, [call(f"k{n}")]) for n in range(50)))
        assert time.monotonic() - before > 0.2
        assert len(await store.read("s", Kind.CALL)) == 50


class HoldingLine:
    """A way to a server on which what the present connections send can be held back, and delivered however late."""

    def __init__(self, target: Address) -> None:
        self._target = target
        self._gates: list[asyncio.Event] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._late = asyncio.Event()

    async def listen(self) -> Address:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return Address(*self._server.sockets[0].getsockname()[:2])

    def hold(self) -> None:
        for gate in self._gates:
            gate.clear()

    async def deliver(self) -> None:
        """Returns once the server has answered what it got so late."""
        self._late.clear()
        for gate in self._gates:
            gate.set()
        async with asyncio.timeout(PATIENCE_S):
            await self._late.wait()

    async def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gate = asyncio.Event()
        gate.set()
        self._gates.append(gate)
        there, back = await asyncio.open_connection(*self._target)
        self._writers += [writer, back]
        self._tasks.append(asyncio.create_task(self._pass(reader, back, gate.wait)))
        self._tasks.append(asyncio.create_task(self._pass(there, writer, self._note_answer)))

    async def _note_answer(self) -> None:
        self._late.set()

    async def _pass(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, before: Callable[[], Awaitable[Any]]
    ) -> None:
        # Whoever has given up has broken its connection: that is what this is for.
        with suppress(ConnectionError):
            while data := await source.read(65536):
                await before()
                sink.write(data)


async def test_a_write_that_arrives_after_newer_ones_is_refused(redis_single: PrivateRedis) -> None:
    line = HoldingLine(redis_single.servers[0].address)
    settings = redis_single.settings(nodes=(await line.listen(),), answer_timeout_s=0.3)
    async with opened(settings) as store:
        assert await store.claim("s", "a") == 1
        line.hold()
        await fails(store.write("s", 1, [call("k", b"old"), call("only here")]), "does not answer", 0.3)
        await until_it_works(lambda: store.write("s", 1, [call("k", b"new")]))
        await line.deliver()
        assert await store.read("s", Kind.CALL) == {"k": b"new"}
        line.hold()
        await fails(store.claim("s", "a"), "does not answer", 0.3)
        await until_it_works(lambda: store.write("s", 1, [call("k", b"newer")]))
        await line.deliver()
        await store.write("s", 1, [call("k", b"newest")])
        assert await store.read("s", Kind.CALL) == {"k": b"newest"}
    await line.close()


async def test_cancelled_calls_leave_their_answers_to_nobody(redis_single: PrivateRedis) -> None:
    async with opened(redis_single.settings()) as store:
        for number in range(20):
            await store.claim(f"s{number}", "a")
            await store.write(f"s{number}", 1, [call("k", str(number).encode())])
        for turns in range(30):
            reads = [asyncio.ensure_future(store.read(f"s{number}", Kind.CALL)) for number in range(20)]
            writes = [asyncio.ensure_future(store.write(f"s{number}", 1, [call("w")])) for number in range(20)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in (*reads[::2], *writes[::2]):
                task.cancel()
            answers = await asyncio.gather(*reads[1::2])
            assert [answer["k"] for answer in answers] == [str(number).encode() for number in range(1, 20, 2)]
            await asyncio.gather(*writes[1::2])


async def restarted(server: RedisProcess, store: RedisSeatStore) -> None:
    """From memory or disk, whatever that has; the store is connected to it again before anything is written."""
    server.kill()
    server.start()
    server.until(server.is_up)
    await until_it_works(lambda: store.read("s", Kind.CALL))


async def test_a_server_that_was_restarted_empty_between_two_writes_is_found_out(redis_single: PrivateRedis) -> None:
    [server] = redis_single.servers
    settings = redis_single.settings()
    async with opened(settings) as store, opened(settings) as follower:
        epoch = await store.claim("s", "a")
        assert await store.write("s", epoch, [call("k"), Write(Kind.BINDING, "1001", b"v")]) == 0
        before = await follower.changes("s", Kind.BINDING, "")
        await restarted(server, store)
        lost = await until_it_works(lambda: follower.changes("s", Kind.BINDING, before.mark))
        assert (lost.mark, lost.whole) == ("", True)
        # An empty write is enough to know, and each loss is told once.
        assert [await store.write("s", epoch, []) for _ in range(3)] == [1, 1, 1]
        assert await store.write("s", epoch, [call("k"), Write(Kind.BINDING, "1001", b"v")]) == 1
        after = await follower.changes("s", Kind.BINDING, before.mark)
        assert (after.whole, after.records) == (True, {"1001": b"v"})
        await restarted(server, store)
        assert await store.write("s", epoch, [call("k")]) == 2


async def test_a_server_that_came_back_with_an_older_copy_is_found_out(redis_single: PrivateRedis) -> None:
    [server] = redis_single.servers
    settings = redis_single.settings()
    async with opened(settings) as store, opened(settings) as follower:
        epoch = await store.claim("s", "a")
        assert await store.write("s", epoch, [call("k", b"1"), Write(Kind.BINDING, "1001", b"1")]) == 0
        server.say("SAVE")
        await restarted(server, store)
        assert await store.write("s", epoch, []) == 0
        assert await store.write("s", epoch, [call("k", b"2"), Write(Kind.BINDING, "1001", b"2")]) == 0
        before = await follower.changes("s", Kind.BINDING, "")
        await restarted(server, store)
        assert await store.read("s", Kind.CALL) == {"k": b"1"}
        older = await until_it_works(lambda: follower.changes("s", Kind.BINDING, before.mark))
        assert (older.whole, older.records) == (True, {"1001": b"1"})
        assert await store.write("s", epoch, [Write(Kind.BINDING, "1002", b"2")]) == 1
        # The holder is past the mark by now, and yet the follower must see what went back.
        after = await follower.changes("s", Kind.BINDING, before.mark)
        assert (after.whole, after.records) == (True, {"1001": b"1", "1002": b"2"})
        assert await store.write("s", epoch, [call("k", b"2")]) == 1
    (server.folder / "dump.rdb").unlink()


async def test_a_loss_is_told_though_the_answer_that_told_it_first_never_came(redis_single: PrivateRedis) -> None:
    [server] = redis_single.servers
    settings = redis_single.settings(answer_timeout_s=0.2)
    async with opened(settings) as store:
        epoch = await store.claim("s", "a")
        await store.write("s", epoch, [call("k")])
        await restarted(server, store)
        server.pause()
        try:
            await fails(store.write("s", epoch, [call("new")]), "does not answer", 0.2)
        finally:
            server.resume()
        server.until(lambda: server.say("HEXISTS", f"{settings.cluster_name}:{{s}}:call", "new") == 1)
        assert await until_it_works(lambda: store.write("s", epoch, [])) == 1


async def test_changes_are_told_one_by_one_and_deleted_keys_do_not_pile_up(redis_single: PrivateRedis) -> None:
    [server] = redis_single.servers
    settings = redis_single.settings()
    async with opened(settings) as store, opened(settings) as follower:
        await store.claim("s", "a")
        await store.write("s", 1, [Write(Kind.BINDING, f"{n}", b"v") for n in range(50)])
        mark = (await follower.changes("s", Kind.BINDING, "")).mark
        await store.write("s", 1, [Write(Kind.BINDING, "1", b"w"), Write(Kind.BINDING, "2", None), call("c")])
        changes = await follower.changes("s", Kind.BINDING, mark)
        assert (changes.whole, changes.records) == (False, {"1": b"w", "2": None})
        wholes = 0
        for batch in range(30):
            keys = [f"{batch}-{n}" for n in range(100)]
            await store.write("s", 1, [Write(Kind.BINDING, key, b"v") for key in keys])
            await store.write("s", 1, [Write(Kind.BINDING, key, None) for key in keys])
            changes = await follower.changes("s", Kind.BINDING, changes.mark)
            wholes += changes.whole
            assert len(changes.records) == (49 if changes.whole else 100)
            assert server.say("ZCARD", f"{settings.cluster_name}:{{s}}:binding:changed") <= 2 * 49 + 1000
        assert wholes == 2


async def test_a_write_that_too_few_replicas_have_does_not_count(redis_single: PrivateRedis) -> None:
    settings = redis_single.settings(wait_replicas=1, wait_timeout_s=0.05)
    coordinator = RedisCoordinator(settings)
    async with opened(settings) as store:
        await fails(store.write("s", 1, [call("k")]), "stored, but 0 of 1 replicas have it", 0.1)
        assert await store.read("s", Kind.CALL) == {"k": b"v"}
        await fails(coordinator.acquire("s", "a", 60), "0 of 1 replicas know it", 0.1)
        assert await coordinator.renew("a", {"s": 1}, 60) == {"s"}
    await coordinator.close()


async def test_a_shard_whose_master_dies_is_written_to_again_and_has_all_that_was_acknowledged(
    redis_cluster: PrivateCluster,
) -> None:
    settings = redis_cluster.settings(wait_replicas=1, wait_timeout_s=0.3)
    doomed = redis_cluster.master_of("s")
    elsewhere = next(f"t{n}" for n in range(100) if redis_cluster.master_of(f"t{n}") is not doomed)
    coordinator = RedisCoordinator(redis_cluster.settings())
    async with opened(settings) as store:
        epoch = await until_it_works(lambda: store.claim("s", "a"))
        acknowledged = []

        async def write(number: int) -> None:
            await store.write("s", epoch, [call(str(number))])
            acknowledged.append(number)

        for number in range(200):
            await until_it_works(lambda number=number: write(number))  # type: ignore[misc]
        late = [asyncio.ensure_future(write(number)) for number in range(200, 250)]
        doomed.kill()
        failures = await asyncio.gather(*late, return_exceptions=True)
        assert all(isinstance(failure, Unavailable | None) for failure in failures)
        await fails(store.write("s", epoch, [call("while it is gone")]), "redis", 1.5)
        await until_it_works(lambda: store.write(elsewhere, 1, [call("k")]))
        # The shard has no second replica, so nothing counts as stored until the old master is back as one.
        async with opened(RedisSettings(**{**facts(settings), "wait_replicas": 0})) as store_without:
            await until_it_works(lambda: store_without.write("s", epoch, [call("after")]))
        await until_it_says(lambda: store.write("s", epoch, [call("alone")]), "stored, but 0 of 1 replicas")
        records = await store.read("s", Kind.CALL)
        assert {"after", "alone", *map(str, acknowledged)} <= records.keys()
        with pytest.raises(Fenced):
            await store.write("s", epoch - 1, [])
        await until_it_works(lambda: coordinator.acquire("s", "a", 60))
        doomed.start()
        redis_cluster.heal()
        await until_it_works(lambda: store.write("s", epoch, [call("healed")]))
    await coordinator.close()


async def test_a_slot_that_moves_to_another_server_is_followed(redis_cluster: PrivateCluster) -> None:
    settings = redis_cluster.settings()
    slot, name = key_slot("moving"), settings.cluster_name
    source = redis_cluster.master_of("moving")
    target = next(
        one for one in redis_cluster.servers if one is not source and one.info("replication")["role"] == "master"
    )
    source_id, target_id = source.say("CLUSTER", "MYID"), target.say("CLUSTER", "MYID")
    async with opened(settings) as store:
        assert await store.claim("moving", "a") == 1

        async def write(value: bytes) -> None:
            await asyncio.gather(
                store.write("moving", 1, [call("k", b"older")]), store.write("moving", 1, [call("k", value)])
            )
            assert await store.read("moving", Kind.CALL) == {"k": value}

        await write(b"at home")
        target.say("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.say("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        await write(b"about to leave")
        keys = [f"{name}:{{moving}}:{part}" for part in ("epoch", "call")]
        source.say("MIGRATE", "127.0.0.1", target.port, keys[0], 0, 5000)
        between = asyncio.ensure_future(store.write("moving", 1, [call("k", b"in between")]))
        while b"TRYAGAIN" not in source.say("INFO", "errorstats"):
            await asyncio.sleep(0.002)
        source.say("MIGRATE", "127.0.0.1", target.port, keys[1], 0, 5000)
        await between
        await write(b"on the way")
        for server in (target, source):
            server.say("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        await write(b"at the new place")
        with pytest.raises(Fenced):
            await store.write("moving", 0, [])
    redis_cluster.heal()


async def test_a_fail_over_by_sentinel_keeps_what_was_acknowledged(redis_sentinel: PrivateSentinels) -> None:
    settings = redis_sentinel.settings(wait_replicas=1, wait_timeout_s=0.3)
    coordinator = RedisCoordinator(settings)
    async with opened(settings) as store:
        await until_it_works(lambda: store.write("s", 3, [call("before")]))
        epoch = await until_it_works(lambda: coordinator.acquire("s", "a", 60))
        redis_sentinel.master.kill()
        await fails(store.write("s", 3, [call("while it is gone")]), "redis", 1.5)

        # The new master has no replica yet, so nothing counts as stored: but it is asked, and it answers.
        async def is_promoted() -> None:
            with pytest.raises(Unavailable) as caught:
                await store.write("s", 3, [call("after")])
            if "stored, but 0 of 1" not in str(caught.value):
                raise caught.value

        await until_it_works(is_promoted)
        assert await store.read("s", Kind.CALL) == {"before": b"v", "after": b"v"}
        assert await until_it_works(lambda: coordinator.renew("a", {"s": epoch}, 60)) == {"s"}
        redis_sentinel.swap()
        await until_it_works(lambda: store.write("s", 3, [call("healed")]))
        with pytest.raises(Fenced):
            await store.write("s", 2, [])
    await coordinator.close()


async def test_a_master_that_the_others_have_replaced_is_left_though_it_still_answers(
    redis_sentinel: PrivateSentinels,
) -> None:
    settings = redis_sentinel.settings()
    old, new = redis_sentinel.master, redis_sentinel.replica
    async with opened(settings) as store:
        losses = await until_it_works(lambda: store.write("s", 3, [call("before")]))
        new.until(lambda: new.say("HLEN", f"{settings.cluster_name}:{{s}}:call") == 1)
        await store.leave_old_master()
        assert await store.write("s", 3, []) == losses

        async def tells_of_a_loss() -> int:
            told = await store.write("s", 3, [call("after")])
            if told == losses:
                raise Unavailable("still at the old one")
            return told

        # As if it were cut off with its node: it hears nothing of what the others do.
        old.pause()
        try:
            new.until(lambda: new.info("replication")["role"] == "master")
        finally:
            old.resume()
        assert await store.write("s", 3, [call("lost")]) == losses
        assert old.info("replication")["role"] == "master"
        # What each node does.
        keeping = asyncio.create_task(keep_to_master(store))
        assert await until_it_works(tells_of_a_loss) == losses + 1
        assert await store.read("s", Kind.CALL) == {"before": b"v", "after": b"v"}
        await store.leave_old_master()
        assert await store.write("s", 3, []) == losses + 1
        keeping.cancel()
    old.kill()
    redis_sentinel.swap()


async def test_each_wrong_setting_is_told_by_its_name(
    redis_single: PrivateRedis, redis_tls: PrivateRedis, redis_sentinel: PrivateSentinels, redis_cluster: PrivateCluster
) -> None:
    in_cluster = (redis_cluster.master_of("s").address,)
    elsewhere = next(f"t{n}" for n in range(100) if redis_cluster.master_of(f"t{n}").address not in in_cluster)
    cases = (
        (redis_tls.settings(password="wrong-but-secret"), "s", "check redis.username and redis.password"),
        (redis_tls.settings(username="", password=""), "s", "set redis.username and redis.password"),
        (redis_tls.settings(tls=False), "s", "if it expects tls, set it"),
        (redis_tls.settings(tls_ca=""), "s", r"certificate is not accepted .*: check tls_ca"),
        (redis_single.settings(tls=True), "s", "no tls connection within 1 s"),
        (redis_single.settings(password="wrong-but-secret"), "s", "has no password: unset redis.password"),
        (redis_single.settings(mode=RedisMode.CLUSTER), "s", "is not a redis cluster: unset redis.cluster"),
        (redis_single.settings(mode=RedisMode.SENTINEL), "s", "redis"),
        (redis_single.settings(nodes=in_cluster), elsewhere, "set redis.cluster"),
        (redis_single.settings(nodes=(redis_sentinel.replica.address,)), "s", "must lead to the master"),
        (redis_sentinel.settings(master_name="other"), "s", "check redis.master_name"),
        (redis_single.settings(nodes=(Address("127.0.0.1", 1),)), "s", "127.0.0.1:1: cannot be reached"),
    )
    for settings, seat, told in cases:
        async with opened(settings) as store:
            with pytest.raises(Unavailable, match=told) as caught:
                await store.write(seat, 1, [call("k")])
            assert str(caught.value).startswith("redis ")
            assert "secret" not in str(caught.value)
    for wrong in (redis_tls.settings(tls_ca="/nowhere"), redis_single.settings(nodes=())):
        with pytest.raises(WardenError, match="redis"):
            RedisSeatStore(wrong)


async def test_a_server_that_is_full_is_unavailable_until_it_has_room(redis_single: PrivateRedis) -> None:
    [server] = redis_single.servers
    async with opened(redis_single.settings()) as store:
        await store.claim("s", "a")
        server.say("CONFIG", "SET", "maxmemory", 1)
        try:
            await fails(store.write("s", 1, [call("k")]), "is full: raise its maxmemory", 0.5)
        finally:
            server.say("CONFIG", "SET", "maxmemory", 0)
        await store.write("s", 1, [call("k")])


async def test_what_puts_data_at_risk_is_told_in_sentences(
    redis_single: PrivateRedis, redis_tls: PrivateRedis, redis_cluster: PrivateCluster
) -> None:
    [server] = redis_single.servers
    server.say("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        async with opened(redis_single.settings()) as store:
            said = await store.doctor()
    finally:
        server.say("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert [sentence.removeprefix(f"redis {server.address}: ").split(":")[0] for sentence in said] == [
        "forgets everything when it restarts",
        "has no replica",
        "throws records away when memory is short",
        "lets anybody in",
    ]
    async with opened(redis_tls.settings(wait_replicas=2)) as store:
        said = await store.doctor()
    assert not any("lets anybody in" in sentence for sentence in said)
    assert any("has 0 replicas and wait_replicas is 2" in sentence for sentence in said)
    async with opened(redis_cluster.settings()) as store:
        said = await store.doctor()
    assert len([sentence for sentence in said if "lets anybody in" in sentence]) == 3
    assert not any("replica" in sentence for sentence in said)


def test_no_password_is_ever_shown(redis_tls: PrivateRedis) -> None:
    settings = redis_tls.settings(sentinel_password="another")
    assert len(settings.password) > 8
    assert settings.password not in repr(settings) + str(settings)
    assert "another" not in repr(settings) + str(settings)
