"""The hosts of a `cluster.yml`, reached by a command such as ssh."""

import asyncio
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from warden.cli.settings import Settings
from warden.config.load import read
from warden.core.errors import ConfigError, WardenError
from warden.ops.ha.inventory import Cluster, regions_of

RUN_S: Final = 150.0
SSH: Final = "ssh -o BatchMode=yes root@{address}"
OVER: Final = "How a host is reached; {host} and {address} are put in."


def inventory(file: Path, settings: Settings) -> Cluster:
    """What a cluster file says. Raises `ConfigError`."""
    document = read(file, settings.environ, Cluster)
    if document.problems:
        raise ConfigError(document.problems)
    return document.config


class OverHosts:
    """As `Hosts`: `names` are those that run Warden; others can be told something too."""

    def __init__(self, cluster: Cluster, over: str) -> None:
        self.names = [host.name for host in cluster.hosts_with("pbx")]
        self._over = {
            host.name: shlex.split(over.format(host=host.name, address=host.address))
            for region in regions_of(cluster)
            for host in region.hosts
        }

    async def run(self, host: str, *words: str) -> str:
        """As `Hosts.run`."""
        return await asyncio.to_thread(self._run, host, words)

    def _run(self, host: str, words: Sequence[str]) -> str:
        try:
            # In a session of its own: Ctrl-C is for us, and not for a command that is half done.
            done = subprocess.run(  # noqa: S603 - the operator's own command
                [*self._over[host], shlex.join(words)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                check=False, timeout=RUN_S, start_new_session=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise WardenError(f"{host}: {shlex.join(words)}: not done within {RUN_S:g} s") from None
        except OSError as error:
            raise WardenError(f"{host}: {self._over[host][0]}: {(error.strerror or str(error)).lower()}") from error
        if done.returncode:
            raise WardenError(f"{host}: {shlex.join(words)}: {(done.stderr or done.stdout).strip()[-500:]}")
        return done.stdout
