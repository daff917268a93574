"""A region as its own files and those of the other need to know it. Pure."""

from collections.abc import Iterator

from msgspec import Struct

from warden.ops.ha.inventory import Balancer, Cluster, Host, regions_of


class Geo(Struct, frozen=True):
    """Which site of `option: geo` something is rendered for."""

    names: tuple[str, ...]
    clusters: tuple[Cluster, ...]
    """Each region as a cluster by itself, the one that is primary at first in front."""
    place: int
    """Which of them it is; behind the last for the third site."""
    third: Cluster | None = None
    """The third site as a cluster by itself, where there is one."""

    @property
    def name(self) -> str:
        """The region's name."""
        return self.names[self.place]

    @property
    def is_third(self) -> bool:
        """The site that has a vote only."""
        return self.place == len(self.clusters)

    @property
    def arbiters(self) -> tuple[Host, ...]:
        """The members of the arbiter: one in each region, and the third site's; none where only operators promote."""
        if self.third is None:
            return ()
        return tuple(host for site in (*self.clusters, self.third) for host in site.hosts_with("arbiter"))

    @property
    def monitors(self) -> tuple[Host, ...]:
        """Who measures the third site, and the arbiter: Prometheus of both regions."""
        return tuple(host for region in self.clusters for host in region.hosts_with("monitor"))

    @property
    def nodes(self) -> tuple[Host, ...]:
        """Who asks the arbiter: Warden's nodes in both regions."""
        return tuple(host for region in self.clusters for host in region.hosts_with("pbx"))

    @property
    def is_first(self) -> bool:
        """Primary when the cluster is made: its database is the one that the other's is copied from."""
        return self.place == 0

    @property
    def other(self) -> Cluster:
        """The other region."""
        return self.clusters[1 - self.place]

    @property
    def other_name(self) -> str:
        """Its name: also that of the slot by which its database follows."""
        return self.names[1 - self.place]


def places(cluster: Cluster) -> Iterator[tuple[Cluster, Geo | None]]:
    """Every region as a cluster by itself; without regions, the cluster and None."""
    clusters = regions_of(cluster)
    names = tuple(region.name for region in cluster.regions)
    for place, one in enumerate(clusters):
        yield one, Geo(names, clusters, place, third_of(cluster)) if names else None


def third_of(cluster: Cluster) -> Cluster | None:
    """The third site as a cluster by itself, of one host with the role `arbiter`; None where there is none."""
    site = cluster.third_site
    if site is None:
        return None
    host = Host(name=site.host.name, address=site.host.address, roles=("arbiter",))
    alone = {"network": site.network, "cluster_network": None, "hosts": (host,), "seats": (), "balancer": Balancer()}
    return cluster.model_copy(update={**alone, "regions": ()})


def third_place(cluster: Cluster) -> tuple[Cluster, Geo] | None:
    """The third site as a cluster by itself; None where there is none."""
    third = third_of(cluster)
    if third is None:
        return None
    names = tuple(region.name for region in cluster.regions)
    return third, Geo(names, regions_of(cluster), len(names), third)
