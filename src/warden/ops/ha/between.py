"""What must hold between the files of two regions (`option: geo`): each has its own cluster, and takes over what the
other had. Pure: texts in, findings out.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from warden.ops.ha.findings import Finding
from warden.ops.ha.reading import Database, database_of, line_of, openings
from warden.ops.ha.rendered import AGAIN, ARBITER, CONFIG, NFTABLES, PATRONI, Nodes, Texts, line_in, own_addresses

Regions = Mapping[str, str]
"""Host to the name of its region: "" for all where there is one place only, and for the third site's."""
Databases = Mapping[str, Mapping[str, Database]]
"""Region to host to the settings of its Patroni."""


def region_by_host(texts: Texts, nodes: Nodes) -> Regions:
    """Where each host is: a node says it itself, and of the others those nodes that name them in their settings."""
    named = Counter[tuple[str, str]]()
    regions = {host: node.config.high_availability.region or "" for host, node in nodes.items()}
    for host, region in regions.items():
        config = nodes[host].config
        stores = {server.host for server in config.redis.nodes} | {member.host for member in config.etcd.nodes}
        arbiter = config.high_availability.arbiter
        # The first is the region's own.
        near = {member.host for member in arbiter.nodes[:1]} if arbiter is not None else set()
        named.update((region, address) for address in {*stores, *near, *config.sip.balancers})
    some = sorted(set(regions.values())) or [""]
    for host, files in texts.items():
        if host not in regions:
            own = own_addresses(files)
            likely = max(some, key=lambda region: sum(named[region, address] for address in own))
            is_third = ARBITER in files and not any(named[likely, address] for address in own)
            regions[host] = "" if is_third else likely
    return regions


def between(texts: Texts, nodes: Nodes, regions: Regions) -> Iterator[Finding]:
    """What does not fit, by file and line."""
    if not any(regions.values()):
        return
    yield from _places(texts, nodes)
    yield from _seats(nodes)
    databases: dict[str, dict[str, Database]] = {region: {} for region in dict.fromkeys(regions.values()) if region}
    for host, files in texts.items():
        if regions[host] and PATRONI in files and (found := database_of(files[PATRONI])) is not None:
            databases[regions[host]][host] = found
    yield from _lists(nodes, databases)
    yield from _copies(texts, databases)
    yield from _doors(texts, nodes, databases)


def _places(texts: Texts, nodes: Nodes) -> Iterator[Finding]:
    """Each node is in a region, and is where the list of that region says."""
    for host, node in nodes.items():
        cluster = node.config.high_availability
        where, line = f"{host}/{CONFIG}", line_in(node, "high_availability.region")
        listed = {region.name: [other.host for other in region.nodes] for region in cluster.regions}
        if cluster.region not in listed:
            what = f"region {cluster.region} is none of regions ({', '.join(listed)})"
            yield Finding(where, line, what, "give the node the name of its region")
        elif not set(listed[cluster.region]) & set(own_addresses(texts[host])):
            what = f"regions does not have {host} among the nodes of {cluster.region}: no calls would be streamed to it"
            yield Finding(where, line_in(node, "high_availability.regions"), what, AGAIN)


def _seats(nodes: Nodes) -> Iterator[Finding]:
    """A seat moves to its namesake."""
    names = {host: tuple(seat.name for seat in node.config.high_availability.seats) for host, node in nodes.items()}
    common = Counter(tuple(sorted(name)) for name in names.values()).most_common(1)
    for host, node in nodes.items():
        if tuple(sorted(names[host])) != common[0][0]:
            what = f"has the seats {', '.join(names[host])}, and others {', '.join(common[0][0])}"
            line = line_in(node, "high_availability.seats")
            yield Finding(f"{host}/{CONFIG}", line, what, "both regions must have seats of the same names")


