"""SIPp asks for more calls and registrations than a node is allowed to let in."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from warden.call.cdr import Result

from sipp_scenario import Script, sdp
from sipp_stage import Node, Stage, is_quiet, run_node, total

COME_LATER = {"Retry-After": "[1-9]"}
STORM = 300


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    # The first call is let in, and the first phone; the next in half an hour.
    few = "overload: {calls_per_second: 0.0005, registrations_per_second: 0.0005}\n"
    (tmp_path / "node").mkdir()
    nodes = run_node(tmp_path / "node", 100, config=few)
    node: Node = next(nodes)
    stage = Stage(node, tmp_path)
    try:
        yield stage
    finally:
        stage.close()
    node.until(is_quiet)
    assert next(nodes, None) is None


def test_a_storm_is_told_to_come_later_while_the_call_in_progress_and_an_emergency_call_are_served(
    stage: Stage,
) -> None:
    script = stage.answers().answers().expects_request("INVITE").replies(200, sdp("recvonly", version=2))
    callee = stage.called(script.expects_request("ACK").is_hung_up())
    caller = stage.calls().dials().is_answered().pauses(2500)
    caller.requests("INVITE", sdp("sendonly", version=2)).expects(100, optional=True).expects(180, optional=True)
    held = stage.phone(caller.expects(200, says="m=audio").acks().hangs_up())
    stage.node.until(lambda m: total(m, "pbx_calls", 'phase="up"') == 1)
    many = stage.phone(
        stage.calls("many").asks("INVITE", sdp()).expects(503, has=COME_LATER).acks(), "-r", "300", calls=STORM
    )
    phones = stage.phone(
        Script("phones", "1059", rings="1059").asks("REGISTER").expects(503, has=COME_LATER), "-r", "300", calls=STORM
    )
    rescue = stage.phone(Script("rescue", stage.caller, rings="112").asks("INVITE", sdp()).expects(401).acks())
    stage.flawless(many, phones, rescue, held, callee)
    assert stage.cdr().result is Result.ANSWERED
    metrics = stage.node.metrics()
    assert total(metrics, "pbx_calls_shed_total") >= STORM
    assert total(metrics, "pbx_registrations_shed_total") >= STORM
    assert total(metrics, "pbx_calls_started_total") == 1
