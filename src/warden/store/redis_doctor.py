"""What is wrong with a Redis that works: by which settings it would lose what it was given. Nothing is changed here."""

from warden.core.errors import Unavailable
from warden.store.redis_connection import RedisConnection
from warden.store.redis_servers import RedisServers
from warden.store.redis_settings import RedisMode

_VERSION_MIN = 7


async def examine(servers: RedisServers) -> list[str]:
    """A sentence for each thing an operator should know, none where all is well. Raises `Unavailable`."""
    settings = servers.settings
    masters = await servers.masters()
    found = []
    if settings.mode is RedisMode.CLUSTER and len(masters) < 3:
        found.append(f"redis: a cluster of {len(masters)} masters has no majority once one is gone: use 3 or more")
    for connection in masters:
        found += await _examine_one(servers, connection)
    return found


async def _examine_one(servers: RedisServers, connection: RedisConnection) -> list[str]:
    settings, where = servers.settings, f"redis {connection.address}"
    sections = await connection.call(
        *(("INFO", section) for section in ("server", "persistence", "replication", "memory"))
    )
    lines = b"\n".join(sections).decode().splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    found = []
    version = facts.get("redis_version", "0")
    if int(version.split(".", 1)[0]) < _VERSION_MIN:
        found.append(f"{where}: is version {version}: warden is tested with {_VERSION_MIN} and later")
    if facts.get("aof_enabled") == "0":
        found.append(f"{where}: forgets everything when it restarts: set appendonly yes")
    replicas = int(facts.get("connected_slaves", "0"))
    if replicas == 0:
        found.append(f"{where}: has no replica: its loss leaves calls unprotected: add one (replicaof)")
    if replicas < settings.wait_replicas:
        found.append(f"{where}: has {replicas} replicas and wait_replicas is {settings.wait_replicas}: no write counts")
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        found.append(
            f"{where}: throws records away when memory is short: set maxmemory-policy noeviction, not {policy}"
        )
    if await _is_open(servers, connection):
        found.append(f"{where}: lets anybody in: give its default user a password (requirepass), or turn it off")
    return found


async def _is_open(servers: RedisServers, connection: RedisConnection) -> bool:
    try:
        stranger = await servers.log_in(connection.address, "", "")
    except Unavailable:
        return False
    stranger.drop("redis: answered")
    return True
