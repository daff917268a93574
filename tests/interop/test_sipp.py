"""SIPp calls SIPp through a real node: what each of them is told is written down message by message."""

import random
import socket
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from warden.call.cdr import Party, Result
from warden.sip.message import Response
from warden.sip.parser import parse_message

from pbx import MEDIA_PAIRS_MAX, password_of
from sipp_scenario import Script, sdp
from sipp_stage import Node, Stage, is_quiet, run_node, total

SCENARIOS = Path(__file__).parent / "sipp"
TORTURE = Path(__file__).parents[1] / "corpus" / "rfc4475"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    # All of them are at one address, and some do wrong on purpose.
    yield from run_node(tmp_path_factory.mktemp("node"), config="security: {never_ban: [127.0.0.0/8]}\n")


@pytest.fixture
def own_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    # Ports rest for 5 s, so 50 calls a second of 1 s each need 600 pairs.
    yield from run_node(tmp_path_factory.mktemp("node"), MEDIA_PAIRS_MAX)


@pytest.fixture
def stage(node: Node, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(node, tmp_path)
    try:
        yield stage
    finally:
        stage.close()
    node.until(is_quiet)


# Calls that are not answered


@pytest.mark.parametrize(
    ("status", "told", "reason", "result"),
    [
        (486, 486, "SIP;cause=486", Result.BUSY),
        (480, 480, "SIP;cause=480", Result.NO_ANSWER),
        (404, 404, "SIP;cause=404", Result.FAILED),
        (408, 408, "SIP;cause=408", Result.NO_ANSWER),
        (488, 488, "SIP;cause=488", Result.FAILED),
        (500, 500, "SIP;cause=500", Result.FAILED),
        (503, 480, "SIP;cause=.*503", Result.NO_ANSWER),
        (603, 603, "SIP;cause=603", Result.REJECTED),
    ],
)
def test_the_callees_refusal_reaches_the_caller_with_its_reason(
    stage: Stage, status: int, told: int, reason: str, result: Result
) -> None:
    stage.play(
        stage.answers().expects_request("INVITE").replies(180).replies(status).expects_request("ACK"),
        stage.calls().dials().expects(100, optional=True).expects(180).expects(told, has={"Reason": reason}).acks(),
    )
    cdr = stage.cdr()
    assert (cdr.callee, cdr.result, cdr.status, cdr.ended_by) == (stage.callee, result, told, Party.CALLEE)
    assert cdr.answered_at_utc is None


def test_a_phone_that_stays_silent_is_a_time_out_for_the_caller(stage: Stage) -> None:
    callee = stage.called(stage.answers().expects_request("INVITE").pauses(60_000))
    caller = stage.calls().dials().expects(100, optional=True).expects(408, has={"Reason": "SIP;cause=408"}).acks()
    stage.flawless(stage.phone(caller))
    assert callee.messages().count("INVITE sip:") == 7, "timer A: six repetitions until timer B ends it"
    assert stage.cdr().result is Result.UNREACHABLE


def test_a_caller_who_gives_up_stops_the_ringing(stage: Stage) -> None:
    stage.play(
        stage.answers()
        .expects_request("INVITE")
        .replies(180)
        .expects_request("CANCEL", has={"Reason": "SIP;cause=487"})
        .replies(200, to="CANCEL")
        .replies(487)
        .expects_request("ACK"),
        stage.calls()
        .dials()
        .expects(100, optional=True)
        .expects(180)
        .pauses(200)
        .cancels()
        .expects(200)
        .expects(487)
        .acks(),
    )
    cdr = stage.cdr()
    assert (cdr.result, cdr.status, cdr.ended_by) == (Result.CANCELLED, 487, Party.CALLER)


def test_nobody_is_there_under_a_number_that_does_not_exist_or_has_no_phone(stage: Stage) -> None:
    for number, status in (("4711", 404), (stage.callee, 480)):
        script = Script("caller", stage.caller, rings=number)
        script.dials().expects(100, optional=True).expects(status, has={"Reason": f"SIP;cause={status}"}).acks()
        stage.flawless(stage.phone(script))


# Sessions


def test_early_media_comes_before_the_answer(stage: Stage) -> None:
    stage.play(
        stage.answers()
        .expects_request("INVITE", says="m=audio")
        .replies(183, sdp())
        .pauses(200)
        .replies(200, sdp())
        .expects_request("ACK")
        .is_hung_up(),
        stage.calls()
        .dials()
        .expects(100, optional=True)
        .expects(183, says="m=audio")
        .expects(200, says="m=audio")
        .acks()
        .pauses(100)
        .hangs_up(),
    )
    assert stage.cdr().result is Result.ANSWERED


def test_the_answer_to_a_late_offer_travels_in_the_ack(stage: Stage) -> None:
    stage.play(
        stage.answers()
        .expects_request("INVITE")
        .replies(180)
        .replies(200, sdp())
        .expects_request("ACK", says="a=sendrecv")
        .is_hung_up(),
        stage.calls()
        .dials("")
        .expects(100, optional=True)
        .expects(180)
        .expects(200, says="m=audio")
        .acks(sdp(codecs="0 101"))
        .pauses(100)
        .hangs_up(),
    )


def _holds(script: Script) -> Script:
    script.pauses(100).requests("INVITE", sdp("sendonly", version=2)).expects(100, optional=True)
    script.expects(200, says="a=recvonly").acks()
    script.pauses(100).requests("INVITE", sdp("sendrecv", version=3)).expects(100, optional=True)
    return script.expects(200, says="a=sendrecv").acks().pauses(100).hangs_up()


def _is_held(script: Script) -> Script:
    script.expects_request("INVITE", says="a=sendonly").replies(200, sdp("recvonly", version=2)).expects_request("ACK")
    script.expects_request("INVITE", says="a=sendrecv").replies(200, sdp("sendrecv", version=3)).expects_request("ACK")
    return script.is_hung_up()


def test_the_caller_holds_and_resumes(stage: Stage) -> None:
    stage.play(_is_held(stage.answers().answers()), _holds(stage.calls().dials().is_answered()))


def test_the_callee_holds_and_resumes_and_hangs_up(stage: Stage) -> None:
    stage.play(_holds(stage.answers().answers()), _is_held(stage.calls().dials().is_answered()))
    assert stage.cdr().ended_by is Party.CALLEE


def test_an_update_stays_an_update(stage: Stage) -> None:
    allow = "Allow: INVITE, ACK, CANCEL, BYE, UPDATE"
    stage.play(
        stage.answers()
        .expects_request("INVITE")
        .replies(180)
        .replies(200, sdp(), fields=allow)
        .expects_request("ACK")
        .expects_request("UPDATE", says="a=sendonly")
        .replies(200, sdp("recvonly", version=2), to="UPDATE")
        .is_hung_up(),
        stage.calls()
        .dials()
        .is_answered()
        .pauses(100)
        .requests("UPDATE", sdp("sendonly", version=2))
        .expects(200, says="a=recvonly")
        .hangs_up(),
    )


def test_a_key_pressed_reaches_the_other_side_as_info(stage: Stage) -> None:
    kind = "application/dtmf-relay"
    stage.play(
        stage.answers()
        .answers()
        .expects_request("INFO", has={"Content-Type": kind}, says="Signal=5")
        .replies(200, to="INFO")
        .is_hung_up(),
        stage.calls()
        .dials()
        .is_answered()
        .pauses(100)
        .requests("INFO", "Signal=5\nDuration=160\n", kind=kind)
        .expects(200)
        .pauses(200)
        .hangs_up(),
    )


def test_two_changes_that_cross_are_both_told_to_wait(stage: Stage) -> None:
    stage.play(
        stage.answers()
        .answers()
        .expects_request("INVITE")
        .requests("INVITE", sdp("sendonly", version=2))
        .expects(491)
        .acks()
        .replies(491)
        .expects_request("ACK")
        .is_hung_up(),
        stage.calls()
        .dials()
        .is_answered()
        .pauses(100)
        .requests("INVITE", sdp("sendonly", version=2))
        .expects(100, optional=True)
        .expects(491)
        .acks()
        .pauses(100)
        .hangs_up(),
    )
    assert stage.cdr().result is Result.ANSWERED


def test_a_change_that_the_other_phone_refuses_leaves_the_call_as_it_was(stage: Stage) -> None:
    stage.play(
        stage.answers().answers().expects_request("INVITE").replies(488).expects_request("ACK").is_hung_up(),
        stage.calls()
        .dials()
        .is_answered()
        .requests("INVITE", sdp(version=2, codecs="8 101"))
        .expects(100, optional=True)
        .expects(488)
        .acks()
        .pauses(100)
        .hangs_up(),
    )


# Several phones, other transports, a bad wire


def test_all_phones_of_a_number_ring_and_one_answers(stage: Stage) -> None:
    rival = stage.called(
        stage.answers("rival")
        .expects_request("INVITE")
        .replies(180)
        .expects_request("CANCEL", has={"Reason": "SIP;cause=200"})
        .replies(200, to="CANCEL")
        .replies(487)
        .expects_request("ACK")
    )
    winner = stage.called(
        stage.answers("winner")
        .expects_request("INVITE")
        .replies(180)
        .pauses(300)
        .replies(200, sdp())
        .expects_request("ACK")
        .is_hung_up()
    )
    caller = stage.phone(stage.calls().dials().is_answered().pauses(200).hangs_up())
    stage.flawless(caller, winner, rival)
    assert stage.cdr().result is Result.ANSWERED


@pytest.mark.parametrize("transport", ["t1", "tn"])
def test_a_phone_calls_and_is_called_over_the_tcp_connection_that_it_registered_with(
    stage: Stage, transport: str
) -> None:
    """Nobody could connect to the callee: its contact is the far end of its own connection."""
    registered = stage.answers("registered").registers("[local_port]").expects(200).pauses(60_000)
    call = stage.file(stage.answers("call").answers().is_hung_up())
    before = total(stage.node.metrics(), "pbx_registrations")
    callee = stage.phone(registered, "-oocsf", call, transport="t1")
    stage.node.until(lambda m: total(m, "pbx_registrations") == before + 1)
    caller = stage.calls().dials().is_answered().pauses(300).hangs_up()
    stage.flawless(stage.phone(caller, transport=transport, calls=3))
    stage.node.until(is_quiet)
    assert callee.messages().count("BYE sip:") == 3


def test_every_call_succeeds_on_a_wire_that_loses_one_message_in_twenty(stage: Stage) -> None:
    # SIPp takes an INVITE that comes again for a mistake once it has sent two responses to it, so the first gets
    # through. Calls are long enough for the ACK to be lost and sent again several times: no BYE may come before it.
    callee = stage.called(
        stage.answers()
        .expects_request("INVITE")
        .replies(180, is_never_lost=True)
        .replies(200, sdp())
        .expects_request("ACK")
        .is_hung_up(lingers_ms=5000),
        *("-lost", "5"),
        calls=60,
    )
    script = stage.calls().dials().is_answered().pauses(8000).hangs_up()
    caller = stage.phone(script, *("-lost", "5"), "-r", "20", calls=60)
    seen, _ = stage.flawless(caller, callee)
    assert seen.retransmissions > 0


def _ordinary_calls(stage: Stage) -> tuple[Path, Path, list[str | Path]]:
    """The scenarios in files, and the options that give the caller its number and password."""
    proof = f"[authentication username={stage.caller} password={password_of(stage.caller)}]"
    numbers = stage.file(Script("numbers", stage.caller)).with_suffix(".csv")
    numbers.write_text(f"SEQUENTIAL\n{stage.caller};{proof};{stage.callee}\n")
    return SCENARIOS / "callee.xml", SCENARIOS / "caller.xml", ["-inf", numbers]


@pytest.mark.alone
def test_a_thousand_authenticated_calls_at_fifty_per_second_all_succeed(own_node: Node, tmp_path: Path) -> None:
    stage = Stage(own_node, tmp_path)
    answers, calls, numbers = _ordinary_calls(stage)
    try:
        callee = stage.called(answers, calls=1000, trace=False)
        caller = stage.phone(calls, *numbers, "-r", "50", "-d", "1000", calls=1000, trace=False)
        seen = stage.flawless(caller, callee)
    finally:
        stage.close()
    assert [x.successful for x in seen] == [1000, 1000]
    # A message is sent again after half a second: a node that lets more than a few wait as long does not keep up.
    assert sum(x.retransmissions for x in seen) <= 50
    own_node.until(lambda m: total(m, "pbx_cdrs_stored_total") == 1000)
    cdrs = own_node.pbx.cdrs(1000)
    assert len({cdr.id for cdr in cdrs}) == len({cdr.sip_call_id for cdr in cdrs}) == 1000
    assert {(c.caller, c.callee, c.answered_by, c.result, c.status, c.ended_by) for c in cdrs} == {
        (stage.caller, stage.callee, stage.callee, Result.ANSWERED, 200, Party.CALLER)
    }
    assert statistics.median(c.talk_s for c in cdrs) == pytest.approx(1.0, abs=0.5)
    # Transactions stay for SIP's 32 s to answer what comes again; then there is nothing.
    own_node.until(
        lambda m: is_quiet(m) and total(m, "pbx_sip_transactions") == total(m, "pbx_media_sessions") == 0, within_s=60
    )


def test_rubbish_costs_a_counter_and_nothing_else_while_calls_are_up(stage: Stage) -> None:
    answers, calls, numbers = _ordinary_calls(stage)
    callee = stage.called(answers, calls=20)
    caller = stage.phone(calls, *numbers, "-r", "100", "-d", "4000", calls=20)
    stage.node.until(lambda m: total(m, "pbx_calls", 'phase="up"') == 20)
    before = stage.node.metrics()['pbx_sip_malformed_total{transport="udp"}']
    chance = random.Random(4475)
    torture = [file.read_bytes() for file in sorted(TORTURE.glob("*.dat"))]
    assert len(torture) == 49
    rubbish = [chance.randbytes(chance.randrange(1, 1500)) for _ in range(100)]
    rubbish += [message[: chance.randrange(1, len(message))] for message in torture]
    node = ("127.0.0.1", stage.node.pbx.sip_port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer, socket.create_connection(node) as stream:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(20)
        for message in torture + rubbish:
            peer.sendto(message, node)
        stream.sendall(rubbish[0])
        # It says who sent it, so it is answered (RFC 3261 section 8.2.7); the last one shows that all were read.
        host, port = peer.getsockname()
        peer.sendto(_TOO_SHORT.format(host=host, port=port).encode(), node)
        while b"branch=z9hG4bK-too-short" not in (answer := peer.recv(65536)):
            assert isinstance(parse_message(answer), Response)
        response = parse_message(answer)
        assert isinstance(response, Response)
        assert response.status == 400
    stage.node.until(lambda m: m['pbx_sip_malformed_total{transport="udp"}'] >= before + 100)
    stage.flawless(caller, callee)


_TOO_SHORT = """\
OPTIONS sip:warden SIP/2.0\r
Via: SIP/2.0/UDP {host}:{port};branch=z9hG4bK-too-short\r
From: <sip:a@b>;tag=1\r
To: <sip:a@b>\r
Call-ID: too-short\r
CSeq: 1 OPTIONS\r
Content-Length: 999\r
\r
"""


# Who may do what


def test_a_wrong_password_is_asked_for_again_and_never_rings(stage: Stage) -> None:
    callee = stage.called(stage.answers().expects_request("INVITE"))
    wrong = Script("guesser", stage.caller, rings=stage.callee, password="open-sesame")
    stage.flawless(stage.phone(wrong.dials().expects(401).acks()))
    stranger = stage.calls("stranger").asks("INVITE", sdp()).expects(401).acks()
    stage.flawless(stage.phone(stranger))
    assert callee.messages() == ""


def test_a_phone_may_register_for_nobody_else(stage: Stage) -> None:
    mine = Script("thief", stage.caller).registers("5999", aor=stage.callee).expects(403)
    wrong = Script("guesser", stage.caller, password="open-sesame").registers("5999").expects(401)
    stage.flawless(stage.phone(mine), stage.phone(wrong))


def test_options_says_what_the_node_can_and_an_unknown_method_that_it_cannot(stage: Stage) -> None:
    stage.flawless(
        stage.phone(stage.calls("options").asks("OPTIONS").expects(200, has={"Allow": "INVITE.*UPDATE"})),
        stage.phone(stage.calls("unknown").asks("CONJURE").expects(501, has={"Allow": "INVITE"})),
    )
