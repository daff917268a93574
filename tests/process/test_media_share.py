"""Two media processes of one machine, one of which takes over the ports of the other: no packet is lost or doubled."""

from collections.abc import AsyncIterator

import pytest

from warden.media.protocol import Done, Put, Refused, Share

from media_lab import Lab, running_lab


@pytest.fixture
async def labs() -> AsyncIterator[tuple[Lab, Lab]]:
    async with running_lab() as old, running_lab() as heir:
        yield old, heir


async def test_the_heir_has_the_ports_at_once_and_what_had_come_before_is_still_passed_on(
    labs: tuple[Lab, Lab],
) -> None:
    old, heir = labs
    alice, bob = old.phone(), old.phone(ssrc=2)
    session = await old.call(alice, bob)
    a, b = old.ports_of(session)
    assert isinstance(await heir.order(Put(session)), Refused)
    assert await old.order(Share((session.id, "unknown"))) == Done()
    said = alice.talk(a, 3)
    assert await heir.order(Put(session)) == Done()
    said += alice.talk(a, 3)
    assert sorted(await bob.hear(6)) == sorted(said)
    assert bob.talk(b, 3) == await alice.hear(3)
    await old.drop(session.id)
    assert alice.talk(a, 3) == await bob.hear(3)
    assert bob.talk(b, 3) == await alice.hear(3)
    # The heir has them for itself, and may share them in its turn.
    assert isinstance(await old.order(Put(session)), Refused)
    assert await heir.order(Share((session.id,))) == Done()
    assert await old.order(Put(session)) == Done()
    await heir.drop(session.id)
    assert alice.talk(a, 3) == await bob.hear(3)
    await old.drop(session.id)
    assert alice.hears_nothing()
    assert bob.hears_nothing()
