"""Transfers with SIPp: what each of the three phones is told, message by message."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from warden.call.cdr import Cdr, Result

from pbx import free_ports
from sipp_process import Sipp
from sipp_scenario import Script, sdp
from sipp_stage import Node, Stage, is_quiet, run_node, total

OTHER = "v=0\no=u 1 {version} IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 45678 RTP/AVP 8\n"
"""A target that speaks nothing but A-law."""


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


def third(stage: Stage) -> Script:
    """What a phone of another number does, still empty."""
    return Script("target", next(stage.node.numbers)[1])


def waits(stage: Stage, script: Script) -> tuple[str, Sipp]:
    """The phone registers and waits for calls."""
    (port,) = free_ports(1)
    phone = stage.phone(script, port=port, is_called=True)
    stage.register(script.number, port)
    return script.number, phone


def refers(script: Script, to: str) -> Script:
    """Send a REFER, and once more with the proof of who asks."""
    fields = f"Refer-To: <{to}>\nReferred-By: <sip:{script.number}@127.0.0.1>"
    script.pauses(200).requests("REFER", fields=fields).expects(401, auth=True)
    return script.requests("REFER", fields=fields, proof=True).expects(202)


def hears(script: Script, status: int, *, final: bool = False) -> Script:
    state = "terminated;reason=noresource" if final else "active;expires="
    script.expects_request("NOTIFY", has={"Event": "refer;id=", "Subscription-State": state}, says=f"SIP/2.0 {status} ")
    return script.replies(200, to="NOTIFY")


def cdrs(stage: Stage, count: int) -> list[Cdr]:
    stage.node.until(lambda m: total(m, "pbx_cdrs_waiting") == 0 and is_quiet(m))
    return [x for x in stage.node.pbx.cdrs(count, within_s=0) if stage.callee in (x.caller, x.callee)]


def test_a_blind_transfer_is_a_reinvite_for_the_caller_and_a_call_for_the_target(stage: Stage) -> None:
    """The caller and the target agree on a codec anew, though the caller was on hold."""
    target = third(stage).expects_request("INVITE", has={"Referred-By": stage.callee, "From": stage.caller})
    target.replies(180).pauses(300).replies(200, OTHER.format(version=1))
    target.expects_request("ACK", says="RTP/AVP 8").pauses(200).hangs_up()
    number, target_phone = waits(stage, target)
    referrer = stage.answers("referrer").answers().pauses(200).requests("INVITE", sdp("sendonly", version=2))
    referrer.expects(100, optional=True).expects(200).acks()
    refers(referrer, f"sip:{number}@127.0.0.1")
    hears(hears(hears(referrer, 100), 180), 200, final=True).is_hung_up()
    caller = stage.calls().dials().is_answered()
    caller.expects_request("INVITE", says="a=sendonly").replies(200, sdp("recvonly", version=2)).expects_request("ACK")
    caller.expects_request("INVITE", says="RTP/AVP 8").replies(200, sdp(version=3, codecs="8"))
    caller.expects_request("ACK").is_hung_up()
    referrer_phone = stage.called(referrer, "-auth_uri", "127.0.0.1")
    stage.flawless(stage.phone(caller), referrer_phone, target_phone)
    (cdr,) = cdrs(stage, 1)
    assert (cdr.caller, cdr.answered_by) == (stage.caller, stage.callee)
    assert (cdr.transferred_by, cdr.transferred_to, cdr.result) == (stage.callee, number, Result.ANSWERED)


def test_a_busy_target_leaves_the_caller_with_the_referrer(stage: Stage) -> None:
    target = third(stage).expects_request("INVITE").replies(486).expects_request("ACK")
    number, target_phone = waits(stage, target)
    referrer = refers(stage.answers("referrer").answers(), f"sip:{number}@127.0.0.1")
    hears(hears(referrer, 100), 486, final=True).pauses(100).hangs_up()
    caller = stage.calls().dials().is_answered().is_hung_up()
    referrer_phone = stage.called(referrer, "-auth_uri", "127.0.0.1")
    stage.flawless(stage.phone(caller), referrer_phone, target_phone)
    (cdr,) = cdrs(stage, 1)
    assert (cdr.transferred_by, cdr.transferred_to) == ("", "")


def test_an_attended_transfer_joins_the_two_that_the_referrer_talked_with(stage: Stage) -> None:
    target = third(stage).answers()
    target.expects_request("INVITE").replies(200, OTHER.format(version=2)).expects_request("ACK", says="RTP/AVP 8")
    number, target_phone = waits(stage, target.is_hung_up())
    second = Script("second", stage.callee, rings=number).dials().is_answered().is_hung_up()
    second_phone = stage.phone(second)
    replaces = quote(replaced(second_phone), safe="")
    referrer = refers(stage.answers("referrer").answers(), f"sip:{number}@127.0.0.1?Replaces={replaces}")
    hears(hears(referrer, 100), 200, final=True).is_hung_up()
    caller = stage.calls().dials().is_answered()
    caller.expects_request("INVITE", says="RTP/AVP 8").replies(200, sdp(version=2, codecs="8"))
    caller.expects_request("ACK").pauses(200).hangs_up()
    referrer_phone = stage.called(referrer, "-auth_uri", "127.0.0.1")
    stage.flawless(stage.phone(caller), referrer_phone, second_phone, target_phone)
    found = {cdr.caller: cdr for cdr in cdrs(stage, 2)}
    first, other = found[stage.caller], found[stage.callee]
    assert (first.answered_by, first.transferred_by, first.transferred_to) == (stage.callee, stage.callee, number)
    assert (other.answered_by, other.transferred_by, other.transferred_to) == (number, stage.callee, stage.caller)


def test_somebody_takes_the_place_of_the_callee_by_an_invite_with_replaces(stage: Stage) -> None:
    callee = stage.answers().answers().is_hung_up()
    callee_phone = stage.called(callee)
    caller = stage.calls().dials().is_answered()
    caller.expects_request("INVITE", says="RTP/AVP 8").replies(200, sdp(version=2, codecs="8"))
    caller_phone = stage.phone(caller.expects_request("ACK").is_hung_up())
    call_id, theirs, ours = re.split(";to-tag=|;from-tag=", replaced(callee_phone))
    number = next(stage.node.numbers)[0]
    taker = Script("taker", number, rings=stage.callee)
    taker.dials(
        OTHER.format(version=1), fields=f"Replaces: {call_id};to-tag={ours};from-tag={theirs}\nRequire: replaces"
    )
    taker.is_answered("RTP/AVP 8").pauses(200).hangs_up()
    stage.flawless(stage.phone(taker), caller_phone, callee_phone)
    (cdr,) = cdrs(stage, 1)
    assert (cdr.caller, cdr.transferred_by, cdr.transferred_to) == (stage.caller, stage.callee, number)


def replaced(phone: Sipp) -> str:
    """The call of a phone that called as its far end would be told of it, once it stands."""
    until = time.monotonic() + 10
    while "\nACK sip:" not in (said := phone.messages()).rpartition("SIP/2.0 200")[2]:
        assert time.monotonic() < until, said
        time.sleep(0.05)  # SIPp tells only by what it writes down.
    answer = said.rpartition("SIP/2.0 200")[2]
    call_id, ours, theirs = (
        re.search(pattern, answer, re.IGNORECASE)
        for pattern in (r"\nCall-ID: *(\S+)", r"\nTo:.*;tag=(\S+)", r"\nFrom:.*;tag=(\S+)")
    )
    assert call_id
    assert ours
    assert theirs
    return f"{call_id[1]};to-tag={ours[1]};from-tag={theirs[1]}"
