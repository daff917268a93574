"""How a command prints a list: a table for people, or JSON."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, TypeAlias

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

Row: TypeAlias = Mapping[str, str | float]
AsJson = Annotated[bool, Parameter("--json", negative="", help="Print JSON.")]
_MADE: Final = "created_at_utc"


def print_list(rows: Sequence[Row], *, as_json: bool, none: str) -> None:
    """Print rows of the same keys in the order given; for people `none` where there is no row."""
    if as_json:
        sys.stdout.write(msgspec.json.encode(rows).decode() + "\n")
        return
    console = Console(highlight=False)
    if not rows:
        console.print(escape(none), soft_wrap=True)
        return
    table = Table(*("made" if key == _MADE else key for key in rows[0]))
    for row in rows:
        table.add_row(*(_minute(value) if key == _MADE else escape(str(value)) for key, value in row.items()))
    console.print(table)


def _minute(seconds: str | float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(float(seconds)))
