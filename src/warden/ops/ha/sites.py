"""The networks that the hosts of `cluster.yml` are on, and the third site, which has a vote and nothing else."""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Interface, IPv4Network, ip_address, ip_network
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from warden.config.contradictions import Contradiction
from warden.config.tree import AdvertiseAddress, Name, Network, Section
from warden.ops.ha.labels import label_contradictions

if TYPE_CHECKING:
    from warden.ops.ha.inventory import Region


def _region_name(text: str) -> str:
    # It is a label in DNS, the name of a replication slot, and a value of metrics.
    if not (text.isascii() and text.isalnum() and text.lower() == text and len(text) <= 30 and text[0].isalpha()):
        raise ValueError("must be 1 to 30 lower-case letters and digits, a letter first, for example east")
    return text


def _ipv4_network(text: str) -> str:
    found = ip_network(text, strict=False)
    if found.version != 4 or found.prefixlen > 30:
        raise ValueError("must be an IPv4 network, for example 192.168.1.0/24")
    return str(found)


RegionName = Annotated[str, AfterValidator(_region_name)]
Interface = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$")]


class Wire(Section):
    """A network that the hosts are on."""

    interface: Interface = "eth0"
    """What the hosts call their card there."""
    network: Annotated[Network, AfterValidator(_ipv4_network)] = "192.168.1.0/24"
    """Its addresses."""


class ThirdHost(Section):
    """The machine of a third site. It carries no calls: the smallest will do."""

    name: Name
    """Its name, as that of another host."""
    address: AdvertiseAddress
    """Its address on the third site's network, at which both regions reach it."""


class ThirdSite(Section):
    """A place that shares neither power nor uplink with the two regions. Its vote says which of them is cut off."""

    name: RegionName
    """Its name, as that of a region."""
    network: Wire = Wire(network="192.168.3.0/24")
    """As at the top."""
    host: ThirdHost
    """Its one machine."""


def third_site_contradictions(site: ThirdSite, regions: Sequence["Region"]) -> Iterator[Contradiction]:
    """What the third site must not share with the regions, and how many members the arbiter has in each."""
    yield from label_contradictions("third_site.host", "host", site.host.name)
    if not is_on(site.network, site.host.address):
        what = f"host {site.host.name}: {site.host.address} is no address of network {site.network.network}"
        yield Contradiction(("third_site.host", "third_site"), what)
    for region in regions:
        if region.name == site.name:
            yield Contradiction(("third_site.name", "third_site"), f"{site.name} is the name of a region")
        if any(host.name == site.host.name for host in region.hosts):
            what = f"a host {site.host.name} is in region {region.name} as well"
            yield Contradiction(("third_site.host", "third_site"), what)
        for wire in (region.network, region.cluster_network):
            if wire is not None and ip_network(wire.network).overlaps(ip_network(site.network.network)):
                what = f"{site.network.network} overlaps with {wire.network} of region {region.name}"
                yield Contradiction(("third_site.network", "third_site"), what)
        if (members := len([host for host in region.hosts if "arbiter" in host.roles])) > 1:
            what = f"region {region.name}: {members} hosts have the role arbiter: must be one at most, for each of the "
            yield Contradiction(("regions",), what + "three sites has one vote")


def is_on(wire: Wire, address: str) -> bool:
    """Whether a host may have the address there."""
    network, here = ip_network(wire.network), ip_address(address)
    return here in network and here not in (network.network_address, network.broadcast_address)


def with_prefix(wire: Wire, address: str) -> str:
    """An address as it is added to the card: `192.168.1.10/24`."""
    return str(IPv4Interface(f"{address}/{IPv4Network(wire.network).prefixlen}"))
