"""Rendered files in a folder: written so that a crash leaves either the old or the new file, and compared."""

import difflib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from warden.core.errors import WardenError
from warden.ops.ha.render import File, Files
from warden.ops.ha.secret_values import Secrets


def write(made: Mapping[str, Files], out: Path) -> list[str]:
    """Write what differs, remove what a former rendering left, and return the paths that changed, in order. The folder
    is for its owner alone, since passwords are in it. Raises `WardenError`.
    """
    changed = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        out.chmod(0o700)
        for path, file in _paths(made):
            if not _is_so(out / path, file):
                _put(out / path, file)
                changed.append(path)
        for path in _left_over(made, out):
            (out / path).unlink()
            changed.append(path)
    except OSError as error:
        raise WardenError(f"{error.filename or out}: cannot be written: {(error.strerror or '').lower()}") from error
    return changed


def differences(made: Mapping[str, Files], out: Path, secrets: Secrets) -> Iterator[str]:
    """What `write` would change, as lines of unified diffs, with secrets hidden. Raises `WardenError`."""
    for path, file in _paths(made):
        before = _text(out / path)
        if before != file.text:
            yield from _diff(path, before or "", file.text, secrets)
        elif not _is_so(out / path, file):
            yield f"{path}: mode {(out / path).stat().st_mode & 0o777:o} becomes {file.mode:o}"
    for path in _left_over(made, out):
        yield from _diff(path, _text(out / path) or "", "", secrets)


def _paths(made: Mapping[str, Files]) -> Iterator[tuple[str, File]]:
    for folder, files in made.items():
        for path, file in files.items():
            yield f"{folder}/{path}", file


def _left_over(made: Mapping[str, Files], out: Path) -> list[str]:
    """Files that are not made any more, of hosts that are there still: other folders are somebody's own."""
    wanted = {path for path, _ in _paths(made)}
    found = []
    for folder in made:
        found += [str(path.relative_to(out)) for path in sorted((out / folder).rglob("*")) if path.is_file()]
    return [path for path in found if path not in wanted]


def _is_so(path: Path, file: File) -> bool:
    return _text(path) == file.text and path.stat().st_mode & 0o777 == file.mode


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise WardenError(f"{path}: cannot be read: {error}") from error


def _put(path: Path, file: File) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as new:
            new.write(file.text)
            new.flush()
            os.fsync(new.fileno())
            os.fchmod(new.fileno(), file.mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _diff(path: str, before: str, after: str, secrets: Secrets) -> Iterator[str]:
    lines = difflib.unified_diff(
        secrets.hide(before).splitlines(), secrets.hide(after).splitlines(), f"a/{path}", f"b/{path}", lineterm=""
    )
    told = list(lines)
    yield from told or [f"{path}: a password changes"]
