"""Files that nobody but their owner may read. Nothing here knows what is in them."""

import os
from contextlib import suppress


def make_private(path: str | os.PathLike[str]) -> None:
    """Make an empty file for its owner only where there is none, so that SQLite, which gives its own files (`-wal`,
    `-shm`) the mode of the database, finds it so. A file that is there stays as it is; what keeps it from being made
    is left for SQLite to find and to name.
    """
    # O_EXCL: a file that exists must not be opened and closed here, which would drop this process's locks on it.
    with suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
