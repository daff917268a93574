"""A node follows the registrations at all seats, and goes by what it knew while the store cannot tell."""

import asyncio
from collections.abc import Callable, Mapping

from warden.cluster.following import Following
from warden.core.address import Address, Flow, Transport
from warden.core.errors import Unavailable
from warden.store.memory import MemoryStore
from warden.store.ports import Changes, Kind, Write
from warden.switch.bans import BANS, SCHEMA, Ban, Bans
from warden.switch.registrar import BINDINGS, Binding, Bound
from warden.switch.roster import Roster

SEATS = {"s1": Address("10.0.0.1", 5060), "s2": Address("10.0.0.2", 5060)}
FLOW = Flow(Transport.UDP, SEATS["s2"], Address("10.0.0.9", 5060))


class Store(MemoryStore):
    """One that may be away, or may have lost its memory."""

    away = forgetful = False
    asked = 0

    async def changes(self, seat: str, kind: Kind, since: str) -> Changes:
        self.asked += 1
        if self.away:
            raise Unavailable("away")
        return Changes("", True, {}) if self.forgetful else await super().changes(seat, kind, since)


def roster_of(seats: Mapping[str, Address]) -> Roster:
    roster = Roster()
    roster.addresses = seats
    return roster


def contacts(roster: Roster, number: str) -> list[tuple[str, str]]:
    return [(seat, binding.contact) for seat, binding in roster.find(0.0, number, but="s1")]


async def registers(store: Store, number: str, contact: str = "", seat: str = "s2") -> None:
    record = BINDINGS.encode(Bound(1, (Binding(contact, 100.0, "call", 1, FLOW),))) if contact else None
    await store.write(seat, 1, [Write(Kind.BINDING, number, record)])


async def comes_true(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.01)  # What others do is only seen by looking.


async def test_what_is_registered_at_another_seat_is_known_and_what_was_known_stays_while_the_store_is_away() -> None:
    store, roster = Store(), roster_of(SEATS)
    for seat in SEATS:
        await store.claim(seat, "n1")
    await registers(store, "1001", "sip:a@a")
    await registers(store, "1001", "sip:own@own", "s1")
    following = Following(store, roster, Bans(), lambda: 0.0)
    await following.catch_up()
    assert contacts(roster, "1001") == [("s2", "sip:a@a")]
    task = asyncio.create_task(following.run())
    try:
        await registers(store, "1002", "sip:b@b")
        await registers(store, "1001")
        await comes_true(lambda: contacts(roster, "1002") == [("s2", "sip:b@b")] and not contacts(roster, "1001"))
        for trouble in ("away", "forgetful"):
            setattr(store, trouble, True)
            await registers(store, "1003", f"sip:{trouble}@c")
            asked = store.asked
            await comes_true(lambda: store.asked > asked + 2)  # noqa: B023
            assert contacts(roster, "1002") == [("s2", "sip:b@b")]
            setattr(store, trouble, False)
            await comes_true(lambda: contacts(roster, "1003") == [("s2", f"sip:{trouble}@c")])  # noqa: B023
        # A seat whose node is gone, and which nobody else may have, cannot be called.
        roster.addresses = {"s1": SEATS["s1"]}
        assert not contacts(roster, "1002")
    finally:
        task.cancel()


async def test_a_store_that_is_being_filled_again_makes_nobody_unknown_and_who_is_gone_is_forgotten_later() -> None:
    store, roster = Store(), roster_of(SEATS)
    for seat in SEATS:
        await store.claim(seat, "n1")
    for number in ("1001", "1002"):
        await registers(store, number, f"sip:{number}@a")
    following = Following(store, roster, Bans(), lambda: 0.0)
    await following.catch_up()
    assert contacts(roster, "1002") == [("s2", "sip:1002@a")]
    # It has lost everything, and its holder has begun to write it again; somebody has gone meanwhile.
    other = Store()
    for seat in SEATS:
        await other.claim(seat, "n1")
    await registers(other, "1003", "sip:1003@a")
    following._store = other
    await following.catch_up()
    assert contacts(roster, "1003") == [("s2", "sip:1003@a")]
    assert contacts(roster, "1001") == [("s2", "sip:1001@a")]
    await registers(other, "1001", "sip:1001@a")
    task = asyncio.create_task(following.run())
    try:
        await comes_true(lambda: not contacts(roster, "1002"))
        assert contacts(roster, "1001") == [("s2", "sip:1001@a")]
        await registers(other, "1001")
        await comes_true(lambda: not contacts(roster, "1001"))
    finally:
        task.cancel()


async def test_a_ban_of_another_seat_is_known_and_what_cannot_be_read_of_bans_is_left_out() -> None:
    store, bans, clock = Store(), Bans(), [0.0]
    await store.claim("s2", "n2")
    ban = Ban(SCHEMA, "10.66.0.1", 0.0, 100.0, 200.0)
    await store.write("s2", 1, [Write(Kind.BAN, "x", b"nonsense"), Write(Kind.BAN, ban.key, BANS.encode(ban))])
    following = Following(store, roster_of(SEATS), bans, lambda: clock[0])
    await following.catch_up()
    assert bans.barred == {"10.66.0.1"}
    await store.write("s2", 1, [Write(Kind.BAN, ban.key, None)])
    clock[0] = 10.0
    await following.catch_up()
    assert bans.barred == set()


async def test_a_node_whose_store_is_away_when_it_starts_knows_nobody_and_starts() -> None:
    store, roster = Store(), roster_of(SEATS)
    store.away = True
    await Following(store, roster, Bans(), lambda: 0.0).catch_up()
    assert contacts(roster, "1001") == []
