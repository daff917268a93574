"""Network namespaces: commands, threads and processes in them. Needs root."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from warden.core.errors import WardenError

_IP: Final = "/usr/sbin/ip"
_CLONE_NEWNET: Final = 0x40000000
_libc: Final = ctypes.CDLL(None, use_errno=True)


def ip(*words: str) -> str:
    """What `ip` of iproute2 says. Raises `WardenError` with its reason where it refuses."""
    done = subprocess.run((_IP, *words), capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise WardenError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def entered(namespace: str) -> Iterator[None]:
    """Have the calling thread, and the processes and threads that it starts, in a network namespace."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _set_namespace(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _set_namespace(before)
    finally:
        os.close(before)


def inside(namespace: str) -> tuple[str, ...]:
    """What stands before a command that is to run in a namespace; the process that it starts becomes the command."""
    return ("ip", "netns", "exec", namespace)


def _set_namespace(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
