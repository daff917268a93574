"""Who tries passwords, looks for extensions or scans is shut out; nobody else is."""

from ipaddress import ip_network

import pytest
from msgspec.structs import replace
from tests.unit.switch.world import Peer, World, make_settings

from warden.core.errors import WardenError
from warden.net.limits import limit_key
from warden.store.ports import Kind
from warden.switch.bans import BANS, SCHEMA, Ban, Bans, address_of, read_ban
from warden.switch.guard import BANS_MAX, Guard, Offence
from warden.switch.settings import BanRules

FEW = BanRules(failures=6, window_s=60.0, durations_s=(100.0, 1000.0))
THIEF = "10.66.0.1"


def guarded(*numbers: str) -> World:
    return World(*numbers, settings=replace(make_settings(), bans=FEW))


def guesses(peer: Peer, number: str = "1002", *, times: int = 1) -> int:
    """Wrong passwords, each with the answer to a challenge of now; how many got an answer."""
    if not peer.challenges:
        peer.say(peer.request("REGISTER", number))
        peer.learn()
    before = len(peer.heard)
    for _ in range(times):
        peer.say(peer.with_credentials(peer.request("REGISTER", number), number, word="guess"))
    return len(peer.heard) - before


def is_heard(world: World, host: str) -> bool:
    peer = world.peer(host, 5099)
    before = len(peer.heard)
    peer.say(peer.request("OPTIONS"))
    return len(peer.heard) > before


def test_wrong_passwords_are_answered_seldom_then_not_at_all_and_the_ban_ends() -> None:
    world = guarded()
    peer = world.peer(THIEF)
    # Those up to the half of six, which fades a little meanwhile, and then one a second.
    assert guesses(peer, times=10) == 5
    assert is_heard(world, THIEF)
    for _ in range(8):
        world.run(1)
        guesses(peer)
    assert not is_heard(world, THIEF)
    assert is_heard(world, "10.66.0.2")
    (ban,) = world.bans.listed(world.now)
    assert (ban.address, ban.number, ban.why, ban.by) == (THIEF, "", "failed authentication", "node1")
    world.run(100)
    assert is_heard(world, THIEF)
    assert world.bans.listed(world.now) == []


def test_the_next_ban_is_longer_until_a_day_has_passed() -> None:
    world = guarded()

    def next_ban_s() -> float:
        world.switch.guard.offended(world.now, THIEF, Offence.SCANNER)
        (ban,) = world.bans.listed(world.now)
        return ban.until - ban.made_at

    lengths = []
    for pause_s in (101, 1001, 1001 + 86_400, 101):
        lengths.append(round(next_ban_s()))
        world.run(pause_s)
    assert lengths == [100, 1000, 1000, 100]
    world.run(86_500)
    assert world.records[Kind.BAN] == {}
    assert len(world.switch.guard) == 0


@pytest.mark.parametrize("method", ["OPTIONS", "REGISTER", "INVITE"])
def test_a_scanner_gets_no_answer_and_is_shut_out_at_once(method: str) -> None:
    world = guarded()
    peer = world.peer(THIEF)
    peer.say(peer.request(method, "100", ("User-Agent", "friendly-scanner"), to="100"))
    assert peer.heard == []
    assert not is_heard(world, THIEF)
    world.is_clean(cdrs=0)


def test_a_phone_that_proves_who_it_is_may_call_itself_what_it_likes() -> None:
    world = guarded()
    peer = world.peer("10.0.0.77")
    assert peer.ask("REGISTER", "1002") == 200
    peer.say(peer.with_credentials(peer.request("REGISTER", "1002", ("User-Agent", "sipcli/v1.8")), "1002"))
    assert peer.last().status == 200
    assert world.bans.listed(world.now) == []


