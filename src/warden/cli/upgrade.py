"""`warden upgrade`: a new version on all hosts of a cluster, one after the other, while phones call."""

import asyncio
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from warden.cli.settings import Given
from warden.config.load import read
from warden.core.errors import ConfigError, WardenError
from warden.ops.ha.inventory import Cluster
from warden.ops.lab.lab import Lab
from warden.ops.upgrade import Hosts, Places, upgrade

RUN_S = 150.0


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
    over: Annotated[
        str, Parameter(help="How a host is reached; {host} and {address} are put in.")
    ] = "ssh -o BatchMode=yes root@{address}",
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
        document = read(file, settings.environ, Cluster)
        if document.problems:
            raise ConfigError(document.problems)
        hosts = OverHosts(document.config, over)
        prefix = document.config.paths.warden
    began = time.monotonic()

    def say(what: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:6.1f} s  {what}\n")
        sys.stdout.flush()

    changed = await upgrade(hosts, to, Places(prefix, ready), pause, say)
    say(f"{len(changed)} hosts changed to {to}; seats go home by themselves")
    return 0


class OverHosts:
    """Hosts that are reached by a command such as ssh."""

    def __init__(self, cluster: Cluster, over: str) -> None:
        self.names = [host.name for host in cluster.hosts_with("pbx")]
        self._over = {
            host.name: shlex.split(over.format(host=host.name, address=host.address)) for host in cluster.hosts
        }

    async def run(self, host: str, *words: str) -> str:
        """As `Hosts.run`."""
        return await asyncio.to_thread(self._run, host, words)

    def _run(self, host: str, words: Sequence[str]) -> str:
        try:
            done = subprocess.run(  # noqa: S603 - the operator's own command
                [*self._over[host], shlex.join(words)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                check=False, timeout=RUN_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise WardenError(f"{host}: {shlex.join(words)}: not done within {RUN_S:g} s") from None
        if done.returncode:
            raise WardenError(f"{host}: {shlex.join(words)}: {(done.stderr or done.stdout).strip()[-500:]}")
        return done.stdout
