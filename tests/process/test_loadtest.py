"""The load test against a real node: what it counts is what the node has done, and it leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from warden.call.cdr import Result
from warden.cli import main

from pbx import Pbx, password_of

SCRIPT = Path(__file__).parents[2] / "scripts" / "load_test_sip.py"


@pytest.fixture(scope="module")
def pbx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pbx]:
    pbx = Pbx(tmp_path_factory.mktemp("node"), pairs=100)
    with pbx.up():
        yield pbx


def command(pbx: Pbx, *options: str) -> list[str]:
    """The guide's script, told where this node is; its port is in the settings."""
    where = [] if "--pbx-host" in options else ["--pbx-host", "127.0.0.1"]
    return [sys.executable, str(SCRIPT), *where, "--config", str(pbx.file), *options]


def printed(pbx: Pbx, capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a `warden` command prints."""
    assert main.run(main.commands(), ["--config", str(pbx.file), *argv], {}) == 0
    return capsys.readouterr().out


def standing(pbx: Pbx) -> int:
    """How many calls the node has."""
    token = (pbx.data / "operator.token").read_text()
    answer = httpx.get(
        f"http://127.0.0.1:{pbx.http_port}/api/v1/calls", headers={"Authorization": f"Bearer {token.strip()}"}
    )
    return len(answer.json()["items"])


def run(pbx: Pbx, *options: str, password: str = "") -> "subprocess.CompletedProcess[str]":
    environ = os.environ | ({"WARDEN_LOADTEST_PASSWORD": password} if password else {})
    return subprocess.run(command(pbx, *options), env=environ, text=True, capture_output=True, check=False, timeout=100)


def test_thirty_calls_at_ten_a_time_are_made_with_audio_and_each_has_its_record(
    pbx: Pbx, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    options = "--concurrent-calls 10 --total-calls 30 --call-duration 1 --ramp-up 0.8 --measured 4"
    done = run(pbx, *options.split(), "--save-report", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all went well" in done.stdout
    told: dict[str, Any] = json.loads(file.read_text())
    assert (told["ok"], told["problems"], told["breaches"]) == (True, [], [])
    calls, voice = told["calls"], told["voice"]
    assert (calls["tried"]["attempted"], calls["tried"]["ok"], calls["answered"]) == (30, 30, 30)
    assert 5 < calls["peak"] <= 10
    assert 0 < calls["ringing_ms"]["p50"] <= calls["setup_ms"]["p50"] <= calls["setup_ms"]["max"]
    # Four places of ten are measured, each call in both directions; a call of a second has about fifty packets. Whose
    # place is free first depends on who is done first.
    assert 16 <= voice["directions_measured"] <= 32
    assert voice["packets_sent"] > voice["directions_measured"] * 45
    assert voice["mos_median"] > 4.0
    assert told["registrations"]["tried"]["ok"] == 20
    assert [cdr.result for cdr in pbx.cdrs(30)] == [Result.ANSWERED] * 30
    assert "loadtest" not in printed(pbx, capsys, "extension", "list")


def test_phones_register_again_and_again_where_that_is_what_is_tested(pbx: Pbx) -> None:
    options = "--test-type registrations --users 20 --duration 1.5 --ramp-up 0.5 --refresh 0.5 --json"
    done = run(pbx, *options.split())
    told = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert (told["calls"], told["voice"]) == (None, None)
    tried = told["registrations"]["tried"]
    # All of them once, and most of them again.
    assert tried["ok"] == tried["attempted"] > 30


def test_a_wrong_password_is_tried_once_and_told(pbx: Pbx, capsys: pytest.CaptureFixture[str]) -> None:
    pbx.add_extensions("1000", "1001")
    done = run(pbx, "--sip-port", str(pbx.sip_port), "--concurrent-calls", "1", password=password_of("another"))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    where = f"UDP 127.0.0.1:{pbx.sip_port}"
    why = "(401 Unauthorized): is the password right, and the number there?"
    assert line == f"warden: 1001 is refused by {where} {why}"
    # Twenty phones with a wrong password would have got this machine banned.
    assert json.loads(printed(pbx, capsys, "bans", "list", "--json")) == []


def test_an_interrupted_test_hangs_up_and_tells_what_it_has_seen(pbx: Pbx, capsys: pytest.CaptureFixture[str]) -> None:
    before = len(pbx.cdrs(0))
    options = "--concurrent-calls 3 --duration 600 --call-duration 600 --ramp-up 0 --json"
    with subprocess.Popen(
        command(pbx, *options.split()), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as test:
        until = time.monotonic() + 60
        while standing(pbx) < 3:
            assert time.monotonic() < until, "the calls did not come up"
            time.sleep(0.1)  # Nobody is told when calls stand.
        test.send_signal(signal.SIGINT)
        out, err = test.communicate(timeout=60)
    assert test.returncode == 130, err
    told = json.loads(out)
    assert (told["interrupted"], told["ok"], told["problems"]) == (True, False, ["it was interrupted"])
    assert told["calls"]["tried"]["ok"] == told["calls"]["tried"]["attempted"] == 3
    assert [cdr.result for cdr in pbx.cdrs(before + 3)] == [Result.ANSWERED] * (before + 3)
    assert standing(pbx) == 0
    assert "loadtest" not in printed(pbx, capsys, "extension", "list")


@pytest.fixture
def absent(tmp_path: Path) -> Iterator[Pbx]:
    """A node that has never run."""
    absent = Pbx(tmp_path, pairs=20)
    yield absent
    absent.close()


def test_what_cannot_be_tested_is_told_in_one_line(absent: Pbx, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*options: str, **environ: str) -> tuple[int, str]:
        return main.run(main.commands(), ["loadtest", *command(absent, *options)[2:]], environ), capsys.readouterr().err

    password = {"WARDEN_LOADTEST_PASSWORD": "any word will do"}
    port = str(absent.sip_port)
    assert told("--sip-port", port, **password) == (1, f"warden: nobody listens on UDP 127.0.0.1:{absent.sip_port}\n")
    code, said = told("--pbx-host", "there.invalid", **password)
    assert (code, said[:48]) == (1, "warden: there.invalid: there is no such host (na")
    code, said = told()
    assert code == 1
    assert "who are the phones? Give --accounts, --password-file or WARDEN_LOADTEST_PASSWORD" in said
    assert not absent.data.exists()
    few = "loadtest: --users 3: 2 concurrent calls need 4, two for each\n"
    assert told("--users", "3", "--concurrent-calls", "2") == (2, few)
    assert told("--concurrent-calls", "two")[0] == 2
    assert told("--save-report", "no-such-folder/report.json")[0] == 2


def test_a_limit_of_open_files_is_told_with_what_is_needed(absent: Pbx) -> None:
    done = subprocess.run(
        ["bash", "-c", 'ulimit -n 90 && exec "$@"', "bash", *command(absent)],
        env=os.environ | {"WARDEN_LOADTEST_PASSWORD": "any word will do"}, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("warden: the phones need 104 open files, and this process may have 90: fewer")
