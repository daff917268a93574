"""The engine by itself: any events, in any order, at any time."""

from random import Random

import pytest

from warden.call import events as e
from warden.call import pickup, transfer
from warden.call.apps.clock import clock_at
from warden.call.apps.echo import Echo
from warden.call.cdr import Result
from warden.call.engine import step
from warden.call.model import CALLER, LEGS_MAX, LINGER_S, Call, Cause, Leg, LegPhase, Phase, Ports
from warden.call.setup import start_call, start_nowhere
from warden.call.way import Extension, Lead, Ring, Step, Take, Why

OFFER = "v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 8\r\n"
ANSWER = "v=0\r\no=- 1 1 IN IP4 10.0.0.2\r\ns=-\r\nc=IN IP4 10.0.0.2\r\nt=0 0\r\nm=audio 5000 RTP/AVP 0\r\n"
TWO = OFFER + "m=video 4002 RTP/AVP 31\r\n"
RING = (Ring((Extension("1002"),), 60.0),)
SDPS = ("", OFFER, ANSWER, TWO)


def new_call(*, b: tuple[int, ...] = (20_002,)) -> Call:
    return Call(
        id="c1",
        caller=Leg(CALLER, "1001", LegPhase.OFFERED),
        dialled="1002",
        ports=Ports("10.0.0.254", (20_000,), b),
        sdp_id=7,
        started_at=1000.0,
        no_answer_at=1060.0,
        max_duration_s=600.0,
    )


def any_event(random: Random, call: Call) -> e.Event:
    leg = random.choice([leg.id for leg in call.legs])
    callee = random.choice([leg.id for leg in call.callees] or [CALLER])
    sdp = random.choice(SDPS)
    cause = Cause(random.choice((404, 408, 480, 481, 486, 487, 488, 491, 603)))
    choices: tuple[e.Event, ...] = (
        e.Confirmed(leg, sdp),
        e.Updated(leg, sdp),
        e.UpdateAnswered(leg, sdp),
        e.UpdateFailed(leg, cause),
        e.UpdateConfirmed(leg, sdp),
        e.UpdateCancelled(leg),
        e.Told(leg, "text/plain", b"x"),
        e.HungUp(leg, random.choice((None, cause))),
        e.Lost(leg, cause),
        e.Gone(leg),
        e.SoundsEnded(),
        e.Due(),
    )
    if callee != CALLER:
        choices += (e.Ringing(callee, random.choice((180, 183)), sdp), e.Answered(callee, sdp), e.Failed(callee, cause))
        choices += (e.Answered(callee, ANSWER), e.Confirmed(CALLER, ANSWER)) * 2
    return random.choice(choices)


def likely_event(random: Random, call: Call) -> e.Event:
    """What phones that are well would do next, so that calls come far enough for trouble to be of interest."""
    choices: list[e.Event] = []
    for leg in call.legs:
        match leg.phase:
            case LegPhase.DIALLING | LegPhase.RINGING:
                choices += [e.Ringing(leg.id, 180), e.Answered(leg.id, ANSWER)]
            case LegPhase.ANSWERED if leg.is_inbound:
                choices.append(e.Confirmed(leg.id, ANSWER if call.late or not leg.heard else ""))
            case LegPhase.ENDING | LegPhase.CANCELLING:
                choices.append(e.Gone(leg.id))
            case _:
                pass
    exchange = call.exchange
    if exchange is not None and exchange.answered:
        choices += [e.UpdateConfirmed(exchange.by, ANSWER)] * 3
    elif exchange is not None:
        choices += [e.UpdateAnswered(x, ANSWER) for x in (exchange.by, exchange.to)] * 2
    return random.choice(choices) if choices else any_event(random, call)


def any_request(random: Random, call: Call, now: float) -> tuple[Call, list[e.Effect]]:
    """Somebody wants a transfer, or the place of somebody, where that can be."""
    leg = random.choice([leg.id for leg in call.legs])
    sdp = random.choice(SDPS)
    if random.random() < 0.5:
        if transfer.why_not(call, leg) is not None:
            return call, []
        if random.random() < 0.7:
            return transfer.start_transfer(call, now, leg, any_way(random), ())
        phase = random.choice((LegPhase.UP, LegPhase.RINGING))
        given = Leg(f"b{call.legs_made}", "1009", phase, heard=OFFER, told=OFFER, inbound=phase is LegPhase.UP)
        return transfer.take_over(call, now, leg, [given], now + 5) if len(call.legs) < LEGS_MAX else (call, [])
    early_only = random.random() < 0.2
    if pickup.why_not(call, leg, early_only=early_only, has_offer=bool(sdp)) is not None:
        return call, []
    return pickup.pick_up(call, leg, "1008", sdp)


def any_way(random: Random) -> tuple[Step, ...]:
    """Steps of every sort, with every condition."""
    made: list[Step] = []
    for _ in range(random.randrange(1, 5)):
        when = tuple(random.sample(list(Why), random.choice((0, 0, 1, 2))))
        also, early = random.random() < 0.3, random.random() < 0.3
        ring = Ring((Extension("1002"),), random.uniform(1, 20), when, also=also, early=early)
        made.append(random.choice((ring, ring, Lead("1003", "1002", when), Take(Echo(), "*43", when))))
    return tuple(made)


def hunted(random: Random, call: Call, now: float, effects: list[e.Effect]) -> tuple[Call, list[e.Effect]]:
    """What a call asks to be found is found, or not."""
    done = list(effects)
    while effects and isinstance(hunt := effects[-1], e.Hunt):
        if isinstance(hunt.step, Ring):
            found: e.Event = e.Found(tuple(random.choices(("1002", "1003"), k=random.choice((0, 1, 1, 3, 40)))))
        else:
            found = e.Led(RING if random.random() < 0.7 else (), ("1003",))
        call, effects = step(call, now, found)
        done += effects
    assert not any(isinstance(effect, e.Hunt) for effect in effects), "what is to be found is asked last"
    return call, done


