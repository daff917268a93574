"""A seat that is adopted at another address."""

from tests.unit.switch.world import World, make_settings

from warden.core.address import Address
from warden.media.protocol import Session

THERE = Address("10.9.9.9", 5060)


def relocate(world: World, for_s: float = 2.0) -> None:
    """Another region adopts the seat, and has another address for it."""
    world.settings = make_settings(THERE)
    world.server = THERE
    world.restart()
    world.run(for_s)


def join(world: World, name: str) -> None:
    """A phone registers at the new address."""
    phone = world.phones[name]
    flow = phone._line.flow
    connection = world.connect(world.addresses[name]) if flow.transport.reliable else 0
    world.do(name, phone.use(world.now, flow._replace(remote=THERE, connection=connection)))
    world.run(2)


def only_session(world: World) -> Session:
    [session] = world.media.values()
    return session