def test_a_sweep_over_extensions_that_there_are_not_is_shut_out_and_one_that_asks_for_those_there_are_learns_nothing(
) -> None:  # fmt: skip
    world = guarded()
    sweeper, other = world.peer(THIEF), world.peer("10.66.0.2")
    for n in range(12):
        sweeper.say(sweeper.request("INVITE", f"9{n}", to="0044900123"))
        other.say(other.request("REGISTER", "1001"))
        world.run(1)
    assert not is_heard(world, THIEF)
    assert is_heard(world, "10.66.0.2")
    assert {m.status for m in sweeper.heard + other.heard if hasattr(m, "status")} == {401}


def test_silence_does_not_tell_which_extensions_there_are() -> None:
    world = guarded()
    peer = world.peer(THIEF)
    for n in range(4):
        peer.say(peer.request("REGISTER", f"9{n}"))
    heard = []
    for number in ("1001", "9999", "1002", "9998"):
        before = len(peer.heard)
        peer.say(peer.request("REGISTER", number))
        heard.append(len(peer.heard) - before)
    assert heard == [1, 0, 0, 0]


@pytest.mark.parametrize("rubbish", [b"OPTIONS sip:x SIP/2.0\r\nVia: nonsense\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"])
def test_a_flood_of_what_is_no_sip_is_shut_out(rubbish: bytes) -> None:
    world = guarded()
    peer = world.peer(THIEF)
    for _ in range(200):
        peer.say(rubbish)
        world.run(0.5)
    assert not is_heard(world, THIEF)


def test_a_phone_with_a_wrong_password_in_an_office_of_many_silences_only_its_own_number() -> None:
    world = guarded("1001", "1002", "1003")
    office = world.peer("10.50.0.1", 5071)
    assert office.ask("REGISTER", "1001") == 200
    wrong = world.peer("10.50.0.1", 5072)
    for _ in range(20):
        guesses(wrong, "1002")
        world.run(1)
    (ban,) = world.bans.listed(world.now)
    assert (ban.address, ban.number) == ("10.50.0.1", "1002")
    assert world.bans.barred == set()
    right = world.peer("10.50.0.1", 5073)
    right.say(right.request("REGISTER", "1002", ("Call-ID", "right")))
    assert right.heard == []
    assert office.ask("REGISTER", "1001") == 200
    assert world.peer("10.50.0.1", 5074).ask("REGISTER", "1003", ("Call-ID", "third")) == 200
    # From anywhere else that number is served.
    assert world.peer("10.60.0.1").ask("REGISTER", "1002") == 200
    world.run(100)
    assert right.ask("REGISTER", "1002", ("Call-ID", "again")) == 200


def test_the_address_of_a_call_is_not_shut_out_when_its_registration_has_ended() -> None:
    world = guarded()
    caller, _ = world.up()
    host = world.addresses["1001"].host
    world.register("1001", 0)
    world.switch.guard.offended(world.now, host, Offence.SCANNER)
    world.run(2)
    assert world.bans.barred == set()
    world.hang_up("1001", caller)
    world.is_clean()


def test_who_is_spared_is_never_banned() -> None:
    bans = Bans(never=[ip_network("192.0.2.0/24"), ip_network("2001:db8::/48")])
    guard = Guard(FEW, bans, "s1", "n1")
    bans.spare("carriers", ["198.51.100.7", "203.0.113.0/24"])
    for host in ("192.0.2.9", "2001:db8::5", "198.51.100.7", "203.0.113.9"):
        assert not guard.offended(0.0, host, Offence.SCANNER)
        guard.ban(0.0, limit_key(host), 60.0, "by hand", "somebody", forced=True)
    assert bans.barred == set()
    bans.spare("carriers", [])
    bans.tick(2.0)
    assert bans.barred == {"198.51.100.7", "203.0.113.9"}


def test_an_ipv6_site_is_one_address() -> None:
    bans = Bans()
    guard = Guard(FEW, bans, "s1", "n1")
    for n in range(20):
        guard.offended(float(n), f"2001:db8:1:2::{n + 1:x}", Offence.FAILED_AUTHENTICATION)
    assert bans.barred == {"2001:db8:1:2::/64"}


