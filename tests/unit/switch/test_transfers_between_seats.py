"""Transfers where the referrer's two calls are carried by two seats."""

from tests.unit.switch.seats import OTHER, Seats

from warden.phone.events import Ended, Incoming, Outcome, Referred, Talking
from warden.switch.legs import PROOF


def referrer_between() -> tuple[Seats, dict[str, str]]:
    """1001 has called 2001, which is the first seat's call; 2001 has called 2002, which is the other's."""
    seats = Seats()
    seats.run(1)
    caller, callee = seats.up()
    seats.two.do("2001", seats.two.phones["2001"].hold(seats.two.now, callee))
    seats.run(1)
    seats.two.rings_then_answers("2002")
    second = seats.two.call("2001", "2002", run_s=2)
    return seats, {"1001": caller, "2001": callee, "second": second}


def test_an_attended_transfer_joins_calls_of_two_seats() -> None:
    seats, tags = referrer_between()
    phone = seats.two.phones["2001"]
    seats.two.do("2001", phone.transfer(seats.two.now, tags["2001"], "2002", instead_of=tags["second"]))
    seats.run(3)
    assert [o.status for o in seats.two.of("2001", Outcome)] == [202]
    assert [e.status for e in seats.two.of("2001", Referred)] == [100, 200]
    assert len(seats.two.of("2001", Ended)) == 2
    assert len(seats.two.of("2002", Incoming)) == 1
    talking = seats.one.of("1001", Talking)[-1], seats.two.of("2002", Talking)[-1]
    assert all(t.sends and t.hears for t in talking)
    (ours,), (theirs,) = seats.one.media.values(), seats.two.media.values()
    between = {side.remote for session in (ours, theirs) for s in session.streams for side in (s.a, s.b) if side}
    assert {(at.host, at.port) for at in between if at} >= {("10.0.0.1", 4000), ("10.0.1.2", 4000)}
    seats.one.hang_up("1001", tags["1001"], run_s=1)
    assert len(seats.two.of("2002", Ended)) == 1
    first = seats.one.is_clean()
    other = seats.two.is_clean()
    assert [(c.caller, c.transferred_by, c.transferred_to) for c in first] == [("1001", "2001", "2002")]
    assert [(c.caller, c.transferred_by, c.transferred_to) for c in other] == [("2001", "2001", "1001")]


def test_a_call_that_no_seat_has_is_told_481() -> None:
    seats, tags = referrer_between()
    seats.two.hang_up("2001", tags["second"])
    replaces = seats.two.phones["2001"]._calls[tags["second"]].as_replaced
    seats.run(60)
    fields = ("Refer-To", f"<sip:2002@{OTHER}?Replaces={replaces.replace(';', '%3B').replace('=', '%3D')}>")
    seats.two.do("2001", seats.two.phones["2001"].ask(seats.two.now, tags["2001"], "REFER", fields))
    seats.run(3)
    assert [e.status for e in seats.two.of("2001", Referred)] == [100, 481]
    assert len(seats.one.switch.calls) == 1
    seats.one.hang_up("1001", tags["1001"])
    seats.one.is_clean()
    seats.two.is_clean()


def test_who_pretends_to_be_a_seat_is_asked_who_it_is() -> None:
    seats = Seats()
    liar = seats.one.peer("10.9.0.9")
    replaces = ("Replaces", "c;to-tag=a;from-tag=b")
    liar.say(liar.request("INVITE", "1002", replaces, (PROOF, "0" * 20), to="1001"))
    assert liar.statuses("INVITE") == [401]
    seats.one.is_clean(cdrs=0)
