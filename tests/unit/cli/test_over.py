"""The hosts of a cluster file, reached by the operator's own command."""

import pytest

from warden.cli.over import OverHosts
from warden.config.load import parse
from warden.core.errors import WardenError
from warden.ops.ha.inventory import Cluster
from warden.ops.ha.starter import starter


def geo() -> Cluster:
    document = parse(starter("geo").encode(), {}, Cluster, name="cluster.yml")
    assert not document.problems
    return document.config


async def test_every_host_of_every_region_is_told_its_words_as_one_command_of_a_shell() -> None:
    hosts = OverHosts(geo(), "echo {host} {address}:")
    assert hosts.names == ["east1", "east2", "west1", "west2"]
    assert await hosts.run("west2", "systemctl", "is-active", "pbx") == (
        "west2 192.168.2.11: systemctl is-active pbx\n"
    )  # fmt: skip
    assert await hosts.run("east-witness", "sh", "-c", "true; false") == (
        "east-witness 192.168.1.12: sh -c 'true; false'\n"
    )


async def test_a_host_that_refuses_and_a_command_that_is_not_there_are_named() -> None:
    with pytest.raises(WardenError, match=r"east1: kill -0 nobody: .*nobody"):
        await OverHosts(geo(), "sh -c").run("east1", "kill", "-0", "nobody")
    with pytest.raises(WardenError, match="east1: no-such-program: no such file"):
        await OverHosts(geo(), "no-such-program").run("east1", "true")
