"""Who the phones of a load test are: numbers with one password, a file, or extensions that are made for it and removed
again.
"""

import csv
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from msgspec import Struct

from warden.config.tree import Config
from warden.core.errors import ConfigError, WardenError
from warden.store.ports import Durable
from warden.switch.directory import new_extension

PREFIX: Final = "loadtest-"
ABANDONED_S: Final = 86_400.0
"""Extensions of a test that was killed are removed by the next one after this time: no test should take so long."""


class Login(Struct, frozen=True):
    """A number and its password."""

    number: str
    password: str

    def __repr__(self) -> str:
        return f"Login(number={self.number!r}, password=***)"


def numbered(first: str, count: int, password: str) -> list[Login]:
    """`count` numbers from `first` on, with the same number of digits. Raises `ConfigError`."""
    if not first.isascii() or not first.isdigit():
        raise ConfigError((f"loadtest: --first-user {first}: must be digits, since the next numbers are counted on",))
    return [Login(str(int(first) + i).zfill(len(first)), password) for i in range(count)]


def read_password(path: Path) -> str:
    """The first line of a file. Raises `WardenError`."""
    password = _text(path).partition("\n")[0].strip("\r")
    if not password:
        raise WardenError(f"{path}: its first line, which should be a password, is empty")
    return password


def read_logins(path: Path) -> list[Login]:
    """The lines `number,password` of a file; empty ones, those that begin with # and a first line that says so are
    left out. Raises `WardenError` that names the line.
    """
    logins: dict[str, Login] = {}
    reader = csv.reader(_text(path).splitlines())
    for row in reader:
        fields = [field.strip() for field in row]
        if not any(fields) or fields[0].startswith("#") or (not logins and fields[0].lower() in ("number", "user")):
            continue
        where = f"{path}:{reader.line_num}"
        if len(fields) != 2 or not all(fields):
            raise WardenError(f"{where}: must be number,password")
        if fields[0] in logins:
            raise WardenError(f"{where}: {fields[0]} is there twice")
        logins[fields[0]] = Login(*fields)
    if not logins:
        raise WardenError(f"{path}: has no line number,password")
    return list(logins.values())


@asynccontextmanager
async def temporary(config: Config, durable: Durable, count: int) -> AsyncIterator[Sequence[Login]]:
    """So many extensions with random passwords, removed at the end whatever happens. A node knows all of them when it
    knows the last.
    """
    now = time.time()
    for extension in await durable.extensions():
        if extension.number.startswith(PREFIX) and now - extension.created_at_utc > ABANDONED_S:
            await durable.remove_extension(extension.number)
    run_id = secrets.token_hex(2)
    logins = [Login(f"{PREFIX}{run_id}-{i:05}", secrets.token_urlsafe(18)) for i in range(count)]
    try:
        for login in logins:
            extension = new_extension(
                login.number, login.password, realm=config.sip.realm, now=now, name=f"load test {run_id}"
            )
            await durable.add_extension(extension)
        yield logins
    finally:
        for login in logins:
            await durable.remove_extension(login.number)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise WardenError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise WardenError(f"{path}: is no text (UTF-8)") from error
