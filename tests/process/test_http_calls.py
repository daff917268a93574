"""Calls, registrations, CDRs and metrics of a real node with real phones, seen and handled over HTTP."""

import asyncio
import os
import re
import signal
import socket
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from warden.call.cdr import Cdr, Party, Result
from warden.core.address import Address, Transport
from warden.ops.softphone import Refused, Softphone
from warden.ops.sound import Sound
from warden.phone.events import By
from warden.store.durable import open_durable

from pbx import Pbx, password_of

API = "/api/v1"
DOCUMENTED = Path(__file__).parents[2] / "docs" / "metrics.md"
FED_ELSEWHERE = {
    "pbx_adoption_seconds": ("seat",),
    "pbx_known_numbers": ("seat",),
    "pbx_keepalived_up": (),
    "pbx_region_primary": ("region",),
    "pbx_region_term": (),
    "pbx_region_lease_seconds": (),
    "pbx_region_nodes": ("region",),
    "pbx_region_copy_age_seconds": ("seat",),
    "pbx_certificate_expires_timestamp_seconds": ("certificate",),
}
"""What is known in a cluster, with keepalived, or with TLS only; with its labels."""


class Office:
    """A node, its API, and phones."""

    def __init__(self, pbx: Pbx, http: httpx.AsyncClient, stack: AsyncExitStack) -> None:
        self.pbx = pbx
        self.http = http
        self._stack = stack
        self._sound = Sound()
        stack.callback(self._sound.close)

    async def phone(self, number: str, password: str = "", transport: Transport = Transport.UDP) -> Softphone:
        """A phone; nobody has registered it."""
        server, password = Address("127.0.0.1", self.pbx.sip_port), password or password_of(number)
        phone = Softphone(number, password, server, transport=transport, sound=self._sound)
        return await self._stack.enter_async_context(phone)

    async def get(self, path: str, **params: str | int) -> Any:
        """What the API answers with 200."""
        answer = await self.http.get(f"{API}/{path}", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def metrics(self) -> dict[str, Metric]:
        """All metrics by name."""
        text = (await self.http.get("/metrics")).text
        return {metric.name: metric for metric in text_string_to_metric_families(text)}

    async def figures(self) -> dict[str, float]:
        """Every sample with its labels, as it is written: `name{label="value"}`."""
        found = {}
        for metric in (await self.metrics()).values():
            for sample in metric.samples:
                labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
                found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
        return found

    async def until(self, figure: str, value: float) -> None:
        """Wait until a metric has this value."""
        async with asyncio.timeout(20):
            while (await self.figures()).get(figure) != value:
                await asyncio.sleep(0.02)  # Only asking again tells.


@pytest.fixture(scope="module")
def pbx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pbx]:
    pbx = Pbx(tmp_path_factory.mktemp("node"), pairs=20)
    pbx.add_extensions("1001", "1002", names={"1001": "Ann"})
    with pbx.up():
        yield pbx


@pytest.fixture
async def office(pbx: Pbx) -> AsyncIterator[Office]:
    http = httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{pbx.http_port}",
        headers={"Authorization": f"Bearer {(pbx.data / 'operator.token').read_text()}"},
        trust_env=False,
        timeout=30,
    )
    async with http, AsyncExitStack() as stack:
        office = Office(pbx, http, stack)
        yield office
        await stack.aclose()
        status = await office.get("status")
        assert (status["calls"], status["registrations"]) == (0, 0), "nothing is left behind"


