"""The FastAPI application: health and metrics for machines around the node, and the API for people and programs."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

import warden
from warden.core.errors import WardenError
from warden.web import views
from warden.web.api import make_router
from warden.web.auth import OPENAPI_URL, Gate, Tokens
from warden.web.events import EVENTS_URL, Follow, Listeners, respond
from warden.web.metrics import make_registry
from warden.web.problems import SCHEMA, tell_problems
from warden.web.regions import add_between_regions
from warden.web.relay import add_relay
from warden.web.state import NodeState

CONSENT_URL: Final = "/cluster/consent"
"""Where nodes ask each other whether a seat may stay (`cluster.consent`); the messages carry their own proof."""


def make_app(state: NodeState, listeners: Listeners | None = None, follow: Follow | None = None) -> FastAPI:
    """The application of one node. `listeners` hear of its calls, `follow` hands on what other nodes say of theirs."""
    # The pages that show the description fetch their scripts from the internet, so there are none.
    app = FastAPI(title="Warden", version=warden.__version__, openapi_url=OPENAPI_URL, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    app.add_middleware(Gate, tokens=Tokens(state.durable, state.operator_digest, state.node_key))
    _add_probes(app, state)
    router = make_router(state)
    app.include_router(router)
    _add_events(app, state, Listeners(state) if listeners is None else listeners, follow)
    add_between_regions(app, state)
    add_relay(app, state)
    tell_problems(app, router.routes)
    app.openapi = lambda: _description(app)  # type: ignore[method-assign]
    return app


def _add_events(app: FastAPI, state: NodeState, listeners: Listeners, follow: Follow | None) -> None:
    async def events(request: Request) -> Response:
        return respond(state, listeners, follow, request)

    # It has no end, which no description of a response can say.
    app.add_route(EVENTS_URL, events, ["GET"], include_in_schema=False)


def _add_probes(app: FastAPI, state: NodeState) -> None:
    registry = make_registry(state)

    async def live(_request: Request) -> Response:
        """The process runs. Load, a store that is away or a drain are no reason to kill it."""
        return JSONResponse({"status": "ok"})

    async def health(_request: Request) -> Response:
        """New calls may come here (200), or should go elsewhere (503)."""
        found = views.health(state)
        return JSONResponse(found.model_dump(mode="json"), 200 if found.status == "ok" else 503)

    async def may_hold(request: Request) -> Response:
        """Keepalived may have the address of the seat here (200), or must let it go elsewhere (503): one line why."""
        why = state.refusal_of(request.query_params.get("seat", ""))
        return PlainTextResponse(f"{why or 'yes'}\n", 503 if why else 200)

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def consent(request: Request) -> Response:
        """What another node is told that asks to keep its seats."""
        try:
            said = None if state.agent is None else await state.agent.answer(await request.body())
        except WardenError as error:
            return Response(str(error), 503)
        return Response(status_code=403) if said is None else Response(said)

    app.add_route(CONSENT_URL, consent, ["POST"], include_in_schema=False)
    app.add_route("/live", live, ["GET"], include_in_schema=False)
    app.add_route("/health", health, ["GET"], include_in_schema=False)
    app.add_route("/may-hold", may_hold, ["GET"], include_in_schema=False)
    app.add_route("/metrics", metrics, ["GET"], include_in_schema=False)


def _description(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title,
            version=app.version,
            summary="Extensions, registrations, calls and CDRs of a Warden node.",
            routes=app.routes,
        )
        parts = made["components"]
        parts["schemas"]["Problem"] = SCHEMA
        parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"token": []}]
        app.openapi_schema = made
    return app.openapi_schema
