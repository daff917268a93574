"""The only reader of settings: from a file and the environment to a frozen tree, or to every problem at once.

Nothing here knows what a key means; `tree` does. All scalars are read as text and typed by the tree, so YAML's own
guesses (`010` is eight, `no` is false, `1:30` is ninety) never happen, and a password of digits stays a password.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import yaml
from msgspec import Struct
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from warden.config.tree import Config
from warden.core.errors import ConfigError

# A full configuration has about 4 KiB, 100 values and 5 levels. The limits leave room for any real one, and bound the
# work and the memory that a wrong file can cost.
SIZE_MAX = 1 << 20
VALUES_MAX = 10_000
DEPTH_MAX = 32
# More problems than anyone reads at once; a wrong file altogether has as many as it has lines.
PROBLEMS_MAX = 100

# Keys that are read and checked, and whose feature is not there yet. A section's name stands for all its keys.
LATER = (
    "high_availability.state_sync",
    "high_availability.call_preservation.enabled",
    "high_availability.registration_sync",
)

# Keys of the deployment guide that never have an effect, since something better decides.
_LEASE = "high_availability.lease_ttl (or keepalived) decides how soon a node that is gone is replaced"
INSTEAD = {
    "high_availability.health_check_interval": _LEASE,
    "high_availability.health_check_timeout": _LEASE,
    "high_availability.failover_timeout": _LEASE,
}

_VARIABLE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\})?")
_NULL = frozenset(("null", "Null", "NULL", "~"))

Key = tuple[str | int, ...]
Tree = TypeVar("Tree", bound=BaseModel)


class Document(Struct, Generic[Tree], frozen=True):
    """What a file says: its tree, the line of every key that it sets, and its problems.

    `config` is what the file means when the values with problems are left at their defaults; use it only where
    `problems` is empty. Problems and lines are in the order of the file.
    """

    name: str
    config: Tree
    lines: Mapping[Key, int]
    problems: tuple[str, ...] = ()


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The settings in the file at `path`, with variables from `environ`; None gives the defaults.

    Raises `ConfigError` with all problems, each as `config.yml:12: sip.bind_prot: unknown key; ...`.
    """
    if path is None:
        return Config()
    document = read(path, environ, Config)
    if document.problems:
        raise ConfigError(document.problems)
    return document.config


def read(path: Path, environ: Mapping[str, str], of: type[Tree]) -> Document[Tree]:
    """The same without raising, for whoever wants to show more than the problems; `of` is the tree it should hold."""
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_MAX + 1)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return Document(str(path), of.model_construct(), {}, (f"{path}: cannot be read: {why.lower()}",))
    return parse(data, environ, of, name=str(path))


def parse(data: bytes, environ: Mapping[str, str], of: type[Tree], *, name: str) -> Document[Tree]:
    """What the bytes of a file named `name` say. Never raises."""
    composer = _Composer(environ)
    try:
        value = composer.compose(data)
    except _Unreadable as error:
        where = f"{name}:{error.line}" if error.line else name
        return Document(name, of.model_construct(), {}, (*_sentences(name, composer.problems), f"{where}: {error}"))
    config, problems = _typed(value, composer, of)
    problems = sorted(composer.problems + problems, key=lambda problem: problem[0])
    return Document(name, config, composer.lines, _sentences(name, problems))


def no_effect_yet(document: Document[Config]) -> list[str]:
    """A line for each key that the file sets and that changes nothing in this version, in the order of the file."""
    keys = {spelled(key): line for key, line in document.lines.items() if not any(isinstance(p, int) for p in key)}
    found = []
    for key, line in keys.items():
        where = f"{document.name}:{line}: {key}: accepted, but has no effect"
        if key in INSTEAD:
            found.append(f"{where}: {INSTEAD[key]}")
        elif any(key == later or key.startswith(later + ".") for later in LATER) and not any(
            other.startswith(key + ".") for other in keys
        ):
            found.append(f"{where} yet")
    return found


