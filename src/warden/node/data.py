"""The durable store for commands that work on it without a node, and what a node keeps for when it is away."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from warden.config.tree import Config
from warden.core.errors import WardenError
from warden.node.build import database_url, durable_of, keep_private
from warden.store.durable import SqlDurable
from warden.store.migrate import migrate
from warden.store.ports import Extension, Item
from warden.switch.directory import Directory, directory_of

DIRECTORY_FILE: Final = "directory"

_log = structlog.get_logger()
_encoder = msgspec.msgpack.Encoder()


class _Kept(Struct):
    """Items as they were stored: what this version cannot read of them, the next one may."""

    extensions: list[Extension]
    revision: int
    items: list[Item] = []


_decoder = msgspec.msgpack.Decoder(_Kept)


@asynccontextmanager
async def prepared_database(config: Config) -> AsyncIterator[SqlDurable]:
    """The durable store with its schema brought up to date. Raises `WardenError` where it cannot be used."""
    if config.database.host is None:
        try:
            config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise WardenError(f"data folder {config.data_dir}: cannot be made: {error.strerror}") from error
    await migrate(database_url(config))
    durable = durable_of(config)
    try:
        yield durable
    finally:
        await durable.close()


class DirectoryFile:
    """The directory as the node knew it last, in its data folder, so that it can start while the database is away."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / DIRECTORY_FILE

    def read(self) -> Directory | None:
        """What was kept; None where there is nothing, or nothing that can be read."""
        try:
            kept = _decoder.decode(self._path.read_bytes())
        except (OSError, msgspec.MsgspecError):
            return None
        return directory_of(kept.extensions, kept.revision, kept.items)

    def keep(self, directory: Directory) -> None:
        """Keep it. What cannot be written is logged, and no reason not to go on."""
        kept = _Kept(list(directory.extensions.values()), directory.revision, list(directory.items))
        try:
            keep_private(self._path, _encoder.encode(kept))
        except WardenError as error:
            _log.warning("directory is not kept for the next start", why=str(error))
