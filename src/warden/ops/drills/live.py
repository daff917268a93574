"""Drills on the cluster that serves people, under calls of test phones: what an operator does there on any day, and
what may happen to one program of one host on any night.

What is not here: whatever only hands can undo where the network is gone (power, cables, partitions), whatever other
people's programs feel as well (a full disk, a clock), and whatever strikes two hosts at once. Those have a lab.
"""

from typing import Final

from msgspec import Struct

from warden.config.tree import Config
from warden.ops.drills.planned import numbers, under_load
from warden.ops.drills.report import Report
from warden.ops.drills.stage import Drill, Say, Size, stage_live
from warden.ops.live import Door, ThereAndBack, live_cluster, own_address
from warden.ops.live_hosts import Act, Struck, Target, frozen, killed, restarted, undone
from warden.ops.nemesis import ETCD_STEP_S, SURE_S, VRRP_GAP_MS
from warden.store.durable import SqlDurable
from warden.web.models import Cluster, Seat

FULL: Final = Size(4, measured=4, rate_per_s=1.0)
SHORT: Final = Size(2, measured=2, rate_per_s=1.0)
"""A few phones: they are not to be what a busy cluster lacks room for."""
ETCD_IS_WELL: Final = ("curl", "--silent", "--fail", "--max-time", "5", "http://127.0.0.1:2379/health")
FAILOVER_MS: Final = -1.0
"""The audio may be away for as long as the cluster's way of failing over promises."""

HANDOVER: Final = Drill(
    "handover",
    "P4: a seat that is handed over takes its calls along; nobody hears it, and no call set-up fails",
    "one seat of the running cluster handed to another node and back, under calls of test phones",
    full=FULL,
    short=SHORT,
)


class OnHost(Struct, frozen=True):
    """A drill that strikes one host."""

    drill: Drill
    act: Act


def _on_host(name: str, promise: str, act: Act) -> OnHost:
    does = f"{act.does} on one host of the running cluster, under calls of test phones"
    return OnHost(Drill(name, promise, does, full=FULL, short=SHORT), act)


ON_HOST: Final = {
    one.drill.name: one
    for one in (
        _on_host(
            "rolling-restart", "P4: restarting Warden on a host is not noticed", restarted("Warden", "pbx", "pbx")
        ),
        _on_host(
            "kill-warden", "P1: no answered call ends with the process that carries it",
            killed("Warden's processes", "pbx", "pbx", gap_ms_max=FAILOVER_MS),
        ),
        _on_host(
            "kill-keepalived", "P1: the calls of a host whose keepalived is dead go on",
            killed("keepalived", "keepalived", "pbx", "balancer", gap_ms_max=None),
        ),
        _on_host(
            "kill-haproxy", "P4: calls do not pass HAProxy; the API's address goes to another host",
            killed("HAProxy", "haproxy", "balancer"),
        ),
        _on_host(
            "kill-redis-server", "P7: losing a Redis server costs nothing",
            # One: where a host has two, both may be masters, and two of three are no majority's loss to bear.
            killed("the Redis server at port 6379", "redis-server@6379", "redis"),
        ),
        _on_host(
            "kill-etcd-member", "P7: losing a member of etcd costs nothing",
            killed("etcd", "etcd", "etcd", "witness", looks=ETCD_IS_WELL),
        ),
        _on_host(
            "freeze", "P1: a node that was frozen for seconds costs no call",
            frozen("Warden's processes for 6 s", "pbx", "pbx"),
        ),
    )
}  # fmt: skip
LIVE: Final = {HANDOVER.name: HANDOVER, **{name: one.drill for name, one in ON_HOST.items()}}
"""What `--target production` has."""


async def handover(
    size: Size, say: Say, config: Config, door: Door, cluster: Cluster, seat: Seat, to: str, durable: SqlDurable
) -> Report:
    """Carry out `HANDOVER` with a seat that may move. Raises `WardenError` where it cannot be."""
    members = [member.node for member in cluster.members]
    async with (
        live_cluster(config, durable, door, seat, members) as live,
        stage_live(HANDOVER, size, say, numbers(size), live, own_address(cluster)) as on,
    ):
        return await under_load(on, size, [ThereAndBack(live, to)])


async def on_host(
    one: OnHost,
    size: Size,
    say: Say,
    config: Config,
    door: Door,
    cluster: Cluster,
    target: Target,
    seat: Seat,
    durable: SqlDurable,
) -> Report:
    """Carry out one of `ON_HOST` on a host that may be struck, with phones at `seat`. Raises `WardenError` where it
    cannot be, and where it could not be undone.
    """
    members = [member.node for member in cluster.members]
    failover_ms = _failover_ms(config)
    gap_ms_max = failover_ms if one.act.gap_ms_max == FAILOVER_MS else one.act.gap_ms_max
    # A host without seats has none to lose, and where leases decide they may outlast the fault.
    is_taken = one.act.is_taken and bool(target.homes) and failover_ms < one.act.lasts_s * 1000
    async with (
        live_cluster(config, durable, door, seat, members) as live,
        stage_live(one.drill, size, say, numbers(size), live, own_address(cluster)) as on,
        undone(Struck(live, one.act, target, gap_ms_max)) as fault,
    ):
        return await under_load(
            on, size, [fault], gap_ms_max=gap_ms_max, lasts_s=one.act.lasts_s,
            taken_from=target.host if is_taken else "",
        )  # fmt: skip


def _failover_ms(config: Config) -> float:
    ha = config.high_availability
    return VRRP_GAP_MS if ha.failover_driver == "keepalived" else (ha.lease_ttl + ETCD_STEP_S + SURE_S) * 1000
