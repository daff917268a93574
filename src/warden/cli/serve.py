"""`warden serve`: be a node."""

import logging
import sys
from contextlib import suppress
from typing import Annotated

import structlog
import uvloop
from cyclopts import Parameter
from structlog.stdlib import ProcessorFormatter
from structlog.typing import Processor

from warden.cli.settings import Given
from warden.config.tree import Log
from warden.core.errors import WardenError
from warden.node.node import Node


def serve(
    *,
    starter: Annotated[
        bool, Parameter(negative="", help="If there is no extension yet, make two and print their passwords.")
    ] = False,
    settings: Given,
) -> None:
    """Run this node until SIGTERM (calls wait for the next start) or Ctrl-C (calls are ended)."""
    config = settings.load()
    _set_up_log(config.log)

    async def run() -> None:
        await Node(config, _say).serve(starter=starter)

    try:
        uvloop.run(run())
    except BaseExceptionGroup as group:
        # A lost dependency or seat is one line for the operator; a bug keeps its traceback.
        known = group.subgroup(WardenError)
        if known is None:
            raise
        raise _first(known) from None


def _first(group: BaseExceptionGroup[WardenError]) -> WardenError:
    one = group.exceptions[0]
    return _first(one) if isinstance(one, BaseExceptionGroup) else one


def _say(text: str) -> None:
    with suppress(OSError):
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


class _Log:
    """Standard error as a log that never fails: a full disk behind it costs lines, and no call."""

    def __init__(self, *_: object) -> None:
        pass

    def msg(self, line: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def _set_up_log(log: Log) -> None:
    level = logging.getLevelNamesMapping()[log.level.upper()]
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if log.format == "json"
        # Tracebacks are plain: the pretty ones show the values of variables, and passwords are among them.
        else [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    structlog.configure(
        processors=[*common, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Log,
    )
    # Libraries, and Python's own warnings, come by the standard module, and leave it in the same form.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[*common, structlog.stdlib.add_logger_name],
            processors=[ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.raiseExceptions = False
    logging.captureWarnings(True)
    # Only what is wrong with them concerns the operator.
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    # It warns of each request that is no HTTP: anybody who reaches the port could fill the disk with that.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
