"""The `warden` command: finds the settings, runs one subcommand, and turns errors into one clear line and an exit code.

A subcommand lives in a module of its own beside this one, as an `App` called `app` or a function, and is registered in
`commands()`. It gets the settings by a keyword parameter of type `settings.Given`, may be a coroutine function, and
ends in one of three ways: it returns None or 0 (done), returns 1 (the thing failed, and it has said why), or raises.
`--config FILE` may stand before or after the subcommand and is taken care of here. Where neither it nor `WARDEN_CONFIG`
names a file, `config.yml` of the working folder is used if it is there.

Exit codes: 0 done; 1 the thing failed; 2 the command line or the settings are wrong; 130 interrupted.
"""

import asyncio
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, CycloptsError, Parameter

import warden
from warden.cli.settings import Settings
from warden.core.errors import ConfigError, WardenError

OK, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
DEFAULT_FILE: Final = Path("config.yml")

COMMANDS: Final = {
    "serve": ("serve:serve", "Run this node until SIGTERM (calls wait for the next start) or Ctrl-C (calls end)."),
    "status": ("status:status", "Show what the node, and its cluster, is doing."),
    "calls": ("calls:calls", "Show the calls in progress in the whole cluster."),
    "bans": ("bans:app", "Bans: the addresses that are shut out."),
    "records": ("records:records", "Show the records that could not be read and are kept aside."),
    "drain": ("cluster:drain", "Have this node hand its seats, with their calls, to other nodes."),
    "handover": ("cluster:handover", "Have one seat, with its calls, handed to another node."),
    "ha": ("ha:app", "What keepalived asks, and other matters of addresses that move."),
    "dr": ("dr:app", "Two regions: which one has the seats, and the change from one to the other."),
    "selftest": ("selftest:selftest", "Make a call between two test phones through the running node, and measure it."),
    "loadtest": ("loadtest:loadtest", "Have many phones call each other through any SIP server, and measure it."),
    "demo": ("demo:demo", "Run a cluster on this machine, let its nodes die under calls, and count what is lost."),
    "drill": ("drill:app", "Prove the promises, one by one, on a cluster that is made for it on this machine."),
    "upgrade": ("upgrade:upgrade_cluster", "Change the version of all nodes of a cluster, one after the other."),
    "lab": ("lab:app", "A whole cluster on this machine, with the real programs around Warden."),
    "extension": ("extension:app", "Extensions: the users that phones register as."),
    "trunk": ("trunk:app", "Trunks: the ways to carriers and other exchanges."),
    "dialplan": ("dialplan:app", "Where numbers lead: show it, change it, check it, and explain a number's way."),
    "user": ("user:app", "Users of the HTTP API."),
    "config": ("config:app", "Look at the settings."),
}
"""Every subcommand: where it is, and what it does."""


def commands() -> App:
    """The command tree."""
    app = App(
        name="warden",
        help="A highly available SIP PBX whose calls outlive the node that carries them.",
        version=f"warden {warden.__version__}",
        # Errors are printed by `main`, as one line.
        print_error=False,
        exit_on_error=False,
        result_action="return_value",
    )
    for name, (where, does) in COMMANDS.items():
        # By name, so that a command loads what it needs and nothing else.
        app.command(f"warden.cli.{where}", name=name, help=does)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and return its exit code."""
    # Whatever any command makes is for its owner only: hashes, tokens and call records are in it.
    os.umask(0o077)
    return run(commands(), sys.argv[1:] if argv is None else argv, os.environ)


def run(app: App, argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """The same with the command tree and the environment as arguments."""
    app.meta.suppress_keyboard_interrupt = False

    @app.meta.default
    def launch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        config: Annotated[
            Path | None, Parameter(help="The settings (default: $WARDEN_CONFIG, else config.yml here if there is one).")
        ] = None,
    ) -> Any:
        return _call(app, tokens, Settings(config or _settings_file(environ), environ))

    try:
        result = app.meta(list(argv), result_action="return_value")
    except CycloptsError as error:
        return _say(_line(error), WRONG)
    except ConfigError as error:
        return _say("\n".join(error.problems), WRONG)
    except WardenError as error:
        return _say(_line(error), FAILED)
    except BrokenPipeError:
        # Whoever read our output has enough of it; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"warden: {where}{(error.strerror or str(error)).lower()}", FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    return result if isinstance(result, int) else OK


def _settings_file(environ: Mapping[str, str]) -> Path | None:
    if named := environ.get("WARDEN_CONFIG"):
        return Path(named)
    # A link that leads nowhere counts as there: the defaults instead of the settings would be a surprise.
    return DEFAULT_FILE if os.path.lexists(DEFAULT_FILE) else None


def _call(app: App, tokens: Sequence[str], settings: Settings) -> Any:
    command, bound, unparsed = app.parse_args(tokens, print_error=False, exit_on_error=False)
    result = command(*bound.args, **bound.kwargs, **dict.fromkeys(unparsed, settings))
    return asyncio.run(result) if inspect.iscoroutine(result) else result


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"warden: {text[:1].lower()}{text[1:]}"


def _say(text: str, code: int) -> int:
    # An argument that is no text may be quoted in it.
    sys.stderr.write(text.encode("utf-8", "backslashreplace").decode() + "\n")
    return code
