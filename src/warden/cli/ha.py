"""`warden ha`: the files of a whole cluster from one, and what has to do with addresses that move between nodes."""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter, validators
from rich.console import Console
from rich.table import Table

from warden.cli import may_hold
from warden.cli.settings import Given
from warden.config.load import read
from warden.core.errors import ConfigError
from warden.ops.ha import sizing
from warden.ops.ha.findings import Finding
from warden.ops.ha.folder import differences, write
from warden.ops.ha.inventory import REGIONS, Cluster, Option
from warden.ops.ha.render import hosts_in, render, unit
from warden.ops.ha.secret_values import secrets_of
from warden.ops.ha.shared import shared_files
from warden.ops.ha.starter import starter
from warden.ops.ha.verify import verify as find

app = App(name="ha")

Users = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=10_000))]
AsJson = Annotated[bool, Parameter("--json", negative="", help="Print JSON.")]


@app.command
def init(*, option: Option = "active-active", users: Users | None = None) -> None:
    """Print a cluster file to begin with: `warden ha init --option active-passive > cluster.yml`."""
    sys.stdout.write(starter(option, users or 0))


@app.command
def plan(
    *,
    users: Users,
    option: Annotated[Option | None, Parameter(help="Not given: as the guide's table has it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a number of users needs: the deployment guide's table, and what Warden was measured to need of it.

    With --option geo it is what each of the two regions needs, and the cost of all sites.
    """
    size, need = sizing.size_for(users, option), sizing.need_of(users)
    option = option or sizing.option_for(size)
    once, yearly = sizing.cost_of(size, option)
    worth = sizing.OPTIONS[option]
    regions = REGIONS if option == "geo" else 1
    if as_json:
        told = {
            "option": option, "guide": worth, "regions": regions, "size": size, "measured": need,
            "usd_once": once, "usd_per_year": yearly,
        }  # fmt: skip
        sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
        return
    table = Table("", "the guide's sizing", f"measured need of {users} users")
    for what, guide, measured in (
        ("option", option, ""),
        ("for", worth.users, ""),
        ("uptime, complexity", f"{worth.uptime}, {worth.complexity}", ""),
        ("regions", str(regions), "each takes the other's place" if regions > 1 else ""),
        *([("third site", "1 small host", "its vote says which region is cut off")] if regions > 1 else []),
        ("calls at a time", str(size.calls), str(need.calls)),
        ("nodes", f"{size.nodes} in each region" if regions > 1 else str(size.nodes), "2 bear the loss of one"),
        ("cores per node", str(size.cores), f"{need.cores:.2f} busy on a node that carries all"),
        ("memory per node", f"{size.memory_gb} GB", f"{need.memory_mb} MB for Warden itself"),
        ("network", "", f"{need.mbit_s:.1f} Mbit/s of audio each way"),
        ("database", size.database, ""),
        ("Redis", size.redis, ""),
        (
            "cost",
            f"${once:,} once, ${yearly:,} a year",
            "by the guide's prices, of all three sites" if regions > 1 else "by the guide's prices",
        ),
    ):
        table.add_row(what, guide, measured)
    console = Console(highlight=False)
    console.print(table)
    if users > size.users:
        console.print(f"The guide's table ends at {size.users} users; more are more nodes of the same size.")
    console.print(f"To begin with: warden ha init --option {option} --users {users} > cluster.yml")


@app.command(name="render")
def render_files(
    file: Path,
    /,
    *,
    out: Annotated[Path, Parameter(help="The folder for the files: one folder for each host in it.")],
    diff: Annotated[bool, Parameter(negative="", help="Only show what would change, passwords hidden.")] = False,
    settings: Given,
) -> int:
    """Write the files of every host of the cluster in FILE, as they belong on that host's disk.

    Passwords are made once and kept beside FILE, in a file that ends in `.secrets.json`. Exit code 1 with --diff:
    something would change.
    """
    cluster = _cluster(file, settings)
    secrets = secrets_of(file.with_suffix(".secrets.json"))
    made = render(cluster, secrets, shared_files())
    if diff:
        lines = list(differences(made, out, secrets))
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        return 1 if lines else 0
    changed = write(made, out)
    for path in changed:
        sys.stdout.write(f"{out / path}\n")
    count = sum(len(files) for files in made.values())
    sys.stdout.write(f"{len(hosts_in(made))} hosts, {count} files, {len(changed)} changed\n")
    return 0


@app.command
def verify(out: Path, /, *, as_json: AsJson = False) -> int:
    """Have the files under OUT looked at by the programs that will read them, and compared with each other.

    Programs that are not on this machine are named, and their files not looked at. Exit code 1: something is wrong.
    """
    found = find(out)
    if as_json:
        sys.stdout.write(
            msgspec.json.encode({"ok": not found.findings, **msgspec.structs.asdict(found)}).decode() + "\n"
        )
    else:
        for finding in found.findings:
            sys.stdout.write(_line(finding) + "\n")
        for program, package in found.missing.items():
            sys.stdout.write(f"not looked at by {program}: it is not on this machine (Debian: {package})\n")
        sys.stdout.write(f"{found.files} files, {found.checks} checks, {len(found.findings)} findings\n")
    return 1 if found.findings else 0


@app.command(name="unit")
def print_unit(
    *,
    program: Annotated[str, Parameter(help="The `warden` command.")] = "/opt/PBX/current/bin/warden",
    data: Annotated[str, Parameter(help="The folder for its files.")] = "/var/lib/warden",
) -> None:
    """Print the systemd unit of a node."""
    sys.stdout.write(unit(program, data))


@app.command(name="may-hold")
def ask(
    seat: str,
    /,
    *,
    http: Annotated[str, Parameter(help="Where the node's HTTP server is, as HOST:PORT.")] = may_hold.DEFAULT,
) -> int:
    """Ask the node on this machine whether the address of SEAT may be here: keepalived's track script."""
    return may_hold.main([seat, "--http", http])


def _cluster(file: Path, settings: Given) -> Cluster:
    document = read(file, settings.environ, Cluster)
    if document.problems:
        raise ConfigError(document.problems)
    return document.config


def _line(finding: Finding) -> str:
    where = finding.file + (f":{finding.line}" if finding.line else "")
    return f"{where}: {finding.what}" + (f"; {finding.cure}" if finding.cure else "")
