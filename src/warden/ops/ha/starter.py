"""A `cluster.yml` to begin with: the deployment guide's addresses, for the operator to put their own in their place."""

from warden.ops.ha.inventory import Option
from warden.ops.ha.sizing import size_for

_HEAD = """\
# A cluster of Warden. `warden ha render cluster.yml --out DIR` makes the files of every host from it,
# `warden ha verify DIR` has them looked at by the programs that will read them. All keys: docs/ha-guide.md.
option: {option}
cluster_name: pbx-production
domain: example.com
users: {users}
postgresql_version: 15  # 16 on Ubuntu 24.04

"""

_ALONE = """\
# Where phones and seats are. The hosts' card there, and its network.
network: {interface: eth0, network: 192.168.1.0/24}
# A network of its own for what the hosts tell each other, if there is one; each host then has a cluster_address too.
# cluster_network: {interface: eth1, network: 10.20.30.0/24}

"""

_WHO = """\
# From where phones may call, and from where people may look (beside the network above).
phones: [192.168.0.0/16]
operators: []

# Certificate and key of SIP over TLS, in one file on every host; the phones look for the domain's name in it. Without
# this line there is no TLS.
sip_tls: {certificate: /etc/warden/sip.pem}

# Phones in browsers: wss://, at HAProxy's address.
websocket: {port: 7443}

"""

_PASSIVE = """\
# Two hosts, and a small third one whose vote decides who is alive: two alone cannot tell a dead host from a cut cable.
hosts:
  - {name: pbx1, address: 192.168.1.10}
  - {name: pbx2, address: 192.168.1.11}
  - {name: witness, address: 192.168.1.12, roles: [witness, monitor]}

# The address that all phones register at. The first host has it while it is well.
seats:
  - {name: main, address: 192.168.1.100, successors: [pbx1, pbx2]}

# HAProxy's address, on whichever host is well: the API, and SIP for phones that know one address only.
balancer: {address: 192.168.1.99, certificate: /etc/ssl/private/pbx.pem}
"""

_GEO = """\
# Two sites, each a cluster by itself. The first is primary when the cluster is made: its database is the one that the
# other's is a copy of. The other's hosts wait, with all calls and registrations.
regions:
"""

_REGION = """\
  - name: {name}
    # As in the option active-passive. With a seat for each of three hosts, a region is like active-active.
    network: {{interface: eth0, network: 192.168.{net}.0/24}}
    hosts:
      - {{name: {name}1, address: 192.168.{net}.10}}
      - {{name: {name}2, address: 192.168.{net}.11}}
      - {{name: {name}-witness, address: 192.168.{net}.12, roles: [witness, monitor]}}
    # The same names in both regions.
    seats:
      - {{name: main, address: 192.168.{net}.100, successors: [{name}1, {name}2]}}
    balancer: {{address: 192.168.{net}.99, certificate: /etc/ssl/private/pbx.pem}}
"""

_THIRD = """
# When the first site is lost, the other one takes its calls by itself. That takes a third site, with one small host,
# whose vote says which of the two is cut off: of two alone, each takes a cut line for the other's death. It must share
# neither power nor uplink with them. With two sites only, remove what follows: `warden dr promote` is then yours to do.
automatic: true
third_site:
  name: south
  network: {interface: eth0, network: 192.168.3.0/24}
  host: {name: arbiter, address: 192.168.3.10}
"""


def starter(option: Option, users: int = 0, *, automatic: bool = True) -> str:
    """The text of a file for the option; `users` 0 takes the guide's number. `automatic`: of geo, with a third site."""
    if option == "active-passive":
        return _HEAD.format(option=option, users=users or 100) + _ALONE + _WHO + _PASSIVE
    if option == "geo":
        sites = (_REGION.format(name=name, net=net) for net, name in enumerate(("east", "west"), 1))
        text = _HEAD.format(option=option, users=users or 1000) + _WHO + _GEO + "".join(sites)
        return text + _THIRD if automatic else text
    users = users or 500
    nodes = max(3, size_for(users).nodes)
    names = [f"pbx{i + 1}" for i in range(nodes)]
    lines = ["# Every host carries calls, and what a host does by itself is in `roles` (not set: all of these)."]
    lines.append(
        "#   roles: [pbx, balancer, database, redis, etcd, dns]"
        if nodes == 3
        else "# Three of them keep the data and serve DNS."
    )
    lines.append("hosts:")
    for i, name in enumerate(names):
        roles = (
            (", roles: [pbx, balancer, database, redis, etcd, dns, monitor]" if i == 0 else "")
            if i < 3
            else ", roles: [pbx, balancer]"
        )
        lines.append(f"  - {{name: {name}, address: 192.168.1.{10 + i}{roles}}}")
    lines += [
        "  # A host of its own that watches is better, since nobody tells of the death of one that watches itself:",
        "  # - {name: watch, address: 192.168.1.20, roles: [monitor]}",
    ]
    lines += ["", "# An address for each host, and who takes it when that host is gone, each another one."]
    lines.append("seats:")
    for i in range(nodes):
        order = ", ".join(names[i:] + names[:i])
        lines.append(f"  - {{name: seat{i + 1}, address: 192.168.1.{101 + i}, successors: [{order}]}}")
    lines += [
        "",
        "# HAProxy's address, on whichever host is well: the API, and SIP for phones that know one address only.",
    ]
    lines.append("balancer: {address: 192.168.1.100, certificate: /etc/ssl/private/pbx.pem}")
    return _HEAD.format(option=option, users=users) + _ALONE + _WHO + "\n".join(lines) + "\n"
