"""The log of a node: one form for its own lines and for those of the libraries that it uses."""

import json
import subprocess
import sys

LIBRARIES = """
import logging, sys, warnings
import structlog
from warden.cli.serve import _set_up_log
from warden.config.tree import Log

_set_up_log(Log(level="info", format=sys.argv[1]))
structlog.get_logger().info("our own", seat="a")
logging.getLogger("library").info("of no concern")
logging.getLogger("library").warning("is %s", "wrong")
logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
warnings.warn("is old", stacklevel=1)
password = "not-to-be-shown"
try:
    {}["missing"]
except KeyError:
    structlog.get_logger().exception("our bug")
    logging.getLogger("uvicorn.error").exception("a bug")
"""


def said(form: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", LIBRARIES, form], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "not-to-be-shown" not in done.stderr
    return done.stderr.splitlines()


def test_every_line_for_programs_is_json_with_the_same_keys_whoever_says_it() -> None:
    ours, library, warning, bug, their_bug = map(json.loads, said("json"))
    assert (ours["event"], ours["level"], ours["seat"]) == ("our own", "info", "a")
    assert (library["event"], library["level"], library["logger"]) == ("is wrong", "warning", "library")
    assert "is old" in warning["event"]
    for line, event in ((bug, "our bug"), (their_bug, "a bug")):
        assert (line["event"], line["level"]) == (event, "error")
        assert "KeyError: 'missing'" in line["exception"]
    assert all(line["timestamp"].endswith("Z") for line in (ours, library, warning, bug, their_bug))


def test_for_people_it_is_the_same_in_words() -> None:
    text = "\n".join(said("console"))
    assert "our own" in text
    assert "\x1b" not in text
    assert "is wrong" in text
    assert "of no concern" not in text
    assert "Invalid HTTP" not in text
    assert text.count("KeyError: 'missing'") == 2