@pytest.mark.parametrize("seed", range(600))
def test_whatever_happens_a_call_gives_one_record_and_comes_to_its_end(seed: int) -> None:
    random = Random(seed)
    now = 1000.0
    sdp = random.choice(("", OFFER, TWO))
    match seed % 4:
        case 0:
            app = random.choice((Echo(), clock_at(now, 0)))
            call, effects = start_call(new_call(b=()), now, (Take(app, "*43"),), sdp)
        case _:
            call, effects = start_call(new_call(), now, any_way(random), sdp)
            call, effects = hunted(random, call, now, effects)
    done = list(effects)
    for _ in range(40):
        now += random.random() * 3
        kind = random.random()
        if kind < 0.2:
            call, effects = any_request(random, call, now)
        elif kind < 0.75:
            call, effects = step(call, now, likely_event(random, call))
        else:
            call, effects = step(call, now, any_event(random, call))
        call, effects = hunted(random, call, now, effects)
        done += effects
        assert len({leg.id for leg in call.legs}) == len(call.legs) <= LEGS_MAX
        # Nothing is asked of a leg that is gone.
        gone = {leg.id for leg in call.legs if leg.phase is LegPhase.GONE}
        assert not [x for x in effects if isinstance(x, e.Bye | e.Cancel | e.Update) and x.leg in gone]
    while not call.is_finished:
        assert call.deadline is not None
        now = max(now, call.deadline)
        call, effects = step(call, now, e.Due())
        call, effects = hunted(random, call, now, effects)
        done += effects
    dialled = [x.leg for x in done if isinstance(x, e.Dial)]
    assert len(set(dialled)) == len(dialled), "the name of a leg is used once"
    assert [type(x) for x in done].count(e.Finished) == 1
    for leg_id in {x.leg for x in done if isinstance(x, e.Accept | e.Refuse)}:
        said = [type(x) for x in done if isinstance(x, e.Accept | e.Refuse) and x.leg == leg_id]
        assert len(said) == 1 or said == [e.Refuse], "an INVITE is answered once"
    begun, ended = ([x for x in done if isinstance(x, e.Notify) and x.final is final] for final in (False, True))
    assert len(ended) <= len([x for x in begun if x.cause.status == 100]), "a transfer has one last word"
    assert call.cdr is not None
    assert (call.cdr.result is Result.ANSWERED) == (call.answered_at is not None)
    assert call.cdr.ended_at_utc >= call.cdr.started_at_utc


def test_every_app_and_nowhere_leave_a_record() -> None:
    call, effects = start_nowhere(new_call(b=()), 1000.0, Cause(404, "Not Found"))
    assert call.is_finished
    assert [type(x) for x in effects] == [e.Refuse, e.Finished]
    call, effects = start_call(new_call(b=()), 1000.0, (Take(Echo(), "*43"),), OFFER.replace("audio", "video"))
    assert call.is_finished
    assert call.cdr is not None
    assert (call.cdr.result, call.cdr.status) == (Result.FAILED, 488)


def test_a_leg_that_never_ends_is_given_up_after_its_linger() -> None:
    call, _ = start_call(new_call(), 1000.0, RING, OFFER)
    call, _ = step(call, 1000.0, e.Found(("1002",)))
    call, _ = step(call, 1001.0, e.Answered("b0", ANSWER))
    call, _ = step(call, 1002.0, e.Confirmed(CALLER))
    call, effects = step(call, 1010.0, e.HungUp(CALLER))
    assert isinstance(effects[0], e.Bye)
    assert call.phase is Phase.OVER
    assert call.deadline == 1010.0 + LINGER_S
    call, _ = step(call, 1010.0 + LINGER_S, e.Due())
    assert call.is_finished


def test_the_speaking_clock_says_the_time_of_the_place() -> None:
    assert clock_at(0.0, 3600.0).prompts == (
        "",
        "the-time-is",
        "1",
        "o-clock",
        "am",
        "",
        "the-time-is",
        "1",
        "o-clock",
        "am",
        "",
    )
    assert clock_at(12 * 3600 + 45 * 60.0, 0.0).prompts[1:6] == ("the-time-is", "12", "40", "5", "pm")
    assert clock_at(5 * 60.0, 0.0).prompts[1:6] == ("the-time-is", "12", "oh", "5", "am")


def test_who_offers_in_its_answer_has_an_answer_in_the_ack_although_nobody_wants_the_call_any_more() -> None:
    """Found by the simulator (seed 236): such a phone got an empty ACK in front of its BYE."""
    call, _ = start_call(new_call(), 1000.0, RING, "")
    call, _ = step(call, 1000.0, e.Found(("1002", "1002")))
    call, _ = step(call, 1001.0, e.Answered("b0", OFFER))
    call, effects = step(call, 1001.1, e.Answered("b1", OFFER))
    [confirm, bye] = effects
    assert isinstance(confirm, e.Confirm)
    assert isinstance(bye, e.Bye)
    assert (confirm.leg, bye.leg) == ("b1", "b1")
    assert "\r\na=inactive\r\nm=audio 20002 RTP/AVP 0 8\r\n" in confirm.sdp
    _, effects = step(call, 1002.0, e.HungUp(CALLER))
    confirms = [x for x in effects if isinstance(x, e.Confirm)]
    assert [(x.leg, "a=inactive" in x.sdp) for x in confirms] == [("b0", True)]
