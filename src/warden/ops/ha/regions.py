"""A region as its own files and those of the other need to know it. Pure."""

from collections.abc import Iterator

from msgspec import Struct

from warden.ops.ha.inventory import Cluster, regions_of


class Geo(Struct, frozen=True):
    """Which region of `option: geo` something is rendered for."""

    names: tuple[str, ...]
    clusters: tuple[Cluster, ...]
    """Each region as a cluster by itself, the one that is primary at first in front."""
    place: int
    """Which of them it is."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.names[self.place]

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
        yield one, Geo(names, clusters, place) if names else None
