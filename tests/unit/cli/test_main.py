"""The command line: where `--config` may stand, what goes to which stream, and what the exit code says."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from cyclopts import App

import warden
from warden.cli.main import commands, run
from warden.cli.settings import Given
from warden.core.errors import Unavailable


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[Path]:
    """Commands are given in a folder of their own, where no settings lie that nobody has put there."""
    folder = tmp_path / "here"
    folder.mkdir()
    with chdir(folder):
        yield folder


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "good.yml"
    path.write_text("sip: {bind_port: 5070}\nhigh_availability: {registration_sync: {enabled: true}}\n")
    return str(path)


@pytest.fixture
def bad(tmp_path: Path) -> str:
    path = tmp_path / "bad.yml"
    path.write_text("sip:\n  bind_prot: 5070\nhttp: {port: x}\n")
    return str(path)


def test_version_and_help_are_told_and_succeed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands(), ["--version"], {}) == 0
    assert capsys.readouterr().out == f"warden {warden.__version__}\n"
    assert run(commands(), ["--help"], {}) == 0
    assert "config" in capsys.readouterr().out


def test_config_may_stand_before_or_after_the_subcommand_or_in_the_environment(
    capsys: pytest.CaptureFixture[str], good: str, bad: str
) -> None:
    for argv, environ in (
        (["--config", good, "config", "check"], {}),
        (["config", "check", "--config", good], {}),
        (["config", "--config", good, "check"], {"WARDEN_CONFIG": bad}),
        (["config", "check"], {"WARDEN_CONFIG": good}),
        (["config", "check", good], {"WARDEN_CONFIG": bad}),
    ):
        assert run(commands(), argv, environ) == 0
        assert capsys.readouterr().out.endswith(f"{good}: ok\n")


def test_check_says_ok_and_what_has_no_effect_yet(capsys: pytest.CaptureFixture[str], good: str) -> None:
    assert run(commands(), ["config", "check", good], {}) == 0
    what = "high_availability.registration_sync.enabled: accepted, but has no effect yet"
    assert capsys.readouterr().out == f"{good}:2: {what}\n{good}: ok\n"


def test_check_prints_every_problem_and_fails(capsys: pytest.CaptureFixture[str], bad: str) -> None:
    assert run(commands(), ["config", "check", bad], {}) == 1
    assert capsys.readouterr().out == (
        f"{bad}:2: sip.bind_prot: unknown key; did you mean bind_port?\n{bad}:3: http.port: must be a whole number\n"
    )
    assert run(commands(), ["config", "check", bad, "--json"], {}) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert len(told["problems"]) == 2
    assert told["no_effect"] == []


def test_check_without_any_file_says_that_the_defaults_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands(), ["config", "check"], {}) == 0
    assert capsys.readouterr().out == "no file is named and no config.yml is here, so the defaults hold: ok\n"


def test_config_yml_of_the_working_folder_is_used_where_no_other_file_is_named(
    capsys: pytest.CaptureFixture[str], folder: Path, good: str
) -> None:
    here = folder / "config.yml"
    here.write_text("sip: {bind_port: 5090}\n")
    for argv, environ, port in (
        (["serve"], {}, 5090),
        (["serve"], {"WARDEN_CONFIG": ""}, 5090),
        (["serve"], {"WARDEN_CONFIG": good}, 5070),
        (["serve", "--config", good], {}, 5070),
    ):
        assert run(small_app(), argv, environ) == 0
        assert capsys.readouterr().out == f"port {port}\n"
    assert run(commands(), ["config", "check"], {}) == 0
    assert capsys.readouterr().out == "config.yml: ok\n"
    assert run(commands(), ["--help"], {}) == 0
    assert "config.yml" in capsys.readouterr().out
    here.unlink()
    here.symlink_to("gone.yml")
    assert run(small_app(), ["serve"], {}) == 2
    assert capsys.readouterr().err == "config.yml: cannot be read: no such file or directory\n"


def test_whatever_a_command_makes_is_for_its_owner_only(folder: Path) -> None:
    loose = os.umask(0o022)
    try:
        argv = [sys.executable, "-m", "warden", "extension", "add", "1001", "--password-stdin"]
        done = subprocess.run(argv, input=b"opens-sesame\n", capture_output=True, env={}, check=True)
    finally:
        os.umask(loose)
    assert done.stdout == b"extension 1001 added to data/warden.sqlite\n"
    made = sorted((folder / "data").iterdir())
    assert made
    assert [path.name for path in (folder / "data", *made) if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize(
    "argv",
    [
        ["nonsense"],
        ["config", "nonsense"],
        ["config", "check", "--nonsense"],
        ["--config"],
        ["config", "check", "a", "b"],
    ],
)
def test_a_wrong_command_line_is_one_clear_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    assert run(commands(), argv, {}) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("warden: ")
    assert err.count("\n") == 1


def small_app() -> App:
    """A command tree whose commands end in every way there is."""
    app = App(print_error=False, exit_on_error=False, result_action="return_value")

    @app.command
    async def serve(*, settings: Given) -> None:
        sys.stdout.write(f"port {settings.load().sip.bind_port}\n")

    @app.command
    def fail() -> int:
        return 1

    @app.command
    def depend() -> None:
        raise Unavailable("database db1: does not answer\nat all")

    @app.command
    def look(file: Path, /) -> None:
        sys.stdout.write(file.read_text())

    @app.command
    def wait() -> None:
        raise KeyboardInterrupt

    return app


def test_a_command_gets_the_settings_and_may_be_a_coroutine(capsys: pytest.CaptureFixture[str], good: str) -> None:
    assert run(small_app(), ["serve", "--config", good], {}) == 0
    assert run(small_app(), ["serve"], {}) == 0
    assert capsys.readouterr().out == "port 5070\nport 5060\n"


def test_wrong_settings_end_every_command_with_all_problems_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], bad: str
) -> None:
    assert run(small_app(), ["serve"], {"WARDEN_CONFIG": bad}) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"{bad}:2: sip.bind_prot: unknown key; did you mean bind_port?",
        f"{bad}:3: http.port: must be a whole number",
    ]


def test_what_fails_is_told_in_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(small_app(), ["fail"], {}) == 1
    assert capsys.readouterr() == ("", "")
    assert run(small_app(), ["depend"], {}) == 1
    assert capsys.readouterr() == ("", "warden: database db1: does not answer at all\n")
    assert run(small_app(), ["look", str(tmp_path / "gone")], {}) == 1
    assert capsys.readouterr() == ("", f"warden: {tmp_path}/gone: no such file or directory\n")


def test_an_interrupt_ends_quietly_with_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(small_app(), ["wait"], {}) == 130
    assert capsys.readouterr() == ("", "")
