"""`warden upgrade`: a new version on all hosts of a cluster, one after the other, while phones call."""

import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from warden.cli.over import OVER, SSH, OverHosts, inventory
from warden.cli.settings import Given
from warden.core.errors import ConfigError
from warden.ops.lab.lab import Lab
from warden.ops.upgrade import Hosts, Places, upgrade


async def upgrade_cluster(
    file: Path | None = None,
    /,
    *,
    to: Annotated[str, Parameter(help="The version, which `make install-prod` has brought to every host.")],
    pause: Annotated[
        float,
        Parameter(
            help="Seconds that all must be well after a host before the next.",
            validator=validators.Number(gte=0, lte=3600),
        ),
    ] = 30.0,
    ready: Annotated[
        float,
        Parameter(help="Seconds that a node may take to be well again.", validator=validators.Number(gt=0, lte=3600)),
    ] = 90.0,
    over: Annotated[str, Parameter(help=OVER)] = SSH,
    lab: Annotated[Path | None, Parameter(help="The lab in this folder, in the place of hosts.")] = None,
    settings: Given,
) -> int:
    """Restart every node of the cluster in FILE with another version, one after the other; their calls go on meanwhile.

    Where a node is not well with it, all go back to what they ran. Exit code 1: nothing has changed in the end.
    """
    if (file is None) == (lab is None):
        raise ConfigError(("warden upgrade: name a cluster file, or a lab with --lab",))
    if lab is not None:
        found = Lab.find(lab)
        hosts: Hosts = found
        prefix = found.cluster.paths.warden
    else:
        assert file is not None, "one of the two is there"
        cluster = inventory(file, settings)
        hosts = OverHosts(cluster, over)
        prefix = cluster.paths.warden
    began = time.monotonic()

    def say(what: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:6.1f} s  {what}\n")
        sys.stdout.flush()

    changed = await upgrade(hosts, to, Places(prefix, ready), pause, say)
    say(f"{len(changed)} hosts changed to {to}; seats go home by themselves")
    return 0
