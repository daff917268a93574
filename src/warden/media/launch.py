"""Attach to the media process that serves a socket, or start one that outlives its starter."""

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from warden.core.errors import Unavailable
from warden.media.client import MediaClient, OtherVersion
from warden.media.protocol import EXIT_TAKEN, Event

SOCKET_PATH_BYTES_MAX: Final = 107
START_S_MAX: Final = 10.0
"""A start takes 0.3 s; a machine that is busy with everything else at boot may need longer."""
RETRY_S: Final = 0.02
_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
_ENVIRONMENT_PREFIXES: Final = ("LC_", "PYTHON")


async def ensure(
    path: Path,
    on_event: Callable[[Event], None],
    on_lost: Callable[[], None],
    *,
    log: Path,
    orphan_s: float = 300.0,
    prompts: Path | None = None,
    start_s: float = START_S_MAX,
) -> MediaClient:
    """A connected client of the process that serves `path`; it is started if it is not there.

    The process is detached (its own session, output appended to `log`): it goes on when the caller dies. Raises
    `Unavailable` when it cannot be started or does not answer, and at once `OtherVersion` when the one that is there is
    of another version; a process that is there is left alone.
    """
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise Unavailable(f"media: {path} is longer than {SOCKET_PATH_BYTES_MAX} bytes, too long for a Unix socket")
    client = MediaClient(path, on_event, on_lost)
    before = _pid(path)
    try:
        await client.connect()
    except OtherVersion:
        raise
    except Unavailable:
        pid = start(path, log=log, orphan_s=orphan_s, prompts=prompts)
    else:
        return client
    loop = asyncio.get_running_loop()
    until = loop.time() + start_s
    while True:
        try:
            await client.connect()
        except OtherVersion:
            raise
        except Unavailable as error:
            status = _exit_status(pid)
            # Taken: somebody else has just started one, which will answer soon.
            if status not in {None, EXIT_TAKEN} or loop.time() >= until:
                how = "does not answer" if status in {None, EXIT_TAKEN} else f"ended with status {status}"
                raise Unavailable(f"media: the process for {path} {how}; see {log}") from error
            await asyncio.sleep(RETRY_S)
        else:
            # Was it this process that started the one before, then its exit status is still to be taken. It may have
            # closed its socket a moment before it ended, but the new one answers long after.
            if before is not None and before != client.pid:
                _exit_status(before)
            return client


def start(path: Path, *, log: Path, orphan_s: float = 300.0, prompts: Path | None = None) -> int:
    """Start a detached media process and do not wait for it; its pid. Raises `Unavailable`."""
    command = [sys.executable, "-m", "warden.media.process", "--socket", str(path), "--orphan-s", str(orphan_s)]
    if prompts is not None:
        command += ["--prompts", str(prompts)]
    try:
        return os.posix_spawn(
            sys.executable,
            command,
            _environment(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                *((os.POSIX_SPAWN_CLOSE, fd) for fd in _inherited()),
            ],
            setsid=True,
            setsigmask=(),
        )
    except OSError as error:
        raise Unavailable(f"media: {sys.executable} cannot be started with its output in {log}: {error}") from error


def _environment() -> dict[str, str]:
    """What Python needs to run. The process lives long and any secret in its environment would be there to be read
    (/proc/<pid>/environ) long after it was changed for everybody else.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES)
    }


def _inherited() -> list[int]:
    """What our own starter has left open in us (a pipe that somebody reads to its end): not for one that stays."""
    found = []
    for fd in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        with suppress(OSError):  # The descriptor of the listing itself is gone by now.
            if fd > 2 and os.get_inheritable(fd):
                found.append(fd)
    return found


def _pid(path: Path) -> int | None:
    try:
        return int(path.with_name(path.name + ".pid").read_text())
    except (OSError, ValueError):
        return None


def _exit_status(pid: int) -> int | None:
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if done == pid else None
