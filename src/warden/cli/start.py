"""Where the `warden` command begins. What keepalived runs once a second is answered here, before anything is loaded."""

import sys


def main() -> int:
    """Run the command line of the process and return its exit code."""
    if sys.argv[1:3] == ["ha", "may-hold"]:
        from warden.cli import may_hold  # noqa: PLC0415 - nothing else may be loaded.

        return may_hold.main(sys.argv[3:])
    from warden.cli.main import main as run  # noqa: PLC0415

    return run()
