"""A new version on all hosts of a cluster, one after the other, while phones call; and back where it is not well.

What a host is told goes through a `Hosts` of whoever calls: over ssh, or into a lab. Both versions must be installed on
every host already (`make install-prod`), side by side; here only what `current` points to changes, and Warden is
restarted, which hands its seats over with their calls. Versions that follow each other read each other's calls.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from warden.core.errors import ConfigError, WardenError

POLL_S: Final = 0.5
NO_SEAT: Final = "holds no seat"
"""What /health says of a node that is well and whose seats are elsewhere."""
NOT_HERE: Final = "region "
"""And how that begins of one whose region is not primary."""
Say = Callable[[str], None]


class Hosts(Protocol):
    """The hosts that run Warden, by name."""

    @property
    def names(self) -> Sequence[str]:
        """In the order of the cluster file."""

    async def run(self, host: str, *words: str) -> str:
        """Run a command there as root; what it prints. Raises `WardenError` where that fails."""


class Health(Struct):
    """What a node says of itself."""

    version: str
    reasons: list[str] = []
    not_stored: list[str] = []
    calls: int = 0
    seats: list[str] = []


class Places(Struct, frozen=True):
    """Where Warden is on a host, and how long it may take until it could take calls."""

    prefix: str = "/opt/PBX"
    ready_s: float = 90.0

    def version(self, version: str) -> str:
        """The folder of a version."""
        return f"{self.prefix}/versions/{version}"

    @property
    def current(self) -> str:
        """The link to the version that is started."""
        return f"{self.prefix}/current"


def refuse_step(before: str, after: str) -> None:
    """Versions must follow each other: N reads what N-1 and N+1 write, and no others. Raises `ConfigError`."""
    old, new = _parsed(before), _parsed(after)
    if old[0] != new[0] or abs(old[1] - new[1]) > 1:
        why = "each version reads the calls of the one before and of the one after; go by those between"
        raise ConfigError((f"--to {after}: from {before} that is more than one step: {why}",))


def _parsed(version: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)\.(\d+)(?:\.[0-9A-Za-z.+-]+)?", version)
    if found is None:
        raise ConfigError((f"{version}: is no version such as 1.4.0",))
    return int(found[1]), int(found[2])


async def upgrade(hosts: Hosts, to: str, places: Places, pause_s: float, say: Say) -> list[str]:
    """Bring every host to version `to`, and return those that changed. Where one is not well with it, all go back to
    what they ran, and it raises `WardenError`. Raises `ConfigError` before anything is touched: a version that is not
    there, or too far away; `WardenError` for a cluster that is not well as it is.
    """
    before = await _look(hosts)
    for health in before.values():
        refuse_step(health.version, to)
    await asyncio.gather(*(_has(hosts, host, to, places) for host in hosts.names))
    # Who carries least goes first: if the version is bad, few calls have moved for it.
    order = sorted(hosts.names, key=lambda host: (len(before[host].seats), before[host].calls))
    changed: list[str] = []
    for host in order:
        if before[host].version == to:
            say(f"{host} runs {to} already")
            continue
        changed.append(host)
        try:
            await _change(hosts, host, to, places, say)
            await asyncio.sleep(pause_s)
            await _look(hosts)
        except WardenError as error:
            say(f"{error}; going back")
            await _back(hosts, changed, {name: health.version for name, health in before.items()}, places, say)
            raise WardenError(f"{host} is not well with {to}: {error}. All hosts run what they ran before") from error
    return changed


async def _change(hosts: Hosts, host: str, to: str, places: Places, say: Say) -> None:
    began = time.monotonic()
    # By a new link in the old one's place: there is no moment without one.
    await hosts.run(host, "ln", "-sfn", f"versions/{to}", f"{places.current}.new")
    await hosts.run(host, "mv", "-T", f"{places.current}.new", places.current)
    await hosts.run(host, "systemctl", "restart", "pbx")
    health = await _ready(hosts, host, to, places.ready_s)
    say(f"{host} runs {health.version} after {time.monotonic() - began:.1f} s")


async def _back(hosts: Hosts, changed: Sequence[str], before: dict[str, str], places: Places, say: Say) -> None:
    """Those that changed, the last first. One that cannot go back is named, and the others go."""
    problems = []
    for host in reversed(changed):
        try:
            await _change(hosts, host, before[host], places, say)
        except WardenError as error:
            problems.append(f"{host} did not go back to {before[host]}: {error}")
    if problems:
        raise WardenError("; ".join(problems))


async def _ready(hosts: Hosts, host: str, version: str, ready_s: float) -> Health:
    """Wait until the node could take calls, and runs that version. Raises `WardenError`."""
    until = time.monotonic() + ready_s
    why = ""
    while time.monotonic() < until:
        try:
            health = await _health(hosts, host)
        except WardenError as error:
            why = str(error)
        else:
            why = _unwell(health)
            if not why and health.version == version:
                return health
            why = why or f"runs {health.version}"
        await asyncio.sleep(POLL_S)
    raise WardenError(f"{host}: not ready after {ready_s:g} s: {why}")


async def _look(hosts: Hosts) -> dict[str, Health]:
    """What all nodes say. Raises `WardenError` where one is not well: a cluster that lacks a node loses calls if
    another one is restarted.
    """
    told = await asyncio.gather(*(_health(hosts, host) for host in hosts.names))
    found = dict(zip(hosts.names, told, strict=True))
    for host, health in found.items():
        if why := _unwell(health):
            raise WardenError(f"{host}: {why}")
    return found


def _unwell(health: Health) -> str:
    reasons = [reason for reason in health.reasons if reason != NO_SEAT and not reason.startswith(NOT_HERE)]
    return ", ".join([*reasons, *(f"not stored: {what}" for what in health.not_stored)])


async def _health(hosts: Hosts, host: str) -> Health:
    # No --fail: one that takes no calls says why.
    said = await hosts.run(host, "curl", "--silent", "--max-time", "5", "http://127.0.0.1:9000/health")
    try:
        return msgspec.json.decode(said, type=Health)
    except msgspec.MsgspecError as error:
        raise WardenError(f"{host}: /health says what is no answer: {said[:100]!r}") from error


async def _has(hosts: Hosts, host: str, version: str, places: Places) -> None:
    try:
        await hosts.run(host, "test", "-x", f"{places.version(version)}/bin/warden")
    except WardenError as error:
        raise ConfigError(
            (f"{host}: {places.version(version)} is not there; run `make install-prod` of that version on it first",)
        ) from error
