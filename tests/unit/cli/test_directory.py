"""Extensions and tokens at the command line: what is refused, and that every answer names the database."""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import NamedTuple

import pytest

from warden.cli.main import commands, run


class Done(NamedTuple):
    code: int
    out: str
    err: str


Warden = Callable[..., Done]


@pytest.fixture
def warden(tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]) -> Iterator[Warden]:
    """A command line in a folder of its own, as an operator may type it: bytes that are no text included."""
    terminal = sys.stdin

    def command(*argv: str | bytes, given: bytes = b"opens-sesame\n") -> Done:
        sys.stdin = io.TextIOWrapper(io.BytesIO(given), encoding="utf-8")
        return Done(run(commands(), [os.fsdecode(word) for word in argv], {}), *capsys.readouterr())

    with chdir(tmp_path_factory.mktemp("here")):
        yield command
    sys.stdin = terminal


def refusal(done: Done) -> str:
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("warden: ")
    assert done.err.count("\n") == 1
    return done.err.removeprefix("warden: ")


def test_every_answer_names_the_database_so_that_a_wrong_folder_is_seen(warden: Warden) -> None:
    add = ("extension", "add", "1001", "--name", "[Ada]", "--password-stdin")
    assert warden(*add).out == "extension 1001 added to data/warden.sqlite\n"
    assert "is in data/warden.sqlite already" in refusal(warden(*add))
    passwd = ("extension", "passwd", "1001", "--password-stdin")
    assert warden(*passwd).out == "extension 1001 has a new password in data/warden.sqlite\n"
    assert "[Ada]" in warden("extension", "list").out
    (listed,) = json.loads(warden("extension", "list", "--json").out)
    assert (listed["number"], listed["name"]) == ("1001", "[Ada]")
    assert warden("extension", "remove", "1001").out == "extension 1001 removed from data/warden.sqlite\n"
    assert "there is none in data/warden.sqlite" in refusal(warden("extension", "remove", "1001"))
    assert "no extension in data/warden.sqlite yet" in warden("extension", "list").out

    assert warden("user", "token", "wall board").out.startswith("wdn_")
    assert "wall board" in warden("user", "list").out
    assert [x["role"] for x in json.loads(warden("user", "list", "--json").out)] == ["viewer"]
    assert warden("user", "revoke", "wall board").out == ("token wall board revoked in data/warden.sqlite\n")
    assert "no token in data/warden.sqlite yet" in warden("user", "list").out


@pytest.mark.parametrize(
    ("argv", "given", "why"),
    [
        (("extension", "add", "1001", "--name", b"J\xf6rg", "--password-stdin"), b"opens-sesame\n", "its name"),
        (("extension", "add", "1001", "--name", "a\tb", "--password-stdin"), b"opens-sesame\n", "its name"),
        (("extension", "add", b"10\xf6", "--password-stdin"), b"opens-sesame\n", "a number is"),
        (("extension", "add", "1001", "--password-stdin"), b"opens\xffsesame\n", "must be text (UTF-8)"),
        (("extension", "add", "1001", "--password-stdin"), b"opens\x1bsesame\n", "its password: must be text"),
        (("extension", "add", "*43", "--password-stdin"), b"opens-sesame\n", "this number is the echo test"),
        (("extension", "passwd", b"\xf6", "--password-stdin"), b"opens-sesame\n", "a number is"),
        (("extension", "remove", b"\xf6"), b"", "there is none"),
        (("user", "token", b"\xf6"), b"", "its name: must be text"),
        (("user", "token", "a\nb"), b"", "its name: must be text"),
        (("user", "token", ""), b"", "1 to 64 characters"),
        (("user", "token", "x" * 65), b"", "1 to 64 characters"),
        (("user", "revoke", b"\xf6"), b"", "there is none"),
    ],
)
def test_what_is_no_text_or_no_number_is_refused_in_one_line(
    warden: Warden, argv: tuple[str | bytes, ...], given: bytes, why: str
) -> None:
    assert why in refusal(warden(*argv, given=given))
    if argv[1] in ("add", "token"):
        assert not Path("data").exists()
