"""`warden loadtest`: many phones call each other through a SIP server, and it is measured how that goes."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Final, Literal

import uvloop
from cyclopts import Parameter, validators
from msgspec import Struct
from rich.console import Console

import warden
from warden.cli import loadtest_screen as screen
from warden.cli.settings import Given, Settings
from warden.config.tree import Config
from warden.core.address import Transport
from warden.core.errors import ConfigError, WardenError
from warden.node.build import database_url
from warden.node.data import prepared_database
from warden.ops.loadtest.accounts import Login, numbered, read_logins, read_password, temporary
from warden.ops.loadtest.phones import Phones, Server, find_server
from warden.ops.loadtest.plan import Kind, Plan, plan_of
from warden.ops.loadtest.report import Bounds, Report, encode, report_of
from warden.ops.loadtest.run import LoadTest
from warden.ops.selftest import server_of
from warden.store.database import database_place

PASSWORD: Final = "WARDEN_LOADTEST_PASSWORD"  # noqa: S105 - the name of a variable
SIP_PORT: Final = 5060
INTERRUPTED: Final = 130

Count = Annotated[int | None, Parameter(validator=validators.Number(gte=1, lte=10_000_000))]
Seconds = Annotated[float | None, Parameter(validator=validators.Number(gte=0, lte=31 * 86_400))]
Limit = Annotated[float | None, Parameter(validator=validators.Number(gte=0), group="What is good enough")]
Account = Annotated[Path | None, Parameter(group="Who the phones are")]


class _Target(Struct, frozen=True):
    host: str
    port: int
    domain: str
    transport: Transport


class _Accounts(Struct, frozen=True):
    """Where the phones' accounts are from: a list, a password for numbers from `first_user` on, or neither."""

    logins: tuple[Login, ...] | None
    password: str
    first_user: str

    @property
    def are_given(self) -> bool:
        """False where they are to be made."""
        return self.logins is not None or bool(self.password)


def loadtest(
    *,
    pbx_host: Annotated[str | None, Parameter(help="The SIP server (default: the node of the settings here).")] = None,
    sip_port: Annotated[
        int | None,
        Parameter(
            help="Its port (default: that of the settings, or 5060).", validator=validators.Number(gte=1, lte=65_535)
        ),
    ] = None,
    test_type: Annotated[Kind, Parameter(help="mixed: calls while all phones refresh their registrations.")] = (
        Kind.CALLS
    ),
    concurrent_calls: Annotated[Count, Parameter(help="Calls at a time (default: 10).")] = None,
    total_calls: Annotated[Count, Parameter(help="Calls in all (default: 100, or as --duration says).")] = None,
    users: Annotated[Count, Parameter(help="Phones (default: two for each concurrent call, else 100).")] = None,
    duration: Annotated[Seconds, Parameter(help="End after so many seconds, whatever is done by then.")] = None,
    call_duration: Annotated[Seconds, Parameter(help="How long a call is talked (default: 10 s).")] = None,
    ramp_up: Annotated[
        Seconds, Parameter(help="Seconds until all are there (default: as for 10 calls, or 50 phones, a second).")
    ] = None,
    refresh: Annotated[
        float | None,
        Parameter(
            help="Seconds between two REGISTERs of a phone, where phones refresh (default: 30).",
            validator=validators.Number(gte=0.1),
        ),
    ] = None,
    measured: Annotated[
        int | None,
        Parameter(
            help="Concurrent calls that send every packet (default: at most 100); the others send one of ten.",
            validator=validators.Number(gte=0),
        ),
    ] = None,
    transport: Literal["udp", "tcp"] = "udp",
    accounts: Annotated[Account, Parameter(help="A file with lines number,password.")] = None,
    password_file: Annotated[
        Account, Parameter(help=f"A file with the password of all numbers (or set {PASSWORD}).")
    ] = None,
    first_user: Annotated[
        str, Parameter(help="The first of the numbers that have this password.", group="Who the phones are")
    ] = "1000",
    domain: Annotated[
        str, Parameter(help="The domain of their addresses (default: the host).", group="Who the phones are")
    ] = "",
    max_failed: Annotated[
        int,
        Parameter(
            help="Calls and registrations each that may fail.",
            validator=validators.Number(gte=0),
            group="What is good enough",
        ),
    ] = 0,
    max_setup_p95: Annotated[Limit, Parameter(help="INVITE to answer, in milliseconds.")] = None,
    max_loss: Annotated[Limit, Parameter(help="Lost audio packets, in percent.")] = None,
    max_gap: Annotated[Limit, Parameter(help="The longest gap in any measured call's audio, in milliseconds.")] = None,
    min_mos: Annotated[Limit, Parameter(help="The worst MOS of any measured call.")] = None,
    save_report: Annotated[Path | None, Parameter(help="Write the report into this file, as JSON.")] = None,
    as_json: Annotated[bool, Parameter("--json", negative="", help="Print the report as JSON.")] = False,
    verbose: Annotated[bool, Parameter(negative="", help="Tell of each call and registration.")] = False,
    settings: Given,
) -> int:
    """Have phones register at a SIP server and call each other, with audio, and measure how that goes.

    Works from outside, with any server. Without --accounts and without a password it makes extensions in the database
    of the settings here, and removes them at the end. The exit code is 0 where all went well, 1 where not, 2 where the
    command line is wrong, 130 where it was interrupted (Ctrl-C hangs up and reports; a second one ends at once).
    """
    if save_report is not None and not save_report.absolute().parent.is_dir():
        raise ConfigError((f"loadtest: --save-report {save_report}: there is no such folder",))
    who = _accounts(accounts, password_file, first_user, settings)
    plan = plan_of(
        test_type,
        users=users,
        concurrent_calls=concurrent_calls,
        total_calls=total_calls,
        duration_s=duration,
        call_duration_s=call_duration,
        ramp_up_s=ramp_up,
        refresh_s=refresh,
        measured=measured,
        accounts=None if who.logins is None else len(who.logins),
    )
    bounds = Bounds(max_failed, max_setup_p95, max_loss, max_gap, min_mos)
    target = _target(pbx_host, sip_port, domain, Transport(transport), who, settings)
    console = Console(stderr=as_json, highlight=False)
    try:
        report = uvloop.run(_run(target, plan, bounds, who, settings, screen.Screen(console, verbose=verbose)))
    except asyncio.CancelledError:
        return INTERRUPTED
    if save_report is not None:
        save_report.write_bytes(encode(report))
    if as_json:
        sys.stdout.write(encode(report).decode())
    screen.show(report, console)
    return INTERRUPTED if report.interrupted else 0 if report.ok else 1


