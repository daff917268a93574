"""Writes grafana/dashboards/pbx-ha-overview.json (`make dashboard`). Rows and panels stand in the order of the page.

Every panel asks Prometheus. What a node says is given its name and kept to the chosen cluster and nodes by a join with
`pbx_node_info` (`of_nodes`), so that the scrape configuration need not add labels.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

PAGE: Final = Path(__file__).parent / "dashboards" / "pbx-ha-overview.json"
WIDTH: Final = 24
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
NODES: Final = '* on (job, instance) group_left (node) pbx_node_info{cluster="$cluster", instance=~"$node"}'
MACHINES: Final = 'instance=~"$machine"'
UP: Final = 'pbx_calls{phase="up"}'
WINDOW: Final = "$__rate_interval"
GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"

Panel = dict[str, Any]
Target = dict[str, Any]


def of_nodes(expr: str) -> str:
    """The expression for the chosen nodes only, with the label `node`."""
    return f"({expr}) {NODES}"


def rate(counter: str) -> str:
    """How much the counter of each chosen node grows in a second."""
    return of_nodes(f"rate({counter}[{WINDOW}])")


def grown(counter: str) -> str:
    """How much it grew between two points of the graph."""
    return of_nodes(f"increase({counter}[{WINDOW}])")


def quantile(share: float, histogram: str) -> str:
    """Of all chosen nodes together."""
    return f"histogram_quantile({share}, sum by (le) ({rate(f'{histogram}_bucket')}))"


def ask(expr: str, legend: str = "{{node}}", **more: Any) -> Target:
    """A query; `more` as Grafana has it."""
    return {"expr": expr, "legendFormat": legend, "datasource": SOURCE, **more}


def now(expr: str, legend: str = "") -> Target:
    """A query for the present alone."""
    return ask(expr, legend, instant=True, range=False)


def table(expr: str) -> Target:
    """The same as rows of a table."""
    return {**now(expr), "format": "table"}


def percentiles(histogram: str, shares: Sequence[float] = (0.5, 0.95, 0.99)) -> list[Target]:
    """Some percentiles of a histogram."""
    return [ask(quantile(share, histogram), f"p{share * 100:g}") for share in shares]


def panel(kind: str, title: str, targets: Sequence[Target], width: int, about: str = "", **options: Any) -> Panel:
    """A panel; where it stands is decided by `lay_out`."""
    targets = [{**target, "refId": chr(ord("A") + i)} for i, target in enumerate(targets)]
    made: Panel = {"type": kind, "title": title, "description": about, "datasource": SOURCE, "targets": targets}
    return (
        made | {"fieldConfig": {"defaults": {}, "overrides": []}, "options": {}} | options | {"gridPos": {"w": width}}
    )


def lines(
    title: str, *targets: Target, unit: str = "short", width: int = 8, about: str = "", stacked: bool = False, **of: Any
) -> Panel:
    """A graph over time. `of` are further defaults of its fields."""
    drawn = {"lineWidth": 1, "fillOpacity": 20 if stacked else 8, "showPoints": "never", "spanNulls": False}
    custom = drawn | ({"stacking": {"mode": "normal", "group": "A"}} if stacked else {})
    defaults = {"unit": unit, "min": 0, "custom": custom} | of
    legend = {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"], "showLegend": True}
    options = {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    field = {"defaults": defaults, "overrides": []}
    return panel("timeseries", title, targets, width, about, fieldConfig=field, options=options)


def stepped(title: str, *targets: Target, **more: Any) -> Panel:
    """A graph of what jumps."""
    made = lines(title, *targets, **more)
    made["fieldConfig"]["defaults"]["custom"] |= {"lineInterpolation": "stepAfter", "fillOpacity": 0}
    return made


def colours(*steps: tuple[float | None, str]) -> dict[str, Any]:
    """From which value on a figure has which colour."""
    return {"mode": "absolute", "steps": [{"value": value, "color": colour} for value, colour in steps]}


def figure(title: str, target: Target, *steps: tuple[float | None, str], unit: str = "short", about: str = "") -> Panel:
    """One number."""
    defaults = {"unit": unit, "thresholds": colours(*(steps or ((None, BLUE),)))}
    options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background", "graphMode": "none"}
    return panel(
        "stat", title, [target], 4, about, fieldConfig={"defaults": defaults, "overrides": []}, options=options
    )


def states(title: str, *targets: Target, words: dict[int, tuple[str, str]], width: int = 12, about: str = "") -> Panel:
    """A line for each series, coloured by its value: number to word and colour."""
    told = {str(value): {"text": text, "color": colour} for value, (text, colour) in words.items()}
    defaults = {"mappings": [{"type": "value", "options": told}], "custom": {"fillOpacity": 80, "lineWidth": 0}}
    options = {"mergeValues": True, "showValue": "never", "rowHeight": 0.85, "legend": {"showLegend": True}}
    field = {"defaults": defaults, "overrides": []}
    return panel("state-timeline", title, targets, width, about, fieldConfig=field, options=options)


def columns(title: str, target: Target, names: dict[str, str], width: int = 12, about: str = "") -> Panel:
    """A table of the labels (and the `Value`) in `names`, under these headings and in this order."""
    order = {name: i for i, name in enumerate(names)}
    shown = {"id": "filterFieldsByName", "options": {"include": {"names": list(names)}}}
    named = {"id": "organize", "options": {"indexByName": order, "renameByName": names}}
    options = {"showHeader": True, "cellHeight": "sm"}
    return panel("table", title, [target], width, about, options=options, transformations=[shown, named])


def cluster_panels() -> list[Panel]:
    """Who is there and who has what."""
    return [
        figure("Nodes up", now('count(pbx_node_info{cluster="$cluster"})'), (None, RED), (1, YELLOW), (2, GREEN)),
        figure("Nodes that take calls", now(f"sum({of_nodes('pbx_accepting_calls')})"), (None, RED), (1, GREEN)),
        figure("Calls in progress", now(f"sum({of_nodes(UP)})")),
        figure("Phones registered", now(f"sum({of_nodes('pbx_registrations')})")),
        figure("Calls unprotected", now(f"sum({of_nodes('pbx_unprotected_calls')})"), (None, GREEN), (1, RED)),
        figure("Alerts firing", now('count(ALERTS{alertstate="firing"}) or vector(0)'), (None, GREEN), (1, RED)),
        columns(
            "Who holds which seat",
            table(of_nodes("pbx_seat_epoch")),
            {"seat": "seat", "node": "held by", "Value": "epoch"},
            about="The epoch grows each time a seat changes hands.",
        ),
        columns(
            "Nodes",
            table('pbx_node_info{cluster="$cluster", instance=~"$node"}'),
            {"node": "node", "instance": "address", "version": "version"},
        ),
        states(
            "Seats over time",
            ask(of_nodes("pbx_seat_holder"), "{{seat}} at {{node}}"),
            words={0: ("elsewhere", "transparent"), 1: ("held", GREEN)},
            about="Each seat has one holder at any time.",
        ),
        states(
            "Nodes over time",
            ask(of_nodes("pbx_accepting_calls")),
            words={0: ("takes no calls", YELLOW), 1: ("takes calls", GREEN)},
            about="A gap is a node that was down. A node without a seat takes no calls.",
        ),
        stepped("Epochs", ask(f"max by (seat) ({of_nodes('pbx_seat_epoch')})", "{{seat}}")),
        stepped("Leader", ask(of_nodes("pbx_cluster_leader")), about="One node says 1. Nothing is decided by it."),
        stepped("Members seen", ask(of_nodes("pbx_cluster_members")), about="By each node. They should agree."),
        stepped("Coordinator reached", ask(of_nodes("pbx_coordinator_up"))),
        stepped("Warnings", ask(of_nodes("pbx_warnings")), about="warden status names them."),
        lines("Clocks", ask(of_nodes("max by (job, instance) (abs(pbx_clock_behind_seconds))")), unit="s"),
    ]


def call_panels() -> list[Panel]:
    """What becomes of calls."""
    failed = rate('pbx_calls_ended_total{result="failed", status!~"403|404|484"}')
    return [
        lines("Calls per node", ask(f"sum by (node) ({of_nodes(UP)})"), stacked=True),
        lines("New calls per second", ask(rate("pbx_calls_started_total")), unit="cps", stacked=True),
        lines(
            "Calls by their end", ask(f"sum by (result) ({rate('pbx_calls_ended_total')})", "{{result}}"), unit="cps"
        ),
        lines(
            "Until it rings",
            *percentiles("pbx_post_dial_seconds"),
            unit="s",
            about="From the INVITE until the caller hears of it. Target: 2 s.",
        ),
        lines("Until it is answered", *percentiles("pbx_call_setup_seconds"), unit="s", about="With the ringing."),
        lines(
            "Calls that fail",
            ask(f"(sum({failed}) or vector(0)) / (sum({rate('pbx_calls_ended_total')}) > 0)", "failed"),
            unit="percentunit",
            about="Without wrong numbers and what is not allowed. Target: 1 %.",
        ),
        lines("Calls refused for overload", ask(rate("pbx_calls_shed_total")), unit="cps"),
        lines("Overload", ask(of_nodes("pbx_overload_level"), "{{kind}} at {{node}}"), unit="percentunit", max=1),
        lines("Messages wait", ask(of_nodes("pbx_loop_delay_seconds")), unit="s", about="Above 0.1 s calls are shed."),
    ]


def failover_panels() -> list[Panel]:
    """What it cost when nodes were lost, or work was planned."""
    return [
        stepped("Failovers", ask(grown("pbx_failovers_total")), about="Seats taken over from a node that was lost."),
        stepped("Hand-overs", ask(grown("pbx_handovers_total")), about="Seats given away as planned."),
        stepped("Calls taken over", ask(grown("pbx_calls_kept_total"), "kept by {{node}}")),
        lines(
            "Failover duration",
            ask(
                f"histogram_quantile(0.95, sum by (le) ({of_nodes('pbx_failover_seconds_bucket')}))", "p95 since start"
            ),
            ask(
                rate("pbx_failover_seconds_sum") + f" / ({rate('pbx_failover_seconds_count')} > 0)", "mean at {{node}}"
            ),
            unit="s",
            about="From when a seat was seen free until phones were answered there. The lease comes before it.",
        ),
        lines(
            "Last adoption of each seat",
            ask(of_nodes("pbx_adoption_seconds"), "{{seat}} at {{node}}"),
            unit="s",
        ),
        stepped("Calls lost", ask(grown("pbx_calls_lost_total")), about="Dropped: their records could not be read."),
        lines("Calls unprotected", ask(f"sum by (node) ({of_nodes('pbx_unprotected_calls')})")),
        lines("Registrations that failed", ask(rate("pbx_auth_failures_total")), unit="reqps", about="Wrong proofs."),
        lines("Registrations refused for overload", ask(rate("pbx_registrations_shed_total")), unit="reqps"),
    ]


def registration_panels() -> list[Panel]:
    """Phones, trunks, and SIP as such."""
    return [
        lines("Registrations per node", ask(f"sum by (node) ({of_nodes('pbx_registrations')})"), stacked=True),
        lines(
            "Registrations per seat", ask(f"sum by (seat) ({of_nodes('pbx_registrations')})", "{{seat}}"), stacked=True
        ),
        lines("REGISTERs", ask(rate("pbx_registers_total")), unit="reqps"),
        lines(
            "SIP messages",
            ask(f"sum by (node, direction) ({rate('pbx_sip_messages_total')})", "{{direction}} at {{node}}"),
            unit="mps",
        ),
        lines("Said again", ask(rate('pbx_sip_retransmissions_total{direction="out"}')), unit="mps"),
        lines("Bans", ask(of_nodes("pbx_banned_addresses")), about="Addresses that are shut out."),
        states(
            "Trunks",
            ask(f"max by (trunk) ({of_nodes('pbx_trunk_up')})", "{{trunk}}"),
            words={0: ("down", RED), 1: ("up", GREEN)},
        ),
        lines("Calls over trunks", ask(f"sum by (trunk) ({of_nodes('pbx_trunk_channels')})", "{{trunk}}"), width=12),
    ]


def audio_panels() -> list[Panel]:
    """How calls sound."""
    lost, came = rate("pbx_media_lost_packets_total"), rate("pbx_media_packets_total")
    taken = of_nodes("max by (job, instance, seat) (pbx_rtp_ports_taken / pbx_rtp_ports)")
    return [
        lines("Packets", ask(came), unit="pps", stacked=True),
        lines("Packets lost", ask(f"{lost} / ({lost} + {came} > 0)"), unit="percentunit", about="Target: 1 %."),
        lines("RTP ports taken", ask(taken, "{{seat}} at {{node}}"), unit="percentunit", max=1),
        lines(
            "Opinion score",
            ask(quantile(0.05, "pbx_rtp_mos"), "p5"),
            ask(quantile(0.5, "pbx_rtp_mos"), "p50"),
            max=4.5,
            about="Of sides of calls that ended, by the E-model. Target: 4.",
        ),
        lines("Jitter", *percentiles("pbx_rtp_jitter_seconds", (0.5, 0.95)), unit="s", about="Target: 30 ms."),
        lines(
            "Round trip",
            *percentiles("pbx_rtp_round_trip_seconds", (0.5, 0.95)),
            unit="s",
            about="Of phones that send RTCP.",
        ),
        lines("Sessions", ask(of_nodes("pbx_media_sessions"))),
        lines("Processor of the media process", ask(rate("pbx_media_cpu_seconds_total")), unit="percentunit"),
        stepped("Media process well", ask(of_nodes("pbx_media_up"))),
    ]


def store_panels() -> list[Panel]:
    """Redis, PostgreSQL and the coordinator, as the nodes see them and by themselves."""
    used = of_nodes('pbx_database_connections{state="used"} / ignoring (state) pbx_database_connections_max')
    fsync = f"sum by (instance, le) (rate(etcd_disk_wal_fsync_duration_seconds_bucket[{WINDOW}]))"
    return [
        lines("State store: a write takes", *percentiles("pbx_state_store_seconds"), unit="s"),
        lines("Database: a transaction takes", *percentiles("pbx_database_seconds"), unit="s"),
        lines("Coordinator: a look takes", *percentiles("pbx_coordinator_seconds"), unit="s"),
        stepped(
            "Stores reached",
            ask(of_nodes("pbx_state_store_up"), "state store from {{node}}"),
            ask(of_nodes("pbx_database_up"), "database from {{node}}"),
        ),
        lines(
            "Records that wait",
            ask(f"sum by (node) ({of_nodes('pbx_unprotected_records')})", "unprotected at {{node}}"),
            ask(f"sum by (node) ({of_nodes('pbx_cdrs_waiting')})", "CDRs at {{node}}"),
        ),
        lines("Database connections", ask(used), unit="percentunit", max=1),
        lines("PostgreSQL: replication lag", ask("pg_replication_lag_seconds", "{{instance}}"), unit="s"),
        lines("PostgreSQL: kept for slots", ask("pg_replication_slots_pg_wal_lsn_diff", "{{slot_name}}"), unit="bytes"),
        stepped("PostgreSQL: standby", ask("pg_replication_is_replica", "{{instance}}"), about="One server says 0."),
        lines("Redis: memory", ask("redis_memory_used_bytes", "{{instance}}"), unit="bytes"),
        lines("Redis: commands", ask(f"rate(redis_commands_processed_total[{WINDOW}])", "{{instance}}"), unit="ops"),
        stepped("Redis: replicas", ask("redis_connected_slaves", "{{instance}}")),
        stepped("etcd: has a leader", ask("etcd_server_has_leader", "{{instance}}")),
        lines("etcd: p99 of writing to disk", ask(f"histogram_quantile(0.99, {fsync})", "{{instance}}"), unit="s"),
        stepped("HAProxy: servers up", ask("haproxy_backend_active_servers", "{{proxy}} at {{instance}}")),
    ]


def resource_panels() -> list[Panel]:
    """Machines and processes."""
    idle = f'rate(node_cpu_seconds_total{{mode="idle", {MACHINES}}}[{WINDOW}])'
    disk = f'{{fstype!~"tmpfs|ramfs|overlay|squashfs|iso9660|nsfs|fuse.*", {MACHINES}}}'
    free, total = f"node_memory_MemAvailable_bytes{{{MACHINES}}}", f"node_memory_MemTotal_bytes{{{MACHINES}}}"
    network = f'{{device!~"lo|veth.*|docker.*|br-.*", {MACHINES}}}[{WINDOW}]'
    space = f"node_filesystem_avail_bytes{disk} / node_filesystem_size_bytes{disk}"
    return [
        lines("Processors", ask(f"1 - avg by (instance) ({idle})", "{{instance}}"), unit="percentunit", max=1, width=6),
        lines("Memory", ask(f"1 - {free} / {total}", "{{instance}}"), unit="percentunit", max=1, width=6),
        lines(
            "Disks",
            ask(f"1 - max by (instance, mountpoint) ({space})", "{{mountpoint}} of {{instance}}"),
            unit="percentunit",
            max=1,
            width=6,
        ),
        lines(
            "Network",
            ask(f"sum by (instance) (rate(node_network_receive_bytes_total{network}))", "in {{instance}}"),
            ask(f"sum by (instance) (rate(node_network_transmit_bytes_total{network}))", "out {{instance}}"),
            unit="Bps",
            width=6,
        ),
        lines("Processor of the signalling process", ask(rate("pbx_process_cpu_seconds_total")), unit="percentunit"),
        lines("Its memory", ask(of_nodes("pbx_process_resident_memory_bytes")), unit="bytes"),
        lines("Its file descriptors", ask(of_nodes("pbx_process_open_fds / pbx_process_max_fds")), unit="percentunit"),
    ]


ROWS: Final = (
    ("Cluster", cluster_panels),
    ("Calls", call_panels),
    ("Failovers, and what they cost", failover_panels),
    ("Registrations, trunks, SIP", registration_panels),
    ("Audio", audio_panels),
    ("Stores", store_panels),
    ("Machines and processes", resource_panels),
)


def lay_out() -> list[Panel]:
    """All panels, row by row, from left to right."""
    placed: list[Panel] = []
    y = 0
    for title, make in ROWS:
        placed.append(
            {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": WIDTH, "h": 1}}
        )
        placed[-1]["gridPos"] |= {"x": 0, "y": y}
        y, x, height = y + 1, 0, 0
        for made in make():
            place = made["gridPos"]
            if x + place["w"] > WIDTH:
                x, y, height = 0, y + height, 0
            place |= {"x": x, "y": y, "h": 4 if made["type"] == "stat" else 8}
            x, height = x + place["w"], max(height, place["h"])
            placed.append(made)
        y += height
    return [{"id": i, **made} for i, made in enumerate(placed, 1)]


def variable(name: str, label: str, query: str, *, several: bool = False) -> dict[str, Any]:
    """What is to be chosen at the top of the page, as Prometheus knows it in the time that is shown."""
    asked = {"query": query, "refId": name}
    made = {"type": "query", "name": name, "label": label, "datasource": SOURCE, "definition": query, "query": asked}
    made |= {"refresh": 2, "sort": 1, "hide": 0, "regex": "", "multi": several, "includeAll": several, "options": []}
    return made | ({"current": {"selected": True, "text": ["All"], "value": ["$__all"]}} if several else {})


def dashboard() -> dict[str, Any]:
    """The page as Grafana 9 and later read it from a file. Its API wants it inside of {"dashboard": ...}."""
    source = {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "hide": 0}
    chosen = [
        source | {"refresh": 1, "regex": "", "multi": False, "includeAll": False, "options": []},
        variable("cluster", "cluster", "label_values(pbx_node_info, cluster)"),
        variable("node", "nodes", 'label_values(pbx_node_info{cluster="$cluster"}, instance)', several=True),
        variable("machine", "machines", "label_values(node_uname_info, instance)", several=True),
    ]
    moved = {
        "name": "A seat changed hands",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": YELLOW,
        "expr": f"changes((max by (seat) ({of_nodes('pbx_seat_epoch')}))[1m:]) > 0",
        "titleFormat": "{{seat}} changed hands",
    }
    return {
        "id": None,
        "uid": "pbx-ha-overview",
        "title": "PBX: high availability overview",
        "tags": ["pbx", "warden"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "15s",
        "templating": {"list": chosen},
        "annotations": {"list": [moved]},
        "links": [],
        "panels": lay_out(),
    }


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
