"""`warden config`: look at the settings without starting anything."""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from warden.cli.settings import Given
from warden.config.load import no_effect_yet, read
from warden.config.tree import Config

app = App(name="config", help="Look at the settings.")

_NO_FILE = "no file is named and no config.yml is here, so the defaults hold: ok"


@app.command
def check(
    file: Annotated[Path | None, Parameter(help="The file (default: as for every command).")] = None,
    /,
    *,
    as_json: Annotated[
        bool, Parameter("--json", negative="", help="Print an object with `ok`, `problems` and `no_effect`.")
    ] = False,
    settings: Given,
) -> int:
    """Say what is wrong with a settings file, all at once, and which of its keys have no effect yet."""
    path = file or settings.file
    document = None if path is None else read(path, settings.environ, Config)
    problems = document.problems if document else ()
    no_effect = no_effect_yet(document) if document and not problems else []
    if as_json:
        said = msgspec.json.encode({"ok": not problems, "problems": problems, "no_effect": no_effect}).decode()
    elif problems:
        said = "\n".join(problems)
    else:
        said = "\n".join(
            [
                *no_effect,
                f"{path}: ok" if path else _NO_FILE,
            ]
        )
    sys.stdout.write(said + "\n")
    return 1 if problems else 0
