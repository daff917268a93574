"""`warden user`: who may use the HTTP API."""

import hashlib
import secrets
import sys
import time
from typing import Annotated, Literal

from cyclopts import App, Parameter

from warden.cli.listing import AsJson, Row, print_list
from warden.cli.settings import Given
from warden.core.errors import WardenError
from warden.node.build import database_url
from warden.node.data import prepared_database
from warden.store.database import database_place
from warden.store.ports import AlreadyExists, ApiToken
from warden.switch.directory import check_token_name

app = App(name="user", help="Users of the HTTP API.")


@app.command
async def token(
    name: str,
    /,
    *,
    role: Annotated[Literal["admin", "viewer"], Parameter(help="viewer may look, admin may change.")] = "viewer",
    settings: Given,
) -> None:
    """Make a bearer token and print it. It is kept as a digest only, so it is shown this once."""
    check_token_name(name)
    made = f"wdn_{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(made.encode()).hexdigest()
    async with prepared_database(settings.load()) as durable:
        try:
            await durable.add_token(ApiToken(name, role, digest, time.time()))
        except AlreadyExists:
            raise WardenError(f"token {name}: there is one of that name; `user revoke {name}` first") from None
    sys.stdout.write(made + "\n")


@app.command
async def revoke(name: str, /, *, settings: Given) -> None:
    """Take a token away."""
    config = settings.load()
    place = database_place(database_url(config))
    async with prepared_database(config) as durable:
        # Looked up first, since an argument may be no text at all, which no database takes.
        known = any(x.name == name for x in await durable.tokens())
        if not known or not await durable.remove_token(name):
            raise WardenError(f"token {name}: there is none in {place}")
    sys.stdout.write(f"token {name} revoked in {place}\n")


@app.command(name="list")
async def list_(*, as_json: AsJson = False, settings: Given) -> None:
    """List the tokens."""
    config = settings.load()
    async with prepared_database(config) as durable:
        found = await durable.tokens()
    rows: list[Row] = [{"name": x.name, "role": x.role, "created_at_utc": x.created_at_utc} for x in found]
    place = database_place(database_url(config))
    print_list(rows, as_json=as_json, none=f"no token in {place} yet: warden user token NAME")
