"""Carriers: Kamailio, which asks for proofs and routes by its registrations, and SIPp, which is nothing but trouble."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from warden.call.cdr import Party, Result
from warden.store.ports import Item
from warden.switch.trunks.sealed import seal

from kamailio import REALM, USER, WORD, Kamailio
from pbx import free_ports
from sipp_process import Sipp
from sipp_scenario import Script, sdp
from sipp_stage import Node, Stage, is_quiet, run_node, total

SECRET = "the secret of the cluster, for seals"
FAR = "441234567"
DID = "4930555"
"""Before the number of an extension: how it is called from outside."""


def item(kind: str, name: str, **body: object) -> Item:
    return Item(kind, name, json.dumps(body))


def trunk(name: str, *ports: int, word: str = WORD, **more: object) -> Item:
    password = seal(SECRET.encode(), word, name.encode().ljust(12)[:12])
    targets = [f"127.0.0.1:{port}" for port in ports]
    return item("trunk", name, targets=targets, username=USER, password=password, **more)


class Outside:
    """The ports outside: Kamailio's, of who calls over it and whom it calls, and those of SIPp's carriers."""

    def __init__(self) -> None:
        self.kamailio, self.caller, self.callee, self.one, self.two, self.three, self.tcp, *self.slow = free_ports(9)


@pytest.fixture(scope="module")
def outside() -> Outside:
    return Outside()


@pytest.fixture(scope="module")
def kamailio(outside: Outside, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kamailio]:
    folder = tmp_path_factory.mktemp("carrier") / "kamailio"
    carrier = Kamailio(folder, outside.kamailio, from_outside=outside.caller, to_outside=outside.callee)
    try:
        carrier.start()
        yield carrier
    finally:
        carrier.close()


@pytest.fixture(scope="module")
def node(outside: Outside, kamailio: Kamailio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    items = (
        trunk("kamailio", kamailio.port, register=True, domain=REALM, caller_id=DID + "{extension}"),
        trunk("wrong", kamailio.port, register=True, domain=REALM, word="not the carriers word"),
        item("trunk", "lost", targets=["carrier.invalid"]),
        trunk("two", outside.one, outside.two, probe_s=0, answer_within_s=1),
        trunk("three", outside.three, probe_s=0, answer_within_s=1),
        trunk("slow", *outside.slow, probe_s=0, answer_within_s=1),
        item("route", "kamailio", pattern="00.", to="outbound:kamailio"),
        item("outbound", "kamailio", trunks=["kamailio"], strip=2, prepend="+"),
        item("route", "sipp", pattern="01.", to="outbound:sipp"),
        item("outbound", "sipp", trunks=["two", "three"], strip=2),
        item("trunk", "tcp", targets=[f"127.0.0.1:{outside.tcp};transport=tcp"], probe_s=0),
        item("route", "tcp", pattern="03.", to="outbound:tcp"),
        item("outbound", "tcp", trunks=["tcp"], strip=2),
        item("route", "slow", pattern="02.", to="outbound:slow"),
        item("outbound", "slow", trunks=["slow"], strip=2),
        item("inbound", "dids", pattern=DID + "XXXX", strip=len(DID)),
    )
    yield from run_node(tmp_path_factory.mktemp("node"), config=f'secret: "{SECRET}"\n', items=items)


@pytest.fixture
def stage(node: Node, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(node, tmp_path)
    try:
        yield stage
    finally:
        stage.close()
    node.until(is_quiet)


def outsider(name: str, number: str = FAR) -> Script:
    """Somebody in the public network."""
    return Script(name, number)


def carriers_call(tmp_path: Path, outside: Outside, script: Script) -> Sipp:
    """Somebody calls over Kamailio."""
    return Sipp.start(tmp_path / script.name, script, outside.caller, to_port=outside.kamailio)


def test_a_trunk_is_registered_at_kamailio_and_others_say_what_is_wrong_with_them(node: Node) -> None:
    node.until(lambda m: m.get('pbx_trunk_registered{seat="node1",trunk="kamailio"}') == 1)
    node.until(lambda m: total(m, "pbx_trunk_error") == 2)
    done = node.pbx.run("trunk", "status", "--json")
    assert done.returncode == 1, done.stderr
    rows = {row["trunk"]: row for row in msgspec.json.decode(done.stdout)}
    assert (rows["kamailio"]["registered"], rows["kamailio"]["state"], rows["kamailio"]["error"]) == ("yes", "up", "")
    assert rows["wrong"]["registered"] == "no"
    where = f"user {USER} at {rows['wrong']['targets'].split()[0]}"
    assert rows["wrong"]["error"] == f"trunk wrong: 401 Unauthorized for {where}: check username and password"
    assert rows["lost"]["error"].startswith("trunk lost: dns: carrier.invalid")
    assert rows["wrong"]["error"] in json.dumps(node.pbx.status()["warnings"])


def test_a_call_goes_out_over_kamailio_which_asks_for_a_proof(stage: Stage, outside: Outside) -> None:
    shown = {"From": f"sip:{DID}{stage.caller}@{REALM}", "P-Asserted-Identity": f"sip:{DID}{stage.caller}@{REALM}"}
    callee = (
        Script("callee", FAR, behind_proxy=True).expects_request("INVITE", has=shown).replies(180).replies(200, sdp())
    )
    phone = stage.phone(callee.expects_request("ACK").is_hung_up(), port=outside.callee, is_called=True)
    caller = Script("caller", stage.caller, rings=f"00{FAR}").dials().is_answered().pauses(200).hangs_up()
    stage.flawless(stage.phone(caller), phone)
    cdr = stage.cdr()
    assert (cdr.result, cdr.answered_by, cdr.ended_by) == (Result.ANSWERED, f"+{FAR}", Party.CALLER)


def test_a_call_comes_in_over_kamailio_by_the_contact_that_we_registered(
    stage: Stage, tmp_path: Path, outside: Outside
) -> None:
    callee = stage.answers().expects_request("INVITE", has={"From": FAR}).replies(180).replies(200, sdp())
    phone = stage.called(callee.expects_request("ACK").requests("BYE").expects(200))
    script = Script("outside", FAR, rings=DID + stage.callee, behind_proxy=True)
    script.asks("INVITE", sdp()).is_answered().is_hung_up()
    stage.flawless(carriers_call(tmp_path, outside, script), phone)
    stage.node.until(lambda m: total(m, "pbx_cdrs_waiting") == 0 and is_quiet(m))
    (cdr,) = (x for x in stage.node.pbx.cdrs(1, within_s=0) if x.callee == DID + stage.callee)
    assert (cdr.caller, cdr.answered_by, cdr.result) == (FAR, stage.callee, Result.ANSWERED)


def test_what_no_inbound_rule_leads_to_is_nowhere_for_the_carrier(
    stage: Stage, tmp_path: Path, outside: Outside
) -> None:
    for i, called in enumerate((stage.callee, f"00{FAR}", f"{DID}9999")):
        script = Script(f"outside{i}", FAR, rings=called).asks("INVITE", sdp())
        stage.flawless(carriers_call(tmp_path, outside, script.expects(100, optional=True).expects(404).acks()))


def carrier_down(name: str, status: int) -> Script:
    return outsider(name).expects_request("INVITE").replies(status).expects_request("ACK")


def test_the_next_target_is_called_where_one_is_overloaded(stage: Stage, outside: Outside) -> None:
    one = stage.phone(carrier_down("one", 503), port=outside.one, is_called=True)
    two = stage.phone(outsider("two").answers().is_hung_up(), port=outside.two, is_called=True)
    caller = Script("caller", stage.caller, rings=f"01{FAR}").dials().is_answered().pauses(200).hangs_up()
    stage.flawless(stage.phone(caller), one, two)
    assert stage.cdr().answered_by == FAR


def test_the_next_target_is_called_where_one_is_silent(stage: Stage, outside: Outside) -> None:
    silent, other = outside.slow
    one = stage.phone(outsider("one").expects_request("INVITE").pauses(60_000), port=silent, is_called=True)
    two = stage.phone(outsider("two").answers().is_hung_up(), port=other, is_called=True)
    caller = Script("caller", stage.caller, rings=f"02{FAR}").dials().is_answered().pauses(200).hangs_up()
    stage.flawless(stage.phone(caller), two)
    assert one.messages().count("INVITE sip:") >= 2
    one.close()


def test_a_carrier_that_speaks_tcp_is_called_and_calls_over_the_same_connection(stage: Stage, outside: Outside) -> None:
    carrier = outsider("carrier").answers().requests("BYE").expects(200)
    phone = stage.phone(carrier, port=outside.tcp, is_called=True, transport="t1")
    caller = Script("caller", stage.caller, rings=f"03{FAR}").dials().is_answered().is_hung_up()
    stage.flawless(stage.phone(caller), phone)
    assert stage.cdr().ended_by is Party.CALLEE


def test_the_next_trunk_is_called_where_no_target_of_one_takes_the_call(stage: Stage, outside: Outside) -> None:
    """Nobody listens at the second target: the network says so at once."""
    one = stage.phone(carrier_down("one", 500), port=outside.one, is_called=True)
    three = stage.phone(outsider("three").answers().is_hung_up(), port=outside.three, is_called=True)
    caller = Script("caller", stage.caller, rings=f"01{FAR}").dials().is_answered().pauses(200).hangs_up()
    stage.flawless(stage.phone(caller), one, three)


def test_a_storm_of_503_is_told_to_each_caller_at_once_and_leaves_nothing_behind(
    stage: Stage, outside: Outside
) -> None:
    calls = 50
    for name, port in (("one", outside.one), ("two", outside.two), ("three", outside.three)):
        stage.phone(carrier_down(name, 503), port=port, is_called=True, calls=10 * calls, trace=False)
    caller = Script("caller", stage.caller, rings=f"01{FAR}").dials()
    caller.expects(100, optional=True).expects(500, has={"Reason": "503"}).acks()
    stage.flawless(stage.phone(caller, "-r", "50", calls=calls, trace=False))
    stage.node.until(lambda m: is_quiet(m) and total(m, "pbx_trunk_channels") == 0)


def test_a_node_that_dies_goes_on_with_its_registration_and_its_calls_over_a_trunk(
    stage: Stage, outside: Outside
) -> None:
    pbx = stage.node.pbx

    def seen() -> dict[str, object]:
        token = (pbx.data / "operator.token").read_text()
        url = f"http://127.0.0.1:{pbx.http_port}/api/v1/trunks"
        said = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=10).json()
        (trunk,) = (x for x in said["items"] if x["name"] == "kamailio")
        return {name: trunk[name] for name in ("registered", "registered_until", "channels")}

    callee = Script("callee", FAR, behind_proxy=True).answers().is_hung_up()
    phone = stage.phone(callee, port=outside.callee, is_called=True)
    calling = Script("caller", stage.caller, rings=f"00{FAR}").dials().is_answered().pauses(10_000).hangs_up()
    caller = stage.phone(calling)
    stage.node.until(lambda m: total(m, "pbx_calls", 'phase="up"') == 1)
    before = seen()
    assert before["channels"] == 1
    pbx.kill()
    pbx.start()
    assert seen() == before
    stage.flawless(caller, phone)
    assert stage.cdr().result is Result.ANSWERED
