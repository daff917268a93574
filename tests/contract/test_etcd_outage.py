"""What the loss, pauses and refusals of etcd's members look like from the coordinator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from warden.core.address import Address
from warden.core.errors import Unavailable, WardenError
from warden.store.etcd_client import EtcdSettings
from warden.store.etcd_coordinator import EtcdCoordinator
from warden.store.ports import Member

from outages import PATIENCE_S, fails, until_it_works

if TYPE_CHECKING:
    from private_etcd import PrivateEtcd

pytest_plugins = ["private_etcd"]
pytestmark = pytest.mark.xdist_group("etcd")


@asynccontextmanager
async def opened(settings: EtcdSettings, *, is_shared: bool = False) -> AsyncIterator[EtcdCoordinator]:
    coordinator = EtcdCoordinator(settings, is_shared=is_shared)
    try:
        yield coordinator
    finally:
        await coordinator.close()


async def test_the_loss_of_the_leader_costs_neither_seats_nor_epochs(etcd_three: PrivateEtcd) -> None:
    async with opened(etcd_three.settings()) as a, opened(etcd_three.settings()) as other_cluster:
        assert await a.acquire("s", "a", 60) == 1
        assert await a.take("s", "a", 60, 1) == 2
        await a.announce(Member("a", b"here"), 60)
        leader = etcd_three.leader()
        leader.kill()
        try:
            assert await until_it_works(lambda: a.renew("a", {"s": 2}, 60)) == {"s"}
            assert (await until_it_works(a.holdings))["s"].epoch == 2
            assert await until_it_works(lambda: a.acquire("t", "a", 60)) == 1
            assert await until_it_works(a.members) == {"a": Member("a", b"here")}
            assert await until_it_works(other_cluster.holdings) == {}
        finally:
            leader.start()
            leader.until(leader.is_up)


async def test_what_one_process_had_under_way_does_not_fit_any_more_once_another_of_its_name_has_renewed(
    etcd_three: PrivateEtcd,
) -> None:
    async with opened(etcd_three.settings(), is_shared=True) as one, opened(etcd_three.settings()) as alone:
        assert await one.acquire("shared", "east", 60) == 1
        assert await alone.acquire("own", "a", 60) == 1
        before = [await _revision(one, "shared"), await _revision(alone, "own")]
        assert await one.renew("east", {"shared": 1}, 60) == {"shared"}
        assert await alone.renew("a", {"own": 1}, 60) == {"own"}
        after = [await _revision(one, "shared"), await _revision(alone, "own")]
        assert after[0] > before[0]
        # One process by itself need not write each time.
        assert after[1] == before[1]


async def _revision(coordinator: EtcdCoordinator, seat: str) -> int:
    """What a change of the seat compares with."""
    return (await coordinator._seats(coordinator._client.until()))[seat].holder_revision


async def test_a_member_that_hangs_is_left_for_another_one(etcd_three: PrivateEtcd) -> None:
    follower = next(member for member in etcd_three.members if not member.is_leader())
    nodes = (follower.address, *(member.address for member in etcd_three.members if member is not follower))
    settings = etcd_three.settings(nodes=nodes, answer_timeout_s=0.3, call_timeout_s=5.0)
    async with opened(settings) as coordinator:
        assert await coordinator.acquire("s", "a", 60) == 1
        follower.pause()
        try:
            before = time.monotonic()
            assert await coordinator.renew("a", {"s": 1}, 60) == {"s"}
            assert await coordinator.acquire("t", "a", 60) == 1
            assert time.monotonic() - before < 5
        finally:
            follower.resume()


async def test_a_member_that_is_slow_is_not_waited_for_until_its_time_is_over(etcd_three: PrivateEtcd) -> None:
    leader = etcd_three.leader()
    nodes = (leader.address, *(member.address for member in etcd_three.members if member is not leader))
    async with opened(etcd_three.settings(nodes=nodes, answer_timeout_s=10.0, call_timeout_s=30.0)) as coordinator:
        assert await coordinator.acquire("s", "a", 60) == 1
        # An election that a busy machine began may have made it leave the first one.
        coordinator._client._first = 0
        leader.pause()
        try:
            # Nobody's time is over yet: the paused one's request is still under way when the others have elected.
            assert (await coordinator.holdings())["s"].epoch == 1
            assert coordinator._client._under_way
            assert await coordinator.acquire("t", "a", 60) == 1
        finally:
            leader.resume()


async def test_a_change_that_two_members_were_asked_for_is_made_once_and_is_ours(
    etcd_three: PrivateEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(etcd_three.settings()) as coordinator:
        ask = coordinator._client.call

        async def twice(path: str, body: Mapping[str, Any], until: float, **how: Any) -> Any:
            if "compare" in body:
                await ask(path, body, until, **how)
            return await ask(path, body, until, **how)

        monkeypatch.setattr(coordinator._client, "call", twice)
        assert await coordinator.acquire("s", "a", 60) == 1
        assert await coordinator.take("s", "b", 60, 1) == 2
        assert await coordinator.take("s", "c", 60, 1) is None
        assert await coordinator.renew("b", {"s": 2}, 60) == {"s"}


@pytest.mark.parametrize("in_turn", [True, False])
async def test_what_compares_nothing_is_asked_of_one_member_at_a_time(
    in_turn: bool, etcd_three: PrivateEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(etcd_three.settings(answer_timeout_s=0.2, call_timeout_s=0.5)) as coordinator:
        client, together = coordinator._client, [0]

        async def silent(_url: str, _request: Any, limit_s: float) -> Any:
            _request.close()
            together.append(together[-1] + 1)
            await asyncio.sleep(limit_s)
            together.append(together[-1] - 1)
            raise httpx.ReadTimeout("nobody answers")

        monkeypatch.setattr(client, "_uncancelled", silent)
        with pytest.raises(Unavailable):
            await client.call("kv/put", {}, client.until(), in_turn=in_turn)
        assert (max(together) == 1) is in_turn


async def test_without_a_majority_calls_fail_within_their_bound_and_work_again_with_one(
    etcd_three: PrivateEtcd,
) -> None:
    async with opened(etcd_three.settings(answer_timeout_s=0.2, call_timeout_s=0.6)) as coordinator:
        assert await until_it_works(lambda: coordinator.acquire("s", "a", 60)) == 1
        for member in etcd_three.members[:2]:
            member.pause()
        try:
            for call in (
                lambda: coordinator.renew("a", {"s": 1}, 60),
                lambda: coordinator.acquire("s", "b", 60),
                lambda: coordinator.announce(Member("a", b""), 60),
            ):
                await fails(call(), r"^etcd http://127\.0\.0\.1:", 0.6)
            await coordinator.changed(0.1)
        finally:
            for member in etcd_three.members[:2]:
                member.resume()
        assert await until_it_works(lambda: coordinator.renew("a", {"s": 1}, 60)) == {"s"}
        assert (await until_it_works(coordinator.holdings))["s"].holder == "a"


async def test_a_restarted_member_is_logged_in_to_again_and_watched_again(etcd_secured: PrivateEtcd) -> None:
    [member] = etcd_secured.members
    settings = etcd_secured.settings()
    async with opened(settings) as a, opened(settings) as b:
        assert await a.acquire("s", "a", 60) == 1
        await b.changed(PATIENCE_S)
        member.kill()
        await fails(a.renew("a", {"s": 1}, 60), r"cannot be reached|closed the connection", settings.call_timeout_s)
        member.start()
        assert await until_it_works(lambda: a.renew("a", {"s": 1}, 60)) == {"s"}
        assert await a.release("s", "a", 1)
        async with asyncio.timeout(PATIENCE_S):
            while (await until_it_works(b.holdings))["s"].holder:
                await b.changed(10 * PATIENCE_S)
        assert await a.acquire("s", "a", 60) == 2, "the epoch outlives the server's restart"
        waiting = asyncio.ensure_future(b.changed(10 * PATIENCE_S))
        assert await a.release("s", "a", 2)
        async with asyncio.timeout(PATIENCE_S):
            await waiting


async def test_a_login_that_is_no_longer_valid_is_made_again(etcd_secured: PrivateEtcd) -> None:
    [member] = etcd_secured.members
    settings = etcd_secured.settings()
    async with opened(settings) as coordinator:
        assert await coordinator.acquire("s", "a", 60) == 1
        await coordinator.changed(PATIENCE_S)
        root = member.say("v3/auth/authenticate", name="root", password=settings.password)["token"]
        # To set a password, even the same, ends all logins of the user.
        member.say("v3/auth/user/changepw", token=root, name="warden", password=settings.password)
        assert await coordinator.renew("a", {"s": 1}, 60) == {"s"}
        waiting = asyncio.ensure_future(coordinator.changed(10 * PATIENCE_S))
        assert await coordinator.release("s", "a", 1)
        async with asyncio.timeout(PATIENCE_S):
            await waiting


async def test_each_wrong_setting_is_told_by_its_name(etcd_secured: PrivateEtcd, etcd_three: PrivateEtcd) -> None:
    quick = {"answer_timeout_s": 1.0, "call_timeout_s": 2.0}
    cases = (
        (etcd_secured.settings(password="wrong-but-secret"), "does not accept the user or its password"),
        (etcd_secured.settings(username=""), "wants a user and password"),
        (etcd_secured.settings(tls_ca="", **quick), r"certificate is not accepted .*: check tls_ca"),
        (etcd_secured.settings(tls=False, **quick), "if it expects tls, set it"),
        (etcd_three.settings(tls=True, **quick), "etcd https://"),
        (etcd_three.settings(username="warden", password="wrong-but-secret"), "knows no users"),
        (etcd_three.settings(nodes=(Address("127.0.0.1", 1),), call_timeout_s=0.3), "127.0.0.1:1: cannot be reached"),
    )
    for settings, told in cases:
        async with opened(settings) as coordinator:
            with pytest.raises(Unavailable, match=told) as caught:
                await coordinator.acquire("s", "a", 60)
            assert str(caught.value).startswith("etcd ")
            assert "secret" not in str(caught.value) + repr(settings)
    for wrong in (etcd_secured.settings(tls_ca="/nowhere"), etcd_three.settings(nodes=())):
        with pytest.raises(WardenError, match="etcd"):
            EtcdCoordinator(wrong)


async def test_a_user_without_the_right_role_is_told_which_keys_it_needs(etcd_secured: PrivateEtcd) -> None:
    settings = etcd_secured.settings()
    coordinator = EtcdCoordinator(settings)
    coordinator._client.prefix = coordinator._prefix = "/another/"
    with pytest.raises(Unavailable, match="read and write under /another/"):
        await coordinator.acquire("s", "a", 60)
    await coordinator.close()
