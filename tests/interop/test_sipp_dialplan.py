"""SIPp phones whose calls are forwarded and who stand in ring groups, with a dialplan that was put over HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from warden.call.cdr import Party, Result

from pbx import free_ports
from sipp_process import Sipp
from sipp_scenario import Script, sdp
from sipp_stage import CALLEES, Node, Stage, is_quiet, run_node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    yield from run_node(tmp_path_factory.mktemp("node"))


@pytest.fixture
def stage(node: Node, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(node, tmp_path)
    try:
        yield stage
    finally:
        stage.close()
    node.until(is_quiet)


def ask(stage: Stage, method: str, path: str, body: object = None) -> Any:
    pbx = stage.node.pbx
    headers = {"Authorization": f"Bearer {(pbx.data / 'operator.token').read_text()}"}
    url = f"http://127.0.0.1:{pbx.http_port}/api/v1/{path}"
    answer = httpx.request(method, url, json=body, headers=headers, trust_env=False, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def put(stage: Stage, path: str, **body: Any) -> None:
    ask(stage, "PUT", path, body)


def get(stage: Stage, path: str) -> Any:
    return ask(stage, "GET", path)["body"]


def other(stage: Stage, place: int = 1) -> str:
    """Another extension that only this test uses."""
    return CALLEES[(CALLEES.index(stage.callee) + 20 * place) % len(CALLEES)]


def phone_of(stage: Stage, script: Script) -> Sipp:
    """A registered phone of the script's number that waits for its call."""
    (port,) = free_ports(1)
    phone = stage.phone(script, port=port, is_called=True)
    stage.register(script.number, port)
    return phone


def is_busy(number: str) -> Script:
    return Script(f"busy-{number}", number).expects_request("INVITE").replies(486).expects_request("ACK")


def rings_in_vain(number: str) -> Script:
    script = Script(f"rings-{number}", number).expects_request("INVITE", says="m=audio").replies(180)
    script.expects_request("CANCEL", has={"Reason": 'SIP;cause=480;text="No answer"'})
    return script.replies(200, to="CANCEL").replies(487).expects_request("ACK")


def takes_it(number: str) -> Script:
    return Script(f"takes-{number}", number).answers().is_hung_up()


def test_a_busy_phone_forwards_to_another(stage: Stage) -> None:
    put(stage, f"extensions/{stage.callee}/settings", busy=other(stage))
    phones = [phone_of(stage, is_busy(stage.callee)), phone_of(stage, takes_it(other(stage)))]
    caller = stage.phone(stage.calls().dials().is_answered().pauses(200).hangs_up())
    stage.flawless(caller, *phones)
    cdr = stage.cdr()
    assert (cdr.result, cdr.callee, cdr.answered_by) == (Result.ANSWERED, stage.callee, other(stage))


def test_a_phone_that_nobody_answers_is_cancelled_and_another_rings(stage: Stage) -> None:
    put(stage, f"extensions/{stage.callee}/settings", no_answer=other(stage), no_answer_s=1)
    phones = [phone_of(stage, rings_in_vain(stage.callee)), phone_of(stage, takes_it(other(stage)))]
    caller = stage.phone(stage.calls().dials().is_answered().pauses(200).hangs_up())
    stage.flawless(caller, *phones)
    cdr = stage.cdr()
    assert (cdr.result, cdr.callee, cdr.answered_by) == (Result.ANSWERED, stage.callee, other(stage))


def test_an_extension_without_a_phone_forwards_and_the_last_failure_is_heard(stage: Stage) -> None:
    put(stage, f"extensions/{stage.callee}/settings", unregistered=other(stage))
    phone = phone_of(stage, is_busy(other(stage)))
    script = stage.calls().dials().expects(100, optional=True).expects(486, has={"Reason": "SIP;cause=486"}).acks()
    stage.flawless(stage.phone(script), phone)
    cdr = stage.cdr()
    assert (cdr.result, cdr.callee, cdr.answered_by, cdr.ended_by) == (Result.BUSY, stage.callee, "", Party.CALLEE)


def test_a_group_rings_in_turn_until_one_answers(stage: Stage) -> None:
    members = [stage.callee, other(stage), other(stage, 2)]
    put(stage, "dialplan/group/turn", members=[{"number": n} for n in members], strategy="in_turn", ring_s=1)
    put(stage, "dialplan/route/turn", pattern="7001", to="group:turn")
    scripts = (rings_in_vain(members[0]), is_busy(members[1]), takes_it(members[2]))
    phones = [phone_of(stage, script) for script in scripts]
    caller = Script("caller", stage.caller, rings="7001").dials().is_answered().pauses(200).hangs_up()
    stage.flawless(stage.phone(caller), *phones)
    cdr = stage.cdr()
    assert (cdr.result, cdr.callee, cdr.answered_by) == (Result.ANSWERED, "7001", members[2])


def test_a_group_rings_all_at_once_and_a_late_offer_is_answered(stage: Stage) -> None:
    members = [stage.callee, other(stage)]
    put(stage, "dialplan/group/all", members=[{"number": n} for n in members])
    put(stage, "dialplan/route/all", pattern="7002", to="group:all")
    loser = Script("loser", members[0]).expects_request("INVITE").replies(180)
    loser.expects_request("CANCEL", has={"Reason": "SIP;cause=200"}).replies(200, to="CANCEL").replies(487)
    winner = Script("winner", members[1]).expects_request("INVITE").replies(180).pauses(300)
    winner.replies(200, sdp()).expects_request("ACK", says="m=audio").is_hung_up()
    phones = [phone_of(stage, loser.expects_request("ACK")), phone_of(stage, winner)]
    caller = Script("caller", stage.caller, rings="7002").dials("").expects(100, optional=True)
    caller.expects(180).expects(200, says="m=audio").acks(sdp()).pauses(200).hangs_up()
    stage.flawless(stage.phone(caller), *phones)
    assert stage.cdr().answered_by == members[1]


def test_a_phone_turns_do_not_disturb_on_and_is_not_rung_any_more(stage: Stage) -> None:
    code = Script("code", stage.callee, rings="*78").dials().is_answered().is_hung_up()
    stage.flawless(stage.phone(code))
    assert get(stage, f"extensions/{stage.callee}/settings") == {"do_not_disturb": True}
    script = stage.calls().dials().expects(100, optional=True).expects(480, has={"Reason": "Do not disturb"}).acks()
    stage.flawless(stage.phone(script))
    assert stage.cdr().result is Result.UNREACHABLE


def test_a_class_of_service_refuses_in_words(stage: Stage) -> None:
    put(stage, "dialplan/class/lobby", allow=["1!"])
    put(stage, f"extensions/{stage.caller}/settings", **{"class": "lobby"})
    script = stage.calls().dials().expects(100, optional=True)
    stage.flawless(stage.phone(script.expects(403, has={"Reason": "Not allowed by class lobby"}).acks()))
    assert stage.cdr().result is Result.FAILED