def _lists(nodes: Nodes, databases: Databases) -> Iterator[Finding]:
    """A node asks the databases of its own region first, and then the other's, and tells only its own."""
    for host, node in nodes.items():
        where, config = f"{host}/{CONFIG}", node.config
        own = _addresses(databases, config.high_availability.region or "")
        asked = (config.database.host or "").split(",")
        line = line_in(node, "database.host")
        for region in databases:
            for address in _addresses(databases, region):
                if address not in asked:
                    what = f"database.host does not name {address}, a database of region {region}"
                    yield Finding(where, line, what, "where that region is primary, records would not be written")
        if own and asked[0] not in own:
            what = f"database.host begins with {asked[0]}, which is not in region {config.high_availability.region}"
            yield Finding(where, line, what, "the databases of its own region must be first")
        line = line_in(node, "database.patroni.nodes")
        for server in config.database.patroni.nodes:
            if server.host not in own:
                what = f"database.patroni: {server.host} is no database of region {config.high_availability.region}"
                yield Finding(where, line, what, "each region tells its own databases")
        for listed in config.high_availability.regions:
            if set(listed.databases) != set(_addresses(databases, listed.name)):
                what = f"regions: the databases of {listed.name} are {', '.join(_addresses(databases, listed.name))}"
                yield Finding(where, line_in(node, "high_availability.regions"), what, AGAIN)


def _copies(texts: Texts, databases: Databases) -> Iterator[Finding]:
    """One region's database leads, and the other's is a copy of it."""
    leading = [region for region, here in databases.items() if not any(one.follows for one in here.values())]
    for region, here in databases.items():
        others = [address for other in databases if other != region for address in _addresses(databases, other)]
        kept = {
            slot for other in databases if other != region for one in databases[other].values() for slot in one.slots
        }
        for host, database in here.items():
            where = f"{host}/{PATRONI}"
            line = line_of(texts[host][PATRONI], "standby_cluster:") or line_of(texts[host][PATRONI], "dcs:")
            if region in leading and leading[0] != region:
                what = f"the databases of {region} and of {leading[0]} would both lead, each with its own records"
                yield Finding(where, line, what, "standby_cluster, with the other region's databases as host")
            elif region not in leading and not leading:
                what = "has a standby_cluster, as in every region: no database would take changes"
                yield Finding(where, line, what, "only the second region has one")
            elif region not in leading and set(database.follows) != set(others):
                what = f"standby_cluster follows {', '.join(database.follows) or 'nobody'}"
                cure = f"the databases of the other region are {', '.join(others)}"
                yield Finding(where, line_of(texts[host][PATRONI], "host:") or line, what, cure)
            elif region not in leading and database.slot not in kept:
                what = f"primary_slot_name {database.slot} is none of the slots that the other region keeps"
                line = line_of(texts[host][PATRONI], "primary_slot_name")
                yield Finding(where, line, what, "what is not heard for a while could never be caught up with")


def _doors(texts: Texts, nodes: Nodes, databases: Databases) -> Iterator[Finding]:
    """The databases follow each other whichever leads, and the nodes of both write there."""
    for region, here in databases.items():
        copies = [address for other in databases if other != region for address in _addresses(databases, other)]
        writers = [
            node.host
            for listing in nodes.values()
            for other in listing.config.high_availability.regions
            if other.name != region
            for node in other.nodes
        ]
        asked = [("replication", "replicator", address) for address in copies]
        asked += [("pbx_system", "pbx_user", address) for address in dict.fromkeys(writers)]
        for host, database in here.items():
            for name, user, address in asked:
                if not database.admits(name, user, address):
                    what = f"pg_hba does not let {user} in from {address}, of the other region"
                    line = line_of(texts[host][PATRONI], "pg_hba:")
                    yield Finding(f"{host}/{PATRONI}", line, what, f"host {name} {user} {address}/32 scram-sha-256")
            wall = openings(texts[host].get(NFTABLES, ""))
            for address in copies if NFTABLES in texts[host] else ():
                if not any(opening.lets_in(address, "tcp", 5432) for opening in wall):
                    what = f"does not let {address} in at port 5432, a database of the other region"
                    line = line_of(texts[host][NFTABLES], "chain input")
                    yield Finding(f"{host}/{NFTABLES}", line, what, "it could not follow when this region is primary")


def _addresses(databases: Databases, region: str) -> list[str]:
    return [database.address for database in databases.get(region, {}).values()]