async def test_an_extension_made_over_http_registers_at_once_and_is_gone_when_it_is_removed(office: Office) -> None:
    where, before = f"{API}/extensions/3001", await office.figures()
    made = await office.http.post(f"{API}/extensions", json={"number": "3001", "password": "Open-sesame-1"})
    assert made.status_code == 201
    phone = await office.phone("3001", password="Open-sesame-1", transport=Transport.TCP)
    await phone.register(600)
    (one,) = (await office.get("registrations"))["items"]
    assert (one["number"], one["transport"], one["source"]) == ("3001", "tcp", str(phone.address))
    assert 590 < one["expires_in_s"] <= 600
    assert "3001" in one["contact"]
    assert one["instance"].startswith("urn:uuid:")
    assert (await office.get("status"))["registrations"] == 1

    # Another name alone leaves the password as it is; a new password leaves the old one useless.
    assert (await office.http.put(where, json={"name": "Zoe"})).status_code == 200
    await phone.register(600)
    assert (await office.http.put(where, json={"password": "Open-sesame-2"})).status_code == 200
    with pytest.raises(Refused, match="401"):
        await phone.register(600)
    phone.abort()
    other = await office.phone("3001", password="Open-sesame-2")
    await other.register()
    assert len((await office.get("registrations", number="3001"))["items"]) == 2

    assert (await office.http.delete(where)).status_code == 204
    assert (await office.get("registrations"))["items"] == []
    with pytest.raises(Refused, match="401"):
        await other.register()
    after = await office.figures()
    assert after["pbx_registers_total"] - before["pbx_registers_total"] == 3
    assert after["pbx_auth_failures_total"] - before["pbx_auth_failures_total"] >= 2
    assert after["pbx_auth_challenges_total"] - before["pbx_auth_challenges_total"] >= 2


async def test_registrations_come_in_pages_by_number(office: Office) -> None:
    for number in ("1002", "1001", "1001"):
        await (await office.phone(number)).register()
    first = await office.get("registrations", limit=1)
    assert [x["number"] for x in first["items"]] == ["1001", "1001"]
    second = await office.get("registrations", limit=1, after=first["next"])
    assert ([x["number"] for x in second["items"]], second["next"]) == (["1002"], None)
    figures = await office.figures()
    assert (figures['pbx_registrations{seat="node1"}'], figures['pbx_registered_numbers{seat="node1"}']) == (3, 2)


