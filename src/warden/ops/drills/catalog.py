"""Every drill by its name."""

from typing import Final

from warden.ops.drills.hosted import drills
from warden.ops.drills.kill import KEEPALIVED, KILL, RINGING, keepalived, kill, ringing
from warden.ops.drills.planned import (
    BLUE_GREEN,
    HANDOVER,
    RESTART,
    RESTART_KEEPALIVED,
    blue_green,
    handover,
    restart,
    restart_keepalived,
)
from warden.ops.drills.reconnect import RECONNECT, reconnect
from warden.ops.drills.region_cut import CUT, region_cut
from warden.ops.drills.region_loss import AUTOMATIC, LOSS, region_loss, region_loss_automatic
from warden.ops.drills.region_switch import SWITCH, region_switch
from warden.ops.drills.registrations import REGISTRATIONS, registrations
from warden.ops.drills.split import FREEZE, PARTITION, freeze, partition
from warden.ops.drills.stage import Drill, Run
from warden.ops.drills.stores import STORES, stores

CATALOG: Final[dict[str, tuple[Drill, Run]]] = {
    drill.name: (drill, run)
    for drill, run in (
        (KILL, kill),
        (RINGING, ringing),
        (HANDOVER, handover),
        (BLUE_GREEN, blue_green),
        (RESTART, restart),
        (REGISTRATIONS, registrations),
        (RECONNECT, reconnect),
        (STORES, stores),
        (KEEPALIVED, keepalived),
        (RESTART_KEEPALIVED, restart_keepalived),
        (FREEZE, freeze),
        (PARTITION, partition),
        *drills(),
        (LOSS, region_loss),
        (SWITCH, region_switch),
        (AUTOMATIC, region_loss_automatic),
        (CUT, region_cut),
    )
}
