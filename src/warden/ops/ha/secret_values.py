"""The passwords of a cluster: made once, kept in a file of their own for its owner alone, and never printed."""

import hashlib
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct, structs

from warden.core.errors import ConfigError

BYTES: Final = 24
"""192 random bits; in letters that need no quoting in any of the files."""
SHOWN: Final = "***"


class Secrets(Struct, frozen=True, forbid_unknown_fields=True):
    """Each the password of one account, except `warden`, which signs what nodes tell phones and each other."""

    warden: str
    database: str
    """PostgreSQL: pbx_user."""
    postgres: str
    """PostgreSQL: its superuser."""
    replication: str
    """PostgreSQL: replicator."""
    patroni_api: str
    """Patroni's HTTP interface, for what changes something."""
    redis: str
    """Redis: warden."""
    redis_replica: str
    """Redis: replicas towards their master."""
    redis_operator: str
    """Redis: people, Sentinel, and the making of the cluster."""
    redis_monitor: str
    """Redis: Prometheus' exporter."""
    database_monitor: str
    """PostgreSQL: the same."""
    etcd_root: str
    etcd_warden: str
    etcd_patroni: str
    # Since these came later, a file of an earlier version has none: they are added to it.
    arbiter_root: str = ""
    arbiter_warden: str = ""
    """etcd of the arbiter: warden."""

    def __repr__(self) -> str:
        return f"Secrets({SHOWN})"

    def hide(self, text: str) -> str:
        """The text with every secret, and every hash of one, as `***`."""
        for value in filter(None, self._values()):
            text = text.replace(value, SHOWN).replace(hash_of(value), SHOWN)
        return text

    def _values(self) -> Iterable[str]:
        return (getattr(self, name) for name in self.__struct_fields__)


def hash_of(secret: str) -> str:
    """As Redis' ACL files have it (SHA-256, hexadecimal)."""
    return hashlib.sha256(secret.encode()).hexdigest()


def secrets_of(path: Path) -> Secrets:
    """The secrets in the file at `path`, which is made where it is not there. Raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read()
    except FileNotFoundError:
        return _made(path)
    except OSError as error:
        raise ConfigError((f"{path}: cannot be read: {(error.strerror or str(error)).lower()}",)) from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError((f"{path}: others may read the cluster's passwords; run: chmod 600 {path}",))
    try:
        found = msgspec.json.decode(data, type=Secrets)
    except msgspec.MsgspecError as error:
        # The message says which field, and never a value.
        raise ConfigError((f"{path}: {str(error).lower()}; a lost password is not made anew by itself",)) from None
    new = {name: _password() for name in Secrets.__struct_fields__ if not getattr(found, name)}
    return _completed(path, structs.replace(found, **new)) if new else found


def _completed(path: Path, completed: Secrets) -> Secrets:
    """A file of an earlier version gets what it lacks; a crash leaves the old one."""
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.unlink(missing_ok=True)
        _write(beside, completed)
        beside.replace(path)
    except OSError as error:
        raise ConfigError((f"{path}: cannot be written: {(error.strerror or str(error)).lower()}",)) from error
    return completed


def _made(path: Path) -> Secrets:
    made = Secrets(*(_password() for _ in Secrets.__struct_fields__))
    try:
        _write(path, made)
    except FileExistsError:
        # Somebody else was first.
        return secrets_of(path)
    except OSError as error:
        raise ConfigError((f"{path}: cannot be written: {(error.strerror or str(error)).lower()}",)) from error
    return made


def _password() -> str:
    return secrets.token_urlsafe(BYTES).replace("-", "x").replace("_", "y")


def _write(path: Path, made: Secrets) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
