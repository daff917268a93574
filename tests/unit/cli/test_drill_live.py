"""A drill on a cluster that serves people, whose terminal closes or which somebody stops."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from warden.cli.drill_live import carry_out
from warden.config.tree import Config
from warden.ops.drills.report import Report
from warden.store.durable import SqlDurable


@pytest.fixture
def hangs_up() -> Iterator[None]:
    """A terminal that closes is told, also where the tests themselves were started by `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangs_up")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("gone", [OSError(5, "Input/output error"), SystemExit(1), None])
async def test_a_drill_is_undone_whatever_stops_it_and_though_its_terminal_is_gone(
    tmp_path: Path, number: signal.Signals, gone: BaseException | None
) -> None:
    did: list[str] = []

    def say(_who: str, what: str, _bad: bool) -> None:
        did.append(what)
        if gone is not None:
            raise gone

    async def work(_durable: SqlDurable) -> Report:
        try:
            os.kill(os.getpid(), number)
            return await asyncio.Event().wait()  # type: ignore[return-value]
        finally:
            # Whoever asks twice waits for the end as well.
            os.kill(os.getpid(), number)
            async with asyncio.timeout(10):
                while len(did) < 2:
                    await asyncio.sleep(0)
            did.append("undone")

    drill = asyncio.create_task(carry_out(work, Config(data_dir=tmp_path), say))
    with pytest.raises(asyncio.CancelledError):
        await drill
    assert did == ["is stopped, and undone", "is being undone; wait for it", "undone"]


async def test_what_nohup_has_started_outlives_its_terminal(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:

        async def work(_durable: SqlDurable) -> Report:
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await carry_out(work, Config(data_dir=tmp_path), lambda *_: None)
    finally:
        signal.signal(signal.SIGHUP, before)
