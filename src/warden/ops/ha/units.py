"""The units of a host in the order in which `install.sh` has them run, and which files each of them reads. No I/O."""

from collections.abc import Collection, Iterator
from typing import Final, Literal

from msgspec import Struct

STATE: Final = "/var/lib/pbx-install"
"""Where `install.sh` keeps what it has done on a host."""


class Unit(Struct, frozen=True):
    """A unit of systemd, and what is done about it where it runs already, with former settings or with Debian's."""

    name: str
    how: Literal["reload", "restart", "once", "told"]
    """`once`: restarted where it never had ours; later it is the operator's to do, and so it always is with `told`."""
    files: tuple[str, ...] = ()
    """Absolute, and a folder for all that is in it; what it reads when it is told to, or when it starts."""
    waits: bool = False
    """It is ready only when other hosts are, or what is made on them later: nobody waits for it here."""
    about: str = ""


def units_of(paths: Collection[str], rewritten: Collection[str]) -> Iterator[Unit]:
    """Those that a host has by its files, the paths of which are without the slash at the beginning. Of the `rewritten`
    ones, which programs write in as well, it is the copy that counts of what was put there.
    """

    def here(*named: str) -> tuple[str, ...]:
        found = [path for path in paths if path in named or any(path.startswith(f"{name}/") for name in named)]
        return tuple(f"{STATE}/files/{path}" if path in rewritten else f"/{path}" for path in sorted(found))

    yield Unit("nftables", "reload", here("etc/nftables.conf"))
    yield Unit("chrony", "restart", here("etc/chrony"))
    if files := here("etc/default/etcd"):
        about = "Debian's is a cluster of its own. Ours is ready when a majority of its members is, on other hosts."
        yield Unit("etcd", "once", files, waits=True, about=about)
    if files := here("etc/default/etcd-arbiter", "etc/systemd/system/etcd-arbiter.service"):
        yield Unit("etcd-arbiter", "told", files, waits=True)
    for path in sorted(paths):
        if path.startswith("etc/redis/redis-"):
            port = path.removeprefix("etc/redis/redis-").removesuffix(".conf")
            yield Unit(f"redis-server@{port}", "told", here(path, "etc/redis/users.acl"))
    if "etc/redis/sentinel.conf" in paths:
        yield Unit("redis-sentinel", "told", about="It was stopped where its file was put.")
    if files := here("etc/patroni/config.yml"):
        yield Unit("patroni", "reload", files, waits=True)
    if files := here("etc/haproxy/haproxy.cfg"):
        yield Unit("haproxy", "reload", files)
    if files := here("etc/bind"):
        yield Unit("named", "reload", files)
    yield Unit("prometheus-node-exporter", "restart", about="What is watched, and by whom.")
    if files := here("etc/default/prometheus-redis-exporter"):
        yield Unit("prometheus-redis-exporter", "restart", files)
    if files := here("etc/default/prometheus-postgres-exporter", "etc/prometheus/postgres-queries.yml"):
        yield Unit("prometheus-postgres-exporter", "restart", files)
    if "etc/prometheus/prometheus.yml" in paths:
        # Debian's begins when the clock is set, which may be minutes where no time server answers.
        files = here("etc/prometheus/prometheus.yml", "etc/prometheus/rules")
        yield Unit("prometheus", "reload", files, waits=True)
        yield Unit("prometheus-alertmanager", "reload", here("etc/prometheus/alertmanager.yml"))
    if files := here("etc/warden", "etc/systemd/system/pbx.service"):
        about = "Ready when etcd has its accounts, which pbx-bootstrap makes. A restart hands its calls over."
        yield Unit("pbx", "told", files, waits=True, about=about)
    if files := here("etc/keepalived/keepalived.conf"):
        yield Unit("keepalived", "reload", files)
