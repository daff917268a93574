"""What the API's routes have in common."""

import asyncio
from contextlib import suppress
from typing import Any, Final

from warden.core.errors import Unavailable
from warden.web.problems import MEDIA_TYPE
from warden.web.state import NodeState

KNOWN_WITHIN_S: Final = 2.0
"""How long a change of the directory waits for this node to know it; it takes a few milliseconds."""


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors that a route may answer with, for its description."""
    schema = {"$ref": "#/components/schemas/Problem"}
    words = {
        400: "The body is no JSON that can be read",
        401: "No token, or none that is good",
        403: "The token's role may not do this",
        404: "There is none",
        409: "There is one already, or things are not as they must be for this",
        413: "The request is too large",
        422: "Something in the request is wrong",
        503: "The database, or the coordinator, does not answer",
    }
    return {status: {"description": words[status], "content": {MEDIA_TYPE: {"schema": schema}}} for status in statuses}


async def known(state: NodeState) -> None:
    """Have this node look at the directory, and wait until it has: who made an extension may use it at once."""
    state.refresh_directory()
    # The change is stored. That this node will know it a little later is no reason to call it failed.
    with suppress(Unavailable, TimeoutError):
        async with asyncio.timeout(KNOWN_WITHIN_S):
            revision = await state.durable.revision()
            # The node tells nobody when it has looked, since nobody else waits for it.
            while state.directory.revision < revision:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
