"""Who may do what: bearer tokens (RFC 6750) for everything under `/api/`, whatever is routed there.

A token is known by its SHA-256 only. The gate also bounds what a request may weigh, before anything reads it.
"""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Sequence
from hmac import compare_digest
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warden.cluster.relay import ORDER_BYTES_MAX
from warden.core.errors import Unavailable
from warden.store.ports import ApiToken, Durable
from warden.web.problems import RETRY_AFTER_S, problem

PROTECTED: Final = "/api/"
OPENAPI_URL: Final = "/api/v1/openapi.json"
"""The one thing under `/api/` that everybody may read: it is the same for every Warden of a version."""
BODY_BYTES_MAX: Final = 16 * 1024
"""An extension with the longest name and password, spelled in JSON escapes, takes a tenth of it."""
RELAY_URL: Final = "/api/v1/cluster/records"
"""Where a node that does not reach the store has another one write for it (`cluster.relay`). A node may say more at
once there than anybody else.
"""
TOKEN_BYTES_MAX: Final = 512
"""Ours have 47; no more is hashed for a stranger."""
FRESH_S: Final = 5.0
"""How long a revoked token may still be good for."""
_DIGITS_MAX: Final = 12
READERS: Final = frozenset(("GET", "HEAD"))
"""Methods that change nothing, which is all that the role `viewer` may use."""


CLUSTER: Final = ApiToken("cluster", "admin", "", 0.0)
"""Who has the cluster's secret: an operator on the machine of another node."""
NODE_TOKEN_S: Final = 60
"""How long such a token is good for, and by how much the clocks of two nodes may differ."""


def make_node_token(key: bytes, now: float) -> str:
    """A bearer token for any node of the cluster; `now` is in seconds since the epoch."""
    until = str(int(now) + NODE_TOKEN_S)
    return f"node.{until}.{_sign(key, until)}"


def is_node_token(key: bytes, token: bytes, now: float) -> bool:
    """Whether somebody with the same key made it, just now."""
    kind, _, rest = token.decode("latin-1").partition(".")
    until, _, signature = rest.partition(".")
    if not key or kind != "node" or len(until) > _DIGITS_MAX or not (until.isascii() and until.isdigit()):
        return False
    good = compare_digest(_sign(key, until).encode(), signature.encode())
    return good and abs(int(until) - NODE_TOKEN_S - now) <= NODE_TOKEN_S


def _sign(key: bytes, until: str) -> str:
    return hmac.new(key, b"api of any node until " + until.encode(), hashlib.sha256).hexdigest()


class Tokens:
    """The tokens as the database last told them. While it is away the ones already known stay good: that is when an
    operator needs the API most.
    """

    def __init__(self, durable: Durable, operator_digest: str, node_key: bytes = b"") -> None:
        self._durable = durable
        self._operator = ApiToken("operator", "admin", operator_digest, 0.0)
        self._node_key = node_key
        self._known: Sequence[ApiToken] = ()
        self._asked_at = float("-inf")
        self._retry_at = float("-inf")
        self._error: Unavailable | None = None
        self._lock = asyncio.Lock()

    async def find(self, token: bytes) -> ApiToken | None:
        """The token's row; None where it is not, or no longer, there. Raises `Unavailable` for a token that is not
        known while the database cannot be asked.
        """
        if is_node_token(self._node_key, token, time.time()):
            return CLUSTER
        digest = hashlib.sha256(token).hexdigest()
        if compare_digest(digest, self._operator.digest):
            return self._operator
        now = asyncio.get_running_loop().time()
        found = self._match(digest)
        if found is None or now - self._asked_at > FRESH_S:
            await self._read(now)
            found = self._match(digest)
            if found is None and self._error is not None:
                raise self._error
        return found

    def _match(self, digest: str) -> ApiToken | None:
        found = None
        for known in self._known:
            # All are looked at, so that the time taken tells nothing.
            if compare_digest(known.digest, digest):
                found = known
        return found

    async def _read(self, now: float) -> None:
        """Ask the database, once for all who wait: a flood of wrong tokens makes one query at a time."""
        async with self._lock:
            if self._asked_at >= now or now < self._retry_at:
                return
            asked_at = asyncio.get_running_loop().time()
            try:
                self._known = await self._durable.tokens()
                self._error = None
            except Unavailable as error:
                self._error = error
                self._retry_at = asyncio.get_running_loop().time() + RETRY_AFTER_S
            self._asked_at = asked_at


class Gate:
    """Lets in who may come in. `request.state.by` is then the name of the token."""

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, send = scope["path"], _uncached(send)
        try:
            if path.startswith(PROTECTED) and path != OPENAPI_URL:
                await self._check(scope)
        except HTTPException as error:
            await problem(error.status_code, error.detail, path, headers=error.headers)(scope, receive, send)
        except Unavailable as error:
            headers = {"Retry-After": str(RETRY_AFTER_S)}
            await problem(503, f"tokens cannot be checked: {error}", path, headers=headers)(scope, receive, send)
        else:
            is_order = path == RELAY_URL and scope["state"]["by"] == CLUSTER.name
            await self._app(scope, _bounded(receive, ORDER_BYTES_MAX if is_order else BODY_BYTES_MAX), send)

    async def _check(self, scope: Scope) -> None:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        token = token.strip()
        if scheme.lower() != b"bearer" or not token:
            raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": 'Bearer realm="warden"'})
        known = await self._tokens.find(token) if len(token) <= TOKEN_BYTES_MAX else None
        if known is None:
            said = {"WWW-Authenticate": 'Bearer realm="warden", error="invalid_token"'}
            raise HTTPException(401, "the token is not, or no longer, good", said)
        if known.role != "admin" and scope["method"] not in READERS:
            said = {"WWW-Authenticate": 'Bearer realm="warden", error="insufficient_scope"'}
            raise HTTPException(403, f"the role {known.role} may look, not change", said)
        scope.setdefault("state", {})["by"] = known.name


def _bounded(receive: Receive, bytes_max: int) -> Receive:
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > bytes_max:
            raise HTTPException(413, f"a request has at most {bytes_max} bytes", {"Connection": "close"})
        return message

    return bounded


def _uncached(send: Send) -> Send:
    """Everything that is said here is true now, and much of it is nobody else's business."""

    async def uncached(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).setdefault("Cache-Control", "no-store")
        await send(message)

    return uncached
