"""Changes of the dialplan, judged by what they make of the whole before they are stored."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from msgspec.structs import replace

from warden.core.errors import Unavailable, WardenError
from warden.store.ports import Durable, Item
from warden.switch.dialplan.check import Fault, check
from warden.switch.dialplan.codes import CODES
from warden.switch.dialplan.items import ITEMS_MAX, body_of, read_item
from warden.switch.dialplan.plan import plan_of
from warden.switch.directory import FEATURE_CODES, Directory, directory_of
from warden.switch.trunks.sealed import KEPT, Sealer, is_sealed
from warden.switch.trunks.trunk import Trunk

TRIES: Final = 5
"""How often a change is judged again because another came between: more administrators do not work at once."""


class Conflict(WardenError):
    """The change would make calls go nowhere, or round and round. `faults` are the sentences why."""

    def __init__(self, where: str, faults: Sequence[str]) -> None:
        super().__init__(f"{where}: is not changed: " + "; ".join(faults))
        self.faults = faults


def faults_of(directory: Directory) -> list[Fault]:
    """What is wrong with a directory's dialplan."""
    return check(directory.plan, directory.extensions, FEATURE_CODES.keys() | CODES)


async def read_directory(durable: Durable) -> Directory:
    """The directory as it is stored at this moment."""
    revision = await durable.revision()
    return directory_of(await durable.extensions(), revision, await durable.items())


async def put(durable: Durable, kind: str, name: str, body: str, now: float, sealer: Sealer) -> tuple[Item, list[str]]:
    """Make or change an item. Gives it as it is stored, and what is to be known of it. Raises `WardenError` for one
    that makes no sense by itself, `Conflict` for one that makes none with the others. A trunk's password is stored as
    `sealer` makes it.
    """
    read = read_item(kind, name, body)
    if isinstance(read, Trunk) and read.password:
        read = replace(read, password=await _sealed(durable, name, read.password, sealer))
    given = Item(kind, name, body_of(read), now, now)

    def changed(items: Sequence[Item]) -> list[Item]:
        if len(items) >= ITEMS_MAX:
            raise Conflict(f"{kind} {name}", [f"there are {ITEMS_MAX} items, more are not taken"])
        return [*(item for item in items if (item.kind, item.name) != (kind, name)), given]

    async def store(directory: Directory) -> bool:
        return await durable.put_item(given, directory.revision)

    before, told = await _change(durable, f"{kind} {name}", changed, store)
    old = next((item for item in before.items if (item.kind, item.name) == (kind, name)), given)
    return replace(given, created_at_utc=old.created_at_utc), told


async def _sealed(durable: Durable, name: str, password: str, sealer: Sealer) -> str:
    if password != KEPT:
        return password if is_sealed(password) else sealer(password)
    old = (await read_directory(durable)).plan.trunks.get(name)
    if old is None or not old.password:
        raise WardenError(f"trunk {name}: there is no password that could stay as it is")
    return old.password


async def remove(durable: Durable, kind: str, name: str) -> bool:
    """Remove an item; False where there is none. Raises `Conflict` where others lead to it."""
    there = True

    def changed(items: Sequence[Item]) -> list[Item]:
        return [item for item in items if (item.kind, item.name) != (kind, name)]

    async def store(directory: Directory) -> bool:
        nonlocal there
        done = await durable.remove_item(kind, name, directory.revision)
        there = done is not None
        return done is not False

    await _change(durable, f"{kind} {name}", changed, store)
    return there


async def _change(
    durable: Durable,
    where: str,
    changed: Callable[[Sequence[Item]], list[Item]],
    store: Callable[[Directory], Awaitable[bool]],
) -> tuple[Directory, list[str]]:
    """The directory as it was before, and the faults that came by the change and are not grave. What was wrong before
    is no reason to refuse a change.
    """
    for _ in range(TRIES):
        before = await read_directory(durable)
        after = replace(before, plan=plan_of(changed(before.items)))
        known = set(faults_of(before))
        new = [fault for fault in faults_of(after) if fault not in known]
        if grave := [fault.text for fault in new if fault.grave]:
            raise Conflict(where, grave)
        if await store(before):
            return before, [fault.text for fault in new]
    raise Unavailable(f"{where}: is not changed: the dialplan was changed by others all the time; try again")
