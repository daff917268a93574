"""What a command that makes a cluster has left on the machine."""

import os
from pathlib import Path


def left_behind(folder: Path) -> list[str]:
    """Files in the folder that was its temporary one, and processes that work in it."""
    found = [str(path) for path in folder.iterdir()]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in command:
            found.append(command.replace(b"\0", b" ").decode())
    return found
