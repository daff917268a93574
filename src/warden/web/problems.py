"""Errors as the API tells them: `application/problem+json` (RFC 9457), never a page and never a traceback."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from warden.core.errors import Unavailable

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 2
"""When something that was away may be tried again: the stores are tried about as often."""
FAULTS_MAX: Final = 20
"""Faults told of one request: nobody reads more, and a body can hold thousands of unknown fields."""
_FAULT_CHARS_MAX: Final = 120

SCHEMA: Final[dict[str, Any]] = {
    "title": "Problem",
    "description": "An error (RFC 9457). `faults` names every field that is wrong, where fields are.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "format": "uri-reference"},
        "faults": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["where", "what"],
                "properties": {"where": {"type": "string"}, "what": {"type": "string"}},
            },
        },
    },
}
"""For the OpenAPI description."""


class _Problem(JSONResponse):
    media_type = MEDIA_TYPE


def problem(
    status: int,
    detail: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    faults: Sequence[Mapping[str, str]] = (),
) -> JSONResponse:
    """An error as a response. `path` is the decoded path that was asked for."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": quote(path, safe="/:@!$&'()*+,;="),
    }
    return _Problem(body | ({"faults": list(faults)} if faults else {}), status, headers=headers)


def tell_problems(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Have the application answer every error in this way. `routes` are those of the API."""

    async def _http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException), "registered for it"
        headers = dict(error.headers or {})
        if error.status_code == 405 and (allowed := _allowed(request.scope, routes)):
            headers["Allow"] = allowed
        return problem(error.status_code, error.detail, request.scope["path"], headers=headers)

    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Unavailable, _unavailable)
    app.add_exception_handler(Exception, _internal)


def _allowed(scope: Scope, routes: Sequence[BaseRoute]) -> str:
    """The methods of a path for an Allow field: the router itself names those of its first route only."""
    fitting = [r for r in routes if isinstance(r, Route) and r.matches(scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in fitting for method in route.methods or ()}))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """What was given is not repeated: it may be a password."""
    assert isinstance(error, RequestValidationError), "registered for it"
    faults = [
        {
            "where": ".".join(str(part) for part in found["loc"])[:_FAULT_CHARS_MAX],
            "what": str(found["msg"])[:_FAULT_CHARS_MAX],
        }
        for found in error.errors()[:FAULTS_MAX]
    ]
    detail = "; ".join(f"{fault['where']}: {fault['what']}" for fault in faults)
    return problem(422, detail, request.scope["path"], faults=faults)


async def _unavailable(request: Request, error: Exception) -> JSONResponse:
    return problem(503, str(error), request.scope["path"], headers={"Retry-After": str(RETRY_AFTER_S)})


async def _internal(request: Request, _error: Exception) -> JSONResponse:
    # What went wrong is in the log, with its traceback; the server that called us writes it there.
    return problem(500, "something is wrong in the node; its log says what", request.scope["path"])
