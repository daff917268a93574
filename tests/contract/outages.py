"""What the stories about servers that fail have in common: patience, and bounds for those who wait."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from warden.core.errors import Unavailable

PATIENCE_S = 30.0
"""For a machine that is busy with other tests; the bounds of single calls are asserted apart."""

SLACK_S = 1.0
"""What a busy machine may add to a bound."""


async def until_it_works(work: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await work()
            except Unavailable:
                await asyncio.sleep(0.02)


async def fails(work: Awaitable[Any], match: str, within_s: float) -> None:
    before = time.monotonic()
    with pytest.raises(Unavailable, match=match):
        await work
    assert time.monotonic() - before < within_s + SLACK_S


async def until_it_says(work: Callable[[], Awaitable[Any]], what: str) -> None:
    """Until it fails for that reason: a store may not have heard yet of a change that another one knows."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with pytest.raises(Unavailable) as error:
                await work()
            if what in str(error.value):
                return
            await asyncio.sleep(0.02)
