"""Writes `docs/configuration.md` from the tree, so that the page cannot tell anything but the truth.

`python -m warden.config.document > docs/configuration.md`, which is part of `make docs`; a test compares.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from warden.config.load import LATER, section_of
from warden.config.tree import Config

_INTRODUCTION = """\
# Configuration

<!-- Written by `make docs` from src/warden/config/tree.py; edit that. -->

Warden reads one YAML file: the one named by `--config FILE` or by the variable `WARDEN_CONFIG`, else `config.yml` of
the folder that the command is given in, if there is one. Without a file, and for every section or key that the file
leaves out, the defaults below hold. `warden config check` tells every problem with its line; `config.example.yml` is a
file to start from.

- `${NAME}` stands for an environment variable, `${NAME:-default}` for one that may be unset or empty; `$${` is a plain
  `${`. Variables may stand anywhere in a value. A variable that is not set and has no default is an error.
- Unknown keys, keys given twice, values without a text (`port:`), tags, aliases and a second document are errors.
- Times are seconds unless the key says otherwise.
- `(later)`: the key is accepted and checked, and changes nothing in this version.
"""


def page() -> str:
    """The page as Markdown."""
    return "\n".join([_INTRODUCTION, *_section(Config, "")]) + "\n"


def _section(section: type[BaseModel], path: str) -> Iterator[str]:
    title = f"`{path}`" if path else "Top level"
    yield f"## {title}{_later(path)}\n\n{(section.__doc__ or '').strip()}\n"
    plain = {name: field for name, field in section.model_fields.items() if _inner(field) is None}
    if plain:
        yield "| key | values | default | meaning |\n|---|---|---|---|"
        for name, field in plain.items():
            where = f"{path}.{name}".removeprefix(".")
            cells = (f"`{name}`{_later(where)}", _values(field), _default(field), field.description or "")
            yield "| " + " | ".join(cells) + " |"
        yield ""
    for name, field in section.model_fields.items():
        if inner := _inner(field):
            yield from _section(inner, f"{path}.{name}".removeprefix("."))


def _inner(field: FieldInfo) -> type[BaseModel] | None:
    return None if get_origin(field.annotation) is tuple else section_of(field.annotation)


def _later(path: str) -> str:
    return " (later)" if path in LATER else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    return "not set" if value is None else f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return value.as_posix() if isinstance(value, Path) else str(value)


def _values(field: FieldInfo) -> str:
    annotation = field.annotation
    if get_origin(annotation) is tuple:
        inner = next(arg for arg in get_args(annotation) if arg is not Ellipsis)
        return "list of " + _kind(inner, [])
    return _kind(annotation, field.metadata)


def _kind(annotation: Any, metadata: list[Any]) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    inner = [arg for arg in get_args(annotation) if arg is not type(None)]
    if hasattr(annotation, "__metadata__"):
        extra = [m for item in annotation.__metadata__ for m in getattr(item, "metadata", [item])]
        return _kind(annotation.__origin__, [*metadata, *extra])
    if inner:
        return _kind(inner[0], metadata)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "sections: " + ", ".join(f"`{name}`" for name in annotation.model_fields)
    words = {bool: "`true`, `false`", int: "whole number", float: "number", Path: "path"}
    return words.get(annotation, "text") + _bounds(metadata)


def _bounds(metadata: list[Any]) -> str:
    bounds = {name: getattr(item, name) for item in metadata for name in ("ge", "gt", "le") if hasattr(item, name)}
    if "le" not in bounds:
        return ""
    low = bounds["ge"] if "ge" in bounds else f"above {bounds['gt']}"
    return f", {low} to {bounds['le']}"


if __name__ == "__main__":
    sys.stdout.write(page())
