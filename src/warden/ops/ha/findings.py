"""What is wrong with rendered files: where, what, and what to do."""

from collections.abc import Mapping, Sequence

from msgspec import Struct


class Finding(Struct, frozen=True, order=True):
    """One thing that is wrong; `file` is below the folder, `line` 0 where it is of the whole file."""

    file: str
    line: int
    what: str
    cure: str = ""


class Verdict(Struct, frozen=True):
    """All of it. `missing` are programs that were not there to look, and their Debian packages."""

    files: int
    checks: int
    findings: Sequence[Finding]
    missing: Mapping[str, str]