def spelled(key: Key) -> str:
    """A key's path as an operator writes it: `redis.nodes[0].host`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".")


_Problem = tuple[int, str]


def _sentences(name: str, problems: list[_Problem]) -> tuple[str, ...]:
    lines = [f"{name}:{line}: {what}" for line, what in problems[:PROBLEMS_MAX]]
    if len(problems) > PROBLEMS_MAX:
        lines.append(f"{name}: and {len(problems) - PROBLEMS_MAX} more problems")
    return tuple(lines)


class _Unreadable(Exception):
    """The file is no configuration at all, so that looking on would only invent problems."""

    def __init__(self, what: str, line: int = 0) -> None:
        super().__init__(what)
        self.line = line


class _Composer:
    """Turns YAML events into dicts, lists, texts and None, and notes lines and problems by the way.

    Works on events and not on a composed graph, so that depth and number are bounded before anything recurses.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.lines: dict[Key, int] = {}
        self.variables: dict[Key, list[str]] = {}
        self.failed: set[Key] = set()
        self.problems: list[_Problem] = []
        self._environ = environ
        self._values = 0

    def compose(self, data: bytes) -> dict[str, Any]:
        """The document as a mapping; an empty file is an empty one. Raises `_Unreadable`."""
        text = _decoded(data)
        try:
            events = yaml.parse(text, Loader=yaml.SafeLoader)
            root: Any = None
            documents = 0
            for event in events:
                if isinstance(event, yaml.DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        raise _Unreadable("a second document starts here; one file holds one", _line(event))
                elif isinstance(event, yaml.NodeEvent) and not _is_nothing(event):
                    if not isinstance(event, yaml.MappingStartEvent | yaml.AliasEvent):
                        raise _Unreadable("must be sections of keys, for example `sip:`", _line(event))
                    root = self._node(event, events, ())
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 0
            raise _Unreadable(_said(error, text, line), line) from None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise _Unreadable(f"holds a character that YAML does not allow (code {error.character})", line) from None
        except (ValueError, OverflowError):
            # PyYAML's scanner passes escapes such as "\\UFFFFFFFF" on to chr() unchecked.
            raise _Unreadable("is not YAML: holds a number or an escape out of range") from None
        return root if isinstance(root, dict) else {}

    def _node(self, event: Any, events: Any, key: Key) -> Any:
        self._values += 1
        if self._values > VALUES_MAX:
            raise _Unreadable(f"holds more than {VALUES_MAX} values", _line(event))
        if isinstance(event, yaml.AliasEvent):
            raise _Unreadable("an alias (*) is not used here; write the value out", _line(event))
        if event.tag is not None:
            raise _Unreadable(f"a tag ({event.tag}) is not used here", _line(event))
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, key)
        if len(key) >= DEPTH_MAX:
            raise _Unreadable(f"is nested deeper than {DEPTH_MAX} levels", _line(event))
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(events, key)
        return self._section(events, key)

    def _list(self, events: Any, key: Key) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            here = (*key, len(items))
            self.lines[here] = _line(event)
            value = self._node(event, events, here)
            # A place is kept for it, so that the items after it keep their numbers.
            items.append(None if value is _Nothing else value)
        return items

    def _section(self, events: Any, key: Key) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise _Unreadable("a key must be a plain word", _line(event))
            name, line = event.value, _line(event)
            here = (*key, name)
            if here in self.lines:
                self.problems.append((line, f"{spelled(here)}: given twice, first in line {self.lines[here]}"))
                _skip(events)
                continue
            self.lines[here] = line
            value = self._node(next(events), events, here)
            if value is not _Nothing:
                entries[name] = value
        return entries

    def _scalar(self, event: Any, key: Key) -> Any:
        line = _line(event)
        if event.implicit[0] and event.value in _NULL:
            return None
        used: list[str] = []
        wrong: list[str] = []

        def value(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            if match[1] is None:
                wrong.append("`${` starts no variable; write ${NAME} or ${NAME:-default}, or $${ for the characters")
                return ""
            used.append(match[1])
            if text := self._environ.get(match[1], ""):
                return text
            if match[2] is not None:
                return match[2]
            if match[1] not in self._environ:
                wrong.append(f"variable {match[1]} is not set, and ${{{match[1]}}} gives no default")
            return ""

        text = _VARIABLE.sub(value, event.value)
        if not wrong and not text and event.implicit[0]:
            empty = f" (variable {', '.join(used)} is empty)" if used else "; remove the key or give it one"
            wrong.append("has no value" + empty)
        if not _is_text(text):
            wrong.append("must be text, without NUL characters and halves of characters")
        if wrong:
            self.problems += [(line, f"{spelled(key)}: {what}") for what in wrong]
            self.failed.add(key)
            return _Nothing
        if used:
            self.variables[key] = used
        return text


class _Nothing:
    """Stands for a value whose problem is known already."""


def _is_text(text: str) -> bool:
    # Bytes of a variable that are no UTF-8 arrive as escaped surrogates and may be a file's name; others name nothing.
    try:
        return b"\0" not in text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def _skip(events: Any) -> None:
    depth = 0
    while True:
        event = next(events)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth == 0:
            return


def _decoded(data: bytes) -> str:
    if len(data) > SIZE_MAX:
        raise _Unreadable(f"is larger than {SIZE_MAX} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _Unreadable("is not UTF-8 text", line) from None


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _is_nothing(event: Any) -> bool:
    return isinstance(event, yaml.ScalarEvent) and event.implicit[0] and event.value in {*_NULL, ""}


def _said(error: yaml.MarkedYAMLError, text: str, line: int) -> str:
    said = ", ".join(part for part in (error.context, error.problem) if part)
    lines = text.splitlines()
    if 0 < line <= len(lines) and "${" in lines[line - 1]:
        said += ' (within [ ] or { } a variable needs quotes: "${NAME}")'
    return f"is not YAML: {said}"


def _typed(value: dict[str, Any], composer: _Composer, of: type[Tree]) -> tuple[Tree, list[_Problem]]:
    """The tree of a composed document. Where values are wrong, they are taken out and the rest is looked at again, so
    that contradictions among the rest are found in the same run.
    """
    problems: list[_Problem] = []
    wrong = {_blamed(key) for key in composer.failed}
    while True:
        try:
            return of.model_validate(value), problems
        except ValidationError as error:
            details = error.errors(include_url=False)
        if details[0]["type"] == "contradiction":
            for found in details[0]["ctx"]["found"]:
                keys = [_key(key) for key in found.keys]
                if not any(key[: len(bad)] == bad for key in keys for bad in wrong):
                    line = next((composer.lines[key] for key in keys if key in composer.lines), 1)
                    problems.append((line, f"{spelled(keys[0])}: {found.what}"))
            return of.model_construct(), problems
        for detail in details:
            key = detail["loc"]
            if key not in composer.failed:
                problems.append((_line_of(key, composer.lines), f"{spelled(key)}: {_explained(detail, composer, of)}"))
            key = _blamed(key[:-1] if detail["type"] == "missing" else key)
            wrong.add(key)
            _take_out(value, key)


def _key(text: str) -> Key:
    """The path that a contradiction names: `regions.0.hosts` is that of the first region."""
    return tuple(int(part) if part.isdigit() else part for part in text.split("."))


def _blamed(key: Key) -> Key:
    """What has to go when `key` is wrong: itself, or the whole list it is in, since the items left would renumber."""
    numbers = [place for place, part in enumerate(key) if isinstance(part, int)]
    return key[: numbers[0]] if numbers else key


def _take_out(value: Any, key: Key) -> None:
    for part in key[:-1]:
        value = value.get(part, {})
    value.pop(key[-1], None)


def _line_of(key: Key, lines: Mapping[Key, int]) -> int:
    while key and key not in lines:
        key = key[:-1]
    return lines.get(key, 1)


def _explained(detail: ErrorDetails, composer: _Composer, of: type[BaseModel]) -> str:
    kind, context, key = detail["type"], detail.get("ctx", {}), detail["loc"]
    if kind == "extra_forbidden":
        return "unknown key" + _nearest(key, of)
    if detail["input"] is None and kind != "missing":
        return "has no value"
    if kind == "value_error":
        what = str(context["error"])
    else:
        what = _EXPLAINED.get(kind, detail["msg"].lower()).format_map({k: _shown(v) for k, v in context.items()})
    names = composer.variables.get(key)
    return what + (f" (it comes from variable {', '.join(names)})" if names else "")


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace("'", "")


_EXPLAINED = {
    "missing": "is missing",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a whole number of reasonable size",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_unicode": "must be valid text",
    "string_type": "must be a text, not a list or section",
    "path_type": "must be a path, not a list or section",
    "secret_type": "must be a text, not a list or section",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "literal_error": "must be {expected}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "tuple_type": "must be a list",
    "too_long": "must have at most {max_length} items",
    "too_short": "is empty; it must name at least {min_length}",
    "model_type": "must be a section of keys",
    "model_attributes_type": "must be a section of keys",
    "dict_type": "must be a section of keys",
}


def _nearest(key: Key, of: type[BaseModel]) -> str:
    name = str(key[-1])
    section = _section_at(key[:-1], of)
    if section is None:
        return ""
    near = difflib.get_close_matches(name, section.model_fields, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    # A key that is right in another section was probably indented wrongly.
    places = [path for path in _all_keys(of, ()) if path[-1] == name]
    return f"; did you mean {spelled(places[0])}?" if places else ""


def _section_at(key: Key, of: type[BaseModel]) -> type[BaseModel] | None:
    section: type[BaseModel] | None = of
    for part in key:
        if isinstance(part, int):
            continue
        field = section.model_fields.get(part) if section else None
        section = section_of(field.annotation) if field else None
    return section


def _all_keys(section: type[BaseModel], path: Key) -> list[Key]:
    keys: list[Key] = []
    for name, field in section.model_fields.items():
        keys.append((*path, name))
        if inner := section_of(field.annotation):
            keys += _all_keys(inner, (*path, name))
    return keys


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field of this type holds, in a list or alone; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        if found := section_of(inner):
            return found
    return None