async def test_a_call_is_shown_from_ringing_to_its_record_and_can_be_hung_up(office: Office) -> None:
    ann, bob = await office.phone("1001"), await office.phone("1002")
    await ann.register()
    await bob.register()
    before = await office.figures()

    mine = ann.call("1002")
    await mine.ringing()
    theirs = await bob.next_call()
    (call,) = (await office.get("calls"))["items"]
    assert (call["caller"], call["caller_name"], call["callee"]) == ("1001", "Ann", "1002")
    assert (call["phase"], call["answered_by"], call["answered_at"], call["codec"]) == ("setup", "", None, None)
    assert [(leg["id"], leg["number"], leg["phase"]) for leg in call["legs"]] == [
        ("a", "1001", "offered"),
        ("b0", "1002", "ringing"),
    ]
    assert [leg["address"] for leg in call["legs"]] == [str(ann.address), str(bob.address)]

    await theirs.answer()
    await mine.answered()
    assert await theirs.hears(440)
    where = f"calls/{call['id']}"
    call = await office.get(where)
    assert (call["phase"], call["answered_by"], call["codec"]) == ("up", "1002", "PCMU")
    assert call["duration_s"] >= call["talk_s"] > 0
    assert datetime.fromisoformat(call["started_at"]) <= datetime.fromisoformat(call["answered_at"])
    status = await office.get("status")
    assert (status["calls"], status["unprotected_calls"]) == (1, 0)
    during = await office.figures()
    assert during['pbx_calls{phase="up",seat="node1"}'] == 1
    assert during['pbx_rtp_ports_taken{seat="node1"}'] == 2
    await office.until("pbx_media_sessions", 1)

    assert (await office.http.delete(f"{API}/{where}")).status_code == 204
    assert (await mine.ended()).by is By.PEER
    assert (await theirs.ended()).by is By.PEER
    ended = before["pbx_cdrs_stored_total"] + 1
    await office.until("pbx_cdrs_stored_total", ended)
    cdr = next(x for x in await asyncio.to_thread(office.pbx.cdrs, 1) if x.id == call["id"])
    told = (await office.get("cdrs", limit=1))["items"][0]
    assert (told["id"], told["result"], told["status"], told["ended_by"]) == (cdr.id, "answered", 200, "system")
    assert told["talk_s"] == pytest.approx(cdr.talk_s, abs=0.001)
    assert datetime.fromisoformat(told["ended_at"]).timestamp() == pytest.approx(cdr.ended_at_utc, abs=0.001)

    await office.until('pbx_calls{phase="over",seat="node1"}', 0)
    assert (await office.get("calls"))["items"] == []
    assert (await office.http.get(f"{API}/{where}")).status_code == 404
    assert (await office.http.delete(f"{API}/{where}")).status_code == 404
    after = await office.figures()
    assert after["pbx_calls_started_total"] - before["pbx_calls_started_total"] == 1
    ended_well = 'pbx_calls_ended_total{result="answered",status="200"}'
    assert after[ended_well] - before.get(ended_well, 0) == 1
    assert after["pbx_call_setup_seconds_count"] - before["pbx_call_setup_seconds_count"] == 1
    assert after["pbx_call_setup_seconds_sum"] > before["pbx_call_setup_seconds_sum"]
    assert after["pbx_post_dial_seconds_count"] - before["pbx_post_dial_seconds_count"] == 1
    assert (after['pbx_rtp_ports_taken{seat="node1"}'], after['pbx_rtp_ports{seat="node1"}']) == (0, 20)
    assert after["pbx_database_connections_max"] >= after['pbx_database_connections{state="used"}']
    for grown in ('direction="in",transport="udp"', 'direction="out",transport="udp"'):
        for name in ("pbx_sip_messages_total", "pbx_sip_bytes_total"):
            assert after[f"{name}{{{grown}}}"] > before[f"{name}{{{grown}}}"]
    await office.until("pbx_media_sessions", 0)
    after = await office.figures()
    assert after["pbx_media_packets_total"] >= 25
    assert after["pbx_media_bytes_total"] > after["pbx_media_packets_total"]


async def test_calls_can_be_looked_for_by_number_and_come_in_pages_the_newest_first(office: Office) -> None:
    ann, bob = await office.phone("1001"), await office.phone("1002")
    lines = []
    for caller, target in ((ann, "*43"), (bob, "*43"), (ann, "*43")):
        lines.append(caller.call(target))
        await lines[-1].answered()
    callers, before = [], None
    while True:
        page = await office.get("calls", limit=2, **({} if before is None else {"before": before}))
        callers.append([x["caller"] for x in page["items"]])
        before = page["next"]
        if before is None:
            break
    assert callers == [["1001", "1002"], ["1001"]]
    assert len((await office.get("calls", number="*43"))["items"]) == 3
    (of_bob,) = (await office.get("calls", number="1002"))["items"]
    assert (of_bob["answered_by"], [leg["id"] for leg in of_bob["legs"]]) == ("*43", ["a"])
    for line in lines:
        await line.hang_up()


async def test_cdrs_of_one_moment_are_told_once_each_however_small_the_pages(office: Office) -> None:
    def cdr(n: int) -> Cdr:
        ended_at = 1_769_860_800.1 + n // 4
        party = "7001" if n % 2 else "7002"
        return Cdr(f"{n:04}", party, "7003", ended_at - 60, ended_at, Result.BUSY, 486, Party.CALLEE)

    made = [cdr(n) for n in range(20)]
    durable = open_durable(office.pbx.url)
    await durable.add_cdrs(made)
    await durable.close()

    async def walk(**params: str | int) -> list[str]:
        seen: list[str] = []
        page = await office.get("cdrs", **params)
        while True:
            seen += [x["id"] for x in page["items"]]
            if page["next"] is None:
                return seen
            page = await office.get("cdrs", **params | {"before": page["next"]})

    expected = [x.id for x in sorted(made, key=lambda x: (-x.ended_at_utc, x.id))]
    for limit in (1, 3, 4, 100):
        assert await walk(limit=limit, number="7003") == expected
    assert await walk(limit=3, number="7001") == [x for x in expected if int(x) % 2]
    # The third group ended at 12:00:02.1, and "before" leaves out that moment itself.
    assert await walk(limit=5, before="2026-01-31T12:00:02.1Z") == expected[-8:]
    assert await walk(before="2026-01-31T12:00:02.2Z") == expected[-12:]


