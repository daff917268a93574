"""What an operator writes about Redis and etcd reaches them: Sentinels, TLS, users."""

from pathlib import Path
from typing import TYPE_CHECKING

from warden.config.load import load
from warden.core.address import Address
from warden.node import stores
from warden.store.ports import Kind, Write

if TYPE_CHECKING:
    from private_etcd import PrivateEtcd
    from private_redis import PrivateRedis, PrivateSentinels

pytest_plugins = ["private_redis", "private_etcd"]


def nodes(addresses: tuple[Address, ...]) -> str:
    return "[" + ", ".join(f"{{host: {a.host}, port: {a.port}}}" for a in addresses) + "]"


async def keeps_records(folder: Path, redis: str) -> None:
    """A store of this configuration gives back what it was given."""
    (folder / "config.yml").write_text(f"redis: {redis}\n")
    store = stores.seat_store_of(load(folder / "config.yml", {}))
    try:
        epoch = await store.claim("s1", "n1")
        await store.write("s1", epoch, [Write(Kind.CALL, "c", b"record")])
        assert await store.read("s1", Kind.CALL) == {"c": b"record"}
    finally:
        await store.close()


async def test_the_master_is_found_by_the_configured_sentinels(
    redis_sentinel: "PrivateSentinels", tmp_path: Path
) -> None:
    where = nodes(redis_sentinel.settings().nodes)
    await keeps_records(tmp_path, f"{{enabled: true, sentinel: {{enabled: true}}, nodes: {where}}}")


async def test_redis_is_reached_by_tls_as_the_configured_user(redis_tls: "PrivateRedis", tmp_path: Path) -> None:
    known = redis_tls.settings()
    await keeps_records(
        tmp_path,
        f"{{enabled: true, nodes: {nodes(known.nodes)}, user: {known.username}, password: {known.password}, "
        f"tls: {{enabled: true, ca: {known.tls_ca}}}}}",
    )


async def test_etcd_is_reached_by_tls_as_the_configured_user(etcd_secured: "PrivateEtcd", tmp_path: Path) -> None:
    known = etcd_secured.settings()
    (tmp_path / "config.yml").write_text(
        f"""\
secret: the-secret-of-this-test-cluster
high_availability: {{enabled: true, coordinator: etcd, cluster_name: {known.cluster_name}}}
redis: {{enabled: true, nodes: [{{host: 127.0.0.1}}]}}
etcd:
  nodes: {nodes(known.nodes)}
  user: {known.username}
  password: {known.password}
  tls: {{enabled: true, ca: {known.tls_ca}}}
"""
    )
    coordinator = stores.coordinator_of(load(tmp_path / "config.yml", {}))
    try:
        assert await coordinator.acquire("s1", "n1", 5) == 1
    finally:
        await coordinator.close()
