"""The data folder belongs to one process at a time. Nothing here knows what is in it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import structlog

from warden.core.errors import WardenError
from warden.store.private import make_private

_log = structlog.get_logger()


class DataFolderInUse(WardenError):
    """Another process has the data folder: the operator's business, trying again does not help."""


class DataFolder:
    """A folder with Warden's files, and `warden.lock` that names the process which uses them."""

    LOCK = "warden.lock"

    @classmethod
    @contextmanager
    def claim(cls, path: Path | str) -> Iterator[Path]:
        """Make the folder (for its owner only) if it is missing, and keep it for this process until the context ends.

        Raises `DataFolderInUse` naming the process that has it, or `WardenError` where the folder cannot be used. The
        operating system lets go of the lock when the process dies, however it dies. A folder that others may read is
        told in the log: password hashes and call records are in it.
        """
        folder = Path(path)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = folder.stat().st_mode & 0o777
            make_private(folder / cls.LOCK)
            file = (folder / cls.LOCK).open("a+", encoding="ascii", errors="replace")
        except OSError as error:
            raise WardenError(f"data folder {folder}: cannot be used: {error.strerror}") from error
        with file:
            _lock(folder, file)
            if mode & 0o077:
                _log.warning("data folder may be read by others", folder=str(folder), mode=f"{mode:o}", better="700")
            yield folder


def _lock(folder: Path, file: TextIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read(20).strip()
        process = f"process {holder}" if holder.isdigit() else "another process"
        raise DataFolderInUse(f"data folder {folder} is in use by {process}") from None
    except OSError as error:
        raise WardenError(f"data folder {folder}: cannot be locked: {error.strerror}") from error
    try:
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
    except OSError:
        # A full disk: the lock holds all the same, the other process is only told less.
        return