async def test_every_metric_is_documented_with_its_type_and_labels_and_nothing_else_is(office: Office) -> None:
    await office.until("pbx_media_sessions", 0)
    trunk = f"{API}/dialplan/trunk/carrier"
    await office.http.put(trunk, json={"targets": ["127.0.0.9:9"], "register": True, "username": "u", "password": "p"})
    await office.until('pbx_trunk_channels{seat="node1",trunk="carrier"}', 0)
    ann = await office.phone("1001")
    with pytest.raises(Refused, match="404"):
        await ann.call("nobody").answered()
    line = ann.call("*43")
    await line.answered()
    await line.hang_up()
    await office.until('pbx_calls{phase="over",seat="node1"}', 0)
    said = {}
    for metric in (await office.metrics()).values():
        if not metric.samples:
            assert metric.name in FED_ELSEWHERE, f"{metric.name} is never fed"
            metric.add_sample(metric.name, dict.fromkeys(FED_ELSEWHERE[metric.name], "x"), 0)
        labels = {label for sample in metric.samples for label in sample.labels} - {"le"}
        said[metric.name + ("_total" if metric.type == "counter" else "")] = (metric.type, labels)
        assert metric.name.startswith("pbx_")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) ?\| .+ \|$", DOCUMENTED.read_text(), re.MULTILINE)
    assert {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in rows} == said
    assert len(rows) == len(said)


async def test_prometheus_finds_nothing_wrong_with_the_metrics(office: Office) -> None:
    said = (await office.http.get("/metrics")).content
    promtool = await asyncio.create_subprocess_exec(
        "promtool", "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=STDOUT
    )
    (told, _) = await promtool.communicate(said)
    assert (promtool.returncode, told.decode()) == (0, "")


async def test_what_is_no_sip_is_counted_for_what_it_is(office: Office) -> None:
    before = await office.figures()
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        for data in (b"GET / SIP/2.0\r\n\r\n", b"what?", b"\r\n\r\n", b"\0\x11\0\0\x21\x12\xa4\x42" + b"\0" * 12):
            sock.sendto(data, ("127.0.0.1", office.pbx.sip_port))
    for figure, more in (
        ('pbx_sip_malformed_total{transport="udp"}', 1),
        ('pbx_sip_rejected_total{reason="transaction"}', 1),
        ('pbx_sip_keep_alives_total{transport="udp"}', 1),
        ('pbx_sip_dropped_total{reason="stun"}', 1),
    ):
        await office.until(figure, before[figure] + more)


async def test_a_node_whose_media_process_hangs_takes_no_new_calls_until_it_is_back(office: Office) -> None:
    pid = office.pbx.media_pid
    assert pid is not None
    ann = await office.phone("1001")
    os.kill(pid, signal.SIGSTOP)
    try:
        line = ann.call("*43")
        await office.until("pbx_accepting_calls", 0)
        answer = await office.http.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "refusing")
        assert answer.json()["reasons"][0].startswith("media process: ")
        assert (await office.figures())["pbx_media_up"] == 0
        # It is no reason to end the node: whoever does that ends its calls.
        assert (await office.http.get("/live")).status_code == 200
        assert (await office.get("status"))["status"] == "refusing"
    finally:
        os.kill(pid, signal.SIGCONT)
    await line.hang_up()
    await office.until("pbx_accepting_calls", 1)
    assert (await office.http.get("/health")).status_code == 200
