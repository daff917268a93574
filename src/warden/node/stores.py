"""Which stores and which coordinator the configuration asks for."""

from pathlib import Path

import msgspec
from pydantic import Secret

from warden.cluster.decide import MARGIN_SHARE
from warden.config.tree import Config, Etcd
from warden.core.address import Address
from warden.store.etcd_client import EtcdSettings
from warden.store.etcd_coordinator import EtcdCoordinator
from warden.store.local import LocalStore
from warden.store.local_coordinator import LocalCoordinator
from warden.store.ports import Coordinator, SeatStore
from warden.store.redis_coordinator import RedisCoordinator
from warden.store.redis_settings import RedisMode, RedisSettings
from warden.store.redis_store import RedisSeatStore


def redis_settings(config: Config) -> RedisSettings:
    """How Redis is reached."""
    redis, sentinel = config.redis, config.redis.sentinel
    alone = RedisMode.SENTINEL if sentinel.enabled else RedisMode.SINGLE
    return RedisSettings(
        nodes=tuple(Address(node.host, node.port) for node in redis.nodes),
        mode=RedisMode.CLUSTER if redis.cluster else alone,
        cluster_name=config.high_availability.cluster_name,
        master_name=sentinel.master_name,
        username=redis.user or "",
        password=_word(redis.password),
        sentinel_username=sentinel.user or "",
        sentinel_password=_word(sentinel.password),
        tls=redis.tls.enabled,
        tls_ca=_path(redis.tls.ca),
        tls_cert=_path(redis.tls.certificate),
        tls_key=_path(redis.tls.key),
        tls_check_host=redis.tls.check_host,
        wait_replicas=redis.wait_replicas,
    )


def etcd_settings(etcd: Etcd, cluster_name: str) -> EtcdSettings:
    """How an etcd is reached, and under which name the cluster is known there."""
    return EtcdSettings(
        nodes=tuple(Address(node.host, node.port) for node in etcd.nodes),
        cluster_name=cluster_name,
        username=etcd.user or "",
        password=_word(etcd.password),
        tls=etcd.tls.enabled,
        tls_ca=_path(etcd.tls.ca),
        tls_cert=_path(etcd.tls.certificate),
        tls_key=_path(etcd.tls.key),
        tls_check_host=etcd.tls.check_host,
    )


def seat_store_of(config: Config) -> SeatStore:
    """Where calls and registrations are kept. Raises `WardenError`."""
    if config.redis.enabled:
        return RedisSeatStore(redis_settings(config))
    cluster = config.high_availability
    if cluster.enabled and cluster.state_file is not None:
        return LocalStore(cluster.state_file)
    return LocalStore(config.data_dir / "state.sqlite")


async def examine(store: SeatStore, config: Config) -> list[str]:
    """A sentence for each setting by which calls, registrations or seats could be lost. Raises `Unavailable`."""
    cluster = config.high_availability
    found = []
    if cluster.enabled and cluster.coordinator == "redis":
        found.append(
            "high_availability.coordinator redis: leases are kept where the calls are: while redis is away, a seat "
            "stays where it is only as long as all its other successors answer, and a node that dies is not replaced: "
            "use etcd"
        )
    if isinstance(store, RedisSeatStore):
        found += await store.doctor()
    return found


def coordinator_of(config: Config) -> Coordinator:
    """Who grants leases. Raises `WardenError`."""
    cluster = config.high_availability
    match cluster.coordinator:
        case "redis":
            return RedisCoordinator(redis_settings(config))
        case "embedded":
            assert cluster.coordinator_file is not None, "the configuration was checked"
            return LocalCoordinator(cluster.coordinator_file)
        case "etcd":
            return EtcdCoordinator(etcd_settings(config.etcd, cluster.cluster_name))


def arbiter_of(config: Config) -> Coordinator | None:
    """Who decides between two regions, where anything does. Raises `WardenError`."""
    cluster = config.high_availability
    if cluster.arbiter is None:
        return None
    settings = etcd_settings(cluster.arbiter, f"{cluster.cluster_name}-regions")
    # The members are at other sites. A node must know that they are away long before another one, whose lease ends
    # sooner, gives it seats that it could not keep either; and an answer must not be older than a holder's margin: all
    # nodes of a region renew one lease.
    call_s = min(3.0, cluster.arbiter.lease_ttl * MARGIN_SHARE)
    bounded = msgspec.structs.replace(settings, answer_timeout_s=call_s / 2, call_timeout_s=call_s)
    return EtcdCoordinator(bounded, is_shared=True)


def _word(secret: Secret[str] | None) -> str:
    return secret.get_secret_value() if secret is not None else ""


def _path(path: Path | None) -> str:
    return str(path) if path is not None else ""