def _target(
    host: str | None, port: int | None, domain: str, transport: Transport, who: _Accounts, settings: Settings
) -> _Target:
    """What is tested. Where the accounts are somebody else's, the settings here say nothing about it."""
    if host is not None and (port is not None or who.are_given):
        return _Target(host, port or SIP_PORT, domain, transport)
    here = server_of(settings.load())
    return _Target(host or here.host, port or here.port, domain, transport)


def _accounts(file: Path | None, password_file: Path | None, first_user: str, settings: Settings) -> _Accounts:
    if file is not None and password_file is not None:
        raise ConfigError(("loadtest: --accounts and --password-file: give one of them",))
    if file is not None:
        return _Accounts(tuple(read_logins(file)), "", "")
    password = settings.environ.get(PASSWORD, "") if password_file is None else read_password(password_file)
    return _Accounts(None, password, first_user)


def _is_there(config: Config, place: str) -> bool:
    """A test makes no database: whoever forgot the accounts would get an empty one for it."""
    return config.database.host is not None or Path(place).exists()


@asynccontextmanager
async def _logins(who: _Accounts, plan: Plan, settings: Settings) -> AsyncIterator[tuple[Sequence[Login], bool]]:
    """The accounts of the plan's phones, and whether they were made for it."""
    if who.logins is not None:
        yield who.logins[: plan.users], False
        return
    if who.password:
        yield numbered(who.first_user, plan.users, who.password), False
        return
    config = settings.load()
    place = database_place(database_url(config))
    if not _is_there(config, place):
        raise WardenError(
            f"loadtest: who are the phones? Give --accounts, --password-file or {PASSWORD}; extensions for a test are"
            f" made only where a node of Warden has its database, and there is none in {place}"
        )
    async with prepared_database(config) as durable, temporary(config, durable, plan.users) as made:
        yield made, True


async def _run(
    target: _Target, plan: Plan, bounds: Bounds, who: _Accounts, settings: Settings, watching: screen.Screen
) -> Report:
    server = await find_server(target.host, target.port, target.transport, target.domain)
    async with _logins(who, plan, settings) as (logins, are_new):
        phones = Phones(server, logins, plan, are_new=are_new)
        return await _carry_out(server, phones, plan, bounds, watching)


async def _carry_out(server: Server, phones: Phones, plan: Plan, bounds: Bounds, watching: screen.Screen) -> Report:
    test = LoadTest(plan, server, phones, on_call=watching.called, on_registration=watching.registered)
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None, "a coroutine runs in a task"

    def interrupt() -> None:
        if not test.stop():
            task.cancel()

    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, interrupt)
    async with watching.watch(test):
        run = await test.run()
    return report_of(f"warden {warden.__version__}", plan, bounds, run, test.tally)
