"""What goes wrong around the programs of a lab's host: its address, its disk, its clock; and how it is put right."""

import secrets
import time
from email.utils import parsedate_to_datetime
from typing import Final

from warden.core.errors import WardenError
from warden.ops.lab.faults import HostFault
from warden.ops.lab.hosted import HostedCluster

ANNOUNCED: Final = 2
"""A machine that comes up tells the neighbours of its address so often, a second apart."""
FULL: Final = {"/var/lib/warden": "", "/var/log": "--attributes-only"}
"""Folders, and how their files are copied: what the whole machine has logged so far is not of the host."""
ROOM_KIB: Final = 64
"""What is left on the disk before it is filled to the last byte."""
STEP_S: Final = 3600
SET_S: Final = 5.0
"""The library looks once a second."""
EPOCH: Final = "Thu, 01 Jan 1970 00:00:00 GMT"
CLOCK_FILE: Final = "/run/warden-clock"
NEW_NUMBER: Final = "79999"
"""An extension that is added while the disk is full, so that there is something that cannot be written."""


class AddressTwice(HostFault):
    """Somebody gives another host the address of a seat, which tells the network that it is there: phones go on at the
    wrong machine, and keepalived knows nothing of it.
    """

    gap_ms_max = None

    def __init__(self, cluster: HostedCluster, host: str) -> None:
        inventory = cluster.lab.cluster
        seat = next(seat for seat in inventory.seats if seat.successors[0] == host)
        other = next(name for name in cluster.nodes if name != host)
        super().__init__(cluster, host, f"address of {seat.name} also at {other}, taken from")
        self._address = seat.address
        self._interface = inventory.network.interface
        self._other = cluster.lab.hosts[other]

    async def strike(self) -> None:
        """As `Fault.strike`."""
        await self._other.run("ip", "address", "add", f"{self._address}/32", "dev", self._interface)
        await self._other.run("arping", "-U", "-c", str(ANNOUNCED), "-I", self._interface, self._address)

    async def mend(self) -> None:
        """As `Fault.mend`: nobody tells the network that it is gone."""
        await self._other.run("ip", "address", "del", f"{self._address}/32", "dev", self._interface)
        await self.settled()


class DiskFull(HostFault):
    """The folders that Warden and its neighbours write to have not one byte left. What a program has open it keeps, as
    a file that was deleted; whatever is opened or made finds the disk full.
    """

    def __init__(self, cluster: HostedCluster, host: str) -> None:
        super().__init__(cluster, host, f"{' and '.join(FULL)} full at")

    async def strike(self) -> None:
        """As `Fault.strike`."""
        for folder, how in FULL.items():
            await self.host.run("sh", "-c", _FILL.format(folder=folder, how=how, room=ROOM_KIB))
        await self.cluster.nodes[self.host.name].ask(
            "POST", "extensions", {"number": NEW_NUMBER, "password": secrets.token_urlsafe(18)}
        )

    async def mend(self) -> None:
        """As `Fault.mend`: there is room again."""
        await self.host.run("rm", *(f"{folder}/zeroes" for folder in FULL))
        await self.settled()


class ClockStep(HostFault):
    """The clock of a host jumps forward, and back: the wall clock of its signalling process, that is, for all hosts of
    a lab have one kernel. What measures how long something takes goes on as it went. The media process, which it starts
    without its own environment, looks at no wall clock.
    """

    def __init__(self, cluster: HostedCluster, host: str) -> None:
        super().__init__(cluster, host, f"clock {STEP_S / 3600:+g} h at")

    async def prepare(self) -> None:
        """Start the node anew with a clock that can be set, and have its seats at home. Raises `WardenError`."""
        await self.host.run("sh", "-c", _CLOCK.format(place=CLOCK_FILE))
        await self.host.systemctl("stop", "pbx")
        await self.cluster.nodes[self.host.name].start()
        await self.cluster.lab.home()

    async def strike(self) -> None:
        """As `Fault.strike`."""
        await self._set(STEP_S)

    async def mend(self) -> None:
        """As `Fault.mend`."""
        await self._set(0)
        await self.settled()

    async def _set(self, seconds: int) -> None:
        await self.host.run("sh", "-c", f"echo {seconds:+d} >{CLOCK_FILE}")

        async def look() -> None:
            # By the date of an answer, which the process that is drilled writes there.
            said = await self.host.run("curl", "--silent", "--head", "--max-time", "2", "http://127.0.0.1:9000/live")
            date = next((line for line in said.splitlines() if line.lower().startswith("date:")), "")
            shows = parsedate_to_datetime(date.partition(":")[2].strip() or EPOCH).timestamp()
            if abs(shows - time.time() - seconds) > SET_S:
                raise WardenError(f"its clock shows {date or 'nothing'}")

        await self.cluster.lab.until(look, f"the clock of Warden on {self.host.name} is set", 2 * SET_S)


_CLOCK: Final = """\
set -e
echo +0 >{place}
library=$(ls /usr/lib/*/faketime/libfaketimeMT.so.1)
cat >/usr/local/sbin/warden-by-another-clock <<END
#!/bin/sh
export LD_PRELOAD=$library FAKETIME_TIMESTAMP_FILE={place}
export FAKETIME_CACHE_DURATION=1 FAKETIME_DONT_FAKE_MONOTONIC=1
exec /opt/PBX/current/bin/warden "\\$@"
END
chmod 755 /usr/local/sbin/warden-by-another-clock
sed -i 's|^ExecStart=[^ ]*|ExecStart=/usr/local/sbin/warden-by-another-clock|' /etc/systemd/system/pbx.service
"""
_FILL: Final = """\
set -e
kept=$(mktemp -d /run/full.XXXXXX)
cp -a {how} {folder}/. "$kept"
mount -t tmpfs -o "size=$(($(du -sk "$kept" | cut -f 1) + {room}))k,mode=$(stat -c %a "$kept")" full {folder}
cp -a "$kept/." {folder}
rm -r "$kept"
! cat /dev/zero >{folder}/zeroes 2>/dev/null
"""