def test_bans_survive_a_restart_and_end_in_their_time() -> None:
    world = guarded()
    peer = world.peer(THIEF)
    peer.say(peer.request("OPTIONS", "100", ("User-Agent", "sipvicious")))
    world.restart()
    world.run(1)
    assert not is_heard(world, THIEF)
    assert {write.key for write in world.switch.everything() if write.kind is Kind.BAN} == {THIEF}
    world.run(100)
    assert is_heard(world, THIEF)


def test_a_ban_is_lifted_at_any_seat_and_the_next_one_is_a_first_one() -> None:
    bans = Bans()
    one, two = Guard(FEW, bans, "s1", "n1"), Guard(FEW, bans, "s2", "n2")
    # The clock of the first goes before that of the second.
    one.offended(100.5, THIEF, Offence.SCANNER)
    assert bans.barred == {THIEF}
    assert two.lift(100.0, THIEF, "somebody") is not None
    assert bans.barred == set()
    assert two.lift(101.0, THIEF, "somebody") is None
    # As other nodes read it.
    other = Bans()
    for seat, guard in (("s2", two), ("s1", one)):
        other.take(102.0, seat, {w.key: read_ban(w.value or b"") for w in guard.records()})
    assert other.barred == set()
    one.offended(103.0, THIEF, Offence.SCANNER)
    (ban,) = bans.listed(103.0)
    assert ban.until - ban.made_at == 100.0


def test_an_operators_ban_holds_also_where_phones_are_registered() -> None:
    world = guarded()
    host = world.addresses["1001"].host
    world.tell(lambda s: s.ban(world.now, host, 60.0, "stolen", "somebody"))
    assert world.bans.barred == {host}
    world.tell(lambda s: s.lift(world.now, host, "somebody"))
    assert world.bans.barred == set()


def test_what_a_store_tells_late_does_not_undo_a_ban_that_was_just_made() -> None:
    bans = Bans()
    Guard(FEW, bans, "s1", "n1").offended(100.0, THIEF, Offence.SCANNER)
    bans.take(101.0, "s1", {})
    assert bans.barred == {THIEF}
    bans.take(110.0, "s1", {})
    assert bans.barred == set()


def test_a_seat_keeps_no_more_bans_than_it_may() -> None:
    bans = Bans()
    guard = Guard(FEW, bans, "s1", "n1")
    for n in range(BANS_MAX + 10):
        guard.offended(n / 1000, f"10.{n >> 8}.{n & 255}.1", Offence.SCANNER)
    assert len(guard) == len(bans.barred) == BANS_MAX
    assert "10.0.0.1" not in bans.barred


def test_without_bans_nobody_is_shut_out_but_by_hand() -> None:
    bans = Bans()
    guard = Guard(BanRules(enabled=False), bans, "s1", "n1")
    assert not any(guard.offended(0.0, THIEF, Offence.SCANNER) for _ in range(100))
    guard.ban(0.0, THIEF, 60.0, "by hand", "somebody", forced=True)
    assert bans.barred == {THIEF}


def test_a_record_of_nonsense_is_kept_aside_and_does_no_harm() -> None:
    world = guarded()
    broken = {"x": b"\xff", "y": BANS.encode(Ban(SCHEMA, "no address", 0.0, 9e9, 9e9))}
    outcome, unread = world.make_switch().restore(world.now, {}, {}, bans=broken)
    assert [(x.kind, x.key) for x in unread] == [(Kind.BAN, "x"), (Kind.BAN, "y")]
    assert sum(w.kind is Kind.ASIDE for w in outcome.writes) == 2


@pytest.mark.parametrize("text", ["", "x", "192.0.2.0/24", "2001:db8::/32", "192.0.2.1/x", "300.1.1.1"])
def test_only_an_address_can_be_banned(text: str) -> None:
    with pytest.raises(WardenError, match=r"^ban: "):
        address_of(text)


def test_an_address_is_spelled_one_way() -> None:
    assert address_of(" 192.0.2.1/32") == "192.0.2.1"
    assert address_of("2001:DB8::1") == address_of("2001:db8:0:0::/64") == "2001:db8::/64"
