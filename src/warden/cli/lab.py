"""`warden lab`: a whole cluster on this machine, every host in namespaces of its own, with the real programs."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from warden.core.errors import WardenError
from warden.ops.ha.inventory import Option
from warden.ops.lab.host import Host, State
from warden.ops.lab.hosted import small
from warden.ops.lab.lab import FOLDER, Lab

app = App(name="lab", help="A whole cluster on this machine, every host in namespaces of its own (needs root).")

Folder = Annotated[Path, Parameter(help="Where the hosts' disks and logs are.")]
AsJson = Annotated[bool, Parameter("--json", negative="", help="Print JSON.")]


@app.command
async def up(
    *,
    option: Option = "active-active",
    cluster: Annotated[Path | None, Parameter(help="Your own cluster file, in the place of the option's.")] = None,
    folder: Folder = FOLDER,
) -> None:
    """Wire the hosts, install their rendered files as an operator would, and wait until the cluster takes calls."""
    text = small(option) if cluster is None else cluster.read_text(encoding="utf-8")
    lab = Lab.make(folder, text)
    began = time.monotonic()

    def say(what: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:6.1f} s  {what}\n")
        sys.stdout.flush()

    try:
        await lab.up(say)
    except BaseException:
        sys.stderr.write(f"what came up is left for you to look at; `warden lab down --folder {folder}` removes it\n")
        raise
    sys.stdout.write(f"phones: ip netns exec {lab.phones} COMMAND (address {lab.phones_address})\n")


@app.command
async def status(*, folder: Folder = FOLDER, as_json: AsJson = False) -> int:
    """Show every host with its addresses and what runs on it. Exit code 1 where something does not."""
    lab = Lab.find(folder)
    told = [await _told(host) for host in lab.hosts.values()]
    ok = all(host.units and all(unit.state == "active" for unit in host.units) for host in told)
    if as_json:
        sys.stdout.write(msgspec.json.encode({"ok": ok, "hosts": told}).decode() + "\n")
        return 0 if ok else 1
    moving = {address: name for region in lab.regions.values() for name, address in region.moving.items()}
    table = Table("host", "addresses", "runs")
    for host in told:
        addresses = [f"{moving[address]} {address}" if address in moving else address for address in host.addresses]
        units = [unit.unit if unit.state == "active" else f"{unit.unit} ({unit.state})" for unit in host.units]
        table.add_row(host.host, "\n".join(addresses), ", ".join(units) or "switched off")
    Console(highlight=False).print(table)
    return 0 if ok else 1


class Told(Struct, frozen=True):
    """A host as it is now; one that is switched off runs nothing."""

    host: str
    addresses: list[str]
    units: list[State]


async def _told(host: Host) -> Told:
    try:
        units = await host.units()
    except WardenError:
        units = []
    return Told(host.name, host.addresses(), units)


@app.command(name="exec")
def execute(
    host: str,
    /,
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    folder: Folder = FOLDER,
) -> int:
    """Run COMMAND on HOST: `warden lab exec pbx1 -- patronictl -c /etc/patroni/config.yml list`."""
    lab = Lab.find(folder)
    if host not in lab.hosts:
        raise WardenError(f"{host}: there is no such host, but {', '.join(lab.hosts)}")
    words = lab.hosts[host].command(*(command or ("/bin/sh",)))
    return subprocess.run(words, check=False).returncode  # noqa: S603 - what the operator typed


@app.command
def down(*, folder: Folder = FOLDER) -> None:
    """End everything, and remove every trace of it."""
    Lab.find(folder).down()
