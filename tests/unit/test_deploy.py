"""The files that operators copy."""

import subprocess
from pathlib import Path

KEEPALIVED = Path(__file__).parents[2] / "deploy" / "keepalived.conf"


def test_keepalived_has_nothing_to_say_against_the_example() -> None:
    # It ends its own process group after the test, so it gets one.
    done = subprocess.run(
        ["keepalived", "--config-test", "--log-console", "--use-file", KEEPALIVED],
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert done.stdout + done.stderr == ""
