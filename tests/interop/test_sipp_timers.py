"""Session timers with SIPp: who refreshes is heard, and a phone that is gone ends its call. The intervals are the
shortest that the settings allow, since RFC 4028's own would take minutes.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from warden.call.cdr import Party, Result

from sipp_scenario import sdp
from sipp_stage import Node, Stage, is_quiet, run_node

TIMED = "Supported: timer\nSession-Expires: 6;refresher=uac\nMin-SE: 4"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    yield from run_node(tmp_path_factory.mktemp("node"), sip="  session_expires: 6\n  min_se: 4\n")


@pytest.fixture
def stage(node: Node, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(node, tmp_path)
    try:
        yield stage
    finally:
        stage.close()
    node.until(is_quiet)


def test_warden_refreshes_both_phones_each_in_the_way_that_it_knows(stage: Stage) -> None:
    """The caller allows UPDATE; the callee says nothing, and is sent the INVITE that it knows already."""
    stage.play(
        stage.answers()
        .expects_request("INVITE", has={"Supported": "timer", "Session-Expires": "6;refresher=uac", "Min-SE": "4"})
        .replies(180)
        .replies(200, sdp())
        .expects_request("ACK")
        .expects_request("INVITE", has={"Session-Expires": "6;refresher=uac"}, says="a=sendrecv")
        .replies(200, sdp())
        .expects_request("ACK")
        .is_hung_up(),
        stage.calls()
        .dials()
        .is_answered()
        .expects_request("UPDATE", has={"Session-Expires": "6;refresher=uac"})
        .replies(200, to="UPDATE")
        .pauses(500)
        .hangs_up(),
    )
    cdr = stage.cdr()
    assert (cdr.result, cdr.ended_by) == (Result.ANSWERED, Party.CALLER)
    assert cdr.duration_s > 3


def test_a_caller_that_stops_to_refresh_is_hung_up_and_so_is_who_it_talked_to(stage: Stage) -> None:
    why = {"Reason": 'SIP;cause=408;text="Session not refreshed by the caller"'}
    stage.play(
        stage.answers()
        .answers()
        .expects_request("INVITE")
        .replies(200, sdp())
        .expects_request("ACK")
        .expects_request("BYE", has=why)
        .replies(200, to="BYE"),
        stage.calls()
        .dials(fields=TIMED)
        .expects(100, optional=True)
        .expects(180)
        .expects(200, has={"Require": "timer", "Session-Expires": "6;refresher=uac"})
        .acks()
        .expects_request("BYE", has=why)
        .replies(200, to="BYE"),
    )
    cdr = stage.cdr()
    assert (cdr.result, cdr.ended_by) == (Result.ANSWERED, Party.SYSTEM)
    assert cdr.reason == "Session not refreshed by the caller"


def test_a_callee_that_does_not_answer_its_refresh_is_found_out(stage: Stage) -> None:
    why = {"Reason": 'SIP;cause=408;text="Session not refreshed by the callee"'}
    stage.play(
        stage.answers().answers().expects_request("INVITE").expects_request("BYE", has=why).replies(200, to="BYE"),
        stage.calls()
        .dials()
        .is_answered()
        .expects_request("UPDATE")
        .replies(200, to="UPDATE")
        .expects_request("BYE", has=why)
        .replies(200, to="BYE"),
    )
    assert stage.cdr().reason == "Session not refreshed by the callee"


def test_an_interval_that_is_too_short_is_refused_with_the_one_that_is_not(stage: Stage) -> None:
    short = "Supported: timer\nSession-Expires: 2;refresher=uac"
    stage.play(
        stage.answers().answers().is_hung_up(),
        stage.calls()
        .dials(fields=short)
        .expects(100, optional=True)
        .expects(422, has={"Min-SE": "4"})
        .acks()
        .dials(fields=TIMED)
        .expects(100, optional=True)
        .expects(180)
        .expects(200, has={"Session-Expires": "6;refresher=uac"})
        .acks()
        .hangs_up(),
    )
    assert stage.cdr().result is Result.ANSWERED
