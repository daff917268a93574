"""Finds the PostgreSQL server that takes changes among several hosts. Nothing here knows a table or a password's use.

The driver can do so itself, but asks one host after the other within one time limit: a primary that has lost its power
answers nothing at all, and the time would be over before the new one is asked.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

STAGGER_S: Final = 0.25
"""How long a host has for itself before the next is asked as well. In one site a connection takes some milliseconds."""


class Primary:
    """A connect function for `hosts`; the one that was the primary last is asked first."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None

    async def connect(self, *, host: str | Sequence[str], port: int | Sequence[int] = 5432, **options: Any) -> Any:
        """A connection to the host that takes changes; `options` go to the driver. Raises what the host that was asked
        last has said, where none does.
        """
        hosts = [host] if isinstance(host, str) else host
        ports = [port] * len(hosts) if isinstance(port, int) else port
        places = sorted(zip(hosts, ports, strict=True), key=lambda place: place != self._last)
        attempts: dict[asyncio.Task[Any], tuple[str, int]] = {}
        chosen = None
        why: BaseException | None = None
        try:
            while chosen is None and (places or attempts):
                if places:
                    place = places.pop(0)
                    task = asyncio.create_task(
                        asyncpg.connect(host=place[0], port=place[1], target_session_attrs="read-write", **options)
                    )
                    attempts[task] = place
                done, _ = await asyncio.wait(
                    attempts, timeout=STAGGER_S if places else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    place = attempts.pop(task)
                    error = task.exception()
                    if error is not None:
                        why = error
                    elif chosen is None:
                        chosen, self._last = task.result(), place
                    else:
                        task.result().terminate()
        finally:
            for task in attempts:
                # One that connects in the last moment is let go of as well.
                task.add_done_callback(_let_go)
                task.cancel()
        if chosen is None:
            assert why is not None, "there is at least one host"
            raise why
        return chosen


def _let_go(attempt: "asyncio.Task[Any]") -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().terminate()
