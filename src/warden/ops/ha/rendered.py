"""Rendered files as texts, and where in them is what. Pure."""

from collections.abc import Mapping
from typing import Final

from warden.config.load import Document, parse
from warden.config.tree import Config
from warden.ops.ha.reading import IPV4, assignments, database_of, directives, vrrp_instances

Texts = Mapping[str, Mapping[str, str]]
"""Host to path to text."""
Nodes = Mapping[str, Document[Config]]
"""The settings of the hosts that run Warden."""

CONFIG: Final = "etc/warden/config.yml"
ENVIRONMENT: Final = "etc/warden/environment"
KEEPALIVED: Final = "etc/keepalived/keepalived.conf"
HAPROXY: Final = "etc/haproxy/haproxy.cfg"
ETCD: Final = "etc/default/etcd"
ARBITER: Final = "etc/default/etcd-arbiter"
NFTABLES: Final = "etc/nftables.conf"
ACL: Final = "etc/redis/users.acl"
PATRONI: Final = "etc/patroni/config.yml"
AGAIN: Final = "run `warden ha render` again, or mend the one that differs"


def config_of(host: str, files: Mapping[str, str]) -> Document[Config]:
    """A node's settings, with the passwords that its environment file gives them."""
    environ = {name: value for name, (value, _) in assignments(files.get(ENVIRONMENT, "")).items()}
    return parse(files[CONFIG].encode(), environ, Config, name=f"{host}/{CONFIG}")


def own_addresses(files: Mapping[str, str]) -> list[str]:
    """A host's own addresses, as its files tell them."""
    found = [instance.get("unicast_src_ip") for instance in vrrp_instances(files.get(KEEPALIVED, ""))]
    for member in (ETCD, ARBITER):
        told = assignments(files.get(member, ""))
        found += IPV4.findall(told.get("ETCD_ADVERTISE_CLIENT_URLS", ("", 0))[0])
    for path, text in files.items():
        if path.startswith("etc/redis/redis"):
            found += [word for _, words in directives(text) if words[0] == "bind" for word in words[1:]]
    if (database := database_of(files.get(PATRONI, ""))) is not None:
        found += IPV4.findall(database.address)
    return sorted({address for address in found if address and not address.startswith("127.")})


def line_in(node: Document[Config], key: str) -> int:
    """Where a key stands in a node's settings, or the section that would have it."""
    path = tuple(key.split("."))
    while path and path not in node.lines:
        path = path[:-1]
    return node.lines.get(path, 0)
