"""The names of hosts and seats: each is there once, and each is one in DNS too."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from warden.config.contradictions import Contradiction

if TYPE_CHECKING:
    from warden.ops.ha.inventory import Cluster

BALANCER: Final = "pbx"
"""HAProxy's name in DNS, where it has an address; in a region it is below the region's."""
_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
"""Of a host's name (RFC 1123 section 2.1). BIND refuses a zone with any other one that has an address."""


def name_contradictions(cluster: "Cluster") -> Iterator[Contradiction]:
    """Of a cluster in one place, or of one region. The zone is rendered wherever it is served, so that it must be
    possible always; DNS does not tell capitals from small letters.
    """
    hosts, seats = [host.name for host in cluster.hosts], [seat.name for seat in cluster.seats]
    moving = [*seats, *(["balancer"] if cluster.balancer.address else [])]
    for key, names in (("hosts", hosts), ("seats", moving)):
        for name in repeated(names):
            yield Contradiction((key,), f"the name {name} is there twice")
    for key, what, names in (("hosts", "host", hosts), ("seats", "seat", seats)):
        for name in names:
            yield from label_contradictions(key, what, name)
            if name.lower() == BALANCER and cluster.balancer.address is not None:
                yield Contradiction((key,), f"{what} {name}: {BALANCER} is the balancer's name in DNS")
    known = {name.lower() for name in hosts}
    for name in seats:
        if name.lower() in known:
            yield Contradiction(("seats",), f"seat {name} has the name of a host: in DNS it would have both addresses")


def label_contradictions(key: str, what: str, name: str) -> Iterator[Contradiction]:
    """Of a name that has to be one in DNS."""
    if _LABEL.fullmatch(name) is None:
        why = "must be letters, digits and hyphens, none at its ends: it is a name in DNS"
        yield Contradiction((key,), f"{what} {name}: {why}")


def repeated(names: Sequence[str]) -> list[str]:
    """Those that are there more than once, whether in capitals or not: as in DNS, and each as it is written first."""
    times = Counter(name.lower() for name in names)
    first = {name.lower(): name for name in reversed(names)}
    return sorted(first[name] for name, count in times.items() if count > 1)
