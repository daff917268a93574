"""`warden extension`: who may register. Works on the database itself, whether the node runs or not, and names it in
every answer, so that a command given in the wrong folder is seen at once.
"""

import getpass
import sys
import time
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from msgspec.structs import replace

from warden.cli.listing import AsJson, Row, print_list
from warden.cli.settings import Given
from warden.config.tree import Config
from warden.core.errors import WardenError
from warden.node.build import database_url, sealer_of
from warden.node.data import prepared_database
from warden.sdp.sdes import Policy
from warden.store.database import database_place
from warden.store.ports import USER, AlreadyExists
from warden.switch.dialplan import change
from warden.switch.directory import check_number, new_extension

app = App(name="extension", help="Extensions: the users that phones register as.")

Srtp = Annotated[
    Policy,
    Parameter(
        help="Whether its media are protected (SRTP): optional, where its phone is on TLS and can; required, and then"
        " it is served over TLS only; off."
    ),
]
FromStdin = Annotated[bool, Parameter("--password-stdin", negative="", help="Read the password from standard input.")]

Forward = Annotated[str | None, Parameter(help='A number, group:NAME or hours:NAME that its calls go to; "" for none.')]


@app.command
async def add(
    number: str,
    /,
    *,
    name: Annotated[str, Parameter(help="Shown to whom it calls.")] = "",
    srtp: Srtp = Policy.OPTIONAL,
    password_stdin: FromStdin = False,
    settings: Given,
) -> None:
    """Make an extension. A running node knows it within a second."""
    config = settings.load()
    extension = new_extension(
        number, read_password(password_stdin), realm=config.sip.realm, now=time.time(), name=name, srtp=srtp
    )
    async with prepared_database(config) as durable:
        try:
            await durable.add_extension(extension)
        except AlreadyExists:
            where = f"extension {number}: is in {_place(config)} already"
            raise WardenError(f"{where}; `extension passwd` sets a password") from None
    sys.stdout.write(f"extension {number} added to {_place(config)}\n")


@app.command
async def passwd(number: str, /, *, password_stdin: FromStdin = False, settings: Given) -> None:
    """Give an extension a new password."""
    check_number(number)
    config = settings.load()
    async with prepared_database(config) as durable:
        old = next((x for x in await durable.extensions() if x.number == number), None)
        if old is None:
            raise WardenError(f"extension {number}: there is none in {_place(config)}")
        password = read_password(password_stdin)
        new = new_extension(
            number, password, realm=config.sip.realm, now=old.created_at_utc, name=old.name, srtp=old.srtp
        )
        await durable.replace_extension(new)
    sys.stdout.write(f"extension {number} has a new password in {_place(config)}\n")


@app.command(name="set")
async def set_(
    number: str,
    /,
    *,
    forward_always: Forward = None,
    forward_busy: Forward = None,
    forward_no_answer: Forward = None,
    no_answer_s: Annotated[int | None, Parameter(help="Seconds that it rings before it is unanswered.")] = None,
    forward_unregistered: Forward = None,
    dnd: Annotated[bool | None, Parameter(help="Whether it does not want to be disturbed.")] = None,
    class_: Annotated[str | None, Parameter("--class", help='Its class of service; "" for the default one.')] = None,
    srtp: Srtp | None = None,
    settings: Given,
) -> None:
    """Say where an extension's calls go and what it may do. What is not given stays as it is. A running node knows it
    within a second; calls in progress go on.
    """
    check_number(number)
    config = settings.load()
    wanted = {
        "always": forward_always,
        "busy": forward_busy,
        "no_answer": forward_no_answer,
        "no_answer_s": no_answer_s,
        "unregistered": forward_unregistered,
        "do_not_disturb": dnd,
        "class": class_,
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    async with prepared_database(config) as durable:
        extension = next((x for x in await durable.extensions() if x.number == number), None)
        if extension is None:
            raise WardenError(f"extension {number}: there is none in {_place(config)}")
        if given:
            old = next((x.body for x in await durable.items() if (x.kind, x.name) == (USER, number)), "{}")
            body = msgspec.json.encode(msgspec.json.decode(old) | given).decode()
            item, told = await change.put(durable, USER, number, body, time.time(), sealer_of(config))
            sys.stdout.write(f"extension {number} in {_place(config)}: {item.body}\n")
            sys.stderr.write("".join(f"warden: note: {text}\n" for text in told))
        if srtp is not None:
            await durable.replace_extension(replace(extension, srtp=srtp))
            sys.stdout.write(f"extension {number} has srtp {srtp} in {_place(config)}\n")


@app.command
async def remove(number: str, /, *, settings: Given) -> None:
    """Remove an extension. Its phones lose their registration; a call in progress goes on."""
    config = settings.load()
    async with prepared_database(config) as durable:
        if not number.isascii() or not await durable.remove_extension(number):
            raise WardenError(f"extension {number}: there is none in {_place(config)}")
    sys.stdout.write(f"extension {number} removed from {_place(config)}\n")


@app.command(name="list")
async def list_(*, as_json: AsJson = False, settings: Given) -> None:
    """List the extensions."""
    config = settings.load()
    async with prepared_database(config) as durable:
        found = await durable.extensions()
    rows: list[Row] = [
        {"number": x.number, "name": x.name, "srtp": x.srtp, "created_at_utc": x.created_at_utc} for x in found
    ]
    print_list(rows, as_json=as_json, none=f"no extension in {_place(config)} yet: warden extension add NUMBER")


def _place(config: Config) -> str:
    return database_place(database_url(config))


def read_password(from_stdin: bool) -> str:
    """A password, asked for or read from standard input. Raises `WardenError`."""
    if not from_stdin and not sys.stdin.isatty():
        raise WardenError("password: nobody can be asked here; give it with --password-stdin")
    try:
        if from_stdin:
            return sys.stdin.readline().rstrip("\r\n")
        password = getpass.getpass("Password: ")
        again = getpass.getpass("Again: ")
    except UnicodeDecodeError:
        raise WardenError("password: must be text (UTF-8)") from None
    if again != password:
        raise WardenError("password: the two are not the same")
    return password
