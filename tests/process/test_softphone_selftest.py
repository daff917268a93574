"""The self test against a real node, and against what stands in a node's place when something is wrong."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from warden.cli.selftest import show
from warden.config.load import load
from warden.node.data import prepared_database
from warden.ops import selftest

from pbx import Pbx


@pytest.fixture
def pbx(tmp_path: Path) -> Iterator[Pbx]:
    pbx = Pbx(tmp_path, pairs=20)
    yield pbx
    pbx.close()


def change(pbx: Pbx, old: str, new: str) -> None:
    pbx.file.write_text(pbx.file.read_text().replace(old, new))


async def report_of(pbx: Pbx, *, directory_s: float = 10.0) -> selftest.Report:
    """What the self test finds; it leaves no extension behind."""
    config = load(pbx.file, {})
    async with prepared_database(config) as durable:
        report = await selftest.run(config, durable, talk_s=0.6, directory_s=directory_s)
        assert list(await durable.extensions()) == []
    return report


@pytest.mark.alone
def test_a_working_node_passes_and_both_directions_are_heard_and_counted(pbx: Pbx) -> None:
    pbx.start()
    done = pbx.run("selftest", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], report["problems"]) == (0, True, [])
    for way in report["hearing"]:
        assert way["heard"]
        assert not way["own_tone"]
        assert way["received"] == way["sent"] > 140
    assert report["cdr"]["result"] == "answered"
    assert report["answered_ms"] > report["ringing_ms"] > 0
    assert "selftest" not in pbx.run("extension", "list").stdout


def test_nobody_at_the_port_is_told_with_the_port_and_what_to_do(pbx: Pbx) -> None:
    done = pbx.run("selftest")
    said = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert f"wrong: nobody listens on UDP 127.0.0.1:{pbx.sip_port}: the node does not run there" in said
    assert "look at: start it with `warden serve`" in said


async def test_a_silent_port_and_one_that_speaks_no_sip_are_told_apart(pbx: Pbx) -> None:
    with closing(socket.socket(type=socket.SOCK_DGRAM)) as sock:
        sock.bind(("127.0.0.1", pbx.sip_port))
        sock.setblocking(False)
        report = await report_of(pbx)
        assert report.problems == (f"no answer from UDP 127.0.0.1:{pbx.sip_port} within 2 s",)

        def answer() -> None:
            sock.sendto(b"what?", sock.recvfrom(2048)[1])

        loop = asyncio.get_running_loop()
        loop.add_reader(sock.fileno(), answer)
        report = await report_of(pbx)
        loop.remove_reader(sock.fileno())
        assert "does not speak SIP" in report.problems[0]


async def test_a_node_with_another_database_is_told_apart_from_a_broken_one(pbx: Pbx, tmp_path: Path) -> None:
    pbx.start()
    (tmp_path / "other").mkdir()
    other = Pbx(tmp_path / "other", pairs=20)
    change(other, f"bind_port: {other.sip_port}", f"bind_port: {pbx.sip_port}")
    report = await report_of(other, directory_s=0.5)
    assert "is refused (401)" in report.problems[0]
    assert "another database" in report.hints[0]
    assert str(other.data) in report.hints[0]


async def test_audio_sent_to_a_wrong_address_is_told_with_the_setting_to_look_at(pbx: Pbx) -> None:
    change(pbx, "  port_range:", "  advertise_address: 127.0.0.77\n  port_range:")
    pbx.start()
    report = await report_of(pbx)
    assert report.problems == ("no audio either way",)
    assert any("rtp.advertise_address: 127.0.0.77" in hint for hint in report.hints)
    assert report.cdr is not None


def test_the_report_for_people_says_what_is_wrong_and_where_to_look() -> None:
    deaf = selftest.Hearing("a", "b", 440, False, 150, 0, 150, 0, 0, 0.0, 0.0)
    good = selftest.Hearing("b", "a", 620, True, 150, 150, 0, 0, 0, 21.0, 0.3)
    report = selftest.Report(
        "127.0.0.1:5060", ("one-way audio [from a to b]",), ("see the firewall",), 1.0, 2.0, 3.0, (deaf, good)
    )
    text = StringIO()
    show(report, Console(width=120, file=text, highlight=False))
    for part in ("ringing after 2 ms", "0 of 150", "wrong: one-way audio [from a to b]", "look at: see the firewall"):
        assert part in text.getvalue()
    assert text.getvalue().rstrip().endswith("the node does not work")
