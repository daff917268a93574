"""Records that nodes of neighbouring versions share: each names its schema, N reads N-1 and N+1, and what N does not
know of a record of N+1 is kept when N writes it again.

A field that is added has a default, which is how records of N-1 are read. A field is removed, or its meaning changed,
by adding another one and filling both for one version. Arrays (`Address`, `Flow`) never grow. A record of N+1 that does
not fit all the same, since it holds a value of a kind that N lacks, is `Unreadable` with `newer` set: N leaves it as
it is.
"""

from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec
from msgspec import Struct

from warden.core.errors import WardenError

_NAMES: Final = ("id", "key", "contact", "leg")
"""What tells the members of a list apart, so that unknown fields follow their member when others come and go."""
_DEPTH_MAX: Final = 32
"""How deep records are nested: they have fewer than ten levels, and a comparison must not exhaust the stack."""


class Unreadable(WardenError):
    """A record cannot be read: it is damaged or, where `newer`, written by a version that this one does not know."""

    def __init__(self, why: str, *, newer: bool) -> None:
        super().__init__(why)
        self.newer = newer


class Extras(Struct):
    """What a record held that this version does not know: a tree of the record's shape. `schema` is the record's."""

    schema: int
    tree: dict[Any, Any]


class Versioned(Protocol):
    """A record type. Its first field is the schema."""

    @property
    def schema(self) -> int:
        """The newest version that had a hand in the record."""


T = TypeVar("T", bound=Versioned)


class _Schema(Struct):
    schema: int


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_any: Final = msgspec.msgpack.Decoder().decode
_decode_schema: Final = msgspec.msgpack.Decoder(_Schema).decode
_BROKEN: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Codec(Generic[T]):
    """Reads and writes the records of one type (msgpack)."""

    def __init__(self, record_type: type[T], schema: int) -> None:
        """`schema` is this version's."""
        self.record_type = record_type
        self.schema = schema
        self._decode = msgspec.msgpack.Decoder(record_type).decode

    def encode(self, value: T, extras: Extras | None = None) -> bytes:
        """The record. `extras` are put back in; what of them has no place any more is forgotten, also in `extras`."""
        data = _encode(value)
        if extras is None:
            return data
        tree = _decode_any(data)
        _put_back(tree, extras.tree)
        tree["schema"] = extras.schema
        return _encode(tree)

    def decode(self, record: bytes) -> tuple[T, Extras | None]:
        """What the record says, and what this version does not know of it. Raises `Unreadable`."""
        try:
            value = self._decode(record)
        except _BROKEN as error:
            raise Unreadable(_why(error), newer=_schema_of(record) > self.schema) from error
        schema = value.schema
        if schema == self.schema:
            return value, None
        if abs(schema - self.schema) > 1 or schema < 1:
            raise Unreadable(
                f"schema {schema}, where this version knows {max(1, self.schema - 1)} to {self.schema + 1}",
                newer=schema > self.schema,
            )
        if schema < self.schema:
            return value, None
        unknown = _unknown(_decode_any(record), _decode_any(_encode(value)))
        return value, Extras(schema, unknown) if unknown else None


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _schema_of(record: bytes) -> int:
    """The schema that a record names; 0 where it names none."""
    try:
        return _decode_schema(record).schema
    except _BROKEN:
        return 0


def _name(member: Any, place: int) -> Any:
    if isinstance(member, dict):
        for name in _NAMES:
            if isinstance(said := member.get(name), str):
                return said
    return place


def _unknown(record: Any, known: Any, depth: int = 0) -> dict[Any, Any]:
    """What is in `record` and not in `known`: the missing fields as they are, and the same for what both have."""
    found: dict[Any, Any] = {}
    if depth > _DEPTH_MAX:
        return found
    if isinstance(record, dict) and isinstance(known, dict):
        pairs = [(key, value, known.get(key)) for key, value in record.items()]
        found = {key: _Whole(value) for key, value, _ in pairs if key not in known}
    elif isinstance(record, list) and isinstance(known, list):
        pairs = [(_name(ours, i), its, ours) for i, (its, ours) in enumerate(zip(record, known, strict=False))]
    else:
        return found
    for key, its, ours in pairs:
        if inner := _unknown(its, ours, depth + 1):
            found[key] = inner
    return found


class _Whole(Struct, frozen=True, gc=False):
    """A field that this version does not know, with all that is in it."""

    value: Any


def _put_back(tree: Any, extras: dict[Any, Any]) -> None:
    if isinstance(tree, list):
        places = {_name(member, i): member for i, member in enumerate(tree)}
    else:
        places = tree if isinstance(tree, dict) else {}
    for key, extra in list(extras.items()):
        if isinstance(extra, _Whole):
            places.setdefault(key, extra.value)
        elif isinstance(places.get(key), dict | list):
            _put_back(places[key], extra)
        else:
            del extras[key]
