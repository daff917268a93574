"""What a phone changes about its extension by a feature code goes into the durable store, judged as any change is."""

import msgspec
import structlog

from warden.call.model import Cause
from warden.core.errors import Unavailable, WardenError
from warden.store.ports import USER, Durable
from warden.switch.dialplan.change import put
from warden.switch.outcome import Change
from warden.switch.trunks.sealed import Sealer

_log = structlog.get_logger()


async def change_setting(durable: Durable, change: Change, now: float, sealer: Sealer) -> Cause | None:
    """Carry it out; what the caller is refused with where that cannot be."""
    number = change.number
    try:
        old = next((x.body for x in await durable.items() if (x.kind, x.name) == (USER, number)), "{}")
        body = msgspec.json.decode(old) | {change.field: change.to}
        await put(durable, USER, number, msgspec.json.encode(body).decode(), now, sealer)
    except Unavailable as error:
        _log.warning("setting not changed by phone", number=number, field=change.field, why=str(error))
        return Cause(503, "Settings cannot be stored now")
    except WardenError as error:
        _log.warning("setting not changed by phone", number=number, field=change.field, why=str(error))
        return Cause(403, "This setting would make no sense")
    _log.info("setting changed by phone", number=number, field=change.field, to=change.to)
    return None
