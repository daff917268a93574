"""How many files the process may have open: each connection is one, and so is much that is none of the sockets'."""

import resource
import sys
from contextlib import suppress
from typing import Final

RESERVE_FILES: Final = 1_000
"""Descriptors that connections leave to everything else: the stores, HTTP, the resolver, logs and listeners."""


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, since the usual 1,024 would end at a thousand phones; gives
    the limit that is in force now.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
