"""How a seat's address comes to this machine and goes from it, where Warden moves it itself (the `lease` driver).

The order keeps phones from hearing nothing: the address is there before sockets are bound, and the neighbours are told
when the seat can answer.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Final, Protocol

import structlog

from warden.cluster.decide import Seat
from warden.cluster.seats import Seats
from warden.config.tree import HighAvailability
from warden.core.errors import WardenError
from warden.net import netlink

ANNOUNCE_AT_S: Final = (0.0, 0.05, 0.2, 0.5, 1.0, 2.0, 4.0)
"""When neighbours are told, counted from the adoption: a switch may lose one, and a machine that died slowly may have
answered in between.
"""
OUTPUT_MAX: Final = 300
"""Characters of a hook's complaint that go into the log."""

_log = structlog.get_logger()


class Addresses(Protocol):
    """The way by which addresses move."""

    async def add(self, seat: Seat) -> None:
        """Have the address here. Raises `WardenError`."""

    def keep(self, seat: Seat, for_s: float) -> None:
        """It may stay for so long. Raises `WardenError`."""

    def announce(self, seat: Seat) -> None:
        """Tell the neighbours. Raises `WardenError`."""

    async def remove(self, seat: Seat) -> None:
        """Have the address away from here; where it is not, nothing happens. Raises `WardenError`."""


class Netlink:
    """Addresses on an interface of this machine. Each has a lifetime in the kernel, a little longer than its lease, so
    that it goes away also where this process cannot take it away any more.
    """

    def __init__(self, interface: str, prefix: int | None) -> None:
        """Raises `WardenError` where the rights or the interface are not there."""
        if not netlink.may_change():
            raise WardenError(
                "high_availability.manage_address: netlink needs CAP_NET_ADMIN and CAP_NET_RAW, which this process has "
                "not; under systemd set AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW"
            )
        netlink.check_interface(interface)
        self._interface = interface
        self._prefix = prefix
        self._lifetimes: dict[str, int] = {}

    async def add(self, seat: Seat) -> None:
        """As `Addresses.add`."""
        lifetime_s = self._lifetimes.get(seat.name, netlink.LIFETIME_FOR_EVER)
        netlink.put_address(self._interface, seat.address, self._prefix_of(seat), lifetime_s)

    def keep(self, seat: Seat, for_s: float) -> None:
        """As `Addresses.keep`. Whole seconds, of which the first has begun: one more than it takes."""
        self._lifetimes[seat.name] = lifetime_s = ceil(for_s) + 1
        if seat.address in netlink.local_addresses():
            netlink.put_address(self._interface, seat.address, self._prefix_of(seat), lifetime_s)

    def announce(self, seat: Seat) -> None:
        """As `Addresses.announce`."""
        netlink.announce(self._interface, seat.address)

    async def remove(self, seat: Seat) -> None:
        """As `Addresses.remove`."""
        netlink.remove_address(self._interface, seat.address, self._prefix_of(seat))

    def _prefix_of(self, seat: Seat) -> int:
        return self._prefix or (128 if ":" in seat.address else 32)


class Hook:
    """Addresses that a program of the operator's moves."""

    def __init__(self, program: Path, timeout_s: float) -> None:
        self._program = program
        self._timeout_s = timeout_s

    async def add(self, seat: Seat) -> None:
        """As `Addresses.add`."""
        await self._run("add", seat)

    def keep(self, seat: Seat, for_s: float) -> None:
        """As `Addresses.keep`: a hook knows no lifetimes."""

    def announce(self, seat: Seat) -> None:
        """As `Addresses.announce`: that is the hook's work."""

    async def remove(self, seat: Seat) -> None:
        """As `Addresses.remove`."""
        await self._run("remove", seat)

    async def _run(self, what: str, seat: Seat) -> None:
        where = f"address_hook: {self._program} {what} {seat.name} {seat.address}"
        try:
            process = await asyncio.create_subprocess_exec(
                self._program, what, seat.name, seat.address,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
        except OSError as error:
            raise WardenError(f"{where}: {(error.strerror or str(error)).lower()}") from error
        try:
            async with asyncio.timeout(self._timeout_s):
                said, _ = await process.communicate()
        except TimeoutError:
            raise WardenError(f"{where}: did not end within {self._timeout_s:g} s and was killed") from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode != 0:
            words = " ".join(said.decode(errors="replace").split())[:OUTPUT_MAX]
            raise WardenError(f"{where}: ended with status {process.returncode}" + (f": {words}" if words else ""))


def addresses_of(cluster: HighAvailability) -> Addresses | None:
    """What the configuration asks for; None where addresses are there already, or somebody else moves them. Raises
    `WardenError`.
    """
    if cluster.manage_address == "netlink":
        assert cluster.address_interface is not None, "the configuration was checked"
        return Netlink(cluster.address_interface, cluster.address_prefix)
    if cluster.manage_address == "hook":
        assert cluster.address_hook is not None, "the configuration was checked"
        return Hook(cluster.address_hook, cluster.address_hook_timeout)
    return None


class PlacedSeats:
    """The `Host` of an agent whose seats have addresses that move with them, and media with a lease of their own.

    `lease_media(seat, until)` has the media process end what it carries for the seat at that time of the steady clock.
    """

    def __init__(
        self,
        seats: Seats,
        known: Sequence[Seat],
        addresses: Addresses | None,
        lease_media: Callable[[str, float], None],
        now: Callable[[], float],
    ) -> None:
        self._seats = seats
        self._known = {seat.name: seat for seat in known}
        self._addresses = addresses
        self._lease_media = lease_media
        self._now = now
        self._announcing: dict[str, asyncio.Task[None]] = {}

    async def adopt(self, seat: Seat, epoch: int) -> str:
        """As `Host.adopt`."""
        if self._addresses is None:
            return await self._seats.adopt(seat, epoch)
        await self._addresses.add(seat)
        try:
            sentence = await self._seats.adopt(seat, epoch)
        except BaseException:
            await self._remove(seat)
            raise
        self._announcing[seat.name] = asyncio.create_task(self._announce(seat, self._addresses), name="announce")
        return sentence

    def extend(self, seat: str, until: float, *, ahead: bool = False) -> None:
        """As `Host.extend`."""
        self._seats.extend(seat, until, ahead=ahead)
        if len(self._known[seat].successors) > 1:
            # Where nobody else could have the seat, audio goes on while this process is started again.
            self._lease_media(seat, until)
        if self._addresses is not None and until > self._now():
            try:
                self._addresses.keep(self._known[seat], until - self._now())
            except WardenError as error:
                _log.error("address cannot be kept", seat=seat, why=str(error))

    async def hand_over(self, seat: str) -> str:
        """As `Host.hand_over`."""
        return await self._seats.hand_over(seat)

    async def drop(self, seat: str) -> None:
        """As `Host.drop`."""
        if (announcing := self._announcing.pop(seat, None)) is not None:
            announcing.cancel()
        # The address first: a kernel that has it without a socket tells the phones that nobody is there.
        await self._remove(self._known[seat])
        await self._seats.drop(seat)

    def calls_of(self, seats: tuple[str, ...]) -> int:
        """As `Host.calls_of`."""
        return self._seats.calls_of(seats)

    async def remove_leftovers(self) -> None:
        """Take away what a process before this one has left: addresses of seats that are not held here."""
        here = netlink.local_addresses() if self._addresses is not None else ()
        for seat in self._known.values():
            if seat.address in here and seat.name not in self._seats.held:
                _log.warning("address of a seat that is not held here is removed", seat=seat.name, address=seat.address)
                await self._remove(seat)

    async def close(self) -> None:
        """Let go of the addresses of what is still held, since nobody would answer there."""
        for task in self._announcing.values():
            task.cancel()
        for seat in self._known.values():
            if seat.name in self._seats.held:
                await self._remove(seat)

    async def _remove(self, seat: Seat) -> None:
        if self._addresses is None:
            return
        try:
            await self._addresses.remove(seat)
        except WardenError as error:
            _log.error("address cannot be removed", seat=seat.name, why=str(error))

    async def _announce(self, seat: Seat, addresses: Addresses) -> None:
        began = self._now()
        for at_s in ANNOUNCE_AT_S:
            await asyncio.sleep(max(0.0, began + at_s - self._now()))
            try:
                addresses.announce(seat)
            except WardenError as error:
                _log.error("address cannot be announced", seat=seat.name, why=str(error))
                return
